//! Folders in all states they can be in: half written, damaged, unfit, out of order, written over, pruned.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use bitcoin::hashes::Hash;
use bitcoin::{BlockHash, Network};
use serde_json::json;
use spindex::BlockId;
use spindex::chain::files::{FilesSettings, FilesSource};
use spindex::chain::made::simulated::builder::InputKind;
use spindex::chain::{BlockSource, ChainError};

use super::folder::{block_records, blocks_folder, plain, records, undo_records, write_plain};
use super::scene::{
    active_ids, assert_all_there, assert_same, assert_setup, chain_of_all_kinds, files, files_with,
    left_behind, secret,
};
use crate::support::fake_node::{FakeNode, Reply};
use crate::support::node::TestNode;

#[tokio::test(flavor = "multi_thread")]
async fn half_written_records_are_waited_for() {
    let left = left_behind(&["-blocksxor=1"]);
    let folder = left.folder.path();
    let tip = left.chain.tip_id();
    let rev = plain(folder, "rev00000.dat");
    let (last_undo, _) = records(&rev, 32).pop().unwrap();
    for (name, trailer) in [("blk00000.dat", 0), ("rev00000.dat", 32)] {
        let whole = plain(folder, name);
        // A block is connected, and has an undo record, only once it is written.
        write_plain(folder, "rev00000.dat", &rev[..last_undo - 8]);
        let all = records(&whole, trailer);
        let (start, last) = all.last().unwrap();
        let (start, end) = (start - 8, start - 8 + last.len());
        let source = files(folder);
        // Nothing of the last record, some of its frame, of its first and its last bytes; at the end of the file or with room
        // allocated after it.
        for written in [0, 3, 7, 8, 50, 88, 120, last.len() - 33, last.len() - 1] {
            for length in [start + written, whole.len().max(end + 100)] {
                let mut bytes = whole.clone();
                bytes.resize(length, 0);
                write_plain(folder, name, &bytes);
                if length > end {
                    // Zeros before the key is applied.
                    let mut raw = fs::read(folder.join(name)).unwrap();
                    raw[start + written..].fill(0);
                    fs::write(folder.join(name), raw).unwrap();
                }
                for source in [&source, &files(folder)] {
                    let reached = source.tip().await.unwrap();
                    assert_eq!(reached.height, tip.height - 1, "{name} {written} {length}");
                    let error = source.block(tip).await.unwrap_err();
                    assert!(matches!(error, ChainError::NotAvailable(_)), "{error:?}");
                    assert!(error.to_string().contains(&tip.to_string()), "{error}");
                    assert!(source.block(reached).await.is_ok());
                }
            }
        }
        // The node stands in.
        let node = FakeNode::start(Arc::new(chain_of_all_kinds())).await;
        let beside = files_with(folder, &node.url());
        assert_all_there(&beside, &left.chain).await;
        let elsewhere = BlockId {
            height: 9,
            hash: BlockHash::all_zeros(),
        };
        let error = beside.block(elsewhere).await.unwrap_err();
        assert!(matches!(error, ChainError::NotAvailable(_)), "{error:?}");
        node.on("/rest/", Reply::Hangup);
        assert!(beside.block(tip).await.unwrap_err().is_transient());

        write_plain(folder, name, &whole);
        write_plain(folder, "rev00000.dat", &rev);
        assert_all_there(&source, &left.chain).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_records_are_named() {
    let left = left_behind(&["-blocksxor=1"]);
    let folder = left.folder.path();
    let source = files(folder);
    assert_all_there(&source, &left.chain).await;
    let damaged_id = left.chain.active_blocks()[108].id;
    for (name, trailer, nth, what) in [
        ("rev00000.dat", 32, 107, "undo record"),
        ("blk00000.dat", 0, 108, "merkle root"),
    ] {
        let whole = plain(folder, name);
        let (offset, record) = records(&whole, trailer).swap_remove(nth);
        let length = record.len() - 8 - trailer;
        for at in [offset + length / 2, offset + length - 1] {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x10;
            write_plain(folder, name, &bytes);
            // One that had read it before, and one that had not.
            for source in [&source, &files(folder)] {
                assert_eq!(source.tip().await.unwrap(), left.chain.tip_id());
                let error = source.block(damaged_id).await.unwrap_err();
                assert!(matches!(error, ChainError::Mismatch(_)), "{error:?}");
                let text = error.to_string();
                let path = folder.join(name).display().to_string();
                for part in [&path, &format!("at byte {offset}"), what, "-reindex"] {
                    assert!(text.contains(part), "{part:?} is not in: {text}");
                }
                assert!(text.contains(&damaged_id.to_string()), "{text}");
                for other in [107, 109] {
                    let id = left.chain.active_blocks()[other].id;
                    assert!(source.block(id).await.is_ok());
                }
            }
        }
        write_plain(folder, name, &whole);
        assert_all_there(&source, &left.chain).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn folders_that_are_not_fit_are_told_apart() {
    let left = left_behind(&["-blocksxor=1"]);
    let folder = left.folder.path();
    let path = folder.display().to_string();
    let source = files(folder);
    source.check(Network::Regtest).await.unwrap();
    assert_eq!(
        source.describe(),
        format!("Bitcoin Core's block files in {path}")
    );
    assert_setup(
        source.check(Network::Signet).await,
        &[&path, "signet", "--network"],
    );
    let key = folder.join("xor.dat");
    let right = fs::read(&key).unwrap();
    let key_path = key.display().to_string();
    let blk_path = folder.join("blk00000.dat").display().to_string();
    let check = || async { files(folder).check(Network::Regtest).await };
    fs::write(&key, [1, 2, 3, 4, 5, 6, 7, 8]).unwrap();
    assert_setup(check().await, &[&key_path, &blk_path, "restore"]);
    fs::write(&key, [1, 2, 3]).unwrap();
    assert_setup(check().await, &[&key_path, "3 bytes"]);
    fs::remove_file(&key).unwrap();
    assert_setup(check().await, &[&key_path, &blk_path, "restore"]);
    // As plain files, first with the key of others and then rightly.
    fs::write(&key, &right).unwrap();
    for name in ["blk00000.dat", "rev00000.dat"] {
        let bytes = fs::read(folder.join(name)).unwrap();
        write_plain(folder, name, &bytes);
    }
    assert_setup(check().await, &[&key_path, "is not obfuscated"]);
    fs::write(&key, [0; 8]).unwrap();
    check().await.unwrap();

    let signet = FilesSource::new(FilesSettings::new(folder, Network::Signet));
    let said = [
        "the network regtest",
        "not of signet",
        "--network",
        &blk_path,
    ];
    assert_setup(signet.check(Network::Signet).await, &said);

    // Root may read everything.
    let set_mode = |mode| {
        let permissions = fs::Permissions::from_mode(mode);
        fs::set_permissions(folder.join("blk00000.dat"), permissions).unwrap();
    };
    set_mode(0);
    if fs::read(folder.join("blk00000.dat")).is_err() {
        assert_setup(
            check().await,
            &["cannot read", &blk_path, "the node's user"],
        );
    }
    set_mode(0o600);

    // Too short a file, none, a folder in its place, no folder at all.
    fs::remove_file(folder.join("blk00000.dat")).unwrap();
    fs::write(folder.join("blk00000.dat"), [1, 2]).unwrap();
    assert_setup(check().await, &[&blk_path, "too short"]);
    fs::remove_file(folder.join("blk00000.dat")).unwrap();
    assert_setup(check().await, &[&path, "no file blk*.dat"]);
    assert_setup(files(folder).tip().await.map(drop), &["no file blk*.dat"]);
    fs::create_dir(folder.join("blk00000.dat")).unwrap();
    assert_setup(
        check().await,
        &["no file blk*.dat", &blk_path, "no regular"],
    );
    let nowhere = folder.join("nowhere");
    let nowhere_path = nowhere.display().to_string();
    let result = files(&nowhere).check(Network::Regtest).await;
    assert_setup(result, &["cannot read", &nowhere_path, "data directory"]);
}

/// Blocks as they arrive when a node downloads a chain: over several files, out of order, undo records by height, and the
/// leftovers of a node that was killed. The records are a real node's.
#[tokio::test(flavor = "multi_thread")]
async fn blocks_in_any_order_are_found() {
    let left = left_behind(&["-blocksxor=0"]);
    let blocks = block_records(left.folder.path());
    let undo = undo_records(left.folder.path());
    // The genesis block has no undo record; all others are in order here.
    assert_eq!(blocks.len(), undo.len() + 1);
    for seed in [1, 2, 3] {
        let made = tempfile::tempdir().unwrap();
        let folder = made.path();
        fs::write(folder.join("xor.dat"), [seed; 8]).unwrap();
        for number in 0..4 {
            let mut here: Vec<usize> = (0..blocks.len())
                .filter(|height| (height * 31 + usize::from(seed)) / 40 % 4 == number)
                .filter(|height| *height > 0 || number == 0)
                .collect();
            let by_height = here.clone();
            // Only near ones change places, as in a download.
            here.sort_by_key(|height| (height / 20, height * 7919 % (100 + usize::from(seed))));
            let mut blk: Vec<u8> = Vec::new();
            if number == 0 {
                // The first of all files begins with it.
                here.retain(|height| *height != 0);
                blk.extend(&blocks[0]);
            }
            blk.extend(here.iter().flat_map(|height| blocks[*height].clone()));
            let connected = by_height.iter().filter(|height| **height > 0);
            let mut rev: Vec<u8> = connected
                .flat_map(|height| undo[height - 1].clone())
                .collect();
            // The end of an old record, and a whole one that is elsewhere too.
            let copied = here[0].max(1);
            blk.extend(&blocks[copied][30..]);
            blk.extend(&blocks[copied]);
            rev.extend(&undo[copied - 1][30..]);
            rev.extend(&undo[copied - 1]);
            write_plain(folder, &format!("blk{number:05}.dat"), &blk);
            write_plain(folder, &format!("rev{number:05}.dat"), &rev);
        }
        let source = files(folder);
        source.check(Network::Regtest).await.unwrap();
        assert_all_there(&source, &left.chain).await;
    }
}

/// A node that was killed goes on from the last position it had noted, over what it had written after that.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_over_is_read_again() {
    let left = left_behind(&["-blocksxor=1"]);
    let folder = left.folder.path();
    let (blk, rev) = (plain(folder, "blk00000.dat"), plain(folder, "rev00000.dat"));
    let (blocks, undo) = (records(&blk, 0), records(&rev, 32));
    let tip = left.chain.tip_id();
    let write = |from: u32, heights: &[u32]| {
        let from = from as usize;
        let (mut new_blk, mut new_rev) = (blk.clone(), rev.clone());
        let (mut b, mut r) = (blocks[from].0 - 8, undo[from - 1].0 - 8);
        for height in heights {
            let (block, undo) = (&blocks[*height as usize].1, &undo[*height as usize - 1].1);
            new_blk[b..b + block.len()].copy_from_slice(block);
            b += block.len();
            new_rev[r..r + undo.len()].copy_from_slice(undo);
            r += undo.len();
        }
        write_plain(folder, "blk00000.dat", &new_blk);
        write_plain(folder, "rev00000.dat", &new_rev);
    };
    let source = files(folder);
    assert_all_there(&source, &left.chain).await;
    // The last ten in another order.
    let from = tip.height - 9;
    let reversed: Vec<u32> = (from..=tip.height).rev().collect();
    write(from, &reversed);
    assert_all_there(&source, &left.chain).await;
    // The second of them is gone, and the first is elsewhere; those after them are leftovers that are still good.
    write(from, &[from + 2, from]);
    let second = left.chain.active_blocks()[from as usize + 1].id;
    for source in [&source, &files(folder)] {
        // Files cannot tell that the node has lost the second and fetches it again, from a hole: it is waited for.
        let error = source.tip().await.unwrap_err();
        assert!(matches!(error, ChainError::NotAvailable(_)), "{error:?}");
        let missing = format!("from height {} on", from + 1);
        assert!(error.to_string().contains(&missing), "{error}");
        let error = source.block(second).await.unwrap_err();
        assert!(matches!(error, ChainError::NotAvailable(_)), "{error:?}");
        for height in [from, from + 2, tip.height] {
            let block = left.chain.active_blocks()[height as usize].clone();
            let read = source.block(block.id).await.unwrap();
            assert_same(&read, &block.with_prevouts().unwrap());
        }
    }
    write(from, &(from..=tip.height).collect::<Vec<_>>());
    assert_all_there(&source, &left.chain).await;
}

/// A node that prunes, with small files.
#[tokio::test(flavor = "multi_thread")]
async fn a_pruned_node_serves_from_the_first_height_it_has() {
    let node = TestNode::start(&["-fastprune", "-prune=1"]);
    let folder = blocks_folder(&node);
    let script = InputKind::P2tr.script_pubkey(&secret(3));
    node.mine(700, &script);
    // Two that have seen the files whole.
    let beside_before = files_with(&folder, &node.url());
    let before = files(&folder);
    assert_eq!(before.tip().await.unwrap(), node.tip());
    let ids = active_ids(&node, 0);
    assert!(beside_before.block(ids[1]).await.is_ok());
    node.call("pruneblockchain", &[json!(400)]);
    assert!(!folder.join("blk00000.dat").exists());
    let info = node.call("getblockchaininfo", &[]);
    let first = u32::try_from(info["pruneheight"].as_u64().unwrap()).unwrap();
    assert!((100..400).contains(&first), "{first}");

    let after = files(&folder);
    let beside_after = files_with(&folder, &node.url());
    for source in [&after, &beside_after] {
        source.check(Network::Regtest).await.unwrap();
    }
    for source in [&before, &beside_before, &after, &beside_after] {
        assert_eq!(source.tip().await.unwrap(), node.tip());
        for height in [1, first - 1] {
            let error = source.block(ids[height as usize]).await.unwrap_err();
            assert!(matches!(error, ChainError::Setup(_)), "{error:?}");
            let text = error.to_string();
            for part in [
                &folder.display().to_string(),
                &format!("the first height they can serve is {first}"),
                "--first-height",
                "prune=0",
            ] {
                assert!(text.contains(part), "{part:?} is not in: {text}");
            }
        }
        for height in [first, first + 1, 699, 700] {
            let id = ids[height as usize];
            assert_eq!(source.block_at(height).await.unwrap(), Some(id));
            assert_eq!(source.block(id).await.unwrap().id, id);
        }
    }
    assert!(after.block_at(first - 1).await.is_err());
    assert_eq!(beside_after.block_at(3).await.unwrap(), Some(ids[3]));
    // And it goes on.
    node.mine(50, &script);
    for source in [&before, &after, &beside_after] {
        let tip = source.tip().await.unwrap();
        assert_eq!(tip, node.tip());
        assert_eq!(source.block(tip).await.unwrap().id, tip);
    }
}
