//! Everything an index holds, hashed and checked against itself.

use std::collections::HashSet;

use bitcoin::OutPoint;
use bitcoin::hashes::{Hash, HashEngine, sha256};
use rayon::prelude::*;
use redb::{ReadableTable, ReadableTableMetadata};

use super::column::Column;
use super::digest::{DIGEST_START, roll_digest};
use super::error::{Fault, InRow, StoreError};
use super::schema::{
    BlockRow, Ends, FILTERS, MULTIPLES, OUTPUTS, SPENDS, SPENT, TWEAKS, TXIDS, decode_undo,
};
use super::snapshot::{Snapshot, View};
use super::{SpendRow, bitmap};
use crate::BlockId;

impl Snapshot {
    /// A hash over everything the index says of its chain: two files with the same blocks have the same hash,
    /// however they came to them (batches, reorgs, restarts, compaction), if both have multiples or neither has.
    ///
    /// Covered are network, first height, every directory row (positions included), digest, column and spent bit.
    /// Checked but not hashed, because they follow from the rest or from how the file was built, are `heights`,
    /// `locator` (keyed with the file's own random key) and `undo` (reaches back as far as its history allows).
    /// Reads the whole file.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] naming the first row that contradicts another: headers that do not link, ranges that
    /// do not meet, a digest that is not the one of the tweaks, an unspent output without locator, and so on.
    pub fn content_hash(&self) -> Result<[u8; 32], StoreError> {
        self.verify(|_| {})
    }

    /// As [`content_hash`](Self::content_hash), and calls `progress` with each height that has been checked.
    ///
    /// # Errors
    /// As [`content_hash`](Self::content_hash).
    pub fn verify(&self, progress: impl FnMut(u32)) -> Result<[u8; 32], StoreError> {
        self.read(|view| verify(view, progress))
    }
}

fn verify(view: &View, mut progress: impl FnMut(u32)) -> Result<[u8; 32], Fault> {
    view.check_ends()?;
    let mut hash = sha256::Hash::engine();
    hash.input(view.meta.network.to_core_arg().as_bytes());
    hash.input(&view.meta.first_height.to_le_bytes());

    let mut walk = Walk::default();
    for entry in view.blocks.iter()? {
        let (height, row) = entry?;
        let height = height.value();
        hash.input(&height.to_le_bytes());
        hash.input(row.value());
        let row = BlockRow::decode(row.value()).in_row("blocks", height)?;
        walk.block(view, height, &row)?;
        hash.input(&walk.digest);
        progress(height);
    }
    walk.finish(view)?;

    let ends = view.ends;
    for (column, table, len) in [
        (TWEAKS, &view.tweaks, ends.transactions),
        (TXIDS, &view.txids, ends.transactions),
        (OUTPUTS, &view.outputs, ends.outputs),
        (SPENDS, &view.spends, ends.spends),
        (FILTERS, &view.filters, ends.filter_bytes),
        (SPENT, &view.spent, bitmap::len_bytes(ends.outputs)),
    ] {
        hash.input(&column_hash(column, table, len)?);
    }
    if let Some(table) = &view.multiples {
        hash.input(&column_hash(MULTIPLES, table, ends.transactions)?);
    }
    Ok(sha256::Hash::from_engine(hash).to_byte_array())
}

fn column_hash(
    column: Column,
    table: &impl ReadableTable<u32, &'static [u8]>,
    len: u64,
) -> Result<[u8; 32], Fault> {
    let mut hash = sha256::Hash::engine();
    column.visit(table, len, 0..len, |items| {
        hash.input(items);
        Ok(())
    })?;
    Ok(sha256::Hash::from_engine(hash).to_byte_array())
}

/// What has been seen of the chain so far.
#[derive(Default)]
struct Walk {
    last: Option<BlockId>,
    ends: Ends,
    digest: [u8; 32],
    unspent: u64,
    undo_from: Option<u32>,
}

impl Walk {
    fn block(&mut self, view: &View, height: u32, row: &BlockRow) -> Result<(), Fault> {
        let wrong = |reason: &str| Fault::row("blocks", height, reason);
        if row.header.block_hash() != row.hash {
            return Err(wrong("its hash is not that of its header"));
        }
        if row.starts() != self.ends {
            return Err(wrong("its ranges do not meet those of the block before"));
        }
        match self.last {
            None if height != view.meta.first_height => return Err(wrong("not the first height")),
            Some(last) if last.height.checked_add(1) != Some(height) => {
                return Err(wrong("the block before is missing"));
            }
            Some(last) if last.hash != row.header.prev_blockhash => {
                return Err(wrong("not a child of the block before"));
            }
            _ => {}
        }
        let found = view.heights.get(row.hash.as_byte_array())?;
        if found.map(|found| found.value()) != Some(height) {
            return Err(Fault::row(
                "heights",
                row.hash,
                "does not lead to its block",
            ));
        }

        let previous = self.last.map_or(DIGEST_START, |_| self.digest);
        let tweaks = TWEAKS.read(
            &view.tweaks,
            view.ends.transactions,
            row.transactions.range(),
        )?;
        self.digest = roll_digest(&previous, &row.hash, tweaks.as_chunks::<64>().0);
        if view.digest(height)? != Some(self.digest) {
            return Err(Fault::row("digest", height, "not the digest of the tweaks"));
        }
        self.locators(view, row)?;
        self.undo(view, height, row)?;
        self.last = Some(row.id(height));
        self.ends = row.ends();
        Ok(())
    }

    /// Every unspent output has its locator.
    fn locators(&mut self, view: &View, row: &BlockRow) -> Result<(), Fault> {
        let txids = view.txids(row.transactions)?;
        let outputs: Vec<_> = row
            .outputs
            .range()
            .zip(view.outputs_of(row)?)
            .filter(|(_, output)| !output.spent)
            .collect();
        self.unspent += outputs.len() as u64;
        outputs.par_iter().try_for_each(|(position, output)| {
            let Some(&txid) = txids.get(output.index) else {
                return Err(Fault::row("outputs", position, "its txid is missing"));
            };
            let vout = output.item.vout;
            let key = view
                .meta
                .locator
                .locate(&OutPoint { txid, vout }, *position);
            match view.locator.get(&key)? {
                Some(_) => Ok(()),
                None => Err(Fault::row("locator", position, "unspent but not located")),
            }
        })
    }

    /// An undo row names outputs that its block spent.
    fn undo(&mut self, view: &View, height: u32, row: &BlockRow) -> Result<(), Fault> {
        let Some(positions) = view.undo(height)? else {
            return match self.undo_from {
                Some(_) => Err(Fault::row("undo", height, "missing above an older one")),
                None => Ok(()),
            };
        };
        self.undo_from.get_or_insert(height);
        let spends = SPENDS.read(&view.spends, view.ends.spends, row.spends.range())?;
        let spends: HashSet<_> = spends
            .chunks_exact(SpendRow::BYTES)
            .filter_map(|item| SpendRow::decode(item).ok())
            .map(|spend| spend.outpoint)
            .collect();
        let mut outpoints = view.outpoints();
        for position in positions {
            if position >= row.ends().outputs || !spends.contains(&outpoints.get(position)?) {
                let reason = format!("output {position} was not spent by this block");
                return Err(Fault::row("undo", height, reason));
            }
            let bit = bitmap::read(&view.spent, view.ends.outputs, position..position + 1)?;
            if bit != [true] {
                return Err(Fault::row(
                    "spent",
                    position,
                    "unspent despite its undo row",
                ));
            }
        }
        Ok(())
    }

    /// Nothing is left that no block accounts for.
    fn finish(&self, view: &View) -> Result<(), Fault> {
        let blocks = view.blocks.len()?;
        for (table, rows) in [
            ("heights", view.heights.len()?),
            ("digest", view.digest.len()?),
        ] {
            if rows != blocks {
                let reason = format!("{rows} rows for {blocks} blocks");
                return Err(Fault::row(table, "all", reason));
            }
        }
        let located = view.locator.len()?;
        if located != self.unspent {
            let reason = format!("{located} rows for {} unspent outputs", self.unspent);
            return Err(Fault::row("locator", "all", reason));
        }
        for entry in view.undo.iter()? {
            let (height, row) = entry?;
            let height = height.value();
            decode_undo(row.value()).in_row("undo", height)?;
            if self.last.is_none_or(|last| height > last.height) {
                return Err(Fault::row("undo", height, "of a block that is not indexed"));
            }
        }
        Ok(())
    }
}
