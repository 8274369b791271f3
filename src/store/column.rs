//! Append-only arrays of fixed-size items, cut into chunks that just fill a page of the storage engine.
//!
//! A column does not know its length: the directory row of the last block does, and callers pass it in. Every
//! chunk but the last is full, and the last holds exactly what is left, so a chunk of any other length is damage.

use std::ops::Range;

use redb::{AccessGuard, ReadOnlyTable, ReadableTable, Table, TableDefinition};

use super::error::Fault;

/// An append-only array in chunks.
#[derive(Debug, Clone, Copy)]
pub struct Column {
    name: &'static str,
    item_bytes: usize,
    chunk_items: u64,
}

impl Column {
    /// A column of items of `item_bytes`, `chunk_items` to a chunk.
    pub(super) const fn new(name: &'static str, item_bytes: usize, chunk_items: u64) -> Self {
        Self {
            name,
            item_bytes,
            chunk_items,
        }
    }

    /// Name of the table.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// Bytes of an item.
    pub const fn item_bytes(&self) -> usize {
        self.item_bytes
    }

    /// Items of a full chunk.
    pub const fn chunk_items(&self) -> u64 {
        self.chunk_items
    }

    /// Bytes of a full chunk.
    pub const fn chunk_bytes(&self) -> usize {
        self.item_bytes * self.chunk_items as usize
    }

    /// The table: chunk number to items.
    pub const fn definition(&self) -> TableDefinition<'static, u32, &'static [u8]> {
        TableDefinition::new(self.name)
    }

    /// Number of the chunk that holds a position.
    pub(super) fn chunk_of(&self, position: u64) -> Result<u32, Fault> {
        u32::try_from(position / self.chunk_items)
            .map_err(|_| Fault::row(self.name, position, "position beyond the last chunk"))
    }

    /// Number of chunks of a column of `len` items.
    pub(super) fn chunks(&self, len: u64) -> Result<u32, Fault> {
        u32::try_from(len.div_ceil(self.chunk_items))
            .map_err(|_| Fault::row(self.name, len, "more items than chunks can hold"))
    }

    /// Bytes of a chunk in a column of `len` items.
    fn bytes_of_chunk(&self, chunk: u32, len: u64) -> usize {
        let first = u64::from(chunk) * self.chunk_items;
        len.saturating_sub(first).min(self.chunk_items) as usize * self.item_bytes
    }

    fn checked<'c>(&self, chunk: u32, len: u64, bytes: &'c [u8]) -> Result<&'c [u8], Fault> {
        let expected = self.bytes_of_chunk(chunk, len);
        if bytes.len() == expected {
            return Ok(bytes);
        }
        let reason = format!("{} bytes where {expected} were expected", bytes.len());
        Err(Fault::row(self.name, chunk, reason))
    }

    /// Calls `visit` with the items of `range`, a whole number of them at a time, in order. `len` is the column's
    /// length in items. Memory stays within a chunk, whatever the range.
    pub(super) fn visit(
        &self,
        table: &impl ReadableTable<u32, &'static [u8]>,
        len: u64,
        range: Range<u64>,
        mut visit: impl FnMut(&[u8]) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        if range.is_empty() {
            return Ok(());
        }
        if range.end > len {
            let reason = format!("range ends at {} of {len} items", range.end);
            return Err(Fault::row(self.name, range.start, reason));
        }
        let mut expected = self.chunk_of(range.start)?;
        let last = self.chunk_of(range.end - 1)?;
        for entry in table.range(expected..=last)? {
            let (chunk, bytes) = entry?;
            let chunk = chunk.value();
            if chunk != expected {
                break;
            }
            let first = u64::from(chunk) * self.chunk_items;
            let from = range.start.saturating_sub(first) as usize * self.item_bytes;
            let to = (range.end - first).min(self.chunk_items) as usize * self.item_bytes;
            let items = self
                .checked(chunk, len, bytes.value())?
                .get(from..to)
                .ok_or_else(|| Fault::row(self.name, chunk, "chunk too short"))?;
            visit(items)?;
            expected = expected.saturating_add(1);
        }
        if expected <= last {
            return Err(Fault::row(self.name, expected, "chunk is missing"));
        }
        Ok(())
    }

    /// The bytes of `range`.
    pub(super) fn read(
        &self,
        table: &impl ReadableTable<u32, &'static [u8]>,
        len: u64,
        range: Range<u64>,
    ) -> Result<Vec<u8>, Fault> {
        let mut bytes = Vec::new();
        self.visit(table, len, range, |items| {
            bytes.extend_from_slice(items);
            Ok(())
        })?;
        Ok(bytes)
    }

    /// Reads single items of a column of `len` items.
    pub(super) const fn items<'t>(
        &self,
        table: &'t ReadOnlyTable<u32, &'static [u8]>,
        len: u64,
    ) -> Items<'t> {
        Items {
            column: *self,
            table,
            len,
            last: None,
        }
    }

    /// Starts to replace everything from `cut` on. `len` is the length before.
    pub(super) fn truncate<'t, 'txn>(
        &self,
        table: &'t mut Table<'txn, u32, &'static [u8]>,
        len: u64,
        cut: u64,
    ) -> Result<Tail<'t, 'txn>, Fault> {
        debug_assert!(cut <= len);
        let chunk = self.chunk_of(cut)?;
        let kept = (cut % self.chunk_items) as usize * self.item_bytes;
        let mut buffer = Vec::with_capacity(self.chunk_bytes());
        if kept > 0 {
            let bytes = table
                .get(chunk)?
                .ok_or_else(|| Fault::row(self.name, chunk, "chunk is missing"))?;
            let kept = self
                .checked(chunk, len, bytes.value())?
                .get(..kept)
                .ok_or_else(|| Fault::row(self.name, chunk, "chunk too short"))?;
            buffer.extend_from_slice(kept);
        }
        Ok(Tail {
            changed: cut < len,
            old_chunks: self.chunks(len)?,
            column: *self,
            table,
            chunk,
            buffer,
        })
    }

    /// Puts whole items in the place of those from position `first` on, in a column of `len` items.
    pub(super) fn overwrite(
        &self,
        table: &mut Table<'_, u32, &'static [u8]>,
        len: u64,
        first: u64,
        mut items: &[u8],
    ) -> Result<(), Fault> {
        debug_assert!(items.len().is_multiple_of(self.item_bytes));
        let mut position = first;
        while !items.is_empty() {
            let chunk = self.chunk_of(position)?;
            let mut bytes = match table.get(chunk)? {
                Some(bytes) => self.checked(chunk, len, bytes.value())?.to_vec(),
                None => return Err(Fault::row(self.name, chunk, "chunk is missing")),
            };
            let from = (position % self.chunk_items) as usize * self.item_bytes;
            let room = bytes.get_mut(from..).unwrap_or_default();
            let (now, later) = items.split_at(room.len().min(items.len()));
            if now.is_empty() {
                let reason = format!("no item {position}");
                return Err(Fault::row(self.name, chunk, reason));
            }
            for (place, byte) in room.iter_mut().zip(now) {
                *place = *byte;
            }
            table.insert(chunk, bytes.as_slice())?;
            position += (now.len() / self.item_bytes) as u64;
            items = later;
        }
        Ok(())
    }

    /// Checks that the table ends where a column of `len` items does.
    pub(super) fn check_end(
        &self,
        table: &impl ReadableTable<u32, &'static [u8]>,
        len: u64,
    ) -> Result<(), Fault> {
        let chunks = self.chunks(len)?;
        let reason = match table.last()? {
            None if chunks == 0 => return Ok(()),
            None => "no chunk where the directory has some".to_owned(),
            Some((chunk, bytes)) if chunk.value().checked_add(1) == Some(chunks) => {
                return self.checked(chunk.value(), len, bytes.value()).map(|_| ());
            }
            Some((chunk, _)) => format!("{} is the last chunk", chunk.value()),
        };
        Err(Fault::row(self.name, chunks.saturating_sub(1), reason))
    }
}

/// Reads single items. Keeps the last chunk at hand, so items in ascending order cost one read per chunk.
pub(super) struct Items<'t> {
    column: Column,
    table: &'t ReadOnlyTable<u32, &'static [u8]>,
    len: u64,
    last: Option<(u32, AccessGuard<'t, &'static [u8]>)>,
}

impl Items<'_> {
    /// The item at a position, of `N` bytes.
    pub(super) fn get<const N: usize>(&mut self, position: u64) -> Result<[u8; N], Fault> {
        let column = self.column;
        debug_assert_eq!(N, column.item_bytes);
        let chunk = column.chunk_of(position)?;
        let bytes = match self.last.take() {
            Some((last, bytes)) if last == chunk => bytes,
            _ => self
                .table
                .get(chunk)?
                .ok_or_else(|| Fault::row(column.name, chunk, "chunk is missing"))?,
        };
        let at = (position % column.chunk_items) as usize * N;
        let item = column
            .checked(chunk, self.len, bytes.value())?
            .get(at..)
            .and_then(|rest| rest.first_chunk())
            .copied()
            .ok_or_else(|| Fault::row(column.name, chunk, format!("no item {position}")))?;
        self.last = Some((chunk, bytes));
        Ok(item)
    }
}

/// The open end of a column: takes items and writes each chunk once.
pub(super) struct Tail<'t, 'txn> {
    column: Column,
    table: &'t mut Table<'txn, u32, &'static [u8]>,
    /// The chunk that `buffer` will be.
    chunk: u32,
    buffer: Vec<u8>,
    /// Whether the buffer differs from what the table holds.
    changed: bool,
    /// Number of chunks before.
    old_chunks: u32,
}

impl Tail<'_, '_> {
    /// Appends whole items, one or many.
    pub(super) fn push(&mut self, mut items: &[u8]) -> Result<(), Fault> {
        debug_assert!(items.len().is_multiple_of(self.column.item_bytes));
        while !items.is_empty() {
            let room = self.column.chunk_bytes() - self.buffer.len();
            let (now, later) = items.split_at(room.min(items.len()));
            self.buffer.extend_from_slice(now);
            self.changed = true;
            items = later;
            if self.buffer.len() == self.column.chunk_bytes() {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Fault> {
        self.table.insert(self.chunk, self.buffer.as_slice())?;
        self.buffer.clear();
        self.chunk = self.chunk.checked_add(1).ok_or_else(|| {
            Fault::row(
                self.column.name,
                self.chunk,
                "the column is full: no chunk left",
            )
        })?;
        Ok(())
    }

    /// Writes the last chunk and removes those behind it.
    pub(super) fn finish(mut self) -> Result<(), Fault> {
        if !self.changed {
            return Ok(());
        }
        if !self.buffer.is_empty() {
            self.flush()?;
        }
        for chunk in self.chunk..self.old_chunks {
            self.table.remove(chunk)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
