//! An index held against itself.

use std::collections::BTreeSet;

use bitcoin::secp256k1::PublicKey;
use rayon::prelude::*;

use super::{Finding, tweak_table};
use crate::BlockId;
use crate::curve::libsecp256k1::LibSecp256k1;
use crate::curve::{Engine, TweakPoint};
use crate::filter::{self, FilterKind};
use crate::store::{Block, Commitments, Heads, Keep, Snapshot, StoreError, TweakForm};

/// Blocks that are checked in parallel between two steps of progress.
const WINDOW: usize = 256;
/// Most findings of the second pass that are kept: a file with more is named well enough by these.
const FINDINGS_MAX: usize = 1_000;

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
/// matches every output key, that hashes of columns are those of the rows, that each head follows from the one before, and that multiples are those of the tweaks at the heights of `sample`.
///
/// The new-UTXOs filter also holds keys of transactions that are not eligible, so it cannot be built again from the index
/// alone: [`check_against_source`](super::check_against_source) does that. Calls `progress` with the steps that are done, and
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
    if is_sampled && snapshot.tweak_form().has_multiples() {
        multiples = block.multiples(&tweaks)?;
    }
    if snapshot.keep() == Keep::Full {
        block.filters()?;
    }
    block.heads()?;
    block.sections()?;
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
            TweakForm::Point | TweakForm::PointAndMultiple => {
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

    /// The heads are those of the block before with what this one commits to.
    fn heads(&mut self) -> Result<(), StoreError> {
        let height = self.height();
        let Some(Some(stored)) = self.caught(self.block.heads())? else {
            return Ok(());
        };
        let Some(texts) = self.caught(self.block.texts())? else {
            return Ok(());
        };
        let before = match height.checked_sub(1) {
            Some(parent) => self.snapshot.block(parent),
            None => Ok(None),
        };
        let before = before.and_then(|block| block.map_or(Ok(None), |block| block.heads()));
        let Some(before) = self.caught(before)? else {
            return Ok(());
        };
        let expected = Heads::next(before, &Commitments::by(&texts));
        for (table, is_same) in [
            ("heads_v1", stored.v1 == expected.v1),
            ("heads_v2", stored.v2 == expected.v2),
        ] {
            if !is_same {
                let reason = "not the one that follows from the head before and the block's rows";
                self.note(table, height, reason);
            }
        }
        Ok(())
    }

    /// Section hashes are those of the rows, and their chain is that of the block before.
    fn sections(&mut self) -> Result<(), StoreError> {
        let BlockId { height, hash } = self.block.id();
        let Some(stored) = self.caught(self.block.sections())? else {
            return Ok(());
        };
        let Some(expected) = self.caught(self.block.section_hashes())? else {
            return Ok(());
        };
        if stored.hashes != expected {
            let reason = "not the hashes of the block's sections";
            self.note("sections", height, reason);
        }
        let has_others = self.caught(self.block.heads())?.flatten().is_some();
        let Some(head) = stored.head else {
            if has_others && self.snapshot.keep() == Keep::Full {
                self.note("sections", height, "no head");
            }
            return Ok(());
        };
        let before = match height.checked_sub(1) {
            Some(parent) => self.snapshot.block(parent),
            None => Ok(None),
        };
        let before =
            before.and_then(|block| block.map_or(Ok(None), |block| block.sections().map(Some)));
        let Some(before) = self.caught(before)? else {
            return Ok(());
        };
        let before = before.and_then(|before| before.head).unwrap_or_default();
        if head != stored.hashes.next_head(&before, &hash) {
            let reason = "not the head that follows from the one before and the hashes";
            self.note("sections", height, reason);
        }
        Ok(())
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

fn is_on_curve(point: &TweakPoint) -> bool {
    let mut bytes = [4; 65];
    bytes[1..].copy_from_slice(point.as_bytes());
    PublicKey::from_slice(&bytes).is_ok()
}
