//! One window of blocks: the outputs of wallets, then the spends, then a commit for each of them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use bitcoin::{BlockHash, OutPoint};
use futures::{StreamExt, TryStreamExt};
use rayon::prelude::*;

use super::super::report::Spend;
use super::super::state::{Change, UnresolvedRow};
use super::super::{Oracle, OracleUtxo, SpendDetails, off_worker};
use super::fetch::FetchedBlock;
use super::matching::{Find, Hit, SpentHit, Unspent, confirm, match_outputs, match_spends};
use super::member::first_spends;
use super::reorg::changed;
use super::server::Server;
use super::walk::Segment;
use super::{ClientError, Interrupted, Pass, WalletsClient};
use crate::filter::{FilterError, spent_filter, spent_item};
use crate::wire::native::column::CHUNK_BLOCKS;

/// Blocks whose outputs or spends are fetched at the same time: their answers may be tens of megabytes.
const MAX_ROWS_IN_FLIGHT: usize = 8;

/// What a scan of some blocks has come to for a wallet.
#[derive(Default)]
pub(super) struct Looked {
    pub(super) found: Vec<Find>,
    /// For each block what is unresolved in it.
    pub(super) unresolved: Vec<(u32, Option<UnresolvedRow>)>,
}

impl WalletsClient {
    /// Works a window through and stores it, for each member of the segment by itself. Nothing of it is stored if anything
    /// fails before.
    pub(super) async fn run_window(
        &mut self,
        segment: &Segment,
        pass: Option<&Pass>,
        blocks: Vec<FetchedBlock>,
        tip: u32,
    ) -> Result<(), Interrupted> {
        let Some(first) = blocks.first().map(|block| block.height) else {
            return Ok(());
        };
        let (mut members, mut scanning) = (Vec::new(), Vec::new());
        for share in &segment.shares {
            if let Some(member) = self.members.get(share.member) {
                member.fits_stored(&blocks)?;
            }
            members.push(share.member);
            if share.scans {
                scanning.push(share.member);
            }
        }
        let blocks = Arc::new(blocks);
        let mut looked = match pass {
            Some(pass) => self.find_outputs(pass, &blocks).await?,
            None => BTreeMap::new(),
        };
        let mut unspent: BTreeMap<usize, Unspent> = BTreeMap::new();
        for share in &segment.shares {
            if let Some(member) = self.members.get(share.member) {
                let found = looked.get(&share.member);
                let found = found.map_or(&[][..], |looked| &looked.found);
                let of_member = member.unspent(share.scans, first, found);
                unspent.insert(share.member, of_member);
            }
        }
        let spends = self.find_spends(&blocks, &unspent, &looked).await?;
        self.still_in_chain(&members, &blocks, tip).await?;
        let mut heads = self.heads(&scanning, &blocks).await?;
        let mut changes = Vec::new();
        for share in &segment.shares {
            let at = share.member;
            if let (Some(member), Some(unspent)) = (self.members.get(at), unspent.get(&at)) {
                let looked = looked.remove(&at).unwrap_or_default();
                let spends = first_spends(unspent, &spends);
                let change = Change {
                    heads: heads.remove(&at).unwrap_or_default(),
                    ..member.change(share.scans, &blocks, looked, spends)
                };
                changes.push((at, change));
            }
        }
        self.apply(changes)
    }

    /// What is in these blocks for the members of a pass, and what the server lists nothing for.
    pub(super) async fn find_outputs(
        &self,
        pass: &Pass,
        blocks: &Arc<Vec<FetchedBlock>>,
    ) -> Result<BTreeMap<usize, Looked>, Interrupted> {
        match &self.server {
            Server::V1(oracle) => self.find_listed(oracle, pass, blocks).await,
            Server::Native { .. } => self.find_in_columns(pass, blocks).await,
        }
    }

    async fn find_listed(
        &self,
        oracle: &Arc<dyn Oracle>,
        pass: &Pass,
        blocks: &Arc<Vec<FetchedBlock>>,
    ) -> Result<BTreeMap<usize, Looked>, Interrupted> {
        let hits = {
            let (scanner, blocks) = (pass.scanner.clone(), blocks.clone());
            off_worker(move || match_outputs(&scanner, &blocks)).await
        };
        let mut hits =
            hits.map_err(|(block, source)| self.bad_filter(blocks, block, "new-utxos", source))?;
        hits.retain_mut(|hit| {
            hit.matched
                .retain(|wallet, _| pass.takes(*wallet, hit.height));
            !hit.matched.is_empty()
        });
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
        // Of each wallet of the pass.
        let known: Vec<HashSet<(BlockHash, [u8; 32])>> = pass
            .members
            .iter()
            .filter_map(|at| self.members.get(*at))
            .map(|member| {
                let found = member.state.contents.found.values();
                found.map(|row| (row.block_hash, row.key)).collect()
            })
            .collect();
        let scanner = pass.scanner.clone();
        let confirmed = off_worker(move || {
            let wallets = fetched
                .par_iter()
                .flat_map_iter(|(hit, utxos)| hit.matched.keys().map(move |w| (*w, hit, utxos)));
            let confirmed = wallets.map(|(wallet, hit, utxos)| {
                let known = known.get(wallet);
                let is_known = |key: &[u8; 32]| {
                    known.is_some_and(|known| known.contains(&(hit.block_hash, *key)))
                };
                let confirmed = confirm(&scanner, wallet, hit, utxos, is_known);
                let confirmed = confirmed.map_err(|source| ClientError::Unverified {
                    height: hit.height,
                    source,
                })?;
                Ok((wallet, hit.height, hit.block_hash, confirmed))
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
        let mut unresolved: Vec<BTreeMap<u32, Option<UnresolvedRow>>> = (0..pass.members.len())
            .map(|wallet| {
                let heights = blocks.iter().map(|block| block.height);
                let heights = heights.filter(|height| pass.takes(wallet, *height));
                heights.map(|height| (height, None)).collect()
            })
            .collect();
        let mut found: Vec<Vec<Find>> = vec![Vec::new(); pass.members.len()];
        for (wallet, height, block_hash, confirmed) in confirmed {
            let (Some(found), Some(unresolved)) =
                (found.get_mut(wallet), unresolved.get_mut(wallet))
            else {
                continue;
            };
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
        let mut looked = BTreeMap::new();
        for ((at, found), mut unresolved) in pass.members.iter().zip(found).zip(unresolved) {
            if let Some(member) = self.members.get(*at) {
                self.keep_what_was_not_asked(member, blocks, &found, &mut unresolved);
            }
            let of_wallet = Looked {
                found,
                unresolved: unresolved.into_iter().collect(),
            };
            looked.insert(*at, of_wallet);
        }
        Ok(looked)
    }

    /// Spends in these blocks of what members look for, in order of height.
    async fn find_spends(
        &self,
        blocks: &Arc<Vec<FetchedBlock>>,
        unspent: &BTreeMap<usize, Unspent>,
        looked: &BTreeMap<usize, Looked>,
    ) -> Result<Vec<(OutPoint, Spend)>, Interrupted> {
        let mut all = Unspent::new();
        for (outpoint, height) in unspent.values().flatten() {
            let at = all.entry(*outpoint).or_insert(*height);
            *at = (*height).min(*at);
        }
        if all.is_empty() {
            return Ok(Vec::new());
        }
        let hits = {
            let blocks = blocks.clone();
            off_worker(move || match_spends(&all, &blocks)).await
        };
        let hits =
            hits.map_err(|(block, source)| self.bad_filter(blocks, block, "spent", source))?;
        if hits.is_empty() {
            return Ok(Vec::new());
        }
        let members = unspent.keys().filter_map(|at| self.members.get(*at));
        let known = members.flat_map(|member| &member.state.contents.found);
        let new = looked.values().flat_map(|looked| &looked.found);
        let new = new.map(|(outpoint, row)| (outpoint, row));
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
        Ok(spends.into_iter().flatten().collect())
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
        let mut lacking: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (at, member) in self.members.iter().enumerate() {
            for (outpoint, spend) in &member.state.contents.spends {
                if spend.spending_txid.is_none() {
                    let rows = lacking.entry((spend.height, spend.block_hash)).or_default();
                    rows.push((at, *outpoint, spend.clone()));
                }
            }
        }
        let mut completed: BTreeMap<usize, Vec<(OutPoint, Spend)>> = BTreeMap::new();
        for ((height, block_hash), rows) in lacking {
            let Some(details) = self.details(height, &block_hash).await? else {
                break;
            };
            for (at, outpoint, mut spend) in rows {
                add_details(&outpoint, &mut spend, &details);
                completed.entry(at).or_default().push((outpoint, spend));
            }
        }
        let changes = completed.into_iter().map(|(at, spends)| {
            let change = Change {
                spends,
                ..Change::default()
            };
            (at, change)
        });
        self.apply(changes.collect())
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
