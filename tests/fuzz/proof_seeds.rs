//! Seeds of `proofs`: every transaction of some blocks, and proofs that prove nothing.

use bitcoin::hashes::Hash;
use bitcoin::{TxMerkleNode, Txid};
use spindex::chain::made::simulated::{SimulatedBlock, SimulatedChain, SimulationSettings};
use spindex::proof::{Branch, Proof};
use spindex::wire::native::write_proof;

use crate::seeds::Seed;

/// The proof of a transaction of a block.
fn proof(block: &SimulatedBlock, index: u32) -> Proof {
    let txids: &[Txid] = &block.txids;
    let branch = |index| Branch::of(txids, index).unwrap();
    Proof {
        block: block.id,
        header: block.block.header,
        transaction: block.block.txdata[index as usize].clone(),
        branch: branch(index),
        coinbase: block.block.txdata[0].clone(),
        coinbase_branch: branch(0).siblings,
    }
}

fn seed(name: String, proof: &Proof) -> Seed {
    let asked = [
        &proof.block.hash.to_byte_array()[..],
        &proof.branch.index.to_le_bytes(),
    ];
    let body = write_proof(proof).unwrap();
    (name, [&asked.concat()[..], &body].concat())
}

pub(crate) fn proofs() -> Vec<Seed> {
    let chain = SimulatedChain::new(SimulationSettings {
        seed: 3,
        transactions_per_block: 4,
        ..SimulationSettings::default()
    });
    chain.mine(112);
    let blocks = chain.active_blocks();
    let mut seeds = Vec::new();
    for block in blocks.iter().rev().take(3) {
        for index in 0..block.txids.len() as u32 {
            let name = format!("height-{}-transaction-{index}", block.id.height);
            seeds.push(seed(name, &proof(block, index)));
        }
    }
    let block = blocks.last().unwrap();
    let mut elsewhere = proof(block, 1);
    elsewhere.branch.index = 2;
    let mut deeper = proof(block, 1);
    deeper.branch.siblings.push(TxMerkleNode::all_zeros());
    let mut repeated = proof(block, 1);
    let own = TxMerkleNode::from_raw_hash(block.txids[1].to_raw_hash());
    repeated.branch.siblings[0] = own;
    let mut without_coinbase = proof(block, 1);
    without_coinbase.coinbase = without_coinbase.transaction.clone();
    for (name, wrong) in [
        ("elsewhere", elsewhere),
        ("deeper", deeper),
        ("repeated", repeated),
        ("without-coinbase", without_coinbase),
    ] {
        seeds.push(seed(name.to_owned(), &wrong));
    }
    seeds
}
