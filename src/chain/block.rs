//! A block together with the outputs its inputs spend.

use bitcoin::hashes::{Hash, HashEngine, sha256d};

use super::ChainError;
use super::prevouts::{Prevout, Prevouts};
use super::raw::{MIN_OUTPUT_BYTES, RawBlock, RawInput, RawTransaction};
use crate::BlockId;

/// First bytes of a coinbase output that commits to the witnesses: OP_RETURN, push of 36, the tag of BIP141.
const WITNESS_COMMITMENT_PREFIX: [u8; 6] = [0x6a, 0x24, 0xaa, 0x21, 0xa9, 0xed];

/// A block with the outputs its inputs spend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockWithPrevouts {
    /// Height and hash.
    pub id: BlockId,
    /// The block.
    pub block: RawBlock,
    /// The outputs it spends.
    pub prevouts: Prevouts,
}

impl BlockWithPrevouts {
    /// Joins a block with its spent outputs after checking that they belong together: hash, merkle root, witness
    /// commitment (BIP141, where any input has a witness), one coinbase in front, one spent output per input.
    ///
    /// Scripts, amounts and the height are not checked: that is the node's work.
    ///
    /// # Errors
    /// [`ChainError::Mismatch`] naming what does not fit.
    pub fn new(id: BlockId, block: RawBlock, prevouts: Prevouts) -> Result<Self, ChainError> {
        let mismatch = |what: String| Err(ChainError::Mismatch(format!("block {id}: {what}")));

        let hash = block.hash();
        if hash != id.hash {
            return mismatch(format!("the block received has hash {hash}"));
        }
        match block.transaction(0) {
            None => return mismatch("it has no transaction".into()),
            Some(first) if !first.is_coinbase() => {
                return mismatch("its first transaction is no coinbase".into());
            }
            Some(_) => {
                let second = block.transactions().skip(1).find(spends_null_outpoint);
                if let Some(second) = second {
                    return mismatch(format!(
                        "transaction {} is a second coinbase",
                        second.index()
                    ));
                }
            }
        }

        let txids = block.transactions().map(|tx| tx.txid().to_byte_array());
        if merkle_root(txids.collect()) != Some(block.header().merkle_root.to_byte_array()) {
            return mismatch("its transactions do not have the header's merkle root".into());
        }
        if let Err(what) = check_witness_commitment(&block) {
            return mismatch(what.into());
        }

        if prevouts.transactions() != block.transactions().len() {
            return mismatch(format!(
                "spent outputs of {} transactions for a block of {}",
                prevouts.transactions(),
                block.transactions().len()
            ));
        }
        for tx in block.transactions() {
            let at = tx.index();
            let wanted = if at == 0 { 0 } else { tx.inputs().len() };
            let found = prevouts.of_transaction(at).len();
            if found != wanted {
                return mismatch(format!(
                    "{found} spent outputs for transaction {at}, which needs {wanted}"
                ));
            }
        }
        Ok(Self {
            id,
            block,
            prevouts,
        })
    }

    /// Its transactions but the coinbase, each with the outputs it spends.
    pub fn spending_transactions(
        &self,
    ) -> impl Iterator<
        Item = (
            RawTransaction<'_>,
            impl ExactSizeIterator<Item = (RawInput<'_>, Prevout<'_>)> + Clone,
        ),
    > + Clone {
        self.block.transactions().skip(1).map(|tx| {
            let prevouts = self.prevouts.of_transaction(tx.index());
            (tx, tx.inputs().zip(prevouts))
        })
    }

    /// Serialized bytes of the block and of the outputs it spends (8 of amount, 1 of length at least, and the script).
    pub fn size_bytes(&self) -> usize {
        self.block.as_bytes().len()
            + self.prevouts.script_bytes()
            + MIN_OUTPUT_BYTES * self.prevouts.outputs()
    }
}

fn spends_null_outpoint(tx: &RawTransaction<'_>) -> bool {
    tx.inputs().any(|input| input.previous_output().is_null())
}

/// BIP141: where any input has a witness, the coinbase's last commitment output is
/// `SHA256d(root of the wtxids || the coinbase's 32-byte witness item)`, with zeros for the coinbase's own wtxid.
fn check_witness_commitment(block: &RawBlock) -> Result<(), &'static str> {
    if !block.transactions().any(|tx| tx.has_witness()) {
        return Ok(());
    }
    let coinbase = block.transaction(0).ok_or("it has no transaction")?;
    let commitment = coinbase
        .outputs()
        .filter_map(|output| {
            let payload = output
                .script_pubkey()
                .as_bytes()
                .strip_prefix(&WITNESS_COMMITMENT_PREFIX)?;
            payload.get(..32)
        })
        .last()
        .ok_or("it has witnesses and no witness commitment")?;
    let mut witness = coinbase.inputs().flat_map(|input| input.witness());
    let reserved = match (witness.next(), witness.next()) {
        (Some(item), None) if item.len() == 32 => item,
        _ => return Err("its coinbase lacks the 32-byte witness value"),
    };

    let leaves = block.transactions().map(|tx| match tx.index() {
        0 => [0; 32],
        _ => tx.wtxid().to_byte_array(),
    });
    let root = merkle_root(leaves.collect()).ok_or("it repeats transactions")?;
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
    use bitcoin::{Amount, BlockHash, Transaction, TxMerkleNode, TxOut, Txid, Witness};

    use super::*;
    use crate::chain::made::simulated::{SimulatedBlock, SimulatedChain, SimulationSettings};

    fn valid() -> SimulatedBlock {
        let chain = SimulatedChain::new(SimulationSettings::default());
        let id = *chain.mine(140).last().unwrap();
        SimulatedBlock::clone(&chain.stored_block(id.hash).unwrap())
    }

    fn joined(block: &SimulatedBlock) -> Result<BlockWithPrevouts, ChainError> {
        let prevouts = Prevouts::from(block.prevouts.as_slice());
        BlockWithPrevouts::new(block.id, RawBlock::from(&block.block), prevouts)
    }

    /// The reason for which a changed block is refused. `sealed` gives it the hash that its header has, as a source
    /// would that made it up.
    fn refusal(sealed: bool, change: impl FnOnce(&mut SimulatedBlock)) -> String {
        let mut block = valid();
        change(&mut block);
        if sealed {
            block.id.hash = block.block.block_hash();
        }
        match joined(&block) {
            Err(ChainError::Mismatch(text)) => text,
            other => panic!("{other:?}"),
        }
    }

    fn reseal_merkle_root(block: &mut SimulatedBlock) {
        block.block.header.merkle_root = block.block.compute_merkle_root().unwrap();
    }

    #[test]
    fn what_fits_together_is_taken() {
        let block = valid();
        assert!(block.block.txdata.len() > 4);
        let joined = joined(&block).unwrap();
        assert_eq!(joined.id, block.id);
        assert_eq!(joined.block.decode().unwrap(), block.block);
        assert_eq!(joined.prevouts.decode(), block.prevouts);
        let spending: Vec<(Txid, Vec<TxOut>)> = joined
            .spending_transactions()
            .map(|(tx, inputs)| (tx.txid(), inputs.map(|(_, p)| TxOut::from(p)).collect()))
            .collect();
        let wanted = block.txids.into_iter().zip(block.prevouts).skip(1);
        assert_eq!(spending, wanted.collect::<Vec<_>>());
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
        let with_witness = |block: &SimulatedBlock| {
            let mut rest = block.block.txdata.iter().skip(1);
            let has_witness = |tx: &Transaction| tx.input.iter().any(|i| !i.witness.is_empty());
            1 + rest.position(has_witness).unwrap()
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
