//! An index held against its source of blocks.

use std::collections::BTreeSet;

use super::{Finding, tweak_table};
use crate::chain::BlockSource;
use crate::curve::Engine;
use crate::index::{IndexError, derive_records};
use crate::store::{BlockRecord, Keep, Snapshot, SpendRow, StoreError};

/// Most blocks that a source is asked for because something speaks against them; if there are more, those count as wrong.
const SUSPECTS_MAX: usize = 200;

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
        let derived = derive_records(engine, blocks, snapshot.tweak_form());
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
    // Those of blocks that were indexed before spenders were kept are not known.
    if ours.spends.iter().all(|spend| spend.spender.is_some()) {
        let spender = a.iter().zip(b).position(|(a, b)| a.spender != b.spender);
        hold("spenders", "spender", count, spender);
        let (a, b) = (&ours.states, &theirs.states);
        let count = (a.len(), b.len());
        let state = a.iter().zip(b).position(|(a, b)| a != b);
        hold("states", "state id", count, state);
    }
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
