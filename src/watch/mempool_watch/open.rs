//! The spends that were said to be seen, and of which nothing was said since: what the log says, and nothing beside it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use bitcoin::{OutPoint, Txid};

use crate::store::watches::{Confirmed, Event, Happening, Seen};
use crate::store::{Snapshot, StoreError};

/// Events that are read at a time.
const READ: usize = 4_096;

/// A spend that was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OpenSeen {
    pub(super) watch: u64,
    pub(super) owner: u32,
    pub(super) seen: Seen,
    /// Who has spent the same, or what it builds on, in a block.
    pub(super) lost_to: Option<Txid>,
}

impl OpenSeen {
    fn next(&self) -> Option<OutPoint> {
        let vout = self.seen.next?;
        Some(OutPoint::new(self.seen.txid, vout))
    }
}

/// These spends, by the cursors of their events.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct OpenSeens {
    /// The last event that was read.
    read_to: u64,
    by_cursor: BTreeMap<u64, OpenSeen>,
    by_watch: BTreeSet<(u64, u64)>,
    by_txid: BTreeSet<(Txid, u64)>,
    /// By the tips that they would leave behind.
    by_next: BTreeSet<(OutPoint, u64)>,
    /// Those that lost.
    lost: BTreeSet<u64>,
}

impl OpenSeens {
    /// Reads the log as far as it goes.
    pub(super) fn read(&mut self, snapshot: &Snapshot) -> Result<(), StoreError> {
        loop {
            let events = snapshot.events_after(self.read_to, READ)?;
            let Some((last, _)) = events.last() else {
                return Ok(());
            };
            self.read_to = *last;
            for (cursor, event) in events {
                self.note(cursor, event);
            }
        }
    }

    fn note(&mut self, cursor: u64, event: Event) {
        let Event { watch, owner, what } = event;
        match what {
            Happening::Seen(seen) => self.insert(
                cursor,
                OpenSeen {
                    watch,
                    owner,
                    seen,
                    lost_to: None,
                },
            ),
            Happening::Replaced { of, .. }
            | Happening::Evicted { of, .. }
            | Happening::Conflict { of, .. } => self.remove(of),
            Happening::Confirmed(confirmed) => self.confirm(watch, &confirmed),
            Happening::Ended { .. } | Happening::Deep { .. } | Happening::Reorged { .. } => {}
        }
    }

    fn insert(&mut self, cursor: u64, open: OpenSeen) {
        self.by_watch.insert((open.watch, cursor));
        self.by_txid.insert((open.seen.txid, cursor));
        self.by_next.extend(open.next().map(|next| (next, cursor)));
        self.by_cursor.insert(cursor, open);
    }

    /// Nothing more is to be said of it.
    pub(super) fn remove(&mut self, cursor: u64) {
        let Some(open) = self.by_cursor.remove(&cursor) else {
            return;
        };
        self.by_watch.remove(&(open.watch, cursor));
        self.by_txid.remove(&(open.seen.txid, cursor));
        if let Some(next) = open.next() {
            self.by_next.remove(&(next, cursor));
        }
        self.lost.remove(&cursor);
    }

    /// A block spends a watch's tip: whoever was seen to do that is in it, or has lost.
    fn confirm(&mut self, watch: u64, confirmed: &Confirmed) {
        let same = self.of_watch(watch);
        let same = same.filter(|(_, open)| open.seen.spent == confirmed.spent);
        let same: Vec<_> = same
            .map(|(cursor, open)| (cursor, open.seen.txid))
            .collect();
        for (cursor, txid) in same {
            match confirmed.txid {
                Some(by) if by != txid => {
                    if let Some(open) = self.by_cursor.get_mut(&cursor) {
                        open.lost_to = Some(by);
                        self.lost.insert(cursor);
                    }
                }
                // Rows tell no txid of a spender without a state id: it is taken to be the one that was seen.
                _ => self.remove(cursor),
            }
        }
    }

    pub(super) fn of_watch(&self, watch: u64) -> impl Iterator<Item = (u64, &OpenSeen)> {
        let range = self.by_watch.range(all((watch, 0), (watch, u64::MAX)));
        range.filter_map(|(_, cursor)| Some((*cursor, self.by_cursor.get(cursor)?)))
    }

    /// Watches that have seen a transaction.
    pub(super) fn who_saw(&self, txid: Txid) -> impl Iterator<Item = u64> {
        let range = self.by_txid.range(all((txid, 0), (txid, u64::MAX)));
        range.filter_map(|(_, cursor)| Some(self.by_cursor.get(cursor)?.watch))
    }

    /// Watches whose tip an outpoint would be, by what they have seen.
    pub(super) fn who_expects(&self, outpoint: OutPoint) -> impl Iterator<Item = u64> {
        let range = self.by_next.range(all((outpoint, 0), (outpoint, u64::MAX)));
        range.filter_map(|(_, cursor)| Some(self.by_cursor.get(cursor)?.watch))
    }

    /// All watches that have seen something.
    pub(super) fn watches(&self) -> impl Iterator<Item = u64> {
        self.by_cursor.values().map(|open| open.watch)
    }

    /// Those of which it is still to be said that another one is in a block.
    pub(super) fn losers(&self) -> impl Iterator<Item = u64> {
        let lost = self.lost.iter();
        lost.filter_map(|cursor| Some(self.by_cursor.get(cursor)?.watch))
    }

    /// Cursor of the oldest one.
    pub(super) fn oldest(&self) -> Option<u64> {
        self.by_cursor.first_key_value().map(|(cursor, _)| *cursor)
    }
}

fn all<T>(first: T, last: T) -> RangeInclusive<T> {
    first..=last
}
