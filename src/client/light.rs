//! The range loop: fetch, scan, follow spends, resume.
//!
//! Blocks are taken in windows. Of each block the filters and the tweaks are fetched, many blocks at once; the
//! candidates of a whole window are computed in one batch and matched against the filters of all its blocks in
//! parallel; only where a filter matches are outputs fetched and put to the full rules. Then the window's spent
//! filters are asked for every outpoint that is known and unspent by then, and the spent index confirms. A window
//! ends with one commit.
//!
//! Servers answer by height, and the chain may change between two answers. So the filters, which name their block,
//! are fetched before everything else of a block, and near the tip the block hashes of a window are asked once more
//! after everything was fetched: then all of it is of one chain. What was stored of another chain is taken back.
//! Answers that cannot all be true of one block (fewer outputs in a filter than tweaks, a spent index that is not the
//! spent filter's) are taken for a change of the chain too, and are an error if they stay.
//!
//! What cannot be seen from here: a server that lies, and outputs below the dust limit asked for. Servers that forget
//! transactions whose taproot outputs are all spent (version 1 does) do not list payments received and spent before the
//! scan reached them: their filter matches, and there is nothing to fetch. Such matches are kept, reported, and asked for
//! again when a reorganisation may have revived the outputs. With cut-through even the match is missing.

mod columns;
mod error;
mod fetch;
mod first_block;
mod heads;
mod matching;
mod prepare;
mod reorg;
mod reporting;
mod server;
mod streams;
mod unresolved;
mod window;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bitcoin::{Network, OutPoint};

use super::native::{NativeBlock, NativeOracle};
use super::report::ScanReport;
use super::state::{Identity, State, WalletId, WatchedRow};
use super::{Oracle, OracleError, TweakQuery};
use crate::scan::Scanner;
use crate::wire::native::column::CHUNK_BLOCKS;

pub use error::ClientError;
use error::Interrupted;
use fetch::Fetcher;
use server::Server;
use streams::Wanted;

/// How often a scan begins again after a change of the chain without finishing a window in between.
const MAX_RESTARTS: u32 = 6;

/// Most blocks whose requests are in flight at the same time.
const MAX_CONCURRENCY: usize = 4096;

/// How many times the blocks of a window there are in one of the native protocol.
const NATIVE_WINDOW: usize = 16;

/// The highest height there can be: Bitcoin Core counts in signed 32-bit numbers.
const MAX_HEIGHT: u32 = i32::MAX as u32;

/// What is scanned, and with how much at once.
#[derive(Debug, Clone)]
pub struct LightSettings {
    /// The chain the server must be of.
    pub network: Network,
    /// First height. `None`: where an earlier scan began, or else the first block since taproot that the server has.
    pub from: Option<u32>,
    /// Last height; `None` or a height above it: the server's last block.
    pub to: Option<u32>,
    /// Only transactions whose highest taproot output reaches this, in satoshi; 0 for all.
    pub dust_limit_sat: u64,
    /// Ask for transactions with an unspent taproot output alone: quicker, and blind to what is spent already, also if a
    /// reorganisation revives it.
    pub cut_through: bool,
    /// Of a server of version 1: ask once more for everything that is unresolved ([`ScanReport::unresolved`]), not only for what a reorganisation
    /// may have changed.
    pub ask_again: bool,
    /// Of a server of the native protocol: fetch what a match would need of every block, so that no request depends on one.
    pub private: bool,
    /// Of a server of the native protocol: ask who spent what by version 1 of the interface, which names the block. Without
    /// it spenders are known by their place in the block, and by their txid where they carry a state id.
    pub ask_spenders: bool,
    /// Begin again at `from`, or where the scan began, once. Spends are looked for anew; outputs that were found stay,
    /// for a server may have forgotten them since.
    pub rescan: bool,
    /// Blocks whose requests are in flight at the same time, 1 to 4096; others count as the nearest of these.
    pub concurrency: usize,
    /// Most blocks in a window, at least 1.
    pub window_blocks: usize,
    /// Memory for the data of one window, about; as much is in use for what is fetched ahead.
    pub window_bytes: usize,
    /// Wait before a scan begins again because the chain has changed meanwhile; longer each time.
    pub settling: Duration,
}

impl LightSettings {
    /// Everything the server has, full list, with moderate use of network and memory.
    pub fn new(network: Network) -> Self {
        Self {
            network,
            from: None,
            to: None,
            dust_limit_sat: 0,
            cut_through: false,
            ask_again: false,
            private: false,
            ask_spenders: false,
            rescan: false,
            concurrency: 32,
            window_blocks: 256,
            window_bytes: 64 << 20,
            settling: Duration::from_millis(100),
        }
    }
}

/// Where a scan is, for a progress bar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// First height of this run.
    pub first: u32,
    /// Last height of this run.
    pub last: u32,
    /// Last height fetched.
    pub fetched: u32,
    /// Last height done and stored, `None` before the first.
    pub done: Option<u32>,
    /// Outputs found so far, earlier runs included.
    pub found: usize,
    /// Spends found so far, earlier runs included.
    pub spends: usize,
}

/// A light client over one server.
pub struct LightClient {
    server: Server,
    scanner: Option<Arc<Scanner>>,
    state: State,
    settings: LightSettings,
    /// Given with this client. The state may hold others, of earlier runs: they wait until they are given again.
    watched: BTreeSet<OutPoint>,
    /// Lowest height to which the chain was taken back.
    reorganised_above: Option<u32>,
    /// Restarts since the last stored window.
    restarts: u32,
    /// The server's last height when this pass began.
    tip: u32,
}

impl fmt::Debug for LightClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LightClient")
            .field("oracle", &self.server.describe())
            .field("state", &self.state)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// A range of heights over which the same things are looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Segment {
    first: u32,
    last: u32,
    /// Whether the wallet's scan goes over it.
    wallet: bool,
}

impl LightClient {
    /// A client for a wallet, for outpoints, or both. Of outpoints those in `watched` are followed and reported; others
    /// that the state holds stay there as they are, so that following them later goes on where it stopped. Only taproot
    /// outputs can be watched: the filters hold no others, and nothing tells whether an outpoint exists.
    ///
    /// # Errors
    /// Nothing to look for, an empty range, or a state of another wallet or network.
    pub fn new(
        oracle: Arc<dyn Oracle>,
        scanner: Option<Scanner>,
        watched: impl IntoIterator<Item = OutPoint>,
        state: State,
        settings: LightSettings,
    ) -> Result<Self, ClientError> {
        Self::of(Server::V1(oracle), scanner, watched, state, settings)
    }

    /// The same over a server of the native protocol. What matches need is asked of `follow_ups`, if it is another one: then
    /// `server` does not learn whether anything has matched.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn native(
        server: Arc<NativeOracle>,
        follow_ups: Option<Arc<NativeOracle>>,
        scanner: Option<Scanner>,
        watched: impl IntoIterator<Item = OutPoint>,
        state: State,
        settings: LightSettings,
    ) -> Result<Self, ClientError> {
        let server = Server::Native {
            follow_ups: follow_ups.unwrap_or_else(|| server.clone()),
            server,
            first: 0,
        };
        Self::of(server, scanner, watched, state, settings)
    }

    fn of(
        server: Server,
        scanner: Option<Scanner>,
        watched: impl IntoIterator<Item = OutPoint>,
        state: State,
        mut settings: LightSettings,
    ) -> Result<Self, ClientError> {
        settings.concurrency = settings.concurrency.clamp(1, MAX_CONCURRENCY);
        let expected = Identity {
            network: settings.network,
            wallet: scanner.as_ref().map(|scanner| WalletId::of(scanner.keys())),
        };
        if state.identity() != expected {
            return Err(ClientError::ForeignState {
                expected: expected.to_string(),
                actual: state.identity().to_string(),
            });
        }
        if let (Some(from), Some(to)) = (settings.from, settings.to)
            && from > to
        {
            return Err(ClientError::EmptyRange { from, to });
        }
        let watched: BTreeSet<OutPoint> = watched.into_iter().collect();
        if scanner.is_none() && watched.is_empty() {
            return Err(ClientError::NothingToDo);
        }
        Ok(Self {
            server,
            scanner: scanner.map(Arc::new),
            state,
            settings,
            watched,
            reorganised_above: None,
            restarts: 0,
            tip: 0,
        })
    }

    /// What the state has, without asking anybody.
    pub fn known(&self) -> ScanReport {
        self.report(self.tip)
    }

    /// The state, for instance to use it again with other settings.
    pub fn into_state(self) -> State {
        self.state
    }

    /// Scans up to the end of the range, storing each window, and reports everything found by this and earlier runs.
    ///
    /// May be called again to go on with newer blocks. If it fails, or is dropped, everything up to the last stored
    /// window stays.
    ///
    /// # Errors
    /// Anything that keeps a block from being scanned completely: no block is ever passed over.
    pub async fn run(
        &mut self,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<ScanReport, ClientError> {
        let for_wallet = self.scanner.is_some();
        self.server.check(&self.settings, for_wallet).await?;
        self.reorganised_above = None;
        self.restarts = 0;
        loop {
            let mut interrupted = match self.run_once(progress).await {
                Ok(oracle_height) => return Ok(self.report(oracle_height)),
                Err(interrupted) => interrupted,
            };
            if let Interrupted::Failed(error) = &interrupted
                && self.has_become_shorter(error).await
            {
                interrupted = reorg::changed(self.tip, "the server's chain has become shorter");
            }
            match interrupted {
                Interrupted::Failed(error) => return Err(*error),
                Interrupted::ChainChanged { height, what } => {
                    self.restarts += 1;
                    if self.restarts > MAX_RESTARTS {
                        return Err(ClientError::Contradiction {
                            oracle: self.server.describe(),
                            height,
                            what,
                        });
                    }
                    tracing::info!(height, "the chain changed during the scan ({what})");
                    // Polling is all there is: a server gives no signal when it has settled on a branch.
                    tokio::time::sleep(self.settings.settling.saturating_mul(self.restarts)).await;
                }
            }
        }
    }

    /// Whether a refusal may be due to blocks that the server had when the pass began and has no more.
    async fn has_become_shorter(&self, error: &ClientError) -> bool {
        let is_refusal = matches!(
            error,
            ClientError::Oracle(
                OracleError::UnknownHeight { .. }
                    | OracleError::Refused { .. }
                    | OracleError::Declined { .. }
            )
        );
        is_refusal && self.server.tip().await.is_ok_and(|tip| tip < self.tip)
    }

    /// One pass to the end of the range; the server's last height.
    async fn run_once(
        &mut self,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<u32, Interrupted> {
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
        while let Some(segment) = self.next_segment(target) {
            let first = *first.get_or_insert(segment.first);
            self.run_segment(&segment, tip, &mut |fetched, done, state: &State| {
                progress(Progress {
                    first,
                    last: target,
                    fetched,
                    done,
                    found: state.contents.found.len(),
                    spends: state.contents.spends.len(),
                });
            })
            .await?;
        }
        if let Server::Native { server, .. } = &self.server {
            self.compare_head(server).await?;
        }
        if self.tells_spenders() {
            self.complete_details().await?;
        }
        Ok(tip)
    }

    /// Rows of the outpoints that are followed.
    fn followed(&self) -> impl Iterator<Item = (&OutPoint, &WatchedRow)> {
        let rows = self.state.contents.watched.iter();
        rows.filter(|(outpoint, _)| self.watched.contains(outpoint))
    }

    /// The next heights to look at, up to `target`, in the order of heights.
    fn next_segment(&self, target: u32) -> Option<Segment> {
        let wallet_next = self.state.contents.cursor.as_ref()?.next;
        let nexts = || {
            let watched = self.followed().filter_map(|(_, row)| row.next);
            let found = self.state.contents.found.values();
            let found = found.filter_map(|row| row.next);
            watched.chain(found).chain([wallet_next])
        };
        let first = nexts().min()?;
        if first > target {
            return None;
        }
        let last = nexts()
            .filter(|next| *next > first)
            .min()
            .map_or(target, |next| target.min(next - 1));
        Some(Segment {
            first,
            last,
            wallet: first == wallet_next,
        })
    }

    /// Begins to fetch what a segment takes.
    async fn fetcher(&self, segment: &Segment) -> Result<Fetcher, Interrupted> {
        let for_wallet = segment.wallet && self.scanner.is_some();
        let (server, first) = match &self.server {
            Server::V1(oracle) => {
                let query = for_wallet.then_some(TweakQuery {
                    dust_limit_sat: self.settings.dust_limit_sat,
                    cut_through: self.settings.cut_through,
                });
                let heights = segment.first..=segment.last;
                let concurrency = self.settings.concurrency;
                return Ok(Fetcher::start(oracle.clone(), heights, query, concurrency));
            }
            Server::Native { server, first, .. } => (server, *first),
        };
        // Where the scan goes back for outputs found late, the server shall not learn in which block they are.
        let begin = match segment.wallet {
            true => segment.first,
            false => (segment.first / CHUNK_BLOCKS * CHUNK_BLOCKS).max(first),
        };
        let wanted = Wanted {
            heights: begin.min(segment.first)..=segment.last,
            from: segment.first,
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

    /// Goes over a segment window by window. `progress` gets the last height fetched and the last one stored.
    async fn run_segment(
        &mut self,
        segment: &Segment,
        tip: u32,
        progress: &mut (dyn FnMut(u32, Option<u32>, &State) + Send),
    ) -> Result<(), Interrupted> {
        let mut fetcher = self.fetcher(segment).await?;
        let tweak_weight = self
            .scanner
            .as_ref()
            .map_or(0, |scanner| matching::tweak_weight(scanner));
        let mut done = None;
        loop {
            let blocks = fetcher
                .window(
                    self.window_blocks(),
                    self.settings.window_bytes,
                    tweak_weight,
                    &mut |height| progress(height, done, &self.state),
                )
                .await?;
            let Some(last) = blocks.last().map(|block| block.height) else {
                return Ok(());
            };
            self.run_window(segment, blocks, tip).await?;
            self.restarts = 0;
            done = Some(last);
            progress(last, done, &self.state);
        }
    }
}
