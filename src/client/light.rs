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

mod error;
mod fetch;
mod first_block;
mod matching;
mod reorg;
mod unresolved;
mod window;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bitcoin::{Network, OutPoint};

use super::report::{Found, ScanReport, Unresolved, Watched};
use super::state::{Change, Coverage, Cursor, Identity, Labels, State, WalletId, WatchedRow};
use super::{Oracle, OracleError, OracleInfo, TweakQuery};
use crate::scan::Scanner;

pub use error::ClientError;
use error::Interrupted;
use fetch::Fetcher;

/// How often a scan begins again after a change of the chain without finishing a window in between.
const MAX_RESTARTS: u32 = 6;

/// Most blocks whose requests are in flight at the same time.
const MAX_CONCURRENCY: usize = 4096;

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
    /// Ask once more for everything that is unresolved ([`ScanReport::unresolved`]), not only for what a reorganisation
    /// may have changed.
    pub ask_again: bool,
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
    oracle: Arc<dyn Oracle>,
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
            .field("oracle", &self.oracle.describe())
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
            oracle,
            scanner: scanner.map(Arc::new),
            state,
            settings,
            watched,
            reorganised_above: None,
            restarts: 0,
            tip: 0,
        })
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
        let info = self.oracle.info().await?;
        self.check(&info)?;
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
                            oracle: self.oracle.describe(),
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
            ClientError::Oracle(OracleError::UnknownHeight { .. } | OracleError::Refused { .. })
        );
        is_refusal && self.oracle.tip().await.is_ok_and(|tip| tip < self.tip)
    }

    /// One pass to the end of the range; the server's last height.
    async fn run_once(
        &mut self,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<u32, Interrupted> {
        let tip = self.oracle.tip().await?;
        if tip > MAX_HEIGHT {
            return Err(OracleError::Malformed {
                url: self.oracle.describe(),
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
        self.complete_details().await?;
        Ok(tip)
    }

    /// Whether the server is of the right chain and has the list that is asked for.
    fn check(&self, info: &OracleInfo) -> Result<(), ClientError> {
        let oracle = || self.oracle.describe();
        if info.network != self.settings.network {
            return Err(ClientError::WrongNetwork {
                oracle: oracle(),
                expected: self.settings.network,
                actual: info.network,
            });
        }
        let lacks = |what, cure| {
            Err(ClientError::Unsupported {
                oracle: oracle(),
                what,
                cure,
            })
        };
        if info.tweaks_only {
            return lacks("no filters and no outputs", "use another server");
        }
        if self.scanner.is_none() {
            return Ok(());
        }
        let full = info.full_list || info.full_list_with_dust_limit;
        // Asked for a list it does not keep, a version 1 server answers that every block is empty.
        match (self.settings.cut_through, self.settings.dust_limit_sat > 0) {
            (true, _) if !info.cut_through => lacks(
                "no list of tweaks with cut-through",
                "scan without cut-through, or use another server",
            ),
            (false, _) if !full => lacks(
                "no full list of tweaks",
                "scan with cut-through, or use another server",
            ),
            (false, true) if !info.full_list_with_dust_limit => lacks(
                "no full list of tweaks with a dust limit",
                "scan without a dust limit or with cut-through, or use another server",
            ),
            _ => Ok(()),
        }
    }

    /// Brings the state in line with what this client is to look for: where to begin, and what must be looked at again.
    async fn prepare(&mut self, tip: u32) -> Result<(), Interrupted> {
        let coverage = Coverage {
            labels: self
                .scanner
                .as_ref()
                .map_or_else(Labels::default, |scanner| {
                    scanner.keys().labels.iter().map(|label| label.m).collect()
                }),
            dust_limit_sat: self.settings.dust_limit_sat,
            cut_through: self.settings.cut_through,
        };
        let mut roll_back_to = None;
        let before = self.state.contents.cursor.clone();
        let cursor = match before.clone() {
            None => {
                let first = match self.settings.from {
                    Some(from) => from,
                    None => self.first_height(tip).await?,
                };
                Cursor {
                    first,
                    next: first,
                    coverage,
                    unrecorded_below: None,
                }
            }
            Some(mut cursor) => {
                if let Some(from) = self.settings.from
                    && from < cursor.first
                {
                    tracing::info!("the stored scan began at {}, now from {from}", cursor.first);
                    cursor.first = from;
                    cursor.next = from;
                }
                if !cursor.coverage.covers(&coverage) {
                    tracing::info!(
                        "labels, dust limit or cut-through let this scan find more than the stored one: again from {}",
                        cursor.first
                    );
                    cursor.next = cursor.first;
                }
                if self.settings.rescan {
                    let again = self.settings.from.unwrap_or(cursor.first);
                    cursor.next = cursor.next.min(again);
                    roll_back_to = Some(i64::from(again) - 1);
                    tracing::info!("scanning again from block {}", cursor.next);
                }
                cursor.coverage = coverage;
                cursor
            }
        };
        self.has_something(&cursor, tip)?;
        // A beginning that the server does not have is not kept: every later scan would end there.
        let goes_back = before
            .as_ref()
            .is_none_or(|before| cursor.next < before.next);
        if goes_back && cursor.next <= tip {
            self.oracle.filters(cursor.next).await?;
        }
        let watched = self.rows(before.as_ref(), &cursor, tip).await?;
        // What is unresolved is taken back with the blocks, and stays until they are scanned.
        let unresolved = self.state.contents.unresolved.iter();
        let unresolved = unresolved.map(|(height, row)| (*height, Some(row.clone())));
        let unresolved = unresolved.collect();
        // What was found is taken back with the blocks, and stays. Its spends are looked for with the scan, or before.
        let found = self.state.contents.found.iter().map(|(outpoint, row)| {
            let mut row = row.clone();
            row.next = row.next.filter(|next| *next < cursor.next);
            (*outpoint, row)
        });
        let hashes = self.state.contents.hashes.iter();
        let hashes = hashes.map(|(height, hash)| (*height, *hash));
        // The hashes stay with it: by them it is seen whether its blocks are still in the chain.
        let (found, hashes) = match roll_back_to {
            Some(_) => (found.collect(), hashes.collect()),
            None => Default::default(),
        };
        self.state.apply(Change {
            roll_back_to,
            cursor: Some(cursor),
            hashes,
            found,
            watched,
            unresolved,
            ..Change::default()
        })?;
        // Once is enough, also if the run begins again.
        self.settings.rescan = false;
        Ok(())
    }

    /// Whether there is a block to scan, or has been one.
    fn has_something(&self, cursor: &Cursor, tip: u32) -> Result<(), ClientError> {
        let from = match self.settings.from {
            Some(from) if cursor.scanned_to().is_some() => from,
            _ if cursor.scanned_to().is_some() => return Ok(()),
            _ => cursor.first,
        };
        if from > tip {
            return Err(ClientError::BeyondTip {
                oracle: self.oracle.describe(),
                from,
                tip,
            });
        }
        match self.settings.to {
            Some(to) if to < from => Err(ClientError::EmptyRange { from, to }),
            _ => Ok(()),
        }
    }

    /// What changes in the rows of watched outpoints: those to follow from now on get one; those that are not, and went
    /// along with the wallet's scan, stay behind.
    async fn rows(
        &self,
        before: Option<&Cursor>,
        cursor: &Cursor,
        tip: u32,
    ) -> Result<Vec<(OutPoint, WatchedRow)>, Interrupted> {
        let known = &self.state.contents.watched;
        let mut from = self.settings.from;
        if from.is_none()
            && self.scanner.is_none()
            && self.watched.iter().any(|o| !known.contains_key(o))
        {
            // Where the scan of other outpoints began says nothing about these.
            from = Some(match before {
                Some(_) => self.first_height(tip).await?,
                None => cursor.first,
            });
        }
        let from = from.unwrap_or(cursor.first);
        let new = self.watched.iter().filter_map(|outpoint| {
            if known.get(outpoint).is_some_and(|row| row.from <= from) {
                return None;
            }
            let row = WatchedRow {
                from,
                next: (from < cursor.next).then_some(from),
            };
            Some((*outpoint, row))
        });
        let left = known.iter().filter_map(|(outpoint, row)| {
            if self.watched.contains(outpoint) || row.next.is_some() {
                return None;
            }
            // Blocks that are scanned again are taken back for these outpoints too.
            let next = before.map(|before| before.next.min(cursor.next).max(row.from));
            let row = WatchedRow {
                from: row.from,
                next,
            };
            Some((*outpoint, row))
        });
        Ok(new.chain(left).collect())
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

    /// Goes over a segment window by window. `progress` gets the last height fetched and the last one stored.
    async fn run_segment(
        &mut self,
        segment: &Segment,
        tip: u32,
        progress: &mut (dyn FnMut(u32, Option<u32>, &State) + Send),
    ) -> Result<(), Interrupted> {
        let query = (segment.wallet && self.scanner.is_some()).then_some(TweakQuery {
            dust_limit_sat: self.settings.dust_limit_sat,
            cut_through: self.settings.cut_through,
        });
        let mut fetcher = Fetcher::start(
            self.oracle.clone(),
            segment.first..=segment.last,
            query,
            self.settings.concurrency,
        );
        let tweak_weight = self
            .scanner
            .as_ref()
            .map_or(0, |scanner| matching::tweak_weight(scanner));
        let mut done = None;
        loop {
            let blocks = fetcher
                .window(
                    self.settings.window_blocks.max(1),
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

    fn report(&self, oracle_height: u32) -> ScanReport {
        let contents = &self.state.contents;
        let mut found: Vec<Found> = contents
            .found
            .iter()
            .map(|(outpoint, row)| Found {
                outpoint: *outpoint,
                value_sat: row.value_sat,
                key: row.key,
                k: row.k,
                label: row.label,
                tweak: row.tweak,
                height: row.height,
                block_hash: row.block_hash,
                spent: contents.spends.get(outpoint).cloned(),
            })
            .collect();
        found.sort_by_key(|found| (found.height, found.outpoint));
        let unspent = contents.found.iter();
        let unspent = unspent.filter(|(outpoint, _)| !contents.spends.contains_key(outpoint));
        let lagging = unspent.filter_map(|(_, row)| row.next);
        ScanReport {
            network: self.settings.network,
            from: contents.cursor.as_ref().map_or(0, |cursor| cursor.first),
            scanned_to: self.state.scanned_to(),
            oracle_height,
            reorganised_above: self.reorganised_above,
            // A server may claim any value.
            unspent_sat: found
                .iter()
                .filter(|found| found.spent.is_none())
                .fold(0, |sum, found| sum.saturating_add(found.value_sat)),
            found,
            spends_known_to: lagging.map(|next| next.saturating_sub(1)).min(),
            watched: self
                .followed()
                .map(|(outpoint, row)| Watched {
                    outpoint: *outpoint,
                    from: row.from,
                    to: match row.next {
                        Some(next) => next.checked_sub(1),
                        None => self.state.scanned_to(),
                    }
                    .filter(|to| *to >= row.from),
                    spend: contents.spends.get(outpoint).cloned(),
                })
                .collect(),
            unresolved: contents
                .unresolved
                .iter()
                .map(|(height, row)| Unresolved {
                    height: *height,
                    block_hash: row.block_hash,
                    matches: row.matches,
                })
                .collect(),
            unresolved_unknown_below: contents
                .cursor
                .as_ref()
                .and_then(|cursor| cursor.unrecorded_below),
        }
    }
}
