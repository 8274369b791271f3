//! What is watched, and the log, against the truth of a simulated chain: through reorganisations, registrations late and live,
//! restarts, and disks that fail.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot be set up has failed"
)]

#[allow(dead_code, reason = "other programs look at more of it")]
#[path = "../support/faulty_disk.rs"]
mod faulty_disk;
mod forest;
mod histories;
mod kills;
mod live;
mod log;
mod many;
mod registration;
mod repaired;
mod scene;
#[path = "../support/mod.rs"]
mod support;
mod twin;

/// How often a test that leaves much to chance is run: more when it is asked for by hand.
fn runs(few: u64) -> u64 {
    let asked = std::env::var("SPINDEX_WATCH_RUNS").ok();
    asked.map_or(few, |runs| runs.parse().unwrap())
}
