//! Scans by the native protocol over a real server, with something of the test's in between.

pub(crate) mod between;
mod cuts;
mod events;
mod files;
mod files_damaged;
mod files_growing;
mod finding;
mod liar;
mod lies;
mod privacy;
mod witnesses;
