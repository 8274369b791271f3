//! JSON bodies: numbers as integers, hashes and txids in display order, bytes as lower-case hex.

use bitcoin::hex::DisplayHex;
use serde::{Serialize, Serializer};

use crate::api::error::QueryError;

/// Bytes as a hex string, in the order they have.
pub(super) struct Hex<'a>(pub(super) &'a [u8]);

impl Serialize for Hex<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0.as_hex())
    }
}

/// A list of byte strings as hex; `[]` when empty.
pub(super) struct HexList<'a, T>(pub(super) &'a [T]);

impl<T: AsRef<[u8]>> Serialize for HexList<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|bytes| Hex(bytes.as_ref())))
    }
}

/// Writes a body. Plain structs cannot fail; the error is passed on all the same.
pub(super) fn encode(body: &impl Serialize) -> Result<Vec<u8>, QueryError> {
    serde_json::to_vec(body).map_err(|error| QueryError::Internal(error.to_string()))
}
