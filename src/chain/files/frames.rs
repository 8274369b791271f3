//! Records in `blk*.dat` and `rev*.dat`: obfuscation and framing.
//!
//! Sources: Bitcoin Core's `src/node/blockstorage.cpp` (`WriteBlock`, `WriteBlockUndo`, `InitBlocksdirXorKey`),
//! `src/flatfile.cpp` (files grow ahead of need, in chunks of zeros) and `src/streams.h` (`AutoFile`).
//!
//! A record is the network's magic (4 bytes), the length of its payload (u32, little-endian), the payload, and in `rev`
//! files a checksum of 32 bytes. Records follow each other without a gap, up to the zeros of the part that is not written
//! yet. A node that was killed goes back to the last position it had noted and writes over what follows, so that the
//! rest of an old record, and whole old records, may come after a new one.

use std::io::{self, Read, Seek, SeekFrom};

use bitcoin::p2p::Magic;

/// Magic and length.
pub const FRAME_BYTES: usize = 8;

/// Bytes looked at in one go when searching for the next record.
const SEARCH_BYTES: usize = 1 << 16;

/// What all bytes of the files are XORed with: byte `i` of a file with byte `i % 8` of the key. The file `xor.dat` holds it;
/// all zeros, or no such file, for files as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ObfuscationKey(pub [u8; 8]);

impl ObfuscationKey {
    /// Turns bytes that stand at `position` of a file into what they mean, or back.
    pub fn apply(self, position: u64, bytes: &mut [u8]) {
        let first = (position % 8) as usize;
        let mut rotated = self.0;
        rotated.rotate_left(first);
        let word = u64::from_le_bytes(rotated);
        if word == 0 {
            return;
        }
        let (words, rest) = bytes.as_chunks_mut::<8>();
        for bytes in words {
            *bytes = (u64::from_le_bytes(*bytes) ^ word).to_le_bytes();
        }
        for (byte, key) in rest.iter_mut().zip(rotated) {
            *byte ^= key;
        }
    }
}

/// How the records of a file are framed.
#[derive(Debug, Clone, Copy)]
pub struct Framing {
    /// Of the network.
    pub magic: Magic,
    /// Of the folder.
    pub key: ObfuscationKey,
    /// Bytes after each payload: 0 in `blk` files, 32 in `rev` files.
    pub trailer_bytes: u32,
    /// Lengths a payload can have; anything else is no record.
    pub payload_bytes: (u32, u32),
}

/// Where a payload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// Of the payload, from the start of the file; the frame is the 8 bytes before it.
    pub offset: u64,
    /// Of the payload.
    pub length: u32,
}

/// Goes from record to record. Each step reads the frame and as much of the payload as is wanted, and no more.
#[derive(Debug)]
pub struct Records<R> {
    reader: R,
    framing: Framing,
    /// Of the reader.
    at: u64,
    /// Where the next record should begin.
    next: u64,
    /// Length of the file when it was opened; what is appended meanwhile is for the next time.
    end: u64,
}

impl<R: Read + Seek> Records<R> {
    /// Records of a file from a position on, which is the start of a frame or anywhere before one.
    ///
    /// # Errors
    /// Of the reader.
    pub fn new(mut reader: R, framing: Framing, from: u64) -> io::Result<Self> {
        let end = reader.seek(SeekFrom::End(0))?;
        Ok(Self {
            reader,
            framing,
            at: end,
            next: from,
            end,
        })
    }

    /// End of the last record that was given out (with its trailer), just after its start if it was rejected, or where the
    /// search began.
    pub fn position(&self) -> u64 {
        self.next
    }

    /// The next record that is there to its end, and in `head` the first bytes of its payload, fewer if it has fewer
    /// than `head_bytes`.
    ///
    /// # Errors
    /// Of the reader.
    pub fn next(&mut self, head_bytes: usize, head: &mut Vec<u8>) -> io::Result<Option<Record>> {
        let mut position = self.next;
        loop {
            let mut bytes = vec![0; FRAME_BYTES + head_bytes];
            let read = self.read_at(position, &mut bytes)?;
            bytes.truncate(read);
            if let Some(record) = self.record(position, &bytes) {
                self.next = self.end_of(&record);
                bytes.drain(..FRAME_BYTES);
                bytes.truncate(record.length as usize);
                *head = bytes;
                return Ok(Some(record));
            }
            match self.search(position + 1)? {
                Some(found) => position = found,
                None => return Ok(None),
            }
        }
    }

    /// Whether a record begins where the next one should and the file ends within it. A file that a node writes has room
    /// ahead: this one was cut.
    ///
    /// # Errors
    /// Of the reader.
    pub fn is_cut(&mut self) -> io::Result<bool> {
        let mut bytes = [0; FRAME_BYTES];
        let read = self.read_at(self.next, &mut bytes)?;
        let bytes = bytes.get(..read).unwrap_or_default();
        let record = frame(&self.framing, self.next, bytes);
        Ok(record.is_some_and(|record| self.end_of(&record) > self.end))
    }

    /// The payload of a record, and the trailer after it.
    ///
    /// # Errors
    /// Of the reader; [`io::ErrorKind::UnexpectedEof`] if the file has become shorter.
    pub fn payload(&mut self, record: &Record, bytes: &mut Vec<u8>) -> io::Result<()> {
        // `record` was given out, so that its length is within bounds.
        bytes.resize((record.length + self.framing.trailer_bytes) as usize, 0);
        match self.read_at(record.offset, bytes)? {
            read if read == bytes.len() => Ok(()),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// Goes back into a record that turned out to be none: the next one may begin within it.
    pub fn reject(&mut self, record: &Record) {
        self.next = record.offset - FRAME_BYTES as u64 + 1;
    }

    fn end_of(&self, record: &Record) -> u64 {
        record.offset + u64::from(record.length) + u64::from(self.framing.trailer_bytes)
    }

    /// The record whose frame `bytes` begin with, if it is there to its end.
    fn record(&self, position: u64, bytes: &[u8]) -> Option<Record> {
        let record = frame(&self.framing, position, bytes)?;
        (self.end_of(&record) <= self.end).then_some(record)
    }

    /// Where the magic appears next, at `from` or later.
    fn search(&mut self, from: u64) -> io::Result<Option<u64>> {
        let mut position = from;
        let mut bytes = vec![0; SEARCH_BYTES];
        while position + FRAME_BYTES as u64 <= self.end {
            let read = self.read_raw_at(position, &mut bytes)?;
            let Some(bytes) = bytes.get_mut(..read).filter(|_| read >= FRAME_BYTES) else {
                return Ok(None);
            };
            // What is not written yet is zeros before the key is applied.
            if bytes.iter().any(|byte| *byte != 0) {
                let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
                // A frame may begin with zeros if the key begins with the magic's bytes.
                let start = zeros.saturating_sub(FRAME_BYTES - 1);
                self.framing.key.apply(position, bytes);
                let magic = self.framing.magic.to_bytes();
                let found = bytes.get(start..).and_then(|bytes| {
                    bytes
                        .windows(magic.len())
                        .position(|window| window == magic)
                });
                if let Some(found) = found {
                    return Ok(Some(position + (start + found) as u64));
                }
            }
            // The magic may lie across two pieces.
            position += (read - (FRAME_BYTES - 1)) as u64;
        }
        Ok(None)
    }

    fn read_at(&mut self, position: u64, bytes: &mut [u8]) -> io::Result<usize> {
        let read = self.read_raw_at(position, bytes)?;
        let (read_bytes, _) = bytes.split_at_mut(read);
        self.framing.key.apply(position, read_bytes);
        Ok(read)
    }

    /// As many bytes as there are, up to the length of `bytes`.
    fn read_raw_at(&mut self, position: u64, bytes: &mut [u8]) -> io::Result<usize> {
        // A seek makes a buffered reader forget what it has read ahead.
        if self.at != position {
            self.reader.seek(SeekFrom::Start(position))?;
            self.at = position;
        }
        let mut filled = 0;
        while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.reader.read(rest) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        self.at += filled as u64;
        Ok(filled)
    }
}

/// The record whose frame stands at `position` of a file; `bytes` are the file's from there on, with the key applied.
pub fn frame(framing: &Framing, position: u64, bytes: &[u8]) -> Option<Record> {
    let (magic, rest) = bytes.split_first_chunk::<4>()?;
    let (length, _) = rest.split_first_chunk::<4>()?;
    if *magic != framing.magic.to_bytes() {
        return None;
    }
    let length = u32::from_le_bytes(*length);
    let (shortest, longest) = framing.payload_bytes;
    (shortest..=longest).contains(&length).then_some(Record {
        offset: position + FRAME_BYTES as u64,
        length,
    })
}

#[cfg(test)]
mod tests;
