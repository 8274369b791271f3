//! Which blocks the files hold, and how they hang together: an index of headers in memory.
//!
//! 80 bytes a block, 13 to 26 in the map of hashes and 4 each in two lists: a million blocks take about 120 MB.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap, HashSet};

use bitcoin::hashes::Hash;
use bitcoin::{BlockHash, Work};

use super::head::Head;
use crate::BlockId;

/// Index of a block in [`HeaderIndex`].
pub type Node = u32;

/// No [`Node`], or no height.
const NONE: u32 = u32::MAX;

/// Where a block's bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Location {
    /// Number in the name of its `blk` file; its undo record is in the `rev` file of the same number.
    pub file: u32,
    /// Of its first byte, from the start of the file.
    pub offset: u32,
    /// Of the block.
    pub length: u32,
}

impl Location {
    /// Of a block that is in no file.
    const NOWHERE: Self = Self {
        file: NONE,
        offset: 0,
        length: 0,
    };
}

/// A block of the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexedBlock {
    /// Hash of its header.
    pub hash: BlockHash,
    /// Its parent's hash.
    pub parent: BlockHash,
    /// Unknown if it does not hang together with the genesis block, or with a block that names its height.
    pub height: Option<u32>,
    /// Number of transactions, the coinbase among them.
    pub transactions: u32,
    /// Where it was found first.
    pub location: Location,
}

#[derive(Debug, Clone)]
struct Entry {
    hash: BlockHash,
    /// Of this block and all below it; of those that are in the index where the genesis block is not.
    work: u128,
    parent: Node,
    first_child: Node,
    next_sibling: Node,
    height: u32,
    transactions: u32,
    location: Location,
}

/// A block whose parent is not in the index.
#[derive(Debug)]
struct Root {
    parent: BlockHash,
    claimed_height: Option<u32>,
}

/// Blocks by hash, linked to their parents.
#[derive(Debug)]
pub struct HeaderIndex {
    genesis: BlockHash,
    entries: Vec<Entry>,
    /// By the first 8 bytes of the hash in internal order, which are not the ones that proof of work makes zero.
    by_prefix: HashMap<[u8; 8], Node>,
    /// Blocks whose prefix is another block's already.
    by_hash: HashMap<BlockHash, Node>,
    /// Other places where a block was found again.
    copies: HashMap<Node, Vec<Location>>,
    /// Blocks that are in no file any more.
    gone: BTreeSet<Node>,
    roots: HashMap<Node, Root>,
    /// Roots by the parent they wait for.
    waiting: HashMap<BlockHash, Vec<Node>>,
    /// The block with the most work below it; of several the one found first. Without the genesis block, that of the
    /// island that reaches highest.
    best: Node,
    /// Whether blocks of a folder without the genesis block have found their places since `best` was.
    islands_moved: bool,
    /// Nodes by height above `chain_base`, of one branch.
    chain: Vec<Node>,
    chain_base: u32,
}

impl HeaderIndex {
    /// An empty index of a chain with this genesis block.
    pub fn new(genesis: BlockHash) -> Self {
        Self {
            genesis,
            entries: Vec::new(),
            by_prefix: HashMap::new(),
            by_hash: HashMap::new(),
            copies: HashMap::new(),
            gone: BTreeSet::new(),
            roots: HashMap::new(),
            waiting: HashMap::new(),
            best: NONE,
            islands_moved: false,
            chain: Vec::new(),
            chain_base: 0,
        }
    }

    /// Number of blocks.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Adds a block, or a further place where a block is. In whatever order they come, all hang together in the end.
    pub fn insert(&mut self, hash: BlockHash, head: &Head, location: Location) -> Node {
        if let Some(node) = self.find(&hash) {
            self.found_again(node, head, location);
            return node;
        }
        // Far more blocks than 2^32 - 1 headers would take more than any memory.
        let node = self.entries.len() as Node;
        if self.entries.len() == self.entries.capacity() {
            // Doubling would waste up to half of it.
            self.entries
                .reserve_exact((self.entries.len() / 8).max(1 << 12));
        }
        let parent_hash = head.header.prev_blockhash;
        let parent = self.find(&parent_hash).unwrap_or(NONE);
        self.entries.push(Entry {
            hash,
            work: work(head.header.work()),
            parent: NONE,
            first_child: NONE,
            next_sibling: NONE,
            height: NONE,
            transactions: head.transactions,
            location,
        });
        match self.by_prefix.get(&prefix(&hash)) {
            Some(_) => {
                self.by_hash.insert(hash, node);
            }
            None => {
                self.by_prefix.insert(prefix(&hash), node);
            }
        }
        if hash == self.genesis {
            self.place(node, 0, 0);
        } else if parent != NONE {
            self.attach(node, parent);
        } else {
            self.waiting.entry(parent_hash).or_default().push(node);
            self.roots.insert(
                node,
                Root {
                    parent: parent_hash,
                    claimed_height: head.claimed_height,
                },
            );
        }
        for child in self.waiting.remove(&hash).unwrap_or_default() {
            self.roots.remove(&child);
            self.attach(child, node);
        }
        node
    }

    /// Gives blocks that do not hang together with the genesis block the heights that they claim (BIP34). Only of use
    /// where the genesis block is missing: otherwise what is missing will come.
    pub fn trust_claimed_heights(&mut self) {
        if self.has_genesis() {
            return;
        }
        let roots: Vec<(Node, u32)> = self
            .roots
            .iter()
            .filter_map(|(node, root)| Some((*node, root.claimed_height?)))
            .filter(|(node, _)| self.entry(*node).is_some_and(|entry| entry.height == NONE))
            .collect();
        for (node, height) in roots {
            self.place(node, height, 0);
        }
        if std::mem::take(&mut self.islands_moved) {
            // Work can only be compared within an island: what lies below it is unknown.
            self.best = self.stronger_than(None).first().copied().unwrap_or(NONE);
        }
    }

    /// Whether the genesis block is there. A pruned folder has islands instead: blocks that hang together, but not with
    /// the genesis block nor with each other.
    pub fn has_genesis(&self) -> bool {
        self.genesis().is_some()
    }

    /// The genesis block, if it is there.
    pub fn genesis(&self) -> Option<Node> {
        self.find(&self.genesis)
    }

    /// Forgets a place of a block that is not there any more. Without any place it stays as a header.
    pub fn forget(&mut self, node: Node, location: Location) {
        let mut copies = self.copies.remove(&node).unwrap_or_default();
        copies.retain(|copy| *copy != location);
        let Some(entry) = self.entries.get_mut(node as usize) else {
            return;
        };
        if entry.location == location {
            entry.location = copies.pop().unwrap_or(Location::NOWHERE);
        }
        let gone = entry.location == Location::NOWHERE;
        if !copies.is_empty() {
            self.copies.insert(node, copies);
        }
        if !gone {
            return;
        }
        self.gone.insert(node);
        self.islands_moved = true;
        if self.best == node {
            self.best = NONE;
            for node in 0..self.entries.len() as Node {
                self.consider(node);
            }
        }
    }

    /// The block with this hash.
    pub fn find(&self, hash: &BlockHash) -> Option<Node> {
        let node = *self.by_prefix.get(&prefix(hash))?;
        match self.entry(node)?.hash == *hash {
            true => Some(node),
            false => self.by_hash.get(hash).copied(),
        }
    }

    /// What is known of a block.
    pub fn block(&self, node: Node) -> Option<IndexedBlock> {
        let entry = self.entry(node)?;
        let parent = match (self.entry(entry.parent), self.roots.get(&node)) {
            (Some(parent), _) => parent.hash,
            (None, Some(root)) => root.parent,
            (None, None) => BlockHash::all_zeros(),
        };
        Some(IndexedBlock {
            hash: entry.hash,
            parent,
            height: (entry.height != NONE).then_some(entry.height),
            transactions: entry.transactions,
            location: entry.location,
        })
    }

    /// All places where a block is, the one found first at the head.
    pub fn locations(&self, node: Node) -> Vec<Location> {
        let first = self.entry(node).map(|entry| entry.location);
        let copies = self.copies.get(&node).into_iter().flatten().copied();
        let all = first.into_iter().chain(copies);
        all.filter(|location| *location != Location::NOWHERE)
            .collect()
    }

    /// Height and hash of a block whose height is known.
    pub fn id(&self, node: Node) -> Option<BlockId> {
        let entry = self.entry(node).filter(|entry| entry.height != NONE)?;
        Some(BlockId {
            height: entry.height,
            hash: entry.hash,
        })
    }

    /// The parent, if it is in the index.
    pub fn parent(&self, node: Node) -> Option<Node> {
        let parent = self.entry(node)?.parent;
        (parent != NONE).then_some(parent)
    }

    /// The block of the same branch at a height, at most its own.
    pub fn ancestor(&self, node: Node, height: u32) -> Option<Node> {
        let mut node = node;
        loop {
            match self.id(node)?.height {
                at if at == height => return Some(node),
                at if at < height => return None,
                _ if self.is_on_chain(node) => return self.on_chain(height),
                _ => node = self.parent(node)?,
            }
        }
    }

    /// All blocks with the same parent, this one among them.
    pub fn siblings(&self, node: Node) -> Vec<Node> {
        let Some(parent) = self.parent(node) else {
            return vec![node];
        };
        self.children(parent).collect()
    }

    /// The tip of the branch with the most work of those that hang together with the genesis block (or with a trusted
    /// height), up to the first block that is gone.
    pub fn best(&self) -> Option<Node> {
        let mut best = (self.best != NONE).then_some(self.best)?;
        for gone in &self.gone {
            // There are hardly ever any.
            if let Some(id) = self.id(*gone)
                && self.ancestor(best, id.height) == Some(*gone)
            {
                best = self.parent(*gone)?;
            }
        }
        Some(best)
    }

    /// Blocks of which a branch up to [`HeaderIndex::best`] or up to another end could be made and that are better ends than
    /// `floor`, the best first: by work, and of separate islands first those of the one that reaches highest.
    pub fn stronger_than(&self, floor: Option<Node>) -> Vec<Node> {
        let lost = self.lost();
        let reach = self.reach();
        let key = |node: Node| {
            let entry = self.entry(node)?;
            let there = entry.height != NONE && entry.location != Location::NOWHERE;
            let reach = reach.get(&node).copied().unwrap_or(0);
            (there && !lost.contains(&node)).then_some((reach, entry.work))
        };
        let floor = floor.and_then(key);
        let mut stronger: Vec<_> = (0..self.entries.len() as Node)
            .filter_map(|node| Some((key(node)?, node)))
            .filter(|(key, _)| floor.is_none_or(|floor| *key > floor))
            .collect();
        stronger.sort_unstable_by_key(|(key, node)| (Reverse(*key), *node));
        stronger.into_iter().map(|(_, node)| node).collect()
    }

    /// Blocks that are gone, and all above them.
    fn lost(&self) -> HashSet<Node> {
        let gone = self.gone.iter().flat_map(|gone| self.above(*gone));
        gone.map(|(node, _)| node).collect()
    }

    /// Without the genesis block: per block, the height of the best end of its island.
    fn reach(&self) -> HashMap<Node, u32> {
        let mut reach = HashMap::new();
        if self.has_genesis() {
            return reach;
        }
        for root in self.roots.keys() {
            let ends = self.above(*root).filter_map(|(node, _)| {
                let entry = self.entry(node)?;
                let there = entry.height != NONE && entry.location != Location::NOWHERE;
                there.then_some((entry.work, Reverse(node), entry.height))
            });
            if let Some((_, _, height)) = ends.max() {
                reach.extend(self.above(*root).map(|(node, _)| (node, height)));
            }
        }
        reach
    }

    /// A block and all that build on it, with how far they are above it.
    pub fn above(&self, node: Node) -> impl Iterator<Item = (Node, u32)> + '_ {
        let mut open = vec![(node, 0)];
        std::iter::from_fn(move || {
            let (node, distance) = open.pop()?;
            open.extend(self.children(node).map(|child| (child, distance + 1)));
            Some((node, distance))
        })
    }

    /// Blocks whose parent is known to exist but is in no file (or was and is gone), with the heights that they claim.
    /// A folder without the genesis block begins with such blocks: those with a height are not meant.
    pub fn loose(&self) -> Vec<(Node, Option<u32>)> {
        let roots = self.roots.iter().filter_map(|(node, root)| {
            let is_placed = self.entry(*node)?.height != NONE;
            (!is_placed).then_some((*node, root.claimed_height))
        });
        let gone = self.gone.iter().flat_map(|gone| self.children(*gone));
        let gone = gone.map(|node| (node, self.id(node).map(|id| id.height)));
        let mut loose: Vec<_> = roots.chain(gone).collect();
        loose.sort_unstable();
        loose
    }

    /// Takes the branch that ends with a block as the one that [`HeaderIndex::on_chain`] answers from.
    pub fn choose_chain(&mut self, tip: Node) {
        let Some(height) = self.entry(tip).map(|entry| entry.height) else {
            return;
        };
        if height == NONE {
            return;
        }
        // What was the lowest block may have found its parent.
        if let Some(lowest) = self.chain.first()
            && (self.parent(*lowest).is_some() || self.chain_base > height)
        {
            self.chain.clear();
        }
        // From the tip downwards until the branch is the old one.
        let mut branch = Vec::new();
        let mut node = tip;
        let mut at = height;
        while self.on_chain(at) != Some(node) {
            branch.push(node);
            match self.parent(node) {
                Some(parent) => (node, at) = (parent, at - 1),
                None => {
                    // Another root: nothing of the old branch remains.
                    self.chain.clear();
                    self.chain_base = at;
                    break;
                }
            }
        }
        let kept = (height + 1 - self.chain_base) as usize - branch.len();
        self.chain.truncate(kept);
        self.chain.extend(branch.into_iter().rev());
    }

    /// The chosen branch's block at a height.
    pub fn on_chain(&self, height: u32) -> Option<Node> {
        let index = height.checked_sub(self.chain_base)?;
        self.chain.get(index as usize).copied()
    }

    /// Whether a block is on the chosen branch.
    pub fn is_on_chain(&self, node: Node) -> bool {
        let height = self.entry(node).map_or(NONE, |entry| entry.height);
        self.on_chain(height) == Some(node)
    }

    /// The chosen branch's tip.
    pub fn chain_tip(&self) -> Option<Node> {
        self.chain.last().copied()
    }

    /// The chosen branch, from its tip downwards.
    pub fn chain_downwards(&self) -> impl Iterator<Item = Node> + '_ {
        self.chain.iter().rev().copied()
    }

    fn entry(&self, node: Node) -> Option<&Entry> {
        self.entries.get(node as usize)
    }

    fn children(&self, parent: Node) -> impl Iterator<Item = Node> + '_ {
        let first = self.entry(parent).map_or(NONE, |entry| entry.first_child);
        let first = (first != NONE).then_some(first);
        std::iter::successors(first, |child| {
            let next = self.entry(*child)?.next_sibling;
            (next != NONE).then_some(next)
        })
    }

    fn found_again(&mut self, node: Node, head: &Head, location: Location) {
        let Some(entry) = self.entries.get_mut(node as usize) else {
            return;
        };
        if entry.location == location {
            // The first time it may have been half written, with the header alone.
            entry.transactions = head.transactions;
        }
        if entry.location == Location::NOWHERE {
            entry.location = location;
            entry.transactions = head.transactions;
            self.gone.remove(&node);
            self.islands_moved = true;
            self.consider(node);
        } else if entry.location != location {
            let copies = self.copies.entry(node).or_default();
            if !copies.contains(&location) {
                copies.push(location);
            }
        }
    }

    /// Makes a block a child of another, and places it if the parent has its place, or the parent if the block has.
    fn attach(&mut self, node: Node, parent: Node) {
        let Some(above) = self.entries.get_mut(parent as usize) else {
            return;
        };
        let older = std::mem::replace(&mut above.first_child, node);
        let (height, parent_work) = (above.height, above.work);
        let mut trusted = NONE;
        if let Some(entry) = self.entries.get_mut(node as usize) {
            entry.parent = parent;
            entry.next_sibling = older;
            trusted = entry.height;
        }
        if height != NONE {
            self.place(node, height + 1, parent_work);
        } else if trusted != NONE {
            self.place_below(parent, trusted);
        }
    }

    /// Places a block whose child has a trusted height, and all it hangs together with: otherwise a branch would have
    /// heights at its top and none below. A height claimed by the lowest block goes before the child's.
    fn place_below(&mut self, node: Node, child_height: u32) {
        // No block is below height 0: what was trusted is wrong then, and the child moves.
        let mut height = child_height.saturating_sub(1);
        let mut lowest = node;
        while let Some(parent) = self.parent(lowest) {
            height = height.saturating_sub(1);
            lowest = parent;
        }
        let claimed = self.roots.get(&lowest).and_then(|root| root.claimed_height);
        self.place(lowest, claimed.unwrap_or(height), 0);
    }

    /// Gives a block and all above it their heights and work; `work` is that of all below it.
    fn place(&mut self, node: Node, height: u32, work: u128) {
        let mut open = vec![(node, height, work)];
        while let Some((node, height, added)) = open.pop() {
            let Some(entry) = self.entries.get_mut(node as usize) else {
                continue;
            };
            // All above a block that has its place have theirs: they only move along with it, by as much as it does.
            let moved = entry.height != NONE;
            entry.height = height;
            entry.work = entry.work.saturating_add(added);
            let for_children = if moved { added } else { entry.work };
            self.islands_moved = true;
            self.consider(node);
            let children: Vec<Node> = self.children(node).collect();
            open.extend(
                children
                    .into_iter()
                    .map(|child| (child, height + 1, for_children)),
            );
        }
    }

    /// Makes a block the best one if it is better.
    fn consider(&mut self, node: Node) {
        let Some(entry) = self.entry(node) else {
            return;
        };
        let better = match self.entry(self.best) {
            None => true,
            Some(best) => entry.work > best.work || (entry.work == best.work && node < self.best),
        };
        if better && entry.height != NONE && entry.location != Location::NOWHERE {
            self.best = node;
        }
    }
}

/// The first bytes of a hash in internal order.
fn prefix(hash: &BlockHash) -> [u8; 8] {
    let mut prefix = [0; 8];
    prefix.copy_from_slice(&hash.as_byte_array()[..8]);
    prefix
}

/// Work as a number. 2^128 hashes are 2^32 times the work of the main chain in 2024.
fn work(work: Work) -> u128 {
    let bytes = work.to_be_bytes();
    let (high, low) = bytes.split_at(16);
    match <[u8; 16]>::try_from(low) {
        Ok(low) if high.iter().all(|byte| *byte == 0) => u128::from_be_bytes(low),
        _ => u128::MAX,
    }
}

#[cfg(test)]
mod tests;
