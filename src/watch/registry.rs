//! What is watched: registered, removed, listed; who reads the log, and what may be cut off it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bitcoin::OutPoint;
use rayon::prelude::*;
use tokio::sync::watch;

use super::follower::Follower;
use super::lineage::{Lineage, Looked};
use super::pass::{Move, Pass};
use crate::BlockId;
use crate::store::watches::{
    Committed, Event, Subject, TAG_BYTES_MAX, TokenRow, WatchLog, WatchRow,
};
use crate::store::{Snapshot, Store, StoreError};

/// Most watches of one registration.
pub const REGISTER_MAX: usize = 100_000;

/// Most spends that one registration may find by looking back: some 200 MB of memory while it is at work.
pub const STEPS_MAX: u64 = 1_000_000;

/// Watches that are followed at a time between two looks at [`STEPS_MAX`].
const LOOK_ROWS: usize = 1_024;

/// Events that one commit cuts off the log.
const CUT_ROWS: usize = 100_000;

/// Looks back that a reorganisation has overtaken, before one is done with the writer's place held.
const LOOKS: usize = 3;

/// Why watches cannot be registered, or the log not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WatchError {
    /// The index file failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store has a registry already.
    #[error("there is a registry of this index already")]
    Attached,
    /// More watches than one registration takes.
    #[error("{found} watches in one registration: register {REGISTER_MAX} at most at a time")]
    TooMany {
        /// Their number.
        found: usize,
    },
    /// More watches than an owner may have.
    #[error("{found} watches, and {most} are allowed: remove some that are over")]
    Limit {
        /// How many there would be.
        found: u64,
        /// How many there may be.
        most: u64,
    },
    /// A tag that is too long.
    #[error("the tag of {outpoint} has {bytes} bytes: {TAG_BYTES_MAX} are allowed")]
    Tag {
        /// The outpoint.
        outpoint: OutPoint,
        /// Bytes of its tag.
        bytes: usize,
    },
    /// The outpoint is watched already in another way.
    #[error(
        "{outpoint} is watched already, as number {watch}, in another way: remove that watch first"
    )]
    Otherwise {
        /// The outpoint.
        outpoint: OutPoint,
        /// The watch that there is.
        watch: u64,
    },
    /// An outpoint twice in one registration, in two ways.
    #[error("{outpoint} stands twice in this registration, in two ways: choose one")]
    Twice {
        /// The outpoint.
        outpoint: OutPoint,
    },
    /// More was found by looking back than one registration may write.
    #[error("more than {STEPS_MAX} spends were found by looking back: register fewer at a time")]
    TooManySteps,
    /// A cursor beyond the end of the log.
    #[error("there is no event {cursor} yet: the last one is {last}")]
    NoEvent {
        /// The cursor.
        cursor: u64,
        /// Cursor of the last event.
        last: u64,
    },
}

/// A watch to be registered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewWatch {
    /// What is watched.
    pub subject: Subject,
    /// The outpoint that it starts from.
    pub outpoint: OutPoint,
    /// Height of the block that created it, if the caller knows: then a taproot output is found spent also where the spender
    /// carries no state id.
    pub created: Option<u32>,
    /// After how many confirmations a spend is called deep; 0 for never.
    pub confirmations: u32,
    /// The caller's own name for it.
    pub tag: Vec<u8>,
}

/// What became of a [`NewWatch`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Registered {
    /// Number of the watch.
    pub watch: u64,
    /// Whether it is new: otherwise the owner had the same one already.
    pub is_new: bool,
}

/// What is watched in an index, and the log.
///
/// As long as it lives, and as long as the store does, every update of the chain is followed.
#[derive(Clone)]
pub struct Registry {
    store: Arc<Store>,
    follower: Arc<Follower>,
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
            let is_first = Arc::new(AtomicU64::new(0));
            let told = Arc::clone(&is_first);
            let attach = Box::new(move || {
                committed();
                if store.set_watcher(watcher) {
                    told.store(1, Ordering::Release);
                }
            });
            Ok::<_, WatchError>(((follower, is_first), attach as _))
        });
        let (follower, is_first) = follower?;
        match is_first.load(Ordering::Acquire) {
            0 => Err(WatchError::Attached),
            _ => Ok(Self { store, follower }),
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

    /// Registers watches in one commit, all of them or none, and gives what became of each. An owner has one watch of an outpoint
    /// at most; asking for the same one again gives that.
    ///
    /// What was spent before is followed to the tip first, from the index alone, while blocks go on coming; `progress` hears of
    /// it from several threads. From the block above [`WatchRow::unknown_below`] on, or from the first one there is, nothing
    /// is missed. Events of the past stand in the log by watch, in the order asked for, and each watch's in the order of the
    /// chain.
    ///
    /// # Errors
    /// [`WatchError`]; nothing was registered then.
    pub fn register(
        &self,
        owner: u32,
        most: u64,
        watches: &[NewWatch],
        progress: impl Fn(Looked) + Sync,
    ) -> Result<Vec<Registered>, WatchError> {
        check(watches)?;
        for _ in 0..LOOKS {
            let snapshot = self.store.snapshot()?;
            let lineages = look_back(&snapshot, owner, watches, &progress)?;
            let seen = snapshot.tip();
            drop(snapshot);
            if let Some(registered) = self.add(owner, most, watches, Some((seen, lineages)))? {
                return Ok(registered);
            }
        }
        let registered = self.add(owner, most, watches, None)?;
        Ok(registered.unwrap_or_default())
    }

    /// Adds watches that were followed up to a block; `None` if that is no longer in the chain. Without lineages they are followed
    /// here.
    fn add(
        &self,
        owner: u32,
        most: u64,
        watches: &[NewWatch],
        looked: Option<(Option<BlockId>, Vec<Option<Lineage>>)>,
    ) -> Result<Option<Vec<Registered>>, WatchError> {
        self.store.write_watches(|snapshot, log| {
            let mut lineages = match looked {
                Some((seen, _)) if !is_in_chain(snapshot, seen)? => {
                    return Ok((None, Box::new(|| ()) as Committed));
                }
                Some((seen, mut lineages)) => {
                    if seen != snapshot.tip() {
                        for lineage in lineages.iter_mut().flatten() {
                            lineage.follow(snapshot)?;
                        }
                    }
                    lineages
                }
                None => look_back(snapshot, owner, watches, &|_| ())?,
            };
            let known = watches
                .iter()
                .map(|new| known(log, owner, new))
                .collect::<Result<Vec<_>, WatchError>>()?;
            let watched = self.follower.watched();
            let mut pass = Pass::new(&watched.tips, log);
            let mut registered = Vec::with_capacity(watches.len());
            let mut new_ones: HashMap<OutPoint, u64> = HashMap::new();
            for ((new, known), lineage) in watches.iter().zip(known).zip(&mut lineages) {
                let known = known.or_else(|| new_ones.get(&new.outpoint).copied());
                if let Some(watch) = known {
                    let is_new = false;
                    registered.push(Registered { watch, is_new });
                    continue;
                }
                let Lineage { row, steps, .. } = match lineage.take() {
                    Some(lineage) => lineage,
                    // It was there a moment ago, and was removed since.
                    None => followed(snapshot, owner, new)?,
                };
                let watch = pass.add(steps, row)?;
                new_ones.insert(new.outpoint, watch);
                let is_new = true;
                registered.push(Registered { watch, is_new });
            }
            let added = new_ones.len() as u64;
            let found = watched.owners.get(&owner).copied().unwrap_or_default() + added;
            if found > most && added > 0 {
                return Err(WatchError::Limit { found, most });
            }
            if let Some(tip) = snapshot.tip() {
                pass.deepen(tip)?;
            }
            let moves = pass.finish()?;
            let next_cursor = log.next_cursor();
            drop(watched);
            let owners = HashMap::from([(owner, i64::try_from(added).unwrap_or(i64::MAX))]);
            let follower = Arc::clone(&self.follower);
            let committed = follower.committed(moves, owners, next_cursor);
            Ok((Some(registered), committed))
        })
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
    /// untrue; gives the cursor of the first one that is left, or of the next one there will be.
    ///
    /// # Errors
    /// [`WatchError::Store`].
    pub fn cut(&self, before: u64) -> Result<u64, WatchError> {
        let horizon = self.store.horizon();
        loop {
            let (first, is_done) = self.write(|snapshot, log| {
                let tip = snapshot.tip().map_or(0, |tip| tip.height);
                let from = tip.saturating_sub(horizon);
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

    /// Adds a token under its SHA-256, or changes what it allows; gives its number, by which it owns watches.
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

/// The watch that there is already in the place of a new one.
fn known(log: &WatchLog<'_>, owner: u32, new: &NewWatch) -> Result<Option<u64>, WatchError> {
    let Some(watch) = log.watch_of(owner, &new.outpoint)? else {
        return Ok(None);
    };
    let row = log.watch(watch)?;
    let is_same =
        row.is_none_or(|row| (row.subject, row.confirmations) == (new.subject, new.confirmations));
    let outpoint = new.outpoint;
    match is_same {
        true => Ok(Some(watch)),
        false => Err(WatchError::Otherwise { outpoint, watch }),
    }
}

/// What can be said of a registration without looking anything up.
fn check(watches: &[NewWatch]) -> Result<(), WatchError> {
    if watches.len() > REGISTER_MAX {
        let found = watches.len();
        return Err(WatchError::TooMany { found });
    }
    let mut seen: HashMap<OutPoint, (Subject, u32)> = HashMap::with_capacity(watches.len());
    for new in watches {
        let outpoint = new.outpoint;
        if new.tag.len() > TAG_BYTES_MAX {
            let bytes = new.tag.len();
            return Err(WatchError::Tag { outpoint, bytes });
        }
        let way = (new.subject, new.confirmations);
        if *seen.entry(outpoint).or_insert(way) != way {
            return Err(WatchError::Twice { outpoint });
        }
    }
    Ok(())
}

/// Follows new watches to the snapshot's tip; none for those that there are already.
fn look_back(
    snapshot: &Snapshot,
    owner: u32,
    watches: &[NewWatch],
    progress: &(impl Fn(Looked) + Sync),
) -> Result<Vec<Option<Lineage>>, WatchError> {
    let (looked, steps) = (AtomicU64::new(0), AtomicU64::new(0));
    let of = watches.len() as u64;
    let mut lineages = Vec::with_capacity(watches.len());
    for some in watches.chunks(LOOK_ROWS) {
        let some = some.par_iter().map(|new| {
            let lineage = match snapshot.watch_of(owner, &new.outpoint)? {
                Some(_) => None,
                None => Some(followed(snapshot, owner, new)?),
            };
            let found = lineage.as_ref().map_or(0, |lineage| lineage.steps.len());
            let steps = steps.fetch_add(found as u64, Ordering::Relaxed) + found as u64;
            let watches = looked.fetch_add(1, Ordering::Relaxed) + 1;
            progress(Looked { watches, of, steps });
            Ok::<_, WatchError>(lineage)
        });
        lineages.extend(some.collect::<Result<Vec<_>, _>>()?);
        if steps.load(Ordering::Relaxed) > STEPS_MAX {
            return Err(WatchError::TooManySteps);
        }
    }
    Ok(lineages)
}

/// A new watch, followed to the snapshot's tip.
fn followed(snapshot: &Snapshot, owner: u32, new: &NewWatch) -> Result<Lineage, StoreError> {
    let row = WatchRow {
        owner,
        subject: new.subject,
        start: new.outpoint,
        tip: new.outpoint,
        is_over: false,
        confirmations: new.confirmations,
        unknown_below: 0,
        steps: 0,
        tag: new.tag.clone(),
    };
    let mut lineage = Lineage::new(row, new.created);
    lineage.follow(snapshot)?;
    Ok(lineage)
}

fn is_in_chain(snapshot: &Snapshot, block: Option<BlockId>) -> Result<bool, StoreError> {
    let Some(block) = block else {
        return Ok(true);
    };
    let own = snapshot.block(block.height)?;
    Ok(own.is_some_and(|own| own.id() == block))
}

/// Brings the log to the snapshot's tip, where updates have gone by that nobody followed: what blocks said that are no longer in
/// the chain is taken back, and everybody who waits is followed from there.
fn catch_up(
    follower: &Follower,
    snapshot: &Snapshot,
    log: &mut WatchLog<'_>,
) -> Result<Vec<Move>, WatchError> {
    let watched = follower.watched();
    let is_there = snapshot.watched_to()? == snapshot.tip();
    if is_there || (watched.owners.is_empty() && log.next_cursor() == 1) {
        return Ok(Vec::new());
    }
    let mut moves = Vec::new();
    while let Some(block) = log.last_block()? {
        if is_in_chain(snapshot, Some(block))? {
            break;
        }
        let mut pass = Pass::new(&watched.tips, log);
        pass.disconnect(block.height)?;
        moves.extend(pass.finish()?);
    }
    let mut from = 0;
    loop {
        let rows = log.watches(from, LOOK_ROWS)?;
        let Some((last, _)) = rows.last() else { break };
        from = last.saturating_add(1);
        let mut pass = Pass::new(&watched.tips, log);
        for (watch, row) in rows {
            if row.is_over {
                continue;
            }
            let mut lineage = Lineage::new(row, None);
            lineage.follow(snapshot)?;
            pass.follow(watch, lineage.steps, lineage.row)?;
        }
        moves.extend(pass.finish()?);
    }
    let mut pass = Pass::new(&watched.tips, log);
    if let Some(tip) = snapshot.tip() {
        pass.deepen(tip)?;
    }
    moves.extend(pass.finish()?);
    Ok(moves)
}
