//! Spends of watched tips by transactions that wait for a block: said when they come, and what became of them.
//!
//! The log is the only memory: which spends were seen, and are still to be told the end of, is read from it (`open`). Whenever
//! something may have changed for a watch, be it the mempool, the log, or the watch, it is looked at anew: what should be said
//! of it is compared with what the log says (`plan`). So nothing hangs on the order in which the mempool and the index hear of a
//! block, and changes that were missed, or a time when nobody looked, make no difference but in the reasons given.
//!
//! What is to be said is appended in commits of its own: many watches in one, and none for a while that is longer than the
//! last one took, so that the index has the writer's place for most of the time.

mod open;
mod plan;

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bitcoin::OutPoint;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use self::open::OpenSeens;
use self::plan::{Plan, Planner};
use super::error::WatchError;
use super::follower::Waits;
use super::registry::Registry;
use crate::chain::Node;
use crate::mempool::{Change, ListenError, Listener, Mempool, Unconfirmed};
use crate::store::Snapshot;

/// Watches that are looked at together.
const AT_ONCE: usize = 4_096;

/// How many times as long as the last commit took there is none.
const REST: u32 = 4;

/// Longest such time.
const LONGEST_REST: Duration = Duration::from_secs(1);

/// Pause before what is unclear is looked at again. What the index has to say wakes at once.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Outpoints that the node is asked for together.
const ASKED_AT_ONCE: usize = 100;

/// Appends what the mempool has to say of watches to the log.
pub struct MempoolWatch {
    registry: Registry,
    mempool: Arc<Mempool>,
    node: Arc<dyn Node>,
    open: OpenSeens,
    moves: mpsc::UnboundedReceiver<Vec<Waits>>,
    last_event: watch::Receiver<u64>,
    listener: Listener,
    /// Watches that are to be looked at.
    dirty: BTreeSet<u64>,
    /// Those of which something could not be said.
    unclear: BTreeSet<u64>,
    /// When these may be looked at again.
    look_again: Instant,
    /// What the node is to be asked for, and what it had unspent a moment ago.
    asked: BTreeSet<OutPoint>,
    unspent: HashSet<OutPoint>,
}

impl std::fmt::Debug for MempoolWatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MempoolWatch").finish_non_exhaustive()
    }
}

impl MempoolWatch {
    /// Reads from the log what is still to be told the end of; from then on that is not cut off it. There is one for a registry:
    /// an earlier one is told no more of watches.
    ///
    /// # Errors
    /// [`WatchError::Store`].
    pub fn new(
        registry: Registry,
        mempool: Arc<Mempool>,
        node: Arc<dyn Node>,
    ) -> Result<Self, WatchError> {
        let moves = registry.follower.moves();
        let mut last_event = registry.last_event();
        last_event.mark_changed();
        let (waiting, listener) = mempool.subscribe();
        registry.follower.hold_from(0);
        let mut open = OpenSeens::default();
        open.read(&registry.store.snapshot()?)?;
        registry
            .follower
            .hold_from(open.oldest().unwrap_or(u64::MAX));
        let mut new = Self {
            registry,
            mempool,
            node,
            open,
            moves,
            last_event,
            listener,
            dirty: BTreeSet::new(),
            unclear: BTreeSet::new(),
            look_again: Instant::now(),
            asked: BTreeSet::new(),
            unspent: HashSet::new(),
        };
        new.look_at_all(&waiting.transactions);
        Ok(new)
    }

    /// Says what there is to be said, without an end.
    ///
    /// # Errors
    /// [`WatchError::Store`]; that the mempool is no longer followed is none.
    pub async fn run(mut self) -> Result<(), WatchError> {
        loop {
            if !self.take_news() {
                return Ok(());
            }
            let has_log = self.last_event.has_changed().unwrap_or(false);
            if !has_log && self.dirty.is_empty() {
                if !self.wait().await {
                    return Ok(());
                }
                continue;
            }
            self.last_event.mark_unchanged();
            self.ask().await;
            let took;
            (self, took) = self.settle().await?;
            tokio::time::sleep((took * REST).min(LONGEST_REST)).await;
        }
    }

    /// Whoever has seen something, and whoever waits for what any of these spends.
    fn look_at_all(&mut self, transactions: &[Arc<Unconfirmed>]) {
        self.dirty.extend(self.open.watches());
        for tx in transactions {
            self.look_at_spends(tx);
        }
    }

    fn look_at_spends(&mut self, tx: &Unconfirmed) {
        for outpoint in &tx.spends {
            self.dirty
                .extend(self.registry.follower.candidates(outpoint));
            self.dirty.extend(self.open.who_expects(*outpoint));
        }
    }

    fn hear(&mut self, change: &Change) {
        match change {
            Change::Added { tx, .. } => {
                self.look_at_spends(tx);
                self.dirty.extend(self.open.who_saw(tx.txid));
            }
            Change::Removed { tx, .. } => self.dirty.extend(self.open.who_saw(tx.txid)),
            // What it spends is known in either case.
            Change::Resolved { .. } => {}
        }
    }

    fn moved(&mut self, moves: &[Waits]) {
        for (watch, waits_for) in moves {
            let is_spent = waits_for.is_some_and(|tip| self.mempool.spender(&tip).is_some());
            if is_spent || self.open.of_watch(*watch).next().is_some() {
                self.dirty.insert(*watch);
            }
        }
    }

    /// Hears all that there is to be heard; false if there will be nothing more.
    fn take_news(&mut self) -> bool {
        while let Ok(moves) = self.moves.try_recv() {
            self.moved(&moves);
        }
        loop {
            match self.listener.waiting() {
                Ok(Some(change)) => self.hear(&change),
                Ok(None) => return true,
                Err(ListenError::Ended) => return false,
                Err(ListenError::Lagged(missed)) => {
                    tracing::debug!("watches: {missed} changes of the mempool were missed");
                    let waiting = self.listener.rejoin();
                    self.look_at_all(&waiting.transactions);
                }
            }
        }
    }

    /// Waits for something to look at; false if there will be nothing more.
    async fn wait(&mut self) -> bool {
        let is_unclear = !self.unclear.is_empty();
        tokio::select! {
            change = self.listener.next() => match change {
                Ok(change) => self.hear(&change),
                // Heard of again, and seen to.
                Err(ListenError::Lagged(_)) => {}
                Err(ListenError::Ended) => return false,
            },
            moves = self.moves.recv() => match moves {
                Some(moves) => self.moved(&moves),
                // Somebody else is told of them.
                None => return false,
            },
            changed = self.last_event.changed() => {
                if changed.is_err() {
                    return false;
                }
                // The index may have said what was unclear.
                self.last_event.mark_changed();
            }
            () = tokio::time::sleep_until(self.look_again), if is_unclear => {
                self.look_again = Instant::now() + LOOK_AGAIN;
                self.dirty.append(&mut self.unclear);
            }
        }
        true
    }

    /// Asks the node what would make clear what is not.
    async fn ask(&mut self) {
        self.unspent.clear();
        let asked: Vec<OutPoint> = std::mem::take(&mut self.asked).into_iter().collect();
        if !asked.is_empty() {
            // An answer is good for a moment.
            self.dirty.append(&mut self.unclear);
        }
        for asked in asked.chunks(ASKED_AT_ONCE) {
            match self.node.unspent_scripts(asked).await {
                Ok(scripts) => {
                    let unspent = asked.iter().zip(scripts);
                    let unspent = unspent.filter(|(_, script)| script.is_some());
                    self.unspent.extend(unspent.map(|(outpoint, _)| *outpoint));
                }
                Err(error) => {
                    tracing::debug!("watches: what became of transactions is not known: {error}");
                    return;
                }
            }
        }
    }

    /// Says what there is to be said now of some watches; gives how long the commit took, if there was one.
    async fn settle(mut self) -> Result<(Self, Duration), WatchError> {
        let settled = tokio::task::spawn_blocking(move || {
            let took = self.settle_now()?;
            Ok::<_, WatchError>((self, took))
        });
        settled
            .await
            .map_err(|error| WatchError::Unread(error.to_string()))?
    }

    fn settle_now(&mut self) -> Result<Duration, WatchError> {
        let snapshot = self.registry.store.snapshot()?;
        self.open.read(&snapshot)?;
        self.dirty.extend(self.open.losers());
        let mut watches = self.dirty.clone();
        self.dirty = match watches.iter().nth(AT_ONCE).copied() {
            Some(first) => watches.split_off(&first),
            None => BTreeSet::new(),
        };
        let mut plan = self.plan(&snapshot, &watches)?;
        drop(snapshot);
        let mut took = Duration::ZERO;
        if !plan.events.is_empty() {
            let registry = self.registry.clone();
            let started = Instant::now();
            // Once more, as nothing changes any more until it is written.
            registry.append(|snapshot| {
                self.open.read(snapshot)?;
                plan = self.plan(snapshot, &watches)?;
                let next = snapshot.last_event()?.saturating_add(1);
                let oldest = self.open.oldest();
                registry.follower.hold_from(oldest.unwrap_or(next));
                Ok(std::mem::take(&mut plan.events))
            })?;
            took = started.elapsed();
            self.open.read(&registry.store.snapshot()?)?;
        }
        for cursor in plan.dropped {
            self.open.remove(cursor);
        }
        for watch in watches {
            self.unclear.remove(&watch);
        }
        self.unclear.append(&mut plan.unclear);
        self.asked.append(&mut plan.asked);
        let oldest = self.open.oldest();
        self.registry.follower.hold_from(oldest.unwrap_or(u64::MAX));
        Ok(took)
    }

    fn plan(&self, snapshot: &Snapshot, watches: &BTreeSet<u64>) -> Result<Plan, WatchError> {
        let planner = Planner {
            snapshot,
            open: &self.open,
            unconfirmed: &*self.mempool,
            unspent: &self.unspent,
        };
        Ok(planner.plan(watches)?)
    }
}

impl Drop for MempoolWatch {
    fn drop(&mut self) {
        // Nobody says any more what became of them.
        self.registry.follower.hold_from(u64::MAX);
    }
}

#[cfg(test)]
mod tests;
