//! Payments that a server has forgotten when the scan comes to them, and gives back later.

use spindex::client::{Found, ScanReport, Unresolved};

use super::scene::{Run, assert_report, expected_found};
use super::server::{Served, Server};
use super::world::{Pay, World};

/// What a server that forgets cannot list: by height, the number of transactions that pay the wallet.
fn forgotten(world: &World) -> Vec<Unresolved> {
    let mut unresolved: Vec<Unresolved> = Vec::new();
    for (number, block) in world.blocks.iter().enumerate() {
        let own = block.txs.iter().filter(|tx| {
            let pays = |outpoint: &bitcoin::OutPoint| outpoint.txid == tx.txid;
            world.expected.keys().any(pays) && world.is_gone(&tx.txid)
        });
        match own.count() {
            0 => {}
            matches => unresolved.push(Unresolved {
                height: world.first + number as u32,
                block_hash: block.hash,
                matches: matches as u32,
            }),
        }
    }
    unresolved
}

fn forgetful(world: &World) -> Served {
    Served {
        forgets: true,
        ..Served::new(world.clone())
    }
}

/// A chain in which much is paid and spent again.
fn spent_again(seed: u64) -> World {
    let mut world = World::new(seed, 1);
    for label in [None, Some(0), Some(1), Some(7)] {
        world.grow(5);
        world.begin_block();
        let pays = [Pay::Wallet(label), Pay::Wallet(None)];
        let txids = [world.pay(&pays, &[], &[]), world.pay(&pays[..1], &[], &[])];
        world.begin_block();
        let own = world.unspent.iter().filter(|o| txids.contains(&o.txid));
        let own: Vec<_> = own.copied().collect();
        world.pay(&[Pay::Stranger], &own, &[b"spent"]);
        world.grow(5);
    }
    world.grow(2);
    assert_eq!(world.tip(), 50);
    let forgotten = forgotten(&world);
    assert!(forgotten.len() >= 4 && forgotten.iter().any(|block| block.matches > 1));
    world
}

fn unspent_sat(found: &[Found]) -> u64 {
    let unspent = found.iter().filter(|found| found.spent.is_none());
    unspent.map(|found| found.value_sat).sum()
}

#[track_caller]
fn assert_unresolved(report: &ScanReport, world: &World) {
    assert_eq!(report.unresolved, forgotten(world));
    assert_eq!(report.unresolved_unknown_below, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_has_forgotten_is_reported() {
    for seed in [40, 41] {
        let world = spent_again(seed);
        let server = Server::start(forgetful(&world)).await;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.redb");
        let run = Run::new(&world.keys).state(&path);
        for _ in 0..2 {
            let report = run.run(&server).await.unwrap();
            assert_report(&report, &world, 1..=50, |txid| !world.is_gone(txid));
            assert_unresolved(&report, &world);
        }
        // Nothing has changed: it is not asked again.
        server.with(|served| served.log.clear());
        run.run(&server).await.unwrap();
        assert_eq!(server.with(|served| served.count("utxos/")), 0);

        // A server that lists everything leaves nothing open.
        let server = Server::start(Served::new(world.clone())).await;
        let report = Run::new(&world.keys).run(&server).await.unwrap();
        assert_eq!(report.unresolved, vec![]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_server_still_lists_is_found_on_request() {
    let world = spent_again(42);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    let server = Server::start(forgetful(&world)).await;
    let run = Run::new(&world.keys).state(&path);
    run.run(&server).await.unwrap();

    let server = Server::start(Served::new(world.clone())).await;
    let report = run.run(&server).await.unwrap();
    assert_unresolved(&report, &world);
    // A scan that does not come to all the blocks with their spends says so.
    let asked = |to| {
        let run = Run::new(&world.keys).state(&path);
        run.set(|s| (s.ask_again, s.to) = (true, to))
    };
    let lowest = forgotten(&world)[0].height;
    let report = asked(Some(lowest)).run(&server).await.unwrap();
    assert_eq!(report.scanned_to, Some(50));
    assert_eq!(report.spends_known_to, Some(lowest));
    let report = asked(None).run(&server).await.unwrap();
    assert_eq!(report.spends_known_to, None);
    // With the spends, which are in blocks that were scanned long ago.
    assert_report(&report, &world, 1..=50, |_| true);
    assert_eq!(report.unresolved, vec![]);
    assert_eq!(
        server.with(|served| served.count("utxos/")),
        forgotten(&world).len()
    );

    // It stays found where it is forgotten.
    let server = Server::start(forgetful(&world)).await;
    let report = asked(None).run(&server).await.unwrap();
    assert_report(&report, &world, 1..=50, |_| true);
    assert_eq!(report.unresolved, vec![]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_reorganisation_revives_is_found() {
    let mut common = World::new(43, 1);
    common.grow(20);
    common.begin_block();
    let txid = common.pay(&[Pay::Wallet(None), Pay::Wallet(Some(7))], &[], &[]);
    let own: Vec<_> = (0..3)
        .map(|vout| bitcoin::OutPoint::new(txid, vout))
        .collect();
    let own: Vec<_> = own
        .into_iter()
        .filter(|o| common.expected.contains_key(o))
        .collect();
    assert_eq!(own.len(), 2);
    common.grow_without(&own, 10);
    // One of the two is spent on both branches, the other on one.
    common.begin_block();
    common.pay(&[Pay::Stranger], &own[..1], &[b"first"]);
    common.grow_without(&own[1..], 5);
    let mut before = common.fork(1);
    before.begin_block();
    before.pay(&[Pay::Stranger], &own[1..], &[b"second"]);
    before.grow(8);
    assert!(before.is_gone(&txid) && !common.is_gone(&txid));
    // Shorter than, as long as and longer than the branch before it; and scanned only up to below the fork before.
    for (blocks, to) in [
        (4, None),
        (9, None),
        (15, None),
        (15, Some(30)),
        (4, Some(21)),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.redb");
        let server = Server::start(forgetful(&before)).await;
        let first = Run::new(&common.keys).state(&path).set(|s| s.to = to);
        let report = first.run(&server).await.unwrap();
        assert!(!report.found.iter().any(|found| found.outpoint.txid == txid));
        assert!(report.unresolved.iter().any(|block| block.height == 21));

        let mut after = common.fork(2);
        after.grow_without(&own[1..], blocks);
        server.switch(after.clone());
        let run = Run::new(&common.keys).state(&path);
        let report = run.run(&server).await.unwrap();
        let found: Vec<_> = report
            .found
            .iter()
            .filter(|f| f.outpoint.txid == txid)
            .collect();
        assert_eq!(found.len(), 2, "{blocks} blocks, after a scan up to {to:?}");
        assert_report(&report, &after, 1..=after.tip(), |txid| {
            !after.is_gone(txid)
        });
        assert_unresolved(&report, &after);
        assert_eq!(report.unspent_sat, unspent_sat(&report.found));

        // Spent once more, in a block like any other.
        let mut later = after.clone();
        later.begin_block();
        later.pay(&[Pay::Stranger], &own[1..], &[]);
        server.switch(later.clone());
        let report = run.run(&server).await.unwrap();
        let expected = expected_found(&later, 1..=later.tip(), |txid| !after.is_gone(txid));
        assert_eq!(report.found, expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_that_spends_while_a_scan_asks_is_not_taken_for_settled() {
    let mut common = World::new(44, 1);
    common.grow(10);
    common.begin_block();
    let txid = common.pay(&[Pay::Wallet(None)], &[], &[]);
    let own = bitcoin::OutPoint::new(txid, 0);
    common.grow_without(&[own], 5);
    let (mut before, mut after) = (common.fork(1), common.fork(2));
    before.begin_block();
    before.pay(&[Pay::Stranger], &[own], &[]);
    after.grow_without(&[own], 1);
    // When the scan asks for the outputs the block that spends them is there, and before and after it is not.
    let mut served = forgetful(&common);
    let with_spend = before.clone();
    let without = after.clone();
    served.hook = Some(Box::new(move |served, path| {
        if path.starts_with("utxos/11") {
            served.height = with_spend.tip();
            served.world = with_spend.clone();
        } else if served.world.tip() == with_spend.tip() {
            served.world = without.clone();
        }
        None
    }));
    let server = Server::start(served).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    let to_11 = Run::new(&common.keys).state(&path).set(|s| s.to = Some(11));
    let report = to_11.run(&server).await.unwrap();
    assert!(report.unresolved.iter().any(|block| block.height == 11));
    server.with(|served| served.hook = None);
    server.switch(after.clone());
    let run = Run::new(&common.keys).state(&path);
    let report = run.run(&server).await.unwrap();
    assert!(report.found.iter().any(|found| found.outpoint == own));
    assert_unresolved(&report, &after);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_with_cut_through_forgets_nothing_that_is_unresolved() {
    let world = spent_again(45);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    let server = Server::start(forgetful(&world)).await;
    Run::new(&world.keys)
        .state(&path)
        .run(&server)
        .await
        .unwrap();
    for change in [
        |s: &mut spindex::client::LightSettings| s.cut_through = true,
        |s: &mut spindex::client::LightSettings| s.dust_limit_sat = 2_000_000,
    ] {
        let run = Run::new(&world.keys)
            .state(&path)
            .set(|s| s.ask_again = true)
            .set(change);
        let report = run.run(&server).await.unwrap();
        assert_unresolved(&report, &world);
        let run = Run::new(&world.keys)
            .state(&path)
            .set(|s| s.rescan = true)
            .set(change);
        let report = run.run(&server).await.unwrap();
        assert_unresolved(&report, &world);
    }
    // What is listed again with cut-through is found.
    let mut revived = world.clone();
    let gone = revived.spent.len();
    revived.spent.clear();
    let all: Vec<_> = world.blocks.iter().flat_map(|block| &block.txs).collect();
    revived.unspent = all
        .iter()
        .flat_map(|tx| {
            tx.outputs
                .iter()
                .map(|o| bitcoin::OutPoint::new(tx.txid, o.vout))
        })
        .collect();
    assert!(gone > 0);
    server.switch(revived);
    let run = Run::new(&world.keys)
        .state(&path)
        .set(|s| (s.ask_again, s.cut_through) = (true, true));
    let report = run.run(&server).await.unwrap();
    assert_eq!(report.unresolved, vec![]);
    assert_report(&report, &world, 1..=50, |_| true);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_reorganisation_of_long_ago_revived_is_found() {
    let mut common = World::new(46, 1);
    common.grow(10);
    common.begin_block();
    let txid = common.pay(&[Pay::Wallet(None)], &[], &[]);
    let own = bitcoin::OutPoint::new(txid, 0);
    common.grow_without(&[own], 5);
    let mut before = common.fork(1);
    before.begin_block();
    before.pay(&[Pay::Stranger], &[own], &[]);
    // More blocks since than are ever reorganised, and another scan of them.
    let mut after = common.fork(2);
    for _ in 0..300 {
        after.begin_block();
    }
    let mut later = after.clone();
    for _ in 0..300 {
        later.begin_block();
    }
    for to in [None, Some(12)] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.redb");
        let server = Server::start(forgetful(&before)).await;
        let first = Run::new(&common.keys).state(&path).set(|s| s.to = to);
        let report = first.run(&server).await.unwrap();
        assert!(report.unresolved.iter().any(|block| block.height == 11));

        server.switch(after.clone());
        let run = Run::new(&common.keys)
            .state(&path)
            .set(|s| s.window_blocks = 100);
        let report = run.run(&server).await.unwrap();
        assert!(report.found.iter().any(|found| found.outpoint == own));
        assert_report(&report, &after, 1..=after.tip(), |txid| {
            !after.is_gone(txid)
        });
        assert_unresolved(&report, &after);

        // What stays unresolved is not asked for again, however much later, and takes one look at the chain.
        assert!(!report.unresolved.is_empty());
        for tip in [&later, &later] {
            server.with(|served| served.log.clear());
            server.switch(tip.clone());
            let report = run.run(&server).await.unwrap();
            assert_unresolved(&report, &later);
            assert_eq!(server.with(|served| served.count("utxos/")), 0);
        }
        let asked = format!("block-hash/{}", after.tip());
        assert!(server.with(|served| served.count(&asked)) <= 1);
    }
}
