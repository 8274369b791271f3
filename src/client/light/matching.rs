//! The CPU work of a window: candidates, filters, full rules. Nothing here waits for anything.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use bitcoin::{BlockHash, OutPoint, Txid};
use rayon::prelude::*;

use super::super::OracleUtxo;
use super::super::state::FoundRow;
use super::fetch::FetchedBlock;
use crate::curve::TweakPoint;
use crate::filter::taproot::{Lookup, matches_many};
use crate::filter::{FilterError, spent_item};
use crate::scan::{Candidate, Scanner, TaprootOutput};

/// Memory that a tweak takes in a window: itself twice, and its candidates twice.
pub(super) fn bytes_per_tweak(scanner: &Scanner) -> usize {
    2 * (size_of::<TweakPoint>() + scanner.candidates_per_tweak() * size_of::<Candidate>())
}

/// A block whose new-UTXOs filter matches: which tweaks, and the candidate keys that do.
pub(super) struct Hit {
    pub(super) height: u32,
    pub(super) block_hash: BlockHash,
    pub(super) matched: Vec<(TweakPoint, [u8; 32])>,
}

/// An output of the wallet.
pub(super) type Find = (OutPoint, FoundRow);

/// An outpoint, and the height from which it can be spent.
pub(super) type Unspent = (OutPoint, u32);

/// A block whose spent filter matches, and what for.
pub(super) struct SpentHit {
    pub(super) height: u32,
    pub(super) block_hash: BlockHash,
    pub(super) matched: Vec<OutPoint>,
}

/// Blocks whose new-UTXOs filter holds a candidate of one of their tweaks; or which filter is bad. Uses all cores.
pub(super) fn match_outputs(
    scanner: &Scanner,
    blocks: &[FetchedBlock],
) -> Result<Vec<Hit>, (usize, FilterError)> {
    let tweaks: Vec<TweakPoint> = blocks
        .iter()
        .flat_map(|block| block.tweaks.iter().copied())
        .collect();
    let candidates = scanner.candidates(&tweaks);
    // Candidates are in order of tweaks, so each block's are one run of them.
    let mut rest = candidates.as_slice();
    let mut end = 0;
    let lookups: Vec<Lookup<'_, Candidate>> = blocks
        .iter()
        .map(|block| {
            end += block.tweaks.len();
            let (queries, others) = rest.split_at(rest.partition_point(|c| c.tweak < end));
            rest = others;
            Lookup {
                block: block.filters.block_hash,
                filter: &block.filters.new_utxos,
                queries,
            }
        })
        .collect();
    let mut hits = Vec::new();
    for (position, (found, (block, lookup))) in matches_many(&lookups)
        .into_iter()
        .zip(blocks.iter().zip(&lookups))
        .enumerate()
    {
        let matched: Vec<_> = found
            .map_err(|error| (position, error))?
            .into_iter()
            .filter_map(|at| lookup.queries.get(at))
            .filter_map(|candidate| Some((*tweaks.get(candidate.tweak)?, candidate.key)))
            .collect();
        if !matched.is_empty() {
            hits.push(Hit {
                height: block.height,
                block_hash: block.filters.block_hash,
                matched,
            });
        }
    }
    Ok(hits)
}

/// Puts every transaction with a matched key to the full rules.
///
/// The server does not say which transaction a tweak is of. A second transaction that pays to a key of the wallet's
/// (somebody copied it) is therefore found too: its output can be spent just the same.
pub(super) fn confirm(scanner: &Scanner, hit: &Hit, utxos: &[OracleUtxo]) -> Vec<Find> {
    let mut transactions: HashMap<Txid, Vec<TaprootOutput>> = HashMap::new();
    let mut with_key: HashMap<[u8; 32], BTreeSet<Txid>> = HashMap::new();
    for utxo in utxos {
        transactions
            .entry(utxo.outpoint.txid)
            .or_default()
            .push(TaprootOutput {
                outpoint: utxo.outpoint,
                key: utxo.key,
                value_sat: utxo.value_sat,
            });
        with_key
            .entry(utxo.key)
            .or_default()
            .insert(utxo.outpoint.txid);
    }
    for outputs in transactions.values_mut() {
        outputs.sort_unstable_by_key(|output| output.outpoint.vout);
        outputs.dedup_by_key(|output| output.outpoint.vout);
    }
    // The plain and a labelled candidate of one tweak may both match.
    let mut seen = HashSet::new();
    let mut found = BTreeMap::new();
    for (tweak, key) in &hit.matched {
        let tweak_bytes = tweak.to_compressed();
        for txid in with_key.get(key).into_iter().flatten() {
            if !seen.insert((tweak_bytes, *txid)) {
                continue;
            }
            let outputs = transactions.get(txid).map_or(&[][..], Vec::as_slice);
            for output in scanner.confirm(tweak, outputs) {
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
                    },
                );
            }
        }
    }
    found.into_iter().collect()
}

/// Blocks whose spent filter holds an outpoint that exists by then; or which filter is bad. Uses all cores.
pub(super) fn match_spends(
    unspent: &[Unspent],
    blocks: &[FetchedBlock],
) -> Result<Vec<SpentHit>, (usize, FilterError)> {
    let hits: Vec<Option<SpentHit>> = blocks
        .par_iter()
        .enumerate()
        .map(|(position, block)| {
            let block_hash = block.filters.block_hash;
            let (outpoints, items): (Vec<OutPoint>, Vec<[u8; 8]>) = unspent
                .iter()
                .filter(|(_, from)| *from <= block.height)
                .map(|(outpoint, _)| (*outpoint, spent_item(outpoint, &block_hash)))
                .unzip();
            let matched: Vec<OutPoint> =
                crate::filter::matches(&block.filters.spent, &block_hash, &items)
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
