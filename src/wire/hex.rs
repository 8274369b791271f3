//! Bytes as hex in JSON, both ways: lower case is written, either case is read.

use std::fmt;
use std::marker::PhantomData;

use bitcoin::hex::FromHex;
use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde::ser::{Serialize, Serializer};

/// `N` bytes, of exactly that length.
pub(super) struct Hex<const N: usize>(pub(super) [u8; N]);

/// Any number of bytes.
pub(super) struct HexBytes(pub(super) Vec<u8>);

/// Bytes to be written, in the order they have.
pub(super) struct HexOf<'a>(pub(super) &'a [u8]);

/// A list of byte strings to be written; `[]` when empty.
pub(super) struct HexList<'a, T>(pub(super) &'a [T]);

/// Bytes that are turned into digits at a time.
const PIECE: usize = 64;

impl Serialize for HexOf<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // What most of a body consists of, in one piece: keys, tweaks, items.
        if self.0.len() <= PIECE {
            let mut digits = [[0; 2]; PIECE];
            let digits = write_digits(self.0, &mut digits);
            return serializer.serialize_str(str::from_utf8(digits).unwrap_or_default());
        }
        let mut text = vec![[0; 2]; self.0.len()];
        let digits = write_digits(self.0, &mut text);
        serializer.serialize_str(str::from_utf8(digits).unwrap_or_default())
    }
}

/// The digits of some bytes, written to as many pairs at least. Without branches, so that the compiler takes many at a time.
fn write_digits<'p>(bytes: &[u8], pairs: &'p mut [[u8; 2]]) -> &'p [u8] {
    let digit = |nibble: u8| nibble + b'0' + u8::from(nibble > 9) * (b'a' - b'9' - 1);
    for (pair, byte) in pairs.iter_mut().zip(bytes) {
        *pair = [digit(byte >> 4), digit(byte & 0xf)];
    }
    let digits = pairs.as_flattened();
    digits.get(..2 * bytes.len()).unwrap_or(digits)
}

impl<const N: usize> Serialize for Hex<N> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        HexOf(&self.0).serialize(serializer)
    }
}

impl<T: AsRef<[u8]>> Serialize for HexList<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|bytes| HexOf(bytes.as_ref())))
    }
}

struct HexVisitor<T>(PhantomData<T>);

impl<const N: usize> Visitor<'_> for HexVisitor<Hex<N>> {
    type Value = Hex<N>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} hex characters", 2 * N)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Hex<N>, E> {
        let mut bytes = [0; N];
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        if pairs.len() != N || !rest.is_empty() {
            return Err(E::invalid_length(text.len(), &self));
        }
        for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
            let (Some(high), Some(low)) = (nibble(*high), nibble(*low)) else {
                return Err(E::custom("a character that is no hex digit"));
            };
            *byte = high << 4 | low;
        }
        Ok(Hex(bytes))
    }
}

fn nibble(digit: u8) -> Option<u8> {
    // A hex digit is below 16 and fits.
    (digit as char).to_digit(16).map(|value| value as u8)
}

impl Visitor<'_> for HexVisitor<HexBytes> {
    type Value = HexBytes;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("hex characters, two a byte")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<HexBytes, E> {
        Vec::from_hex(text).map(HexBytes).map_err(E::custom)
    }
}

impl<'de, const N: usize> Deserialize<'de> for Hex<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(HexVisitor::<Self>(PhantomData))
    }
}

impl<'de> Deserialize<'de> for HexBytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(HexVisitor::<Self>(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_written_as_its_two_digits() {
        let all: Vec<u8> = (0..=255).collect();
        for length in [0, 1, 63, 64, 65, 256] {
            let bytes = &all[256 - length..];
            let expected: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            let written = serde_json::to_string(&HexOf(bytes)).unwrap();
            assert_eq!(written, format!("\"{expected}\""));
        }
    }
}
