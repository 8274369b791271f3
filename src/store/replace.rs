//! One index file in the place of another: what the files beside it are called, and how none is lost.
//!
//! A file that is to take the index's place is built beside it, under a name that says that it is unfinished, and with
//! the owner and the mode of the one it replaces. Where the index is a symbolic link, all this happens where the link
//! leads, which is where there is room, and the link stays. A repaired file is renamed once it is complete: only that
//! name is ever taken for a finished one.

use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use super::error::{StoreError, explain_io};
use super::schema::SCHEMA_VERSION;

/// Most symbolic links that lead from one to the next; as many as Linux follows.
const LINKS_MAX: usize = 40;

/// The file that a path leads to, through symbolic links if it is one; that file need not be there.
///
/// # Errors
/// Links that lead in a circle.
pub(super) fn followed(path: &Path) -> Result<PathBuf, StoreError> {
    let mut file = path.to_path_buf();
    for _ in 0..LINKS_MAX {
        match (fs::read_link(&file), file.parent()) {
            (Ok(target), Some(folder)) => file = folder.join(target),
            (Ok(target), None) => file = target,
            (Err(_), _) => return Ok(file),
        }
    }
    let source = io::Error::other("its symbolic links lead in a circle");
    Err(explain_io(source, "open", path))
}

/// The name of a file beside another.
pub(super) fn beside(file: &Path, ending: &str) -> PathBuf {
    let mut name = OsString::from(file);
    name.push(".");
    name.push(ending);
    name.into()
}

/// Where a migration builds the file that takes the index's place.
pub(super) fn migration_place(file: &Path) -> PathBuf {
    beside(file, "migrating")
}

/// What the index is called after a migration from this format.
pub(super) fn migrated(file: &Path, version: u32) -> PathBuf {
    beside(file, &format!("format{version}"))
}

/// Where a repair builds the file that takes the index's place.
fn repair_place(file: &Path) -> PathBuf {
    beside(file, "repairing")
}

/// What that file is called from the moment on that it is complete.
fn repaired(file: &Path) -> PathBuf {
    beside(file, "repaired")
}

/// What the index is called after a repair.
fn damaged(file: &Path, number: u32) -> PathBuf {
    match number {
        1 => beside(file, "damaged"),
        number => beside(file, &format!("damaged{number}")),
    }
}

/// Begins the repair of an index: removes what earlier ones have left, and gives the path of a new file, empty, that
/// belongs to whom the index belongs. The file need not be the one that the path leads to: a symbolic link is followed.
///
/// # Errors
/// [`StoreError::InUse`] if another repair is at it; what the operating system says.
pub fn begin_repair(file: &Path) -> Result<PathBuf, StoreError> {
    let file = followed(file)?;
    let place = repair_place(&file);
    for left in [&place, &repaired(&file)] {
        remove_unless_in_use(left, &file)?;
    }
    create_like(&place, &file)?;
    Ok(place)
}

/// Removes what a repair has built, which came to nothing.
///
/// # Errors
/// What the operating system says.
pub fn give_up_repair(file: &Path) -> Result<(), StoreError> {
    remove(&repair_place(&followed(file)?))
}

/// Puts the file of [`begin_repair`], which must be complete and closed, in the place of the index file, and gives the
/// name under which that one is kept: `index.redb.damaged`, or with a number if there is one already.
///
/// # Errors
/// A file that cannot be synced or renamed; the index file then has its name still, or gets the new one when it is
/// opened.
pub fn replace_damaged(file: &Path) -> Result<PathBuf, StoreError> {
    let file = &followed(file)?;
    let new = repaired(file);
    sync(&repair_place(file))?;
    rename(&repair_place(file), &new)?;
    let mut number = 1;
    while damaged(file, number).exists() {
        number += 1;
    }
    let kept = damaged(file, number);
    swap(file, &new, &kept)?;
    Ok(kept)
}

/// Creates an empty file with the owner and the mode of another.
///
/// # Errors
/// There is one already; this user may not give a file to that owner.
pub(super) fn create_like(new: &Path, like: &Path) -> Result<(), StoreError> {
    let mut options = File::options();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let file = options
        .open(new)
        .map_err(|error| explain_io(error, "create", new))?;
    take_after(&file, like).map_err(|error| {
        let _ = fs::remove_file(new);
        match error.kind() {
            io::ErrorKind::PermissionDenied => StoreError::PermissionDenied {
                action: "make a new index file with the owner of",
                path: like.into(),
            },
            _ => explain_io(error, "create", new),
        }
    })
}

/// Gives a file the owner and the mode of another.
fn take_after(file: &File, like: &Path) -> io::Result<()> {
    let like = fs::metadata(like)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::{MetadataExt, fchown};
        let have = file.metadata()?;
        if (have.uid(), have.gid()) != (like.uid(), like.gid()) {
            fchown(file, Some(like.uid()), Some(like.gid()))?;
        }
    }
    file.set_permissions(like.permissions())
}

/// Gives `new` the name `file`, and what had that name until now the name `kept`.
///
/// Where the file system has hard links, there is a file of the name `file` at every moment, so that whoever opens it
/// meanwhile gets the old one or the new one.
///
/// # Errors
/// One of the names cannot be given. `file` is the old one then, or missing, and [`finish_swap`] finds what to do.
pub(super) fn swap(file: &Path, new: &Path, kept: &Path) -> Result<(), StoreError> {
    // One that a swap has left that was cut short, of the same file.
    remove(kept)?;
    let is_linked = fs::hard_link(file, kept).is_ok();
    if !is_linked {
        rename(file, kept)?;
    }
    sync_folder(file);
    if let Err(error) = rename(new, file) {
        match is_linked {
            true => drop(fs::remove_file(kept)),
            // Another process may have given the name to one of them already.
            false if file.exists() => {}
            false => drop(fs::rename(kept, file)),
        }
        return Err(error);
    }
    sync_folder(file);
    Ok(())
}

/// Ends a swap that was cut short while there was no file of the index's name. A repaired file takes that name, since it
/// is complete. A migrated one need not be, so the old file gets its name back, and the migration goes on.
///
/// # Errors
/// The file cannot be renamed.
pub(super) fn finish_swap(file: &Path) -> Result<(), StoreError> {
    if file.exists() {
        return Ok(());
    }
    let old = (1..SCHEMA_VERSION).rev().map(|from| migrated(file, from));
    let found = std::iter::once(repaired(file))
        .chain(old)
        .find(|found| found.exists());
    if let Some(found) = found {
        tracing::warn!(
            "there is no {}: {} takes its place, since spindex was stopped before it could",
            file.display(),
            found.display()
        );
        rename(&found, file)?;
        sync_folder(file);
    }
    Ok(())
}

/// Removes what a migration has left, now that the new file was opened; what cannot be removed is only named. Names what
/// a repair has left.
pub(super) fn clean_up(file: &Path) {
    let old = (1..SCHEMA_VERSION).map(|from| migrated(file, from));
    for left in old.chain([migration_place(file)]) {
        if !left.exists() {
            continue;
        }
        match fs::remove_file(&left) {
            Ok(()) => tracing::info!("removed {}, of the migration", left.display()),
            Err(error) => tracing::warn!(
                "{} is not needed any more and could not be removed ({error})",
                left.display()
            ),
        }
    }
    for left in [repair_place(file), repaired(file)] {
        if left.exists() && !is_in_use(&left) {
            tracing::warn!(
                "{} is of a repair that was cut short, and is not used: `spindex check --repair` begins again, or delete it",
                left.display()
            );
        }
    }
}

fn is_in_use(file: &Path) -> bool {
    File::open(file).is_ok_and(|file| matches!(file.try_lock(), Err(TryLockError::WouldBlock)))
}

fn remove_unless_in_use(left: &Path, file: &Path) -> Result<(), StoreError> {
    match is_in_use(left) {
        true => Err(StoreError::InUse { file: file.into() }),
        false => remove(left),
    }
}

/// Removes a file if it is there.
pub(super) fn remove(file: &Path) -> Result<(), StoreError> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(explain_io(error, "remove", file))
        }
        _ => Ok(()),
    }
}

/// Makes what was written to a file durable.
pub(super) fn sync(file: &Path) -> Result<(), StoreError> {
    File::open(file)
        .and_then(|file| file.sync_all())
        .map_err(|error| explain_io(error, "write", file))
}

fn rename(from: &Path, to: &Path) -> Result<(), StoreError> {
    fs::rename(from, to).map_err(|error| explain_io(error, "rename", from))
}

/// Makes renames durable where folders can be synced; where they cannot, either state after a crash is a good one.
fn sync_folder(file: &Path) {
    let folder = match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    if let Ok(folder) = File::open(folder) {
        let _ = folder.sync_all();
    }
}
