//! The folder of block files: what is in it, and keeping up with a node that writes to it.
//!
//! All of it blocks; callers are on threads that may.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread;
use std::time::{Duration, SystemTime};

use bitcoin::consensus::Params;
use bitcoin::constants::genesis_block;
use bitcoin::p2p::Magic;
use bitcoin::{BlockHash, Network, Target};

use super::frames::{FRAME_BYTES, Framing, ObfuscationKey, Records};
use super::headers::{HEAD_BYTES, HEADER_BYTES, Head, HeaderIndex, Location, Node, parse_head};
use super::undo::CHECKSUM_BYTES;
use super::undo_file::{Candidate, UndoFile};
use crate::BlockId;
use crate::chain::ChainError;

/// Most bytes of a block: consensus allows a weight of 4,000,000, and a byte weighs at least 1.
const BLOCK_LIMIT_BYTES: u32 = 4_000_000;

/// Most bytes of an undo record: a block has fewer than 24,391 inputs, each spending a script of at most 10,000 bytes with
/// at most 20 of height, amount and length, and fewer than 16,667 transactions with a count of at most 3 bytes.
const UNDO_LIMIT_BYTES: u32 = 24_391 * (10_000 + 20) + 16_667 * 3 + 9;

/// Files whose headers are read at a time. A header is read at random, so that a disk serves several as fast as one.
const SCAN_THREADS: usize = 4;

/// A file written to so shortly before it was looked at may be written to again with the same time.
const CLOCK_GRAIN: Duration = Duration::from_secs(2);

/// `rev` files whose records are kept in memory.
const UNDO_FILES_KEPT: usize = 16;

/// The folder `blocks` of a node.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    magic: Magic,
    network: Network,
    easiest: Target,
    state: RwLock<State>,
    /// Held while looking for changes, by one thread at a time.
    refreshing: Mutex<()>,
    /// The most recently used last.
    undo_files: Mutex<Vec<(u32, Arc<Mutex<KeptUndoFile>>)>>,
}

/// A `rev` file of which the records are in memory.
#[derive(Debug, Default)]
struct KeptUndoFile {
    undo: UndoFile,
    /// The file when it was read from its start.
    seen: Option<Seen>,
}

/// Length and time of last change of a file.
type Seen = (u64, Option<SystemTime>);

/// What is known of the folder.
#[derive(Debug)]
pub(super) struct State {
    pub(super) index: HeaderIndex,
    /// By number.
    files: BTreeMap<u32, BlockFile>,
    /// Whether somebody who knows has named the tip.
    pub(super) tip_is_known: bool,
}

/// A `blk` file.
#[derive(Debug, Default)]
struct BlockFile {
    /// In the order of the file.
    blocks: Vec<Node>,
    /// Start of the last record.
    last_record: u64,
    seen: Option<Seen>,
    /// Whether `seen` would be different with anything written since.
    settled: bool,
    /// Gone: the node prunes.
    missing: bool,
}

/// A file to look into.
struct Task {
    number: u32,
    seen: Seen,
    settled: bool,
    /// 0 for a file that has changed: a node that was killed writes over what is there.
    from: u64,
}

struct Scanned {
    hash: BlockHash,
    head: Head,
    location: Location,
}

impl Folder {
    pub(super) fn new(path: PathBuf, network: Network, magic: Magic) -> Self {
        Self {
            path,
            magic,
            network,
            easiest: Params::new(network).max_attainable_target,
            state: RwLock::new(State {
                index: HeaderIndex::new(genesis_block(network).block_hash()),
                files: BTreeMap::new(),
                tip_is_known: false,
            }),
            refreshing: Mutex::new(()),
            undo_files: Mutex::new(Vec::new()),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn block_path(&self, number: u32) -> PathBuf {
        self.path.join(format!("blk{number:05}.dat"))
    }

    pub(super) fn undo_path(&self, number: u32) -> PathBuf {
        self.path.join(format!("rev{number:05}.dat"))
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
            magic: self.magic,
            key,
            trailer_bytes: 0,
            payload_bytes: (HEADER_BYTES as u32 + 1, BLOCK_LIMIT_BYTES),
        }
    }

    fn undo_framing(&self, key: ObfuscationKey) -> Framing {
        Framing {
            magic: self.magic,
            key,
            trailer_bytes: CHECKSUM_BYTES as u32,
            payload_bytes: (1, UNDO_LIMIT_BYTES),
        }
    }

    /// The folder's key; without the file there is none.
    pub(super) fn key(&self) -> Result<ObfuscationKey, ChainError> {
        let path = self.path.join("xor.dat");
        match std::fs::read(&path) {
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
        let key = self.key()?;
        let Some((number, _)) = self.list()?.first().copied() else {
            return Err(self.no_files());
        };
        let path = self.block_path(number);
        let mut raw = [0; FRAME_BYTES];
        let read = File::open(&path)
            .and_then(|mut file| io::Read::read_exact(&mut file, &mut raw))
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
        if magic(&plain) == self.magic {
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
            } else if magic(&raw) == self.magic {
                format!(
                    "{xor} does not belong to {path}, which is not obfuscated; restore the right one, or 8 bytes of zero"
                )
            } else if key != ObfuscationKey::default() {
                format!(
                    "{path} does not begin with a block of {} when read with the key in {xor}; restore the xor.dat of these block files, and check --network",
                    self.network
                )
            } else {
                format!(
                    "{path} does not begin with a block of {}; if the files are obfuscated restore their {xor}, and check --network",
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
        let framing = self.block_framing(self.key()?);
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
                let path = self.block_path(task.number);
                let mut state = self.write_state();
                let rewritten = match scan.map_err(|e| self.unreadable(&path, &e))? {
                    Some(scanned) => state.take(task, scanned),
                    None => {
                        let file = state.files.get_mut(&task.number);
                        file.into_iter().for_each(|file| file.missing = true);
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
        if let Some(file) = self.write_state().files.get_mut(&number) {
            file.settled = false;
        }
        self.forget_undo_file(number);
    }

    /// Number, length and time of last change of each `blk` file, ascending.
    fn list(&self) -> Result<Vec<(u32, Seen)>, ChainError> {
        let unreadable = |e| self.unreadable(&self.path, &e);
        let mut files = Vec::new();
        for entry in std::fs::read_dir(&self.path).map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?;
            let name = entry.file_name();
            let number = name.to_str().and_then(|name| {
                let digits = name.strip_prefix("blk")?.strip_suffix(".dat")?;
                let number: u32 = digits.parse().ok()?;
                (format!("{number:05}") == digits).then_some(number)
            });
            let Some(number) = number else {
                continue;
            };
            // Follows links. A file may be pruned between the two calls.
            match std::fs::metadata(entry.path()) {
                Ok(meta) => files.push((number, (meta.len(), meta.modified().ok()))),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(self.unreadable(&entry.path(), &e)),
            }
        }
        files.sort_unstable_by_key(|(number, _)| *number);
        Ok(files)
    }

    /// The files that may have changed; marks those that are gone.
    fn tasks(&self) -> Result<Vec<Task>, ChainError> {
        let now = SystemTime::now();
        let listed = self.list()?;
        if listed.is_empty() {
            return Err(self.no_files());
        }
        let mut state = self.write_state();
        for (number, file) in &mut state.files {
            file.missing = listed.binary_search_by_key(number, |(n, _)| *n).is_err();
        }
        let newest = listed.last().map(|(number, _)| *number);
        let tasks = listed.into_iter().filter_map(|(number, seen)| {
            let age = seen
                .1
                .and_then(|modified| now.duration_since(modified).ok());
            let task = Task {
                number,
                seen,
                settled: age.is_some_and(|age| age > CLOCK_GRAIN),
                from: 0,
            };
            let Some(file) = state.files.get(&number) else {
                return Some(task);
            };
            match file.settled && file.seen == Some(seen) {
                false => Some(task),
                // In case that clocks are not to be trusted.
                true if newest == Some(number) => Some(Task {
                    from: file.last_record,
                    ..task
                }),
                true => None,
            }
        });
        Ok(tasks.collect())
    }

    /// Blocks of a file from the task's position on. `None` for a file that has been pruned meanwhile.
    fn scan(&self, task: &Task, framing: Framing) -> io::Result<Option<Vec<Scanned>>> {
        let file = File::open(self.block_path(task.number));
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
        is_needed: impl Fn(&UndoFile) -> bool,
        use_it: impl FnOnce(&UndoFile) -> T,
    ) -> Result<T, ChainError> {
        let shared = self.kept_undo_file(number);
        let mut kept = shared.lock().unwrap_or_else(PoisonError::into_inner);
        let KeptUndoFile { undo, seen } = &mut *kept;
        if is_needed(undo) {
            let candidates = self.read_state().candidates(number);
            let path = self.undo_path(number);
            match File::open(&path) {
                Ok(file) => {
                    if seen.is_none() {
                        let meta = file.metadata().map_err(|e| self.unreadable(&path, &e))?;
                        *seen = Some((meta.len(), meta.modified().ok()));
                    }
                    let file = io::BufReader::with_capacity(1 << 20, file);
                    undo.extend(file, self.undo_framing(self.key()?), candidates)
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

    fn no_files(&self) -> ChainError {
        ChainError::Setup(format!(
            "there is no file blk*.dat in {}; is it the folder \"blocks\" in the node's data directory?",
            self.path.display()
        ))
    }

    /// Why a file or folder cannot be read, and what to do.
    pub(super) fn unreadable(&self, path: &Path, error: &io::Error) -> ChainError {
        let cure = match error.kind() {
            io::ErrorKind::PermissionDenied => {
                "run spindex as the node's user, or let a group that both belong to read the folder and its files"
            }
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
                "is it the folder \"blocks\" in the node's data directory?"
            }
            _ => "is the disk in order?",
        };
        ChainError::Setup(format!("cannot read {} ({error}); {cure}", path.display()))
    }
}

impl State {
    /// Whether a file that was there is not any more.
    pub(super) fn is_missing(&self, number: u32) -> bool {
        self.files.get(&number).is_none_or(|file| file.missing)
    }

    /// The tip of the branch with the most work, and the file it is in.
    pub(super) fn best(&self) -> Option<(BlockId, u32)> {
        let best = self.index.best()?;
        let location = self.index.block(best)?.location;
        Some((self.index.id(best)?, location.file))
    }

    /// Whether a block is the last of a file: it may have been half written.
    pub(super) fn is_last(&self, number: u32, node: Node) -> bool {
        let file = self.files.get(&number);
        file.is_some_and(|file| file.blocks.last() == Some(&node))
    }

    /// All blocks of a file.
    pub(super) fn candidates(&self, number: u32) -> Vec<Candidate> {
        let blocks = self.files.get(&number).map(|file| file.blocks.as_slice());
        let blocks = blocks.unwrap_or_default().iter();
        blocks
            .filter_map(|node| {
                let block = self.index.block(*node)?;
                Some(Candidate {
                    node: *node,
                    height: block.height,
                    parent: block.parent,
                    transactions: block.transactions,
                })
            })
            .collect()
    }

    /// Where a block's ancestor at a height is (itself at its own).
    pub(super) fn ancestor_location(&self, node: Node, height: u32) -> Option<Location> {
        let ancestor = self.index.ancestor(node, height)?;
        let locations = self.index.locations(ancestor);
        let mut there = locations.into_iter();
        there.find(|location| !self.is_missing(location.file))
    }

    /// The lowest height from which on the chosen chain is complete.
    pub(super) fn first_complete(&self) -> Option<u32> {
        let complete = self.index.chain_downwards().take_while(|node| {
            let locations = self.index.locations(*node);
            locations.iter().any(|place| !self.is_missing(place.file))
        });
        let lowest = complete.last()?;
        self.index.id(lowest).map(|id| id.height)
    }

    /// Takes in what a task found; whether something that was known is not there any more.
    fn take(&mut self, task: &Task, scanned: Vec<Scanned>) -> bool {
        let old = self.files.remove(&task.number).unwrap_or_default();
        let mut file = BlockFile {
            blocks: Vec::with_capacity(scanned.len()),
            last_record: 0,
            seen: Some(task.seen),
            settled: task.settled,
            missing: false,
        };
        if task.from > 0 {
            file.blocks.clone_from(&old.blocks);
            file.last_record = old.last_record;
        }
        let mut found = HashSet::new();
        for block in scanned {
            let node = self.index.insert(block.hash, &block.head, block.location);
            if file.blocks.last() != Some(&node) {
                file.blocks.push(node);
            }
            file.last_record = u64::from(block.location.offset) - FRAME_BYTES as u64;
            found.insert((node, block.location));
        }
        let mut rewritten = false;
        if task.from == 0 {
            for node in old.blocks {
                for location in self.index.locations(node) {
                    if location.file == task.number && !found.contains(&(node, location)) {
                        self.index.forget(node, location);
                        rewritten = true;
                    }
                }
            }
        }
        self.files.insert(task.number, file);
        rewritten
    }
}

/// Blocks of a file from a position on.
fn scan_blocks(
    file: File,
    framing: Framing,
    easiest: Target,
    number: u32,
    from: u64,
) -> io::Result<Vec<Scanned>> {
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
    Ok(scanned)
}
