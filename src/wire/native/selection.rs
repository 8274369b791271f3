//! Selections: variants of columns that have some of the eligible transactions of each block alone.
//!
//! A part of a selection has the same head as any other, with a mark, and begins with what was asked for and the block at which
//! it was answered ([`Selection`], 48 bytes); its lengths and sections follow. Which transactions of a block there are is
//! said by the sections of [`Column::Selected`]; those of the other columns are written as of a block that has these alone.

use bitcoin::BlockHash;
use bitcoin::hashes::Hash;

use super::column::{Column, PartError, PartHead};
use super::section::{read_bits, write_bits};
use crate::BlockId;

/// Which transactions are selected. Whole ones: never one output of several.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rule {
    /// Those whose highest taproot output reaches this, in satoshi; with `cut_through` the highest unspent one.
    pub dust_limit_sat: u64,
    /// Those alone of which a taproot output is unspent.
    pub cut_through: bool,
}

/// A rule, and where it was applied: 48 bytes.
///
/// | bytes | what |
/// |---|---|
/// | 8 | dust limit in satoshi |
/// | 1 | 1 with cut-through, else 0 |
/// | 3 | zero |
/// | 4 | height of the tip |
/// | 32 | its hash |
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Selection {
    /// Which transactions.
    pub rule: Rule,
    /// The last block whose spends count.
    pub tip: BlockId,
}

impl Selection {
    /// Length of its bytes.
    pub const BYTES: usize = 48;

    /// Writes it.
    pub fn encode(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..8].copy_from_slice(&self.rule.dust_limit_sat.to_le_bytes());
        bytes[8] = u8::from(self.rule.cut_through);
        bytes[12..16].copy_from_slice(&self.tip.height.to_le_bytes());
        bytes[16..].copy_from_slice(self.tip.hash.as_byte_array());
        bytes
    }

    /// Reads it.
    ///
    /// # Errors
    /// Other bytes than [`encode`](Self::encode) writes.
    pub fn decode(bytes: &[u8; Self::BYTES]) -> Result<Self, PartError> {
        let wrong = |what: &str| Err(PartError(what.to_owned()));
        let (dust_limit, rest) = bytes.split_first_chunk().unwrap_or((&[0; 8], &[]));
        let (flags, rest) = rest.split_first_chunk().unwrap_or((&[0; 4], &[]));
        let (height, hash) = rest.split_first_chunk().unwrap_or((&[0; 4], &[]));
        let cut_through = match flags {
            [0, 0, 0, 0] => false,
            [1, 0, 0, 0] => true,
            _ => return wrong("a selection by a rule that this program does not know"),
        };
        Ok(Self {
            rule: Rule {
                dust_limit_sat: u64::from_le_bytes(*dust_limit),
                cut_through,
            },
            tip: BlockId {
                height: u32::from_le_bytes(*height),
                hash: BlockHash::from_byte_array(hash.first_chunk().copied().unwrap_or_default()),
            },
        })
    }

    /// What a part says of its selection, by its head and what follows it; `None` for one that has all transactions.
    ///
    /// # Errors
    /// Other bytes than there are to be, or a tip below the last block of the part.
    pub fn of_part(head: &PartHead, body: &[u8]) -> Result<Option<Self>, PartError> {
        if !head.is_selection {
            return Ok(None);
        }
        let bytes = body
            .first_chunk()
            .ok_or_else(|| PartError("a part that ends within its selection".to_owned()))?;
        let selection = Self::decode(bytes)?;
        let (tip, last) = (selection.tip, head.last());
        match tip.height < last || (tip.height == last && tip.hash != head.last_hash) {
            true => Err(PartError(format!(
                "a selection of blocks up to {last}, made at another block {}",
                tip.height
            ))),
            false => Ok(Some(selection)),
        }
    }
}

/// Whether a selection has a column in another form than the full one.
pub const fn varies(column: Column) -> bool {
    matches!(column, Column::Selected | Column::Tweaks | Column::Prefixes)
}

/// Writes `selected`: a bit for each eligible transaction, the lowest of a byte first, that is set where it is selected.
/// Padded with zeros to a whole byte.
pub fn write_selected(selected: impl Iterator<Item = bool>, out: &mut Vec<u8>) {
    write_bits(selected, out);
}

/// Reads `selected` of a block with so many eligible transactions: a flag for each.
///
/// # Errors
/// Another length than that of so many bits, or bits behind the last one.
pub fn read_selected(section: &[u8], transactions: u32) -> Result<Vec<bool>, PartError> {
    let count = transactions as usize;
    if section.len() != count.div_ceil(8) {
        let bytes = section.len();
        return Err(PartError(format!(
            "a section of {bytes} bytes for {count} transactions"
        )));
    }
    Ok(read_bits(section, count)?.collect())
}

#[cfg(test)]
mod tests {
    use bitcoin::Network;

    use super::*;
    use crate::wire::native::column::{PartWriter, sections, split_part};

    fn selection(height: u32, hash: u8) -> Selection {
        Selection {
            rule: Rule {
                dust_limit_sat: 0x0102_0304_0506_0708,
                cut_through: true,
            },
            tip: BlockId {
                height,
                hash: BlockHash::from_byte_array([hash; 32]),
            },
        }
    }

    #[test]
    fn selections_are_written_as_the_page_says() {
        let selection = selection(0x0a0b_0c0d, 7);
        let bytes = selection.encode();
        let expected = [
            &[8, 7, 6, 5, 4, 3, 2, 1, 1, 0, 0, 0, 0x0d, 0x0c, 0x0b, 0x0a][..],
            &[7; 32],
        ];
        assert_eq!(bytes.to_vec(), expected.concat());
        assert_eq!(Selection::decode(&bytes), Ok(selection));
        for (at, value) in [(8, 2), (8, 0xff), (9, 1), (10, 1), (11, 0x80)] {
            let mut bytes = bytes;
            bytes[at] = value;
            assert!(Selection::decode(&bytes).is_err(), "{at}: {value}");
        }
    }

    #[test]
    fn a_part_begins_with_its_selection() {
        let last_hash = BlockHash::from_byte_array([3; 32]);
        let part = |selection: &Selection| {
            let mut writer = PartWriter::default();
            writer.section(|out| write_selected([true, false, true].into_iter(), out));
            writer.section(|out| write_selected(std::iter::empty(), out));
            writer.finish_selection(Network::Regtest, Column::Selected, 9, last_hash, selection)
        };
        let made = selection(11, 4);
        let bytes = part(&made);
        let head = &bytes[..PartHead::BYTES];
        assert_eq!(head[4..8], [1, 8, 1, 0]);
        assert_eq!(head[20..28], (48_u64 + 8 + 1).to_le_bytes());
        let (head, rows, rest) = split_part(&bytes).unwrap();
        assert!(rest.is_empty());
        assert_eq!(rows, [&[0b101][..], &[]]);
        let body = &bytes[PartHead::BYTES..];
        assert_eq!(Selection::of_part(&head, body), Ok(Some(made)));
        assert!(sections(&head, &body[1..]).is_err());
        assert!(Selection::of_part(&head, &body[..47]).is_err());

        // The tip is the last block, or above it.
        for (height, hash, is_right) in [(10, 3, true), (10, 4, false), (9, 3, false)] {
            let bytes = part(&selection(height, hash));
            let body = &bytes[PartHead::BYTES..];
            let is_read = Selection::of_part(&head, body).is_ok();
            assert_eq!(is_read, is_right, "{height} {hash}");
        }
    }

    #[test]
    fn bits_are_as_many_as_transactions() {
        for (count, section) in [(0, &[][..]), (1, &[1]), (8, &[0x81]), (9, &[0xff, 1])] {
            let flags = read_selected(section, count).unwrap();
            assert_eq!(flags.len(), count as usize);
            let mut again = Vec::new();
            write_selected(flags.into_iter(), &mut again);
            assert_eq!(again, section);
        }
        for (count, section) in [
            (0, &[0][..]),
            (1, &[]),
            (1, &[2]),
            (8, &[1, 0]),
            (9, &[1]),
            (9, &[1, 2]),
        ] {
            assert!(
                read_selected(section, count).is_err(),
                "{count} {section:?}"
            );
        }
    }
}
