//! `spindex check --repair` where it could do harm: a node that is behind, a first height that is not to be believed, an
//! index behind a symbolic link, a repair that was cut short.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot be set up has failed"
)]

mod support;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::{ReadableTable, WriteTransaction};
use serde_json::Value;
use spindex::chain::simulated::{Orphaned, SimulatedChain, SimulationSettings};
use spindex::curve::libsecp256k1::LibSecp256k1;
use spindex::index::{IndexSettings, Indexer};
use spindex::runtime::Stop;
use spindex::store::column::Column;
use spindex::store::schema::{BLOCKS, BlockRow, DIGEST, FOREIGN, HEIGHTS, META, TWEAKS};
use spindex::store::{Store, StoreOptions};
use support::fake_node::FakeNode;
use support::index::{engine, options};
use support::spindex::{Spindex, command, run, stderr};

/// Blocks of the chain. Those up to 100 have no tweaks.
const TIP: u32 = 150;
/// Nothing listens there.
const NO_NODE: &str = "http://127.0.0.1:1";

/// A data directory with an index of a simulated chain, and a node that serves it.
struct Place {
    home: tempfile::TempDir,
    chain: Arc<SimulatedChain>,
    node: FakeNode,
    options: StoreOptions,
    /// Hash over all rows of the good index.
    content: [u8; 32],
}

impl Place {
    async fn new() -> Self {
        Self::from(0).await
    }

    /// With an index from a height on.
    async fn from(first_height: u32) -> Self {
        let home = tempfile::tempdir().unwrap();
        let chain = Arc::new(SimulatedChain::new(SimulationSettings::default()));
        chain.mine(TIP);
        let options = StoreOptions {
            first_height: Some(first_height),
            ..options()
        };
        let good = home.path().join("good.redb");
        build(&good, chain.clone(), &options).await;
        let place = Self {
            content: content(&good, &options),
            node: FakeNode::start(chain.clone()).await,
            home,
            chain,
            options,
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

    fn content(&self) -> [u8; 32] {
        content(&self.file(), &self.options)
    }

    fn command(&self, command: &str, node: &str, more: &[&str]) -> (i32, Value, String) {
        let node = format!("--node-url={node}");
        let args = [command, "--network=regtest", "--source=rest", &node];
        let output = run(self.home.path(), &[&args, more].concat());
        let report = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
        (output.status.code().unwrap(), report, stderr(&output))
    }

    /// Status, the document on stdout, stderr of a check without a node.
    fn check(&self, more: &[&str]) -> (i32, Value, String) {
        self.command("check", NO_NODE, &[&["--json"], more].concat())
    }

    /// The same with the node.
    fn check_with_node(&self, more: &[&str]) -> (i32, Value, String) {
        self.command("check", &self.node.url(), &[&["--json"], more].concat())
    }

    /// A repair that is refused: nothing has changed, and nothing is left behind.
    fn refuses_to_repair(&self, more: &[&str], said: &str) {
        let names = |place: &Self| {
            let entries = fs::read_dir(place.file().parent().unwrap()).unwrap();
            let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            names
        };
        let before = names(self);
        let (status, report, log) = self.check_with_node(&[&["--repair"], more].concat());
        assert_eq!(status, 1, "{report} {log}");
        assert!(log.contains(said), "{log}");
        assert_eq!(names(self), before);
    }

    /// Flips a bit of the first tweak of the first block from a height on that has one; gives the block's height.
    fn damage_a_tweak(&self, from: u32) -> u32 {
        let (height, row) = (from..=TIP)
            .map(|height| (height, block_row(&self.file(), height)))
            .find(|(_, row)| row.transactions.count > 0)
            .unwrap();
        tamper(&self.file(), |write| {
            flip(write, TWEAKS, row.transactions.first, 3, 0x10)
        });
        height
    }
}

async fn build(path: &Path, source: Arc<SimulatedChain>, options: &StoreOptions) {
    let store = Arc::new(Store::open(path, options).unwrap());
    let indexer = Indexer::new(
        store,
        source,
        Arc::new(LibSecp256k1),
        IndexSettings::default(),
        Stop::new(),
        |_| (),
    );
    indexer.sync(None).await.unwrap();
}

fn content(path: &Path, options: &StoreOptions) -> [u8; 32] {
    let store = Store::open_existing(path, options).unwrap();
    store.snapshot().unwrap().content_hash().unwrap()
}

fn tip(path: &Path) -> u32 {
    let store = Store::open_existing(path, &options()).unwrap();
    store.snapshot().unwrap().tip().unwrap().height
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

/// Writes another first height into `meta`.
fn set_first_height(path: &Path, height: u32) {
    tamper(path, |write| {
        let mut meta = write.open_table(META).unwrap();
        let height = height.to_le_bytes();
        meta.insert("first_height", height.as_slice()).unwrap();
    });
}

fn block_row(path: &Path, height: u32) -> BlockRow {
    let database = engine(path);
    let write = database.begin_write().unwrap();
    let blocks = write.open_table(BLOCKS).unwrap();
    let row = blocks.get(height).unwrap().unwrap();
    BlockRow::decode(row.value()).unwrap()
}

fn is_named(report: &Value, table: &str) -> bool {
    let wrong = report["wrong"].as_array().unwrap();
    wrong.iter().any(|finding| finding["table"] == table)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_right_above_the_tip_of_a_node_that_is_behind_is_kept() {
    let place = Place::new().await;
    let at = place.damage_a_tweak(105);
    place.chain.disconnect(TIP - 130, Orphaned::Drop).unwrap();
    let (status, report, log) = place.check_with_node(&["--repair"]);
    assert_eq!(status, 0, "{report} {log}");
    let repaired = &report["repaired"];
    assert_eq!(repaired["from_node"], at, "{report}");
    assert_eq!(repaired["until_node"], 130, "{report}");
    assert_eq!(repaired["copied"], u64::from(at + TIP - 130), "{report}");
    assert_eq!(report["tip"]["height"], TIP, "{report}");
    assert_eq!(place.content(), place.content);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repair_waits_for_a_node_that_has_not_come_to_what_is_wrong() {
    let place = Place::new().await;
    let at = place.damage_a_tweak(135);
    // The node knows nothing of the block, or of no block at all; what it knows may be wrong too.
    for behind in [130, 0] {
        let depth = place.chain.tip_id().height - behind;
        place.chain.disconnect(depth, Orphaned::Drop).unwrap();
        let said = format!("chain ends at height {behind}");
        place.refuses_to_repair(&[], &said);
        place.refuses_to_repair(&["--blocks=0"], &said);
    }
    let lower = place.damage_a_tweak(105);
    place.refuses_to_repair(&[], "chain ends at height 0");
    let chain = SimulatedChain::new(SimulationSettings::default());
    chain.mine(TIP);
    let caught_up = FakeNode::start(Arc::new(chain)).await;
    let args = ["--json", "--repair"];
    let (status, report, log) = place.command("check", &caught_up.url(), &args);
    assert_eq!(status, 0, "{report} {log}");
    assert_eq!(report["repaired"]["from_node"], lower.min(at), "{report}");
    assert_eq!(place.content(), place.content);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_cannot_be_read_is_not_replaced_by_a_shorter_one() {
    let place = Place::new().await;
    let whole = fs::read(place.file()).unwrap();
    // A broken page of tweaks leaves `meta` and the number of blocks.
    let break_page = || {
        let store = Store::open_existing(&place.file(), &place.options).unwrap();
        let tweaks = store.snapshot().unwrap().tweaks(TIP, Default::default());
        let (_, tweak) = tweaks.unwrap().unwrap()[0];
        drop(store);
        let mut bytes = whole.clone();
        let mut found = 0;
        for at in 0..bytes.len() - 64 {
            if bytes[at..at + 64] == tweak.as_bytes()[..] {
                bytes[at] ^= 1;
                found += 1;
            }
        }
        assert!(found > 0);
        fs::write(place.file(), bytes).unwrap();
    };
    let no_row = || {
        tamper(&place.file(), |write| {
            write.open_table(BLOCKS).unwrap().remove(TIP).unwrap();
        });
    };
    place.chain.disconnect(20, Orphaned::Drop).unwrap();
    for damage in [&break_page as &dyn Fn(), &no_row] {
        place.restore();
        damage();
        place.refuses_to_repair(&["--first-height=0"], "chain ends at height 130");
    }
    // Nothing says how far a file went that the engine cannot open.
    place.restore();
    fs::write(place.file(), &whole[..whole.len() / 2]).unwrap();
    let (status, report, log) = place.check_with_node(&["--repair", "--first-height=0"]);
    assert_eq!(status, 0, "{report} {log}");
    let notes = report["notes"].to_string();
    assert!(notes.contains("does not say how far it went"), "{notes}");
    assert!(
        notes.contains("does not say what it was built with"),
        "{notes}"
    );
    assert!(notes.contains("begins at height 0"), "{notes}");
    assert_eq!(report["tip"]["height"], 130, "{report}");
    // But an empty index is never the result.
    place.chain.disconnect(130, Orphaned::Drop).unwrap();
    fs::write(place.file(), &whole[..whole.len() / 2]).unwrap();
    place.refuses_to_repair(&["--first-height=1"], "chain ends at height 0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_contradicts_the_index_is_followed() {
    let place = Place::new().await;
    let at = place.damage_a_tweak(105);
    place
        .chain
        .reorganize(TIP - 120, 10, Orphaned::Drop)
        .unwrap();
    let (status, report, log) = place.check_with_node(&["--repair"]);
    assert_eq!(status, 0, "{report} {log}");
    assert_eq!(report["repaired"]["from_node"], at, "{report}");
    assert_eq!(report["repaired"]["shortened_to"], 130, "{report}");
    assert_eq!(report["tip"]["hash"], place.chain.tip_id().hash.to_string());
    let notes = report["notes"].to_string();
    assert!(notes.contains("the old one went up to 150"), "{notes}");
}

/// The header that does not fit is the index's own, not the node's: nothing is given up for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_header_is_no_contradiction() {
    let place = Place::new().await;
    place.damage_a_tweak(105);
    place.chain.disconnect(TIP - 130, Orphaned::Drop).unwrap();
    tamper(&place.file(), |write| {
        let mut blocks = write.open_table(BLOCKS).unwrap();
        let mut row = *blocks.get(131).unwrap().unwrap().value();
        // The parent's hash.
        row[10] ^= 1;
        blocks.insert(131, &row).unwrap();
    });
    place.refuses_to_repair(&[], "chain ends at height 130");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_height_is_held_against_the_lowest_row() {
    for (is, damaged) in [(1, 129), (129, 1), (1, 1 << 31 | 1)] {
        let place = Place::from(is).await;
        set_first_height(&place.file(), damaged);
        // Whatever is asked for, the file is not to be used as it is.
        for more in [vec![], vec![format!("--first-height={is}")]] {
            let more: Vec<&str> = more.iter().map(String::as_str).collect();
            let args = [&["--http-bind=192.0.2.1:9"], more.as_slice()].concat();
            let (status, _, log) = place.command("serve", NO_NODE, &args);
            assert_eq!(status, 1, "{log}");
            assert!(log.contains("first_height"), "{log}");
            assert!(log.contains("--repair"), "{log}");
            let (status, report, log) = place.check(&more);
            assert_eq!(status, 1, "{report} {log}");
            assert!(is_named(&report, "meta"), "{report}");
        }
        let (status, report, log) = place.check(&["--repair"]);
        assert_eq!(status, 0, "{report} {log}");
        assert_eq!(report["repaired"]["copied"], TIP + 1 - is, "{report}");
        assert_eq!(place.content(), place.content);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_first_rows_come_from_the_node() {
    let place = Place::from(1).await;
    tamper(&place.file(), |write| {
        let mut heights = write.open_table(HEIGHTS).unwrap();
        for height in 1_u32..=3 {
            write.open_table(BLOCKS).unwrap().remove(height).unwrap();
            write.open_table(DIGEST).unwrap().remove(height).unwrap();
            let keys = heights.iter().unwrap();
            let keys: Vec<_> = keys.map(|row| *row.unwrap().0.value()).collect();
            let key = keys.iter().find(|key| key[8..] == height.to_be_bytes());
            heights.remove(key.unwrap()).unwrap().unwrap();
        }
    });
    let (status, report, _) = place.check(&[]);
    assert_eq!(status, 1, "{report}");
    assert!(is_named(&report, "blocks"), "{report}");
    let (status, _, log) = place.check(&["--repair"]);
    assert_eq!(status, 1, "{log}");
    assert!(log.contains("--node-url"), "{log}");
    let (status, report, log) = place.check_with_node(&["--repair"]);
    assert_eq!(status, 0, "{report} {log}");
    assert_eq!(report["repaired"]["from_node"], 1, "{report}");
    assert_eq!(place.content(), place.content);
}

/// A key far above the others: not a thousand million heights are walked for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_far_above_the_others_is_no_tip() {
    let place = Place::new().await;
    tamper(&place.file(), |write| {
        let mut blocks = write.open_table(BLOCKS).unwrap();
        let row = *blocks.remove(TIP).unwrap().unwrap().value();
        blocks.insert(TIP | 1 << 31, &row).unwrap();
    });
    let (status, report, log) = place.check(&[]);
    assert_eq!(status, 1, "{report} {log}");
    assert!(is_named(&report, "blocks"), "{report}");
    let (status, report, log) = place.check_with_node(&["--repair"]);
    assert_eq!(status, 0, "{report} {log}");
    assert_eq!(place.content(), place.content);
}

/// What README says that `check` compares with the node only.
#[tokio::test(flavor = "multi_thread")]
async fn key_prefixes_of_foreign_spends_are_compared_with_the_node() {
    let place = Place::new().await;
    let (height, row) = (0..=TIP)
        .map(|height| (height, block_row(&place.file(), height)))
        .find(|(_, row)| row.foreign.count > 0)
        .unwrap();
    tamper(&place.file(), |write| {
        flip(write, FOREIGN, row.foreign.first, 40, 1)
    });
    let (status, report, _) = place.check(&["--blocks=0"]);
    assert_eq!(status, 0, "{report}");
    let (status, report, _) = place.check_with_node(&["--blocks=1000"]);
    assert_eq!(status, 1, "{report}");
    assert!(is_named(&report, "spends"), "{report}");
    let (status, report, log) = place.check_with_node(&["--blocks=1000", "--repair"]);
    assert_eq!(status, 0, "{report} {log}");
    assert_eq!(report["repaired"]["from_node"], height, "{report}");
    assert_eq!(place.content(), place.content);
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn a_link_stays_one_and_owner_and_mode_stay_what_they_are() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
    let place = Place::new().await;
    let large_disk = place.home.path().join("large disk");
    fs::create_dir(&large_disk).unwrap();
    let target = large_disk.join("the index");
    fs::rename(place.file(), &target).unwrap();
    // By another link, which is relative.
    symlink("large disk/the index", place.home.path().join("middle")).unwrap();
    symlink(place.home.path().join("middle"), place.file()).unwrap();
    fs::set_permissions(&target, fs::Permissions::from_mode(0o640)).unwrap();
    // Only root may give files away.
    let is_root = chown(&target, Some(12_345), Some(54_321)).is_ok();
    let before = fs::metadata(&target).unwrap();

    place.damage_a_tweak(105);
    let (status, report, log) = place.check_with_node(&["--repair"]);
    assert_eq!(status, 0, "{report} {log}");
    let kept = large_disk.join("the index.damaged");
    assert_eq!(report["repaired"]["kept"], kept.to_str().unwrap());
    for path in [&target, &kept] {
        let after = fs::symlink_metadata(path).unwrap();
        assert!(after.is_file());
        assert_eq!(after.mode(), before.mode());
        assert_eq!((after.uid(), after.gid()), (before.uid(), before.gid()));
    }
    if is_root {
        assert_eq!((before.uid(), before.gid()), (12_345, 54_321));
    }
    assert_ne!(fs::metadata(&target).unwrap().ino(), before.ino());
    assert_eq!(fs::metadata(&kept).unwrap().ino(), before.ino());
    let link = fs::symlink_metadata(place.file()).unwrap();
    assert!(link.is_symlink());
    let folder = fs::read_dir(place.file().parent().unwrap()).unwrap();
    assert_eq!(folder.count(), 1);
    assert_eq!(place.content(), place.content);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unfinished_repair_is_never_taken_for_a_finished_one() {
    let place = Place::new().await;
    // An earlier repair has kept a file, a later one was killed, and somebody removed the index.
    fs::rename(place.file(), place.beside("damaged")).unwrap();
    let half = Arc::new(SimulatedChain::new(SimulationSettings::default()));
    half.mine(TIP / 2);
    build(&place.beside("repairing"), half, &options()).await;
    let unfinished = fs::read(place.beside("repairing")).unwrap();
    let (status, _, log) = place.check(&[]);
    assert_eq!(status, 1, "{log}");
    assert!(log.contains("there is no index"), "{log}");
    let args = ["--first-height=0", "--until=10"];
    let (status, _, log) = place.command("sync", &place.node.url(), &args);
    assert_eq!(status, 0, "{log}");
    assert!(
        log.contains("index.redb.repairing is of a repair that was cut short"),
        "{log}"
    );
    assert_eq!(tip(&place.file()), 10);
    assert!(fs::read(place.beside("repairing")).unwrap() == unfinished);

    // The next repair begins again; another one that is at it is left alone.
    place.restore();
    place.damage_a_tweak(105);
    let other = File::open(place.beside("repairing")).unwrap();
    other.lock().unwrap();
    let (status, _, log) = place.check_with_node(&["--repair"]);
    assert_eq!(status, 1, "{log}");
    assert!(log.contains("in use"), "{log}");
    assert!(fs::read(place.beside("repairing")).unwrap() == unfinished);
    drop(other);
    let (status, report, log) = place.check_with_node(&["--repair"]);
    assert_eq!(status, 0, "{report} {log}");
    assert!(!place.beside("repairing").exists());
    assert_eq!(place.content(), place.content);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repair_that_is_stopped_or_killed_leaves_one_index_or_the_other() {
    let place = Place::new().await;
    let node = format!("--node-url={}", place.node.url());
    let args = [
        "check",
        "--network=regtest",
        "--source=rest",
        "--repair",
        &node,
    ];
    // Before the new file is there, and while it is checked, compacted and put in place.
    for (line, is_asked) in [
        ("curve engine", false),
        ("curve engine", true),
        ("indexed height=150", false),
        ("indexed height=150", true),
    ] {
        place.restore();
        let at = place.damage_a_tweak(105);
        let mut repair = Spindex::start(command(place.home.path(), &args));
        repair.wait_for(&[line]);
        let log = match is_asked {
            true => repair.terminate().1.join("\n"),
            false => {
                repair.kill();
                String::new()
            }
        };
        let (status, report, checked) = place.check(&["--blocks=0"]);
        println!("{line}, {is_asked}: {status} {log}");
        if status != 0 {
            assert!(is_named(&report, "tweaks"), "{report} {checked}");
            assert_eq!(report["tip"]["height"], TIP, "{report}");
            let (status, report, log) = place.check_with_node(&["--repair"]);
            assert_eq!(status, 0, "{report} {log}");
            assert_eq!(report["repaired"]["from_node"], at, "{report}");
        }
        assert_eq!(place.content(), place.content);
        assert!(!place.beside("repairing").exists());
        assert!(!place.beside("repaired").exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_sync_that_failed_binds_nobody() {
    let place = Place::new().await;
    fs::remove_file(place.file()).unwrap();
    let mistaken = [
        "--first-height=5000",
        "--keep=tweaks",
        "--tweak-form=compressed",
    ];
    let (_, _, log) = place.command("sync", &place.node.url(), &mistaken);
    assert!(log.contains("below the first height"), "{log}");
    let (status, _, log) = place.command("sync", NO_NODE, &["--wait=0", "--multiples"]);
    assert_eq!(status, 1, "{log}");
    let (status, report, log) = place.check(&["--blocks=0"]);
    assert_eq!(status, 0, "{report} {log}");
    let (status, _, log) = place.command("sync", &place.node.url(), &["--first-height=0"]);
    assert_eq!(status, 0, "{log}");
    assert_eq!(place.content(), place.content);
    // From then on they bind.
    let (status, _, log) = place.command("sync", &place.node.url(), &["--keep=tweaks"]);
    assert_eq!(status, 1, "{log}");
    assert!(log.contains("--keep full"), "{log}");
}
