//! Rows that somebody else has derived, in the place of blocks.

use std::ops::RangeInclusive;
use std::sync::Arc;

use bitcoin::BlockHash;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use tokio::sync::mpsc;

use super::pipeline::{BusyClock, Carried, Derived, End};
use crate::BlockId;
use crate::chain::ChainError;
use crate::store::{BlockRecord, BlockSpends, Snapshot};

/// Gives the rows of blocks ready made. What the chain looks like its [`BlockSource`](crate::chain::BlockSource) says.
pub trait RowSource: Send + Sync {
    /// The rows of the active chain's blocks at these heights, in order and in portions; the first one goes on top of what
    /// the snapshot has below it. Everything in them has been held against what binds it, and so was their being of one
    /// chain.
    ///
    /// Ends after the last height, or with the error that keeps it from that.
    fn rows(
        self: Arc<Self>,
        below: Snapshot,
        heights: RangeInclusive<u32>,
    ) -> BoxStream<'static, Result<Vec<BlockRecord>, ChainError>>;

    /// Who spends what in consecutive blocks, oldest first, each with an answer of its own: whoever gave rows without that
    /// may have learnt it since.
    fn spends(
        self: Arc<Self>,
        of: Vec<BlockId>,
    ) -> BoxFuture<'static, Vec<Result<BlockSpends, ChainError>>>;
}

/// Starts taking rows. The receiver gets them in height order, then the end; a portion waits for it. Dropping it ends the
/// task.
///
/// `parent` is the hash that the first block must name, if any is known.
pub(super) fn rows_ahead(
    source: Arc<dyn RowSource>,
    below: Snapshot,
    heights: RangeInclusive<u32>,
    mut parent: Option<BlockHash>,
    clock: Arc<BusyClock>,
) -> mpsc::Receiver<Result<Derived, End>> {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut rows = source.rows(below, heights);
        loop {
            let next = {
                // Fetching and computing are one stage here.
                let _at_work = clock.start();
                rows.next().await
            };
            let derived = match next {
                None => Err(End::Complete),
                Some(Err(error)) => Err(End::Failed(error)),
                Some(Ok(records)) => {
                    let unlinked = records.iter().find(|record| {
                        let expected = parent.replace(record.id.hash);
                        expected.is_some_and(|expected| expected != record.header.prev_blockhash)
                    });
                    match unlinked {
                        Some(record) => {
                            let id = record.id;
                            let error = format!("block {id} does not follow the block before it");
                            Err(End::Unlinked(ChainError::Mismatch(error)))
                        }
                        None => {
                            let row_bytes = records.iter().map(BlockRecord::size_bytes).sum();
                            Ok(Derived {
                                records,
                                carried: Carried::RowsAlone,
                                block_bytes: row_bytes,
                                row_bytes,
                            })
                        }
                    }
                }
            };
            let is_over = derived.is_err();
            if sender.send(derived).await.is_err() || is_over {
                return;
            }
        }
    });
    receiver
}
