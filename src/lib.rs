//! spindex: a Silent Payments (BIP352) index, its server and its light client in one crate.
//!
//! The modules stand in layers; each uses those above it in this list and nothing below it. Cargo features, in the same order,
//! say how many of them are wanted: `scan`, `client`, `index`, `server`, and `cli`, the default, for all.
//! `docs/ARCHITECTURE.md` has a section per module.
//!
//! | module | what for | feature |
//! |---|---|---|
//! | [`curve`] | elliptic-curve work in bulk | `scan` |
//! | [`bip352`] | the rules of the protocol | `scan` |
//! | [`filter`] | compact filters of blocks | `scan` |
//! | [`process`] | what a spend of a process tip means | `scan` |
//! | [`mod@proof`] | that a transaction stands in a block | `scan` |
//! | [`mod@scan`] | which outputs are a wallet's | `scan` |
//! | [`wire`] | the bytes of the dialects | `client`, `server` |
//! | [`exported`] | files that an index was exported as | `client`, `index` |
//! | [`store`] | the index file | `index` |
//! | [`chain`] | where blocks come from | `index` |
//! | [`index`] | a chain made into an index | `index` |
//! | [`mempool`] | what is unconfirmed | `index` |
//! | [`watch`] | outpoints and processes followed, and the log of what happened to them | `index` |
//! | [`api`] | an index served | `server` |
//! | [`client`] | a light client | `client` |
//! | [`replica`] | an index made from another one | `client` with `index` |
//! | [`export`] | an index as files | `index` |
//! | [`check`] | whether an index is right | `client` with `index` |
//! | [`cli`] | the program | `cli` |

#[cfg(feature = "server")]
pub mod api;
#[cfg(feature = "scan")]
pub mod bip352;
pub mod block_id;
#[cfg(feature = "index")]
pub mod chain;
#[cfg(all(feature = "client", feature = "index"))]
pub mod check;
#[cfg(feature = "cli")]
pub mod cli;
#[cfg(feature = "client")]
pub mod client;
#[cfg(feature = "scan")]
pub mod curve;
#[cfg(feature = "index")]
pub mod export;
#[cfg(any(feature = "client", feature = "index"))]
pub mod exported;
#[cfg(feature = "scan")]
pub mod filter;
#[cfg(feature = "index")]
pub mod index;
#[cfg(feature = "index")]
pub mod mempool;
#[cfg(any(feature = "client", feature = "cli"))]
pub mod private_file;
#[cfg(feature = "scan")]
pub mod process;
#[cfg(feature = "scan")]
pub mod proof;
#[cfg(all(feature = "client", feature = "index"))]
pub mod replica;
#[cfg(feature = "index")]
pub mod runtime;
#[cfg(feature = "scan")]
pub mod scan;
#[cfg(feature = "index")]
pub mod store;
#[cfg(feature = "index")]
pub mod watch;
#[cfg(any(feature = "client", feature = "index"))]
pub mod wire;

pub use block_id::BlockId;
