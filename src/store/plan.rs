//! What an update changes, checked and computed from a snapshot before anything is written.
//!
//! The outputs that the update's own blocks create, and those that its disconnected blocks had spent, wait in maps;
//! a spend takes them out there. So an output created and spent within one update never reaches the locator, and
//! what does reach it goes there sorted.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use bitcoin::{BlockHash, OutPoint};
use rayon::prelude::*;

use super::digest::{DIGEST_START, roll_digest};
use super::error::{Fault, StoreError};
use super::meta::{Keep, Meta, TweakForm};
use super::record::{BlockRecord, SpendRow, Update};
use super::schema::{
    BLOCK_ITEMS_MAX, BLOCK_OUTPUTS_MAX, BlockRow, Ends, FILTER_BYTES_MAX, LocatorHasher,
    LocatorKey, OUTPUTS_MAX, Span, SpendItem, TRANSACTIONS_MAX, VALUE_MAX, VOUT_MAX, locator_key,
};
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
    /// How the index stores tweaks.
    pub(super) tweak_form: TweakForm,
    /// Whether the index has multiples, and with it every record.
    pub(super) multiples: bool,
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
    /// Per connected block what it spends, in block order.
    pub(super) spends: Vec<Vec<SpendItem>>,
    /// Positions of outputs that become unspent, ascending.
    pub(super) clear: Vec<u64>,
    /// Positions of outputs that become spent, ascending.
    pub(super) set: Vec<u64>,
    /// Locators that go, ascending.
    pub(super) forget: Vec<LocatorKey>,
    /// Locators that come, ascending; after `forget`, since a transaction may come back at the same position.
    pub(super) locate: Vec<LocatorKey>,
    /// Tip at the fork.
    fork: Option<BlockId>,
}

impl<'a> Plan<'a> {
    /// Checks an update against the index and computes what it changes.
    pub(super) fn new(view: &View, update: Update<'a>) -> Result<Self, Fault> {
        let mut plan = Self::disconnect(view, update)?;
        check_chain(view.meta.first_height, plan.fork, update.connect)?;
        let mut records = update.connect.iter();
        records.try_for_each(|record| check_record(record, &view.meta))?;
        plan.lay_out()?;
        if let Some(full) = view.kept() {
            let mut live = Live::default();
            plan.revive(view, full, &mut live)?;
            plan.spend(view, full, &mut live)?;
            plan.finish(&view.meta.locator, live);
        }
        plan.roll_digests(view)?;
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
            multiples: view.meta.multiples,
            old: view.ends,
            cut,
            new: cut,
            rows: Vec::new(),
            digests: Vec::new(),
            spends: Vec::new(),
            clear: Vec::new(),
            set: Vec::new(),
            forget: Vec::new(),
            locate: Vec::new(),
            fork: tip,
        })
    }

    /// Undoes what the disconnected blocks did to outputs: what they spent lives again, what they created is gone.
    fn revive(&mut self, view: &View, full: &Full, live: &mut Live) -> Result<(), Fault> {
        let mut held = view.held(full);
        for id in &self.disconnect {
            let row = view.present_row(id.height)?;
            let txids = view.txids(full, row.transactions)?;
            for (position, output) in row.outputs.range().zip(view.outputs_of(full, &row)?) {
                if let Some(&txid) = txids.get(output.index).filter(|_| !output.spent) {
                    let vout = output.item.vout;
                    let outpoint = OutPoint { txid, vout };
                    self.forget
                        .push(view.meta.locator.locate(&outpoint, position));
                }
            }
            for position in view.spent_by(full, &row)? {
                if position < self.cut.outputs {
                    let output = held.get(position)?.spend();
                    let SpendRow {
                        outpoint,
                        key_prefix,
                        ..
                    } = output;
                    live.revived.insert(outpoint, (position, key_prefix));
                }
            }
        }
        Ok(())
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
                return Err(invalid(record, "the index is full").into());
            }
            self.rows.push(row);
        }
        self.new = ends;
        Ok(())
    }

    /// Resolves every spend of the connected blocks.
    fn spend(&mut self, view: &View, full: &Full, live: &mut Live) -> Result<(), Fault> {
        // Spends of what may be in the index.
        let mut older = Vec::new();
        for ((block, record), row) in self.connect.iter().enumerate().zip(&self.rows) {
            for ((position, outpoint), output) in row
                .outputs
                .range()
                .zip(outpoints(record))
                .zip(&record.outputs)
            {
                match live.created.entry(outpoint) {
                    Entry::Vacant(entry) => entry.insert((position, prefix(&output.key))),
                    Entry::Occupied(_) => {
                        let reason = format!("output {outpoint} exists already");
                        return Err(invalid(record, reason).into());
                    }
                };
            }
            let mut items = Vec::with_capacity(record.spends.len());
            for (index, spend) in record.spends.iter().enumerate() {
                let item = if let Some((position, key)) = live.created.remove(&spend.outpoint) {
                    check_key(record, spend, key)?;
                    self.set.push(position);
                    SpendItem::Held(position)
                } else if let Some((position, key)) = live.revived.remove(&spend.outpoint) {
                    // Spent before, spent again: neither bit nor locator changes.
                    check_key(record, spend, key)?;
                    SpendItem::Held(position)
                } else {
                    let first_height = view.meta.first_height;
                    if spend.created.is_none_or(|height| height >= first_height) {
                        older.push(OlderSpend {
                            hash: view.meta.locator.hash(&spend.outpoint),
                            block,
                            index,
                            row: spend,
                        });
                    }
                    SpendItem::Foreign
                };
                items.push(item);
            }
            self.spends.push(items);
        }

        let mut found = look_up(view, full, &mut older, self.cut.outputs)?;
        // A node never serves a chain that spends twice; should it come, the first spend counts, as it does when the
        // two come in different updates.
        found.dedup_by_key(|&mut (position, ..)| position);
        for (position, spend, key) in found {
            if let Some(record) = self.connect.get(spend.block) {
                check_key(record, spend.row, key)?;
            }
            let items = self.spends.get_mut(spend.block);
            if let Some(item) = items.and_then(|items| items.get_mut(spend.index)) {
                *item = SpendItem::Held(position);
            }
            self.set.push(position);
            self.forget.push(locator_key(spend.hash, position));
        }

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

    fn roll_digests(&mut self, view: &View) -> Result<(), Fault> {
        let mut digest = match self.fork {
            Some(fork) => view
                .digest(fork.height)?
                .ok_or_else(|| Fault::row("digest", fork.height, "missing"))?,
            None => DIGEST_START,
        };
        for record in self.connect {
            let rows = record.transactions.iter();
            let tweaks = rows.map(|row| TweakPoint::from_bytes(row.tweak).to_compressed());
            digest = roll_digest(&digest, &record.id.hash, tweaks);
            self.digests.push(digest);
        }
        Ok(())
    }

    fn finish(&mut self, locator: &LocatorHasher, live: Live) {
        self.clear = live
            .revived
            .values()
            .map(|(position, _)| *position)
            .collect();
        let survivors: Vec<_> = live.created.into_iter().chain(live.revived).collect();
        self.locate = survivors
            .par_iter()
            .map(|(outpoint, (position, _))| locator.locate(outpoint, *position))
            .collect();
        self.clear.par_sort_unstable();
        self.set.par_sort_unstable();
        self.forget.par_sort_unstable();
        self.locate.par_sort_unstable();
    }
}

/// Unspent outputs that are not in the locator, by outpoint with their positions and the first bytes of their keys.
#[derive(Default)]
struct Live {
    /// Created by the connected blocks.
    created: HashMap<OutPoint, (u64, [u8; 8])>,
    /// Unspent again because the block that spent them is disconnected.
    revived: HashMap<OutPoint, (u64, [u8; 8])>,
}

/// A spend of something that no block of the update created.
#[derive(Clone, Copy)]
struct OlderSpend<'a> {
    hash: u64,
    /// Index of the spending block in the update.
    block: usize,
    /// Index of the spend in its block.
    index: usize,
    row: &'a SpendRow,
}

/// Finds the unspent outputs below position `end` that are spent, ascending by position, then by spend, with the first
/// bytes of their keys.
///
/// First the locator in its own order, then the columns in theirs: in a large batch neighbours share pages, so that
/// each is read once.
fn look_up<'s>(
    view: &View,
    full: &Full,
    spends: &'s mut [OlderSpend<'s>],
    end: u64,
) -> Result<Vec<Found<'s>>, Fault> {
    spends.par_sort_unstable_by_key(|spend| spend.hash);
    let spends: &[OlderSpend<'_>] = spends;
    let mut located = spends
        .par_chunks(1024)
        .map(|spends| {
            let mut located = Vec::with_capacity(spends.len());
            for spend in spends {
                view.located(full, spend.hash, |position| {
                    if position < end {
                        located.push((position, spend));
                    }
                })?;
            }
            Ok(located)
        })
        .collect::<Result<Vec<_>, Fault>>()?
        .concat();
    located.par_sort_unstable_by_key(|&(position, spend)| (position, spend.block, spend.index));
    let found = located
        .par_chunks(1024)
        .map(|located| {
            let mut outputs = view.held(full);
            let mut found = Vec::with_capacity(located.len());
            for &(position, spend) in located {
                let output = outputs.get(position)?;
                if output.outpoint() == spend.row.outpoint {
                    found.push((position, spend, prefix(&output.item.key)));
                }
            }
            Ok(found)
        })
        .collect::<Result<Vec<_>, Fault>>()?;
    Ok(found.concat())
}

/// Position of an output, who spends it, and the first bytes of its key.
type Found<'s> = (u64, &'s OlderSpend<'s>, [u8; 8]);

fn prefix(key: &[u8; 32]) -> [u8; 8] {
    let [k0, k1, k2, k3, k4, k5, k6, k7, ..] = *key;
    [k0, k1, k2, k3, k4, k5, k6, k7]
}

/// A spend says of its output what the index does: the index stores it only once.
fn check_key(record: &BlockRecord, spend: &SpendRow, key: [u8; 8]) -> Result<(), StoreError> {
    if spend.key_prefix == key {
        return Ok(());
    }
    let reason = format!(
        "its spend of {} says that the key begins with {:016x}, the index has {:016x}",
        spend.outpoint,
        u64::from_be_bytes(spend.key_prefix),
        u64::from_be_bytes(key)
    );
    Err(invalid(record, reason))
}

/// Outpoints of a record's outputs, in order.
fn outpoints(record: &BlockRecord) -> impl Iterator<Item = OutPoint> {
    record.outputs.iter().map(|output| OutPoint {
        // In range: `check_record` has seen the record.
        txid: record.transactions[output.transaction as usize].txid,
        vout: output.vout,
    })
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
        return Err(invalid(record, format!("its header hashes to {found}")));
    }
    let items = [record.transactions.len(), record.spends.len()];
    if items.iter().any(|&count| count > BLOCK_ITEMS_MAX as usize)
        || record.outputs.len() > BLOCK_OUTPUTS_MAX as usize
    {
        return Err(invalid(record, "more items than a block can have"));
    }
    let filters = [record.new_utxos_filter.len(), record.spent_filter.len()];
    if filters.iter().any(|&len| len > FILTER_BYTES_MAX as usize) {
        return Err(invalid(record, "a filter longer than a block's can be"));
    }
    let transactions = record.transactions.len();
    let expected = if meta.multiples { transactions } else { 0 };
    if record.multiples.len() != expected {
        let found = record.multiples.len();
        let reason = format!("{found} multiples where {expected} were expected");
        return Err(invalid(record, reason));
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
        return Err(invalid(record, reason));
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
        return Err(invalid(record, reason));
    }
    if !record
        .outputs
        .is_sorted_by(|a, b| (a.transaction, a.vout) < (b.transaction, b.vout))
    {
        return Err(invalid(record, "outputs are not in block order"));
    }
    Ok(())
}

fn invalid(record: &BlockRecord, reason: impl Into<String>) -> StoreError {
    StoreError::InvalidRecord {
        block: record.id,
        reason: reason.into(),
    }
}
