//! Folders of block files: a node's, and others made of their records.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::support::node::TestNode;

const MAGIC: [u8; 4] = [0xfa, 0xbf, 0xb5, 0xda];

/// The folder a node writes to.
pub(crate) fn blocks_folder(node: &TestNode) -> PathBuf {
    node.cookie_path().parent().unwrap().join("blocks")
}

/// A copy of the block files, and of the key if there is one.
pub(crate) fn copy(folder: &Path) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        if entry.path().is_file() {
            fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
        }
    }
    copy
}

/// The plain bytes of a file.
pub(crate) fn plain(folder: &Path, name: &str) -> Vec<u8> {
    let mut bytes = fs::read(folder.join(name)).unwrap();
    let key = fs::read(folder.join("xor.dat")).unwrap_or_else(|_| vec![0; 8]);
    for (byte, key) in bytes.iter_mut().zip(key.iter().cycle()) {
        *byte ^= key;
    }
    bytes
}

/// Writes the plain bytes of a file.
pub(crate) fn write_plain(folder: &Path, name: &str, bytes: &[u8]) {
    fs::write(folder.join(name), bytes).unwrap();
    let obfuscated = plain(folder, name);
    fs::write(folder.join(name), obfuscated).unwrap();
}

/// Payload offsets and records (frame, payload, trailer) of plain bytes, up to the first that is none.
pub(crate) fn records(bytes: &[u8], trailer_bytes: usize) -> Vec<(usize, Vec<u8>)> {
    let mut found = Vec::new();
    let mut at = 0;
    while bytes.get(at..at + 4) == Some(&MAGIC) {
        let length = u32::from_le_bytes(bytes[at + 4..at + 8].try_into().unwrap());
        let end = at + 8 + length as usize + trailer_bytes;
        found.push((at + 8, bytes[at..end].to_vec()));
        at = end;
    }
    found
}

/// Blocks of `blk00000.dat` with frames.
pub(crate) fn block_records(folder: &Path) -> Vec<Vec<u8>> {
    let records = records(&plain(folder, "blk00000.dat"), 0);
    records.into_iter().map(|(_, record)| record).collect()
}

/// Undo records of `rev00000.dat` with frames and checksums.
pub(crate) fn undo_records(folder: &Path) -> Vec<Vec<u8>> {
    let records = records(&plain(folder, "rev00000.dat"), 32);
    records.into_iter().map(|(_, record)| record).collect()
}
