//! Outpoints and processes that are followed, and the log of what happened to them.
//!
//! [`Registry`] holds what is watched. Once it is attached to a [`Store`](crate::store::Store), each update of the chain is
//! matched with it in the transaction that writes the update (`follower`), so that no block and no event is ever without the
//! other. What is registered late is followed through the index first (`lineage`). `docs/events.md` is for those who read the
//! log.

mod catch_up;
mod error;
pub mod feed;
mod follower;
mod lineage;
mod mempool_watch;
mod pass;
mod registration;
mod registry;
mod retention;
mod tips;
mod token;
mod told;

pub use error::WatchError;
pub use lineage::Looked;
pub use mempool_watch::MempoolWatch;
pub use registration::{NewWatch, REGISTER_MAX, Registered, STEPS_MAX};
pub use registry::Registry;
pub use token::{Token, allows, token_entry, token_row};
pub use told::{told, watch};
