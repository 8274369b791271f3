//! A node and its files say the same, while it runs and writes.

use std::fs;
use std::sync::Arc;

use bitcoin::consensus::encode::{deserialize_hex, serialize_hex};
use bitcoin::{Block, BlockHash, Network, ScriptBuf, Transaction};
use serde_json::json;
use spindex::BlockId;
use spindex::chain::made::simulated::builder::InputKind;
use spindex::chain::made::simulated::{Orphaned, SimulatedChain, SimulationSettings};
use spindex::chain::{BlockSource, ChainError};

use super::folder::blocks_folder;
use super::scene::{
    chain_of_all_kinds, compare, compare_all, files, files_with, id_of, rest, reward, secret,
    spend, uncompressed_p2pk,
};
use crate::support::index::fresh_content;
use crate::support::node::TestNode;

/// Obfuscated and not; many kinds of transactions, a reorg, siblings that only their spent outputs tell apart, and a
/// block that was never connected.
async fn a_node_and_its_files_agree(xor: &str) {
    let node = TestNode::start(&[xor]);
    let folder = blocks_folder(&node);
    let alone = files(&folder);
    let beside = files_with(&folder, &node.url());
    for source in [&alone, &beside] {
        source.check(Network::Regtest).await.unwrap();
        assert_eq!(source.tip().await.unwrap().height, 0);
    }
    let key = fs::read(folder.join("xor.dat")).unwrap();
    assert_eq!(key == [0; 8], xor.ends_with('0'));

    let chain = chain_of_all_kinds();
    node.submit_above(&chain, 0);
    compare_all(&node, &alone, &[]).await;
    let reorg = chain.reorganize(6, 7, Orphaned::Resubmit).unwrap();
    node.submit_above(&chain, reorg.fork.height);
    let mut stale = reorg.disconnected.clone();
    compare_all(&node, &alone, &stale).await;

    // Scripts that are written in a form of their own; then two blocks that differ only in which coin they spend.
    let script = uncompressed_p2pk();
    let mined = node.mine(103, &script);
    let coin = |n: usize| reward(&node, mined[n], InputKind::P2pk, &script);
    let to = InputKind::P2wpkh.script_pubkey(&secret(9));
    let first = node.generate_block(&to, &[spend(&[coin(0)])]).unwrap();
    node.invalidate_block(first);
    let second = node.generate_block(&to, &[spend(&[coin(1)])]).unwrap();
    stale.push(id_of(&node, first));
    node.mine(1, &to);
    assert_eq!(id_of(&node, second).height + 1, node.tip().height);
    compare_all(&node, &alone, &stale).await;
    compare_all(&node, &beside, &stale).await;
    // The other way round, and a source that has not seen how it came about.
    node.reconsider_block(first);
    compare_all(&node, &files(&folder), &stale).await;

    // A side branch that the node only stores.
    let side = SimulatedChain::new(SimulationSettings::default());
    let side = *side.mine(1).first().unwrap();
    let block = SimulatedChain::new(SimulationSettings::default());
    block.mine(1);
    let block = block.stored_block(side.hash).unwrap();
    assert_eq!(node.submit_block(&block.block), Err("inconclusive".into()));
    for source in [&alone, &beside] {
        let error = source.block(side).await.unwrap_err();
        assert!(matches!(error, ChainError::NotAvailable(_)), "{error:?}");
        assert_eq!(source.tip().await.unwrap(), node.tip());
    }

    // An index does not tell where its blocks came from.
    let from_files = fresh_content(Arc::new(files(&folder))).await;
    assert_eq!(from_files, fresh_content(rest(&node.url())).await);
}

/// A block of the tip's parent with this transaction, which the node has not seen.
fn unseen_block(node: &TestNode, to: &ScriptBuf, tx: &Transaction) -> (BlockHash, Block) {
    let descriptor = format!("raw({})", to.to_hex_string());
    let txs = json!([serialize_hex(tx)]);
    let answer = node.call("generateblock", &[json!(descriptor), txs, json!(false)]);
    let block: Block = deserialize_hex(answer["hex"].as_str().unwrap()).unwrap();
    (block.block_hash(), block)
}

/// Three blocks of one parent with as many transactions: the first was connected, the second never, the third is active.
/// By checksum and number of transactions each undo record could be any one's.
#[tokio::test(flavor = "multi_thread")]
async fn siblings_are_told_apart_by_what_they_spend() {
    let node = TestNode::start(&[]);
    let folder = blocks_folder(&node);
    let kind = InputKind::P2wpkh;
    let script = kind.script_pubkey(&secret(7));
    let mined = node.mine(112, &script);
    let coin = |n: usize| reward(&node, mined[n], kind, &script);
    // Alike in number and amount; and one that spends more than the others.
    for coins in [
        [vec![coin(0)], vec![coin(1)], vec![coin(2)]],
        [vec![coin(4)], vec![coin(3)], vec![coin(5), coin(6)]],
        [vec![coin(7)], vec![coin(8), coin(9)], vec![coin(10)]],
    ] {
        let source = files(&folder);
        let [first, second, third] = coins.map(|coins| {
            let to = kind.script_pubkey(&secret(9));
            unseen_block(&node, &to, &spend(&coins))
        });
        assert_eq!(node.submit_block(&first.1), Ok(()));
        let old_tip = source.tip().await.unwrap();
        assert_eq!(old_tip.hash, first.0);
        for (hash, block) in [&second, &third] {
            assert_eq!(
                node.submit_block(block),
                Err("inconclusive".into()),
                "{hash}"
            );
        }
        assert_eq!(source.tip().await.unwrap(), old_tip);
        node.invalidate_block(second.0);
        node.invalidate_block(first.0);
        assert_eq!(node.tip().hash, third.0);
        node.mine(1, &script);

        let beside = files_with(&folder, &node.url());
        let never = BlockId {
            hash: second.0,
            ..old_tip
        };
        for source in [&source, &files(&folder), &beside] {
            compare(&node, source, old_tip.height - 1, &[old_tip]).await;
            let error = source.block(never).await.unwrap_err();
            assert!(matches!(error, ChainError::NotAvailable(_)), "{error:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn obfuscated_files_are_what_the_node_says() {
    a_node_and_its_files_agree("-blocksxor=1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_files_are_what_the_node_says() {
    a_node_and_its_files_agree("-blocksxor=0").await;
}

/// Whatever the source names as its tip can be read at once, while the node goes on writing.
#[tokio::test(flavor = "multi_thread")]
async fn blocks_are_read_while_the_node_writes() {
    const BLOCKS: u32 = 300;
    let node = Arc::new(TestNode::start(&[]));
    let folder = blocks_folder(&node);
    let alone = files(&folder);
    let beside = files_with(&folder, &node.url());
    let miner = {
        let node = Arc::clone(&node);
        tokio::task::spawn_blocking(move || {
            let script = InputKind::P2tr.script_pubkey(&secret(3));
            for _ in 0..BLOCKS {
                node.mine(1, &script);
            }
        })
    };
    let mut last = [0, 0];
    while last != [BLOCKS, BLOCKS] {
        for (source, last) in [&alone, &beside].into_iter().zip(&mut last) {
            let tip = source.tip().await.unwrap();
            assert!(tip.height >= *last, "{tip} after {last}");
            for height in *last..=tip.height {
                let id = source.block_at(height).await.unwrap().unwrap();
                let block = source.block(id).await.unwrap();
                assert_eq!(block.block.hash(), id.hash);
            }
            assert_eq!(source.block_at(tip.height).await.unwrap(), Some(tip));
            *last = tip.height;
        }
    }
    miner.await.unwrap();
    assert_eq!(alone.tip().await.unwrap(), node.tip());
}
