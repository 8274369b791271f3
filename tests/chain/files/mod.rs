//! Blocks from a node's own files: against a real node that writes them, and from folders in all states they can be in.

mod agreement;
mod ends;
mod fetched_again;
mod folder;
mod holes;
mod runs;
mod scene;
mod signet;
mod states;
