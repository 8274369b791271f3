//! The `spent` column as bits: the only one whose items change.
//!
//! Every chunk has its full length and exists as soon as an output falls in it; bits behind the last output are 0.

use std::collections::BTreeMap;
use std::ops::Range;

use redb::{ReadableTable, Table};

use super::error::Fault;
use super::position::OutputPosition;
use super::schema::{SPENT, SPENT_CHUNK_BITS};

/// Bytes of the bitmap over `outputs` outputs: whole chunks.
pub(super) fn len_bytes(outputs: u64) -> u64 {
    outputs.div_ceil(SPENT_CHUNK_BITS) * SPENT.chunk_items()
}

/// Which outputs of `range` are spent; `outputs` is the length of the outputs column. The range may reach to the end
/// of the last chunk.
pub(super) fn read(
    table: &impl ReadableTable<u32, &'static [u8]>,
    outputs: u64,
    range: Range<u64>,
) -> Result<Vec<bool>, Fault> {
    let mut spent = Vec::new();
    if range.is_empty() {
        return Ok(spent);
    }
    let bytes = range.start / 8..range.end.div_ceil(8);
    let mut skip = (range.start % 8) as usize;
    let mut left = (range.end - range.start) as usize;
    SPENT.visit(table, len_bytes(outputs), bytes, |bytes| {
        let bits = (8 * bytes.len()).saturating_sub(skip).min(left);
        let all = bytes
            .iter()
            .flat_map(|byte| (0..8).map(move |bit| byte >> bit & 1 == 1));
        spent.extend(all.skip(skip).take(bits));
        skip = 0;
        left -= bits;
        Ok(())
    })?;
    Ok(spent)
}

/// How many outputs of `range` are spent; `outputs` is the length of the outputs column.
pub(super) fn count(
    table: &impl ReadableTable<u32, &'static [u8]>,
    outputs: u64,
    range: Range<u64>,
) -> Result<u64, Fault> {
    let mut spent = 0;
    let mut start = range.start;
    while start < range.end {
        let end = range.end.min(start.saturating_add(SPENT_CHUNK_BITS));
        let bits = read(table, outputs, start..end)?.into_iter();
        spent += bits.filter(|bit| *bit).count() as u64;
        start = end;
    }
    Ok(spent)
}

/// Checks that the table ends where a bitmap over `outputs` outputs does, with zeros behind the last output.
pub(super) fn check_end(
    table: &impl ReadableTable<u32, &'static [u8]>,
    outputs: u64,
) -> Result<(), Fault> {
    let len = len_bytes(outputs);
    SPENT.check_end(table, len)?;
    if read(table, outputs, outputs..8 * len)?.contains(&true) {
        return Err(Fault::row(
            SPENT.name(),
            outputs,
            "a bit behind the last output",
        ));
    }
    Ok(())
}

/// How the bitmap changes in an update.
pub(super) struct Change<'a> {
    /// Number of outputs before.
    pub(super) old: u64,
    /// Number of outputs that stay.
    pub(super) cut: u64,
    /// Number of outputs after.
    pub(super) new: u64,
    /// Positions below `cut` that become unspent.
    pub(super) clear: &'a [OutputPosition],
    /// Positions below `new` that become spent.
    pub(super) set: &'a [OutputPosition],
}

/// Writes each chunk concerned once.
pub(super) fn write(
    table: &mut Table<'_, u32, &'static [u8]>,
    change: &Change<'_>,
) -> Result<(), Fault> {
    let mut chunks = Chunks {
        old: SPENT.chunks(len_bytes(change.old))?,
        loaded: BTreeMap::new(),
    };
    let kept = SPENT.chunks(len_bytes(change.cut))?;
    let after = SPENT.chunks(len_bytes(change.new))?;

    for &position in change.clear {
        chunks.flip(table, position, false)?;
    }
    if change.cut < change.old && !change.cut.is_multiple_of(SPENT_CHUNK_BITS) {
        let bytes = chunks.get(table, kept - 1)?;
        let within = (change.cut % SPENT_CHUNK_BITS) as usize;
        if let Some((first, rest)) = bytes
            .get_mut(within / 8..)
            .and_then(<[u8]>::split_first_mut)
        {
            *first &= (1 << (within % 8)) - 1;
            rest.fill(0);
        }
    }
    // Chunks from `kept` on hold no output that stays.
    chunks.old = kept;
    for chunk in kept..after {
        chunks.get(table, chunk)?;
    }
    for &position in change.set {
        chunks.flip(table, position, true)?;
    }

    for (chunk, bytes) in &chunks.loaded {
        table.insert(chunk, bytes.as_slice())?;
    }
    for chunk in after..SPENT.chunks(len_bytes(change.old))? {
        table.remove(chunk)?;
    }
    Ok(())
}

/// The chunks an update changes.
struct Chunks {
    /// Chunks from here on are new: all zero.
    old: u32,
    loaded: BTreeMap<u32, Vec<u8>>,
}

impl Chunks {
    fn get(
        &mut self,
        table: &Table<'_, u32, &'static [u8]>,
        chunk: u32,
    ) -> Result<&mut Vec<u8>, Fault> {
        use std::collections::btree_map::Entry;
        match self.loaded.entry(chunk) {
            Entry::Occupied(entry) => Ok(entry.into_mut()),
            Entry::Vacant(entry) if chunk >= self.old => {
                Ok(entry.insert(vec![0; SPENT.chunk_bytes()]))
            }
            Entry::Vacant(entry) => {
                let bytes = table
                    .get(chunk)?
                    .ok_or_else(|| Fault::row(SPENT.name(), chunk, "chunk is missing"))?;
                let bytes = bytes.value().to_vec();
                if bytes.len() != SPENT.chunk_bytes() {
                    return Err(Fault::row(SPENT.name(), chunk, "chunk of odd length"));
                }
                Ok(entry.insert(bytes))
            }
        }
    }

    /// Changes a bit; one that has the value already means that bitmap, spends and locator disagree.
    fn flip(
        &mut self,
        table: &Table<'_, u32, &'static [u8]>,
        OutputPosition(position): OutputPosition,
        spent: bool,
    ) -> Result<(), Fault> {
        let chunk = SPENT.chunk_of(position / 8)?;
        let within = (position % SPENT_CHUNK_BITS) as usize;
        let mask = 1 << (within % 8);
        let byte = self
            .get(table, chunk)?
            .get_mut(within / 8)
            .ok_or_else(|| Fault::row(SPENT.name(), chunk, "chunk of odd length"))?;
        if (*byte & mask != 0) == spent {
            let state = if spent { "spent" } else { "unspent" };
            let reason = format!("output {position} is {state} already");
            return Err(Fault::row(SPENT.name(), chunk, reason));
        }
        *byte ^= mask;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
