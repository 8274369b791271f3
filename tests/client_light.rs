//! The light client against a version 1 server over a made-up chain: everything that is there is found, nothing else,
//! whatever the server and the chain do meanwhile.

#![allow(
    clippy::unwrap_used,
    reason = "a broken fixture fails the test at once"
)]

#[path = "client_light/contradictions.rs"]
mod contradictions;
#[path = "client_light/faulty_engine.rs"]
mod faulty_engine;
#[path = "client_light/first_block.rs"]
mod first_block;
#[path = "client_light/outpoints.rs"]
mod outpoints;
#[path = "client_light/ranges.rs"]
mod ranges;
#[path = "client_light/server.rs"]
mod server;
#[path = "client_light/unresolved.rs"]
mod unresolved;
#[path = "client_light/world.rs"]
mod world;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bitcoin::{Network, OutPoint, Txid};
use secp256k1::rand::rngs::StdRng;
use secp256k1::rand::{Rng, SeedableRng};
use server::{Fault, Served, Server};
use spindex::bip352::keys::ReceiverKeys;
use spindex::client::{
    ClientError, Found, HttpOracle, HttpSettings, Identity, LightClient, LightSettings,
    OracleError, ScanReport, Spend, State, WalletId,
};
use spindex::curve::libsecp256k1::LibSecp256k1;
use spindex::scan::Scanner;
use world::{LABELS, Pay, World, wallet};

fn oracle(server: &Server) -> Arc<HttpOracle> {
    let settings = HttpSettings {
        timeout: Duration::from_secs(20),
        attempts: 8,
        first_delay: Duration::from_micros(100),
        ..HttpSettings::default()
    };
    Arc::new(HttpOracle::new(&server.url, settings).unwrap())
}

/// Small windows, so that a short chain has many.
fn settings() -> LightSettings {
    LightSettings {
        concurrency: 5,
        window_blocks: 7,
        settling: Duration::from_millis(1),
        ..LightSettings::new(Network::Regtest)
    }
}

fn identity(keys: Option<&ReceiverKeys>) -> Identity {
    Identity {
        network: Network::Regtest,
        wallet: keys.map(WalletId::of),
    }
}

/// A client of the wallet, or of outpoints alone.
struct Run<'a> {
    keys: Option<&'a ReceiverKeys>,
    watched: Vec<OutPoint>,
    state: Option<&'a Path>,
    settings: LightSettings,
}

impl<'a> Run<'a> {
    fn new(keys: &'a ReceiverKeys) -> Self {
        Self {
            keys: Some(keys),
            watched: Vec::new(),
            state: None,
            settings: settings(),
        }
    }

    fn watching(watched: &[OutPoint]) -> Self {
        Self {
            keys: None,
            watched: watched.to_vec(),
            state: None,
            settings: settings(),
        }
    }

    fn watch(mut self, watched: &[OutPoint]) -> Self {
        self.watched = watched.to_vec();
        self
    }

    fn state(mut self, path: &'a Path) -> Self {
        self.state = Some(path);
        self
    }

    fn set(mut self, change: impl FnOnce(&mut LightSettings)) -> Self {
        change(&mut self.settings);
        self
    }

    fn client(&self, server: &Server) -> Result<LightClient, ClientError> {
        let identity = identity(self.keys);
        let state = match self.state {
            Some(path) => State::open(path, identity)?,
            None => State::in_memory(identity)?,
        };
        let scanner = self
            .keys
            .map(|keys| Scanner::new(Arc::new(LibSecp256k1), keys.clone()).unwrap());
        LightClient::new(
            oracle(server),
            scanner,
            self.watched.iter().copied(),
            state,
            self.settings.clone(),
        )
    }

    async fn run(&self, server: &Server) -> Result<ScanReport, ClientError> {
        self.client(server)?.run(&mut |_| ()).await
    }
}

/// What the world says of the outpoint's spend, up to a height.
fn expected_spend(world: &World, outpoint: &OutPoint, to: u32) -> Option<Spend> {
    let spend = world
        .spent
        .get(outpoint)
        .filter(|spend| spend.height <= to)?;
    Some(Spend {
        height: spend.height,
        block_hash: world.block(spend.height).unwrap().hash,
        spending_txid: Some(spend.txid),
        input: Some(spend.input),
        op_return: spend.op_return.clone(),
    })
}

/// The wallet's outputs of these heights that `visible` holds for, with spends up to the last of them.
fn expected_found(
    world: &World,
    heights: std::ops::RangeInclusive<u32>,
    visible: impl Fn(&Txid) -> bool,
) -> Vec<Found> {
    let mut found: Vec<Found> = world
        .expected
        .iter()
        .filter(|(outpoint, output)| heights.contains(&output.height) && visible(&outpoint.txid))
        .map(|(outpoint, output)| {
            let block = world.block(output.height).unwrap();
            let tx = block.txs.iter().find(|tx| tx.txid == outpoint.txid);
            Found {
                outpoint: *outpoint,
                value_sat: output.value,
                key: output.key,
                k: output.k,
                label: output.label,
                tweak: tx.unwrap().tweak.unwrap(),
                height: output.height,
                block_hash: block.hash,
                spent: expected_spend(world, outpoint, *heights.end()),
            }
        })
        .collect();
    found.sort_by_key(|found| (found.height, found.outpoint));
    found
}

/// The report must be what the world says.
#[track_caller]
fn assert_report(
    report: &ScanReport,
    world: &World,
    heights: std::ops::RangeInclusive<u32>,
    visible: impl Fn(&Txid) -> bool,
) {
    let expected = expected_found(world, heights.clone(), visible);
    assert_eq!(report.found, expected);
    let unspent = expected.iter().filter(|found| found.spent.is_none());
    assert_eq!(
        report.unspent_sat,
        unspent.map(|found| found.value_sat).sum::<u64>()
    );
    assert_eq!(report.scanned_to, Some(*heights.end()));
    assert_eq!(report.from, *heights.start());
}

/// A chain in which the wallet gets and spends a good number of outputs.
fn world(seed: u64, blocks: usize) -> World {
    let mut world = World::new(seed, 1);
    world.grow(blocks);
    assert!(
        world.expected.len() > blocks / 4,
        "too few payments to be a test"
    );
    let spent = world
        .expected
        .keys()
        .filter(|o| world.spent.contains_key(o))
        .count();
    assert!(spent > 3, "too few spends to be a test");
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_found_and_nothing_else() {
    for seed in 1..=3 {
        let world = world(seed, 60);
        let in_own_block = world.expected.iter().filter(|(o, e)| {
            world
                .spent
                .get(o)
                .is_some_and(|spend| spend.height == e.height)
        });
        assert!(
            in_own_block.count() > 0,
            "nothing is spent in its own block"
        );
        assert!(world.expected.values().any(|e| e.k > 1));
        let server = Server::start(Served::new(world.clone())).await;
        let report = Run::new(&world.keys).run(&server).await.unwrap();
        assert_report(&report, &world, 1..=60, |_| true);
        assert_eq!(report.oracle_height, 60);
        assert_eq!(report.reorganised_above, None);
        // Outputs are fetched only where a filter matched, and spent indices alike.
        let blocks_with_finds = (1..=60)
            .filter(|h| world.expected.values().any(|e| e.height == *h))
            .count();
        assert_eq!(
            server.with(|served| served.count("utxos/")),
            blocks_with_finds
        );
        let blocks_with_spends = (1..=60)
            .filter(|h| {
                let mut own = world
                    .spent
                    .iter()
                    .filter(|(o, _)| world.expected.contains_key(o));
                own.any(|(_, spend)| spend.height == *h)
            })
            .count();
        assert_eq!(
            server.with(|served| served.count("spent-index/")),
            blocks_with_spends
        );
        // A stranger with the same server finds nothing.
        let other = wallet(9, LABELS);
        let report = Run::new(&other).run(&server).await.unwrap();
        assert_eq!(report.found, vec![]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_through_finds_what_still_has_an_unspent_output() {
    let world = world(4, 60);
    assert!(world.expected.keys().any(|o| world.is_gone(&o.txid)));
    for (cut_through, forgets) in [(true, false), (false, true), (true, true)] {
        let mut served = Served::new(world.clone());
        served.forgets = forgets;
        let server = Server::start(served).await;
        let run = Run::new(&world.keys).set(|s| s.cut_through = cut_through);
        let report = run.run(&server).await.unwrap();
        assert_report(&report, &world, 1..=60, |txid| !world.is_gone(txid));
        let list = if cut_through {
            "tweaks/"
        } else {
            "tweak-index/"
        };
        server.with(|served| {
            assert_eq!(served.count("tweak"), 60);
            assert_eq!(served.count(list), 60);
            assert!(!served.log.iter().any(|path| path.contains("dustLimit")));
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dust_limit_leaves_out_whole_transactions() {
    let world = world(5, 60);
    let server = Server::start(Served::new(world.clone())).await;
    let limit = 600_000;
    let reaches = |txid: &Txid| {
        let txs = world.blocks.iter().flat_map(|block| &block.txs);
        let tx = txs.into_iter().find(|tx| tx.txid == *txid).unwrap();
        tx.outputs.iter().any(|output| output.value >= limit)
    };
    assert!(world.expected.keys().any(|o| !reaches(&o.txid)));
    let run = Run::new(&world.keys).set(|s| s.dust_limit_sat = limit);
    let report = run.run(&server).await.unwrap();
    assert_report(&report, &world, 1..=60, reaches);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_resumes_and_ends_like_one_without_a_stop() {
    let world = world(6, 70);
    let server = Server::start(Served::new(world.clone())).await;
    let whole = Run::new(&world.keys).run(&server).await.unwrap();
    assert_report(&whole, &world, 1..=70, |_| true);

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    for to in [1, 2, 23, 23, 50] {
        let run = Run::new(&world.keys).state(&path).set(|s| s.to = Some(to));
        let report = run.run(&server).await.unwrap();
        assert_report(&report, &world, 1..=to, |_| true);
    }
    server.with(|served| served.log.clear());
    let report = Run::new(&world.keys)
        .state(&path)
        .run(&server)
        .await
        .unwrap();
    assert_eq!(report, whole);
    // Only what was new has been fetched.
    assert_eq!(server.with(|served| served.count("filter/spent/")), 20);

    // Nothing new: nothing fetched, the same report.
    server.with(|served| served.log.clear());
    let report = Run::new(&world.keys)
        .state(&path)
        .run(&server)
        .await
        .unwrap();
    assert_eq!(report, whole);
    assert_eq!(server.with(|served| served.count("filter/")), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_that_is_dropped_keeps_its_windows() {
    let world = world(7, 60);
    let server = Server::start(Served::new(world.clone())).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    let mut client = Run::new(&world.keys).state(&path).client(&server).unwrap();
    let (sender, stored) = tokio::sync::oneshot::channel();
    let mut sender = Some(sender);
    let mut progress = move |progress: spindex::client::Progress| {
        assert_eq!((progress.first, progress.last), (1, 60));
        if progress.done.is_some_and(|done| done >= 21)
            && let Some(sender) = sender.take()
        {
            sender.send(()).unwrap();
        }
    };
    tokio::select! {
        _ = client.run(&mut progress) => panic!("the scan was to be dropped"),
        _ = stored => (),
    }
    drop(client);
    let state = State::open(&path, identity(Some(&world.keys))).unwrap();
    assert!(
        state
            .scanned_to()
            .is_some_and(|height| (21..60).contains(&height))
    );
    drop(state);
    let report = Run::new(&world.keys)
        .state(&path)
        .run(&server)
        .await
        .unwrap();
    assert_report(&report, &world, 1..=60, |_| true);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reorganisation_between_two_scans_is_taken_back() {
    let mut before = world(8, 30);
    let common = before.clone();
    before.grow(20);
    let folder = tempfile::tempdir().unwrap();
    // Longer, equal and shorter than the chain it replaces.
    for (number, length) in [30, 20, 5].into_iter().enumerate() {
        let path = folder.path().join(format!("{number}.redb"));
        let server = Server::start(Served::new(before.clone())).await;
        let watched: Vec<OutPoint> = before.unspent.iter().rev().take(40).copied().collect();
        let run = Run::new(&before.keys).watch(&watched).state(&path);
        let report = run.run(&server).await.unwrap();
        assert_report(&report, &before, 1..=50, |_| true);
        assert!(report.found.iter().any(|f| f.height > 30));
        assert!(
            report
                .found
                .iter()
                .any(|f| f.spent.as_ref().is_some_and(|s| s.height > 30))
        );

        let mut after = common.fork(100 + number as u64);
        after.grow(length);
        server.switch(after.clone());
        let report = run.run(&server).await.unwrap();
        assert_report(&report, &after, 1..=30 + length as u32, |_| true);
        assert_eq!(report.reorganised_above, Some(30));
        for watched in &report.watched {
            let expected = expected_spend(&after, &watched.outpoint, after.tip());
            assert_eq!(watched.spend, expected);
        }
        // And it is the state that was mended, not only the report.
        let again = run.run(&server).await.unwrap();
        assert_eq!((again.reorganised_above, again.found), (None, report.found));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_replaced_altogether_is_scanned_anew() {
    let before = world(9, 20);
    let after = world(10, 25);
    let server = Server::start(Served::new(before.clone())).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    let run = Run::new(&before.keys).state(&path);
    run.run(&server).await.unwrap();
    server.switch(after.clone());
    let report = run.run(&server).await.unwrap();
    assert_report(&report, &after, 1..=25, |_| true);
    assert_eq!(report.reorganised_above, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_that_parts_below_all_known_blocks_is_refused() {
    let mut before = World::new(11, 1);
    let common = before.clone();
    before.grow(300);
    let mut after = common.fork(5);
    after.grow(310);
    let server = Server::start(Served::new(before.clone())).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    let run = Run::new(&before.keys)
        .state(&path)
        .set(|s| s.window_blocks = 100);
    let found = run.run(&server).await.unwrap().found;
    server.switch(after);
    let error = run.run(&server).await.unwrap_err();
    assert!(
        matches!(error, ClientError::DeepReorganisation { lowest: 13, .. }),
        "{error}"
    );
    // Nothing was taken back.
    server.switch(before.clone());
    assert_eq!(run.run(&server).await.unwrap().found, found);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reorganisation_during_a_scan_leaves_no_trace() {
    let common = world(32, 30);
    let branch = |seed, blocks: usize| {
        let mut world = common.fork(seed);
        world.begin_block();
        world.pay(&[Pay::Wallet(None), Pay::Stranger], &[], &[]);
        world.grow(blocks - 1);
        world
    };
    let (before, after) = (branch(1, 15), branch(2, 17));
    // The chain changes right after each kind of answer for each of the blocks that differ.
    let routes = [
        "filter/new-utxos",
        "filter/spent",
        "tweak-index",
        "utxos",
        "spent-index",
        "spends",
        "block-hash",
    ];
    let mut mended = 0;
    for (height, concurrency) in [(31, 1), (31, 5), (32, 1), (36, 5), (41, 1), (45, 1)] {
        for route in routes {
            let mut served = Served::new(before.clone());
            let (mut asked, mut replacement) = (false, Some(after.clone()));
            served.hook = Some(Box::new(move |served, path| {
                if asked && let Some(replacement) = replacement.take() {
                    served.height = replacement.tip();
                    served.world = replacement;
                }
                asked |= path == format!("{route}/{height}");
                None
            }));
            let server = Server::start(served).await;
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("state.redb");
            let run = Run::new(&before.keys)
                .state(&path)
                .set(|s| s.concurrency = concurrency);
            let first = run.run(&server).await.unwrap();
            let what = format!("a change after {route}/{height}");
            let to = first.scanned_to.unwrap();
            // Of one chain, whichever, and of no mixture of both.
            let of = |chain: &World| first.found == expected_found(chain, 1..=to, |_| true);
            assert!(of(&after) || (to == 45 && of(&before)), "{what}");
            mended += usize::from(first.reorganised_above.is_some());
            // With the other chain from now on, if it had not come to that yet.
            server.switch(after.clone());
            let report = run.run(&server).await.unwrap();
            assert_eq!(
                report.found,
                expected_found(&after, 1..=47, |_| true),
                "{what}"
            );
            assert_eq!(report.scanned_to, Some(47));
        }
    }
    assert!(
        mended > 10,
        "only {mended} scans had to take something back"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_right_after_the_stored_blocks_were_checked_is_seen() {
    let common = world(32, 30);
    let (mut before, mut after) = (common.fork(1), common.fork(2));
    before.grow(15);
    after.grow(15);
    let mut served = Served::new(before.clone());
    let (mut asked, mut replacement) = (false, Some(after.clone()));
    served.hook = Some(Box::new(move |served, path| {
        // Once for the blocks themselves, the second time when the next scan begins.
        if asked
            && path.starts_with("filter/")
            && let Some(replacement) = replacement.take()
        {
            served.world = replacement;
        }
        asked |= path == "block-hash/35" && served.count("block-hash/35") == 2;
        None
    }));
    let server = Server::start(served).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    let run = Run::new(&before.keys).state(&path).set(|s| s.to = Some(35));
    let report = run.run(&server).await.unwrap();
    assert_report(&report, &before, 1..=35, |_| true);
    let report = Run::new(&before.keys)
        .state(&path)
        .run(&server)
        .await
        .unwrap();
    assert_report(&report, &after, 1..=45, |_| true);
    assert_eq!(report.reorganised_above, Some(30));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_behind_takes_nothing_back() {
    let world = world(13, 40);
    let server = Server::start(Served::new(world.clone())).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    let run = Run::new(&world.keys).state(&path);
    let whole = run.run(&server).await.unwrap();
    server.with(|served| served.height = 25);
    let report = run.run(&server).await.unwrap();
    assert_eq!(report.found, whole.found);
    assert_eq!((report.scanned_to, report.oracle_height), (Some(40), 25));
    assert_eq!(report.reorganised_above, None);
    server.with(|served| served.height = 40);
    assert_eq!(run.run(&server).await.unwrap(), whole);
}

#[tokio::test(flavor = "multi_thread")]
async fn passing_faults_are_sat_out() {
    let world = world(14, 50);
    for seed in 0..3 {
        let mut served = Served::new(world.clone());
        let mut rng = StdRng::seed_from_u64(seed);
        served.hook = Some(Box::new(move |_, _| match rng.gen_range(0..20) {
            0 => Some(Fault::Answer(500, "")),
            1 => Some(Fault::Answer(502, "<html>bad gateway</html>")),
            2 => Some(Fault::Answer(429, "slow down")),
            3 => Some(Fault::Cut),
            _ => None,
        }));
        let server = Server::start(served).await;
        let report = Run::new(&world.keys).run(&server).await.unwrap();
        assert_report(&report, &world, 1..=50, |_| true);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_fails_is_never_an_empty_block() {
    let world = world(15, 40);
    let height = world
        .expected
        .values()
        .map(|e| e.height)
        .find(|h| *h > 20)
        .unwrap();
    let spend = world
        .spent
        .iter()
        .filter(|(outpoint, _)| world.expected.contains_key(outpoint))
        .map(|(_, spend)| spend.height)
        .find(|h| *h > 8)
        .unwrap();
    let faults = [
        Fault::Answer(
            500,
            r#"{"error":"could could not retrieve data from database"}"#,
        ),
        Fault::Answer(200, r#"{"error":"could not fetch header inv"}"#),
        Fault::Answer(400, r#"{"error":"Server does not allow dustLimits"}"#),
        Fault::Answer(404, "404 page not found"),
        Fault::Answer(500, ""),
        Fault::Answer(200, ""),
        Fault::Answer(200, "null"),
        Fault::Answer(200, "{}"),
        Fault::Answer(200, "[1]"),
        Fault::Answer(200, r#"["00"]"#),
        Fault::Answer(200, "<html></html>"),
        Fault::Cut,
    ];
    for (route, height) in [
        ("tweak-index", height),
        ("filter/new-utxos", height),
        ("filter/spent", height),
        ("utxos", height),
        ("spent-index", spend),
        ("block-hash", height),
    ] {
        // An empty array is a fair answer for lists, and for nothing else.
        let empty = (!matches!(route, "tweak-index" | "utxos")).then_some(Fault::Answer(200, "[]"));
        for fault in faults.iter().cloned().chain(empty) {
            let path = format!("{route}/{height}");
            if route == "block-hash" && matches!(fault, Fault::Answer(200, r) if r.contains("inv"))
            {
                continue;
            }
            let mut served = Served::new(world.clone());
            let (broken, wrong) = (path.clone(), fault.clone());
            served.hook = Some(Box::new(move |_, path| {
                (path == broken).then(|| wrong.clone())
            }));
            let server = Server::start(served).await;
            let folder = tempfile::tempdir().unwrap();
            let state = folder.path().join("state.redb");
            let run = Run::new(&world.keys).state(&state);
            let error = run
                .run(&server)
                .await
                .expect_err(&format!("{path} {fault:?}"));
            // The text leads to the server or to the block.
            let text = error.to_string();
            assert!(text.contains(&server.url), "{text}");
            assert!(text.contains(&height.to_string()), "{text}");
            assert!(!text.contains('\n'), "{text}");

            // The scan stopped before the block, and goes on once the server is well.
            server.with(|served| served.hook = None);
            let opened = State::open(&state, identity(Some(&world.keys))).unwrap();
            assert!(
                opened.scanned_to().is_none_or(|to| to < height),
                "{path} {fault:?}"
            );
            drop(opened);
            let report = run.run(&server).await.unwrap();
            assert_report(&report, &world, 1..=40, |_| true);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_filter_is_an_error() {
    let world = world(16, 30);
    let height = world
        .expected
        .values()
        .map(|e| e.height)
        .find(|h| *h > 5)
        .unwrap();
    let hash = world.block(height).unwrap().hash;
    for data in ["", "ff", "05aabb"] {
        let body: &'static str = Box::leak(
            format!(r#"{{"filter_type":4,"block_height":{height},"block_hash":"{hash}","data":"{data}"}}"#)
                .into_boxed_str(),
        );
        let mut served = Served::new(world.clone());
        served.hook = Some(Box::new(move |_, path| {
            (path == format!("filter/new-utxos/{height}")).then_some(Fault::Answer(200, body))
        }));
        let server = Server::start(served).await;
        let error = Run::new(&world.keys).run(&server).await.unwrap_err();
        assert!(
            matches!(error, ClientError::Filter { height: at, block_hash, .. } if at == height && block_hash == hash),
            "{error}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_of_different_blocks_are_never_mixed() {
    let world = world(17, 30);
    let height = world
        .expected
        .values()
        .map(|e| e.height)
        .find(|h| *h > 5)
        .unwrap();
    // Outputs of another block, again and again: a server whose parts disagree.
    let elsewhere = world.block(height - 1).unwrap().hash;
    let txid = Txid::from_raw_hash(elsewhere.to_raw_hash());
    let body: &'static str = Box::leak(
        format!(
            r#"[{{"txid":"{txid}","vout":0,"value":1,"scriptpubkey":"5120{}","block_height":0,
            "block_hash":"{elsewhere}","timestamp":0,"spent":false}}]"#,
            "01".repeat(32)
        )
        .into_boxed_str(),
    );
    let mut served = Served::new(world.clone());
    served.hook = Some(Box::new(move |_, path| {
        (path == format!("utxos/{height}")).then_some(Fault::Answer(200, body))
    }));
    let server = Server::start(served).await;
    let error = Run::new(&world.keys).run(&server).await.unwrap_err();
    assert!(
        matches!(error, ClientError::Contradiction { height: at, .. } if at == height),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn watched_outpoints_tell_who_spent_them_and_with_what_data() {
    let mut world = World::new(18, 1);
    world.grow(10);
    world.begin_block();
    let state = world.pay(&[Pay::Stranger, Pay::Stranger, Pay::Stranger], &[], &[]);
    let tip = OutPoint::new(state, 0);
    let other = OutPoint::new(state, 1);
    world.grow_without(&[tip, other], 4);
    world.begin_block();
    let spender = world.pay(&[Pay::Stranger], &[other, tip], &[b"first", b"\xc0\xde"]);
    world.grow(5);
    let never = *world.unspent.last().unwrap();

    let server = Server::start(Served::new(world.clone())).await;
    let report = Run::watching(&[tip, other, never])
        .run(&server)
        .await
        .unwrap();
    assert_eq!(report.found, vec![]);
    let spends: BTreeMap<_, _> = report
        .watched
        .iter()
        .map(|watched| (watched.outpoint, watched.spend.clone()))
        .collect();
    assert_eq!(spends.len(), 3);
    assert_eq!(spends[&never], None);
    let spend = spends[&tip].clone().unwrap();
    assert_eq!(spend.height, 16);
    assert_eq!((spend.spending_txid, spend.input), (Some(spender), Some(1)));
    assert_eq!(spend.op_return, [b"first".to_vec(), vec![0xc0, 0xde]]);
    assert_eq!(spends[&other].clone().unwrap().input, Some(0));
    // No tweak is needed for this, and no wallet.
    assert_eq!(server.with(|served| served.count("tweak")), 0);

    let shown = serde_json::to_value(&report).unwrap();
    let shown = shown["watched"]
        .as_array()
        .unwrap()
        .iter()
        .find(|watched| watched["outpoint"] == tip.to_string())
        .unwrap();
    assert_eq!(shown["spend"]["spending_txid"], spender.to_string());
    assert_eq!(
        shown["spend"]["op_return"],
        serde_json::json!(["6669727374", "c0de"])
    );
    let block_hash = world.block(16).unwrap().hash.to_string();
    assert_eq!(shown["spend"]["block_hash"], block_hash);
}

#[tokio::test(flavor = "multi_thread")]
async fn details_a_server_cannot_give_are_added_once_one_can() {
    let world = world(19, 40);
    let mut served = Served::new(world.clone());
    served.details = false;
    let server = Server::start(served).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    let run = Run::new(&world.keys).state(&path);
    let report = run.run(&server).await.unwrap();
    let spends: Vec<&Spend> = report
        .found
        .iter()
        .filter_map(|f| f.spent.as_ref())
        .collect();
    assert!(!spends.is_empty());
    for spend in spends {
        assert_eq!((spend.spending_txid, spend.input), (None, None));
        assert!(spend.op_return.is_empty());
    }
    // A spindex server without a node refuses by an object.
    server.with(|served| {
        served.details = true;
        served.hook = Some(Box::new(|_, path| {
            let fault = Fault::Answer(503, r#"{"error":"this server has no node to ask"}"#);
            path.starts_with("spends/").then_some(fault)
        }));
    });
    let report = run.run(&server).await.unwrap();
    assert!(
        report
            .found
            .iter()
            .all(|f| f.spent.as_ref().is_none_or(|s| s.input.is_none()))
    );
    server.with(|served| served.hook = None);
    let report = run.run(&server).await.unwrap();
    assert_report(&report, &world, 1..=40, |_| true);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outpoint_watched_later_is_looked_for_from_the_beginning() {
    let world = world(20, 50);
    let server = Server::start(Served::new(world.clone())).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    let strangers: Vec<OutPoint> = world
        .spent
        .keys()
        .filter(|outpoint| !world.expected.contains_key(outpoint))
        .copied()
        .collect();
    let early = &strangers[..strangers.len() / 2];
    let run = Run::new(&world.keys).state(&path);
    run.run(&server).await.unwrap();
    // In two further scans, the first of them stopped on its way, while the wallet's own goes on.
    let mut longer = world.clone();
    longer.grow(15);
    server.switch(longer.clone());
    let run = run.watch(early).set(|s| s.to = Some(30));
    run.run(&server).await.unwrap();
    let run = run.watch(&strangers).set(|s| s.to = None);
    server.with(|served| served.log.clear());
    let report = run.run(&server).await.unwrap();
    assert_report(&report, &longer, 1..=65, |_| true);
    assert_eq!(report.watched.len(), strangers.len());
    for watched in &report.watched {
        let expected = expected_spend(&longer, &watched.outpoint, 65);
        assert!(expected.is_some());
        assert_eq!(watched.spend, expected, "{}", watched.outpoint);
    }
    // The blocks the wallet was scanned for already needed no tweaks again.
    assert_eq!(server.with(|served| served.count("tweak-index/")), 15);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_for_more_than_before_begins_again() {
    let world = world(21, 50);
    let server = Server::start(Served::new(world.clone())).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    // Fewer labels, then a dust limit, then a late beginning: each leaves something out.
    let unlabelled = wallet(1, []);
    let report = Run::new(&unlabelled)
        .state(&path)
        .run(&server)
        .await
        .unwrap();
    assert!(report.found.len() < world.expected.len());
    let run = Run::new(&world.keys)
        .state(&path)
        .set(|s| s.dust_limit_sat = 990_000);
    let with_labels = run.run(&server).await.unwrap();
    assert!(with_labels.found.len() < world.expected.len());
    let report = Run::new(&world.keys)
        .state(&path)
        .run(&server)
        .await
        .unwrap();
    assert_report(&report, &world, 1..=50, |_| true);

    let path = folder.path().join("late.redb");
    let run = Run::new(&world.keys)
        .state(&path)
        .set(|s| s.from = Some(30));
    let report = run.run(&server).await.unwrap();
    assert_report(&report, &world, 30..=50, |_| true);
    server.with(|served| served.log.clear());
    // Where it began is remembered, a later beginning changes nothing, an earlier one does.
    for from in [None, Some(40)] {
        let run = Run::new(&world.keys).state(&path).set(|s| s.from = from);
        run.run(&server).await.unwrap();
    }
    assert_eq!(server.with(|served| served.count("filter/")), 0);
    let run = Run::new(&world.keys).state(&path).set(|s| s.from = Some(1));
    let report = run.run(&server).await.unwrap();
    assert_report(&report, &world, 1..=50, |_| true);
}

#[tokio::test(flavor = "multi_thread")]
async fn unfit_servers_and_settings_are_refused_before_anything_is_scanned() {
    let world = world(23, 30);
    let refused = async |change: fn(&mut Served), set: fn(&mut LightSettings), part: &str| {
        let mut served = Served::new(world.clone());
        change(&mut served);
        let server = Server::start(served).await;
        let error = Run::new(&world.keys)
            .set(set)
            .run(&server)
            .await
            .unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
        assert_eq!(server.with(|served| served.count("filter/")), 0);
    };
    refused(
        |s| s.network = "main",
        |_| (),
        "serves bitcoin, not regtest",
    )
    .await;
    refused(|s| s.network = "moon", |_| (), "unknown network").await;
    refused(|s| s.tweaks_only = true, |_| (), "no filters").await;
    refused(
        |s| s.cut_through = false,
        |s| s.cut_through = true,
        "without cut-through",
    )
    .await;
    refused(
        |s| (s.full_list, s.dust_list) = (false, false),
        |_| (),
        "with cut-through",
    )
    .await;
    refused(
        |s| s.dust_list = false,
        |s| s.dust_limit_sat = 1,
        "dust limit",
    )
    .await;
    refused(
        |_| (),
        |s| (s.from, s.to) = (Some(9), Some(8)),
        "from 9 to 8",
    )
    .await;

    let server = Server::start(Served::new(world.clone())).await;
    let error = Run::watching(&[]).run(&server).await.unwrap_err();
    assert!(matches!(error, ClientError::NothingToDo), "{error}");
    let other = State::in_memory(identity(Some(&wallet(5, [])))).unwrap();
    let scanner = Scanner::new(Arc::new(LibSecp256k1), world.keys.clone()).unwrap();
    let error =
        LightClient::new(oracle(&server), Some(scanner), [], other, settings()).unwrap_err();
    assert!(matches!(error, ClientError::ForeignState { .. }), "{error}");
}

#[test]
fn a_scan_can_run_in_a_task() {
    fn assert_send<T: Send>(_: &T) {}
    #[allow(dead_code, reason = "compiling is the test")]
    fn check(
        client: &'static mut LightClient,
        progress: &'static mut (dyn FnMut(spindex::client::Progress) + Send),
    ) {
        assert_send(&client.run(progress));
    }
}
