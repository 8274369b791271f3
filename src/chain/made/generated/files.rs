//! The files of Bitcoin Core's block directory.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use super::GenerateError;
use super::assembly::FinishedBlock;

/// First bytes of each record on regtest.
const MAGIC: [u8; 4] = [0xfa, 0xbf, 0xb5, 0xda];

/// A block file stays below this size (`MAX_BLOCKFILE_SIZE` in blockstorage.h).
const MOST_FILE_BYTES: u64 = 128 << 20;

/// Magic and length.
const FRAME_BYTES: u64 = 8;

/// Writes `blk?????.dat` and `rev?????.dat`: blocks in order, each undo record in the file with its block's number.
pub(super) struct BlockFiles {
    directory: PathBuf,
    xor_key: [u8; 8],
    most_file_bytes: u64,
    number: u32,
    blocks: OpenFile,
    undo: OpenFile,
}

struct OpenFile {
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl BlockFiles {
    /// Creates the directory and its first files; with an XOR key also `xor.dat`.
    ///
    /// # Errors
    /// [`GenerateError::Occupied`] if there are block files already.
    pub(super) fn create(
        directory: &Path,
        xor_key: Option<[u8; 8]>,
        most_file_bytes: Option<u64>,
    ) -> Result<Self, GenerateError> {
        let failed = |source| GenerateError::File {
            path: directory.to_owned(),
            source,
        };
        fs::create_dir_all(directory).map_err(failed)?;
        for entry in fs::read_dir(directory).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            if name.to_string_lossy().ends_with(".dat") {
                return Err(GenerateError::Occupied(directory.join(name)));
            }
        }
        if let Some(key) = xor_key {
            let mut file = OpenFile::create(directory.join("xor.dat"))?;
            file.write(&[&key], [0; 8])?;
        }
        Ok(Self {
            blocks: OpenFile::create(directory.join("blk00000.dat"))?,
            undo: OpenFile::create(directory.join("rev00000.dat"))?,
            directory: directory.to_owned(),
            xor_key: xor_key.unwrap_or_default(),
            most_file_bytes: most_file_bytes.unwrap_or(MOST_FILE_BYTES),
            number: 0,
        })
    }

    /// Appends a block, and its undo record if it has one; returns the bytes written to both files.
    pub(super) fn append(
        &mut self,
        block: &[u8],
        undo: Option<&[u8]>,
    ) -> Result<(u64, u64), GenerateError> {
        let block_bytes = FRAME_BYTES + block.len() as u64;
        if self.blocks.bytes > 0 && self.blocks.bytes + block_bytes >= self.most_file_bytes {
            self.number += 1;
            let path = |kind: &str| self.directory.join(format!("{kind}{:05}.dat", self.number));
            self.blocks = OpenFile::create(path("blk"))?;
            self.undo = OpenFile::create(path("rev"))?;
        }
        self.blocks.write_record(block, 0, self.xor_key)?;
        let mut undo_bytes = 0;
        if let Some(undo) = undo {
            // The length of an undo record does not count its checksum.
            self.undo.write_record(undo, 32, self.xor_key)?;
            undo_bytes = FRAME_BYTES + undo.len() as u64;
        }
        Ok((block_bytes, undo_bytes))
    }

    /// Appends a block that has been generated.
    pub(super) fn append_finished(
        &mut self,
        finished: &FinishedBlock,
    ) -> Result<(u64, u64), GenerateError> {
        self.append(&finished.block, Some(&finished.undo))
    }
}

impl OpenFile {
    fn create(path: PathBuf) -> Result<Self, GenerateError> {
        match File::create_new(&path) {
            Ok(file) => Ok(Self {
                path,
                file,
                bytes: 0,
            }),
            Err(source) => Err(GenerateError::File { path, source }),
        }
    }

    /// Appends magic, length without the last `uncounted` bytes, and the payload.
    fn write_record(
        &mut self,
        payload: &[u8],
        uncounted: usize,
        xor_key: [u8; 8],
    ) -> Result<(), GenerateError> {
        let length = u32::try_from(payload.len() - uncounted).expect("a block is below 4 GiB");
        self.write(&[&MAGIC, &length.to_le_bytes(), payload], xor_key)
    }

    fn write(&mut self, parts: &[&[u8]], xor_key: [u8; 8]) -> Result<(), GenerateError> {
        let mut bytes = parts.concat();
        if xor_key != [0; 8] {
            let mut key = xor_key;
            // The key runs from the beginning of the file.
            key.rotate_left((self.bytes % 8) as usize);
            let key_number = u64::from_le_bytes(key);
            let (words, rest) = bytes.as_chunks_mut::<8>();
            for word in words {
                *word = (u64::from_le_bytes(*word) ^ key_number).to_le_bytes();
            }
            for (byte, key) in rest.iter_mut().zip(key) {
                *byte ^= key;
            }
        }
        self.bytes += bytes.len() as u64;
        self.file
            .write_all(&bytes)
            .map_err(|source| GenerateError::File {
                path: self.path.clone(),
                source,
            })
    }
}
