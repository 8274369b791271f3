//! Where files are that an index was exported as, and whether they are what they should be. (`export` writes them.)
//!
//! They are the bytes of the native protocol under the same paths as a server has them, with a manifest that says which
//! there are; so any server of files is a server of the full history.

#[cfg(feature = "object-stores")]
mod bucket;
mod place;
mod verify;

#[cfg(feature = "object-stores")]
pub use bucket::Bucket;
pub use place::{Place, PlaceError};
#[cfg(feature = "index")]
pub(crate) use place::{blocking, failed, routes};
pub use verify::{Fault, FaultKind, Verified, verify};
#[cfg(feature = "client")]
pub(crate) use verify::{fault_of, heads_from, part};
