//! Where the outputs are that spends name, and the locators that a long sync leaves for its end.
//!
//! The locator is a tree under keys in no order: every row that comes or goes rewrites a page somewhere, and the more
//! outputs there are, the fewer rows share one. A long sync does without. It appends a mark for each output to a column,
//! and as its spends come with the heights that created what they spend, a look through the marks of that block finds
//! the output: one place to read, where to look into the block itself would take half a dozen. The rows are written when
//! all is there, of what is unspent then, and in order.

use rayon::prelude::*;
use redb::{Database, Durability};

use super::applied::Applied;
use super::bitmap;
use super::error::{Fault, StoreError};
use super::meta::{Deferred, Keep, write_deferred};
use super::position::OutputPosition;
use super::record::{BlockRecord, SpendRow, Update};
use super::schema::{LOCATOR, LocatorKey, MARKS, SPENT, hash_of_mark, locator_key};
use super::view::{Full, View};
use super::watches::Inputs;
use super::{Store, WriterState};

/// The larger the engine's cache, the more locators one commit of them takes: 16 million, which are 160 MB of memory,
/// where the cache has 256 MiB. Each commit rewrites most of the tree, and no block is in memory at that time.
const CACHE_BYTES_PER_ROW: usize = 16;

/// Spends, or blocks with spends, that one task looks up.
const TASK_ITEMS: usize = 1_024;
const TASK_BLOCKS: usize = 32;

/// How far a locator is that is being completed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Locating {
    /// Outputs that it covers, from the first on.
    pub outputs: u64,
    /// Outputs of the index.
    pub of: u64,
}

impl Store {
    /// Connects blocks as [`apply`](Self::apply) does, but leaves their locators for [`locate_rest`](Self::locate_rest),
    /// where every spend says which height created what it spends ([`SpendRow::created`]). Where one does not, this is
    /// `apply`.
    ///
    /// Until the rest is located, [`Snapshot::is_unspent`](super::Snapshot::is_unspent) is refused. A height that is
    /// wrong makes a spend of the index a foreign one: it is trusted as much as the spent script that came with it.
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    pub fn extend(&self, connect: &[BlockRecord]) -> Result<Applied, StoreError> {
        self.extend_with(connect, Inputs::Rows)
    }

    /// The same, with inputs as in [`apply_with`](Self::apply_with).
    ///
    /// # Errors
    /// As [`apply_with`](Self::apply_with).
    pub fn extend_with(
        &self,
        connect: &[BlockRecord],
        inputs: Inputs<'_>,
    ) -> Result<Applied, StoreError> {
        let disconnect = 0;
        let heights_known = connect
            .iter()
            .flat_map(|record| &record.spends)
            .all(|spend| spend.created.is_some());
        let defer = heights_known && self.keep() == Keep::Full;
        self.write(
            Update {
                disconnect,
                connect,
            },
            inputs,
            defer,
        )
    }

    /// Writes the locators that [`extend`](Self::extend) has left, some millions in each commit. `go_on` hears before
    /// each how far it is, and stops it with `false`; the next call goes on from there. Returns at once if none are left.
    ///
    /// [`apply`](Self::apply) does so by itself.
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    pub fn locate_rest(&self, go_on: impl FnMut(Locating) -> bool) -> Result<(), StoreError> {
        let mut writer = self.writer()?;
        self.locate_on(&mut writer, go_on)
    }

    pub(super) fn locate_on(
        &self,
        writer: &mut WriterState,
        mut go_on: impl FnMut(Locating) -> bool,
    ) -> Result<(), StoreError> {
        let told = |fault: Fault| fault.in_file(&self.file);
        loop {
            let view = self.view().map_err(told)?;
            let (Some(deferred), Some(full)) = (view.deferred, view.kept()) else {
                return Ok(());
            };
            let (outputs, of) = (deferred.located, view.ends.outputs);
            if !go_on(Locating { outputs, of }) {
                return Ok(());
            }
            let rows = self.cache_bytes / CACHE_BYTES_PER_ROW;
            let (keys, end) = run(&view, full, outputs, rows).map_err(told)?;
            // Its pages need not be kept while others are written.
            drop(view);
            let left = (end < of).then_some(Deferred {
                located: end,
                ..deferred
            });
            let database = self.database.read().map_err(|_| self.halted())?;
            let _writing = self.start_writing()?;
            if let Err(fault) = write_run(&database, &keys, left) {
                writer.halted = true;
                return Err(told(fault));
            }
        }
    }
}

/// Locators of the unspent outputs from position `from` on, `rows` or a few more, ascending, and the position up to which
/// they go.
fn run(view: &View, full: &Full, from: u64, rows: usize) -> Result<(Vec<LocatorKey>, u64), Fault> {
    let mut keys = Vec::new();
    let outputs = view.ends.outputs;
    let Some((marks, len, marked)) = view.marks()? else {
        return Ok((keys, outputs));
    };
    let mut start = from;
    while start < outputs && (start == from || keys.len() < rows) {
        let end = outputs.min(start.saturating_add(MARKS.chunk_items()));
        let mut positions = (start..end).zip(bitmap::read(full.spent()?, outputs, start..end)?);
        MARKS.visit(marks, len, start - marked..end - marked, |items| {
            let marks = items.as_chunks().0.iter();
            let marks = marks.map(|mark| u64::from_le_bytes(*mark));
            for (mark, (position, is_spent)) in marks.zip(&mut positions) {
                if !is_spent {
                    let position = OutputPosition(position);
                    keys.push(locator_key(hash_of_mark(mark), position));
                }
            }
            Ok(())
        })?;
        start = end;
    }
    keys.par_sort_unstable();
    Ok((keys, start))
}

fn write_run(
    database: &Database,
    keys: &[LocatorKey],
    left: Option<Deferred>,
) -> Result<(), Fault> {
    let mut write = database.begin_write()?;
    write.set_durability(Durability::Immediate)?;
    write.set_quick_repair(true);
    {
        let mut table = write.open_table(LOCATOR)?;
        for key in keys {
            if table.insert(key, ())?.is_some() {
                return Err(Fault::row("locator", hex(key), "there already"));
            }
        }
    }
    if left.is_none() {
        write.delete_table(MARKS.definition())?;
    }
    write_deferred(&write, left)?;
    write.commit()?;
    Ok(())
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A spend of something that no block of the update created.
#[derive(Clone, Copy)]
pub(super) struct OlderSpend<'a> {
    /// Index of the spending block in the update.
    pub(super) block: usize,
    /// Index of the spend in its block.
    pub(super) index: usize,
    /// Of the outpoint it names.
    pub(super) mark: u64,
    pub(super) row: &'a SpendRow,
}

/// An unspent output of the index and who spends it.
#[derive(Clone, Copy)]
pub(super) struct Found<'s> {
    pub(super) position: OutputPosition,
    pub(super) spend: OlderSpend<'s>,
    /// First bytes of its key.
    pub(super) key_prefix: [u8; 8],
}

/// Finds the unspent outputs below position `end` that are spent, through the locator; in no order.
///
/// First the locator in its own order, then the columns in theirs: in a large batch neighbours share pages, so that
/// each is read once.
pub(super) fn find_by_locator<'s>(
    view: &View,
    full: &Full,
    mut spends: Vec<OlderSpend<'s>>,
    end: OutputPosition,
) -> Result<Vec<Found<'s>>, Fault> {
    spends.par_sort_unstable_by_key(|spend| hash_of_mark(spend.mark));
    let mut located = spends
        .par_chunks(TASK_ITEMS)
        .map(|spends| {
            let mut located = Vec::with_capacity(spends.len());
            for &spend in spends {
                view.located(full, hash_of_mark(spend.mark), |position| {
                    if position < end {
                        located.push((position, spend));
                    }
                })?;
            }
            Ok(located)
        })
        .collect::<Result<Vec<_>, Fault>>()?
        .concat();
    located.par_sort_unstable_by_key(|(position, _)| *position);
    let found = located
        .par_chunks(TASK_ITEMS)
        .map(|located| {
            let mut outputs = view.held(full)?;
            let mut found = Vec::with_capacity(located.len());
            for &(position, spend) in located {
                let output = outputs.get(position)?;
                if output.outpoint() == spend.row.outpoint {
                    found.push(Found {
                        position,
                        spend,
                        key_prefix: output.item.key_prefix(),
                    });
                }
            }
            Ok(found)
        })
        .collect::<Result<Vec<_>, Fault>>()?;
    Ok(found.concat())
}

/// Finds unspent outputs that are marked, in the marks of the blocks that created them; in no order. Also gives the
/// spends of what is older than the first mark, which the locator may know. All spends say which height created what
/// they spend.
///
/// A mark is enough: that two of the outputs of a block and a spend have the same 64 bits, under a key that nobody knows,
/// happens once in 10^15 spends. What a spend says of its key is not looked at.
pub(super) fn find_by_marks<'s>(
    view: &View,
    full: &Full,
    spends: Vec<OlderSpend<'s>>,
) -> Result<(Vec<Found<'s>>, Vec<OlderSpend<'s>>), Fault> {
    let Some((marks, len, marked)) = view.marks()? else {
        return Ok((Vec::new(), spends));
    };
    if len == 0 {
        return Ok((Vec::new(), spends));
    }
    let first_height = view.height_of_output(OutputPosition(marked))?;
    let is_marked = |spend: &OlderSpend<'_>| {
        let created = spend.row.created;
        created.is_some_and(|height| height >= first_height)
    };
    let (mut spends, older): (Vec<_>, Vec<_>) = spends.into_iter().partition(is_marked);
    spends.par_sort_unstable_by_key(|spend| (spend.row.created, spend.mark));
    let blocks: Vec<&[OlderSpend<'s>]> = spends
        .chunk_by(|a, b| a.row.created == b.row.created)
        .collect();
    let found = blocks
        .par_chunks(TASK_BLOCKS)
        .map(|blocks| {
            let mut spent = SPENT.items(full.spent()?, bitmap::len_bytes(view.ends.outputs));
            let mut found = Vec::new();
            for spends in blocks {
                let created = spends.first().and_then(|spend| spend.row.created);
                let row = match created {
                    Some(height) => view.block_row(height)?,
                    None => None,
                };
                // Created by a block of the update, but no output of the index.
                let Some(row) = row else { continue };
                let range = row.outputs.range();
                let mut position = range.start;
                let range = range.start.saturating_sub(marked)..range.end.saturating_sub(marked);
                MARKS.visit(marks, len, range, |items| {
                    for mark in items.as_chunks().0 {
                        let mark = u64::from_le_bytes(*mark);
                        let first = spends.partition_point(|spend| spend.mark < mark);
                        let alike = spends.iter().skip(first);
                        for &spend in alike.take_while(|spend| spend.mark == mark) {
                            let [bits] = spent.get::<1>(position / 8)?;
                            if bits >> (position % 8) & 1 == 0 {
                                found.push(Found {
                                    position: OutputPosition(position),
                                    spend,
                                    key_prefix: spend.row.key_prefix,
                                });
                            }
                        }
                        position += 1;
                    }
                    Ok(())
                })?;
            }
            Ok(found)
        })
        .collect::<Result<Vec<_>, Fault>>()?;
    Ok((found.concat(), older))
}
