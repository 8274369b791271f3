//! A state file whose creation was cut short.

use std::fs::{File, TryLockError};
use std::io::{self, Read, Seek};
use std::path::Path;

/// What the storage engine's files begin with. It writes this once the rest of a new file's header is on disk.
const MAGIC_BYTES: usize = 9;

/// Its header, the only part of a new file that is not zeros by then.
const HEADER_BYTES: usize = 320;

/// Largest file that it begins with, and more.
const NEW_FILE_BYTES: u64 = 16 << 20;

/// Empties a file that never held anything, so that it is made anew. Any other cannot be told from one whose start was
/// overwritten, and stays as it is.
pub(super) fn empty_unfinished(file: &mut File, path: &Path) -> io::Result<()> {
    match file.try_lock() {
        Ok(()) => {}
        // Opening it says so.
        Err(TryLockError::WouldBlock) => return Ok(()),
        Err(TryLockError::Error(error)) => return Err(error),
    }
    if never_held_anything(file)? {
        tracing::warn!(
            "the creation of {} was cut short, it starts anew",
            path.display()
        );
        file.set_len(0)?;
    }
    file.unlock()
}

fn never_held_anything(file: &mut File) -> io::Result<bool> {
    let len = file.metadata()?.len();
    if len == 0 || len > NEW_FILE_BYTES {
        return Ok(false);
    }
    let mut bytes = Vec::new();
    file.rewind()?;
    Read::take(&mut *file, NEW_FILE_BYTES).read_to_end(&mut bytes)?;
    let start = bytes.iter().take(MAGIC_BYTES);
    let rest = bytes.iter().skip(HEADER_BYTES);
    Ok(start.chain(rest).all(|byte| *byte == 0))
}

#[cfg(test)]
mod tests;
