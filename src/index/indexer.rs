//! [`Indexer`]: sync to the node's tip, then follow it.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bitcoin::BlockHash;
use tokio::sync::mpsc;

use super::batch::{Batch, Commit, Committed, Lap, Meter, wait_for};
use super::fetch::fetch_blocks;
use super::patience::Patience;
use super::pipeline::{
    BusyClock, Derived, Deriver, End, HELD_BYTES, Stage, derive_ahead, limiting_stage,
};
use super::reorg::{Fork, find_fork};
use super::rows::{RowSource, rows_ahead};
use super::spenders::{Filled, Filling, Teller};
use crate::BlockId;
use crate::chain::{BlockSource, ChainError, Node, TipSignal};
use crate::curve::Engine;
use crate::runtime::Stop;
use crate::store::{Applied, Locating, Snapshot, Store, StoreError};

/// How an [`Indexer`] works; affects speed and memory, never the result.
#[derive(Debug, Clone)]
pub struct IndexSettings {
    /// Requests to the source under way at a time, each for as many blocks as it gives best together.
    pub in_flight: usize,
    /// Serialized bytes of fetched blocks held in memory.
    pub budget_bytes: usize,
    /// Bytes of rows that one commit takes. As many again are held for the next one.
    pub batch_bytes: usize,
    /// From how many missing blocks on a sync leaves the index's locators for its end ([`Store::extend`]).
    pub long_sync_blocks: u32,
    /// Pause between two looks at the node's tip.
    pub poll_interval: Duration,
    /// How long a node that is away, or not what it was, is waited for; `None` for ever.
    pub give_up_after: Option<Duration>,
}

impl Default for IndexSettings {
    fn default() -> Self {
        Self {
            in_flight: 8,
            budget_bytes: 128 << 20,
            batch_bytes: 96 << 20,
            long_sync_blocks: 2_000,
            poll_interval: Duration::from_secs(2),
            give_up_after: None,
        }
    }
}

/// Most blocks one commit takes, so that a chain of tiny blocks is committed now and then too.
const BATCH_BLOCKS: usize = 20_000;

/// How often a fork is looked at again until the node says the same twice.
const LOOKS_AT_A_FORK: usize = 5;

/// Why indexing cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// The source of blocks failed.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The index file failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The node's chain parts from the index below what may be disconnected.
    #[error(
        "the node's chain parts from the index below height {lowest}, deeper than it may undo (tip {tip}); \
         pass a larger --undo-depth, or move the index file away and run `spindex sync` to build a new one"
    )]
    ReorgTooDeep {
        /// The index's tip.
        tip: BlockId,
        /// Lowest height that can be disconnected.
        lowest: u32,
    },
    /// The node's chain has nothing in common with the index but the network.
    #[error(
        "the node is on another chain: at height {height} it has block {theirs} and does not know the index's {ours}; \
         check --network and the node's address (--node-url, --rpc-url, --upstream), or move the index file away and run `spindex sync` to build a new one",
        height = ours.height
    )]
    OtherChain {
        /// Lowest block of the index, above the genesis block.
        ours: BlockId,
        /// The node's in its place.
        theirs: BlockId,
    },
    /// A worker ended without a result.
    #[error("an indexing worker ended early: {0}; this is a bug, please report it")]
    Worker(String),
}

/// What one commit did.
#[derive(Debug, Clone)]
pub struct BatchReport {
    /// The change of the chain.
    pub applied: Applied,
    /// Height this sync is heading for.
    pub target: u32,
    /// Tweaks added.
    pub tweaks: usize,
    /// Serialized bytes of the connected blocks.
    pub bytes: usize,
    /// Since the commit before.
    pub elapsed: Duration,
    /// How much of that time rows were being computed.
    pub deriving: Duration,
    /// How much of it they were being written.
    pub committing: Duration,
    /// The stage that held up the others meanwhile.
    pub limit: Stage,
}

/// Keeps an index equal to a source's active chain.
pub struct Indexer {
    store: Arc<Store>,
    source: Arc<dyn BlockSource>,
    node: Option<Arc<dyn Node>>,
    /// Instead of the source's blocks.
    rows: Option<Arc<dyn RowSource>>,
    engine: Arc<dyn Engine>,
    /// Whether the node has proved to be the right one: what goes wrong from then on is waited out.
    is_settled: AtomicBool,
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
            node: None,
            rows: None,
            engine,
            is_settled: AtomicBool::new(false),
            settings,
            stop,
            on_batch: Box::new(on_batch),
        }
    }

    /// Has the node asked whether it calls the index's last blocks invalid, where its chain ends below them: they then go
    /// before there are others in their place. Nobody but a node can tell.
    pub fn with_node(mut self, node: Arc<dyn Node>) -> Self {
        self.node = Some(node);
        self
    }

    /// Takes the rows of blocks from somebody who has them; the source then only says what the chain looks like.
    pub fn with_rows(mut self, rows: Arc<dyn RowSource>) -> Self {
        self.rows = Some(rows);
        self
    }

    /// Waits until the source answers and is the right one for the index.
    ///
    /// # Errors
    /// Wrong network, rejected credentials, a node that is too old, or one that stayed away for too long.
    pub async fn check_source(&self) -> Result<(), IndexError> {
        let network = self.snapshot().await?.network();
        let mut patience = self.patience();
        while !self.stop.is_requested() {
            patience.begin();
            match self.stop.unless(self.source.check(network)).await {
                Some(Ok(())) | None => break,
                Some(Err(error)) => patience.wait(error.into(), &self.stop).await?,
            }
        }
        Ok(())
    }

    /// Indexes up to the node's tip, or to `until` if that is lower, and returns the index's tip.
    ///
    /// Waits with backoff while the node is away, and once its chain was found to be the index's also while it refuses,
    /// answers wrongly or is on another chain. Returns early, with what is committed, when a stop is requested.
    ///
    /// # Errors
    /// Whatever a person has to mend, and what did not pass in the time it had: see [`IndexError`].
    pub async fn sync(&self, until: Option<u32>) -> Result<Option<BlockId>, IndexError> {
        self.sync_patiently(until, &mut self.patience()).await
    }

    /// Fills in who spends what in blocks that were indexed before that was kept, from the top down, as far as the source has
    /// these blocks, or whoever gives rows knows it, and returns the index's tip. Between any two batches it looks for new blocks, as [`Indexer::sync`]
    /// does.
    ///
    /// What the source does not give is logged, and no error. Returns early when a stop is requested.
    ///
    /// # Errors
    /// [`StoreError::OtherSpends`] where the index has other spends than the source's block; else as for [`Indexer::sync`].
    pub async fn fill_spenders(&self, until: Option<u32>) -> Result<Option<BlockId>, IndexError> {
        let mut filling = self.filling();
        let mut tip = self.snapshot().await?.tip();
        while !self.stop.is_requested() {
            match self.stop.unless(filling.step()).await {
                Some(Ok(Filled::Some)) => tip = self.sync(until).await?,
                Some(Ok(Filled::All | Filled::Lacking)) | None => break,
                Some(Err(error)) => return Err(error),
            }
        }
        Ok(tip)
    }

    fn filling(&self) -> Filling {
        let teller = match &self.rows {
            Some(rows) => Teller::Rows(rows.clone()),
            // So that what is asked about the tip finds a place.
            None => Teller::Blocks(self.source.clone(), self.settings.in_flight / 2),
        };
        Filling::new(self.store.clone(), teller, self.source.describe())
    }

    /// Follows the node's tip until a stop is requested: looks after each poll interval, and when `signal` says so. Meanwhile
    /// it [fills in](Indexer::fill_spenders) what old blocks lack, in batches that no look at the tip waits for; one that
    /// differs ends that, with an error in the log.
    ///
    /// # Errors
    /// As for [`Indexer::sync`].
    pub async fn follow(&self, signal: Option<&TipSignal>) -> Result<(), IndexError> {
        let mut patience = self.patience();
        let mut filling = self.filling();
        while !self.stop.is_requested() {
            self.sync_patiently(None, &mut patience).await?;
            let signalled = async {
                match signal {
                    Some(signal) => signal.changed().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = self.stop.sleep(self.settings.poll_interval) => {}
                () = signalled => {}
                filled = filling.step() => match filled {
                    // Of old blocks, which are no reason to let go of new ones.
                    Err(IndexError::Store(
                        error @ (StoreError::OtherSpends { .. }
                        | StoreError::Corrupt { .. }
                        | StoreError::InvalidRecord { .. }),
                    )) => tracing::error!("{error}; until then the index goes on as it is"),
                    filled => drop(filled?),
                },
            }
        }
        Ok(())
    }

    async fn sync_patiently(
        &self,
        until: Option<u32>,
        patience: &mut Patience,
    ) -> Result<Option<BlockId>, IndexError> {
        // Whether the node may be another one than before.
        let mut in_doubt = false;
        while !self.stop.is_requested() {
            patience.begin();
            match self.look(until, in_doubt).await {
                Ok(Progress::AtTip) => {
                    self.settle(patience);
                    patience.over();
                    // Those of a sync that was stopped before it came to that.
                    self.locate_rest().await?;
                    break;
                }
                Ok(Progress::Moved) => {
                    self.settle(patience);
                    patience.over();
                    in_doubt = false;
                }
                Ok(Progress::Interrupted(error)) => {
                    self.settle(patience);
                    patience.progress();
                    in_doubt = true;
                    patience.wait(error.into(), &self.stop).await?;
                }
                Ok(Progress::NodeBehind(tip)) => {
                    let error = ChainError::NotAvailable(format!(
                        "the node's chain ends below the index's tip {tip} and has no other block in its place; the index keeps its blocks until the node has caught up or calls them invalid (it is asked by RPC, if there are credentials)"
                    ));
                    patience.wait(error.into(), &self.stop).await?;
                }
                Ok(Progress::Stopped) => break,
                Err(error) => {
                    in_doubt = true;
                    patience.wait(error, &self.stop).await?;
                }
            }
        }
        Ok(self.snapshot().await?.tip())
    }

    fn patience(&self) -> Patience {
        let is_settled = self.is_settled.load(Ordering::Relaxed);
        Patience::new(self.settings.give_up_after, is_settled)
    }

    /// Notes that the node's chain is the index's.
    fn settle(&self, patience: &mut Patience) {
        self.is_settled.store(true, Ordering::Relaxed);
        patience.settle();
    }

    /// [`Indexer::advance`], after another check of the node where it may have become another one.
    async fn look(&self, until: Option<u32>, in_doubt: bool) -> Result<Progress, IndexError> {
        if in_doubt && self.is_settled.load(Ordering::Relaxed) {
            let network = self.snapshot().await?.network();
            match self.stop.unless(self.source.check(network)).await {
                Some(checked) => checked?,
                None => return Ok(Progress::Stopped),
            }
        }
        self.advance(until).await
    }

    /// One look at the node's tip, and all the way there.
    async fn advance(&self, until: Option<u32>) -> Result<Progress, IndexError> {
        let snapshot = self.snapshot().await?;
        let Some(agreed) = self.stop.unless(self.agreed_fork(&snapshot)).await else {
            return Ok(Progress::Stopped);
        };
        let (node_tip, fork) = agreed?;
        let disconnect = match fork {
            Fork::None => 0,
            Fork::Disconnect(depth) => depth,
            Fork::NodeBehind => {
                return Ok(match snapshot.tip() {
                    Some(tip) if until.is_none_or(|until| until > tip.height) => {
                        Progress::NodeBehind(tip)
                    }
                    _ => Progress::AtTip,
                });
            }
        };
        let first_height = snapshot.first_height();
        let next = snapshot
            .tip()
            .map_or(first_height, |tip| tip.height + 1 - disconnect);
        let mut parent = None;
        if next > first_height {
            parent = snapshot.block(next - 1)?.map(|block| block.id().hash);
        }
        // A snapshot keeps the pages of its commit alive; none may last through a sync.
        drop(snapshot);

        let target = node_tip.height.min(until.unwrap_or(u32::MAX));
        if next > target {
            if disconnect == 0 {
                return Ok(Progress::AtTip);
            }
            let mut meter = Meter::new(Arc::default());
            let batch = Batch::after(disconnect);
            let commit = batch.commit(self.store.clone(), &meter);
            let done = wait_for(&mut Some(commit)).await?;
            self.report(done, target, &mut meter);
            return Ok(Progress::Moved);
        }

        let heights = next..=target;
        let wanted = (target - next) as usize + 1;
        let (rows, ended) = match self.write_ahead(heights, parent, disconnect).await {
            // Something is watched since they were derived, which is done again.
            Err(IndexError::Store(StoreError::InputsWanted { .. })) => return Ok(Progress::Moved),
            written => written?,
        };
        if matches!(ended, End::Complete | End::Unlinked(_)) {
            self.locate_rest().await?;
        }
        match ended {
            End::Broken(error) => Err(error),
            End::Failed(error) if rows > 0 => Ok(Progress::Interrupted(error)),
            End::Failed(error) => Err(error.into()),
            End::Unlinked(error) if rows == 0 => Err(error.into()),
            End::Complete if rows < wanted && !self.stop.is_requested() => {
                Err(IndexError::Worker("not all blocks came".to_owned()))
            }
            End::Complete | End::Unlinked(_) => Ok(Progress::Moved),
        }
    }

    /// The node's tip, and what it means for the index's. Blocks are disconnected only where the node, checked again, says
    /// the same twice: one wrong answer, or one of another node in its place, is no reason.
    async fn agreed_fork(&self, snapshot: &Snapshot) -> Result<(BlockId, Fork), IndexError> {
        let (source, node) = (self.source.as_ref(), self.node.as_deref());
        let look = async || -> Result<(BlockId, Fork), IndexError> {
            let tip = source.tip().await?;
            Ok((tip, find_fork(snapshot, source, node, tip).await?))
        };
        let mut before = look().await?;
        for _ in 0..LOOKS_AT_A_FORK {
            if !matches!(before.1, Fork::Disconnect(_)) {
                return Ok(before);
            }
            source.check(snapshot.network()).await?;
            let now = look().await?;
            let (old, tip) = (before.0, now.0);
            let is_same = now.1 == before.1
                && match tip.height > old.height {
                    // It has gone on meanwhile.
                    true => source.block_at(old.height).await? == Some(old),
                    false => tip == old,
                };
            if is_same {
                return Ok(now);
            }
            before = now;
        }
        let text = "the node names another chain each time it is asked; is it one node?";
        Err(ChainError::NotAvailable(text.to_owned()).into())
    }

    /// Writes the locators that a long sync has left.
    async fn locate_rest(&self) -> Result<(), IndexError> {
        let (store, stop) = (self.store.clone(), self.stop.clone());
        let located = blocking(move || {
            store.locate_rest(|Locating { outputs, of }| {
                tracing::info!("locating unspent outputs: {outputs} of {of} outputs done");
                !stop.is_requested()
            })
        });
        Ok(located.await??)
    }

    /// Fetches, derives and commits blocks, all at the same time; gives the number of blocks committed and why there are
    /// no more. After a stop that is whatever was derived by then.
    async fn write_ahead(
        &self,
        heights: RangeInclusive<u32>,
        parent: Option<BlockHash>,
        disconnect: u32,
    ) -> Result<(usize, End), IndexError> {
        let target = *heights.end();
        let is_long = heights.clone().count() >= self.settings.long_sync_blocks as usize;
        let clock = Arc::default();
        let mut derived = match &self.rows {
            Some(rows) => {
                let below = self.snapshot().await?;
                rows_ahead(rows.clone(), below, heights, parent, Arc::clone(&clock))
            }
            None => self.derive(heights, parent, Arc::clone(&clock)),
        };
        let mut meter = Meter::new(clock);
        let mut gathered = Batch::after(disconnect);
        let mut committing: Option<Commit> = None;
        let mut committed = 0;
        let mut end = None;
        loop {
            if committing.is_none()
                && !gathered.records.is_empty()
                && (end.is_some() || self.is_due(&gathered, &meter))
            {
                let mut batch = std::mem::take(&mut gathered);
                batch.defer = is_long && batch.disconnect == 0;
                committed += batch.records.len();
                committing = Some(batch.commit(self.store.clone(), &meter));
            }
            if end.is_some() && committing.is_none() {
                break;
            }
            // Enough is gathered for the next commit while the one before is still being written.
            let full = gathered.row_bytes >= self.settings.batch_bytes;
            let due = meter.due_in();
            tokio::select! {
                done = wait_for(&mut committing), if committing.is_some() => {
                    committing = None;
                    self.report(done?, target, &mut meter);
                }
                next = derived.recv(), if end.is_none() && !full => match next {
                    Some(Ok(rows)) => gathered.push(rows),
                    Some(Err(reason)) => end = Some(reason),
                    None => end = Some(End::Complete),
                },
                () = self.stop.requested(), if end.is_none() => end = Some(End::Complete),
                () = tokio::time::sleep(due), if committing.is_none() && !gathered.records.is_empty() => {}
            }
        }
        Ok((committed, end.unwrap_or(End::Complete)))
    }

    /// Rows of the source's blocks.
    fn derive(
        &self,
        heights: RangeInclusive<u32>,
        parent: Option<BlockHash>,
        clock: Arc<BusyClock>,
    ) -> mpsc::Receiver<Result<Derived, End>> {
        let fetched = fetch_blocks(
            self.source.clone(),
            heights,
            self.settings.in_flight,
            self.settings.budget_bytes,
            HELD_BYTES,
        );
        let deriver = Deriver {
            engine: self.engine.clone(),
            tweak_form: self.store.tweak_form(),
            clock,
            watcher: self.store.watcher(),
        };
        derive_ahead(deriver, fetched, parent, self.settings.batch_bytes)
    }

    /// Whether to commit now, though more is to come.
    fn is_due(&self, gathered: &Batch, meter: &Meter) -> bool {
        gathered.row_bytes >= self.settings.batch_bytes
            || gathered.records.len() >= BATCH_BLOCKS
            || meter.due_in().is_zero()
    }

    async fn snapshot(&self) -> Result<Snapshot, IndexError> {
        let store = self.store.clone();
        Ok(blocking(move || store.snapshot()).await??)
    }

    fn report(&self, done: Committed, target: u32, meter: &mut Meter) {
        let Lap {
            elapsed,
            deriving,
            committing,
        } = meter.lap();
        (self.on_batch)(&BatchReport {
            applied: done.applied,
            target,
            tweaks: done.tweaks,
            bytes: done.bytes,
            elapsed,
            deriving,
            committing,
            limit: limiting_stage(elapsed, deriving, committing),
        });
    }
}

enum Progress {
    AtTip,
    Moved,
    /// Moved, and then the source failed.
    Interrupted(ChainError),
    /// The node's chain ends below the index's tip, which is this.
    NodeBehind(BlockId),
    /// A stop was requested before the node had answered.
    Stopped,
}

/// Runs work that blocks off the async workers.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, IndexError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| IndexError::Worker(error.to_string()))
}
