//! The rows of a block as the index hands them over.

use bitcoin::{OutPoint, Txid, block::Header};

use super::error::StoreError;
use crate::BlockId;
use crate::process::State;

/// An eligible transaction of a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransactionRow {
    /// Its txid.
    pub txid: Txid,
    /// Its tweak as a point: x then y, big-endian.
    pub tweak: [u8; 64],
}

/// A taproot output of an eligible transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputRow {
    /// x-only output key, as in the script.
    pub key: [u8; 32],
    /// Amount in satoshi.
    pub value_sat: u64,
    /// Index among all outputs of its transaction.
    pub vout: u32,
    /// Index of its transaction among the block's eligible ones.
    pub transaction: u32,
}

/// Where in its block an output is spent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Spender {
    /// Index of the spending transaction among all of the block, below [`u16::MAX`].
    pub transaction: u16,
    /// Index of the spending input among those of the transaction.
    pub input: u16,
}

/// A state id: the 32 bytes that an output of a transaction carries as `OP_RETURN`, `6a20…`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateRow {
    /// Index of the transaction among all of its block.
    pub transaction: u16,
    /// Index of the output that carries it.
    pub vout: u32,
    /// The transaction's txid.
    pub txid: Txid,
    /// The 32 bytes.
    pub state_id: [u8; 32],
}

impl From<&StateRow> for State {
    fn from(row: &StateRow) -> Self {
        Self {
            vout: row.vout,
            id: row.state_id,
        }
    }
}

/// A taproot outpoint spent in a block, eligible or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpendRow {
    /// What was spent.
    pub outpoint: OutPoint,
    /// First 8 bytes of the spent output's x-only key.
    pub key_prefix: [u8; 8],
    /// Height of the block that created it, where the source knows; a hint for the writer, which need not look up what
    /// is older than the first height. Not stored: `None` in what is read.
    pub created: Option<u32>,
    /// Who spends it. `None` where that is not known: in an index that was written before spenders were kept.
    pub spender: Option<Spender>,
}

/// All rows of one block, ready to commit. Built by the index, applied by the writer. An index that keeps tweaks only
/// takes tweaks and multiples from it and ignores the rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockRecord {
    /// Height and hash.
    pub id: BlockId,
    /// The header.
    pub header: Header,
    /// Eligible transactions in block order.
    pub transactions: Vec<TransactionRow>,
    /// The multiple 2^64·T of each of their tweaks in the same order, x then y, big-endian; empty for an index without
    /// multiples.
    pub multiples: Vec<[u8; 64]>,
    /// Taproot outputs of those, in block order then by vout.
    pub outputs: Vec<OutputRow>,
    /// Spent taproot outpoints in block order then input order.
    pub spends: Vec<SpendRow>,
    /// State ids that the transactions carry which spend those, in block order then by vout.
    pub states: Vec<StateRow>,
    /// Serialized new-UTXOs filter.
    pub new_utxos_filter: Vec<u8>,
    /// Serialized spent filter.
    pub spent_filter: Vec<u8>,
}

impl BlockRecord {
    /// Bytes of its rows in memory.
    pub fn size_bytes(&self) -> usize {
        size_of::<Self>()
            + size_of_val(self.transactions.as_slice())
            + size_of_val(self.multiples.as_slice())
            + size_of_val(self.outputs.as_slice())
            + size_of_val(self.spends.as_slice())
            + size_of_val(self.states.as_slice())
            + self.new_utxos_filter.len()
            + self.spent_filter.len()
    }

    /// Whether it says who spends what.
    pub(super) fn has_spenders(&self) -> bool {
        self.spends.iter().all(|spend| spend.spender.is_some())
    }

    /// Outpoints of its outputs, in order. The outputs are of transactions that it has.
    pub(super) fn outpoints(&self) -> impl Iterator<Item = OutPoint> {
        self.outputs.iter().map(|output| OutPoint {
            txid: self.transactions[output.transaction as usize].txid,
            vout: output.vout,
        })
    }

    /// A spend says of its output what the index does: the index stores it only once.
    pub(super) fn check_spent_key(&self, spend: &SpendRow, key: [u8; 8]) -> Result<(), StoreError> {
        if spend.key_prefix == key {
            return Ok(());
        }
        let reason = format!(
            "its spend of {} says that the key begins with {:016x}, the index has {:016x}",
            spend.outpoint,
            u64::from_be_bytes(spend.key_prefix),
            u64::from_be_bytes(key)
        );
        Err(self.invalid(reason))
    }

    /// It does not fit the index or itself.
    pub(super) fn invalid(&self, reason: impl Into<String>) -> StoreError {
        StoreError::InvalidRecord {
            block: self.id,
            reason: reason.into(),
        }
    }
}

/// One atomic change of the index: first disconnect from the tip, then connect.
#[derive(Debug, Clone, Copy)]
pub struct Update<'a> {
    /// How many blocks to disconnect, newest first.
    pub disconnect: u32,
    /// Blocks to connect after that, oldest first, each the child of the one before.
    pub connect: &'a [BlockRecord],
}

#[cfg(test)]
mod tests {
    use super::*;
    use bitcoin::hashes::Hash;
    use bitcoin::{Network, constants::genesis_block};

    /// What bounds memory counts every row.
    #[test]
    fn each_row_has_its_size() {
        let block = genesis_block(Network::Regtest);
        let mut record = BlockRecord {
            id: BlockId {
                height: 0,
                hash: block.block_hash(),
            },
            header: block.header,
            transactions: Vec::new(),
            multiples: Vec::new(),
            outputs: Vec::new(),
            spends: Vec::new(),
            states: Vec::new(),
            new_utxos_filter: Vec::new(),
            spent_filter: Vec::new(),
        };
        let mut expected = size_of::<BlockRecord>();
        assert_eq!(record.size_bytes(), expected);
        let txid = Txid::all_zeros();
        for count in 1..4 {
            let tweak = [0; 64];
            record.transactions.push(TransactionRow { txid, tweak });
            expected += size_of::<TransactionRow>();
            assert_eq!(record.size_bytes(), expected);
            record.multiples.push(tweak);
            expected += 64;
            assert_eq!(record.size_bytes(), expected);
            record.outputs.push(OutputRow {
                key: [0; 32],
                value_sat: 0,
                vout: 0,
                transaction: 0,
            });
            expected += size_of::<OutputRow>();
            assert_eq!(record.size_bytes(), expected);
            record.spends.push(SpendRow {
                outpoint: OutPoint::new(txid, 0),
                key_prefix: [0; 8],
                created: None,
                spender: None,
            });
            expected += size_of::<SpendRow>();
            assert_eq!(record.size_bytes(), expected);
            record.states.push(StateRow {
                transaction: 0,
                vout: 0,
                txid,
                state_id: [0; 32],
            });
            expected += size_of::<StateRow>();
            assert_eq!(record.size_bytes(), expected);
            record.new_utxos_filter.extend(vec![0; 10 * count]);
            record.spent_filter.extend(vec![0; 7 * count]);
            expected += 17 * count;
            assert_eq!(record.size_bytes(), expected);
        }
    }
}
