//! One window of blocks: the wallet's outputs, then the spends, then the commit.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use bitcoin::{BlockHash, OutPoint};
use futures::{StreamExt, TryStreamExt};
use rayon::prelude::*;

use super::super::report::Spend;
use super::super::state::{Change, KEPT_HASHES, UnresolvedRow};
use super::super::{Oracle, OracleUtxo, SpendDetails, off_worker};
use super::fetch::FetchedBlock;
use super::matching::{Find, Hit, SpentHit, Unspent, confirm, match_outputs, match_spends};
use super::reorg::changed;
use super::server::Server;
use super::{ClientError, Interrupted, LightClient, Segment};
use crate::filter::{FilterError, spent_filter, spent_item};
use crate::scan::Scanner;
use crate::wire::native::column::CHUNK_BLOCKS;

/// Blocks whose outputs or spends are fetched at the same time: their answers may be tens of megabytes.
const MAX_ROWS_IN_FLIGHT: usize = 8;

/// What a scan of some blocks has come to.
#[derive(Default)]
pub(super) struct Looked {
    pub(super) found: Vec<Find>,
    /// For each block what is unresolved in it.
    pub(super) unresolved: Vec<(u32, Option<UnresolvedRow>)>,
}

impl LightClient {
    /// Works a window through and stores it. Nothing of it is stored if anything fails.
    pub(super) async fn run_window(
        &mut self,
        segment: &Segment,
        blocks: Vec<FetchedBlock>,
        tip: u32,
    ) -> Result<(), Interrupted> {
        self.fits_stored(&blocks)?;
        let blocks = Arc::new(blocks);
        let Looked { found, unresolved } = match &self.scanner {
            Some(scanner) if segment.wallet => self.find_outputs(scanner, &blocks).await?,
            _ => Looked::default(),
        };
        let (Some(first), Some(last)) = (blocks.first(), blocks.last()) else {
            return Ok(());
        };
        let unspent = self.unspent(segment, first.height, &found);
        let spends = self.find_spends(&blocks, unspent, &found).await?;
        self.still_in_chain(&blocks, tip).await?;

        let next = last.height.saturating_add(1);
        let contents = &self.state.contents;
        let cursor = contents.cursor.clone().map(|mut cursor| {
            if segment.wallet {
                cursor.next = next;
            }
            cursor
        });
        let wallet_next = cursor.as_ref().map_or(0, |cursor| cursor.next);
        let watched = self
            .followed()
            .filter(|(_, row)| row.next == Some(first.height))
            .map(|(outpoint, row)| {
                let mut row = row.clone();
                row.next = (next < wallet_next).then_some(next);
                (*outpoint, row)
            })
            .collect();
        let looked_back = contents
            .found
            .iter()
            .filter(|(_, row)| row.next == Some(first.height))
            .map(|(outpoint, row)| {
                let mut row = row.clone();
                row.next = (next < wallet_next).then_some(next);
                (*outpoint, row)
            });
        let found = looked_back.chain(found).collect();
        let keep_from = blocks.len().saturating_sub(KEPT_HASHES as usize);
        let hashes = blocks
            .iter()
            .skip(keep_from)
            .map(|block| (block.height, block.hash))
            .collect();
        let heads = match segment.wallet {
            true => self.heads(&blocks).await?,
            false => Vec::new(),
        };
        self.state.apply(Change {
            roll_back_to: None,
            cursor,
            hashes,
            heads,
            found,
            spends,
            watched,
            unresolved,
            ..Change::default()
        })?;
        Ok(())
    }

    /// What is the wallet's in these blocks, and what the server lists nothing for.
    pub(super) async fn find_outputs(
        &self,
        scanner: &Arc<Scanner>,
        blocks: &Arc<Vec<FetchedBlock>>,
    ) -> Result<Looked, Interrupted> {
        match &self.server {
            Server::V1(oracle) => self.find_listed(oracle, scanner, blocks).await,
            Server::Native { .. } => self.find_in_columns(scanner, blocks).await,
        }
    }

    async fn find_listed(
        &self,
        oracle: &Arc<dyn Oracle>,
        scanner: &Arc<Scanner>,
        blocks: &Arc<Vec<FetchedBlock>>,
    ) -> Result<Looked, Interrupted> {
        let hits = {
            let (scanner, blocks) = (scanner.clone(), blocks.clone());
            off_worker(move || match_outputs(&scanner, &blocks)).await
        };
        let hits =
            hits.map_err(|(block, source)| self.bad_filter(blocks, block, "new-utxos", source))?;
        // What a server lists may depend on its tip.
        let tip = match hits.is_empty() {
            true => None,
            false => self.tip_block().await?,
        };
        let fetched: Vec<(Hit, Vec<OracleUtxo>)> = futures::stream::iter(hits)
            .map(|hit| async move {
                let utxos = oracle.utxos(hit.height).await?;
                match utxos.iter().find(|utxo| utxo.block_hash != hit.block_hash) {
                    Some(_) => Err(changed(
                        hit.height,
                        "blocks of the filter and of the outputs",
                    )),
                    None => Ok((hit, utxos)),
                }
            })
            .buffered(self.settings.concurrency.clamp(1, MAX_ROWS_IN_FLIGHT))
            .try_collect()
            .await?;
        let known: HashSet<(BlockHash, [u8; 32])> = self
            .state
            .contents
            .found
            .values()
            .map(|row| (row.block_hash, row.key))
            .collect();
        let scanner = scanner.clone();
        let confirmed = off_worker(move || {
            let confirmed = fetched.par_iter().map(|(hit, utxos)| {
                let is_known = |key: &[u8; 32]| known.contains(&(hit.block_hash, *key));
                let confirmed = confirm(&scanner, hit, utxos, is_known);
                let confirmed = confirmed.map_err(|source| ClientError::Unverified {
                    height: hit.height,
                    source,
                })?;
                Ok((hit.height, hit.block_hash, confirmed))
            });
            confirmed.collect::<Result<Vec<_>, ClientError>>()
        })
        .await?;
        let is_resolved = confirmed
            .iter()
            .all(|(.., of_block)| of_block.unresolved == 0);
        let asked_at = match is_resolved {
            true => None,
            false => self.tip_block().await?.filter(|now| tip == Some(*now)),
        };
        let mut unresolved: BTreeMap<u32, Option<UnresolvedRow>> =
            blocks.iter().map(|block| (block.height, None)).collect();
        let mut found = Vec::new();
        for (height, block_hash, confirmed) in confirmed {
            found.extend(confirmed.found);
            if confirmed.unresolved > 0 {
                let row = UnresolvedRow {
                    block_hash,
                    matches: confirmed.unresolved,
                    asked_at,
                };
                unresolved.insert(height, Some(row));
            }
        }
        self.keep_what_was_not_asked(blocks, &found, &mut unresolved);
        Ok(Looked {
            found,
            unresolved: unresolved.into_iter().collect(),
        })
    }

    /// Known outpoints that may be spent in the window that begins at `first`, those just found in it included.
    fn unspent(&self, segment: &Segment, first: u32, found: &[Find]) -> Vec<Unspent> {
        let contents = &self.state.contents;
        let watched = self
            .followed()
            .filter(|(_, row)| match row.next {
                None => segment.wallet,
                Some(next) => next == first,
            })
            .map(|(outpoint, row)| (*outpoint, row.from));
        let own = contents
            .found
            .iter()
            .filter(|(_, row)| match row.next {
                None => segment.wallet,
                Some(next) => next == first,
            })
            .map(|(outpoint, row)| (*outpoint, row.height));
        let new = found.iter().map(|(outpoint, row)| (*outpoint, row.height));
        // A wallet's own output may be watched as well: the lowest height counts.
        let mut unspent: BTreeMap<OutPoint, u32> = BTreeMap::new();
        for (outpoint, height) in watched.chain(own).chain(new) {
            if !contents.spends.contains_key(&outpoint) {
                let at = unspent.entry(outpoint).or_insert(height);
                *at = height.min(*at);
            }
        }
        unspent.into_iter().collect()
    }

    /// Spends of these outpoints in these blocks.
    async fn find_spends(
        &self,
        blocks: &Arc<Vec<FetchedBlock>>,
        unspent: Vec<Unspent>,
        found: &[Find],
    ) -> Result<Vec<(OutPoint, Spend)>, Interrupted> {
        if unspent.is_empty() {
            return Ok(Vec::new());
        }
        let hits = {
            let blocks = blocks.clone();
            off_worker(move || match_spends(&unspent, &blocks)).await
        };
        let hits =
            hits.map_err(|(block, source)| self.bad_filter(blocks, block, "spent", source))?;
        let known = self.state.contents.found.iter();
        let new = found.iter().map(|(outpoint, row)| (outpoint, row));
        let keys: HashMap<OutPoint, [u8; 8]> = known
            .chain(new)
            .filter_map(|(outpoint, row)| Some((*outpoint, *row.key.first_chunk()?)))
            .collect();
        // Hits of one chunk of columns come one after the other, as they take one request.
        let chunk = |height: u32| match self.server.is_native() {
            true => height / CHUNK_BLOCKS,
            false => height,
        };
        let mut chunks: BTreeMap<u32, Vec<SpentHit>> = BTreeMap::new();
        for hit in hits {
            chunks.entry(chunk(hit.height)).or_default().push(hit);
        }
        let spends: Vec<Vec<(OutPoint, Spend)>> = futures::stream::iter(chunks.into_values())
            .map(|hits| self.confirm_all(hits, blocks, &keys))
            .buffered(self.settings.concurrency.clamp(1, MAX_ROWS_IN_FLIGHT))
            .try_collect()
            .await?;
        // In order of height: of an outpoint that seems to be spent twice (8-byte items may collide) the first counts.
        let mut first = BTreeMap::new();
        for (outpoint, spend) in spends.into_iter().flatten() {
            first.entry(outpoint).or_insert(spend);
        }
        Ok(first.into_iter().collect())
    }

    async fn confirm_all(
        &self,
        hits: Vec<SpentHit>,
        blocks: &Arc<Vec<FetchedBlock>>,
        keys: &HashMap<OutPoint, [u8; 8]>,
    ) -> Result<Vec<(OutPoint, Spend)>, Interrupted> {
        let mut spends = Vec::new();
        for hit in hits {
            spends.extend(self.confirm_spends(hit, blocks, keys).await?);
        }
        Ok(spends)
    }

    /// Asks which of the matches are real, and who spent them.
    async fn confirm_spends(
        &self,
        hit: SpentHit,
        blocks: &Arc<Vec<FetchedBlock>>,
        keys: &HashMap<OutPoint, [u8; 8]>,
    ) -> Result<Vec<(OutPoint, Spend)>, Interrupted> {
        match &self.server {
            Server::V1(oracle) => self.spends_by_index(oracle, hit, blocks).await,
            Server::Native { .. } => self.spends_in_columns(hit, blocks, keys).await,
        }
    }

    /// By the spent index of version 1.
    async fn spends_by_index(
        &self,
        oracle: &Arc<dyn Oracle>,
        hit: SpentHit,
        blocks: &Arc<Vec<FetchedBlock>>,
    ) -> Result<Vec<(OutPoint, Spend)>, Interrupted> {
        let index = oracle.spent_index(hit.height).await?;
        if index.block_hash.is_some_and(|hash| hash != hit.block_hash) {
            return Err(changed(
                hit.height,
                "blocks of the spent filter and of the spent index",
            ));
        }
        // The filter is one of exactly these items, and has one form.
        let (blocks, items) = (blocks.clone(), index.items);
        let (fits, items) = off_worker(move || {
            let built = spent_filter(&hit.block_hash, &items);
            let mut blocks = blocks.iter();
            let fits = blocks.any(|b| b.height == hit.height && b.spent() == built);
            (fits, items.into_iter().collect::<HashSet<[u8; 8]>>())
        })
        .await;
        if !fits {
            return Err(changed(
                hit.height,
                "the spent filter is not that of the spent index",
            ));
        }
        let spent: Vec<OutPoint> = hit
            .matched
            .into_iter()
            .filter(|outpoint| items.contains(&spent_item(outpoint, &hit.block_hash)))
            .collect();
        if spent.is_empty() {
            return Ok(Vec::new());
        }
        let details = self.details(hit.height, &hit.block_hash).await?;
        Ok(spent
            .into_iter()
            .map(|outpoint| {
                let mut spend = Spend {
                    height: hit.height,
                    block_hash: hit.block_hash,
                    spending_txid: None,
                    input: None,
                    op_return: Vec::new(),
                };
                if let Some(details) = &details {
                    add_details(&outpoint, &mut spend, details);
                }
                (outpoint, spend)
            })
            .collect())
    }

    /// Who spent what in the block, where the server can tell.
    async fn details(
        &self,
        height: u32,
        block_hash: &BlockHash,
    ) -> Result<Option<SpendDetails>, Interrupted> {
        let details = match &self.server {
            Server::V1(oracle) => oracle.spend_details(height).await?,
            Server::Native { server, .. } => server.spend_details(height).await?,
        };
        match &details {
            Some(details) if details.block_hash != *block_hash => Err(changed(
                height,
                "blocks of the spent filter and of the spends",
            )),
            _ => Ok(details),
        }
    }

    /// Whether the server may be asked who spent what, which names the block.
    pub(super) fn tells_spenders(&self) -> bool {
        !self.server.is_native() || self.settings.ask_spenders
    }

    /// Fills in who spent what for spends found when the server could not tell, as far as it can now.
    pub(super) async fn complete_details(&mut self) -> Result<(), Interrupted> {
        let mut lacking: BTreeMap<(u32, BlockHash), Vec<(OutPoint, Spend)>> = BTreeMap::new();
        for (outpoint, spend) in &self.state.contents.spends {
            if spend.spending_txid.is_none() {
                let rows = lacking.entry((spend.height, spend.block_hash)).or_default();
                rows.push((*outpoint, spend.clone()));
            }
        }
        let mut completed = Vec::new();
        for ((height, block_hash), rows) in lacking {
            let Some(details) = self.details(height, &block_hash).await? else {
                break;
            };
            for (outpoint, mut spend) in rows {
                add_details(&outpoint, &mut spend, &details);
                completed.push((outpoint, spend));
            }
        }
        if !completed.is_empty() {
            self.state.apply(Change {
                spends: completed,
                ..Change::default()
            })?;
        }
        Ok(())
    }

    fn bad_filter(
        &self,
        blocks: &[FetchedBlock],
        block: usize,
        kind: &'static str,
        source: FilterError,
    ) -> Interrupted {
        match blocks.get(block) {
            Some(block) => ClientError::Filter {
                oracle: self.server.describe(),
                kind,
                height: block.height,
                block_hash: block.hash,
                source,
            }
            .into(),
            None => changed(0, "a filter of no block"),
        }
    }
}

/// Adds who spent the outpoint. A server may give the data of a transaction with only one of its inputs.
fn add_details(outpoint: &OutPoint, spend: &mut Spend, details: &SpendDetails) {
    let Some(detail) = details
        .spends
        .iter()
        .find(|detail| detail.outpoint == *outpoint)
    else {
        tracing::warn!(%outpoint, height = spend.height, "the server's spends lack an outpoint of its spent index");
        return;
    };
    spend.spending_txid = Some(detail.spending_txid);
    spend.input = Some(detail.input);
    spend.op_return = details
        .spends
        .iter()
        .filter(|other| other.spending_txid == detail.spending_txid)
        .map(|other| &other.op_return)
        .find(|data| !data.is_empty())
        .map(|data| data.to_vec())
        .unwrap_or_default();
}
