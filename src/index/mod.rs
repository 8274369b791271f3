//! From blocks to the index: derive records, sync to the tip, follow it through reorgs.
//!
//! [`derive_records`] is pure; [`Indexer`] drives a [`BlockSource`](crate::chain::BlockSource) and a
//! [`Store`](crate::store::Store) with it.

mod batch;
mod derive;
mod fetch;
mod fork;
mod indexer;
mod patience;
mod pipeline;
mod reorg;
mod rows;
mod spenders;

pub use derive::{derive_inputs, derive_records, derive_spends, tweak_candidates};
#[cfg(feature = "client")]
pub(crate) use indexer::blocking;
pub use indexer::{BatchReport, IndexError, IndexSettings, Indexer};
pub use pipeline::Stage;
pub use rows::RowSource;
