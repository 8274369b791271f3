//! A server of the native protocol: columns of consecutive blocks, many with one request, nothing of them on trust.
//!
//! Whatever comes is held against the headers column it came with, which has the SHA-256 of every other section
//! (`group`), headers against each other and against the work they claim (`headers`), lists against the counts beside
//! them (`block`). What is left to lie about stands in `docs/trust.md`.

mod answer;
mod block;
mod chunk;
mod events;
mod group;
mod headers;
mod parts;

use std::fmt;
use std::sync::Arc;

use bitcoin::{BlockHash, Network};
use futures::future::BoxFuture;

use super::http::HttpOracle;
use super::{Oracle, OracleError, SpendDetails};
use crate::wire::native::column::Column;
use crate::wire::native::{Code, Info, Links, PREFIX};

pub use answer::check_answer;
pub(crate) use answer::{Reached, read_blocks};
pub(crate) use block::NativeBlock;
use chunk::Cache;
pub(crate) use chunk::Section;
pub use events::{EventSettings, follow_events};
#[cfg(feature = "index")]
pub(crate) use group::untrue;
pub(crate) use group::{Raw, read_group};
pub(crate) use headers::{Broken, HeaderChain};
#[cfg(feature = "index")]
pub(crate) use parts::Part;
pub(crate) use parts::{Next, Parts};

/// Longest body of `info`.
const INFO_BYTES: usize = 64 << 10;

/// A server of the native protocol, of one network.
pub struct NativeOracle {
    http: Arc<HttpOracle>,
    network: Network,
    chunks: Cache,
}

impl fmt::Debug for NativeOracle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("NativeOracle").field(&self.http).finish()
    }
}

impl NativeOracle {
    /// The native protocol over a server that speaks it.
    pub fn new(http: Arc<HttpOracle>, network: Network) -> Self {
        Self {
            http,
            network,
            chunks: Cache::default(),
        }
    }

    /// Whether a server speaks the native protocol: it tells about itself in it.
    ///
    /// # Errors
    /// As all of [`Oracle`]; that there is no such route is none.
    pub async fn is_spoken_by(http: &HttpOracle) -> Result<bool, OracleError> {
        match http.get(&route("info"), INFO_BYTES).await {
            Ok(answer) => Ok(Info::decode(&answer.body).is_ok()),
            // Whoever is not let in learns nothing about routes.
            Err(
                error @ OracleError::Refused {
                    status: 401 | 403 | 407,
                    ..
                },
            ) => Err(error),
            Err(
                OracleError::NotFound { .. }
                | OracleError::Declined { .. }
                | OracleError::Refused { .. },
            ) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Its name, for logs and errors. No credentials.
    pub fn describe(&self) -> String {
        self.http.describe()
    }

    /// What it says of itself.
    ///
    /// # Errors
    /// As all of [`Oracle`].
    pub async fn info(&self) -> Result<Info, OracleError> {
        let answer = self.http.get(&route("info"), INFO_BYTES).await?;
        Info::decode(&answer.body).map_err(|what| answer.malformed(what))
    }

    /// What the headers column has of a block; `None` where the chain of the server does not reach it.
    ///
    /// # Errors
    /// As all of [`Oracle`]; a header without the work it claims.
    pub(super) async fn header(&self, height: u32) -> Result<Option<Raw>, OracleError> {
        let columns = [Column::Headers];
        let mut parts = match self.range(&columns, height, height).await {
            Ok(parts) => parts,
            Err(OracleError::Declined {
                code: Code::NotYetIndexed,
                ..
            }) => return Ok(None),
            Err(error) => return Err(error),
        };
        match parts.next(&columns).await? {
            Next::Group(group) => {
                let raw = read_group(&parts.url(), self.network, &columns, &group, height)?;
                match parts.finish(&columns, raw.last().map(Raw::id)).await? {
                    Some(reason) => Err(parts.cut(1, reason)),
                    None => Ok(raw.into_iter().next()),
                }
            }
            Next::End(_) => Err(parts.malformed("an answer without blocks")),
            Next::Cut(reason) => Err(parts.cut(1, reason)),
        }
    }

    /// Hash of the block at a height, with the work it claims; `None` where the chain of the server does not reach it.
    ///
    /// # Errors
    /// As all of [`Oracle`]; a header without the work it claims.
    pub async fn block_hash(&self, height: u32) -> Result<Option<BlockHash>, OracleError> {
        let block = self.header(height).await?;
        Ok(block.map(|block| block.hash))
    }

    /// What the chains of hashes say at a height; `None` where they do not reach, or the server does not tell.
    pub(crate) async fn links(&self, height: u32) -> Result<Option<Links>, OracleError> {
        match self.http.commitments(height).await {
            Err(OracleError::Declined {
                code: Code::NotYetIndexed | Code::NeverIndexed | Code::NotKept,
                ..
            }) => Ok(None),
            links => links,
        }
    }

    /// Columns of the blocks between two heights, or up to the tip; `headers` is the first of them.
    pub(crate) async fn range(
        &self,
        columns: &[Column],
        from: u32,
        to: u32,
    ) -> Result<Parts, OracleError> {
        let names = names(columns);
        let route = route(&format!("range/{names}?from={from}&to={to}"));
        Ok(Parts::new(self.http.open(&route).await?))
    }

    /// The network that its parts must name.
    pub(crate) fn network(&self) -> Network {
        self.network
    }

    /// The wait before an attempt, after so many in a row that failed; `None` if there were enough.
    pub(super) fn wait(&self, failed: u32) -> Option<std::time::Duration> {
        (failed < self.http.attempts()).then(|| self.http.delay(failed))
    }

    /// Who spent what in a block, by version 1 of the interface: this names the block.
    pub(super) fn spend_details(
        &self,
        height: u32,
    ) -> BoxFuture<'_, Result<Option<SpendDetails>, OracleError>> {
        self.http.spend_details(height)
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
