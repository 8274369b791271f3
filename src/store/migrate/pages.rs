//! Files without sums whose tables this format has too: every page is copied as it is, with its sum.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::time::Instant;

use redb::{Database, StorageBackend};

use super::PROGRESS_INTERVAL;
use crate::store::StoreOptions;
use crate::store::error::{Fault, StoreError, explain_io};
use crate::store::replace::{create_like, remove};
use crate::store::sums::{PAGE_BYTES, Summed};

/// Bytes that are read at once.
const READ_BYTES: usize = 1 << 20;

/// Copies an open file's pages into a new one beside it, once the engine has found all of them to be what it wrote.
///
/// The head of the new file is written last, so that a copy that was cut short is none; it starts again.
pub(super) fn copy(
    file: &Path,
    old: &mut Database,
    beside: &Path,
    options: &StoreOptions,
) -> Result<(), StoreError> {
    let told = |fault: Fault| fault.in_file(file);
    tracing::info!("checking all pages of {}", file.display());
    old.check_integrity().map_err(|error| told(error.into()))?;
    let in_new = |fault: Fault| fault.in_file(beside);
    remove(beside)?;
    create_like(beside, file)?;
    let new = Summed::file(beside).map_err(|error| in_new(error.into()))?;
    let copied = copy_pages(file, &new);
    let closed = new.close();
    copied.map_err(|(error, of_old)| match of_old {
        true => explain_io(error, "read", file),
        false => explain_io(error, "write", beside),
    })?;
    closed.map_err(|error| explain_io(error, "write", beside))?;
    drop(new);
    super::upgrade::upgrade(beside, options)
}

/// An error, and whether the old file has it.
type CopyError = (io::Error, bool);

fn copy_pages(file: &Path, new: &Summed<impl StorageBackend>) -> Result<(), CopyError> {
    let of_old = |error: io::Error| (error, true);
    let of_new = |error: io::Error| (error, false);
    let mut old = File::open(file).map_err(of_old)?;
    let len = old.metadata().map_err(of_old)?.len();
    new.set_len(len).map_err(of_new)?;
    let mut head = [0; PAGE_BYTES];
    old.read_exact(&mut head).map_err(of_old)?;

    let mut buffer = vec![0; READ_BYTES];
    let mut data: u64 = 0;
    let page = PAGE_BYTES as u64;
    let mut left = (len / page).saturating_sub(1);
    let mut last_line = Instant::now();
    while left > 0 {
        let pages = left.min((READ_BYTES / PAGE_BYTES) as u64);
        let Some(bytes) = buffer.get_mut(..pages as usize * PAGE_BYTES) else {
            return Err(of_new(io::ErrorKind::InvalidInput.into()));
        };
        old.read_exact(bytes).map_err(of_old)?;
        new.fill(data, bytes).map_err(of_new)?;
        data += pages;
        left -= pages;
        if last_line.elapsed() >= PROGRESS_INTERVAL {
            last_line = Instant::now();
            tracing::info!(
                "migrating the index: {} of {} MB",
                data * page / 1_000_000,
                len / 1_000_000
            );
        }
    }
    new.sync_data().map_err(of_new)?;
    new.write_head(&head).map_err(of_new)?;
    new.sync_data().map_err(of_new)
}
