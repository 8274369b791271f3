//! Details of a block's taproot spends that the index does not hold: who spent, and what data the spender carries.
//!
//! They come from the node's block. Finished answers are kept for a while and a block is fetched once however many
//! clients ask at the same moment, which they do right after it was announced.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Bytes;
use bitcoin::{BlockHash, OutPoint, Script, Txid, script::Instruction};
use tokio::sync::{OnceCell, Semaphore};

use super::error::QueryError;
use crate::BlockId;
use crate::chain::{BlockSource, ChainError, RawBlock};
use crate::store::SpendRow;

/// A taproot outpoint and the input that spent it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SpendDetail {
    /// What was spent.
    pub(crate) outpoint: OutPoint,
    /// Who spent it.
    pub(crate) spending_txid: Txid,
    /// Index of the input.
    pub(crate) input: u32,
    /// Per OP_RETURN output of the spender, in output order, its pushes joined.
    pub(crate) op_return: Arc<[Vec<u8>]>,
}

/// What the taproot outpoints that a block spends were spent by.
#[derive(Debug, Default)]
pub(crate) struct SpendDetails {
    /// In block order.
    pub(crate) rows: Vec<SpendDetail>,
    /// Whether only the first row of each spender has its data, as there would be too many.
    pub(crate) data_once: bool,
}

/// Most bytes of OP_RETURN data in one answer before the data are given once per transaction only.
const MAX_REPEATED_DATA_BYTES: usize = 4 << 20;
/// Answers kept.
const MAX_ANSWERS: usize = 16;
/// Most bytes all kept answers have together; a single larger one is not kept.
const MAX_ANSWER_BYTES: usize = 32 << 20;
/// Blocks fetched from the node at the same time, which bounds the memory they take.
const MAX_FETCHES: usize = 4;

type Answer = Arc<OnceCell<Bytes>>;

/// Answers already made, and the ones in the making.
pub(crate) struct SpendAnswers {
    /// Oldest first; hashes are distinct.
    recent: Mutex<VecDeque<(BlockHash, Answer)>>,
    fetches: Semaphore,
}

impl SpendAnswers {
    pub(crate) fn new() -> Self {
        Self {
            recent: Mutex::new(VecDeque::new()),
            fetches: Semaphore::new(MAX_FETCHES),
        }
    }

    /// The encoded answer for a block: kept, awaited from whoever makes it now, or made from the node's block. All of it,
    /// standing in line included, may take `node_timeout`.
    ///
    /// # Errors
    /// [`QueryError::BlockFailed`], [`QueryError::SpendsMismatch`]; nothing is kept then.
    pub(crate) async fn get(
        &self,
        node: &dyn BlockSource,
        node_timeout: Duration,
        block: BlockId,
        spends: Vec<SpendRow>,
        encode: impl FnOnce(BlockId, &SpendDetails) -> Result<Vec<u8>, QueryError> + Send + 'static,
    ) -> Result<Bytes, QueryError> {
        // While a node hangs, each in line would otherwise wait for all before it, one after the other.
        tokio::time::timeout(node_timeout, self.make(node, block, spends, encode))
            .await
            .map_err(|_| {
                let source = ChainError::Unreachable(format!("no answer within {node_timeout:?}"));
                QueryError::BlockFailed { block, source }
            })?
    }

    async fn make(
        &self,
        node: &dyn BlockSource,
        block: BlockId,
        spends: Vec<SpendRow>,
        encode: impl FnOnce(BlockId, &SpendDetails) -> Result<Vec<u8>, QueryError> + Send + 'static,
    ) -> Result<Bytes, QueryError> {
        let answer = self.entry(block.hash);
        let body = answer
            .get_or_try_init(|| async {
                let details = if spends.is_empty() {
                    None
                } else {
                    Some(self.fetch(node, block).await?)
                };
                let encoded = tokio::task::spawn_blocking(move || {
                    let details = match details {
                        Some(fetched) => join_spends(block, &fetched, &spends)?,
                        None => SpendDetails::default(),
                    };
                    encode(block, &details)
                });
                let body = encoded
                    .await
                    .map_err(|error| QueryError::Internal(error.to_string()))??;
                Ok::<_, QueryError>(Bytes::from(body))
            })
            .await?
            .clone();
        self.trim();
        Ok(body)
    }

    /// The block's cell, new or old.
    fn entry(&self, hash: BlockHash) -> Answer {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, answer)) = recent.iter().find(|(known, _)| *known == hash) {
            return answer.clone();
        }
        if recent.len() >= MAX_ANSWERS {
            recent.pop_front();
        }
        let answer = Answer::default();
        recent.push_back((hash, answer.clone()));
        answer
    }

    /// Drops the oldest answers until the rest fits.
    fn trim(&self) {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let size = |(_, answer): &(BlockHash, Answer)| answer.get().map_or(0, Bytes::len);
        let mut total: usize = recent.iter().map(size).sum();
        while total > MAX_ANSWER_BYTES {
            let Some(oldest) = recent.pop_front() else {
                break;
            };
            total -= size(&oldest);
        }
    }

    async fn fetch(&self, node: &dyn BlockSource, block: BlockId) -> Result<RawBlock, QueryError> {
        let failed = |source| QueryError::BlockFailed { block, source };
        let _permit = self
            .fetches
            .acquire()
            .await
            .map_err(|error| QueryError::Internal(error.to_string()))?;
        let fetched = node.block(block).await.map_err(failed)?;
        if fetched.block.hash() != block.hash {
            return Err(QueryError::SpendsMismatch { block });
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
) -> Result<SpendDetails, QueryError> {
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
        return Err(QueryError::SpendsMismatch { block: id });
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
mod hanging_node;

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
        let kept = || -> Vec<u8> {
            let recent = answers.recent.lock().expect("no panic while held");
            recent
                .iter()
                .map(|(hash, _)| hash.to_byte_array()[0])
                .collect()
        };
        for number in 0..40 {
            answers.entry(hash(number));
        }
        assert_eq!(kept(), (24..40).collect::<Vec<u8>>());
        answers.entry(hash(30));
        assert_eq!(kept().len(), MAX_ANSWERS, "a known hash takes no new place");
        let set = |number: u8, length: usize| {
            let body = Bytes::from(vec![0; length]);
            answers.entry(hash(number)).set(body).expect("not yet set");
            answers.trim();
        };
        set(38, MAX_ANSWER_BYTES / 2);
        set(39, MAX_ANSWER_BYTES / 2);
        assert_eq!(kept().len(), MAX_ANSWERS);
        set(37, 1);
        assert_eq!(kept(), [38, 39], "the oldest go until the rest fits");
        set(50, MAX_ANSWER_BYTES + 1);
        assert_eq!(kept(), [0u8; 0]);
    }
}
