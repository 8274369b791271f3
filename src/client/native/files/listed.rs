//! What there should be: the manifest as it was read last, and the lists that it names.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use bitcoin::Network;

use super::super::super::OracleError;
use super::location::Location;
use crate::BlockId;
use crate::exported::FaultKind;
use crate::wire::native::manifest::{List, ListedChunk, MANIFEST, Manifest};

/// Longest manifest that is read: of a chain a hundred times as long as any there is.
pub(super) const MANIFEST_BYTES: usize = 4 << 20;

/// Longest list that is read, and how many are kept.
const LIST_BYTES: usize = 1 << 20;
const LISTS: usize = 64;

/// A manifest and its lists.
pub(super) struct Listed {
    pub(super) at: Location,
    network: Network,
    manifest: Mutex<Option<Arc<Manifest>>>,
    /// By their SHA-256.
    lists: Mutex<BTreeMap<[u8; 32], Arc<List>>>,
    /// The end of an older manifest that was named in the log.
    older: Mutex<Option<BlockId>>,
}

impl Listed {
    pub(super) fn new(at: Location, network: Network) -> Self {
        Self {
            at,
            network,
            manifest: Mutex::default(),
            lists: Mutex::default(),
            older: Mutex::default(),
        }
    }

    /// The manifest as it was read last.
    pub(super) async fn manifest(&self) -> Result<Arc<Manifest>, OracleError> {
        match self.known() {
            Some(manifest) => Ok(manifest),
            None => self.renew().await,
        }
    }

    /// The same, if it has been read.
    pub(super) fn known(&self) -> Option<Arc<Manifest>> {
        let known = self.manifest.lock();
        known.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the manifest anew. One that ends earlier than the one before is an older one, and is not used.
    ///
    /// # Errors
    /// One that is not there, cannot be read, or is of another network.
    pub(super) async fn renew(&self) -> Result<Arc<Manifest>, OracleError> {
        let bytes = self.at.read(MANIFEST, MANIFEST_BYTES).await?;
        let broken = |what| self.at.fault(MANIFEST, FaultKind::Broken(what));
        let manifest = Manifest::decode(&bytes).map_err(broken)?;
        if manifest.network != self.network {
            let what = format!("it is of {}, and not of {}", manifest.network, self.network);
            return Err(broken(what));
        }
        // A list that cannot be read is named where its chunks are asked for.
        if let Ok(listed) = self.chunk(&manifest, manifest.last_chunk()).await
            && (listed.block_hash, listed.head) != (manifest.last_block.hash, manifest.head)
        {
            let what = "its last block or head is not that of its lists";
            return Err(broken(what.to_owned()));
        }
        let last = manifest.last_block;
        let kept = {
            let mut known = self.manifest.lock().unwrap_or_else(PoisonError::into_inner);
            match &*known {
                Some(newer) if newer.last_block.height > last.height => newer.clone(),
                Some(same) if **same == manifest => return Ok(same.clone()),
                _ => {
                    let manifest = Arc::new(manifest);
                    *known = Some(manifest.clone());
                    return Ok(manifest);
                }
            }
        };
        let mut older = self.older.lock().unwrap_or_else(PoisonError::into_inner);
        if older.replace(last) == Some(last) {
            return Ok(kept);
        }
        tracing::warn!(
            "{} is an older one, which ends with block {last}, and not with {}: the one that was there before counts",
            self.at.name_of(MANIFEST),
            kept.last_block
        );
        Ok(kept)
    }

    /// What is listed of a chunk.
    ///
    /// # Errors
    /// A list that is not there or is not the one that the manifest names.
    pub(super) async fn chunk(
        &self,
        manifest: &Manifest,
        chunk: u32,
    ) -> Result<ListedChunk, OracleError> {
        let missing = || {
            let what = format!("it has no chunk {chunk}");
            self.at.fault(MANIFEST, FaultKind::Broken(what))
        };
        let after = manifest.lists.partition_point(|list| list.first <= chunk);
        let name = after.checked_sub(1).and_then(|at| manifest.lists.get(at));
        let name = name.ok_or_else(missing)?;
        let list = match self.kept(&name.sha256) {
            Some(list) => list,
            None => {
                let file = name.file();
                let bytes = self.at.read(&file, LIST_BYTES).await?;
                let list = List::decode(&bytes, name, manifest.columns.len())
                    .map_err(|what| self.at.fault(&file, FaultKind::Broken(what)))?;
                let list = Arc::new(list);
                let mut lists = self.lists.lock().unwrap_or_else(PoisonError::into_inner);
                if lists.len() >= LISTS {
                    lists.clear();
                }
                lists.insert(name.sha256, list.clone());
                list
            }
        };
        let at = chunk.saturating_sub(name.first) as usize;
        list.chunks.get(at).cloned().ok_or_else(missing)
    }

    fn kept(&self, sha256: &[u8; 32]) -> Option<Arc<List>> {
        let lists = self.lists.lock().unwrap_or_else(PoisonError::into_inner);
        lists.get(sha256).cloned()
    }
}
