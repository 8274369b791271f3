//! What holds between watches, events and what leads to them.

use std::collections::{BTreeMap, BTreeSet};

use redb::{ReadableTable, ReadableTableMetadata};

use super::event::{Event, Happening};
use super::log::Counters;
use super::read::watched_to;
use super::row::{TokenRow, WatchRow, start_key};
use super::{EventKey, event_key, split_event_key};
use crate::store::error::{Fault, InRow};
use crate::store::locator::hex;
use crate::store::view::View;
use crate::store::walk::WrongRow;

/// The events that are true, and those that will be deep, as the log itself tells.
#[derive(Default)]
pub(super) struct Standing {
    /// Keys of `event_blocks`.
    pub(super) blocks: BTreeSet<EventKey>,
    /// Keys of `deep_due`.
    pub(super) due: BTreeSet<EventKey>,
    /// Key in `event_blocks` by cursor.
    by_cursor: BTreeMap<u64, EventKey>,
    /// Key in `deep_due` by cursor.
    due_by_cursor: BTreeMap<u64, EventKey>,
    /// Whose they are, by cursor.
    due_of: BTreeMap<u64, u64>,
}

impl Standing {
    /// Takes the next event.
    pub(super) fn add(&mut self, cursor: u64, event: &Event) {
        if let Some(block) = event.block() {
            let key = event_key(block.height, cursor);
            self.blocks.insert(key);
            self.by_cursor.insert(cursor, key);
        }
        match &event.what {
            Happening::Confirmed(confirmed) => {
                if let Some(height) = confirmed.deep_at() {
                    let key = event_key(height, cursor);
                    self.due.insert(key);
                    self.due_by_cursor.insert(cursor, key);
                    self.due_of.insert(cursor, event.watch);
                }
            }
            Happening::Deep { of, .. } => {
                if let Some(key) = self.due_by_cursor.remove(of) {
                    self.due.remove(&key);
                }
            }
            Happening::Reorged { of } => {
                if let Some(key) = self.by_cursor.remove(of) {
                    self.blocks.remove(&key);
                }
                if let Some(key) = self.due_by_cursor.remove(of) {
                    self.due.remove(&key);
                }
            }
            _ => {}
        }
    }
}

/// Names every row that contradicts others. All of them can be left out, or written anew from those that are right.
pub(in crate::store) fn check(
    view: &View,
    wrong: &mut impl FnMut(WrongRow) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let mut note = |table: &'static str, key: String, reason: String| {
        wrong(WrongRow {
            table,
            key,
            height: None,
            reason,
            follows: true,
        })
    };
    let tables = view.watching();
    let next = match Counters::read(tables.meta()?) {
        Ok(next) => next,
        fault => return caught(fault, &mut note),
    };
    caught(watched_to(view), &mut note)?;

    let starts = tables.starts()?;
    let mut watches = 0;
    for entry in tables.watches()?.iter()? {
        let (number, row) = entry?;
        let number = number.value();
        watches += 1;
        let checked = WatchRow::decode(row.value())
            .in_row("watches", number)
            .and_then(|row| {
                let start = starts.get(&start_key(row.owner, &row.start))?;
                match start.map(|found| found.value()) {
                    _ if number >= next.watch => {
                        Err(Fault::row("watches", number, "a number not given yet"))
                    }
                    Some(found) if found == number => Ok(()),
                    _ => Err(Fault::row(
                        "watch_starts",
                        row.start,
                        "does not lead to its watch",
                    )),
                }
            });
        caught(checked, &mut note)?;
    }
    let rows = starts.len()?;
    if rows != watches {
        note(
            "watch_starts",
            "all".to_owned(),
            format!("{rows} rows for {watches} watches"),
        )?;
    }

    let mut standing = Standing::default();
    let events = tables.events()?;
    for entry in events.iter()? {
        let (cursor, row) = entry?;
        let cursor = cursor.value();
        let event = Event::decode(row.value()).in_row("events", cursor);
        let checked = event.and_then(|event| {
            standing.add(cursor, &event);
            let reason = match () {
                () if cursor >= next.event => "a cursor not given yet",
                () if event.watch >= next.watch => "of a watch that there never was",
                () if event.of().is_some_and(|of| of >= cursor) => "about an event that came later",
                () => return Ok(()),
            };
            Err(Fault::row("events", cursor, reason))
        });
        caught(checked, &mut note)?;
    }
    // Of a watch that is no more nothing is called deep: its rows go when it would be.
    let watches = tables.watches()?;
    let is_dropped = |key: &EventKey| -> Result<bool, Fault> {
        let (_, cursor) = split_event_key(key);
        let watch = standing.due_of.get(&cursor);
        Ok(match watch {
            Some(watch) => watches.get(*watch)?.is_none(),
            None => false,
        })
    };
    for (table, rows, expected) in [
        (
            "event_blocks",
            keys(tables.event_blocks()?)?,
            &standing.blocks,
        ),
        ("deep_due", keys(tables.deep_due()?)?, &standing.due),
    ] {
        for key in rows.symmetric_difference(expected) {
            if table == "deep_due" && !rows.contains(key) && is_dropped(key)? {
                continue;
            }
            let reason = match rows.contains(key) {
                true => "leads to no event",
                false => "missing",
            };
            note(table, hex(key), reason.to_owned())?;
        }
    }
    for entry in tables.consumers()?.iter()? {
        let (name, taken) = entry?;
        if taken.value() >= next.event {
            let reason = "has taken an event that there was not yet";
            note("consumers", name.value().to_owned(), reason.to_owned())?;
        }
    }
    for entry in tables.tokens()?.iter()? {
        let (hash, row) = entry?;
        let key = hex(hash.value());
        let checked = TokenRow::decode(row.value()).in_row("tokens", &key);
        let checked = checked.and_then(|row| match row.number < next.token {
            true => Ok(()),
            false => Err(Fault::row("tokens", key, "a number not given yet")),
        });
        caught(checked, &mut note)?;
    }
    Ok(())
}

/// Notes a row that is wrong.
fn caught<T>(
    read: Result<T, Fault>,
    note: &mut impl FnMut(&'static str, String, String) -> Result<(), Fault>,
) -> Result<(), Fault> {
    match read {
        Ok(_) => Ok(()),
        Err(Fault::Row { table, key, reason }) => note(table, key, reason),
        Err(fault) => Err(fault),
    }
}

fn keys(table: &impl ReadableTable<&'static EventKey, ()>) -> Result<BTreeSet<EventKey>, Fault> {
    let rows = table.iter()?;
    rows.map(|entry| Ok(*entry?.0.value())).collect()
}
