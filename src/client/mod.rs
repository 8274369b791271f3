//! The light client: finds a wallet's outputs, and the spends of chosen outpoints, through any tweak server.
//!
//! [`Oracle`] is what a server of version 1 is asked, and [`http`] asks it; [`native`] asks servers of the native protocol,
//! which answer for thousands of blocks at once; [`light`] is the range loop over either, for one wallet or several; [`state`] keeps progress and finds on disk;
//! [`witnesses`] compares servers with each other; [`watching`] holds what they say of processes against the blocks.

pub mod http;
pub mod light;
pub mod native;
pub mod report;
pub mod state;
pub mod watching;
pub mod witnesses;

use bitcoin::{BlockHash, Transaction, Txid};
use futures::future::BoxFuture;

use crate::curve::TweakPoint;
use crate::exported::Fault;
use crate::wire::native::Code;
use crate::wire::native::column::Column;

pub use http::{HttpOracle, HttpSettings};
pub use light::{ClientError, LightClient, LightSettings, Progress, WalletScan, WalletsClient};
pub use native::NativeOracle;
pub use report::{
    Event, Found, Reports, ScanHead, ScanReport, Spend, Unresolved, WalletEvent, WalletReport,
    Watched, WatchedState,
};
pub use state::{Identity, State, StateError, WalletId};

pub use crate::wire::v1::{
    Info as OracleInfo, Spend as SpendDetail, Spends as SpendDetails, SpentIndex,
    Utxo as OracleUtxo,
};

/// Which list of tweaks is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TweakQuery {
    /// Only transactions whose highest taproot output reaches this, in satoshi; 0 for all.
    pub dust_limit_sat: u64,
    /// Only transactions with an unspent taproot output.
    pub cut_through: bool,
}

/// Both filters of one block, serialized as [`crate::filter`] reads them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockFilters {
    /// The block both are of.
    pub block_hash: BlockHash,
    /// Over the keys of the block's taproot outputs.
    pub new_utxos: Vec<u8>,
    /// Over the items of the taproot outpoints spent in the block.
    pub spent: Vec<u8>,
}

/// Why a server gave no usable answer. Each text names what was asked, without credentials, and the cure.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OracleError {
    /// No answer, or a passing fault, at every attempt.
    #[error(
        "no answer from {url} in {attempts} attempts: {reason}; check the address, the network and the proxy, then \
         go on with the same command"
    )]
    Unreachable {
        /// What was asked.
        url: String,
        /// How often.
        attempts: u32,
        /// What went wrong the last time.
        reason: String,
    },
    /// At every attempt, the answer that there is none now.
    #[error(
        "{url} could not answer in {attempts} attempts: {reason}; go on with the same command later"
    )]
    Busy {
        /// What was asked.
        url: String,
        /// How often.
        attempts: u32,
        /// HTTP status of the last answer.
        status: u16,
        /// That status and the server's words, shortened.
        reason: String,
    },
    /// The server says that it does not have the block.
    #[error(
        "{url} answered \"{message}\": the server does not have block {height}; scan from a higher block, or use \
         another server"
    )]
    UnknownHeight {
        /// What was asked.
        url: String,
        /// The height.
        height: u32,
        /// The server's words.
        message: String,
    },
    /// The server answered that it will not or cannot.
    #[error(
        "{url} answered \"{message}\" (status {status}); check that the server has indexed what is asked for"
    )]
    Refused {
        /// What was asked.
        url: String,
        /// HTTP status, which may well be 200.
        status: u16,
        /// The server's words, shortened.
        message: String,
    },
    /// A server of the native protocol answered that it will not or cannot.
    #[error("{url} answered \"{message}\"; {}", cure(*.code))]
    Declined {
        /// What was asked.
        url: String,
        /// Why, for programs.
        code: Code,
        /// The server's words, shortened.
        message: String,
    },
    /// A part of an answer that contradicts another one, or the rules of the chain: no server that is right says so.
    #[error("{url}: {column} of block {height}: {what}; the server is wrong, use another one")]
    Untrue {
        /// What was asked.
        url: String,
        /// Height of the block.
        height: u32,
        /// In which column.
        column: Column,
        /// What cannot be true.
        what: String,
    },
    /// The server has no such route.
    #[error("{url} does not exist (status 404); check the base address of the server")]
    NotFound {
        /// What was asked.
        url: String,
    },
    /// An answer that is not what was asked for.
    #[error("{url} gave an unusable answer: {what}; use another server, or report this one")]
    Malformed {
        /// What was asked.
        url: String,
        /// What is wrong with it.
        what: String,
    },
    /// A redirect to another server, or to another question.
    #[error(
        "{url} redirects to {target}, which is not what was asked; if that is the right server, give its base address"
    )]
    Redirected {
        /// What was asked.
        url: String,
        /// Where to, without credentials.
        target: String,
    },
    /// An exported file that is not what it should be.
    #[error(
        "{0}; have it exported anew (spindex export --verify), or name somebody behind it who has these blocks too (the \
         option, given again)"
    )]
    File(Fault),
    /// Exported files that do not have a block.
    #[error(
        "{files} has blocks {first} to {end}, and not {height}: name a server behind it (the option, given again), or \
         ask for no more than there is"
    )]
    NotInFiles {
        /// Where they are.
        files: String,
        /// Their first height.
        first: u32,
        /// Their last height.
        end: u32,
        /// The height that was asked for.
        height: u32,
    },
    /// Wrong settings.
    #[error("{0}")]
    Setup(String),
}

/// What helps against a refusal.
fn cure(code: Code) -> &'static str {
    match code {
        Code::Unauthorized | Code::Forbidden => "give a token that allows it",
        Code::Limit => "remove some, ask for less at a time, or have a token made that allows more",
        Code::Conflict => "remove the watch that there is, or register the same again",
        Code::Busy => "try again later",
        _ => "check that the server has indexed what is asked for",
    }
}

/// What a light client asks of a tweak server. All heights are asked one by one; a server learns nothing but them.
///
/// An error is never an empty answer: whoever gets an `Ok` may rely on it.
pub trait Oracle: Send + Sync {
    /// What it is, for logs and errors (a URL, and the proxy in between if there is one). No credentials.
    fn describe(&self) -> String;

    /// What the server has.
    fn info(&self) -> BoxFuture<'_, Result<OracleInfo, OracleError>>;

    /// Height of the last block the server can answer for.
    fn tip(&self) -> BoxFuture<'_, Result<u32, OracleError>>;

    /// Hash of the block at a height on the server's chain, `None` if the server knows none.
    fn block_hash(&self, height: u32) -> BoxFuture<'_, Result<Option<BlockHash>, OracleError>>;

    /// Tweaks of the block's eligible transactions.
    fn tweaks(
        &self,
        height: u32,
        query: TweakQuery,
    ) -> BoxFuture<'_, Result<Vec<TweakPoint>, OracleError>>;

    /// Both filters of the block; an error where they do not name the same block, [`OracleError::UnknownHeight`] where
    /// the server says that it does not have the block.
    fn filters(&self, height: u32) -> BoxFuture<'_, Result<BlockFilters, OracleError>>;

    /// Taproot outputs of the block's eligible transactions; of a transaction all of them, spent ones too, or none:
    /// a server may forget transactions whose taproot outputs are all spent.
    fn utxos(&self, height: u32) -> BoxFuture<'_, Result<Vec<OracleUtxo>, OracleError>>;

    /// Items of the taproot outpoints spent in the block.
    fn spent_index(&self, height: u32) -> BoxFuture<'_, Result<SpentIndex, OracleError>>;

    /// Who spent those outpoints; `None` where the server cannot tell.
    fn spend_details(
        &self,
        height: u32,
    ) -> BoxFuture<'_, Result<Option<SpendDetails>, OracleError>>;

    /// Hands a transaction to the network; the txid if the server says it.
    fn forward_tx<'a>(
        &'a self,
        tx: &'a Transaction,
    ) -> BoxFuture<'a, Result<Option<Txid>, OracleError>>;
}

/// Runs CPU work off the async workers.
async fn off_worker<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Cancelled: the runtime is shutting down, and this task with it.
            Err(_) => futures::future::pending().await,
        },
    }
}
