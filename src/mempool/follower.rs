//! The task that keeps the view: words of the node in their order, lists as the net below them, and rests in between.

mod backlog;
mod blocks;
mod lists;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bitcoin::Txid;
use tokio::sync::watch;
use tokio::time::Instant;

use self::backlog::Backlog;
use super::alignment::{Alignment, Verdict};
use super::known_chain::KnownChain;
use super::reading::{Read, Reader, Wanted};
use super::trouble::Trouble;
use super::view::Settling;
use super::{MempoolSettings, Progress, Shared};
use crate::chain::mempool_signal::{MempoolChange, MempoolWord};
use crate::chain::{ChainError, MempoolSignal};

/// Words and listed transactions that are read together.
const AT_ONCE: usize = 100;

/// Bytes of transactions that are read together, but for the last one.
const BYTES_AT_ONCE: usize = 4 << 20;

/// Shortest pause between two lists.
const LIST_PAUSE: Duration = Duration::from_millis(100);

/// How long the word of a block may be late that the node already has.
const BLOCK_LATENESS: Duration = Duration::from_secs(5);

/// Keeps the view of one node's mempool.
pub(super) struct Follower {
    reader: Reader,
    signal: Option<MempoolSignal>,
    shared: Arc<Shared>,
    changed: watch::Sender<u64>,
    settings: MempoolSettings,
    started: Instant,
    alignment: Alignment,
    /// Whether somebody brings words.
    is_heard: bool,
    /// Whether a word came since the last list.
    heard_since_list: bool,
    /// A word that was taken and not looked at yet.
    next_word: Option<MempoolWord>,
    chain: KnownChain,
    backlog: Backlog,
    /// Whether something of it may have replaced what has left.
    backlog_explains: bool,
    /// Until when nothing more of it is read.
    resting: Instant,
    /// When the last list came, and when the next one may and should be asked for.
    listed: Option<Duration>,
    list_allowed: Instant,
    list_due: Instant,
    /// When there was last something that could not be read.
    blind: Option<Duration>,
    /// The node's clock, as far as it is known.
    node_time: u64,
    /// When it is next looked whether departures can be explained.
    settle_due: Instant,
    /// Since when the node has had another tip than the view.
    behind_since: Option<Instant>,
    is_full: bool,
}

impl Follower {
    pub(super) fn new(
        reader: Reader,
        signal: Option<MempoolSignal>,
        shared: Arc<Shared>,
        changed: watch::Sender<u64>,
        settings: MempoolSettings,
    ) -> Self {
        let now = Instant::now();
        Self {
            reader,
            signal,
            shared,
            changed,
            settings,
            started: now,
            alignment: Alignment::default(),
            is_heard: false,
            heard_since_list: false,
            next_word: None,
            chain: KnownChain::default(),
            backlog: Backlog::default(),
            backlog_explains: false,
            resting: now,
            listed: None,
            list_allowed: now,
            list_due: now,
            blind: None,
            node_time: 0,
            settle_due: now,
            behind_since: None,
            is_full: false,
        }
    }

    /// Follows the node without an end. Whatever goes wrong is said, and tried again with a new list.
    pub(super) async fn run(mut self) {
        let mut trouble = Trouble::default();
        loop {
            match self.step().await {
                Ok(false) => {}
                Ok(true) => trouble.over(),
                Err(error) => {
                    self.lose();
                    self.shared.state().progress = Progress::Waiting;
                    let pause = trouble.pause_after(&error);
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }

    /// Does what there is to do, or waits for it; whether the node answered a question meanwhile.
    async fn step(&mut self) -> Result<bool, ChainError> {
        let mut asked = false;
        if self.list_due.max(self.list_allowed) <= Instant::now() {
            self.list().await?;
            asked = true;
        }
        let changes = self.waiting_changes();
        if !changes.is_empty() {
            self.apply(changes).await?;
            asked = true;
        }
        // Neither waits until no words come any more.
        if !self.backlog.is_empty() && self.resting <= Instant::now() {
            self.load().await?;
            asked = true;
        }
        if self.settle_due <= Instant::now() {
            asked |= self.settle().await?;
        }
        if !asked {
            self.wait().await;
        }
        Ok(asked)
    }

    /// Waits for a word, or until something is due.
    async fn wait(&mut self) {
        let mut due = self.settle_due.min(self.list_due.max(self.list_allowed));
        if !self.backlog.is_empty() {
            due = due.min(self.resting);
        }
        let signal = &mut self.signal;
        let word = async {
            match signal {
                Some(signal) => signal.next().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            word = word => match word {
                Some(word) => self.next_word = Some(word),
                None => {
                    self.signal = None;
                    self.deafen();
                }
            },
            () = tokio::time::sleep_until(due) => {}
        }
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// No word counts until there is a new list.
    fn lose(&mut self) {
        self.alignment.lose();
        self.list_due = Instant::now();
    }

    /// Nobody brings words.
    fn deafen(&mut self) {
        self.is_heard = false;
        self.lose();
    }

    /// How long to rest after work, for it to take no more than its share of the time.
    fn rest_after(&self, work: Duration) -> Duration {
        let share = self.settings.share.clamp(0.01, 1.0);
        work.mul_f64((1.0 - share) / share)
    }

    /// Words that wait, as far as they count.
    fn waiting_changes(&mut self) -> Vec<MempoolChange> {
        let mut changes = Vec::new();
        let mut bytes = 0;
        while changes.len() < AT_ONCE && bytes < BYTES_AT_ONCE {
            let waiting = || self.signal.as_mut()?.waiting();
            let Some(word) = self.next_word.take().or_else(waiting) else {
                break;
            };
            let (number, change) = match word {
                MempoolWord::Anew => {
                    self.is_heard = true;
                    self.lose();
                    continue;
                }
                MempoolWord::CutOff => {
                    self.deafen();
                    continue;
                }
                MempoolWord::Change { number, change } => (number, change),
            };
            self.heard_since_list = true;
            let held = self.alignment.holds();
            let chain = &self.chain;
            match self.alignment.admit(number, &change, |h| chain.knows(h)) {
                Verdict::Apply => {}
                Verdict::Stale => continue,
                Verdict::Gap => {
                    if held {
                        self.shared.state().gaps += 1;
                    }
                    self.lose();
                    continue;
                }
            }
            if let MempoolChange::Accepted { raw: Some(raw), .. } = &change {
                bytes += raw.len();
            }
            let is_block = matches!(
                change,
                MempoolChange::Connected(_) | MempoolChange::Disconnected(_)
            );
            changes.push(change);
            // What comes behind it is seen with it.
            if is_block {
                break;
            }
        }
        changes
    }

    /// Changes in their order. Those that came are read together first.
    async fn apply(&mut self, mut changes: Vec<MempoolChange>) -> Result<(), ChainError> {
        let mut wanted: Vec<Wanted> = Vec::new();
        for change in &mut changes {
            if let MempoolChange::Accepted { txid, raw, .. } = change
                && !wanted.iter().any(|wanted| wanted.txid == *txid)
            {
                let (txid, raw) = (*txid, raw.take());
                let entered = 0;
                wanted.push(Wanted { txid, raw, entered });
            }
        }
        let read = self.read_words(wanted).await?;
        for change in changes {
            match change {
                MempoolChange::Accepted { txid, .. } => match read.get(&txid) {
                    Some(Some(read)) => self.insert(vec![read.clone()]),
                    // Most likely gone again; asked for once more.
                    _ => {
                        self.backlog.push(txid);
                        self.backlog_explains = true;
                    }
                },
                MempoolChange::Removed { txid, .. } => {
                    let now = self.now();
                    if self.backlog.remove(&txid) {
                        self.note_unread();
                    }
                    self.shared.state().view.leave(&txid, now);
                }
                MempoolChange::Connected(hash) => self.connect_next(hash).await?,
                MempoolChange::Disconnected(hash) => self.chain.disconnect(&hash),
            }
        }
        Ok(())
    }

    /// Transactions of which the node just said that it accepted them.
    async fn read_words(
        &mut self,
        mut wanted: Vec<Wanted>,
    ) -> Result<HashMap<Txid, Option<Read>>, ChainError> {
        let Some(last) = wanted.last().map(|wanted| wanted.txid) else {
            return Ok(HashMap::new());
        };
        // The last one stands for all of them: they came within moments.
        let entered = self.reader.node.entered_mempool(&[last]).await?;
        let entered = entered.first().copied().flatten();
        // The node's clock may be another one than this machine's.
        let entered = entered.unwrap_or_else(|| match self.node_time {
            0 => clock(),
            known => known,
        });
        self.node_time = self.node_time.max(entered);
        for wanted in &mut wanted {
            wanted.entered = entered;
        }
        let txids: Vec<Txid> = wanted.iter().map(|wanted| wanted.txid).collect();
        let read = self.read(wanted).await?;
        Ok(txids.into_iter().zip(read).collect())
    }

    /// A transaction came and went, and nobody knows what it replaced.
    fn note_unread(&mut self) {
        if self.backlog_explains {
            tracing::debug!("mempool: a transaction came and went unread");
            self.blind = Some(self.now());
        }
    }

    async fn read(&self, wanted: Vec<Wanted>) -> Result<Vec<Option<Read>>, ChainError> {
        let shared = Arc::clone(&self.shared);
        let is_held = move |txid: &Txid| shared.state().view.is_here(txid);
        self.reader.read(wanted, is_held).await
    }

    fn insert(&mut self, read: Vec<Read>) {
        let mut state = self.shared.state();
        for Read { tx, raw } in read {
            self.backlog.remove(&tx.txid);
            let steps = state.view.insert(tx);
            state.tell(steps, &raw);
        }
        self.changed.send_replace(state.news.next());
        drop(state);
        self.say_room();
    }

    /// Says once that there is no room for more, and once that there is again.
    fn say_room(&mut self) {
        let status = self.shared.state().status();
        match (self.is_full, status.not_held > 0) {
            (false, true) => tracing::warn!(
                "mempool: {} transactions of {} MB are held, which is the limit; {} others are not followed",
                status.transactions,
                status.bytes >> 20,
                status.not_held
            ),
            (true, false) => tracing::info!("mempool: all transactions are followed again"),
            _ => {}
        }
        self.is_full = status.not_held > 0;
    }

    /// Tells the reasons of departures that can be told by now; whether the node was asked.
    async fn settle(&mut self) -> Result<bool, ChainError> {
        self.settle_due = Instant::now() + self.settings.grace;
        let now = self.now();
        if !self.backlog.is_empty() && self.backlog_explains {
            return Ok(false);
        }
        let settling = Settling {
            words: now.saturating_sub(self.settings.grace),
            lists: self.listed.unwrap_or_default(),
            blind: self.blind,
            node_time: self.node_time,
            expiry: self.settings.expiry.as_secs(),
        };
        if !self.shared.state().view.is_leaving(&settling) {
            return Ok(false);
        }
        let tip = self.reader.node.tip().await?;
        if self.chain.tip() != Some(tip) {
            // A block explains them, which is about to be told, or was not told.
            let since = *self.behind_since.get_or_insert_with(Instant::now);
            if !self.is_heard || since.elapsed() >= BLOCK_LATENESS {
                self.behind_since = None;
                self.lose();
            }
            return Ok(true);
        }
        self.behind_since = None;
        let mut state = self.shared.state();
        let steps = state.view.settle(&settling);
        state.tell(steps, &Arc::default());
        self.changed.send_replace(state.news.next());
        Ok(true)
    }
}

/// Seconds since 1970 by this machine's clock.
fn clock() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}
