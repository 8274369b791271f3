//! Files and folders that are their owner's alone: wallets, and what tells what a wallet owns.
//!
//! Nothing here follows a symbolic link, takes over a file that lies where a new one is to be, or uses one that other
//! users can read or write: what a name stands for is looked at once it is open. A file is changed under a lock, by
//! writing a new one beside it under a random name and renaming that over it, so that whoever reads it, and whatever a
//! full disk or a crash leaves, is the old content or the new one as a whole.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

/// A file is not read beyond this: far more than a wallet with every label that was ever advised.
const MOST_BYTES: u64 = 16 << 20;

/// Why a private file could not be used. Each text names the file and, where there is one, the cure.
#[derive(Debug, thiserror::Error)]
pub enum PrivateFileError {
    /// It is a symbolic link, which somebody else may have put there.
    #[error("{} is a symbolic link, which is not followed: name the file itself", .path.display())]
    Link {
        /// The link.
        path: PathBuf,
    },
    /// It is a folder, a device or a pipe.
    #[error("{} is no regular file", .path.display())]
    NotAFile {
        /// What it is not.
        path: PathBuf,
    },
    /// Others can read or change it.
    #[error("{path} is open to other users of this machine (mode {mode:03o}): `chmod 600 {path}` takes that away", path = .path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It belongs to somebody else.
    #[error("{} belongs to another user of this machine (uid {owner}): run as that user, or name another file", .path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Its owner.
        owner: u32,
    },
    /// There is a file where a new one was to be made; it stays as it is.
    #[error("{} exists already and is not overwritten: name another file", .path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// It is too large to be what it should be.
    #[error("{} has {bytes} bytes, more than a file of its kind ever has", .path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// What was written and synced reads back differently.
    #[error("{} does not hold what was written to it: check the disk, and do not use what it was to keep", .path.display())]
    ReadsBackDifferently {
        /// The file.
        path: PathBuf,
    },
    /// The operating system refuses.
    #[error("cannot {action} {}: {source}", .path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// To which file or folder.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

use PrivateFileError::{
    Exists, Exposed, Foreign, Io, Link, NotAFile, ReadsBackDifferently, TooLarge,
};

type Result<T> = std::result::Result<T, PrivateFileError>;

/// The content of a private file, wiped when dropped.
///
/// # Errors
/// A file that others can read or change, a link, no file at all, or what the operating system says.
pub fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>> {
    let file = open(path, OpenOptions::new().read(true), "read")?;
    content(path, &file)
}

/// Makes a new file with this content, on the disk when this returns and read back.
///
/// # Errors
/// [`PrivateFileError::Exists`] if anything has that name, which stays as it is; else what the operating system says,
/// and then no file is left.
pub fn create(path: &Path, content: &[u8]) -> Result<()> {
    let file = create_new(path)?;
    fill(path, &file, content)
        .and_then(|()| sync_folder(path))
        .and_then(|()| read_back(path, content))
        .inspect_err(|_| {
            // What matters is why it failed. Somebody may have put another file in its place by now.
            if matches!(is_at(&file, path), Ok(true)) {
                let _ = fs::remove_file(path);
            }
        })
}

/// Opens a file for reading and writing in place, as storage engines do, or makes an empty one.
///
/// # Errors
/// A file that others can read or change, a link, no regular file, or what the operating system says.
pub fn open_or_create(path: &Path) -> Result<File> {
    // A file may come or go between the two; if that happens again and again, the last error says so.
    let mut tries = 0..3;
    loop {
        match open(path, OpenOptions::new().read(true).write(true), "open") {
            Err(Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            opened => return opened,
        }
        match create_new(path) {
            Err(Exists { .. }) if tries.next().is_some() => {}
            created => {
                let file = created?;
                sync_folder(path)?;
                return Ok(file);
            }
        }
    }
}

/// Takes other users' access to a file away; whether they had any.
///
/// # Errors
/// A link, no regular file, another user's file, or what the operating system says.
pub fn protect(path: &Path) -> Result<bool> {
    let file = open_any(path, OpenOptions::new().read(true), "open")?;
    match check(path, &file) {
        Err(Exposed { .. }) => {}
        checked => return checked.map(|()| false),
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        file.set_permissions(fs::Permissions::from_mode(0o600))
            .and_then(|()| file.sync_all())
            .map_err(failed("change the permissions of", path))?;
        // Some file systems have no permissions, and take the change without a word.
        check(path, &file)?;
    }
    Ok(true)
}

/// A private file that no other process changes meanwhile, as long as it goes through here.
pub struct Locked {
    path: PathBuf,
    file: File,
}

impl Locked {
    /// Waits until nobody else changes the file.
    ///
    /// # Errors
    /// As [`read`], and a file that its owner has protected against changes.
    pub fn wait_for(path: &Path) -> Result<Self> {
        loop {
            let file = open(path, OpenOptions::new().read(true).write(true), "open")?;
            file.lock().map_err(failed("lock", path))?;
            // Whoever had the lock before may have put another file in its place.
            if is_at(&file, path)? {
                let path = path.to_owned();
                return Ok(Self { path, file });
            }
        }
    }

    /// Its content, wiped when dropped.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn read(&self) -> Result<Zeroizing<Vec<u8>>> {
        content(&self.path, &self.file)
    }

    /// Puts a file with this content in its place, on the disk when this returns and read back.
    ///
    /// # Errors
    /// What the operating system says; the file then is as it was, unless it was the reading back that failed.
    pub fn replace(self, content: &[u8]) -> Result<()> {
        let path = &self.path;
        let fresh = path.with_file_name(format!(".spindex-{}.new", random_name()));
        let file = create_new(&fresh)?;
        // Whoever opens the new file from the renaming on waits until it is read back.
        file.lock()
            .map_err(failed("lock", &fresh))
            .and_then(|()| fill(&fresh, &file, content))
            .and_then(|()| fs::rename(&fresh, path).map_err(failed("replace", path)))
            .inspect_err(|_| {
                let _ = fs::remove_file(&fresh);
            })?;
        sync_folder(path)?;
        read_back(path, content)
    }
}

/// A folder that nobody else can look into, gone with what is in it when dropped.
pub struct PrivateFolder {
    path: PathBuf,
}

impl PrivateFolder {
    /// Makes a folder with a name of its own in `parent`.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn create(parent: &Path, prefix: &str) -> Result<Self> {
        let path = parent.join(format!("{prefix}-{}", random_name()));
        let mut builder = DirBuilder::new();
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(&path).map_err(failed("create", &path))?;
        Ok(Self { path })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for PrivateFolder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::warn!("cannot remove {}: {error}", self.path.display());
        }
    }
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PrivateFileError {
    move |source| Io {
        action,
        path: path.to_owned(),
        source,
    }
}

/// Nobody guesses it, and no two processes draw the same.
fn random_name() -> String {
    format!("{:016x}", secp256k1::rand::random::<u64>())
}

/// Opens what the name itself stands for, and makes sure that it is the caller's alone.
fn open(path: &Path, options: &mut OpenOptions, action: &'static str) -> Result<File> {
    let file = open_any(path, options, action)?;
    check(path, &file)?;
    Ok(file)
}

/// Opens what the name itself stands for, whoever may have access to it.
fn open_any(path: &Path, options: &mut OpenOptions, action: &'static str) -> Result<File> {
    #[cfg(unix)]
    {
        use rustix::fs::OFlags;
        // A pipe would otherwise be waited for.
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits();
        std::os::unix::fs::OpenOptionsExt::custom_flags(options, flags.cast_signed());
    }
    options.open(path).map_err(|error| match is_link(path) {
        true => Link { path: path.into() },
        false => failed(action, path)(error),
    })
}

fn is_link(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_symlink())
}

/// Makes a file where there is nothing, not even a link.
fn create_new(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
        .open(path)
        .map_err(|error| match (error.kind(), is_link(path)) {
            (io::ErrorKind::AlreadyExists, true) => Link { path: path.into() },
            (io::ErrorKind::AlreadyExists, false) => Exists { path: path.into() },
            _ => failed("create", path)(error),
        })
}

/// Whether an open file is a regular one and its owner's, who is the caller, alone.
fn check(path: &Path, file: &File) -> Result<()> {
    let metadata = file.metadata().map_err(failed("look at", path))?;
    if !metadata.is_file() {
        return Err(NotAFile { path: path.into() });
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::{MetadataExt, PermissionsExt};
        let owner = metadata.uid();
        if owner != rustix::process::geteuid().as_raw() {
            let path = path.into();
            return Err(Foreign { path, owner });
        }
        let mode = metadata.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            let path = path.into();
            return Err(Exposed { path, mode });
        }
    }
    Ok(())
}

/// Whether the name still stands for the open file.
fn is_at(file: &File, path: &Path) -> Result<bool> {
    let open = file.metadata().map_err(failed("look at", path))?;
    let named = fs::symlink_metadata(path).map_err(failed("look at", path))?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        Ok((open.dev(), open.ino()) == (named.dev(), named.ino()))
    }
    #[cfg(not(unix))]
    Ok(open.len() == named.len() && open.modified().ok() == named.modified().ok())
}

fn content(path: &Path, mut file: &File) -> Result<Zeroizing<Vec<u8>>> {
    let bytes = file.metadata().map_err(failed("look at", path))?.len();
    if bytes > MOST_BYTES {
        let path = path.into();
        return Err(TooLarge { path, bytes });
    }
    // The exact size: growing would leave copies of what may be secret. The file is never written in place.
    let mut content = Zeroizing::new(vec![0; bytes as usize]);
    file.rewind()
        .and_then(|()| file.read_exact(&mut content))
        .map_err(failed("read", path))?;
    Ok(content)
}

fn fill(path: &Path, mut file: &File, content: &[u8]) -> Result<()> {
    let bytes = content.len() as u64;
    if bytes > MOST_BYTES {
        // It could not be read again.
        let path = path.into();
        return Err(TooLarge { path, bytes });
    }
    file.write_all(content)
        .and_then(|()| file.sync_all())
        .map_err(failed("write", path))
}

/// Makes a change of names durable.
fn sync_folder(path: &Path) -> Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    match cfg!(unix) {
        true => File::open(folder)
            .and_then(|folder| folder.sync_all())
            .map_err(failed("sync the folder", folder)),
        // Elsewhere folders cannot be opened.
        false => Ok(()),
    }
}

fn read_back(path: &Path, written: &[u8]) -> Result<()> {
    match read(path)?.as_slice() == written {
        true => Ok(()),
        false => Err(ReadsBackDifferently { path: path.into() }),
    }
}

#[cfg(test)]
mod tests;
