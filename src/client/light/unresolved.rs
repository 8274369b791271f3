//! Filter matches that the server lists no output for, and asking for them again.
//!
//! A version 1 server forgets a transaction once all its taproot outputs are spent. A payment that was spent when the scan
//! came to its block so shows as a match of the filter and nothing else. It is of no use to the wallet, unless the block
//! that spent it is disconnected: then the server lists it again. So each such block is kept with the server's tip at the
//! time, and as long as that tip is in the chain, so is what spent the output. However long ago that was: the chain may have
//! been reorganised right after it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use bitcoin::BlockHash;

use super::super::TweakQuery;
use super::super::native::{HeaderChain, NativeBlock};
use super::super::state::{Change, KEPT_HASHES, UnresolvedRow};
use super::fetch::{FetchedBlock, Fetcher};
use super::matching::Find;
use super::reorg::changed;
use super::server::Server;
use super::streams::Wanted;
use super::{Interrupted, Member, Pass, WalletsClient, matching};
use crate::wire::native::column::CHUNK_BLOCKS;

/// Blocks of which it is known whether they are in the server's chain.
type Known = HashMap<(u32, BlockHash), bool>;

impl WalletsClient {
    /// Scans the blocks again whose matches the server may be able to resolve by now.
    pub(super) async fn ask_again(&mut self, tip: u32) -> Result<(), Interrupted> {
        let mut known = Known::new();
        let (mut members, mut only) = (Vec::new(), Vec::new());
        for at in 0..self.members.len() {
            let heights = self.heights_to_ask(at, tip, &mut known).await?;
            if !heights.is_empty() {
                members.push(at);
                only.push(heights);
            }
        }
        let heights: BTreeSet<u32> = only.iter().flatten().copied().collect();
        let Some(pass) = self.pass(members).await? else {
            return Ok(());
        };
        let pass = Pass {
            only: Some(Arc::new(only)),
            ..pass
        };
        tracing::info!(
            "asking again for outputs that the server did not list, in {} blocks",
            heights.len()
        );
        let oracle = match &self.server {
            Server::V1(oracle) => oracle.clone(),
            Server::Native { .. } => return self.resolve(&pass, heights).await,
        };
        let query = TweakQuery {
            dust_limit_sat: self.settings.dust_limit_sat,
            cut_through: self.settings.cut_through,
        };
        let mut fetcher = Fetcher::start(
            oracle,
            heights,
            Some(query),
            self.settings.concurrency.max(1),
        );
        loop {
            let blocks = fetcher
                .window(
                    self.settings.window_blocks.max(1),
                    self.settings.window_bytes,
                    matching::tweak_weight(&pass.scanner),
                    u32::MAX,
                    &mut |_| (),
                )
                .await?;
            if blocks.is_empty() {
                // Once a run is enough, also if it begins again.
                self.settings.ask_again = false;
                return Ok(());
            }
            self.ask_window(&pass, blocks, tip).await?;
        }
    }

    /// Scans whole chunks again in which something is unresolved, by columns: what a server of version 1 has forgotten is in
    /// them.
    async fn resolve(&mut self, pass: &Pass, heights: BTreeSet<u32>) -> Result<(), Interrupted> {
        let chunks: BTreeSet<u32> = heights.iter().map(|height| height / CHUNK_BLOCKS).collect();
        for chunk in chunks {
            let Server::Native { server, first, .. } = &self.server else {
                return Ok(());
            };
            let begin = (chunk * CHUNK_BLOCKS).max(*first);
            let last = begin | (CHUNK_BLOCKS - 1);
            let wanted = Wanted {
                heights: begin..=last.min(self.tip),
                from: begin,
                columns: NativeBlock::columns(true, self.settings.private),
                chain: HeaderChain::new(self.settings.network),
                room: self.settings.window_bytes,
            };
            let mut fetcher = Fetcher::stream(server.clone(), wanted);
            loop {
                let blocks = fetcher
                    .window(usize::MAX, usize::MAX, 0, u32::MAX, &mut |_| ())
                    .await?;
                if blocks.is_empty() {
                    break;
                }
                let asked = |block: &FetchedBlock| heights.contains(&block.height);
                let blocks: Vec<_> = blocks.into_iter().filter(asked).collect();
                self.ask_window(pass, blocks, self.tip).await?;
            }
        }
        Ok(())
    }

    /// Heights at which something of a wallet is unresolved and the answer may be another one by now: the server's tip
    /// when it was asked is no longer in the chain, or it is asked on request. Heights that will be scanned anyway are not
    /// among them.
    async fn heights_to_ask(
        &mut self,
        at: usize,
        tip: u32,
        known: &mut Known,
    ) -> Result<BTreeSet<u32>, Interrupted> {
        let mut heights = BTreeSet::new();
        let member = self.members.get(at).filter(|member| member.keys.is_some());
        let Some(member) = member else {
            return Ok(heights);
        };
        let contents = &member.state.contents;
        let is_native = self.server.is_native();
        if is_native && self.settings.private && !self.settings.ask_again {
            let blocks = contents.unresolved.len();
            if blocks > 0 {
                tracing::info!(
                    "{}{blocks} blocks are unresolved since a scan by version 1: --rescan finds what is in them, --ask-again \
                     too, and tells the server in which chunks they are",
                    member.prefix()
                );
            }
            return Ok(heights);
        }
        let scanned = contents.cursor.as_ref().map_or(0, |cursor| cursor.next);
        let mut in_chain = BTreeSet::new();
        for (height, row) in contents
            .unresolved
            .range(..scanned.min(tip.saturating_add(1)))
        {
            let is_settled = match row.asked_at {
                _ if self.settings.ask_again || is_native => false,
                None => false,
                Some((at, _)) if at > tip => false,
                Some(block @ (at, hash)) => {
                    let is_settled = match known.get(&block) {
                        Some(is_settled) => *is_settled,
                        None => {
                            let is_settled = self.server.block_hash(at).await? == Some(hash);
                            known.insert(block, is_settled);
                            is_settled
                        }
                    };
                    if is_settled {
                        in_chain.insert(block);
                    }
                    is_settled
                }
            };
            if !is_settled {
                heights.insert(*height);
            }
        }
        self.settle(at, &in_chain, tip)?;
        Ok(heights)
    }

    /// Gives rows with one of these blocks, which are in the chain, the highest of those that are too deep to be
    /// reorganised from now on, so that later there is one block to look for and not one for each scan that ever was.
    fn settle(
        &mut self,
        at: usize,
        in_chain: &BTreeSet<(u32, BlockHash)>,
        tip: u32,
    ) -> Result<(), Interrupted> {
        let deep = in_chain.iter().copied();
        let deep = deep.filter(|(at, _)| at.saturating_add(KEPT_HASHES) <= tip);
        let Some(highest) = deep.max() else {
            return Ok(());
        };
        let Some(member) = self.members.get_mut(at) else {
            return Ok(());
        };
        let rows = member.state.contents.unresolved.iter();
        let lower = rows.filter(|(_, row)| {
            let at = row.asked_at.filter(|at| in_chain.contains(at));
            at.is_some_and(|at| at < highest)
        });
        let unresolved: Vec<_> = lower
            .map(|(height, row)| {
                let row = UnresolvedRow {
                    asked_at: Some(highest),
                    ..row.clone()
                };
                (*height, Some(row))
            })
            .collect();
        if !unresolved.is_empty() {
            member.state.apply(Change {
                unresolved,
                ..Change::default()
            })?;
        }
        Ok(())
    }

    /// Scans a window of such blocks and stores what became of them. The spends of what is found are looked for from
    /// there on, since the scan has gone past.
    async fn ask_window(
        &mut self,
        pass: &Pass,
        blocks: Vec<FetchedBlock>,
        tip: u32,
    ) -> Result<(), Interrupted> {
        for (wallet, at) in pass.members.iter().enumerate() {
            let Some(member) = self.members.get(*at) else {
                continue;
            };
            let of_wallet = || blocks.iter().filter(|b| pass.takes(wallet, b.height));
            member.fits_stored(of_wallet())?;
            for block in of_wallet() {
                let row = member.state.contents.unresolved.get(&block.height);
                if row.is_some_and(|row| row.block_hash != block.hash) {
                    return Err(changed(block.height, "block hash and stored block hash"));
                }
            }
        }
        let blocks = Arc::new(blocks);
        let looked = self.find_outputs(pass, &blocks).await?;
        self.still_in_chain(&pass.members, &blocks, tip).await?;
        let mut changes = Vec::new();
        for (at, looked) in looked {
            let Some(member) = self.members.get(at) else {
                continue;
            };
            let known = &member.state.contents.found;
            let found = looked
                .found
                .into_iter()
                .filter(|(outpoint, _)| !known.contains_key(outpoint))
                .map(|(outpoint, mut row)| {
                    row.next = Some(row.height);
                    (outpoint, row)
                })
                .collect();
            let change = Change {
                found,
                unresolved: looked.unresolved,
                ..Change::default()
            };
            changes.push((at, change));
        }
        self.apply(changes)
    }

    /// With cut-through or a dust limit a tweak may be missing from the list, and with it the match: what was unresolved
    /// before stays so, less the transactions that were found now.
    pub(super) fn keep_what_was_not_asked(
        &self,
        member: &Member,
        blocks: &[FetchedBlock],
        found: &[Find],
        unresolved: &mut BTreeMap<u32, Option<UnresolvedRow>>,
    ) {
        if !self.settings.cut_through && self.settings.dust_limit_sat == 0 {
            return;
        }
        let contents = &member.state.contents;
        for block in blocks {
            let before = contents.unresolved.get(&block.height);
            let Some(before) = before.filter(|row| row.block_hash == block.hash) else {
                continue;
            };
            let resolved: BTreeSet<[u8; 33]> = found
                .iter()
                .filter(|(outpoint, row)| {
                    row.height == block.height && !contents.found.contains_key(outpoint)
                })
                .map(|(_, row)| row.tweak)
                .collect();
            let resolved = u32::try_from(resolved.len()).unwrap_or(u32::MAX);
            let row = unresolved.entry(block.height).or_default();
            let now = row.as_ref().map_or(0, |row| row.matches);
            let matches = now.max(before.matches.saturating_sub(resolved));
            *row = (matches > 0).then(|| UnresolvedRow {
                matches,
                ..before.clone()
            });
        }
    }

    /// The server's last block, `None` if it has changed between two answers.
    pub(super) async fn tip_block(&self) -> Result<Option<(u32, BlockHash)>, Interrupted> {
        let height = self.server.tip().await?;
        let hash = self.server.block_hash(height).await?;
        Ok(hash.map(|hash| (height, hash)))
    }
}
