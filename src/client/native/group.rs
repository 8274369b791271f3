//! The parts of some blocks, held against their headers column.

use bitcoin::params::Params;
use bitcoin::{BlockHash, Network};

use super::super::OracleError;
use super::parts::Part;
use crate::BlockId;
use crate::wire::native::column::{CHUNK_BLOCKS, Column, sections};
use crate::wire::native::section::{HeaderSection, SectionHashes, section_hash};

/// The sections of a block.
#[derive(Debug, Clone)]
pub(crate) struct Raw {
    pub(crate) height: u32,
    pub(crate) hash: BlockHash,
    /// What the headers column has of it.
    pub(crate) header: HeaderSection,
    /// The sections of the other columns, as they were asked for, each with the hash that the headers column has of it.
    pub(crate) sections: Vec<Vec<u8>>,
}

impl Raw {
    pub(super) fn id(&self) -> BlockId {
        BlockId {
            height: self.height,
            hash: self.hash,
        }
    }
}

/// One part for each column of some blocks.
pub(crate) enum Group {
    /// As they came.
    Parts(Vec<Part>),
    /// Of files, which were held against each other where they were read.
    Checked(Vec<Raw>),
}

impl Group {
    /// Number of blocks.
    #[cfg(feature = "index")]
    pub(crate) fn blocks(&self) -> u32 {
        match self {
            Self::Parts(parts) => parts.first().map_or(0, |part| part.head.blocks),
            Self::Checked(blocks) => blocks.len() as u32,
        }
    }
}

/// What a server says of a block, and what cannot be true.
pub(crate) fn untrue(
    url: &str,
    height: u32,
    column: Column,
    what: impl Into<String>,
) -> OracleError {
    OracleError::Untrue {
        url: url.to_owned(),
        height,
        column,
        what: what.into(),
    }
}

/// The hash of a column's section.
pub(super) fn hash_of(hashes: &SectionHashes, column: Column) -> Option<&[u8; 32]> {
    match column {
        Column::Headers | Column::Selected => None,
        Column::Tweaks => Some(&hashes.tweaks),
        Column::Prefixes => Some(&hashes.prefixes),
        Column::Outputs => Some(&hashes.outputs),
        Column::Spent => Some(&hashes.spent),
        Column::Spends => Some(&hashes.spends),
        Column::NewUtxos => Some(&hashes.new_utxos),
    }
}

/// The blocks of a group of parts, which begin at a height: their headers link, each with the work it claims, and every
/// section has the hash that stands beside its header.
///
/// # Errors
/// [`OracleError::Malformed`] for parts of other blocks or another network, or bytes that are no sections;
/// [`OracleError::Untrue`] for what contradicts itself.
pub(crate) fn read_group(
    url: &str,
    network: Network,
    columns: &[Column],
    group: Group,
    first: u32,
) -> Result<Vec<Raw>, OracleError> {
    let malformed = |what: String| OracleError::Malformed {
        url: url.to_owned(),
        what,
    };
    let parts = match group {
        Group::Parts(parts) => parts,
        Group::Checked(blocks) => {
            return match blocks.first().map(|block| block.height) {
                Some(height) if height == first => Ok(blocks),
                _ => Err(malformed(format!(
                    "other blocks than those from {first} on"
                ))),
            };
        }
    };
    let Some((headers, others)) = parts.split_first() else {
        return Err(malformed("no part".to_owned()));
    };
    let head = &headers.head;
    if head.network != network {
        let (is, expected) = (head.network, network);
        return Err(malformed(format!("blocks of {is}, and not of {expected}")));
    }
    if head.first != first {
        let is = head.first;
        return Err(malformed(format!(
            "blocks from {is} on, and not from {first}"
        )));
    }
    if head.last() / CHUNK_BLOCKS != first / CHUNK_BLOCKS {
        let last = head.last();
        return Err(malformed(format!(
            "blocks {first} to {last} in one part, of two chunks"
        )));
    }
    let params = Params::new(network);
    let mut blocks: Vec<Raw> = Vec::with_capacity(head.blocks as usize);
    let rows = sections(head, &headers.body).map_err(|error| malformed(error.to_string()))?;
    for (height, section) in (first..=head.last()).zip(rows) {
        let lie = |what: String| untrue(url, height, Column::Headers, what);
        let header = HeaderSection::decode(section).map_err(|error| lie(error.to_string()))?;
        let target = header.header.target();
        // What is beyond 32 bytes comes out as another target, which is written in another form.
        if target > params.max_attainable_target || target.to_compact_lossy() != header.header.bits
        {
            return Err(lie("a target that no block of its network has".to_owned()));
        }
        let hash = header
            .header
            .validate_pow(target)
            .map_err(|_| lie("a header without the work it claims".to_owned()))?;
        if let Some(before) = blocks.last()
            && before.hash != header.header.prev_blockhash
        {
            return Err(lie(
                "a header that is not on top of the one before it".to_owned()
            ));
        }
        blocks.push(Raw {
            height,
            hash,
            header,
            sections: Vec::with_capacity(others.len()),
        });
    }
    if blocks.last().map(|block| block.hash) != Some(head.last_hash) {
        let what = "another block than the one that its part ends with";
        return Err(untrue(url, head.last(), Column::Headers, what));
    }
    for (part, column) in others.iter().zip(columns.iter().skip(1)) {
        let rows =
            sections(&part.head, &part.body).map_err(|error| malformed(error.to_string()))?;
        for (block, section) in blocks.iter_mut().zip(rows) {
            if hash_of(&block.header.hashes, *column) != Some(&section_hash(section)) {
                let what = "not what the headers column has the hash of";
                return Err(untrue(url, block.height, *column, what));
            }
            block.sections.push(section.to_vec());
        }
    }
    Ok(blocks)
}
