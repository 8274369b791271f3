//! What the name of an oracle stands for: a server, or exported files below an address, in a folder or in a bucket.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use bitcoin::Network;
use reqwest::Url;

use super::config::usage;
use crate::client::{HttpOracle, HttpSettings, NativeOracle};
use crate::exported::Place;

/// What a name stands for; nothing has been asked of it yet.
pub(super) enum Named {
    /// A server of whatever.
    Http(Arc<HttpOracle>),
    /// Files.
    Files(Place),
}

impl Named {
    /// What a flag names: a URL, a folder, or a bucket.
    ///
    /// # Errors
    /// Wrong usage: neither of these, or a bucket that a proxy would be passed by for.
    pub(super) fn new(flag: &str, name: &str, settings: &HttpSettings) -> Result<Self> {
        let name = name.trim();
        if let Some(folder) = folder(flag, name)? {
            return Ok(Self::Files(Place::Folder(folder)));
        }
        if let Some(("s3" | "gs" | "az", _)) = name.split_once("://") {
            if settings.proxy.is_some() {
                return Err(usage!(
                    "{flag}: buckets are not asked through --proxy: name the proxy in the environment (https_proxy), or scan without"
                ));
            }
            let place = Place::named(name).map_err(|error| usage!("{flag}: {error}"))?;
            return Ok(Self::Files(place));
        }
        let http = HttpOracle::new(name, settings.clone()).map_err(|error| {
            usage!("{flag}: {error} (or a folder of exported files, or s3://, gs:// or az:// with a bucket)")
        })?;
        Ok(Self::Http(Arc::new(http)))
    }

    /// The native protocol over it, or its files.
    pub(super) fn native(self, network: Network) -> Arc<NativeOracle> {
        Arc::new(match self {
            Self::Http(http) => NativeOracle::at(http, network),
            Self::Files(place) => NativeOracle::files(place, network),
        })
    }
}

/// The folder of that name, if it is one's.
fn folder(flag: &str, name: &str) -> Result<Option<PathBuf>> {
    if name.starts_with("file://") {
        let path = Url::parse(name)
            .ok()
            .and_then(|url| url.to_file_path().ok());
        let path = path.ok_or_else(|| usage!("{flag}: {name} names no folder of this machine"))?;
        return Ok(Some(path));
    }
    let path = Path::new(name);
    let is_folder = path.is_absolute() || name.starts_with('.') || path.is_dir();
    Ok((is_folder && !name.contains("://")).then(|| path.to_owned()))
}

/// The first of these, with the others behind it in their order as far as that goes: nobody is behind a server.
pub(super) fn one_behind_the_other(
    oracles: impl DoubleEndedIterator<Item = Arc<NativeOracle>>,
) -> Option<Arc<NativeOracle>> {
    oracles.rev().fold(None, |behind, oracle| match behind {
        Some(behind) => Some(Arc::new(oracle.before(behind))),
        None => Some(oracle),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(name: &str) -> Option<String> {
        match Named::new("--oracle", name, &HttpSettings::default()).unwrap() {
            Named::Http(_) => None,
            Named::Files(place) => Some(place.to_string()),
        }
    }

    #[test]
    fn folders_and_buckets_are_told_from_servers() {
        assert_eq!(place("/no/such/folder").as_deref(), Some("/no/such/folder"));
        assert_eq!(place("./here").as_deref(), Some("./here"));
        assert_eq!(place("src").as_deref(), Some("src"));
        assert_eq!(place("file:///a%20b/c").as_deref(), Some("/a b/c"));
        assert_eq!(place("http://127.0.0.1:8000/some/prefix"), None);
        assert_eq!(
            place("s3://bucket/of/files/").as_deref(),
            Some("s3://bucket/of/files")
        );
        for wrong in [
            "127.0.0.1:8000",
            "nowhere",
            "ftp://h",
            "s3://",
            "file://h/x",
        ] {
            let error = Named::new("--oracle", wrong, &HttpSettings::default());
            let error = error.map(|_| ()).unwrap_err().to_string();
            assert!(error.starts_with("--oracle: "), "{wrong}: {error}");
        }
    }

    #[test]
    fn a_bucket_is_not_asked_past_a_proxy() {
        let settings = HttpSettings {
            proxy: Some("socks5://127.0.0.1:9050".to_owned()),
            ..HttpSettings::default()
        };
        assert!(Named::new("--oracle", "s3://bucket", &settings).is_err());
        assert!(Named::new("--oracle", "src", &settings).is_ok());
    }
}
