//! Writes to watches and to the log, within a transaction.

use std::path::Path;

use bitcoin::OutPoint;
use bitcoin::hashes::Hash;
use redb::{ReadableTable, Table, WriteTransaction};

use super::event::{Event, Happening};
use super::row::{StartKey, TokenRow, WatchRow, start_key};
use super::{
    CONSUMERS, DEEP_DUE, EVENT_BLOCKS, EVENTS, EventKey, NEXT_EVENT, NEXT_TOKEN, NEXT_WATCH,
    TOKENS, WATCH_STARTS, WATCHED_TO, WATCHES, event_key, split_event_key,
};
use crate::BlockId;
use crate::store::error::{Fault, InRow, StoreError};
use crate::store::schema::META;

/// Numbers that are never given twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counters {
    pub(super) watch: u64,
    pub(super) event: u64,
    pub(super) token: u32,
}

impl Counters {
    /// Before anything was counted.
    pub(super) const START: Self = Self {
        watch: 1,
        event: 1,
        token: 1,
    };

    /// Writes what differs from what there was.
    pub(super) fn write(
        &self,
        meta: &mut Table<'_, &'static str, &'static [u8]>,
        before: Self,
    ) -> Result<(), Fault> {
        let (token, token_before) = (u64::from(self.token), u64::from(before.token));
        for (name, old, new) in [
            (NEXT_WATCH, before.watch, self.watch),
            (NEXT_EVENT, before.event, self.event),
            (NEXT_TOKEN, token_before, token),
        ] {
            if old != new {
                meta.insert(name, new.to_le_bytes().as_slice())?;
            }
        }
        Ok(())
    }

    pub(super) fn read(
        meta: &impl ReadableTable<&'static str, &'static [u8]>,
    ) -> Result<Self, Fault> {
        let number = |name: &'static str| -> Result<Option<u64>, Fault> {
            let Some(value) = meta.get(name)? else {
                return Ok(None);
            };
            let bytes = value.value().try_into();
            let bytes = bytes.map_err(|_| Fault::row("meta", name, "not 8 bytes"))?;
            Ok(Some(u64::from_le_bytes(bytes)))
        };
        let token = number(NEXT_TOKEN)?.unwrap_or(1);
        Ok(Self {
            watch: number(NEXT_WATCH)?.unwrap_or(Self::START.watch),
            event: number(NEXT_EVENT)?.unwrap_or(Self::START.event),
            token: u32::try_from(token).map_err(|_| {
                Fault::row("meta", NEXT_TOKEN, "more tokens than there are numbers")
            })?,
        })
    }
}

/// Watches and events within a transaction; what is appended or changed is there for whoever reads once the transaction is
/// durable, or never.
pub struct WatchLog<'w> {
    write: &'w WriteTransaction,
    file: &'w Path,
    watches: Table<'w, u64, &'static [u8]>,
    starts: Table<'w, &'static StartKey, u64>,
    events: Table<'w, u64, &'static [u8]>,
    blocks: Table<'w, &'static EventKey, ()>,
    due: Table<'w, &'static EventKey, ()>,
    consumers: Table<'w, &'static str, u64>,
    tokens: Table<'w, &'static [u8; 32], &'static [u8]>,
    before: Counters,
    next: Counters,
}

impl<'w> WatchLog<'w> {
    pub(in crate::store) fn open(
        write: &'w WriteTransaction,
        file: &'w Path,
    ) -> Result<Self, Fault> {
        let next = Counters::read(&write.open_table(META)?)?;
        Ok(Self {
            write,
            file,
            watches: write.open_table(WATCHES)?,
            starts: write.open_table(WATCH_STARTS)?,
            events: write.open_table(EVENTS)?,
            blocks: write.open_table(EVENT_BLOCKS)?,
            due: write.open_table(DEEP_DUE)?,
            consumers: write.open_table(CONSUMERS)?,
            tokens: write.open_table(TOKENS)?,
            before: next,
            next,
        })
    }

    /// Writes down what was counted, and the tip up to which the log goes now.
    pub(in crate::store) fn finish(self, tip: Option<BlockId>) -> Result<(), Fault> {
        let mut meta = self.write.open_table(META)?;
        self.next.write(&mut meta, self.before)?;
        match tip {
            Some(BlockId { height, hash }) => {
                let mut value = height.to_le_bytes().to_vec();
                value.extend_from_slice(hash.as_byte_array());
                meta.insert(WATCHED_TO, value.as_slice())?;
            }
            None => drop(meta.remove(WATCHED_TO)?),
        }
        Ok(())
    }

    fn told(&self) -> impl Fn(Fault) -> StoreError + use<'w> {
        let file = self.file;
        move |fault| fault.in_file(file)
    }

    /// A watch by its number.
    ///
    /// # Errors
    /// As for all that follow: [`StoreError::Corrupt`] for a row that spindex did not write so, [`StoreError::Io`] and the
    /// like when the disk fails.
    pub fn watch(&self, number: u64) -> Result<Option<WatchRow>, StoreError> {
        watch_in(&self.watches, number).map_err(self.told())
    }

    /// Adds a watch and gives its number. There must be none of that owner and that start.
    ///
    /// # Errors
    /// As [`watch`](Self::watch).
    pub fn add(&mut self, row: &WatchRow) -> Result<u64, StoreError> {
        let told = self.told();
        let number = self.next.watch;
        self.next.watch += 1;
        let key = start_key(row.owner, &row.start);
        let mut add = || -> Result<bool, Fault> {
            self.watches.insert(number, row.encode().as_slice())?;
            Ok(self.starts.insert(&key, number)?.is_some())
        };
        match add().map_err(&told)? {
            false => Ok(number),
            true => Err(told(Fault::row("watch_starts", row.start, "there already"))),
        }
    }

    /// Overwrites a watch, whose owner and start stay.
    ///
    /// # Errors
    /// As [`watch`](Self::watch).
    pub fn put(&mut self, number: u64, row: &WatchRow) -> Result<(), StoreError> {
        let told = self.told();
        let put = self.watches.insert(number, row.encode().as_slice());
        put.map(drop).map_err(|error| told(error.into()))
    }

    /// Removes a watch and gives what it was. Its events stay.
    ///
    /// # Errors
    /// As [`watch`](Self::watch).
    pub fn remove(&mut self, number: u64) -> Result<Option<WatchRow>, StoreError> {
        let told = self.told();
        let Some(row) = self.watch(number)? else {
            return Ok(None);
        };
        let key = start_key(row.owner, &row.start);
        let mut remove = || -> Result<(), Fault> {
            self.watches.remove(number)?;
            self.starts.remove(&key)?;
            Ok(())
        };
        remove().map_err(told)?;
        Ok(Some(row))
    }

    /// Number of an owner's watch that starts at an outpoint.
    ///
    /// # Errors
    /// As [`watch`](Self::watch).
    pub fn watch_of(&self, owner: u32, start: &OutPoint) -> Result<Option<u64>, StoreError> {
        let found = self.starts.get(&start_key(owner, start));
        let found = found.map_err(|error| self.told()(error.into()))?;
        Ok(found.map(|number| number.value()))
    }

    /// The watches from a number on, as many as `most`.
    ///
    /// # Errors
    /// As [`watch`](Self::watch).
    pub fn watches(&self, from: u64, most: usize) -> Result<Vec<(u64, WatchRow)>, StoreError> {
        watches_in(&self.watches, from, most).map_err(self.told())
    }

    /// Appends an event and gives its cursor.
    ///
    /// # Errors
    /// As [`watch`](Self::watch).
    pub fn append(&mut self, event: &Event) -> Result<u64, StoreError> {
        let told = self.told();
        self.append_row(event).map_err(told)
    }

    fn append_row(&mut self, event: &Event) -> Result<u64, Fault> {
        let cursor = self.next.event;
        self.next.event += 1;
        self.events.insert(cursor, event.encode().as_slice())?;
        if let Some(block) = event.block() {
            self.blocks.insert(&event_key(block.height, cursor), ())?;
        }
        if let Happening::Confirmed(confirmed) = &event.what
            && let Some(height) = confirmed.deep_at()
        {
            self.due.insert(&event_key(height, cursor), ())?;
        }
        Ok(cursor)
    }

    /// Cursor of the event that is appended next.
    pub fn next_cursor(&self) -> u64 {
        self.next.event
    }

    /// An event by its cursor; `None` if there is none, or none any more.
    ///
    /// # Errors
    /// As [`watch`](Self::watch).
    pub fn event(&self, cursor: u64) -> Result<Option<Event>, StoreError> {
        event_in(&self.events, cursor).map_err(self.told())
    }

    /// The confirmed events that are deep once the tip has this height, in the order of the heights at which they are; each is
    /// given once.
    ///
    /// # Errors
    /// As [`watch`](Self::watch).
    pub fn take_deep(&mut self, height: u32) -> Result<Vec<(u64, Event)>, StoreError> {
        let told = self.told();
        let last = event_key(height, u64::MAX);
        let keys = keys_in(&self.due, event_key(0, 0), last).map_err(&told)?;
        let mut due = Vec::with_capacity(keys.len());
        for key in keys {
            let (_, cursor) = split_event_key(&key);
            let removed = self.due.remove(&key);
            removed.map_err(|error| told(error.into()))?;
            due.push((cursor, self.there(cursor)?));
        }
        Ok(due)
    }

    /// The events of the block at a height that are still true, newest first. They are not from then on.
    ///
    /// # Errors
    /// As [`watch`](Self::watch).
    pub fn take_events_of(&mut self, height: u32) -> Result<Vec<(u64, Event)>, StoreError> {
        let told = self.told();
        let (first, last) = (event_key(height, 0), event_key(height, u64::MAX));
        let keys = keys_in(&self.blocks, first, last).map_err(&told)?;
        let mut events = Vec::with_capacity(keys.len());
        for key in keys.into_iter().rev() {
            let (_, cursor) = split_event_key(&key);
            let event = self.there(cursor)?;
            let due = match &event.what {
                Happening::Confirmed(confirmed) => confirmed.deep_at(),
                _ => None,
            };
            let mut remove = || -> Result<(), Fault> {
                self.blocks.remove(&key)?;
                if let Some(height) = due {
                    self.due.remove(&event_key(height, cursor))?;
                }
                Ok(())
            };
            remove().map_err(&told)?;
            events.push((cursor, event));
        }
        Ok(events)
    }

    /// The highest block that a true event is of; one of its events has this cursor.
    ///
    /// # Errors
    /// As [`watch`](Self::watch).
    pub fn last_block(&self) -> Result<Option<BlockId>, StoreError> {
        let last = self.blocks.last();
        let last = last.map_err(|error| self.told()(error.into()))?;
        let Some((key, _)) = last else {
            return Ok(None);
        };
        let (_, cursor) = split_event_key(key.value());
        Ok(self.there(cursor)?.block())
    }

    fn there(&self, cursor: u64) -> Result<Event, StoreError> {
        let missing = || self.told()(Fault::row("events", cursor, "missing"));
        self.event(cursor)?.ok_or_else(missing)
    }

    /// Removes the oldest events, up to a cursor that stays, `most` of them; gives the cursor of the first that stays. What a
    /// consumer has not taken stays, and so does what a block of `height` or above, or its depth, may still need.
    ///
    /// # Errors
    /// As [`watch`](Self::watch).
    pub fn cut(&mut self, before: u64, height: u32, most: usize) -> Result<u64, StoreError> {
        let told = self.told();
        self.cut_rows(before, height, most).map_err(told)
    }

    fn cut_rows(&mut self, before: u64, height: u32, most: usize) -> Result<u64, Fault> {
        let mut before = before.min(self.next.event);
        for entry in self.consumers.iter()? {
            before = before.min(entry?.1.value().saturating_add(1));
        }
        let recent = keys_in(
            &self.blocks,
            event_key(height, 0),
            event_key(u32::MAX, u64::MAX),
        )?;
        let due = keys_in(&self.due, event_key(0, 0), event_key(u32::MAX, u64::MAX))?;
        for key in recent.iter().chain(&due) {
            before = before.min(split_event_key(key).1);
        }
        let mut cut = Vec::new();
        for entry in self.events.range(..before)?.take(most) {
            let (cursor, row) = entry?;
            let cursor = cursor.value();
            let event = Event::decode(row.value()).in_row("events", cursor)?;
            cut.push((cursor, event.block()));
        }
        for (cursor, block) in cut {
            self.events.remove(cursor)?;
            if let Some(block) = block {
                self.blocks.remove(&event_key(block.height, cursor))?;
            }
        }
        let first = self.events.first()?;
        Ok(first.map_or(self.next.event, |(cursor, _)| cursor.value()))
    }

    /// Notes the last event that a consumer has taken, and the consumer if it is new: whatever comes behind is kept for it.
    ///
    /// # Errors
    /// As [`watch`](Self::watch).
    pub fn put_consumer(&mut self, name: &str, taken: u64) -> Result<(), StoreError> {
        let told = self.told();
        let put = self.consumers.insert(name, taken).map(drop);
        put.map_err(|error| told(error.into()))
    }

    /// Forgets a consumer; `false` if there is none of that name.
    ///
    /// # Errors
    /// As [`watch`](Self::watch).
    pub fn remove_consumer(&mut self, name: &str) -> Result<bool, StoreError> {
        let told = self.told();
        let removed = self.consumers.remove(name).map(|old| old.is_some());
        removed.map_err(|error| told(error.into()))
    }

    /// Adds a token under its SHA-256 with a new number, or overwrites it with the one that it has; gives the number.
    ///
    /// # Errors
    /// As [`watch`](Self::watch).
    pub fn put_token(&mut self, hash: &[u8; 32], row: &TokenRow) -> Result<u32, StoreError> {
        let told = self.told();
        self.put_token_row(hash, row).map_err(told)
    }

    fn put_token_row(&mut self, hash: &[u8; 32], row: &TokenRow) -> Result<u32, Fault> {
        let known = match self.tokens.get(hash)? {
            Some(known) => Some(TokenRow::decode(known.value()).in_row("tokens", "a hash")?),
            None => None,
        };
        let number = known.map_or(self.next.token, |known| known.number);
        self.next.token = self.next.token.max(number.saturating_add(1));
        let row = TokenRow {
            number,
            ..row.clone()
        };
        self.tokens.insert(hash, row.encode().as_slice())?;
        Ok(number)
    }

    /// Removes a token; `false` if there is none. The watches of its number stay.
    ///
    /// # Errors
    /// As [`watch`](Self::watch).
    pub fn remove_token(&mut self, hash: &[u8; 32]) -> Result<bool, StoreError> {
        let told = self.told();
        let removed = self.tokens.remove(hash).map(|old| old.is_some());
        removed.map_err(|error| told(error.into()))
    }
}

/// All keys from one to another.
fn keys_in(
    table: &impl ReadableTable<&'static EventKey, ()>,
    first: EventKey,
    last: EventKey,
) -> Result<Vec<EventKey>, Fault> {
    let range = table.range::<&EventKey>(&first..=&last)?;
    range.map(|entry| Ok(*entry?.0.value())).collect()
}

pub(super) fn watch_in(
    table: &impl ReadableTable<u64, &'static [u8]>,
    number: u64,
) -> Result<Option<WatchRow>, Fault> {
    match table.get(number)? {
        Some(row) => WatchRow::decode(row.value())
            .in_row("watches", number)
            .map(Some),
        None => Ok(None),
    }
}

pub(super) fn watches_in(
    table: &impl ReadableTable<u64, &'static [u8]>,
    from: u64,
    most: usize,
) -> Result<Vec<(u64, WatchRow)>, Fault> {
    let rows = table.range(from..)?.take(most);
    rows.map(|entry| {
        let (number, row) = entry?;
        let number = number.value();
        Ok((
            number,
            WatchRow::decode(row.value()).in_row("watches", number)?,
        ))
    })
    .collect()
}

pub(super) fn event_in(
    table: &impl ReadableTable<u64, &'static [u8]>,
    cursor: u64,
) -> Result<Option<Event>, Fault> {
    match table.get(cursor)? {
        Some(row) => Event::decode(row.value())
            .in_row("events", cursor)
            .map(Some),
        None => Ok(None),
    }
}
