//! The rolling commitment over all tweaks: two indexes that agree at a height agree on everything below.

use bitcoin::BlockHash;
use bitcoin::hashes::{Hash, HashEngine, sha256};

/// What the first block's digest is rolled from.
pub const DIGEST_START: [u8; 32] = [0; 32];

/// `SHA256(previous || block_hash || SHA256(tweaks))`: block hash in internal order, tweaks in block order as 33
/// compressed bytes each. `previous` is the digest of the parent, or [`DIGEST_START`] at the first height.
pub fn roll_digest(
    previous: &[u8; 32],
    block_hash: &BlockHash,
    tweaks: impl IntoIterator<Item = [u8; 33]>,
) -> [u8; 32] {
    let mut inner = sha256::Hash::engine();
    for tweak in tweaks {
        inner.input(&tweak);
    }
    let mut outer = sha256::Hash::engine();
    outer.input(previous);
    outer.input(block_hash.as_byte_array());
    outer.input(sha256::Hash::from_engine(inner).as_byte_array());
    sha256::Hash::from_engine(outer).to_byte_array()
}
