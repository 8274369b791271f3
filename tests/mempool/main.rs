//! The view of unconfirmed transactions: of a real node, with and without its words, and of simulated ones.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot be set up has failed"
)]

mod bounds;
mod crowd;
mod histories;
mod lists;
mod scene;
mod served;
#[path = "../support/mod.rs"]
mod support;
mod tweaks;
mod watched;
mod words;
