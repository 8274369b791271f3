//! Transactions and outputs by their names: as far as the tables know them without a node.
//!
//! The locator has unspent outputs alone, and `state_locator` spends that carry a state id. Whatever else was spent is found
//! in the block that created it, which whoever asks has to know, and its spend by looking through those that follow.

use bitcoin::{OutPoint, Txid};

use super::block::{Block, CompressedTweak, Utxo};
use super::error::{Fault, StoreError};
use super::position::{OutputPosition, SpendPosition};
use super::schema::{SPENDS, SpendItem};
use super::snapshot::Snapshot;
use super::states::{StateSpend, spend_at, state_spend};
use super::view::{Full, Output};
use crate::BlockId;

/// An eligible transaction of a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EligibleTransaction {
    /// Its tweak.
    pub tweak: CompressedTweak,
    /// Position of its first output, behind which the others follow.
    pub first: OutputPosition,
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
            let outputs = view.outputs_of(full, row)?;
            let before = outputs.partition_point(|output| output.index < index);
            let own = outputs.into_iter();
            let own = own.filter(|output| output.index == index);
            let outputs = own.map(|Output { item, spent, .. }| Utxo {
                txid: *txid,
                vout: item.vout,
                value_sat: item.value_sat,
                key: item.key,
                spent,
            });
            Ok(Some(EligibleTransaction {
                tweak,
                first: OutputPosition(row.outputs.first + before as u64),
                outputs: outputs.collect(),
            }))
        })
    }

    /// For each output of an eligible transaction of the block its spend, as far as that is found: where the spender carries
    /// a state id, and otherwise among so many spends that the chain has from this block on, of which each has to be looked at.
    ///
    /// # Errors
    /// [`StoreError::NotKept`].
    pub fn spends_of(
        &self,
        transaction: &EligibleTransaction,
        most: u64,
    ) -> Result<Vec<Option<StateSpend>>, StoreError> {
        self.read_full("spends", |view, full, row| {
            let outputs = transaction.outputs.iter();
            let spends = outputs.map(|output| match output.spent {
                true => state_spend(view, full, &OutPoint::new(output.txid, output.vout)),
                false => Ok(None),
            });
            let mut spends = spends.collect::<Result<Vec<_>, Fault>>()?;
            let is_missing =
                |(output, spend): (&Utxo, &Option<StateSpend>)| output.spent && spend.is_none();
            let missing = transaction.outputs.iter().zip(&spends);
            let mut missing = missing.filter(|pair| is_missing(*pair)).count();
            let end = row.spends.first.saturating_add(most);
            let end = end.min(view.ends.spends);
            let mut next = row.spends.first;
            while missing > 0 && next < end {
                let chunk = SPENDS.chunk_items();
                let to = end.min(next - next % chunk + chunk);
                let mut found = Vec::new();
                SPENDS.visit(full.spends()?, view.ends.spends, next..to, |bytes| {
                    for item in bytes.as_chunks().0 {
                        if let SpendItem::Held(OutputPosition(at)) = SpendItem::decode(*item)
                            && let Some(index) = at.checked_sub(transaction.first.0)
                            && index < transaction.outputs.len() as u64
                        {
                            found.push((index as usize, SpendPosition(next)));
                        }
                        next += 1;
                    }
                    Ok(())
                })?;
                for (index, position) in found {
                    if let Some(place @ None) = spends.get_mut(index) {
                        *place = Some(spend_at(view, full, position)?);
                        missing = missing.saturating_sub(1);
                    }
                }
            }
            Ok(spends)
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
