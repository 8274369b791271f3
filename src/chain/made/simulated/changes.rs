//! What a node would say of its mempool, by ZMQ, in the order in which it happens.

use std::collections::HashSet;

use bitcoin::consensus::serialize;
use bitcoin::{BlockHash, Transaction, Txid};

use crate::chain::mempool_signal::MempoolChange;

/// Counts the changes of the mempool as a node does, and keeps them for whoever wants to tell of them.
pub(super) struct MempoolChanges {
    /// Number of the next change.
    next: u64,
    /// The changes since they were last taken, if anybody takes them.
    kept: Option<Vec<MempoolChange>>,
    /// While blocks come and go, only what becomes of the mempool in the end is a change.
    is_held: bool,
}

impl Default for MempoolChanges {
    fn default() -> Self {
        Self {
            next: 1,
            kept: None,
            is_held: false,
        }
    }
}

impl MempoolChanges {
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// The changes since the last call; before the first one none are kept.
    pub(super) fn take(&mut self) -> Vec<MempoolChange> {
        self.kept.replace(Vec::new()).unwrap_or_default()
    }

    pub(super) fn accepted(&mut self, tx: &Transaction, txid: Txid) {
        if self.is_held {
            return;
        }
        let sequence = self.count(1);
        if let Some(kept) = &mut self.kept {
            kept.push(MempoolChange::Accepted {
                txid,
                sequence,
                raw: Some(serialize(tx)),
            });
        }
    }

    pub(super) fn removed(&mut self, txid: Txid) {
        let sequence = self.count(1);
        self.keep(MempoolChange::Removed { txid, sequence });
    }

    /// A block was mined with so many transactions of the mempool.
    pub(super) fn mined(&mut self, hash: BlockHash, transactions: usize) {
        self.count(transactions as u64);
        self.keep(MempoolChange::Connected(hash));
    }

    /// Says nothing until [`MempoolChanges::replayed`]; whether it did not before.
    pub(super) fn hold(&mut self) -> bool {
        !std::mem::replace(&mut self.is_held, true)
    }

    /// Blocks went, newest first, and others came, oldest first; and this has become of the mempool.
    pub(super) fn replayed(
        &mut self,
        disconnected: impl Iterator<Item = BlockHash>,
        connected: impl Iterator<Item = (BlockHash, HashSet<Txid>)>,
        before: &[Txid],
        after: &[(Txid, &Transaction)],
    ) {
        self.is_held = false;
        for hash in disconnected {
            self.keep(MempoolChange::Disconnected(hash));
        }
        let is_after: HashSet<Txid> = after.iter().map(|(txid, _)| *txid).collect();
        let mut gone: Vec<Txid> = before.to_vec();
        gone.retain(|txid| !is_after.contains(txid));
        let mut told = Vec::new();
        for (hash, txids) in connected {
            let before = gone.len();
            gone.retain(|txid| !txids.contains(txid));
            self.count((before - gone.len()) as u64);
            told.push(MempoolChange::Connected(hash));
        }
        // What a block conflicts with is told before the block.
        for txid in gone {
            self.removed(txid);
        }
        for change in told {
            self.keep(change);
        }
        for (txid, tx) in after {
            if !before.contains(txid) {
                self.accepted(tx, *txid);
            }
        }
    }

    fn count(&mut self, changes: u64) -> u64 {
        let first = self.next;
        self.next += changes;
        first
    }

    fn keep(&mut self, change: MempoolChange) {
        if let Some(kept) = &mut self.kept {
            kept.push(change);
        }
    }
}
