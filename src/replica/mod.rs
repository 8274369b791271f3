//! How does an index follow another one?
//!
//! [`Upstream`] is another spindex server, or what one has exported as files, in the place of a node: it says what the chain looks like, and gives rows instead of
//! blocks ([`RowSource`]). Nothing of it is taken on trust that can be checked without blocks: headers link to those that the
//! index has, carry the work that the rules ask for, and have the hash of every section; rows are made of these sections,
//! and what can be computed from rows is computed anew and held against the hashes (`record`).

mod record;
mod spends;

use std::collections::VecDeque;
use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;

use bitcoin::Network;
use futures::future::{BoxFuture, FutureExt};
use futures::stream::{self, BoxStream, StreamExt};
use tokio::task::JoinHandle;

use crate::BlockId;
use crate::chain::{BlockSource, BlockWithPrevouts, ChainError, TipSignal};
use crate::client::OracleError;
use crate::client::native::{
    Broken, EventSettings, Group, HeaderChain, NativeOracle, Next, Parts, follow_events, read_group,
};
use crate::curve::Engine;
use crate::index::{IndexError, RowSource, blocking};
use crate::store::{BlockRecord, BlockSpends, Keep, Snapshot, StoreError, TweakForm};
use crate::wire::native::Code;
use crate::wire::native::column::Column;

/// Groups of blocks that are read and computed while the next ones come.
const GROUPS_AHEAD: usize = 2;

/// Headers below the first new one that the rules for it can ask for: those since the last change of difficulty.
const HEADERS_BELOW: u32 = 2_016;

/// Another spindex server that an index is built from and follows, or what one has exported.
pub struct Upstream {
    server: Arc<NativeOracle>,
    engine: Arc<dyn Engine>,
    keep: Keep,
    tweak_form: TweakForm,
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Upstream").field(&self.server).finish()
    }
}

/// Heads of the chain over the columns that are not the same.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "at block {block} the head over all columns of {upstream} is {theirs}, and that of this index {ours}: the lists of some \
     block differ; compare them with `spindex check --against`"
)]
pub struct HeadsDiffer {
    /// Who has the other one.
    pub upstream: String,
    /// The block that both have.
    pub block: BlockId,
    /// Its head there, as hex.
    pub theirs: String,
    /// The index's, as hex.
    pub ours: String,
}

impl Upstream {
    /// An index of that kind, built from a server or exported files.
    pub fn new(
        server: impl Into<Arc<NativeOracle>>,
        engine: Arc<dyn Engine>,
        keep: Keep,
        tweak_form: TweakForm,
    ) -> Self {
        Self {
            server: server.into(),
            engine,
            keep,
            tweak_form,
        }
    }

    /// Holds the head of the chain over all columns at the index's tip against the server's there. `Ok(None)` where one of
    /// them has none, the server has another block, or both began at different heights; else the block up to which they agree.
    ///
    /// # Errors
    /// The disk fails, or the server; inside, that they differ.
    pub async fn agrees(
        &self,
        snapshot: &Snapshot,
    ) -> Result<Result<Option<BlockId>, HeadsDiffer>, IndexError> {
        let Some(tip) = snapshot.tip() else {
            return Ok(Ok(None));
        };
        let ours = match snapshot.block(tip.height)? {
            Some(block) => block.sections()?.head,
            None => None,
        };
        let info = self.server.info().await.map_err(chain_error)?;
        let is_same_start =
            snapshot.network() == Network::Bitcoin || info.first_height == snapshot.first_height();
        let links = self.server.links(tip.height).await.map_err(chain_error)?;
        let links = links.filter(|links| links.block == tip && is_same_start);
        let theirs = links.and_then(|links| links.columns_head);
        Ok(match (ours, theirs) {
            (Some(ours), Some(theirs)) if ours != theirs => {
                use bitcoin::hex::DisplayHex;
                Err(HeadsDiffer {
                    upstream: self.server.describe(),
                    block: tip,
                    theirs: theirs.to_lower_hex_string(),
                    ours: ours.to_lower_hex_string(),
                })
            }
            (Some(_), Some(_)) => Ok(Some(tip)),
            _ => Ok(None),
        })
    }

    /// Has the server's events tell of new tips. To be called on a tokio runtime.
    pub fn tip_signal(self: &Arc<Self>) -> TipSignal {
        let upstream = self.clone();
        TipSignal::new(TipSignal::GATHER, |word| async move {
            let settings = EventSettings::default();
            follow_events(&upstream.server, settings, |_| word.give()).await;
        })
    }

    /// What an index of this kind is made of.
    fn columns(&self) -> &'static [Column] {
        match self.keep {
            Keep::Full => &[
                Column::Headers,
                Column::Tweaks,
                Column::Outputs,
                Column::Spends,
                Column::NewUtxos,
            ],
            Keep::Tweaks => &[Column::Headers, Column::Tweaks],
        }
    }

    /// The records of a group of parts. Blocks the calling thread.
    fn read(&self, url: &str, group: Group, first: u32) -> Result<Vec<BlockRecord>, OracleError> {
        let network = self.server.network();
        let blocks = read_group(url, network, self.columns(), group, first)?;
        record::records(
            url,
            self.engine.as_ref(),
            self.keep,
            self.tweak_form,
            blocks,
        )
    }
}

/// What it means for whoever waits for blocks.
fn chain_error(error: OracleError) -> ChainError {
    let text = error.to_string();
    match error {
        OracleError::Unreachable { .. } | OracleError::Busy { .. } => ChainError::Unreachable(text),
        OracleError::Declined { code, .. } => match code {
            Code::NotYetIndexed | Code::Busy | Code::Internal => ChainError::NotAvailable(text),
            _ => ChainError::Setup(text),
        },
        OracleError::UnknownHeight { .. }
        | OracleError::Refused { .. }
        | OracleError::NotInFiles { .. } => ChainError::NotAvailable(text),
        OracleError::Untrue { .. } | OracleError::Malformed { .. } | OracleError::File(_) => {
            ChainError::Mismatch(text)
        }
        OracleError::NotFound { .. } | OracleError::Redirected { .. } | OracleError::Setup(_) => {
            ChainError::Setup(text)
        }
    }
}

impl BlockSource for Upstream {
    fn describe(&self) -> String {
        let name = self.server.describe();
        match self.server.is_files() {
            true => format!("the exported files in {name}"),
            false => format!("the spindex server {name}"),
        }
    }

    fn check(&self, network: Network) -> BoxFuture<'_, Result<(), ChainError>> {
        async move {
            let info = self.server.info().await.map_err(chain_error)?;
            if self.server.shadows().await.map_err(chain_error)? {
                return Err(ChainError::Setup(format!(
                    "{} has another --upstream behind it, which only exported files can have: name these first",
                    self.describe()
                )));
            }
            if info.network != network {
                return Err(ChainError::Setup(format!(
                    "{} is of {}, and not of {network}: check --network and --upstream",
                    self.describe(),
                    info.network
                )));
            }
            if info.tweaks_only && self.keep == Keep::Full {
                return Err(ChainError::Setup(format!(
                    "{} keeps tweaks only: build an index of these (--keep tweaks), or name another --upstream",
                    self.describe()
                )));
            }
            Ok(())
        }
        .boxed()
    }

    fn tip(&self) -> BoxFuture<'_, Result<BlockId, ChainError>> {
        async move {
            let info = self.server.info().await.map_err(chain_error)?;
            Ok(info.tip)
        }
        .boxed()
    }

    fn block_at(&self, height: u32) -> BoxFuture<'_, Result<Option<BlockId>, ChainError>> {
        async move {
            let hash = self.server.block_hash(height).await.map_err(chain_error)?;
            Ok(hash.map(|hash| BlockId { height, hash }))
        }
        .boxed()
    }

    fn block(&self, id: BlockId) -> BoxFuture<'_, Result<BlockWithPrevouts, ChainError>> {
        let text = format!("block {id}: {} has rows and no blocks", self.describe());
        async { Err(ChainError::NotAvailable(text)) }.boxed()
    }
}

impl RowSource for Upstream {
    fn rows(
        self: Arc<Self>,
        below: Snapshot,
        heights: RangeInclusive<u32>,
    ) -> BoxStream<'static, Result<Vec<BlockRecord>, ChainError>> {
        let pass = Pass {
            upstream: self,
            below: Some(below),
            chain: None,
            parts: None,
            next: *heights.start(),
            asked: *heights.start(),
            last: *heights.end(),
            reading: VecDeque::new(),
        };
        stream::try_unfold(pass, |mut pass| async {
            let records = pass.next().await?;
            Ok(records.map(|records| (records, pass)))
        })
        .boxed()
    }

    fn spends(
        self: Arc<Self>,
        of: Vec<BlockId>,
    ) -> BoxFuture<'static, Vec<Result<BlockSpends, ChainError>>> {
        async move { spends::of_blocks(&self, &of).await }.boxed()
    }
}

type Reading = JoinHandle<Result<Vec<BlockRecord>, OracleError>>;

/// One way through some heights.
struct Pass {
    upstream: Arc<Upstream>,
    /// Until the chain below has been read from it.
    below: Option<Snapshot>,
    chain: Option<HeaderChain>,
    /// The answer that is being read.
    parts: Option<Parts>,
    /// Next height to be given out.
    next: u32,
    /// Next height to come.
    asked: u32,
    last: u32,
    /// Groups on their way from bytes to rows, in order.
    reading: VecDeque<Reading>,
}

impl Pass {
    async fn next(&mut self) -> Result<Option<Vec<BlockRecord>>, ChainError> {
        if self.next > self.last {
            return Ok(None);
        }
        while self.asked <= self.last && self.reading.len() < GROUPS_AHEAD {
            self.ask().await?;
        }
        let Some(reading) = self.reading.pop_front() else {
            return Ok(None);
        };
        let records = reading.await.map_err(broken)?.map_err(chain_error)?;
        let mut chain = self.chain().await?;
        for record in &records {
            if let Err(broken) = chain.take(record.id.height, &record.header) {
                let (upstream, id) = (self.upstream.describe(), record.id);
                let what = match broken {
                    Broken::Link => "it is not on top of the block before".to_owned(),
                    Broken::Rule(what) => what,
                };
                let text = format!("block {id} of {upstream} breaks a rule of the chain: {what}");
                return Err(ChainError::Mismatch(text));
            }
        }
        self.chain = Some(chain);
        self.next = records
            .last()
            .map_or(self.next, |record| record.id.height.saturating_add(1));
        Ok(Some(records))
    }

    /// Takes the next group, and starts to read it.
    async fn ask(&mut self) -> Result<(), ChainError> {
        let columns = self.upstream.columns();
        let server = &self.upstream.server;
        let mut parts = match self.parts.take() {
            Some(parts) => parts,
            None => {
                let range = server.range(columns, self.asked, self.last).await;
                range.map_err(chain_error)?
            }
        };
        let group = match parts.next(columns).await.map_err(chain_error)? {
            Next::Group(group) => group,
            Next::Cut(reason) => {
                let text = format!("{} broke off: {reason}", parts.url());
                return Err(ChainError::Unreachable(text));
            }
            Next::End(reached) => {
                let text = format!(
                    "{} ended at block {reached}, as its chain has changed meanwhile",
                    parts.url()
                );
                return Err(ChainError::NotAvailable(text));
            }
        };
        let first = self.asked;
        let blocks = group.blocks();
        self.asked = first.saturating_add(blocks);
        if blocks == 0 || self.asked > self.last.saturating_add(1) {
            let text = format!("{} has other blocks than were asked for", parts.url());
            return Err(ChainError::Mismatch(text));
        }
        let (upstream, url) = (self.upstream.clone(), parts.url());
        let read = move || upstream.read(&url, group, first);
        self.reading.push_back(tokio::task::spawn_blocking(read));
        self.parts = Some(parts).filter(|_| self.asked <= self.last);
        Ok(())
    }

    /// What is known of the chain below the next block.
    async fn chain(&mut self) -> Result<HeaderChain, ChainError> {
        if let Some(chain) = self.chain.take() {
            return Ok(chain);
        }
        let (below, next) = (self.below.take(), self.next);
        let network = self.upstream.server.network();
        let read = move || -> Result<HeaderChain, StoreError> {
            let mut chain = HeaderChain::new(network);
            let Some(below) = below else {
                return Ok(chain);
            };
            let first = below.first_height().max(next.saturating_sub(HEADERS_BELOW));
            for height in first..next {
                if let Some(block) = below.block(height)? {
                    // It is in the index: only what comes is judged.
                    let _ = chain.take(height, block.header());
                }
            }
            Ok(chain)
        };
        let read = blocking(read).await.map_err(|error| broken_text(&error))?;
        read.map_err(|error| broken_text(&error))
    }
}

fn broken(error: tokio::task::JoinError) -> ChainError {
    broken_text(&error)
}

fn broken_text(error: &dyn fmt::Display) -> ChainError {
    ChainError::Mismatch(format!("the chain below could not be read: {error}"))
}
