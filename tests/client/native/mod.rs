//! Scans by the native protocol over a real server, with something of the test's in between.

mod between;
mod finding;
mod lies;
mod privacy;
mod witnesses;
