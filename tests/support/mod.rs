//! What integration tests share: a real node ([`node::TestNode`]) and a server that plays one ([`fake_node::FakeNode`]).
//!
//! Use it by `mod support;` at the head of a test file.

#![allow(
    dead_code,
    reason = "each test file is a crate of its own and uses only some of this"
)]
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot be set up has failed"
)]

pub(crate) mod by_height;
pub(crate) mod fake_node;
pub(crate) mod files;
pub(crate) mod index;
pub(crate) mod log;
pub(crate) mod node;
mod node_rpc;
pub(crate) mod node_source;
pub(crate) mod proxy;
pub(crate) mod served;
pub(crate) mod spcommit;
pub(crate) mod spindex;
pub(crate) mod teller;

/// A seed for what a test leaves to chance. A failed test prints it, and repeats its choices (though not its timing)
/// with it as `SPINDEX_TEST_SEED`.
pub(crate) fn random_seed() -> u64 {
    let seed = match std::env::var("SPINDEX_TEST_SEED") {
        Ok(seed) => seed.parse().unwrap(),
        Err(_) => bitcoin::secp256k1::rand::random(),
    };
    eprintln!("SPINDEX_TEST_SEED={seed}");
    seed
}
