//! The mempool of a chain that is made up, with what a node does and says there.

use std::collections::HashSet;

use bitcoin::consensus::serialize;
use bitcoin::{OutPoint, ScriptBuf, Transaction, Txid};

use super::{SimulatedChain, State};
use crate::BlockId;
use crate::chain::mempool_signal::MempoolChange;
use crate::chain::{BroadcastError, MempoolListing};

impl SimulatedChain {
    /// Takes a transaction into the mempool in place of whatever there spends the same, however small its fee is.
    ///
    /// # Errors
    /// As for [`SimulatedChain::submit`]; what was to be replaced is gone all the same.
    pub fn replace(&self, tx: &Transaction) -> Result<Txid, BroadcastError> {
        let mut state = self.state();
        let spends: Vec<OutPoint> = tx.input.iter().map(|input| input.previous_output).collect();
        let replaced = state.ledger.family(&spends, &[]);
        state.ledger.remove(&replaced);
        let accepted = state.ledger.accept(tx.clone(), Vec::new(), Vec::new());
        accepted.map_err(|reason| BroadcastError::Rejected(reason.into()))
    }

    /// Lets a transaction of the mempool go, and whatever builds on it, as a node does whose mempool is full. Their txids.
    pub fn evict(&self, txid: Txid) -> HashSet<Txid> {
        let mut state = self.state();
        let family = state.ledger.family(&[], &[txid]);
        state.ledger.remove(&family);
        family
    }

    /// What a node would have said of its mempool since the last call, in order; nothing at the first one.
    pub fn mempool_changes(&self) -> Vec<MempoolChange> {
        self.state().ledger.changes.take()
    }

    pub(super) fn mempool_listing(&self) -> MempoolListing {
        let state = self.state();
        let mempool = state.ledger.mempool().iter();
        MempoolListing {
            tip: state.ledger.tip(),
            is_settled: true,
            sequence: state.ledger.changes.next(),
            txids: mempool.map(|pending| pending.txid).collect(),
        }
    }

    /// The chain's clock stands at its tip's time, and whatever waits came just now.
    pub(super) fn entered(&self, txids: &[Txid]) -> Vec<Option<u64>> {
        let state = self.state();
        let tip = state.ledger.tip();
        let block = state.ledger.stored(tip.hash);
        let time = block.map(|block| u64::from(block.data.block.header.time));
        let mempool = state.ledger.mempool().iter();
        let here: HashSet<Txid> = mempool.map(|pending| pending.txid).collect();
        let entered = txids.iter();
        entered
            .map(|txid| time.filter(|_| here.contains(txid)))
            .collect()
    }

    pub(super) fn raw_transactions(&self, txids: &[Txid]) -> Vec<Option<Vec<u8>>> {
        let state = self.state();
        let raw = |txid: &Txid| {
            let mut mempool = state.ledger.mempool().iter();
            let pending = mempool.find(|pending| pending.txid == *txid)?;
            Some(serialize(&pending.tx))
        };
        txids.iter().map(raw).collect()
    }

    pub(super) fn unspent(&self, outpoints: &[OutPoint]) -> Vec<Option<ScriptBuf>> {
        let state = self.state();
        let scripts = outpoints.iter();
        let scripts = scripts.map(|o| Some(state.ledger.confirmed(o)?.txout.script_pubkey.clone()));
        scripts.collect()
    }
}

impl State {
    /// Has the changes of the mempool wait until blocks have come and gone; what is in it now, if they did not wait before.
    pub(super) fn hold_changes(&mut self) -> Option<Vec<Txid>> {
        let mempool = self.ledger.mempool().iter();
        let before = mempool.map(|pending| pending.txid).collect();
        self.ledger.changes.hold().then_some(before)
    }

    /// Tells what became of the mempool since [`State::hold_changes`] while these blocks went and came.
    pub(super) fn tell_changes(
        &mut self,
        before: Option<Vec<Txid>>,
        disconnected: &[BlockId],
        connected: &[BlockId],
    ) {
        let Some(before) = before else {
            return;
        };
        let blocks = connected.iter().map(|id| {
            let block = self.ledger.stored(id.hash);
            let transactions = block.map(|block| block.transactions.iter());
            let txids = transactions.into_iter().flatten().map(|p| p.txid);
            (id.hash, txids.collect())
        });
        let blocks: Vec<_> = blocks.collect();
        let mut changes = std::mem::take(&mut self.ledger.changes);
        let after = self.ledger.mempool().iter();
        let after: Vec<_> = after.map(|pending| (pending.txid, &pending.tx)).collect();
        let disconnected = disconnected.iter().map(|id| id.hash);
        changes.replayed(disconnected, blocks.into_iter(), &before, &after);
        self.ledger.changes = changes;
    }
}
