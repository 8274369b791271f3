//! Chunks of the native protocol as files: the same bytes under the same paths as a server has, written to a folder or an object
//! store, and read from there. Any server of files is then a server of the full history.
//!
//! A file appears with all of its bytes or not at all, and the manifest comes last; so whenever a writer is stopped, what is there is
//! an export, and the next one goes on from it.

#[cfg(feature = "object-stores")]
mod bucket;
#[cfg(feature = "index")]
mod error;
mod place;
mod verify;
#[cfg(feature = "index")]
mod write;
#[cfg(feature = "index")]
mod writing;

#[cfg(feature = "object-stores")]
pub use bucket::Bucket;
#[cfg(feature = "index")]
pub use error::ExportError;
pub use place::{Place, PlaceError};
pub use verify::{Fault, FaultKind, Verified, verify};
#[cfg(feature = "client")]
pub(crate) use verify::{fault_of, heads_from, part};
#[cfg(feature = "index")]
pub use write::{ExportSettings, Exported, export};
