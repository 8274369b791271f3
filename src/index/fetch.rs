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

/// The most that a run takes of the budget, more than any usual block with its spent outputs: consensus allows 4 MB for the
/// block, and an input of 41 bytes spends an output that is seldom larger than itself.
const LARGEST_RUN_BYTES: usize = 16 << 20;

/// Blocks that were fetched together, each the next of the one before, and the share of the budget that they hold until
/// they are dropped.
pub(super) struct FetchedRun {
    pub(super) blocks: Vec<BlockWithPrevouts>,
    permit: OwnedSemaphorePermit,
}

impl FetchedRun {
    /// Serialized size of the blocks and their spent outputs, the measure of the budget.
    pub(super) fn size_bytes(&self) -> usize {
        self.blocks.iter().map(BlockWithPrevouts::size_bytes).sum()
    }

    /// The blocks, and the share of the budget to drop when they are gone.
    pub(super) fn into_parts(self) -> (Vec<BlockWithPrevouts>, OwnedSemaphorePermit) {
        (self.blocks, self.permit)
    }
}

/// Starts fetching the active chain's blocks of `heights`.
///
/// The receiver gets them in order, as many together as the source gives at once, then nothing more; after an error it
/// gets nothing more. Dropping it ends the task. Blocks waiting in the channel and those the receiver still holds stay
/// within `budget_bytes`, besides the `in_flight` runs under way. The receiver may hold up to `batch_bytes` while it waits for the next block; the budget
/// is raised to what makes that safe.
pub(super) fn fetch_blocks(
    source: Arc<dyn BlockSource>,
    heights: RangeInclusive<u32>,
    in_flight: usize,
    budget_bytes: usize,
    batch_bytes: usize,
) -> mpsc::Receiver<Result<FetchedRun, ChainError>> {
    let (sender, receiver) = mpsc::channel(in_flight);
    tokio::spawn(async move {
        let budget_bytes = budget_bytes.max(batch_bytes + LARGEST_RUN_BYTES);
        let budget = Arc::new(Semaphore::new(
            (budget_bytes / PERMIT_BYTES).min(Semaphore::MAX_PERMITS),
        ));
        let mut fetched = std::pin::pin!(
            runs(source.as_ref(), heights)
                .map(async |run| match run {
                    Ok(ids) => source.blocks(&ids).await,
                    Err(error) => vec![Err(error)],
                })
                .buffered(in_flight.max(1))
        );
        while let Some(run) = fetched.next().await {
            let mut blocks = Vec::with_capacity(run.len());
            let mut failed = None;
            for block in run {
                match block {
                    Ok(block) => blocks.push(block),
                    Err(error) => {
                        failed = Some(error);
                        break;
                    }
                }
            }
            if !blocks.is_empty() {
                let size_bytes: usize = blocks.iter().map(BlockWithPrevouts::size_bytes).sum();
                let wanted = size_bytes.clamp(PERMIT_BYTES, LARGEST_RUN_BYTES) / PERMIT_BYTES;
                let Ok(permit) = budget.clone().acquire_many_owned(wanted as u32).await else {
                    return; // The semaphore is never closed.
                };
                if sender
                    .send(Ok(FetchedRun { blocks, permit }))
                    .await
                    .is_err()
                {
                    return;
                }
            }
            if let Some(error) = failed {
                // Nobody may be there to hear it.
                let _ = sender.send(Err(error)).await;
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
