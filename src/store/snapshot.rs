//! Consistent reads at one tip, with dust limit and cut-through.

use std::fmt;
use std::sync::Arc;

use bitcoin::{BlockHash, Network, OutPoint, Txid, block::Header};
use redb::ReadableTableMetadata;
use serde::Serialize;

use super::error::{Fault, StoreError};
use super::locator::Locating;
use super::meta::{Keep, TweakForm};
use super::record::SpendRow;
use super::schema::BlockRow;
use super::view::{Full, Output, View};
use crate::BlockId;
use crate::curve::TweakPoint;

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
    /// Number of taproot outputs of those; 0 in an index that keeps tweaks only.
    pub outputs: u32,
    /// Number of taproot outpoints spent; 0 in an index that keeps tweaks only.
    pub spends: u32,
}

/// A tweak as it is served: SEC1 compressed.
pub type CompressedTweak = [u8; 33];

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

/// Totals of an index. One that keeps tweaks only has no outputs, spends and filters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
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
    /// Those that are no outputs of the index.
    pub foreign: u64,
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

    /// As [`read_block`](Self::read_block), for what only an index has that keeps everything.
    fn read_full<T>(
        &self,
        height: u32,
        what: &'static str,
        read: impl FnOnce(&View, &Full, BlockRow) -> Result<T, Fault>,
    ) -> Result<Option<T>, StoreError> {
        self.read_block(height, |view, row| read(view, view.full(what)?, row))
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

    /// What the index keeps.
    pub fn keep(&self) -> Keep {
        self.view.meta.keep
    }

    /// How the index stores its tweaks.
    pub fn tweak_form(&self) -> TweakForm {
        self.view.meta.tweak_form
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
                unspent: match view.kept() {
                    Some(full) => view.unspent(full)?,
                    None => 0,
                },
                spends: view.ends.spends,
                foreign: view.ends.foreign,
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
        self.read(|view| view.height_of(hash))
    }

    /// Tweaks of a block in block order with their txids; `None` if the height is not indexed.
    ///
    /// # Errors
    /// [`StoreError::NoPoints`] for an index that stores tweaks compressed, [`StoreError::NotKept`] for one that keeps
    /// nothing else; else as [`block`](Self::block).
    pub fn tweaks(
        &self,
        height: u32,
        filter: RowFilter,
    ) -> Result<Option<Vec<(Txid, TweakPoint)>>, StoreError> {
        self.read_full(height, "txids", |view, full, row| {
            let tweaks = view.points(row.transactions.range())?;
            let txids = view.txids(full, row.transactions)?;
            filtered(view, &row, filter, txids.into_iter().zip(tweaks).collect())
        })
    }

    /// The same with tweaks as 33 compressed bytes each, which every index has that keeps txids.
    ///
    /// # Errors
    /// [`StoreError::NotKept`] for an index that keeps tweaks only; else as [`block`](Self::block).
    pub fn compressed_tweaks(
        &self,
        height: u32,
        filter: RowFilter,
    ) -> Result<Option<Vec<(Txid, CompressedTweak)>>, StoreError> {
        self.read_full(height, "txids", |view, full, row| {
            let tweaks = view.compressed(row.transactions.range())?;
            let txids = view.txids(full, row.transactions)?;
            filtered(view, &row, filter, txids.into_iter().zip(tweaks).collect())
        })
    }

    /// Tweaks of a block in block order as 33 compressed bytes each, without their txids: what every index has. `None`
    /// if the height is not indexed.
    ///
    /// # Errors
    /// [`StoreError::NotKept`] for a filter over an index that keeps tweaks only; else as [`block`](Self::block).
    pub fn tweak_list(
        &self,
        height: u32,
        filter: RowFilter,
    ) -> Result<Option<Vec<CompressedTweak>>, StoreError> {
        self.read_block(height, |view, row| {
            let tweaks = view.compressed(row.transactions.range())?;
            filtered(view, &row, filter, tweaks)
        })
    }

    /// Taproot outputs of the block's eligible transactions in block order; `None` if the height is not indexed.
    /// With `cut_through`, all outputs of each transaction that still has an unspent one (spent siblings included).
    ///
    /// # Errors
    /// As [`block`](Self::block).
    pub fn utxos(&self, height: u32, filter: RowFilter) -> Result<Option<Vec<Utxo>>, StoreError> {
        self.read_full(height, "outputs", |view, full, row| {
            let txids = view.txids(full, row.transactions)?;
            let outputs = view.outputs_of(full, &row)?;
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
        self.read_full(height, "spends", |view, full, row| view.spends(full, &row))
    }

    /// Serialized new-UTXOs filter; `None` if the height is not indexed.
    ///
    /// # Errors
    /// As [`block`](Self::block).
    pub fn new_utxos_filter(&self, height: u32) -> Result<Option<Vec<u8>>, StoreError> {
        self.read_full(height, "filters", |view, full, row| {
            view.filter_bytes(full, row.new_utxos_filter)
        })
    }

    /// Serialized spent filter; `None` if the height is not indexed.
    ///
    /// # Errors
    /// As [`block`](Self::block).
    pub fn spent_filter(&self, height: u32) -> Result<Option<Vec<u8>>, StoreError> {
        self.read_full(height, "filters", |view, full, row| {
            view.filter_bytes(full, row.spent_filter)
        })
    }

    /// Rolling digest at a height ([`roll_digest`](super::roll_digest)); `None` if the height is not indexed.
    ///
    /// # Errors
    /// As [`block`](Self::block).
    pub fn digest(&self, height: u32) -> Result<Option<[u8; 32]>, StoreError> {
        self.read(|view| view.digest(height))
    }

    /// Lowest height that an update may disconnect, `None` if none: any block can be, and
    /// [`StoreOptions::undo_depth`](super::StoreOptions) bounds how many.
    ///
    /// # Errors
    /// None; a later format may have some.
    pub fn undo_from(&self) -> Result<Option<u32>, StoreError> {
        let above = self.view.undoable().checked_sub(1);
        let tip = self.view.tip().zip(above);
        Ok(tip.and_then(|(tip, above)| tip.height.checked_sub(above)))
    }

    /// Positions, ascending, of the outputs that the block at a height spent; `None` if the height is not indexed.
    ///
    /// # Errors
    /// [`StoreError::NotKept`] for an index that keeps tweaks only; else as [`block`](Self::block).
    pub fn spent_positions(&self, height: u32) -> Result<Option<Vec<u64>>, StoreError> {
        self.read_full(height, "spends", |view, full, row| {
            view.spent_by(full, &row)
        })
    }

    /// How far the locator is, `None` if it has all that it should: a long sync leaves it for its end.
    pub fn locating(&self) -> Option<Locating> {
        self.view.deferred.map(|deferred| Locating {
            outputs: deferred.located,
            of: self.view.ends.outputs,
        })
    }

    /// Whether an outpoint is an unspent taproot output of an eligible indexed transaction.
    ///
    /// # Errors
    /// [`StoreError::NotKept`] for an index that keeps tweaks only, [`StoreError::NotLocated`] during a long sync; else
    /// as [`block`](Self::block).
    pub fn is_unspent(&self, outpoint: &OutPoint) -> Result<bool, StoreError> {
        self.read(|view| {
            let full = view.full("outputs")?;
            if view.deferred.is_some() {
                let file = view.file.to_path_buf();
                return Err(StoreError::NotLocated { file }.into());
            }
            Ok(view.position_of(full, outpoint)?.is_some())
        })
    }
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
