//! spindex: a Silent Payments (BIP352) index, its server and its light client in one crate.
//!
//! The modules stand in layers; each uses those above it in this list and nothing below it.
//! `docs/ARCHITECTURE.md` has a section per module.

pub mod api;
pub mod bip352;
pub mod block_id;
pub mod chain;
pub mod check;
pub mod cli;
pub mod client;
pub mod curve;
pub mod filter;
pub mod index;
pub mod private_file;
pub mod runtime;
pub mod scan;
pub mod store;
pub mod wire;

pub use block_id::BlockId;
