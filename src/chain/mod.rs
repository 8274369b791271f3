//! Where blocks come from ([`BlockSource`]), and what a node can do beside that ([`Node`]). Every source yields the same
//! [`BlockWithPrevouts`].
//!
//! - [`files`]: Bitcoin Core's own block files, with or without a node beside them.
//! - [`rest`]: a Bitcoin Core node's REST interface, with JSON-RPC for broadcasting.
//! - [`rpc_source`]: a node's JSON-RPC alone ([`rpc`]), for nodes whose REST interface is off or too old.
//! - [`first_working`]: the first of several sources that works.
//! - [`tip_signal`], [`mempool_signal`]: no sources, but word that a tip has changed, and of what comes into the mempool and
//!   leaves it, which [`zmq`] brings from a node.
//! - [`made`]: chains that are made up, for the demo, for tests and to measure with.
//! - [`raw`], [`prevouts`], [`parse`]: the bytes of a block and of its spent outputs, read where they lie.

pub mod block;
mod cursor;
pub mod files;
pub mod first_working;
mod http;
mod in_flight;
mod info;
pub mod made;
pub mod mempool_signal;
mod node;
pub mod parse;
pub mod prevouts;
pub mod raw;
pub mod rest;
pub mod rpc;
pub mod rpc_source;
pub mod tip_signal;
pub mod zmq;

use std::ops::RangeInclusive;

use bitcoin::Network;
use futures::future::BoxFuture;

use crate::BlockId;

pub use block::BlockWithPrevouts;
pub use http::check_address;
pub use mempool_signal::MempoolSignal;
pub use node::{BroadcastError, MempoolListing, Node};
pub use parse::block_from_rest_bytes;
pub use prevouts::Prevouts;
pub use raw::RawBlock;
pub use tip_signal::TipSignal;

/// Why a source could not answer. Each text names the thing and the cure.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// The node cannot be reached or broke off; trying again may help.
    #[error("{0}")]
    Unreachable(String),
    /// The node answers but not with what was asked for (starting up, pruned, reorganised away): trying again may help.
    #[error("{0}")]
    NotAvailable(String),
    /// An answer that cannot be parsed or does not fit what was asked for; tried again a few times, then fatal.
    #[error("{0}")]
    Mismatch(String),
    /// Wrong settings (network, credentials, node too old): a person has to mend it.
    #[error("{0}")]
    Setup(String),
    /// Two addresses that are to be one node's are of different chains: a person has to say which one is meant, and no
    /// source beside them may be taken instead.
    #[error("{0}")]
    Conflict(String),
}

impl ChainError {
    /// Whether the same request may succeed later without a person doing anything.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::NotAvailable(_))
    }
}

/// A source of blocks: a [`Node`], its files, or a chain that is made up.
pub trait BlockSource: Send + Sync {
    /// What it is, for logs ("Bitcoin Core REST at http://…"). No secrets.
    fn describe(&self) -> String;

    /// Checks once, before anything is indexed, that the source is usable and serves `network`.
    fn check(&self, network: Network) -> BoxFuture<'_, Result<(), ChainError>>;

    /// The active chain's tip.
    fn tip(&self) -> BoxFuture<'_, Result<BlockId, ChainError>>;

    /// The active chain's block at a height, `None` above the tip.
    fn block_at(&self, height: u32) -> BoxFuture<'_, Result<Option<BlockId>, ChainError>>;

    /// The active chain's blocks at the first of these heights, in order: as many as the source gives at once, and none
    /// only where `heights` is empty or begins above the tip.
    ///
    /// All are of one look at the chain where the source can do that; otherwise a reorg in between shows as blocks that
    /// do not link.
    fn blocks_at(
        &self,
        heights: RangeInclusive<u32>,
    ) -> BoxFuture<'_, Result<Vec<BlockId>, ChainError>> {
        Box::pin(async move {
            match heights.is_empty() {
                true => Ok(Vec::new()),
                false => Ok(self.block_at(*heights.start()).await?.into_iter().collect()),
            }
        })
    }

    /// A block of any branch the source holds, validated by [`BlockWithPrevouts::new`].
    fn block(&self, id: BlockId) -> BoxFuture<'_, Result<BlockWithPrevouts, ChainError>>;

    /// How many of the first of these blocks are best asked for together, by [`BlockSource::blocks`]; at least 1. A source
    /// that is asked for more of them makes the caller hold more than a large block takes.
    fn run_length(&self, ids: &[BlockId]) -> usize {
        let _ = ids;
        1
    }

    /// Blocks in the order asked for, each as [`BlockSource::block`] gives it.
    fn blocks<'a>(
        &'a self,
        ids: &'a [BlockId],
    ) -> BoxFuture<'a, Vec<Result<BlockWithPrevouts, ChainError>>> {
        Box::pin(async move {
            let mut blocks = Vec::with_capacity(ids.len());
            for id in ids {
                blocks.push(self.block(*id).await);
            }
            blocks
        })
    }
}
