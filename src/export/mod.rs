//! Chunks of the native protocol as files: the same bytes under the same paths as a server has, written to a folder or an object
//! store ([`exported`](crate::exported)).
//!
//! A file appears with all of its bytes or not at all, and the manifest comes last; so whenever a writer is stopped, what is there is
//! an export, and the next one goes on from it.

mod error;
mod write;
mod writing;

pub use error::ExportError;
pub use write::{ExportSettings, Exported, export};
