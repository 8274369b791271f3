//! The answer of `/rest/spenttxouts`: whatever is taken is written back to the same bytes.

use bitcoin::VarInt;
use bitcoin::consensus::serialize;
use spindex::chain::parse::parse_spent_outputs;

/// Whether the bytes are spent outputs.
pub(crate) fn check(bytes: &[u8]) -> bool {
    let Ok(prevouts) = parse_spent_outputs(bytes) else {
        return false;
    };
    let decoded = prevouts.decode();
    let mut again = serialize(&VarInt::from(decoded.len()));
    for outputs in &decoded {
        again.extend(serialize(outputs));
    }
    assert_eq!(again, bytes);
    true
}
