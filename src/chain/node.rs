//! What a node can do besides giving blocks.

use bitcoin::{ScriptBuf, Transaction, Txid};
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
}
