//! Is an index what it should be? Held against itself, held against its source of blocks, and mended.
//!
//! [`check_self`] finds what contradicts itself; what does not (an amount, say) only the source can tell:
//! [`check_against_source`]. [`repair`] never writes to the file that is damaged: it copies what is right into a new one,
//! gets the rest from the source, checks the result and puts it in the old one's place.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bitcoin::secp256k1::PublicKey;
use rayon::prelude::*;
use serde::Serialize;

use super::derive::derive_records;
use super::indexer::{BatchReport, IndexError, IndexSettings, Indexer};
use crate::chain::BlockSource;
use crate::curve::libsecp256k1::LibSecp256k1;
use crate::curve::{Engine, TweakPoint};
use crate::filter;
use crate::runtime::Stop;
use crate::store::{
    BlockRecord, Keep, Snapshot, SpendRow, Store, StoreError, StoreOptions, TweakForm, Update,
    WrongRow, repair_place, replace_damaged,
};

/// Blocks that are checked in parallel between two steps of progress.
const WINDOW: usize = 256;
/// Most findings of the second pass that are kept: a file with more is named well enough by these.
const FINDINGS_MAX: usize = 1_000;
/// Most blocks that a source is asked for because something speaks against them; if there are more, all from the lowest of
/// them on count as wrong.
const SUSPECTS_MAX: usize = 200;
/// Bytes of rows that one update of a repaired file takes.
const COPY_BATCH_BYTES: usize = 96 << 20;

/// Something that is wrong with an index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Table of the row; `file` for the file as a whole.
    pub table: &'static str,
    /// The block it belongs to, where that is known.
    pub height: Option<u32>,
    /// Key of the row, or position of the item.
    pub key: String,
    /// What is wrong with it.
    pub reason: String,
    /// Whether the block's rows may have to come from the node again. Otherwise what is wrong follows from rows that
    /// nothing speaks against.
    pub needs_node: bool,
}

impl From<WrongRow> for Finding {
    fn from(row: WrongRow) -> Self {
        Self {
            table: row.table,
            height: row.height,
            key: row.key,
            reason: row.reason,
            needs_node: !row.follows,
        }
    }
}

impl Finding {
    /// A file that cannot be opened or read, `None` for errors that say nothing of the file: it is in use, say.
    pub fn of_error(error: &StoreError) -> Option<Self> {
        let (table, key, reason) = match error {
            StoreError::Corrupt {
                table, key, reason, ..
            } => (*table, key.clone(), reason.clone()),
            StoreError::Damaged { reason, .. } | StoreError::NotAnIndex { reason, .. } => {
                ("file", "all".to_owned(), reason.clone())
            }
            _ => return None,
        };
        Some(Self {
            table,
            height: None,
            key,
            reason,
            needs_node: true,
        })
    }
}

/// What an index says of itself.
#[derive(Debug, Clone)]
pub struct SelfCheck {
    /// Hash over all it holds ([`Snapshot::content_hash`]); `None` if something is wrong.
    pub content_hash: Option<[u8; 32]>,
    /// Number of multiples that were computed again.
    pub multiples: u64,
    /// Everything that is wrong, as far as it is kept.
    pub findings: Vec<Finding>,
}

/// Holds an index against itself: [`Snapshot::verify`], and if that finds something [`Snapshot::audit`]; then block by
/// block that tweaks are points of the curve (compressed ones at the heights of `sample`), that the spent filter is the
/// one of the spends, byte by byte, that the new-UTXOs filter matches every output key, and that multiples are those of
/// the tweaks at the heights of `sample`.
///
/// The new-UTXOs filter also holds keys of transactions that are not eligible, so it cannot be built again from the index
/// alone, nor can amounts be judged: [`check_against_source`] does both. Calls `progress` with the blocks that are done of
/// both passes, and their number in both. Blocks the calling thread.
///
/// # Errors
/// The disk fails. What can be read is no error, whatever it says.
pub fn check_self(
    snapshot: &Snapshot,
    sample: &BTreeSet<u32>,
    mut progress: impl FnMut(u64, u64),
) -> Result<SelfCheck, StoreError> {
    let first = snapshot.first_height();
    let blocks = snapshot
        .tip()
        .map_or(0, |tip| u64::from(tip.height.saturating_sub(first)) + 1);
    let done = |height: u32| u64::from(height.saturating_sub(first)) + 1;
    let all = 2 * blocks;
    let mut check = SelfCheck {
        content_hash: None,
        multiples: 0,
        findings: Vec::new(),
    };
    match snapshot.verify(|height| progress(done(height), all)) {
        Ok(hash) => check.content_hash = Some(hash),
        Err(error) => {
            let Some(found) = Finding::of_error(&error) else {
                return Err(error);
            };
            let wrong = snapshot.audit(|height| progress(done(height), all))?;
            check.findings = wrong.into_iter().map(Finding::from).collect();
            if check.findings.is_empty() {
                check.findings.push(found);
            }
        }
    }

    let Some(tip) = snapshot.tip() else {
        return Ok(check);
    };
    let heights: Vec<u32> = (first..=tip.height).collect();
    for window in heights.chunks(WINDOW) {
        let found: Vec<(Vec<Finding>, u64)> = window
            .par_iter()
            .map(|&height| check_block(snapshot, height, sample.contains(&height)))
            .collect::<Result<_, StoreError>>()?;
        for (findings, multiples) in found {
            check.multiples += multiples;
            for finding in findings {
                let known = check.findings.iter();
                let is_known = known
                    .filter(|known| known.table == finding.table)
                    .any(|known| known.key == finding.key);
                if !is_known && check.findings.len() < FINDINGS_MAX {
                    check.findings.push(finding);
                }
            }
        }
        progress(
            blocks + window.last().map_or(0, |height| done(*height)),
            all,
        );
    }
    if !check.findings.is_empty() {
        check.content_hash = None;
    }
    Ok(check)
}

/// What is wrong within one block, and how many multiples were computed again.
fn check_block(
    snapshot: &Snapshot,
    height: u32,
    is_sampled: bool,
) -> Result<(Vec<Finding>, u64), StoreError> {
    let mut block = BlockCheck {
        snapshot,
        height,
        findings: Vec::new(),
    };
    let mut multiples = 0;
    let tweaks = block.tweaks(is_sampled)?;
    if is_sampled && snapshot.has_multiples() {
        multiples = block.multiples(&tweaks)?;
    }
    if snapshot.keep() == Keep::Full {
        block.filters()?;
    }
    Ok((block.findings, multiples))
}

struct BlockCheck<'a> {
    snapshot: &'a Snapshot,
    height: u32,
    findings: Vec<Finding>,
}

impl BlockCheck<'_> {
    fn note(&mut self, table: &'static str, key: impl ToString, reason: impl Into<String>) {
        self.findings.push(Finding {
            table,
            height: Some(self.height),
            key: key.to_string(),
            reason: reason.into(),
            needs_node: true,
        });
    }

    /// What was read, `None` if there is nothing or it is wrong, which is noted.
    fn caught<T>(&mut self, read: Result<Option<T>, StoreError>) -> Result<Option<T>, StoreError> {
        match read {
            Ok(read) => Ok(read),
            Err(error) => match Finding::of_error(&error) {
                Some(found) => {
                    self.findings.push(Finding {
                        height: Some(self.height),
                        ..found
                    });
                    Ok(None)
                }
                None => Err(error),
            },
        }
    }

    /// Tweaks are points of the curve; gives them, if they are stored as such.
    fn tweaks(&mut self, is_sampled: bool) -> Result<Vec<TweakPoint>, StoreError> {
        let form = self.snapshot.tweak_form();
        let mut points = Vec::new();
        let wrong: Vec<usize> = match form {
            TweakForm::Point => {
                let read = self.snapshot.points(self.height);
                points = self.caught(read)?.unwrap_or_default();
                let tweaks = points.iter().enumerate();
                let wrong = tweaks.filter(|(_, point)| !is_on_curve(point));
                wrong.map(|(index, _)| index).collect()
            }
            TweakForm::Compressed if is_sampled => {
                let read = self.snapshot.tweak_list(self.height, Default::default());
                let tweaks = self.caught(read)?.unwrap_or_default();
                let tweaks = tweaks.iter().enumerate();
                let wrong =
                    tweaks.filter(|(_, tweak)| TweakPoint::from_compressed(tweak).is_none());
                wrong.map(|(index, _)| index).collect()
            }
            TweakForm::Compressed => Vec::new(),
        };
        let table = tweak_table(self.snapshot);
        for index in wrong {
            let key = format!("{index} of block {}", self.height);
            self.note(table, key, "not a point of the curve");
        }
        Ok(points)
    }

    /// Multiples are those of the tweaks; gives how many there are.
    fn multiples(&mut self, tweaks: &[TweakPoint]) -> Result<u64, StoreError> {
        let read = self.snapshot.multiples(self.height);
        let stored = self.caught(read)?.unwrap_or_default();
        let computed = LibSecp256k1.multiples(tweaks);
        let wrong = stored
            .iter()
            .zip(&computed)
            .position(|(stored, computed)| Some(stored) != computed.as_ref());
        if let Some(index) = wrong {
            let key = format!("{index} of block {}", self.height);
            self.note("multiples", key, "not the multiple of its tweak");
        }
        Ok(stored.len() as u64)
    }

    fn filters(&mut self) -> Result<(), StoreError> {
        let (snapshot, height) = (self.snapshot, self.height);
        let Some(entry) = self.caught(snapshot.block(height))? else {
            return Ok(());
        };
        let hash = entry.id.hash;
        let spends = self.caught(snapshot.spends(height))?;
        let stored = self.caught(snapshot.spent_filter(height))?;
        if let (Some(spends), Some(stored)) = (spends, stored) {
            let items: Vec<[u8; 8]> = spends
                .iter()
                .map(|spend| filter::spent_item(&spend.outpoint, &hash))
                .collect();
            if filter::spent_filter(&hash, &items) != stored {
                let key = format!("spent filter of block {height}");
                self.note("filters", key, "not the filter of the block's spends");
            }
        }
        let utxos = self.caught(snapshot.utxos(height, Default::default()))?;
        let stored = self.caught(snapshot.new_utxos_filter(height))?;
        if let (Some(utxos), Some(stored)) = (utxos, stored) {
            let keys: Vec<[u8; 32]> = utxos.iter().map(|utxo| utxo.key).collect();
            let key = format!("new-UTXOs filter of block {height}");
            match filter::matches(&stored, &hash, &keys) {
                Ok(found) if found.len() == keys.len() => {}
                Ok(found) => {
                    let missing = keys.len() - found.len();
                    let reason = format!("does not hold {missing} of the block's output keys");
                    self.note("filters", key, reason);
                }
                Err(error) => self.note("filters", key, error.to_string()),
            }
        }
        Ok(())
    }
}

fn tweak_table(snapshot: &Snapshot) -> &'static str {
    match snapshot.tweak_form() {
        TweakForm::Point => "tweaks",
        TweakForm::Compressed => "compressed",
    }
}

fn is_on_curve(point: &TweakPoint) -> bool {
    let mut bytes = [4; 65];
    bytes[1..].copy_from_slice(point.as_bytes());
    PublicKey::from_slice(&bytes).is_ok()
}

/// What a source of blocks says of an index.
#[derive(Debug, Clone, Default)]
pub struct SourceCheck {
    /// Blocks whose rows were compared.
    pub compared: BTreeSet<u32>,
    /// What differs.
    pub findings: Vec<Finding>,
    /// Heights at which something differs.
    pub wrong: BTreeSet<u32>,
    /// What was noticed that is not wrong.
    pub notes: Vec<String>,
}

/// Holds blocks of an index against a source: that they are on its active chain, and every row against the one that is
/// derived from the source's block. `sample` are the heights to compare, the tip always with them; `suspects` those that
/// something speaks against. Where an outpoint that a block spends differs, the block that created it is compared too.
///
/// An index whose last blocks were replaced by a reorg is not wrong as long as `undo_depth` lets a sync follow; that is
/// said in the notes.
///
/// # Errors
/// The source fails, or the disk.
pub async fn check_against_source(
    snapshot: &Snapshot,
    source: &dyn BlockSource,
    engine: &dyn Engine,
    undo_depth: u32,
    sample: &BTreeSet<u32>,
    suspects: &BTreeSet<u32>,
    mut progress: impl FnMut(usize, usize),
) -> Result<SourceCheck, IndexError> {
    let mut check = SourceCheck::default();
    let Some(tip) = snapshot.tip() else {
        return Ok(check);
    };
    let node_tip = source.tip().await?;
    if node_tip.height < tip.height {
        let at = node_tip.height;
        check.notes.push(format!(
            "the node's chain ends at {at}, the index at {}: it was not compared behind that",
            tip.height
        ));
    }
    let tip_is_active = source.block_at(tip.height).await? == Some(tip);
    let mut left: BTreeSet<u32> = suspects.iter().take(SUSPECTS_MAX).copied().collect();
    check.wrong.extend(suspects.iter().nth(SUSPECTS_MAX));
    left.extend(sample);
    left.insert(tip.height);
    let mut orphaned = 0;
    while let Some(height) = left.pop_last() {
        progress(check.compared.len(), check.compared.len() + left.len() + 1);
        let Some(id) = source.block_at(height).await? else {
            continue;
        };
        let ours = match snapshot.record(height) {
            Ok(Some(record)) => record,
            Ok(None) => {
                check.wrong.insert(height);
                continue;
            }
            Err(error) => match Finding::of_error(&error) {
                // The check against itself has named it.
                Some(_) => {
                    check.wrong.insert(height);
                    continue;
                }
                None => return Err(error.into()),
            },
        };
        if ours.id != id && !suspects.contains(&height) {
            let is_deep = height.saturating_add(undo_depth) <= tip.height;
            if !tip_is_active && !is_deep {
                orphaned += 1;
                continue;
            }
        }
        let block = source.block(id).await?;
        let blocks = std::slice::from_ref(&block);
        let derived = derive_records(engine, blocks, snapshot.has_multiples());
        check.compared.insert(height);
        for theirs in derived {
            for (table, key, reason) in differences(&ours, &theirs, snapshot) {
                check.wrong.insert(height);
                check.findings.push(Finding {
                    table,
                    height: Some(height),
                    key,
                    reason,
                    needs_node: true,
                });
            }
            if snapshot.keep() == Keep::Full && ours.spends.len() == theirs.spends.len() {
                for creator in other_creators(snapshot, &ours, &theirs)? {
                    if !check.compared.contains(&creator) {
                        left.insert(creator);
                    }
                }
            }
        }
        if check.compared.len() > 4 * SUSPECTS_MAX + sample.len() {
            check.wrong.extend(left.first());
            break;
        }
    }
    if orphaned > 0 || !tip_is_active && node_tip.height >= tip.height {
        check.notes.push(format!(
            "the index's tip {tip} is not on the node's active chain: `spindex sync` follows the reorg"
        ));
    }
    Ok(check)
}

/// Heights of the blocks that created what one block spends in the index and another outpoint in the source.
fn other_creators(
    snapshot: &Snapshot,
    ours: &BlockRecord,
    theirs: &BlockRecord,
) -> Result<BTreeSet<u32>, StoreError> {
    let differ: Vec<bool> = ours
        .spends
        .iter()
        .zip(&theirs.spends)
        .map(|(ours, theirs)| !is_same_spend(ours, theirs))
        .collect();
    if !differ.contains(&true) {
        return Ok(BTreeSet::new());
    }
    let creators = snapshot.spend_creators(ours.id.height)?;
    let creators = creators.unwrap_or_default().into_iter().zip(differ);
    Ok(creators
        .filter_map(|(creator, differs)| creator.filter(|_| differs))
        .collect())
}

fn is_same_spend(ours: &SpendRow, theirs: &SpendRow) -> bool {
    (ours.outpoint, ours.key_prefix) == (theirs.outpoint, theirs.key_prefix)
}

/// Table, key and reason of every difference of two records of a height: the first one of each table.
fn differences(
    ours: &BlockRecord,
    theirs: &BlockRecord,
    snapshot: &Snapshot,
) -> Vec<(&'static str, String, String)> {
    let height = ours.id.height;
    if ours.id != theirs.id || ours.header != theirs.header {
        let reason = format!(
            "block {} where the node's active chain has {}",
            ours.id.hash, theirs.id.hash
        );
        return vec![("blocks", height.to_string(), reason)];
    }
    let mut found = Vec::new();
    let mut hold = |table, what: &str, count: (usize, usize), differs: Option<usize>| {
        let reason = match (count, differs) {
            ((ours, theirs), _) if ours != theirs => {
                format!("{ours} {what}s where the node's block has {theirs}")
            }
            (_, Some(_)) => format!("{what} differs from the node's block"),
            _ => return,
        };
        let key = match differs {
            Some(index) => format!("{index} of block {height}"),
            None => format!("block {height}"),
        };
        found.push((table, key, reason));
    };
    let (a, b) = (&ours.transactions, &theirs.transactions);
    let count = (a.len(), b.len());
    let tweak = a.iter().zip(b).position(|(a, b)| a.tweak != b.tweak);
    hold(tweak_table(snapshot), "tweak", count, tweak);
    let multiples = (&ours.multiples, &theirs.multiples);
    let multiple = multiples
        .0
        .iter()
        .zip(multiples.1)
        .position(|(a, b)| a != b);
    let count = (multiples.0.len(), multiples.1.len());
    hold("multiples", "multiple", count, multiple);
    if snapshot.keep() == Keep::Tweaks {
        return found;
    }
    let count = (a.len(), b.len());
    let txid = a.iter().zip(b).position(|(a, b)| a.txid != b.txid);
    hold("txids", "txid", count, txid);
    let (a, b) = (&ours.outputs, &theirs.outputs);
    let count = (a.len(), b.len());
    let output = a.iter().zip(b).position(|(a, b)| a != b);
    hold("outputs", "output", count, output);
    let (a, b) = (&ours.spends, &theirs.spends);
    let count = (a.len(), b.len());
    let spend = a.iter().zip(b).position(|(a, b)| !is_same_spend(a, b));
    hold("spends", "spend", count, spend);
    for (what, a, b) in [
        (
            "new-UTXOs filter",
            &ours.new_utxos_filter,
            &theirs.new_utxos_filter,
        ),
        ("spent filter", &ours.spent_filter, &theirs.spent_filter),
    ] {
        if a != b {
            let reason = "not the one of the node's block".to_owned();
            found.push(("filters", format!("{what} of block {height}"), reason));
        }
    }
    found
}

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
        (copied, is_complete) = off_worker(copying).await??;
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
    let check = off_worker(checking).await??;
    if let Some(found) = check.findings.first() {
        return Err(RepairError::StillWrong(format!(
            "table {}, key {}: {}",
            found.table, found.key, found.reason
        )));
    }
    off_worker(move || new.compact(Duration::from_secs(10))).await??;
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

async fn off_worker<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, IndexError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| IndexError::Worker(error.to_string()))
}
