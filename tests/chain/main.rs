//! Where blocks come from: a node's files, its REST and JSON-RPC interfaces and its notifications, generated and
//! simulated chains.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot be set up has failed"
)]

mod files;
mod generated;
mod rest;
mod rpc;
mod simulated;
mod sources;
#[path = "../support/mod.rs"]
mod support;
mod zmq;
