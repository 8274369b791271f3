//! What a writer asks of a place: files that appear as a whole, and a word to other writers.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::Path;

use crate::exported::{Place, PlaceError, blocking, failed, routes};

/// What begins the name of a file that is being written.
const UNFINISHED: &str = ".writing-";

/// The right to write to a place.
pub(super) struct Lock {
    _file: Option<File>,
}

impl Place {
    /// Keeps others from writing to it, as far as the place can: a bucket cannot.
    pub(super) async fn lock(&self) -> Result<Lock, PlaceError> {
        match self {
            Self::Folder(root) => {
                let (root, name) = (routes(root), self.to_string());
                blocking(move || lock(&root, name)).await
            }
            #[cfg(feature = "object-stores")]
            Self::Bucket(_) => Ok(Lock { _file: None }),
        }
    }

    /// Writes files, each as a whole or not at all; those of one folder cost the least together.
    pub(super) async fn write(&self, files: Vec<(String, Vec<u8>)>) -> Result<(), PlaceError> {
        match self {
            Self::Folder(root) => {
                let root = routes(root);
                blocking(move || write(&root, &files)).await
            }
            #[cfg(feature = "object-stores")]
            Self::Bucket(bucket) => bucket.write(files).await,
        }
    }

    /// Names and lengths of all files in a folder and those below it.
    pub(super) async fn lengths(&self, folder: &str) -> Result<BTreeMap<String, u64>, PlaceError> {
        match self {
            Self::Folder(root) => {
                let (root, folder) = (routes(root), folder.to_owned());
                blocking(move || {
                    let mut lengths = BTreeMap::new();
                    collect_lengths(&root, folder, &mut lengths)?;
                    Ok(lengths)
                })
                .await
            }
            #[cfg(feature = "object-stores")]
            Self::Bucket(bucket) => bucket.lengths(folder).await,
        }
    }

    /// Removes a file, if it is there.
    pub(super) async fn remove(&self, name: &str) -> Result<(), PlaceError> {
        match self {
            Self::Folder(root) => {
                let path = routes(root).join(name);
                blocking(move || match fs::remove_file(&path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        Err(failed("remove", &path)(error))
                    }
                    _ => Ok(()),
                })
                .await
            }
            #[cfg(feature = "object-stores")]
            Self::Bucket(bucket) => bucket.remove(name).await,
        }
    }
}

fn lock(root: &Path, name: String) -> Result<Lock, PlaceError> {
    fs::create_dir_all(root).map_err(failed("create", root))?;
    let path = root.join(".lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(failed("open", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(Lock { _file: Some(file) }),
        Err(TryLockError::WouldBlock) => Err(PlaceError::InUse(name)),
        Err(TryLockError::Error(error)) => Err(failed("lock", &path)(error)),
    }
}

fn write(root: &Path, files: &[(String, Vec<u8>)]) -> Result<(), PlaceError> {
    let mut folders = Vec::new();
    for (name, bytes) in files {
        let path = root.join(name);
        let (Some(folder), Some(own_name)) = (path.parent(), path.file_name()) else {
            continue;
        };
        if !folders.iter().any(|known| known == folder) {
            create_folder(folder)?;
            folders.push(folder.to_path_buf());
        }
        let mut unfinished = OsString::from(UNFINISHED);
        unfinished.push(own_name);
        let unfinished = folder.join(unfinished);
        let written = File::create(&unfinished).and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        });
        written.map_err(failed("write", &unfinished))?;
        fs::rename(&unfinished, &path).map_err(failed("rename", &unfinished))?;
    }
    folders.iter().try_for_each(|folder| sync_folder(folder))
}

/// Creates a folder that stays, with those above it.
fn create_folder(folder: &Path) -> Result<(), PlaceError> {
    if folder.is_dir() {
        return Ok(());
    }
    if let Some(above) = folder.parent() {
        create_folder(above)?;
    }
    match fs::create_dir(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(failed("create", folder)(error));
        }
        _ => {}
    }
    folder.parent().map_or(Ok(()), sync_folder)
}

#[cfg(unix)]
fn sync_folder(folder: &Path) -> Result<(), PlaceError> {
    let folder = match folder.as_os_str().is_empty() {
        true => Path::new("."),
        false => folder,
    };
    File::open(folder)
        .and_then(|file| file.sync_all())
        .map_err(failed("sync", folder))
}

/// Elsewhere folders cannot be opened.
#[cfg(not(unix))]
fn sync_folder(_: &Path) -> Result<(), PlaceError> {
    Ok(())
}

fn collect_lengths(
    root: &Path,
    folder: String,
    lengths: &mut BTreeMap<String, u64>,
) -> Result<(), PlaceError> {
    let path = root.join(&folder);
    let entries = match fs::read_dir(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(failed("read", &path))?,
    };
    for entry in entries {
        let entry = entry.map_err(failed("read", &path))?;
        // Ours are ASCII.
        let Some(name) = entry.file_name().to_str().map(str::to_owned) else {
            continue;
        };
        let name = format!("{folder}/{name}");
        // Of what a link leads to.
        let metadata = fs::metadata(entry.path());
        match metadata {
            Ok(metadata) if metadata.is_dir() => collect_lengths(root, name, lengths)?,
            Ok(metadata) => {
                lengths.insert(name, metadata.len());
            }
            // Gone meanwhile, or a link to nowhere: not there.
            Err(_) => {}
        }
    }
    Ok(())
}
