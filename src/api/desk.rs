//! The desk: one place without a transport that answers every dialect.
//!
//! A dialect decodes a question, asks it here, and encodes the answer. Answers from the index come from one
//! [`Snapshot`] ([`Desk::read`]), so none mixes two tips; a list can only be asked of a block that has
//! been looked up. The desk holds the limit on readers and on what the node is asked for; what it keeps are values. Bytes of
//! answers a dialect may keep itself, by what was asked and the [`Stamp`] of the state it was answered from.

mod birthday;
mod columns;
mod error;
mod lookup;
mod process;
mod proofs;
mod since;
mod spends;
mod watches;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use bitcoin::block::Header;
use bitcoin::hashes::Hash;
use bitcoin::{Network, OutPoint, Transaction, Txid};
use tokio::sync::{Semaphore, broadcast};

use crate::BlockId;
use crate::chain::{BlockSource, BroadcastError, ChainError, Node};
use crate::curve::Engine;
use crate::curve::libsecp256k1::LibSecp256k1;
use crate::filter::{FilterKind, spent_item};
use crate::mempool::Mempool;
use crate::proof::Proof;
use crate::store::{
    Applied, Block, Commitments, Heads, Keep, RowFilter, Sections, Snapshot, SpendRow, Store, Utxo,
};
use crate::watch::Registry;
pub use birthday::BEHIND_SECONDS;
pub use error::{Blame, DeskError};
pub use lookup::{BlockCounts, CreatedOutput, FoundTransaction, OutpointState};
pub use process::Process;
use proofs::ProofBlocks;
use since::SharedLeft;
pub use since::Since;
use spends::SpendAnswers;
pub use spends::{SpendDetail, SpendDetails};
pub use watches::{Bearer, Credential, Watching, WatchingError};

/// Broadcasts that the node is asked for at the same time.
const MAX_BROADCASTS: usize = 16;

/// Changes of the chain that a subscriber may be behind.
const CHANGES_KEPT: usize = 64;

/// Bounds of a desk. The defaults suit a public server on a small machine.
#[derive(Debug, Clone)]
pub struct DeskSettings {
    /// Questions that read the index at the same time; further ones wait in line, none is refused.
    pub max_reading: usize,
    /// How long a question waits for the node, with all that stand in line before it.
    pub node_timeout: Duration,
    /// The view of the node's mempool, if it is followed.
    pub mempool: Option<Arc<Mempool>>,
    /// What tells output keys that are points from others; a batched one is cheaper.
    pub engine: Arc<dyn Engine>,
    /// What is watched in the index; `None` where nobody follows it.
    pub watches: Option<Registry>,
}

impl Default for DeskSettings {
    fn default() -> Self {
        Self {
            // More readers than cores: some of them wait for the disk.
            max_reading: 4 * std::thread::available_parallelism().map_or(4, usize::from),
            node_timeout: Duration::from_secs(60),
            mempool: None,
            engine: Arc::new(LibSecp256k1),
            watches: None,
        }
    }
}

/// Which state of the index answers are of. Two answers to one question are the same if their stamps are, in that part
/// which the question hangs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Changes with every commit.
    pub tip: u64,
    /// Changes only when blocks are disconnected: what follows from a block alone stays the same otherwise.
    pub branch: u64,
    /// Changes when that does, and when more becomes known of blocks there are: who spends what in old ones.
    pub known: u64,
    /// Height of the tip; 0 for an empty index.
    pub height: u32,
}

/// The present stamp.
#[derive(Default)]
struct Clock {
    tip: AtomicU64,
    branch: AtomicU64,
    known: AtomicU64,
    height: AtomicU32,
}

impl Clock {
    fn advance(&self, applied: &Applied) {
        let height = applied.tip.map_or(0, |tip| tip.height);
        self.height.store(height, Ordering::SeqCst);
        if !applied.disconnected.is_empty() {
            self.branch.fetch_add(1, Ordering::SeqCst);
        }
        if !applied.disconnected.is_empty() || !applied.moves_the_chain() {
            self.known.fetch_add(1, Ordering::SeqCst);
        }
        self.tip.fetch_add(1, Ordering::SeqCst);
    }
}

/// What answers.
pub struct Desk {
    store: Arc<Store>,
    /// For details of spends.
    blocks: Option<Arc<dyn BlockSource>>,
    /// For broadcasting.
    node: Option<Arc<dyn Node>>,
    engine: Arc<dyn Engine>,
    node_timeout: Duration,
    mempool: Option<Arc<Mempool>>,
    /// A permit per question that reads the index.
    reading: Arc<Semaphore>,
    /// A permit per broadcast that the node is asked for.
    broadcasting: Semaphore,
    spends: SpendAnswers,
    proofs: ProofBlocks,
    clock: Arc<Clock>,
    left: SharedLeft,
    changes: broadcast::Sender<Applied>,
    watching: Option<Watching>,
}

impl Desk {
    /// A desk over an index, with the blocks that it was made of and the own node, if they are at hand.
    pub fn new(
        store: Arc<Store>,
        blocks: Option<Arc<dyn BlockSource>>,
        node: Option<Arc<dyn Node>>,
        settings: DeskSettings,
    ) -> Arc<Self> {
        let clock = Arc::new(Clock::default());
        let left = SharedLeft::default();
        let (changes, _) = broadcast::channel(CHANGES_KEPT);
        store.on_applied({
            let (clock, left, changes) = (clock.clone(), left.clone(), changes.clone());
            move |applied| {
                clock.advance(applied);
                if applied.moves_the_chain() {
                    // Before those hear of it who will ask.
                    since::lock(&left).advance(applied);
                    // Nobody may be listening.
                    let _ = changes.send(applied.clone());
                }
            }
        });
        // After the listener is there, so that no commit goes unseen. What cannot be read is told to whoever asks.
        let tip = store.snapshot().ok().and_then(|snapshot| snapshot.tip());
        clock
            .height
            .fetch_max(tip.map_or(0, |tip| tip.height), Ordering::SeqCst);
        since::lock(&left).begin(tip);
        Arc::new(Self {
            store,
            blocks,
            node,
            engine: settings.engine,
            node_timeout: settings.node_timeout,
            mempool: settings.mempool,
            reading: Arc::new(Semaphore::new(
                settings.max_reading.clamp(1, Semaphore::MAX_PERMITS),
            )),
            broadcasting: Semaphore::new(MAX_BROADCASTS),
            spends: SpendAnswers::new(),
            proofs: ProofBlocks::new(),
            clock,
            left,
            changes,
            watching: settings.watches.map(Watching::new),
        })
    }

    /// The stamp of whatever is read from now on, or of an older state.
    pub fn stamp(&self) -> Stamp {
        Stamp {
            tip: self.clock.tip.load(Ordering::SeqCst),
            branch: self.clock.branch.load(Ordering::SeqCst),
            known: self.clock.known.load(Ordering::SeqCst),
            height: self.clock.height.load(Ordering::SeqCst),
        }
    }

    /// How many of the last blocks a reorganisation may reach at most ([`Store::horizon`]).
    pub fn horizon(&self) -> u32 {
        self.store.horizon()
    }

    /// Every change of the chain from now on. Who falls behind by more than some 60 of them is told so.
    pub fn subscribe(&self) -> broadcast::Receiver<Applied> {
        self.changes.subscribe()
    }

    /// The view of the node's mempool, if it is followed.
    pub fn mempool(&self) -> Option<&Arc<Mempool>> {
        self.mempool.as_ref()
    }

    /// Runs `ask` on a blocking thread over one commit, when its turn comes.
    ///
    /// # Errors
    /// What `ask` answers, or that the index cannot be read.
    pub async fn read<T: Send + 'static, E: From<DeskError> + Send + 'static>(
        &self,
        ask: impl FnOnce(&Reading<'_>) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E> {
        let internal = |text: String| E::from(DeskError::Internal(text));
        let permit = self.reading.clone().acquire_owned().await;
        let permit = permit.map_err(|error| internal(error.to_string()))?;
        let (store, engine) = (self.store.clone(), self.engine.clone());
        tokio::task::spawn_blocking(move || {
            // Kept until the work is over, also if whoever asked has gone meanwhile.
            let _permit = permit;
            let snapshot = store.snapshot().map_err(DeskError::from)?;
            ask(&Reading {
                snapshot: &snapshot,
                engine: engine.as_ref(),
            })
        })
        .await
        .map_err(|error| internal(error.to_string()))?
    }

    /// Who spent the taproot outpoints that a block spends, from the node's block. `spends` are those of the block.
    ///
    /// # Errors
    /// [`DeskError::NoNode`], [`DeskError::BlockFailed`], [`DeskError::SpendsMismatch`].
    pub async fn spend_details(
        &self,
        block: BlockId,
        spends: Vec<SpendRow>,
    ) -> Result<Arc<SpendDetails>, DeskError> {
        let blocks = self.blocks.as_deref().ok_or(DeskError::NoNode)?;
        self.spends
            .get(blocks, self.node_timeout, block, spends)
            .await
    }

    /// That a transaction stands in a block, from the node's block; `None` if the block has no transaction at that position.
    ///
    /// # Errors
    /// [`DeskError::NoNode`], [`DeskError::BlockFailed`], [`DeskError::SpendsMismatch`].
    pub async fn proof(&self, block: BlockId, index: u32) -> Result<Option<Proof>, DeskError> {
        let blocks = self.blocks.as_deref().ok_or(DeskError::NoNode)?;
        let (fetches, timeout) = (&self.spends, self.node_timeout);
        self.proofs
            .get(blocks, fetches, timeout, block, index)
            .await
    }

    /// Whether there is a node at all.
    ///
    /// # Errors
    /// [`DeskError::NoNode`].
    pub fn require_node(&self) -> Result<(), DeskError> {
        self.node.as_ref().map(|_| ()).ok_or(DeskError::NoNode)
    }

    /// Hands a transaction to the network through the own node.
    ///
    /// # Errors
    /// [`DeskError::NoNode`], [`DeskError::Rejected`], [`DeskError::BroadcastFailed`].
    pub async fn broadcast(&self, transaction: &Transaction) -> Result<Txid, DeskError> {
        let node = self.node.as_deref().ok_or(DeskError::NoNode)?;
        let asked = async {
            let permit = self.broadcasting.acquire().await;
            let _permit = permit.map_err(|error| DeskError::Internal(error.to_string()))?;
            match node.broadcast(transaction).await {
                Ok(txid) => Ok(txid),
                Err(BroadcastError::Rejected(reason)) => Err(DeskError::Rejected(reason)),
                Err(BroadcastError::Chain(error)) => Err(DeskError::BroadcastFailed(error)),
            }
        };
        // With the time in line, as one that hangs would otherwise hold up each after those before it.
        match tokio::time::timeout(self.node_timeout, asked).await {
            Ok(answer) => answer,
            Err(_) => Err(DeskError::BroadcastFailed(ChainError::Unreachable(
                format!("no answer within {:?}", self.node_timeout),
            ))),
        }
    }
}

/// What the server is and how far its index reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    /// Network of the index.
    pub network: Network,
    /// The last block whose data can be served.
    pub tip: BlockId,
    /// What the index keeps, and so which requests it can answer.
    pub keep: Keep,
    /// The first height of the index.
    pub first_height: u32,
    /// The height from which on it knows who spends what, if not in all of its blocks.
    pub spenders_from: Option<u32>,
}

/// Which list of a block's tweaks is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TweakList {
    /// Every eligible transaction, in block order; never changes.
    Full,
    /// Transactions that still have an unspent taproot output, sorted by txid in display order.
    CutThrough,
}

/// One commit of the index, to be asked.
pub struct Reading<'s> {
    snapshot: &'s Snapshot,
    engine: &'s dyn Engine,
}

impl<'s> Reading<'s> {
    /// Network and tip.
    ///
    /// # Errors
    /// [`DeskError::NothingIndexed`] for an empty index.
    pub fn status(&self) -> Result<Status, DeskError> {
        Ok(Status {
            network: self.snapshot.network(),
            tip: self.snapshot.tip().ok_or(DeskError::NothingIndexed)?,
            keep: self.snapshot.keep(),
            first_height: self.snapshot.first_height(),
            spenders_from: self.snapshot.spenders_from(),
        })
    }

    /// The indexed block at a height.
    ///
    /// # Errors
    /// [`DeskError::UnknownHeight`] below the first indexed height and above the tip; [`DeskError::NothingIndexed`] before
    /// there is any block.
    pub fn block(&self, height: u32) -> Result<BlockReading<'s>, DeskError> {
        match self.snapshot.block(height)? {
            Some(block) => Ok(BlockReading {
                block,
                engine: self.engine,
            }),
            None if self.snapshot.tip().is_none() => Err(DeskError::NothingIndexed),
            None => Err(DeskError::UnknownHeight { height }),
        }
    }
}

/// An indexed block, to be asked. All errors are faults of the store, or that it does not keep what is asked for.
pub struct BlockReading<'s> {
    block: Block<'s>,
    engine: &'s dyn Engine,
}

impl BlockReading<'_> {
    /// Height and hash.
    pub const fn id(&self) -> BlockId {
        self.block.id()
    }

    /// The header.
    pub const fn header(&self) -> &Header {
        self.block.header()
    }

    /// Number of eligible transactions.
    pub const fn transaction_count(&self) -> u32 {
        self.block.transaction_count()
    }

    /// Numbers of everything else.
    ///
    /// # Errors
    /// See [`BlockReading`].
    pub fn counts(&self) -> Result<BlockCounts, DeskError> {
        let outputs = self.block.utxos(RowFilter::default())?;
        let unspent = outputs.iter().filter(|output| !output.spent).count();
        Ok(BlockCounts {
            outputs: self.block.output_count(),
            // No more than there are outputs, and below no more than a block can hold.
            unspent: unspent as u32,
            spends: self.block.spend_count(),
            states: self.block.states()?.len() as u32,
        })
    }

    /// Time in the header, Unix seconds.
    pub const fn time(&self) -> u32 {
        self.block.header().time
    }

    /// Tweaks, 33 bytes each (SEC1 compressed). Kept are transactions whose highest taproot output (highest
    /// unspent one with [`TweakList::CutThrough`]) reaches `dust_limit_sat`.
    ///
    /// # Errors
    /// See [`BlockReading`].
    pub fn tweaks(&self, list: TweakList, dust_limit_sat: u64) -> Result<Vec<[u8; 33]>, DeskError> {
        let filter = RowFilter {
            dust_limit_sat,
            cut_through: list == TweakList::CutThrough,
        };
        match list {
            // In the order of the block, for which an index needs nothing but tweaks.
            TweakList::Full => Ok(self.block.tweaks(filter)?),
            TweakList::CutThrough => {
                let mut rows = self.block.transactions(filter)?;
                rows.sort_unstable_by_key(|(txid, _)| display_bytes(txid));
                Ok(rows.into_iter().map(|(_, tweak)| tweak).collect())
            }
        }
    }

    /// Taproot outputs of the block's eligible transactions that still have an unspent one (spent siblings included),
    /// sorted by txid in display order, then vout.
    ///
    /// Those whose key is no point of the curve are left out: nobody can have been paid by them, nobody can spend them, and
    /// there are clients that go no further once they meet one.
    ///
    /// # Errors
    /// See [`BlockReading`].
    pub fn utxos(&self) -> Result<Vec<Utxo>, DeskError> {
        let filter = RowFilter {
            dust_limit_sat: 0,
            cut_through: true,
        };
        let mut rows = self.block.utxos(filter)?;
        let keys: Vec<[u8; 33]> = rows.iter().map(|utxo| with_even_y(&utxo.key)).collect();
        // What an engine finds absent is compared with libsecp256k1 at once, so nothing of anybody's is left out.
        let mut points = self.engine.decompress(&keys).into_iter();
        rows.retain(|_| points.next().flatten().is_some());
        rows.sort_unstable_by_key(|utxo| (display_bytes(&utxo.txid), utxo.vout));
        Ok(rows)
    }

    /// A serialized filter: CompactSize count, then the bit stream; the one byte 0 for no elements.
    ///
    /// # Errors
    /// See [`BlockReading`]; [`DeskError::Incomplete`].
    pub fn filter(&self, kind: FilterKind) -> Result<Vec<u8>, DeskError> {
        let filter = self.block.filter(kind)?;
        // The filter of no element has a count too. What is damaged must not say that there is nothing.
        if filter.is_empty() {
            return Err(DeskError::Incomplete {
                block: self.id(),
                what: match kind {
                    FilterKind::NewUtxos => "new-UTXOs filter",
                    FilterKind::Spent => "spent filter",
                },
            });
        }
        Ok(filter)
    }

    /// The block's spent taproot outpoints in block order.
    ///
    /// # Errors
    /// See [`BlockReading`].
    pub fn spends(&self) -> Result<Vec<SpendRow>, DeskError> {
        Ok(self.block.spends()?)
    }

    /// The block's spent index: an item of 8 bytes ([`spent_item`]) per spent taproot outpoint, in block order.
    ///
    /// # Errors
    /// See [`BlockReading`].
    pub fn spent_index(&self) -> Result<Vec<[u8; 8]>, DeskError> {
        let hash = self.id().hash;
        let item = |outpoint: &OutPoint| spent_item(outpoint, &hash);
        let spends = self.spends()?;
        Ok(spends.iter().map(|spend| item(&spend.outpoint)).collect())
    }

    /// Heads of the chains of hashes at the block; `None` where there are none ([`Block::heads`]).
    ///
    /// # Errors
    /// See [`BlockReading`].
    pub fn heads(&self) -> Result<Option<Heads>, DeskError> {
        Ok(self.block.heads()?)
    }

    /// What the chains of hashes commit to of the block, and their heads there; `None` where there are none
    /// ([`Block::heads`]).
    ///
    /// # Errors
    /// See [`BlockReading`].
    pub fn commitments(&self) -> Result<Option<(Commitments, Heads)>, DeskError> {
        let Some(heads) = self.block.heads()? else {
            return Ok(None);
        };
        Ok(Some((Commitments::by(&self.block.texts()?), heads)))
    }

    /// What binds the block's sections of the columns.
    ///
    /// # Errors
    /// See [`BlockReading`].
    pub fn sections(&self) -> Result<Sections, DeskError> {
        Ok(self.block.sections()?)
    }

    /// The rolling commitment over all tweaks up to the block.
    ///
    /// # Errors
    /// See [`BlockReading`].
    pub fn digest(&self) -> Result<[u8; 32], DeskError> {
        Ok(self.block.digest()?)
    }
}

/// An x-only key as the compressed point that it stands for.
fn with_even_y(key: &[u8; 32]) -> [u8; 33] {
    let mut bytes = [2; 33];
    bytes[1..].copy_from_slice(key);
    bytes
}

/// A txid in the byte order it is shown in, which is also the order the lists are sorted by.
fn display_bytes(txid: &Txid) -> [u8; 32] {
    let mut bytes = txid.to_byte_array();
    bytes.reverse();
    bytes
}

#[cfg(test)]
mod hanging_node;
