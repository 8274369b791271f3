//! `spindex check --repair` where it could do harm: a node that is behind, a first height that is not to be believed, an
//! index behind a symbolic link, a repair that was cut short.

use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;

use redb::{ReadableTable, ReadableTableMetadata, TableHandle};
use serde_json::Value;
use spindex::chain::made::simulated::{Orphaned, SimulatedChain, SimulationSettings};
use spindex::store::schema::{
    BLOCKS, DIGEST, FILTERS, FIRSTS, FOREIGN, HEIGHTS, META, MULTIPLES, OUTPUTS, SPENDS, SPENT,
    TWEAKS, TXIDS,
};
use spindex::store::{Store, StoreOptions, TweakForm};

use super::place::{NO_NODE, Place, TIP, block_row, build, flip, is_named, tamper};
use crate::support::by_height::ByHeight as _;
use crate::support::fake_node::FakeNode;
use crate::support::index::options;
use crate::support::spindex::{Spindex, command};

fn tip(path: &Path) -> u32 {
    let store = Store::open_existing(path, &options()).unwrap();
    store.snapshot().unwrap().tip().unwrap().height
}

/// A repair that is refused: nothing has changed, and nothing is left behind.
fn assert_refused(place: &Place, more: &[&str], said: &str) {
    let names = || {
        let entries = fs::read_dir(place.file().parent().unwrap()).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let before = names();
    let (status, report, log) = place.check_with_node(&[&["--repair"], more].concat());
    assert_eq!(status, 1, "{report} {log}");
    assert!(log.contains(said), "{log}");
    assert_eq!(names(), before);
}

/// Writes another first height into `meta`.
fn set_first_height(path: &Path, height: u32) {
    tamper(path, |write| {
        let mut meta = write.open_table(META).unwrap();
        let height = height.to_le_bytes();
        meta.insert("first_height", height.as_slice()).unwrap();
    });
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
        assert_refused(&place, &[], &said);
        assert_refused(&place, &["--blocks=0"], &said);
    }
    let lower = place.damage_a_tweak(105);
    assert_refused(&place, &[], "chain ends at height 0");
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
        assert_refused(&place, &["--first-height=0"], "chain ends at height 130");
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
    assert_refused(&place, &["--first-height=1"], "chain ends at height 0");
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
    assert_refused(&place, &[], "chain ends at height 130");
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
            assert!(is_named(&report, "meta", None), "{report}");
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
    assert!(is_named(&report, "blocks", None), "{report}");
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
    assert!(is_named(&report, "blocks", None), "{report}");
    let (status, report, log) = place.check_with_node(&["--repair"]);
    assert_eq!(status, 0, "{report} {log}");
    assert_eq!(place.content(), place.content);
}

/// Nothing of a file is taken over that lacks a table, but what it says of itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_missing_is_found_and_written_anew() {
    let place = Place::with(StoreOptions {
        tweak_form: Some(TweakForm::PointAndMultiple),
        ..options()
    })
    .await;
    let columns = [
        TWEAKS, MULTIPLES, TXIDS, FIRSTS, OUTPUTS, SPENDS, FOREIGN, FILTERS, SPENT,
    ];
    let tables = ["blocks", "heights", "digest", "locator"];
    for table in tables
        .into_iter()
        .chain(columns.map(|column| column.name()))
    {
        place.restore();
        tamper(&place.file(), |write| {
            let mut handles = write.list_tables().unwrap();
            let handle = handles.find(|handle| handle.name() == table).unwrap();
            assert!(write.delete_table(handle).unwrap(), "{table}");
        });
        assert!(Store::open_existing(&place.file(), &place.options).is_err());
        let (status, report, log) = place.check(&["--blocks=0"]);
        assert_eq!(status, 1, "{table} {report} {log}");
        assert!(is_named(&report, "file", None), "{table} {report} {log}");
        let reason = report["wrong"][0]["reason"].as_str().unwrap();
        assert!(reason.contains(table), "{report}");
        if !["blocks", "locator", TXIDS.name()].contains(&table) {
            continue;
        }
        let form = "--tweak-form=point-and-multiple";
        let more = ["--repair", "--first-height=0", form];
        let (status, report, log) = place.check_with_node(&more);
        assert_eq!(status, 0, "{table} {report} {log}");
        assert_eq!(place.content(), place.content, "{table}");
    }
}

/// Multiples are read for the hash over everything only, as filters are.
#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_that_is_missing_in_the_middle_of_a_column_is_found_and_comes_from_the_node() {
    let place = Place::with(StoreOptions {
        tweak_form: Some(TweakForm::PointAndMultiple),
        ..options()
    })
    .await;
    for column in [MULTIPLES, TWEAKS, OUTPUTS] {
        place.restore();
        tamper(&place.file(), |write| {
            let mut table = write.open_table(column.definition()).unwrap();
            assert!(table.len().unwrap() > 1, "{}", column.name());
            table.remove(0).unwrap().unwrap();
        });
        let (status, report, log) = place.check(&["--blocks=0"]);
        assert_eq!(status, 1, "{report} {log}");
        assert!(is_named(&report, column.name(), None), "{report} {log}");
        assert_eq!(report["content_hash"], Value::Null, "{report}");
        let (status, report, log) = place.check_with_node(&["--repair"]);
        assert_eq!(status, 0, "{report} {log}");
        assert_eq!(place.content(), place.content);
    }
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
    // The head commits to it, and only the node tells which of both is wrong.
    let (status, report, _) = place.check(&["--blocks=0"]);
    assert_eq!(status, 1, "{report}");
    assert!(is_named(&report, "heads_v2", Some(height)), "{report}");
    let (status, report, _) = place.check_with_node(&["--blocks=1000"]);
    assert_eq!(status, 1, "{report}");
    assert!(is_named(&report, "spends", None), "{report}");
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
    build(&place.beside("repairing"), half, &options(), None).await;
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
            assert!(is_named(&report, "tweaks", None), "{report} {checked}");
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
    let other = ["--wait=0", "--tweak-form=point-and-multiple"];
    let (status, _, log) = place.command("sync", NO_NODE, &other);
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
