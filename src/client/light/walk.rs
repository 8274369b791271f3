//! The way through the blocks: from where the first wallet goes on, with each other one from where it does.

use super::super::OracleError;
use super::super::TweakQuery;
use super::super::native::NativeBlock;
use super::fetch::Fetcher;
use super::server::Server;
use super::streams::Wanted;
use super::{Interrupted, MAX_HEIGHT, Member, NATIVE_WINDOW, Progress, WalletsClient, matching};
use crate::wire::native::column::CHUNK_BLOCKS;

/// A range of heights over which the same things are looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) first: u32,
    pub(super) last: u32,
    pub(super) shares: Vec<Share>,
}

/// A member that has something to look for in a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Share {
    /// Its place among the members.
    pub(super) member: usize,
    /// Whether its scan goes over the segment; else outputs alone that lag behind it do.
    pub(super) scans: bool,
}

/// Blocks that are being fetched, for segments that follow each other.
struct Source {
    fetcher: Fetcher,
    /// Height of the next one.
    next: u32,
    /// Whether it comes with what a wallet needs.
    for_wallet: bool,
}

impl WalletsClient {
    /// One pass to the end of the range.
    pub(super) async fn run_once(
        &mut self,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<(), Interrupted> {
        let tip = self.server.tip().await?;
        if tip > MAX_HEIGHT {
            return Err(OracleError::Malformed {
                url: self.server.describe(),
                what: format!("a last block at height {tip}, which no chain has"),
            }
            .into());
        }
        self.tip = tip;
        self.take_back_stale(tip).await?;
        self.prepare(tip).await?;
        self.ask_again(tip).await?;
        let target = self.settings.to.map_or(tip, |to| to.min(tip));
        let mut first = None;
        let mut source: Option<Source> = None;
        let mut done = None;
        while let Some(segment) = self.next_segment(target) {
            let first = *first.get_or_insert(segment.first);
            let wallets = self.wallets_of(&segment);
            let for_wallet = !wallets.is_empty();
            let pass = self.pass(wallets).await?;
            let mut current = match source.take() {
                Some(source) if source.next == segment.first && source.for_wallet == for_wallet => {
                    source
                }
                _ => Source {
                    fetcher: self.fetcher(&segment, for_wallet, target).await?,
                    next: segment.first,
                    for_wallet,
                },
            };
            let weight = pass
                .as_ref()
                .map_or(0, |pass| matching::tweak_weight(&pass.scanner));
            let blocks = current
                .fetcher
                .window(
                    self.window_blocks(),
                    self.settings.window_bytes,
                    weight,
                    segment.last,
                    &mut |height| progress(self.progress(first, target, height, done)),
                )
                .await?;
            let Some(last) = blocks.last().map(|block| block.height) else {
                return Err(super::reorg::changed(
                    segment.first,
                    "a block that did not come",
                ));
            };
            self.run_window(&segment, pass.as_ref(), blocks, tip)
                .await?;
            self.restarts = 0;
            done = Some(last);
            progress(self.progress(first, target, last, done));
            current.next = last.saturating_add(1);
            source = Some(current);
        }
        if let Server::Native { server, .. } = &self.server {
            self.compare_heads(server).await?;
        }
        if self.tells_spenders() {
            self.complete_details().await?;
        }
        Ok(())
    }

    fn progress(&self, first: u32, last: u32, fetched: u32, done: Option<u32>) -> Progress {
        let contents = || self.members.iter().map(|member| &member.state.contents);
        Progress {
            first,
            last,
            fetched,
            done,
            found: contents().map(|contents| contents.found.len()).sum(),
            spends: contents().map(|contents| contents.spends.len()).sum(),
        }
    }

    /// The next heights to look at, up to `target`, in the order of heights.
    fn next_segment(&self, target: u32) -> Option<Segment> {
        let nexts = || self.members.iter().flat_map(Member::nexts);
        let first = nexts().min()?;
        if first > target {
            return None;
        }
        let last = nexts()
            .filter(|next| *next > first)
            .min()
            .map_or(target, |next| target.min(next - 1));
        let members = self.members.iter().enumerate();
        let shares = members.filter(|(_, member)| member.nexts().any(|next| next == first));
        let shares = shares.map(|(at, member)| Share {
            member: at,
            scans: member.next() == Some(first),
        });
        Some(Segment {
            first,
            last,
            shares: shares.collect(),
        })
    }

    /// The members with keys whose scan goes over a segment. Once there is one, it goes over all that follow.
    fn wallets_of(&self, segment: &Segment) -> Vec<usize> {
        let scanning = segment.shares.iter().filter(|share| share.scans);
        let scanning = scanning.map(|share| share.member);
        let has_keys = |at: &usize| self.members.get(*at).is_some_and(|m| m.keys.is_some());
        scanning.filter(has_keys).collect()
    }

    /// Begins to fetch what a segment takes, and those that follow up to `target` with the same columns.
    async fn fetcher(
        &self,
        segment: &Segment,
        for_wallet: bool,
        target: u32,
    ) -> Result<Fetcher, Interrupted> {
        let first = segment.first;
        let last = match for_wallet {
            true => target,
            false => {
                let wallets = self.members.iter().filter(|member| member.keys.is_some());
                let wallet = wallets.filter_map(Member::next).min();
                wallet.map_or(target, |next| target.min(next.saturating_sub(1)))
            }
        };
        let (server, server_first) = match &self.server {
            Server::V1(oracle) => {
                let query = for_wallet.then_some(TweakQuery {
                    dust_limit_sat: self.settings.dust_limit_sat,
                    cut_through: self.settings.cut_through,
                });
                let concurrency = self.settings.concurrency;
                return Ok(Fetcher::start(
                    oracle.clone(),
                    first..=last,
                    query,
                    concurrency,
                ));
            }
            Server::Native { server, first, .. } => (server, *first),
        };
        // Where the scan goes back for outputs found late, the server shall not learn in which block they are.
        let begin = match segment.shares.iter().any(|share| share.scans) {
            true => first,
            false => (first / CHUNK_BLOCKS * CHUNK_BLOCKS).max(server_first),
        };
        let begin = begin.min(first);
        let wanted = Wanted {
            heights: begin..=last,
            from: first,
            columns: NativeBlock::columns(for_wallet, self.settings.private),
            chain: self.chain_below(server, begin).await?,
            room: self.settings.window_bytes,
        };
        Ok(Fetcher::stream(server.clone(), wanted))
    }

    /// Most blocks of a window. Natively many come with one request, and each window takes a commit.
    fn window_blocks(&self) -> usize {
        let blocks = self.settings.window_blocks.max(1);
        match &self.server {
            Server::V1(_) => blocks,
            Server::Native { .. } => blocks.saturating_mul(NATIVE_WINDOW),
        }
    }
}

#[cfg(test)]
mod tests;
