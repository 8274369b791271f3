//! The CPU work of a window: candidates, filters, full rules. Nothing here waits for anything.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::Range;

use bitcoin::{BlockHash, OutPoint, Txid};
use rayon::prelude::*;

use super::super::OracleUtxo;
use super::super::state::FoundRow;
use super::fetch::{Content, FetchedBlock};
use crate::curve::{CandidateChunk, TweakPoint};
use crate::filter::{Elements, FilterError, spent_item};
use crate::scan::{SharedScanner, TaprootOutput, Unverified};

/// What a tweak counts for in the size of a window: its bytes, which it takes twice, and one for each candidate. Those
/// are not kept, but with very many labels or wallets a window must not take for ever, and be lost if the scan is stopped.
pub(super) fn tweak_weight(scanner: &SharedScanner) -> usize {
    2 * size_of::<TweakPoint>() + scanner.candidates_per_tweak()
}

/// Tweaks, and candidate keys of theirs.
pub(super) type Matched = Vec<(TweakPoint, [u8; 32])>;

/// A block whose new-UTXOs filter matches: which tweaks of which wallets of the pass, and the candidate keys that do.
pub(super) struct Hit {
    pub(super) height: u32,
    pub(super) block_hash: BlockHash,
    /// The filter.
    pub(super) elements: Elements,
    pub(super) matched: BTreeMap<usize, Matched>,
}

/// An output of a wallet.
pub(super) type Find = (OutPoint, FoundRow);

/// Outpoints, and the height from which each can be spent.
pub(super) type Unspent = BTreeMap<OutPoint, u32>;

/// A block whose spent filter matches, and what for.
pub(super) struct SpentHit {
    pub(super) height: u32,
    pub(super) block_hash: BlockHash,
    pub(super) matched: Vec<OutPoint>,
}

/// The filters of the blocks that a batch of tweaks is of, and what they hold of its candidates.
struct Batch {
    filters: Vec<BatchFilter>,
    matched: Vec<BatchMatch>,
}

struct BatchMatch {
    /// Position of the block.
    block: usize,
    wallet: usize,
    /// Position of the tweak among all.
    tweak: usize,
    key: [u8; 32],
}

struct BatchFilter {
    /// Position of the block.
    block: usize,
    /// Position after the block's last tweak among all.
    end: usize,
    elements: Elements,
}

impl Batch {
    /// For the tweaks at these positions among all; `ends[i]` is the position after the last one of block i.
    fn begin(
        blocks: &[FetchedBlock],
        ends: &[usize],
        tweaks: Range<usize>,
    ) -> Result<Self, (usize, FilterError)> {
        let mut filters = Vec::new();
        let first = ends.partition_point(|end| *end <= tweaks.start);
        for (position, block) in blocks.iter().enumerate().skip(first) {
            let end = ends.get(position).copied().unwrap_or_default();
            let Some((new_utxos, of_block)) = listed(block) else {
                continue;
            };
            if end - of_block.len() >= tweaks.end {
                break;
            }
            if !of_block.is_empty() {
                let elements = Elements::read(new_utxos, &block.hash);
                filters.push(BatchFilter {
                    block: position,
                    end,
                    elements: elements.map_err(|error| (position, error))?,
                });
            }
        }
        Ok(Self {
            filters,
            matched: Vec::new(),
        })
    }

    fn take(&mut self, chunk: &CandidateChunk<'_>) {
        let mut filters = self.filters.iter().peekable();
        for (tweak, keys) in chunk.by_tweak() {
            while filters.next_if(|filter| filter.end <= tweak).is_some() {}
            let Some(filter) = filters.peek() else {
                return;
            };
            let held = keys
                .iter()
                .filter(|key| **key != [0; 32] && filter.elements.contains(&key[..]));
            self.matched.extend(held.map(|key| BatchMatch {
                block: filter.block,
                wallet: chunk.wallet,
                tweak,
                key: *key,
            }));
        }
    }
}

/// The new-UTXOs filter and the tweaks of a block of version 1.
fn listed(block: &FetchedBlock) -> Option<(&[u8], &[TweakPoint])> {
    match &block.content {
        Content::V1 { filters, tweaks } => Some((&filters.new_utxos, tweaks)),
        Content::Native(_) => None,
    }
}

/// Blocks whose new-UTXOs filter holds a candidate of one of their tweaks; or which filter is bad. Uses all cores.
pub(super) fn match_outputs(
    scanner: &SharedScanner,
    blocks: &[FetchedBlock],
) -> Result<Vec<Hit>, (usize, FilterError)> {
    let mut tweaks: Vec<TweakPoint> = Vec::new();
    let mut ends = Vec::with_capacity(blocks.len());
    for (position, block) in blocks.iter().enumerate() {
        let Some((new_utxos, of_block)) = listed(block) else {
            ends.push(tweaks.len());
            continue;
        };
        tweaks.extend(of_block);
        ends.push(tweaks.len());
        // Nothing is looked for in this filter; what can be seen at once is.
        if of_block.is_empty() {
            let none: [[u8; 32]; 0] = [];
            crate::filter::matches(new_utxos, &block.hash, &none)
                .map_err(|error| (position, error))?;
        }
    }
    let batches = scanner.scan(
        &tweaks,
        |range| Batch::begin(blocks, &ends, range),
        |batch, chunk| {
            if let Ok(batch) = batch {
                batch.take(&chunk);
            }
        },
    );
    let mut hits: BTreeMap<usize, Hit> = BTreeMap::new();
    for batch in batches {
        let Batch {
            filters,
            mut matched,
        } = batch?;
        // Chunks of labels come one after the other.
        matched.sort_by_key(|found| found.tweak);
        for filter in filters {
            let mut of_block = matched
                .iter()
                .filter(|found| found.block == filter.block)
                .filter_map(|found| Some((found.wallet, (*tweaks.get(found.tweak)?, found.key))))
                .peekable();
            let is_hit = of_block.peek().is_some();
            let Some(block) = blocks.get(filter.block).filter(|_| is_hit) else {
                continue;
            };
            let hit = hits.entry(filter.block).or_insert_with(|| Hit {
                height: block.height,
                block_hash: block.hash,
                elements: filter.elements,
                matched: BTreeMap::new(),
            });
            for (wallet, found) in of_block {
                hit.matched.entry(wallet).or_default().push(found);
            }
        }
    }
    Ok(hits.into_values().collect())
}

/// What a block with matches has for a wallet.
pub(super) struct Confirmed {
    pub(super) found: Vec<Find>,
    /// Matches of the filter that nothing known explains, nor anything the server lists: keys of outputs it does not
    /// list, or chance.
    pub(super) unresolved: u32,
}

/// Puts every transaction with a key that is matched for a wallet of the pass to the full rules. `is_known` tells the keys of outputs that an earlier scan
/// of the block has found.
///
/// The server does not say which transaction a tweak is of. A second transaction of the block that pays to a key of the
/// wallet's (somebody copied it) is therefore found too: its output can be spent just the same.
///
/// # Errors
/// The engine and the full rules contradict each other.
pub(super) fn confirm(
    scanner: &SharedScanner,
    wallet: usize,
    hit: &Hit,
    utxos: &[OracleUtxo],
    is_known: impl Fn(&[u8; 32]) -> bool,
) -> Result<Confirmed, Unverified> {
    let matched = hit.matched.get(&wallet).map_or(&[][..], Vec::as_slice);
    let mut transactions: HashMap<Txid, Vec<TaprootOutput>> = HashMap::new();
    for utxo in utxos {
        transactions
            .entry(utxo.outpoint.txid)
            .or_default()
            .push(TaprootOutput {
                outpoint: utxo.outpoint,
                key: utxo.key,
                value_sat: utxo.value_sat,
            });
    }
    let mut with_key: HashMap<[u8; 32], BTreeSet<OutPoint>> = HashMap::new();
    for outputs in transactions.values_mut() {
        outputs.sort_unstable_by_key(|output| output.outpoint.vout);
        outputs.dedup_by_key(|output| output.outpoint.vout);
        for output in outputs {
            with_key
                .entry(output.key)
                .or_default()
                .insert(output.outpoint);
        }
    }
    // The plain and a labelled candidate of one tweak may both match.
    let mut seen = HashSet::new();
    let mut found: BTreeMap<OutPoint, FoundRow> = BTreeMap::new();
    for (tweak, key) in matched {
        let tweak_bytes = tweak.to_compressed();
        for outpoint in with_key.get(key).into_iter().flatten() {
            if !seen.insert((tweak_bytes, outpoint.txid)) {
                continue;
            }
            let outputs = transactions.get(&outpoint.txid);
            for output in scanner.confirm(wallet, tweak, outputs.map_or(&[][..], Vec::as_slice))? {
                found.insert(
                    output.outpoint,
                    FoundRow {
                        height: hit.height,
                        block_hash: hit.block_hash,
                        value_sat: output.value_sat,
                        key: output.key,
                        k: output.k,
                        label: output.label,
                        tweak: tweak_bytes,
                        next: None,
                    },
                );
            }
        }
    }
    let own: HashMap<[u8; 32], FoundRow> =
        found.values().map(|row| (row.key, row.clone())).collect();
    let listed = transactions.values().flatten();
    for output in listed.clone() {
        if let Some(row) = own.get(&output.key) {
            found.entry(output.outpoint).or_insert_with(|| FoundRow {
                value_sat: output.value_sat,
                ..row.clone()
            });
        }
    }
    let listed: Vec<[u8; 32]> = listed.map(|output| output.key).collect();
    let mut unresolved = 0;
    for (tweak, key) in matched {
        let is_own = || {
            let row = own.get(key);
            row.is_some_and(|row| row.tweak == tweak.to_compressed())
        };
        match with_key.get(key).and_then(BTreeSet::first) {
            Some(outpoint) if !is_own() => return Err(Unverified(*outpoint)),
            Some(_) => {}
            None if is_known(key) => {}
            None if hit.elements.holds_besides(key, &listed) => unresolved += 1,
            None => {}
        }
    }
    Ok(Confirmed {
        found: found.into_iter().collect(),
        unresolved,
    })
}

/// Blocks whose spent filter holds an outpoint that exists by then; or which filter is bad. Uses all cores.
pub(super) fn match_spends(
    unspent: &Unspent,
    blocks: &[FetchedBlock],
) -> Result<Vec<SpentHit>, (usize, FilterError)> {
    let hits: Vec<Option<SpentHit>> = blocks
        .par_iter()
        .enumerate()
        .map(|(position, block)| {
            let block_hash = block.hash;
            let (outpoints, items): (Vec<OutPoint>, Vec<[u8; 8]>) = unspent
                .iter()
                .filter(|(_, from)| **from <= block.height)
                .map(|(outpoint, _)| (*outpoint, spent_item(outpoint, &block_hash)))
                .unzip();
            let matched: Vec<OutPoint> = crate::filter::matches(block.spent(), &block_hash, &items)
                .map_err(|error| (position, error))?
                .into_iter()
                .filter_map(|at| outpoints.get(at).copied())
                .collect();
            Ok((!matched.is_empty()).then_some(SpentHit {
                height: block.height,
                block_hash,
                matched,
            }))
        })
        .collect::<Result<_, _>>()?;
    Ok(hits.into_iter().flatten().collect())
}

#[cfg(test)]
mod tests;
