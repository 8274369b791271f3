//! Files whose creation was cut short before they held anything.

use std::fs;
use std::io::{self, Read, Seek};
use std::path::Path;

use super::error::{StoreError, explain_io};
use super::sums;

/// Length of a file that the engine has only just made, at most: it is 1 MiB and some pages.
const NEW_FILE_BYTES: u64 = 16 << 20;

/// What a disk writes in one piece.
const SECTOR_BYTES: usize = 512;

/// The first bytes of both places where a file has its head; zeros where it is shorter.
fn starts(file: &mut fs::File) -> io::Result<[[u8; sums::HEAD_BYTES]; 2]> {
    let mut starts = [[0; sums::HEAD_BYTES]; 2];
    for (page, start) in (0_u64..).zip(&mut starts) {
        file.seek(io::SeekFrom::Start(page * sums::PAGE_BYTES as u64))?;
        let mut bytes = Vec::new();
        Read::take(&mut *file, sums::HEAD_BYTES as u64).read_to_end(&mut bytes)?;
        for (place, byte) in start.iter_mut().zip(bytes) {
            *place = byte;
        }
    }
    Ok(starts)
}

/// The engine writes its magic number after the rest of a new file's header is on disk. A file without it that has
/// nothing but zeros behind the header never held anything and is made anew. Any other cannot be told from one whose
/// start was overwritten, so it is not reused.
pub(super) fn refuse_unfinished(path: &Path) -> Result<(), StoreError> {
    let told = |error| explain_io(error, "open", path);
    let starts = match fs::File::open(path) {
        Ok(mut file) => starts(&mut file).map_err(told)?,
        Err(_) => return Ok(()),
    };
    let [first, _] = &starts;
    let was_head = starts.iter().any(|start| sums::is_head(start));
    let is_blank = first.starts_with(&sums::ENGINE_MAGIC.map(|_| 0));
    if starts.iter().any(|start| sums::has_engine(start)) || !(was_head || is_blank) {
        return Ok(());
    }
    match empty_unfinished(path) {
        Ok(true) => Ok(()),
        // Opening it says what is damaged.
        Ok(false) if was_head => Ok(()),
        Ok(false) => Err(StoreError::NotAnIndex {
            file: path.into(),
            reason: "its creation was cut short, or its start was overwritten".to_owned(),
        }),
        Err(error) => Err(told(error)),
    }
}

/// Empties a file without sums that holds nothing, so that it can be made anew.
pub(super) fn empty_blank(path: &Path) -> Result<(), StoreError> {
    let told = |error| explain_io(error, "open", path);
    let file = fs::File::options().write(true).open(path).map_err(told)?;
    match file.try_lock() {
        Ok(()) => file.set_len(0).map_err(told),
        Err(fs::TryLockError::WouldBlock) => Err(StoreError::InUse { file: path.into() }),
        Err(fs::TryLockError::Error(error)) => Err(told(error)),
    }
}

/// Empties a file that never held anything; `false` for one that may have.
fn empty_unfinished(path: &Path) -> io::Result<bool> {
    let mut file = fs::File::options().read(true).write(true).open(path)?;
    // Another process may be about to create it: opening it says so.
    match file.try_lock() {
        Ok(()) => {}
        Err(fs::TryLockError::WouldBlock) => return Ok(true),
        Err(fs::TryLockError::Error(error)) => return Err(error),
    }
    let len = file.metadata()?.len();
    if len > NEW_FILE_BYTES || !len.is_multiple_of(sums::PAGE_BYTES as u64) {
        return Ok(false);
    }
    if starts(&mut file)?
        .iter()
        .any(|start| sums::has_engine(start))
    {
        return Ok(false);
    }
    let mut bytes = Vec::new();
    file.rewind()?;
    Read::take(&mut file, NEW_FILE_BYTES).read_to_end(&mut bytes)?;
    // But for the two places of the head.
    let mut pages = bytes.chunks(sums::PAGE_BYTES).enumerate();
    let is_zero = pages.all(|(page, bytes)| {
        let from = if page < 2 { SECTOR_BYTES } else { 0 };
        let rest = bytes.get(from..).unwrap_or_default();
        rest.iter().all(|byte| *byte == 0)
    });
    if !is_zero {
        return Ok(false);
    }
    tracing::warn!(
        "the creation of {} was cut short, it starts anew",
        path.display()
    );
    file.set_len(0)?;
    Ok(true)
}
