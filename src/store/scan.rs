//! Range reads for scans: straight through the columns in full chunks, whatever the size of the blocks.

use std::iter::FusedIterator;
use std::ops::{Range, RangeInclusive};

use bitcoin::Txid;
use bitcoin::hashes::Hash;

use super::block::Utxo;
use super::error::{Fault, StoreError};
use super::position::TxPosition;
use super::schema::{BlockRow, OUTPUTS, OutputItem, TWEAKS, TXIDS};
use super::snapshot::Snapshot;
use super::view::{Full, View};
use crate::BlockId;
use crate::curve::TweakPoint;

/// Chunks of tweaks in a batch: enough for an engine and its threads, few enough to be held many at a time.
const BATCH_CHUNKS: u64 = 16;

/// Most short keys of a batch. A batch of common transactions has some ten thousand; without this, blocks full of
/// outputs could make one of a hundred million. No transaction has more, since no block has.
const BATCH_KEYS: u64 = 1 << 16;

/// What a scan reads beside the tweaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ScanColumns {
    /// The tweaks as 33 compressed bytes each, in place of points; an index that stores them so has no points
    /// ([`Snapshot::tweak_form`]).
    pub compressed: bool,
    /// The multiple of each tweak; only an index with multiples has them ([`TweakForm::PointAndMultiple`](super::TweakForm)).
    pub multiples: bool,
    /// The output keys of each tweak's transaction, cut to 8 bytes.
    pub short_keys: bool,
}

/// Consecutive tweaks of a scan, at most 4,080.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TweakBatch {
    /// Position of the first tweak; those of the others follow ([`position`](Self::position)).
    pub first: TxPosition,
    /// The tweaks, unless they were to be compressed. Not checked to be on the curve.
    pub tweaks: Vec<TweakPoint>,
    /// The tweaks as 33 compressed bytes each, if they were to be. Not checked either.
    pub compressed: Vec<[u8; 33]>,
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
    /// Its tweak, compressed.
    pub tweak: [u8; 33],
    /// All its taproot outputs, by vout.
    pub outputs: Vec<Utxo>,
}

impl Snapshot {
    /// The tweaks of all blocks in a range of heights, in chain order; `None` if one of the ends is not indexed.
    ///
    /// # Errors
    /// [`StoreError::NoPoints`], [`StoreError::NoMultiples`], [`StoreError::NotKept`] if points, multiples or keys are
    /// asked of an index without; else as [`block`](Self::block).
    pub fn scan(
        &self,
        heights: RangeInclusive<u32>,
        columns: ScanColumns,
    ) -> Result<Option<TweakScan>, StoreError> {
        self.read(|view| {
            // Told at once, whether or not there is something to read.
            if !columns.compressed {
                view.points(0..0)?;
            }
            if columns.multiples {
                view.multiples(0..0)?;
            }
            if columns.short_keys {
                view.full("output keys")?;
            }
            let Some(positions) = positions(view, heights)? else {
                return Ok(None);
            };
            Ok(Some(TweakScan {
                snapshot: self.clone(),
                columns,
                positions,
            }))
        })
    }

    /// The block whose eligible transactions hold the tweak at a position; `None` if there are fewer tweaks.
    ///
    /// # Errors
    /// As [`block`](Self::block).
    pub fn block_of(&self, position: TxPosition) -> Result<Option<BlockId>, StoreError> {
        self.read(|view| {
            if position.0 >= view.ends.transactions {
                return Ok(None);
            }
            Ok(Some(view.block_of(position)?.0))
        })
    }

    /// The eligible transaction whose tweak is at a position; `None` if there are fewer. Reads its block's outputs.
    ///
    /// Positions are those of batches from this very snapshot: a reorg may give them to other transactions.
    ///
    /// # Errors
    /// [`StoreError::NotKept`] for an index that keeps tweaks only; else as [`block`](Self::block).
    pub fn transaction(
        &self,
        position: TxPosition,
    ) -> Result<Option<TransactionEntry>, StoreError> {
        self.read(|view| transaction(view, position))
    }
}

/// The batches of a range of heights, in order; ends after an error.
///
/// A batch is read when it is asked for and takes a megabyte at most, so memory does not grow with the range. Reading
/// blocks the thread. The snapshot lives as long as the scan: see [`Snapshot`].
#[derive(Debug)]
pub struct TweakScan {
    snapshot: Snapshot,
    columns: ScanColumns,
    /// What is left.
    positions: Range<u64>,
}

impl TweakScan {
    /// Positions of the tweaks that are still to come.
    pub fn positions(&self) -> Range<TxPosition> {
        TxPosition(self.positions.start)..TxPosition(self.positions.end)
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
            .read(|view| read_batch(view, left, self.columns));
        Some(match read {
            Ok(batch) => {
                self.positions.start += batch.len() as u64;
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

impl TweakBatch {
    /// Number of tweaks, in whichever form they are.
    pub fn len(&self) -> usize {
        self.tweaks.len().max(self.compressed.len())
    }

    /// Position of the tweak at an index, by which [`Snapshot::transaction`] finds its transaction.
    pub fn position(&self, index: usize) -> TxPosition {
        TxPosition(self.first.0 + index as u64)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

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

/// The first batch of `left`, which is not empty.
fn read_batch(view: &View, left: Range<u64>, columns: ScanColumns) -> Result<TweakBatch, Fault> {
    // To the end of a chunk of points, so that the next batch starts with one.
    let chunks = (left.start / TWEAKS.chunk_items()).saturating_add(BATCH_CHUNKS);
    let mut end = left.end.min(chunks.saturating_mul(TWEAKS.chunk_items()));
    let mut batch = TweakBatch {
        first: TxPosition(left.start),
        ..TweakBatch::default()
    };
    if columns.short_keys {
        let full = view.full("output keys")?;
        let (first, ends) = output_ends(view, full, left.start..end)?;
        let fitting = ends.partition_point(|end| end - first <= BATCH_KEYS);
        // One transaction always fits.
        let ends = ends.get(..fitting.max(1)).unwrap_or_default();
        end = left.start + ends.len() as u64;
        batch.keys = short_keys(view, full, first..ends.last().copied().unwrap_or(first))?;
        batch.ends = ends.iter().map(|end| (end - first) as u32).collect();
    }
    let range = left.start..end;
    if columns.compressed {
        batch.compressed = view.compressed(range.clone())?;
    } else {
        batch.tweaks = view.points(range.clone())?;
    }
    if columns.multiples {
        batch.multiples = view.multiples(range)?;
    }
    Ok(batch)
}

/// Position of the first output of a range of transactions, which is not empty, and per transaction of it the position
/// behind its last output.
fn output_ends(
    view: &View,
    full: &Full,
    transactions: Range<u64>,
) -> Result<(u64, Vec<u64>), Fault> {
    let (block, mut row) = view.block_of(TxPosition(transactions.start))?;
    let mut height = block.height;
    let mut position = transactions.start;
    let mut first = None;
    let mut ends = Vec::with_capacity((transactions.end - transactions.start) as usize);
    loop {
        let firsts = view.firsts(full, &row)?;
        let behind = row.transactions.end().min(transactions.end);
        let skipped = (position - row.transactions.first) as usize;
        let own = firsts.iter().skip(skipped).map(|first| u64::from(*first));
        let mut own = own.map(|first| row.outputs.first + first);
        let start = own.next().unwrap_or(row.outputs.end());
        first.get_or_insert(start);
        // Where the next transaction starts, this one ends.
        let rest = own.chain([row.outputs.end()]);
        ends.extend(rest.take((behind - position) as usize));
        position = behind;
        if position >= transactions.end {
            return Ok((first.unwrap_or(start), ends));
        }
        let before = row;
        (height, row) = next_block(view, height)?;
        if row.starts() != before.ends() {
            let reason = "its ranges do not meet those of the block before";
            return Err(Fault::row("blocks", height, reason));
        }
    }
}

fn next_block(view: &View, height: u32) -> Result<(u32, BlockRow), Fault> {
    let height = height
        .checked_add(1)
        .ok_or_else(|| Fault::row("blocks", height, "the last height there is"))?;
    Ok((height, view.present_row(height)?))
}

/// First 8 bytes of the keys of a range of outputs.
fn short_keys(view: &View, full: &Full, outputs: Range<u64>) -> Result<Vec<u64>, Fault> {
    let mut keys = Vec::with_capacity((outputs.end - outputs.start) as usize);
    OUTPUTS.visit(full.outputs()?, view.ends.outputs, outputs, |items| {
        for item in items.chunks_exact(OutputItem::BYTES) {
            let short = item.first_chunk().copied().unwrap_or_default();
            keys.push(u64::from_be_bytes(short));
        }
        Ok(())
    })?;
    Ok(keys)
}

fn transaction(view: &View, at: TxPosition) -> Result<Option<TransactionEntry>, Fault> {
    let full = view.full("outputs")?;
    let len = view.ends.transactions;
    let TxPosition(position) = at;
    if position >= len {
        return Ok(None);
    }
    let (block, row) = view.block_of(at)?;
    let txid = Txid::from_byte_array(TXIDS.items(full.txids()?, len).get(position)?);
    let tweak = view.compressed(position..position + 1)?;
    let tweak = *tweak
        .first()
        .ok_or_else(|| Fault::row(TWEAKS.name(), position, "missing"))?;
    let outputs = view.outputs_of(full, &row)?;
    let first = row.transactions.first;
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
