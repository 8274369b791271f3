//! The one small type that store, chain, index and API share.

use std::fmt;

use bitcoin::BlockHash;

/// A block's height and hash; the *tip* is the `BlockId` at the active chain's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BlockId {
    /// Height above the genesis block, which has height 0.
    pub height: u32,
    /// Hash of the 80-byte header.
    pub hash: BlockHash,
}

impl fmt::Display for BlockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.height, self.hash)
    }
}
