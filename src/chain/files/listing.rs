//! What is called `blk*.dat` in the folder, and opening it without hanging.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use super::folder::Folder;
use super::state::Seen;
use crate::chain::ChainError;

/// Why a `blk` file is not read. Each text says where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Unread {
    /// A link to nowhere.
    Dangling(String),
    /// A folder, a pipe: whatever it is, the node did not write it.
    NoFile(String),
    /// It is there, and the system refuses.
    Failed(ChainError),
}

impl Unread {
    pub(super) fn text(&self) -> String {
        match self {
            Self::Dangling(text) | Self::NoFile(text) => text.clone(),
            Self::Failed(error) => error.to_string(),
        }
    }
}

/// The `blk` files of a folder.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// Number, length and time of last change of each, ascending.
    pub(super) files: Vec<(u32, Seen)>,
    /// What only has the name of one.
    pub(super) unread: BTreeMap<u32, Unread>,
    /// The highest number of a `rev` file.
    pub(super) newest_undo: Option<u32>,
}

/// The number in a file's name.
fn number(name: Option<&str>, kind: &str) -> Option<u32> {
    let digits = name?.strip_prefix(kind)?.strip_suffix(".dat")?;
    let number: u32 = digits.parse().ok()?;
    (format!("{number:05}") == digits).then_some(number)
}

/// Opens a file, and nothing else: a pipe would be waited for.
pub(super) fn open_file(path: &Path) -> io::Result<File> {
    match fs::metadata(path)?.is_file() {
        true => File::open(path),
        false => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is no regular file",
        )),
    }
}

impl Folder {
    /// Looks for the `blk` files.
    ///
    /// # Errors
    /// The folder cannot be read, or has none.
    pub(super) fn list(&self) -> Result<Listing, ChainError> {
        let unreadable = |e| self.unreadable(self.path(), &e);
        let mut listing = Listing::default();
        for entry in fs::read_dir(self.path()).map_err(unreadable)? {
            let name = entry.map_err(unreadable)?.file_name();
            listing.newest_undo = listing.newest_undo.max(number(name.to_str(), "rev"));
            let Some(number) = number(name.to_str(), "blk") else {
                continue;
            };
            let path = self.path().join(name);
            // Follows links. A file may be pruned between the two calls.
            match fs::metadata(&path) {
                Ok(meta) if meta.is_file() => {
                    listing
                        .files
                        .push((number, (meta.len(), meta.modified().ok())));
                }
                Ok(_) => {
                    let text = format!("{} is no regular file", path.display());
                    listing.unread.insert(number, Unread::NoFile(text));
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    if fs::symlink_metadata(&path).is_ok() {
                        let text = format!("{} is a link to nowhere", path.display());
                        listing.unread.insert(number, Unread::Dangling(text));
                    }
                }
                Err(e) => {
                    let failed = Unread::Failed(self.unreadable(&path, &e));
                    listing.unread.insert(number, failed);
                }
            }
        }
        listing.files.sort_unstable_by_key(|(number, _)| *number);
        if listing.files.is_empty() {
            return Err(self.no_files(&listing));
        }
        Ok(listing)
    }

    fn no_files(&self, listing: &Listing) -> ChainError {
        let also = listing.unread.values().next();
        let also = also.map_or_else(String::new, |unread| format!(" ({})", unread.text()));
        self.refused(format!(
            "there is no file blk*.dat that can be read in {}{also}; is it the folder \"blocks\" in the node's data directory?",
            self.path().display()
        ))
    }

    pub(super) fn block_path(&self, number: u32) -> PathBuf {
        self.path().join(format!("blk{number:05}.dat"))
    }

    pub(super) fn undo_path(&self, number: u32) -> PathBuf {
        self.path().join(format!("rev{number:05}.dat"))
    }

    /// Why a file or folder cannot be read, and what to do.
    pub(super) fn unreadable(&self, path: &Path, error: &io::Error) -> ChainError {
        let text = |cure| format!("cannot read {} ({error}); {cure}", path.display());
        match error.kind() {
            io::ErrorKind::PermissionDenied => self.refused(text(
                "run spindex as the node's user, or let a group that both belong to read the folder and its files",
            )),
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => self.refused(text(
                "is it the folder \"blocks\" in the node's data directory?",
            )),
            io::ErrorKind::InvalidInput | io::ErrorKind::IsADirectory => {
                self.refused(text("move it away, and restore the node's file"))
            }
            // Too many open files, a disk that does not answer: trying again may help.
            _ => ChainError::Unreachable(text(
                "is the disk in order, and are few enough files open (ulimit -n)?",
            )),
        }
    }

    /// What a person has to mend; but once the folder was found to be good, it may mend itself.
    pub(super) fn refused(&self, text: String) -> ChainError {
        match self.checked.load(Ordering::Relaxed) {
            true => ChainError::Unreachable(text),
            false => ChainError::Setup(text),
        }
    }
}
