//! Why the desk has no answer. Neutral: what is wrong, whose fault it is, whether to try again; a dialect finds its own words.
//!
//! [`std::fmt::Display`] of a [`DeskError`] is for the log and may name files and addresses; a dialect's words are for the
//! peer and never do.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::BlockId;
use crate::chain::ChainError;
use crate::store::StoreError;

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub enum DeskError {
    /// The height is below the first indexed block or above the tip.
    #[error("height {height} is not indexed")]
    UnknownHeight {
        /// The height asked for.
        height: u32,
    },
    /// The index is empty.
    #[error("no block is indexed yet")]
    NothingIndexed,
    /// The index was built without what is asked for.
    #[error("{0}")]
    NotKept(#[source] StoreError),
    /// The index is being compacted.
    #[error("{0}")]
    Compacting(#[source] StoreError),
    /// A long sync has left what finds outputs by their outpoints for its end.
    #[error("{0}")]
    NotLocated(#[source] StoreError),
    /// The index could not be read.
    #[error(transparent)]
    Store(StoreError),
    /// A block is listed but rows of it are missing.
    #[error("the index has block {block} but not its {what}; rebuild the index")]
    Incomplete {
        /// The block.
        block: BlockId,
        /// What is missing.
        what: &'static str,
    },
    /// The node refused the transaction; its reason.
    #[error("the node rejected a transaction: {0}")]
    Rejected(String),
    /// This server runs without a node.
    #[error("this server has no node")]
    NoNode,
    /// The node could not be asked to broadcast.
    #[error("broadcast: {0}")]
    BroadcastFailed(#[source] ChainError),
    /// The node could not be asked for a block.
    #[error("block {block} from the node: {source}")]
    BlockFailed {
        /// The block.
        block: BlockId,
        /// Why.
        source: ChainError,
    },
    /// The node's block has other taproot spends than the index.
    #[error("block {block}: its taproot spends in the index are not those of the node's block")]
    SpendsMismatch {
        /// The block.
        block: BlockId,
    },
    /// A fault of this program: a task that panicked or was cancelled, or a value that could not be written.
    #[error("internal fault: {0}")]
    Internal(String),
}

impl From<StoreError> for DeskError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NotKept { .. } => Self::NotKept(error),
            StoreError::Compacting { .. } => Self::Compacting(error),
            StoreError::NotLocated { .. } => Self::NotLocated(error),
            error => Self::Store(error),
        }
    }
}

/// Whose fault it is that there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// Whoever asked: for what there is not, or the node will not have.
    Request,
    /// What this server has or is at the moment.
    Server,
    /// The index cannot be read.
    Index,
    /// The node.
    Node,
    /// This program.
    Program,
}

impl DeskError {
    /// Whose fault it is.
    pub const fn blame(&self) -> Blame {
        match self {
            Self::UnknownHeight { .. } | Self::Rejected(_) => Blame::Request,
            Self::NothingIndexed
            | Self::NotKept(_)
            | Self::Compacting(_)
            | Self::NotLocated(_)
            | Self::NoNode => Blame::Server,
            Self::Store(_) | Self::Incomplete { .. } => Blame::Index,
            Self::BroadcastFailed(_) | Self::BlockFailed { .. } | Self::SpendsMismatch { .. } => {
                Blame::Node
            }
            Self::Internal(_) => Blame::Program,
        }
    }

    /// When it may be different, where that is a matter of time alone.
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::NothingIndexed | Self::Compacting(_) | Self::NotLocated(_) => {
                Some(Duration::from_secs(30))
            }
            Self::BlockFailed {
                source: ChainError::Unreachable(_),
                ..
            } => Some(Duration::from_secs(10)),
            _ => None,
        }
    }

    /// Logs a fault of ours or of the node with its detail, each class once in ten seconds at most; what a peer
    /// did wrong is not logged.
    pub fn log(&self) {
        static THROTTLES: [Throttle; 3] = [Throttle::new(), Throttle::new(), Throttle::new()];
        let [index, node, program] = &THROTTLES;
        let throttle = match self.blame() {
            Blame::Request | Blame::Server => return,
            Blame::Index => index,
            Blame::Node => node,
            Blame::Program => program,
        };
        match throttle.admit(Instant::now()) {
            Some(0) => tracing::error!("a request failed: {self}"),
            Some(left_out) => {
                tracing::error!("a request failed: {self} (and {left_out} like it)")
            }
            None => {}
        }
    }
}

/// Lets one through per [`Throttle::INTERVAL`] and counts the rest.
struct Throttle(Mutex<(Option<Instant>, u64)>);

impl Throttle {
    const INTERVAL: Duration = Duration::from_secs(10);

    const fn new() -> Self {
        Self(Mutex::new((None, 0)))
    }

    /// `Some(how many were held back since the last one)` if this one may pass.
    fn admit(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (last, held_back) = &mut *state;
        if last.is_some_and(|last| now.saturating_duration_since(last) < Self::INTERVAL) {
            *held_back += 1;
            return None;
        }
        *last = Some(now);
        Some(std::mem::take(held_back))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_throttle_passes_one_per_interval_and_counts_the_rest() {
        let throttle = Throttle::new();
        let start = Instant::now();
        assert_eq!(throttle.admit(start), Some(0));
        assert_eq!(throttle.admit(start), None);
        assert_eq!(throttle.admit(start + Throttle::INTERVAL / 2), None);
        assert_eq!(throttle.admit(start + Throttle::INTERVAL), Some(2));
        assert_eq!(throttle.admit(start + Throttle::INTERVAL * 3), Some(0));
    }
}
