//! Reading bytes from outside, front to back.

use super::parse::ParseError;

/// A position in bytes. Counts are checked against the bytes that remain before anything is allocated for them.
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Cursor<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, offset: 0 }
    }

    pub(super) const fn offset(&self) -> usize {
        self.offset
    }

    pub(super) const fn remaining(&self) -> usize {
        self.bytes.len() - self.offset
    }

    /// The next byte, which stays next.
    pub(super) fn peek(&self) -> Option<u8> {
        self.bytes.get(self.offset).copied()
    }

    pub(super) fn fail(&self, what: impl Into<String>) -> ParseError {
        self.fail_at(self.offset, what)
    }

    pub(super) fn fail_at(&self, offset: usize, what: impl Into<String>) -> ParseError {
        ParseError {
            what: what.into(),
            offset,
            total_bytes: self.bytes.len(),
        }
    }

    pub(super) fn take(&mut self, length: usize) -> Result<&'a [u8], ParseError> {
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

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], ParseError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    /// An amount in satoshi, 8 bytes, little-endian; more than there can be is refused.
    pub(super) fn amount_sat(&mut self) -> Result<u64, ParseError> {
        let at = self.offset;
        let value_sat = u64::from_le_bytes(self.array()?);
        if value_sat > bitcoin::Amount::MAX_MONEY.to_sat() {
            return Err(self.fail_at(at, format!("{value_sat} is no amount in satoshi")));
        }
        Ok(value_sat)
    }

    /// A CompactSize in its shortest form that can be true: `item_bytes` each must still be there.
    pub(super) fn count(&mut self, of_what: &str, item_bytes: usize) -> Result<usize, ParseError> {
        let at = self.offset;
        let [first] = self.array()?;
        let (count, smallest) = match first {
            0xfd => (u64::from(u16::from_le_bytes(self.array()?)), 0xfd),
            0xfe => (u64::from(u32::from_le_bytes(self.array()?)), 0x1_0000),
            0xff => (u64::from_le_bytes(self.array()?), 0x1_0000_0000),
            small => (u64::from(small), 0),
        };
        if count < smallest {
            return Err(self.fail_at(at, format!("number of {of_what} not in its shortest form")));
        }
        let possible = self.remaining() / item_bytes;
        match usize::try_from(count) {
            Ok(count) if count <= possible => Ok(count),
            _ => Err(self.fail_at(
                at,
                format!("cut short: {count} {of_what} announced, at most {possible} could follow"),
            )),
        }
    }

    /// Bytes with a CompactSize length in front.
    pub(super) fn prefixed(&mut self, of_what: &str) -> Result<&'a [u8], ParseError> {
        let length = self.count(of_what, 1)?;
        self.take(length)
    }
}
