//! The index file: what is in it byte by byte, against a naive index; how it survives crashes, flips and other formats.

#[path = "../support/by_height.rs"]
mod by_height;
mod chunks;
mod crash;
#[allow(dead_code, reason = "other programs look at more of it")]
#[path = "../support/faulty_disk.rs"]
mod faulty_disk;
mod flips;
mod format;
mod histories;
mod migration;
mod migration_with_sums;
mod odd_rows;
mod of_sections;
mod options;
mod processes;
mod refusals;
mod replacement;
mod rows;
#[path = "../support/sections.rs"]
mod sections;
#[path = "../support/spcommit.rs"]
mod spcommit;
mod spenders;
mod support;
mod watch_rows;
