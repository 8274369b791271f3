//! Is an index what it should be? Held against itself, and against its source of blocks.
//!
//! [`check_self`] finds what contradicts itself; what does not (an amount, say) only the source can tell:
//! [`check_against_source`].

use std::collections::BTreeSet;

use bitcoin::secp256k1::PublicKey;
use rayon::prelude::*;
use serde::Serialize;

use super::derive::derive_records;
use super::indexer::IndexError;
use crate::BlockId;
use crate::chain::BlockSource;
use crate::curve::libsecp256k1::LibSecp256k1;
use crate::curve::{Engine, TweakPoint};
use crate::filter::{self, FilterKind};
use crate::store::{Block, BlockRecord, Keep, Snapshot, SpendRow, StoreError, TweakForm, WrongRow};

/// Blocks that are checked in parallel between two steps of progress.
const WINDOW: usize = 256;
/// Most findings of the second pass that are kept: a file with more is named well enough by these.
const FINDINGS_MAX: usize = 1_000;
/// Most blocks that a source is asked for because something speaks against them; if there are more, those count as wrong.
const SUSPECTS_MAX: usize = 200;

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
            // What is damaged in an older format cannot be migrated, and is to be repaired as it is.
            StoreError::MigrationFailed { source, .. } => return Self::of_error(source),
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

/// Holds an index against itself: [`Snapshot::audit`], then block by block that tweaks are points of the curve (compressed
/// ones at the heights of `sample`), that the spent filter is the one of the spends, byte by byte, that the new-UTXOs filter
/// matches every output key, and that multiples are those of the tweaks at the heights of `sample`.
///
/// The new-UTXOs filter also holds keys of transactions that are not eligible, so it cannot be built again from the index
/// alone, nor can amounts be judged: [`check_against_source`] does both. Calls `progress` with the steps that are done, and
/// their number. Blocks the calling thread.
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
    let mut walked = 0;
    let audit = snapshot.audit(|done, of| {
        walked = of;
        progress(done, of + blocks);
    })?;
    let mut check = SelfCheck {
        content_hash: audit.content_hash,
        multiples: 0,
        findings: audit.wrong.into_iter().map(Finding::from).collect(),
    };

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
        let done = |height: u32| u64::from(height.saturating_sub(first)) + 1;
        let done = window.last().map_or(0, |height| done(*height));
        progress(walked + done, walked + blocks);
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
    let block = match snapshot.block(height) {
        Ok(Some(block)) => block,
        Ok(None) => return Ok((Vec::new(), 0)),
        Err(error) => {
            let found = Finding::of_error(&error).ok_or(error)?;
            let height = Some(height);
            return Ok((vec![Finding { height, ..found }], 0));
        }
    };
    let mut block = BlockCheck {
        snapshot,
        block,
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
    block: Block<'a>,
    findings: Vec<Finding>,
}

impl BlockCheck<'_> {
    fn note(&mut self, table: &'static str, key: impl ToString, reason: impl Into<String>) {
        self.findings.push(Finding {
            table,
            height: Some(self.height()),
            key: key.to_string(),
            reason: reason.into(),
            needs_node: true,
        });
    }

    fn height(&self) -> u32 {
        self.block.id().height
    }

    /// What was read, `None` if it is wrong, which is noted.
    fn caught<T>(&mut self, read: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
        match read {
            Ok(read) => Ok(Some(read)),
            Err(error) => match Finding::of_error(&error) {
                Some(found) => {
                    self.findings.push(Finding {
                        height: Some(self.height()),
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
                let read = self.block.points();
                points = self.caught(read)?.unwrap_or_default();
                let tweaks = points.iter().enumerate();
                let wrong = tweaks.filter(|(_, point)| !is_on_curve(point));
                wrong.map(|(index, _)| index).collect()
            }
            TweakForm::Compressed if is_sampled => {
                let read = self.block.tweaks(Default::default());
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
            let key = format!("{index} of block {}", self.height());
            self.note(table, key, "not a point of the curve");
        }
        Ok(points)
    }

    /// Multiples are those of the tweaks; gives how many there are.
    fn multiples(&mut self, tweaks: &[TweakPoint]) -> Result<u64, StoreError> {
        let read = self.block.multiples();
        let stored = self.caught(read)?.unwrap_or_default();
        let computed = LibSecp256k1.multiples(tweaks);
        let wrong = stored
            .iter()
            .zip(&computed)
            .position(|(stored, computed)| Some(stored) != computed.as_ref());
        if let Some(index) = wrong {
            let key = format!("{index} of block {}", self.height());
            self.note("multiples", key, "not the multiple of its tweak");
        }
        Ok(stored.len() as u64)
    }

    fn filters(&mut self) -> Result<(), StoreError> {
        let BlockId { height, hash } = self.block.id();
        let spends = self.caught(self.block.spends())?;
        let stored = self.caught(self.block.filter(FilterKind::Spent))?;
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
        let utxos = self.caught(self.block.utxos(Default::default()))?;
        let stored = self.caught(self.block.filter(FilterKind::NewUtxos))?;
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
    /// Heights at which something differs, or that are suspect and above the source's tip.
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
    check.wrong.extend(suspects.iter().skip(SUSPECTS_MAX));
    left.extend(sample);
    left.insert(tip.height);
    let mut orphaned = 0;
    while let Some(height) = left.pop_last() {
        progress(check.compared.len(), check.compared.len() + left.len() + 1);
        let Some(id) = source.block_at(height).await? else {
            // Nobody has spoken for it.
            check.wrong.extend(suspects.get(&height));
            continue;
        };
        let block = snapshot.block(height);
        let ours = match block.and_then(|block| block.map(|block| block.record()).transpose()) {
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
    let block = snapshot.block(ours.id.height)?;
    let creators = block.map(|block| block.spend_creators()).transpose()?;
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
