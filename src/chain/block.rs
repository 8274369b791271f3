//! A block together with the outputs its inputs spend.

use bitcoin::hashes::{Hash, HashEngine, sha256d};
use bitcoin::{Block, Transaction, TxOut, Txid};

use super::ChainError;
use crate::BlockId;

/// First bytes of a coinbase output that commits to the witnesses: OP_RETURN, push of 36, the tag of BIP141.
const WITNESS_COMMITMENT_PREFIX: [u8; 6] = [0x6a, 0x24, 0xaa, 0x21, 0xa9, 0xed];

/// A block with the outputs its inputs spend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockWithPrevouts {
    /// Height and hash.
    pub id: BlockId,
    /// The block.
    pub block: Block,
    /// Txid of each transaction, in block order.
    pub txids: Vec<Txid>,
    /// Per transaction the spent outputs in input order; empty for the coinbase.
    pub prevouts: Vec<Vec<TxOut>>,
}

impl BlockWithPrevouts {
    /// Joins a block with its spent outputs after checking that they belong together: hash, merkle root, witness
    /// commitment (BIP141, where any input has a witness), one coinbase in front, one spent output per input.
    ///
    /// Scripts, amounts and the height are not checked: that is the node's work.
    ///
    /// # Errors
    /// [`ChainError::Mismatch`] naming what does not fit.
    pub fn new(id: BlockId, block: Block, prevouts: Vec<Vec<TxOut>>) -> Result<Self, ChainError> {
        let mismatch = |what: String| Err(ChainError::Mismatch(format!("block {id}: {what}")));

        let hash = block.block_hash();
        if hash != id.hash {
            return mismatch(format!("the block received has hash {hash}"));
        }
        match block.txdata.split_first() {
            None => return mismatch("it has no transaction".into()),
            Some((first, _)) if !first.is_coinbase() => {
                return mismatch("its first transaction is no coinbase".into());
            }
            Some((_, rest)) => {
                if let Some(at) = rest.iter().position(spends_null_outpoint) {
                    return mismatch(format!("transaction {} is a second coinbase", at + 1));
                }
            }
        }

        let txids: Vec<Txid> = block.txdata.iter().map(Transaction::compute_txid).collect();
        let leaves = txids.iter().map(|txid| txid.to_byte_array()).collect();
        if merkle_root(leaves) != Some(block.header.merkle_root.to_byte_array()) {
            return mismatch("its transactions do not have the header's merkle root".into());
        }
        if let Err(what) = check_witness_commitment(&block, &txids) {
            return mismatch(what.into());
        }

        if prevouts.len() != block.txdata.len() {
            return mismatch(format!(
                "spent outputs of {} transactions for a block of {}",
                prevouts.len(),
                block.txdata.len()
            ));
        }
        for (at, (tx, spent)) in block.txdata.iter().zip(&prevouts).enumerate() {
            let wanted = if at == 0 { 0 } else { tx.input.len() };
            if spent.len() != wanted {
                return mismatch(format!(
                    "{} spent outputs for transaction {at}, which needs {wanted}",
                    spent.len()
                ));
            }
        }
        Ok(Self {
            id,
            block,
            txids,
            prevouts,
        })
    }
}

fn spends_null_outpoint(tx: &Transaction) -> bool {
    tx.input.iter().any(|input| input.previous_output.is_null())
}

fn has_witness(tx: &Transaction) -> bool {
    tx.input.iter().any(|input| !input.witness.is_empty())
}

/// BIP141: where any input has a witness, the coinbase's last commitment output is
/// `SHA256d(root of the wtxids || the coinbase's 32-byte witness item)`, with zeros for the coinbase's own wtxid.
fn check_witness_commitment(block: &Block, txids: &[Txid]) -> Result<(), &'static str> {
    if !block.txdata.iter().any(has_witness) {
        return Ok(());
    }
    let coinbase = block.txdata.first().ok_or("it has no transaction")?;
    let commitment = coinbase
        .output
        .iter()
        .rev()
        .find_map(|output| {
            let payload = output
                .script_pubkey
                .as_bytes()
                .strip_prefix(&WITNESS_COMMITMENT_PREFIX)?;
            payload.get(..32)
        })
        .ok_or("it has witnesses and no witness commitment")?;
    let witness = coinbase.input.first().map(|input| &input.witness);
    let reserved = witness
        .filter(|witness| witness.len() == 1)
        .and_then(|witness| witness.nth(0))
        .filter(|item| item.len() == 32)
        .ok_or("its coinbase lacks the 32-byte witness value")?;

    let mut leaves = Vec::with_capacity(txids.len());
    for (at, (tx, txid)) in block.txdata.iter().zip(txids).enumerate() {
        leaves.push(match at {
            0 => [0; 32],
            // Without a witness both ids are the same hash.
            _ if !has_witness(tx) => txid.to_byte_array(),
            _ => tx.compute_wtxid().to_byte_array(),
        });
    }
    let root = merkle_root(leaves).ok_or("it repeats transactions")?;
    let mut engine = sha256d::Hash::engine();
    engine.input(&root);
    engine.input(reserved);
    if sha256d::Hash::from_engine(engine).as_byte_array() != commitment {
        return Err("its witnesses do not have the coinbase's witness commitment");
    }
    Ok(())
}

/// Merkle root of hashes in internal byte order. `None` without leaves, and where two neighbours of one level are the
/// same hash: such a list of transactions shares its root with a shorter one (CVE-2012-2459) and is never valid.
fn merkle_root(mut level: Vec<[u8; 32]>) -> Option<[u8; 32]> {
    while level.len() > 1 {
        let mut above = Vec::with_capacity(level.len().div_ceil(2));
        for pair in level.chunks(2) {
            let (left, right) = match pair {
                [left, right] if left == right => return None,
                [left, right] => (left, right),
                [left] => (left, left),
                _ => return None,
            };
            let mut engine = sha256d::Hash::engine();
            engine.input(left);
            engine.input(right);
            above.push(sha256d::Hash::from_engine(engine).to_byte_array());
        }
        level = above;
    }
    level.first().copied()
}

#[cfg(test)]
mod tests {
    use bitcoin::{Amount, BlockHash, TxMerkleNode, Witness};

    use super::*;
    use crate::chain::simulated::{SimulatedChain, SimulationSettings};

    fn valid() -> BlockWithPrevouts {
        let chain = SimulatedChain::new(SimulationSettings::default());
        let id = *chain.mine(140).last().unwrap();
        BlockWithPrevouts::clone(&chain.stored_block(id.hash).unwrap())
    }

    /// The reason for which a changed block is refused. `sealed` gives it the hash that its header has, as a source
    /// would that made it up.
    fn refusal(sealed: bool, change: impl FnOnce(&mut BlockWithPrevouts)) -> String {
        let mut block = valid();
        change(&mut block);
        if sealed {
            block.id.hash = block.block.block_hash();
        }
        match BlockWithPrevouts::new(block.id, block.block, block.prevouts) {
            Err(ChainError::Mismatch(text)) => text,
            other => panic!("{other:?}"),
        }
    }

    fn reseal_merkle_root(block: &mut BlockWithPrevouts) {
        block.block.header.merkle_root = block.block.compute_merkle_root().unwrap();
    }

    #[test]
    fn what_fits_together_is_taken() {
        let block = valid();
        assert!(block.block.txdata.len() > 4);
        let again = BlockWithPrevouts::new(block.id, block.block.clone(), block.prevouts.clone());
        assert_eq!(again, Ok(block));
    }

    #[test]
    fn what_does_not_fit_is_named() {
        assert!(
            refusal(false, |block| block.id.hash = BlockHash::all_zeros()).contains("has hash")
        );
        assert!(refusal(true, |block| block.block.txdata.clear()).contains("no transaction"));
        assert!(
            refusal(true, |block| block.block.header.merkle_root =
                TxMerkleNode::all_zeros())
            .contains("merkle root")
        );
        assert!(
            refusal(true, |block| {
                block.block.txdata[1].output[0].value += Amount::from_sat(1);
            })
            .contains("merkle root")
        );
        assert!(
            refusal(true, |block| {
                block.block.txdata.swap(0, 1);
                reseal_merkle_root(block);
            })
            .contains("first transaction is no coinbase")
        );
        assert!(
            refusal(true, |block| {
                let coinbase = block.block.txdata[0].clone();
                block.block.txdata.push(coinbase);
                reseal_merkle_root(block);
            })
            .contains("is a second coinbase")
        );
    }

    #[test]
    fn witnesses_are_held_to_their_commitment() {
        let with_witness = |block: &BlockWithPrevouts| {
            let rest = block.block.txdata.iter().skip(1);
            1 + rest.clone().position(has_witness).unwrap()
        };
        assert!(
            refusal(false, |block| {
                let at = with_witness(block);
                block.block.txdata[at].input[0].witness.push([1, 2, 3]);
            })
            .contains("do not have the coinbase's witness commitment")
        );
        assert!(
            refusal(false, |block| {
                block.block.txdata[0].input[0].witness = Witness::new();
            })
            .contains("lacks the 32-byte witness value")
        );
        assert!(
            refusal(true, |block| {
                block.block.txdata[0].output.pop();
                reseal_merkle_root(block);
            })
            .contains("no witness commitment")
        );
    }

    #[test]
    fn spent_outputs_are_counted() {
        assert!(refusal(false, |block| drop(block.prevouts.pop())).contains("spent outputs of"));
        assert!(
            refusal(false, |block| drop(block.prevouts[2].pop()))
                .contains("spent outputs for transaction 2, which needs")
        );
        assert!(
            refusal(false, |block| {
                let extra = block.prevouts[1][0].clone();
                block.prevouts[0].push(extra);
            })
            .contains("1 spent outputs for transaction 0, which needs 0")
        );
    }

    /// CVE-2012-2459: repeating the last transactions can leave the merkle root as it was.
    #[test]
    fn repeated_transactions_with_the_same_root_are_refused() {
        let text = refusal(false, |block| {
            block.block.txdata.truncate(3);
            reseal_merkle_root(block);
            block.id.hash = block.block.block_hash();
            let root = block.block.compute_merkle_root();
            let last = block.block.txdata[2].clone();
            block.block.txdata.push(last);
            assert_eq!(block.block.compute_merkle_root(), root);
        });
        assert!(text.contains("merkle root"), "{text}");
    }

    #[test]
    fn merkle_roots_are_those_of_another_implementation() {
        for count in 1..40u8 {
            let leaves: Vec<[u8; 32]> = (0..count).map(|leaf| [leaf; 32]).collect();
            let hashes = leaves
                .iter()
                .map(|leaf| sha256d::Hash::from_byte_array(*leaf));
            let wanted = bitcoin::merkle_tree::calculate_root(hashes).unwrap();
            assert_eq!(merkle_root(leaves), Some(wanted.to_byte_array()), "{count}");
        }
        assert_eq!(merkle_root(Vec::new()), None);
    }
}
