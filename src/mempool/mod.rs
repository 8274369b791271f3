//! The view of unconfirmed transactions: which there are, what each spends, its tweak, and why each one goes.
//!
//! [`Mempool`] follows a node's mempool. Words of the node ([`MempoolSignal`]) say what comes and goes as it happens; lists of
//! the whole mempool are the net below them: one is asked for at the start, whenever a word may have been missed, and now and
//! then. Without words, lists alone do, only later. Nothing is kept over a restart.
//!
//! Whoever wants to know [subscribes](Mempool::subscribe): to what there is, and to each change from then on. It has a task of
//! its own, takes one thread at most and rests between large pieces of work, and nothing else waits for it.
//!
//! | module | |
//! |---|---|
//! | `transaction` | what is kept of a transaction |
//! | `departure` | why a transaction went |
//! | `view` | the transactions and what becomes of each: pure |
//! | `alignment` | which words of the node go with which list: pure |
//! | `known_chain` | the last blocks that the view has seen |
//! | `reading` | transactions read, with what they spend, and their tweaks |
//! | `news` | the last changes, for everybody who listens |
//! | `trouble` | a node that does not answer |
//! | `follower` | all of it together, in a task |

mod alignment;
mod departure;
mod follower;
mod known_chain;
mod news;
mod reading;
mod transaction;
mod trouble;
mod view;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bitcoin::{OutPoint, Txid};
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub use self::departure::Departure;
use self::follower::Follower;
pub use self::news::Change;
use self::news::News;
use self::reading::Reader;
pub use self::transaction::{Unconfirmed, UnconfirmedTweak};
use self::view::{Limits, Step, View};
use crate::chain::{MempoolSignal, Node};
use crate::curve::Engine;
use crate::store::Store;

/// How a [`Mempool`] works.
#[derive(Debug, Clone)]
pub struct MempoolSettings {
    /// Most transactions held.
    pub most_transactions: usize,
    /// Most bytes of memory that they may take, by estimate.
    pub most_bytes: usize,
    /// Departures that are kept, the last ones.
    pub kept_departures: usize,
    /// Changes that are kept for those who listen, the last ones, and of so many bytes together.
    pub kept_changes: usize,
    /// Bytes of these changes.
    pub kept_change_bytes: usize,
    /// Pause between two lists while the node tells what happens.
    pub list_interval: Duration,
    /// The same while it does not.
    pub list_interval_alone: Duration,
    /// How long the reason for a departure is waited for.
    pub grace: Duration,
    /// How long the node lets transactions wait (its `-mempoolexpiry`).
    pub expiry: Duration,
    /// For how much of the time, of 1, lists and the transactions that they name are asked for and read.
    pub share: f64,
}

impl Default for MempoolSettings {
    fn default() -> Self {
        Self {
            most_transactions: 1_000_000,
            most_bytes: 512 << 20,
            kept_departures: 100_000,
            kept_changes: 20_000,
            kept_change_bytes: 32 << 20,
            list_interval: Duration::from_secs(60),
            list_interval_alone: Duration::from_secs(2),
            grace: Duration::from_secs(1),
            expiry: Duration::from_secs(336 * 3600),
            share: 0.15,
        }
    }
}

/// How far a [`Mempool`] has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Progress {
    /// The node was not heard yet, or does not answer.
    #[default]
    Waiting,
    /// The node reads the mempool of its last run, or downloads the chain.
    NodeBusy,
    /// Transactions of the last list are still being read.
    Loading,
    /// All that the node has is held, as far as there is room.
    Following,
}

/// What a [`Mempool`] holds, and how it is getting on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MempoolStatus {
    /// How far it has come.
    pub progress: Progress,
    /// Transactions held.
    pub transactions: usize,
    /// Memory that they take, in bytes, by estimate.
    pub bytes: usize,
    /// Transactions that the node has and for which there is no room.
    pub not_held: usize,
    /// Transactions held of which nobody knows what they spend.
    pub unresolved: usize,
    /// Lists that were asked for.
    pub lists: u64,
    /// How often a word was missing, or may have been.
    pub gaps: u64,
}

/// What is unconfirmed at a moment.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The transactions, in no order.
    pub transactions: Vec<Arc<Unconfirmed>>,
    /// How far the view has come.
    pub status: MempoolStatus,
}

/// The view of a node's unconfirmed transactions; it follows the node until it is dropped.
#[derive(Debug)]
pub struct Mempool {
    shared: Arc<Shared>,
    following: JoinHandle<()>,
}

impl Mempool {
    /// Follows a node. With a `store` the node is not asked for the taproot outputs that are in it. To be called on a tokio
    /// runtime.
    pub fn follow(
        node: Arc<dyn Node>,
        signal: Option<MempoolSignal>,
        engine: Arc<dyn Engine>,
        store: Option<Arc<Store>>,
        settings: MempoolSettings,
    ) -> Self {
        let (changed, upto) = watch::channel(0);
        let shared = Arc::new(Shared::new(&settings, upto));
        let reader = Reader {
            node,
            engine,
            store,
        };
        let follower = Follower::new(reader, signal, shared.clone(), changed, settings);
        Self {
            shared,
            following: tokio::spawn(follower.run()),
        }
    }

    /// What there is, and a listener to whom each change from then on is told.
    pub fn subscribe(&self) -> (Snapshot, Listener) {
        self.shared.clone().subscribe()
    }

    /// The unconfirmed transaction that spends an outpoint.
    pub fn spender(&self, outpoint: &OutPoint) -> Option<Arc<Unconfirmed>> {
        self.shared.state().view.spender(outpoint).cloned()
    }

    /// An unconfirmed transaction.
    pub fn transaction(&self, txid: &Txid) -> Option<Arc<Unconfirmed>> {
        self.shared.state().view.get(txid).cloned()
    }

    /// Why a transaction went that was unconfirmed, if that is not long ago.
    pub fn departure(&self, txid: &Txid) -> Option<Departure> {
        self.shared.state().view.departure(txid)
    }

    /// How it is getting on.
    pub fn status(&self) -> MempoolStatus {
        self.shared.state().status()
    }
}

impl Drop for Mempool {
    fn drop(&mut self) {
        self.following.abort();
    }
}

/// Why a [`Listener`] has no next change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ListenError {
    /// It was too slow: changes are not kept any more that it has not heard. It has to [join](Listener::rejoin) again.
    #[error("{0} changes of the mempool were missed")]
    Lagged(u64),
    /// There is no view any more.
    #[error("the mempool is no longer followed")]
    Ended,
}

/// Hears of each change.
#[derive(Debug)]
pub struct Listener {
    shared: Arc<Shared>,
    /// Number of the change to be heard next.
    next: u64,
    changed: watch::Receiver<u64>,
}

impl Listener {
    /// The next change, once there is one. Nothing is lost if this is given up.
    ///
    /// # Errors
    /// [`ListenError`].
    pub async fn next(&mut self) -> Result<Arc<Change>, ListenError> {
        loop {
            let next = self.next;
            if let Some(change) = self.waiting()? {
                return Ok(change);
            }
            let heard = self.changed.wait_for(|upto| *upto > next).await;
            if heard.is_err() && self.shared.state().news.next() <= next {
                return Err(ListenError::Ended);
            }
        }
    }

    /// The next change if there is one already.
    ///
    /// # Errors
    /// [`ListenError::Lagged`].
    pub fn waiting(&mut self) -> Result<Option<Arc<Change>>, ListenError> {
        let found = self.shared.state().news.get(self.next);
        let change = found.map_err(ListenError::Lagged)?;
        self.next += u64::from(change.is_some());
        Ok(change)
    }

    /// Begins anew with what there is. Changes that were not heard are not told any more;
    /// [`Mempool::departure`] knows why a transaction went meanwhile.
    pub fn rejoin(&mut self) -> Snapshot {
        let (snapshot, listener) = self.shared.clone().subscribe();
        *self = listener;
        snapshot
    }
}

/// What the follower changes and others read.
#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Up to which number there are changes. Closed when the follower ends.
    changed: watch::Receiver<u64>,
}

#[derive(Debug)]
struct State {
    view: View,
    news: News,
    progress: Progress,
    lists: u64,
    gaps: u64,
}

impl State {
    fn status(&self) -> MempoolStatus {
        MempoolStatus {
            progress: self.progress,
            transactions: self.view.len(),
            bytes: self.view.bytes(),
            not_held: self.view.not_held(),
            unresolved: self.view.unresolved(),
            lists: self.lists,
            gaps: self.gaps,
        }
    }

    /// Tells of what became of transactions; `raw` has the bytes of the one that came, if one did.
    fn tell(&mut self, steps: Vec<Step>, raw: &Arc<[u8]>) {
        for step in steps {
            self.news.push(match step {
                Step::Added(tx) => Change::Added {
                    tx,
                    raw: Arc::clone(raw),
                },
                Step::Resolved(tx) => Change::Resolved {
                    tx,
                    raw: Arc::clone(raw),
                },
                Step::Removed(tx, why) => Change::Removed { tx, why },
            });
        }
    }
}

impl Shared {
    fn new(settings: &MempoolSettings, changed: watch::Receiver<u64>) -> Self {
        let limits = Limits {
            transactions: settings.most_transactions,
            bytes: settings.most_bytes,
            departures: settings.kept_departures,
        };
        Self {
            state: Mutex::new(State {
                view: View::new(limits),
                news: News::new(settings.kept_changes, settings.kept_change_bytes),
                progress: Progress::Waiting,
                lists: 0,
                gaps: 0,
            }),
            changed,
        }
    }

    fn subscribe(self: Arc<Self>) -> (Snapshot, Listener) {
        let state = self.state();
        let snapshot = Snapshot {
            transactions: state.view.transactions().cloned().collect(),
            status: state.status(),
        };
        let next = state.news.next();
        drop(state);
        let changed = self.changed.clone();
        let listener = Listener {
            shared: self,
            next,
            changed,
        };
        (snapshot, listener)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere while the lock was held is reported there.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
