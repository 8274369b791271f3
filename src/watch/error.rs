//! Why something cannot be watched.

use bitcoin::OutPoint;

use super::registration::{REGISTER_MAX, STEPS_MAX};
use crate::store::StoreError;
use crate::store::watches::TAG_BYTES_MAX;

/// Why watches cannot be registered, or the log not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WatchError {
    /// The index file failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store has a registry already.
    #[error("there is a registry of this index already")]
    Attached,
    /// More watches than one registration takes.
    #[error("{found} watches in one registration: register {REGISTER_MAX} at most at a time")]
    TooMany {
        /// Their number.
        found: usize,
    },
    /// More watches than an owner may have.
    #[error("{found} watches, and {most} are allowed: remove some that are over")]
    Limit {
        /// How many there would be.
        found: u64,
        /// How many there may be.
        most: u64,
    },
    /// A tag that is too long.
    #[error("the tag of {outpoint} has {bytes} bytes: {TAG_BYTES_MAX} are allowed")]
    Tag {
        /// The outpoint.
        outpoint: OutPoint,
        /// Bytes of its tag.
        bytes: usize,
    },
    /// The outpoint is watched already in another way.
    #[error(
        "{outpoint} is watched already, as number {watch}, in another way: remove that watch first"
    )]
    Otherwise {
        /// The outpoint.
        outpoint: OutPoint,
        /// The watch that there is.
        watch: u64,
    },
    /// An outpoint twice in one registration, in two ways.
    #[error("{outpoint} stands twice in this registration, in two ways: choose one")]
    Twice {
        /// The outpoint.
        outpoint: OutPoint,
    },
    /// More was found by looking back than one registration may write.
    #[error("more than {STEPS_MAX} spends were found by looking back: register fewer at a time")]
    TooManySteps,
    /// Events that were cut off the log.
    #[error("the events behind {after} were cut off the log: the first that is kept is {first}")]
    Cut {
        /// The cursor behind which they stood.
        after: u64,
        /// Cursor of the first one that is kept, or of the next one there will be.
        first: u64,
    },
    /// Who reads the log was stopped.
    #[error("the log was not read: {0}")]
    Unread(String),
    /// A cursor beyond the end of the log.
    #[error("there is no event {cursor} yet: the last one is {last}")]
    NoEvent {
        /// The cursor.
        cursor: u64,
        /// Cursor of the last event.
        last: u64,
    },
}
