//! Blocks from the mempool, such as a real node accepts in regtest mode.

use std::sync::Arc;

use bitcoin::block::{Header, Version};
use bitcoin::hashes::Hash;
use bitcoin::script::Builder;
use bitcoin::{
    Amount, Block, CompactTarget, OutPoint, ScriptBuf, Sequence, Transaction, TxIn, TxMerkleNode,
    TxOut, Witness, absolute, transaction,
};
use secp256k1::SecretKey;
use secp256k1::rand::Rng;

use super::builder::InputKind;
use super::ledger::{COINBASE_MATURITY, Owner, StoredBlock, created_coins};
use super::{SimulatedBlock, State};
use crate::BlockId;

/// Half of all hashes meet regtest's target.
const REGTEST_BITS: u32 = 0x207f_ffff;

/// Blocks between two halvings of the subsidy in regtest mode.
const HALVING_INTERVAL: u32 = 150;

/// Seconds between two blocks, counted from the genesis block's time, so that blocks do not depend on the clock.
const BLOCK_INTERVAL_SECONDS: u32 = 600;

/// Where block rewards go: the simple kinds, as with real miners.
const REWARD_KINDS: [InputKind; 5] = [
    InputKind::P2wpkh,
    InputKind::P2pkh,
    InputKind::P2tr,
    InputKind::P2shP2wpkh,
    InputKind::P2pk,
];

fn subsidy_sat(height: u32) -> u64 {
    let halvings = height / HALVING_INTERVAL;
    Amount::from_int_btc(50)
        .to_sat()
        .checked_shr(halvings)
        .unwrap_or(0)
}

impl State {
    /// Mines one block of the mempool and the background traffic on the tip.
    pub(super) fn mine_block(&mut self) -> BlockId {
        self.add_background_traffic();
        let tip = self.ledger.tip();
        let height = tip.height + 1;
        let transactions = self.ledger.take_mempool();
        let fees_sat: u64 = transactions.iter().map(|pending| pending.fee_sat).sum();

        let owner = Owner {
            kind: REWARD_KINDS[self.rng.gen_range(0..REWARD_KINDS.len())],
            secret: SecretKey::new(&mut self.rng),
            kept: false,
        };
        // Makes two coinbases differ that have the same height and reward, on two branches.
        self.blocks_mined += 1;
        let coinbase = coinbase(
            height,
            self.blocks_mined,
            TxOut {
                value: Amount::from_sat(subsidy_sat(height) + fees_sat),
                script_pubkey: owner.kind.script_pubkey(&owner.secret),
            },
        );
        let parent = self
            .ledger
            .stored(tip.hash)
            .expect("the tip is stored")
            .data
            .block
            .header;
        let mut block = Block {
            header: Header {
                version: Version::from_consensus(0x2000_0000),
                prev_blockhash: tip.hash,
                merkle_root: TxMerkleNode::all_zeros(),
                time: parent.time + BLOCK_INTERVAL_SECONDS,
                bits: CompactTarget::from_consensus(REGTEST_BITS),
                nonce: 0,
            },
            txdata: vec![coinbase],
        };
        block
            .txdata
            .extend(transactions.iter().map(|pending| pending.tx.clone()));
        commit_to_witnesses(&mut block);
        block.header.merkle_root = block
            .compute_merkle_root()
            .expect("a block with a coinbase has a root");
        let target = block.header.target();
        while !target.is_met_by(block.block_hash()) {
            block.header.nonce += 1;
        }

        let mut prevouts = vec![Vec::new()];
        prevouts.extend(transactions.iter().map(|pending| {
            let spent = pending.spent.iter();
            spent
                .map(|(_, coin)| coin.txout.clone())
                .collect::<Vec<_>>()
        }));
        let id = BlockId {
            height,
            hash: block.block_hash(),
        };
        let coinbase_coins = created_coins(
            &block.txdata[0],
            block.txdata[0].compute_txid(),
            Some(height),
            vec![Some(owner)],
        );
        let data = SimulatedBlock::new(id, block, prevouts);
        self.ledger.changes.mined(id.hash, transactions.len());
        self.ledger.extend(StoredBlock {
            data: Arc::new(data),
            coinbase: coinbase_coins,
            transactions,
        });
        self.collect_matured();
        id
    }

    /// Makes the block reward that the next block may spend for the first time available to the background traffic.
    fn collect_matured(&mut self) {
        let next_height = self.ledger.tip().height + 1;
        let matured = next_height
            .checked_sub(COINBASE_MATURITY)
            .and_then(|height| self.ledger.at(height))
            .and_then(|id| self.ledger.stored(id.hash));
        if let Some(block) = matured {
            let outpoints = block
                .coinbase
                .iter()
                .filter(|(_, coin)| coin.owner.is_some());
            self.pool.extend(outpoints.map(|(outpoint, _)| *outpoint));
        }
    }
}

/// A coinbase whose second output is room for the witness commitment.
fn coinbase(height: u32, extra_nonce: u64, reward: TxOut) -> Transaction {
    let commitment = TxOut {
        value: Amount::ZERO,
        script_pubkey: ScriptBuf::new(),
    };
    Transaction {
        version: transaction::Version::TWO,
        lock_time: absolute::LockTime::ZERO,
        input: vec![TxIn {
            previous_output: OutPoint::null(),
            script_sig: Builder::new()
                .push_int(i64::from(height))
                .push_slice(extra_nonce.to_le_bytes())
                .into_script(),
            sequence: Sequence::MAX,
            witness: Witness::from_slice(&[[0; 32]]),
        }],
        output: vec![reward, commitment],
    }
}

/// BIP141: the coinbase commits to the witnesses of all other transactions.
fn commit_to_witnesses(block: &mut Block) {
    let root = block
        .witness_root()
        .expect("a block with a coinbase has a root");
    let commitment = Block::compute_witness_commitment(&root, &[0; 32]);
    let mut script = vec![0x6a, 0x24, 0xaa, 0x21, 0xa9, 0xed];
    script.extend_from_slice(commitment.as_byte_array());
    block.txdata[0].output[1].script_pubkey = ScriptBuf::from_bytes(script);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_subsidy_halves_and_ends() {
        assert_eq!(subsidy_sat(1), 5_000_000_000);
        assert_eq!(subsidy_sat(149), 5_000_000_000);
        assert_eq!(subsidy_sat(150), 2_500_000_000);
        assert_eq!(subsidy_sat(150 * 32), 1);
        assert_eq!(subsidy_sat(150 * 33), 0);
        assert_eq!(subsidy_sat(u32::MAX), 0);
    }
}
