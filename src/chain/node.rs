//! What a node can do besides giving blocks.

use std::future::ready;

use bitcoin::{OutPoint, ScriptBuf, Transaction, Txid};
use futures::future::BoxFuture;

use super::{BlockSource, ChainError};
use crate::BlockId;

/// Why a transaction was not broadcast.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BroadcastError {
    /// The node refused it; the text is the node's reason.
    #[error("the node rejected the transaction: {0}")]
    Rejected(String),
    /// The node could not be asked.
    #[error(transparent)]
    Chain(#[from] ChainError),
}

/// What a node has in its mempool, all at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MempoolListing {
    /// The active chain's tip at that moment.
    pub tip: BlockId,
    /// Whether it is all that the node will have: it has read what it kept of its last run, and downloads no old blocks.
    pub is_settled: bool,
    /// The number that the node gives to the next transaction that comes or goes.
    pub sequence: u64,
    /// The transactions, in no order.
    pub txids: Vec<Txid>,
}

/// A node of the network. It gives blocks too; whatever gives nothing else is a [`BlockSource`] alone.
///
/// # Errors
/// [`ChainError::Setup`] for what the node is not asked without RPC credentials, where there are none.
pub trait Node: BlockSource {
    /// The challenge of the signet that the node is on; `None` where it does not say, or is on none.
    fn signet_challenge(&self) -> BoxFuture<'_, Result<Option<ScriptBuf>, ChainError>>;

    /// Whether the node knows a block and calls it, or one that it builds on, invalid.
    fn rejects(&self, id: BlockId) -> BoxFuture<'_, Result<bool, ChainError>>;

    /// Hands a transaction to the network.
    fn broadcast<'a>(&'a self, tx: &'a Transaction) -> BoxFuture<'a, Result<Txid, BroadcastError>>;

    /// What is in the node's mempool. A node that keeps none says so by `Setup`, as by default.
    fn mempool(&self) -> BoxFuture<'_, Result<MempoolListing, ChainError>> {
        Box::pin(ready(Err(no_mempool(&self.describe()))))
    }

    /// When each of these transactions entered the mempool, in seconds since 1970 by the node's clock; `None` for those that
    /// are not in it.
    fn entered_mempool<'a>(
        &'a self,
        txids: &'a [Txid],
    ) -> BoxFuture<'a, Result<Vec<Option<u64>>, ChainError>> {
        let _ = txids;
        Box::pin(ready(Err(no_mempool(&self.describe()))))
    }

    /// The bytes of each of these transactions; `None` for those that are not in the mempool, though a node that finds all
    /// transactions by their ids may give others too.
    fn raw_unconfirmed<'a>(
        &'a self,
        txids: &'a [Txid],
    ) -> BoxFuture<'a, Result<Vec<Option<Vec<u8>>>, ChainError>> {
        let _ = txids;
        Box::pin(ready(Err(no_mempool(&self.describe()))))
    }

    /// The script of each of these outputs; `None` for those that no block has created, or one has spent. What is in the
    /// mempool does not count. Pruned nodes know them all.
    fn unspent_scripts<'a>(
        &'a self,
        outpoints: &'a [OutPoint],
    ) -> BoxFuture<'a, Result<Vec<Option<ScriptBuf>>, ChainError>> {
        let _ = outpoints;
        Box::pin(ready(Err(no_mempool(&self.describe()))))
    }
}

fn no_mempool(node: &str) -> ChainError {
    ChainError::Setup(format!("{node} tells nothing of a mempool"))
}
