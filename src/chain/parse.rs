//! The bytes Bitcoin Core's REST interface gives for a block and for its spent outputs.
//!
//! Both come from outside: counts are checked against the bytes that remain before anything is allocated for them.

use bitcoin::Script;
use bitcoin::blockdata::script::Instruction;

use super::cursor::Cursor;
use super::prevouts::Prevouts;
use super::raw::{MIN_OUTPUT_BYTES, RawBlock};
use super::{BlockWithPrevouts, ChainError};
use crate::BlockId;

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

/// The spent outputs of a block, as `/rest/spenttxouts/<hash>.bin` gives them: a CompactSize number of transactions,
/// then per transaction a CompactSize number of outputs (none for the coinbase), each an amount in satoshi (8 bytes,
/// little-endian) and a script with a CompactSize length.
///
/// # Errors
/// [`ParseError`] for bytes that are cut short, malformed, or followed by others.
pub fn parse_spent_outputs(bytes: &[u8]) -> Result<Prevouts, ParseError> {
    let mut cursor = Cursor::new(bytes);
    let transactions = cursor.count("transactions", 1)?;
    let mut prevouts = Prevouts::with_capacity(transactions, 2 * transactions, bytes.len());
    for _ in 0..transactions {
        for _ in 0..cursor.count("spent outputs", MIN_OUTPUT_BYTES)? {
            let value_sat = cursor.amount_sat()?;
            prevouts.push(value_sat, cursor.prefixed("script bytes")?, None);
        }
        prevouts.end_transaction();
    }
    if cursor.remaining() > 0 {
        return Err(cursor.fail("bytes left over after the spent outputs"));
    }
    Ok(prevouts)
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
    let block =
        RawBlock::parse(block.to_vec()).map_err(|e| ChainError::Mismatch(format!("block: {e}")))?;
    let prevouts = parse_spent_outputs(spent).map_err(|e| {
        ChainError::Mismatch(format!("spent outputs of block {}: {e}", block.hash()))
    })?;
    let id = BlockId {
        height: height.or_else(|| coinbase_height(&block)).unwrap_or(0),
        hash: block.hash(),
    };
    BlockWithPrevouts::new(id, block, prevouts)
}

/// The height a coinbase's script begins with (BIP34, block version 2 or above).
fn coinbase_height(block: &RawBlock) -> Option<u32> {
    if block.header().version.to_consensus() < 2 {
        return None;
    }
    height_at_start(block.transaction(0)?.inputs().next()?.script_sig())
}

/// The number that a script begins with, as the height in a coinbase is written (BIP34).
pub(in crate::chain) fn height_at_start(script: &Script) -> Option<u32> {
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

#[cfg(test)]
mod tests;
