//! Why a scan stopped.

use bitcoin::{BlockHash, Network};

use super::super::OracleError;
use super::super::state::StateError;
use crate::curve::InvalidTarget;
use crate::filter::FilterError;
use crate::scan::Unverified;

/// Why a scan stopped. What was stored before stays, and the same command goes on from there.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The server gave no usable answer.
    #[error(transparent)]
    Oracle(#[from] OracleError),
    /// The state file cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// Something that is about one of several wallets.
    #[error("{wallet}: {source}")]
    OfWallet {
        /// Its name.
        wallet: String,
        /// What it is.
        source: Box<ClientError>,
    },
    /// The same wallet more than once.
    #[error("{first} and {second} are one wallet: name it once, with the labels of both")]
    SameWallet {
        /// Its name.
        first: String,
        /// Its other name.
        second: String,
    },
    /// A key that an engine refuses.
    #[error(transparent)]
    Keys(#[from] InvalidTarget),
    /// Neither a wallet nor an outpoint.
    #[error("nothing to scan for: give a wallet's keys, or an outpoint to watch")]
    NothingToDo,
    /// The range has no height.
    #[error("no height is from {from} to {to}: give a first height that is not above the last")]
    EmptyRange {
        /// First height asked for.
        from: u32,
        /// Last height asked for.
        to: u32,
    },
    /// The server does not reach the first height.
    #[error(
        "{oracle} ends at height {tip}, below {from}, the first height to scan: give a lower --from, or wait until the \
         server has that block"
    )]
    BeyondTip {
        /// The server.
        oracle: String,
        /// First height asked for, now or when the stored scan was begun.
        from: u32,
        /// The server's last height.
        tip: u32,
    },
    /// A state of another wallet or network.
    #[error("the state belongs to {actual}, not to {expected}: use another state file")]
    ForeignState {
        /// What is scanned.
        expected: String,
        /// Whose state it is.
        actual: String,
    },
    /// The server is of another chain.
    #[error(
        "{oracle} serves {actual}, not {expected}: give the address of a server for {expected}"
    )]
    WrongNetwork {
        /// The server.
        oracle: String,
        /// The chain asked for.
        expected: Network,
        /// The server's.
        actual: Network,
    },
    /// The server does not keep what the scan needs.
    #[error("{oracle} keeps {what}: {cure}")]
    Unsupported {
        /// The server.
        oracle: String,
        /// What it lacks.
        what: &'static str,
        /// What to do.
        cure: &'static str,
    },
    /// A filter that cannot be read.
    #[error(
        "{oracle}: the {kind} filter of block {height} ({block_hash}) is unusable: {source}; use another server"
    )]
    Filter {
        /// The server.
        oracle: String,
        /// Which of the two filters.
        kind: &'static str,
        /// Height of the block.
        height: u32,
        /// The block.
        block_hash: BlockHash,
        /// What is wrong with it.
        source: FilterError,
    },
    /// What was computed for a block cannot be right.
    #[error("block {height}: {source}")]
    Unverified {
        /// Height of the block.
        height: u32,
        /// Of which output.
        source: Unverified,
    },
    /// Answers that do not fit each other, at every attempt.
    #[error(
        "{oracle}: the answers for block {height} do not fit each other ({what}); try again later, or use another server"
    )]
    Contradiction {
        /// The server.
        oracle: String,
        /// Height of the block.
        height: u32,
        /// What does not fit.
        what: String,
    },
    /// None of the stored blocks is in the server's chain.
    #[error(
        "{oracle} is on a chain that left the scanned one below height {lowest}, further back than the state remembers: \
         use another server, or remove the state file and scan again"
    )]
    DeepReorganisation {
        /// The server.
        oracle: String,
        /// Lowest height whose hash is known.
        lowest: u32,
    },
}

/// Why a pass over the blocks ended early.
#[derive(Debug)]
pub(super) enum Interrupted {
    /// Answers are of different blocks at one height: look where the chains part, and go on from there.
    ChainChanged { height: u32, what: String },
    /// Going on would miss something.
    Failed(Box<ClientError>),
}

impl<E: Into<ClientError>> From<E> for Interrupted {
    fn from(error: E) -> Self {
        Self::Failed(Box::new(error.into()))
    }
}
