//! Fetched blocks to committed rows: compute and commit overlap, each bounded in bytes, in height order.
//!
//! ```text
//! fetch ──blocks──> derive (units of blocks, over rayon) ──rows──> gather ──> commit (one at a time)
//! ```
//!
//! Blocks wait before `derive` within the fetch budget, rows after it until they make a commit, of which one is gathered
//! and one written; what is full holds up the stage before it. So whatever is slowest is busy all the time, and that is
//! how a report names it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bitcoin::BlockHash;
use futures::{Stream, StreamExt, stream};
use tokio::sync::mpsc;

use super::IndexError;
use super::derive::{derive_inputs, derive_records};
use super::fetch::FetchedRun;
use crate::chain::{BlockWithPrevouts, ChainError};
use crate::curve::Engine;
use crate::store::watches::{BlockInputs, Watcher};
use crate::store::{BlockRecord, TweakForm};

/// Serialized bytes of the blocks that are derived together: some ten large blocks, whose transactions share out evenly
/// over many cores.
pub(super) const UNIT_BYTES: usize = 16 << 20;

/// Blocks derived together, or as many more as were fetched at once.
const UNIT_BLOCKS: usize = 500;

/// Units under way at a time, so that the next one fills the cores that the last chunks of one leave idle.
const UNITS_UNDER_WAY: usize = 2;

/// Serialized bytes of blocks that this stage may hold while it asks for more.
pub(super) const HELD_BYTES: usize = (UNITS_UNDER_WAY + 1) * UNIT_BYTES;

/// What limits a sync.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Getting blocks from the node and reading them.
    Fetch,
    /// Computing rows.
    Derive,
    /// Writing them.
    Commit,
}

impl std::fmt::Display for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Fetch => "fetch",
            Self::Derive => "derive",
            Self::Commit => "commit",
        })
    }
}

/// How long a stage has been at work, however many of its workers at once.
#[derive(Debug, Default)]
pub(super) struct BusyClock(Mutex<Busy>);

#[derive(Debug, Default)]
struct Busy {
    workers: u32,
    since: Option<Instant>,
    total: Duration,
}

/// A worker at work, until it is dropped.
pub(super) struct AtWork<'a>(&'a BusyClock);

impl BusyClock {
    pub(super) fn start(&self) -> AtWork<'_> {
        let mut busy = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        busy.workers += 1;
        busy.since.get_or_insert_with(Instant::now);
        AtWork(self)
    }

    /// Time at work since the last call.
    pub(super) fn take(&self) -> Duration {
        let mut busy = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let running = busy.since.map_or(Duration::ZERO, |since| since.elapsed());
        if busy.since.is_some() {
            busy.since = Some(Instant::now());
        }
        std::mem::take(&mut busy.total) + running
    }
}

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        let mut busy = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        busy.workers -= 1;
        if busy.workers == 0
            && let Some(since) = busy.since.take()
        {
            busy.total += since.elapsed();
        }
    }
}

/// The stage that held the others up while `elapsed` went by: the last one that was hardly ever idle.
pub(super) fn limiting_stage(elapsed: Duration, derive: Duration, commit: Duration) -> Stage {
    let busy = |time: Duration| time.as_secs_f64() > 0.8 * elapsed.as_secs_f64();
    match () {
        () if busy(commit) => Stage::Commit,
        () if busy(derive) => Stage::Derive,
        () => Stage::Fetch,
    }
}

/// What comes with the rows of blocks for what is watched.
pub(super) enum Carried {
    /// All inputs of each block.
    Inputs(Vec<BlockInputs>),
    /// Nothing was watched when the rows were derived.
    Nothing,
    /// There are no blocks to be had.
    RowsAlone,
}

/// Rows of consecutive blocks.
pub(super) struct Derived {
    pub(super) records: Vec<BlockRecord>,
    pub(super) carried: Carried,
    /// Serialized bytes of the blocks.
    pub(super) block_bytes: usize,
    /// Bytes of the rows, and of what comes with them.
    pub(super) row_bytes: usize,
}

/// Why no more blocks come.
#[derive(Debug)]
pub(super) enum End {
    /// There are no more.
    Complete,
    /// The next block is no child of the last. If the chain was reorganised meanwhile, the next look at the tip tells;
    /// a node whose blocks still do not link then is broken.
    Unlinked(ChainError),
    /// The source failed.
    Failed(ChainError),
    /// A worker failed.
    Broken(IndexError),
}

/// What rows are computed with.
#[derive(Clone)]
pub(super) struct Deriver {
    pub(super) engine: Arc<dyn Engine>,
    pub(super) tweak_form: TweakForm,
    pub(super) clock: Arc<BusyClock>,
    /// Says whether inputs are wanted, which may change at any moment.
    pub(super) watcher: Option<Arc<dyn Watcher>>,
}

/// Starts deriving what is fetched, in units of `unit_bytes` at most. The receiver gets the rows in height order, then
/// the end; a few units wait for it, and what it takes is for it to bound. Dropping it ends the task.
///
/// `parent` is the hash that the first block must name, if any is known.
pub(super) fn derive_ahead(
    deriver: Deriver,
    fetched: mpsc::Receiver<Result<FetchedRun, ChainError>>,
    parent: Option<BlockHash>,
    unit_bytes: usize,
) -> mpsc::Receiver<Result<Derived, End>> {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        let derived = units(fetched, parent, unit_bytes.min(UNIT_BYTES))
            .map(|unit| derive(deriver.clone(), unit))
            .buffered(UNITS_UNDER_WAY);
        let mut derived = std::pin::pin!(derived);
        while let Some(derived) = derived.next().await {
            if sender.send(derived).await.is_err() {
                return;
            }
        }
    });
    receiver
}

/// Blocks to be derived together, or the end.
type Unit = Result<Vec<FetchedRun>, End>;

/// Cuts the blocks into units: whatever is there, up to the size of a unit, so that nothing waits where blocks come
/// slowly. The last one is the end.
fn units(
    fetched: mpsc::Receiver<Result<FetchedRun, ChainError>>,
    parent: Option<BlockHash>,
    unit_bytes: usize,
) -> impl Stream<Item = Unit> {
    struct Source {
        fetched: mpsc::Receiver<Result<FetchedRun, ChainError>>,
        parent: Option<BlockHash>,
        end: Option<End>,
        ended: bool,
    }
    let source = Source {
        fetched,
        parent,
        end: None,
        ended: false,
    };
    stream::unfold(source, move |mut source| async move {
        if source.ended {
            return None;
        }
        let mut unit: Vec<FetchedRun> = Vec::new();
        let (mut bytes, mut blocks) = (0, 0);
        while source.end.is_none() && bytes < unit_bytes && blocks < UNIT_BLOCKS {
            let next = match unit.is_empty() {
                true => source.fetched.recv().await,
                false => match source.fetched.try_recv() {
                    Ok(next) => Some(next),
                    Err(mpsc::error::TryRecvError::Empty) => break,
                    Err(mpsc::error::TryRecvError::Disconnected) => None,
                },
            };
            match next {
                None => source.end = Some(End::Complete),
                Some(Err(error)) => source.end = Some(End::Failed(error)),
                Some(Ok(mut run)) => {
                    let linked = run.blocks.iter().take_while(|block| {
                        let parent = block.block.header().prev_blockhash;
                        let expected = source.parent.replace(block.id.hash);
                        expected.is_none_or(|expected| expected == parent)
                    });
                    let linked = linked.count();
                    if let Some(unlinked) = run.blocks.get(linked) {
                        let error = format!(
                            "the node's block {} does not follow the block before it",
                            unlinked.id
                        );
                        source.end = Some(End::Unlinked(ChainError::Mismatch(error)));
                        run.blocks.truncate(linked);
                    }
                    if !run.blocks.is_empty() {
                        bytes += run.size_bytes();
                        blocks += run.blocks.len();
                        unit.push(run);
                    }
                }
            }
        }
        if !unit.is_empty() {
            return Some((Ok(unit), source));
        }
        source.ended = true;
        let end = source.end.take().unwrap_or(End::Complete);
        Some((Err(end), source))
    })
}

/// Computes the rows of a unit and lets go of its blocks.
async fn derive(deriver: Deriver, unit: Unit) -> Result<Derived, End> {
    let unit = unit?;
    let derived = tokio::task::spawn_blocking(move || {
        let _at_work = deriver.clock.start();
        let block_bytes = unit.iter().map(FetchedRun::size_bytes).sum();
        // The shares of the fetch budget go with the blocks, after the rows are made.
        let (runs, _permits): (Vec<_>, Vec<_>) =
            unit.into_iter().map(FetchedRun::into_parts).unzip();
        let blocks: Vec<BlockWithPrevouts> = runs.into_iter().flatten().collect();
        let records = derive_records(deriver.engine.as_ref(), &blocks, deriver.tweak_form);
        let mut row_bytes = records.iter().map(BlockRecord::size_bytes).sum();
        let watcher = deriver.watcher.as_ref();
        let carried = match watcher.is_some_and(|watcher| watcher.wants_inputs()) {
            true => {
                let inputs = derive_inputs(&blocks);
                row_bytes += inputs.iter().map(BlockInputs::size_bytes).sum::<usize>();
                Carried::Inputs(inputs)
            }
            false => Carried::Nothing,
        };
        Derived {
            records,
            carried,
            block_bytes,
            row_bytes,
        }
    });
    derived
        .await
        .map_err(|error| End::Broken(IndexError::Worker(error.to_string())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_counts_time_with_any_worker_once() {
        let clock = BusyClock::default();
        assert_eq!(clock.take(), Duration::ZERO);
        let outer = Instant::now();
        let first = clock.start();
        let second = clock.start();
        let inner = Instant::now();
        while inner.elapsed() < Duration::from_millis(2) {}
        drop(first);
        let both = inner.elapsed();
        drop(second);
        let (taken, all) = (clock.take(), outer.elapsed());
        assert!(both <= taken && taken <= all, "{both:?} {taken:?} {all:?}");
        assert_eq!(clock.take(), Duration::ZERO);
        let _running = clock.start();
        assert!(clock.take() > Duration::ZERO);
    }

    #[test]
    fn the_last_busy_stage_limits() {
        let limit = |derive, commit| {
            let ms = Duration::from_millis;
            limiting_stage(ms(100), ms(derive), ms(commit))
        };
        assert_eq!(limit(10, 10), Stage::Fetch);
        assert_eq!(limit(95, 10), Stage::Derive);
        assert_eq!(limit(99, 99), Stage::Commit);
    }
}
