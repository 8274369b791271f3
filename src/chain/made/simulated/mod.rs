//! A simulated regtest chain: real headers, real signatures, and the truth about every silent payment on it.
//!
//! It starts from regtest's genesis block, and a real node in regtest mode accepts its blocks one by one. A wallet of
//! its own holds the block rewards and makes background traffic with them, from inputs of every kind. The same seed and
//! the same calls make the same blocks.
//!
//! ```
//! use spindex::chain::BlockSource;
//! use spindex::chain::made::simulated::{SimulatedChain, SimulationSettings};
//!
//! let chain = SimulatedChain::new(SimulationSettings::default());
//! chain.mine(110); // Block rewards can be spent after 100 blocks: from here on there is traffic.
//! assert_eq!(chain.tip_id().height, 110);
//! assert_eq!(chain.describe(), "simulated regtest chain (seed 0)");
//! ```

pub mod builder;
mod changes;
mod ledger;
mod mempool;
mod mining;
mod payment;
mod traffic;

use std::collections::HashMap;
use std::fmt;
use std::future::ready;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bitcoin::constants::genesis_block;
use bitcoin::{Block, BlockHash, Network, OutPoint, ScriptBuf, Transaction, TxOut, Txid};
use futures::future::BoxFuture;
use secp256k1::rand::SeedableRng;
use secp256k1::rand::rngs::StdRng;

use crate::BlockId;
use crate::bip352::address::Address;
use crate::bip352::send::SendError;
use crate::chain::{
    BlockSource, BlockWithPrevouts, BroadcastError, ChainError, MempoolListing, Node, Prevouts,
    RawBlock,
};
use ledger::{Ledger, Pending};

pub use payment::{Paid, PaidOutput, PaymentRequest};

/// A block of the chain, with the outputs its inputs spend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SimulatedBlock {
    /// Height and hash.
    pub id: BlockId,
    /// The block.
    pub block: Block,
    /// Txid of each transaction, in block order.
    pub txids: Vec<Txid>,
    /// Per transaction the spent outputs in input order; empty for the coinbase.
    pub prevouts: Vec<Vec<TxOut>>,
}

impl SimulatedBlock {
    fn new(id: BlockId, block: Block, prevouts: Vec<Vec<TxOut>>) -> Self {
        Self {
            id,
            txids: block.txdata.iter().map(Transaction::compute_txid).collect(),
            block,
            prevouts,
        }
    }

    /// The block as sources give it.
    ///
    /// # Errors
    /// None for a block of the chain; as [`BlockWithPrevouts::new`] for one that was changed.
    pub fn with_prevouts(&self) -> Result<BlockWithPrevouts, ChainError> {
        let prevouts = Prevouts::from(self.prevouts.as_slice());
        BlockWithPrevouts::new(self.id, RawBlock::from(&self.block), prevouts)
    }
}

/// What the chain is like.
#[derive(Debug, Clone)]
pub struct SimulationSettings {
    /// Everything follows from it and from the calls made.
    pub seed: u64,
    /// Mean number of background transactions in a block, once there are coins to spend; 0 for none.
    pub transactions_per_block: u32,
    /// Silent payment addresses that the background traffic pays now and then.
    pub recipients: Vec<Address>,
    /// How many in a hundred background transactions pay one of `recipients`, at most 100.
    pub payment_percent: u32,
}

impl Default for SimulationSettings {
    /// Seed 0, a dozen transactions a block, no recipients.
    fn default() -> Self {
        Self {
            seed: 0,
            transactions_per_block: 12,
            recipients: Vec::new(),
            payment_percent: 10,
        }
    }
}

/// Why the chain cannot do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SimulationError {
    /// The wallet is short of mature coins.
    #[error(
        "{wanted_sat} sat are wanted and {have_sat} sat can be spent: mine more than 100 blocks first"
    )]
    NoFunds {
        /// Wanted, in satoshi.
        wanted_sat: u64,
        /// What can be spent, in satoshi.
        have_sat: u64,
    },
    /// An output to spend is not an unspent one of the chain's own wallet.
    #[error("output {0} is spent, unknown, or not of the chain's own wallet")]
    NotOurs(OutPoint),
    /// The transaction was refused by the mempool, in its words.
    #[error("the transaction is refused: {0}")]
    Refused(String),
    /// A silent payment cannot be made from these inputs.
    #[error(transparent)]
    Send(#[from] SendError),
    /// There are not as many blocks above the genesis block.
    #[error("{depth} blocks cannot be disconnected from a chain of height {height}")]
    TooDeep {
        /// Blocks to disconnect.
        depth: u32,
        /// Height of the tip.
        height: u32,
    },
    /// No block of any branch has this hash.
    #[error("there is no block {0} on any branch")]
    UnknownBlock(BlockHash),
}

/// What becomes of the transactions of disconnected blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Orphaned {
    /// They are gone.
    Drop,
    /// They return to the mempool, as in a node, and the next block has those that are still valid.
    Resubmit,
}

/// A change of the active chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reorganization {
    /// The last block that both chains have.
    pub fork: BlockId,
    /// Blocks no longer active, newest first.
    pub disconnected: Vec<BlockId>,
    /// Blocks now active, oldest first.
    pub connected: Vec<BlockId>,
}

/// A regtest chain in memory. Shared freely (`Arc`): one task may mine while others read.
pub struct SimulatedChain {
    seed: u64,
    state: Mutex<State>,
}

impl fmt::Debug for SimulatedChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimulatedChain")
            .field("seed", &self.seed)
            .finish_non_exhaustive()
    }
}

struct State {
    settings: SimulationSettings,
    rng: StdRng,
    ledger: Ledger,
    /// Outpoints the background traffic may spend. Some may be spent already.
    pool: Vec<OutPoint>,
    blocks_mined: u64,
    /// Blocks that were called invalid, newest first, by the lowest of them.
    invalid: HashMap<BlockHash, Vec<BlockId>>,
}

impl SimulatedChain {
    /// A chain of regtest's genesis block alone.
    pub fn new(settings: SimulationSettings) -> Self {
        let block = genesis_block(Network::Regtest);
        let id = BlockId {
            height: 0,
            hash: block.block_hash(),
        };
        let genesis = SimulatedBlock::new(id, block, vec![Vec::new()]);
        Self {
            seed: settings.seed,
            state: Mutex::new(State {
                rng: StdRng::seed_from_u64(settings.seed),
                settings,
                ledger: Ledger::new(genesis),
                pool: Vec::new(),
                blocks_mined: 0,
                invalid: HashMap::new(),
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere while the lock was held is reported there.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Mines blocks on the tip, each with the mempool and background traffic. Oldest first.
    pub fn mine(&self, blocks: u32) -> Vec<BlockId> {
        let mut state = self.state();
        (0..blocks).map(|_| state.mine_block()).collect()
    }

    /// Puts a transaction, and one in front that makes its inputs, into the mempool: the next block has both.
    ///
    /// # Errors
    /// [`SimulationError`], for example while no block reward is mature yet. The transaction in front may be in the
    /// mempool all the same, where no input yields a key for silent payments.
    pub fn pay(&self, request: &PaymentRequest) -> Result<Paid, SimulationError> {
        self.state().pay(request)
    }

    /// Makes all of the requested transactions and mines them in one block.
    ///
    /// # Errors
    /// [`SimulationError`]; requests before the one that failed are in the mempool then, and no block is mined.
    pub fn mine_with(
        &self,
        requests: &[PaymentRequest],
    ) -> Result<(BlockId, Vec<Paid>), SimulationError> {
        let mut state = self.state();
        let mut paid = Vec::with_capacity(requests.len());
        for request in requests {
            paid.push(state.pay(request)?);
        }
        let id = state.mine_block();
        for output in paid.iter_mut().flat_map(|paid| &mut paid.outputs) {
            output.block = Some(id);
        }
        Ok((id, paid))
    }

    /// Takes a transaction made elsewhere into the mempool: the next block has it. Its inputs must exist, be unspent
    /// and mature, and cover its outputs; of scripts only taproot key path signatures are checked.
    ///
    /// # Errors
    /// [`BroadcastError::Rejected`] with the reason.
    pub fn submit(&self, tx: &Transaction) -> Result<Txid, BroadcastError> {
        self.state()
            .ledger
            .accept(tx.clone(), Vec::new(), Vec::new())
            .map_err(|reason| BroadcastError::Rejected(reason.into()))
    }

    /// Calls the newest `depth` blocks invalid and disconnects them, newest first, as `invalidateblock` does. They stay
    /// invalid until [`SimulatedChain::activate`] returns to them.
    ///
    /// # Errors
    /// [`SimulationError::TooDeep`].
    pub fn disconnect(
        &self,
        depth: u32,
        orphaned: Orphaned,
    ) -> Result<Vec<BlockId>, SimulationError> {
        let mut state = self.state();
        let disconnected = state.disconnect(depth, orphaned)?;
        if let Some(lowest) = disconnected.last() {
            state.invalid.insert(lowest.hash, disconnected.clone());
        }
        Ok(disconnected)
    }

    /// Goes back by the newest `depth` blocks, newest first, without a word against them, as a node does that starts
    /// from an older state or connects its blocks again.
    ///
    /// # Errors
    /// [`SimulationError::TooDeep`].
    pub fn go_back(&self, depth: u32) -> Result<Vec<BlockId>, SimulationError> {
        self.state().disconnect(depth, Orphaned::Drop)
    }

    /// The blocks that were called invalid, newest first, of each time that some were.
    pub fn invalid_branches(&self) -> Vec<Vec<BlockId>> {
        self.state().invalid.values().cloned().collect()
    }

    /// Whether a block, or one that it builds on, was called invalid.
    pub fn is_invalid(&self, hash: BlockHash) -> bool {
        let state = self.state();
        let mut at = hash;
        while let Some(block) = state.ledger.stored(at) {
            if state.invalid.contains_key(&at) {
                return true;
            }
            at = block.data.block.header.prev_blockhash;
        }
        false
    }

    /// Replaces the newest `depth` blocks by `blocks` new ones, in one step for everybody who reads. A real node
    /// follows only if there are more new ones.
    ///
    /// # Errors
    /// [`SimulationError::TooDeep`].
    pub fn reorganize(
        &self,
        depth: u32,
        blocks: u32,
        orphaned: Orphaned,
    ) -> Result<Reorganization, SimulationError> {
        let mut state = self.state();
        let disconnected = state.disconnect(depth, orphaned)?;
        Ok(Reorganization {
            fork: state.ledger.tip(),
            disconnected,
            connected: (0..blocks).map(|_| state.mine_block()).collect(),
        })
    }

    /// Makes the branch that ends in a known block the active chain, whatever its length. Transactions of the branch
    /// left behind are gone.
    ///
    /// # Errors
    /// [`SimulationError::UnknownBlock`].
    pub fn activate(&self, tip: BlockHash) -> Result<Reorganization, SimulationError> {
        self.state().activate(tip)
    }

    /// The active chain's tip.
    pub fn tip_id(&self) -> BlockId {
        self.state().ledger.tip()
    }

    /// A block of any branch.
    pub fn stored_block(&self, hash: BlockHash) -> Option<Arc<SimulatedBlock>> {
        let state = self.state();
        Some(Arc::clone(&state.ledger.stored(hash)?.data))
    }

    /// All blocks of the active chain, the genesis block first.
    pub fn active_blocks(&self) -> Vec<Arc<SimulatedBlock>> {
        let state = self.state();
        let blocks = state.ledger.active();
        blocks.map(|block| Arc::clone(&block.data)).collect()
    }

    /// Transactions waiting for a block.
    pub fn mempool(&self) -> Vec<Transaction> {
        let state = self.state();
        let mempool = state.ledger.mempool().iter();
        mempool.map(|pending| pending.tx.clone()).collect()
    }

    /// The truth: every silent payment on the active chain, then those in the mempool.
    pub fn paid_outputs(&self) -> Vec<PaidOutput> {
        let state = self.state();
        let mut paid = Vec::new();
        let mut spends = HashMap::new();
        for block in state.ledger.active() {
            let id = block.data.id;
            for pending in &block.transactions {
                paid.extend(pending.payments.iter().map(|payment| PaidOutput {
                    block: Some(id),
                    ..payment.clone()
                }));
                spends.extend(spends_of(pending, id));
            }
        }
        for payment in &mut paid {
            payment.spent_by = spends.get(&payment.outpoint).copied();
        }
        let mempool = state.ledger.mempool().iter();
        paid.extend(mempool.flat_map(|pending| pending.payments.iter().cloned()));
        paid
    }

    /// The transaction that spends an output on the active chain, and its block.
    pub fn spender(&self, outpoint: OutPoint) -> Option<(Txid, BlockId)> {
        let state = self.state();
        state.ledger.active().find_map(|block| {
            let spends = block.transactions.iter();
            let mut spends = spends.flat_map(|pending| spends_of(pending, block.data.id));
            Some(spends.find(|(spent, _)| *spent == outpoint)?.1)
        })
    }
}

fn spends_of(pending: &Pending, id: BlockId) -> impl Iterator<Item = (OutPoint, (Txid, BlockId))> {
    let spent = pending.spent.iter();
    spent.map(move |(outpoint, _)| (*outpoint, (pending.txid, id)))
}

impl State {
    fn disconnect(
        &mut self,
        depth: u32,
        orphaned: Orphaned,
    ) -> Result<Vec<BlockId>, SimulationError> {
        let height = self.ledger.tip().height;
        if depth > height {
            return Err(SimulationError::TooDeep { depth, height });
        }
        let before = self.hold_changes();
        let waiting = self.ledger.take_mempool();
        let mut disconnected: Vec<BlockId> = Vec::new();
        for _ in 0..depth {
            disconnected.extend(self.ledger.disconnect());
        }
        if orphaned == Orphaned::Resubmit {
            for id in disconnected.iter().rev() {
                let block = self.ledger.stored(id.hash);
                let transactions = block.map(|block| block.transactions.clone());
                self.ledger.accept_again(transactions.unwrap_or_default());
            }
        }
        self.ledger.accept_again(waiting);
        self.tell_changes(before, &disconnected, &[]);
        self.collect_pool();
        Ok(disconnected)
    }

    fn activate(&mut self, tip: BlockHash) -> Result<Reorganization, SimulationError> {
        let mut branch = Vec::new();
        let mut hash = tip;
        let fork = loop {
            let block = self
                .ledger
                .stored(hash)
                .ok_or(SimulationError::UnknownBlock(tip))?;
            let id = block.data.id;
            if self.ledger.at(id.height) == Some(id) {
                break id;
            }
            branch.push(id);
            hash = block.data.block.header.prev_blockhash;
        };
        let before = self.hold_changes();
        let waiting = self.ledger.take_mempool();
        let depth = self.ledger.tip().height - fork.height;
        let disconnected = self.disconnect(depth, Orphaned::Drop)?;
        branch.reverse();
        for id in &branch {
            self.invalid.remove(&id.hash);
            self.ledger.connect(id.hash);
        }
        self.ledger.accept_again(waiting);
        self.tell_changes(before, &disconnected, &branch);
        self.collect_pool();
        Ok(Reorganization {
            fork,
            disconnected,
            connected: branch,
        })
    }

    /// Collects anew what the background traffic may spend, after blocks were disconnected.
    fn collect_pool(&mut self) {
        let confirmed = self.ledger.coins();
        let waiting = self.ledger.mempool().iter();
        let waiting = waiting.flat_map(|pending| pending.created.iter().map(|(o, c)| (o, c)));
        let ours = confirmed.chain(waiting).filter(|(outpoint, coin)| {
            let owner = coin.owner.as_ref();
            owner.is_some_and(|owner| !owner.kept) && self.ledger.coin(outpoint).is_some()
        });
        self.pool = ours.map(|(outpoint, _)| *outpoint).collect();
    }
}

impl BlockSource for SimulatedChain {
    fn describe(&self) -> String {
        format!("simulated regtest chain (seed {})", self.seed)
    }

    fn check(&self, network: Network) -> BoxFuture<'_, Result<(), ChainError>> {
        Box::pin(ready(match network {
            Network::Regtest => Ok(()),
            _ => Err(ChainError::Setup(format!(
                "the simulated chain is a regtest chain and not \"{}\"; check --network",
                network.to_core_arg()
            ))),
        }))
    }

    fn tip(&self) -> BoxFuture<'_, Result<BlockId, ChainError>> {
        Box::pin(ready(Ok(self.tip_id())))
    }

    fn block_at(&self, height: u32) -> BoxFuture<'_, Result<Option<BlockId>, ChainError>> {
        Box::pin(ready(Ok(self.state().ledger.at(height))))
    }

    fn block(&self, id: BlockId) -> BoxFuture<'_, Result<BlockWithPrevouts, ChainError>> {
        let block = self.stored_block(id.hash);
        Box::pin(ready(match block {
            Some(block) if block.id == id => block.with_prevouts(),
            _ => Err(ChainError::NotAvailable(format!(
                "the simulated chain has no block {id}"
            ))),
        }))
    }
}

/// A node with this chain, a mempool, and a mind of its own about blocks.
impl Node for SimulatedChain {
    fn signet_challenge(&self) -> BoxFuture<'_, Result<Option<ScriptBuf>, ChainError>> {
        Box::pin(ready(Ok(None)))
    }

    fn rejects(&self, id: BlockId) -> BoxFuture<'_, Result<bool, ChainError>> {
        Box::pin(ready(Ok(self.is_invalid(id.hash))))
    }

    fn broadcast<'a>(&'a self, tx: &'a Transaction) -> BoxFuture<'a, Result<Txid, BroadcastError>> {
        Box::pin(ready(self.submit(tx)))
    }

    fn mempool(&self) -> BoxFuture<'_, Result<MempoolListing, ChainError>> {
        Box::pin(ready(Ok(self.mempool_listing())))
    }

    fn entered_mempool<'a>(
        &'a self,
        txids: &'a [Txid],
    ) -> BoxFuture<'a, Result<Vec<Option<u64>>, ChainError>> {
        Box::pin(ready(Ok(self.entered(txids))))
    }

    fn raw_unconfirmed<'a>(
        &'a self,
        txids: &'a [Txid],
    ) -> BoxFuture<'a, Result<Vec<Option<Vec<u8>>>, ChainError>> {
        Box::pin(ready(Ok(self.raw_transactions(txids))))
    }

    fn unspent_scripts<'a>(
        &'a self,
        outpoints: &'a [OutPoint],
    ) -> BoxFuture<'a, Result<Vec<Option<ScriptBuf>>, ChainError>> {
        Box::pin(ready(Ok(self.unspent(outpoints))))
    }
}

#[cfg(test)]
mod tests;
