//! Nodes and the folders they write, and what their blocks must be.

use std::path::Path;
use std::sync::Arc;

use bitcoin::{Amount, BlockHash, Network, OutPoint, ScriptBuf, Transaction, TxOut};
use secp256k1::{SECP256K1, SecretKey};
use serde_json::{Value, json};
use spindex::BlockId;
use spindex::chain::files::{FilesSettings, FilesSource};
use spindex::chain::made::simulated::builder::{InputKind, SpendableOutput, build_transaction};
use spindex::chain::made::simulated::{PaymentRequest, SimulatedChain, SimulationSettings};
use spindex::chain::rest::{RestSettings, RestSource};
use spindex::chain::{BlockSource, BlockWithPrevouts, ChainError};
use tempfile::TempDir;

use super::folder::{blocks_folder, copy};
use crate::support::node::TestNode;

/// A folder alone.
pub(crate) fn files(folder: &Path) -> FilesSource {
    FilesSource::new(FilesSettings::new(folder, Network::Regtest))
}

pub(crate) fn rest(url: &str) -> Arc<RestSource> {
    Arc::new(RestSource::new(RestSettings::new(url)).unwrap())
}

/// A folder with a node's REST interface beside it.
pub(crate) fn files_with(folder: &Path, url: &str) -> FilesSource {
    FilesSource::new(FilesSettings {
        node: Some(rest(url)),
        ..FilesSettings::new(folder, Network::Regtest)
    })
}

/// A chain in which every kind of output is spent.
pub(crate) fn chain_of_all_kinds() -> SimulatedChain {
    let chain = SimulatedChain::new(SimulationSettings {
        seed: 5,
        transactions_per_block: 4,
        ..SimulationSettings::default()
    });
    chain.mine(105);
    for kinds in InputKind::ALL.chunks(4) {
        let requests: Vec<PaymentRequest> = kinds
            .iter()
            .map(|kind| PaymentRequest {
                inputs: vec![*kind, InputKind::P2wpkh],
                ..PaymentRequest::default()
            })
            .collect();
        chain.mine_with(&requests).unwrap();
    }
    chain.mine(5);
    chain
}

pub(crate) fn id_of(node: &TestNode, hash: BlockHash) -> BlockId {
    let header = node.call("getblockheader", &[json!(hash)]);
    BlockId {
        height: u32::try_from(header["height"].as_u64().unwrap()).unwrap(),
        hash,
    }
}

pub(crate) fn active_ids(node: &TestNode, from: u32) -> Vec<BlockId> {
    let ids = (from..=node.tip().height).map(|height| BlockId {
        height,
        hash: node
            .call("getblockhash", &[json!(height)])
            .as_str()
            .unwrap()
            .parse()
            .unwrap(),
    });
    ids.collect()
}

/// Heights at which the spent outputs of a block of the active chain were made, as the node says.
pub(crate) fn created(node: &TestNode, hash: BlockHash) -> Vec<Option<u32>> {
    let block = node.call("getblock", &[json!(hash), json!(3)]);
    let transactions = block["tx"].as_array().unwrap().iter().skip(1);
    transactions
        .flat_map(|tx| tx["vin"].as_array().unwrap().clone())
        .map(|input: Value| {
            let height = input["prevout"]["height"].as_u64().unwrap();
            Some(u32::try_from(height).unwrap())
        })
        .collect()
}

pub(crate) fn created_of(block: &BlockWithPrevouts) -> Vec<Option<u32>> {
    let transactions = 0..block.prevouts.transactions();
    let prevouts = transactions.flat_map(|index| block.prevouts.of_transaction(index));
    prevouts.map(|prevout| prevout.created).collect()
}

/// The same bytes and the same spent outputs; heights aside, which REST does not have.
#[track_caller]
pub(crate) fn assert_same(ours: &BlockWithPrevouts, theirs: &BlockWithPrevouts) {
    assert_eq!(ours.id, theirs.id);
    assert_eq!(ours.block.as_bytes(), theirs.block.as_bytes());
    assert_eq!(ours.prevouts.decode(), theirs.prevouts.decode());
}

pub(crate) fn secret(byte: u8) -> SecretKey {
    SecretKey::from_slice(&[byte; 32]).unwrap()
}

/// The reward of a block, mined to `kind` or to another script of the same secret.
pub(crate) fn reward(
    node: &TestNode,
    hash: BlockHash,
    kind: InputKind,
    script: &ScriptBuf,
) -> SpendableOutput {
    let block = node.call("getblock", &[json!(hash), json!(2)]);
    let coinbase = &block["tx"][0];
    let txid = coinbase["txid"].as_str().unwrap().parse().unwrap();
    let value = coinbase["vout"][0]["value"].as_f64().unwrap();
    let value = Amount::from_btc(value).unwrap();
    let outpoint = OutPoint { txid, vout: 0 };
    let mut reward = SpendableOutput::new(kind, secret(7), outpoint, value.to_sat());
    reward.txout.script_pubkey = script.clone();
    reward
}

pub(crate) fn spend(rewards: &[SpendableOutput]) -> Transaction {
    let value_sat: u64 = rewards
        .iter()
        .map(|reward| reward.txout.value.to_sat())
        .sum();
    let output = TxOut {
        value: Amount::from_sat(value_sat / 2),
        script_pubkey: InputKind::P2tr.script_pubkey(&secret(8)),
    };
    build_transaction(rewards, vec![output]).unwrap()
}

/// `<uncompressed key> OP_CHECKSIG`, which is spent like the one with a compressed key.
pub(crate) fn uncompressed_p2pk() -> ScriptBuf {
    let key = secret(7).public_key(SECP256K1).serialize_uncompressed();
    let bytes = [&[65][..], &key, &[0xac]].concat();
    ScriptBuf::from_bytes(bytes)
}

/// Every block of the active chain and of stale branches, and every output they spend.
pub(crate) async fn compare_all(node: &TestNode, source: &FilesSource, stale: &[BlockId]) {
    compare(node, source, 0, stale).await;
}

/// The same of the active chain from a height on.
pub(crate) async fn compare(node: &TestNode, source: &FilesSource, from: u32, stale: &[BlockId]) {
    let judge = rest(&node.url());
    let tip = node.tip();
    assert_eq!(source.tip().await.unwrap(), tip);
    assert_eq!(source.block_at(tip.height + 1).await.unwrap(), None);
    let active = active_ids(node, from);
    let together = source.blocks(&active).await;
    for (id, block) in active.iter().zip(together) {
        let block = block.unwrap();
        assert_eq!(source.block_at(id.height).await.unwrap(), Some(*id));
        assert_same(&block, &judge.block(*id).await.unwrap());
        assert_eq!(created_of(&block), created(node, id.hash), "block {id}");
        assert_eq!(source.block(*id).await.unwrap(), block);
    }
    for id in stale {
        let block = source.block(*id).await.unwrap();
        assert_same(&block, &judge.block(*id).await.unwrap());
    }
}

/// A node that has stopped, and what it left: the files of `chain_of_all_kinds`.
pub(crate) struct Left {
    pub(crate) chain: SimulatedChain,
    pub(crate) folder: TempDir,
}

pub(crate) fn left_behind(args: &[&str]) -> Left {
    let mut node = TestNode::start(args);
    let chain = chain_of_all_kinds();
    node.submit_above(&chain, 0);
    node.stop();
    Left {
        folder: copy(&blocks_folder(&node)),
        chain,
    }
}

/// All blocks of the active chain, from the files.
pub(crate) async fn assert_all_there(source: &FilesSource, chain: &SimulatedChain) {
    assert_eq!(source.tip().await.unwrap(), chain.tip_id());
    let blocks = chain.active_blocks();
    let ids: Vec<BlockId> = blocks.iter().map(|block| block.id).collect();
    for (read, block) in source.blocks(&ids).await.into_iter().zip(blocks) {
        assert_same(&read.unwrap(), &block.with_prevouts().unwrap());
        assert_eq!(source.block_at(block.id.height).await, Ok(Some(block.id)));
    }
}

#[track_caller]
pub(crate) fn assert_setup(result: Result<(), ChainError>, parts: &[&str]) {
    let error = result.unwrap_err();
    assert!(matches!(error, ChainError::Setup(_)), "{error:?}");
    let text = error.to_string();
    assert!(!text.contains('\n'), "{text}");
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
}
