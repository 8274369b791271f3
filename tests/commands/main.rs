//! The commands as processes: what they print and leave behind, and what a signal, a kill, a full disk or a node in
//! trouble makes of them.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot be set up has failed"
)]

#[path = "../client/native/between.rs"]
mod between;
mod check;
mod compaction;
mod comparison;
mod end_to_end;
mod examples;
mod export;
mod export_kills;
mod export_lies;
mod export_s3;
mod files;
mod files_served;
#[allow(dead_code, reason = "not all of it is used here")]
#[path = "../watch/forest.rs"]
mod forest;
mod heads_compared;
mod kills;
mod node_service;
mod options;
mod output;
mod place;
mod proxies;
mod python_decoder;
mod recorded_answers;
mod repair;
mod repair_older;
mod replica;
mod scan;
mod scan_follow;
mod scan_native;
mod scan_outpoints;
#[cfg(unix)]
mod scan_wallets;
#[path = "../support/sections.rs"]
mod sections;
mod spenders;
mod stopping;
#[path = "../support/mod.rs"]
mod support;
mod token;
#[cfg(unix)]
mod wallet_files;
mod watch;
mod watch_verify;
