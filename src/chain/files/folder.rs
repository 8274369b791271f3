//! The folder of block files: what is in it, and keeping up with a node that writes to it.
//!
//! All of it blocks; callers are on threads that may.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread;
use std::time::{Duration, SystemTime};

use bitcoin::consensus::Params;
use bitcoin::constants::genesis_block;
use bitcoin::p2p::Magic;
use bitcoin::{Network, Target};

use super::frames::{FRAME_BYTES, Framing, ObfuscationKey, Records};
use super::head::{HEAD_BYTES, HEADER_BYTES, parse_head};
use super::headers::{HeaderIndex, Location};
use super::listing::{Unread, open_file};
use super::state::{Scanned, Seen, State, Task};
use super::undo::CHECKSUM_BYTES;
use super::undo_file::UndoFile;
use crate::chain::ChainError;

/// Most bytes of a block: consensus allows a weight of 4,000,000, and a byte weighs at least 1.
pub(super) const BLOCK_LIMIT_BYTES: u32 = 4_000_000;

/// Most bytes of an undo record: a block has fewer than 24,391 inputs, each spending a script of at most 10,000 bytes with
/// at most 20 of height, amount and length, and fewer than 16,667 transactions with a count of at most 3 bytes.
const UNDO_LIMIT_BYTES: u32 = 24_391 * (10_000 + 20) + 16_667 * 3 + 9;

/// Files whose headers are read at a time. A header is read at random, so that a disk serves several as fast as one.
const SCAN_THREADS: usize = 4;

/// A file written to so shortly before it was looked at may be written to again with the same time.
const CLOCK_GRAIN: Duration = Duration::from_secs(2);

/// `rev` files whose records are kept in memory.
const UNDO_FILES_KEPT: usize = 16;

/// Texts of the log that are remembered so as to be written once.
const SAID_LIMIT: usize = 64;

/// The folder `blocks` of a node.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    /// That of the network, except on a signet of one's own.
    magic: RwLock<Magic>,
    network: Network,
    easiest: Target,
    state: RwLock<State>,
    /// Held while looking for changes, by one thread at a time.
    refreshing: Mutex<()>,
    /// The most recently used last.
    undo_files: Mutex<Vec<(u32, Arc<Mutex<KeptUndoFile>>)>>,
    /// Whether the folder has been found to be good.
    pub(super) checked: AtomicBool,
    /// Troubles that were logged.
    said: Mutex<BTreeSet<String>>,
}

/// A `rev` file of which the records are in memory.
#[derive(Debug, Default)]
struct KeptUndoFile {
    undo: UndoFile,
    /// The file when it was read from its start.
    seen: Option<Seen>,
}

impl Folder {
    pub(super) fn new(path: PathBuf, network: Network, magic: Magic) -> Self {
        Self {
            path,
            magic: RwLock::new(magic),
            network,
            easiest: Params::new(network).max_attainable_target,
            state: RwLock::new(State::new(HeaderIndex::new(
                genesis_block(network).block_hash(),
            ))),
            refreshing: Mutex::new(()),
            undo_files: Mutex::new(Vec::new()),
            checked: AtomicBool::new(false),
            said: Mutex::new(BTreeSet::new()),
        }
    }

    /// First bytes of each record.
    pub(super) fn magic(&self) -> Magic {
        *self.magic.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes other first bytes of records than the network's; to be called before anything is read.
    pub(super) fn set_magic(&self, magic: Magic) {
        *self.magic.write().unwrap_or_else(PoisonError::into_inner) = magic;
    }

    /// Whether a trouble is to be logged: once.
    pub(super) fn is_news(&self, trouble: &str) -> bool {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        said.len() < SAID_LIMIT && said.insert(trouble.to_owned())
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// A panic elsewhere leaves nothing half done that matters: the worst is a file to be read again.
    pub(super) fn read_state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn write_state(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn block_framing(&self, key: ObfuscationKey) -> Framing {
        Framing {
            magic: self.magic(),
            key,
            trailer_bytes: 0,
            payload_bytes: (HEADER_BYTES as u32 + 1, BLOCK_LIMIT_BYTES),
        }
    }

    fn undo_framing(&self, key: ObfuscationKey) -> Framing {
        Framing {
            magic: self.magic(),
            key,
            trailer_bytes: CHECKSUM_BYTES as u32,
            payload_bytes: (1, UNDO_LIMIT_BYTES),
        }
    }

    /// The folder's key; without the file there is none.
    fn read_key(&self) -> Result<ObfuscationKey, ChainError> {
        let path = self.path.join("xor.dat");
        let read = open_file(&path).and_then(|file| {
            let mut bytes = Vec::new();
            file.take(1 << 10).read_to_end(&mut bytes)?;
            Ok(bytes)
        });
        match read {
            Ok(bytes) => match bytes.try_into() {
                Ok(key) => Ok(ObfuscationKey(key)),
                Err(bytes) => Err(ChainError::Setup(format!(
                    "{} has {} bytes and not the 8 of an obfuscation key; restore it from where the block files come from",
                    path.display(),
                    bytes.len()
                ))),
            },
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(ObfuscationKey::default()),
            Err(e) => Err(self.unreadable(&path, &e)),
        }
    }

    /// Whether there are block files that can be read, of the right network and with the right key.
    pub(super) fn check(&self) -> Result<(), ChainError> {
        let key = self.read_key()?;
        let listing = self.list()?;
        // An empty one says nothing; where all are, the first is named.
        let filled = |(_, (length, _)): &&(u32, Seen)| *length > 0;
        let first = listing.files.iter().find(filled);
        let Some((number, _)) = first.or(listing.files.first()) else {
            return Ok(());
        };
        let path = self.block_path(*number);
        let mut raw = [0; FRAME_BYTES];
        let read = open_file(&path)
            .and_then(|mut file| file.read_exact(&mut raw))
            .map_err(|e| match e.kind() {
                io::ErrorKind::UnexpectedEof => ChainError::Setup(format!(
                    "{} is too short for a block file; does {} belong to a Bitcoin Core node?",
                    path.display(),
                    self.path.display()
                )),
                _ => self.unreadable(&path, &e),
            });
        read?;
        let mut plain = raw;
        key.apply(0, &mut plain);
        let magic = |bytes: &[u8; FRAME_BYTES]| {
            let [a, b, c, d, ..] = *bytes;
            Magic::from_bytes([a, b, c, d])
        };
        if magic(&plain) == self.magic() {
            return Ok(());
        }
        let path = path.display();
        let xor = self.path.join("xor.dat");
        let xor = xor.display();
        Err(ChainError::Setup(
            if let Ok(network) = Network::try_from(magic(&plain)) {
                format!(
                    "{path} holds blocks of the network {network} and not of {}; check --network and the folder of block files",
                    self.network
                )
            } else if magic(&raw) == self.magic() {
                format!(
                    "{xor} does not belong to {path}, which is not obfuscated; restore the right one, or 8 bytes of zero"
                )
            } else {
                let cure = match key == ObfuscationKey::default() {
                    true => format!("if the files are obfuscated restore their {xor}"),
                    false => format!("restore the {xor} of these block files"),
                };
                let signet = match self.network {
                    Network::Signet => format!(
                        "; it begins with {:x}: on a signet of one's own give its -signetchallenge by --signet-challenge, or the node's address by --node-url",
                        magic(&plain)
                    ),
                    _ => String::new(),
                };
                format!(
                    "{path} does not begin with a block of {}; {cure}, and check --network{signet}",
                    self.network
                )
            },
        ))
    }

    /// Reads the headers of blocks that were written since the last time; the first time, of all.
    ///
    /// # Errors
    /// `Setup` for a folder or file that cannot be read; `Unreachable` once `cancelled`, with what was read kept.
    pub(super) fn refresh(&self, cancelled: &AtomicBool) -> Result<(), ChainError> {
        let _alone = self
            .refreshing
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let key = self.read_key()?;
        self.write_state().key = key;
        let framing = self.block_framing(key);
        let tasks = self.tasks()?;
        let first_time = self.read_state().index.is_empty() && tasks.len() > SCAN_THREADS;
        if first_time {
            tracing::info!(files = tasks.len(), folder = %self.path.display(), "reading the headers of the node's block files");
        }
        for tasks in tasks.chunks(SCAN_THREADS) {
            if cancelled.load(Ordering::Relaxed) {
                return Err(ChainError::Unreachable(
                    "the block files were not read: the program is stopping".into(),
                ));
            }
            let scans: Vec<_> = thread::scope(|scope| {
                let workers: Vec<_> = tasks
                    .iter()
                    .map(|task| scope.spawn(|| self.scan(task, framing)))
                    .collect();
                let scans = workers.into_iter().map(|worker| worker.join());
                scans
                    .map(|scan| scan.unwrap_or_else(|_| Err(io::Error::other("a reader failed"))))
                    .collect()
            });
            for (task, scan) in tasks.iter().zip(scans) {
                let mut state = self.write_state();
                let rewritten = match scan {
                    Ok(Some((scanned, is_cut))) => state.take(task, scanned, is_cut),
                    Ok(None) => {
                        state.miss(task.number);
                        false
                    }
                    // What was known of it stays; the next look tries again.
                    Err(e) => {
                        let error = self.unreadable(&self.block_path(task.number), &e);
                        state.unread.insert(task.number, Unread::Failed(error));
                        false
                    }
                };
                drop(state);
                if rewritten {
                    self.forget_undo_file(task.number);
                }
            }
        }
        let mut state = self.write_state();
        state.index.trust_claimed_heights();
        if !state.tip_is_known
            && let Some(best) = state.index.best()
        {
            state.index.choose_chain(best);
        }
        if first_time {
            tracing::info!(
                blocks = state.index.len(),
                "the headers of the block files are read"
            );
        }
        Ok(())
    }

    /// Reads a file from its start the next time: something in it is not what was there.
    pub(super) fn distrust(&self, number: u32) {
        self.write_state().distrust(number);
        self.forget_undo_file(number);
    }

    /// The files that may have changed; marks those that are gone.
    fn tasks(&self) -> Result<Vec<Task>, ChainError> {
        let now = SystemTime::now();
        let listing = self.list()?;
        for unread in listing.unread.values() {
            let text = unread.text();
            if self.is_news(&text) {
                tracing::warn!("{text}; it is passed over");
            }
        }
        let settled = |(_, modified): &Seen| {
            let age = modified.and_then(|modified| now.duration_since(modified).ok());
            age.is_some_and(|age| age > CLOCK_GRAIN)
        };
        Ok(self.write_state().tasks(listing, settled))
    }

    /// Blocks of a file from the task's position on, and whether it ends within one. `None` for a file that has been pruned
    /// meanwhile.
    fn scan(&self, task: &Task, framing: Framing) -> io::Result<Option<(Vec<Scanned>, bool)>> {
        let file = open_file(&self.block_path(task.number));
        let scanned =
            file.and_then(|file| scan_blocks(file, framing, self.easiest, task.number, task.from));
        match scanned {
            Ok(scanned) => Ok(Some(scanned)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// The records of a `rev` file, as far as they are on the disk now. `is_needed` is asked first whether what is known is not
    /// enough.
    pub(super) fn undo_file<T>(
        &self,
        number: u32,
        is_needed: impl FnOnce(&UndoFile) -> bool,
        use_it: impl FnOnce(&UndoFile) -> T,
    ) -> Result<T, ChainError> {
        let shared = self.kept_undo_file(number);
        let mut kept = shared.lock().unwrap_or_else(PoisonError::into_inner);
        let KeptUndoFile { undo, seen } = &mut *kept;
        if is_needed(undo) {
            let candidates = self.read_state().candidates(number);
            let path = self.undo_path(number);
            match open_file(&path) {
                Ok(file) => {
                    if seen.is_none() {
                        let meta = file.metadata().map_err(|e| self.unreadable(&path, &e))?;
                        *seen = Some((meta.len(), meta.modified().ok()));
                    }
                    let file = io::BufReader::with_capacity(1 << 20, file);
                    let framing = self.undo_framing(self.read_state().key);
                    undo.extend(file, framing, candidates)
                        .map_err(|e| self.unreadable(&path, &e))?;
                }
                // Written with the first block that is connected.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(self.unreadable(&path, &e)),
            }
        }
        Ok(use_it(undo))
    }

    fn kept_undo_file(&self, number: u32) -> Arc<Mutex<KeptUndoFile>> {
        let mut kept = self.lock_undo_files();
        let file = match kept.iter().position(|(kept, _)| *kept == number) {
            Some(index) => kept.remove(index).1,
            None => Arc::default(),
        };
        kept.push((number, Arc::clone(&file)));
        if kept.len() > UNDO_FILES_KEPT {
            kept.remove(0);
        }
        file
    }

    /// Reads a `rev` file from its start the next time, if it has changed: as a rule records are appended, but a node that
    /// was killed writes over what is there.
    pub(super) fn recheck_undo_file(&self, number: u32) {
        let shared = self.kept_undo_file(number);
        let seen = shared.lock().unwrap_or_else(PoisonError::into_inner).seen;
        let meta = std::fs::metadata(self.undo_path(number)).ok();
        if meta.map(|meta| (meta.len(), meta.modified().ok())) != seen {
            self.forget_undo_file(number);
        }
    }

    pub(super) fn forget_undo_file(&self, number: u32) {
        self.lock_undo_files().retain(|(kept, _)| *kept != number);
    }

    fn lock_undo_files(&self) -> MutexGuard<'_, Vec<(u32, Arc<Mutex<KeptUndoFile>>)>> {
        self.undo_files
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Blocks of a file from a position on, and whether it ends within one.
fn scan_blocks(
    file: File,
    framing: Framing,
    easiest: Target,
    number: u32,
    from: u64,
) -> io::Result<(Vec<Scanned>, bool)> {
    let mut records = Records::new(file, framing, from)?;
    let mut scanned = Vec::new();
    let mut head = Vec::new();
    while let Some(record) = records.next(HEAD_BYTES, &mut head)? {
        // Offsets beyond 4 GiB are in no file of a node.
        match (u32::try_from(record.offset), parse_head(&head, easiest)) {
            (Ok(offset), Some(head)) => scanned.push(Scanned {
                hash: head.header.block_hash(),
                head,
                location: Location {
                    file: number,
                    offset,
                    length: record.length,
                },
            }),
            _ => records.reject(&record),
        }
    }
    Ok((scanned, records.is_cut()?))
}
