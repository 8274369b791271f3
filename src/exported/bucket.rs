//! A bucket of an object store.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use futures::TryStreamExt;
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt};

use super::place::PlaceError;
use crate::wire::native::PREFIX;

/// A bucket, or what begins with a prefix in it. How to get into it comes from the environment, and stays in the client.
pub struct Bucket {
    /// As it was named; no secrets are in it.
    name: String,
    client: Arc<dyn ObjectStore>,
    /// The folder of the routes.
    folder: Path,
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Bucket").field(&self.name).finish()
    }
}

impl Bucket {
    pub(super) fn named(name: &str) -> Result<Self, PlaceError> {
        // Of no other use than by its name, so nothing is lost if there is one.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let wrong = |what: &dyn fmt::Display| PlaceError::Address(format!("{name}: {what}"));
        let (scheme, rest) = name.split_once("://").unwrap_or_default();
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.is_empty() || bucket.contains(['@', '?', '#']) {
            return Err(PlaceError::Address(format!(
                "{scheme}:// is followed by a bucket and, if wanted, a path in it; how to get into the bucket is taken from the environment"
            )));
        }
        let client: Result<Arc<dyn ObjectStore>, Error> = match scheme {
            "s3" => AmazonS3Builder::from_env()
                .with_bucket_name(bucket)
                .build()
                .map(|client| Arc::new(client) as _),
            "gs" => GoogleCloudStorageBuilder::from_env()
                .with_bucket_name(bucket)
                .build()
                .map(|client| Arc::new(client) as _),
            _ => MicrosoftAzureBuilder::from_env()
                .with_container_name(bucket)
                .build()
                .map(|client| Arc::new(client) as _),
        };
        let prefix = prefix.trim_end_matches('/');
        let folder = Path::parse(format!("{prefix}{PREFIX}")).map_err(|error| wrong(&error))?;
        Ok(Self {
            name: name.trim_end_matches('/').to_owned(),
            client: client.map_err(|error| wrong(&error))?,
            folder,
        })
    }

    fn path(&self, name: &str) -> Path {
        let parts = name.split('/');
        parts.fold(self.folder.clone(), |path, part| path.join(part))
    }

    fn failed(&self, what: &'static str, name: &str) -> impl FnOnce(Error) -> PlaceError {
        let name = format!("{name} in {self}");
        move |source| PlaceError::Object { what, name, source }
    }

    pub(super) async fn read(&self, name: &str, most: u64) -> Result<Option<Vec<u8>>, PlaceError> {
        let read = async {
            let object = self.client.get(&self.path(name)).await?;
            if object.meta.size <= most {
                return Ok(object.bytes().await?.into());
            }
            let mut bytes: Vec<u8> = Vec::new();
            let mut pieces = object.into_stream();
            while bytes.len() as u64 <= most
                && let Some(piece) = pieces.try_next().await?
            {
                bytes.extend_from_slice(&piece);
            }
            bytes.truncate(usize::try_from(most).map_or(usize::MAX, |most| most.saturating_add(1)));
            Ok(bytes)
        };
        match read.await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.failed("read", name)(error)),
        }
    }

    /// In their order: stores show an object with all of its bytes or not at all.
    pub(crate) async fn write(&self, files: Vec<(String, Vec<u8>)>) -> Result<(), PlaceError> {
        for (name, bytes) in files {
            let put = self.client.put(&self.path(&name), bytes.into()).await;
            put.map_err(self.failed("write", &name))?;
        }
        Ok(())
    }

    pub(crate) async fn lengths(&self, folder: &str) -> Result<BTreeMap<String, u64>, PlaceError> {
        let below = format!("{}/", self.folder);
        let objects = self.client.list(Some(&self.path(folder)));
        let lengths = objects.try_filter_map(|object| {
            let name = object.location.as_ref().strip_prefix(&below);
            let length = name.map(|name| (name.to_owned(), object.size));
            async { Ok(length) }
        });
        let lengths = lengths.try_collect().await;
        lengths.map_err(self.failed("list", folder))
    }

    pub(crate) async fn remove(&self, name: &str) -> Result<(), PlaceError> {
        match self.client.delete(&self.path(name)).await {
            Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.failed("remove", name)(error)),
        }
    }
}
