//! The unconfirmed transactions and what becomes of each: pure, told of everything in the order in which it happened.
//!
//! A node says which transaction comes or goes, and not why it goes. One that goes is therefore kept until that is known: it is
//! replaced if another one comes that spends the same; a block confirms it or conflicts with it; and if none of these turns up,
//! it was evicted, or had expired. Until then it counts as here, and whoever is told of changes is told once, with the reason.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bitcoin::{OutPoint, Txid};

use super::departure::{Departure, Departures};
use super::transaction::Unconfirmed;
use crate::BlockId;

/// What a view may hold.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) transactions: usize,
    /// Of memory, by estimate.
    pub(super) bytes: usize,
    pub(super) departures: usize,
}

/// What became of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    Added(Arc<Unconfirmed>),
    Resolved(Arc<Unconfirmed>),
    Removed(Arc<Unconfirmed>, Departure),
}

/// How it became known that a transaction went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Noticed {
    /// The node said so.
    ByWord,
    /// It was missing in a list.
    ByList,
}

#[derive(Debug, Clone, Copy)]
struct Leaving {
    at: Duration,
    noticed: Noticed,
}

/// The transactions of a block with the outpoints they spend, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BlockSpends {
    pub(super) id: BlockId,
    pub(super) transactions: Vec<(Txid, Vec<OutPoint>)>,
}

/// Up to when what has left can be told the reason of, and what is needed for that.
#[derive(Debug, Clone, Copy)]
pub(super) struct Settling {
    /// Those that left by word until then.
    pub(super) words: Duration,
    /// Those that were missing in a list until then.
    pub(super) lists: Duration,
    /// When there was last something that nobody could read, and that may be the reason.
    pub(super) blind: Option<Duration>,
    /// The node's clock, in seconds since 1970.
    pub(super) node_time: u64,
    /// How long the node lets transactions wait, in seconds.
    pub(super) expiry: u64,
}

impl Settling {
    fn covers(&self, leaving: &Leaving) -> bool {
        leaving.at
            <= match leaving.noticed {
                Noticed::ByWord => self.words,
                Noticed::ByList => self.lists,
            }
    }
}

/// The view. Of two transactions that spend the same output it holds one at most.
#[derive(Debug)]
pub(super) struct View {
    limits: Limits,
    held: HashMap<Txid, Arc<Unconfirmed>>,
    spenders: HashMap<OutPoint, Arc<Unconfirmed>>,
    /// Those of `held` that are gone, and nobody knows yet why.
    leaving: HashMap<Txid, Leaving>,
    departed: Departures,
    bytes: usize,
    unresolved: usize,
    /// How many the node has that are not held, by the last list and what came since.
    not_held: usize,
}

impl View {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            held: HashMap::new(),
            spenders: HashMap::new(),
            leaving: HashMap::new(),
            departed: Departures::new(limits.departures),
            bytes: 0,
            unresolved: 0,
            not_held: 0,
        }
    }

    /// Those that came and of which it was not yet said that they went.
    pub(super) fn transactions(&self) -> impl Iterator<Item = &Arc<Unconfirmed>> {
        self.held.values()
    }

    pub(super) fn get(&self, txid: &Txid) -> Option<&Arc<Unconfirmed>> {
        self.held.get(txid)
    }

    /// Whether it is in the mempool, as far as is known.
    pub(super) fn is_here(&self, txid: &Txid) -> bool {
        self.held.contains_key(txid) && !self.leaving.contains_key(txid)
    }

    pub(super) fn spender(&self, outpoint: &OutPoint) -> Option<&Arc<Unconfirmed>> {
        self.spenders.get(outpoint)
    }

    pub(super) fn departure(&self, txid: &Txid) -> Option<Departure> {
        self.departed.of(txid)
    }

    pub(super) fn len(&self) -> usize {
        self.held.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn unresolved(&self) -> usize {
        self.unresolved
    }

    pub(super) fn not_held(&self) -> usize {
        self.not_held
    }

    /// Room for so many more.
    pub(super) fn room(&self) -> usize {
        match self.bytes < self.limits.bytes {
            true => self.limits.transactions.saturating_sub(self.held.len()),
            false => 0,
        }
    }

    /// A transaction came. One that the view has no room for replaces others all the same.
    pub(super) fn insert(&mut self, tx: Arc<Unconfirmed>) -> Vec<Step> {
        let txid = tx.txid;
        if let Some(held) = self.held.get_mut(&txid) {
            self.leaving.remove(&txid);
            if !held.is_unresolved() || tx.is_unresolved() {
                return Vec::new();
            }
            *held = Arc::clone(&tx);
            self.unresolved -= 1;
            for outpoint in &tx.spends {
                self.spenders.insert(*outpoint, Arc::clone(&tx));
            }
            return vec![Step::Resolved(tx)];
        }
        let mut steps = Vec::new();
        for outpoint in &tx.spends {
            if let Some(other) = self.spenders.get(outpoint) {
                let other = other.txid;
                self.depart_with_descendants(other, Departure::Replaced { by: txid }, &mut steps);
            }
        }
        if self.room() == 0 {
            self.not_held += 1;
            return steps;
        }
        self.bytes += tx.held_bytes();
        self.unresolved += usize::from(tx.is_unresolved());
        for outpoint in &tx.spends {
            self.spenders.insert(*outpoint, Arc::clone(&tx));
        }
        self.departed.forget(&txid);
        self.held.insert(txid, Arc::clone(&tx));
        steps.push(Step::Added(tx));
        steps
    }

    /// A transaction went, and why is not known yet.
    pub(super) fn leave(&mut self, txid: &Txid, at: Duration) {
        match self.held.contains_key(txid) {
            true => {
                let leaving = Leaving {
                    at,
                    noticed: Noticed::ByWord,
                };
                self.leaving.entry(*txid).or_insert(leaving);
            }
            false => self.not_held = self.not_held.saturating_sub(1),
        }
    }

    /// A block was connected.
    pub(super) fn connect(&mut self, block: &BlockSpends) -> Vec<Step> {
        let mut steps = Vec::new();
        let confirmed = Departure::Confirmed { block: block.id };
        for (txid, _) in &block.transactions {
            self.depart(txid, confirmed, &mut steps);
        }
        for (txid, spends) in &block.transactions {
            for outpoint in spends {
                if let Some(other) = self.spenders.get(outpoint) {
                    let conflicted = Departure::Conflicted {
                        by: *txid,
                        block: block.id,
                    };
                    self.depart_with_descendants(other.txid, conflicted, &mut steps);
                }
            }
        }
        steps
    }

    /// The node's list: what is missing in it has left. Given back is what it has that is not here, and what is to be read
    /// again because it was not known what it spends.
    pub(super) fn compare(&mut self, listed: &HashSet<Txid>, at: Duration) -> Vec<Txid> {
        let leaving = Leaving {
            at,
            noticed: Noticed::ByList,
        };
        for txid in self.held.keys() {
            if !listed.contains(txid) {
                self.leaving.entry(*txid).or_insert(leaving);
            }
        }
        self.leaving.retain(|txid, _| !listed.contains(txid));
        let missing = listed.iter().filter(|txid| !self.held.contains_key(*txid));
        let mut missing: Vec<Txid> = missing.copied().collect();
        let room = self.room();
        self.not_held = missing.len().saturating_sub(room);
        missing.truncate(room);
        if self.unresolved > 0 {
            let unresolved = self.held.values().filter(|tx| tx.is_unresolved());
            missing.extend(unresolved.map(|tx| tx.txid));
        }
        missing
    }

    /// Whether anything has left that [`View::settle`] would take.
    pub(super) fn is_leaving(&self, settling: &Settling) -> bool {
        self.leaving
            .values()
            .any(|leaving| settling.covers(leaving))
    }

    /// Whether the reason is not known yet for which something left.
    pub(super) fn has_leaving(&self) -> bool {
        !self.leaving.is_empty()
    }

    /// Gives those that have left long enough ago the reason that is left: no replacement has come, and no block.
    pub(super) fn settle(&mut self, settling: &Settling) -> Vec<Step> {
        let covered = self.leaving.iter();
        let covered = covered.filter(|(_, leaving)| settling.covers(leaving));
        let covered: HashMap<Txid, Leaving> = covered.map(|(txid, l)| (*txid, *l)).collect();
        // What builds on an expired one goes with it.
        let mut expired: HashSet<Txid> = HashSet::new();
        let is_old = |txid: &&Txid| {
            let entered = self.held.get(*txid).map(|tx| tx.entered);
            entered.is_some_and(|entered| {
                settling.node_time.saturating_sub(entered) >= settling.expiry
            })
        };
        let mut next: Vec<Txid> = covered.keys().filter(is_old).copied().collect();
        while let Some(txid) = next.pop() {
            if expired.insert(txid) {
                let children = self.children(&txid).into_iter();
                next.extend(children.filter(|child| covered.contains_key(child)));
            }
        }
        let mut steps = Vec::with_capacity(covered.len());
        for (txid, leaving) in covered {
            let departure = match settling.blind {
                Some(blind) if blind >= leaving.at => Departure::Unexplained,
                _ if expired.contains(&txid) => Departure::Expired,
                _ => Departure::Evicted,
            };
            self.depart(&txid, departure, &mut steps);
        }
        steps
    }

    fn children(&self, txid: &Txid) -> Vec<Txid> {
        let Some(tx) = self.held.get(txid) else {
            return Vec::new();
        };
        let outpoints = tx.outpoints();
        let children = outpoints.filter_map(|outpoint| self.spenders.get(&outpoint));
        children.map(|child| child.txid).collect()
    }

    fn depart_with_descendants(&mut self, txid: Txid, why: Departure, steps: &mut Vec<Step>) {
        let mut next = vec![txid];
        while let Some(txid) = next.pop() {
            next.extend(self.children(&txid));
            self.depart(&txid, why, steps);
        }
    }

    fn depart(&mut self, txid: &Txid, why: Departure, steps: &mut Vec<Step>) {
        let Some(tx) = self.held.remove(txid) else {
            return;
        };
        self.leaving.remove(txid);
        for outpoint in &tx.spends {
            self.spenders.remove(outpoint);
        }
        self.bytes -= tx.held_bytes();
        self.unresolved -= usize::from(tx.is_unresolved());
        self.departed.note(*txid, why);
        steps.push(Step::Removed(tx, why));
    }
}

#[cfg(test)]
mod tests;
