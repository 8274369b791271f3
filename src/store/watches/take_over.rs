//! Watches and events of one file, taken over by another.

use redb::{Durability, ReadableTable};

use super::check::Standing;
use super::event::Event;
use super::log::Counters;
use super::read::watched_to;
use super::row::{TokenRow, WatchRow, start_key};
use super::{CONSUMERS, DEEP_DUE, EVENT_BLOCKS, EVENTS, TOKENS, WATCH_STARTS, WATCHED_TO, WATCHES};
use crate::store::Store;
use crate::store::error::{Fault, StoreError};
use crate::store::schema::META;
use crate::store::view::{View, Watching};

/// What was taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TakenOver {
    /// Number of watches.
    pub watches: u64,
    /// Number of events.
    pub events: u64,
    /// Number of rows that were left out, as they are none.
    pub left_out: u64,
}

impl Store {
    /// Takes over what another file watches, with its log; this one must watch nothing yet. Rows that are none are left out, and
    /// what leads to the others is written anew. The log goes up to the block that it went to: if that is not this one's tip,
    /// whoever keeps the log has to catch up.
    ///
    /// # Errors
    /// As [`apply`](Self::apply); a file that cannot be read.
    pub fn take_over_watches(&self, old: &Self) -> Result<TakenOver, StoreError> {
        let from = old.view().map_err(|fault| fault.in_file(&old.file))?;
        let mut writer = self.writer()?;
        let told = |fault: Fault| fault.in_file(&self.file);
        let database = self.database.read().map_err(|_| self.halted())?;
        let _writing = self.start_writing()?;
        let mut write = database.begin_write().map_err(|error| told(error.into()))?;
        let written = copy(&from, &mut write).map_err(|fault| fault.in_file(&old.file))?;
        if let Err(error) = write.commit() {
            writer.halted = true;
            return Err(told(error.into()));
        }
        Ok(written)
    }
}

fn copy(from: &View, write: &mut redb::WriteTransaction) -> Result<TakenOver, Fault> {
    write.set_durability(Durability::Immediate)?;
    write.set_quick_repair(true);
    let old = from.watching();
    let mut taken = TakenOver::default();
    // Where the counters are lost, whatever is there was given.
    let mut next = Counters::read(old.meta()?).unwrap_or(Counters::START);
    copy_watches(old, write, &mut next, &mut taken)?;
    copy_events(old, write, &mut next, &mut taken)?;
    let mut tokens = write.open_table(TOKENS)?;
    for entry in old.tokens()?.iter()? {
        let (hash, row) = entry?;
        match TokenRow::decode(row.value()) {
            Ok(token) => {
                tokens.insert(hash.value(), row.value())?;
                next.token = next.token.max(token.number.saturating_add(1));
            }
            Err(_) => taken.left_out += 1,
        }
    }
    let mut consumers = write.open_table(CONSUMERS)?;
    for entry in old.consumers()?.iter()? {
        let (name, read) = entry?;
        let read = read.value().min(next.event.saturating_sub(1));
        consumers.insert(name.value(), read)?;
    }
    let mut meta = write.open_table(META)?;
    next.write(&mut meta, Counters::START)?;
    if watched_to(from).is_ok()
        && let Some(block) = old.meta()?.get(WATCHED_TO)?
    {
        meta.insert(WATCHED_TO, block.value())?;
    }
    Ok(taken)
}

fn copy_watches(
    old: &Watching,
    write: &redb::WriteTransaction,
    next: &mut Counters,
    taken: &mut TakenOver,
) -> Result<(), Fault> {
    let mut watches = write.open_table(WATCHES)?;
    let mut starts = write.open_table(WATCH_STARTS)?;
    for entry in old.watches()?.iter()? {
        let (number, row) = entry?;
        let number = number.value();
        let decoded = WatchRow::decode(row.value()).ok();
        let key = decoded.map(|watch| start_key(watch.owner, &watch.start));
        match key {
            Some(key) if starts.get(&key)?.is_none() => {
                watches.insert(number, row.value())?;
                starts.insert(&key, number)?;
                next.watch = next.watch.max(number.saturating_add(1));
                taken.watches += 1;
            }
            _ => taken.left_out += 1,
        }
    }
    Ok(())
}

fn copy_events(
    old: &Watching,
    write: &redb::WriteTransaction,
    next: &mut Counters,
    taken: &mut TakenOver,
) -> Result<(), Fault> {
    let mut events = write.open_table(EVENTS)?;
    let mut standing = Standing::default();
    for entry in old.events()?.iter()? {
        let (cursor, row) = entry?;
        let cursor = cursor.value();
        match Event::decode(row.value()) {
            Ok(event) if event.of().is_none_or(|of| of < cursor) => {
                events.insert(cursor, row.value())?;
                standing.add(cursor, &event);
                next.event = next.event.max(cursor.saturating_add(1));
                next.watch = next.watch.max(event.watch.saturating_add(1));
                taken.events += 1;
            }
            _ => taken.left_out += 1,
        }
    }
    let mut blocks = write.open_table(EVENT_BLOCKS)?;
    for key in &standing.blocks {
        blocks.insert(key, ())?;
    }
    let mut due = write.open_table(DEEP_DUE)?;
    for key in &standing.due {
        due.insert(key, ())?;
    }
    Ok(())
}
