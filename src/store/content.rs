//! Everything an index holds, hashed and checked against itself.

use bitcoin::OutPoint;
use bitcoin::hashes::{Hash, HashEngine, sha256};
use rayon::prelude::*;
use redb::{ReadableTable, ReadableTableMetadata};

use super::bitmap;
use super::column::Column;
use super::digest::{DIGEST_START, roll_digest};
use super::error::{Fault, InRow, StoreError};
use super::schema::{BlockRow, Ends, SPENDS, SPENT_CHUNK_BITS, height_key};
use super::snapshot::Snapshot;
use super::view::{Chunks, Full, View};
use crate::BlockId;

impl Snapshot {
    /// A hash over everything the index says of its chain: two files with the same blocks have the same hash,
    /// however they came to them (batches, reorgs, restarts, compaction), if both were built with the same options.
    ///
    /// Covered are network, first height, what is kept, every directory row (positions included), digest, column and
    /// spent bit. Checked but not hashed, because they follow from the rest, are `heights` and `locator` (keyed with the
    /// file's own random key).
    /// Reads the whole file.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] naming the first row that contradicts another: headers that do not link, ranges that
    /// do not meet, a digest that is not the one of the tweaks, an unspent output without locator, a spent bit that no
    /// block accounts for, and so on.
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
    let meta = &view.meta;
    let mut hash = sha256::Hash::engine();
    hash.input(meta.network.to_core_arg().as_bytes());
    hash.input(&meta.first_height.to_le_bytes());
    hash.input(meta.keep.name().as_bytes());
    hash.input(meta.tweak_form.name().as_bytes());

    let mut walk = Walk::new(view)?;
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

    let columns = view.columns();
    let hashes: Vec<_> = columns
        .par_iter()
        .map(|(column, table, len)| column_hash(*column, table, *len))
        .collect();
    for ((column, ..), found) in columns.iter().zip(hashes) {
        hash.input(column.name().as_bytes());
        hash.input(&found?);
    }
    Ok(sha256::Hash::from_engine(hash).to_byte_array())
}

fn column_hash(column: Column, table: &Chunks, len: u64) -> Result<[u8; 32], Fault> {
    let mut hash = sha256::Hash::engine();
    column.visit(table, len, 0..len, |items| {
        hash.input(items);
        Ok(())
    })?;
    Ok(sha256::Hash::from_engine(hash).to_byte_array())
}

/// What has been seen of the chain so far.
struct Walk {
    last: Option<BlockId>,
    ends: Ends,
    digest: [u8; 32],
    /// Outputs that the locator leads to.
    located: u64,
    /// A bit per output that some block has spent: an eighth of a byte per output is all that grows with the index.
    spent: Vec<u64>,
}

impl Walk {
    fn new(view: &View) -> Result<Self, Fault> {
        let words = usize::try_from(view.ends.outputs.div_ceil(64))
            .map_err(|_| Fault::row("outputs", "all", "more than this machine can address"))?;
        Ok(Self {
            last: None,
            ends: Ends::default(),
            digest: DIGEST_START,
            located: 0,
            spent: vec![0; words],
        })
    }

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
        let key = height_key(&row.hash, height);
        if view.heights.get(&key)?.is_none() {
            return Err(Fault::row(
                "heights",
                row.hash,
                "does not lead to its block",
            ));
        }

        let tweaks = view.compressed(row.transactions.range())?;
        self.digest = roll_digest(&self.digest, &row.hash, tweaks);
        if view.digest(height)? != Some(self.digest) {
            return Err(Fault::row("digest", height, "not the digest of the tweaks"));
        }
        if let Some(full) = view.kept() {
            self.locators(view, full, row)?;
            self.spends(view, full, height, row)?;
        }
        self.last = Some(row.id(height));
        self.ends = row.ends();
        Ok(())
    }

    /// Every unspent output has its locator.
    fn locators(&mut self, view: &View, full: &Full, row: &BlockRow) -> Result<(), Fault> {
        let txids = view.txids(full, row.transactions)?;
        let outputs = view.outputs_of(full, row)?;
        if let Some(position) = view.wrong_mark(row, &txids, &outputs)? {
            return Err(Fault::row("marks", position, "not that of its outpoint"));
        }
        let outputs: Vec<_> = row
            .outputs
            .range()
            .zip(outputs)
            .filter(|(position, output)| !output.spent && view.is_located(*position))
            .collect();
        self.located += outputs.len() as u64;
        outputs.par_iter().try_for_each(|(position, output)| {
            let Some(&txid) = txids.get(output.index) else {
                return Err(Fault::row("outputs", position, "its txid is missing"));
            };
            let vout = output.item.vout;
            let key = view
                .meta
                .locator
                .locate(&OutPoint { txid, vout }, *position);
            match full.locator.get(&key)? {
                Some(_) => Ok(()),
                None => Err(Fault::row("locator", position, "unspent but not located")),
            }
        })
    }

    /// A block spends outputs that are there and that none has spent before; foreign spends are of no unspent one.
    fn spends(
        &mut self,
        view: &View,
        full: &Full,
        height: u32,
        row: &BlockRow,
    ) -> Result<(), Fault> {
        for position in view.spent_by(full, row)? {
            let (word, mask) = (position / 64, 1 << (position % 64));
            match self.spent.get_mut(word as usize) {
                Some(word) if *word & mask == 0 => *word |= mask,
                _ => {
                    let reason = format!("block {height} spends output {position}, spent before");
                    return Err(Fault::row(SPENDS.name(), row.spends.first, reason));
                }
            }
        }
        match view.foreign_but_held(full, row)? {
            Some(outpoint) => {
                let reason = format!("{outpoint} is unspent in the index");
                Err(Fault::row("foreign", row.foreign.first, reason))
            }
            None => Ok(()),
        }
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
        let Some(full) = view.kept() else {
            return Ok(());
        };
        let located = full.locator.len()?;
        if located != self.located {
            let reason = format!("{located} rows for {} unspent outputs", self.located);
            return Err(Fault::row("locator", "all", reason));
        }
        // The bits are those of the spends, chunk by chunk.
        let outputs = view.ends.outputs;
        let mut start = 0;
        while start < outputs {
            let end = outputs.min(start + SPENT_CHUNK_BITS);
            let bits = bitmap::read(&full.spent, outputs, start..end)?;
            for (position, bit) in (start..end).zip(bits) {
                let word = self.spent.get((position / 64) as usize);
                let spent = word.is_some_and(|word| word >> (position % 64) & 1 == 1);
                if bit != spent {
                    let reason = match bit {
                        true => "spent, but no block spends it",
                        false => "unspent, but a block spends it",
                    };
                    return Err(Fault::row("spent", position, reason));
                }
            }
            start = end;
        }
        Ok(())
    }
}
