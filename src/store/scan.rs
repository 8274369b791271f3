//! Range reads for scans: straight through the columns in full chunks, whatever the size of the blocks.

use std::iter::FusedIterator;
use std::ops::{Range, RangeInclusive};

use bitcoin::Txid;
use bitcoin::hashes::Hash;

use super::error::{Fault, InRow, StoreError};
use super::schema::{
    BLOCK_ITEMS_MAX, BlockRow, MULTIPLES, OUTPUTS, OutputItem, Span, TWEAKS, TXIDS,
};
use super::snapshot::{Snapshot, Utxo, View};
use crate::BlockId;
use crate::curve::TweakPoint;

/// Chunks of tweaks in a batch: enough for an engine and its threads, few enough to be held many at a time.
const BATCH_CHUNKS: u64 = 16;

/// Most short keys of a batch, unless a single transaction has more. A batch of common transactions has some ten
/// thousand; without this, blocks full of outputs could make one of a hundred million.
const BATCH_KEYS: u64 = 1 << 16;

/// What a scan reads beside the tweaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ScanColumns {
    /// The multiple of each tweak; only an index with multiples has them ([`Snapshot::has_multiples`]).
    pub multiples: bool,
    /// The output keys of each tweak's transaction, cut to 8 bytes.
    pub short_keys: bool,
}

/// Consecutive tweaks of a scan, at most 4,080.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TweakBatch {
    /// Position of the first tweak; the tweak at index `i` has position `first + i`, by which
    /// [`Snapshot::transaction`] finds its transaction.
    pub first: u64,
    /// The tweaks. Not checked to be on the curve.
    pub tweaks: Vec<TweakPoint>,
    /// The multiple 2^64·T of each tweak, if asked for. Not checked either.
    pub multiples: Vec<TweakPoint>,
    /// First 8 bytes of the output keys as big-endian numbers, in the order of the tweaks, then by vout; if asked for.
    pub keys: Vec<u64>,
    /// Per tweak where its keys end: those of tweak `i` are `keys[ends[i - 1]..ends[i]]`, the first ones begin at 0.
    pub ends: Vec<u32>,
}

/// An eligible transaction with its outputs in their present state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransactionEntry {
    /// The block that holds it.
    pub block: BlockId,
    /// Its txid.
    pub txid: Txid,
    /// Its tweak.
    pub tweak: TweakPoint,
    /// All its taproot outputs, by vout.
    pub outputs: Vec<Utxo>,
}

impl Snapshot {
    /// The tweaks of all blocks in a range of heights, in chain order; `None` if one of the ends is not indexed.
    ///
    /// # Errors
    /// [`StoreError::NoMultiples`] if multiples are asked of an index without; else as [`block`](Self::block).
    pub fn scan(
        &self,
        heights: RangeInclusive<u32>,
        columns: ScanColumns,
    ) -> Result<Option<TweakScan>, StoreError> {
        self.read(|view| {
            if columns.multiples && view.multiples.is_none() {
                let file = view.file.to_path_buf();
                return Err(StoreError::NoMultiples { file }.into());
            }
            let Some(positions) = positions(view, heights)? else {
                return Ok(None);
            };
            Ok(Some(TweakScan {
                snapshot: self.clone(),
                columns,
                positions,
                next_output: None,
            }))
        })
    }

    /// The block whose eligible transactions hold the tweak at a position; `None` if there are fewer tweaks.
    ///
    /// # Errors
    /// As [`block`](Self::block).
    pub fn block_of(&self, position: u64) -> Result<Option<BlockId>, StoreError> {
        self.read(|view| {
            if position >= view.ends.transactions {
                return Ok(None);
            }
            Ok(Some(block_of(view, position)?.0))
        })
    }

    /// The eligible transaction whose tweak is at a position; `None` if there are fewer. Reads its block's outputs.
    ///
    /// Positions are those of batches from this very snapshot: a reorg may give them to other transactions.
    ///
    /// # Errors
    /// As [`block`](Self::block).
    pub fn transaction(&self, position: u64) -> Result<Option<TransactionEntry>, StoreError> {
        self.read(|view| transaction(view, position))
    }
}

/// The batches of a range of heights, in order; ends after an error.
///
/// A batch is read when it is asked for and takes a megabyte at most (a transaction with more than 65,536 outputs
/// apart), so memory does not grow with the range. Reading blocks the thread. The snapshot lives as long as the scan:
/// see [`Snapshot`].
#[derive(Debug)]
pub struct TweakScan {
    snapshot: Snapshot,
    columns: ScanColumns,
    /// What is left.
    positions: Range<u64>,
    /// Position of the first output of what is left, once known.
    next_output: Option<u64>,
}

impl TweakScan {
    /// Positions of the tweaks that are still to come.
    pub fn positions(&self) -> Range<u64> {
        self.positions.clone()
    }
}

impl Iterator for TweakScan {
    type Item = Result<TweakBatch, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.positions.is_empty() {
            return None;
        }
        let left = self.positions.clone();
        let read = self
            .snapshot
            .read(|view| read_batch(view, left, self.columns, self.next_output));
        Some(match read {
            Ok((batch, next_output)) => {
                self.positions.start += batch.tweaks.len() as u64;
                self.next_output = next_output;
                Ok(batch)
            }
            Err(error) => {
                self.positions.start = self.positions.end;
                Err(error)
            }
        })
    }
}

impl FusedIterator for TweakScan {}

/// Positions of the eligible transactions of a range of blocks.
fn positions(view: &View, heights: RangeInclusive<u32>) -> Result<Option<Range<u64>>, Fault> {
    if heights.is_empty() {
        return Ok(Some(0..0));
    }
    let (first, last) = heights.into_inner();
    let (Some(from), Some(to)) = (view.block_row(first)?, view.block_row(last)?) else {
        return Ok(None);
    };
    let positions = from.transactions.first..to.transactions.end();
    if positions.start > positions.end {
        let reason = format!("its ranges start behind those of block {last}");
        return Err(Fault::row("blocks", first, reason));
    }
    Ok(Some(positions))
}

/// The first batch of `left`, which is not empty, and the position of the first output behind it. `output` is the
/// position of its own first output, if known.
fn read_batch(
    view: &View,
    left: Range<u64>,
    columns: ScanColumns,
    output: Option<u64>,
) -> Result<(TweakBatch, Option<u64>), Fault> {
    // To the end of a chunk, so that the next batch starts with one.
    let chunks = (left.start / TWEAKS.chunk_items()).saturating_add(BATCH_CHUNKS);
    let mut end = left.end.min(chunks.saturating_mul(TWEAKS.chunk_items()));
    let mut batch = TweakBatch {
        first: left.start,
        ..TweakBatch::default()
    };
    let mut next_output = None;
    if columns.short_keys {
        let output = match output {
            Some(output) => output,
            None => first_output(view, left.start)?,
        };
        let outputs;
        (end, outputs) = fit_outputs(view, left.start..end, output)?;
        (batch.keys, batch.ends) = short_keys(view, left.start..end, outputs.clone())?;
        next_output = Some(outputs.end);
    }

    let len = view.ends.transactions;
    let points = |items: &[u8], points: &mut Vec<TweakPoint>| {
        let items = items.as_chunks::<64>().0.iter();
        points.extend(items.map(|bytes| TweakPoint::from_bytes(*bytes)));
        Ok(())
    };
    TWEAKS.visit(&view.tweaks, len, left.start..end, |items| {
        points(items, &mut batch.tweaks)
    })?;
    if let Some(table) = view.multiples.as_ref().filter(|_| columns.multiples) {
        MULTIPLES.visit(table, len, left.start..end, |items| {
            points(items, &mut batch.multiples)
        })?;
    }
    Ok((batch, next_output))
}

/// Takes transactions off the end of a range, but not its first one, until the outputs of the rest are few enough.
/// `output` is the position of their first one. Returns the new end and the range of the outputs.
fn fit_outputs(
    view: &View,
    transactions: Range<u64>,
    output: u64,
) -> Result<(u64, Range<u64>), Fault> {
    let outputs_before = |end| {
        let next = first_output(view, end)?;
        match next.checked_sub(output) {
            Some(count) => Ok((output..next, count)),
            None => {
                let reason = format!("outputs before transaction {end} are behind it");
                Err(Fault::row(OUTPUTS.name(), next, reason))
            }
        }
    };
    let (outputs, count) = outputs_before(transactions.end)?;
    if count <= BATCH_KEYS {
        return Ok((transactions.end, outputs));
    }
    let mut end = transactions.start + 1;
    let mut too_far = transactions.end;
    while end + 1 < too_far {
        let middle = end + (too_far - end) / 2;
        let (_, count) = outputs_before(middle)?;
        if count <= BATCH_KEYS {
            end = middle;
        } else {
            too_far = middle;
        }
    }
    let (outputs, count) = outputs_before(end)?;
    if count > u64::from(BLOCK_ITEMS_MAX) {
        let reason = "more outputs of a transaction than a block can have";
        return Err(Fault::row(OUTPUTS.name(), output, reason));
    }
    Ok((end, outputs))
}

/// Keys and ends, as a batch has them, of the transactions whose outputs are at `outputs`.
fn short_keys(
    view: &View,
    transactions: Range<u64>,
    outputs: Range<u64>,
) -> Result<(Vec<u64>, Vec<u32>), Fault> {
    let mut position = outputs.start;
    let mut keys: Vec<u64> = Vec::new();
    let mut ends: Vec<u32> = Vec::new();
    OUTPUTS.visit(&view.outputs, view.ends.outputs, outputs, |items| {
        for item in items.chunks_exact(OutputItem::BYTES) {
            let item = OutputItem::decode(item).in_row(OUTPUTS.name(), position)?;
            let transaction = u64::from(item.transaction);
            // Those before it have their ends already.
            let filling = transactions.start + ends.len() as u64;
            if !(filling..transactions.end).contains(&transaction) {
                return Err(Fault::row(OUTPUTS.name(), position, "not in block order"));
            }
            ends.resize(
                (transaction - transactions.start) as usize,
                keys.len() as u32,
            );
            let mut short = [0; 8];
            short.copy_from_slice(&item.key[..8]);
            keys.push(u64::from_be_bytes(short));
            position += 1;
        }
        Ok(())
    })?;
    let count = transactions.end - transactions.start;
    ends.resize(count as usize, keys.len() as u32);
    Ok((keys, ends))
}

/// Position of the first output of the transactions from one on: where the outputs of those before it end.
fn first_output(view: &View, transaction: u64) -> Result<u64, Fault> {
    if transaction >= view.ends.transactions {
        return Ok(view.ends.outputs);
    }
    let (_, row) = block_of(view, transaction)?;
    let mut outputs = OUTPUTS.items(&view.outputs, view.ends.outputs);
    let Range { mut start, mut end } = row.outputs.range();
    while start < end {
        let middle = start + (end - start) / 2;
        let item = outputs.get::<{ OutputItem::BYTES }>(middle)?;
        let item = OutputItem::decode(&item).in_row(OUTPUTS.name(), middle)?;
        if u64::from(item.transaction) < transaction {
            start = middle + 1;
        } else {
            end = middle;
        }
    }
    Ok(start)
}

/// The block that holds a transaction of the index.
fn block_of(view: &View, transaction: u64) -> Result<(BlockId, BlockRow), Fault> {
    let missing = |height| Fault::row("blocks", height, "missing");
    let mut low = view.meta.first_height;
    let mut high = view.tip().ok_or_else(|| missing(low))?.height;
    // The last block that does not start behind it: the ones without transactions before it start where it does.
    while low < high {
        let middle = high - (high - low) / 2;
        let row = view.block_row(middle)?.ok_or_else(|| missing(middle))?;
        if row.transactions.first <= transaction {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    let row = view.block_row(low)?.ok_or_else(|| missing(low))?;
    if !row.transactions.range().contains(&transaction) {
        let reason = format!("transaction {transaction} is in no block");
        return Err(Fault::row("blocks", low, reason));
    }
    Ok((row.id(low), row))
}

fn transaction(view: &View, position: u64) -> Result<Option<TransactionEntry>, Fault> {
    let len = view.ends.transactions;
    if position >= len {
        return Ok(None);
    }
    let (block, row) = block_of(view, position)?;
    let txid = Txid::from_byte_array(TXIDS.items(&view.txids, len).get(position)?);
    let tweak = TweakPoint::from_bytes(TWEAKS.items(&view.tweaks, len).get(position)?);
    let outputs = view.outputs_of(&row)?;
    let Span { first, .. } = row.transactions;
    let own = |index: &usize| first + *index as u64 == position;
    let outputs = outputs.iter().filter(|output| own(&output.index));
    Ok(Some(TransactionEntry {
        block,
        txid,
        tweak,
        outputs: outputs
            .map(|output| Utxo {
                txid,
                vout: output.item.vout,
                value_sat: output.item.value_sat,
                key: output.item.key,
                spent: output.spent,
            })
            .collect(),
    }))
}
