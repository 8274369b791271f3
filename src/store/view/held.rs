//! Outputs by position.

use bitcoin::hashes::Hash;
use bitcoin::{OutPoint, Txid};

use super::{Full, View};
use crate::store::column::Items;
use crate::store::error::{Fault, InRow};
use crate::store::position::OutputPosition;
use crate::store::record::SpendRow;
use crate::store::schema::{BlockRow, OUTPUTS, OutputItem, TXIDS};

impl View {
    /// Reads outputs by position, with what they are outputs of.
    pub(in crate::store) fn held<'v>(&'v self, full: &'v Full) -> Result<HeldOutputs<'v>, Fault> {
        Ok(HeldOutputs {
            view: self,
            full,
            outputs: OUTPUTS.items(full.outputs()?, self.ends.outputs),
            txids: TXIDS.items(full.txids()?, self.ends.transactions),
            block: None,
        })
    }
}

/// Reads outputs by position; fast in ascending order.
pub(in crate::store) struct HeldOutputs<'v> {
    view: &'v View,
    full: &'v Full,
    outputs: Items<'v>,
    txids: Items<'v>,
    /// The block of the last one, with its `firsts`.
    block: Option<(BlockRow, Vec<u32>)>,
}

/// An output with its outpoint.
pub(in crate::store) struct HeldOutput {
    pub(in crate::store) item: OutputItem,
    pub(in crate::store) txid: Txid,
}

impl HeldOutput {
    pub(in crate::store) fn outpoint(&self) -> OutPoint {
        OutPoint {
            txid: self.txid,
            vout: self.item.vout,
        }
    }

    /// As the row of who spends it.
    pub(in crate::store) fn spend(&self) -> SpendRow {
        SpendRow {
            outpoint: self.outpoint(),
            key_prefix: self.item.key_prefix(),
            created: None,
            spender: None,
        }
    }
}

impl HeldOutputs<'_> {
    /// The output at a position, which must be there.
    pub(in crate::store) fn get(&mut self, position: OutputPosition) -> Result<HeldOutput, Fault> {
        let item = self.outputs.get::<{ OutputItem::BYTES }>(position.0)?;
        let item = OutputItem::decode(&item).in_row(OUTPUTS.name(), position)?;
        let (row, firsts) = match self.block.take() {
            Some(block) if block.0.has_output(position) => block,
            _ => {
                let row = self.view.block_of_output(position)?;
                let firsts = self.view.firsts(self.full, &row)?;
                (row, firsts)
            }
        };
        let relative = position.0 - row.outputs.first;
        // The last one that starts here or before; there is one, since the first starts at 0.
        let after = firsts.partition_point(|first| u64::from(*first) <= relative);
        let transaction = row.transactions.first + after.saturating_sub(1) as u64;
        self.block = Some((row, firsts));
        Ok(HeldOutput {
            item,
            txid: Txid::from_byte_array(self.txids.get(transaction)?),
        })
    }
}
