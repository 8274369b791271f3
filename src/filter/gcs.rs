//! Golomb-coded set: build, decode, match.
//!
//! The coding of BIP158 with `P = 19` and `M = 784931`: a CompactSize count N, then the sorted hashes of the
//! elements as differences, each a unary quotient and `P` remainder bits, most significant bit first. Unlike
//! BIP158 equal elements are kept: N counts every one, and equal hashes have difference 0.

use bitcoin::BlockHash;
use bitcoin::hashes::Hash;

/// Remainder bits of a coded difference.
const P: u32 = 19;

/// Inverse of the false positive rate: hashes are spread over `0..N*M`.
const M: u64 = 784_931;

/// Fewest bits an element takes: a quotient of 0 and the remainder.
const MIN_ELEMENT_BITS: u64 = P as u64 + 1;

/// A serialized filter that cannot be read. Nothing in it can be trusted then; ask the server again, or another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// No bytes, a count cut short, or a count not in its shortest form.
    #[error("the filter does not begin with a valid element count")]
    Count,
    /// More elements claimed than the stream can hold.
    #[error("the filter claims {count} elements but has only {stream_bytes} bytes for them")]
    TooFewBytes {
        /// The claimed count N.
        count: u64,
        /// Bytes after the count.
        stream_bytes: usize,
    },
    /// The stream ends before its last element.
    #[error("the filter ends in the middle of an element")]
    Truncated,
    /// An element at or above `N*M`, which no hash can be.
    #[error("the filter holds a value out of range")]
    OutOfRange,
    /// More than zero bits up to the next byte after the last element.
    #[error("the filter holds more than the elements it claims")]
    TrailingData,
}

/// The SipHash key of one block's filters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FilterKey {
    k0: u64,
    k1: u64,
}

impl FilterKey {
    /// First 16 bytes of the block hash in internal order, as two little-endian numbers.
    pub(super) fn of(block: &BlockHash) -> Self {
        let bytes = block.to_byte_array();
        let (first, rest) = bytes.split_at(8);
        Self {
            k0: le_u64(first),
            k1: le_u64(rest.split_at(8).0),
        }
    }

    /// SipHash-2-4 of an element.
    fn hash(self, element: &[u8]) -> u64 {
        let mut state = [
            self.k0 ^ 0x736f_6d65_7073_6575,
            self.k1 ^ 0x646f_7261_6e64_6f6d,
            self.k0 ^ 0x6c79_6765_6e65_7261,
            self.k1 ^ 0x7465_6462_7974_6573,
        ];
        let (words, tail) = element.as_chunks::<8>();
        for word in words {
            absorb(&mut state, u64::from_le_bytes(*word));
        }
        // The last word is the rest of the bytes below the length modulo 256.
        absorb(&mut state, (element.len() as u64) << 56 | le_u64(tail));
        state[2] ^= 0xff;
        for _ in 0..4 {
            sip_round(&mut state);
        }
        state[0] ^ state[1] ^ state[2] ^ state[3]
    }
}

/// Up to 8 bytes as a little-endian number.
fn le_u64(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rev()
        .fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[inline(always)]
fn absorb(state: &mut [u64; 4], word: u64) {
    state[3] ^= word;
    sip_round(state);
    sip_round(state);
    state[0] ^= word;
}

#[inline(always)]
fn sip_round([v0, v1, v2, v3]: &mut [u64; 4]) {
    *v0 = v0.wrapping_add(*v1);
    *v1 = v1.rotate_left(13) ^ *v0;
    *v0 = v0.rotate_left(32);
    *v2 = v2.wrapping_add(*v3);
    *v3 = v3.rotate_left(16) ^ *v2;
    *v0 = v0.wrapping_add(*v3);
    *v3 = v3.rotate_left(21) ^ *v0;
    *v2 = v2.wrapping_add(*v1);
    *v1 = v1.rotate_left(17) ^ *v2;
    *v2 = v2.rotate_left(32);
}

/// Maps a hash to `0..range` by multiply and shift.
#[inline(always)]
fn reduce(hash: u64, range: u64) -> u64 {
    // The product is below 2^64 * range, so the shifted value is below `range` and fits.
    ((u128::from(hash) * u128::from(range)) >> 64) as u64
}

/// Serializes the filter of `elements`, equal ones kept. An empty set is the one byte `00`.
pub(super) fn encode<E: AsRef<[u8]>>(key: FilterKey, elements: &[E]) -> Vec<u8> {
    let count = elements.len() as u64;
    // Elements sit in memory, so their number is far below 2^64 / M.
    let range = count * M;
    let mut values: Vec<u64> = elements
        .iter()
        .map(|element| reduce(key.hash(element.as_ref()), range))
        .collect();
    values.sort_unstable();

    // A difference takes P bits and about 2.5 for its quotient.
    let mut bytes = Vec::with_capacity(10 + elements.len() * 22 / 8);
    write_count(&mut bytes, count);
    let mut writer = BitWriter {
        bytes,
        pending: 0,
        pending_bits: 0,
    };
    let mut last = 0;
    for value in values {
        let difference = value - last;
        last = value;
        writer.unary(difference >> P);
        writer.bits(difference & ((1 << P) - 1), P);
    }
    writer.finish()
}

/// Appends a CompactSize.
fn write_count(bytes: &mut Vec<u8>, count: u64) {
    let le = count.to_le_bytes();
    match count {
        0..=0xfc => bytes.push(le[0]),
        0xfd..=0xffff => {
            bytes.push(0xfd);
            bytes.extend_from_slice(&le[..2]);
        }
        0x1_0000..=0xffff_ffff => {
            bytes.push(0xfe);
            bytes.extend_from_slice(&le[..4]);
        }
        _ => {
            bytes.push(0xff);
            bytes.extend_from_slice(&le);
        }
    }
}

/// Takes a CompactSize in its shortest form off the front.
fn read_count(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (first, rest) = bytes.split_first()?;
    let (length, minimum) = match first {
        0xfd => (2, 0xfd),
        0xfe => (4, 0x1_0000),
        0xff => (8, 0x1_0000_0000),
        _ => return Some((u64::from(*first), rest)),
    };
    let (number, rest) = rest.split_at_checked(length)?;
    let count = le_u64(number);
    (count >= minimum).then_some((count, rest))
}

/// Bits, most significant first, over a byte vector.
struct BitWriter {
    bytes: Vec<u8>,
    /// Bits not yet in `bytes`, in the lowest `pending_bits`.
    pending: u64,
    /// Below 8 between calls.
    pending_bits: u32,
}

impl BitWriter {
    /// Appends the lowest `count` bits of `value`, whose other bits are 0; `count` is at most 32.
    fn bits(&mut self, value: u64, count: u32) {
        debug_assert!(count <= 32 && value >> count == 0);
        // At most 7 + 32 bits, so nothing is shifted out.
        self.pending = self.pending << count | value;
        self.pending_bits += count;
        while self.pending_bits >= 8 {
            self.pending_bits -= 8;
            self.bytes.push((self.pending >> self.pending_bits) as u8);
        }
        self.pending &= (1 << self.pending_bits) - 1;
    }

    /// Appends `quotient` ones and a zero.
    fn unary(&mut self, mut quotient: u64) {
        while quotient >= 31 {
            self.bits((1 << 31) - 1, 31);
            quotient -= 31;
        }
        self.bits((1 << (quotient + 1)) - 2, quotient as u32 + 1);
    }

    /// Fills the last byte with zeros.
    fn finish(mut self) -> Vec<u8> {
        if self.pending_bits > 0 {
            self.bits(0, 8 - self.pending_bits);
        }
        self.bytes
    }
}

/// The sorted values of a filter, one at a time, checked as they come.
struct Decoder<'a> {
    /// Bytes not yet in `window`.
    rest: &'a [u8],
    /// Next bits, left-aligned; 0 beyond `window_bits`.
    window: u64,
    window_bits: u32,
    /// Elements not yet decoded.
    remaining: u64,
    /// The last value decoded.
    value: u64,
    /// N*M: every value is below.
    range: u64,
}

impl<'a> Decoder<'a> {
    /// Reads the count and refuses one that the stream cannot hold, so that work and memory are bounded by the
    /// bytes at hand.
    fn new(filter: &'a [u8]) -> Result<Self, FilterError> {
        let (count, stream) = read_count(filter).ok_or(FilterError::Count)?;
        let too_few = FilterError::TooFewBytes {
            count,
            stream_bytes: stream.len(),
        };
        if count > stream.len() as u64 * 8 / MIN_ELEMENT_BITS {
            return Err(too_few);
        }
        Ok(Self {
            rest: stream,
            window: 0,
            window_bits: 0,
            remaining: count,
            value: 0,
            range: count.checked_mul(M).ok_or(too_few)?,
        })
    }

    /// Brings at least 56 bits in the window, or all there are.
    #[inline(always)]
    fn refill(&mut self) {
        if self.window_bits >= 56 {
            return;
        }
        if let Some(word) = self.rest.first_chunk::<8>() {
            // Only whole bytes are taken; bits of the next byte that come along are masked off again.
            let bytes = (64 - self.window_bits) / 8;
            let taken = self.window_bits + bytes * 8;
            self.window |= u64::from_be_bytes(*word) >> self.window_bits;
            self.window &= !0 << (64 - taken);
            self.window_bits = taken;
            self.rest = &self.rest[bytes as usize..];
        } else {
            while self.window_bits <= 56
                && let Some((byte, rest)) = self.rest.split_first()
            {
                self.window |= u64::from(*byte) << (56 - self.window_bits);
                self.window_bits += 8;
                self.rest = rest;
            }
        }
    }

    /// Drops `bits` of the window; fails if they are not there.
    #[inline(always)]
    fn consume(&mut self, bits: u32) -> Result<(), FilterError> {
        if bits > self.window_bits {
            return Err(FilterError::Truncated);
        }
        // 63 ones and a zero are the whole window.
        self.window = self.window.checked_shl(bits).unwrap_or(0);
        self.window_bits -= bits;
        Ok(())
    }

    /// The next value, `None` after the last one.
    #[inline(always)]
    fn next_value(&mut self) -> Result<Option<u64>, FilterError> {
        if self.remaining == 0 {
            return self.check_end().map(|()| None);
        }
        self.remaining -= 1;
        let mut quotient = 0;
        loop {
            self.refill();
            let ones = self.window.leading_ones();
            if ones < self.window_bits {
                quotient += u64::from(ones);
                self.consume(ones + 1)?;
                break;
            }
            // The window is all ones: go on in the next one, if there is one.
            if self.rest.is_empty() {
                return Err(FilterError::Truncated);
            }
            quotient += u64::from(self.window_bits);
            self.window = 0;
            self.window_bits = 0;
        }
        self.refill();
        let remainder = self.window >> (64 - P);
        self.consume(P)?;
        // A quotient is at most the bits of the stream, below 2^64 / 2^P for any slice in memory.
        self.value = self
            .value
            .checked_add(quotient << P | remainder)
            .filter(|value| *value < self.range)
            .ok_or(FilterError::OutOfRange)?;
        Ok(Some(self.value))
    }

    /// After the last element only zero bits up to the end of its byte may follow.
    fn check_end(&self) -> Result<(), FilterError> {
        if self.rest.is_empty() && self.window_bits < 8 && self.window == 0 {
            Ok(())
        } else {
            Err(FilterError::TrailingData)
        }
    }
}

/// The elements of one filter, read once for any number of queries: see [`super::Elements`].
#[derive(Debug)]
pub(super) struct Elements {
    key: FilterKey,
    /// N*M.
    range: u64,
    /// Ascending.
    values: Vec<u64>,
    /// A bit for each run of 2^`run_bits` values, set where one of them is an element's: most queries end here.
    runs: Vec<u64>,
    run_bits: u32,
}

/// Runs of values for each element, about: a query that no element equals finds a bit set once in so many times.
const RUNS_PER_ELEMENT: u64 = 16;

impl Elements {
    pub(super) fn read(key: FilterKey, filter: &[u8]) -> Result<Self, FilterError> {
        let mut decoder = Decoder::new(filter)?;
        let range = decoder.range;
        // No more than the bytes of the filter can hold, which the decoder has checked.
        let mut values = Vec::with_capacity(decoder.remaining as usize);
        let runs = (decoder.remaining * RUNS_PER_ELEMENT).max(1);
        let run_bits = (range / runs).max(1).ilog2();
        let mut runs = vec![0; (range >> run_bits) as usize / 64 + 1];
        while let Some(value) = decoder.next_value()? {
            values.push(value);
            let run = value >> run_bits;
            runs[run as usize / 64] |= 1 << (run % 64);
        }
        Ok(Self {
            key,
            range,
            values,
            runs,
            run_bits,
        })
    }

    /// How many elements are this one, or look like it.
    #[inline]
    pub(super) fn count(&self, element: &[u8]) -> usize {
        let value = reduce(self.key.hash(element), self.range);
        let run = value >> self.run_bits;
        let word = self.runs.get(run as usize / 64).copied();
        if word.is_none_or(|word| word >> (run % 64) & 1 == 0) {
            return 0;
        }
        let first = self.values.partition_point(|other| *other < value);
        let rest = self.values.get(first..).unwrap_or_default();
        rest.iter().take_while(|other| **other == value).count()
    }

    /// Whether two elements look alike in this filter.
    pub(super) fn is_alike(&self, one: &[u8], other: &[u8]) -> bool {
        let value = |element| reduce(self.key.hash(element), self.range);
        value(one) == value(other)
    }
}

/// The count N, checked against the length of the stream.
pub(super) fn element_count(filter: &[u8]) -> Result<u64, FilterError> {
    Decoder::new(filter).map(|decoder| decoder.remaining)
}

/// Positions in `queries`, ascending, of the elements the filter probably holds.
///
/// With no query the filter's count is checked and its stream is not; otherwise the whole stream is.
pub(super) fn matches<Q: AsRef<[u8]>>(
    key: FilterKey,
    filter: &[u8],
    queries: &[Q],
) -> Result<Vec<usize>, FilterError> {
    if queries.is_empty() {
        return Decoder::new(filter).map(|_| Vec::new());
    }
    let elements = Elements::read(key, filter)?;
    let numbered = queries.iter().enumerate();
    let found = numbered.filter(|(_, query)| elements.count(query.as_ref()) > 0);
    Ok(found.map(|(position, _)| position).collect())
}

#[cfg(test)]
mod tests;
