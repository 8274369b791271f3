//! Opens an index file: creates it, migrates it, or refuses it.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, RwLock};

use redb::backends::FileBackend;
use redb::{Database, ReadableDatabase, StorageBackend};

use super::applied::Listeners;
use super::error::{Fault, StoreError, explain_io};
use super::meta::{self, Meta};
use super::sums::{self, Summed, Watch};
use super::unfinished::{empty_blank, refuse_unfinished};
use super::walk::WrongRow;
use super::{FILE_NAME, Store, StoreOptions, damaged, migrate, replace, schema};

/// A database, and the watch over its pages; a file of an older format has no sums to be watched.
type Watched = (Database, Option<Arc<Watch>>);

/// What an opening asks of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Demand {
    /// That it can be served and written to.
    Sound,
    /// That it can be read, to be checked.
    Readable,
}

/// What opening a file gives.
pub(super) enum Opened {
    /// With what had to be corrected in memory.
    Ready(Store, Vec<WrongRow>),
    /// A file of an older format.
    Older(Database, Meta),
    /// A file without sums that holds nothing.
    Blank(Database),
}

impl Opened {
    /// What can be worked with as it is.
    pub(super) fn ready(self, file: &Path) -> Result<(Store, Vec<WrongRow>), StoreError> {
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

    pub(super) fn open_at(
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

    pub(super) fn build(
        file: &Path,
        options: &StoreOptions,
        demand: Demand,
    ) -> Result<Opened, StoreError> {
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
            watcher: OnceLock::new(),
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
}

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
pub(super) fn open_file(
    builder: &redb::Builder,
    path: &Path,
) -> Result<Watched, redb::DatabaseError> {
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
