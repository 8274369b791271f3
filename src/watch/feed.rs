//! One reader of the log for all who listen.
//!
//! Whoever is at the end of the log waits for the next event, and the first one to notice it reads it for all: the last events
//! stay in memory, bounded by their number. Whoever is further behind reads from the store by itself, in batches, and no more
//! than a few at a time do. Nothing is read while nobody listens, and nothing is skipped: cursors leave no gaps, so that events
//! which were cut off the log are noticed by whoever has not had them.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, RwLock, RwLockReadGuard, RwLockWriteGuard};

use tokio::sync::{Mutex, Semaphore, watch};

use super::error::WatchError;
use super::registry::Registry;
use super::told::told;
use crate::store::watches::{Event, WatchRow};
use crate::store::{Snapshot, Store, StoreError};
use crate::wire::native::WatchEvent;

/// Events that are kept in memory: some 8 MB with their texts.
const KEPT: usize = 8_192;
/// Events that are read at a time.
const BATCH: usize = 512;
/// Who is behind and reads from the store, at a time.
const READERS: usize = 4;

/// An event of the log, as it is told to everybody who may hear of it.
#[derive(Debug)]
pub struct Entry {
    /// Whom its watch belongs to.
    pub owner: u32,
    /// What is told.
    pub event: WatchEvent,
    text: OnceLock<Arc<str>>,
}

impl Entry {
    /// An event with its watch, if that is still there.
    pub fn new(cursor: u64, event: &Event, row: Option<&WatchRow>) -> Self {
        Self {
            owner: event.owner,
            event: told(cursor, event, row),
            text: OnceLock::new(),
        }
    }

    /// Its cursor.
    pub const fn cursor(&self) -> u64 {
        self.event.cursor
    }

    /// Its JSON, in one line, written once for all.
    ///
    /// # Errors
    /// None at present.
    pub fn text(&self) -> Result<Arc<str>, String> {
        if let Some(text) = self.text.get() {
            return Ok(Arc::clone(text));
        }
        let text = self.event.encode()?;
        Ok(Arc::clone(self.text.get_or_init(|| text.into())))
    }
}

/// Which events are listened to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Selection {
    /// Of one owner's watches; `None` for everybody's.
    pub owner: Option<u32>,
    /// Of these watches; `None` for all.
    pub watches: Option<HashSet<u64>>,
}

impl Selection {
    /// Whether an event is one of them.
    pub fn has(&self, entry: &Entry) -> bool {
        let watches = self.watches.as_ref();
        self.owner.is_none_or(|owner| owner == entry.owner)
            && watches.is_none_or(|watches| watches.contains(&entry.event.watch))
    }
}

/// Some events in a row, oldest first.
#[derive(Debug, Clone)]
pub struct Batch {
    /// Those that were selected.
    pub entries: Vec<Arc<Entry>>,
    /// The cursor up to which these are all.
    pub cursor: u64,
    /// Cursor of the oldest event that is kept; `None` if none is.
    pub first: Option<u64>,
    /// Cursor of the last event there has been when they were read.
    pub last: u64,
}

/// The log for those who listen. Clones share their reader.
#[derive(Clone)]
pub struct Feed {
    shared: Arc<Shared>,
}

struct Shared {
    store: Arc<Store>,
    /// Cursor of the last event, as it is committed.
    last: watch::Receiver<u64>,
    /// The last events, in order, without gaps.
    recent: RwLock<VecDeque<Arc<Entry>>>,
    kept: usize,
    /// Cursor up to which `recent` goes. Everybody is told too where reading failed.
    read_to: watch::Sender<u64>,
    /// Held by whoever reads for all.
    turn: Arc<Mutex<()>>,
    readers: Arc<Semaphore>,
    reads: AtomicU64,
}

impl std::fmt::Debug for Feed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Feed").finish_non_exhaustive()
    }
}

impl Feed {
    /// The log of a registry. What is in it by now is read from the store by those who ask for it.
    pub fn new(registry: &Registry) -> Self {
        Self::keeping(registry, KEPT)
    }

    fn keeping(registry: &Registry, kept: usize) -> Self {
        let last = registry.last_event();
        let read_to = watch::Sender::new(*last.borrow());
        Self {
            shared: Arc::new(Shared {
                store: Arc::clone(registry.store()),
                last,
                recent: RwLock::default(),
                kept,
                read_to,
                turn: Arc::default(),
                readers: Arc::new(Semaphore::new(READERS)),
                reads: AtomicU64::new(0),
            }),
        }
    }

    /// Cursor of the last event.
    pub fn last(&self) -> u64 {
        *self.shared.last.borrow()
    }

    /// How many times the store was read so far.
    pub fn reads(&self) -> u64 {
        self.shared.reads.load(Ordering::Relaxed)
    }

    /// Listens to the events behind a cursor. Whether these are still there shows when the first one is asked for.
    ///
    /// # Errors
    /// [`WatchError::NoEvent`] for a cursor that was not given yet.
    pub fn listen(&self, after: u64, selection: Selection) -> Result<Listener, WatchError> {
        let shared = Arc::clone(&self.shared);
        let last = self.last();
        if after > last {
            let cursor = after;
            return Err(WatchError::NoEvent { cursor, last });
        }
        Ok(Listener {
            last: shared.last.clone(),
            read_to: shared.read_to.subscribe(),
            shared,
            selection,
            cursor: after,
            ready: VecDeque::new(),
            taken: after,
        })
    }

    /// The events behind a cursor that there are by now, `most` at most, and of more than a batch of others not the rest.
    ///
    /// # Errors
    /// [`WatchError::Cut`], [`WatchError::NoEvent`], [`WatchError::Store`], [`WatchError::Unread`].
    pub async fn page(
        &self,
        after: u64,
        selection: Selection,
        most: usize,
    ) -> Result<Batch, WatchError> {
        let shared = Arc::clone(&self.shared);
        shared.behind(after, selection, most).await
    }
}

impl Shared {
    fn recent(&self) -> RwLockReadGuard<'_, VecDeque<Arc<Entry>>> {
        self.recent.read().unwrap_or_else(|held| held.into_inner())
    }

    fn recent_mut(&self) -> RwLockWriteGuard<'_, VecDeque<Arc<Entry>>> {
        self.recent.write().unwrap_or_else(|held| held.into_inner())
    }

    /// Events behind a cursor that are in memory; `None` if they begin later.
    fn remembered(&self, after: u64, selection: &Selection) -> Option<(Vec<Arc<Entry>>, u64)> {
        let recent = self.recent();
        let first = recent.front()?.cursor();
        let from = usize::try_from((after + 1).checked_sub(first)?).ok()?;
        let some = recent.iter().skip(from).take(BATCH);
        let cursor = some.clone().next_back()?.cursor();
        let entries = some.filter(|entry| selection.has(entry)).cloned();
        Some((entries.collect(), cursor))
    }

    /// Reads what has come, for all; whoever comes second has nothing to do.
    async fn read_on(self: &Arc<Self>) -> Result<(), WatchError> {
        let Ok(turn) = Arc::clone(&self.turn).try_lock_owned() else {
            return Ok(());
        };
        let shared = Arc::clone(self);
        let read = tokio::task::spawn_blocking(move || {
            let read = shared.extend();
            // Whoever finds it taken is told afterwards, also of a failure: then the next one tries.
            drop(turn);
            shared.read_to.send_modify(|read_to| {
                *read_to = (*read_to).max(*read.as_ref().unwrap_or(&0));
            });
            read.map(drop)
        });
        match read.await {
            Ok(read) => read,
            Err(error) => Err(WatchError::Unread(error.to_string())),
        }
    }

    /// Appends to what is remembered; gives the cursor up to which it goes.
    fn extend(&self) -> Result<u64, WatchError> {
        let snapshot = self.store.snapshot()?;
        let last = snapshot.last_event()?;
        // More than is told of, where reading failed halfway or is told of by another one in a moment.
        let back = self.recent().back().map_or(0, |entry| entry.cursor());
        let mut read_to = back.max(*self.read_to.borrow());
        // What would be forgotten at once is not read at all.
        read_to = read_to.max(last.saturating_sub(self.kept as u64));
        while read_to < last {
            self.reads.fetch_add(1, Ordering::Relaxed);
            let entries = entries(&snapshot, read_to, BATCH)?;
            // All of a batch that is empty were cut off meanwhile.
            read_to = entries.last().map_or(last, Entry::cursor);
            let mut recent = self.recent_mut();
            for entry in entries {
                let before = recent.back().map(|entry| entry.cursor());
                if before.is_some_and(|before| before + 1 != entry.cursor()) {
                    recent.clear();
                }
                recent.push_back(Arc::new(entry));
            }
            let over = recent.len().saturating_sub(self.kept);
            recent.drain(..over);
        }
        Ok(read_to)
    }

    /// Reads events behind a cursor from the store, when it is one's turn.
    async fn behind(
        self: Arc<Self>,
        after: u64,
        selection: Selection,
        most: usize,
    ) -> Result<Batch, WatchError> {
        let unread = |error: &dyn std::fmt::Display| WatchError::Unread(error.to_string());
        let permit = Arc::clone(&self.readers).acquire_owned().await;
        let permit = permit.map_err(|error| unread(&error))?;
        let read = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            self.reads.fetch_add(1, Ordering::Relaxed);
            batch(&self.store.snapshot()?, after, &selection, most)
        });
        read.await.map_err(|error| unread(&error))?
    }
}

/// Events behind a cursor with their watches.
fn entries(snapshot: &Snapshot, after: u64, most: usize) -> Result<Vec<Entry>, StoreError> {
    let events = snapshot.events_after(after, most)?;
    let mut rows: HashMap<u64, Option<WatchRow>> = HashMap::new();
    let mut entries = Vec::with_capacity(events.len());
    for (cursor, event) in events {
        let row = match rows.entry(event.watch) {
            std::collections::hash_map::Entry::Occupied(row) => row.into_mut(),
            std::collections::hash_map::Entry::Vacant(row) => {
                row.insert(snapshot.watch(event.watch)?)
            }
        };
        entries.push(Entry::new(cursor, &event, row.as_ref()));
    }
    Ok(entries)
}

/// Events behind a cursor of a snapshot, checked to be all.
fn batch(
    snapshot: &Snapshot,
    after: u64,
    selection: &Selection,
    most: usize,
) -> Result<Batch, WatchError> {
    let last = snapshot.last_event()?;
    let first = snapshot.first_event()?;
    if after > last {
        let cursor = after;
        return Err(WatchError::NoEvent { cursor, last });
    }
    let read = entries(snapshot, after, most)?;
    let mut cursor = after;
    for entry in &read {
        if entry.cursor() != cursor + 1 {
            // What comes before the gap is good.
            if cursor > after {
                break;
            }
            let first = entry.cursor();
            return Err(WatchError::Cut { after, first });
        }
        cursor = entry.cursor();
    }
    if read.is_empty() && after < last {
        let first = last + 1;
        return Err(WatchError::Cut { after, first });
    }
    let good = read.into_iter().filter(|entry| entry.cursor() <= cursor);
    let entries = good.filter(|entry| selection.has(entry)).map(Arc::new);
    Ok(Batch {
        entries: entries.collect(),
        cursor,
        first,
        last,
    })
}

/// Somebody who listens to the log.
pub struct Listener {
    shared: Arc<Shared>,
    last: watch::Receiver<u64>,
    read_to: watch::Receiver<u64>,
    selection: Selection,
    /// Up to which the log was looked at.
    cursor: u64,
    ready: VecDeque<Arc<Entry>>,
    /// Of the last event that was given out.
    taken: u64,
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listener")
            .field("selection", &self.selection)
            .field("cursor", &self.cursor())
            .finish_non_exhaustive()
    }
}

impl Listener {
    /// The next event; waits for it if there is none yet. Whoever stops waiting loses nothing.
    ///
    /// # Errors
    /// [`WatchError::Cut`] if events were cut off the log that this listener has not had; [`WatchError::Store`] and
    /// [`WatchError::Unread`].
    pub async fn next(&mut self) -> Result<Arc<Entry>, WatchError> {
        loop {
            if let Some(entry) = self.ready.pop_front() {
                self.taken = entry.cursor();
                return Ok(entry);
            }
            self.look().await?;
        }
    }

    /// The next event if it is there already, without waiting for more than the store.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub async fn ready(&mut self) -> Result<Option<Arc<Entry>>, WatchError> {
        while self.ready.is_empty() && self.cursor < *self.last.borrow() {
            self.look().await?;
        }
        let entry = self.ready.pop_front();
        if let Some(entry) = &entry {
            self.taken = entry.cursor();
        }
        Ok(entry)
    }

    /// The cursor that whoever has taken all events so far goes on from: that of the last one, or of one behind it that was not
    /// selected.
    pub fn cursor(&self) -> u64 {
        match self.ready.is_empty() {
            true => self.cursor,
            false => self.taken,
        }
    }

    /// Looks for more, or waits until there may be.
    async fn look(&mut self) -> Result<(), WatchError> {
        let read_to = *self.read_to.borrow_and_update();
        if self.cursor < read_to {
            let remembered = self.shared.remembered(self.cursor, &self.selection);
            let (entries, cursor) = match remembered {
                Some(remembered) => remembered,
                None => {
                    let shared = Arc::clone(&self.shared);
                    let selection = self.selection.clone();
                    let batch = shared.behind(self.cursor, selection, BATCH).await?;
                    (batch.entries, batch.cursor)
                }
            };
            self.cursor = cursor;
            self.ready.extend(entries);
            return Ok(());
        }
        let last = *self.last.borrow_and_update();
        if read_to < last {
            self.shared.read_on().await?;
            // If somebody else reads, it tells when it is done.
            if *self.read_to.borrow() == read_to {
                let _ = self.read_to.changed().await;
            }
            return Ok(());
        }
        // The senders live as long as what is shared.
        tokio::select! {
            _ = self.last.changed() => {}
            _ = self.read_to.changed() => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
