//! What a state file holds, in memory, and how it changes.

use std::collections::BTreeMap;

use bitcoin::{BlockHash, OutPoint};

use super::super::report::Spend;
use super::KEPT_HASHES;
use super::rows::{Cursor, FoundRow, HeadRow, UnresolvedRow, WatchedRow};

/// Everything in the file. A wallet's finds are few, so all of them stay in memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::client) struct Contents {
    /// `None` before the first scan.
    pub(in crate::client) cursor: Option<Cursor>,
    /// The last [`KEPT_HASHES`] scanned blocks, without gaps as long as one scan goes on upwards.
    pub(in crate::client) hashes: BTreeMap<u32, BlockHash>,
    /// Of the last [`KEPT_HASHES`] blocks of native scans. One of another block than that of `hashes` does not count.
    pub(super) heads: BTreeMap<u32, HeadRow>,
    pub(in crate::client) found: BTreeMap<OutPoint, FoundRow>,
    pub(in crate::client) spends: BTreeMap<OutPoint, Spend>,
    pub(in crate::client) watched: BTreeMap<OutPoint, WatchedRow>,
    pub(in crate::client) unresolved: BTreeMap<u32, UnresolvedRow>,
}

/// One atomic change: first what is taken back, then what is new.
#[derive(Debug, Clone, Default)]
pub(in crate::client) struct Change {
    /// Drop hashes, finds and spends above this height (`-1`: all of them), and look again from there.
    pub(in crate::client) roll_back_to: Option<i64>,
    pub(in crate::client) cursor: Option<Cursor>,
    pub(in crate::client) hashes: Vec<(u32, BlockHash)>,
    pub(in crate::client) heads: Vec<(u32, HeadRow)>,
    pub(in crate::client) found: Vec<(OutPoint, FoundRow)>,
    pub(in crate::client) spends: Vec<(OutPoint, Spend)>,
    pub(in crate::client) watched: Vec<(OutPoint, WatchedRow)>,
    /// `None` where nothing is unresolved any more.
    pub(in crate::client) unresolved: Vec<(u32, Option<UnresolvedRow>)>,
    /// Outpoints that are forgotten.
    pub(in crate::client) unwatched: Vec<OutPoint>,
}

impl Contents {
    /// Applies a change in memory.
    pub(super) fn apply(&mut self, change: Change) {
        if let Some(fork) = change.roll_back_to {
            self.roll_back_to(fork);
        }
        self.cursor = change.cursor.or(self.cursor.take());
        self.hashes.extend(change.hashes);
        self.heads.extend(change.heads);
        self.found.extend(change.found);
        self.spends.extend(change.spends);
        self.watched.extend(change.watched);
        for (height, row) in change.unresolved {
            match row {
                Some(row) => self.unresolved.insert(height, row),
                None => self.unresolved.remove(&height),
            };
        }
        for outpoint in change.unwatched {
            self.watched.remove(&outpoint);
            if !self.found.contains_key(&outpoint) {
                self.spends.remove(&outpoint);
            }
        }
        if let Some(cursor) = &mut self.cursor {
            cursor.limit_unrecorded();
        }
        if let Some((top, _)) = self.hashes.last_key_value() {
            let keep_from = (*top + 1).saturating_sub(KEPT_HASHES);
            self.hashes = self.hashes.split_off(&keep_from);
        }
        if let Some((top, _)) = self.heads.last_key_value() {
            let keep_from = (*top + 1).saturating_sub(KEPT_HASHES);
            self.heads = self.heads.split_off(&keep_from);
        }
    }

    /// The head at a block that is stored.
    pub(in crate::client) fn head(&self, height: u32) -> Option<&HeadRow> {
        let hash = self.hashes.get(&height)?;
        self.heads
            .get(&height)
            .filter(|row| row.block_hash == *hash)
    }

    fn roll_back_to(&mut self, fork: i64) {
        let stays = |height: u32| i64::from(height) <= fork;
        self.hashes.retain(|height, _| stays(*height));
        self.heads.retain(|height, _| stays(*height));
        self.found.retain(|_, row| stays(row.height));
        self.spends.retain(|_, spend| stays(spend.height));
        self.unresolved.retain(|height, _| stays(*height));
        // Heights above the fork are to be looked at again; `fork + 1` is a height, since `fork` is below one.
        let next = u32::try_from(fork + 1).unwrap_or(0);
        if let Some(cursor) = &mut self.cursor {
            cursor.next = cursor.next.min(next.max(cursor.first));
            cursor.limit_unrecorded();
        }
        for row in self.found.values_mut() {
            row.next = row.next.map(|at| at.min(next.max(row.height)));
        }
        for row in self.watched.values_mut() {
            row.next = row.next.map(|at| at.min(next.max(row.from)));
        }
    }
}
