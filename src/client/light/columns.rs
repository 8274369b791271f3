//! What is a wallet's in blocks of the native protocol, and who spent it.
//!
//! A candidate is held against the first bytes of the outputs of its own transaction. Where they agree the outputs of the
//! whole chunk are fetched, and the full rules decide: nothing is left unresolved.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use bitcoin::{OutPoint, Txid};
use futures::{StreamExt, TryStreamExt};

use super::super::native::{NativeBlock, Section};
use super::super::report::Spend;
use super::super::state::FoundRow;
use super::super::{OracleError, off_worker};
use super::fetch::FetchedBlock;
use super::matching::{Find, SpentHit};
use super::reorg::changed;
use super::server::Server;
use super::window::Looked;
use super::{ClientError, Interrupted, Pass, WalletsClient};
use crate::curve::TweakPoint;
use crate::scan::{SharedScanner, TaprootOutput, Unverified};
use crate::wire::native::column::{CHUNK_BLOCKS, Column};
use crate::wire::native::section::{Output, PREFIX_BYTES, SpentOutput};

/// Chunks that are fetched at the same time for what they hold.
const CHUNKS_IN_FLIGHT: usize = 4;

/// A candidate that begins like an output of its transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Match {
    /// Which of the eligible transactions of the block.
    transaction: usize,
    tweak: TweakPoint,
    key: [u8; 32],
}

/// Matches by the position of their block, and by their wallet in the pass.
type Matches = BTreeMap<usize, BTreeMap<usize, Vec<Match>>>;

/// The matches in these blocks; or the position of a block with a tweak that is no point. Uses all cores.
fn match_prefixes(scanner: &SharedScanner, blocks: &[FetchedBlock]) -> Result<Matches, usize> {
    let native = || blocks.iter().filter_map(FetchedBlock::native);
    let mut tweaks: Vec<[u8; 33]> = Vec::new();
    // Position after the last tweak of each block, and after the last key of each transaction.
    let (mut ends, mut key_ends) = (Vec::with_capacity(blocks.len()), Vec::new());
    let mut keys: Vec<[u8; PREFIX_BYTES]> = Vec::new();
    for block in native() {
        let before = keys.len();
        tweaks.extend(&block.tweaks);
        ends.push(tweaks.len());
        keys.extend(&block.prefixes.keys);
        let of_block = block.prefixes.ends.iter();
        key_ends.extend(of_block.map(|end| before + *end as usize));
    }
    let block_of = |tweak: usize| ends.partition_point(|end| *end <= tweak);
    let mut points = Vec::with_capacity(tweaks.len());
    for (at, point) in scanner.decompress(&tweaks).into_iter().enumerate() {
        points.push(point.ok_or_else(|| block_of(at))?);
    }
    let batches = scanner.scan(
        &points,
        |_| Vec::new(),
        |matched, chunk| {
            for (tweak, candidates) in chunk.by_tweak() {
                let end = |tweak: usize| key_ends.get(tweak).copied().unwrap_or_default();
                let begin = tweak.checked_sub(1).map_or(0, end);
                let outputs = keys.get(begin..end(tweak)).unwrap_or_default();
                for candidate in candidates {
                    let prefix = candidate.first_chunk();
                    if outputs.iter().any(|output| Some(output) == prefix) && *candidate != [0; 32]
                    {
                        matched.push((tweak, chunk.wallet, *candidate));
                    }
                }
            }
        },
    );
    let mut matched = batches.concat();
    // Chunks of labels come one after the other.
    matched.sort_by_key(|(tweak, ..)| *tweak);
    let mut matches = Matches::new();
    for (at, wallet, key) in matched {
        let block = block_of(at);
        let first = block.checked_sub(1).and_then(|before| ends.get(before));
        let Some(tweak) = points.get(at) else {
            continue;
        };
        let of_block = matches.entry(block).or_default();
        of_block.entry(wallet).or_default().push(Match {
            transaction: at - first.copied().unwrap_or_default(),
            tweak: *tweak,
            key,
        });
    }
    Ok(matches)
}

/// Puts the transactions with a match of a wallet of the pass to the full rules. Other outputs of the block with a key that was found can be spent
/// just the same, and are found too.
///
/// # Errors
/// The engine and the full rules contradict each other.
fn confirm(
    scanner: &SharedScanner,
    wallet: usize,
    block: &NativeBlock,
    matches: &[Match],
    transactions: &[(Txid, Vec<Output>)],
) -> Result<Vec<Find>, Unverified> {
    let mut found: BTreeMap<OutPoint, FoundRow> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for matched in matches {
        let Some((txid, outputs)) = transactions.get(matched.transaction) else {
            continue;
        };
        let outputs: Vec<TaprootOutput> = outputs
            .iter()
            .map(|output| TaprootOutput {
                outpoint: OutPoint::new(*txid, output.vout),
                key: output.key,
                value_sat: output.value_sat,
            })
            .collect();
        // The plain and a labelled candidate may both match.
        if seen.insert(matched.transaction) {
            for output in scanner.confirm(wallet, &matched.tweak, &outputs)? {
                let row = FoundRow {
                    height: block.height,
                    block_hash: block.hash,
                    value_sat: output.value_sat,
                    key: output.key,
                    k: output.k,
                    label: output.label,
                    tweak: matched.tweak.to_compressed(),
                    next: None,
                };
                found.insert(output.outpoint, row);
            }
        }
        let unconfirmed = outputs
            .iter()
            .find(|output| output.key == matched.key && !found.contains_key(&output.outpoint));
        if let Some(output) = unconfirmed {
            return Err(Unverified(output.outpoint));
        }
    }
    let own: HashMap<[u8; 32], FoundRow> =
        found.values().map(|row| (row.key, row.clone())).collect();
    for (txid, outputs) in transactions {
        for output in outputs {
            if let Some(row) = own.get(&output.key) {
                let outpoint = OutPoint::new(*txid, output.vout);
                found.entry(outpoint).or_insert_with(|| FoundRow {
                    value_sat: output.value_sat,
                    ..row.clone()
                });
            }
        }
    }
    Ok(found.into_iter().collect())
}

impl WalletsClient {
    /// What is in these blocks for the members of a pass.
    pub(super) async fn find_in_columns(
        &self,
        pass: &Pass,
        blocks: &Arc<Vec<FetchedBlock>>,
    ) -> Result<BTreeMap<usize, Looked>, Interrupted> {
        let matches = {
            let (scanner, blocks) = (pass.scanner.clone(), blocks.clone());
            off_worker(move || match_prefixes(&scanner, &blocks)).await
        };
        let matches = matches.map_err(|position| OracleError::Untrue {
            url: self.server.describe(),
            height: blocks.get(position).map_or(0, |block| block.height),
            column: Column::Tweaks,
            what: "a tweak that is no point of the curve".to_owned(),
        })?;
        let mut chunks: BTreeMap<u32, Matches> = BTreeMap::new();
        for (position, mut matches) in matches {
            let height = blocks.get(position).map_or(0, |block| block.height);
            matches.retain(|wallet, _| pass.takes(*wallet, height));
            if !matches.is_empty() {
                let chunk = chunks.entry(height / CHUNK_BLOCKS).or_default();
                chunk.insert(position, matches);
            }
        }
        let found: Vec<Vec<(usize, Vec<Find>)>> = futures::stream::iter(chunks.into_values())
            .map(|chunk| self.confirm_chunk(&pass.scanner, blocks, chunk))
            .buffered(CHUNKS_IN_FLIGHT)
            .try_collect()
            .await?;
        let mut looked = BTreeMap::new();
        let mut found_by: BTreeMap<usize, Vec<Find>> = BTreeMap::new();
        for (wallet, found) in found.into_iter().flatten() {
            found_by.entry(wallet).or_default().extend(found);
        }
        for (wallet, at) in pass.members.iter().enumerate() {
            let Some(member) = self.members.get(*at) else {
                continue;
            };
            let before = &member.state.contents.unresolved;
            let heights = blocks.iter().map(|block| block.height);
            let resolved = heights.filter(|h| before.contains_key(h) && pass.takes(wallet, *h));
            let of_wallet = Looked {
                found: found_by.remove(&wallet).unwrap_or_default(),
                unresolved: resolved.map(|height| (height, None)).collect(),
            };
            looked.insert(*at, of_wallet);
        }
        Ok(looked)
    }

    /// Looks into the matches of one chunk: finds by wallet of the pass.
    async fn confirm_chunk(
        &self,
        scanner: &Arc<SharedScanner>,
        blocks: &Arc<Vec<FetchedBlock>>,
        chunk: Matches,
    ) -> Result<Vec<(usize, Vec<Find>)>, Interrupted> {
        let mut found = Vec::new();
        for (position, matches) in chunk {
            let block = blocks.get(position).and_then(FetchedBlock::native);
            let Some(block) = block else {
                continue;
            };
            let section = self.section(block, Column::Outputs).await?;
            let (scanner, blocks) = (scanner.clone(), blocks.clone());
            let of_block = off_worker(move || -> Result<Vec<_>, ClientError> {
                let block = blocks.get(position).and_then(FetchedBlock::native);
                let Some(block) = block else {
                    return Ok(Vec::new());
                };
                let transactions = block.read_outputs(&section.url, &section.bytes)?;
                let confirmed = matches.iter().map(|(wallet, matches)| {
                    let found = confirm(&scanner, *wallet, block, matches, &transactions);
                    let found = found.map_err(|source| ClientError::Unverified {
                        height: block.height,
                        source,
                    })?;
                    Ok((*wallet, found))
                });
                confirmed.collect()
            });
            found.extend(of_block.await?);
        }
        Ok(found)
    }

    /// A section of a block: what came with it, or what the whole chunk is asked for.
    async fn section(&self, block: &NativeBlock, column: Column) -> Result<Section, Interrupted> {
        let came = match column {
            Column::Outputs => &block.outputs,
            _ => &block.spends,
        };
        if let Some(bytes) = came {
            return Ok(Section {
                url: self.server.describe(),
                states: block.header.states,
                bytes: bytes.clone(),
            });
        }
        let Server::Native {
            follow_ups, first, ..
        } = &self.server
        else {
            return Err(changed(block.height, "columns of a server that has none"));
        };
        let section = follow_ups.section(block, column, *first, self.tip).await?;
        section.ok_or_else(|| {
            changed(
                block.height,
                "blocks of a scan and of a column fetched later",
            )
        })
    }

    /// Which of the matches of a spent filter are real, and who spent them. `keys` has the first bytes of the wallet's own.
    pub(super) async fn spends_in_columns(
        &self,
        hit: SpentHit,
        blocks: &Arc<Vec<FetchedBlock>>,
        keys: &HashMap<OutPoint, [u8; 8]>,
    ) -> Result<Vec<(OutPoint, Spend)>, Interrupted> {
        let position = blocks.iter().position(|block| block.height == hit.height);
        let native = |at: usize| blocks.get(at).and_then(FetchedBlock::native);
        let Some((position, block)) = position.and_then(|at| Some((at, native(at)?))) else {
            return Ok(Vec::new());
        };
        let section = self.section(block, Column::Spends).await?;
        let url = section.url.clone();
        let spends = {
            let blocks = blocks.clone();
            off_worker(move || {
                let block = blocks.get(position).and_then(FetchedBlock::native);
                block.map(|block| block.read_spends(&section)).transpose()
            })
            .await?
            .unwrap_or_default()
        };
        let by_outpoint: HashMap<OutPoint, &SpentOutput> = spends
            .spent
            .iter()
            .map(|spent| (spent.outpoint, spent))
            .collect();
        let mut found = Vec::new();
        for outpoint in hit.matched {
            let Some(spent) = by_outpoint.get(&outpoint) else {
                continue;
            };
            if keys
                .get(&outpoint)
                .is_some_and(|key| *key != spent.key_prefix)
            {
                return Err(OracleError::Untrue {
                    url,
                    height: hit.height,
                    column: Column::Spends,
                    what: format!("another key than that of {outpoint}"),
                }
                .into());
            }
            let states = spends.states.iter().filter(|state| {
                let spender = spent.spender.map(|(transaction, _)| transaction);
                spender == Some(state.transaction)
            });
            let spend = Spend {
                height: hit.height,
                block_hash: hit.block_hash,
                spending_txid: states.clone().next().map(|state| state.txid),
                input: spent.spender.map(|(_, input)| input.into()),
                op_return: states.map(|state| state.state_id.to_vec()).collect(),
            };
            found.push((outpoint, spend));
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests;
