//! Proofs that a transaction stands in a block, from the node's block.

use std::sync::Arc;
use std::time::Duration;

use bitcoin::{BlockHash, Txid};
use quick_cache::Weighter;
use quick_cache::sync::Cache;

use super::DeskError;
use super::spends::SpendAnswers;
use crate::BlockId;
use crate::chain::{BlockSource, ChainError, RawBlock};
use crate::proof::{Branch, Proof};

/// Blocks kept, about: right after a block has come, many ask for proofs of its transactions.
const MAX_BLOCKS: usize = 8;
/// Most bytes that they have together.
const MAX_BLOCK_BYTES: u64 = 16 << 20;

#[derive(Clone)]
struct BySize;

impl Weighter<BlockHash, Arc<RawBlock>> for BySize {
    fn weight(&self, _: &BlockHash, block: &Arc<RawBlock>) -> u64 {
        // No less than what keeps their number low.
        (block.as_bytes().len() as u64).max(MAX_BLOCK_BYTES / MAX_BLOCKS as u64)
    }
}

/// Blocks that proofs were made of lately, and those under way.
pub(super) struct ProofBlocks {
    recent: Cache<BlockHash, Arc<RawBlock>, BySize>,
}

impl ProofBlocks {
    pub(super) fn new() -> Self {
        Self {
            recent: Cache::with_weighter(MAX_BLOCKS, MAX_BLOCK_BYTES, BySize),
        }
    }

    /// The proof for a transaction of a block; `None` if it has no such transaction. The block may take `node_timeout`, standing in
    /// line included.
    ///
    /// # Errors
    /// [`DeskError::BlockFailed`], [`DeskError::SpendsMismatch`]; nothing is kept then.
    pub(super) async fn get(
        &self,
        blocks: &dyn BlockSource,
        fetches: &SpendAnswers,
        node_timeout: Duration,
        block: BlockId,
        index: u32,
    ) -> Result<Option<Proof>, DeskError> {
        let fetched = async { fetches.fetch(blocks, block).await.map(Arc::new) };
        let fetched = self.recent.get_or_insert_async(&block.hash, fetched);
        let fetched = tokio::time::timeout(node_timeout, fetched).await;
        let raw = fetched.map_err(|_| {
            let source = ChainError::Unreachable(format!("no answer within {node_timeout:?}"));
            DeskError::BlockFailed { block, source }
        })??;
        let made = tokio::task::spawn_blocking(move || proof(block, &raw, index));
        made.await
            .map_err(|error| DeskError::Internal(error.to_string()))?
    }
}

fn proof(block: BlockId, raw: &RawBlock, index: u32) -> Result<Option<Proof>, DeskError> {
    let transactions = raw.transactions();
    let txids: Vec<Txid> = transactions.map(|transaction| transaction.txid()).collect();
    let decoded = |at: u32| {
        let transaction = raw.transaction(usize::try_from(at).ok()?)?;
        Some((transaction.decode(), Branch::of(&txids, at)?))
    };
    let (Some((coinbase, first)), Some((transaction, branch))) = (decoded(0), decoded(index))
    else {
        return Ok(None);
    };
    let failed = |error: bitcoin::consensus::encode::Error| DeskError::Internal(error.to_string());
    Ok(Some(Proof {
        block,
        header: *raw.header(),
        transaction: transaction.map_err(failed)?,
        branch,
        coinbase: coinbase.map_err(failed)?,
        coinbase_branch: first.siblings,
    }))
}
