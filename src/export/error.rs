//! Why an export fails.

use crate::BlockId;
use crate::exported::PlaceError;
use crate::store::StoreError;

/// An export that failed. What was written before stays, and is gone on from.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The index cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The place cannot be read or written.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// What is there cannot be gone on from.
    #[error(
        "the manifest in {place} cannot be read: {reason}; export to another place, or remove it"
    )]
    Manifest {
        /// The place.
        place: String,
        /// Why not.
        reason: String,
    },
    /// What is there is of another network, or an index of another kind.
    #[error("{place} has an export {there}, and the index {here}; export to another place")]
    Other {
        /// The place.
        place: String,
        /// What the export is.
        there: String,
        /// What the index is.
        here: String,
    },
    /// The index has no block at the height where the export ends.
    #[error(
        "{place} has an export up to height {exported}, and the index ends at {tip}; sync it first"
    )]
    Behind {
        /// The place.
        place: String,
        /// Where the export ends.
        exported: u32,
        /// Where the index ends.
        tip: u32,
    },
    /// The chain was reorganised below what was exported.
    #[error(
        "{place} has an export that ends with block {block}, which is not in the index's chain: the chain was reorganised by more than {horizon} blocks, or one of them is damaged; see that `spindex check` finds the index right, then export to another place or empty this one (a higher --undo-depth leaves more blocks for later)"
    )]
    Reorganized {
        /// The place.
        place: String,
        /// Where the export ends.
        block: BlockId,
        /// How deep a reorganisation was thought to reach.
        horizon: u32,
    },
    /// The index says something else of blocks that were exported.
    #[error(
        "{place} has another {name} than the index, of the same blocks: one of them is damaged; see that `spindex check` finds the index right, then export to another place or empty this one"
    )]
    Differs {
        /// The place.
        place: String,
        /// The file, or the head of the manifest.
        name: String,
    },
    /// A fault of this program.
    #[error("{0}")]
    Internal(String),
}
