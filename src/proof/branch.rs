//! Branches of a block's merkle tree.

use bitcoin::hashes::{Hash, HashEngine, sha256d};
use bitcoin::{TxMerkleNode, Txid};

use super::ProofError;

/// Most hashes of a branch: 65,536 transactions are more than fit into a block.
pub const BRANCH_MAX: usize = 16;

/// The way from a transaction to the merkle root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Branch {
    /// Position of the transaction in its block.
    pub index: u32,
    /// The hashes beside the way, that of the neighbouring transaction first. The last hash of a level with an odd number of them
    /// has itself beside it.
    pub siblings: Vec<TxMerkleNode>,
}

impl Branch {
    /// That of a transaction of a block; `None` if there is none at that position.
    pub fn of(txids: &[Txid], index: u32) -> Option<Self> {
        let mut level: Vec<TxMerkleNode> = txids.iter().copied().map(leaf).collect();
        let mut at = usize::try_from(index).ok()?;
        level.get(at)?;
        let mut siblings = Vec::new();
        while level.len() > 1 {
            let own = level.get(at)?;
            siblings.push(*level.get(at ^ 1).unwrap_or(own));
            at >>= 1;
            let pairs = level.chunks(2);
            level = pairs
                .filter_map(|pair| Some(parent(pair.first()?, pair.last()?)))
                .collect();
        }
        Some(Self { index, siblings })
    }

    /// The merkle root that the branch leads to from a transaction.
    ///
    /// # Errors
    /// [`ProofError::TooLong`]; [`ProofError::Position`]; [`ProofError::Repeated`].
    pub fn root(&self, txid: Txid) -> Result<TxMerkleNode, ProofError> {
        let (index, depth) = (self.index, self.siblings.len());
        if depth > BRANCH_MAX {
            return Err(ProofError::TooLong { found: depth });
        }
        if u64::from(index) >> depth != 0 {
            return Err(ProofError::Position { index, depth });
        }
        let mut hash = leaf(txid);
        let mut at = index;
        // Whether it is known that nothing is to the right of the way. Then nothing is on any level above.
        let mut is_last = false;
        for (level, sibling) in self.siblings.iter().enumerate() {
            let is_right = at & 1 == 1;
            let is_repeated = *sibling == hash;
            // Alone on its level it would be the root.
            let is_wrong = match is_repeated {
                true => is_right || at == 0,
                false => is_last && !is_right,
            };
            if is_wrong {
                return Err(ProofError::Repeated { level });
            }
            is_last |= is_repeated;
            hash = match is_right {
                true => parent(sibling, &hash),
                false => parent(&hash, sibling),
            };
            at >>= 1;
        }
        Ok(hash)
    }
}

fn leaf(txid: Txid) -> TxMerkleNode {
    TxMerkleNode::from_raw_hash(txid.to_raw_hash())
}

fn parent(left: &TxMerkleNode, right: &TxMerkleNode) -> TxMerkleNode {
    let mut engine = sha256d::Hash::engine();
    engine.input(left.as_byte_array());
    engine.input(right.as_byte_array());
    TxMerkleNode::from_raw_hash(sha256d::Hash::from_engine(engine))
}
