//! Where exported files are: a folder, or a bucket of an object store.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

#[cfg(feature = "object-stores")]
use super::bucket::Bucket;
use crate::wire::native::PREFIX;

/// A place for exported files, which have names relative to the folder of the routes ([`PREFIX`]) in it.
#[derive(Debug)]
pub enum Place {
    /// A folder.
    Folder(PathBuf),
    /// A bucket, or what begins with a prefix in it.
    #[cfg(feature = "object-stores")]
    Bucket(Bucket),
}

/// A place that cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// A folder or file.
    #[error("cannot {what} {}", path.display())]
    File {
        /// What was to be done.
        what: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Another export is writing to it.
    #[error("another export is writing to {0}")]
    InUse(String),
    /// An address of an object store that is none, or of a kind that this program does not know.
    #[error("{0}")]
    Address(String),
    /// An object store.
    #[cfg(feature = "object-stores")]
    #[error("cannot {what} {name}")]
    Object {
        /// What was to be done.
        what: &'static str,
        /// With what.
        name: String,
        /// Why not. The addresses in it have no credentials.
        source: object_store::Error,
    },
}

pub(crate) fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PlaceError {
    let path = path.to_path_buf();
    move |source| PlaceError::File { what, path, source }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(path) => path.display().fmt(f),
            #[cfg(feature = "object-stores")]
            Self::Bucket(bucket) => bucket.fmt(f),
        }
    }
}

impl Place {
    /// The place of that name: `s3://`, `gs://` or `az://` with a bucket and, if wanted, a path in it; or else a folder. How to get
    /// into a bucket is taken from the environment, by the variables that the tools of its provider use.
    ///
    /// # Errors
    /// [`PlaceError::Address`] for another scheme or a bucket that cannot be named so.
    pub fn named(name: &str) -> Result<Self, PlaceError> {
        match name.split_once("://") {
            None => Ok(Self::Folder(PathBuf::from(name))),
            #[cfg(feature = "object-stores")]
            Some(("s3" | "gs" | "az", _)) => Bucket::named(name).map(Self::Bucket),
            Some((scheme, _)) => Err(PlaceError::Address(format!(
                "no place for files begins with {scheme}://; name a folder{}",
                match cfg!(feature = "object-stores") {
                    true => ", or s3://, gs:// or az:// with a bucket",
                    false => " (this program was built without object stores)",
                }
            ))),
        }
    }

    /// A file, `None` if it is not there.
    pub(crate) async fn read(&self, name: &str) -> Result<Option<Vec<u8>>, PlaceError> {
        self.read_up_to(name, u64::MAX).await
    }

    /// A file, `None` if it is not there. Of one that is longer than that, as much and a byte more.
    pub(crate) async fn read_up_to(
        &self,
        name: &str,
        most: u64,
    ) -> Result<Option<Vec<u8>>, PlaceError> {
        match self {
            Self::Folder(root) => {
                let path = routes(root).join(name);
                blocking(move || {
                    let mut bytes = Vec::new();
                    let read = File::open(&path)
                        .and_then(|file| file.take(most.saturating_add(1)).read_to_end(&mut bytes));
                    match read {
                        Ok(_) => Ok(Some(bytes)),
                        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                        Err(error) => Err(failed("read", &path)(error)),
                    }
                })
                .await
            }
            #[cfg(feature = "object-stores")]
            Self::Bucket(bucket) => bucket.read(name, most).await,
        }
    }

    /// The whole name of a file.
    #[cfg(feature = "client")]
    pub(crate) fn full_name(&self, name: &str) -> String {
        match self {
            Self::Folder(root) => routes(root).join(name).display().to_string(),
            #[cfg(feature = "object-stores")]
            Self::Bucket(bucket) => format!("{bucket}{PREFIX}/{name}"),
        }
    }
}

/// The folder of the routes.
pub(crate) fn routes(root: &Path) -> PathBuf {
    root.join(&PREFIX[1..])
}

pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, PlaceError> + Send + 'static,
) -> Result<T, PlaceError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| {
        Err(PlaceError::File {
            what: "go on with",
            path: PathBuf::new(),
            source: io::Error::other(error),
        })
    })
}
