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
//! Several wallets may be looked for in one pass ([`WalletsClient`]): their blocks are fetched once, and the candidates of all
//! are computed together. Each has a state of its own, with a cursor of its own, and takes part from there on. States are
//! committed one after the other; whatever happens in between, each says for itself how far it is.
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
mod member;
mod one;
mod prepare;
mod reorg;
mod reporting;
mod server;
mod streams;
mod unresolved;
mod walk;
mod window;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bitcoin::{Network, OutPoint};

use super::native::NativeOracle;
use super::report::{Reports, WalletReport};
use super::state::State;
use super::{Oracle, OracleError, off_worker};
use crate::bip352::keys::ReceiverKeys;
use crate::curve::Engine;
use crate::scan::SharedScanner;

pub use error::ClientError;
use error::Interrupted;
use member::Member;
pub use one::LightClient;
use server::Server;

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
    /// Of a server of version 1: ask once more for everything that is [unresolved](super::ScanReport::unresolved), not only for
    /// what a reorganisation may have changed.
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
    /// Outputs found so far, by all wallets, earlier runs included.
    pub found: usize,
    /// Spends found so far, by all wallets, earlier runs included.
    pub spends: usize,
}

/// What one wallet of a [`WalletsClient`] is scanned with.
#[derive(Debug)]
pub struct WalletScan {
    /// By which reports and errors name it, if there are others.
    pub name: Option<String>,
    /// Its keys; `None` where only outpoints are watched.
    pub keys: Option<Arc<ReceiverKeys>>,
    /// Outpoints that are followed and reported with it. Others that the state holds stay there as they are, so that
    /// following them later goes on where it stopped. Only taproot outputs can be watched: the filters hold no others, and
    /// nothing tells whether an outpoint exists.
    pub watched: Vec<OutPoint>,
    /// Its progress and finds.
    pub state: State,
}

/// A light client for several wallets over one server, which share one download and one pass.
pub struct WalletsClient {
    server: Server,
    members: Vec<Member>,
    /// What computes; without a wallet nothing does.
    engine: Option<Arc<dyn Engine>>,
    /// The last pass, which the next one mostly is again.
    pass: Option<Pass>,
    settings: LightSettings,
    /// Restarts since the last stored window.
    restarts: u32,
    /// The server's last height when this pass began.
    tip: u32,
}

impl fmt::Debug for WalletsClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WalletsClient")
            .field("oracle", &self.server.describe())
            .field("members", &self.members)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// The wallets that blocks are scanned for.
#[derive(Clone)]
struct Pass {
    /// Their places among the members, in the order of the scanner's wallets.
    members: Vec<usize>,
    scanner: Arc<SharedScanner>,
    /// If blocks are scanned again, the heights at which each wallet asks for it.
    only: Option<Arc<Vec<BTreeSet<u32>>>>,
}

impl Pass {
    /// Whether the scan of a block is for the wallet with this place in the pass.
    fn takes(&self, wallet: usize, height: u32) -> bool {
        match &self.only {
            None => true,
            Some(only) => only.get(wallet).is_some_and(|only| only.contains(&height)),
        }
    }
}

impl WalletsClient {
    /// A client over a server of version 1.
    ///
    /// # Errors
    /// Nothing to look for, an empty range, one wallet twice, or a state of another wallet or network.
    pub fn new(
        oracle: Arc<dyn Oracle>,
        engine: Arc<dyn Engine>,
        wallets: Vec<WalletScan>,
        settings: LightSettings,
    ) -> Result<Self, ClientError> {
        Self::of(Server::V1(oracle), engine, wallets, settings)
    }

    /// The same over a server of the native protocol. What matches need is asked of `follow_ups`, if it is another one: then
    /// `server` does not learn whether anything has matched.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn native(
        server: Arc<NativeOracle>,
        follow_ups: Option<Arc<NativeOracle>>,
        engine: Arc<dyn Engine>,
        wallets: Vec<WalletScan>,
        settings: LightSettings,
    ) -> Result<Self, ClientError> {
        let server = Server::native(server, follow_ups);
        Self::of(server, engine, wallets, settings)
    }

    fn of(
        server: Server,
        engine: Arc<dyn Engine>,
        wallets: Vec<WalletScan>,
        settings: LightSettings,
    ) -> Result<Self, ClientError> {
        let members = wallets.into_iter().map(|wallet| Member {
            name: wallet.name,
            keys: wallet.keys,
            watched: wallet.watched.into_iter().collect(),
            state: wallet.state,
            reorganised_above: None,
        });
        let mut client = Self::over(server, members.collect(), settings)?;
        client.engine = Some(engine);
        Ok(client)
    }

    /// Without an engine yet.
    fn over(
        server: Server,
        members: Vec<Member>,
        mut settings: LightSettings,
    ) -> Result<Self, ClientError> {
        settings.concurrency = settings.concurrency.clamp(1, MAX_CONCURRENCY);
        if let (Some(from), Some(to)) = (settings.from, settings.to)
            && from > to
        {
            return Err(ClientError::EmptyRange { from, to });
        }
        if members.is_empty() {
            return Err(ClientError::NothingToDo);
        }
        for (at, member) in members.iter().enumerate() {
            let checked = member.check(settings.network);
            checked.map_err(|error| member.named(error))?;
            // Without keys they are outpoints, which one state is for.
            let wallet = member.state.identity().wallet;
            let mut before = members.iter().take(at);
            if let Some(other) = before.find(|other| other.state.identity().wallet == wallet) {
                return Err(ClientError::SameWallet {
                    first: other.describe(),
                    second: member.describe(),
                });
            }
        }
        Ok(Self {
            server,
            members,
            engine: None,
            pass: None,
            settings,
            restarts: 0,
            tip: 0,
        })
    }

    /// What the states have, without asking anybody; wallets in the order in which they were given.
    pub fn known(&self) -> Reports {
        let reports = self.members.iter().map(|member| WalletReport {
            wallet: member.name.clone(),
            report: member.report(self.settings.network, self.tip),
        });
        Reports(reports.collect())
    }

    /// The states, for instance to use them again with other settings.
    pub fn into_states(self) -> Vec<State> {
        self.members
            .into_iter()
            .map(|member| member.state)
            .collect()
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
    ) -> Result<Reports, ClientError> {
        let for_wallet = self.members.iter().any(|member| member.keys.is_some());
        self.server.check(&self.settings, for_wallet).await?;
        for member in &mut self.members {
            member.reorganised_above = None;
        }
        self.restarts = 0;
        loop {
            let mut interrupted = match self.run_once(progress).await {
                Ok(()) => return Ok(self.known()),
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

    /// The pass for these members, all of which have keys; `None` if there are none.
    async fn pass(&mut self, members: Vec<usize>) -> Result<Option<Pass>, ClientError> {
        let (Some(engine), false) = (&self.engine, members.is_empty()) else {
            return Ok(None);
        };
        if self
            .pass
            .as_ref()
            .is_none_or(|pass| pass.members != members)
        {
            // With many labels two take much memory.
            self.pass = None;
            let keys = members
                .iter()
                .filter_map(|at| self.members.get(*at)?.keys.clone());
            let (engine, keys) = (engine.clone(), keys.collect());
            let scanner = off_worker(move || SharedScanner::new(engine, keys)).await?;
            let scanner = Arc::new(scanner);
            self.pass = Some(Pass {
                members,
                scanner,
                only: None,
            });
        }
        Ok(self.pass.clone())
    }
}
