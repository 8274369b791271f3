//! `spindex check`: a good index passes; whatever is damaged on purpose is found, named and repaired; other servers are
//! compared with.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot be set up has failed"
)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bitcoin::hex::DisplayHex;
use redb::{ReadableTable, WriteTransaction};
use serde_json::Value;
use spindex::BlockId;
use spindex::api::{self, ApiState, ServeSettings};
use spindex::chain::simulated::{Orphaned, SimulatedChain, SimulationSettings};
use spindex::curve::libsecp256k1::LibSecp256k1;
use spindex::index::{IndexSettings, Indexer};
use spindex::runtime::Stop;
use spindex::store::column::Column;
use spindex::store::schema::{
    BLOCKS, BlockRow, COMPRESSED, DIGEST, FILTERS, HEIGHTS, LOCATOR, MARKS, MULTIPLES, OUTPUTS,
    SPENT, SPENT_CHUNK_BITS, TWEAKS, TXIDS,
};
use spindex::store::{
    BlockRecord, DIGEST_START, Keep, Store, StoreOptions, TweakForm, roll_digest,
};
use support::fake_node::FakeNode;
use support::index::{content_of_file, engine, options};
use support::spindex::{run, stderr};
use tokio::net::TcpListener;

/// Blocks of the chain: enough for payments to be spent again.
const BLOCKS_MINED: u32 = 150;

/// A data directory with an index of a simulated chain, and a node that serves it.
struct Place {
    home: tempfile::TempDir,
    chain: Arc<SimulatedChain>,
    node: FakeNode,
    /// Hash over all rows of the good index.
    content: [u8; 32],
}

impl Place {
    async fn new(multiples: bool) -> Self {
        let multiples = Some(multiples);
        Self::with(StoreOptions {
            multiples,
            ..options()
        })
        .await
    }

    async fn with(options: StoreOptions) -> Self {
        let home = tempfile::tempdir().unwrap();
        let chain = Arc::new(SimulatedChain::new(SimulationSettings::default()));
        chain.mine(BLOCKS_MINED);
        let node = FakeNode::start(chain.clone()).await;
        let good = home.path().join("good.redb");
        build(&good, chain.clone(), &options, None).await;
        let place = Self {
            content: content_with(&good, &options),
            home,
            chain,
            node,
        };
        fs::create_dir_all(place.file().parent().unwrap()).unwrap();
        place.restore();
        place
    }

    fn file(&self) -> PathBuf {
        self.home.path().join(".spindex/regtest/index.redb")
    }

    fn beside(&self, ending: &str) -> PathBuf {
        self.file().with_file_name(format!("index.redb.{ending}"))
    }

    /// Puts the good index back.
    fn restore(&self) {
        fs::copy(self.home.path().join("good.redb"), self.file()).unwrap();
        let _ = fs::remove_file(self.beside("damaged"));
    }

    /// Status, the document on stdout, stderr.
    fn check(&self, node: &str, more: &[&str]) -> (i32, Value, String) {
        let node = format!("--node-url={node}");
        let args = [
            "check",
            "--network=regtest",
            "--source=rest",
            "--json",
            &node,
        ];
        let output = run(self.home.path(), &[&args, more].concat());
        let report = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
        (output.status.code().unwrap(), report, stderr(&output))
    }

    fn check_with_node(&self, more: &[&str]) -> (i32, Value, String) {
        self.check(&self.node.url(), more)
    }
}

/// Nothing listens there.
const NO_NODE: &str = "http://127.0.0.1:1";

async fn build(
    path: &Path,
    source: Arc<SimulatedChain>,
    options: &StoreOptions,
    until: Option<u32>,
) {
    let store = Arc::new(Store::open(path, options).unwrap());
    let indexer = Indexer::new(
        store,
        source,
        Arc::new(LibSecp256k1),
        IndexSettings::default(),
        Stop::new(),
        |_| (),
    );
    indexer.sync(until).await.unwrap();
}

fn content_with(path: &Path, options: &StoreOptions) -> [u8; 32] {
    let store = Store::open_existing(path, options).unwrap();
    store.snapshot().unwrap().content_hash().unwrap()
}

fn tamper(path: &Path, change: impl FnOnce(&WriteTransaction)) {
    let database = engine(path);
    let write = database.begin_write().unwrap();
    change(&write);
    write.commit().unwrap();
}

/// Flips bits of a byte of an item of a column.
fn flip(write: &WriteTransaction, column: Column, position: u64, byte: usize, mask: u8) {
    let mut table = write.open_table(column.definition()).unwrap();
    let chunk = (position / column.chunk_items()) as u32;
    let mut bytes = table.get(chunk).unwrap().unwrap().value().to_vec();
    let item = (position % column.chunk_items()) as usize * column.item_bytes();
    bytes[item + byte] ^= mask;
    table.insert(chunk, bytes.as_slice()).unwrap();
}

fn block_row(path: &Path, height: u32) -> BlockRow {
    let database = engine(path);
    let write = database.begin_write().unwrap();
    let blocks = write.open_table(BLOCKS).unwrap();
    let row = blocks.get(height).unwrap().unwrap();
    BlockRow::decode(row.value()).unwrap()
}

/// What the tests damage: a block with tweaks, and outputs with their state.
struct Target {
    /// A block with an unspent output, not the last one.
    height: u32,
    row: BlockRow,
    /// Position of an unspent output of it.
    unspent: u64,
    /// A block with an output that a later block spends, its row, and the position of that output's transaction.
    creator: u32,
    spent_transaction: u64,
    /// The block that spends it.
    spender: u32,
}

fn target(path: &Path) -> Target {
    let store = Store::open_existing(path, &options()).unwrap();
    let snapshot = store.snapshot().unwrap();
    let tip = snapshot.tip().unwrap().height;
    let (height, unspent) = (0..tip - 5)
        .rev()
        .find_map(|height| {
            let utxos = snapshot.utxos(height, Default::default()).unwrap()?;
            let index = utxos.iter().position(|utxo| !utxo.spent)?;
            Some((height, index as u64))
        })
        .unwrap();
    let (creator, spender, spent_txid) = (0..=tip)
        .find_map(|spender| {
            let spends = snapshot.spends(spender).unwrap()?;
            let creators = snapshot.spend_creators(spender).unwrap()?;
            spends.iter().zip(creators).find_map(|(spend, creator)| {
                let creator = creator.filter(|creator| *creator < spender)?;
                Some((creator, spender, spend.outpoint.txid))
            })
        })
        .unwrap();
    let tweaks = snapshot.compressed_tweaks(creator, Default::default());
    let tweaks = tweaks.unwrap().unwrap();
    let index = tweaks.iter().position(|(txid, _)| *txid == spent_txid);
    drop((snapshot, store));
    let row = block_row(path, height);
    Target {
        height,
        unspent: row.outputs.first + unspent,
        row,
        creator,
        spent_transaction: block_row(path, creator).transactions.first + index.unwrap() as u64,
        spender,
    }
}

fn is_named(report: &Value, table: &str, height: Option<u32>) -> bool {
    let wrong = report["wrong"].as_array().unwrap().iter();
    wrong
        .filter(|finding| finding["table"] == table)
        .any(|finding| height.is_none_or(|height| finding["height"] == height))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_index_passes() {
    let place = Place::new(true).await;
    let (status, report, log) = place.check_with_node(&[]);
    assert_eq!(status, 0, "{report} {log}");
    assert_eq!(report["ok"], true);
    assert_eq!(report["wrong"].as_array().unwrap().len(), 0);
    assert_eq!(report["notes"].as_array().unwrap().len(), 0, "{report}");
    let tip = place.chain.tip_id();
    assert_eq!(report["tip"]["height"], tip.height);
    assert_eq!(report["tip"]["hash"], tip.hash.to_string());
    assert_eq!(report["content_hash"], place.content.to_lower_hex_string());
    let compared = report["node"]["compared"].as_array().unwrap();
    assert!((20..=21).contains(&compared.len()), "{report}");
    assert!(compared.contains(&Value::from(tip.height)), "{report}");
    assert_eq!(report["counts"]["blocks"], tip.height + 1);
    let stored = report["space"]["stored_bytes"].as_u64().unwrap();
    assert!(report["space"]["file_bytes"].as_u64().unwrap() > stored);
    assert!(report["space"]["overhead"].as_f64().unwrap() >= 1.0);

    // All of it; without a node, which is said; for people.
    let (status, report, _) = place.check_with_node(&["--blocks=1000"]);
    assert_eq!(status, 0, "{report}");
    let compared = report["node"]["compared"].as_array().unwrap();
    assert_eq!(compared.len() as u32, tip.height + 1);
    assert_eq!(
        report["multiples_checked"], report["counts"]["transactions"],
        "{report}"
    );
    let (status, report, _) = place.check(NO_NODE, &[]);
    assert_eq!(status, 0, "{report}");
    assert_eq!(report["node"], Value::Null);
    assert!(
        report["notes"][0]
            .as_str()
            .unwrap()
            .contains("none answers")
    );
    let output = run(
        place.home.path(),
        &["check", "--network=regtest", "--blocks=0"],
    );
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.ends_with("all right\n"), "{text}");
    assert!(text.contains("--blocks 0"), "{text}");
    assert!(!place.beside("damaged").exists());

    // What is wrong, for people.
    tamper(&place.file(), |write| {
        let mut table = write.open_table(DIGEST).unwrap();
        table.insert(9, &[7; 32]).unwrap();
    });
    let args = ["check", "--network=regtest", "--blocks=0"];
    let output = run(place.home.path(), &args);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout).unwrap();
    let line = "wrong     table digest, height 9, key 9: not the digest of the tweaks";
    assert!(text.lines().any(|found| found == line), "{text}");
    assert!(text.ends_with("something is wrong\n"), "{text}");
    println!("{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_follows_from_other_rows_is_repaired_without_a_node() {
    let place = Place::new(false).await;
    let target = target(&place.file());
    let at = target.height;
    type Damage<'a> = (&'a str, Option<u32>, Box<dyn Fn(&WriteTransaction) + 'a>);
    let damages: [Damage<'_>; 5] = [
        (
            "heights",
            Some(at),
            Box::new(|write| {
                let mut table = write.open_table(HEIGHTS).unwrap();
                let keys = table.iter().unwrap();
                let keys: Vec<_> = keys.map(|row| *row.unwrap().0.value()).collect();
                let key = keys.iter().find(|key| key[8..] == at.to_be_bytes());
                table.remove(key.unwrap()).unwrap().unwrap();
            }),
        ),
        (
            "digest",
            Some(at),
            Box::new(|write| {
                let mut table = write.open_table(DIGEST).unwrap();
                table.insert(at, &[7; 32]).unwrap();
            }),
        ),
        (
            "digest",
            Some(at),
            Box::new(|write| {
                let mut table = write.open_table(DIGEST).unwrap();
                table.remove(at).unwrap().unwrap();
            }),
        ),
        (
            "locator",
            Some(at),
            Box::new(|write| {
                let mut table = write.open_table(LOCATOR).unwrap();
                let keys = table.iter().unwrap();
                let keys: Vec<_> = keys.map(|row| *row.unwrap().0.value()).collect();
                let position = target.unspent.to_be_bytes();
                let key = keys.iter().find(|key| key[5..] == position[3..]);
                table.remove(key.unwrap()).unwrap().unwrap();
            }),
        ),
        (
            "spent",
            Some(at),
            Box::new(|write| {
                let within = target.unspent % SPENT_CHUNK_BITS;
                assert!(target.unspent < SPENT_CHUNK_BITS);
                flip(write, SPENT, within / 8, 0, 1 << (within % 8));
            }),
        ),
    ];
    for (table, height, damage) in damages {
        place.restore();
        tamper(&place.file(), damage);
        let (status, report, log) = place.check_with_node(&["--blocks=1000"]);
        assert_eq!(status, 1, "{table}: {report}");
        assert!(is_named(&report, table, height), "{table}: {report}");
        assert!(log.contains(&format!("table {table}")), "{log}");
        assert!(log.contains("--repair"), "{log}");
        assert!(!place.beside("damaged").exists());
        let others = report["wrong"].as_array().unwrap();
        assert!(
            others.iter().all(|found| found["table"] == table),
            "{report}"
        );

        let (status, report, log) = place.check(NO_NODE, &["--repair"]);
        assert_eq!(status, 0, "{table}: {report} {log}");
        assert!(is_named(&report, table, height), "{report}");
        assert_eq!(report["repaired"]["from_node"], Value::Null, "{table}");
        assert_eq!(content_of_file(&place.file()), place.content, "{table}");
        assert!(place.beside("damaged").exists());
        assert!(!place.beside("repairing").exists());
        assert_eq!(place.check_with_node(&["--blocks=1000"]).0, 0, "{table}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_the_chain_are_repaired_from_the_node() {
    let place = Place::new(false).await;
    let target = target(&place.file());
    let (at, row) = (target.height, &target.row);
    let tweak = row.transactions.first;
    // Column, position, byte in the item, tables and heights that are named, whether the index alone tells, and from where
    // on the node is asked.
    type Named<'a> = &'a [(&'a str, u32)];
    let cases: [(Column, u64, usize, Named<'_>, bool, u32); 6] = [
        // x of a tweak; y of a tweak, which digests do not cover but for its parity.
        (
            TWEAKS,
            tweak,
            3,
            &[("digest", at), ("tweaks", at)],
            true,
            at,
        ),
        (TWEAKS, tweak, 40, &[("tweaks", at)], true, at),
        // An amount; only the node knows it.
        (OUTPUTS, target.unspent, 33, &[("outputs", at)], false, at),
        // A key.
        (
            OUTPUTS,
            target.unspent,
            5,
            &[("filters", at), ("outputs", at)],
            true,
            at,
        ),
        (
            FILTERS,
            row.new_utxos_filter.first + 1,
            0,
            &[("filters", at)],
            true,
            at,
        ),
        // The txid of an output that was spent later: the spender's filter tells, and the creator is what is wrong.
        (
            TXIDS,
            target.spent_transaction,
            9,
            &[("filters", target.spender), ("txids", target.creator)],
            true,
            target.creator,
        ),
    ];
    for (column, position, byte, named, is_seen_alone, from) in cases {
        let what = format!("{} byte {byte}", column.name());
        place.restore();
        tamper(&place.file(), |write| {
            flip(write, column, position, byte, 0x10)
        });
        let (status, report, _) = place.check(NO_NODE, &["--blocks=0"]);
        assert_eq!(status, i32::from(is_seen_alone), "{what}: {report}");
        if is_seen_alone {
            // Without a node nothing is changed, and nothing left behind.
            let (status, _, log) = place.check(NO_NODE, &["--repair"]);
            assert_eq!(status, 1, "{what}: {log}");
            assert!(log.contains("--node-url"), "{what}: {log}");
            assert!(!place.beside("repairing").exists());
            assert!(!place.beside("damaged").exists());
        }

        let (status, report, log) = place.check_with_node(&["--blocks=1000"]);
        assert_eq!(status, 1, "{what}: {report}");
        assert!(log.contains("--repair"), "{what}: {log}");
        for (table, height) in named {
            assert!(is_named(&report, table, Some(*height)), "{what}: {report}");
        }
        let blocks = if is_seen_alone {
            "--blocks=0"
        } else {
            "--blocks=1000"
        };
        let (status, report, log) = place.check_with_node(&["--repair", blocks]);
        assert_eq!(status, 0, "{what}: {report} {log}");
        assert_eq!(report["repaired"]["from_node"], from, "{what}: {report}");
        assert_eq!(content_of_file(&place.file()), place.content, "{what}");
        assert!(place.beside("damaged").exists());
        assert_eq!(place.check_with_node(&[]).0, 0, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn smaller_indexes_are_checked_and_repaired_too() {
    let keep_tweaks = StoreOptions {
        keep: Some(Keep::Tweaks),
        ..options()
    };
    let compressed = StoreOptions {
        tweak_form: Some(TweakForm::Compressed),
        ..options()
    };
    let smallest = StoreOptions {
        keep: Some(Keep::Tweaks),
        ..compressed.clone()
    };
    let with_multiples = StoreOptions {
        multiples: Some(true),
        ..options()
    };
    for (options, column) in [
        (keep_tweaks, TWEAKS),
        (compressed, COMPRESSED),
        (smallest, COMPRESSED),
        (with_multiples, MULTIPLES),
    ] {
        let place = Place::with(options.clone()).await;
        let (status, report, log) = place.check_with_node(&["--blocks=1000"]);
        assert_eq!(status, 0, "{options:?}: {report} {log}");
        let tip = place.chain.tip_id().height;
        let height = (0..=tip - 5)
            .rev()
            .find(|height| block_row(&place.file(), *height).transactions.count > 0)
            .unwrap();
        let position = block_row(&place.file(), height).transactions.first;
        tamper(&place.file(), |write| flip(write, column, position, 7, 1));
        let (status, report, _) = place.check_with_node(&["--blocks=1000"]);
        assert_eq!(status, 1, "{options:?}: {report}");
        let table = column.name();
        assert!(
            is_named(&report, table, Some(height)),
            "{options:?}: {report}"
        );
        let (status, report, log) = place.check_with_node(&["--blocks=1000", "--repair"]);
        assert_eq!(status, 0, "{options:?}: {report} {log}");
        assert_eq!(
            report["repaired"]["from_node"], height,
            "{options:?}: {report}"
        );
        assert_eq!(
            content_with(&place.file(), &options),
            place.content,
            "{options:?}"
        );
    }
}

/// Between the last commit of a long sync and the locators it has left.
#[tokio::test(flavor = "multi_thread")]
async fn an_index_whose_sync_has_not_ended_is_checked_and_repaired_too() {
    let place = Place::new(false).await;
    let good = Store::open_existing(&place.file(), &options()).unwrap();
    let snapshot = good.snapshot().unwrap();
    let tip = snapshot.tip().unwrap().height;
    let records: Vec<BlockRecord> = (0..=tip)
        .map(|height| {
            let mut record = snapshot.record(height).unwrap().unwrap();
            let creators = snapshot.spend_creators(height).unwrap().unwrap();
            for (spend, creator) in record.spends.iter_mut().zip(creators) {
                spend.created = Some(creator.unwrap_or(0));
            }
            record
        })
        .collect();
    drop(snapshot);
    drop(good);
    fs::remove_file(place.file()).unwrap();
    let store = Store::open(&place.file(), &options()).unwrap();
    store.extend(&records).unwrap();
    let outputs = store.snapshot().unwrap().counts().unwrap().outputs;
    drop(store);

    let (status, report, log) = place.check_with_node(&["--blocks=1000"]);
    assert_eq!(status, 0, "{report} {log}");
    let said = format!("0 of {outputs} outputs are located");
    assert!(
        report["notes"][0].as_str().unwrap().contains(&said),
        "{report}"
    );
    tamper(&place.file(), |write| flip(write, MARKS, outputs - 1, 7, 1));
    let (status, report, _) = place.check_with_node(&["--blocks=0"]);
    assert_eq!(status, 1, "{report}");
    assert!(is_named(&report, "marks", None), "{report}");
    let (status, report, log) = place.check_with_node(&["--blocks=0", "--repair"]);
    assert_eq!(status, 0, "{report} {log}");
    assert_eq!(content_of_file(&place.file()), place.content);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_cannot_be_read_is_built_anew() {
    let place = Place::new(false).await;
    let tip = place.chain.tip_id().height;
    let whole = fs::read(place.file()).unwrap();
    let last_row_missing = |path: &Path| {
        tamper(path, |write| {
            write.open_table(BLOCKS).unwrap().remove(tip).unwrap();
        });
    };
    let broken_pages = |path: &Path| {
        // Every page but the first ones, of which the engine needs some to open the file.
        let mut bytes = whole.clone();
        for at in (bytes.len() / 8..bytes.len()).step_by(97) {
            bytes[at] ^= 0x55;
        }
        fs::write(path, bytes).unwrap();
    };
    let cut_short = |path: &Path| fs::write(path, &whole[..whole.len() / 2]).unwrap();
    let damages: [&dyn Fn(&Path); 3] = [&last_row_missing, &broken_pages, &cut_short];
    for (number, damage) in damages.into_iter().enumerate() {
        place.restore();
        damage(&place.file());
        let first = "--first-height=0";
        let (status, report, log) = place.check_with_node(&[first]);
        assert_eq!(status, 1, "{number}: {report} {log}");
        assert!(!report["wrong"].as_array().unwrap().is_empty(), "{log}");
        let (status, report, log) = place.check_with_node(&["--repair", first]);
        assert_eq!(status, 0, "{number}: {report} {log}");
        assert!(report["repaired"]["from_node"].is_u64(), "{report}");
        assert_eq!(content_of_file(&place.file()), place.content, "{number}");
        assert!(place.beside("damaged").exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repair_cut_short_between_its_renames_is_ended() {
    let place = Place::new(false).await;
    fs::copy(place.file(), place.beside("repaired")).unwrap();
    fs::rename(place.file(), place.beside("damaged")).unwrap();
    let (status, report, log) = place.check_with_node(&[]);
    assert_eq!(status, 0, "{report} {log}");
    assert!(log.contains("index.redb.repaired takes its place"), "{log}");
    assert_eq!(content_of_file(&place.file()), place.content);
    assert!(!place.beside("repaired").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reorg_that_was_not_followed_is_no_damage() {
    let place = Place::new(false).await;
    place.chain.reorganize(2, 3, Orphaned::Drop).unwrap();
    let (status, report, log) = place.check_with_node(&["--blocks=1000"]);
    assert_eq!(status, 0, "{report} {log}");
    assert!(
        report["notes"][0].as_str().unwrap().contains("reorg"),
        "{report}"
    );
    assert_eq!(
        report["node"]["compared"].as_array().unwrap().len() as u32,
        BLOCKS_MINED - 1
    );
}

/// Serves an index file as spindex does.
async fn serve(path: &Path) -> (String, Stop) {
    let store = Arc::new(Store::open_existing(path, &options()).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let stop = Stop::new();
    let requested = stop.clone();
    let state = ApiState { store, node: None };
    tokio::spawn(api::serve(
        listener,
        state,
        async move { requested.requested().await },
        ServeSettings::default(),
    ));
    (url, stop)
}

/// Serves what a server serves, without digests, as version 1 servers do.
async fn serve_plain(upstream: String) -> String {
    async fn pass_on(State(upstream): State<String>, request: Request) -> Response {
        let url = format!("{upstream}{}", request.uri());
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let Ok(answer) = client.get(url).send().await else {
            return StatusCode::BAD_GATEWAY.into_response();
        };
        let status = answer.status();
        let body = Body::from(answer.bytes().await.unwrap());
        (status, body).into_response()
    }
    let _ = rustls::crypto::ring::default_provider().install_default();
    let router = Router::new()
        .route("/digest/{height}", get(|| async { StatusCode::NOT_FOUND }))
        .fallback(pass_on)
        .with_state(upstream);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    url
}

/// Puts another tweak (that of another block) in a block, with digests that fit it.
fn change_a_tweak(path: &Path, height: u32, tip: BlockId) {
    let (row, other) = (block_row(path, height), block_row(path, tip.height));
    assert!(other.transactions.count > 0, "the last block has tweaks");
    tamper(path, |write| {
        let mut tweaks = write.open_table(TWEAKS.definition()).unwrap();
        let chunks = tweaks.iter().unwrap();
        let mut bytes = chunks
            .flat_map(|chunk| chunk.unwrap().1.value().to_vec())
            .collect::<Vec<u8>>();
        let from = other.transactions.first as usize * 64;
        let to = row.transactions.first as usize * 64;
        bytes.copy_within(from..from + 64, to);
        for (chunk, bytes) in (0..).zip(bytes.chunks(TWEAKS.chunk_bytes())) {
            tweaks.insert(chunk, bytes).unwrap();
        }
        let blocks = write.open_table(BLOCKS).unwrap();
        let mut digests = write.open_table(DIGEST).unwrap();
        let mut digest = DIGEST_START;
        for at in 0..=tip.height {
            let row = BlockRow::decode(blocks.get(at).unwrap().unwrap().value()).unwrap();
            let range = row.transactions.range();
            let range = range.start as usize * 64..range.end as usize * 64;
            let points = bytes[range].chunks(64);
            let compressed = points.map(|point| {
                let point = spindex::curve::TweakPoint::from_bytes(point.try_into().unwrap());
                point.to_compressed()
            });
            digest = roll_digest(&digest, &row.hash, compressed);
            digests.insert(at, &digest).unwrap();
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn another_server_is_compared_with() {
    let place = Place::new(false).await;
    let tip = place.chain.tip_id();
    let against = |url: &str, more: &[&str]| {
        let url = format!("--against={url}");
        place.check_with_node(&[&[url.as_str()], more].concat())
    };

    let same = place.home.path().join("same.redb");
    fs::copy(place.file(), &same).unwrap();
    let (url, _same) = serve(&same).await;
    let plain = serve_plain(url.clone()).await;
    let (status, report, log) = against(&url, &[]);
    assert_eq!(status, 0, "{report} {log}");
    assert_eq!(report["against"]["digests_agree"], true);
    assert_eq!(report["against"]["common"], tip.height);
    let (status, report, log) = against(&plain, &["--blocks=1000"]);
    assert_eq!(status, 0, "{report} {log}");
    assert_eq!(report["against"]["digests_agree"], Value::Null);
    let lists = report["against"]["heights"].as_array().unwrap();
    assert_eq!(lists.len() as u32, tip.height + 1);
    assert!(
        report["against"]["notes"][0]
            .as_str()
            .unwrap()
            .contains("no digests")
    );

    // One tweak of one block is another: bisection finds it whatever blocks are drawn.
    let height = target(&place.file()).height;
    let changed = place.home.path().join("changed.redb");
    fs::copy(place.file(), &changed).unwrap();
    change_a_tweak(&changed, height, tip);
    let changed_copy = place.home.path().join("copy.redb");
    fs::copy(&changed, &changed_copy).unwrap();
    let (url, _changed) = serve(&changed).await;
    let plain = serve_plain(url.clone()).await;
    let (status, report, log) = against(&url, &["--blocks=0"]);
    assert_eq!(status, 1, "{report} {log}");
    assert_eq!(report["against"]["digests_agree"], false);
    let differs = &report["against"]["differences"][0];
    assert_eq!(differs["height"], height, "{report}");
    assert_eq!(differs["only_here"].as_array().unwrap().len(), 1);
    assert_eq!(differs["only_there"].as_array().unwrap().len(), 1);
    assert_eq!(report["wrong"].as_array().unwrap().len(), 0);
    assert!(log.contains(&format!("block {height}")), "{log}");
    // With a node at hand it is known who is right.
    let (_, _, log) = against(&url, &["--blocks=1"]);
    assert!(log.contains("the server is wrong"), "{log}");
    let (status, report, log) = against(&plain, &["--blocks=1000"]);
    assert_eq!(status, 1, "{report} {log}");
    let differs = report["against"]["differences"].as_array().unwrap();
    assert!(
        differs.iter().all(|differs| differs["height"] == height),
        "{report}"
    );

    // The same damage here, which only another server or the node can see; the repair compares again.
    let good = place.home.path().join("upstream.redb");
    fs::copy(place.home.path().join("good.redb"), &good).unwrap();
    let (url, _good) = serve(&good).await;
    fs::copy(&changed_copy, place.file()).unwrap();
    let (status, report, _) = against(&url, &["--blocks=1"]);
    assert_eq!(status, 1, "{report}");
    assert!(is_named(&report, "tweaks", Some(height)), "{report}");
    let (status, report, log) = against(&url, &["--blocks=1", "--repair"]);
    assert_eq!(status, 0, "{report} {log}");
    assert_eq!(report["repaired"]["from_node"], height, "{report}");
    assert_eq!(report["against"]["digests_agree"], true, "{report}");
    assert_eq!(content_of_file(&place.file()), place.content);

    // Behind, and on another branch: said, and no difference.
    let behind = place.home.path().join("behind.redb");
    build(
        &behind,
        place.chain.clone(),
        &options(),
        Some(tip.height - 7),
    )
    .await;
    let (url, _behind) = serve(&behind).await;
    let (status, report, log) = against(&url, &[]);
    assert_eq!(status, 0, "{report} {log}");
    assert_eq!(report["against"]["common"], tip.height - 7);
    assert_eq!(report["against"]["digests_agree"], true);
    assert!(
        report["against"]["notes"][0]
            .as_str()
            .unwrap()
            .contains("tip")
    );
    place.chain.reorganize(3, 4, Orphaned::Drop).unwrap();
    let branch = place.home.path().join("branch.redb");
    build(&branch, place.chain.clone(), &options(), None).await;
    let (url, _branch) = serve(&branch).await;
    let (status, report, log) = against(&url, &[]);
    assert_eq!(status, 0, "{report} {log}");
    assert_eq!(report["against"]["common"], tip.height - 3);
    assert_eq!(report["against"]["digests_agree"], true);
    let notes = report["against"]["notes"].to_string();
    assert!(notes.contains("another branch"), "{notes}");

    // No oracle there: what else was found is told all the same.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, Router::new()).await });
    let (status, report, log) = against(&url, &["--blocks=0"]);
    assert_eq!(status, 1, "{report}");
    assert_eq!(report["ok"], false);
    assert_eq!(report["content_hash"], place.content.to_lower_hex_string());
    assert!(log.contains("base address"), "{log}");
    let (status, _, log) = place.check_with_node(&["--against=ftp://x"]);
    assert_eq!(status, 1);
    assert!(log.contains("http://"), "{log}");
}
