//! Proofs that transactions stand in blocks, held against a reader of its own and the trees of another implementation.

use bitcoin::consensus::encode::{deserialize_hex, serialize_hex};
use bitcoin::hashes::{Hash, sha256d};
use bitcoin::{BlockHash, Network, Transaction, TxMerkleNode};
use serde_json::{Value, json};

use super::refused;
use crate::fixture::{RecordingNode, Server, TestBlock, TestStore, pays, sample_chain};

/// The root that hashes lead to, folded as BIP37 has it; texts are in display order.
fn fold(transaction: &str, index: usize, branch: &Value) -> TxMerkleNode {
    let transaction: Transaction = deserialize_hex(transaction).expect("a transaction");
    let mut hash = transaction.compute_txid().to_byte_array();
    for (level, sibling) in branch.as_array().expect("hashes").iter().enumerate() {
        let sibling = sibling.as_str().expect("a text");
        let sibling: TxMerkleNode = sibling.parse().expect("a hash");
        let sibling = sibling.to_byte_array();
        let both = match index >> level & 1 {
            0 => [hash, sibling],
            _ => [sibling, hash],
        };
        hash = sha256d::Hash::hash(both.as_flattened()).to_byte_array();
    }
    TxMerkleNode::from_byte_array(hash)
}

fn check(block: &TestBlock, index: usize, proof: &Value) {
    let inner = &block.block;
    let root = inner.compute_merkle_root().expect("transactions");
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    assert_eq!(proof["height"], json!(block.id().height));
    assert_eq!(proof["block_hash"], json!(block.id().hash.to_string()));
    assert_eq!(proof["header"], json!(serialize_hex(&inner.header)));
    assert_eq!(proof["index"], json!(index));
    assert_eq!(
        proof["transaction"],
        json!(serialize_hex(&inner.txdata[index]))
    );
    let coinbase = &proof["coinbase"];
    assert_eq!(
        coinbase["transaction"],
        json!(serialize_hex(&inner.txdata[0]))
    );
    assert_eq!(
        fold(&text(&proof["transaction"]), index, &proof["branch"]),
        root
    );
    assert_eq!(
        fold(&text(&coinbase["transaction"]), 0, &coinbase["branch"]),
        root
    );
}

#[tokio::test]
async fn every_transaction_is_proven_by_height_and_by_hash() {
    let mut chain = sample_chain();
    for count in [2, 4, 7] {
        chain.mine(&vec![pays(&[546]); count]);
    }
    let store = TestStore::new(Network::Regtest, chain.blocks[0].id().height);
    store.connect(&chain.records());
    let server = Server::start(&store, Some(RecordingNode::new(&chain))).await;
    for block in &chain.blocks {
        let id = block.id();
        for index in 0..block.block.txdata.len() {
            let path = format!("spindex/v1/proof/{}/{index}", id.height);
            let proof = server.ok(&path).await;
            check(block, index, &proof);
            let by_hash = format!("spindex/v1/proof/{}/{index}", id.hash);
            assert_eq!(server.ok(&by_hash).await, proof);
        }
        let behind = format!("proof/{}/{}", id.height, block.block.txdata.len());
        refused(&server, &behind, 404, "unknown").await;
    }
}

#[tokio::test]
async fn what_cannot_be_proven_is_refused() {
    let chain = sample_chain();
    let first = chain.blocks[0].id().height;
    let store = TestStore::new(Network::Regtest, first);
    store.connect(&chain.records());
    let node = RecordingNode::new(&chain);
    let server = Server::start(&store, Some(node.clone())).await;
    for path in [
        "proof/x/0",
        "proof/1/x",
        "proof/1/-1",
        "proof/1/4294967296",
        "proof/1/0?height=1",
    ] {
        refused(&server, path, 400, "bad_request").await;
    }
    let above = chain.tip().id().height + 1;
    refused(&server, &format!("proof/{above}/0"), 404, "not_yet_indexed").await;
    let unknown = format!("proof/{}/0", BlockHash::all_zeros());
    refused(&server, &unknown, 404, "unknown").await;
    // The node gives another block under that hash: a fault, and nothing that could be taken for a proof.
    let (one, other) = (&chain.blocks[1], &chain.blocks[2]);
    node.learn(one.id().hash, other.block.clone());
    let path = format!("proof/{}/0", one.id().height);
    refused(&server, &path, 500, "internal").await;
    node.learn(one.id().hash, one.block.clone());
    check(one, 0, &server.ok(&format!("spindex/v1/{path}")).await);
    // Blocks that the node does not have, and no node.
    let empty = RecordingNode::new(&crate::fixture::TestChain::new(1));
    let server = Server::start(&store, Some(empty)).await;
    let message = refused(&server, &path, 501, "not_kept").await;
    assert!(!message.contains("10.1.2.3"), "{message}");
    let server = Server::start(&store, None).await;
    refused(&server, &path, 501, "not_kept").await;
}

/// A block that has left the chain is not proven, though its proof was given out.
#[tokio::test]
async fn a_block_that_has_left_is_not_proven_any_more() {
    let mut chain = sample_chain();
    let mut other = chain.clone();
    chain.mine(&[pays(&[1])]);
    other.salt(1);
    other.mine(&[pays(&[2])]);
    let store = TestStore::new(Network::Regtest, chain.blocks[0].id().height);
    store.connect(&chain.records());
    let node = RecordingNode::new(&chain);
    let server = Server::start(&store, Some(node.clone())).await;
    let (left, came) = (chain.tip().clone(), other.tip().clone());
    let path = |block: &TestBlock| format!("proof/{}/1", block.id().hash);
    let height = format!("spindex/v1/proof/{}/1", left.id().height);
    check(
        &left,
        1,
        &server.ok(&format!("spindex/v1/{}", path(&left))).await,
    );
    check(&left, 1, &server.ok(&height).await);
    node.learn(came.id().hash, came.block.clone());
    store.reorganize(1, std::slice::from_ref(&came.record));
    refused(&server, &path(&left), 404, "reorganised_away").await;
    check(&came, 1, &server.ok(&height).await);
}
