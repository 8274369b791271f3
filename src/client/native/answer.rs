//! Answers for consecutive blocks: one group after the other, up to the mark that names the last block.

use std::ops::RangeInclusive;

use bitcoin::Network;
use futures::executor::block_on;

use super::super::OracleError;
use super::block::NativeBlock;
use super::chunk::Section;
use super::group::{Group, read_group, untrue};
use super::headers::{Broken, HeaderChain};
use super::parts::{Next, Parts};
use crate::BlockId;
use crate::wire::native::column::Column;

/// The blocks of a group, as a scan takes them.
///
/// # Errors
/// As [`read_group`] and [`NativeBlock::read`].
pub(crate) fn read_blocks(
    url: &str,
    network: Network,
    columns: &[Column],
    group: Group,
    first: u32,
) -> Result<Vec<NativeBlock>, OracleError> {
    let raw = read_group(url, network, columns, group, first)?;
    let read = raw.into_iter();
    read.map(|raw| NativeBlock::read(url, columns, raw))
        .collect()
}

/// The last block of an answer so far. One answer is of one branch.
#[derive(Debug, Default)]
pub(crate) struct Reached(Option<BlockId>);

impl Reached {
    /// Takes the next block of an answer up to `last`.
    ///
    /// # Errors
    /// A block that was not asked for, or is not on top of the one before it.
    pub(crate) fn take(
        &mut self,
        parts: &Parts,
        block: &NativeBlock,
        last: u32,
    ) -> Result<(), OracleError> {
        if block.height > last {
            return Err(parts.malformed(format!("blocks above {last}")));
        }
        let before = block.height.checked_sub(1).map(|height| BlockId {
            height,
            hash: block.header.header.prev_blockhash,
        });
        if self.0.is_some() && self.0 != before {
            let what = "a header that is not on top of the one before it";
            return Err(untrue(&parts.url(), block.height, Column::Headers, what));
        }
        self.0 = Some(BlockId {
            height: block.height,
            hash: block.hash,
        });
        Ok(())
    }

    /// Holds the mark at the end of the answer against it.
    ///
    /// # Errors
    /// A mark that names another block.
    pub(crate) fn end(&self, parts: &Parts, mark: BlockId) -> Result<(), OracleError> {
        match self.0 == Some(mark) {
            true => Ok(()),
            false => {
                let at = mark.height;
                Err(parts.malformed(format!(
                    "an end mark of another block than its last, at {at}"
                )))
            }
        }
    }
}

/// Holds an answer of the route `range` that is there as a whole against itself, as a scan does with those that come, and
/// gives its blocks. `url` is what was asked, for errors; `columns` begin with `headers`.
///
/// # Errors
/// [`OracleError::Malformed`] for anything but parts of these columns, from the first height on and not beyond the last one,
/// and a mark at their end that names the last block; [`OracleError::Unreachable`] where it is cut off;
/// [`OracleError::Untrue`] for what contradicts itself: headers that do not link, have not the work they claim or break the
/// rules for targets and times; sections without the hash that stands beside the header, or that cannot be read; other
/// counts; `outputs` that are not those of `prefixes`, and `spends` that are not those of `spent`, where both were asked for.
pub fn check_answer(
    url: &str,
    network: Network,
    columns: &[Column],
    heights: RangeInclusive<u32>,
    answer: Vec<u8>,
) -> Result<Vec<BlockId>, OracleError> {
    let mut parts = Parts::of_bytes(url, answer);
    let (mut next, last) = heights.into_inner();
    let mut reached = Reached::default();
    let mut chain = HeaderChain::new(network);
    let mut blocks = Vec::new();
    loop {
        // Nothing is waited for.
        let group = match block_on(parts.next(columns))? {
            Next::Group(group) => group,
            Next::End(mark) => {
                reached.end(&parts, mark)?;
                return Ok(blocks);
            }
            Next::Cut(reason) => return Err(parts.cut(1, reason)),
        };
        for block in read_blocks(url, network, columns, group, next)? {
            reached.take(&parts, &block, last)?;
            let height = block.height;
            if let Err(broken) = chain.take(height, &block.header.header) {
                let what = match broken {
                    Broken::Link => "a header that is not on top of the one before it".to_owned(),
                    Broken::Rule(what) => what,
                };
                return Err(untrue(url, height, Column::Headers, what));
            }
            check_follow_ups(url, columns, &block)?;
            next = height.saturating_add(1);
            blocks.push(BlockId {
                height,
                hash: block.hash,
            });
        }
    }
}

/// Holds the sections that a scan asks for on a match against those that it always has.
fn check_follow_ups(url: &str, columns: &[Column], block: &NativeBlock) -> Result<(), OracleError> {
    let has = |column| columns.contains(&column);
    if let Some(outputs) = block.outputs.as_ref().filter(|_| has(Column::Prefixes)) {
        block.read_outputs(url, outputs)?;
    }
    if let Some(spends) = block.spends.as_ref().filter(|_| has(Column::Spent)) {
        block.read_spends(&Section {
            url: url.to_owned(),
            states: block.header.states,
            bytes: spends.clone(),
        })?;
    }
    Ok(())
}
