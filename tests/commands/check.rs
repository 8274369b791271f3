//! `spindex check`: a good index passes; whatever is damaged on purpose is found, named and repaired.

use std::fs;
use std::path::Path;

use bitcoin::hex::DisplayHex;
use redb::{ReadableTable, WriteTransaction};
use serde_json::Value;
use spindex::chain::made::simulated::Orphaned;
use spindex::store::column::Column;
use spindex::store::schema::{
    BLOCKS, COMPRESSED, DIGEST, FILTERS, HEIGHTS, LOCATOR, MARKS, MULTIPLES, OUTPUTS, SPENT,
    SPENT_CHUNK_BITS, TWEAKS, TXIDS,
};
use spindex::store::{BlockRecord, Keep, Store, StoreOptions, TweakForm};

use super::place::{Place, TIP, block_row, flip, is_named, tamper, target};
use crate::support::by_height::ByHeight as _;
use crate::support::index::options;
use crate::support::spcommit::links;
use crate::support::spindex::run;

#[tokio::test(flavor = "multi_thread")]
async fn a_good_index_passes() {
    let place = Place::with(StoreOptions {
        tweak_form: Some(TweakForm::PointAndMultiple),
        ..options()
    })
    .await;
    let (status, report, log) = place.check_with_node(&["--engine=auto"]);
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
    let (status, report, _) = place.check(&[]);
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
    let place = Place::new().await;
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

        let (status, report, log) = place.check(&["--repair"]);
        assert_eq!(status, 0, "{table}: {report} {log}");
        assert!(is_named(&report, table, height), "{report}");
        assert_eq!(report["repaired"]["from_node"], Value::Null, "{table}");
        assert_eq!(place.content(), place.content, "{table}");
        assert!(place.beside("damaged").exists());
        assert!(!place.beside("repairing").exists());
        assert_eq!(place.check_with_node(&["--blocks=1000"]).0, 0, "{table}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_the_chain_are_repaired_from_the_node() {
    let place = Place::new().await;
    let target = target(&place.file());
    let (at, row) = (target.height, &target.row);
    let tweak = row.transactions.first;
    // Column, position, byte in the item, tables and heights that are named with a node, and from where on it is asked.
    type Named<'a> = &'a [(&'a str, u32)];
    let cases: [(Column, u64, usize, Named<'_>, u32); 6] = [
        // x of a tweak; y of a tweak, which digests do not cover but for its parity.
        (TWEAKS, tweak, 3, &[("digest", at), ("tweaks", at)], at),
        (TWEAKS, tweak, 40, &[("tweaks", at)], at),
        // An amount.
        (OUTPUTS, target.unspent, 33, &[("outputs", at)], at),
        // A key.
        (
            OUTPUTS,
            target.unspent,
            5,
            &[("filters", at), ("outputs", at)],
            at,
        ),
        (
            FILTERS,
            row.new_utxos_filter.first + 1,
            0,
            &[("filters", at)],
            at,
        ),
        // The txid of an output that was spent later: the spender's filter tells, and the creator is what is wrong.
        (
            TXIDS,
            target.spent_transaction,
            9,
            &[("filters", target.spender), ("txids", target.creator)],
            target.creator,
        ),
    ];
    for (column, position, byte, named, from) in cases {
        let what = format!("{} byte {byte}", column.name());
        place.restore();
        tamper(&place.file(), |write| {
            flip(write, column, position, byte, 0x10)
        });
        let (status, report, _) = place.check(&["--blocks=0"]);
        assert_eq!(status, 1, "{what}: {report}");
        // Without a node nothing is changed, and nothing left behind.
        let (status, _, log) = place.check(&["--repair"]);
        assert_eq!(status, 1, "{what}: {log}");
        assert!(log.contains("--node-url"), "{what}: {log}");
        assert!(!place.beside("repairing").exists());
        assert!(!place.beside("damaged").exists());

        let (status, report, log) = place.check_with_node(&["--blocks=1000"]);
        assert_eq!(status, 1, "{what}: {report}");
        assert!(log.contains("--repair"), "{what}: {log}");
        for (table, height) in named {
            assert!(is_named(&report, table, Some(*height)), "{what}: {report}");
        }
        let (status, report, log) = place.check_with_node(&["--repair", "--blocks=0"]);
        assert_eq!(status, 0, "{what}: {report} {log}");
        assert_eq!(report["repaired"]["from_node"], from, "{what}: {report}");
        assert_eq!(place.content(), place.content, "{what}");
        assert!(place.beside("damaged").exists());
        assert_eq!(place.check_with_node(&[]).0, 0, "{what}");
    }
}

/// Heads that others publish are compared with the index's, of whichever version they are.
#[tokio::test(flavor = "multi_thread")]
async fn published_heads_are_held_against_the_index() {
    let place = Place::new().await;
    let store = Store::open_existing(&place.file(), &place.options).unwrap();
    let snapshot = store.snapshot().unwrap();
    let records = (0..=TIP).map(|height| snapshot.block(height).unwrap().unwrap().record());
    let records: Vec<BlockRecord> = records.collect::<Result<_, _>>().unwrap();
    drop(snapshot);
    drop(store);
    let links = links(&records);
    let head = |height: u32, version: usize| {
        let head = links[height as usize][version].head;
        format!("--head={height}:{}", head.to_lower_hex_string())
    };
    let (first, second) = (head(TIP, 0), head(TIP / 2, 1));
    let (status, report, log) = place.check(&["--blocks=0", &first, &second]);
    assert_eq!(status, 0, "{report} {log}");
    assert_eq!(report["heads"][0]["version"], 1);
    assert_eq!(report["heads"][1]["version"], 2);
    assert_eq!(report["heads"][1]["height"], TIP / 2);

    // That of another height, and one above the tip.
    let other = first.replace(&format!("={TIP}:"), &format!("={}:", TIP - 1));
    let above = first.replace(&format!("={TIP}:"), &format!("={}:", TIP + 1));
    for wrong in [&other, &above] {
        let (status, report, log) = place.check(&["--blocks=0", wrong]);
        assert_eq!(status, 1, "{report} {log}");
        assert_eq!(report["ok"], false);
        assert_eq!(report["heads"][0]["version"], Value::Null);
        assert!(log.contains("does not have the published head"), "{log}");
    }
    let (status, _, log) = place.check(&["--head=7"]);
    assert_eq!(status, 2, "{log}");
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
        tweak_form: Some(TweakForm::PointAndMultiple),
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
        assert_eq!(place.content(), place.content, "{options:?}");
    }
}

/// Between the last commit of a long sync and the locators it has left.
#[tokio::test(flavor = "multi_thread")]
async fn an_index_whose_sync_has_not_ended_is_checked_and_repaired_too() {
    let place = Place::new().await;
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
    assert_eq!(place.content(), place.content);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_cannot_be_read_is_built_anew() {
    let place = Place::new().await;
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
        assert_eq!(place.content(), place.content, "{number}");
        assert!(place.beside("damaged").exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repair_cut_short_between_its_renames_is_ended() {
    let place = Place::new().await;
    fs::copy(place.file(), place.beside("repaired")).unwrap();
    fs::rename(place.file(), place.beside("damaged")).unwrap();
    let (status, report, log) = place.check_with_node(&[]);
    assert_eq!(status, 0, "{report} {log}");
    assert!(log.contains("index.redb.repaired takes its place"), "{log}");
    assert_eq!(place.content(), place.content);
    assert!(!place.beside("repaired").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reorg_that_was_not_followed_is_no_damage() {
    let place = Place::new().await;
    place.chain.reorganize(2, 3, Orphaned::Drop).unwrap();
    let (status, report, log) = place.check_with_node(&["--blocks=1000"]);
    assert_eq!(status, 0, "{report} {log}");
    assert!(
        report["notes"][0].as_str().unwrap().contains("reorg"),
        "{report}"
    );
    assert_eq!(
        report["node"]["compared"].as_array().unwrap().len() as u32,
        TIP - 1
    );
}
