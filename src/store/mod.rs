//! The redb index file: schema, columns, writer, snapshots.
//!
//! [`Store`] is the open file and its only writer, [`Snapshot`] a view of one commit that any number of threads
//! read while the writer goes on. [`Store::apply`] takes an [`Update`] (a reorg, a batch of a sync, one block at the
//! tip) and commits all of it or nothing. [`schema`] has every table byte by byte.

mod applied;
mod bitmap;
pub mod block;
pub mod column;
mod content;
mod damaged;
mod digest;
mod error;
pub mod heads;
mod live;
mod locator;
mod lookup;
mod meta;
mod migrate;
mod opening;
mod plan;
mod position;
mod record;
mod replace;
mod scan;
pub mod schema;
pub mod sections;
mod selections;
pub mod snapshot;
mod space;
mod spenders;
pub mod states;
mod sums;
mod unfinished;
mod view;
mod walk;
pub mod watches;
mod writer;

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, RwLock, TryLockError};
use std::time::{Duration, Instant};

use bitcoin::Network;
use redb::{Database, ReadableDatabase};

pub use applied::Applied;
use applied::Listeners;
pub use block::{Block, CompressedTweak, RowFilter, Utxo};
pub use content::Audit;
pub use damaged::{Remains, remains};
pub use digest::{DIGEST_START, roll_digest};
use error::Fault;
pub use error::StoreError;
pub use heads::{Commitments, Heads, Texts};
pub use locator::Locating;
pub use lookup::EligibleTransaction;
use meta::Meta;
pub use meta::{Keep, TweakForm};
pub use position::{OutputPosition, SpendPosition, TxPosition};
pub use record::{BlockRecord, OutputRow, SpendRow, Spender, StateRow, TransactionRow, Update};
pub use replace::{begin_repair, give_up_repair, replace_damaged};
pub use scan::{ScanColumns, TransactionEntry, TweakBatch, TweakScan};
pub use sections::{Part, Sections};
pub use snapshot::{Counts, Snapshot};
pub use space::{Slack, Space, TableSpace};
pub use spenders::{AgreedSpends, BlockSpends};
pub use states::StateSpend;
pub use sums::Summed;
use sums::{Unsound, Watch};
pub use walk::WrongRow;
use watches::{Inputs, Watcher};

/// Name of the index file in the data directory.
pub const FILE_NAME: &str = "index.redb";

/// Deeper than any reorganisation that there has been.
const LEAST_HORIZON: u32 = 100;

/// What an index file is opened with.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// The chain the index is of; refused if the file says otherwise.
    pub network: Network,
    /// Height of the first block indexed; refused if the file says otherwise. `None` takes the file's, or the
    /// network's default for a new file ([`default_first_height`]).
    pub first_height: Option<u32>,
    /// What is kept of each block; refused if the file says otherwise. `None` takes the file's, or
    /// [`Keep::Full`] for a new file.
    pub keep: Option<Keep>,
    /// How tweaks are stored; refused if the file says otherwise. `None` takes the file's, or [`TweakForm::Point`] for
    /// a new file.
    pub tweak_form: Option<TweakForm>,
    /// How many of the last blocks one update may disconnect.
    pub undo_depth: u32,
    /// Cache of the storage engine in bytes.
    pub cache_bytes: usize,
}

/// Height from which an index starts unless told otherwise: taproot's activation on mainnet (709632) and testnet3
/// (2011968), 1 elsewhere.
pub fn default_first_height(network: Network) -> u32 {
    match network {
        Network::Bitcoin => 709_632,
        Network::Testnet => 2_011_968,
        _ => 1,
    }
}

/// The index file, open for reading and writing. One per file: another process that opens it is refused.
pub struct Store {
    /// Written to only while it is compacted.
    database: RwLock<Database>,
    file: Arc<Path>,
    meta: Arc<Meta>,
    undo_depth: u32,
    cache_bytes: usize,
    /// Where the outputs of each block start, for views to find a position's block by.
    starts: Mutex<Arc<Vec<u64>>>,
    writer: Mutex<WriterState>,
    /// What is done with pages that are not what was written.
    watch: Arc<Watch>,
    listeners: Listeners,
    /// Who keeps the log of what is watched.
    watcher: OnceLock<Arc<dyn Watcher>>,
}

impl Drop for Store {
    fn drop(&mut self) {
        // The engine may write when it is closed.
        self.watch.stop_reading();
    }
}

/// Whether the writer still takes work.
#[derive(Default)]
struct WriterState {
    /// Set when a commit failed: what it left in the engine's memory is not to be built upon.
    halted: bool,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store")
            .field("file", &self.file)
            .field("network", &self.meta.network)
            .field("first_height", &self.meta.first_height)
            .field("keep", &self.meta.keep)
            .field("tweak_form", &self.meta.tweak_form)
            .field("undo_depth", &self.undo_depth)
            .finish_non_exhaustive()
    }
}

impl Store {
    fn view(&self) -> Result<view::View, Fault> {
        let read = match self.database.try_read() {
            Ok(database) => database.begin_read()?,
            Err(TryLockError::WouldBlock) => {
                let file = self.file.to_path_buf();
                return Err(StoreError::Compacting { file }.into());
            }
            Err(TryLockError::Poisoned(_)) => return Err(self.halted().into()),
        };
        let starts = self.starts.lock().map_err(|_| self.halted())?.clone();
        view::View::new(
            read,
            Arc::clone(&self.meta),
            Arc::clone(&self.file),
            self.undo_depth,
            starts,
        )
    }

    fn halted(&self) -> StoreError {
        StoreError::Halted {
            file: self.file.to_path_buf(),
        }
    }

    /// Lets the engine write, unless it has been refused a page.
    fn start_writing(&self) -> Result<sums::Writing<'_>, StoreError> {
        let told = |unsound: Unsound| Fault::from(unsound).in_file(&self.file);
        self.watch.start_writing().map_err(told)
    }

    /// The index file.
    pub fn path(&self) -> &Path {
        &self.file
    }

    /// How many of the last blocks one update may disconnect.
    pub fn undo_depth(&self) -> u32 {
        self.undo_depth
    }

    /// How many of the last blocks a reorganisation may reach at most: what one update may disconnect, and 100 at least, as
    /// the index can be opened to disconnect more when a reorganisation asks for it.
    pub fn horizon(&self) -> u32 {
        self.undo_depth.max(LEAST_HORIZON)
    }

    /// What is kept of each block: with [`Keep::Tweaks`] a record's tweaks and multiples alone are looked at.
    pub fn keep(&self) -> Keep {
        self.meta.keep
    }

    /// How tweaks are stored: with [`TweakForm::PointAndMultiple`], records must come with multiples.
    pub fn tweak_form(&self) -> TweakForm {
        self.meta.tweak_form
    }

    /// A consistent view of the last commit.
    ///
    /// # Errors
    /// [`StoreError::Compacting`] while the file is being compacted; [`StoreError::Halted`] after a failure of the
    /// disk; [`StoreError::Corrupt`] if the last directory row is broken.
    pub fn snapshot(&self) -> Result<Snapshot, StoreError> {
        let view = self.view().map_err(|fault| fault.in_file(&self.file))?;
        Ok(Snapshot::new(view))
    }

    /// Applies an update in one durable transaction, all of it or nothing, and returns what it did, of which the
    /// [listeners](Self::on_applied) are told before.
    ///
    /// Everything is checked and computed before the first byte is written. Calls from several threads wait for
    /// each other. Spends of outpoints that the index does not hold as unspent (not eligible, or older than the
    /// first height) are recorded in full and change nothing else.
    ///
    /// # Errors
    /// [`StoreError::WrongStart`], [`StoreError::NotAChild`], [`StoreError::InvalidRecord`] and
    /// [`StoreError::UndoExhausted`] for an update that does not fit, [`StoreError::Corrupt`] for a file that does
    /// not: nothing was written and the store can go on. [`StoreError::DiskFull`] and the like when writing failed:
    /// the file holds either the state before or the state after, and the store takes no more updates
    /// ([`StoreError::Halted`]) until it is opened again. Reading may end with the same error from then on, since
    /// the engine touches the disk no more.
    pub fn apply(&self, update: Update<'_>) -> Result<Applied, StoreError> {
        self.apply_with(update, Inputs::Rows)
    }

    /// The same, with what is known of the inputs of the blocks beyond their rows, for whoever [watches](Self::set_watcher).
    ///
    /// # Errors
    /// [`StoreError::InputsWanted`]: nothing was written, and the store can go on. Else as [`apply`](Self::apply).
    pub fn apply_with(
        &self,
        update: Update<'_>,
        inputs: Inputs<'_>,
    ) -> Result<Applied, StoreError> {
        self.write(update, inputs, false)
    }

    /// Calls `listener` with each change of the chain from now on, as soon as snapshots show it and in that order; also, without
    /// blocks, when more is known of blocks there are ([`fill_spenders`](Self::fill_spenders)). It is waited for, and must
    /// not write to this store.
    pub fn on_applied(&self, listener: impl Fn(&Applied) + Send + Sync + 'static) {
        self.listeners.add(Box::new(listener));
    }

    /// Takes the writer's place, unless a failure ended its work.
    fn writer(&self) -> Result<MutexGuard<'_, WriterState>, StoreError> {
        match self.writer.lock() {
            Ok(writer) if !writer.halted => Ok(writer),
            _ => Err(self.halted()),
        }
    }

    fn write(
        &self,
        update: Update<'_>,
        inputs: Inputs<'_>,
        defer: bool,
    ) -> Result<Applied, StoreError> {
        let mut writer = self.writer()?;
        let watcher = self.active_watcher();
        if watcher.is_some_and(|watcher| watcher.wants_inputs())
            && matches!(inputs, Inputs::NotCollected)
            && !update.connect.is_empty()
        {
            let file = self.file.to_path_buf();
            return Err(StoreError::InputsWanted { file });
        }
        if !defer {
            self.locate_on(&mut writer, |_| true)?;
        }
        let told = |fault: Fault| fault.in_file(&self.file);
        let view = self.view().map_err(told)?;
        let plan = plan::Plan::new(&view, update, defer).map_err(told)?;
        drop(view);
        let applied = Applied::by(&plan);
        if plan.is_empty() {
            return Ok(applied);
        }
        let database = self.database.read().map_err(|_| self.halted())?;
        let _writing = self.start_writing()?;
        let following = watcher.map(|watcher| (Arc::clone(watcher), inputs));
        let committed = match writer::commit(&database, &plan, &self.file, following) {
            Ok(committed) => committed,
            Err(fault) => {
                writer.halted = true;
                return Err(told(fault));
            }
        };
        if plan.keep == Keep::Full {
            let mut starts = self.starts.lock().map_err(|_| self.halted())?;
            let starts = Arc::make_mut(&mut starts);
            starts.truncate(starts.len().saturating_sub(plan.disconnect.len()));
            starts.extend(plan.rows.iter().map(|row| row.outputs.first));
        }
        if let Some(committed) = committed {
            committed();
        }
        self.listeners.tell(&applied);
        Ok(applied)
    }

    /// Checks the checksum of every page of the file, and mends what the engine can mend (its own bookkeeping, never
    /// data). Complements [`Snapshot::content_hash`], which checks what the rows say. Reads the whole file. `true` if
    /// nothing was wrong.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if a page is broken; [`StoreError::Busy`] while a [`Snapshot`] is alive.
    pub fn check_pages(&mut self) -> Result<bool, StoreError> {
        let halted = self.halted();
        let watch = Arc::clone(&self.watch);
        let _writing = watch
            .start_writing()
            .map_err(|unsound| Fault::from(unsound).in_file(&self.file))?;
        let database = self.database.get_mut().map_err(|_| halted)?;
        database
            .check_integrity()
            .map_err(|error| Fault::from(error).in_file(&self.file))
    }

    /// Gives back slack at the end of a long sync and returns how many bytes that was (0 on a backend). Takes a while:
    /// it moves pages towards the file's start until the file cannot shrink further.
    ///
    /// Updates wait meanwhile, and new snapshots are refused with [`StoreError::Compacting`]. Snapshots that are alive
    /// are waited for, as long as `wait`.
    ///
    /// # Errors
    /// [`StoreError::Busy`] if a [`Snapshot`] is still alive then: nothing was changed. Else as [`apply`](Self::apply).
    pub fn compact(&self, wait: Duration) -> Result<u64, StoreError> {
        let mut writer = self.writer()?;
        let mut database = self.database.write().map_err(|_| self.halted())?;
        let _writing = self.start_writing()?;
        let before = self.file_bytes();
        let started = Instant::now();
        loop {
            match database.compact() {
                Ok(_) => return Ok(before.saturating_sub(self.file_bytes())),
                Err(redb::CompactionError::TransactionInProgress) if started.elapsed() < wait => {
                    std::thread::sleep(COMPACT_RETRY);
                }
                Err(error) => {
                    let error = Fault::from(error).in_file(&self.file);
                    writer.halted = !matches!(error, StoreError::Busy { .. });
                    return Err(error);
                }
            }
        }
    }

    /// Size of the file; 0 on a backend.
    fn file_bytes(&self) -> u64 {
        fs::metadata(&self.file).map_or(0, |metadata| metadata.len())
    }
}

/// How often compaction looks whether the snapshots it waits for are gone.
const COMPACT_RETRY: Duration = Duration::from_millis(20);
