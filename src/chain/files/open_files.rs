//! The files that blocks are read from.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::folder::Folder;
use super::frames::ObfuscationKey;
use super::headers::Location;
use super::listing::open_file;
use super::read::Miss;
use super::undo::CHECKSUM_BYTES;
use super::undo_file::UndoRecord;

/// The `blk` and the `rev` file that were read last, open for the next block. They are not kept for longer than a run of
/// blocks is read, since a node that prunes or reindexes puts others in their places.
pub(super) struct OpenFiles<'a> {
    folder: &'a Folder,
    key: ObfuscationKey,
    blocks: Option<(PathBuf, File)>,
    undo: Option<(PathBuf, File)>,
    /// `rev` files in which records were looked for that were not known, which is to be done once for all blocks.
    pub(super) looked_at: BTreeSet<u32>,
}

impl<'a> OpenFiles<'a> {
    pub(super) fn new(folder: &'a Folder, key: ObfuscationKey) -> Self {
        Self {
            folder,
            key,
            blocks: None,
            undo: None,
            looked_at: BTreeSet::new(),
        }
    }

    /// A block's bytes, fewer where the file ends before.
    ///
    /// # Errors
    /// [`Miss::Pruned`] without the file, [`Miss::Failed`] where it cannot be read.
    pub(super) fn block(&mut self, location: Location) -> Result<Vec<u8>, Miss> {
        let path = self.folder.block_path(location.file);
        let start = u64::from(location.offset);
        let read = read_range(&mut self.blocks, &path, self.key, start, location.length);
        read.map_err(|error| self.miss(&path, &error))
    }

    /// An undo record's payload and its checksum, or less where the file ends before.
    ///
    /// # Errors
    /// As for [`OpenFiles::block`].
    pub(super) fn undo(&mut self, number: u32, record: UndoRecord) -> Result<Vec<u8>, Miss> {
        let path = self.folder.undo_path(number);
        let length = record.length + CHECKSUM_BYTES as u32;
        let read = read_range(&mut self.undo, &path, self.key, record.offset, length);
        read.map_err(|error| self.miss(&path, &error))
    }

    fn miss(&self, path: &Path, error: &io::Error) -> Miss {
        match error.kind() {
            io::ErrorKind::NotFound => Miss::Pruned,
            _ => self.folder.unreadable(path, error).into(),
        }
    }
}

/// Reads a range of a file, which is opened unless it is the one that is open.
fn read_range(
    open: &mut Option<(PathBuf, File)>,
    path: &Path,
    key: ObfuscationKey,
    start: u64,
    length: u32,
) -> io::Result<Vec<u8>> {
    if open.as_ref().is_none_or(|(opened, _)| opened != path) {
        // Never more than one.
        *open = None;
        *open = Some((path.to_owned(), open_file(path)?));
    }
    let mut bytes = Vec::with_capacity(length as usize);
    if let Some((_, file)) = open {
        file.seek(SeekFrom::Start(start))?;
        file.take(u64::from(length)).read_to_end(&mut bytes)?;
    }
    key.apply(start, &mut bytes);
    Ok(bytes)
}
