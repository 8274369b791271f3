//! How a chain becomes an index, and how the index follows it: simulated chains, nodes with bad manners, real nodes.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot be set up has failed"
)]

#[allow(dead_code, reason = "a replica's requests are not looked at")]
#[path = "../client/native/between.rs"]
mod between;
mod deriving;
mod faults;
mod faulty_node;
mod faulty_source;
mod following;
mod odd_sources;
mod other_node;
mod random_node;
mod regtest;
mod reorgs;
mod replica;
mod replica_files;
mod replica_spenders;
mod scene;
mod spenders;
#[path = "../support/mod.rs"]
mod support;
mod syncing;
