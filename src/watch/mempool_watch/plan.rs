//! What there is to be said of watches, given the log, the index and what waits: the log is to say what is true.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use bitcoin::{OutPoint, Txid};

use super::open::{OpenSeen, OpenSeens};
use crate::BlockId;
use crate::mempool::{Departure, Mempool, Progress, Unconfirmed};
use crate::store::watches::{Event, Gone, Happening, Seen, WatchRow};
use crate::store::{Snapshot, StoreError};
use crate::watch::catch_up::is_in_chain;
use crate::watch::pass::{Stride, stride};

/// Most steps of one watch that are seen ahead of its tip: more than a node lets build on each other.
const STEPS_AHEAD: usize = 1_000;

/// What waits, as far as it is asked for here.
pub(super) trait Unconfirmeds {
    fn spender(&self, outpoint: &OutPoint) -> Option<Arc<Unconfirmed>>;
    fn has(&self, txid: &Txid) -> bool;
    fn departure(&self, txid: &Txid) -> Option<Departure>;
    /// Whether what is not here is not with the node either.
    fn is_whole(&self) -> bool;
}

impl Unconfirmeds for Mempool {
    fn spender(&self, outpoint: &OutPoint) -> Option<Arc<Unconfirmed>> {
        Mempool::spender(self, outpoint)
    }

    fn has(&self, txid: &Txid) -> bool {
        self.transaction(txid).is_some()
    }

    fn departure(&self, txid: &Txid) -> Option<Departure> {
        Mempool::departure(self, txid)
    }

    fn is_whole(&self) -> bool {
        let status = self.status();
        status.progress == Progress::Following && status.not_held == 0
    }
}

/// What is to be done.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// To be appended, in this order.
    pub(super) events: Vec<Event>,
    /// Of which nothing is to be said any more.
    pub(super) dropped: Vec<u64>,
    /// Watches of which something cannot be said yet.
    pub(super) unclear: BTreeSet<u64>,
    /// Outpoints that would make it clear, if the node has them unspent in its chain.
    pub(super) asked: BTreeSet<OutPoint>,
}

/// What became of a spend that was seen.
#[derive(Debug, Clone)]
enum Fate {
    /// It waits.
    Waits,
    /// It does not, and why is not known yet.
    Unclear,
    /// Nothing is to be said of it.
    Dropped,
    Replaced(Option<Txid>),
    Evicted(Gone),
    Conflict(Txid),
}

/// Makes plans.
pub(super) struct Planner<'p, U> {
    pub(super) snapshot: &'p Snapshot,
    /// The log, read as far as the snapshot has it.
    pub(super) open: &'p OpenSeens,
    pub(super) unconfirmed: &'p U,
    /// Outpoints that the node had unspent in its chain a moment ago.
    pub(super) unspent: &'p HashSet<OutPoint>,
}

impl<U: Unconfirmeds> Planner<'_, U> {
    /// Looks at some watches.
    pub(super) fn plan(&self, watches: &BTreeSet<u64>) -> Result<Plan, StoreError> {
        let mut plan = Plan::default();
        for &watch in watches {
            match self.snapshot.watch(watch)? {
                Some(row) => self.look(watch, &row, &mut plan)?,
                // It was removed.
                None => plan
                    .dropped
                    .extend(self.open.of_watch(watch).map(|of| of.0)),
            }
        }
        Ok(plan)
    }

    fn look(&self, watch: u64, row: &WatchRow, plan: &mut Plan) -> Result<(), StoreError> {
        let owner = row.owner;
        let fates = self.fates(watch, row, plan)?;
        for (of, (_, fate)) in &fates {
            let of = *of;
            let what = match *fate {
                Fate::Waits => continue,
                Fate::Unclear => {
                    plan.unclear.insert(watch);
                    continue;
                }
                Fate::Dropped => {
                    plan.dropped.push(of);
                    continue;
                }
                Fate::Replaced(by) => Happening::Replaced { of, by },
                Fate::Evicted(why) => Happening::Evicted { of, why },
                Fate::Conflict(by) => Happening::Conflict { of, by },
            };
            plan.events.push(Event { watch, owner, what });
        }
        let is_said = |txid: Txid, spent: OutPoint| {
            fates.values().any(|(open, fate)| {
                let waits = matches!(fate, Fate::Waits | Fate::Unclear);
                waits && open.seen.txid == txid && open.seen.spent == spent
            })
        };
        let mut tip = Some(row.tip).filter(|_| !row.is_over);
        for _ in 0..STEPS_AHEAD {
            let Some(spent) = tip else { break };
            let Some(tx) = self.unconfirmed.spender(&spent) else {
                break;
            };
            let states = tx.states.iter().copied();
            let Stride { state, next, .. } = stride(row.subject, states, Some(tx.outputs));
            let txid = tx.txid;
            if !is_said(txid, spent) {
                let seen = Seen {
                    txid,
                    spent,
                    state,
                    next,
                };
                let what = Happening::Seen(seen);
                plan.events.push(Event { watch, owner, what });
            }
            tip = next.map(|vout| OutPoint { txid, vout });
        }
        Ok(())
    }

    /// What became of what a watch has seen, by cursor.
    fn fates(
        &self,
        watch: u64,
        row: &WatchRow,
        plan: &mut Plan,
    ) -> Result<BTreeMap<u64, (&OpenSeen, Fate)>, StoreError> {
        let mut left: Vec<(u64, &OpenSeen)> = self.open.of_watch(watch).collect();
        let mut by_txid: HashMap<Txid, Fate> = HashMap::new();
        let mut fates = BTreeMap::new();
        while !left.is_empty() {
            // Parents first; nothing builds on itself.
            let waiting: HashSet<Txid> = left.iter().map(|(_, open)| open.seen.txid).collect();
            let (later, now): (Vec<_>, Vec<_>) = left
                .into_iter()
                .partition(|(_, open)| waiting.contains(&open.seen.spent.txid));
            if now.is_empty() {
                break;
            }
            for (cursor, open) in now {
                let parent = by_txid.get(&open.seen.spent.txid);
                let fate = self.fate(open, row, parent, plan)?;
                by_txid.insert(open.seen.txid, fate.clone());
                fates.insert(cursor, (open, fate));
            }
            left = later;
        }
        Ok(fates)
    }

    fn fate(
        &self,
        open: &OpenSeen,
        row: &WatchRow,
        parent: Option<&Fate>,
        plan: &mut Plan,
    ) -> Result<Fate, StoreError> {
        let Seen { txid, spent, .. } = open.seen;
        if let Some(by) = open.lost_to {
            return Ok(Fate::Conflict(by));
        }
        // What builds on a transaction goes with it.
        if let Some(parent @ (Fate::Replaced(_) | Fate::Evicted(_) | Fate::Conflict(_))) = parent {
            return Ok(parent.clone());
        }
        if self.unconfirmed.has(&txid) {
            return Ok(Fate::Waits);
        }
        match self.unconfirmed.departure(&txid) {
            Some(Departure::Replaced { by }) => return Ok(Fate::Replaced(Some(by))),
            Some(Departure::Evicted) => return Ok(Fate::Evicted(Gone::Evicted)),
            Some(Departure::Expired) => return Ok(Fate::Evicted(Gone::Expired)),
            // The index says what it means for the watch, once it has the block; if it has, and has not, then nothing.
            Some(Departure::Confirmed { block }) => {
                return Ok(match self.has_block(block)? {
                    true => Fate::Dropped,
                    false => Fate::Unclear,
                });
            }
            Some(Departure::Conflicted { by, block }) => {
                return Ok(match self.has_block(block)? {
                    true => Fate::Conflict(by),
                    false => Fate::Unclear,
                });
            }
            Some(Departure::Unexplained) | None => {}
        }
        // It went while nobody looked.
        let other = self.unconfirmed.spender(&spent);
        if let Some(other) = other.filter(|other| other.txid != txid) {
            return Ok(Fate::Replaced(Some(other.txid)));
        }
        if !self.unconfirmed.is_whole() {
            return Ok(Fate::Unclear);
        }
        Ok(match parent {
            Some(Fate::Waits) => Fate::Evicted(Gone::Unknown),
            // In a block perhaps, that the index is yet to hear of.
            Some(_) => Fate::Unclear,
            None if row.is_over || row.tip != spent => Fate::Evicted(Gone::Unknown),
            None if self.unspent.contains(&spent) => Fate::Evicted(Gone::Unknown),
            None => {
                plan.asked.insert(spent);
                Fate::Unclear
            }
        })
    }

    fn has_block(&self, block: BlockId) -> Result<bool, StoreError> {
        is_in_chain(self.snapshot, Some(block))
    }
}
