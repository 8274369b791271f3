//! A good index in place of a damaged one.
//!
//! [`repair`] never writes to the file that is damaged: it copies what is right into a new one, gets the rest from the
//! source, checks the result and puts it in the old one's place.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::check::{Finding, check_self};
use super::indexer::{BatchReport, IndexError, IndexSettings, Indexer, blocking};
use crate::chain::BlockSource;
use crate::curve::Engine;
use crate::runtime::Stop;
use crate::store::{
    BlockRecord, Store, StoreError, StoreOptions, Update, repair_place, replace_damaged,
};

/// Bytes of rows that one update of a repaired file takes.
const COPY_BATCH_BYTES: usize = 96 << 20;

/// Why an index could not be repaired. The index file is as it was.
#[derive(Debug, thiserror::Error)]
pub enum RepairError {
    /// The index or the source failed.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// Blocks have to come from a node, and none is at hand.
    #[error(
        "blocks from height {from} on have to come from the node again, and none answers: name it with --node-url"
    )]
    NeedsNode {
        /// The lowest of them.
        from: u32,
    },
    /// A stop was requested.
    #[error("stopped; the index is as it was, and the next repair begins again")]
    Stopped,
    /// Even what was built anew contradicts itself.
    #[error(
        "what was built anew is wrong too ({0}); check the memory and the disk of this machine, or report it"
    )]
    StillWrong(String),
}

impl From<StoreError> for RepairError {
    fn from(error: StoreError) -> Self {
        Self::Index(error.into())
    }
}

/// What a repair works with.
pub struct Repair<'a> {
    /// The index file.
    pub path: &'a Path,
    /// What the new file is opened with.
    pub options: StoreOptions,
    /// Where blocks come from, and how they are indexed; `None` if no node is at hand.
    pub source: Option<Arc<dyn BlockSource>>,
    /// For the tweaks.
    pub engine: Arc<dyn Engine>,
    /// How the blocks of the source are indexed.
    pub settings: IndexSettings,
    /// Ends the repair without a change.
    pub stop: Stop,
}

/// What a repair did.
#[derive(Debug, Clone, Serialize)]
pub struct Repaired {
    /// Number of blocks that were taken over, with all that follows from them written anew.
    pub copied: u64,
    /// First height that came from the node again, `None` if none had to.
    pub from_node: Option<u32>,
    /// Where the damaged file is kept.
    pub kept: PathBuf,
}

/// Builds a good index beside a damaged one, and puts it in its place: blocks below `wrong_from` are taken over, and what
/// follows from them (`heights`, digests, locators, spent bits) written anew; the others come from the source. Without
/// `wrong_from` all blocks are taken over, as far as they can be read. `old` is `None` for a file that cannot be read.
///
/// The damaged file is only read, and kept as `index.redb.damaged`; so there must be room for a second one. If what was
/// taken over turns out wrong, all of it comes from the source. `on_batch` is called after each commit of the sync.
///
/// # Errors
/// [`RepairError`]; nothing was changed then.
pub async fn repair(
    repair: &Repair<'_>,
    old: Option<Store>,
    wrong_from: Option<u32>,
    on_batch: impl Fn(&BatchReport) + Clone + Send + Sync + 'static,
) -> Result<Repaired, RepairError> {
    let place = repair_place(repair.path);
    let old = old.map(Arc::new);
    let mut wrong_from = wrong_from;
    let result = loop {
        remove(&place)?;
        match build(repair, &place, old.as_ref(), wrong_from, on_batch.clone()).await {
            Err(RepairError::StillWrong(reason))
                if old.is_some() && wrong_from != Some(0) && repair.source.is_some() =>
            {
                tracing::warn!("what was taken over is wrong ({reason}): building all of it anew");
                wrong_from = Some(0);
            }
            result => break result,
        }
    };
    // Its lock goes, and with it the last reader.
    drop(old);
    match result {
        Ok((copied, from_node)) => Ok(Repaired {
            copied,
            from_node,
            kept: replace_damaged(repair.path)?,
        }),
        Err(error) => {
            remove(&place)?;
            Err(error)
        }
    }
}

fn remove(place: &Path) -> Result<(), StoreError> {
    match std::fs::remove_file(place) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(StoreError::Io {
            action: "remove",
            path: place.to_path_buf(),
            source,
        }),
        _ => Ok(()),
    }
}

/// Builds the new file; gives how many blocks were taken over, and from where on they came from the source.
async fn build(
    repair: &Repair<'_>,
    place: &Path,
    old: Option<&Arc<Store>>,
    wrong_from: Option<u32>,
    on_batch: impl Fn(&BatchReport) + Send + Sync + 'static,
) -> Result<(u64, Option<u32>), RepairError> {
    let new = Arc::new(Store::open(place, &repair.options)?);
    let first = new.snapshot()?.first_height();
    let mut copied = 0;
    let mut is_complete = false;
    if let Some(old) = old {
        let (old, new, stop) = (Arc::clone(old), Arc::clone(&new), repair.stop.clone());
        let copying = move || copy(&old, &new, wrong_from, &stop);
        (copied, is_complete) = blocking(copying).await??;
    }
    let mut from_node = None;
    if !is_complete && !repair.stop.is_requested() {
        let from = u32::try_from(copied).map_or(u32::MAX, |copied| first.saturating_add(copied));
        from_node = Some(from);
        let Some(source) = &repair.source else {
            return Err(RepairError::NeedsNode { from });
        };
        let indexer = Indexer::new(
            Arc::clone(&new),
            Arc::clone(source),
            Arc::clone(&repair.engine),
            repair.settings.clone(),
            repair.stop.clone(),
            on_batch,
        );
        indexer.check_source().await?;
        indexer.sync(None).await?;
    }
    if repair.stop.is_requested() {
        return Err(RepairError::Stopped);
    }
    let checking = {
        let new = Arc::clone(&new);
        move || check_self(&new.snapshot()?, &BTreeSet::new(), |_, _| ())
    };
    let check = blocking(checking).await??;
    if let Some(found) = check.findings.first() {
        return Err(RepairError::StillWrong(format!(
            "table {}, key {}: {}",
            found.table, found.key, found.reason
        )));
    }
    blocking(move || new.compact(Duration::from_secs(10))).await??;
    Ok((copied, from_node))
}

/// Takes over blocks below `wrong_from`, or all, as far as they can be read and fit; gives how many, and whether that is
/// the whole index.
fn copy(
    old: &Store,
    new: &Store,
    wrong_from: Option<u32>,
    stop: &Stop,
) -> Result<(u64, bool), StoreError> {
    let old = old.snapshot()?;
    let Some(tip) = old.tip() else {
        return Ok((0, wrong_from.is_none()));
    };
    let mut batch = Vec::new();
    let mut bytes = 0;
    let mut copied = 0;
    let mut is_complete = wrong_from.is_none();
    let end = wrong_from.unwrap_or(u32::MAX);
    for height in (old.first_height()..=tip.height).take_while(|height| *height < end) {
        if stop.is_requested() {
            return Ok((copied, false));
        }
        match old.record(height) {
            Ok(Some(record)) => {
                bytes += record.size_bytes();
                batch.push(record);
            }
            Err(error) if Finding::of_error(&error).is_none() => return Err(error),
            Ok(None) | Err(_) => {
                is_complete = false;
                break;
            }
        }
        if bytes >= COPY_BATCH_BYTES {
            if !take(new, &batch)? {
                return Ok((copied, false));
            }
            copied += batch.len() as u64;
            batch.clear();
            bytes = 0;
        }
    }
    if !take(new, &batch)? {
        return Ok((copied, false));
    }
    Ok((copied + batch.len() as u64, is_complete))
}

/// Commits records; `false`, and nothing written, if they do not fit each other.
fn take(new: &Store, batch: &[BlockRecord]) -> Result<bool, StoreError> {
    let disconnect = 0;
    let connect = batch;
    match new.apply(Update {
        disconnect,
        connect,
    }) {
        Ok(_) => Ok(true),
        Err(
            StoreError::InvalidRecord { .. }
            | StoreError::NotAChild { .. }
            | StoreError::WrongStart { .. },
        ) => Ok(false),
        Err(error) => Err(error),
    }
}
