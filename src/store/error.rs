//! Why the index file could not be opened, read or written.

use std::io;
use std::path::{Path, PathBuf};

use bitcoin::Network;

use super::meta::{Keep, TweakForm};
use super::schema::RowError;
use super::sums::{Unsound, is_refusal};
use crate::BlockId;

/// Why the index file could not be opened, read or written. Each text names the thing and the cure.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Another process, or another [`Store`](super::Store) of this one, has the file open.
    #[error(
        "the index {} is in use: stop the other spindex, or choose another --data-dir",
        file.display()
    )]
    InUse {
        /// The index file.
        file: PathBuf,
    },
    /// There is no file and none was to be created.
    #[error(
        "there is no index at {}: build it with `spindex sync`, or choose another --data-dir",
        file.display()
    )]
    Missing {
        /// The index file.
        file: PathBuf,
    },
    /// The operating system forbids it.
    #[error(
        "no permission to {action} {}: give this user read and write access, or choose another --data-dir",
        path.display()
    )]
    PermissionDenied {
        /// What was attempted.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
    },
    /// The file is something else than an index, or its creation was cut short.
    #[error(
        "{} is not a spindex index ({reason}): move it away, or choose another --data-dir",
        file.display()
    )]
    NotAnIndex {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The storage engine finds its own structures broken: a truncated file, a bad disk.
    #[error(
        "the index {} is damaged ({reason}): run `spindex check --repair`, or delete it and run `spindex sync`",
        file.display()
    )]
    Damaged {
        /// The index file.
        file: PathBuf,
        /// What the engine says.
        reason: String,
    },
    /// A row that no version of spindex writes, or rows that contradict each other.
    #[error(
        "the index {} is damaged (table {table}, key {key}: {reason}): run `spindex check --repair`, or delete it and run `spindex sync`",
        file.display()
    )]
    Corrupt {
        /// The index file.
        file: PathBuf,
        /// Table of the row.
        table: &'static str,
        /// Key of the row.
        key: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The file was written by an older spindex in a format this one no longer reads.
    #[error(
        "the index {} has format {found}, this spindex reads formats from {expected} on: delete it and run `spindex sync`",
        file.display()
    )]
    OlderSchema {
        /// The index file.
        file: PathBuf,
        /// Format number of the file.
        found: u32,
        /// Oldest format this program reads.
        expected: u32,
    },
    /// The file was written by a newer spindex.
    #[error(
        "the index {} has format {found}, this spindex reads formats up to {expected}: use the newer spindex that wrote it, or choose another --data-dir",
        file.display()
    )]
    NewerSchema {
        /// The index file.
        file: PathBuf,
        /// Format number of the file.
        found: u32,
        /// Newest format this program reads.
        expected: u32,
    },
    /// The index is of another chain.
    #[error(
        "the index {} is of network {}, not {}: pass --network {}, or choose another --data-dir",
        file.display(), found.to_core_arg(), expected.to_core_arg(), found.to_core_arg()
    )]
    WrongNetwork {
        /// The index file.
        file: PathBuf,
        /// Network of the file.
        found: Network,
        /// Network asked for.
        expected: Network,
    },
    /// The index starts at another height.
    #[error(
        "the index {} starts at height {found}, not {expected}: pass --first-height {found}, or choose another --data-dir",
        file.display()
    )]
    WrongFirstHeight {
        /// The index file.
        file: PathBuf,
        /// First height of the file.
        found: u32,
        /// First height asked for.
        expected: u32,
    },
    /// A read of multiples from an index that has none.
    #[error(
        "the index {} was built without multiples: read it without, or choose another --data-dir to build one with --tweak-form point-and-multiple",
        file.display()
    )]
    NoMultiples {
        /// The index file.
        file: PathBuf,
    },
    /// The index was created to keep more or less than is asked for, which cannot be changed later.
    #[error(
        "the index {} was built with --keep {}, not {}: pass --keep {}, or choose another --data-dir to build one with --keep {}",
        file.display(), found.name(), expected.name(), found.name(), expected.name()
    )]
    WrongKeep {
        /// The index file.
        file: PathBuf,
        /// What it keeps.
        found: Keep,
        /// What was asked for.
        expected: Keep,
    },
    /// The index stores its tweaks in another form, which cannot be changed later.
    #[error(
        "the index {} was built with --tweak-form {}, not {}: pass --tweak-form {}, or choose another --data-dir to build one with --tweak-form {}",
        file.display(), found.name(), expected.name(), found.name(), expected.name()
    )]
    WrongTweakForm {
        /// The index file.
        file: PathBuf,
        /// The form it stores them in.
        found: TweakForm,
        /// The form asked for.
        expected: TweakForm,
    },
    /// A read of what an index that keeps tweaks only does not have.
    #[error(
        "the index {} was built with --keep tweaks and has no {what}: choose another --data-dir to build one with --keep full",
        file.display()
    )]
    NotKept {
        /// The index file.
        file: PathBuf,
        /// What it does not have.
        what: &'static str,
    },
    /// A read of tweaks as points from an index that stores them compressed.
    #[error(
        "the index {} was built with --tweak-form compressed and has no points: read its tweaks compressed, or choose another --data-dir to build one with --tweak-form point",
        file.display()
    )]
    NoPoints {
        /// The index file.
        file: PathBuf,
    },
    /// The file has an older format and could not be migrated; it is left as it was.
    #[error(
        "the index {} of format {found} could not be migrated: {source}; it is left as it was: mend this and start spindex again, \
         or delete it and run `spindex sync`",
        file.display()
    )]
    MigrationFailed {
        /// The index file.
        file: PathBuf,
        /// Format number of the file.
        found: u32,
        /// What went wrong.
        source: Box<StoreError>,
    },
    /// No room: the disk, a quota or the largest file size is used up. The last commit is intact.
    #[error(
        "no room to write the index {} ({source}): free some space, or raise `ulimit -f`, and start spindex again: nothing committed is lost",
        file.display()
    )]
    DiskFull {
        /// The index file.
        file: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
    /// Any other failure of the disk. The last commit is intact.
    #[error(
        "cannot {action} {} ({source}): check the disk and start spindex again",
        path.display()
    )]
    Io {
        /// What was attempted.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
    /// An earlier read or write failed; the engine takes no more work until the file is opened again.
    #[error(
        "the index {} was closed after an earlier failure: mend what the first error names and start spindex again",
        file.display()
    )]
    Halted {
        /// The index file.
        file: PathBuf,
    },
    /// Compaction or a check of pages while somebody reads.
    #[error(
        "the index {} cannot be compacted while it is being read: try again when no request is running",
        file.display()
    )]
    Busy {
        /// The index file.
        file: PathBuf,
    },
    /// A look for an output by its outpoint while a long sync has left the locator for its end.
    #[error(
        "the index {} cannot find outputs by outpoint in the middle of a long sync: let the sync end, or run `spindex sync` if it was stopped",
        file.display()
    )]
    NotLocated {
        /// The index file.
        file: PathBuf,
    },
    /// A read while the file is being compacted.
    #[error("the index {} is being compacted: try again in a few minutes", file.display())]
    Compacting {
        /// The index file.
        file: PathBuf,
    },
    /// A reorg deeper than `--undo-depth`, or than the index.
    #[error(
        "cannot disconnect {disconnect} blocks from {}: only the last {available} may be, by --undo-depth; start spindex \
         with a larger --undo-depth, or delete the index and run `spindex sync`",
        file.display()
    )]
    UndoExhausted {
        /// The index file.
        file: PathBuf,
        /// How many blocks were to be disconnected.
        disconnect: u32,
        /// How many can be.
        available: u32,
    },
    /// The first block of an empty index is not at its first height.
    #[error(
        "block {block} cannot be the first of an index that starts at height {first_height}: connect that height first"
    )]
    WrongStart {
        /// The block offered.
        block: BlockId,
        /// Where the index starts.
        first_height: u32,
    },
    /// A block that is not the child of the one before.
    #[error("block {block} is not the child of {parent}: disconnect back to their fork first")]
    NotAChild {
        /// The block offered.
        block: BlockId,
        /// The tip, or the block before it in the update.
        parent: BlockId,
    },
    /// A record whose rows do not fit each other. Nothing was written.
    #[error(
        "the record of block {block} is not consistent ({reason}): nothing was written; please report this"
    )]
    InvalidRecord {
        /// The block.
        block: BlockId,
        /// What does not fit.
        reason: String,
    },
    /// What the source says that an old block spends is not what the index has of it.
    #[error(
        "the index {} does not have what the source's block {block} spends ({reason}): run `spindex check --repair` with a node at \
         hand, which compares this block with the node's",
        file.display()
    )]
    OtherSpends {
        /// The index file.
        file: PathBuf,
        /// The block.
        block: BlockId,
        /// What differs, the index's first.
        reason: String,
    },
    /// Blocks without their inputs, while there is something that these are matched with
    /// ([`Inputs::NotCollected`](super::watches::Inputs::NotCollected)).
    #[error(
        "the index {} watches outpoints, and blocks came without their inputs: they have to be derived again; please report this",
        file.display()
    )]
    InputsWanted {
        /// The index file.
        file: PathBuf,
    },
    /// The engine refused for a reason that should not occur.
    #[error(
        "the storage engine refused to work on {} ({reason}): start spindex again; please report this",
        file.display()
    )]
    Engine {
        /// The index file.
        file: PathBuf,
        /// What the engine says.
        reason: String,
    },
}

/// What goes wrong below the public surface, where the file's name is not at hand.
#[derive(Debug)]
pub(super) enum Fault {
    /// The engine failed.
    Engine(redb::Error),
    /// A row cannot be what spindex wrote.
    Row {
        table: &'static str,
        key: String,
        reason: String,
    },
    /// Already told in full.
    Told(StoreError),
}

impl Fault {
    /// A damaged row.
    pub(super) fn row(table: &'static str, key: impl ToString, reason: impl ToString) -> Self {
        Self::Row {
            table,
            key: key.to_string(),
            reason: reason.to_string(),
        }
    }

    /// Names the file.
    pub(super) fn in_file(self, file: &Path) -> StoreError {
        match self {
            Self::Told(error) => error,
            Self::Row { table, key, reason } => StoreError::Corrupt {
                file: file.into(),
                table,
                key,
                reason,
            },
            Self::Engine(error) => explain(error, file),
        }
    }
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        Self::Told(error)
    }
}

impl From<Unsound> for Fault {
    fn from(unsound: Unsound) -> Self {
        Self::Engine(redb::Error::Io(unsound.into()))
    }
}

macro_rules! from_engine {
    ($($error:ty),*) => {
        $(impl From<$error> for Fault {
            fn from(error: $error) -> Self {
                Self::Engine(error.into())
            }
        })*
    };
}
from_engine!(
    redb::StorageError,
    redb::TableError,
    redb::TransactionError,
    redb::CommitError,
    redb::DatabaseError,
    redb::CompactionError,
    redb::SetDurabilityError
);

/// Attaches table and key to a row that does not decode.
pub(super) trait InRow<T> {
    /// Where the row is.
    fn in_row(self, table: &'static str, key: impl ToString) -> Result<T, Fault>;
}

impl<T> InRow<T> for Result<T, RowError> {
    fn in_row(self, table: &'static str, key: impl ToString) -> Result<T, Fault> {
        self.map_err(|error| Fault::row(table, key, error))
    }
}

/// Sorts an error of the operating system by its cure.
pub(super) fn explain_io(source: io::Error, action: &'static str, path: &Path) -> StoreError {
    let path = path.to_path_buf();
    if let Some(unsound) = Unsound::of(&source) {
        let reason = unsound.to_string();
        return StoreError::Damaged { file: path, reason };
    }
    match source.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            StoreError::PermissionDenied { action, path }
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            StoreError::DiskFull { file: path, source }
        }
        // The engine reads only what its own layout says is there.
        io::ErrorKind::UnexpectedEof => StoreError::Damaged {
            file: path,
            reason: "the file ends too early".to_owned(),
        },
        // The engine's text when the first bytes are not its own.
        io::ErrorKind::InvalidData => StoreError::NotAnIndex {
            file: path,
            reason: source.to_string(),
        },
        _ => StoreError::Io {
            action,
            path,
            source,
        },
    }
}

fn explain(error: redb::Error, file: &Path) -> StoreError {
    use redb::Error as Engine;
    let path = file.to_path_buf();
    match error {
        Engine::Io(source) => explain_io(source, "use", file),
        Engine::DatabaseAlreadyOpen | Engine::LockProtocolMismatch => {
            StoreError::InUse { file: path }
        }
        Engine::PreviousIo
        | Engine::DatabaseClosed
        | Engine::TransactionPoisoned
        | Engine::LockPoisoned(_) => StoreError::Halted { file: path },
        Engine::TransactionInProgress | Engine::ReadTransactionStillInUse(_) => {
            StoreError::Busy { file: path }
        }
        Engine::UpgradeRequired(version) => StoreError::NotAnIndex {
            file: path,
            reason: format!("storage format {version} of another engine version"),
        },
        Engine::Corrupted(reason) if is_refusal(&reason) => StoreError::Damaged {
            file: path,
            reason: "a page that is needed is not what was written to it, its sum differs"
                .to_owned(),
        },
        Engine::Corrupted(reason) => StoreError::Damaged { file: path, reason },
        error @ (Engine::TableTypeMismatch { .. }
        | Engine::TableIsMultimap(_)
        | Engine::TableIsNotMultimap(_)
        | Engine::TypeDefinitionChanged { .. }
        | Engine::TableDoesNotExist(_)) => StoreError::Damaged {
            file: path,
            reason: error.to_string(),
        },
        other => StoreError::Engine {
            file: path,
            reason: other.to_string(),
        },
    }
}
