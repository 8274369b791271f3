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
    roll_tweaks_hash(previous, block_hash, &tweaks_hash(tweaks))
}

/// `SHA256(tweaks)`: what a block's digest commits to besides its hash, which does not need the digest before.
pub(super) fn tweaks_hash(tweaks: impl IntoIterator<Item = [u8; 33]>) -> [u8; 32] {
    let mut hash = sha256::Hash::engine();
    for tweak in tweaks {
        hash.input(&tweak);
    }
    sha256::Hash::from_engine(hash).to_byte_array()
}

/// [`roll_digest`] of a block whose [`tweaks_hash`] is known.
pub(super) fn roll_tweaks_hash(
    previous: &[u8; 32],
    block_hash: &BlockHash,
    tweaks_hash: &[u8; 32],
) -> [u8; 32] {
    let mut outer = sha256::Hash::engine();
    outer.input(previous);
    outer.input(block_hash.as_byte_array());
    outer.input(tweaks_hash);
    sha256::Hash::from_engine(outer).to_byte_array()
}
