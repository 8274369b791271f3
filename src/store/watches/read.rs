//! Watches and events as of one commit.

use bitcoin::hashes::Hash;
use bitcoin::{BlockHash, OutPoint};
use redb::{ReadableTable, ReadableTableMetadata};

use super::WATCHED_TO;
use super::event::Event;
use super::log::{Counters, event_in, watch_in, watches_in};
use super::row::{TokenRow, WatchRow, start_key};
use crate::BlockId;
use crate::store::error::{Fault, InRow, StoreError};
use crate::store::snapshot::Snapshot;
use crate::store::view::View;

impl Snapshot {
    /// A watch by its number.
    ///
    /// # Errors
    /// As [`block`](Self::block), as for all that follow.
    pub fn watch(&self, number: u64) -> Result<Option<WatchRow>, StoreError> {
        self.read(|view| watch_in(view.watching().watches()?, number))
    }

    /// Number of an owner's watch that starts at an outpoint.
    ///
    /// # Errors
    /// As [`watch`](Self::watch).
    pub fn watch_of(&self, owner: u32, start: &OutPoint) -> Result<Option<u64>, StoreError> {
        self.read(|view| {
            let found = view.watching().starts()?.get(&start_key(owner, start))?;
            Ok(found.map(|number| number.value()))
        })
    }

    /// The watches from a number on, ascending, as many as `most`.
    ///
    /// # Errors
    /// As [`watch`](Self::watch).
    pub fn watches(&self, from: u64, most: usize) -> Result<Vec<(u64, WatchRow)>, StoreError> {
        self.read(|view| watches_in(view.watching().watches()?, from, most))
    }

    /// An event by its cursor; `None` if there is none, or none any more.
    ///
    /// # Errors
    /// As [`watch`](Self::watch).
    pub fn event(&self, cursor: u64) -> Result<Option<Event>, StoreError> {
        self.read(|view| event_in(view.watching().events()?, cursor))
    }

    /// The events behind a cursor, oldest first, as many as `most`. Cursors begin at 1, so that those behind 0 are all.
    ///
    /// # Errors
    /// As [`watch`](Self::watch).
    pub fn events_after(&self, cursor: u64, most: usize) -> Result<Vec<(u64, Event)>, StoreError> {
        self.read(|view| {
            let rows = view
                .watching()
                .events()?
                .range(cursor.saturating_add(1)..)?;
            let rows = rows.take(most);
            rows.map(|entry| {
                let (cursor, row) = entry?;
                let cursor = cursor.value();
                Ok((cursor, Event::decode(row.value()).in_row("events", cursor)?))
            })
            .collect()
        })
    }

    /// Cursor of the oldest event that is kept; `None` if none is.
    ///
    /// # Errors
    /// As [`watch`](Self::watch).
    pub fn first_event(&self) -> Result<Option<u64>, StoreError> {
        self.read(|view| {
            let first = view.watching().events()?.first()?;
            Ok(first.map(|(cursor, _)| cursor.value()))
        })
    }

    /// Cursor of the last event there has been; 0 before the first.
    ///
    /// # Errors
    /// As [`watch`](Self::watch).
    pub fn last_event(&self) -> Result<u64, StoreError> {
        self.read(|view| {
            let next = Counters::read(view.watching().meta()?)?.event;
            Ok(next.saturating_sub(1))
        })
    }

    /// The block up to which the log goes; `None` before anything was watched.
    ///
    /// # Errors
    /// As [`watch`](Self::watch).
    pub fn watched_to(&self) -> Result<Option<BlockId>, StoreError> {
        self.read(watched_to)
    }

    /// Who reads the log, with the cursor of the last event that each has taken.
    ///
    /// # Errors
    /// As [`watch`](Self::watch).
    pub fn consumers(&self) -> Result<Vec<(String, u64)>, StoreError> {
        self.read(|view| {
            let rows = view.watching().consumers()?.iter()?;
            rows.map(|entry| {
                let (name, taken) = entry?;
                Ok((name.value().to_owned(), taken.value()))
            })
            .collect()
        })
    }

    /// What the token of this SHA-256 allows.
    ///
    /// # Errors
    /// As [`watch`](Self::watch).
    pub fn token(&self, hash: &[u8; 32]) -> Result<Option<TokenRow>, StoreError> {
        self.read(|view| match view.watching().tokens()?.get(hash)? {
            Some(row) => TokenRow::decode(row.value())
                .in_row("tokens", "a hash")
                .map(Some),
            None => Ok(None),
        })
    }

    /// Whether there is any token.
    ///
    /// # Errors
    /// As [`watch`](Self::watch).
    pub fn has_tokens(&self) -> Result<bool, StoreError> {
        self.read(|view| Ok(!view.watching().tokens()?.is_empty()?))
    }

    /// All tokens, by their hashes.
    ///
    /// # Errors
    /// As [`watch`](Self::watch).
    pub fn tokens(&self) -> Result<Vec<([u8; 32], TokenRow)>, StoreError> {
        self.read(|view| {
            let rows = view.watching().tokens()?.iter()?;
            rows.map(|entry| {
                let (hash, row) = entry?;
                let row = TokenRow::decode(row.value()).in_row("tokens", "a hash")?;
                Ok((*hash.value(), row))
            })
            .collect()
        })
    }
}

pub(super) fn watched_to(view: &View) -> Result<Option<BlockId>, Fault> {
    let Some(value) = view.watching().meta()?.get(WATCHED_TO)? else {
        return Ok(None);
    };
    let (height, hash) = match value.value().split_first_chunk() {
        Some((height, hash)) => (
            u32::from_le_bytes(*height),
            BlockHash::from_slice(hash).ok(),
        ),
        None => (0, None),
    };
    let wrong = || Fault::row("meta", WATCHED_TO, "no block");
    let hash = hash.ok_or_else(wrong)?;
    Ok(Some(BlockId { height, hash }))
}
