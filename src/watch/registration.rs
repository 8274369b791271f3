//! Watches that come: each is followed through the past before it is followed through what comes.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bitcoin::OutPoint;
use rayon::prelude::*;

use super::catch_up::is_in_chain;
use super::error::WatchError;
use super::lineage::{Lineage, Looked};
use super::pass::Pass;
use super::registry::Registry;
use crate::BlockId;
use crate::store::watches::{Committed, Subject, TAG_BYTES_MAX, WatchLog, WatchRow};
use crate::store::{Snapshot, StoreError};

/// Most watches of one registration.
pub const REGISTER_MAX: usize = 100_000;

/// Most spends that one registration may find by looking back: some 200 MB of memory while it is at work.
pub const STEPS_MAX: u64 = 1_000_000;

/// Watches that are followed at a time between two looks at [`STEPS_MAX`].
const LOOK_ROWS: usize = 1_024;

/// Looks back that a reorganisation has overtaken, before one is done with the writer's place held.
const LOOKS: usize = 3;

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

impl Registry {
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
