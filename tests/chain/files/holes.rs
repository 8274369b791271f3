//! Folders that are not all of the chain, and folders with things in them that are no files.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use bitcoin::Network;
use spindex::chain::made::simulated::{SimulatedChain, SimulationSettings};
use spindex::chain::{BlockSource, ChainError};
use tempfile::TempDir;

use super::folder::{block_records, plain, records, undo_records, write_plain};
use super::scene::{Left, assert_all_there, files, files_with, left_behind};
use crate::support::fake_node::FakeNode;
use crate::support::spindex::{run, stderr};

/// Files of the made folder, with these blocks at their starts.
const STARTS: [usize; 4] = [0, 30, 60, 90];

/// The blocks of a node, over four files.
fn four_files(left: &Left) -> TempDir {
    let blocks = block_records(left.folder.path());
    let undo = undo_records(left.folder.path());
    let made = tempfile::tempdir().unwrap();
    fs::write(made.path().join("xor.dat"), [9; 8]).unwrap();
    let ends = STARTS.iter().skip(1).copied().chain([blocks.len()]);
    for ((number, start), end) in STARTS.into_iter().enumerate().zip(ends) {
        let blk = blocks[start..end].concat();
        let rev = undo[start.max(1) - 1..end - 1].concat();
        write_plain(made.path(), &format!("blk{number:05}.dat"), &blk);
        write_plain(made.path(), &format!("rev{number:05}.dat"), &rev);
    }
    made
}

fn remove(folder: &Path, name: &str) {
    fs::remove_file(folder.join(name)).unwrap();
}

fn empty(folder: &Path, name: &str) {
    fs::write(folder.join(name), []).unwrap();
}

fn dangle(folder: &Path, name: &str) {
    remove(folder, name);
    symlink("nowhere", folder.join(name)).unwrap();
}

/// A link to itself, which nobody can read, not even root.
fn refuse(folder: &Path, name: &str) {
    remove(folder, name);
    symlink(name, folder.join(name)).unwrap();
}

fn pipe(folder: &Path, name: &str) {
    let _ = fs::remove_file(folder.join(name));
    let made = Command::new("mkfifo").arg(folder.join(name)).status();
    assert!(made.unwrap().success());
}

fn directory(folder: &Path, name: &str) {
    let _ = fs::remove_file(folder.join(name));
    fs::create_dir(folder.join(name)).unwrap();
}

/// Ends within the record in the middle.
fn cut(folder: &Path, name: &str) {
    let bytes = plain(folder, name);
    let trailer = if name.starts_with("rev") { 32 } else { 0 };
    let all = records(&bytes, trailer);
    let middle = all[all.len() / 2].0;
    write_plain(folder, name, &bytes[..middle + 40]);
}

/// The header in the middle is no block's.
fn damage(folder: &Path, name: &str) {
    let mut bytes = plain(folder, name);
    let all = records(&bytes, 0);
    let middle = all[all.len() / 2].0;
    // Part of the work's target: too much work is asked for.
    bytes[middle + 74] ^= 0xff;
    write_plain(folder, name, &bytes);
}

type Harm = fn(&Path, &str);

/// Each way in which a folder can lack blocks: what was done to which file, which file is named, and the first height.
const HOLES: [(Harm, &str, &str, usize); 20] = [
    (remove, "blk00001.dat", "blk00001.dat is missing", 30),
    (empty, "blk00001.dat", "blk00001.dat has no blocks", 30),
    (dangle, "blk00001.dat", "blk00001.dat is a link to", 30),
    (pipe, "blk00001.dat", "blk00001.dat is no regular", 30),
    (directory, "blk00002.dat", "blk00002.dat is no regular", 60),
    (refuse, "blk00002.dat", "blk00002.dat", 0),
    (cut, "blk00001.dat", "blk00001.dat is damaged or cut", 45),
    (damage, "blk00001.dat", "blk00001.dat is damaged or cut", 45),
    (damage, "blk00003.dat", "blk00003.dat is damaged or cut", 0),
    (remove, "blk00003.dat", "blk00003.dat is missing", 90),
    (dangle, "blk00003.dat", "blk00003.dat is a link to", 90),
    (empty, "blk00003.dat", "blk00003.dat is empty or", 90),
    (cut, "blk00003.dat", "blk00003.dat is empty or cut", 0),
    (remove, "rev00001.dat", "rev00001.dat is missing", 30),
    (empty, "rev00000.dat", "rev00000.dat is empty", 1),
    (dangle, "rev00001.dat", "rev00001.dat is a link to", 30),
    (pipe, "rev00001.dat", "rev00001.dat", 0),
    (remove, "rev00003.dat", "rev00003.dat is missing", 90),
    (empty, "rev00003.dat", "rev00003.dat has no records", 90),
    (cut, "rev00003.dat", "rev00003.dat is cut short", 0),
];

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_is_named_or_taken_from_the_node() {
    let left = left_behind(&["-blocksxor=0"]);
    let node = FakeNode::start(Arc::new(super::scene::chain_of_all_kinds())).await;
    for (harm, name, said, height) in HOLES {
        let made = four_files(&left);
        let folder = made.path();
        // One that has read them before.
        let before = files(folder);
        before.check(Network::Regtest).await.unwrap();
        assert_all_there(&before, &left.chain).await;
        harm(folder, name);

        let error = files(folder).check(Network::Regtest).await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains(said), "{said:?} is not in: {text}");
        let block = format!("block {height} (");
        let from = format!("from height {height} on");
        let names_height = text.contains(&block) || text.contains(&from);
        assert!(names_height || height == 0, "{height} is not in: {text}");
        assert!(!text.contains("-reindex"), "{text}");
        // After a good start it is no reason to end.
        if let Err(error) = before.tip().await {
            assert!(error.is_transient(), "{name}: {error:?}");
        }

        let beside = files_with(folder, &node.url());
        beside.check(Network::Regtest).await.unwrap();
        assert_all_there(&beside, &left.chain).await;
        assert_eq!(beside.blocks_at(0..=1000).await.unwrap()[0].height, 0);
    }
}

/// As a user meets it: the exit status, and the end of the log.
#[test]
fn a_hole_ends_a_sync_with_status_1() {
    let left = left_behind(&["-blocksxor=0"]);
    let sync = |folder: &Path| {
        let home = tempfile::tempdir().unwrap();
        let blocks = format!("--blocks-dir={}", folder.display());
        let args = [
            "sync",
            "--network=regtest",
            "--first-height=0",
            "--wait=0",
            "--source=files",
            &blocks,
        ];
        run(home.path(), &args)
    };
    let made = four_files(&left);
    let output = sync(made.path());
    assert!(output.status.success(), "{}", stderr(&output));
    remove(made.path(), "blk00002.dat");
    let output = sync(made.path());
    let log = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{log}");
    let last = log.lines().last().unwrap();
    for part in ["blk00002.dat is missing", "from height 60 on", "--node-url"] {
        assert!(last.contains(part), "{part:?} is not in: {last}");
    }

    // No undo record at all.
    let made = four_files(&left);
    for number in 0..4 {
        remove(made.path(), &format!("rev{number:05}.dat"));
    }
    let output = sync(made.path());
    let log = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{log}");
    let last = log.lines().last().unwrap();
    for part in ["rev00000.dat is missing", "block 1 (", "--node-url"] {
        assert!(last.contains(part), "{part:?} is not in: {last}");
    }
}

/// Things with the name of a file after the last one: nobody says that the node wrote them.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_file_is_passed_over() {
    let left = left_behind(&["-blocksxor=0"]);
    let made = four_files(&left);
    pipe(made.path(), "blk00004.dat");
    directory(made.path(), "blk00007.dat");
    directory(made.path(), "rev00001.dat.old");
    let source = files(made.path());
    source.check(Network::Regtest).await.unwrap();
    assert_all_there(&source, &left.chain).await;
}

/// A new file that cannot be read ends nothing: a node stands in, and without one it is waited for.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_refused_for_a_while_is_waited_for() {
    let left = left_behind(&["-blocksxor=0"]);
    let made = four_files(&left);
    let folder = made.path();
    let last = ["blk00003.dat", "rev00003.dat"];
    let kept = last.map(|name| fs::read(folder.join(name)).unwrap());
    for name in last {
        remove(folder, name);
    }
    let alone = files(folder);
    alone.check(Network::Regtest).await.unwrap();
    assert_eq!(alone.tip().await.unwrap().height, 89);
    let node = FakeNode::start(Arc::new(super::scene::chain_of_all_kinds())).await;
    let beside = files_with(folder, &node.url());
    beside.check(Network::Regtest).await.unwrap();

    symlink(last[0], folder.join(last[0])).unwrap();
    let error = alone.tip().await.unwrap_err();
    assert!(matches!(error, ChainError::Unreachable(_)), "{error:?}");
    assert!(error.to_string().contains("blk00003.dat"), "{error}");
    assert_all_there(&beside, &left.chain).await;
    // The folder itself, as when a disk is taken away.
    let elsewhere = tempfile::tempdir().unwrap();
    let moved = elsewhere.path().join("blocks");
    fs::rename(folder, &moved).unwrap();
    let error = alone.tip().await.unwrap_err();
    assert!(matches!(error, ChainError::Unreachable(_)), "{error:?}");
    assert_all_there(&beside, &left.chain).await;
    // Whoever checks the node again has no use for the folder.
    beside.check(Network::Regtest).await.unwrap();
    assert_all_there(&beside, &left.chain).await;
    assert!(
        files_with(folder, &node.url())
            .check(Network::Regtest)
            .await
            .is_err()
    );

    fs::rename(&moved, folder).unwrap();
    remove(folder, last[0]);
    for (name, bytes) in last.iter().zip(kept) {
        fs::write(folder.join(name), bytes).unwrap();
    }
    assert_all_there(&alone, &left.chain).await;
    assert_all_there(&beside, &left.chain).await;
}

/// An old copy of a node's folder is as good as what is in it; another chain's is refused.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_has_grown_old_is_used_as_far_as_it_goes() {
    let left = left_behind(&["-blocksxor=0"]);
    let made = four_files(&left);
    for name in ["blk00003.dat", "rev00003.dat"] {
        remove(made.path(), name);
    }
    let node = FakeNode::start(Arc::new(super::scene::chain_of_all_kinds())).await;
    let beside = files_with(made.path(), &node.url());
    beside.check(Network::Regtest).await.unwrap();
    assert_all_there(&beside, &left.chain).await;

    let other = SimulatedChain::new(SimulationSettings::default());
    other.mine(200);
    let node = FakeNode::start(Arc::new(other)).await;
    let beside = files_with(made.path(), &node.url());
    let error = beside.check(Network::Regtest).await.unwrap_err();
    assert!(matches!(error, ChainError::NotAvailable(_)), "{error:?}");
    assert!(error.to_string().contains("--blocks-dir"), "{error}");
}
