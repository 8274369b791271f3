//! What became of the chain since some block: for whoever follows it, and comes back to it.
//!
//! As far as blocks were connected the chain itself says so. Blocks that left it are remembered with their parents, the last
//! thousands of them and only since this process began.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bitcoin::BlockHash;

use super::{Desk, DeskError, Reading};
use crate::BlockId;
use crate::store::Applied;

/// Blocks that left the chain which are remembered.
const LEFT_KEPT: usize = 4_096;

/// What happened since a block was the tip.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Since {
    /// It is the tip. Or the next change is about to be told to those who [subscribed](Desk::subscribe): it is to be asked
    /// again then.
    Nothing,
    /// Blocks were connected to it: these, oldest first.
    Connected(Vec<BlockId>),
    /// More blocks were connected than were asked for: so many, of which this is the last.
    ConnectedMany {
        /// The tip.
        tip: BlockId,
        /// How many there are, with the tip.
        blocks: u32,
    },
    /// It left the chain.
    Reorganized {
        /// The last block below it that did not; `None` if there is none in the index.
        fork: Option<BlockId>,
        /// From the block down to the child of `fork`.
        disconnected: Vec<BlockId>,
        /// What stands above `fork` now, oldest first: not all, where that is more than was asked for.
        connected: Vec<BlockId>,
    },
    /// It is not of the chain, and how it left that is not remembered, if it ever was there.
    Unknown {
        /// The tip.
        tip: BlockId,
    },
}

/// Blocks that left the chain, and what those who ask have been told of it.
#[derive(Default)]
pub(super) struct Left {
    /// The tip after the last change; `None` before there is one.
    told: Option<Option<BlockId>>,
    /// By hash the height and the parent.
    parents: HashMap<BlockHash, (u32, Option<BlockId>)>,
    /// In the order in which they first left.
    order: VecDeque<BlockHash>,
}

impl Left {
    pub(super) fn advance(&mut self, applied: &Applied) {
        self.told = Some(applied.tip);
        let parents = applied.disconnected.iter().skip(1).copied().map(Some);
        let parents = parents.chain([applied.fork]);
        for (block, parent) in applied.disconnected.iter().zip(parents) {
            // A block has the same parent whenever it leaves.
            if self
                .parents
                .insert(block.hash, (block.height, parent))
                .is_none()
            {
                self.order.push_back(block.hash);
            }
        }
        while self.order.len() > LEFT_KEPT {
            if let Some(hash) = self.order.pop_front() {
                self.parents.remove(&hash);
            }
        }
    }

    /// Before anything changed.
    pub(super) fn begin(&mut self, tip: Option<BlockId>) {
        self.told.get_or_insert(tip);
    }

    /// A block and those below it, as far down as is remembered.
    fn line(&self, block: BlockId) -> Line {
        let mut blocks = vec![block];
        loop {
            let last = blocks.last().copied().unwrap_or(block);
            match self.parents.get(&last.hash) {
                Some(&(height, Some(parent))) if height == last.height => blocks.push(parent),
                Some(&(height, None)) if height == last.height => {
                    let is_whole = true;
                    return Line { blocks, is_whole };
                }
                _ => {
                    let is_whole = false;
                    return Line { blocks, is_whole };
                }
            }
        }
    }
}

/// A block and those below it.
struct Line {
    /// Newest first.
    blocks: Vec<BlockId>,
    /// Whether there never was anything below the last one.
    is_whole: bool,
}

/// What of a line is not of the chain.
#[derive(Debug, PartialEq, Eq)]
struct Branch {
    /// Newest first.
    left: Vec<BlockId>,
    /// The first one of the chain; `None` if nothing below the line's last one ever was in the index.
    fork: Option<BlockId>,
}

impl Line {
    /// Where it leaves the chain; `None` if that is further below than is remembered.
    fn branch(
        self,
        is_there: impl Fn(&BlockId) -> Result<bool, DeskError>,
    ) -> Result<Option<Branch>, DeskError> {
        let mut left = Vec::new();
        for block in self.blocks {
            if is_there(&block)? {
                let fork = Some(block);
                return Ok(Some(Branch { left, fork }));
            }
            left.push(block);
        }
        Ok(self.is_whole.then_some(Branch { left, fork: None }))
    }
}

/// Shared with whoever tells of changes.
pub(super) type SharedLeft = Arc<Mutex<Left>>;

pub(super) fn lock(left: &Mutex<Left>) -> MutexGuard<'_, Left> {
    left.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Desk {
    /// What happened to the chain since a block was its tip. At most so many blocks are listed.
    ///
    /// Whoever subscribes first and asks whenever a change is told misses none.
    ///
    /// # Errors
    /// [`DeskError::NothingIndexed`]; the index cannot be read.
    pub async fn since(self: &Arc<Self>, block: BlockId, most: u32) -> Result<Since, DeskError> {
        let left = self.left.clone();
        self.read(move |reading| {
            let tip = reading.snapshot.tip();
            let line = {
                // Held no longer, since whoever commits waits for it.
                let left = lock(&left);
                match left.told == Some(tip) {
                    true => left.line(block),
                    false => return Ok(Since::Nothing),
                }
            };
            let tip = tip.ok_or(DeskError::NothingIndexed)?;
            since(reading, tip, line, most)
        })
        .await
    }

    /// Whether a block left the chain since this process began; it may be back.
    pub fn has_left(&self, hash: &BlockHash) -> bool {
        lock(&self.left).parents.contains_key(hash)
    }
}

fn since(reading: &Reading<'_>, tip: BlockId, line: Line, most: u32) -> Result<Since, DeskError> {
    let is_there = |block: &BlockId| {
        let there = reading.snapshot.block(block.height)?;
        Ok(there.is_some_and(|there| there.id() == *block))
    };
    let listed = |from: u32, to: u32| {
        let blocks = (from..=to).map(|height| Ok(reading.block(height)?.id()));
        blocks.collect::<Result<Vec<BlockId>, DeskError>>()
    };
    let Some(Branch { left, fork }) = line.branch(is_there)? else {
        return Ok(Since::Unknown { tip });
    };
    let above = match fork {
        Some(fork) => fork.height.saturating_add(1),
        None => reading.snapshot.first_height(),
    };
    let blocks = tip.height.saturating_add(1).saturating_sub(above);
    if !left.is_empty() {
        let last = above.saturating_add(blocks.min(most)).saturating_sub(1);
        return Ok(Since::Reorganized {
            fork,
            disconnected: left,
            connected: listed(above, last)?,
        });
    }
    Ok(match blocks {
        0 => Since::Nothing,
        _ if blocks > most => Since::ConnectedMany { tip, blocks },
        _ => Since::Connected(listed(above, tip.height)?),
    })
}

#[cfg(test)]
mod tests {
    use bitcoin::hashes::Hash;

    use super::*;

    fn id(height: u32, branch: u8) -> BlockId {
        let mut hash = [branch; 32];
        hash[..4].copy_from_slice(&height.to_le_bytes());
        BlockId {
            height,
            hash: BlockHash::from_byte_array(hash),
        }
    }

    /// From one branch to another above a height.
    fn reorg(fork: u32, from: u8, old_tip: u32, to: u8, tip: u32, below: u8) -> Applied {
        Applied {
            fork: Some(id(fork, below)),
            disconnected: (fork + 1..=old_tip)
                .rev()
                .map(|height| id(height, from))
                .collect(),
            connected: (fork + 1..=tip).map(|height| id(height, to)).collect(),
            tip: Some(id(tip, to)),
        }
    }

    #[test]
    fn a_branch_is_known_through_several_reorganisations() {
        let mut left = Left::default();
        left.advance(&reorg(10, 1, 12, 2, 14, 0));
        // The second one goes deeper: the first one's fork leaves as well.
        let mut deeper = reorg(8, 2, 14, 3, 15, 0);
        for block in &mut deeper.disconnected {
            if block.height <= 10 {
                *block = id(block.height, 0);
            }
        }
        left.advance(&deeper);
        let chain = |block: &BlockId| {
            let branch = if block.height > 8 { 3 } else { 0 };
            Ok(*block == id(block.height, branch))
        };
        let found = left.line(id(12, 1)).branch(chain).expect("no fault");
        let branch = |left, fork| {
            Some(Branch {
                left,
                fork: Some(fork),
            })
        };
        let left_blocks = vec![id(12, 1), id(11, 1), id(10, 0), id(9, 0)];
        assert_eq!(found, branch(left_blocks, id(8, 0)));
        let found = left.line(id(15, 3)).branch(chain).expect("no fault");
        assert_eq!(found, branch(vec![], id(15, 3)));
        // Never seen; of that hash, but elsewhere.
        for unknown in [
            id(12, 9),
            BlockId {
                height: 13,
                ..id(12, 1)
            },
        ] {
            let found = left.line(unknown).branch(chain).expect("no fault");
            assert_eq!(found, None);
        }
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut left = Left::default();
        for round in 0..3 {
            let first = 2_000 * round;
            // Twice the same.
            for _ in 0..2 {
                left.advance(&reorg(first, 1, first + 2_000, 2, first + 1, 0));
            }
        }
        assert_eq!(left.order.len(), LEFT_KEPT);
        assert_eq!(left.parents.len(), LEFT_KEPT);
        assert!(left.parents.contains_key(&id(6_000, 1).hash));
        assert!(!left.parents.contains_key(&id(2_000, 1).hash));
    }
}
