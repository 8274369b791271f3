//! Transactions and outputs by their names: as far as the tables know them without a node.
//!
//! The locator has unspent outputs alone, and `state_locator` spends that carry a state id. Whatever else was spent is found
//! in the block that created it, which whoever asks has to know.

use bitcoin::{OutPoint, Txid};

use super::block::{Block, CompressedTweak, Utxo};
use super::error::{Fault, StoreError};
use super::position::SpendPosition;
use super::schema::{SPENDS, SpendItem};
use super::snapshot::Snapshot;
use super::view::{Full, Output};
use crate::BlockId;

/// An eligible transaction of a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EligibleTransaction {
    /// Its tweak.
    pub tweak: CompressedTweak,
    /// Its taproot outputs with their present state, by vout.
    pub outputs: Vec<Utxo>,
}

impl Block<'_> {
    /// The eligible transaction of the block with this txid; `None` if the block has none.
    ///
    /// # Errors
    /// [`StoreError::NotKept`].
    pub fn transaction(&self, txid: &Txid) -> Result<Option<EligibleTransaction>, StoreError> {
        self.read_full("txids", |view, full, row| {
            let txids = view.txids(full, row.transactions)?;
            let Some(index) = txids.iter().position(|own| own == txid) else {
                return Ok(None);
            };
            let position = row.transactions.first + index as u64;
            let tweaks = view.compressed(position..position + 1)?;
            let missing = || Fault::row("tweaks", position, "missing");
            let tweak = tweaks.into_iter().next().ok_or_else(missing)?;
            let outputs = view.outputs_of(full, row)?.into_iter();
            let own = outputs.filter(|output| output.index == index);
            let outputs = own.map(|Output { item, spent, .. }| Utxo {
                txid: *txid,
                vout: item.vout,
                value_sat: item.value_sat,
                key: item.key,
                spent,
            });
            Ok(Some(EligibleTransaction {
                tweak,
                outputs: outputs.collect(),
            }))
        })
    }
}

impl Snapshot {
    /// An unspent taproot output of an eligible indexed transaction, with the block that created it; `None` if the outpoint
    /// is none.
    ///
    /// # Errors
    /// As [`is_unspent`](Self::is_unspent).
    pub fn unspent_output(
        &self,
        outpoint: &OutPoint,
    ) -> Result<Option<(BlockId, Utxo)>, StoreError> {
        self.read(|view| {
            let full = view.full("outputs")?;
            let Some(position) = view.located_position(full, outpoint)? else {
                return Ok(None);
            };
            let item = view.held(full)?.get(position)?.item;
            let height = view.height_of_output(position)?;
            let utxo = Utxo {
                txid: outpoint.txid,
                vout: item.vout,
                value_sat: item.value_sat,
                key: item.key,
                spent: false,
            };
            Ok(Some((view.present_row(height)?.id(height), utxo)))
        })
    }

    /// Height of the block that created what a spend spends; `None` if that is no output of the index.
    ///
    /// # Errors
    /// [`StoreError::NotKept`] for an index that keeps tweaks only; else as [`block`](Self::block).
    pub fn creator_of(&self, spend: SpendPosition) -> Result<Option<u32>, StoreError> {
        self.read(|view| {
            let full: &Full = view.full("spends")?;
            let mut spends = SPENDS.items(full.spends()?, view.ends.spends);
            match SpendItem::decode(spends.get(spend.0)?) {
                SpendItem::Held(position) => view.height_of_output(position).map(Some),
                SpendItem::Foreign => Ok(None),
            }
        })
    }
}
