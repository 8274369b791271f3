//! Bitcoin Core's own block files: blocks from `blk*.dat`, what they spend from `rev*.dat`.
//!
//! The fastest source: nothing goes through the node, which may run or not. An index of all headers is built in memory at the
//! start (one small read a block) and kept up to date; nothing is written. Where REST or RPC of the same node is at hand it
//! names the tip, and stands in for every block that the files do not give: not on the disk yet, in a file
//! that is missing, damaged or refused. Without it the tip is the end of the heaviest branch of which the node has connected
//! the end, and files that cannot be all of the chain are an error.
//!
//! - [`frames`]: obfuscation, and the records of a file.
//! - [`undo`]: the bytes of an undo record.
//! - [`head`]: the first bytes of a block.
//! - [`headers`]: which blocks there are, and how they hang together.
//! - [`undo_file`]: which undo record belongs to which block.
//!
//! What files alone cannot tell: `invalidateblock` leaves blocks and their undo records as they are, so that a branch which
//! the node gave up by that command stays the tip here until another one has more work.

mod folder;
pub mod frames;
pub mod head;
pub mod headers;
mod listing;
mod open_files;
mod read;
mod state;
mod tip;
pub mod undo;
pub mod undo_file;

use std::fmt;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bitcoin::consensus::serialize;
use bitcoin::hashes::{Hash, sha256d};
use bitcoin::p2p::Magic;
use bitcoin::{Network, Script, ScriptBuf};
use futures::future::{BoxFuture, join_all};
use tokio::task;

use self::folder::{BLOCK_LIMIT_BYTES, Folder};
use self::read::Miss;
use self::tip::Trouble;
use super::{BlockSource, BlockWithPrevouts, ChainError, Node};
use crate::BlockId;

/// How often a block that is not where it was is looked for: once more after a look at what changed, and once in
/// another place.
const ATTEMPTS: usize = 3;

/// Most blocks named at a time.
const BLOCKS_AT_ONCE: usize = 2_000;

/// Most blocks that are read together: as many as are derived together.
const RUN_BLOCKS: usize = 500;

/// Most bytes of blocks that are read together, unless it is one: no more than one may have.
const RUN_BYTES: u64 = BLOCK_LIMIT_BYTES as u64;

/// How far below the last block of the files the node's chain is asked for, where the files lack the node's tip.
const DEEPEST_COMMON: u32 = 1 << 10;

/// Where the files are.
#[derive(Clone)]
pub struct FilesSettings {
    /// The folder `blocks` in the node's data directory (of the network), or wherever its `-blocksdir` puts it.
    pub folder: PathBuf,
    /// Whose blocks they are.
    pub network: Network,
    /// The challenge of a signet of one's own (the node's `-signetchallenge`), which decides the first bytes of each record;
    /// without it the node is asked, if there is one.
    pub signet_challenge: Option<ScriptBuf>,
    /// REST or RPC of the node that writes the files, for the tip and for blocks not on the disk yet.
    pub node: Option<Arc<dyn Node>>,
}

impl FilesSettings {
    /// A folder alone.
    pub fn new(folder: impl Into<PathBuf>, network: Network) -> Self {
        Self {
            folder: folder.into(),
            network,
            signet_challenge: None,
            node: None,
        }
    }
}

impl fmt::Debug for FilesSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FilesSettings")
            .field("folder", &self.folder)
            .field("network", &self.network)
            .field("signet_challenge", &self.signet_challenge)
            .field("node", &self.node.as_ref().map(|node| node.describe()))
            .finish()
    }
}

/// First bytes of the records of a signet with this challenge (BIP325): of the double SHA256 of the script with its
/// length.
pub fn signet_magic(challenge: &Script) -> Magic {
    let [a, b, c, d, ..] = sha256d::Hash::hash(&serialize(challenge)).to_byte_array();
    Magic::from_bytes([a, b, c, d])
}

/// Blocks from Bitcoin Core's block files.
#[derive(Debug)]
pub struct FilesSource {
    folder: Arc<Folder>,
    settings: FilesSettings,
}

impl FilesSource {
    /// A source that reads nothing yet.
    pub fn new(settings: FilesSettings) -> Self {
        let magic = match &settings.signet_challenge {
            Some(challenge) => signet_magic(challenge),
            None => settings.network.magic(),
        };
        let folder = Folder::new(settings.folder.clone(), settings.network, magic);
        Self {
            folder: Arc::new(folder),
            settings,
        }
    }

    async fn or_from_node(
        &self,
        id: BlockId,
        block: Result<BlockWithPrevouts, Miss>,
    ) -> Result<BlockWithPrevouts, ChainError> {
        let miss = match block {
            Ok(block) => return Ok(block),
            Err(miss) => miss,
        };
        let error = match miss {
            Miss::Failed(e) | Miss::Changed(_, e) => e,
            Miss::NotYet(_, what) => ChainError::NotAvailable(what),
            Miss::Unknown | Miss::Pruned => self.not_there(id, &miss).await,
        };
        let Some(node) = &self.settings.node else {
            return Err(error);
        };
        match node.block(id).await {
            Ok(block) => {
                // A block that is only not there yet is not worth a line.
                let is_trouble = !matches!(error, ChainError::NotAvailable(_));
                let text = error.to_string();
                if is_trouble && self.folder.is_news(&text) {
                    tracing::warn!("{text}; the block comes from {}", node.describe());
                }
                Ok(block)
            }
            // It may have it once it answers, or it may know more than the files.
            Err(e @ ChainError::Unreachable(_)) => Err(e),
            Err(e) if error.is_transient() => Err(e),
            Err(_) => Err(error),
        }
    }

    /// What to say of a block that no file has.
    async fn not_there(&self, id: BlockId, miss: &Miss) -> ChainError {
        let path = self.folder.path().display();
        let folder = Arc::clone(&self.folder);
        match blocking(move |_| folder.first_served()).await {
            Err(e) => e,
            Ok(Some(first)) if id.height < first => self.pruned(&format!("block {id}"), first),
            _ if *miss == Miss::Pruned => ChainError::NotAvailable(format!(
                "the file with block {id} is not in {path} any more; has the node pruned it?"
            )),
            _ => ChainError::NotAvailable(format!(
                "block {id} is not in {path} yet; is it the folder of the node that names this block?"
            )),
        }
    }

    /// What to say of a block below those that the files serve. A block that the node fetched again (`getblockfrompeer`) is
    /// there, but not what it spends.
    fn pruned(&self, what: &str, first: u32) -> ChainError {
        ChainError::Setup(format!(
            "{what} is not in {}, or not what it spends: the node has pruned its files, and the first height they can serve is {first}; start the index there (--first-height {first}), or use an unpruned node (prune=0)",
            self.folder.path().display()
        ))
    }

    async fn check_folder(&self, network: Network) -> Result<(), ChainError> {
        if network != self.settings.network {
            return Err(ChainError::Setup(format!(
                "{} holds blocks of the network {} and not of {network}; check --network",
                self.folder.path().display(),
                self.settings.network
            )));
        }
        if let Some(node) = &self.settings.node {
            node.check(network).await?;
            self.take_magic(node.as_ref()).await?;
        }
        let folder = Arc::clone(&self.folder);
        let looked = blocking(move |stopped| {
            folder.check()?;
            folder.refresh(stopped)?;
            let trouble = match folder.connected_tip(stopped) {
                Ok(_) => folder.missing_undo_file(),
                Err(trouble) => Some(trouble),
            };
            Ok((folder.first_served()?, trouble))
        })
        .await;
        let was_good = self.folder.checked.load(Ordering::Relaxed);
        let (first, trouble) = match (looked, &self.settings.node) {
            (Ok(looked), _) => looked,
            // What was good may be taken away, and the node that is found right has all of it.
            (Err(error), Some(node)) if was_good => {
                self.warn(error.to_string(), node.as_ref());
                return Ok(());
            }
            (Err(error), _) => return Err(error),
        };
        match (trouble, &self.settings.node) {
            (None, _) => {}
            (Some(trouble), Some(node)) => self.warn(trouble.into_text(), node.as_ref()),
            (Some(trouble), None) => return Err(trouble.into_error(&self.folder)),
        }
        match first {
            Some(0) => {}
            Some(height) if !was_good => tracing::warn!(
                height,
                "the node is pruned: its files have no blocks below this height"
            ),
            Some(_) => {}
            None => {
                return Err(ChainError::Setup(format!(
                    "no block in {} names its height; is it the folder of a Bitcoin Core node?",
                    self.folder.path().display()
                )));
            }
        }
        if let Some(node) = &self.settings.node {
            let tip = self.node_tip().await?;
            if self.folder.read_state().index.find(&tip.hash).is_none() {
                self.check_branch(node.as_ref(), tip).await?;
            }
        }
        self.folder.checked.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Logs, once, what is wrong with the files where the node stands in.
    fn warn(&self, trouble: String, node: &dyn Node) {
        if self.folder.is_news(&trouble) {
            tracing::warn!("{trouble}; these blocks come from {}", node.describe());
        }
    }

    /// Takes the first bytes of records from the node's signet challenge.
    async fn take_magic(&self, node: &dyn Node) -> Result<(), ChainError> {
        if self.settings.network != Network::Signet {
            return Ok(());
        }
        let Some(theirs) = node.signet_challenge().await? else {
            return Ok(());
        };
        match &self.settings.signet_challenge {
            Some(ours) if *ours != theirs => Err(ChainError::Setup(format!(
                "{} is on a signet of the challenge {theirs:x} and not of {ours:x}; check --signet-challenge",
                node.describe()
            ))),
            _ => {
                self.folder.set_magic(signet_magic(&theirs));
                Ok(())
            }
        }
    }

    /// Checks that files which lack the node's tip have blocks of its chain: a copy that has grown old, or files of which
    /// the newest cannot be read.
    async fn check_branch(&self, node: &dyn Node, tip: BlockId) -> Result<(), ChainError> {
        let best = self.folder.read_state().best();
        let (best, folder) = (best.map(|(id, _)| id), self.folder.path().display());
        let distances = std::iter::successors(Some(1), |distance| {
            Some(distance * 2).filter(|distance| *distance <= DEEPEST_COMMON)
        });
        for distance in std::iter::once(0).chain(distances) {
            let top = best.map_or(0, |best| best.height.min(tip.height));
            let Some(height) = top.checked_sub(distance) else {
                break;
            };
            // All chains of a network have the genesis block.
            if height == 0 && top > 0 {
                break;
            }
            let theirs = node.block_at(height).await?;
            let known = theirs.and_then(|id| {
                let state = self.folder.read_state();
                Some((id, state.index.find(&id.hash)?))
            });
            if let Some((common, _)) = known {
                tracing::warn!(
                    "the block files in {folder} are those of the node up to {common} at least, but do not have its tip {tip}; what they lack comes from {}",
                    node.describe()
                );
                return Ok(());
            }
        }
        Err(ChainError::NotAvailable(format!(
            "the block files in {folder} do not have the node's tip {tip}; are they that node's? check --blocks-dir"
        )))
    }

    /// The tip that the node names; from then on [`BlockSource::block_at`] answers from its branch.
    async fn node_tip(&self) -> Result<BlockId, ChainError> {
        let node = self.settings.node.as_ref();
        let node = node.ok_or_else(|| ChainError::Setup("there is no node to ask".into()))?;
        let tip = node.tip().await?;
        let folder = Arc::clone(&self.folder);
        blocking(move |stopped| {
            let choose = || {
                let mut state = folder.write_state();
                let node = state.index.find(&tip.hash);
                let known = node.filter(|node| state.index.id(*node) == Some(tip));
                state.tip_is_known = known.is_some();
                if let Some(node) = known {
                    state.index.choose_chain(node);
                }
                known.is_some()
            };
            if !choose() {
                match folder.refresh(stopped) {
                    Ok(()) => {
                        choose();
                    }
                    // The node has whatever cannot be read here.
                    Err(e) => {
                        let text = e.to_string();
                        if folder.is_news(&text) {
                            tracing::warn!("{text}; the node is asked instead");
                        }
                    }
                }
            }
            Ok(tip)
        })
        .await
    }

    /// The end of the heaviest branch that the node has connected.
    async fn files_tip(&self) -> Result<BlockId, ChainError> {
        let folder = Arc::clone(&self.folder);
        blocking(move |stopped| {
            let tip = folder.connected_tip(stopped);
            tip.map_err(|trouble: Trouble| trouble.into_error(&folder))
        })
        .await
    }

    /// The chosen chain's block at a height, where the tip is known.
    fn on_chain(&self, height: u32) -> Option<BlockId> {
        let state = self.folder.read_state();
        let node = state
            .index
            .on_chain(height)
            .filter(|_| state.tip_is_known)?;
        state.index.id(node)
    }

    async fn id_at(&self, height: u32) -> Result<Option<BlockId>, ChainError> {
        if let Some(id) = self.on_chain(height) {
            return Ok(Some(id));
        }
        if let Some(node) = &self.settings.node {
            return node.block_at(height).await;
        }
        if !self.folder.read_state().tip_is_known {
            self.files_tip().await?;
        }
        let id = self.on_chain(height);
        if id.is_none() {
            let folder = Arc::clone(&self.folder);
            let first = blocking(move |_| folder.first_served()).await?;
            if let Some(first) = first.filter(|first| height < *first) {
                return Err(self.pruned(&format!("height {height}"), first));
            }
        }
        Ok(id)
    }
}

/// Reads blocks; where something is missing or not what it was, looks at what has changed and tries again.
fn read_with_patience(
    folder: &Folder,
    ids: &[BlockId],
    stopped: &AtomicBool,
) -> Vec<Result<BlockWithPrevouts, Miss>> {
    let mut blocks = folder.read(ids, 0);
    for attempt in 1..ATTEMPTS {
        let missing: Vec<usize> = (0..)
            .zip(&blocks)
            .filter_map(|(index, block)| block.is_err().then_some(index))
            .collect();
        if missing.is_empty() {
            break;
        }
        for index in &missing {
            match blocks.get(*index) {
                Some(Err(Miss::Changed(number, _))) => folder.distrust(*number),
                Some(Err(Miss::NotYet(Some(number), _))) if attempt == 1 => {
                    folder.recheck_undo_file(*number);
                }
                _ => {}
            }
        }
        let refreshed = match attempt {
            1 => folder.refresh(stopped),
            _ => Ok(()),
        };
        let wanted = missing.iter().filter_map(|index| ids.get(*index).copied());
        let again = match refreshed {
            Ok(()) => folder.read(&wanted.collect::<Vec<_>>(), attempt),
            Err(e) => wanted.map(|_| Err(e.clone().into())).collect(),
        };
        for (index, block) in missing.into_iter().zip(again) {
            blocks[index] = block;
        }
    }
    let state = folder.read_state();
    for (block, id) in blocks.iter_mut().zip(ids) {
        // The last block of a file may be on its way there.
        if let Err(Miss::Changed(number, e)) = block
            && let Some(node) = state.index.find(&id.hash)
            && state.is_last(*number, node)
        {
            *block = Err(Miss::NotYet(None, e.to_string()));
        }
    }
    blocks
}

/// Runs what blocks where it may. It is told when nobody waits for it any more.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce(&AtomicBool) -> Result<T, ChainError> + Send + 'static,
) -> Result<T, ChainError> {
    struct Stop(Arc<AtomicBool>);
    impl Drop for Stop {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let stop = Stop(Arc::new(AtomicBool::new(false)));
    let stopped = Arc::clone(&stop.0);
    let done = task::spawn_blocking(move || work(&stopped)).await;
    done.unwrap_or_else(|_| {
        Err(ChainError::Unreachable(
            "the block files were not read: the program is stopping".into(),
        ))
    })
}

impl BlockSource for FilesSource {
    fn describe(&self) -> String {
        let folder = self.folder.path().display();
        match &self.settings.node {
            Some(node) => format!(
                "Bitcoin Core's block files in {folder}, with {}",
                node.describe()
            ),
            None => format!("Bitcoin Core's block files in {folder}"),
        }
    }

    /// Reads all headers, which takes a while with a long chain.
    fn check(&self, network: Network) -> BoxFuture<'_, Result<(), ChainError>> {
        Box::pin(self.check_folder(network))
    }

    fn tip(&self) -> BoxFuture<'_, Result<BlockId, ChainError>> {
        Box::pin(async {
            match &self.settings.node {
                Some(_) => self.node_tip().await,
                None => self.files_tip().await,
            }
        })
    }

    /// Up to the tip that was named last, from the branch that it ended.
    fn block_at(&self, height: u32) -> BoxFuture<'_, Result<Option<BlockId>, ChainError>> {
        Box::pin(self.id_at(height))
    }

    /// Up to the end of the branch, or from the node where the files do not reach.
    fn blocks_at(
        &self,
        heights: RangeInclusive<u32>,
    ) -> BoxFuture<'_, Result<Vec<BlockId>, ChainError>> {
        Box::pin(async move {
            let known = heights.clone().take(BLOCKS_AT_ONCE);
            let known: Vec<BlockId> = known.map_while(|height| self.on_chain(height)).collect();
            match (&self.settings.node, heights.is_empty()) {
                _ if !known.is_empty() => Ok(known),
                (_, true) => Ok(Vec::new()),
                (Some(node), _) => node.blocks_at(heights).await,
                (None, _) => Ok(self.id_at(*heights.start()).await?.into_iter().collect()),
            }
        })
    }

    fn block(&self, id: BlockId) -> BoxFuture<'_, Result<BlockWithPrevouts, ChainError>> {
        Box::pin(async move {
            let mut read = self.blocks(&[id]).await;
            read.pop().unwrap_or_else(|| {
                Err(ChainError::NotAvailable(format!("block {id} was not read")))
            })
        })
    }

    /// As many as have the bytes of a large block; one that no file has is left to the node, alone.
    fn run_length(&self, ids: &[BlockId]) -> usize {
        let state = self.folder.read_state();
        let mut bytes = 0;
        let sizes = state.block_sizes(ids).take(RUN_BLOCKS);
        let run = sizes.take_while(|size| {
            bytes += u64::from(*size);
            bytes <= RUN_BYTES
        });
        run.count().max(1)
    }

    /// A file is opened once for neighbours in it.
    fn blocks<'a>(
        &'a self,
        ids: &'a [BlockId],
    ) -> BoxFuture<'a, Vec<Result<BlockWithPrevouts, ChainError>>> {
        Box::pin(async move {
            let folder = Arc::clone(&self.folder);
            let wanted = ids.to_vec();
            let read = blocking(move |stopped| Ok(read_with_patience(&folder, &wanted, stopped)));
            let read = match read.await {
                Ok(read) => read,
                Err(e) => return ids.iter().map(|_| Err(e.clone())).collect(),
            };
            let blocks = ids.iter().zip(read);
            join_all(blocks.map(|(id, block)| self.or_from_node(*id, block))).await
        })
    }
}
