//! The commands as processes: what they print and leave behind, and what a signal, a kill, a full disk or a node in
//! trouble makes of them.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot be set up has failed"
)]

mod check;
mod compaction;
mod comparison;
mod end_to_end;
mod examples;
mod heads_compared;
mod kills;
mod node_service;
mod options;
mod output;
mod place;
mod proxies;
mod recorded_answers;
mod repair;
mod repair_older;
mod scan;
mod spenders;
mod stopping;
#[path = "../support/mod.rs"]
mod support;
#[cfg(unix)]
mod wallet_files;
