//! The bytes Bitcoin Core's REST interface gives for a block and for its spent outputs.
//!
//! Both come from outside: counts are checked against the bytes that remain before anything is allocated for them.

use bitcoin::blockdata::script::Instruction;
use bitcoin::consensus::Decodable;
use bitcoin::{Amount, Block, ScriptBuf, TxOut};

use super::{BlockWithPrevouts, ChainError};
use crate::BlockId;

/// Bytes of the shortest spent output: the amount and an empty script's length.
const MIN_TXOUT_BYTES: usize = 9;

/// Why bytes are no block, or no spent outputs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} at byte {offset} of {total_bytes}")]
pub struct ParseError {
    /// What is wrong there.
    pub what: String,
    /// Where it was noticed, counted from the start.
    pub offset: usize,
    /// How many bytes were given.
    pub total_bytes: usize,
}

/// A block in the form of the peer-to-peer protocol, as `/rest/block/<hash>.bin` gives it.
///
/// # Errors
/// [`ParseError`] for bytes that are cut short, malformed, or followed by others.
pub fn parse_block(bytes: &[u8]) -> Result<Block, ParseError> {
    let mut rest = bytes;
    let block = Block::consensus_decode_from_finite_reader(&mut rest);
    let fail = |what: String| ParseError {
        what,
        offset: bytes.len() - rest.len(),
        total_bytes: bytes.len(),
    };
    match block {
        Ok(block) if rest.is_empty() => Ok(block),
        Ok(_) => Err(fail("bytes left over after the block".into())),
        Err(e) => Err(fail(format!("no block: {e}"))),
    }
}

/// The spent outputs of a block, as `/rest/spenttxouts/<hash>.bin` gives them: a CompactSize number of transactions,
/// then per transaction a CompactSize number of outputs (none for the coinbase), each an amount in satoshi (8 bytes,
/// little-endian) and a script with a CompactSize length.
///
/// # Errors
/// [`ParseError`] for bytes that are cut short, malformed, or followed by others.
pub fn parse_spent_outputs(bytes: &[u8]) -> Result<Vec<Vec<TxOut>>, ParseError> {
    let mut cursor = Cursor { bytes, offset: 0 };
    let transactions = cursor.count("transactions", 1)?;
    let mut all = Vec::with_capacity(transactions);
    for _ in 0..transactions {
        let outputs = cursor.count("spent outputs", MIN_TXOUT_BYTES)?;
        let mut spent = Vec::with_capacity(outputs);
        for _ in 0..outputs {
            let value = cursor.amount()?;
            let script_bytes = cursor.count("script bytes", 1)?;
            let script_pubkey = ScriptBuf::from_bytes(cursor.take(script_bytes)?.to_vec());
            spent.push(TxOut {
                value,
                script_pubkey,
            });
        }
        all.push(spent);
    }
    if cursor.remaining() > 0 {
        return Err(cursor.fail("bytes left over after the spent outputs"));
    }
    Ok(all)
}

/// Joins the bytes of `/rest/block/<hash>.bin` and `/rest/spenttxouts/<hash>.bin` of one block.
///
/// The block's hash is taken from its own header. Where no height is given it is read from the coinbase (BIP34), and
/// is 0 where the coinbase has none.
///
/// # Errors
/// [`ChainError::Mismatch`] saying which of the two is malformed and where, or what of them does not fit.
pub fn block_from_rest_bytes(
    height: Option<u32>,
    block: &[u8],
    spent: &[u8],
) -> Result<BlockWithPrevouts, ChainError> {
    let block = parse_block(block).map_err(|e| ChainError::Mismatch(format!("block: {e}")))?;
    let prevouts = parse_spent_outputs(spent).map_err(|e| {
        ChainError::Mismatch(format!(
            "spent outputs of block {}: {e}",
            block.block_hash()
        ))
    })?;
    let id = BlockId {
        height: height.or_else(|| coinbase_height(&block)).unwrap_or(0),
        hash: block.block_hash(),
    };
    BlockWithPrevouts::new(id, block, prevouts)
}

/// The height a coinbase's script begins with (BIP34, block version 2 or above).
fn coinbase_height(block: &Block) -> Option<u32> {
    if block.header.version.to_consensus() < 2 {
        return None;
    }
    let script = &block.txdata.first()?.input.first()?.script_sig;
    match script.instructions_minimal().next()?.ok()? {
        Instruction::PushBytes(push) => {
            let height = bitcoin::script::read_scriptint(push.as_bytes()).ok()?;
            u32::try_from(height).ok()
        }
        // Heights 1 to 16, only seen on test chains, are pushed by OP_1 to OP_16.
        Instruction::Op(op) => match op.to_u8() {
            small @ 0x51..=0x60 => Some(u32::from(small - 0x50)),
            _ => None,
        },
    }
}

struct Cursor<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Cursor<'a> {
    fn remaining(&self) -> usize {
        self.bytes.len() - self.offset
    }

    fn fail(&self, what: impl Into<String>) -> ParseError {
        ParseError {
            what: what.into(),
            offset: self.offset,
            total_bytes: self.bytes.len(),
        }
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], ParseError> {
        let end = self.offset.checked_add(length);
        match end.and_then(|end| self.bytes.get(self.offset..end)) {
            Some(taken) => {
                self.offset += length;
                Ok(taken)
            }
            None => Err(self.fail(format!(
                "cut short: {length} bytes wanted, {} left",
                self.remaining()
            ))),
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ParseError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn amount(&mut self) -> Result<Amount, ParseError> {
        let at = self.offset;
        let value_sat = u64::from_le_bytes(self.array()?);
        if value_sat > Amount::MAX_MONEY.to_sat() {
            self.offset = at;
            return Err(self.fail(format!("{value_sat} is no amount in satoshi")));
        }
        Ok(Amount::from_sat(value_sat))
    }

    /// A CompactSize in its shortest form that can be true: `item_bytes` each must still be there.
    fn count(&mut self, of_what: &str, item_bytes: usize) -> Result<usize, ParseError> {
        let at = self.offset;
        let [first] = self.array()?;
        let (count, smallest) = match first {
            0xfd => (u64::from(u16::from_le_bytes(self.array()?)), 0xfd),
            0xfe => (u64::from(u32::from_le_bytes(self.array()?)), 0x1_0000),
            0xff => (u64::from_le_bytes(self.array()?), 0x1_0000_0000),
            small => (u64::from(small), 0),
        };
        if count < smallest {
            self.offset = at;
            return Err(self.fail(format!("number of {of_what} not in its shortest form")));
        }
        let possible = self.remaining() / item_bytes;
        match usize::try_from(count) {
            Ok(count) if count <= possible => Ok(count),
            _ => {
                self.offset = at;
                Err(self.fail(format!(
                    "cut short: {count} {of_what} announced, at most {possible} could follow"
                )))
            }
        }
    }
}

#[cfg(test)]
mod tests;
