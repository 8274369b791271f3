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
use super::record::{BlockRecord, Update};
use super::schema::{
    BLOCK_ITEMS_MAX, BlockRow, Ends, FILTER_BYTES_MAX, LocatorHasher, LocatorKey, OUTPUTS_MAX,
    Span, TRANSACTIONS_MAX, locator_key,
};
use super::snapshot::View;
use crate::BlockId;

/// Every change of an update, in the order it is written in.
pub(super) struct Plan<'a> {
    /// Blocks that go, newest first.
    pub(super) disconnect: Vec<BlockId>,
    /// Blocks that come.
    pub(super) connect: &'a [BlockRecord],
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
    /// Height and positions, ascending, for the connected blocks that can be disconnected later.
    pub(super) undo: Vec<(u32, Vec<u64>)>,
    /// Undo rows below this height go.
    pub(super) undo_from: u32,
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
    pub(super) fn new(view: &View, update: Update<'a>, undo_depth: u32) -> Result<Self, Fault> {
        let mut plan = Self::disconnect(view, update)?;
        check_chain(view.meta.first_height, plan.fork, update.connect)?;
        let multiples = view.meta.multiples;
        let mut records = update.connect.iter();
        records.try_for_each(|record| check_record(record, multiples))?;
        let mut live = Live::default();
        plan.revive(view, &mut live)?;
        plan.lay_out()?;
        plan.spend(view, &mut live, undo_depth)?;
        plan.roll_digests(view)?;
        plan.finish(&view.meta.locator, live);
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

    /// Finds the fork, and makes sure that there is an undo row for every block above it.
    fn disconnect(view: &View, update: Update<'a>) -> Result<Self, Fault> {
        let mut blocks = Vec::new();
        let mut tip = view.tip();
        let mut cut = view.ends;
        for disconnected in 0..update.disconnect {
            let exhausted = || StoreError::UndoExhausted {
                file: view.file.to_path_buf(),
                disconnect: update.disconnect,
                available: disconnected,
            };
            let id = tip.ok_or_else(exhausted)?;
            if view.undo.get(id.height)?.is_none() {
                return Err(exhausted().into());
            }
            let row = view
                .block_row(id.height)?
                .ok_or_else(|| Fault::row("blocks", id.height, "missing"))?;
            cut = row.starts();
            blocks.push(id);
            tip = match id.height.checked_sub(1) {
                Some(height) if id.height > view.meta.first_height => {
                    let parent = view
                        .block_row(height)?
                        .ok_or_else(|| Fault::row("blocks", height, "missing"))?;
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
            multiples: view.meta.multiples,
            old: view.ends,
            cut,
            new: cut,
            rows: Vec::new(),
            digests: Vec::new(),
            undo: Vec::new(),
            undo_from: 0,
            clear: Vec::new(),
            set: Vec::new(),
            forget: Vec::new(),
            locate: Vec::new(),
            fork: tip,
        })
    }

    /// Undoes what the disconnected blocks did to outputs: what they spent lives again, what they created is gone.
    fn revive(&mut self, view: &View, live: &mut Live) -> Result<(), Fault> {
        let mut outpoints = view.outpoints();
        for id in &self.disconnect {
            let row = view
                .block_row(id.height)?
                .ok_or_else(|| Fault::row("blocks", id.height, "missing"))?;
            let txids = view.txids(row.transactions)?;
            for (position, output) in row.outputs.range().zip(view.outputs_of(&row)?) {
                if let Some(&txid) = txids.get(output.index).filter(|_| !output.spent) {
                    let vout = output.item.vout;
                    let outpoint = OutPoint { txid, vout };
                    self.forget
                        .push(view.meta.locator.locate(&outpoint, position));
                }
            }
            let spent = view
                .undo(id.height)?
                .ok_or_else(|| Fault::row("undo", id.height, "missing"))?;
            for position in spent {
                if position >= self.old.outputs {
                    return Err(Fault::row(
                        "undo",
                        id.height,
                        "position beyond the last output",
                    ));
                }
                if position < self.cut.outputs {
                    live.revived.insert(outpoints.get(position)?, position);
                }
            }
        }
        Ok(())
    }

    /// Gives every connected block its ranges.
    fn lay_out(&mut self) -> Result<(), Fault> {
        let mut ends = self.cut;
        for record in self.connect {
            let span = |first, count: usize| Span {
                first,
                count: count as u32,
            };
            let new_utxos_filter = span(ends.filter_bytes, record.new_utxos_filter.len());
            let row = BlockRow {
                header: record.header,
                hash: record.id.hash,
                transactions: span(ends.transactions, record.transactions.len()),
                outputs: span(ends.outputs, record.outputs.len()),
                spends: span(ends.spends, record.spends.len()),
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
    fn spend(&mut self, view: &View, live: &mut Live, undo_depth: u32) -> Result<(), Fault> {
        // Per block the positions it spends.
        let mut spent = vec![Vec::new(); self.connect.len()];
        // Spends of what may be in the index.
        let mut older = Vec::new();
        for ((block, record), row) in self.connect.iter().enumerate().zip(&self.rows) {
            for (position, outpoint) in row.outputs.range().zip(outpoints(record)) {
                match live.created.entry(outpoint) {
                    Entry::Vacant(entry) => entry.insert(position),
                    Entry::Occupied(_) => {
                        let reason = format!("output {outpoint} exists already");
                        return Err(invalid(record, reason).into());
                    }
                };
            }
            for spend in &record.spends {
                if let Some(position) = live.created.remove(&spend.outpoint) {
                    spent[block].push(position);
                    self.set.push(position);
                } else if let Some(position) = live.revived.remove(&spend.outpoint) {
                    // Spent before, spent again: neither bit nor locator changes.
                    spent[block].push(position);
                } else {
                    older.push(OlderSpend {
                        hash: view.meta.locator.hash(&spend.outpoint),
                        block,
                        outpoint: spend.outpoint,
                    });
                }
            }
        }

        let mut found = look_up(view, &mut older, self.cut.outputs)?;
        // A node never serves a chain that spends twice; should it come, the first spend counts, as it does when the
        // two come in different updates.
        found.dedup_by_key(|&mut (position, _)| position);
        for (position, spend) in found {
            spent[spend.block].push(position);
            self.set.push(position);
            self.forget.push(locator_key(spend.hash, position));
        }

        let tip = self.tip().map_or(0, |tip| tip.height);
        // The last `undo_depth` heights: tip - undo_depth + 1 ..= tip.
        self.undo_from = (u64::from(tip) + 1).saturating_sub(u64::from(undo_depth)) as u32;
        for (record, mut positions) in self.connect.iter().zip(spent) {
            if record.id.height >= self.undo_from {
                positions.sort_unstable();
                self.undo.push((record.id.height, positions));
            }
        }
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
            let tweaks = record.transactions.iter().map(|row| &row.tweak);
            digest = roll_digest(&digest, &record.id.hash, tweaks);
            self.digests.push(digest);
        }
        Ok(())
    }

    fn finish(&mut self, locator: &LocatorHasher, live: Live) {
        self.clear = live.revived.values().copied().collect();
        let survivors: Vec<_> = live.created.into_iter().chain(live.revived).collect();
        self.locate = survivors
            .par_iter()
            .map(|(outpoint, position)| locator.locate(outpoint, *position))
            .collect();
        self.clear.par_sort_unstable();
        self.set.par_sort_unstable();
        self.forget.par_sort_unstable();
        self.locate.par_sort_unstable();
    }
}

/// Unspent outputs that are not in the locator, by outpoint with their positions.
#[derive(Default)]
struct Live {
    /// Created by the connected blocks.
    created: HashMap<OutPoint, u64>,
    /// Unspent again because the block that spent them is disconnected.
    revived: HashMap<OutPoint, u64>,
}

/// A spend of something that no block of the update created.
#[derive(Clone, Copy)]
struct OlderSpend {
    hash: u64,
    /// Index of the spending block in the update.
    block: usize,
    outpoint: OutPoint,
}

/// Finds the unspent outputs below position `end` that are spent, ascending by position, then by block.
///
/// First the locator in its own order, then the columns in theirs: in a large batch neighbours share pages, so that
/// each is read once.
fn look_up<'s>(
    view: &View,
    spends: &'s mut [OlderSpend],
    end: u64,
) -> Result<Vec<(u64, &'s OlderSpend)>, Fault> {
    spends.par_sort_unstable_by_key(|spend| spend.hash);
    let spends: &[OlderSpend] = spends;
    let mut located = spends
        .par_chunks(1024)
        .map(|spends| {
            let mut located = Vec::with_capacity(spends.len());
            for spend in spends {
                view.located(spend.hash, |position| {
                    if position < end {
                        located.push((position, spend));
                    }
                })?;
            }
            Ok(located)
        })
        .collect::<Result<Vec<_>, Fault>>()?
        .concat();
    located.par_sort_unstable_by_key(|&(position, spend)| (position, spend.block));
    let found = located
        .par_chunks(1024)
        .map(|located| {
            let mut outpoints = view.outpoints();
            let mut found = Vec::with_capacity(located.len());
            for &(position, spend) in located {
                if outpoints.get(position)? == spend.outpoint {
                    found.push((position, spend));
                }
            }
            Ok(found)
        })
        .collect::<Result<Vec<_>, Fault>>()?;
    Ok(found.concat())
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
fn check_record(record: &BlockRecord, multiples: bool) -> Result<(), StoreError> {
    if record.header.block_hash() != record.id.hash {
        let found: BlockHash = record.header.block_hash();
        return Err(invalid(record, format!("its header hashes to {found}")));
    }
    let items = [
        record.transactions.len(),
        record.outputs.len(),
        record.spends.len(),
    ];
    if items.iter().any(|&count| count > BLOCK_ITEMS_MAX as usize) {
        return Err(invalid(record, "more items than a block can have"));
    }
    let filters = [record.new_utxos_filter.len(), record.spent_filter.len()];
    if filters.iter().any(|&len| len > FILTER_BYTES_MAX as usize) {
        return Err(invalid(record, "a filter longer than a block's can be"));
    }
    let transactions = record.transactions.len();
    let expected = if multiples { transactions } else { 0 };
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
