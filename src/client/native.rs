//! A server of the native protocol: columns of consecutive blocks, many with one request, nothing of them on trust.
//!
//! Whatever comes is held against the headers column it came with, which has the SHA-256 of every other section
//! (`group`), headers against each other and against the work they claim (`headers`), lists against the counts beside
//! them (`block`). What is left to lie about stands in `docs/trust.md`.

mod answer;
mod block;
mod chunk;
mod events;
mod files;
mod group;
mod headers;
mod outpoint;
mod parts;
mod proof;

use std::fmt;
use std::sync::Arc;

use bitcoin::{BlockHash, Network};
use futures::future::{BoxFuture, FutureExt};
use tokio::sync::OnceCell;

use super::http::HttpOracle;
use super::{Oracle, OracleError, SpendDetails};
use crate::BlockId;
use crate::exported::Place;
use crate::wire::native::column::{CHUNK_BLOCKS, Column};
use crate::wire::native::{Code, Info, PREFIX};

pub use answer::check_answer;
pub(crate) use answer::{Reached, read_blocks};
pub(crate) use block::NativeBlock;
pub(crate) use chunk::Section;
use chunk::{Cache, Came, Chunk};
pub use events::{EventSettings, follow_events};
use files::{Exported, Location};
pub(crate) use group::Raw;
#[cfg(feature = "index")]
pub(crate) use group::{Group, read_group, untrue};
pub(crate) use headers::{Broken, HeaderChain};
pub(crate) use parts::{Next, Parts};

/// Longest body of `info`.
const INFO_BYTES: usize = 64 << 10;

/// What an address is one of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaks {
    /// A server of the native protocol.
    Native,
    /// A server of files, among them exported ones.
    Files,
    /// Neither.
    Neither,
}

/// What a server has, or exported files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Its chain.
    pub network: Network,
    /// The first height.
    pub first_height: u32,
    /// The last block.
    pub tip: BlockId,
    /// Whether it has tweaks alone: no outputs, no spends.
    pub tweaks_only: bool,
    /// The height from which on it knows who spends what; `None` if it does for all of its blocks.
    pub spenders_from: Option<u32>,
}

/// The head of the chain over the columns ([`SectionHashes::next_head`](crate::wire::native::section::SectionHashes::next_head))
/// at a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ColumnsHead {
    pub(crate) block: BlockId,
    /// `None` where there is none.
    pub(crate) columns_head: Option<[u8; 32]>,
}

/// A server of the native protocol, or what one has, exported as files; of one network.
pub struct NativeOracle {
    at: Location,
    /// What is there, once it is known.
    kind: OnceCell<Kind>,
    /// Who is asked for what files lack.
    behind: Option<Arc<NativeOracle>>,
    network: Network,
    chunks: Cache,
}

/// What answers.
enum Kind {
    Server(Arc<HttpOracle>),
    Files(Arc<Exported>),
}

impl fmt::Debug for NativeOracle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("NativeOracle")
            .field(&self.describe())
            .finish()
    }
}

impl NativeOracle {
    /// The native protocol over a server that speaks it.
    pub fn new(http: Arc<HttpOracle>, network: Network) -> Self {
        let kind = OnceCell::new_with(Some(Kind::Server(http.clone())));
        Self {
            kind,
            ..Self::at(http, network)
        }
    }

    /// The same, or exported files behind a server of files: which of the two is found out with the first request.
    pub fn at(http: Arc<HttpOracle>, network: Network) -> Self {
        Self::of(Location::Http(http), network)
    }

    /// Exported files in a place.
    pub fn files(place: Place, network: Network) -> Self {
        Self::of(Location::Place(Arc::new(place)), network)
    }

    fn of(at: Location, network: Network) -> Self {
        Self {
            at,
            kind: OnceCell::new(),
            behind: None,
            network,
            chunks: Cache::default(),
        }
    }

    /// The same with somebody behind it, if it turns out to be files: what of them is missing, broken or contradicts itself is
    /// named in the log and taken from there, as is what comes after their end. (A server has nobody behind it: what it
    /// says wrong is an error.)
    #[must_use]
    pub fn before(&self, behind: Arc<NativeOracle>) -> Self {
        let kind = match self.kind.get() {
            Some(Kind::Server(http)) => OnceCell::new_with(Some(Kind::Server(http.clone()))),
            _ => OnceCell::new(),
        };
        Self {
            at: self.at.clone(),
            kind,
            behind: Some(behind),
            network: self.network,
            chunks: Cache::default(),
        }
    }

    /// What there is at an address.
    ///
    /// # Errors
    /// As all of [`Oracle`]; that there is no such route is none.
    pub async fn spoken_by(http: &HttpOracle) -> Result<Speaks, OracleError> {
        let refused = match http.get(&route("info"), INFO_BYTES).await {
            Ok(answer) if Info::decode(&answer.body).is_ok() => return Ok(Speaks::Native),
            Ok(_) => None,
            // Whoever is not let in learns nothing about routes.
            Err(
                error @ OracleError::Refused {
                    status: 401 | 407, ..
                },
            ) => return Err(error),
            Err(
                error @ (OracleError::NotFound { .. }
                | OracleError::Declined { .. }
                | OracleError::Refused { .. }),
            ) => Some(error),
            Err(error) => return Err(error),
        };
        if files::are_at(http).await? {
            return Ok(Speaks::Files);
        }
        match refused {
            // Some say so of files that are not there, and some of whoever is not let in.
            Some(error @ OracleError::Refused { status: 403, .. }) => Err(error),
            _ => Ok(Speaks::Neither),
        }
    }

    /// Its name, for logs and errors. No credentials.
    pub fn describe(&self) -> String {
        self.at.describe()
    }

    /// Whether it is exported files, as far as that is known.
    pub fn is_files(&self) -> bool {
        matches!(self.at, Location::Place(_)) || matches!(self.kind.get(), Some(Kind::Files(_)))
    }

    /// Whether it is a server, and has somebody behind it, who is never asked.
    ///
    /// # Errors
    /// As all of [`Oracle`].
    pub async fn shadows(&self) -> Result<bool, OracleError> {
        Ok(self.behind.is_some() && matches!(self.kind().await?, Kind::Server(_)))
    }

    /// What answers, which is found out once.
    async fn kind(&self) -> Result<&Kind, OracleError> {
        let files = || {
            let files = Exported::new(self.at.clone(), self.network, self.behind.clone());
            Kind::Files(Arc::new(files))
        };
        let find = || async {
            let Location::Http(http) = &self.at else {
                return Ok(files());
            };
            match http.get(&route("info"), INFO_BYTES).await {
                Ok(_) => Ok(Kind::Server(http.clone())),
                Err(
                    error @ (OracleError::NotFound { .. }
                    | OracleError::Declined { .. }
                    | OracleError::Refused { .. }),
                ) => match files::are_at(http).await? {
                    true => Ok(files()),
                    false => Err(error),
                },
                Err(error) => Err(error),
            }
        };
        self.kind.get_or_try_init(find).await
    }

    /// What it has, asked anew.
    ///
    /// # Errors
    /// As all of [`Oracle`]; chunks of another length than those that are known here.
    pub fn info(&self) -> BoxFuture<'_, Result<Extent, OracleError>> {
        async move {
            match self.kind().await? {
                Kind::Server(http) => {
                    let answer = http.get(&route("info"), INFO_BYTES).await?;
                    let info = Info::decode(&answer.body).map_err(|what| answer.malformed(what))?;
                    if info.chunk_blocks != CHUNK_BLOCKS {
                        let other = info.chunk_blocks;
                        return Err(answer.malformed(format!(
                            "chunk_blocks is {other}, and this program knows chunks of {CHUNK_BLOCKS} blocks alone"
                        )));
                    }
                    Ok(Extent {
                        network: info.network,
                        first_height: info.first_height,
                        tip: info.tip,
                        tweaks_only: info.tweaks_only,
                        spenders_from: info.spenders_from,
                    })
                }
                Kind::Files(files) => files.extent().await,
            }
        }
        .boxed()
    }

    /// What the headers column has of a block; `None` where the chain of the server does not reach it.
    ///
    /// # Errors
    /// As all of [`Oracle`]; a header without the work it claims.
    pub(crate) async fn header(&self, height: u32) -> Result<Option<Raw>, OracleError> {
        let came = self.blocks(&[Column::Headers], height, height).await?;
        Ok(came.and_then(|came| came.blocks.into_iter().next()))
    }

    /// Columns of blocks of one chunk; `None` where the chain does not reach the last of them.
    fn blocks<'a>(
        &'a self,
        columns: &'a [Column],
        first: u32,
        last: u32,
    ) -> BoxFuture<'a, Result<Option<Came>, OracleError>> {
        async move {
            match self.kind().await? {
                Kind::Server(http) => {
                    let chunk = Chunk {
                        first,
                        last,
                        is_whole: false,
                    };
                    let came = self.ask(http, columns, chunk).await?;
                    Ok(came.filter(|came| came.blocks.len() as u32 > last - first))
                }
                Kind::Files(files) => files.blocks(columns, first, last).await,
            }
        }
        .boxed()
    }

    /// Hash of the block at a height, with the work it claims; `None` where the chain of the server does not reach it.
    ///
    /// # Errors
    /// As all of [`Oracle`]; a header without the work it claims.
    pub async fn block_hash(&self, height: u32) -> Result<Option<BlockHash>, OracleError> {
        let block = self.header(height).await?;
        Ok(block.map(|block| block.hash))
    }

    /// The head over the columns at a height; `None` where the chains of hashes do not reach, or the server does not tell.
    pub(crate) fn links(
        &self,
        height: u32,
    ) -> BoxFuture<'_, Result<Option<ColumnsHead>, OracleError>> {
        async move {
            let http = match self.kind().await? {
                Kind::Server(http) => http,
                Kind::Files(files) => return files.head(height).await,
            };
            match http.commitments(height).await {
                Err(OracleError::Declined {
                    code: Code::NotYetIndexed | Code::NeverIndexed | Code::NotKept,
                    ..
                }) => Ok(None),
                links => Ok(links?.map(|links| ColumnsHead {
                    block: links.block,
                    columns_head: links.columns_head,
                })),
            }
        }
        .boxed()
    }

    /// Columns of the blocks between two heights, or up to the tip; `headers` is the first of them.
    pub(crate) fn range<'a>(
        &'a self,
        columns: &'a [Column],
        from: u32,
        to: u32,
    ) -> BoxFuture<'a, Result<Parts, OracleError>> {
        async move {
            match self.kind().await? {
                Kind::Server(http) => {
                    let names = names(columns);
                    let route = route(&format!("range/{names}?from={from}&to={to}"));
                    Ok(Parts::new(http.open(&route).await?))
                }
                Kind::Files(files) => Exported::range(files, columns, from, to).await,
            }
        }
        .boxed()
    }

    /// Who tells what files do not, such as what happens to the chain: the server, or the first one behind these files; `None`
    /// where all are files.
    ///
    /// # Errors
    /// As all of [`Oracle`].
    fn teller(&self) -> BoxFuture<'_, Result<Option<Arc<HttpOracle>>, OracleError>> {
        async move {
            match self.kind().await? {
                Kind::Server(http) => Ok(Some(http.clone())),
                Kind::Files(files) => match files.behind() {
                    Some(behind) => behind.teller().await,
                    None => Ok(None),
                },
            }
        }
        .boxed()
    }

    /// The network that its parts must name.
    pub(crate) fn network(&self) -> Network {
        self.network
    }

    /// The wait before an attempt, after so many in a row that failed; `None` if there were enough.
    pub(super) fn wait(&self, failed: u32) -> Option<std::time::Duration> {
        match &self.at {
            Location::Http(http) => (failed < http.attempts()).then(|| http.delay(failed)),
            Location::Place(_) => None,
        }
    }

    /// Who spent what in a block, by version 1 of the interface: this names the block.
    ///
    /// # Errors
    /// As all of [`Oracle`]; files without a server behind them, as these do not tell.
    pub(super) fn spend_details(
        &self,
        height: u32,
    ) -> BoxFuture<'_, Result<Option<SpendDetails>, OracleError>> {
        async move {
            match self.kind().await? {
                Kind::Server(http) => http.spend_details(height).await,
                Kind::Files(files) => match files.behind() {
                    Some(behind) => behind.spend_details(height).await,
                    None => Err(OracleError::Setup(format!(
                        "{} has exported files, which say who spent something by its place in the block alone: scan without --ask-spenders, or name a server behind them",
                        self.describe()
                    ))),
                },
            }
        }
        .boxed()
    }
}

/// Below the base address of the server.
fn route(of: &str) -> String {
    format!("{}/{of}", PREFIX.trim_start_matches('/'))
}

fn names(columns: &[Column]) -> String {
    let names: Vec<&str> = columns.iter().map(|column| column.name()).collect();
    names.join(",")
}
