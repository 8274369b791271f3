//! What is watched: who follows it, who reads the log, and what may be cut off it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bitcoin::OutPoint;
use tokio::sync::watch;

use super::catch_up::catch_up;
use super::error::WatchError;
use super::follower::Follower;
use super::pass::Move;
use crate::store::watches::{Event, TokenRow, WatchLog, WatchRow};
use crate::store::{Snapshot, Store, StoreError};

/// Events that one commit cuts off the log.
const CUT_ROWS: usize = 100_000;

/// What is watched in an index, and the log.
///
/// As long as it lives, and as long as the store does, every update of the chain is followed.
#[derive(Clone)]
pub struct Registry {
    pub(super) store: Arc<Store>,
    pub(super) follower: Arc<Follower>,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry").finish_non_exhaustive()
    }
}

impl Registry {
    /// Reads what is watched in an index, catches up with what the index has gone through without it, and follows it from then
    /// on.
    ///
    /// Catching up is done by the index alone: what it cannot know of the blocks since is unknown from then on
    /// ([`WatchRow::unknown_below`]).
    ///
    /// # Errors
    /// [`WatchError::Attached`]; [`WatchError::Store`].
    pub fn attach(store: Arc<Store>) -> Result<Self, WatchError> {
        let snapshot = store.snapshot()?;
        let is_unused = snapshot.watches(0, 1)?.is_empty() && snapshot.last_event()? == 0;
        if is_unused {
            let follower = Arc::new(Follower::load(&snapshot)?);
            return match store.set_watcher(Arc::clone(&follower) as _) {
                true => Ok(Self { store, follower }),
                false => Err(WatchError::Attached),
            };
        }
        drop(snapshot);
        let follower = store.write_watches(|snapshot, log| {
            let follower = Arc::new(Follower::load(snapshot)?);
            let moves = catch_up(&follower, snapshot, log)?;
            let next = log.next_cursor();
            let committed = Arc::clone(&follower).committed(moves, HashMap::new(), next);
            let (store, watcher) = (Arc::clone(&store), Arc::clone(&follower));
            let is_first = Arc::new(AtomicBool::new(false));
            let told = Arc::clone(&is_first);
            let attach = Box::new(move || {
                committed();
                if store.set_watcher(watcher) {
                    told.store(true, Ordering::Release);
                }
            });
            Ok::<_, WatchError>(((follower, is_first), attach as _))
        });
        let (follower, is_first) = follower?;
        match is_first.load(Ordering::Acquire) {
            true => Ok(Self { store, follower }),
            false => Err(WatchError::Attached),
        }
    }

    /// The index.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// Cursor of the last event, as it changes: events up to it are there for whoever takes a snapshot then.
    pub fn last_event(&self) -> watch::Receiver<u64> {
        self.follower.last_event()
    }

    /// Removes watches in one commit; says of each whether it was there. An `owner` removes none but its own. What is in the log
    /// stays there, and what a reorganisation makes untrue of it is still said.
    ///
    /// # Errors
    /// [`WatchError::Store`].
    pub fn remove(&self, owner: Option<u32>, watches: &[u64]) -> Result<Vec<bool>, WatchError> {
        self.store.write_watches(|_, log| {
            let mut moves = Vec::new();
            let mut owners: HashMap<u32, i64> = HashMap::new();
            let mut removed = Vec::with_capacity(watches.len());
            for &watch in watches {
                let row = log.watch(watch)?;
                let row = row.filter(|row| owner.is_none_or(|owner| row.owner == owner));
                removed.push(row.is_some());
                let Some(row) = row else { continue };
                log.remove(watch)?;
                *owners.entry(row.owner).or_default() -= 1;
                moves.push(Move {
                    watch,
                    from: Some(row.tip),
                    to: None,
                });
            }
            let follower = Arc::clone(&self.follower);
            let committed = follower.committed(moves, owners, log.next_cursor());
            Ok((removed, committed))
        })
    }

    /// The watches that wait for the spend of an outpoint now, ascending by number.
    ///
    /// # Errors
    /// [`WatchError::Store`].
    pub fn waiting_for(&self, outpoint: &OutPoint) -> Result<Vec<(u64, WatchRow)>, WatchError> {
        let candidates = self.follower.candidates(outpoint);
        if candidates.is_empty() {
            return Ok(Vec::new());
        }
        let snapshot = self.store.snapshot()?;
        let mut waiting = Vec::with_capacity(candidates.len());
        for watch in candidates {
            let row = snapshot.watch(watch)?;
            let row = row.filter(|row| !row.is_over && row.tip == *outpoint);
            waiting.extend(row.map(|row| (watch, row)));
        }
        Ok(waiting)
    }

    /// How many watches wait for something.
    pub fn waiting(&self) -> usize {
        self.follower.watched().tips.len()
    }

    /// How many watches an owner has.
    pub fn watch_count(&self, owner: u32) -> u64 {
        let watched = self.follower.watched();
        watched.owners.get(&owner).copied().unwrap_or_default()
    }

    /// Appends events that come of no block, in a commit of their own; gives their cursors. `events` is asked with the writer's
    /// place held: what it sees of the index is as it is when they are appended.
    ///
    /// # Errors
    /// What `events` returns.
    pub fn append(
        &self,
        events: impl FnOnce(&Snapshot) -> Result<Vec<Event>, WatchError>,
    ) -> Result<Vec<u64>, WatchError> {
        self.write(|snapshot, log| {
            let events = events(snapshot)?;
            let cursors = events.iter().map(|event| log.append(event));
            Ok(cursors.collect::<Result<Vec<_>, StoreError>>()?)
        })
    }

    /// Notes that a consumer has taken all events up to a cursor, and the consumer if it is new. From then on nothing behind that
    /// is cut off the log.
    ///
    /// # Errors
    /// [`WatchError::NoEvent`]; [`WatchError::Store`].
    pub fn take(&self, consumer: &str, cursor: u64) -> Result<(), WatchError> {
        self.write(|_, log| {
            let last = log.next_cursor().saturating_sub(1);
            if cursor > last {
                return Err(WatchError::NoEvent { cursor, last });
            }
            Ok(log.put_consumer(consumer, cursor)?)
        })
    }

    /// Forgets a consumer; `false` if there is none of that name.
    ///
    /// # Errors
    /// [`WatchError::Store`].
    pub fn forget(&self, consumer: &str) -> Result<bool, WatchError> {
        self.write(|_, log| Ok(log.remove_consumer(consumer)?))
    }

    /// Cuts the events before a cursor off the log, as far as every consumer has taken them and no reorganisation can make them
    /// untrue, and up to the first spend that a [`MempoolWatch`](super::MempoolWatch) still sees waiting; gives the cursor of the first
    /// one that is left, or of the next one there will be.
    ///
    /// # Errors
    /// [`WatchError::Store`].
    pub fn cut(&self, before: u64) -> Result<u64, WatchError> {
        let horizon = self.store.horizon();
        loop {
            let (first, is_done) = self.write(|snapshot, log| {
                let tip = snapshot.tip().map_or(0, |tip| tip.height);
                let from = tip.saturating_sub(horizon);
                let before = before.min(self.follower.held_from());
                let first = log.cut(before, from, CUT_ROWS)?;
                // Cursors leave no gaps.
                let was = snapshot.first_event()?.unwrap_or(first);
                Ok((first, first.saturating_sub(was) < CUT_ROWS as u64))
            })?;
            if is_done {
                return Ok(first);
            }
        }
    }

    /// Adds a token under its SHA-256, or changes what it allows; gives its number. It owns watches by that, unless the row says for whom it is.
    ///
    /// # Errors
    /// [`WatchError::Store`].
    pub fn put_token(&self, hash: &[u8; 32], row: &TokenRow) -> Result<u32, WatchError> {
        self.write(|_, log| Ok(log.put_token(hash, row)?))
    }

    /// Revokes a token; `false` if there is none. Its watches stay.
    ///
    /// # Errors
    /// [`WatchError::Store`].
    pub fn revoke_token(&self, hash: &[u8; 32]) -> Result<bool, WatchError> {
        self.write(|_, log| Ok(log.remove_token(hash)?))
    }

    /// Revokes the token of a number; `false` if there is none. Its watches stay.
    ///
    /// # Errors
    /// [`WatchError::Store`].
    pub fn revoke_token_of(&self, number: u32) -> Result<bool, WatchError> {
        self.write(|snapshot, log| {
            let tokens = snapshot.tokens()?;
            let token = tokens.iter().find(|(_, row)| row.number == number);
            match token {
                Some((hash, _)) => Ok(log.remove_token(hash)?),
                None => Ok(false),
            }
        })
    }

    /// A change after which everybody waits for what they waited for.
    fn write<T>(
        &self,
        change: impl FnOnce(&Snapshot, &mut WatchLog<'_>) -> Result<T, WatchError>,
    ) -> Result<T, WatchError> {
        self.store.write_watches(|snapshot, log| {
            let value = change(snapshot, log)?;
            let follower = Arc::clone(&self.follower);
            let committed = follower.committed(Vec::new(), HashMap::new(), log.next_cursor());
            Ok((value, committed))
        })
    }
}
