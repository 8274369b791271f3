//! Whether the files of a chunk are what they should be: those that are listed, of that chunk, and true as far as a chunk
//! can be held against itself and the block before it.

use std::sync::Arc;

use super::super::super::OracleError;
use super::super::NativeBlock;
use super::super::group::{Group, Raw, read_group};
use super::super::parts::{PART_BYTES_MAX, Part};
use super::location::Location;
use crate::exported::{FaultKind, fault_of, heads_from, part};
use crate::wire::native::column::{Column, PartHead};
use crate::wire::native::manifest::{FileSum, ListedChunk, Manifest, chunk_file};

/// What is said of a chunk.
pub(super) struct Claims {
    pub(super) manifest: Arc<Manifest>,
    pub(super) listed: ListedChunk,
    /// Of the chunk before it, if there is one.
    pub(super) before: Option<ListedChunk>,
}

/// Blocks of a chunk that are as they should be.
pub(super) struct Checked {
    pub(super) blocks: Vec<Raw>,
    /// The head over the columns at each; `None` where there is none.
    pub(super) heads: Vec<Option<[u8; 32]>>,
}

impl Claims {
    fn sum(&self, column: Column) -> Option<FileSum> {
        let mut of = self.manifest.columns.iter().zip(&self.listed.files);
        of.find(|(of, _)| **of == column).map(|(_, sum)| *sum)
    }

    /// Whether a file may be newer than the list that names it: one that has learned who spends what.
    fn may_have_grown(&self, column: Column) -> bool {
        column.tells_spenders() && self.manifest.spenders_from.is_some()
    }

    /// Most bytes that the file of a column has; `None` if there is no such file.
    pub(super) fn most_bytes(&self, column: Column) -> Option<usize> {
        let bytes = self.sum(column)?.bytes;
        let bytes = match self.may_have_grown(column) {
            true => PART_BYTES_MAX + PartHead::BYTES as u64,
            false => bytes.min(PART_BYTES_MAX + PartHead::BYTES as u64),
        };
        usize::try_from(bytes).ok()
    }

    /// The heads at these blocks, which are all of the chunk's.
    fn heads(&self, blocks: &[Raw]) -> Vec<Option<[u8; 32]>> {
        let from = heads_from(&self.manifest);
        let mut head = self.before.as_ref().and_then(|before| before.head);
        let heads = blocks.iter().map(|block| {
            let from = from.filter(|from| *from <= block.height)?;
            let below = match from == block.height {
                true => [0; 32],
                false => head?,
            };
            head = Some(block.header.hashes.next_head(&below, &block.hash));
            head
        });
        heads.collect()
    }
}

/// Holds files, one for each of the columns, against all that binds them. `headers` is the first of them.
///
/// # Errors
/// [`OracleError::File`] for the first that is wrong.
pub(super) fn check(
    at: &Location,
    claims: &Claims,
    columns: &[Column],
    files: Vec<Vec<u8>>,
) -> Result<Checked, OracleError> {
    let Claims {
        manifest, listed, ..
    } = claims;
    let fault = |column, kind| at.fault(&chunk_file(listed.chunk, column), kind);
    let broken = |column, what: String| fault(column, FaultKind::Broken(what));
    let mut parts = Vec::with_capacity(columns.len());
    let mut grown = None;
    for (column, mut bytes) in columns.iter().copied().zip(files) {
        let sum = claims
            .sum(column)
            .ok_or_else(|| fault(column, FaultKind::Missing))?;
        if FileSum::of(&bytes) != sum {
            if !claims.may_have_grown(column) {
                return Err(fault(column, fault_of(&bytes, &sum, listed)));
            }
            grown = grown.or_else(|| Some(fault(column, fault_of(&bytes, &sum, listed))));
        }
        let head = match part(column, listed, manifest, &bytes) {
            Ok((head, _)) => head,
            Err(what) => return Err(grown.unwrap_or_else(|| broken(column, what))),
        };
        parts.push(Part {
            head,
            body: bytes.split_off(PartHead::BYTES),
        });
    }
    let first = parts.first().map_or(0, |part| part.head.first);
    let named = |error| match error {
        OracleError::Untrue {
            height,
            column,
            what,
            ..
        } => broken(column, format!("block {height}: {what}")),
        OracleError::Malformed { what, .. } => broken(Column::Headers, what),
        error => error,
    };
    let url = at.name_of(&format!("chunk/{}", listed.chunk));
    let group = Group::Parts(parts);
    let blocks = read_group(&url, manifest.network, columns, group, first).map_err(named)?;
    for block in &blocks {
        NativeBlock::read(&url, columns, block.clone()).map_err(named)?;
    }
    if let (Some(before), Some(block)) = (&claims.before, blocks.first())
        && block.header.header.prev_blockhash != before.block_hash
    {
        let what = "its first header is not on top of the chunk before it";
        return Err(broken(Column::Headers, what.to_owned()));
    }
    let heads = claims.heads(&blocks);
    match (heads.last().copied().flatten(), listed.head) {
        (Some(head), Some(listed)) if head != listed => {
            let what = "its hashes lead to another head than is listed";
            Err(broken(Column::Headers, what.to_owned()))
        }
        (Some(_), Some(_)) => Ok(Checked { blocks, heads }),
        // What is newer than its list nothing but the head binds.
        _ => match grown {
            Some(fault) => Err(fault),
            None => Ok(Checked { blocks, heads }),
        },
    }
}
