//! Fetching ahead: many blocks in flight, delivered in height order, bounded by bytes.

use std::ops::RangeInclusive;
use std::sync::Arc;

use futures::stream::{self, Stream};
use futures::{StreamExt, TryStreamExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::BlockId;
use crate::chain::{BlockSource, BlockWithPrevouts, ChainError};

/// Unit of the byte budget; a semaphore counts in `u32`, so single bytes would end at 4 GiB.
const PERMIT_BYTES: usize = 1024;

/// More than any block with its spent outputs takes of the budget: consensus allows 4 MB for the block, and an input of
/// 41 bytes spends an output that is seldom larger than itself.
const LARGEST_BLOCK_BYTES: usize = 16 << 20;

/// Most blocks that wait to be derived, however small: as many as are derived together, or the pauses between small
/// blocks would be what limits a sync.
const WAITING_BLOCKS: usize = 500;

/// A fetched block and the share of the budget it holds until it is dropped.
pub(super) struct FetchedBlock {
    pub(super) block: BlockWithPrevouts,
    /// Serialized size of the block and its spent outputs, the measure of the budget.
    pub(super) size_bytes: usize,
    permit: OwnedSemaphorePermit,
}

impl FetchedBlock {
    /// The block, and the share of the budget to drop when the block is gone.
    pub(super) fn into_parts(self) -> (BlockWithPrevouts, OwnedSemaphorePermit) {
        (self.block, self.permit)
    }
}

/// Starts fetching the active chain's blocks of `heights`.
///
/// The receiver gets them in order, then nothing more; after an error it gets nothing more. Dropping it ends the
/// task. Blocks waiting in the channel and those the receiver still holds stay within `budget_bytes`, besides the
/// `in_flight` runs under way. The receiver may hold up to `batch_bytes` while it waits for the next block; the budget
/// is raised to what makes that safe.
pub(super) fn fetch_blocks(
    source: Arc<dyn BlockSource>,
    heights: RangeInclusive<u32>,
    in_flight: usize,
    budget_bytes: usize,
    batch_bytes: usize,
) -> mpsc::Receiver<Result<FetchedBlock, ChainError>> {
    let (sender, receiver) = mpsc::channel(WAITING_BLOCKS);
    tokio::spawn(async move {
        let budget_bytes = budget_bytes.max(batch_bytes + LARGEST_BLOCK_BYTES);
        let budget = Arc::new(Semaphore::new(
            (budget_bytes / PERMIT_BYTES).min(Semaphore::MAX_PERMITS),
        ));
        let mut blocks = std::pin::pin!(
            runs(source.as_ref(), heights)
                .map(async |run| match run {
                    Ok(ids) => source.blocks(&ids).await,
                    Err(error) => vec![Err(error)],
                })
                .buffered(in_flight.max(1))
                .flat_map(stream::iter)
        );
        while let Some(fetched) = blocks.next().await {
            let failed = fetched.is_err();
            let delivery = match fetched {
                Ok(block) => {
                    let size_bytes = block.size_bytes();
                    let wanted = size_bytes.clamp(PERMIT_BYTES, LARGEST_BLOCK_BYTES) / PERMIT_BYTES;
                    let Ok(permit) = budget.clone().acquire_many_owned(wanted as u32).await else {
                        return; // The semaphore is never closed.
                    };
                    Ok(FetchedBlock {
                        block,
                        size_bytes,
                        permit,
                    })
                }
                Err(error) => Err(error),
            };
            if sender.send(delivery).await.is_err() || failed {
                return;
            }
        }
    });
    receiver
}

/// Which blocks the active chain has at these heights, asked for in as few requests as the source allows, and cut into
/// those that it is best asked for together.
fn runs(
    source: &dyn BlockSource,
    heights: RangeInclusive<u32>,
) -> impl Stream<Item = Result<Vec<BlockId>, ChainError>> {
    let (first, last) = heights.into_inner();
    let pages = stream::try_unfold(first, move |next| async move {
        if next > last {
            return Ok(None);
        }
        let page = source.blocks_at(next..=last).await?;
        let Some(end) = page.last() else {
            return Err(ChainError::NotAvailable(format!(
                "the node's active chain no longer reaches height {next}"
            )));
        };
        let after = end.height.saturating_add(1);
        let mut runs = Vec::new();
        let mut rest = page.as_slice();
        while !rest.is_empty() {
            let length = source.run_length(rest).clamp(1, rest.len());
            let (run, others) = rest.split_at(length);
            runs.push(Ok(run.to_vec()));
            rest = others;
        }
        Ok(Some((stream::iter(runs), after)))
    });
    pages.try_flatten()
}
