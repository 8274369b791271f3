//! The light client: what it finds, and what it makes of servers that fail, contradict themselves or follow a reorg.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot be set up has failed"
)]

mod faults;
mod http;
mod light;
mod native;
mod recorded;
mod reorgs;
#[path = "../support/mod.rs"]
mod support;
mod wallets;
