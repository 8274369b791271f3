//! What is wrong with an index, row by row, and blocks as the records they were made of: what a repair works with.

use bitcoin::hashes::Hash;
use bitcoin::{OutPoint, Txid};
use rayon::prelude::*;
use redb::ReadableTableMetadata;

use super::bitmap;
use super::digest::{DIGEST_START, roll_digest};
use super::error::{Fault, StoreError};
use super::meta::TweakForm;
use super::record::{BlockRecord, OutputRow, TransactionRow};
use super::schema::{BlockRow, Ends, SPENT_CHUNK_BITS, SpendItem, height_key};
use super::snapshot::Snapshot;
use super::view::{Full, View};
use crate::BlockId;
use crate::curve::TweakPoint;

/// Most wrong rows that are kept of each kind: a file with more is named well enough by these.
const WRONG_ROWS_MAX: usize = 1_000;

/// A row that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrongRow {
    /// Its table.
    pub table: &'static str,
    /// Its key there, or the position of an item.
    pub key: String,
    /// The block it belongs to, where that is known.
    pub height: Option<u32>,
    /// What is wrong with it.
    pub reason: String,
    /// Whether it follows from rows that nothing speaks against, so that it can be written anew from these alone.
    /// Otherwise the block's rows may be wrong.
    pub follows: bool,
}

impl Snapshot {
    /// The block at a height as the record it was made of, `None` if not indexed. Heights that created what is spent
    /// are not stored, and an index that keeps tweaks only has txids of zeros and neither outputs, spends nor filters.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] for a row that spindex did not write so, or a compressed tweak that is no point;
    /// [`StoreError::Io`] and [`StoreError::Halted`] when the disk fails.
    pub fn record(&self, height: u32) -> Result<Option<BlockRecord>, StoreError> {
        self.read(|view| {
            let row = view.block_row(height)?;
            row.map(|row| record(view, height, &row)).transpose()
        })
    }

    /// Tweaks of a block as points, without their txids; `None` if the height is not indexed.
    ///
    /// # Errors
    /// [`StoreError::NoPoints`] for an index that stores tweaks compressed; else as [`record`](Self::record).
    pub fn points(&self, height: u32) -> Result<Option<Vec<TweakPoint>>, StoreError> {
        self.read(|view| {
            let row = view.block_row(height)?;
            row.map(|row| view.points(row.transactions.range()))
                .transpose()
        })
    }

    /// The multiples 2^64·T of the tweaks of a block; `None` if the height is not indexed.
    ///
    /// # Errors
    /// [`StoreError::NoMultiples`] for an index without; else as [`record`](Self::record).
    pub fn multiples(&self, height: u32) -> Result<Option<Vec<TweakPoint>>, StoreError> {
        self.read(|view| {
            let row = view.block_row(height)?;
            row.map(|row| view.multiples(row.transactions.range()))
                .transpose()
        })
    }

    /// For each of [`spends`](Self::spends) of the block at a height the height of the block that created what is spent,
    /// `None` for what the index does not hold; `None` if the height is not indexed.
    ///
    /// # Errors
    /// [`StoreError::NotKept`] for an index that keeps tweaks only; else as [`record`](Self::record).
    pub fn spend_creators(&self, height: u32) -> Result<Option<Vec<Option<u32>>>, StoreError> {
        self.read(|view| {
            let full = view.full("spends")?;
            let Some(row) = view.block_row(height)? else {
                return Ok(None);
            };
            let items = view.spend_items(full, &row)?.into_iter();
            let creators = items.map(|item| match item {
                SpendItem::Held(position) => view.height_of_output(position).map(Some),
                SpendItem::Foreign => Ok(None),
            });
            creators.collect::<Result<_, Fault>>().map(Some)
        })
    }

    /// Every row that contradicts others, where [`verify`](Self::verify) stops at the first one; as many as a thousand of
    /// each kind. Calls `progress` with each height. Reads all but the filters, takes about twice as long as `verify`, and finds nothing
    /// where that finds nothing.
    ///
    /// # Errors
    /// [`StoreError::Io`] and [`StoreError::Halted`] when the disk fails; what can be read is no error, whatever it says.
    pub fn audit(&self, progress: impl FnMut(u32)) -> Result<Vec<WrongRow>, StoreError> {
        self.read(|view| {
            let mut audit = Audit::new(view)?;
            audit.run(progress)?;
            Ok(audit.wrong)
        })
    }
}

fn record(view: &View, height: u32, row: &BlockRow) -> Result<BlockRecord, Fault> {
    let range = row.transactions.range();
    let tweaks: Vec<TweakPoint> = match view.meta.tweak_form {
        TweakForm::Point => view.points(range.clone())?,
        TweakForm::Compressed => {
            let compressed = view.compressed(range.clone())?;
            let points: Option<Vec<TweakPoint>> = compressed
                .par_iter()
                .map(TweakPoint::from_compressed)
                .collect();
            let column = view.meta.tweak_form.column().name();
            points.ok_or_else(|| Fault::row(column, range.start, "a tweak that is no point"))?
        }
    };
    let multiples = match view.meta.multiples {
        true => view.multiples(range)?,
        false => Vec::new(),
    };
    let mut record = BlockRecord {
        id: row.id(height),
        header: row.header,
        transactions: Vec::with_capacity(tweaks.len()),
        multiples: multiples.iter().map(|point| *point.as_bytes()).collect(),
        outputs: Vec::new(),
        spends: Vec::new(),
        new_utxos_filter: Vec::new(),
        spent_filter: Vec::new(),
    };
    let txids = match view.kept() {
        Some(full) => {
            let outputs = view.outputs_of(full, row)?;
            record.outputs = outputs
                .iter()
                .map(|output| OutputRow {
                    key: output.item.key,
                    value_sat: output.item.value_sat,
                    vout: output.item.vout,
                    // A block has at most 2^20 transactions.
                    transaction: output.index as u32,
                })
                .collect();
            record.spends = view.spends(full, row)?;
            record.new_utxos_filter = view.filter_bytes(full, row.new_utxos_filter)?;
            record.spent_filter = view.filter_bytes(full, row.spent_filter)?;
            view.txids(full, row.transactions)?
        }
        None => vec![Txid::all_zeros(); tweaks.len()],
    };
    let rows = txids.into_iter().zip(tweaks);
    record
        .transactions
        .extend(rows.map(|(txid, tweak)| TransactionRow {
            txid,
            tweak: *tweak.as_bytes(),
        }));
    Ok(record)
}

/// A walk over all blocks that goes on behind what is wrong.
struct Audit<'v> {
    view: &'v View,
    wrong: Vec<WrongRow>,
    /// How many rows are wrong of each kind, kept or not.
    alike: [usize; 2],
    /// A bit per output that some block spends.
    spent: Vec<u64>,
    last: Option<BlockId>,
    ends: Option<Ends>,
    digest: [u8; 32],
}

impl<'v> Audit<'v> {
    fn new(view: &'v View) -> Result<Self, Fault> {
        let words = usize::try_from(view.ends.outputs.div_ceil(64))
            .map_err(|_| Fault::row("outputs", "all", "more than this machine can address"))?;
        Ok(Self {
            view,
            wrong: Vec::new(),
            alike: [0; 2],
            spent: vec![0; words],
            last: None,
            ends: Some(Ends::default()),
            digest: DIGEST_START,
        })
    }

    fn run(&mut self, mut progress: impl FnMut(u32)) -> Result<(), Fault> {
        let view = self.view;
        let checked = view.check_ends();
        self.caught(None, checked)?;
        let Some(tip) = view.tip() else {
            return self.no_strays(0);
        };
        let heights = view.meta.first_height..=tip.height;
        for height in heights.clone() {
            let row = view.present_row(height);
            match self.caught(Some(height), row)? {
                Some(row) => self.block(height, &row)?,
                None => (self.last, self.ends) = (None, None),
            }
            progress(height);
        }
        self.no_strays(heights.clone().count() as u64)?;
        if let Some(full) = view.kept() {
            self.unspent(full, heights)?;
        }
        Ok(())
    }

    /// What was read; a row that is wrong is noted.
    fn caught<T>(
        &mut self,
        height: Option<u32>,
        read: Result<T, Fault>,
    ) -> Result<Option<T>, Fault> {
        let (table, key, reason) = match read {
            Ok(read) => return Ok(Some(read)),
            Err(Fault::Row { table, key, reason }) => (table, key, reason),
            Err(Fault::Told(StoreError::Corrupt {
                table, key, reason, ..
            })) => (table, key, reason),
            Err(fault) => return Err(fault),
        };
        // Bits follow from spends.
        self.note(table, key, height, reason, table == "spent");
        Ok(None)
    }

    fn note(
        &mut self,
        table: &'static str,
        key: impl ToString,
        height: Option<u32>,
        reason: impl Into<String>,
        follows: bool,
    ) {
        let alike = &mut self.alike[usize::from(follows)];
        *alike += 1;
        if *alike <= WRONG_ROWS_MAX {
            self.wrong.push(WrongRow {
                table,
                key: key.to_string(),
                height,
                reason: reason.into(),
                follows,
            });
        }
    }

    fn block(&mut self, height: u32, row: &BlockRow) -> Result<(), Fault> {
        let view = self.view;
        let at = Some(height);
        let parent = row.header.prev_blockhash;
        for (is_wrong, reason) in [
            (
                row.header.block_hash() != row.hash,
                "its hash is not that of its header",
            ),
            (
                self.ends.is_some_and(|ends| row.starts() != ends),
                "its ranges do not meet those of the block before",
            ),
            (
                self.last.is_some_and(|last| last.hash != parent),
                "not a child of the block before",
            ),
        ] {
            if is_wrong {
                self.note("blocks", height, at, reason, false);
            }
        }
        if view.heights.get(&height_key(&row.hash, height))?.is_none() {
            let reason = "does not lead to its block";
            self.note("heights", row.hash, at, reason, true);
        }
        let tweaks = view.compressed(row.transactions.range());
        if let Some(tweaks) = self.caught(at, tweaks)? {
            self.digest(height, row, tweaks)?;
        }
        if let Some(full) = view.kept() {
            let spent = view.spent_by(full, row);
            for position in self.caught(at, spent)?.unwrap_or_default() {
                let mask = 1 << (position % 64);
                match self.spent.get_mut((position / 64) as usize) {
                    Some(word) if *word & mask == 0 => *word |= mask,
                    _ => {
                        let reason = format!("spends output {position}, spent before");
                        self.note("spends", row.spends.first, at, reason, false);
                    }
                }
            }
        }
        if let Some(full) = view.kept() {
            let held = view.foreign_but_held(full, row);
            if let Some(Some(outpoint)) = self.caught(at, held)? {
                let reason = format!("{outpoint} is unspent in the index");
                self.note("foreign", row.foreign.first, at, reason, false);
            }
        }
        self.last = Some(row.id(height));
        self.ends = Some(row.ends());
        Ok(())
    }

    /// A digest that is not the one of the tweaks. The next digest tells which of both is wrong: it commits to this one.
    fn digest(&mut self, height: u32, row: &BlockRow, tweaks: Vec<[u8; 33]>) -> Result<(), Fault> {
        let view = self.view;
        let computed = roll_digest(&self.digest, &row.hash, tweaks);
        let stored = view.digest(height)?;
        self.digest = computed;
        if stored == Some(computed) {
            return Ok(());
        }
        let next = height.saturating_add(1);
        let vouched = match view.block_row(next) {
            Ok(Some(row)) => match view.compressed(row.transactions.range()) {
                Ok(tweaks) => view.digest(next)? == Some(roll_digest(&computed, &row.hash, tweaks)),
                Err(_) => false,
            },
            _ => false,
        };
        let reason = match stored {
            Some(_) => "not the digest of the tweaks",
            None => "missing",
        };
        self.note("digest", height, Some(height), reason, vouched);
        if let (Some(stored), false) = (stored, vouched) {
            // Blocks behind this one are right if they fit what is stored.
            self.digest = stored;
        }
        Ok(())
    }

    /// Tables with a row per block have no others.
    fn no_strays(&mut self, blocks: u64) -> Result<(), Fault> {
        let view = self.view;
        for (table, rows, follows) in [
            ("blocks", view.blocks.len()?, false),
            ("heights", view.heights.len()?, true),
            ("digest", view.digest.len()?, true),
        ] {
            if rows != blocks {
                let reason = format!("{rows} rows for {blocks} blocks");
                self.note(table, "all", None, reason, follows);
            }
        }
        Ok(())
    }

    /// Bits and locators are those of the spends.
    fn unspent(
        &mut self,
        full: &Full,
        heights: std::ops::RangeInclusive<u32>,
    ) -> Result<(), Fault> {
        let view = self.view;
        let mut located = 0;
        let mut missing = Vec::new();
        for height in heights {
            let Ok(Some(row)) = view.block_row(height) else {
                continue;
            };
            let read = view
                .txids(full, row.transactions)
                .and_then(|txids| Ok((txids, view.outputs_of(full, &row)?)));
            let Some((txids, outputs)) = self.caught(Some(height), read)? else {
                continue;
            };
            let wrong = view.wrong_mark(&row, &txids, &outputs);
            if let Some(Some(position)) = self.caught(Some(height), wrong)? {
                let reason = "not that of its outpoint";
                self.note("marks", position, Some(height), reason, true);
            }
            for (position, output) in row.outputs.range().zip(outputs) {
                let Some(&txid) = txids.get(output.index).filter(|_| !self.is_spent(position))
                else {
                    continue;
                };
                if !view.is_located(position) {
                    continue;
                }
                let vout = output.item.vout;
                let outpoint = OutPoint { txid, vout };
                let key = view.meta.locator.locate(&outpoint, position);
                match full.locator.get(&key)? {
                    Some(_) => located += 1,
                    None => missing.push((position, height)),
                }
            }
        }
        // A row that leads to an output under another name speaks against the output's txid or vout.
        let strays = full.locator.len()?.saturating_sub(located);
        let follows = strays == 0 || missing.is_empty();
        for (position, height) in missing {
            let reason = "unspent but not located";
            self.note("locator", position, Some(height), reason, follows);
        }
        if strays > 0 {
            let reason = format!("{strays} rows that lead to no unspent output");
            self.note("locator", "all", None, reason, true);
        }

        let outputs = view.ends.outputs;
        let mut start = 0;
        while start < outputs {
            let end = outputs.min(start + SPENT_CHUNK_BITS);
            let bits = bitmap::read(&full.spent, outputs, start..end);
            let bits = self.caught(None, bits)?.unwrap_or_default();
            for (position, bit) in (start..end).zip(bits) {
                if bit != self.is_spent(position) {
                    let reason = match bit {
                        true => "spent, but no block spends it",
                        false => "unspent, but a block spends it",
                    };
                    let height = view.height_of_output(position).ok();
                    self.note("spent", position, height, reason, true);
                }
            }
            start = end;
        }
        Ok(())
    }

    fn is_spent(&self, position: u64) -> bool {
        let word = self.spent.get((position / 64) as usize);
        word.is_some_and(|word| word >> (position % 64) & 1 == 1)
    }
}
