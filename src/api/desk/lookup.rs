//! Blocks, transactions and outpoints by their names.

use bitcoin::{BlockHash, OutPoint, Txid};

use super::{BlockReading, DeskError, Reading};
use crate::BlockId;
use crate::store::{EligibleTransaction, StateSpend, Utxo};

/// Outputs of a transaction that are looked for one after the other, where it is to be found by its txid alone.
const VOUTS_TRIED: u32 = 256;

/// Spends that are looked through for that of an output: 20 MB of the index.
const SPENDS_TRIED: u64 = 1 << 22;

/// How many rows a block has of what only an index has that keeps everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockCounts {
    /// Taproot outputs of its eligible transactions.
    pub outputs: u32,
    /// Those that are unspent.
    pub unspent: u32,
    /// Taproot outpoints that it spends.
    pub spends: u32,
    /// State ids of the transactions that spend those.
    pub states: u32,
}

/// A taproot output of an eligible transaction, and the block that holds that.
pub type CreatedOutput = (BlockId, Utxo);

/// What the index can say of an outpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutpointState {
    /// A taproot output of an eligible transaction that no indexed block spends.
    Unspent(CreatedOutput),
    /// A taproot output that an indexed block spends.
    Spent {
        /// The output; `None` if the index has only its spend, as its transaction is not eligible, or older than the index.
        output: Option<CreatedOutput>,
        /// Its spend, as far as that is found ([`spends_of`](crate::store::Block::spends_of)).
        spend: Option<StateSpend>,
    },
    /// No taproot output of an eligible transaction of the block that it is said to be of.
    Unknown,
    /// Not unspent. Whether it ever was an output could only be told by the block that would have created it.
    SpentOrUnknown,
}

/// An eligible transaction, with the spends of its outputs that are known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundTransaction {
    /// The block that holds it.
    pub block: BlockId,
    /// Its tweak, and its taproot outputs.
    pub transaction: EligibleTransaction,
    /// For each output its spend, as far as that is found ([`spends_of`](crate::store::Block::spends_of)).
    pub spends: Vec<Option<StateSpend>>,
}

impl<'s> Reading<'s> {
    /// The indexed block with this hash, if there is one.
    ///
    /// # Errors
    /// [`DeskError::NothingIndexed`] before there is any block; the index cannot be read.
    pub fn block_by_hash(&self, hash: &BlockHash) -> Result<Option<BlockReading<'s>>, DeskError> {
        self.status()?;
        let height = self.snapshot.height_of(hash)?;
        height.map(|height| self.block(height)).transpose()
    }

    /// What is known of an outpoint, as an output of the block at a height if one is given. With it the answer is never
    /// [`OutpointState::SpentOrUnknown`], without it never [`OutpointState::Unknown`].
    ///
    /// # Errors
    /// That of [`block`](Self::block) for the height; [`DeskError::NotKept`]; without a height
    /// [`DeskError::NotLocated`] during a long sync.
    pub fn outpoint(
        &self,
        outpoint: &OutPoint,
        height: Option<u32>,
    ) -> Result<OutpointState, DeskError> {
        let Some(height) = height else {
            if let Some(output) = self.snapshot.unspent_output(outpoint)? {
                return Ok(OutpointState::Unspent(output));
            }
            return Ok(match self.snapshot.state_spend(outpoint)? {
                Some(spend) => self.spent_by(spend)?,
                None => OutpointState::SpentOrUnknown,
            });
        };
        if let Some((output, spend)) = self.output_at(outpoint, height)? {
            return Ok(match output.1.spent {
                true => OutpointState::Spent {
                    output: Some(output),
                    spend,
                },
                false => OutpointState::Unspent(output),
            });
        }
        Ok(match self.snapshot.state_spend(outpoint)? {
            Some(spend) => self.spent_by(spend)?,
            None => OutpointState::Unknown,
        })
    }

    fn spent_by(&self, spend: StateSpend) -> Result<OutpointState, DeskError> {
        let creator = self.snapshot.creator_of(spend.position)?;
        let output = match creator {
            Some(height) => self.output_at(&spend.spend.outpoint, height)?,
            None => None,
        };
        Ok(OutpointState::Spent {
            output: output.map(|(output, _)| output),
            spend: Some(spend),
        })
    }

    /// The taproot output of an eligible transaction of a block, with its spend.
    fn output_at(
        &self,
        outpoint: &OutPoint,
        height: u32,
    ) -> Result<Option<(CreatedOutput, Option<StateSpend>)>, DeskError> {
        let block = self.block(height)?;
        let Some(mut transaction) = block.block.transaction(&outpoint.txid)? else {
            return Ok(None);
        };
        let mut outputs = transaction.outputs.iter();
        let Some(index) = outputs.position(|output| output.vout == outpoint.vout) else {
            return Ok(None);
        };
        // As if it had this one alone.
        transaction.first.0 += index as u64;
        transaction.outputs = vec![transaction.outputs.swap_remove(index)];
        let spend = block
            .block
            .spends_of(&transaction, SPENDS_TRIED)?
            .pop()
            .flatten();
        let output = transaction.outputs.pop();
        Ok(output.map(|output| ((block.id(), output), spend)))
    }

    /// An eligible transaction: of the block at a height, if one is given, else found by its outputs, of which one has to be
    /// unspent or spent by a transaction with a state id, and among the first 256. So `None` says without a height that
    /// the index cannot find it, not that it is not there.
    ///
    /// # Errors
    /// As [`outpoint`](Self::outpoint).
    pub fn transaction(
        &self,
        txid: &Txid,
        height: Option<u32>,
    ) -> Result<Option<FoundTransaction>, DeskError> {
        let height = match height {
            Some(height) => Some(height),
            None => self.creator_height(txid)?,
        };
        let Some(height) = height else {
            return Ok(None);
        };
        let block = self.block(height)?;
        let Some(transaction) = block.block.transaction(txid)? else {
            return Ok(None);
        };
        let spends = block.block.spends_of(&transaction, SPENDS_TRIED)?;
        Ok(Some(FoundTransaction {
            block: block.id(),
            transaction,
            spends,
        }))
    }

    /// Height of the block of a transaction, by the first of its outputs that is found.
    fn creator_height(&self, txid: &Txid) -> Result<Option<u32>, DeskError> {
        for vout in 0..VOUTS_TRIED {
            let outpoint = OutPoint::new(*txid, vout);
            if let Some((block, _)) = self.snapshot.unspent_output(&outpoint)? {
                return Ok(Some(block.height));
            }
            if let Some(spend) = self.snapshot.state_spend(&outpoint)?
                && let Some(height) = self.snapshot.creator_of(spend.position)?
            {
                return Ok(Some(height));
            }
        }
        Ok(None)
    }
}
