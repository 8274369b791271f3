//! Columns: what the native protocol gives of consecutive blocks, as bytes.
//!
//! A *part* is one column of consecutive blocks: a head ([`PartHead`]), the length of each block's section, then the
//! sections ([`section`](super::section)). Chunks, ranges and exported files are parts, one after the other; a range ends
//! with an end mark, a part without column. All numbers are little-endian, hashes in internal order.

use std::convert::Infallible;
use std::fmt;

use bitcoin::hashes::Hash;
use bitcoin::p2p::Magic;
use bitcoin::{BlockHash, Network};

use super::selection::{Selection, varies};
use crate::BlockId;

/// Blocks of a chunk: chunk n has the heights from `n · CHUNK_BLOCKS` on.
pub const CHUNK_BLOCKS: u32 = 64;

/// Longest section of any column: far above what a block of 4 million weight units can hold.
pub const SECTION_BYTES_MAX: u32 = 16 << 20;

/// What a part has of each of its blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Column {
    /// Header, counts, and the hashes of the sections of all other columns.
    Headers,
    /// Tweaks of the eligible transactions.
    Tweaks,
    /// How many taproot outputs each of those has, and the first bytes of their keys.
    Prefixes,
    /// Txids of those, and their taproot outputs.
    Outputs,
    /// The spent filter.
    Spent,
    /// Spent taproot outpoints, their spenders, and the state ids that those carry.
    Spends,
    /// The new-UTXOs filter.
    NewUtxos,
    /// Which of the eligible transactions there are in a selection, and of no use but in one.
    Selected,
}

impl Column {
    /// All that there are of every block, in the order of their numbers.
    pub const ALL: [Self; 7] = [
        Self::Headers,
        Self::Tweaks,
        Self::Prefixes,
        Self::Outputs,
        Self::Spent,
        Self::Spends,
        Self::NewUtxos,
    ];

    /// Its name in paths.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Headers => "headers",
            Self::Tweaks => "tweaks",
            Self::Prefixes => "prefixes",
            Self::Outputs => "outputs",
            Self::Spent => "spent",
            Self::Spends => "spends",
            Self::NewUtxos => "new-utxos",
            Self::Selected => "selected",
        }
    }

    /// Whether it says who spends what, or binds what says so: an index that an older program has begun may learn that later.
    pub const fn tells_spenders(self) -> bool {
        matches!(self, Self::Headers | Self::Spends)
    }

    /// The column of that name, those of selections among them.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::with_selected().find(|column| column.name() == name)
    }

    fn with_selected() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().chain([Self::Selected])
    }

    /// Its number in the head of a part.
    const fn number(self) -> u8 {
        match self {
            Self::Headers => 1,
            Self::Tweaks => 2,
            Self::Prefixes => 3,
            Self::Outputs => 4,
            Self::Spent => 5,
            Self::Spends => 6,
            Self::NewUtxos => 7,
            Self::Selected => 8,
        }
    }
}

impl fmt::Display for Column {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The first height of a chunk, and its last one; `None` for a number that no chain reaches.
pub fn chunk_heights(chunk: u32) -> Option<(u32, u32)> {
    let first = chunk.checked_mul(CHUNK_BLOCKS)?;
    Some((first, first.checked_add(CHUNK_BLOCKS - 1)?))
}

/// What stands before a part, 60 bytes:
///
/// | bytes | what |
/// |---|---|
/// | 4 | `spix` |
/// | 1 | version of this format, 1 |
/// | 1 | number of the column; 0 for an end mark |
/// | 1 | 1 for a selection, else 0 |
/// | 1 | zero |
/// | 4 | network magic, as in the peer protocol |
/// | 4 | first height |
/// | 4 | number of blocks; 0 for an end mark |
/// | 8 | bytes that follow this head: the [`Selection`] of one, the lengths, and the sections |
/// | 32 | hash of the last block |
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartHead {
    /// The chain.
    pub network: Network,
    /// Which column; `None` for the mark at the end of a range, whose `first` and `last_hash` are the last block of it.
    pub column: Option<Column>,
    /// Whether it has some transactions of each block alone.
    pub is_selection: bool,
    /// First height.
    pub first: u32,
    /// Number of blocks.
    pub blocks: u32,
    /// Bytes that follow.
    pub bytes: u64,
    /// Hash of the last block.
    pub last_hash: BlockHash,
}

/// What is wrong with the bytes of a part.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PartError(pub String);

fn wrong(what: impl Into<String>) -> PartError {
    PartError(what.into())
}

const MARK: [u8; 4] = *b"spix";
const VERSION: u8 = 1;

impl PartHead {
    /// Length of a head.
    pub const BYTES: usize = 60;

    /// The mark at the end of a range that reaches to a block.
    pub const fn end(network: Network, reached: BlockId) -> Self {
        Self {
            network,
            column: None,
            is_selection: false,
            first: reached.height,
            blocks: 0,
            bytes: 0,
            last_hash: reached.hash,
        }
    }

    /// Writes it.
    pub fn encode(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..4].copy_from_slice(&MARK);
        bytes[4] = VERSION;
        bytes[5] = self.column.map_or(0, Column::number);
        bytes[6] = u8::from(self.is_selection);
        bytes[8..12].copy_from_slice(&self.network.magic().to_bytes());
        bytes[12..16].copy_from_slice(&self.first.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.blocks.to_le_bytes());
        bytes[20..28].copy_from_slice(&self.bytes.to_le_bytes());
        bytes[28..].copy_from_slice(self.last_hash.as_byte_array());
        bytes
    }

    /// Reads it.
    ///
    /// # Errors
    /// Other bytes than [`encode`](Self::encode) writes, another version, or more than a chunk of blocks.
    pub fn decode(bytes: &[u8; Self::BYTES]) -> Result<Self, PartError> {
        if bytes[..4] != MARK {
            return Err(wrong("no part of a column: it does not begin with spix"));
        }
        if bytes[4] != VERSION {
            let version = bytes[4];
            return Err(wrong(format!(
                "a part of format {version}, and this program reads format {VERSION}: use a newer program"
            )));
        }
        let number = bytes[5];
        let column = Column::with_selected().find(|column| column.number() == number);
        if column.is_none() && number != 0 {
            return Err(wrong(format!("a part of an unknown column, {number}")));
        }
        let is_selection = match bytes[6..8] {
            [0, 0] => false,
            [1, 0] => true,
            _ => return Err(wrong("a part whose reserved bytes are not zero")),
        };
        let magic = Magic::from_bytes(array(bytes, 8));
        let network = Network::from_magic(magic)
            .ok_or_else(|| wrong(format!("a part of an unknown network, {magic}")))?;
        let head = Self {
            network,
            column,
            is_selection,
            first: u32::from_le_bytes(array(bytes, 12)),
            blocks: u32::from_le_bytes(array(bytes, 16)),
            bytes: u64::from_le_bytes(array(bytes, 20)),
            last_hash: BlockHash::from_byte_array(array(bytes, 28)),
        };
        head.check()?;
        Ok(head)
    }

    fn check(&self) -> Result<(), PartError> {
        let Self { blocks, bytes, .. } = *self;
        let Some(column) = self.column else {
            return match (blocks, bytes, self.is_selection) {
                (0, 0, false) => Ok(()),
                _ => Err(wrong("an end mark with blocks")),
            };
        };
        if self.is_selection && !varies(column) {
            return Err(wrong(format!(
                "a selection of {column}, of which there is none"
            )));
        }
        if column == Column::Selected && !self.is_selection {
            return Err(wrong(format!("{column} without a selection")));
        }
        if blocks == 0 || blocks > CHUNK_BLOCKS {
            return Err(wrong(format!(
                "a part of {blocks} blocks: there are 1 to {CHUNK_BLOCKS} in one"
            )));
        }
        if self.first.checked_add(blocks - 1).is_none() {
            return Err(wrong("a part beyond the highest height"));
        }
        let before = self.selection_bytes() as u64;
        let (lengths, most) = (before + 4 * u64::from(blocks), u64::from(SECTION_BYTES_MAX));
        if bytes < lengths || bytes > lengths + most * u64::from(blocks) {
            return Err(wrong(format!(
                "a part of {blocks} blocks that says it has {bytes} bytes"
            )));
        }
        Ok(())
    }

    /// Bytes of what stands before the lengths.
    const fn selection_bytes(&self) -> usize {
        match self.is_selection {
            true => Selection::BYTES,
            false => 0,
        }
    }

    /// Its last height; `first` for an end mark.
    pub const fn last(&self) -> u32 {
        self.first + self.blocks.saturating_sub(1)
    }
}

fn array<const N: usize>(bytes: &[u8; PartHead::BYTES], at: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[at..at + N]);
    array
}

/// Sections of a column, to be written as a part.
#[derive(Debug, Default)]
pub struct PartWriter {
    lengths: Vec<u32>,
    sections: Vec<u8>,
}

impl PartWriter {
    /// Appends the section of the next block, which `write` writes.
    pub fn section(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let before = self.sections.len();
        write(&mut self.sections);
        // Of one block, so far below 4 GiB.
        self.lengths.push((self.sections.len() - before) as u32);
    }

    /// The part of the sections that were appended: from a height on, up to the block with that hash.
    pub fn finish(
        self,
        network: Network,
        column: Column,
        first: u32,
        last_hash: BlockHash,
    ) -> Vec<u8> {
        self.finish_with(network, column, first, last_hash, None)
    }

    /// As [`finish`](Self::finish), of a selection, where the column [`varies`] with one.
    pub fn finish_selection(
        self,
        network: Network,
        column: Column,
        first: u32,
        last_hash: BlockHash,
        selection: &Selection,
    ) -> Vec<u8> {
        match varies(column) {
            true => self.finish_with(network, column, first, last_hash, Some(selection)),
            false => self.finish(network, column, first, last_hash),
        }
    }

    fn finish_with(
        self,
        network: Network,
        column: Column,
        first: u32,
        last_hash: BlockHash,
        selection: Option<&Selection>,
    ) -> Vec<u8> {
        let head = PartHead {
            network,
            column: Some(column),
            is_selection: selection.is_some(),
            first,
            blocks: self.lengths.len() as u32,
            bytes: 0,
            last_hash,
        };
        let (mut bytes, mut rest) = (Vec::new(), &self.sections[..]);
        let mut lengths = self.lengths.iter();
        let written = append_part(&mut bytes, head, selection, |_, out| {
            let length = lengths.next().map_or(0, |length| *length as usize);
            let (section, after) = rest.split_at(length);
            out.extend_from_slice(section);
            rest = after;
            Ok::<_, Infallible>(())
        });
        match written {
            Ok(()) => bytes,
            Err(never) => match never {},
        }
    }
}

/// Appends a part to bytes in which there may be others. `head` says what it is, its length apart; `write` appends the section of
/// the block at a height.
///
/// # Errors
/// The first one of `write`; what was appended then is no part.
pub fn append_part<E>(
    out: &mut Vec<u8>,
    mut head: PartHead,
    selection: Option<&Selection>,
    mut write: impl FnMut(u32, &mut Vec<u8>) -> Result<(), E>,
) -> Result<(), E> {
    let start = out.len();
    let body = start + PartHead::BYTES;
    out.resize(body, 0);
    out.extend(selection.iter().flat_map(|selection| selection.encode()));
    let mut place = out.len();
    out.resize(place + 4 * head.blocks as usize, 0);
    for index in 0..head.blocks {
        let before = out.len();
        write(head.first + index, out)?;
        // Of one block, so far below 4 GiB.
        let length = (out.len() - before) as u32;
        out[place..place + 4].copy_from_slice(&length.to_le_bytes());
        place += 4;
    }
    head.bytes = (out.len() - body) as u64;
    out[start..body].copy_from_slice(&head.encode());
    Ok(())
}

/// The sections of a part, by its head and what follows it, in order of height. What a selection begins with is left to
/// [`Selection::of_part`].
///
/// # Errors
/// Lengths that are not those of the bytes.
pub fn sections<'b>(head: &PartHead, body: &'b [u8]) -> Result<Vec<&'b [u8]>, PartError> {
    if head.bytes != body.len() as u64 {
        let (says, has) = (head.bytes, body.len());
        return Err(wrong(format!(
            "a part that says it has {says} bytes, and has {has}"
        )));
    }
    let blocks = head.blocks as usize;
    let (lengths, mut rest) = body
        .get(head.selection_bytes()..)
        .and_then(|body| body.split_at_checked(4 * blocks))
        .ok_or_else(|| wrong("a part that ends within its lengths"))?;
    let mut sections = Vec::with_capacity(blocks);
    for length in lengths.as_chunks().0 {
        let length = u32::from_le_bytes(*length);
        let cut = rest
            .split_at_checked(length as usize)
            .filter(|_| length <= SECTION_BYTES_MAX);
        let (section, after) =
            cut.ok_or_else(|| wrong(format!("a section of {length} bytes that is not there")))?;
        sections.push(section);
        rest = after;
    }
    if !rest.is_empty() {
        let more = rest.len();
        return Err(wrong(format!("{more} bytes behind the last section")));
    }
    Ok(sections)
}

/// A part: its head, its sections, and the bytes behind it.
pub type Split<'b> = (PartHead, Vec<&'b [u8]>, &'b [u8]);

/// The first part of some bytes.
///
/// # Errors
/// What is wrong with the bytes, an end within the part among it.
pub fn split_part(bytes: &[u8]) -> Result<Split<'_>, PartError> {
    let (head, rest) = bytes
        .split_first_chunk()
        .ok_or_else(|| wrong("it ends within the head of a part"))?;
    let head = PartHead::decode(head)?;
    let length = usize::try_from(head.bytes).unwrap_or(usize::MAX);
    let (body, rest) = rest.split_at_checked(length).ok_or_else(|| {
        let (says, has) = (head.bytes, rest.len());
        wrong(format!(
            "it ends within a part, after {has} of {says} bytes"
        ))
    })?;
    Selection::of_part(&head, body)?;
    let sections = match head.column {
        Some(_) => sections(&head, body)?,
        None => Vec::new(),
    };
    Ok((head, sections, rest))
}
