//! `spindex check --repair` of a file of an older format, whose damage is what keeps it from being migrated.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use redb::StorageBackend;
use spindex::chain::made::simulated::{SimulatedChain, SimulationSettings};
use spindex::store::schema::META;
use spindex::store::{Store, StoreOptions, Summed, TweakForm, remains};

use super::place::build;
use crate::support::by_height::ByHeight as _;
use crate::support::fake_node::FakeNode;
use crate::support::index::options;
use crate::support::spindex::{run, stderr};

const TIP: u32 = 110;
/// Not the network's default, so that only the file can tell it.
const FIRST: u32 = 5;
const PAGE: usize = 4096;

/// Form of the tweaks, a packed file of format 1 or 2.
const OLD: [(TweakForm, &[u8]); 2] = [
    (
        TweakForm::Point,
        include_bytes!("../../fixtures/store/format-1-chain.redb.zst"),
    ),
    (
        TweakForm::PointAndMultiple,
        include_bytes!("../../fixtures/store/format-2-chain.redb.zst"),
    ),
];

/// Makes a file of format 4 of one of format 5: the same pages, without sums.
fn take_sums(path: &Path) {
    let summed = Summed::file(path).unwrap();
    let mut plain = vec![0; summed.len().unwrap() as usize];
    for (number, page) in plain.chunks_mut(PAGE).enumerate() {
        // Where nothing was ever written there is no sum either.
        if summed.read((number * PAGE) as u64, page).is_err() {
            page.fill(0);
        }
    }
    drop(summed);
    fs::write(path, plain).unwrap();
    let database = redb::Database::open(path).unwrap();
    let write = database.begin_write().unwrap();
    let format = 4_u32.to_le_bytes();
    let mut meta = write.open_table(META).unwrap();
    meta.insert("schema", format.as_slice()).unwrap();
    drop(meta);
    write.commit().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_file_of_an_older_format_is_repaired() {
    let home = tempfile::tempdir().unwrap();
    let chain = Arc::new(SimulatedChain::new(SimulationSettings::default()));
    chain.mine(TIP);
    let node = FakeNode::start(chain.clone()).await;
    let file = home.path().join(".spindex/regtest/index.redb");
    let options = StoreOptions {
        first_height: Some(FIRST),
        tweak_form: Some(TweakForm::PointAndMultiple),
        ..options()
    };
    build(&file, chain, &options, None).await;
    let store = Store::open_existing(&file, &options).unwrap();
    let snapshot = store.snapshot().unwrap();
    let content = snapshot.content_hash().unwrap();
    let tweaks = (FIRST..=TIP).rev().find_map(|height| {
        let points = snapshot.points(height).unwrap()?;
        Some(*points.first()?.as_bytes())
    });
    let tweak = tweaks.unwrap();
    drop(snapshot);
    drop(store);
    take_sums(&file);
    let mut bytes = fs::read(&file).unwrap();
    let mut damaged = tweak;
    damaged[40] ^= 4;
    for at in 0..bytes.len() - tweak.len() {
        if bytes[at..].starts_with(&tweak) {
            bytes[at..][..tweak.len()].copy_from_slice(&damaged);
        }
    }
    fs::write(&file, &bytes).unwrap();
    // The engine has a header of its own to write.
    let is_damaged = |file: &Path| {
        let bytes = fs::read(file).unwrap();
        bytes.starts_with(b"redb") && bytes.windows(damaged.len()).any(|bytes| bytes == damaged)
    };

    let check = |node: &str, more: &[&str]| {
        let node = format!("--node-url={node}");
        let args = ["check", "--network=regtest", "--source=rest", &node];
        let output = run(home.path(), &[&args, more].concat());
        (output.status.code(), stderr(&output))
    };
    let nobody = "http://127.0.0.1:1";
    let (status, log) = check(nobody, &[]);
    assert_eq!(status, Some(1), "{log}");
    assert!(
        log.contains("repair it with `spindex check --repair`"),
        "{log}"
    );
    let (status, log) = check(nobody, &["--repair"]);
    assert_eq!(status, Some(1), "{log}");
    assert!(
        log.contains("blocks from height 5 on have to come"),
        "{log}"
    );
    assert!(is_damaged(&file), "not the file that it was");

    let (status, log) = check(&node.url(), &["--repair"]);
    assert_eq!(status, Some(0), "{log}");
    assert!(is_damaged(&file.with_file_name("index.redb.damaged")));
    let store = Store::open_existing(&file, &options).unwrap();
    assert_eq!(store.snapshot().unwrap().content_hash().unwrap(), content);
}

/// The engine reads them, and their rows are not those of now.
#[test]
fn a_file_of_a_format_with_other_rows_says_what_it_was_built_with() {
    for (form, packed) in OLD {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("index.redb");
        fs::write(&file, zstd::decode_all(packed).unwrap()).unwrap();
        let asked = StoreOptions {
            first_height: None,
            ..options()
        };
        let said = remains(&file, &asked).options.expect("what it says");
        assert_eq!(said.tweak_form, Some(form));
        assert_eq!(said.first_height, Some(7));
    }
}
