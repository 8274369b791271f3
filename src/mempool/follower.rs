//! The task that keeps the view: words of the node in their order, lists as the net below them, and rests in between.

mod backlog;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bitcoin::{BlockHash, Txid};
use tokio::sync::watch;
use tokio::task;
use tokio::time::Instant;

use self::backlog::Backlog;
use super::alignment::{Alignment, Verdict};
use super::known_chain::KnownChain;
use super::reading::{Read, Reader, Wanted};
use super::trouble::Trouble;
use super::view::{BlockSpends, Settling};
use super::{MempoolSettings, Progress, Shared};
use crate::BlockId;
use crate::chain::mempool_signal::{MempoolChange, MempoolWord};
use crate::chain::{BlockWithPrevouts, ChainError, MempoolListing, MempoolSignal};

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
            changes.push(change);
            // What comes behind a block may be known because of it.
            if matches!(changes.last(), Some(MempoolChange::Connected(_))) {
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
                    self.settle_due = Instant::now() + self.settings.grace;
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
        let entered = entered.unwrap_or_else(|| self.node_time.max(clock()));
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

    /// Asks for a list, and takes what it says.
    async fn list(&mut self) -> Result<(), ChainError> {
        let began = Instant::now();
        let MempoolListing {
            tip,
            is_settled,
            sequence,
            txids,
        } = self.reader.node.mempool().await?;
        if !is_settled {
            self.alignment.lose();
            self.shared.state().progress = Progress::NodeBusy;
            self.list_allowed = Instant::now() + self.settings.list_interval_alone;
            return Ok(());
        }
        let is_seen = self.walk_to(tip).await?;
        let now = self.now();
        if !is_seen {
            self.blind = Some(now);
        }
        let shared = Arc::clone(&self.shared);
        let compared = task::spawn_blocking(move || {
            let listed: HashSet<Txid> = txids.into_iter().collect();
            let mut state = shared.state();
            let missing = state.view.compare(&listed, now);
            state.lists += 1;
            (missing, state.view.room(), state.view.has_leaving())
        });
        let Ok((mut missing, room, has_leaving)) = compared.await else {
            let text = "the list of the mempool was not read: the program is stopping";
            return Err(ChainError::Unreachable(text.to_owned()));
        };
        let is_news = !missing.is_empty();
        missing.truncate(room);
        self.backlog = Backlog::new(missing);
        self.backlog_explains = has_leaving;
        self.alignment.restart(sequence);
        self.listed = Some(now);
        // Whoever should bring words and brought none of these does not hear the node.
        let is_deaf = !self.is_heard || is_news && !self.heard_since_list;
        let interval = match is_deaf {
            true => self.settings.list_interval_alone,
            false => self.settings.list_interval,
        };
        self.heard_since_list = false;
        let rest = self.rest_after(began.elapsed()).max(LIST_PAUSE);
        let now = Instant::now();
        self.list_allowed = now + rest;
        self.list_due = now + interval.max(rest);
        self.settle_due = now;
        self.note_progress();
        Ok(())
    }

    fn note_progress(&self) {
        self.shared.state().progress = match self.backlog.is_empty() {
            true => Progress::Following,
            false => Progress::Loading,
        };
    }

    /// Reads some of what the last list named.
    async fn load(&mut self) -> Result<(), ChainError> {
        let began = Instant::now();
        let txids = self.backlog.first(AT_ONCE);
        let entered = self.reader.node.entered_mempool(&txids).await?;
        let times: Vec<(Txid, u64)> = txids.iter().copied().zip(entered).filter_map(known).collect();
        self.node_time = times.iter().map(|(_, t)| *t).fold(self.node_time, u64::max);
        let wanted = times.iter().map(|(txid, entered)| Wanted {
            txid: *txid,
            raw: None,
            entered: *entered,
        });
        let read = self.read(wanted.collect()).await?;
        let read: Vec<Read> = read.into_iter().flatten().collect();
        if read.len() < txids.len() {
            self.note_unread();
        }
        for txid in &txids {
            self.backlog.remove(txid);
        }
        self.insert(read);
        self.resting = Instant::now() + self.rest_after(began.elapsed());
        if self.backlog.is_empty() {
            self.settle_due = Instant::now();
        }
        self.note_progress();
        Ok(())
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

    /// A block that the node says it has connected.
    async fn connect_next(&mut self, hash: BlockHash) -> Result<(), ChainError> {
        let Some(tip) = self.chain.tip() else {
            self.lose();
            return Ok(());
        };
        let id = BlockId {
            height: tip.height + 1,
            hash,
        };
        if self.shared.state().view.len() == 0 {
            // A list finds out if it is none that follows.
            self.chain.push(id);
            return Ok(());
        }
        match self.reader.node.block(id).await {
            Ok(block) if block.block.header().prev_blockhash == tip.hash => {
                self.connect(block).await
            }
            Err(error @ ChainError::Unreachable(_)) => Err(error),
            // The list's way finds out what became of it.
            _ => {
                self.lose();
                Ok(())
            }
        }
    }

    /// Follows the node's chain to a tip; false where not all blocks on the way could be looked at.
    async fn walk_to(&mut self, tip: BlockId) -> Result<bool, ChainError> {
        if self.chain.tip() == Some(tip) {
            return Ok(true);
        }
        if self.shared.state().view.len() == 0 {
            self.chain.restart(tip);
            return Ok(true);
        }
        let node = Arc::clone(&self.reader.node);
        let mut fork = None;
        for id in self.chain.newest_first() {
            if node.block_at(id.height).await? == Some(id) {
                fork = Some(id.height);
                break;
            }
        }
        let Some(fork) = fork else {
            self.chain.restart(tip);
            return Ok(false);
        };
        self.chain.cut_above(fork);
        let mut is_seen = true;
        for height in fork + 1..=tip.height {
            let moved = || ChainError::NotAvailable("the node's chain changes".to_owned());
            let id = node.block_at(height).await?.ok_or_else(moved)?;
            match node.block(id).await {
                Ok(block) => self.connect(block).await?,
                Err(error @ ChainError::Unreachable(_)) => return Err(error),
                Err(error) => {
                    tracing::debug!("mempool: block {id} is not looked at: {error}");
                    self.chain.push(id);
                    is_seen = false;
                }
            }
        }
        match self.chain.tip() == Some(tip) {
            true => Ok(is_seen),
            false => {
                let text = "the node's chain has changed while it was followed";
                Err(ChainError::NotAvailable(text.to_owned()))
            }
        }
    }

    async fn connect(&mut self, block: BlockWithPrevouts) -> Result<(), ChainError> {
        let id = block.id;
        let spends = task::spawn_blocking(move || spends_of(&block));
        let Ok(spends) = spends.await else {
            return Err(ChainError::Unreachable(format!(
                "block {id} was not read: the program is stopping"
            )));
        };
        self.chain.push(id);
        for (txid, _) in &spends.transactions {
            self.backlog.remove(txid);
        }
        let mut state = self.shared.state();
        let steps = state.view.connect(&spends);
        state.tell(steps, &Arc::default());
        self.changed.send_replace(state.news.next());
        Ok(())
    }
}

fn spends_of(block: &BlockWithPrevouts) -> BlockSpends {
    let transactions = block.block.transactions().filter(|tx| !tx.is_coinbase());
    let transactions = transactions.map(|tx| {
        let spends = tx.inputs().map(|input| input.previous_output());
        (tx.txid(), spends.collect())
    });
    BlockSpends {
        id: block.id,
        transactions: transactions.collect(),
    }
}

fn known((txid, entered): (Txid, Option<u64>)) -> Option<(Txid, u64)> {
    Some((txid, entered?))
}

/// Seconds since 1970 by this machine's clock.
fn clock() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}
