//! What is known of the folder: its files, and the blocks in them.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::SystemTime;

use bitcoin::BlockHash;

use super::frames::{FRAME_BYTES, ObfuscationKey};
use super::head::Head;
use super::headers::{HeaderIndex, Location, Node};
use super::listing::{Listing, Unread};
use super::undo_file::Candidate;
use crate::BlockId;

/// Length and time of last change of a file.
pub(super) type Seen = (u64, Option<SystemTime>);

/// What is known of the folder.
#[derive(Debug)]
pub(super) struct State {
    pub(super) index: HeaderIndex,
    /// By number.
    files: BTreeMap<u32, BlockFile>,
    /// What has the name of a file and was not read at the last look, by number.
    pub(super) unread: BTreeMap<u32, Unread>,
    /// The highest number of a `rev` file.
    pub(super) newest_undo: Option<u32>,
    /// Whether somebody who knows has named the tip.
    pub(super) tip_is_known: bool,
    /// The folder's key at the last look.
    pub(super) key: ObfuscationKey,
}

/// Most missing numbers that are looked for.
const GAPS_LIMIT: usize = 100;

/// A `blk` file.
#[derive(Debug, Default)]
struct BlockFile {
    /// In the order of the file.
    blocks: Vec<Node>,
    /// Start of the last record.
    last_record: u64,
    seen: Option<Seen>,
    /// Whether `seen` would be different with anything written since.
    settled: bool,
    /// Gone: the node prunes.
    missing: bool,
    /// Whether it ends within a block.
    is_cut: bool,
}

/// A file to look into.
pub(super) struct Task {
    pub(super) number: u32,
    seen: Seen,
    settled: bool,
    /// 0 for a file that has changed: a node that was killed writes over what is there.
    pub(super) from: u64,
}

pub(super) struct Scanned {
    pub(super) hash: BlockHash,
    pub(super) head: Head,
    pub(super) location: Location,
}

impl State {
    /// Of a folder that was not looked at yet.
    pub(super) fn new(index: HeaderIndex) -> Self {
        Self {
            index,
            files: BTreeMap::new(),
            unread: BTreeMap::new(),
            newest_undo: None,
            tip_is_known: false,
            key: ObfuscationKey::default(),
        }
    }

    /// The files that may have changed; marks those that are gone. `settled` says whether a file would look different with
    /// anything written since.
    pub(super) fn tasks(&mut self, listing: Listing, settled: impl Fn(&Seen) -> bool) -> Vec<Task> {
        let Listing {
            files,
            unread,
            newest_undo,
        } = listing;
        self.unread = unread;
        self.newest_undo = newest_undo;
        for (number, file) in &mut self.files {
            file.missing = files.binary_search_by_key(number, |(n, _)| *n).is_err();
        }
        let newest = files.last().map(|(number, _)| *number);
        let tasks = files.into_iter().filter_map(|(number, seen)| {
            let task = Task {
                number,
                seen,
                settled: settled(&seen),
                from: 0,
            };
            let Some(file) = self.files.get(&number) else {
                return Some(task);
            };
            match file.settled && file.seen == Some(seen) {
                false => Some(task),
                // In case that clocks are not to be trusted.
                true if newest == Some(number) => Some(Task {
                    from: file.last_record,
                    ..task
                }),
                true => None,
            }
        });
        tasks.collect()
    }

    /// Notes that a file is gone.
    pub(super) fn miss(&mut self, number: u32) {
        if let Some(file) = self.files.get_mut(&number) {
            file.missing = true;
        }
    }

    /// Has a file read from its start the next time.
    pub(super) fn distrust(&mut self, number: u32) {
        if let Some(file) = self.files.get_mut(&number) {
            file.settled = false;
        }
    }

    /// Whether a file ends within a block.
    pub(super) fn is_cut(&self, number: u32) -> bool {
        self.files.get(&number).is_some_and(|file| file.is_cut)
    }

    /// Per file but the newest, the chosen chain's lowest block in it; the genesis block has no undo record.
    pub(super) fn lowest_in_files(&self) -> BTreeMap<u32, BlockId> {
        let mut lowest = BTreeMap::new();
        for node in self.index.chain_downwards() {
            if let (Some(block), Some(id)) = (self.index.block(node), self.index.id(node))
                && id.height > 0
                && !self.is_missing(block.location.file)
            {
                lowest.insert(block.location.file, id);
            }
        }
        if let Some(newest) = self.newest() {
            lowest.remove(&newest);
        }
        lowest
    }

    /// The highest number of a file.
    pub(super) fn newest(&self) -> Option<u32> {
        let there = self.files.iter().filter(|(_, file)| !file.missing);
        there.map(|(number, _)| *number).next_back()
    }

    /// Numbers below the newest that no file has, or that an empty one has.
    pub(super) fn gaps(&self) -> Vec<u32> {
        let there = |number: &u32| self.files.get(number).is_some_and(|file| !file.missing);
        // A pruned folder begins anywhere.
        let first = match self.is_pruned() {
            false => Some(0),
            true => self.files.keys().copied().find(|number| there(number)),
        };
        let (Some(first), Some(newest)) = (first, self.newest()) else {
            return Vec::new();
        };
        let full = self.files.iter();
        let full: BTreeSet<u32> = full
            .filter(|(_, file)| !file.missing && !file.blocks.is_empty())
            .map(|(number, _)| *number)
            .collect();
        let numbers = first..newest;
        // What nobody wrote may have any number.
        numbers
            .take(full.len().saturating_add(GAPS_LIMIT))
            .filter(|number| !full.contains(number))
            .take(GAPS_LIMIT)
            .collect()
    }

    /// Whether a file is there but has no block in it.
    pub(super) fn is_empty(&self, number: u32) -> bool {
        let file = self.files.get(&number);
        file.is_some_and(|file| !file.missing && file.blocks.is_empty())
    }

    /// Whether a file that was there is not any more.
    pub(super) fn is_missing(&self, number: u32) -> bool {
        self.files.get(&number).is_none_or(|file| file.missing)
    }

    /// The tip of the branch with the most work, and the file it is in.
    pub(super) fn best(&self) -> Option<(BlockId, u32)> {
        let best = self.index.best()?;
        let location = self.index.block(best)?.location;
        Some((self.index.id(best)?, location.file))
    }

    /// Whether a block is the last of a file: it may have been half written.
    pub(super) fn is_last(&self, number: u32, node: Node) -> bool {
        let file = self.files.get(&number);
        file.is_some_and(|file| file.blocks.last() == Some(&node))
    }

    /// All blocks of a file.
    pub(super) fn candidates(&self, number: u32) -> Vec<Candidate> {
        let blocks = self.files.get(&number).map(|file| file.blocks.as_slice());
        let blocks = blocks.unwrap_or_default().iter();
        blocks
            .filter_map(|node| {
                let block = self.index.block(*node)?;
                Some(Candidate {
                    node: *node,
                    height: block.height,
                    parent: block.parent,
                    transactions: block.transactions,
                })
            })
            .collect()
    }

    /// Bytes of each of the first of these blocks, up to one that is in no file.
    pub(super) fn block_sizes(&self, ids: &[BlockId]) -> impl Iterator<Item = u32> {
        ids.iter().map_while(|id| {
            let block = self.index.block(self.index.find(&id.hash)?)?;
            let there = !self.is_missing(block.location.file);
            there.then_some(block.location.length)
        })
    }

    /// Where a block's ancestor at a height is (itself at its own).
    pub(super) fn ancestor_location(&self, node: Node, height: u32) -> Option<Location> {
        let ancestor = self.index.ancestor(node, height)?;
        let locations = self.index.locations(ancestor);
        let mut there = locations.into_iter();
        there.find(|location| !self.is_missing(location.file))
    }

    /// Whether the genesis block is in no file: the node prunes.
    pub(super) fn is_pruned(&self) -> bool {
        let genesis = self.index.genesis();
        let places = genesis.map(|genesis| self.index.locations(genesis));
        let mut places = places.into_iter().flatten();
        !places.any(|place| !self.is_missing(place.file))
    }

    /// The lowest height from which on the chosen chain is complete, which is 0 unless the node prunes.
    pub(super) fn first_complete(&self) -> Option<u32> {
        if !self.is_pruned() {
            return self.index.chain_tip().map(|_| 0);
        }
        let complete = self.index.chain_downwards().take_while(|node| {
            let locations = self.index.locations(*node);
            locations.iter().any(|place| !self.is_missing(place.file))
        });
        let lowest = complete.last()?;
        self.index.id(lowest).map(|id| id.height)
    }

    /// Takes in what a task found; whether something that was known is not there any more.
    pub(super) fn take(&mut self, task: &Task, scanned: Vec<Scanned>, is_cut: bool) -> bool {
        let old = self.files.remove(&task.number).unwrap_or_default();
        let mut file = BlockFile {
            blocks: Vec::with_capacity(scanned.len()),
            last_record: 0,
            seen: Some(task.seen),
            settled: task.settled,
            missing: false,
            is_cut,
        };
        if task.from > 0 {
            file.blocks.clone_from(&old.blocks);
            file.last_record = old.last_record;
        }
        let mut found = HashSet::new();
        for block in scanned {
            let node = self.index.insert(block.hash, &block.head, block.location);
            if file.blocks.last() != Some(&node) {
                file.blocks.push(node);
            }
            file.last_record = u64::from(block.location.offset) - FRAME_BYTES as u64;
            found.insert((node, block.location));
        }
        let mut rewritten = false;
        if task.from == 0 {
            for node in old.blocks {
                for location in self.index.locations(node) {
                    if location.file == task.number && !found.contains(&(node, location)) {
                        self.index.forget(node, location);
                        rewritten = true;
                    }
                }
            }
        }
        self.files.insert(task.number, file);
        rewritten
    }
}
