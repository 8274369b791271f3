//! Sections: what a column has of one block, each with its encoder beside its decoder.
//!
//! All numbers are little-endian, hashes and txids in internal order. A *varint* is LEB128: seven bits a byte, the lowest
//! first, the highest bit set in all bytes but the last, and no more bytes than needed.

use bitcoin::hashes::{Hash, HashEngine, sha256};
use bitcoin::{BlockHash, OutPoint, Txid, block::Header, consensus};

pub use super::column::PartError;

/// First bytes of each output key in a `prefixes` section: few enough to cost less than the tweak does, and enough that a
/// scan of the whole chain meets one by chance some dozens of times, as one candidate in 2^24 does.
pub const PREFIX_BYTES: usize = 3;

/// Hashes (SHA-256) of the sections of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SectionHashes {
    /// Of `tweaks`.
    pub tweaks: [u8; 32],
    /// Of `prefixes`; zeros from a server that keeps tweaks only, as the following ones are.
    pub prefixes: [u8; 32],
    /// Of `outputs`.
    pub outputs: [u8; 32],
    /// Of `spent`.
    pub spent: [u8; 32],
    /// Of `new-utxos`.
    pub new_utxos: [u8; 32],
    /// Of `spends`. Outside the head: an index that was begun by an older program may learn spenders later.
    pub spends: [u8; 32],
}

impl SectionHashes {
    /// Length of its bytes.
    pub const BYTES: usize = 6 * 32;

    /// Writes them, in the order of the fields.
    pub fn encode(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        let hashes = [
            &self.tweaks,
            &self.prefixes,
            &self.outputs,
            &self.spent,
            &self.new_utxos,
            &self.spends,
        ];
        for (place, hash) in bytes.as_chunks_mut().0.iter_mut().zip(hashes) {
            *place = *hash;
        }
        bytes
    }

    /// Reads them.
    pub fn decode(bytes: &[u8; Self::BYTES]) -> Self {
        let mut hashes = bytes.as_chunks().0.iter().copied();
        let mut next = || hashes.next().unwrap_or_default();
        Self {
            tweaks: next(),
            prefixes: next(),
            outputs: next(),
            spent: next(),
            new_utxos: next(),
            spends: next(),
        }
    }

    /// The head of the chain at a block, by the head before it (32 zero bytes before the first block): SHA-256 of the head
    /// before, the block's hash, and the hashes of its sections but that of `spends`.
    pub fn next_head(&self, before: &[u8; 32], block: &BlockHash) -> [u8; 32] {
        let mut engine = sha256::Hash::engine();
        engine.input(before);
        engine.input(block.as_byte_array());
        engine.input(&self.encode()[..5 * 32]);
        sha256::Hash::from_engine(engine).to_byte_array()
    }
}

/// The hash of a section.
pub fn section_hash(section: &[u8]) -> [u8; 32] {
    sha256::Hash::hash(section).to_byte_array()
}

/// What `headers` has of a block, 288 bytes: the header, 80; the four counts, 4 each; the hashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeaderSection {
    /// The header.
    pub header: Header,
    /// Eligible transactions.
    pub transactions: u32,
    /// Their taproot outputs.
    pub outputs: u32,
    /// Taproot outpoints spent, eligible or not.
    pub spends: u32,
    /// State ids of transactions that spend those.
    pub states: u32,
    /// Of the other sections of the block.
    pub hashes: SectionHashes,
}

impl HeaderSection {
    /// Length of its bytes.
    pub const BYTES: usize = 80 + 4 * 4 + SectionHashes::BYTES;

    /// Writes it.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&consensus::serialize(&self.header));
        for count in [self.transactions, self.outputs, self.spends, self.states] {
            out.extend_from_slice(&count.to_le_bytes());
        }
        out.extend_from_slice(&self.hashes.encode());
    }

    /// Reads it.
    ///
    /// # Errors
    /// Another length.
    pub fn decode(section: &[u8]) -> Result<Self, PartError> {
        let mut reader = Reader(section);
        let header: [u8; 80] = reader.array()?;
        let header = consensus::deserialize(&header)
            .map_err(|error| PartError(format!("a header that is none: {error}")))?;
        let decoded = Self {
            header,
            transactions: u32::from_le_bytes(reader.array()?),
            outputs: u32::from_le_bytes(reader.array()?),
            spends: u32::from_le_bytes(reader.array()?),
            states: u32::from_le_bytes(reader.array()?),
            hashes: SectionHashes::decode(&reader.array()?),
        };
        reader.end()?;
        Ok(decoded)
    }
}

/// Writes `tweaks`: of each compressed tweak the x coordinate, 32 bytes; then a bit for each, the lowest of a byte first,
/// that is set where y is odd. Padded with zeros to a whole byte.
pub fn write_tweaks(tweaks: &[[u8; 33]], out: &mut Vec<u8>) {
    out.reserve(32 * tweaks.len() + tweaks.len().div_ceil(8));
    for tweak in tweaks {
        out.extend_from_slice(&tweak[1..]);
    }
    write_bits(tweaks.iter().map(|tweak| tweak[0] & 1 == 1), out);
}

/// Reads `tweaks`, as 33 bytes each (SEC1 compressed). Whether they are points is not looked at.
///
/// # Errors
/// A length that no number of tweaks has, or bits behind the last one.
pub fn read_tweaks(section: &[u8]) -> Result<Vec<[u8; 33]>, PartError> {
    let count = whole(section.len(), 32)?;
    let (x, bits) = section.split_at(32 * count);
    let x: &[[u8; 32]] = x.as_chunks().0;
    let bits = read_bits(bits, count)?;
    let tweaks = x.iter().zip(bits).map(|(x, is_odd)| {
        let mut tweak = [2 + u8::from(is_odd); 33];
        tweak[1..].copy_from_slice(x);
        tweak
    });
    Ok(tweaks.collect())
}

/// Writes `prefixes` of taproot outputs in block order, each given with the index of its transaction: the first bytes of
/// each key; then a bit for each output, the lowest of a byte first, that is set where it is the last of its transaction.
/// Padded with zeros to a whole byte.
pub fn write_prefixes<'k>(
    outputs: impl Iterator<Item = (usize, &'k [u8; 32])> + Clone,
    out: &mut Vec<u8>,
) {
    for (_, key) in outputs.clone() {
        out.extend_from_slice(&key[..PREFIX_BYTES]);
    }
    let mut following = outputs.clone().map(|(transaction, _)| transaction);
    following.next();
    let lasts = outputs.map(|(transaction, _)| following.next() != Some(transaction));
    write_bits(lasts, out);
}

/// `prefixes` of a block.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Prefixes {
    /// First bytes of the keys, in block order.
    pub keys: Vec<[u8; PREFIX_BYTES]>,
    /// For each eligible transaction how many outputs there are up to its last one.
    pub ends: Vec<u32>,
}

/// Reads `prefixes`.
///
/// # Errors
/// A length that no number of outputs has, an output of no transaction, or bits behind the last one.
pub fn read_prefixes(section: &[u8]) -> Result<Prefixes, PartError> {
    let count = whole(section.len(), PREFIX_BYTES)?;
    let (keys, bits) = section.split_at(PREFIX_BYTES * count);
    let mut ends = Vec::new();
    for (after, is_last) in (1..).zip(read_bits(bits, count)?) {
        if is_last {
            ends.push(after);
        }
    }
    if ends.last().map_or(0, |end| *end as usize) != count {
        return Err(PartError("outputs of no transaction".to_owned()));
    }
    Ok(Prefixes {
        keys: keys.as_chunks().0.to_vec(),
        ends,
    })
}

/// A taproot output, as `outputs` has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Output {
    /// Index among all outputs of its transaction.
    pub vout: u32,
    /// Amount in satoshi.
    pub value_sat: u64,
    /// x-only output key.
    pub key: [u8; 32],
}

/// Writes the row of an eligible transaction in `outputs`: its txid, the number of its taproot outputs as varint, and for
/// each vout and amount as varints and the key. Rows stand in block order, outputs by vout.
pub fn write_transaction(txid: &Txid, outputs: &[Output], out: &mut Vec<u8>) {
    out.extend_from_slice(txid.as_byte_array());
    write_varint(outputs.len() as u64, out);
    for output in outputs {
        write_varint(output.vout.into(), out);
        write_varint(output.value_sat, out);
        out.extend_from_slice(&output.key);
    }
}

/// Reads `outputs`: the eligible transactions of a block in order, each with its taproot outputs.
///
/// # Errors
/// Bytes that [`write_transaction`] does not write, a transaction without outputs, outputs that do not ascend.
pub fn read_outputs(section: &[u8]) -> Result<Vec<(Txid, Vec<Output>)>, PartError> {
    let mut reader = Reader(section);
    let mut rows = Vec::new();
    while !reader.0.is_empty() {
        let txid = Txid::from_byte_array(reader.array()?);
        let count = reader.count(34)?;
        let mut outputs: Vec<Output> = Vec::with_capacity(count);
        for _ in 0..count {
            let output = Output {
                vout: reader.varint_u32()?,
                value_sat: reader.varint()?,
                key: reader.array()?,
            };
            if outputs
                .last()
                .is_some_and(|before| before.vout >= output.vout)
            {
                return Err(PartError(format!("outputs of {txid} that do not ascend")));
            }
            outputs.push(output);
        }
        if outputs.is_empty() {
            return Err(PartError(format!("{txid} without outputs")));
        }
        rows.push((txid, outputs));
    }
    Ok(rows)
}

/// A spent taproot outpoint, as `spends` has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpentOutput {
    /// What is spent.
    pub outpoint: OutPoint,
    /// First 8 bytes of the spent output's x-only key.
    pub key_prefix: [u8; 8],
    /// Index of the spending transaction among all of its block, and of the input among its own; `None` where the server
    /// does not know, both `ffff` in bytes.
    pub spender: Option<(u16, u16)>,
}

/// A state id of a spending transaction, as `spends` has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State {
    /// Index of the transaction among all of its block.
    pub transaction: u16,
    /// Which of its outputs carries the state id.
    pub vout: u32,
    /// Its txid.
    pub txid: Txid,
    /// The state id.
    pub state_id: [u8; 32],
}

/// `spends` of a block.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Spends {
    /// In block order, then input order.
    pub spent: Vec<SpentOutput>,
    /// In block order, then by vout.
    pub states: Vec<State>,
}

impl Spends {
    /// Writes them: the number of spent outpoints as varint, and for each its txid, its vout as varint, the first 8 bytes of
    /// the key, the spender's index and input, 2 bytes each; then the number of state ids as varint, and for each the
    /// transaction's index, 2 bytes, the vout as varint, the txid and the state id.
    pub fn encode(&self, out: &mut Vec<u8>) {
        write_varint(self.spent.len() as u64, out);
        for spent in &self.spent {
            out.extend_from_slice(spent.outpoint.txid.as_byte_array());
            write_varint(spent.outpoint.vout.into(), out);
            out.extend_from_slice(&spent.key_prefix);
            let (transaction, input) = spent.spender.unwrap_or((u16::MAX, u16::MAX));
            out.extend_from_slice(&transaction.to_le_bytes());
            out.extend_from_slice(&input.to_le_bytes());
        }
        write_varint(self.states.len() as u64, out);
        for state in &self.states {
            out.extend_from_slice(&state.transaction.to_le_bytes());
            write_varint(state.vout.into(), out);
            out.extend_from_slice(state.txid.as_byte_array());
            out.extend_from_slice(&state.state_id);
        }
    }

    /// Reads them.
    ///
    /// # Errors
    /// Bytes that [`encode`](Self::encode) does not write.
    pub fn decode(section: &[u8]) -> Result<Self, PartError> {
        let mut reader = Reader(section);
        let count = reader.count(45)?;
        let mut spent = Vec::with_capacity(count);
        for _ in 0..count {
            let txid = Txid::from_byte_array(reader.array()?);
            let outpoint = OutPoint::new(txid, reader.varint_u32()?);
            let key_prefix = reader.array()?;
            let transaction = u16::from_le_bytes(reader.array()?);
            let input = u16::from_le_bytes(reader.array()?);
            spent.push(SpentOutput {
                outpoint,
                key_prefix,
                spender: Some((transaction, input))
                    .filter(|spender| *spender != (u16::MAX, u16::MAX)),
            });
        }
        let count = reader.count(67)?;
        let mut states = Vec::with_capacity(count);
        for _ in 0..count {
            states.push(State {
                transaction: u16::from_le_bytes(reader.array()?),
                vout: reader.varint_u32()?,
                txid: Txid::from_byte_array(reader.array()?),
                state_id: reader.array()?,
            });
        }
        reader.end()?;
        Ok(Self { spent, states })
    }
}

/// How many items of `bytes` bytes and one bit a section of that length has.
fn whole(length: usize, bytes: usize) -> Result<usize, PartError> {
    let count = 8 * length / (8 * bytes + 1);
    match bytes * count + count.div_ceil(8) == length {
        true => Ok(count),
        false => Err(PartError(format!(
            "a section of {length} bytes, as no number of rows has"
        ))),
    }
}

pub(super) fn write_bits(bits: impl Iterator<Item = bool>, out: &mut Vec<u8>) {
    let mut byte = 0;
    let mut filled = 0;
    for bit in bits {
        byte |= u8::from(bit) << filled;
        filled += 1;
        if filled == 8 {
            out.push(byte);
            (byte, filled) = (0, 0);
        }
    }
    if filled > 0 {
        out.push(byte);
    }
}

/// The first `count` bits; the others must be zeros.
pub(super) fn read_bits(
    bytes: &[u8],
    count: usize,
) -> Result<impl Iterator<Item = bool>, PartError> {
    let mut bits = bytes
        .iter()
        .flat_map(|byte| (0..8).map(move |bit| byte >> bit & 1 == 1));
    match bits.clone().skip(count).any(|bit| bit) {
        true => Err(PartError("bits behind the last row".to_owned())),
        false => Ok(std::iter::from_fn(move || bits.next()).take(count)),
    }
}

fn write_varint(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// What is left of a section.
struct Reader<'b>(&'b [u8]);

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], PartError> {
        let (array, rest) = self
            .0
            .split_first_chunk()
            .ok_or_else(|| PartError("a section that ends within a row".to_owned()))?;
        self.0 = rest;
        Ok(*array)
    }

    fn varint(&mut self) -> Result<u64, PartError> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let [byte] = self.array()?;
            let bits = u64::from(byte & 0x7f);
            number |= bits << shift;
            if byte & 0x80 == 0 {
                // More bytes than needed, or more bits than there are.
                if (byte == 0 && shift > 0) || number >> shift != bits {
                    break;
                }
                return Ok(number);
            }
        }
        Err(PartError("a varint that is not the shortest".to_owned()))
    }

    fn varint_u32(&mut self) -> Result<u32, PartError> {
        let number = self.varint()?;
        number
            .try_into()
            .map_err(|_| PartError(format!("a vout of {number}")))
    }

    /// How many rows follow, of so many bytes at least.
    fn count(&mut self, bytes: usize) -> Result<usize, PartError> {
        let count = self.varint()?;
        usize::try_from(count)
            .ok()
            .filter(|count| *count <= self.0.len() / bytes)
            .ok_or_else(|| PartError(format!("{count} rows that are not there")))
    }

    fn end(&self) -> Result<(), PartError> {
        match self.0.len() {
            0 => Ok(()),
            more => Err(PartError(format!("{more} bytes behind the last row"))),
        }
    }
}

#[cfg(test)]
mod tests;
