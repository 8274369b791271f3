//! [`Indexer`]: sync to the node's tip, then follow it.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use bitcoin::BlockHash;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::derive::derive_records;
use super::fetch::{FetchedBlock, fetch_blocks};
use super::patience::Patience;
use super::reorg::{Fork, find_fork};
use crate::BlockId;
use crate::chain::{BlockSource, ChainError};
use crate::curve::{Engine, EngineStatus};
use crate::runtime::Stop;
use crate::store::{BlockRecord, Snapshot, Store, StoreError, Update};

/// How an [`Indexer`] works; affects speed and memory, never the result.
#[derive(Debug, Clone)]
pub struct IndexSettings {
    /// Requests to the node under way at a time.
    pub in_flight: usize,
    /// Serialized bytes of fetched blocks held in memory (parsed they take about three times as much).
    pub budget_bytes: usize,
    /// Serialized bytes of blocks that one commit takes.
    pub batch_bytes: usize,
    /// Pause between two looks at the node's tip.
    pub poll_interval: Duration,
    /// How long a node that is away is waited for; `None` for ever.
    pub give_up_after: Option<Duration>,
}

impl Default for IndexSettings {
    fn default() -> Self {
        Self {
            in_flight: 8,
            budget_bytes: 256 << 20,
            batch_bytes: 64 << 20,
            poll_interval: Duration::from_secs(2),
            give_up_after: None,
        }
    }
}

/// Most blocks one commit takes, so that a chain of tiny blocks is committed now and then too.
const BATCH_BLOCKS: usize = 2_000;

/// Why indexing cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// The source of blocks failed.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The index file failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The node's chain parts from the index below the stored undo rows.
    #[error(
        "the node's chain parts from the index below height {lowest}, deeper than the index can undo (tip {tip}); \
         move the index file away and run `spindex sync` to build a new one"
    )]
    ReorgTooDeep {
        /// The index's tip.
        tip: BlockId,
        /// Lowest height that can be disconnected.
        lowest: u32,
    },
    /// A worker ended without a result.
    #[error("an indexing worker ended early: {0}; this is a bug, please report it")]
    Worker(String),
}

/// What one commit did.
#[derive(Debug, Clone, Copy)]
pub struct BatchReport {
    /// The index's tip after the commit; `None` if it became empty.
    pub tip: Option<BlockId>,
    /// Height this sync is heading for.
    pub target: u32,
    /// Blocks connected.
    pub blocks: usize,
    /// Blocks disconnected before that.
    pub disconnected: u32,
    /// Tweaks added.
    pub tweaks: usize,
    /// Serialized bytes of the connected blocks.
    pub bytes: usize,
    /// Since the commit before.
    pub elapsed: Duration,
}

/// Keeps an index equal to a source's active chain.
pub struct Indexer {
    store: Arc<Store>,
    source: Arc<dyn BlockSource>,
    engine: Arc<dyn Engine>,
    /// Whether it was said that the engine found itself wrong.
    engine_reported: AtomicBool,
    settings: IndexSettings,
    stop: Stop,
    on_batch: Box<dyn Fn(&BatchReport) + Send + Sync>,
}

impl Indexer {
    /// `on_batch` is called after each commit, from the indexing task.
    pub fn new(
        store: Arc<Store>,
        source: Arc<dyn BlockSource>,
        engine: Arc<dyn Engine>,
        settings: IndexSettings,
        stop: Stop,
        on_batch: impl Fn(&BatchReport) + Send + Sync + 'static,
    ) -> Self {
        Self {
            store,
            source,
            engine,
            engine_reported: AtomicBool::new(false),
            settings,
            stop,
            on_batch: Box::new(on_batch),
        }
    }

    /// Waits until the source answers and is the right one for the index.
    ///
    /// # Errors
    /// Wrong network, rejected credentials, a node that is too old, or one that stayed away for too long.
    pub async fn check_source(&self) -> Result<(), IndexError> {
        let network = self.snapshot().await?.network();
        let mut patience = self.patience();
        while !self.stop.is_requested() {
            match self.source.check(network).await {
                Ok(()) => break,
                Err(error) => patience.wait(error.into(), &self.stop).await?,
            }
        }
        Ok(())
    }

    /// Indexes up to the node's tip, or to `until` if that is lower, and returns the index's tip.
    ///
    /// Waits with backoff while the node is away. Returns early, with what is committed, when a stop is requested.
    ///
    /// # Errors
    /// Whatever a person has to mend: see [`IndexError`].
    pub async fn sync(&self, until: Option<u32>) -> Result<Option<BlockId>, IndexError> {
        let mut patience = self.patience();
        while !self.stop.is_requested() {
            match self.advance(until).await {
                Ok(Progress::AtTip) => break,
                Ok(Progress::Moved) => patience.over(),
                Ok(Progress::NodeBehind) => {
                    patience
                        .node_behind(&self.stop, self.settings.poll_interval)
                        .await
                }
                Err(error) => patience.wait(error, &self.stop).await?,
            }
        }
        Ok(self.snapshot().await?.tip())
    }

    /// Follows the node's tip until a stop is requested.
    ///
    /// # Errors
    /// Whatever a person has to mend: see [`IndexError`]. A node that is away is waited for.
    pub async fn follow(&self) -> Result<(), IndexError> {
        while !self.stop.is_requested() {
            self.sync(None).await?;
            self.stop.sleep(self.settings.poll_interval).await;
        }
        Ok(())
    }

    fn patience(&self) -> Patience {
        Patience::new(self.settings.give_up_after)
    }

    /// One look at the node's tip, and all the way there.
    async fn advance(&self, until: Option<u32>) -> Result<Progress, IndexError> {
        let snapshot = self.snapshot().await?;
        let node_tip = self.source.tip().await?;
        let mut disconnect = match find_fork(&snapshot, self.source.as_ref(), node_tip).await? {
            Fork::None => 0,
            Fork::Disconnect(depth) => depth,
            Fork::NodeBehind => return Ok(Progress::NodeBehind),
        };
        let first_height = snapshot.first_height();
        let next = snapshot
            .tip()
            .map_or(first_height, |tip| tip.height + 1 - disconnect);
        let mut parent = None;
        if next > first_height {
            parent = snapshot.block(next - 1)?.map(|block| block.id.hash);
        }
        // A snapshot keeps the pages of its commit alive; none may last through a sync.
        drop(snapshot);

        let target = node_tip.height.min(until.unwrap_or(u32::MAX));
        let mut started = Instant::now();
        if next > target {
            if disconnect == 0 {
                return Ok(Progress::AtTip);
            }
            let commit = self.spawn_commit(disconnect, Vec::new(), 0, target);
            self.report(commit, &mut started).await?;
            return Ok(Progress::Moved);
        }

        let mut fetched = fetch_blocks(
            self.source.clone(),
            next..=target,
            self.settings.in_flight,
            self.settings.budget_bytes,
            self.settings.batch_bytes,
        );
        // While one batch is being committed, the next one is computed and the one after that fetched.
        let mut committing: Option<Commit> = None;
        let mut moved = false;
        let mut end = BatchEnd::Full;
        while matches!(end, BatchEnd::Full) && !self.stop.is_requested() {
            let batch;
            (batch, end) = next_batch(&mut fetched, &mut parent, self.settings.batch_bytes).await;
            if batch.is_empty() {
                break;
            }
            moved = true;
            let (records, bytes) = self.derive(batch).await?;
            if let Some(commit) = committing.take() {
                self.report(commit, &mut started).await?;
            }
            committing =
                Some(self.spawn_commit(std::mem::take(&mut disconnect), records, bytes, target));
        }
        if let Some(commit) = committing {
            self.report(commit, &mut started).await?;
        }
        match end {
            BatchEnd::Failed(error) => Err(error.into()),
            BatchEnd::Unlinked(error) if !moved => Err(error.into()),
            BatchEnd::Full | BatchEnd::Complete | BatchEnd::Unlinked(_) => Ok(Progress::Moved),
        }
    }

    async fn snapshot(&self) -> Result<Snapshot, IndexError> {
        let store = self.store.clone();
        Ok(blocking(move || store.snapshot()).await??)
    }

    /// Computes the rows of a batch and lets go of its blocks.
    async fn derive(
        &self,
        batch: Vec<FetchedBlock>,
    ) -> Result<(Vec<BlockRecord>, usize), IndexError> {
        let engine = self.engine.clone();
        let with_multiples = self.store.has_multiples();
        blocking(move || {
            let bytes = batch.iter().map(|fetched| fetched.size_bytes).sum();
            // The permits go with `batch`, after the rows are made.
            let (blocks, permits): (Vec<_>, Vec<_>) =
                batch.into_iter().map(FetchedBlock::into_parts).unzip();
            let records = derive_records(engine.as_ref(), &blocks, with_multiples);
            drop((blocks, permits));
            (records, bytes)
        })
        .await
        .inspect(|_| {
            if self.engine.status().is_news(&self.engine_reported) {
                tracing::error!("{}", EngineStatus::BROKEN);
            }
        })
    }

    fn spawn_commit(
        &self,
        disconnect: u32,
        records: Vec<BlockRecord>,
        bytes: usize,
        target: u32,
    ) -> Commit {
        let store = self.store.clone();
        tokio::task::spawn_blocking(move || {
            let tip = store.apply(Update {
                disconnect,
                connect: &records,
            })?;
            Ok(BatchReport {
                tip,
                target,
                blocks: records.len(),
                disconnected: disconnect,
                tweaks: records.iter().map(|record| record.transactions.len()).sum(),
                bytes,
                elapsed: Duration::ZERO,
            })
        })
    }

    async fn report(&self, commit: Commit, started: &mut Instant) -> Result<(), IndexError> {
        let mut report = commit
            .await
            .map_err(|error| IndexError::Worker(error.to_string()))??;
        report.elapsed = started.elapsed();
        *started = Instant::now();
        (self.on_batch)(&report);
        Ok(())
    }
}

type Commit = JoinHandle<Result<BatchReport, IndexError>>;

enum Progress {
    AtTip,
    Moved,
    NodeBehind,
}

/// Why a batch ends where it does.
enum BatchEnd {
    /// It has the size of a batch; more may follow.
    Full,
    /// There are no more blocks.
    Complete,
    /// The next block is no child of the last. If the chain was reorganised meanwhile, the next look at the tip tells;
    /// a node whose blocks still do not link then is broken.
    Unlinked(ChainError),
    /// The source failed.
    Failed(ChainError),
}

/// Collects the next batch; `parent` is the hash the next block must name, if any is known.
async fn next_batch(
    fetched: &mut mpsc::Receiver<Result<FetchedBlock, ChainError>>,
    parent: &mut Option<BlockHash>,
    batch_bytes: usize,
) -> (Vec<FetchedBlock>, BatchEnd) {
    let mut batch: Vec<FetchedBlock> = Vec::new();
    let mut bytes = 0;
    while bytes < batch_bytes && batch.len() < BATCH_BLOCKS {
        match fetched.recv().await {
            None => return (batch, BatchEnd::Complete),
            Some(Err(error)) => return (batch, BatchEnd::Failed(error)),
            Some(Ok(next)) => {
                if parent.is_some_and(|parent| parent != next.block.block.header().prev_blockhash) {
                    let error = format!(
                        "the node's block {} does not follow the block before it",
                        next.block.id
                    );
                    return (batch, BatchEnd::Unlinked(ChainError::Mismatch(error)));
                }
                *parent = Some(next.block.id.hash);
                bytes += next.size_bytes;
                batch.push(next);
            }
        }
    }
    (batch, BatchEnd::Full)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, IndexError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| IndexError::Worker(error.to_string()))
}
