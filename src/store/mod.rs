//! The redb index file: schema, columns, writer, snapshots.
//!
//! [`Store`] is the open file and its only writer, [`Snapshot`] a view of one commit that any number of threads
//! read while the writer goes on. [`Store::apply`] takes an [`Update`] (a reorg, a batch of a sync, one block at the
//! tip) and commits all of it or nothing. [`schema`] has every table byte by byte.

mod audit;
mod bitmap;
pub mod column;
mod content;
mod digest;
mod error;
mod live;
mod locator;
mod meta;
mod migrate;
mod plan;
mod record;
mod scan;
pub mod schema;
pub mod snapshot;
mod space;
mod view;
mod writer;

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, RwLock, TryLockError};
use std::time::{Duration, Instant};

use bitcoin::Network;
use redb::{Database, ReadableDatabase, StorageBackend};

use crate::BlockId;
pub use audit::WrongRow;
pub use digest::{DIGEST_START, roll_digest};
pub use error::StoreError;
use error::{Fault, explain_io};
pub use locator::Locating;
use meta::Meta;
pub use meta::{Keep, TweakForm};
pub use migrate::{repair_place, replace_damaged};
pub use record::{BlockRecord, OutputRow, SpendRow, TransactionRow, Update};
pub use scan::{ScanColumns, TransactionEntry, TweakBatch, TweakScan};
pub use snapshot::{BlockEntry, Counts, RowFilter, Snapshot, Utxo};
pub use space::{Space, TableSpace};

/// Name of the index file in the data directory.
pub const FILE_NAME: &str = "index.redb";

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
    /// Whether the multiple 2^64·T of each tweak is stored with it, 64 bytes that save a scan half of its doublings;
    /// refused if the file says otherwise. `None` takes the file's, or `false` for a new file. Needs
    /// [`TweakForm::Point`].
    pub multiples: Option<bool>,
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
}

/// What opening a file gives.
enum Opened {
    Ready(Store),
    /// A file of an older format.
    Older(Database, Meta),
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
            .field("multiples", &self.meta.multiples)
            .field("undo_depth", &self.undo_depth)
            .finish_non_exhaustive()
    }
}

impl Store {
    /// Opens or creates the index file, with its directory if that is missing.
    ///
    /// A file whose creation was cut short before its first commit is initialised. After a crash the file stands at
    /// its last commit. A file of an older format is migrated to this one first, in a new file beside it, which takes
    /// as long as writing all of it anew; the log says how far it is.
    ///
    /// # Errors
    /// [`StoreError::InUse`] if it is open elsewhere; [`StoreError::WrongNetwork`], [`StoreError::WrongFirstHeight`],
    /// [`StoreError::WrongKeep`], [`StoreError::WrongTweakForm`], [`StoreError::WrongMultiples`],
    /// [`StoreError::OlderSchema`] and [`StoreError::NewerSchema`] if it is another index than wanted;
    /// [`StoreError::MultiplesWithoutPoints`] for options that exclude each other; [`StoreError::MigrationFailed`] if it
    /// is of an older format and stays so; [`StoreError::NotAnIndex`] if it is none; [`StoreError::Damaged`] or
    /// [`StoreError::Corrupt`] if it is broken; else what the operating system says.
    pub fn open(path: &Path, options: &StoreOptions) -> Result<Self, StoreError> {
        if let Some(directory) = path.parent().filter(|path| !path.as_os_str().is_empty()) {
            fs::create_dir_all(directory)
                .map_err(|error| explain_io(error, "create the directory", directory))?;
        }
        migrate::finish_swap(path)?;
        Self::open_at(path, options)
    }

    /// Opens the index file if there is one.
    ///
    /// # Errors
    /// [`StoreError::Missing`] if there is none; else as [`open`](Self::open).
    pub fn open_existing(path: &Path, options: &StoreOptions) -> Result<Self, StoreError> {
        migrate::finish_swap(path)?;
        match fs::metadata(path) {
            Ok(_) => Self::open_at(path, options),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(StoreError::Missing { file: path.into() })
            }
            Err(error) => Err(explain_io(error, "open", path)),
        }
    }

    /// Opens or creates an index on a storage backend of the engine instead of a file: in memory, or one that fails
    /// on purpose.
    ///
    /// # Errors
    /// As [`open`](Self::open), but [`StoreError::OlderSchema`] for all older formats: there is no place for a new file.
    pub fn open_with_backend(
        backend: impl StorageBackend,
        options: &StoreOptions,
    ) -> Result<Self, StoreError> {
        let name = PathBuf::from(format!("{FILE_NAME} on a backend"));
        let opened = Self::build(&name, options, |builder| {
            builder.create_with_backend(backend)
        })?;
        match opened {
            Opened::Ready(store) => Ok(store),
            Opened::Older(_, meta) => Err(StoreError::OlderSchema {
                file: name,
                found: meta.version,
                expected: schema::SCHEMA_VERSION,
            }),
        }
    }

    fn open_at(path: &Path, options: &StoreOptions) -> Result<Self, StoreError> {
        refuse_unfinished(path)?;
        match Self::build(path, options, |builder| builder.create(path))? {
            Opened::Ready(store) => {
                migrate::clean_up(path);
                Ok(store)
            }
            Opened::Older(database, meta) => {
                migrate::migrate(path, database, &meta, options)?;
                match Self::build(path, options, |builder| builder.create(path))? {
                    Opened::Ready(store) => Ok(store),
                    Opened::Older(_, meta) => Err(StoreError::OlderSchema {
                        file: path.into(),
                        found: meta.version,
                        expected: schema::SCHEMA_VERSION,
                    }),
                }
            }
        }
    }

    fn build(
        file: &Path,
        options: &StoreOptions,
        open: impl FnOnce(&redb::Builder) -> Result<Database, redb::DatabaseError>,
    ) -> Result<Opened, StoreError> {
        let mut builder = Database::builder();
        builder.set_cache_size(options.cache_bytes);
        let name = file.display().to_string();
        builder.set_repair_callback(move |progress| {
            tracing::warn!(
                "{name} was not closed cleanly, checking it: {:.0} % done",
                100.0 * progress.progress()
            );
        });
        Self::prepare(open(&builder), file, options).map_err(|fault| match fault.in_file(file) {
            StoreError::Io { path, source, .. } => explain_io(source, "open", &path),
            StoreError::PermissionDenied { path, .. } => StoreError::PermissionDenied {
                action: "open",
                path,
            },
            error => error,
        })
    }

    fn prepare(
        database: Result<Database, redb::DatabaseError>,
        file: &Path,
        options: &StoreOptions,
    ) -> Result<Opened, Fault> {
        let database = database?;
        let meta = match Meta::load(&database.begin_read()?, file, options)? {
            Some(mut meta) if meta.version == meta::ALWAYS_LOCATED => {
                let mut write = database.begin_write()?;
                write.set_quick_repair(true);
                meta::raise_version(&write)?;
                write.commit()?;
                meta.version = schema::SCHEMA_VERSION;
                meta
            }
            Some(meta) if meta.version < schema::SCHEMA_VERSION => {
                return Ok(Opened::Older(database, meta));
            }
            Some(meta) => meta,
            None => {
                // As all commits: a process that ends before the first block leaves nothing to be checked either.
                let mut write = database.begin_write()?;
                write.set_quick_repair(true);
                let meta = Meta::create(&write, file, options)?;
                write.commit()?;
                meta
            }
        };
        let store = Self {
            database: RwLock::new(database),
            file: file.into(),
            meta: Arc::new(meta),
            undo_depth: options.undo_depth,
            cache_bytes: options.cache_bytes,
            starts: Mutex::default(),
            writer: Mutex::default(),
        };
        let view = store.view()?;
        view.check_ends()?;
        let starts = view.load_starts()?;
        if let Ok(mut place) = store.starts.lock() {
            *place = Arc::new(starts);
        }
        drop(view);
        Ok(Opened::Ready(store))
    }

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
            &read,
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

    /// The index file.
    pub fn path(&self) -> &Path {
        &self.file
    }

    /// How many of the last blocks one update may disconnect.
    pub fn undo_depth(&self) -> u32 {
        self.undo_depth
    }

    /// Whether each tweak is stored with its multiple, so that records must come with them.
    pub fn has_multiples(&self) -> bool {
        self.meta.multiples
    }

    /// What is kept of each block: with [`Keep::Tweaks`] a record's tweaks and multiples alone are looked at.
    pub fn keep(&self) -> Keep {
        self.meta.keep
    }

    /// How tweaks are stored.
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

    /// Applies an update in one durable transaction, all of it or nothing, and returns the new tip (`None` for an
    /// index without blocks).
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
    pub fn apply(&self, update: Update<'_>) -> Result<Option<BlockId>, StoreError> {
        self.write(update, false)
    }

    /// Takes the writer's place, unless a failure ended its work.
    fn writer(&self) -> Result<MutexGuard<'_, WriterState>, StoreError> {
        match self.writer.lock() {
            Ok(writer) if !writer.halted => Ok(writer),
            _ => Err(self.halted()),
        }
    }

    fn write(&self, update: Update<'_>, defer: bool) -> Result<Option<BlockId>, StoreError> {
        let mut writer = self.writer()?;
        if !defer {
            self.locate_on(&mut writer, |_| true)?;
        }
        let told = |fault: Fault| fault.in_file(&self.file);
        let view = self.view().map_err(told)?;
        let plan = plan::Plan::new(&view, update, defer).map_err(told)?;
        drop(view);
        if plan.is_empty() {
            return Ok(plan.tip());
        }
        let database = self.database.read().map_err(|_| self.halted())?;
        if let Err(fault) = writer::commit(&database, &plan) {
            writer.halted = true;
            return Err(told(fault));
        }
        if plan.keep == Keep::Full {
            let mut starts = self.starts.lock().map_err(|_| self.halted())?;
            let starts = Arc::make_mut(&mut starts);
            starts.truncate(starts.len().saturating_sub(plan.disconnect.len()));
            starts.extend(plan.rows.iter().map(|row| row.outputs.first));
        }
        Ok(plan.tip())
    }

    /// Checks the checksum of every page of the file, and mends what the engine can mend (its own bookkeeping, never
    /// data). Complements [`Snapshot::verify`], which checks what the rows say. Reads the whole file. `true` if
    /// nothing was wrong.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if a page is broken; [`StoreError::Busy`] while a [`Snapshot`] is alive.
    pub fn check_pages(&mut self) -> Result<bool, StoreError> {
        let halted = self.halted();
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

/// Length of a file that the engine has only just made, at most: it is 1 MiB and some pages.
const NEW_FILE_BYTES: u64 = 16 << 20;

/// The engine's files begin with a magic number of this length, in a header that lies in the first sector, and consist
/// of pages.
const MAGIC_BYTES: usize = 9;
const SECTOR_BYTES: usize = 512;
const PAGE_BYTES: u64 = 4096;

/// The engine writes its magic number after the rest of a new file's header is on disk. A file without it that has
/// nothing but zeros behind the header never held anything and is made anew. Any other cannot be told from one whose
/// start was overwritten, so it is not reused.
fn refuse_unfinished(path: &Path) -> Result<(), StoreError> {
    let mut start = [0; MAGIC_BYTES];
    let read = fs::File::open(path).and_then(|mut file| file.read_exact(&mut start));
    if read.is_err() || start != [0; MAGIC_BYTES] {
        return Ok(());
    }
    match empty_unfinished(path) {
        Ok(true) => Ok(()),
        Ok(false) => Err(StoreError::NotAnIndex {
            file: path.into(),
            reason: "its creation was cut short, or its start was overwritten".to_owned(),
        }),
        Err(error) => Err(explain_io(error, "open", path)),
    }
}

/// Empties a file that never held anything; `false` for one that may have.
fn empty_unfinished(path: &Path) -> io::Result<bool> {
    let mut file = fs::File::options().read(true).write(true).open(path)?;
    // Another process may be about to create it: opening it says so.
    match file.try_lock() {
        Ok(()) => {}
        Err(fs::TryLockError::WouldBlock) => return Ok(true),
        Err(fs::TryLockError::Error(error)) => return Err(error),
    }
    let len = file.metadata()?.len();
    if len > NEW_FILE_BYTES || !len.is_multiple_of(PAGE_BYTES) {
        return Ok(false);
    }
    let mut bytes = Vec::new();
    Read::take(&mut file, NEW_FILE_BYTES).read_to_end(&mut bytes)?;
    let is_zero = |bytes: Option<&[u8]>| bytes.is_some_and(|b| b.iter().all(|byte| *byte == 0));
    if !is_zero(bytes.get(..MAGIC_BYTES)) || !is_zero(bytes.get(SECTOR_BYTES..)) {
        return Ok(false);
    }
    tracing::warn!(
        "the creation of {} was cut short, it starts anew",
        path.display()
    );
    file.set_len(0)?;
    Ok(true)
}
