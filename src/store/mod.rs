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
mod plan;
mod position;
mod record;
mod replace;
mod scan;
pub mod schema;
pub mod sections;
pub mod snapshot;
mod space;
mod spenders;
pub mod states;
mod sums;
mod view;
mod walk;
mod writer;

use std::fs;
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, RwLock, TryLockError};
use std::time::{Duration, Instant};

use bitcoin::Network;
use redb::backends::FileBackend;
use redb::{Database, ReadableDatabase, StorageBackend};

pub use applied::Applied;
use applied::Listeners;
pub use block::{Block, CompressedTweak, RowFilter, Utxo};
pub use content::Audit;
pub use damaged::{Remains, remains};
pub use digest::{DIGEST_START, roll_digest};
pub use error::StoreError;
use error::{Fault, explain_io};
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
}

impl Drop for Store {
    fn drop(&mut self) {
        // The engine may write when it is closed.
        self.watch.stop_reading();
    }
}

/// A database, and the watch over its pages; a file of an older format has no sums to be watched.
type Watched = (Database, Option<Arc<Watch>>);

/// What an opening asks of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Demand {
    /// That it can be served and written to.
    Sound,
    /// That it can be read, to be checked.
    Readable,
}

/// What opening a file gives.
enum Opened {
    /// With what had to be corrected in memory.
    Ready(Store, Vec<WrongRow>),
    /// A file of an older format.
    Older(Database, Meta),
    /// A file without sums that holds nothing.
    Blank(Database),
}

impl Opened {
    /// What can be worked with as it is.
    fn ready(self, file: &Path) -> Result<(Store, Vec<WrongRow>), StoreError> {
        let file = file.to_path_buf();
        match self {
            Self::Ready(store, wrong) => Ok((store, wrong)),
            Self::Older(_, meta) => Err(StoreError::OlderSchema {
                file,
                found: meta.version,
                expected: schema::SCHEMA_VERSION,
            }),
            Self::Blank(_) => Err(StoreError::NotAnIndex {
                file,
                reason: "its pages have no sums".to_owned(),
            }),
        }
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
    /// Opens or creates the index file, with its directory if that is missing.
    ///
    /// A file whose creation was cut short before its first commit is initialised. After a crash the file stands at
    /// its last commit. A file of an older format is migrated to this one first, in a new file beside it, which takes
    /// as long as writing all of it anew; the log says how far it is.
    ///
    /// # Errors
    /// [`StoreError::InUse`] if it is open elsewhere; [`StoreError::WrongNetwork`], [`StoreError::WrongFirstHeight`],
    /// [`StoreError::WrongKeep`], [`StoreError::WrongTweakForm`], [`StoreError::OlderSchema`] and
    /// [`StoreError::NewerSchema`] if it is another index than wanted; [`StoreError::MigrationFailed`] if it is of an
    /// older format and stays so; [`StoreError::NotAnIndex`] if it is none; [`StoreError::Damaged`] or
    /// [`StoreError::Corrupt`] if it is broken; else what the operating system says.
    pub fn open(path: &Path, options: &StoreOptions) -> Result<Self, StoreError> {
        if let Some(directory) = path.parent().filter(|path| !path.as_os_str().is_empty()) {
            fs::create_dir_all(directory)
                .map_err(|error| explain_io(error, "create the directory", directory))?;
        }
        let file = replace::followed(path)?;
        replace::finish_swap(&file)?;
        Ok(Self::open_at(&file, options, Demand::Sound)?.0)
    }

    /// Opens the index file if there is one.
    ///
    /// # Errors
    /// [`StoreError::Missing`] if there is none; else as [`open`](Self::open).
    pub fn open_existing(path: &Path, options: &StoreOptions) -> Result<Self, StoreError> {
        let file = replace::followed(path)?;
        replace::finish_swap(&file)?;
        match fs::metadata(&file) {
            Ok(_) => Ok(Self::open_at(&file, options, Demand::Sound)?.0),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(StoreError::Missing { file })
            }
            Err(error) => Err(explain_io(error, "open", &file)),
        }
    }

    /// Opens or creates an index on a storage backend of the engine instead of a file: in memory, or one that fails
    /// on purpose.
    ///
    /// # Errors
    /// As [`open`](Self::open), but [`StoreError::NotAnIndex`] for all older formats: there is no place for a new file.
    pub fn open_with_backend(
        backend: impl StorageBackend,
        options: &StoreOptions,
    ) -> Result<Self, StoreError> {
        let name = PathBuf::from(format!("{FILE_NAME} on a backend"));
        let summed = Summed::new(backend, name.display().to_string());
        let opened = Self::build_with(&name, options, Demand::Sound, |builder| {
            open_summed(builder, summed)
        })?;
        Ok(opened.ready(&name)?.0)
    }

    fn open_at(
        path: &Path,
        options: &StoreOptions,
        demand: Demand,
    ) -> Result<(Self, Vec<WrongRow>), StoreError> {
        refuse_unfinished(path)?;
        let build = || Self::build(path, options, demand);
        let opened = match build()? {
            Opened::Blank(database) => {
                drop(database);
                empty_blank(path)?;
                build()?
            }
            opened => opened,
        };
        if let Opened::Older(database, meta) = opened {
            migrate::migrate(path, database, &meta, options)?;
            return build()?.ready(path);
        }
        let ready = opened.ready(path)?;
        if demand == Demand::Sound {
            replace::clean_up(path);
        }
        Ok(ready)
    }

    fn build(file: &Path, options: &StoreOptions, demand: Demand) -> Result<Opened, StoreError> {
        Self::build_with(file, options, demand, |builder| open_file(builder, file))
    }

    fn build_with(
        file: &Path,
        options: &StoreOptions,
        demand: Demand,
        open: impl FnOnce(&redb::Builder) -> Result<Watched, redb::DatabaseError>,
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
        let prepared = Self::prepare(open(&builder), file, options, demand);
        prepared.map_err(|fault| match fault.in_file(file) {
            StoreError::Io { path, source, .. } => explain_io(source, "open", &path),
            StoreError::PermissionDenied { path, .. } => StoreError::PermissionDenied {
                action: "open",
                path,
            },
            error => error,
        })
    }

    fn prepare(
        watched: Result<Watched, redb::DatabaseError>,
        file: &Path,
        options: &StoreOptions,
        demand: Demand,
    ) -> Result<Opened, Fault> {
        let (database, watch) = watched?;
        let found = Meta::load(&database.begin_read()?, file, options, demand)?;
        let Some(watch) = watch else {
            return match found {
                Some(meta) if meta.version < schema::SCHEMA_VERSION => {
                    meta.check(file, options)?;
                    Ok(Opened::Older(database, meta))
                }
                Some(_) => Err(StoreError::NotAnIndex {
                    file: file.into(),
                    reason: "its pages have no sums".to_owned(),
                }
                .into()),
                None => Ok(Opened::Blank(database)),
            };
        };
        let mut meta = match found {
            Some(meta) if meta.version < meta::WITH_SUMS => {
                let reason = format!("format {} in a file with sums", meta.version);
                return Err(Fault::row("meta", "schema", reason));
            }
            Some(meta) if meta.version < schema::SCHEMA_VERSION => {
                meta.check(file, options)?;
                return Ok(Opened::Older(database, meta));
            }
            Some(meta) => meta,
            None => {
                // As all commits: a process that ends before the first block leaves nothing to be checked either.
                let _writing = watch.start_writing()?;
                let mut write = database.begin_write()?;
                write.set_quick_repair(true);
                let meta = Meta::create(&write, options)?;
                write.commit()?;
                meta
            }
        };
        let wrong = match demand {
            Demand::Sound => None,
            Demand::Readable => {
                damaged::correct_first_height(database.begin_read()?, &mut meta, file)?
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
            watch,
            listeners: Listeners::default(),
        };
        let view = store.view()?;
        view.open_tables()?;
        if demand == Demand::Sound {
            // First of all, as it says of `meta` whether it is to be believed.
            damaged::check_heights(&view)?;
        }
        store.meta.check(file, options)?;
        match demand {
            Demand::Sound => view.check_ends()?,
            Demand::Readable => damaged::check_tip(&view)?,
        }
        let starts = view.load_starts()?;
        if let Ok(mut place) = store.starts.lock() {
            *place = Arc::new(starts);
        }
        drop(view);
        Ok(Opened::Ready(store, wrong.into_iter().collect()))
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
        self.write(update, false)
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

    fn write(&self, update: Update<'_>, defer: bool) -> Result<Applied, StoreError> {
        let mut writer = self.writer()?;
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

/// Length of a file that the engine has only just made, at most: it is 1 MiB and some pages.
const NEW_FILE_BYTES: u64 = 16 << 20;

/// What a disk writes in one piece.
const SECTOR_BYTES: usize = 512;

/// Opens or creates a database whose pages have sums. What a crash has left of a commit that was not its last may be
/// looked at, so pages are refused as while reading; what was refused then is of no commit that counts.
fn open_summed<B: StorageBackend>(
    builder: &redb::Builder,
    summed: Summed<B>,
) -> Result<Watched, redb::DatabaseError> {
    let watch = summed.watch();
    watch.start_reading();
    let database = builder.create_with_backend(summed)?;
    watch.start_reading();
    Ok((database, Some(watch)))
}

/// Opens or creates a file, whichever it is.
fn open_file(builder: &redb::Builder, path: &Path) -> Result<Watched, redb::DatabaseError> {
    let io = redb::StorageError::from;
    let file = sums::open_file(path).map_err(io)?;
    let opened = file.metadata().map_err(io)?;
    let is_plain = is_plain(&file);
    let backend = FileBackend::new(file)?;
    let watched = match is_plain {
        true => (builder.create_with_backend(backend)?, None),
        false => open_summed(builder, Summed::new(backend, path.display().to_string()))?,
    };
    // It is locked now. If another process has put a new file in its place before that, this is the old one.
    match fs::metadata(path) {
        Ok(named) if is_same_file(&opened, &named) => Ok(watched),
        Ok(_) => Err(redb::DatabaseError::DatabaseAlreadyOpen),
        Err(error) => Err(io(error).into()),
    }
}

#[cfg(unix)]
fn is_same_file(a: &fs::Metadata, b: &fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

/// Where there are no numbers of files to compare, a file that is open cannot be renamed either.
#[cfg(not(unix))]
fn is_same_file(_: &fs::Metadata, _: &fs::Metadata) -> bool {
    true
}

/// Whether a file is the engine's own, without sums, as those of older formats are.
fn is_plain(mut file: &fs::File) -> bool {
    let mut start = sums::ENGINE_MAGIC.map(|_| 0);
    file.read_exact(&mut start).is_ok() && start == sums::ENGINE_MAGIC
}

/// The first bytes of both places where a file has its head; zeros where it is shorter.
fn starts(file: &mut fs::File) -> io::Result<[[u8; sums::HEAD_BYTES]; 2]> {
    let mut starts = [[0; sums::HEAD_BYTES]; 2];
    for (page, start) in (0_u64..).zip(&mut starts) {
        file.seek(io::SeekFrom::Start(page * sums::PAGE_BYTES as u64))?;
        let mut bytes = Vec::new();
        Read::take(&mut *file, sums::HEAD_BYTES as u64).read_to_end(&mut bytes)?;
        for (place, byte) in start.iter_mut().zip(bytes) {
            *place = byte;
        }
    }
    Ok(starts)
}

/// The engine writes its magic number after the rest of a new file's header is on disk. A file without it that has
/// nothing but zeros behind the header never held anything and is made anew. Any other cannot be told from one whose
/// start was overwritten, so it is not reused.
fn refuse_unfinished(path: &Path) -> Result<(), StoreError> {
    let told = |error| explain_io(error, "open", path);
    let starts = match fs::File::open(path) {
        Ok(mut file) => starts(&mut file).map_err(told)?,
        Err(_) => return Ok(()),
    };
    let [first, _] = &starts;
    let was_head = starts.iter().any(|start| sums::is_head(start));
    let is_blank = first.starts_with(&sums::ENGINE_MAGIC.map(|_| 0));
    if starts.iter().any(|start| sums::has_engine(start)) || !(was_head || is_blank) {
        return Ok(());
    }
    match empty_unfinished(path) {
        Ok(true) => Ok(()),
        // Opening it says what is damaged.
        Ok(false) if was_head => Ok(()),
        Ok(false) => Err(StoreError::NotAnIndex {
            file: path.into(),
            reason: "its creation was cut short, or its start was overwritten".to_owned(),
        }),
        Err(error) => Err(told(error)),
    }
}

/// Empties a file without sums that holds nothing, so that it can be made anew.
fn empty_blank(path: &Path) -> Result<(), StoreError> {
    let told = |error| explain_io(error, "open", path);
    let file = fs::File::options().write(true).open(path).map_err(told)?;
    match file.try_lock() {
        Ok(()) => file.set_len(0).map_err(told),
        Err(fs::TryLockError::WouldBlock) => Err(StoreError::InUse { file: path.into() }),
        Err(fs::TryLockError::Error(error)) => Err(told(error)),
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
    if len > NEW_FILE_BYTES || !len.is_multiple_of(sums::PAGE_BYTES as u64) {
        return Ok(false);
    }
    if starts(&mut file)?
        .iter()
        .any(|start| sums::has_engine(start))
    {
        return Ok(false);
    }
    let mut bytes = Vec::new();
    file.rewind()?;
    Read::take(&mut file, NEW_FILE_BYTES).read_to_end(&mut bytes)?;
    // But for the two places of the head.
    let mut pages = bytes.chunks(sums::PAGE_BYTES).enumerate();
    let is_zero = pages.all(|(page, bytes)| {
        let from = if page < 2 { SECTOR_BYTES } else { 0 };
        let rest = bytes.get(from..).unwrap_or_default();
        rest.iter().all(|byte| *byte == 0)
    });
    if !is_zero {
        return Ok(false);
    }
    tracing::warn!(
        "the creation of {} was cut short, it starts anew",
        path.display()
    );
    file.set_len(0)?;
    Ok(true)
}
