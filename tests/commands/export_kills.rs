//! `spindex export` killed at any moment: what is there is an export, and in the end it is the one that nobody disturbed.
//!
//! `SPINDEX_EXPORT_KILLS` says how often.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Stdio;
use std::thread::yield_now;

use bitcoin::block::{Header, Version};
use bitcoin::hashes::Hash;
use bitcoin::secp256k1::rand::rngs::StdRng;
use bitcoin::secp256k1::rand::{Rng, SeedableRng};
use bitcoin::{BlockHash, CompactTarget, TxMerkleNode};
use spindex::BlockId;
use spindex::store::BlockRecord;
use spindex::wire::native::manifest::LIST_CHUNKS;

use super::export::{Home, assert_same, command_of};
use super::python_decoder::{FIRST_HEIGHT, Scene};
use super::support::random_seed;

/// Some of them are behind the first list.
pub(crate) const CHUNKS: u32 = LIST_CHUNKS + 6;

/// Blocks with work and nothing else.
pub(crate) fn blocks() -> Vec<BlockRecord> {
    let tip = CHUNKS * 64 + 99;
    let mut before = BlockHash::all_zeros();
    let heights = FIRST_HEIGHT..=tip;
    let block = |height: u32| {
        let mut header = Header {
            version: Version::TWO,
            prev_blockhash: before,
            merkle_root: TxMerkleNode::all_zeros(),
            time: height,
            bits: CompactTarget::from_consensus(0x207f_ffff),
            nonce: 0,
        };
        while header.validate_pow(header.target()).is_err() {
            header.nonce += 1;
        }
        before = header.block_hash();
        BlockRecord {
            id: BlockId {
                height,
                hash: before,
            },
            header,
            transactions: Vec::new(),
            multiples: Vec::new(),
            outputs: Vec::new(),
            spends: Vec::new(),
            states: Vec::new(),
            new_utxos_filter: vec![0],
            spent_filter: vec![0],
        }
    };
    heights.map(block).collect()
}

/// Which file has that name, if any.
fn identity(file: &Path) -> Option<(u64, i64)> {
    let metadata = std::fs::metadata(file).ok()?;
    Some((metadata.ino(), metadata.ctime_nsec()))
}

#[tokio::test]
async fn whenever_it_is_killed_there_is_an_export_to_go_on_from() {
    let kills = std::env::var("SPINDEX_EXPORT_KILLS").map_or(4, |kills| kills.parse().unwrap());
    let mut rng = StdRng::seed_from_u64(random_seed());
    let home = Home::new();
    home.replace(&Scene::options(), &blocks());
    // Nobody disturbs the first one.
    let report = home.export(&[]);
    assert_eq!(report["last_chunk"], CHUNKS - 1);
    let expected = home.files();
    std::fs::remove_dir_all(home.out()).unwrap();

    let (mut hits, mut with_manifest) = (0, 0);
    while hits < kills {
        // Before the first manifest, or behind it.
        let target = match hits % 2 {
            0 => rng.gen_range(0..LIST_CHUNKS),
            _ => rng.gen_range(LIST_CHUNKS..CHUNKS),
        };
        let columns = ["new-utxos", "spends", "outputs", "tweaks", "headers"];
        let column = columns[rng.gen_range(0..columns.len())];
        let file = home.routes().join(format!("chunk/{target}/{column}"));
        let before = identity(&file);
        let mut process = command_of(&home, home.out().to_str().unwrap())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let has_ended = loop {
            if let Some(status) = process.try_wait().unwrap() {
                assert!(status.success());
                break true;
            }
            if identity(&file) != before {
                break false;
            }
            yield_now();
        };
        process.kill().unwrap();
        process.wait().unwrap();
        let faults = home.faults().await;
        if home.manifest().exists() {
            assert_eq!(faults, []);
            with_manifest += 1;
        }
        if has_ended {
            assert_same(&home.files(), &expected);
            std::fs::remove_dir_all(home.out()).unwrap();
        } else {
            hits += 1;
        }
    }
    assert!(with_manifest > 0);
    home.export(&[]);
    assert_same(&home.files(), &expected);
    assert_eq!(home.faults().await, []);
}
