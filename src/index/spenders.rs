//! Who spends what in blocks that were indexed before that was kept, or by the word of a server that did not know, filled in
//! from the source while the index follows the tip.
//!
//! It goes down from [`Snapshot::lacking_spenders`](crate::store::Snapshot::lacking_spenders), a batch at a time. A batch is a
//! task of its own, from the first request to the commit, so that whoever follows the tip waits for none, and at most one is
//! under way. What was reorganised away meanwhile is not written; the next batch begins where the index then lacks something.

use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt};
use futures::stream::{self, StreamExt};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::derive::derive_spends;
use super::indexer::{IndexError, blocking};
use super::rows::RowSource;
use crate::BlockId;
use crate::chain::{BlockSource, BlockWithPrevouts, ChainError};
use crate::store::{BlockSpends, Store};

/// Serialized bytes of the blocks that one commit takes, or one run more.
const BATCH_BYTES: usize = 32 << 20;
/// Most blocks that one takes.
const BATCH_BLOCKS: u32 = 1_024;
/// Blocks that a source of rows is asked about at once.
const ROWS_AT_ONCE: usize = 64;
/// How long a batch may take before the next one is smaller: as much work as a crash may lose.
const BATCH_TIME: Duration = Duration::from_secs(10);

const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(600);
/// From so many failures in a row on, with a look at the tip after each, it is the blocks that the source does not have.
const FAILURES: u32 = 3;

/// Between two lines about how far it is.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);

/// What a step has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Filled {
    /// Some blocks less are unknown, or another try may be better.
    Some,
    /// Nothing is left to be filled in.
    All,
    /// The source does not give the blocks. Steps after this one ask again, ever more seldom.
    Lacking,
}

/// What one batch did.
struct Batch {
    known_from: Option<u32>,
    blocks: usize,
    bytes: usize,
    elapsed: Duration,
}

/// Who says what blocks spend.
#[derive(Clone)]
pub(super) enum Teller {
    /// The blocks, so many runs of them at a time.
    Blocks(Arc<dyn BlockSource>, usize),
    /// Whoever gives rows instead of them.
    Rows(Arc<dyn RowSource>),
}

/// The work on one index.
pub(super) struct Filling {
    store: Arc<Store>,
    teller: Teller,
    /// Its name.
    source: String,
    /// Blocks of the next batch.
    blocks: u32,
    under_way: Option<JoinHandle<Result<Option<Batch>, IndexError>>>,
    /// When the next batch may begin.
    not_before: Instant,
    pause: Duration,
    /// In a row.
    failures: u32,
    /// The last line about how far it is; `None` before the first.
    last_line: Option<Instant>,
    is_over: bool,
}

impl Drop for Filling {
    fn drop(&mut self) {
        if let Some(under_way) = &self.under_way {
            // Unless it is in the middle of the commit, which nothing interrupts.
            under_way.abort();
        }
    }
}

impl Filling {
    pub(super) fn new(store: Arc<Store>, teller: Teller, source: String) -> Self {
        Self {
            store,
            teller,
            source,
            // How large they are is not known yet.
            blocks: 1,
            under_way: None,
            not_before: Instant::now(),
            pause: FIRST_PAUSE,
            failures: 0,
            last_line: None,
            is_over: false,
        }
    }

    /// Waits for the batch that is under way, or the next one. Never returns once nothing is left to do. If it is given up and
    /// called again, it goes on where it was.
    ///
    /// # Errors
    /// The index file fails, or has other spends than the source's block; that was the last step then.
    pub(super) async fn step(&mut self) -> Result<Filled, IndexError> {
        if self.is_over {
            return std::future::pending().await;
        }
        if self.last_line.is_none() {
            self.begin().await?;
        }
        let under_way = match &mut self.under_way {
            Some(under_way) => under_way,
            None => {
                tokio::time::sleep_until(self.not_before).await;
                let (store, teller) = (self.store.clone(), self.teller.clone());
                let batch = fill_batch(store, teller, self.blocks);
                self.under_way.insert(tokio::spawn(batch))
            }
        };
        let done = under_way.await;
        self.under_way = None;
        let done = done.unwrap_or_else(|error| Err(IndexError::Worker(error.to_string())));
        match done {
            Ok(Some(batch)) => Ok(self.succeeded(&batch)),
            Ok(None) => {
                self.is_over = true;
                Ok(Filled::All)
            }
            Err(IndexError::Chain(error)) => Ok(self.failed(&error)),
            Err(error) => {
                self.is_over = true;
                Err(error)
            }
        }
    }

    /// Says what there is to do, if anything.
    async fn begin(&mut self) -> Result<(), IndexError> {
        let store = self.store.clone();
        let lacking = blocking(move || {
            let snapshot = store.snapshot()?;
            let top = snapshot.lacking_spenders(1)?.pop();
            Ok::<_, IndexError>(top.map(|top| (top.height, snapshot.first_height())))
        });
        if let Some((top, first)) = lacking.await?? {
            tracing::info!(
                "filling in who spends what in blocks {top} down to {first} from {}",
                self.source
            );
        }
        self.last_line = Some(Instant::now());
        Ok(())
    }

    fn succeeded(&mut self, batch: &Batch) -> Filled {
        self.failures = 0;
        self.pause = FIRST_PAUSE;
        self.blocks = next_blocks(self.blocks, batch);
        let Some(known_from) = batch.known_from else {
            tracing::info!("who spends what is known of all blocks");
            self.is_over = true;
            return Filled::All;
        };
        let is_due = |line: Instant| line.elapsed() >= PROGRESS_INTERVAL;
        if self.last_line.is_none_or(is_due) {
            let blocks_per_s = batch.blocks as f64 / batch.elapsed.as_secs_f64().max(1e-6);
            tracing::info!(
                known_from,
                blocks_per_s = format_args!("{blocks_per_s:.1}"),
                "filling in who spends what"
            );
            self.last_line = Some(Instant::now());
        }
        Filled::Some
    }

    fn failed(&mut self, error: &ChainError) -> Filled {
        self.failures = self.failures.saturating_add(1);
        self.not_before = Instant::now() + self.pause;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        // A smaller one may get at least its first blocks.
        self.blocks = 1;
        if self.failures == FAILURES {
            let cure = match self.teller {
                Teller::Blocks(..) => {
                    "`spindex run` and `sync` go on with it wherever these blocks are: at a node that is not pruned (--node-url) or in its files \
                     (--blocks-dir)"
                }
                Teller::Rows(_) => "it is asked for again until the server has learnt it",
            };
            tracing::warn!(
                "who spends what in old blocks stays unknown, as the source does not say ({error}); everything else is served, and {cure}"
            );
        } else {
            tracing::debug!("no blocks to fill in who spends what: {error}");
        }
        match self.failures < FAILURES {
            true => Filled::Some,
            false => Filled::Lacking,
        }
    }
}

/// How many blocks come next, after a batch of so many.
fn next_blocks(blocks: u32, batch: &Batch) -> u32 {
    let (bytes, elapsed) = (batch.bytes, batch.elapsed);
    if bytes >= BATCH_BYTES || elapsed >= BATCH_TIME {
        (blocks / 2).max(1)
    } else if bytes < BATCH_BYTES / 2 && elapsed < BATCH_TIME / 2 {
        (blocks * 2).min(BATCH_BLOCKS)
    } else {
        blocks
    }
}

/// Fills in the highest blocks that lack something; `None` if none do.
async fn fill_batch(
    store: Arc<Store>,
    teller: Teller,
    most: u32,
) -> Result<Option<Batch>, IndexError> {
    let started = Instant::now();
    let reading = store.clone();
    let wanted = blocking(move || reading.snapshot()?.lacking_spenders(most)).await??;
    if wanted.is_empty() {
        return Ok(None);
    }
    let (spends, bytes, missing) = teller.spends(&wanted).await?;
    let reading = store.clone();
    let agreed = blocking(move || reading.snapshot()?.agree_on_spends(spends));
    let mut agreed = agreed.await??;
    let difference = agreed.difference.take();
    let known_from = blocking(move || store.fill_spenders(&agreed)).await??;
    let top = wanted.last().map_or(0, |id| id.height.saturating_add(1));
    let blocks = top.saturating_sub(known_from.unwrap_or_default());
    match (difference, missing) {
        (Some(difference), _) => Err(difference.into()),
        // What came before it is written, so that the next batch begins with it.
        (None, Some(error)) => Err(error.into()),
        (None, None) => Ok(Some(Batch {
            known_from,
            blocks: (blocks as usize).min(wanted.len()),
            bytes,
            elapsed: started.elapsed(),
        })),
    }
}

impl Teller {
    /// What blocks spend, from the last one down, as many as a batch takes, oldest first; how many bytes that took; and why the
    /// one below them is not there.
    async fn spends(
        &self,
        wanted: &[BlockId],
    ) -> Result<(Vec<BlockSpends>, usize, Option<ChainError>), IndexError> {
        match self {
            Self::Blocks(source, in_flight) => {
                let mut runs = Vec::new();
                let mut rest = wanted;
                while !rest.is_empty() {
                    let length = source.run_length(rest).clamp(1, rest.len());
                    let (run, others) = rest.split_at(length);
                    runs.push(run.to_vec());
                    rest = others;
                }
                let get = |run: Vec<BlockId>| {
                    let source = source.clone();
                    async move { source.blocks(&run).await }.boxed()
                };
                let size = BlockWithPrevouts::size_bytes;
                let (blocks, bytes, missing) = fetch(runs, *in_flight, get, size).await;
                let spends = blocking(move || derive_spends(&blocks)).await?;
                Ok((spends, bytes, missing))
            }
            Self::Rows(rows) => {
                let mut runs: Vec<_> = wanted.rchunks(ROWS_AT_ONCE).map(<[_]>::to_vec).collect();
                runs.reverse();
                let get = |run| rows.clone().spends(run);
                Ok(fetch(runs, 1, get, BlockSpends::size_bytes).await)
            }
        }
    }
}

/// Things of blocks from the last run down, as many as a batch takes, oldest first; their size; and why the one below them is
/// not there.
async fn fetch<T: Send + 'static>(
    runs: Vec<Vec<BlockId>>,
    in_flight: usize,
    get: impl Fn(Vec<BlockId>) -> BoxFuture<'static, Vec<Result<T, ChainError>>>,
    size: impl Fn(&T) -> usize,
) -> (Vec<T>, usize, Option<ChainError>) {
    let fetched = runs.into_iter().rev().map(|run| {
        let wanted = run.len();
        get(run).map(move |mut got| {
            if got.len() < wanted {
                let error = "the source gives fewer blocks than it was asked for";
                got.insert(0, Err(ChainError::NotAvailable(error.to_owned())));
            }
            got
        })
    });
    let mut fetched = std::pin::pin!(stream::iter(fetched).buffered(in_flight.max(1)));
    let (mut things, mut bytes, mut missing) = (Vec::new(), 0, None);
    while bytes < BATCH_BYTES
        && missing.is_none()
        && let Some(run) = fetched.next().await
    {
        for thing in run.into_iter().rev() {
            match thing {
                Ok(thing) => {
                    bytes += size(&thing);
                    things.push(thing);
                }
                Err(error) => {
                    missing = Some(error);
                    break;
                }
            }
        }
    }
    things.reverse();
    (things, bytes, missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_grow_until_they_are_large_or_slow() {
        let after = |blocks, bytes, seconds| {
            let batch = Batch {
                known_from: None,
                blocks: 0,
                bytes,
                elapsed: Duration::from_secs(seconds),
            };
            next_blocks(blocks, &batch)
        };
        assert_eq!(after(1, 0, 0), 2);
        assert_eq!(after(BATCH_BLOCKS, 0, 0), BATCH_BLOCKS);
        assert_eq!(after(8, BATCH_BYTES / 2, 0), 8);
        assert_eq!(after(8, 0, 5), 8);
        assert_eq!(after(8, BATCH_BYTES, 0), 4);
        assert_eq!(after(8, 0, 10), 4);
        assert_eq!(after(1, BATCH_BYTES, 10), 1);
    }
}
