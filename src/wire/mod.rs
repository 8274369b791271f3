//! How a dialect looks in bytes: value types with encode beside decode, used by servers and clients alike. No I/O.

mod hex;
pub mod native;
pub mod spcommit;
pub(crate) mod text;
pub mod v1;
