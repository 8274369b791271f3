//! The undo record of a block: what its transactions spent.
//!
//! Sources: Bitcoin Core's `src/undo.h` (`CBlockUndo`, `TxInUndoFormatter`), `src/compressor.h` and `src/compressor.cpp`
//! (amounts and scripts), `src/serialize.h` (`ReadVarInt`).
//!
//! A record is a CompactSize number of transactions without the coinbase, and for each a CompactSize number of inputs and
//! then, per input: VarInt `2 * height + coinbase` of the spent output; if the height is not 0 a VarInt that has no meaning any
//! more; VarInt of the compressed amount; the compressed script. Versions before 0.15 noted the height only with the last
//! output spent of a transaction, and 0 with the others.

use bitcoin::hashes::{Hash, HashEngine, sha256d};
use bitcoin::{Amount, BlockHash};
use secp256k1::PublicKey;

use crate::chain::cursor::Cursor;
use crate::chain::parse::ParseError;
use crate::chain::prevouts::Prevouts;

/// Bytes of the checksum after each record.
pub const CHECKSUM_BYTES: usize = 32;

/// Script sizes below it name a template.
const TEMPLATES: u32 = 6;

/// No longer script can be spent (`MAX_SCRIPT_SIZE` of Bitcoin Core's `src/script/script.h`).
const MAX_SCRIPT_BYTES: u32 = 10_000;

/// Bytes of the shortest spent output: height, amount and script of one byte each.
const MIN_SPENT_BYTES: usize = 3;

/// Bytes of a usual one: 5 for the height, 3 for the amount and 21 for a script.
const TYPICAL_SPENT_BYTES: usize = 28;

/// Reads the undo record of a block, without the checksum that follows it, as what the block spends: the coinbase, which
/// is not in the record, comes first with nothing.
///
/// # Errors
/// [`ParseError`] for bytes that are cut short, malformed, or followed by others.
pub fn parse_undo(payload: &[u8]) -> Result<Prevouts, ParseError> {
    let mut cursor = Cursor::new(payload);
    let transactions = cursor.count("transactions", 1)?;
    let mut prevouts = Prevouts::with_capacity(
        transactions + 1,
        payload.len() / TYPICAL_SPENT_BYTES,
        payload.len(),
    );
    prevouts.end_transaction();
    for _ in 0..transactions {
        for _ in 0..cursor.count("spent outputs", MIN_SPENT_BYTES)? {
            spent_output(&mut cursor, &mut prevouts)?;
        }
        prevouts.end_transaction();
    }
    match cursor.remaining() {
        0 => Ok(prevouts),
        _ => Err(cursor.fail("bytes left over after the undo record")),
    }
}

/// Number of transactions in an undo record, the coinbase not among them.
///
/// # Errors
/// [`ParseError`] if there cannot be as many.
pub fn undo_transactions(payload: &[u8]) -> Result<usize, ParseError> {
    Cursor::new(payload).count("transactions", 1)
}

/// The checksum of an undo record, in internal byte order; `parent` is the hash of the block's parent.
pub fn undo_checksum(parent: &BlockHash, payload: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let mut engine = sha256d::Hash::engine();
    engine.input(parent.as_byte_array());
    engine.input(payload);
    sha256d::Hash::from_engine(engine).to_byte_array()
}

fn spent_output(cursor: &mut Cursor<'_>, prevouts: &mut Prevouts) -> Result<(), ParseError> {
    let height = var_int_u32(cursor)? >> 1;
    if height > 0 {
        var_int_u32(cursor)?;
    }
    // The only outputs of height 0 are the genesis block's, which cannot be spent.
    let created = (height > 0).then_some(height);

    let at = cursor.offset();
    let value_sat = decompress_amount(var_int(cursor)?)
        .filter(|value_sat| *value_sat <= Amount::MAX_MONEY.to_sat())
        .ok_or_else(|| cursor.fail_at(at, "no amount in satoshi"))?;

    let at = cursor.offset();
    let size = var_int_u32(cursor)?;
    match size.checked_sub(TEMPLATES) {
        Some(length) if length > MAX_SCRIPT_BYTES => {
            return Err(cursor.fail_at(
                at,
                format!("a script of {length} bytes, which cannot be spent"),
            ));
        }
        Some(length) => prevouts.push(value_sat, cursor.take(length as usize)?, created),
        None => {
            let script = match size {
                0 | 1 => Template::from_hash(size == 1, &cursor.array()?),
                _ => Template::from_x(size as u8, &cursor.array()?)
                    .ok_or_else(|| cursor.fail_at(at, "a public key that is no point"))?,
            };
            prevouts.push(value_sat, script.bytes(), created);
        }
    }
    Ok(())
}

/// A number to base 128: most significant digit first, the top bit set on all bytes but the last, and one added at each
/// step so that every number has one form.
fn var_int(cursor: &mut Cursor<'_>) -> Result<u64, ParseError> {
    let at = cursor.offset();
    let mut number = 0u64;
    loop {
        let [byte] = cursor.array()?;
        if number > u64::MAX >> 7 {
            break;
        }
        number = (number << 7) | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            return Ok(number);
        }
        match number.checked_add(1) {
            Some(next) => number = next,
            None => break,
        }
    }
    Err(cursor.fail_at(at, "a number of more than 64 bits"))
}

fn var_int_u32(cursor: &mut Cursor<'_>) -> Result<u32, ParseError> {
    let at = cursor.offset();
    let number = var_int(cursor)?;
    u32::try_from(number).map_err(|_| cursor.fail_at(at, "a number of more than 32 bits"))
}

/// The inverse of Bitcoin Core's `CompressAmount`; `None` where the result has no room in 64 bits.
pub fn decompress_amount(compressed: u64) -> Option<u64> {
    let Some(rest) = compressed.checked_sub(1) else {
        return Some(0);
    };
    // rest = 10 * (9 * n + d - 1) + e with a last digit d of 1 to 9, or 10 * (n - 1) + 9.
    let (rest, exponent) = (rest / 10, (rest % 10) as u32);
    let digits = match exponent {
        9 => rest.checked_add(1)?,
        _ => (rest / 9).checked_mul(10)?.checked_add(rest % 9 + 1)?,
    };
    digits.checked_mul(10u64.pow(exponent))
}

/// A script made from its template; the longest has 67 bytes.
struct Template {
    bytes: [u8; 67],
    length: usize,
}

impl Template {
    fn new(parts: &[&[u8]]) -> Self {
        let mut template = Self {
            bytes: [0; 67],
            length: 0,
        };
        let mut room = template.bytes.as_mut_slice();
        for part in parts {
            let (here, after) = room.split_at_mut(part.len());
            here.copy_from_slice(part);
            template.length += part.len();
            room = after;
        }
        template
    }

    fn from_hash(is_script: bool, hash: &[u8; 20]) -> Self {
        match is_script {
            // OP_DUP OP_HASH160 <20 bytes> OP_EQUALVERIFY OP_CHECKSIG
            false => Self::new(&[&[0x76, 0xa9, 20], hash, &[0x88, 0xac]]),
            // OP_HASH160 <20 bytes> OP_EQUAL
            true => Self::new(&[&[0xa9, 20], hash, &[0x87]]),
        }
    }

    /// `<public key> OP_CHECKSIG` from an x coordinate: sizes 2 and 3 for a compressed key, 4 and 5 for an uncompressed one
    /// whose y is even or odd. `None` if an uncompressed key has to be no point of the curve.
    fn from_x(size: u8, x: &[u8; 32]) -> Option<Self> {
        let mut compressed = [0; 33];
        compressed[1..].copy_from_slice(x);
        compressed[0] = match size {
            2 | 3 => size,
            _ => size - 2,
        };
        if size < 4 {
            return Some(Self::new(&[&[33], &compressed, &[0xac]]));
        }
        let key = PublicKey::from_slice(&compressed).ok()?;
        Some(Self::new(&[&[65], &key.serialize_uncompressed(), &[0xac]]))
    }

    fn bytes(&self) -> &[u8] {
        // `length` counts what was copied into `bytes`.
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
