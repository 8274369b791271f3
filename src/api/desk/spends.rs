//! Details of a block's taproot spends that the index does not hold: who spent, and what data the spender carries.
//!
//! They come from the node's block. Finished answers are kept for a while and a block is fetched once however many
//! clients ask at the same moment, which they do right after it was announced.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bitcoin::{BlockHash, OutPoint, Script, Txid, script::Instruction};
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use tokio::sync::Semaphore;

use super::DeskError;
use crate::BlockId;
use crate::chain::{BlockSource, ChainError, RawBlock};
use crate::store::SpendRow;

/// A taproot outpoint and the input that spent it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpendDetail {
    /// What was spent.
    pub outpoint: OutPoint,
    /// Who spent it.
    pub spending_txid: Txid,
    /// Index of the input.
    pub input: u32,
    /// Per OP_RETURN output of the spender, in output order, its pushes joined.
    pub op_return: Arc<[Vec<u8>]>,
}

/// What the taproot outpoints that a block spends were spent by.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct SpendDetails {
    /// In block order.
    pub rows: Vec<SpendDetail>,
    /// Whether only the first row of each spender has its data, as there would be too many.
    pub data_once: bool,
}

impl SpendDetails {
    /// Bytes in memory, about; data that rows share are counted with each of them.
    fn size_bytes(&self) -> usize {
        let data = self.rows.iter().flat_map(|row| row.op_return.iter());
        let data: usize = data.map(|data| data.len() + size_of::<Vec<u8>>()).sum();
        size_of::<Self>() + self.rows.len() * size_of::<SpendDetail>() + data
    }
}

/// Most bytes of OP_RETURN data in one answer before the data are given once per transaction only.
const MAX_REPEATED_DATA_BYTES: usize = 4 << 20;
/// Answers kept, about.
const MAX_ANSWERS: usize = 16;
/// Most bytes all kept answers have together; a single larger one is not kept.
const MAX_ANSWER_BYTES: u64 = 32 << 20;
/// Blocks fetched from the node at the same time, which bounds the memory they take.
const MAX_FETCHES: usize = 4;

#[derive(Clone)]
struct BySize;

impl Weighter<BlockHash, Arc<SpendDetails>> for BySize {
    fn weight(&self, _: &BlockHash, details: &Arc<SpendDetails>) -> u64 {
        // No less than what keeps their number low.
        (details.size_bytes() as u64).max(MAX_ANSWER_BYTES / MAX_ANSWERS as u64)
    }
}

/// Answers already made, and the ones in the making.
pub(super) struct SpendAnswers {
    recent: Cache<BlockHash, Arc<SpendDetails>, BySize>,
    fetches: Semaphore,
}

impl SpendAnswers {
    pub(super) fn new() -> Self {
        Self {
            recent: Cache::with_weighter(MAX_ANSWERS, MAX_ANSWER_BYTES, BySize),
            fetches: Semaphore::new(MAX_FETCHES),
        }
    }

    /// The answer for a block: kept, awaited from whoever makes it now, or made from the node's block. All of it,
    /// standing in line included, may take `node_timeout`.
    ///
    /// # Errors
    /// [`DeskError::BlockFailed`], [`DeskError::SpendsMismatch`]; nothing is kept then.
    pub(super) async fn get(
        &self,
        blocks: &dyn BlockSource,
        node_timeout: Duration,
        block: BlockId,
        spends: Vec<SpendRow>,
    ) -> Result<Arc<SpendDetails>, DeskError> {
        let made = self
            .recent
            .get_or_insert_async(&block.hash, self.make(blocks, block, spends));
        // While a node hangs, each in line would otherwise wait for all before it, one after the other.
        tokio::time::timeout(node_timeout, made)
            .await
            .map_err(|_| {
                let source = ChainError::Unreachable(format!("no answer within {node_timeout:?}"));
                DeskError::BlockFailed { block, source }
            })?
    }

    async fn make(
        &self,
        blocks: &dyn BlockSource,
        block: BlockId,
        spends: Vec<SpendRow>,
    ) -> Result<Arc<SpendDetails>, DeskError> {
        if spends.is_empty() {
            return Ok(Arc::default());
        }
        let fetched = self.fetch(blocks, block).await?;
        tokio::task::spawn_blocking(move || join_spends(block, &fetched, &spends).map(Arc::new))
            .await
            .map_err(|error| DeskError::Internal(error.to_string()))?
    }

    /// The block itself, when its turn comes.
    ///
    /// # Errors
    /// [`DeskError::BlockFailed`], [`DeskError::SpendsMismatch`].
    pub(super) async fn fetch(
        &self,
        blocks: &dyn BlockSource,
        block: BlockId,
    ) -> Result<RawBlock, DeskError> {
        let failed = |source| DeskError::BlockFailed { block, source };
        let _permit = self
            .fetches
            .acquire()
            .await
            .map_err(|error| DeskError::Internal(error.to_string()))?;
        let fetched = blocks.block(block).await.map_err(failed)?;
        if fetched.block.hash() != block.hash {
            return Err(DeskError::SpendsMismatch { block });
        }
        Ok(fetched.block)
    }
}

/// Finds the input of each spend. Both lists are in block order, so one walk over the inputs meets the spends one
/// after the other; if any is left, the block is not the one that was indexed.
fn join_spends(
    id: BlockId,
    block: &RawBlock,
    spends: &[SpendRow],
) -> Result<SpendDetails, DeskError> {
    let mut details = Vec::with_capacity(spends.len());
    let mut rest = spends.iter().peekable();
    for transaction in block.transactions().skip(1) {
        // Computed for the first spend of the transaction only: most have none.
        let mut spender: Option<(Txid, Arc<[Vec<u8>]>)> = None;
        for (input, spent) in (0u32..).zip(transaction.inputs()) {
            let outpoint = spent.previous_output();
            if rest.next_if(|spend| spend.outpoint == outpoint).is_none() {
                continue;
            }
            let (spending_txid, op_return) = spender
                .get_or_insert_with(|| {
                    let scripts = transaction.outputs().map(|output| output.script_pubkey());
                    let data = scripts.filter(|script| script.is_op_return());
                    (transaction.txid(), data.map(pushed_data).collect())
                })
                .clone();
            details.push(SpendDetail {
                outpoint,
                spending_txid,
                input,
                op_return,
            });
        }
    }
    if rest.next().is_some() {
        return Err(DeskError::SpendsMismatch { block: id });
    }
    let data_once = give_data_once_if_too_large(&mut details);
    Ok(SpendDetails {
        rows: details,
        data_once,
    })
}

/// The data pushes of a script, joined, up to the first byte that is no valid script. Number opcodes push no data.
fn pushed_data(script: &Script) -> Vec<u8> {
    let mut data = Vec::new();
    for instruction in script.instructions().map_while(Result::ok) {
        if let Instruction::PushBytes(push) = instruction {
            data.extend_from_slice(push.as_bytes());
        }
    }
    data
}

/// A transaction's data are repeated with each of its spends. A block can be built whose answer would run into
/// gigabytes that way, so beyond a bound only the first spend of each transaction carries them; whether that is so.
fn give_data_once_if_too_large(details: &mut [SpendDetail]) -> bool {
    let repeated: usize = details
        .iter()
        .map(|detail| {
            detail
                .op_return
                .iter()
                .map(|data| data.len() + 2)
                .sum::<usize>()
        })
        .sum();
    if repeated <= MAX_REPEATED_DATA_BYTES {
        return false;
    }
    let mut seen = HashSet::new();
    for detail in details {
        if !seen.insert(detail.spending_txid) {
            detail.op_return = Arc::default();
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use bitcoin::hashes::Hash;

    use super::*;

    #[test]
    fn pushed_data_joins_pushes_and_stops_at_damage() {
        for (script, data) in [
            // OP_RETURN, then nothing, an empty push, numbers.
            (&[0x6a][..], &[][..]),
            (&[0x6a, 0x00], &[]),
            (&[0x6a, 0x5d, 0x51, 0x4f], &[]),
            // Short push, OP_PUSHDATA1, OP_PUSHDATA2, OP_PUSHDATA4.
            (
                &[
                    0x6a, 0x02, 1, 2, 0x4c, 1, 3, 0x4d, 2, 0, 4, 5, 0x4e, 1, 0, 0, 0, 6,
                ],
                &[1, 2, 3, 4, 5, 6],
            ),
            // A number between two pushes; a push longer than the rest of the script.
            (&[0x6a, 0x01, 7, 0x52, 0x01, 8], &[7, 8]),
            (&[0x6a, 0x01, 7, 0x05, 8, 9], &[7]),
            (&[0x6a, 0x01, 7, 0x4e, 0xff, 0xff, 0xff, 0xff], &[7]),
        ] {
            assert_eq!(pushed_data(Script::from_bytes(script)), data, "{script:x?}");
        }
    }

    #[test]
    fn kept_answers_are_bounded_in_number_and_bytes() {
        let answers = SpendAnswers::new();
        let hash = |number: u8| BlockHash::from_byte_array([number; 32]);
        let details = |bytes: usize| {
            let row = SpendDetail {
                outpoint: OutPoint::null(),
                spending_txid: OutPoint::null().txid,
                input: 0,
                op_return: Arc::from([vec![0; bytes]]),
            };
            let rows = vec![row];
            Arc::new(SpendDetails {
                rows,
                data_once: false,
            })
        };
        for number in 0..200 {
            answers.recent.insert(hash(number), details(1));
            assert!(answers.recent.len() <= MAX_ANSWERS);
        }
        assert!(answers.recent.len() > MAX_ANSWERS / 2);
        let quarter = MAX_ANSWER_BYTES as usize / 4;
        for number in 0..200 {
            answers.recent.insert(hash(number), details(quarter));
            assert!(answers.recent.weight() <= MAX_ANSWER_BYTES);
        }
        assert!((1..=3).contains(&answers.recent.len()));
        answers.recent.insert(hash(201), details(4 * quarter));
        assert!(
            answers.recent.get(&hash(201)).is_none(),
            "too large to keep"
        );
    }
}
