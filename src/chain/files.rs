//! Bitcoin Core's own block files: blocks from `blk*.dat`, what they spend from `rev*.dat`.
//!
//! The fastest source: nothing goes through the node, which may run or not. An index of all headers is built in memory at the
//! start (one small read a block) and kept up to date; nothing is written. Where REST or RPC of the same node is at hand it
//! names the tip, takes transactions, and stands in for a block whose bytes are not on the disk yet; without it the tip
//! is the last block of the branch with the most work that the node has connected.
//!
//! - [`frames`]: obfuscation, and the records of a file.
//! - [`undo`]: the bytes of an undo record.
//! - [`headers`]: which blocks there are, and how they hang together.
//! - [`undo_file`]: which undo record belongs to which block.

mod folder;
pub mod frames;
pub mod headers;
mod read;
pub mod undo;
pub mod undo_file;

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bitcoin::p2p::Magic;
use bitcoin::{Network, Transaction, Txid};
use futures::future::{BoxFuture, join_all};
use tokio::task;

use self::folder::Folder;
use self::read::Miss;
use super::{BlockSource, BlockWithPrevouts, BroadcastError, ChainError};
use crate::BlockId;

pub use self::read::read_ranges;

/// How often a block that is not where it was is looked for: once more after a look at what changed, and once in
/// another place.
const ATTEMPTS: usize = 3;

/// Blocks that the node connects in one go at most stay far below this; a tip without undo record is looked for as deep.
const LONGEST_UNCONNECTED: usize = 10_000;

/// Where the files are.
#[derive(Clone)]
pub struct FilesSettings {
    /// The folder `blocks` in the node's data directory (of the network), or wherever its `-blocksdir` puts it.
    pub folder: PathBuf,
    /// Whose blocks they are.
    pub network: Network,
    /// First bytes of each record: the network's, except on a signet of one's own.
    pub magic: Magic,
    /// REST or RPC of the node that writes the files, for the tip, for broadcasting, and for blocks not on the disk yet.
    pub node: Option<Arc<dyn BlockSource>>,
}

impl FilesSettings {
    /// A folder alone.
    pub fn new(folder: impl Into<PathBuf>, network: Network) -> Self {
        Self {
            folder: folder.into(),
            network,
            magic: network.magic(),
            node: None,
        }
    }
}

impl fmt::Debug for FilesSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FilesSettings")
            .field("folder", &self.folder)
            .field("network", &self.network)
            .field("magic", &self.magic)
            .field("node", &self.node.as_ref().map(|node| node.describe()))
            .finish()
    }
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
        let folder = Folder::new(settings.folder.clone(), settings.network, settings.magic);
        Self {
            folder: Arc::new(folder),
            settings,
        }
    }

    /// Reads blocks, in the order asked for; neighbours in a file are read in one go. All of them are in memory at a time,
    /// so that a caller asks for as many as it has room for.
    pub async fn read(&self, ids: &[BlockId]) -> Vec<Result<BlockWithPrevouts, ChainError>> {
        let folder = Arc::clone(&self.folder);
        let wanted = ids.to_vec();
        let read = blocking(move |stopped| Ok(read_with_patience(&folder, &wanted, stopped))).await;
        let read = match read {
            Ok(read) => read,
            Err(e) => return ids.iter().map(|_| Err(e.clone())).collect(),
        };
        join_all(
            ids.iter()
                .zip(read)
                .map(|(id, block)| self.or_from_node(*id, block)),
        )
        .await
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
        let error = match &miss {
            Miss::Failed(e) | Miss::Changed(_, e) => return Err(e.clone()),
            Miss::NotYet(_, what) => ChainError::NotAvailable(what.clone()),
            Miss::Unknown | Miss::Pruned => self.not_there(id, &miss),
        };
        let Some(node) = &self.settings.node else {
            return Err(error);
        };
        match node.block(id).await {
            // It does not have it either, and the reason is here.
            Err(ChainError::NotAvailable(_) | ChainError::Setup(_))
                if matches!(error, ChainError::Setup(_)) =>
            {
                Err(error)
            }
            block => block,
        }
    }

    /// What to say of a block that no file has.
    fn not_there(&self, id: BlockId, miss: &Miss) -> ChainError {
        let folder = self.folder.path().display();
        let state = self.folder.read_state();
        let first = state.first_complete();
        match first {
            Some(first) if id.height < first => ChainError::Setup(format!(
                "block {id} is not in {folder}: the node has pruned its files, and the first height they can serve is {first}; start the index there (--first-height {first}), or use an unpruned node (prune=0)"
            )),
            _ if *miss == Miss::Pruned => ChainError::NotAvailable(format!(
                "the file with block {id} is not in {folder} any more; has the node pruned it?"
            )),
            _ => ChainError::NotAvailable(format!(
                "block {id} is not in {folder} yet; is it the folder of the node that names this block?"
            )),
        }
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
        }
        let folder = Arc::clone(&self.folder);
        let first = blocking(move |stopped| {
            folder.check()?;
            folder.refresh(stopped)?;
            Ok(folder.read_state().first_complete())
        })
        .await?;
        match first {
            Some(0) => {}
            Some(height) => tracing::warn!(
                height,
                "the node is pruned: its files have no blocks below this height"
            ),
            None => {
                return Err(ChainError::Setup(format!(
                    "no block in {} names its height; is it the folder of a Bitcoin Core node?",
                    self.folder.path().display()
                )));
            }
        }
        if self.settings.node.is_some() {
            let tip = self.node_tip().await?;
            if self.folder.read_state().index.find(&tip.hash).is_none() {
                return Err(ChainError::NotAvailable(format!(
                    "the block files in {} do not have the node's tip {tip}; are they that node's? check --blocks-dir",
                    self.folder.path().display()
                )));
            }
        }
        Ok(())
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
                folder.refresh(stopped)?;
                choose();
            }
            Ok(tip)
        })
        .await
    }

    /// The last connected block of the branch with the most work.
    async fn files_tip(&self) -> Result<BlockId, ChainError> {
        let folder = Arc::clone(&self.folder);
        blocking(move |stopped| {
            folder.refresh(stopped)?;
            let connected = || -> Result<Option<BlockId>, ChainError> {
                let mut node = folder.read_state().index.best();
                let mut looked_at = BTreeSet::new();
                for _ in 0..LONGEST_UNCONNECTED {
                    let Some(at) = node else {
                        break;
                    };
                    let id = folder.read_state().index.id(at);
                    if let Some(id) = id
                        && (id.height == 0 || folder.is_connected(at, &mut looked_at)?)
                    {
                        let mut state = folder.write_state();
                        state.tip_is_known = true;
                        state.index.choose_chain(at);
                        return Ok(Some(id));
                    }
                    node = folder.read_state().index.parent(at);
                }
                Ok(None)
            };
            let tip = connected()?;
            let best = folder.read_state().best();
            if let Some((id, number)) = best
                && tip != Some(id)
            {
                folder.recheck_undo_file(number);
                connected()?
            } else {
                tip
            }
            .ok_or_else(|| {
                ChainError::NotAvailable(format!(
                    "{} has no undo records of the last blocks; is the node still starting, or the folder damaged?",
                    folder.path().display()
                ))
            })
        })
        .await
    }

    async fn id_at(&self, height: u32) -> Result<Option<BlockId>, ChainError> {
        let from_files = || {
            let state = self.folder.read_state();
            let node = state.index.on_chain(height).filter(|_| state.tip_is_known);
            (
                state.tip_is_known,
                node.and_then(|node| state.index.id(node)),
            )
        };
        if let (_, Some(id)) = from_files() {
            return Ok(Some(id));
        }
        match &self.settings.node {
            Some(node) => node.block_at(height).await,
            None => {
                if let (false, _) = from_files() {
                    self.files_tip().await?;
                }
                let (_, id) = from_files();
                if id.is_none() {
                    let state = self.folder.read_state();
                    let first = state.first_complete().unwrap_or(0);
                    if height < first {
                        return Err(ChainError::Setup(format!(
                            "height {height} is not in {}: the node has pruned its files, and the first height they can serve is {first}; start the index there (--first-height {first}), or use an unpruned node (prune=0)",
                            self.folder.path().display()
                        )));
                    }
                }
                Ok(id)
            }
        }
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

    /// The files do not say; the node does, where there is one.
    fn rejects(&self, id: BlockId) -> BoxFuture<'_, Result<bool, ChainError>> {
        Box::pin(async move {
            match &self.settings.node {
                Some(node) => node.rejects(id).await,
                None => Ok(false),
            }
        })
    }

    fn block(&self, id: BlockId) -> BoxFuture<'_, Result<BlockWithPrevouts, ChainError>> {
        Box::pin(async move {
            let mut read = self.read(&[id]).await;
            read.pop().unwrap_or_else(|| {
                Err(ChainError::NotAvailable(format!("block {id} was not read")))
            })
        })
    }

    fn broadcast<'a>(&'a self, tx: &'a Transaction) -> BoxFuture<'a, Result<Txid, BroadcastError>> {
        Box::pin(async move {
            match &self.settings.node {
                Some(node) => node.broadcast(tx).await,
                None => Err(ChainError::Setup(
                    "block files take no transactions: broadcasting needs a node; give --node-url with RPC credentials"
                        .into(),
                )
                .into()),
            }
        })
    }
}
