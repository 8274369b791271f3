//! Rows gathered for one commit, the commit, and what the time between two commits is spent on.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use super::IndexError;
use super::pipeline::{BusyClock, Carried, Derived};
use crate::store::watches::{BlockInputs, Inputs};
use crate::store::{Applied, BlockRecord, Store, StoreError, Update};

/// Longest time between the starts of two commits, as long as there is anything to commit: as much work as a crash may
/// lose.
const COMMIT_INTERVAL: Duration = Duration::from_secs(20);

/// What a commit did.
pub(super) struct Committed {
    pub(super) applied: Applied,
    pub(super) tweaks: usize,
    pub(super) bytes: usize,
}

pub(super) type Commit = JoinHandle<Result<Committed, StoreError>>;

/// What the commit did; to be asked once, with a commit.
pub(super) async fn wait_for(commit: &mut Option<Commit>) -> Result<Committed, IndexError> {
    match commit {
        Some(commit) => {
            let done = commit.await;
            Ok(done.map_err(|error| IndexError::Worker(error.to_string()))??)
        }
        None => std::future::pending().await,
    }
}

/// Rows for one commit.
#[derive(Default)]
pub(super) struct Batch {
    /// Blocks that go before these come.
    pub(super) disconnect: u32,
    /// Whether their locators are left for the end of the sync.
    pub(super) defer: bool,
    pub(super) records: Vec<BlockRecord>,
    /// Of the first blocks, or of all of them.
    inputs: Vec<BlockInputs>,
    /// Whether there are no blocks behind the rows.
    is_rows_alone: bool,
    block_bytes: usize,
    pub(super) row_bytes: usize,
}

impl Batch {
    /// No rows yet, to be written after so many blocks are disconnected.
    pub(super) fn after(disconnect: u32) -> Self {
        Self {
            disconnect,
            ..Self::default()
        }
    }

    pub(super) fn push(&mut self, rows: Derived) {
        match rows.carried {
            Carried::Inputs(inputs) if self.inputs.len() == self.records.len() => {
                self.inputs.extend(inputs);
            }
            Carried::Inputs(_) | Carried::Nothing => {}
            Carried::RowsAlone => self.is_rows_alone = true,
        }
        self.records.extend(rows.records);
        self.block_bytes += rows.block_bytes;
        self.row_bytes += rows.row_bytes;
    }

    fn inputs(&self) -> Inputs<'_> {
        match self.inputs.len() == self.records.len() {
            _ if self.is_rows_alone => Inputs::Rows,
            true => Inputs::All(&self.inputs),
            false => Inputs::NotCollected,
        }
    }

    /// Starts to write the rows.
    pub(super) fn commit(self, store: Arc<Store>, meter: &Meter) -> Commit {
        let clock = meter.commit.clone();
        tokio::task::spawn_blocking(move || {
            let _at_work = clock.start();
            let applied = match self.defer {
                true => store.extend_with(&self.records, self.inputs())?,
                false => {
                    let update = Update {
                        disconnect: self.disconnect,
                        connect: &self.records,
                    };
                    store.apply_with(update, self.inputs())?
                }
            };
            let tweaks = self.records.iter().map(|record| record.transactions.len());
            Ok(Committed {
                applied,
                tweaks: tweaks.sum(),
                bytes: self.block_bytes,
            })
        })
    }
}

/// What the time between two commits is spent on.
pub(super) struct Meter {
    started: Instant,
    derive: Arc<BusyClock>,
    commit: Arc<BusyClock>,
}

impl Meter {
    pub(super) fn new(derive: Arc<BusyClock>) -> Self {
        Self {
            started: Instant::now(),
            derive,
            commit: Arc::default(),
        }
    }

    /// Time until the next commit is due, however little there is to write.
    pub(super) fn due_in(&self) -> Duration {
        COMMIT_INTERVAL.saturating_sub(self.started.elapsed())
    }

    /// What happened since the last call.
    pub(super) fn lap(&mut self) -> Lap {
        let elapsed = self.started.elapsed();
        self.started = Instant::now();
        Lap {
            elapsed,
            deriving: self.derive.take(),
            committing: self.commit.take(),
        }
    }
}

/// Time between two commits, and how much of it rows were computed and written.
pub(super) struct Lap {
    pub(super) elapsed: Duration,
    pub(super) deriving: Duration,
    pub(super) committing: Duration,
}
