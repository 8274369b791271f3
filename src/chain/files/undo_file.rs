//! Which undo record of a `rev` file belongs to which block of the `blk` file with the same number.
//!
//! Source: Bitcoin Core's `src/node/blockstorage.cpp` (`WriteBlockUndo`). A record does not name its block. Its checksum covers the
//! hash of the block's parent, and it has as many transactions as the block without the coinbase: both must fit.
//! Blocks are written as they arrive and undo records as blocks are connected, which is by height but for reorgs: the
//! blocks in order of height are tried from the one after the last that fitted, and as a rule the first try fits.

use std::collections::HashMap;
use std::io::{self, Read, Seek};

use bitcoin::BlockHash;

use super::frames::{FRAME_BYTES, Framing, Records};
use super::headers::Node;
use super::undo::{CHECKSUM_BYTES, undo_checksum, undo_transactions};

/// Blocks of the right number of transactions that are tried for any record, before and after the expected place.
const NEAR: usize = 16;

/// Bytes hashed, in one look at a file, to try blocks farther away. Records that fit nothing (damaged ones, and leftovers of a
/// node that was killed) would be tried with every block otherwise.
const FAR_BUDGET_BYTES: usize = 256 << 20;

/// A block that may have its undo record in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Its index.
    pub node: Node,
    /// Its height, where it is known.
    pub height: Option<u32>,
    /// Its parent's hash.
    pub parent: BlockHash,
    /// Number of its transactions, the coinbase among them.
    pub transactions: u32,
}

/// Where an undo record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UndoRecord {
    /// Of the payload, from the start of the file; the frame is the 8 bytes before it, the checksum the 32 after it.
    pub offset: u64,
    /// Of the payload.
    pub length: u32,
}

/// Why a block has no undo record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoRecord {
    /// Nothing speaks against its coming.
    NotYet,
    /// A record at this offset, between those of the blocks before and after it, fits no block.
    Damaged(u64),
    /// Later blocks have theirs.
    Lost,
}

/// The records of a `rev` file.
#[derive(Debug, Default)]
pub struct UndoFile {
    /// In the order of the file; `None` for a record that fits no block.
    records: Vec<(UndoRecord, Option<Node>)>,
    /// Index into `records`.
    by_node: HashMap<Node, usize>,
    /// Where the next record should begin.
    resume: u64,
    last_owner: Option<Node>,
    /// Whether the file ends within a record.
    is_cut: bool,
}

impl UndoFile {
    /// Reads what was appended since, and finds the blocks it belongs to among `candidates`, which are all blocks of the
    /// `blk` file.
    ///
    /// # Errors
    /// Of the reader.
    pub fn extend(
        &mut self,
        reader: impl Read + Seek,
        framing: Framing,
        mut candidates: Vec<Candidate>,
    ) -> io::Result<()> {
        // The last records may have been half written, or their blocks unknown.
        while let Some((record, None)) = self.records.last() {
            self.resume = record.offset - FRAME_BYTES as u64;
            self.records.pop();
        }
        in_order(&mut candidates);
        let mut search = Search::new(&candidates, |node| self.by_node.contains_key(&node));
        if let Some(last) = self.last_owner {
            search.expect_after(last);
        }
        let mut records = Records::new(reader, framing, self.resume)?;
        let mut bytes = Vec::new();
        while let Some(record) = records.next(0, &mut bytes)? {
            records.payload(&record, &mut bytes)?;
            let owner = search.owner(&bytes);
            match owner {
                Some(owner) => {
                    self.by_node.insert(owner, self.records.len());
                    self.last_owner = Some(owner);
                }
                None => records.reject(&record),
            }
            let record = UndoRecord {
                offset: record.offset,
                length: record.length,
            };
            self.records.push((record, owner));
            self.resume = records.position();
        }
        self.is_cut = records.is_cut()?;
        Ok(())
    }

    /// Whether no record is known.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Whether the file ends within a record: whoever copied it has not come to its end.
    pub fn is_cut(&self) -> bool {
        self.is_cut
    }

    /// Whether the last record fits no block.
    pub fn ends_with_strays(&self) -> bool {
        matches!(self.records.last(), Some((_, None)))
    }

    /// The record of a block.
    pub fn record(&self, node: Node) -> Option<UndoRecord> {
        let index = *self.by_node.get(&node)?;
        self.records.get(index).map(|(record, _)| *record)
    }

    /// Why a block that was connected has no record. `candidates` as in [`UndoFile::extend`].
    pub fn missing(&self, node: Node, mut candidates: Vec<Candidate>) -> NoRecord {
        in_order(&mut candidates);
        let place = candidates.iter().position(|block| block.node == node);
        let (before, after) = candidates.split_at(place.unwrap_or(candidates.len()));
        let index = |block: &Candidate| self.by_node.get(&block.node).copied();
        let first = before.iter().rev().find_map(index).map_or(0, |at| at + 1);
        let next = after.iter().find_map(index);
        // Without a later one, the last record may be on its way.
        let end = next.unwrap_or(self.records.len().saturating_sub(1));
        let between = self.records.get(first..end).unwrap_or_default();
        match between.iter().find(|(_, owner)| owner.is_none()) {
            Some((record, _)) => NoRecord::Damaged(record.offset),
            None if next.is_some() => NoRecord::Lost,
            None => NoRecord::NotYet,
        }
    }
}

/// Orders blocks as they were connected, but for reorgs. Blocks of unknown height come last: they wait for another.
fn in_order(candidates: &mut [Candidate]) {
    candidates.sort_unstable_by_key(|block| (block.height.unwrap_or(u32::MAX), block.node));
}

/// Blocks that have no record yet.
struct Search<'a> {
    /// In order.
    candidates: &'a [Candidate],
    /// Per candidate, whether it has its record.
    found: Vec<bool>,
    /// Indices of candidates by their number of transactions, ascending.
    by_transactions: HashMap<usize, Vec<usize>>,
    /// Index of the candidate that the next record should belong to.
    expected: usize,
    far_budget: usize,
}

impl<'a> Search<'a> {
    fn new(candidates: &'a [Candidate], has_record: impl Fn(Node) -> bool) -> Self {
        let found: Vec<bool> = candidates
            .iter()
            .map(|block| has_record(block.node))
            .collect();
        let mut by_transactions: HashMap<usize, Vec<usize>> = HashMap::new();
        for (index, (block, found)) in candidates.iter().zip(&found).enumerate() {
            if !found {
                let list = by_transactions.entry(block.transactions as usize);
                list.or_default().push(index);
            }
        }
        Self {
            candidates,
            found,
            by_transactions,
            expected: 0,
            far_budget: FAR_BUDGET_BYTES,
        }
    }

    fn expect_after(&mut self, node: Node) {
        let last = self.candidates.iter().position(|block| block.node == node);
        self.expected = last.map_or(0, |last| last + 1);
    }

    /// The block that a record belongs to; `bytes` are payload and checksum.
    fn owner(&mut self, bytes: &[u8]) -> Option<Node> {
        let (payload, checksum) = bytes.split_last_chunk::<CHECKSUM_BYTES>()?;
        let transactions = undo_transactions(payload).ok()?.checked_add(1)?;
        let list = self.by_transactions.get(&transactions)?;
        let (before, after) = list.split_at(list.partition_point(|index| *index < self.expected));
        let open = |index: &&usize| !self.found.get(**index).copied().unwrap_or(true);
        let forward = after.iter().filter(open);
        let backward = before.iter().rev().filter(open);
        let near = forward
            .clone()
            .take(NEAR)
            .chain(backward.clone().take(NEAR));
        let far = forward.skip(NEAR).chain(backward.skip(NEAR));

        let fits = |index: &usize| {
            let block = self.candidates.get(*index)?;
            (undo_checksum(&block.parent, payload) == *checksum).then_some((*index, block.node))
        };
        let mut found = near.copied().find_map(|index| fits(&index));
        if found.is_none() {
            for index in far {
                let Some(rest) = self.far_budget.checked_sub(bytes.len()) else {
                    break;
                };
                self.far_budget = rest;
                found = fits(index);
                if found.is_some() {
                    break;
                }
            }
        }
        let (index, node) = found?;
        if let Some(found) = self.found.get_mut(index) {
            *found = true;
        }
        self.expected = index + 1;
        Some(node)
    }
}

#[cfg(test)]
mod tests;
