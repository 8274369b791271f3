//! A block of the index, and what is kept of it: each list is read when it is asked for.

use std::fmt;

use bitcoin::hashes::Hash;
use bitcoin::{Txid, block::Header};
use rayon::prelude::*;

use super::error::{Fault, StoreError};
use super::heads::{self, Heads, Texts};
use super::position::OutputPosition;
use super::record::{BlockRecord, OutputRow, SpendRow, StateRow, TransactionRow};
use super::schema::{BlockRow, SpendItem};
use super::sections::{self, Sections};
use super::snapshot::Snapshot;
use super::view::{Full, Output, View};
use crate::BlockId;
use crate::curve::TweakPoint;
use crate::filter::FilterKind;
use crate::wire::native::column::Column;
use crate::wire::native::section::SectionHashes;

/// A tweak as it is served: SEC1 compressed.
pub type CompressedTweak = [u8; 33];

/// Which rows of a list a caller wants. Both drop whole transactions, never one output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
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

/// An indexed block. Its directory row has been read, and nothing else.
///
/// An index that keeps tweaks only answers [`StoreError::NotKept`] to whoever asks for more. Whatever is asked,
/// [`StoreError::Corrupt`] names a row that spindex did not write so, [`StoreError::Io`] and [`StoreError::Halted`] say that
/// the disk fails.
#[derive(Clone)]
pub struct Block<'s> {
    snapshot: &'s Snapshot,
    height: u32,
    row: BlockRow,
}

impl fmt::Debug for Block<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Block")
            .field("id", &self.id())
            .field("header", self.header())
            .field("transactions", &self.transaction_count())
            .field("outputs", &self.output_count())
            .field("spends", &self.spend_count())
            .finish_non_exhaustive()
    }
}

impl<'s> Block<'s> {
    pub(super) const fn new(snapshot: &'s Snapshot, height: u32, row: BlockRow) -> Self {
        Self {
            snapshot,
            height,
            row,
        }
    }

    pub(super) fn read<T>(
        &self,
        read: impl FnOnce(&View, &BlockRow) -> Result<T, Fault>,
    ) -> Result<T, StoreError> {
        self.snapshot.read(|view| read(view, &self.row))
    }

    /// As [`read`](Self::read), for what only an index has that keeps everything.
    pub(super) fn read_full<T>(
        &self,
        what: &'static str,
        read: impl FnOnce(&View, &Full, &BlockRow) -> Result<T, Fault>,
    ) -> Result<T, StoreError> {
        self.read(|view, row| read(view, view.full(what)?, row))
    }

    /// Height and hash.
    pub const fn id(&self) -> BlockId {
        self.row.id(self.height)
    }

    /// The header.
    pub const fn header(&self) -> &Header {
        &self.row.header
    }

    /// Number of eligible transactions.
    pub const fn transaction_count(&self) -> u32 {
        self.row.transactions.count
    }

    /// Number of taproot outputs of those; 0 in an index that keeps tweaks only.
    pub const fn output_count(&self) -> u32 {
        self.row.outputs.count
    }

    /// Number of taproot outpoints spent; 0 in an index that keeps tweaks only.
    pub const fn spend_count(&self) -> u32 {
        self.row.spends.count
    }

    /// Tweaks in block order as 33 compressed bytes each: what every index has.
    ///
    /// # Errors
    /// [`StoreError::NotKept`] for a filter over an index that keeps tweaks only.
    pub fn tweaks(&self, filter: RowFilter) -> Result<Vec<CompressedTweak>, StoreError> {
        self.read(|view, row| {
            let tweaks = view.compressed(row.transactions.range())?;
            filtered(view, row, filter, tweaks)
        })
    }

    /// The same with the txids of their transactions.
    ///
    /// # Errors
    /// [`StoreError::NotKept`].
    pub fn transactions(
        &self,
        filter: RowFilter,
    ) -> Result<Vec<(Txid, CompressedTweak)>, StoreError> {
        self.read_full("txids", |view, full, row| {
            let tweaks = view.compressed(row.transactions.range())?;
            let txids = view.txids(full, row.transactions)?;
            filtered(view, row, filter, txids.into_iter().zip(tweaks).collect())
        })
    }

    /// Tweaks in block order as points.
    ///
    /// # Errors
    /// [`StoreError::NoPoints`] for an index that stores tweaks compressed.
    pub fn points(&self) -> Result<Vec<TweakPoint>, StoreError> {
        self.read(|view, row| view.points(row.transactions.range()))
    }

    /// The multiples 2^64·T of the tweaks.
    ///
    /// # Errors
    /// [`StoreError::NoMultiples`] for an index without.
    pub fn multiples(&self) -> Result<Vec<TweakPoint>, StoreError> {
        self.read(|view, row| view.multiples(row.transactions.range()))
    }

    /// Taproot outputs of the eligible transactions in block order. With `cut_through`, all outputs of each transaction that
    /// still has an unspent one (spent siblings included).
    ///
    /// # Errors
    /// [`StoreError::NotKept`].
    pub fn utxos(&self, filter: RowFilter) -> Result<Vec<Utxo>, StoreError> {
        self.read_full("outputs", |view, full, row| {
            let txids = view.txids(full, row.transactions)?;
            let outputs = view.outputs_of(full, row)?;
            let kept = Kept::new(row, &outputs, filter);
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

    /// Taproot outpoints spent in the block, in block order.
    ///
    /// # Errors
    /// [`StoreError::NotKept`].
    pub fn spends(&self) -> Result<Vec<SpendRow>, StoreError> {
        self.read_full("spends", |view, full, row| view.spends(full, row))
    }

    /// State ids of the transactions that spend those outpoints, ascending by transaction, then by vout. None in a block whose
    /// spenders are not known ([`Snapshot::spenders_from`]).
    ///
    /// # Errors
    /// [`StoreError::NotKept`].
    pub fn states(&self) -> Result<Vec<StateRow>, StoreError> {
        self.read_full("spends", |view, full, _| view.states(full, self.height))
    }

    /// Heads of the chains of hashes at this block; `None` below the start of the chains, and in an index of mainnet that
    /// begins above it.
    ///
    /// # Errors
    /// Only those of reading.
    pub fn heads(&self) -> Result<Option<Heads>, StoreError> {
        self.read(|view, _| view.heads(self.height))
    }

    /// The texts whose hashes the heads commit to at this block.
    ///
    /// # Errors
    /// Only those of reading.
    pub fn texts(&self) -> Result<Texts, StoreError> {
        self.read(|view, row| heads::texts(view, self.height, row))
    }

    /// What binds the block's sections of the native protocol's columns.
    ///
    /// # Errors
    /// Only those of reading.
    pub fn sections(&self) -> Result<Sections, StoreError> {
        self.read(|view, _| view.sections(self.height))
    }

    /// The hashes of the sections, computed anew.
    ///
    /// # Errors
    /// Only those of reading.
    pub fn section_hashes(&self) -> Result<SectionHashes, StoreError> {
        self.read(|view, row| sections::hashes_at(view, self.height, row))
    }

    /// Appends the block's section of a column.
    ///
    /// # Errors
    /// [`StoreError::NotKept`] for any but `headers` and `tweaks` of an index that keeps tweaks only.
    pub fn write_section(&self, column: Column, out: &mut Vec<u8>) -> Result<(), StoreError> {
        self.read(|view, row| sections::write(view, self.height, row, column, out))
    }

    /// For each of [`spends`](Self::spends) the height of the block that created what is spent, `None` for what the index
    /// does not hold.
    ///
    /// # Errors
    /// [`StoreError::NotKept`].
    pub fn spend_creators(&self) -> Result<Vec<Option<u32>>, StoreError> {
        self.read_full("spends", |view, full, row| {
            let items = view.spend_items(full, row)?.into_iter();
            let creators = items.map(|item| match item {
                SpendItem::Held(position) => view.height_of_output(position).map(Some),
                SpendItem::Foreign => Ok(None),
            });
            creators.collect()
        })
    }

    /// Positions, ascending, of the outputs that the block spent.
    ///
    /// # Errors
    /// [`StoreError::NotKept`].
    pub fn spent_positions(&self) -> Result<Vec<OutputPosition>, StoreError> {
        self.read_full("spends", |view, full, row| view.spent_by(full, row))
    }

    /// A serialized filter.
    ///
    /// # Errors
    /// [`StoreError::NotKept`].
    pub fn filter(&self, kind: FilterKind) -> Result<Vec<u8>, StoreError> {
        self.read_full("filters", |view, full, row| {
            let span = match kind {
                FilterKind::NewUtxos => row.new_utxos_filter,
                FilterKind::Spent => row.spent_filter,
            };
            view.filter_bytes(full, span)
        })
    }

    /// The rolling digest up to this block ([`roll_digest`](super::roll_digest)).
    ///
    /// # Errors
    /// Those of every read.
    pub fn digest(&self) -> Result<[u8; 32], StoreError> {
        self.read(|view, _| {
            let digest = view.digest(self.height)?;
            digest.ok_or_else(|| Fault::row("digest", self.height, "missing"))
        })
    }

    /// The record the block was made of. Heights that created what is spent are not stored, and an index that keeps tweaks
    /// only has txids of zeros and neither outputs, spends nor filters.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] also for a compressed tweak that is no point.
    pub fn record(&self) -> Result<BlockRecord, StoreError> {
        self.read(|view, row| record(view, self.height, row))
    }
}

fn record(view: &View, height: u32, row: &BlockRow) -> Result<BlockRecord, Fault> {
    let range = row.transactions.range();
    let form = view.meta.tweak_form;
    let tweaks: Vec<TweakPoint> = match form.has_points() {
        true => view.points(range.clone())?,
        false => {
            let compressed = view.compressed(range.clone())?;
            let points: Option<Vec<TweakPoint>> = compressed
                .par_iter()
                .map(TweakPoint::from_compressed)
                .collect();
            let column = form.column().name();
            points.ok_or_else(|| Fault::row(column, range.start, "a tweak that is no point"))?
        }
    };
    let multiples = match form.has_multiples() {
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
        states: Vec::new(),
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
            record.states = view.states(full, height)?;
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

/// The rows, one per transaction of a block, that pass a filter.
fn filtered<T>(
    view: &View,
    row: &BlockRow,
    filter: RowFilter,
    rows: Vec<T>,
) -> Result<Vec<T>, Fault> {
    if filter == RowFilter::default() {
        return Ok(rows);
    }
    let full = view.full("outputs")?;
    let kept = Kept::new(row, &view.outputs_of(full, row)?, filter);
    let rows = rows.into_iter().enumerate();
    let rows = rows.filter(|(index, _)| kept.has(*index));
    Ok(rows.map(|(_, row)| row).collect())
}

/// Which transactions of a block pass a [`RowFilter`].
pub(super) struct Kept {
    filter: RowFilter,
    /// Per transaction the value that the dust limit is held against; `None` drops it in any case.
    highest: Vec<Option<u64>>,
}

impl Kept {
    pub(super) fn new(row: &BlockRow, outputs: &[Output], filter: RowFilter) -> Self {
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

    pub(super) fn has(&self, index: usize) -> bool {
        match self.highest.get(index) {
            Some(&Some(highest)) => highest >= self.filter.dust_limit_sat,
            _ => false,
        }
    }
}
