//! Chains that are made up. What makes them knows the rules of BIP352 and their cryptography; sources of real blocks do not.
//!
//! - [`simulated`]: a regtest chain made in memory, with a wallet behind it; for the demo and for tests.
//! - [`generated`]: chains of any length, written as Bitcoin Core's block files, to measure long syncs with.

pub mod generated;
pub mod simulated;
