//! The rule that says where an index and a node's active chain part, and what follows. Pure: whoever applies it looks at the
//! blocks ([`reorg`](super::reorg)).

/// What an index holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Held {
    /// Height of its first block.
    pub(super) first: u32,
    /// Height of its last block.
    pub(super) tip: u32,
    /// Lowest height that can be disconnected; one above the tip if none can.
    pub(super) lowest: u32,
}

/// What there is at a height.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    /// The index's block is the node's.
    Same,
    /// The node has another block.
    Other,
    /// The node has no block there.
    Nothing,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Look at a height, and say what there is.
    Look(u32),
    /// Nothing: the index's tip is on the active chain.
    OnChain,
    /// Nothing: the active chain ends below the index's tip and contradicts none of its blocks.
    NodeBehind,
    /// The active chain ends below the index's tip. If the node calls that tip invalid, this many blocks go; if not, this
    /// is [`NodeBehind`](Self::NodeBehind).
    AskIfInvalid(u32),
    /// So many blocks have others in their place on the active chain.
    Replaced {
        /// How many.
        depth: u32,
        /// Whether they are few enough to be disconnected.
        is_within_reach: bool,
        /// Whether nothing but the genesis block is known to be common: it may be another chain altogether.
        may_be_other_chain: bool,
    },
}

/// A search from the lower of both tips downwards.
#[derive(Debug)]
pub(super) struct Search {
    held: Held,
    /// Whether the node has another block in the place of some.
    differs: bool,
}

impl Search {
    /// The search and its first step.
    pub(super) fn start(held: Held, node_tip: u32) -> (Self, Step) {
        let search = Self {
            held,
            differs: false,
        };
        // What the node does not have contradicts nothing.
        let height = held.tip.min(node_tip);
        let step = match height < held.first {
            true => Step::NodeBehind,
            false => Step::Look(height),
        };
        (search, step)
    }

    /// The next step after what was seen at the height of the last one.
    pub(super) fn seen(&mut self, height: u32, seen: Seen) -> Step {
        match seen {
            Seen::Same => return self.end(self.held.tip - height, Some(height)),
            Seen::Other => self.differs = true,
            Seen::Nothing => {}
        }
        match height == self.held.first || height < self.held.lowest {
            true => self.end(self.held.tip - height + 1, None),
            false => Step::Look(height - 1),
        }
    }

    /// With so many blocks above the common one, or down to where the search had to end. All below a common block is common
    /// too.
    fn end(&self, depth: u32, common: Option<u32>) -> Step {
        let Held { tip, lowest, .. } = self.held;
        let is_within_reach = depth <= tip + 1 - lowest;
        match (depth, self.differs) {
            (0, _) => Step::OnChain,
            (_, false) if is_within_reach => Step::AskIfInvalid(depth),
            (_, false) => Step::NodeBehind,
            (_, true) => Step::Replaced {
                depth,
                is_within_reach,
                // Every chain of a network has the genesis block.
                may_be_other_chain: common.is_none_or(|height| height == 0),
            },
        }
    }
}

#[cfg(test)]
mod tests;
