//! Blocks that are read together: how many, and that they are those that are read alone.

use std::path::Path;

use bitcoin::hashes::Hash;
use bitcoin::{BlockHash, Network};
use spindex::BlockId;
use spindex::chain::BlockSource;
use spindex::chain::files::FilesSource;
use spindex::chain::made::generated::{ChainLength, ChainParameters, Target, generate};
use spindex::curve::libsecp256k1::LibSecp256k1;
use tempfile::TempDir;

use super::scene::files;

/// Most blocks, and most bytes, that are read together.
const MOST: (usize, usize) = (500, 4_000_000);

/// A folder without a node, in files of at most so many bytes.
fn folder(transactions_per_block: u32, blocks: u32, most_file_bytes: u64) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let parameters = ChainParameters {
        transactions_per_block,
        ..ChainParameters::MAINNET
    };
    let length = ChainLength {
        blocks: Some(blocks),
        outputs: None,
    };
    let target = Target {
        directory: folder.path().to_owned(),
        xor: true,
        most_file_bytes: Some(most_file_bytes),
    };
    generate(&parameters, length, &target, &LibSecp256k1, |_| ()).unwrap();
    folder
}

async fn opened(folder: &Path) -> (FilesSource, Vec<BlockId>) {
    let source = files(folder);
    source.check(Network::Regtest).await.unwrap();
    let tip = source.tip().await.unwrap();
    let ids = source.blocks_at(0..=tip.height).await.unwrap();
    assert_eq!(ids.len(), tip.height as usize + 1);
    (source, ids)
}

#[tokio::test(flavor = "multi_thread")]
async fn blocks_read_together_are_those_read_alone() {
    let folder = folder(8, 160, 20_000);
    let (source, ids) = opened(folder.path()).await;
    let mut alone = Vec::new();
    for id in &ids {
        alone.push(source.block(*id).await.unwrap());
    }
    // In their order, mixed, and backwards.
    for step in [1, 5, 160] {
        let order: Vec<usize> = (0..161).map(|index| index * step % 161).collect();
        let mixed: Vec<BlockId> = order.iter().map(|index| ids[*index]).collect();
        let together = source.blocks(&mixed).await;
        assert_eq!(together.len(), order.len());
        for (together, index) in together.into_iter().zip(order) {
            assert_eq!(together.unwrap(), alone[index], "{step}");
        }
    }
    // One that there is not is missing alone.
    let unknown = BlockId {
        height: 5,
        hash: BlockHash::all_zeros(),
    };
    let together = source.blocks(&[ids[3], unknown, ids[4]]).await;
    let there: Vec<bool> = together.iter().map(Result::is_ok).collect();
    assert_eq!(there, [true, false, true]);
    assert_eq!(source.blocks(&[]).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_are_as_long_as_a_large_block() {
    let folder = folder(3_000, 118, 128 << 20);
    let (source, ids) = opened(folder.path()).await;
    let blocks = source.blocks(&ids).await;
    let sizes: Vec<usize> = blocks
        .into_iter()
        .map(|block| block.unwrap().block.as_bytes().len())
        .collect();
    let mut lengths = Vec::new();
    let mut at = 0;
    while at < ids.len() {
        let length = source.run_length(&ids[at..]);
        let bytes = |blocks: usize| sizes[at..at + blocks].iter().sum::<usize>();
        assert!(length == 1 || bytes(length) <= MOST.1, "{length} at {at}");
        let is_last = at + length == ids.len();
        assert!(is_last || bytes(length + 1) > MOST.1, "{length} at {at}");
        lengths.push(length);
        at += length;
    }
    // The first hundred blocks are small, the last ones are not.
    assert!(lengths.len() > 2 && lengths[0] > 100, "{lengths:?}");

    // Blocks that no file has are left to the node, each alone.
    let unknown = BlockId {
        height: 5,
        hash: BlockHash::all_zeros(),
    };
    assert_eq!(source.run_length(&[unknown, ids[0]]), 1);
    assert_eq!(source.run_length(&[ids[0], ids[1], unknown, ids[2]]), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_have_no_more_blocks_than_are_derived_together() {
    let folder = folder(1, 600, 128 << 20);
    let (source, ids) = opened(folder.path()).await;
    assert_eq!(source.run_length(&ids), MOST.0);
    assert_eq!(source.run_length(&ids[MOST.0..]), ids.len() - MOST.0);
}
