//! The tables of one commit, and how what is not stored follows from what is.

mod held;
mod spends;
mod tables;

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use bitcoin::hashes::Hash;
use bitcoin::{OutPoint, Txid};
use redb::{ReadOnlyTable, ReadTransaction, ReadableTable, ReadableTableMetadata};

use super::bitmap;
use super::column::Column;
use super::error::{Fault, InRow, StoreError};
use super::meta::{Deferred, Meta, read_deferred, read_spenders_from};
use super::position::{OutputPosition, SpendPosition, TxPosition};
use super::schema::{
    BlockRow, COMPRESSED, Ends, FILTERS, FIRSTS, FOREIGN, HeightKey, LocatorKey, MARKS, MULTIPLES,
    OUTPUTS, OUTPUTS_MAX, OutputItem, SPENDERS, SPENDS, SPENT, Span, TWEAKS, TXIDS, height_key,
    height_of_key, locator_key, split_locator_key,
};
use tables::{Blocks, Digests, Heights, SectionRows, Tables};
pub(super) use tables::{Full, Watching};

use crate::BlockId;
use crate::curve::TweakPoint;

pub(super) type Chunks = ReadOnlyTable<u32, &'static [u8]>;

/// The tables of one commit.
pub(super) struct View {
    pub(super) file: Arc<Path>,
    pub(super) meta: Arc<Meta>,
    /// How many of the last blocks an update may disconnect.
    pub(super) undo_depth: u32,
    /// Where the outputs of each block start, from the first height on. It may be that of another commit: a hint that
    /// is held against the directory row.
    starts: Arc<Vec<u64>>,
    tip: Option<(u32, BlockRow)>,
    pub(super) ends: Ends,
    /// What is left of the locator; `None` if it is complete.
    pub(super) deferred: Option<Deferred>,
    /// The height from which on spenders are known; `None` if all are.
    pub(super) spenders_from: Option<u32>,
    tables: Tables,
}

/// An output of a block.
#[derive(Clone, Copy)]
pub(super) struct Output {
    pub(super) item: OutputItem,
    /// Index of its transaction among the block's.
    pub(super) index: usize,
    pub(super) spent: bool,
}

impl View {
    pub(super) fn new(
        read: ReadTransaction,
        meta: Arc<Meta>,
        file: Arc<Path>,
        undo_depth: u32,
        starts: Arc<Vec<u64>>,
    ) -> Result<Self, Fault> {
        let deferred = read_deferred(&read)?;
        let spenders_from = read_spenders_from(&read)?;
        let tables = Tables::new(read, &meta);
        let tip = match tables.blocks()?.last()? {
            Some((height, row)) => {
                let height = height.value();
                let row = BlockRow::decode(row.value()).in_row("blocks", height)?;
                Some((height, row))
            }
            None => None,
        };
        let ends = tip.as_ref().map(|(_, row)| row.ends()).unwrap_or_default();
        let is_full = tables.full.is_some();
        if deferred.is_some_and(|deferred| deferred.located > ends.outputs || !is_full) {
            let reason = "more outputs than the index has";
            return Err(Fault::row("meta", "located", reason));
        }
        Ok(Self {
            file,
            undo_depth,
            starts,
            ends,
            tip,
            deferred,
            spenders_from,
            tables,
            meta,
        })
    }

    /// Where the outputs of each block start.
    pub(super) fn load_starts(&self) -> Result<Vec<u64>, Fault> {
        let mut starts = Vec::new();
        if self.kept().is_some() {
            for entry in self.blocks()?.iter()? {
                starts.push(BlockRow::outputs_first(entry?.1.value()));
            }
        }
        Ok(starts)
    }

    /// The tables that only an index has that keeps everything; `what` names what is asked for.
    pub(super) fn full(&self, what: &'static str) -> Result<&Full, Fault> {
        self.kept().ok_or_else(|| {
            let file = self.file.to_path_buf();
            StoreError::NotKept { file, what }.into()
        })
    }

    /// The same, without saying for what.
    pub(super) fn kept(&self) -> Option<&Full> {
        self.tables.full.as_ref()
    }

    /// What is watched, and the log.
    pub(super) fn watching(&self) -> &Watching {
        &self.tables.watching
    }

    pub(super) fn tip(&self) -> Option<BlockId> {
        self.tip.as_ref().map(|(height, row)| row.id(*height))
    }

    /// How many blocks there are.
    pub(super) fn height_count(&self) -> u32 {
        self.tip.as_ref().map_or(0, |(height, _)| {
            height
                .saturating_sub(self.meta.first_height)
                .saturating_add(1)
        })
    }

    /// How many blocks an update may disconnect.
    pub(super) fn undoable(&self) -> u32 {
        self.undo_depth.min(self.height_count())
    }

    pub(super) fn blocks(&self) -> Result<&Blocks, Fault> {
        self.tables.blocks()
    }

    pub(super) fn heights(&self) -> Result<&Heights, Fault> {
        self.tables.heights()
    }

    pub(super) fn digests(&self) -> Result<&Digests, Fault> {
        self.tables.digests()
    }

    pub(super) fn heads_v1(&self) -> Result<&Digests, Fault> {
        self.tables.heads_v1()
    }

    pub(super) fn sections_table(&self) -> Result<&SectionRows, Fault> {
        self.tables.sections()
    }

    /// Every column with its table and its length in items.
    pub(super) fn columns(&self) -> Result<Vec<(Column, &Chunks, u64)>, Fault> {
        let ends = self.ends;
        let mut columns = vec![(
            self.meta.tweak_form.column(),
            self.tables.tweaks()?,
            ends.transactions,
        )];
        if self.meta.tweak_form.has_multiples() {
            columns.push((MULTIPLES, self.tables.multiples()?, ends.transactions));
        }
        if let Some(full) = self.kept() {
            columns.extend([
                (TXIDS, full.txids()?, ends.transactions),
                (FIRSTS, full.firsts()?, ends.transactions),
                (OUTPUTS, full.outputs()?, ends.outputs),
                (SPENDS, full.spends()?, ends.spends),
                (FOREIGN, full.foreign()?, ends.foreign),
                (SPENDERS, full.spenders()?, ends.spends),
                (FILTERS, full.filters()?, ends.filter_bytes),
                (SPENT, full.spent()?, bitmap::len_bytes(ends.outputs)),
            ]);
        }
        Ok(columns)
    }

    /// Marks with their number and the position of the first one, if there are any.
    pub(super) fn marks(&self) -> Result<Option<(&Chunks, u64, u64)>, Fault> {
        let Some(deferred) = self.deferred else {
            return Ok(None);
        };
        let len = self.ends.outputs.saturating_sub(deferred.marked);
        Ok(Some((self.tables.marks()?, len, deferred.marked)))
    }

    /// The first output of a block with a mark that is not its own, given the outputs and their txids.
    pub(super) fn wrong_mark(
        &self,
        row: &BlockRow,
        txids: &[Txid],
        outputs: &[Output],
    ) -> Result<Option<u64>, Fault> {
        let Some((table, len, marked)) = self.marks()? else {
            return Ok(None);
        };
        let range = row.outputs.range();
        if range.start < marked {
            return Ok(None);
        }
        let marks = MARKS.read(table, len, range.start - marked..range.end - marked)?;
        let marks = marks.as_chunks().0.iter();
        let rows = range.zip(outputs).zip(marks);
        let mut wrong = rows.filter(|((_, output), mark)| {
            let (txid, vout) = (txids.get(output.index), output.item.vout);
            let outpoint = txid.map(|&txid| OutPoint { txid, vout });
            let expected = outpoint.map(|outpoint| self.meta.locator.mark(&outpoint));
            expected != Some(u64::from_le_bytes(**mark))
        });
        Ok(wrong.next().map(|((position, _), _)| position))
    }

    /// Opens every table: a file that lacks one is no index that could be read in part.
    pub(super) fn open_tables(&self) -> Result<(), Fault> {
        self.blocks()?;
        self.heights()?;
        self.digests()?;
        self.columns()?;
        self.marks()?;
        self.heads_v1()?;
        self.sections_table()?;
        let watching = self.watching();
        watching.watches()?;
        watching.starts()?;
        watching.events()?;
        watching.event_blocks()?;
        watching.deep_due()?;
        watching.consumers()?;
        watching.tokens()?;
        if let Some(full) = self.kept() {
            full.locator()?;
            full.states()?;
            full.state_locator()?;
            full.heads_v2()?;
        }
        Ok(())
    }

    /// Checks that every column ends where the last directory row says.
    pub(super) fn check_ends(&self) -> Result<(), Fault> {
        for (column, table, len) in self.columns()? {
            column.check_end(table, len)?;
        }
        if let Some((table, len, _)) = self.marks()? {
            MARKS.check_end(table, len)?;
        }
        match self.kept() {
            Some(full) => bitmap::check_end(full.spent()?, self.ends.outputs),
            None => match self.ends {
                Ends {
                    outputs: 0,
                    spends: 0,
                    foreign: 0,
                    filter_bytes: 0,
                    ..
                } => Ok(()),
                _ => Err(Fault::row(
                    "blocks",
                    self.tip().map_or(0, |tip| tip.height),
                    "ranges of columns that the index does not keep",
                )),
            },
        }
    }

    pub(super) fn block_row(&self, height: u32) -> Result<Option<BlockRow>, Fault> {
        match self.blocks()?.get(height)? {
            Some(row) => BlockRow::decode(row.value())
                .in_row("blocks", height)
                .map(Some),
            None => Ok(None),
        }
    }

    /// The row of a height that must be indexed.
    pub(super) fn present_row(&self, height: u32) -> Result<BlockRow, Fault> {
        self.block_row(height)?
            .ok_or_else(|| Fault::row("blocks", height, "missing"))
    }

    pub(super) fn digest(&self, height: u32) -> Result<Option<[u8; 32]>, Fault> {
        Ok(self.digests()?.get(height)?.map(|row| *row.value()))
    }

    /// Height of a block by hash.
    pub(super) fn height_of(&self, hash: &bitcoin::BlockHash) -> Result<Option<u32>, Fault> {
        let first = height_key(hash, 0);
        let last = height_key(hash, u32::MAX);
        for entry in self.heights()?.range::<&HeightKey>(&first..=&last)? {
            let height = height_of_key(entry?.0.value());
            if self.present_row(height)?.hash == *hash {
                return Ok(Some(height));
            }
        }
        Ok(None)
    }

    // ---- Transactions ----

    /// Tweaks as 33 compressed bytes each.
    pub(super) fn compressed(&self, range: Range<u64>) -> Result<Vec<[u8; 33]>, Fault> {
        let mut tweaks = Vec::with_capacity(range.end.saturating_sub(range.start) as usize);
        let len = self.ends.transactions;
        let table = self.tables.tweaks()?;
        match self.meta.tweak_form.has_points() {
            true => TWEAKS.visit(table, len, range, |items| {
                let items = items.as_chunks::<64>().0.iter();
                tweaks.extend(items.map(|bytes| TweakPoint::from_bytes(*bytes).to_compressed()));
                Ok(())
            }),
            false => COMPRESSED.visit(table, len, range, |items| {
                tweaks.extend_from_slice(items.as_chunks::<33>().0);
                Ok(())
            }),
        }?;
        Ok(tweaks)
    }

    /// Tweaks as points; an index that stores them compressed has none.
    pub(super) fn points(&self, range: Range<u64>) -> Result<Vec<TweakPoint>, Fault> {
        if !self.meta.tweak_form.has_points() {
            let file = self.file.to_path_buf();
            return Err(StoreError::NoPoints { file }.into());
        }
        read_points(TWEAKS, self.tables.tweaks()?, self.ends.transactions, range)
    }

    /// Multiples of tweaks, none in an index without.
    pub(super) fn multiples(&self, range: Range<u64>) -> Result<Vec<TweakPoint>, Fault> {
        if !self.meta.tweak_form.has_multiples() {
            let file = self.file.to_path_buf();
            return Err(StoreError::NoMultiples { file }.into());
        }
        let table = self.tables.multiples()?;
        read_points(MULTIPLES, table, self.ends.transactions, range)
    }

    pub(super) fn txids(&self, full: &Full, span: Span) -> Result<Vec<Txid>, Fault> {
        let mut txids = Vec::with_capacity(span.count as usize);
        TXIDS.visit(
            full.txids()?,
            self.ends.transactions,
            span.range(),
            |items| {
                let items = items.as_chunks::<32>().0.iter();
                txids.extend(items.map(|bytes| Txid::from_byte_array(*bytes)));
                Ok(())
            },
        )?;
        Ok(txids)
    }

    /// Per transaction of a block how many of the block's outputs stand before its own: ascending from 0.
    pub(super) fn firsts(&self, full: &Full, row: &BlockRow) -> Result<Vec<u32>, Fault> {
        let Span { first, count } = row.transactions;
        let mut firsts = Vec::with_capacity(count as usize);
        let range = row.transactions.range();
        FIRSTS.visit(full.firsts()?, self.ends.transactions, range, |items| {
            let items = items.as_chunks::<2>().0.iter();
            firsts.extend(items.map(|bytes| u32::from(u16::from_le_bytes(*bytes))));
            Ok(())
        })?;
        let outputs = row.outputs.count;
        let fits = match firsts.as_slice() {
            [] => outputs == 0,
            [0, ..] => firsts.is_sorted() && firsts.last().is_some_and(|last| *last <= outputs),
            _ => false,
        };
        if fits {
            Ok(firsts)
        } else {
            Err(Fault::row(FIRSTS.name(), first, "not in block order"))
        }
    }

    // ---- Outputs ----

    /// The outputs of a block with their state, in order.
    pub(super) fn outputs_of(&self, full: &Full, row: &BlockRow) -> Result<Vec<Output>, Fault> {
        let range = row.outputs.range();
        let firsts = self.firsts(full, row)?;
        let spent = bitmap::read(full.spent()?, self.ends.outputs, range.clone())?;
        let mut spent = spent.into_iter();
        let mut outputs = Vec::with_capacity(row.outputs.count as usize);
        let mut position = row.outputs.first;
        let mut relative = 0;
        let mut index = 0;
        let mut last = None;
        OUTPUTS.visit(full.outputs()?, self.ends.outputs, range, |items| {
            for item in items.chunks_exact(OutputItem::BYTES) {
                let item = OutputItem::decode(item).in_row(OUTPUTS.name(), position)?;
                // The last transaction that starts here or before: those without outputs start where the next does.
                while firsts.get(index + 1).is_some_and(|next| *next <= relative) {
                    index += 1;
                }
                let at = (index, item.vout);
                if last.replace(at).is_some_and(|last| last >= at) {
                    return Err(Fault::row(OUTPUTS.name(), position, "not in block order"));
                }
                outputs.push(Output {
                    item,
                    index,
                    spent: spent
                        .next()
                        .ok_or_else(|| Fault::row(SPENT.name(), position, "bit is missing"))?,
                });
                position += 1;
                relative += 1;
            }
            Ok(())
        })?;
        Ok(outputs)
    }

    /// The block that holds an output.
    fn block_of_output(&self, position: OutputPosition) -> Result<BlockRow, Fault> {
        // The last block that does not start behind it: the ones without outputs before it start where it does.
        let hint = self.starts.partition_point(|first| *first <= position.0);
        if let Some(height) = u32::try_from(hint)
            .ok()
            .and_then(|count| count.checked_sub(1))
            .and_then(|index| self.meta.first_height.checked_add(index))
            && let Some(row) = self.block_row(height)?
            && row.has_output(position)
        {
            return Ok(row);
        }
        let (_, row) = self.last_block(|row| row.outputs.first <= position.0)?;
        if row.has_output(position) {
            return Ok(row);
        }
        let reason = format!("output {position} is in no block");
        Err(Fault::row("blocks", "all", reason))
    }

    /// Height of the block that holds an output.
    pub(super) fn height_of_output(&self, position: OutputPosition) -> Result<u32, Fault> {
        let (height, row) = self.last_block(|row| row.outputs.first <= position.0)?;
        if row.has_output(position) {
            return Ok(height);
        }
        let reason = format!("output {position} is in no block");
        Err(Fault::row("blocks", height, reason))
    }

    /// The block that holds a spend, with its height.
    pub(super) fn block_of_spend(
        &self,
        SpendPosition(position): SpendPosition,
    ) -> Result<(u32, BlockRow), Fault> {
        let (height, row) = self.last_block(|row| row.spends.first <= position)?;
        if row.spends.range().contains(&position) {
            return Ok((height, row));
        }
        let reason = format!("spend {position} is in no block");
        Err(Fault::row("blocks", height, reason))
    }

    /// Bytes of one filter.
    pub(super) fn filter_bytes(&self, full: &Full, span: Span) -> Result<Vec<u8>, Fault> {
        FILTERS.read(full.filters()?, self.ends.filter_bytes, span.range())
    }

    /// The block that holds a transaction.
    pub(super) fn block_of(&self, transaction: TxPosition) -> Result<(BlockId, BlockRow), Fault> {
        let (height, row) = self.last_block(|row| row.transactions.first <= transaction.0)?;
        if row.transactions.range().contains(&transaction.0) {
            return Ok((row.id(height), row));
        }
        let reason = format!("transaction {transaction} is in no block");
        Err(Fault::row("blocks", height, reason))
    }

    /// The last block of which `holds` says yes; it says so of all blocks before.
    fn last_block(&self, holds: impl Fn(&BlockRow) -> bool) -> Result<(u32, BlockRow), Fault> {
        let mut low = self.meta.first_height;
        let missing = || Fault::row("blocks", self.meta.first_height, "missing");
        let mut high = self.tip().ok_or_else(missing)?.height;
        while low < high {
            let middle = high - (high - low) / 2;
            if holds(&self.present_row(middle)?) {
                low = middle;
            } else {
                high = middle - 1;
            }
        }
        Ok((low, self.present_row(low)?))
    }

    /// Number of unspent outputs.
    pub(super) fn unspent(&self, full: &Full) -> Result<u64, Fault> {
        let located = full.locator()?.len()?;
        match self.deferred {
            Some(Deferred { located: from, .. }) => {
                let range = from..self.ends.outputs;
                let spent = bitmap::count(full.spent()?, self.ends.outputs, range.clone())?;
                Ok(located + (range.end - range.start).saturating_sub(spent))
            }
            None => Ok(located),
        }
    }

    /// Whether an output at a position has a locator as long as it is unspent.
    pub(super) fn is_located(&self, position: OutputPosition) -> bool {
        let deferred = self.deferred;
        deferred.is_none_or(|deferred| position.0 < deferred.located)
    }

    /// Positions of the unspent outputs whose outpoints have a hash, ascending: nearly always one or none.
    pub(super) fn located(
        &self,
        full: &Full,
        hash: u64,
        mut found: impl FnMut(OutputPosition),
    ) -> Result<(), Fault> {
        let first = locator_key(hash, OutputPosition(0));
        let last = locator_key(hash, OutputPosition(OUTPUTS_MAX));
        for entry in full.locator()?.range::<&LocatorKey>(&first..=&last)? {
            found(split_locator_key(entry?.0.value()).1);
        }
        Ok(())
    }

    /// Position of an unspent output; refused while the locator does not cover all of them.
    pub(super) fn located_position(
        &self,
        full: &Full,
        outpoint: &OutPoint,
    ) -> Result<Option<OutputPosition>, Fault> {
        if self.deferred.is_some() {
            let file = self.file.to_path_buf();
            return Err(StoreError::NotLocated { file }.into());
        }
        self.position_of(full, outpoint)
    }

    /// Position of an unspent output, as far as the locator covers them.
    pub(super) fn position_of(
        &self,
        full: &Full,
        outpoint: &OutPoint,
    ) -> Result<Option<OutputPosition>, Fault> {
        let mut positions = Vec::new();
        self.located(full, self.meta.locator.hash(outpoint), |position| {
            positions.push(position);
        })?;
        let mut outputs = self.held(full)?;
        for position in positions {
            if outputs.get(position)?.outpoint() == *outpoint {
                return Ok(Some(position));
            }
        }
        Ok(None)
    }
}

fn read_points(
    column: Column,
    table: &Chunks,
    len: u64,
    range: Range<u64>,
) -> Result<Vec<TweakPoint>, Fault> {
    let mut points = Vec::with_capacity(range.end.saturating_sub(range.start) as usize);
    column.visit(table, len, range, |items| {
        let items = items.as_chunks::<64>().0.iter();
        points.extend(items.map(|bytes| TweakPoint::from_bytes(*bytes)));
        Ok(())
    })?;
    Ok(points)
}
