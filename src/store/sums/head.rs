//! The engine's own header, twice, with a sum.
//!
//! It is the one thing that the engine writes in place. A new one goes to the copy that no sync has made durable, and
//! after the sync to the other one too. So power may fail at any moment and one copy is whole; and in a file that was
//! closed both say the same, so that one of them may be damaged.

use std::io;

use redb::StorageBackend;

use super::{PAGE, PAGE_BYTES, Unsound};

/// First bytes of a copy.
const MAGIC: [u8; 8] = *b"spindex\n";
/// Version of the layout, u32 LE: what lies where, not what the rows are.
const LAYOUT: u32 = 1;
/// Bytes of the engine's header, which has the start of its first page for itself.
pub(super) const ENGINE_BYTES: usize = 320;
/// First bytes of the engine's header, once what it creates is on the disk.
pub(in crate::store) const ENGINE_MAGIC: [u8; 9] = *b"redb\x1a\x0a\xa9\x0d\x0a";

const NUMBER_AT: usize = 12;
const ENGINE_AT: usize = 20;
const SUM_AT: usize = ENGINE_AT + ENGINE_BYTES;
/// Bytes of a copy: within a sector, so that a disk writes all of it or nothing.
pub(in crate::store) const HEAD_BYTES: usize = SUM_AT + 4;

/// A copy: magic 8, layout u32 LE, number u64 LE, engine's header 320, CRC-32 of all that u32 LE.
#[derive(Debug, Clone)]
struct Head {
    /// One more with each that is written.
    number: u64,
    engine: [u8; ENGINE_BYTES],
}

impl Head {
    fn encode(&self) -> [u8; HEAD_BYTES] {
        let mut bytes = [0; HEAD_BYTES];
        let parts = [
            &MAGIC[..],
            &LAYOUT.to_le_bytes(),
            &self.number.to_le_bytes(),
            &self.engine,
        ];
        let summed = parts.concat();
        let sum = crc32fast::hash(&summed).to_le_bytes();
        for (place, byte) in bytes.iter_mut().zip(summed.iter().chain(&sum)) {
            *place = *byte;
        }
        bytes
    }

    /// `None` for what is none, or a damaged one.
    fn decode(bytes: &[u8]) -> Option<Self> {
        let (summed, sum) = bytes.get(..HEAD_BYTES)?.split_at_checked(SUM_AT)?;
        let is_whole = crc32fast::hash(summed).to_le_bytes() == *sum;
        let (magic, rest) = summed.split_first_chunk::<8>()?;
        let (layout, _) = rest.split_first_chunk::<4>()?;
        if !is_whole || *magic != MAGIC || u32::from_le_bytes(*layout) != LAYOUT {
            return None;
        }
        let number = summed.get(NUMBER_AT..)?.first_chunk()?;
        Some(Self {
            number: u64::from_le_bytes(*number),
            engine: *summed.get(ENGINE_AT..)?.first_chunk()?,
        })
    }
}

/// Whether these are the first bytes of a copy, damaged or not.
pub(in crate::store) fn is_head(bytes: &[u8]) -> bool {
    bytes.starts_with(&MAGIC)
}

/// Whether a copy is whole and the engine had come to the end of creating the file.
pub(in crate::store) fn has_engine(bytes: &[u8]) -> bool {
    Head::decode(bytes).is_some_and(|head| head.engine.starts_with(&ENGINE_MAGIC))
}

/// The two copies. Nothing is read before the engine asks, since it locks the file first.
#[derive(Debug, Default)]
pub(super) struct Heads {
    newest: Option<Head>,
    /// Which copy is on the disk for certain: the first or the second.
    durable: usize,
    /// The other one was written since.
    is_pending: bool,
}

impl Heads {
    /// Part of the engine's first page, of which there is nothing behind its header.
    pub(super) fn read(
        &mut self,
        file: &impl StorageBackend,
        offset: u64,
        out: &mut [u8],
    ) -> io::Result<()> {
        let head = match &self.newest {
            Some(head) => head,
            None => self.newest.insert(load(file, &mut self.durable)?),
        };
        let mut page = [0; PAGE_BYTES];
        if let Some(place) = page.first_chunk_mut() {
            *place = head.engine;
        }
        let from = offset as usize;
        let part = page.get(from..).and_then(|rest| rest.get(..out.len()));
        out.copy_from_slice(part.ok_or(io::ErrorKind::InvalidInput)?);
        Ok(())
    }

    /// A new header, or a part of one.
    pub(super) fn write(
        &mut self,
        file: &impl StorageBackend,
        offset: u64,
        data: &[u8],
    ) -> io::Result<()> {
        let mut head = match self.newest.take() {
            Some(head) => head,
            None if is_blank(file)? => {
                self.durable = 1;
                Head {
                    number: 0,
                    engine: [0; ENGINE_BYTES],
                }
            }
            None => load(file, &mut self.durable)?,
        };
        let from = offset as usize;
        let place = head.engine.get_mut(from..);
        let place = place.and_then(|rest| rest.get_mut(..data.len()));
        place
            .ok_or(io::ErrorKind::InvalidInput)?
            .copy_from_slice(data);
        head.number = head.number.saturating_add(1);
        let written = file.write(place_of_copy(1 - self.durable), &head.encode());
        self.newest = Some(head);
        self.is_pending = true;
        written
    }

    /// A sync came to its end: what was written is durable, and the other copy follows.
    pub(super) fn synced(&mut self, file: &impl StorageBackend) -> io::Result<()> {
        if !std::mem::take(&mut self.is_pending) {
            return Ok(());
        }
        self.durable = 1 - self.durable;
        match &self.newest {
            Some(head) => file.write(place_of_copy(1 - self.durable), &head.encode()),
            None => Ok(()),
        }
    }
}

const fn place_of_copy(copy: usize) -> u64 {
    copy as u64 * PAGE
}

/// Both copies, with zeros where the file is too short.
fn copies(file: &impl StorageBackend) -> io::Result<[[u8; HEAD_BYTES]; 2]> {
    let len = file.len()?;
    let mut copies = [[0; HEAD_BYTES]; 2];
    for (copy, bytes) in copies.iter_mut().enumerate() {
        let there = len.saturating_sub(place_of_copy(copy));
        let there = usize::try_from(there).map_or(HEAD_BYTES, |there| there.min(HEAD_BYTES));
        if let Some(bytes) = bytes.get_mut(..there).filter(|bytes| !bytes.is_empty()) {
            file.read(place_of_copy(copy), bytes)?;
        }
    }
    Ok(copies)
}

fn is_blank(file: &impl StorageBackend) -> io::Result<bool> {
    let copies = copies(file)?;
    Ok(copies.as_flattened().iter().all(|byte| *byte == 0))
}

/// The newer copy of those that are whole, and which one it is.
fn load(file: &impl StorageBackend, durable: &mut usize) -> io::Result<Head> {
    let copies = copies(file)?;
    let [first, second] = copies.each_ref().map(|copy| Head::decode(copy));
    let (head, copy) = match (first, second) {
        (Some(first), Some(second)) if second.number > first.number => (second, 1),
        (Some(first), _) => (first, 0),
        (None, Some(second)) => (second, 1),
        (None, None) if copies.iter().any(|copy| is_head(copy)) => {
            return Err(Unsound::Head.into());
        }
        (None, None) => return Err(not_an_index()),
    };
    // Either may be that of a process that was killed before its sync, even if they say the same: the second of two is
    // written when the first one is durable, and nothing tells which one that was.
    file.sync_data()?;
    *durable = copy;
    Ok(head)
}

fn not_an_index() -> io::Error {
    let reason = "it does not begin as one";
    io::Error::new(io::ErrorKind::InvalidData, reason)
}
