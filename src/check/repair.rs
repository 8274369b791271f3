//! A good index in place of a damaged one.
//!
//! [`repair`] never writes to the file that is damaged: it copies what is right into a new one, gets the rest from the
//! source, checks the result and puts it in the old one's place. A result that ends below the old index does not take its
//! place, unless the source has another block where the old one goes on.

mod copy;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use self::copy::{Copied, End, copy};
use super::{Finding, check_self};
use crate::chain::{BlockSource, Node};
use crate::curve::Engine;
use crate::index::{BatchReport, IndexError, IndexSettings, Indexer, blocking};
use crate::runtime::Stop;
use crate::store::{
    Store, StoreError, StoreOptions, begin_repair, give_up_repair, replace_damaged,
};

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
    /// Blocks have to come from the node, and its chain ends below them.
    #[error(
        "blocks from height {from} on have to come from the node again, and its chain ends {}: the index is as it was; \
         repair it when the node has caught up",
        at.map_or_else(|| "below them".to_owned(), |at| format!("at height {at}"))
    )]
    NodeBehind {
        /// The lowest of them.
        from: u32,
        /// Where the node's chain ends.
        at: Option<u32>,
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
    /// Who is asked which blocks are invalid.
    pub node: Option<Arc<dyn Node>>,
    /// For the tweaks.
    pub engine: Arc<dyn Engine>,
    /// How the blocks of the source are indexed.
    pub settings: IndexSettings,
    /// Ends the repair without a change.
    pub stop: Stop,
}

/// What is known of the index that is to be repaired.
pub struct Damage {
    /// The open file, `None` if it cannot be read.
    pub old: Option<Store>,
    /// Height of its last block, as far as it says; what is built anew has to reach it.
    pub tip_height: Option<u32>,
    /// Heights of the blocks whose rows have to come from the source again.
    pub wrong: BTreeSet<u32>,
}

/// What a repair did.
#[derive(Debug, Clone, Serialize)]
pub struct Repaired {
    /// Number of blocks that were taken over, with all that follows from them written anew.
    pub copied: u64,
    /// First height that came from the node again, `None` if none had to.
    pub from_node: Option<u32>,
    /// Last height that came from the node, where its chain ended and blocks above it were taken over.
    pub until_node: Option<u32>,
    /// Height at which the new index ends, where the old one went further, but with blocks that are not the node's.
    pub shortened_to: Option<u32>,
    /// Where the damaged file is kept.
    pub kept: PathBuf,
}

/// Builds a good index beside a damaged one, and puts it in its place: blocks below the lowest wrong one are taken over,
/// and what follows from them (`heights`, digests, locators, spent bits) written anew; the others come from the source, as
/// far as its chain goes, and what is right above that is taken over again. Where no block is wrong all are taken over, as
/// far as they can be read.
///
/// The damaged file is only read, and kept as `index.redb.damaged`; so there must be room for a second one. If what was
/// taken over turns out wrong, all of it comes from the source. `on_batch` is called after each commit of the sync.
///
/// # Errors
/// [`RepairError`]; nothing was changed then.
pub async fn repair(
    repair: &Repair<'_>,
    damage: Damage,
    on_batch: impl Fn(&BatchReport) + Clone + Send + Sync + 'static,
) -> Result<Repaired, RepairError> {
    let mut plan = Plan {
        old: damage.old.map(Arc::new),
        tip_height: damage.tip_height,
        wrong: damage.wrong,
        is_last: false,
    };
    let result = loop {
        let place = begin_repair(repair.path)?;
        match build(repair, &place, &plan, on_batch.clone()).await {
            Err(RepairError::StillWrong(reason))
                if plan.old.is_some() && !plan.is_last && repair.source.is_some() =>
            {
                tracing::warn!("what was taken over is wrong ({reason}): building all of it anew");
                plan.wrong.insert(0);
                plan.is_last = true;
            }
            result => break result,
        }
    };
    // Its lock goes, and with it the last reader.
    drop(plan);
    match result {
        Ok(built) => Ok(Repaired {
            copied: built.copied,
            from_node: built.from_node,
            until_node: built.until_node,
            shortened_to: built.shortened_to,
            kept: replace_damaged(repair.path)?,
        }),
        Err(error) => {
            give_up_repair(repair.path)?;
            Err(error)
        }
    }
}

/// What a new file is to be built from.
struct Plan {
    old: Option<Arc<Store>>,
    tip_height: Option<u32>,
    wrong: BTreeSet<u32>,
    /// Whether nothing below the node's tip is taken over any more.
    is_last: bool,
}

/// A new file that is complete.
#[derive(Default)]
struct Built {
    copied: u64,
    from_node: Option<u32>,
    until_node: Option<u32>,
    shortened_to: Option<u32>,
}

/// Builds the new file.
async fn build(
    repair: &Repair<'_>,
    place: &Path,
    plan: &Plan,
    on_batch: impl Fn(&BatchReport) + Send + Sync + 'static,
) -> Result<Built, RepairError> {
    let new = Arc::new(Store::open(place, &repair.options)?);
    let first = new.snapshot()?.first_height();
    let mut built = Built::default();
    let mut is_complete = false;
    if let Some(old) = &plan.old {
        let below = plan.wrong.first().copied();
        let Copied { blocks, end } = take_over(repair, old, &new, first, below).await?;
        built.copied = blocks;
        is_complete = end == End::Complete && below.is_none();
    }
    let copied = u32::try_from(built.copied).unwrap_or(u32::MAX);
    let mut next = first.saturating_add(copied);
    // The last rows may be lost without a trace in those that are there.
    is_complete &= plan.tip_height.is_none_or(|tip| next > tip);
    if !is_complete {
        built.from_node = Some(next);
        next = connect(repair, &new, next, on_batch).await?;
        if plan.tip_height.is_some_and(|tip| next <= tip) {
            above(repair, plan, &new, next, &mut built).await?;
        }
    }
    if repair.stop.is_requested() {
        return Err(RepairError::Stopped);
    }
    if let Some(old) = &plan.old {
        take_over_watches(old, &new).await?;
    }
    if let Some(reason) = what_is_wrong(repair, &new).await? {
        return Err(match built.until_node {
            // Of what came from the node nothing can be wrong, so it is what it does not have yet.
            Some(at) if plan.is_last => RepairError::NodeBehind {
                from: at.saturating_add(1),
                at: Some(at),
            },
            _ => RepairError::StillWrong(reason),
        });
    }
    let compacted = unless_stopped(&repair.stop, move || new.compact(Duration::from_secs(10)));
    compacted.await??;
    Ok(built)
}

/// Gets the blocks from a height on from the source; gives the height above the last one.
async fn connect(
    repair: &Repair<'_>,
    new: &Arc<Store>,
    from: u32,
    on_batch: impl Fn(&BatchReport) + Send + Sync + 'static,
) -> Result<u32, RepairError> {
    let Some(source) = &repair.source else {
        return Err(RepairError::NeedsNode { from });
    };
    let mut indexer = Indexer::new(
        Arc::clone(new),
        Arc::clone(source),
        Arc::clone(&repair.engine),
        repair.settings.clone(),
        repair.stop.clone(),
        on_batch,
    );
    if let Some(node) = &repair.node {
        indexer = indexer.with_node(Arc::clone(node));
    }
    indexer.check_source().await?;
    if repair.stop.is_requested() {
        return Err(RepairError::Stopped);
    }
    let tip = source.tip().await.map_err(IndexError::from)?;
    if tip.height < from {
        let at = Some(tip.height);
        return Err(RepairError::NodeBehind { from, at });
    }
    let reached = indexer.sync(None).await?;
    if repair.stop.is_requested() {
        return Err(RepairError::Stopped);
    }
    match reached {
        Some(tip) if tip.height >= from => Ok(tip.height.saturating_add(1)),
        reached => Err(RepairError::NodeBehind {
            from,
            at: reached.map(|tip| tip.height),
        }),
    }
}

/// Takes over what the old index has above the node's tip, up to its own.
async fn above(
    repair: &Repair<'_>,
    plan: &Plan,
    new: &Arc<Store>,
    from: u32,
    built: &mut Built,
) -> Result<(), RepairError> {
    let at = from.checked_sub(1);
    let Some(old) = &plan.old else {
        return Err(RepairError::NodeBehind { from, at });
    };
    let wrong = plan.wrong.range(from..).next().copied();
    let Copied { blocks, end } = take_over(repair, old, new, from, wrong).await?;
    let reached = from.saturating_add(u32::try_from(blocks).unwrap_or(u32::MAX));
    match end {
        End::Unlinked if blocks == 0 => {
            built.shortened_to = at;
            return Ok(());
        }
        _ if plan.tip_height.is_some_and(|tip| reached <= tip) => {
            return Err(RepairError::NodeBehind { from: reached, at });
        }
        _ => {}
    }
    built.copied += blocks;
    built.until_node = at;
    Ok(())
}

async fn take_over(
    repair: &Repair<'_>,
    old: &Arc<Store>,
    new: &Arc<Store>,
    from: u32,
    below: Option<u32>,
) -> Result<Copied, RepairError> {
    let (old, new, stop) = (Arc::clone(old), Arc::clone(new), repair.stop.clone());
    let copied = blocking(move || copy(&old, &new, from, below, &stop)).await??;
    match repair.stop.is_requested() {
        true => Err(RepairError::Stopped),
        false => Ok(copied),
    }
}

/// Takes over what the old index watches, with its log, as far as it can be read: no node can tell it again. Whatever the new blocks
/// make of it is followed when the index is next opened to be followed.
async fn take_over_watches(old: &Arc<Store>, new: &Arc<Store>) -> Result<(), RepairError> {
    let (old, new) = (Arc::clone(old), Arc::clone(new));
    match blocking(move || new.take_over_watches(&old)).await? {
        Ok(taken) if taken.left_out > 0 => tracing::warn!(
            "{} rows of what is watched, or of its log, cannot be read and are left out",
            taken.left_out
        ),
        Ok(_) => {}
        Err(error) if Finding::of_error(&error).is_some() => {
            tracing::warn!("what was watched cannot be read and is lost: {error}");
        }
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

/// What contradicts itself in a file.
async fn what_is_wrong(
    repair: &Repair<'_>,
    new: &Arc<Store>,
) -> Result<Option<String>, RepairError> {
    let new = Arc::clone(new);
    let checking = move || check_self(&new.snapshot()?, &BTreeSet::new(), |_, _| ());
    let check = unless_stopped(&repair.stop, checking).await??;
    Ok(check.findings.first().map(|found| {
        let (table, key, reason) = (found.table, &found.key, &found.reason);
        format!("table {table}, key {key}: {reason}")
    }))
}

/// Does work on the new file that cannot be interrupted. After a stop it is left alone: it ends with the process, or
/// before, and the file is thrown away.
async fn unless_stopped<T: Send + 'static>(
    stop: &Stop,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, RepairError> {
    tokio::select! {
        done = crate::runtime::detached(work) => {
            done.ok_or_else(|| IndexError::Worker("a thread of the repair".to_owned()).into())
        }
        () = stop.requested() => Err(RepairError::Stopped),
    }
}
