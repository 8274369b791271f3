//! Why a request has no answer, and what of it goes on the wire: status and text here, the frame by the dialect.
//!
//! [`std::fmt::Display`] of a [`QueryError`] is for the log and may name files and addresses;
//! [`QueryError::wire_text`] is for the peer and never does.

use std::borrow::Cow;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::http::StatusCode;

use crate::BlockId;
use crate::chain::ChainError;
use crate::store::StoreError;

/// The text of every fault of the index; the doubled word is what deployed clients have always been sent.
const DATABASE_FAULT: &str = "could could not retrieve data from database";

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// The height is not a decimal u32.
    #[error("the height is not a decimal number up to {}", u32::MAX)]
    HeightSyntax,
    /// The height is below the first indexed block or above the tip.
    #[error("height {height} is not indexed")]
    UnknownHeight {
        /// The height asked for.
        height: u32,
    },
    /// The dust limit is not a decimal u64.
    #[error("the dust limit is not a decimal number up to {}", u64::MAX)]
    DustLimitSyntax,
    /// Neither `spent` nor `new-utxos`.
    #[error("no such filter type")]
    FilterKindSyntax,
    /// The index is empty.
    #[error("no block is indexed yet")]
    NothingIndexed,
    /// The index was built without what is asked for.
    #[error("{0}")]
    NotKept(#[source] StoreError),
    /// The index is being compacted.
    #[error("{0}")]
    Compacting(#[source] StoreError),
    /// The index could not be read.
    #[error(transparent)]
    Store(StoreError),
    /// A filter could not be read.
    #[error("filter: {0}")]
    FilterStore(#[source] StoreError),
    /// A block is listed but rows of it are missing.
    #[error("the index has block {block} but not its {what}; rebuild the index")]
    Incomplete {
        /// The block.
        block: BlockId,
        /// What is missing.
        what: &'static str,
    },
    /// The body of a broadcast request has no transaction in it.
    #[error("no transaction in the request: {0}")]
    TransactionSyntax(&'static str),
    /// The body of a broadcast request is larger than any transaction a node relays.
    #[error("the request is larger than {limit_bytes} bytes")]
    BodyTooLarge {
        /// The largest body taken.
        limit_bytes: usize,
    },
    /// The body of a broadcast request did not arrive in time.
    #[error("the request did not arrive in time")]
    BodyTooSlow,
    /// The body of a broadcast request ended early.
    #[error("the request was cut off")]
    BodyLost,
    /// Other large bodies are being received.
    #[error("too many large requests at the same time")]
    TooManyBodies,
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

impl From<StoreError> for QueryError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NotKept { .. } => Self::NotKept(error),
            StoreError::Compacting { .. } => Self::Compacting(error),
            error => Self::Store(error),
        }
    }
}

/// A class of faults that is logged on its own clock.
#[derive(Clone, Copy)]
enum Fault {
    Index = 0,
    Node = 1,
    Program = 2,
}

impl QueryError {
    /// The HTTP status.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::HeightSyntax
            | Self::DustLimitSyntax
            | Self::FilterKindSyntax
            | Self::TransactionSyntax(_)
            | Self::BodyLost
            | Self::Rejected(_) => StatusCode::BAD_REQUEST,
            Self::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodyTooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::UnknownHeight { .. }
            | Self::Store(_)
            | Self::FilterStore(_)
            | Self::Incomplete { .. }
            | Self::BroadcastFailed(_)
            | Self::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Self::NotKept(_) => StatusCode::NOT_IMPLEMENTED,
            Self::NothingIndexed | Self::NoNode | Self::Compacting(_) | Self::TooManyBodies => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::BlockFailed { .. } | Self::SpendsMismatch { .. } => StatusCode::BAD_GATEWAY,
        }
    }

    /// After how many seconds it may be different, where that is a matter of time alone.
    pub fn retry_after_s(&self) -> Option<u16> {
        match self {
            Self::NothingIndexed | Self::Compacting(_) => Some(30),
            Self::TooManyBodies => Some(5),
            _ => None,
        }
    }

    /// The text for the peer: fixed words, or what the peer itself caused.
    pub fn wire_text(&self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::HeightSyntax => "could not parse block height",
            Self::UnknownHeight { .. } => "could not fetch header inv",
            Self::DustLimitSyntax => "Invalid dustLimit parameter",
            Self::FilterKindSyntax => "invalid filter type",
            Self::NothingIndexed => {
                "no block is indexed yet: while the first sync of this server is under way, try again later"
            }
            Self::Store(_) | Self::Incomplete { .. } => DATABASE_FAULT,
            Self::NotKept(_) => {
                "this server keeps tweaks only, see /info; ask for /tweak-index without a dust limit"
            }
            Self::Compacting(_) => "the index is being compacted, try again in a few minutes",
            Self::FilterStore(_) => "could not get filter from db",
            Self::TransactionSyntax(what) => what,
            Self::BodyTooLarge { .. } => "the request is too large for a transaction",
            Self::BodyTooSlow => "the request did not arrive in time",
            Self::BodyLost => "the request was cut off",
            Self::TooManyBodies => "too many large requests at the same time, try again later",
            Self::Rejected(reason) => return Cow::Owned(reason.clone()),
            Self::NoNode => "this server has no node to ask",
            Self::BroadcastFailed(_) => "the node could not be reached, try again later",
            Self::BlockFailed { .. } => "the node could not give the block, try again later",
            Self::SpendsMismatch { .. } => "the node's block does not fit the index",
            Self::Internal(_) => "internal fault",
        })
    }

    /// Logs a fault of ours or of the node with its detail, each class once in ten seconds at most; what a peer
    /// did wrong is not logged.
    pub fn log(&self) {
        static THROTTLES: [Throttle; 3] = [Throttle::new(), Throttle::new(), Throttle::new()];
        let fault = match self {
            Self::Store(_) | Self::FilterStore(_) | Self::Incomplete { .. } => Fault::Index,
            Self::BroadcastFailed(_) | Self::BlockFailed { .. } | Self::SpendsMismatch { .. } => {
                Fault::Node
            }
            Self::Internal(_) => Fault::Program,
            _ => return,
        };
        let Some(throttle) = THROTTLES.get(fault as usize) else {
            return;
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

    #[test]
    fn faults_of_the_node_keep_its_address_off_the_wire() {
        let secret = "http://user:password@10.0.0.1:8332";
        let error = QueryError::BroadcastFailed(ChainError::Unreachable(secret.into()));
        assert!(error.to_string().contains(secret));
        assert!(!error.wire_text().contains("10.0.0.1"));
    }
}
