//! What an update changes, checked and computed from a snapshot before anything is written.
//!
//! Spends of what the update itself creates or gives back are settled first ([`live`](super::live)), the others through
//! the locator, or the marks and the heights that created what they spend ([`locator`]).

use bitcoin::{BlockHash, OutPoint};
use rayon::prelude::*;

use super::digest::{DIGEST_START, roll_tweaks_hash, tweaks_hash};
use super::error::{Fault, StoreError};
use super::heads::{Commitments, Heads, Roll};
use super::live::{Revived, match_spends};
use super::locator::{self, Found, OlderSpend};
use super::meta::{Deferred, Keep, Meta, TweakForm};
use super::position::OutputPosition;
use super::record::{BlockRecord, Update};
use super::schema::{
    BLOCK_ITEMS_MAX, BLOCK_OUTPUTS_MAX, BlockRow, Ends, FILTER_BYTES_MAX, LocatorKey, OUTPUTS_MAX,
    Span, SpendItem, TRANSACTIONS_MAX, VALUE_MAX, VOUT_MAX, hash_of_mark, locator_key,
};
use super::sections::{self, Chain, Sections};
use super::states::{self, StateChange};
use super::view::{Full, View};
use crate::BlockId;
use crate::curve::TweakPoint;

/// Every change of an update, in the order it is written in.
pub(super) struct Plan<'a> {
    /// Blocks that go, newest first.
    pub(super) disconnect: Vec<BlockId>,
    /// Blocks that come.
    pub(super) connect: &'a [BlockRecord],
    /// What the index keeps of the records.
    pub(super) keep: Keep,
    /// How the index stores tweaks: if with multiples, every record has them.
    pub(super) tweak_form: TweakForm,
    /// Column lengths before the update.
    pub(super) old: Ends,
    /// Column lengths at the fork.
    pub(super) cut: Ends,
    /// Column lengths after the update.
    pub(super) new: Ends,
    /// Directory row per connected block.
    pub(super) rows: Vec<BlockRow>,
    /// Digest per connected block.
    pub(super) digests: Vec<[u8; 32]>,
    /// Heads per connected block; none below the start of the chains.
    pub(super) heads: Vec<Option<Heads>>,
    /// What binds the sections of each connected block.
    pub(super) sections: Vec<Sections>,
    /// What becomes of state ids.
    pub(super) states: StateChange,
    /// From which height on spenders are known before the update, and after it; `None` if all are.
    pub(super) old_spenders_from: Option<u32>,
    pub(super) spenders_from: Option<u32>,
    /// Per connected block what it spends, in block order.
    pub(super) spends: Vec<Vec<SpendItem>>,
    /// Positions of outputs that become unspent, ascending.
    pub(super) clear: Vec<OutputPosition>,
    /// Positions of outputs that become spent, ascending.
    pub(super) set: Vec<OutputPosition>,
    /// Locators that go, ascending.
    pub(super) forget: Vec<LocatorKey>,
    /// Locators that come, ascending; after `forget`, since a transaction may come back at the same position.
    pub(super) locate: Vec<LocatorKey>,
    /// What is left of the locator after the update; `None` if nothing is, nor was.
    pub(super) deferred: Option<Deferred>,
    /// Per connected block the marks of its outputs, where locators are left for later.
    pub(super) marks: Vec<Vec<u64>>,
    /// Tip at the fork.
    pub(super) fork: Option<BlockId>,
}

impl<'a> Plan<'a> {
    /// Checks an update against the index and computes what it changes.
    ///
    /// To `defer` the locators, the update must disconnect nothing and every spend say which height created what it
    /// spends. If the index has deferred some already, it must.
    pub(super) fn new(view: &View, update: Update<'a>, defer: bool) -> Result<Self, Fault> {
        debug_assert!(match defer {
            true => update.disconnect == 0,
            false => view.deferred.is_none(),
        });
        let mut plan = Self::disconnect(view, update)?;
        if defer {
            let outputs = view.ends.outputs;
            plan.deferred = view.deferred.or(Some(Deferred {
                marked: outputs,
                located: outputs,
            }));
        }
        check_chain(view.meta.first_height, plan.fork, update.connect)?;
        let mut records = update.connect.iter();
        records.try_for_each(|record| check_record(record, &view.meta))?;
        plan.lay_out()?;
        if let Some(full) = view.kept() {
            let revived = plan.revive(view, full)?;
            plan.spend(view, full, &revived)?;
            plan.states =
                StateChange::new(view, full, &plan.disconnect, update.connect, &plan.rows)?;
            plan.know_spenders(view.meta.first_height);
        }
        plan.roll_digests(view)?;
        plan.roll_heads(view)?;
        plan.bind_sections(view)?;
        Ok(plan)
    }

    /// Whether nothing changes.
    pub(super) fn is_empty(&self) -> bool {
        self.disconnect.is_empty() && self.connect.is_empty()
    }

    /// The tip after the update.
    pub(super) fn tip(&self) -> Option<BlockId> {
        self.connect
            .last()
            .map_or(self.fork, |record| Some(record.id))
    }

    /// Finds the fork, and makes sure that the blocks above it may go.
    fn disconnect(view: &View, update: Update<'a>) -> Result<Self, Fault> {
        let mut blocks = Vec::new();
        let mut tip = view.tip();
        let mut cut = view.ends;
        if update.disconnect > view.undoable() {
            return Err(StoreError::UndoExhausted {
                file: view.file.to_path_buf(),
                disconnect: update.disconnect,
                available: view.undoable(),
            }
            .into());
        }
        while blocks.len() < update.disconnect as usize {
            let Some(id) = tip else { break };
            let row = view.present_row(id.height)?;
            cut = row.starts();
            blocks.push(id);
            tip = match id.height.checked_sub(1) {
                Some(height) if id.height > view.meta.first_height => {
                    let parent = view.present_row(height)?;
                    if parent.ends() != cut {
                        let reason = "ranges do not meet those of the next block";
                        return Err(Fault::row("blocks", height, reason));
                    }
                    Some(parent.id(height))
                }
                _ if cut == Ends::default() => None,
                _ => {
                    return Err(Fault::row(
                        "blocks",
                        id.height,
                        "rows of the first block at wrong positions",
                    ));
                }
            };
        }
        Ok(Self {
            disconnect: blocks,
            connect: update.connect,
            keep: view.meta.keep,
            tweak_form: view.meta.tweak_form,
            old: view.ends,
            cut,
            new: cut,
            rows: Vec::new(),
            digests: Vec::new(),
            heads: Vec::new(),
            sections: Vec::new(),
            states: StateChange::default(),
            old_spenders_from: view.spenders_from,
            spenders_from: view.spenders_from,
            spends: Vec::new(),
            clear: Vec::new(),
            set: Vec::new(),
            forget: Vec::new(),
            locate: Vec::new(),
            deferred: None,
            marks: Vec::new(),
            fork: tip,
        })
    }

    /// Undoes what the disconnected blocks did to outputs: what they spent lives again, what they created is gone.
    fn revive(&mut self, view: &View, full: &Full) -> Result<Vec<Revived>, Fault> {
        let mut revived = Vec::new();
        let mut held = view.held(full)?;
        for id in &self.disconnect {
            let row = view.present_row(id.height)?;
            let txids = view.txids(full, row.transactions)?;
            for (position, output) in row.output_positions().zip(view.outputs_of(full, &row)?) {
                if let Some(&txid) = txids.get(output.index).filter(|_| !output.spent) {
                    let vout = output.item.vout;
                    let outpoint = OutPoint { txid, vout };
                    self.forget
                        .push(view.meta.locator.locate(&outpoint, position));
                }
            }
            for position in view.spent_by(full, &row)? {
                if position.0 < self.cut.outputs {
                    let output = held.get(position)?;
                    revived.push(Revived {
                        outpoint: output.outpoint(),
                        position,
                        key_prefix: output.item.key_prefix(),
                    });
                }
            }
        }
        Ok(revived)
    }

    /// Gives every connected block its ranges, but for the foreign spends, which are not known yet.
    fn lay_out(&mut self) -> Result<(), Fault> {
        let mut ends = self.cut;
        for record in self.connect {
            let span = |first, count: usize| Span {
                first,
                count: match self.keep {
                    Keep::Full => count as u32,
                    Keep::Tweaks => 0,
                },
            };
            let new_utxos_filter = span(ends.filter_bytes, record.new_utxos_filter.len());
            let row = BlockRow {
                header: record.header,
                hash: record.id.hash,
                transactions: Span {
                    first: ends.transactions,
                    count: record.transactions.len() as u32,
                },
                outputs: span(ends.outputs, record.outputs.len()),
                spends: span(ends.spends, record.spends.len()),
                foreign: span(ends.foreign, 0),
                new_utxos_filter,
                spent_filter: span(new_utxos_filter.end(), record.spent_filter.len()),
            };
            ends = row.ends();
            if ends.transactions > TRANSACTIONS_MAX || ends.outputs > OUTPUTS_MAX {
                return Err(record.invalid("the index is full").into());
            }
            self.rows.push(row);
        }
        self.new = ends;
        Ok(())
    }

    /// Resolves every spend of the connected blocks.
    fn spend(&mut self, view: &View, full: &Full, revived: &[Revived]) -> Result<(), Fault> {
        let hasher = &view.meta.locator;
        let matched = match_spends(self.connect, &self.rows, revived, hasher)?;
        let foreign = |record: &BlockRecord| vec![SpendItem::Foreign; record.spends.len()];
        self.spends = self.connect.iter().map(foreign).collect();
        for taken in &matched.taken {
            self.note(taken.block, taken.index, taken.position);
            // Spent before, spent again: neither bit nor locator changes.
            if !taken.again {
                self.set.push(taken.position);
            }
        }

        let first_height = view.meta.first_height;
        let may_be_here = |spend: &OlderSpend<'_>| {
            let created = spend.row.created;
            created.is_none_or(|height| height >= first_height)
        };
        let mut older = matched.older;
        older.retain(may_be_here);
        let mut found = Vec::new();
        if self.deferred.is_some() {
            (found, older) = locator::find_by_marks(view, full, older)?;
        }
        let end = OutputPosition(self.cut.outputs);
        let located = locator::find_by_locator(view, full, older, end)?;
        found.extend(located);
        // A node never serves a chain that spends twice; should it come, the first spend counts, as it does when the
        // two come in different updates.
        found.par_sort_unstable_by_key(|found| {
            (found.position, found.spend.block, found.spend.index)
        });
        found.dedup_by_key(|found| found.position);
        for found in found {
            let Found {
                position, spend, ..
            } = found;
            if let Some(record) = self.connect.get(spend.block) {
                record.check_spent_key(spend.row, found.key_prefix)?;
            }
            self.note(spend.block, spend.index, position);
            self.set.push(position);
            if self
                .deferred
                .is_none_or(|deferred| position.0 < deferred.located)
            {
                self.forget
                    .push(locator_key(hash_of_mark(spend.mark), position));
            }
        }
        self.clear = matched.cleared;
        match self.deferred {
            Some(_) => self.marks = matched.marks,
            None => self.locate = matched.unspent,
        }
        self.clear.par_sort_unstable();
        self.set.par_sort_unstable();
        self.forget.par_sort_unstable();
        self.locate.par_sort_unstable();

        let mut end = self.cut.foreign;
        for (row, items) in self.rows.iter_mut().zip(&self.spends) {
            let foreign = items.iter().filter(|item| **item == SpendItem::Foreign);
            row.foreign = Span {
                first: end,
                // At most as many as spends.
                count: foreign.count() as u32,
            };
            end = row.foreign.end();
        }
        self.new.foreign = end;
        Ok(())
    }

    /// Takes note of what a spend is of.
    fn note(&mut self, block: usize, index: usize, position: OutputPosition) {
        let items = self.spends.get_mut(block);
        if let Some(item) = items.and_then(|items| items.get_mut(index)) {
            *item = SpendItem::Held(position);
        }
    }

    /// Notes from where on spenders are known: behind the last block of which they are not.
    fn know_spenders(&mut self, first_height: u32) {
        let above = |id: BlockId| id.height.saturating_add(1);
        let fork = self.fork.map_or(first_height, above);
        let from = self.old_spenders_from.map(|from| from.min(fork));
        let unknown = self.connect.iter().rfind(|record| !record.has_spenders());
        let from = unknown.map(|record| above(record.id)).or(from);
        self.spenders_from = from.filter(|from| *from > first_height);
    }

    fn roll_heads(&mut self, view: &View) -> Result<(), Fault> {
        let keep = self.keep;
        let commitments: Vec<Commitments> = self
            .connect
            .par_iter()
            .map(|record| Commitments::of(record, keep))
            .collect();
        let mut roll = Roll::from(view, self.fork)?;
        let own = self.connect.iter().zip(&commitments);
        self.heads = own
            .map(|(record, commitments)| roll.next(record.id.height, commitments))
            .collect();
        Ok(())
    }

    fn bind_sections(&mut self, view: &View) -> Result<(), Fault> {
        let keep = self.keep;
        let hashes: Vec<_> = self
            .connect
            .par_iter()
            .map(|record| sections::hashes_of(record, keep))
            .collect();
        let mut chain = Chain::from(view, self.fork)?;
        let own = self.connect.iter().zip(hashes);
        self.sections = own
            .map(|(record, hashes)| chain.next(record.id.height, &record.id.hash, hashes))
            .collect();
        Ok(())
    }

    fn roll_digests(&mut self, view: &View) -> Result<(), Fault> {
        let mut digest = match self.fork {
            Some(fork) => view
                .digest(fork.height)?
                .ok_or_else(|| Fault::row("digest", fork.height, "missing"))?,
            None => DIGEST_START,
        };
        let hashes: Vec<[u8; 32]> = self
            .connect
            .par_iter()
            .map(|record| {
                let tweaks = record.transactions.iter();
                tweaks_hash(tweaks.map(|row| TweakPoint::from_bytes(row.tweak).to_compressed()))
            })
            .collect();
        for (record, tweaks_hash) in self.connect.iter().zip(hashes) {
            digest = roll_tweaks_hash(&digest, &record.id.hash, &tweaks_hash);
            self.digests.push(digest);
        }
        Ok(())
    }
}

/// Each block is the child of the one before.
fn check_chain(
    first_height: u32,
    fork: Option<BlockId>,
    connect: &[BlockRecord],
) -> Result<(), StoreError> {
    let mut parent = fork;
    for record in connect {
        let block = record.id;
        match parent {
            None if block.height != first_height => {
                return Err(StoreError::WrongStart {
                    block,
                    first_height,
                });
            }
            Some(parent)
                if parent.height.checked_add(1) != Some(block.height)
                    || parent.hash != record.header.prev_blockhash =>
            {
                return Err(StoreError::NotAChild { block, parent });
            }
            _ => parent = Some(block),
        }
    }
    Ok(())
}

/// The rows of a record fit each other and the index.
fn check_record(record: &BlockRecord, meta: &Meta) -> Result<(), StoreError> {
    if record.header.block_hash() != record.id.hash {
        let found: BlockHash = record.header.block_hash();
        return Err(record.invalid(format!("its header hashes to {found}")));
    }
    let items = [record.transactions.len(), record.spends.len()];
    if items.iter().any(|&count| count > BLOCK_ITEMS_MAX as usize)
        || record.outputs.len() > BLOCK_OUTPUTS_MAX as usize
    {
        return Err(record.invalid("more items than a block can have"));
    }
    let filters = [record.new_utxos_filter.len(), record.spent_filter.len()];
    if filters.iter().any(|&len| len > FILTER_BYTES_MAX as usize) {
        return Err(record.invalid("a filter longer than a block's can be"));
    }
    let transactions = record.transactions.len();
    let expected = match meta.tweak_form.has_multiples() {
        true => transactions,
        false => 0,
    };
    if record.multiples.len() != expected {
        let found = record.multiples.len();
        let reason = format!("{found} multiples where {expected} were expected");
        return Err(record.invalid(reason));
    }
    if let Some(output) = record
        .outputs
        .iter()
        .find(|output| output.transaction as usize >= transactions)
    {
        let reason = format!(
            "an output of transaction {} of {transactions}",
            output.transaction
        );
        return Err(record.invalid(reason));
    }
    if let Some(output) = record
        .outputs
        .iter()
        .find(|output| output.value_sat > VALUE_MAX || output.vout > VOUT_MAX)
    {
        let reason = format!(
            "an output with vout {} and {} satoshi, more than a block or all bitcoin can be",
            output.vout, output.value_sat
        );
        return Err(record.invalid(reason));
    }
    if !record
        .outputs
        .is_sorted_by(|a, b| (a.transaction, a.vout) < (b.transaction, b.vout))
    {
        return Err(record.invalid("outputs are not in block order"));
    }
    states::check(record.id, &record.spends, &record.states)
}
