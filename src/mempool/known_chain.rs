//! The last blocks of the node's chain, as far as the view has come.

use std::collections::VecDeque;

use bitcoin::BlockHash;

use crate::BlockId;

/// Blocks that are remembered: deeper reorganisations are no longer explained.
const DEPTH: usize = 288;

#[derive(Debug, Default)]
pub(super) struct KnownChain(VecDeque<BlockId>);

impl KnownChain {
    pub(super) fn tip(&self) -> Option<BlockId> {
        self.0.back().copied()
    }

    pub(super) fn knows(&self, hash: &BlockHash) -> bool {
        self.0.iter().any(|id| id.hash == *hash)
    }

    /// The blocks, the newest first.
    pub(super) fn newest_first(&self) -> impl Iterator<Item = BlockId> + '_ {
        self.0.iter().rev().copied()
    }

    pub(super) fn push(&mut self, id: BlockId) {
        if self.0.len() == DEPTH {
            self.0.pop_front();
        }
        self.0.push_back(id);
    }

    /// Takes the tip away if this is it.
    pub(super) fn disconnect(&mut self, hash: &BlockHash) {
        if self.tip().is_some_and(|tip| tip.hash == *hash) {
            self.0.pop_back();
        }
    }

    /// Takes all blocks above a height away.
    pub(super) fn cut_above(&mut self, height: u32) {
        self.0.retain(|id| id.height <= height);
    }

    /// Begins with a block of which nothing below is known.
    pub(super) fn restart(&mut self, tip: BlockId) {
        self.0.clear();
        self.0.push_back(tip);
    }
}
