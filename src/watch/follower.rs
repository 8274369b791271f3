//! Matches each update of the chain with what is watched, in its own transaction.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bitcoin::OutPoint;
use tokio::sync::{mpsc, watch};

use super::pass::{Move, Pass};
use super::tips::Tips;
use crate::store::watches::{BlockInputs, ChainChange, Committed, Inputs, WatchLog, Watcher};
use crate::store::{Snapshot, StoreError};

/// Watches that are read at a time when the file is opened.
const LOAD_ROWS: usize = 10_000;

/// What is in memory of what is watched, as of the last commit.
#[derive(Default)]
pub(super) struct Watched {
    pub(super) tips: Tips,
    /// Number of watches by owner.
    pub(super) owners: HashMap<u32, u64>,
}

/// The [`Watcher`] of a store.
pub(super) struct Follower {
    watched: RwLock<Watched>,
    /// Whether there is a watch, or an event that may have to be taken back.
    is_active: AtomicBool,
    /// Whether there is a watch: one that is over may wait again after a reorganisation.
    has_watches: AtomicBool,
    /// Cursor of the last event.
    last: watch::Sender<u64>,
    /// Who is told what watches wait for.
    moves: Mutex<Option<mpsc::UnboundedSender<Vec<Waits>>>>,
    /// Cursor of the first event that the mempool may still have something to say of.
    held_from: AtomicU64,
}

/// What a watch waits for from now on, if it waits for anything.
pub(super) type Waits = (u64, Option<OutPoint>);

impl Follower {
    pub(super) fn load(snapshot: &Snapshot) -> Result<Self, StoreError> {
        let mut watched = Watched::default();
        let mut from = 0;
        loop {
            let rows = snapshot.watches(from, LOAD_ROWS)?;
            let Some((last, _)) = rows.last() else { break };
            from = last.saturating_add(1);
            for (watch, row) in rows {
                *watched.owners.entry(row.owner).or_default() += 1;
                if !row.is_over {
                    watched.tips.insert(&row.tip, watch);
                }
            }
        }
        let last = snapshot.last_event()?;
        Ok(Self {
            is_active: AtomicBool::new(last > 0 || !watched.owners.is_empty()),
            has_watches: AtomicBool::new(!watched.owners.is_empty()),
            last: watch::Sender::new(last),
            moves: Mutex::default(),
            held_from: AtomicU64::new(u64::MAX),
            watched: RwLock::new(watched),
        })
    }

    pub(super) fn watched(&self) -> RwLockReadGuard<'_, Watched> {
        self.watched.read().unwrap_or_else(|held| held.into_inner())
    }

    fn watched_mut(&self) -> RwLockWriteGuard<'_, Watched> {
        self.watched
            .write()
            .unwrap_or_else(|held| held.into_inner())
    }

    pub(super) fn last_event(&self) -> watch::Receiver<u64> {
        self.last.subscribe()
    }

    /// What is to be done once a pass is durable: whoever waits for something else, new watches by owner, and the cursor of the
    /// next event.
    pub(super) fn committed(
        self: Arc<Self>,
        moves: Vec<Move>,
        owners: HashMap<u32, i64>,
        next_cursor: u64,
    ) -> Committed {
        Box::new(move || {
            let mut watched = self.watched_mut();
            for Move { watch, from, to } in &moves {
                if let Some(from) = from {
                    watched.tips.remove(from, *watch);
                }
                if let Some(to) = to {
                    watched.tips.insert(to, *watch);
                }
            }
            for (owner, change) in owners {
                let count = watched.owners.entry(owner).or_default();
                *count = count.saturating_add_signed(change);
            }
            watched.owners.retain(|_, count| *count > 0);
            let has_watches = !watched.owners.is_empty();
            self.has_watches.store(has_watches, Ordering::Release);
            self.is_active
                .store(next_cursor > 1 || has_watches, Ordering::Release);
            drop(watched);
            self.tell(&moves);
            let last = next_cursor.saturating_sub(1);
            self.last
                .send_if_modified(|known| std::mem::replace(known, last) != last);
        })
    }

    fn teller(&self) -> MutexGuard<'_, Option<mpsc::UnboundedSender<Vec<Waits>>>> {
        self.moves.lock().unwrap_or_else(|held| held.into_inner())
    }

    /// From now on tells of each watch that waits for something else than before, once that is durable; there is one listener at
    /// most.
    pub(super) fn moves(&self) -> mpsc::UnboundedReceiver<Vec<Waits>> {
        let (sender, moves) = mpsc::unbounded_channel();
        *self.teller() = Some(sender);
        moves
    }

    fn tell(&self, moves: &[Move]) {
        if moves.is_empty() {
            return;
        }
        let mut teller = self.teller();
        if let Some(sender) = &*teller {
            let moves = moves.iter().map(|moved| (moved.watch, moved.to)).collect();
            if sender.send(moves).is_err() {
                *teller = None;
            }
        }
    }

    /// No event from this cursor on is to be cut off the log.
    pub(super) fn hold_from(&self, cursor: u64) {
        self.held_from.store(cursor, Ordering::Release);
    }

    pub(super) fn held_from(&self) -> u64 {
        self.held_from.load(Ordering::Acquire)
    }

    /// Who may wait for an outpoint.
    pub(super) fn candidates(&self, outpoint: &OutPoint) -> Vec<u64> {
        let watched = self.watched();
        let mut found: Vec<u64> = watched.tips.of(watched.tips.mark(outpoint)).collect();
        found.sort_unstable();
        found
    }
}

impl Watcher for Follower {
    fn is_active(&self) -> bool {
        self.is_active.load(Ordering::Acquire)
    }

    fn wants_inputs(&self) -> bool {
        self.has_watches.load(Ordering::Acquire)
    }

    fn follow(
        self: Arc<Self>,
        change: &ChainChange<'_>,
        log: &mut WatchLog<'_>,
    ) -> Result<Committed, StoreError> {
        let watched = self.watched();
        let mut pass = Pass::new(&watched.tips, log);
        for id in change.disconnected {
            pass.disconnect(id.height)?;
        }
        // Inputs that were not collected were not wanted: there is no watch.
        let none = BlockInputs::default();
        for (index, record) in change.connected.iter().enumerate() {
            match change.inputs {
                Inputs::All(inputs) => {
                    pass.connect(record.id, inputs.get(index).unwrap_or(&none))?
                }
                Inputs::Rows | Inputs::NotCollected => pass.connect_rows(record)?,
            }
        }
        let moves = pass.finish()?;
        let next_cursor = log.next_cursor();
        drop(watched);
        Ok(self.committed(moves, HashMap::new(), next_cursor))
    }
}
