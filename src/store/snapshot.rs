//! Consistent reads at one tip, with dust limit and cut-through.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use bitcoin::hashes::Hash;
use bitcoin::{BlockHash, Network, OutPoint, Txid, block::Header};
use redb::{ReadOnlyTable, ReadTransaction, ReadableTable, ReadableTableMetadata};

use super::bitmap;
use super::column::{Column, Items};
use super::error::{Fault, InRow, StoreError};
use super::meta::Meta;
use super::record::SpendRow;
use super::schema::{
    BLOCKS, BlockRow, DIGEST, Ends, FILTERS, HEIGHTS, LOCATOR, LocatorKey, MULTIPLES, OUTPUTS,
    OUTPUTS_MAX, OutputItem, SPENDS, SPENT, Span, TWEAKS, TXIDS, UNDO, decode_undo, locator_key,
    split_locator_key,
};
use crate::BlockId;
use crate::curve::TweakPoint;

type Chunks = ReadOnlyTable<u32, &'static [u8]>;

/// A consistent view of one commit; cheap to take, cheap to clone, does not block the writer.
///
/// As long as it lives the pages it sees stay in the file, so one that is kept for long makes the file grow.
#[derive(Clone)]
pub struct Snapshot {
    view: Arc<View>,
}

/// What is known of one indexed block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockEntry {
    /// Height and hash.
    pub id: BlockId,
    /// The header.
    pub header: Header,
    /// Number of eligible transactions.
    pub transactions: u32,
    /// Number of taproot outputs of those.
    pub outputs: u32,
    /// Number of taproot outpoints spent.
    pub spends: u32,
}

/// Which rows of a list a caller wants. Both drop whole transactions, never one output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RowFilter {
    /// Keep a transaction if its highest taproot output reaches this (satoshi): highest at creation, or with
    /// `cut_through` highest still unspent.
    pub dust_limit_sat: u64,
    /// Keep a transaction only while one of its taproot outputs is unspent.
    pub cut_through: bool,
}

/// A taproot output of an eligible transaction with its present state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Utxo {
    /// Txid of the creating transaction.
    pub txid: Txid,
    /// Output index.
    pub vout: u32,
    /// Amount in satoshi.
    pub value_sat: u64,
    /// x-only output key.
    pub key: [u8; 32],
    /// Whether an indexed block has spent it.
    pub spent: bool,
}

/// Totals of an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Blocks.
    pub blocks: u64,
    /// Eligible transactions, each with one tweak.
    pub transactions: u64,
    /// Taproot outputs of those.
    pub outputs: u64,
    /// Those that no indexed block has spent.
    pub unspent: u64,
    /// Taproot outpoints spent, eligible or not.
    pub spends: u64,
    /// Bytes of all filters.
    pub filter_bytes: u64,
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot")
            .field("network", &self.network())
            .field("tip", &self.tip())
            .finish_non_exhaustive()
    }
}

impl Snapshot {
    pub(super) fn new(view: View) -> Self {
        Self {
            view: Arc::new(view),
        }
    }

    /// Names the file in what goes wrong.
    pub(super) fn read<T>(
        &self,
        read: impl FnOnce(&View) -> Result<T, Fault>,
    ) -> Result<T, StoreError> {
        read(&self.view).map_err(|fault| fault.in_file(&self.view.file))
    }

    /// As [`read`](Self::read), for what only an indexed height has.
    fn read_block<T>(
        &self,
        height: u32,
        read: impl FnOnce(&View, BlockRow) -> Result<T, Fault>,
    ) -> Result<Option<T>, StoreError> {
        self.read(|view| {
            let row = view.block_row(height)?;
            row.map(|row| read(view, row)).transpose()
        })
    }

    /// Network of the index.
    pub fn network(&self) -> Network {
        self.view.meta.network
    }

    /// First height the index holds or will hold.
    pub fn first_height(&self) -> u32 {
        self.view.meta.first_height
    }

    /// Whether each tweak is stored with its multiple.
    pub fn has_multiples(&self) -> bool {
        self.view.meta.multiples
    }

    /// The last block, `None` in an empty index.
    pub fn tip(&self) -> Option<BlockId> {
        self.view.tip()
    }

    /// Totals, for logs.
    ///
    /// # Errors
    /// As [`block`](Self::block).
    pub fn counts(&self) -> Result<Counts, StoreError> {
        self.read(|view| {
            Ok(Counts {
                blocks: view.blocks.len()?,
                transactions: view.ends.transactions,
                outputs: view.ends.outputs,
                unspent: view.locator.len()?,
                spends: view.ends.spends,
                filter_bytes: view.ends.filter_bytes,
            })
        })
    }

    /// The block at a height, `None` if not indexed.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] for a row that spindex did not write so; [`StoreError::Io`] and
    /// [`StoreError::Halted`] when the disk fails.
    pub fn block(&self, height: u32) -> Result<Option<BlockEntry>, StoreError> {
        self.read_block(height, |_, row| {
            Ok(BlockEntry {
                id: row.id(height),
                header: row.header,
                transactions: row.transactions.count,
                outputs: row.outputs.count,
                spends: row.spends.count,
            })
        })
    }

    /// Height of an indexed block by hash.
    ///
    /// # Errors
    /// As [`block`](Self::block).
    pub fn height_of(&self, hash: &BlockHash) -> Result<Option<u32>, StoreError> {
        self.read(|view| {
            Ok(view
                .heights
                .get(hash.as_byte_array())?
                .map(|row| row.value()))
        })
    }

    /// Tweaks of a block in block order with their txids; `None` if the height is not indexed.
    ///
    /// # Errors
    /// As [`block`](Self::block).
    pub fn tweaks(
        &self,
        height: u32,
        filter: RowFilter,
    ) -> Result<Option<Vec<(Txid, TweakPoint)>>, StoreError> {
        self.read_block(height, |view, row| {
            let range = row.transactions.range();
            let txids = view.txids(row.transactions)?;
            let tweaks = TWEAKS.read(&view.tweaks, view.ends.transactions, range)?;
            let tweaks = tweaks.as_chunks::<64>().0.iter();
            let rows = txids.into_iter().zip(tweaks);
            let rows = rows.map(|(txid, tweak)| (txid, TweakPoint::from_bytes(*tweak)));
            if filter == RowFilter::default() {
                return Ok(rows.collect());
            }
            let kept = Kept::new(&row, &view.outputs_of(&row)?, filter);
            let rows = rows.enumerate().filter(|(index, _)| kept.has(*index));
            Ok(rows.map(|(_, row)| row).collect())
        })
    }

    /// Taproot outputs of the block's eligible transactions in block order; `None` if the height is not indexed.
    /// With `cut_through`, all outputs of each transaction that still has an unspent one (spent siblings included).
    ///
    /// # Errors
    /// As [`block`](Self::block).
    pub fn utxos(&self, height: u32, filter: RowFilter) -> Result<Option<Vec<Utxo>>, StoreError> {
        self.read_block(height, |view, row| {
            let txids = view.txids(row.transactions)?;
            let outputs = view.outputs_of(&row)?;
            let kept = Kept::new(&row, &outputs, filter);
            let mut utxos = Vec::with_capacity(outputs.len());
            for Output { item, index, spent } in outputs {
                let Some(&txid) = txids.get(index).filter(|_| kept.has(index)) else {
                    continue;
                };
                utxos.push(Utxo {
                    txid,
                    vout: item.vout,
                    value_sat: item.value_sat,
                    key: item.key,
                    spent,
                });
            }
            Ok(utxos)
        })
    }

    /// Taproot outpoints spent in the block, in block order; `None` if the height is not indexed.
    ///
    /// # Errors
    /// As [`block`](Self::block).
    pub fn spends(&self, height: u32) -> Result<Option<Vec<SpendRow>>, StoreError> {
        self.read_block(height, |view, row| {
            let mut spends = Vec::with_capacity(row.spends.count as usize);
            let range = row.spends.range();
            SPENDS.visit(&view.spends, view.ends.spends, range, |items| {
                for item in items.chunks_exact(SpendRow::BYTES) {
                    spends.push(SpendRow::decode(item).in_row(SPENDS.name(), height)?);
                }
                Ok(())
            })?;
            Ok(spends)
        })
    }

    /// Serialized new-UTXOs filter; `None` if the height is not indexed.
    ///
    /// # Errors
    /// As [`block`](Self::block).
    pub fn new_utxos_filter(&self, height: u32) -> Result<Option<Vec<u8>>, StoreError> {
        self.read_block(height, |view, row| view.filter(row.new_utxos_filter))
    }

    /// Serialized spent filter; `None` if the height is not indexed.
    ///
    /// # Errors
    /// As [`block`](Self::block).
    pub fn spent_filter(&self, height: u32) -> Result<Option<Vec<u8>>, StoreError> {
        self.read_block(height, |view, row| view.filter(row.spent_filter))
    }

    /// Rolling digest at a height ([`roll_digest`](super::roll_digest)); `None` if the height is not indexed.
    ///
    /// # Errors
    /// As [`block`](Self::block).
    pub fn digest(&self, height: u32) -> Result<Option<[u8; 32]>, StoreError> {
        self.read(|view| view.digest(height))
    }

    /// Lowest height that can still be disconnected, `None` if none can.
    ///
    /// # Errors
    /// As [`block`](Self::block).
    pub fn undo_from(&self) -> Result<Option<u32>, StoreError> {
        self.read(|view| Ok(view.undo.first()?.map(|(height, _)| height.value())))
    }

    /// Positions, ascending, of the outputs that the block at a height spent; `None` if its undo row is gone.
    ///
    /// # Errors
    /// As [`block`](Self::block).
    pub fn undo(&self, height: u32) -> Result<Option<Vec<u64>>, StoreError> {
        self.read(|view| view.undo(height))
    }

    /// Whether an outpoint is an unspent taproot output of an eligible indexed transaction.
    ///
    /// # Errors
    /// As [`block`](Self::block).
    pub fn is_unspent(&self, outpoint: &OutPoint) -> Result<bool, StoreError> {
        self.read(|view| {
            let mut positions = Vec::new();
            view.located(view.meta.locator.hash(outpoint), |position| {
                positions.push(position);
            })?;
            let mut outpoints = view.outpoints();
            for position in positions {
                if outpoints.get(position)? == *outpoint {
                    return Ok(true);
                }
            }
            Ok(false)
        })
    }
}

/// The tables of one commit.
pub(super) struct View {
    pub(super) file: Arc<Path>,
    pub(super) meta: Arc<Meta>,
    tip: Option<(u32, BlockRow)>,
    pub(super) ends: Ends,
    pub(super) blocks: ReadOnlyTable<u32, &'static [u8; BlockRow::BYTES]>,
    pub(super) heights: ReadOnlyTable<&'static [u8; 32], u32>,
    pub(super) digest: ReadOnlyTable<u32, &'static [u8; 32]>,
    pub(super) undo: ReadOnlyTable<u32, &'static [u8]>,
    pub(super) locator: ReadOnlyTable<&'static LocatorKey, ()>,
    pub(super) tweaks: Chunks,
    /// Only in a file with multiples.
    pub(super) multiples: Option<Chunks>,
    pub(super) txids: Chunks,
    pub(super) outputs: Chunks,
    pub(super) spends: Chunks,
    pub(super) filters: Chunks,
    pub(super) spent: Chunks,
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
        read: &ReadTransaction,
        meta: Arc<Meta>,
        file: Arc<Path>,
    ) -> Result<Self, Fault> {
        let column = |column: Column| read.open_table(column.definition());
        let blocks = read.open_table(BLOCKS)?;
        let tip = match blocks.last()? {
            Some((height, row)) => {
                let height = height.value();
                let row = BlockRow::decode(row.value()).in_row("blocks", height)?;
                Some((height, row))
            }
            None => None,
        };
        let multiples = match meta.multiples {
            true => Some(column(MULTIPLES)?),
            false => None,
        };
        Ok(Self {
            file,
            meta,
            ends: tip.as_ref().map(|(_, row)| row.ends()).unwrap_or_default(),
            tip,
            blocks,
            heights: read.open_table(HEIGHTS)?,
            digest: read.open_table(DIGEST)?,
            undo: read.open_table(UNDO)?,
            locator: read.open_table(LOCATOR)?,
            tweaks: column(TWEAKS)?,
            multiples,
            txids: column(TXIDS)?,
            outputs: column(OUTPUTS)?,
            spends: column(SPENDS)?,
            filters: column(FILTERS)?,
            spent: column(SPENT)?,
        })
    }

    pub(super) fn tip(&self) -> Option<BlockId> {
        self.tip.as_ref().map(|(height, row)| row.id(*height))
    }

    /// Checks that every column ends where the last directory row says.
    pub(super) fn check_ends(&self) -> Result<(), Fault> {
        let ends = self.ends;
        TWEAKS.check_end(&self.tweaks, ends.transactions)?;
        if let Some(multiples) = &self.multiples {
            MULTIPLES.check_end(multiples, ends.transactions)?;
        }
        TXIDS.check_end(&self.txids, ends.transactions)?;
        OUTPUTS.check_end(&self.outputs, ends.outputs)?;
        SPENDS.check_end(&self.spends, ends.spends)?;
        FILTERS.check_end(&self.filters, ends.filter_bytes)?;
        bitmap::check_end(&self.spent, ends.outputs)
    }

    pub(super) fn block_row(&self, height: u32) -> Result<Option<BlockRow>, Fault> {
        match self.blocks.get(height)? {
            Some(row) => BlockRow::decode(row.value())
                .in_row("blocks", height)
                .map(Some),
            None => Ok(None),
        }
    }

    pub(super) fn digest(&self, height: u32) -> Result<Option<[u8; 32]>, Fault> {
        Ok(self.digest.get(height)?.map(|row| *row.value()))
    }

    pub(super) fn undo(&self, height: u32) -> Result<Option<Vec<u64>>, Fault> {
        match self.undo.get(height)? {
            Some(row) => decode_undo(row.value()).in_row("undo", height).map(Some),
            None => Ok(None),
        }
    }

    pub(super) fn txids(&self, span: Span) -> Result<Vec<Txid>, Fault> {
        let mut txids = Vec::with_capacity(span.count as usize);
        TXIDS.visit(&self.txids, self.ends.transactions, span.range(), |items| {
            let items = items.as_chunks::<32>().0.iter();
            txids.extend(items.map(|bytes| Txid::from_byte_array(*bytes)));
            Ok(())
        })?;
        Ok(txids)
    }

    fn filter(&self, span: Span) -> Result<Vec<u8>, Fault> {
        FILTERS.read(&self.filters, self.ends.filter_bytes, span.range())
    }

    /// The outputs of a block with their state, in order.
    pub(super) fn outputs_of(&self, row: &BlockRow) -> Result<Vec<Output>, Fault> {
        let range = row.outputs.range();
        let spent = bitmap::read(&self.spent, self.ends.outputs, range.clone())?;
        let mut spent = spent.into_iter();
        let mut outputs = Vec::with_capacity(row.outputs.count as usize);
        let mut position = row.outputs.first;
        let mut last = None;
        OUTPUTS.visit(&self.outputs, self.ends.outputs, range, |items| {
            for item in items.chunks_exact(OutputItem::BYTES) {
                let item = OutputItem::decode(item).in_row(OUTPUTS.name(), position)?;
                let at = (item.transaction, item.vout);
                if last.replace(at).is_some_and(|last| last >= at) {
                    return Err(Fault::row(OUTPUTS.name(), position, "not in block order"));
                }
                let transaction = u64::from(item.transaction);
                if !row.transactions.range().contains(&transaction) {
                    let reason = "an output of a transaction of another block";
                    return Err(Fault::row(OUTPUTS.name(), position, reason));
                }
                outputs.push(Output {
                    item,
                    index: (transaction - row.transactions.first) as usize,
                    spent: spent
                        .next()
                        .ok_or_else(|| Fault::row(SPENT.name(), position, "bit is missing"))?,
                });
                position += 1;
            }
            Ok(())
        })?;
        Ok(outputs)
    }

    /// Positions of the unspent outputs whose outpoints have a hash, ascending: nearly always one or none.
    pub(super) fn located(&self, hash: u64, mut found: impl FnMut(u64)) -> Result<(), Fault> {
        let first = locator_key(hash, 0);
        let last = locator_key(hash, OUTPUTS_MAX - 1);
        for entry in self.locator.range::<&LocatorKey>(&first..=&last)? {
            found(split_locator_key(entry?.0.value()).1);
        }
        Ok(())
    }

    /// Reads the outpoints of outputs.
    pub(super) fn outpoints(&self) -> Outpoints<'_> {
        Outpoints {
            outputs: OUTPUTS.items(&self.outputs, self.ends.outputs),
            txids: TXIDS.items(&self.txids, self.ends.transactions),
        }
    }
}

/// Reads the outpoints of outputs; fast in ascending order.
pub(super) struct Outpoints<'t> {
    outputs: Items<'t>,
    txids: Items<'t>,
}

impl Outpoints<'_> {
    /// The outpoint of the output at a position.
    pub(super) fn get(&mut self, position: u64) -> Result<OutPoint, Fault> {
        let item = self.outputs.get::<{ OutputItem::BYTES }>(position)?;
        let item = OutputItem::decode(&item).in_row(OUTPUTS.name(), position)?;
        let txid = self.txids.get(u64::from(item.transaction))?;
        Ok(OutPoint {
            txid: Txid::from_byte_array(txid),
            vout: item.vout,
        })
    }
}

/// Which transactions of a block pass a [`RowFilter`].
struct Kept {
    filter: RowFilter,
    /// Per transaction the value that the dust limit is held against; `None` drops it in any case.
    highest: Vec<Option<u64>>,
}

impl Kept {
    fn new(row: &BlockRow, outputs: &[Output], filter: RowFilter) -> Self {
        // Nothing to compare: without cut-through a transaction without outputs has nothing above 0.
        let none = if filter.cut_through { None } else { Some(0) };
        let mut highest = vec![none; row.transactions.count as usize];
        for output in outputs {
            if filter.cut_through && output.spent {
                continue;
            }
            if let Some(highest) = highest.get_mut(output.index) {
                *highest = (*highest).max(Some(output.item.value_sat));
            }
        }
        Self { filter, highest }
    }

    fn has(&self, index: usize) -> bool {
        match self.highest.get(index) {
            Some(&Some(highest)) => highest >= self.filter.dust_limit_sat,
            _ => false,
        }
    }
}
