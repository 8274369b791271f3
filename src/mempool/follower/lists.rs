//! Lists of the whole mempool, and what they name.

use std::collections::HashSet;
use std::sync::Arc;

use bitcoin::Txid;
use tokio::task;
use tokio::time::Instant;

use super::{AT_ONCE, Backlog, Follower, LIST_PAUSE};
use crate::chain::{ChainError, MempoolListing};
use crate::mempool::Progress;
use crate::mempool::reading::{Read, Wanted};

impl Follower {
    /// Asks for a list, and takes what it says.
    pub(super) async fn list(&mut self) -> Result<(), ChainError> {
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
            (missing, state.view.has_leaving())
        });
        let Ok((missing, has_leaving)) = compared.await else {
            let text = "the list of the mempool was not read: the program is stopping";
            return Err(ChainError::Unreachable(text.to_owned()));
        };
        let is_news = !missing.is_empty();
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
    pub(super) async fn load(&mut self) -> Result<(), ChainError> {
        let began = Instant::now();
        let txids = self.backlog.first(AT_ONCE);
        let entered = self.reader.node.entered_mempool(&txids).await?;
        let times: Vec<(Txid, u64)> = txids
            .iter()
            .copied()
            .zip(entered)
            .filter_map(known)
            .collect();
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
}

fn known((txid, entered): (Txid, Option<u64>)) -> Option<(Txid, u64)> {
    Some((txid, entered?))
}
