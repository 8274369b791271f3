//! Scan height and finds on disk, so that a scan resumes where the last one stopped.
//!
//! One redb file per wallet and network. It holds no secret: not the scan key, nor the secret tweaks of outputs,
//! which the scan key and the public tweak give again. It does tell what the wallet owns, so on Unix the file is its
//! owner's alone, and one that is not is refused. Each window of blocks is one durable transaction.

mod contents;
mod rows;
mod unfinished;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use bitcoin::hashes::{Hash, HashEngine, sha256};
use bitcoin::{BlockHash, Network, OutPoint};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::bip352::keys::ReceiverKeys;
use crate::private_file::{self, PrivateFileError};

pub(super) use contents::{Change, Contents};
pub(super) use rows::{Coverage, Cursor, FoundRow, HeadRow, Labels, UnresolvedRow, WatchedRow};

/// Block hashes kept below the scanned height; a reorganisation deeper than this is refused.
pub(super) const KEPT_HASHES: u32 = 288;

/// Number of this layout of the file. Older files are brought to it: format 1 has no table of what is unresolved, format 2
/// none of heads.
const FORMAT: u32 = 3;

/// `"format"`: [`FORMAT`]; `"identity"`: [`rows::IdentityRow`]; `"cursor"`: [`Cursor`]. JSON.
const META: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("meta");
/// Height to block hash, internal order.
const HASHES: TableDefinition<'static, u32, &[u8; 32]> = TableDefinition::new("hashes");
/// Height to the head of the chain of hashes there ([`rows::HeadRow`]): the height it was begun at, 4 bytes little-endian,
/// the block's hash and the head, 32 bytes each.
const HEADS: TableDefinition<'static, u32, &[u8; 68]> = TableDefinition::new("heads");
/// Outpoint to [`FoundRow`] as JSON. Outpoints: txid in internal order, vout little-endian.
const FOUND: TableDefinition<'static, &[u8; 36], &[u8]> = TableDefinition::new("found");
/// Outpoint, found or watched, to [`Spend`](super::report::Spend) as JSON.
const SPENDS: TableDefinition<'static, &[u8; 36], &[u8]> = TableDefinition::new("spends");
/// Outpoint to [`WatchedRow`] as JSON.
const WATCHED: TableDefinition<'static, &[u8; 36], &[u8]> = TableDefinition::new("watched");
/// Height to [`UnresolvedRow`] as JSON.
const UNRESOLVED: TableDefinition<'static, u32, &[u8]> = TableDefinition::new("unresolved");

/// Names a wallet without telling its keys' purpose: a hash over B_scan and B_spend. Displayed as 64 hex characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct WalletId([u8; 32]);

impl WalletId {
    /// The identifier of the wallet with these keys; labels do not matter.
    pub fn of(keys: &ReceiverKeys) -> Self {
        let mut engine = sha256::Hash::engine();
        engine.input(b"spindex wallet");
        engine.input(&keys.scan_key.public_key().serialize());
        engine.input(&keys.spend_pubkey.serialize());
        Self(sha256::Hash::from_engine(engine).to_byte_array())
    }
}

impl fmt::Display for WalletId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Whose state a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// The chain.
    pub network: Network,
    /// The wallet, `None` where only outpoints are watched.
    pub wallet: Option<WalletId>,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.wallet {
            Some(wallet) => {
                let id = wallet.to_string();
                write!(f, "wallet {} on {}", &id[..16], self.network)
            }
            None => write!(f, "watched outpoints on {}", self.network),
        }
    }
}

/// Why a state file could not be used. Each text names the file and the cure.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Another process has it open.
    #[error(
        "{path} is in use by another process: wait until that one has ended, or use another state file"
    )]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// It belongs to another wallet or network.
    #[error("{path} belongs to {actual}, not to {expected}: use another state file")]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Whose it was to be.
        expected: String,
        /// Whose it is.
        actual: String,
    },
    /// Written by another version of this program.
    #[error(
        "{path} has format {found}, and this program reads formats up to {FORMAT}: use another state file and scan again"
    )]
    Format {
        /// The file.
        path: PathBuf,
        /// Its format number.
        found: u32,
    },
    /// A row that cannot be read.
    #[error("{path} is damaged ({what}): remove the file and scan again")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Which row, and how.
        what: String,
    },
    /// It is not its owner's alone, or cannot be opened.
    #[error("the state file cannot be used: {0}")]
    NotPrivate(#[from] PrivateFileError),
    /// Reading or writing failed.
    #[error("{path}: {source}; check the disk and the permissions")]
    Storage {
        /// The file.
        path: PathBuf,
        /// What the storage engine says.
        source: Box<redb::Error>,
    },
}

/// Progress and finds of one wallet, in memory and on disk.
pub struct State {
    path: PathBuf,
    database: Database,
    identity: Identity,
    pub(super) contents: Contents,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State")
            .field("path", &self.path)
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

impl State {
    /// Opens the file, or makes it. Its folder must exist.
    ///
    /// # Errors
    /// A file in use, of another wallet or network, of another format, or damaged; a link, or a file that other users can
    /// read or change.
    pub fn open(path: &Path, identity: Identity) -> Result<Self, StateError> {
        let storage = |error: redb::Error| storage_error(path, error);
        let mut file = private_file::open_or_create(path)?;
        unfinished::empty_unfinished(&mut file, path).map_err(|error| storage(error.into()))?;
        let backend =
            redb::backends::FileBackend::new(file).map_err(|error| storage(error.into()))?;
        Self::over(path.to_owned(), backend, identity)
    }

    /// A state that is gone when dropped.
    ///
    /// # Errors
    /// Only if memory cannot be had.
    pub fn in_memory(identity: Identity) -> Result<Self, StateError> {
        let path = PathBuf::from("(state in memory)");
        Self::over(path, redb::backends::InMemoryBackend::new(), identity)
    }

    /// What a backend holds, by the name of a file.
    pub(super) fn over(
        path: PathBuf,
        backend: impl redb::StorageBackend,
        identity: Identity,
    ) -> Result<Self, StateError> {
        let database = builder()
            .create_with_backend(backend)
            .map_err(|error| storage_error(&path, error.into()))?;
        Self::load(path, database, identity)
    }

    /// Whose state it is.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// Outpoints that were watched by scans with this state, in order.
    pub fn watched(&self) -> Vec<OutPoint> {
        self.contents.watched.keys().copied().collect()
    }

    /// Forgets watched outpoints, and their spends where they are not the wallet's own. Those that are not watched do not
    /// matter.
    ///
    /// # Errors
    /// [`StateError::Storage`] if that cannot be written.
    pub fn unwatch(&mut self, outpoints: &[OutPoint]) -> Result<(), StateError> {
        self.apply(Change {
            unwatched: outpoints.to_vec(),
            ..Change::default()
        })
    }

    /// Last height scanned for the wallet, `None` before the first.
    pub fn scanned_to(&self) -> Option<u32> {
        self.contents.cursor.as_ref().and_then(Cursor::scanned_to)
    }

    fn load(path: PathBuf, database: Database, identity: Identity) -> Result<Self, StateError> {
        let state = Self {
            path,
            database,
            identity,
            contents: Contents::default(),
        };
        let contents = match state.read_identity()? {
            None => {
                state.create()?;
                Contents::default()
            }
            Some((FORMAT, found)) if found == identity => state.read()?,
            Some((format, found)) if found == identity => {
                state.upgrade(format)?;
                state.read()?
            }
            Some((_, found)) => {
                return Err(StateError::Foreign {
                    path: state.path,
                    expected: identity.to_string(),
                    actual: found.to_string(),
                });
            }
        };
        Ok(Self { contents, ..state })
    }

    /// Format, and whose file it is; `None` for a new one.
    fn read_identity(&self) -> Result<Option<(u32, Identity)>, StateError> {
        let storage = |error: redb::Error| storage_error(&self.path, error);
        let read = self
            .database
            .begin_read()
            .map_err(|error| storage(error.into()))?;
        let meta = match read.open_table(META) {
            Ok(meta) => meta,
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
            Err(error) => return Err(storage(error.into())),
        };
        let row = |name: &'static str| {
            meta.get(name)
                .map_err(|error| storage(error.into()))?
                .ok_or_else(|| self.damaged(format!("no {name}")))
        };
        let format: u32 = self.decode("format", row("format")?.value())?;
        if !(1..=FORMAT).contains(&format) {
            return Err(StateError::Format {
                path: self.path.clone(),
                found: format,
            });
        }
        let identity: rows::IdentityRow = self.decode("identity", row("identity")?.value())?;
        identity
            .identity()
            .map(|identity| Some((format, identity)))
            .ok_or_else(|| self.damaged("unknown identity".to_owned()))
    }

    /// Makes the tables of a new file.
    fn create(&self) -> Result<(), StateError> {
        self.write(|write| {
            let mut meta = write.open_table(META)?;
            let identity = rows::IdentityRow::from(self.identity);
            meta.insert("format", encode(&FORMAT)?.as_slice())?;
            meta.insert("identity", encode(&identity)?.as_slice())?;
            write.open_table(HASHES)?;
            write.open_table(HEADS)?;
            write.open_table(FOUND)?;
            write.open_table(SPENDS)?;
            write.open_table(WATCHED)?;
            write.open_table(UNRESOLVED)?;
            Ok(())
        })
    }

    /// Brings an older file to this format. What was unresolved at the heights that one of format 1 has scanned nobody knows.
    fn upgrade(&self, from: u32) -> Result<(), StateError> {
        let is_wallet = self.identity.wallet.is_some() && from == 1;
        let cursor = self.read_cursor()?.map(|cursor| Cursor {
            unrecorded_below: match is_wallet {
                true => Some(cursor.next),
                false => cursor.unrecorded_below,
            },
            ..cursor
        });
        self.write(|write| {
            let mut meta = write.open_table(META)?;
            meta.insert("format", encode(&FORMAT)?.as_slice())?;
            if let Some(mut cursor) = cursor {
                cursor.limit_unrecorded();
                meta.insert("cursor", encode(&cursor)?.as_slice())?;
            }
            write.open_table(UNRESOLVED)?;
            write.open_table(HEADS)?;
            Ok(())
        })
    }

    fn read_cursor(&self) -> Result<Option<Cursor>, StateError> {
        let storage = |error: redb::Error| storage_error(&self.path, error);
        self.database
            .begin_read()
            .map_err(|error| storage(error.into()))?
            .open_table(META)
            .map_err(|error| storage(error.into()))?
            .get("cursor")
            .map_err(|error| storage(error.into()))?
            .map(|row| self.decode("cursor", row.value()))
            .transpose()
    }

    fn read(&self) -> Result<Contents, StateError> {
        let storage = |error: redb::Error| storage_error(&self.path, error);
        let read = self
            .database
            .begin_read()
            .map_err(|error| storage(error.into()))?;
        let cursor = self.read_cursor()?;
        let mut hashes = BTreeMap::new();
        let table = read
            .open_table(HASHES)
            .map_err(|error| storage(error.into()))?;
        for row in table.iter().map_err(|error| storage(error.into()))? {
            let (height, hash) = row.map_err(|error| storage(error.into()))?;
            hashes.insert(height.value(), BlockHash::from_byte_array(*hash.value()));
        }
        let mut heads = BTreeMap::new();
        let table = read
            .open_table(HEADS)
            .map_err(|error| storage(error.into()))?;
        for row in table.iter().map_err(|error| storage(error.into()))? {
            let (height, head) = row.map_err(|error| storage(error.into()))?;
            heads.insert(height.value(), HeadRow::decode(head.value()));
        }
        let mut unresolved = BTreeMap::new();
        let table = read
            .open_table(UNRESOLVED)
            .map_err(|error| storage(error.into()))?;
        for row in table.iter().map_err(|error| storage(error.into()))? {
            let (height, value) = row.map_err(|error| storage(error.into()))?;
            unresolved.insert(height.value(), self.decode("unresolved", value.value())?);
        }
        Ok(Contents {
            cursor,
            hashes,
            heads,
            found: self.read_rows(&read, FOUND, "found")?,
            spends: self.read_rows(&read, SPENDS, "spends")?,
            watched: self.read_rows(&read, WATCHED, "watched")?,
            unresolved,
        })
    }

    fn read_rows<T: DeserializeOwned>(
        &self,
        read: &redb::ReadTransaction,
        table: TableDefinition<'static, &'static [u8; 36], &'static [u8]>,
        name: &str,
    ) -> Result<BTreeMap<OutPoint, T>, StateError> {
        let storage = |error: redb::Error| storage_error(&self.path, error);
        let table = read
            .open_table(table)
            .map_err(|error| storage(error.into()))?;
        let mut rows = BTreeMap::new();
        for row in table.iter().map_err(|error| storage(error.into()))? {
            let (key, value) = row.map_err(|error| storage(error.into()))?;
            rows.insert(
                rows::outpoint(key.value()),
                self.decode(name, value.value())?,
            );
        }
        Ok(rows)
    }

    /// Applies a change in one durable transaction, all of it or nothing.
    pub(super) fn apply(&mut self, change: Change) -> Result<(), StateError> {
        let before = &self.contents;
        let mut after = before.clone();
        after.apply(change);
        let after = after;
        self.write(|write| {
            if after.cursor != before.cursor
                && let Some(cursor) = &after.cursor
            {
                write
                    .open_table(META)?
                    .insert("cursor", encode(cursor)?.as_slice())?;
            }
            let mut hashes = write.open_table(HASHES)?;
            for (height, hash) in changed(&before.hashes, &after.hashes) {
                match hash {
                    Some(hash) => hashes.insert(height, &hash.to_byte_array())?,
                    None => hashes.remove(height)?,
                };
            }
            let mut heads = write.open_table(HEADS)?;
            for (height, head) in changed(&before.heads, &after.heads) {
                match head {
                    Some(head) => heads.insert(height, &head.encode())?,
                    None => heads.remove(height)?,
                };
            }
            let mut unresolved = write.open_table(UNRESOLVED)?;
            for (height, row) in changed(&before.unresolved, &after.unresolved) {
                match row {
                    Some(row) => unresolved.insert(height, encode(row)?.as_slice())?,
                    None => unresolved.remove(height)?,
                };
            }
            write_rows(write, FOUND, &before.found, &after.found)?;
            write_rows(write, SPENDS, &before.spends, &after.spends)?;
            write_rows(write, WATCHED, &before.watched, &after.watched)
        })?;
        self.contents = after;
        Ok(())
    }

    fn write(
        &self,
        fill: impl FnOnce(&redb::WriteTransaction) -> Result<(), redb::Error>,
    ) -> Result<(), StateError> {
        let storage = |error: redb::Error| storage_error(&self.path, error);
        let write = self
            .database
            .begin_write()
            .map_err(|error| storage(error.into()))?;
        fill(&write).map_err(storage)?;
        write.commit().map_err(|error| storage(error.into()))
    }

    fn decode<T: DeserializeOwned>(&self, table: &str, value: &[u8]) -> Result<T, StateError> {
        serde_json::from_slice(value).map_err(|error| self.damaged(format!("{table}: {error}")))
    }

    fn damaged(&self, what: String) -> StateError {
        StateError::Damaged {
            path: self.path.clone(),
            what,
        }
    }
}

/// A small cache; and every page is checked on opening, for a damaged file must not be trusted.
fn builder() -> redb::Builder {
    let mut builder = Database::builder();
    builder
        .set_cache_size(8 << 20)
        .set_check_integrity_on_open(true);
    builder
}

fn storage_error(path: &Path, error: redb::Error) -> StateError {
    let path = path.to_owned();
    match error {
        redb::Error::DatabaseAlreadyOpen | redb::Error::LockProtocolMismatch => {
            StateError::InUse { path }
        }
        redb::Error::Corrupted(what) => StateError::Damaged { path, what },
        redb::Error::Io(error) if error.kind() == std::io::ErrorKind::InvalidData => {
            StateError::Damaged {
                path,
                what: error.to_string(),
            }
        }
        source => StateError::Storage {
            path,
            source: Box::new(source),
        },
    }
}

fn encode<T: Serialize>(row: &T) -> Result<Vec<u8>, redb::Error> {
    // Rows are plain structs with text keys, so this fails only if memory does.
    serde_json::to_vec(row).map_err(|error| redb::Error::Io(error.into()))
}

/// Keys whose values differ, with the value after, `None` where there is none.
fn changed<'a, K: Ord + Copy, V: PartialEq>(
    before: &'a BTreeMap<K, V>,
    after: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = (K, Option<&'a V>)> {
    let gone = before
        .keys()
        .filter(|key| !after.contains_key(key))
        .map(|key| (*key, None));
    let new = after
        .iter()
        .filter(|(key, value)| before.get(key) != Some(value))
        .map(|(key, value)| (*key, Some(value)));
    gone.chain(new)
}

fn write_rows<T: Serialize + PartialEq>(
    write: &redb::WriteTransaction,
    table: TableDefinition<'static, &'static [u8; 36], &'static [u8]>,
    before: &BTreeMap<OutPoint, T>,
    after: &BTreeMap<OutPoint, T>,
) -> Result<(), redb::Error> {
    let mut table = write.open_table(table)?;
    for (outpoint, row) in changed(before, after) {
        let key = rows::outpoint_key(&outpoint);
        match row {
            Some(row) => table.insert(&key, encode(row)?.as_slice())?,
            None => table.remove(&key)?,
        };
    }
    Ok(())
}

#[cfg(test)]
mod tests;
