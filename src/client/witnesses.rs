//! Several servers of one chain: whether they tell the same of it, and if not, from which block on and who.
//!
//! Heads are compared ([`SectionHashes::next_head`]), which stand for all columns up to a block: a few small requests that
//! tell nothing of a wallet. Indexes that begin at different heights have different heads, except on mainnet; of those the
//! hashes of blocks alone are compared.
//!
//! [`SectionHashes::next_head`]: crate::wire::native::section::SectionHashes::next_head

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bitcoin::hex::DisplayHex;
use bitcoin::{BlockHash, Network};
use futures::future::join_all;

use super::OracleError;
use super::native::NativeOracle;
use crate::wire::spcommit::MAINNET_FIRST_HEIGHT;

/// Blocks below the lowest tip in which servers may be on two branches for a while.
const UNSETTLED: u32 = 6;

/// How often servers are asked again that differ there, and the wait in between.
const ATTEMPTS: u32 = 5;
const SETTLING: Duration = Duration::from_secs(2);

/// What a server tells of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Claim {
    hash: Option<BlockHash>,
    head: Option<[u8; 32]>,
}

/// Servers that tell the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Party {
    /// Positions among the servers that were compared.
    pub servers: Vec<usize>,
    /// Their names.
    pub names: Vec<String>,
    claim: Claim,
}

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Claim { hash, head } = self.claim;
        write!(f, "{}: ", self.names.join(", "))?;
        match hash {
            Some(hash) => write!(f, "block {hash}")?,
            None => write!(f, "no block")?,
        }
        match head {
            Some(head) => write!(f, ", head {}", head.as_hex()),
            None => Ok(()),
        }
    }
}

/// The first block of which servers tell different things.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disagreement {
    /// Its height. If it is the first one that all have, they may differ below it.
    pub height: u32,
    /// Who tells the same; the larger ones first.
    pub parties: Vec<Party>,
}

impl Disagreement {
    /// Positions of the servers that tell what more than half of all tell.
    pub fn majority(&self) -> Option<&[usize]> {
        let all: usize = self.parties.iter().map(|party| party.servers.len()).sum();
        let largest = self.parties.first()?;
        (2 * largest.servers.len() > all).then_some(&largest.servers)
    }
}

impl fmt::Display for Disagreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the servers disagree from block {} on", self.height)?;
        for party in &self.parties {
            write!(f, "; {party}")?;
        }
        Ok(())
    }
}

/// Compares servers up to a height that all have, at most to `to`, where it is given. Exported files that cannot be read are
/// left out, with a warning.
///
/// # Errors
/// A server that cannot be asked.
pub async fn compare(
    all: &[Arc<NativeOracle>],
    to: Option<u32>,
) -> Result<Option<Disagreement>, OracleError> {
    let mut attempt = 1;
    loop {
        let asked = join_all(all.iter().map(|server| server.info())).await;
        let (mut servers, mut infos) = (Vec::new(), Vec::new());
        for (position, (info, server)) in asked.into_iter().zip(all).enumerate() {
            if let Some(info) = told(server, info)? {
                servers.push((position, server.as_ref()));
                infos.push(info);
            }
        }
        let Some(tip) = infos.iter().map(|info| info.tip.height).min() else {
            return Ok(None);
        };
        let firsts = || infos.iter().map(|info| info.first_height);
        let is_mainnet = infos.iter().all(|info| info.network == Network::Bitcoin);
        let first = firsts().max().unwrap_or_default();
        let comparison = Comparison {
            servers,
            heads: is_mainnet || firsts().min() == Some(first),
        };
        let first = match is_mainnet {
            true => first.max(MAINNET_FIRST_HEIGHT),
            false => first,
        };
        let top = to.map_or(tip, |to| to.min(tip));
        let found = comparison.first_difference(first.min(top), top).await?;
        let may_settle = found.as_ref().is_some_and(|found| {
            found.height.saturating_add(UNSETTLED) > tip && !found.is_of_one_block()
        });
        if !may_settle || attempt >= ATTEMPTS {
            return Ok(found);
        }
        // Polling is all there is: nobody tells when servers have settled on a branch.
        tokio::time::sleep(SETTLING).await;
        attempt += 1;
    }
}

impl Disagreement {
    fn is_of_one_block(&self) -> bool {
        let mut hashes = self.parties.iter().map(|party| party.claim.hash);
        let first = hashes.next();
        hashes.all(|hash| Some(hash) == first)
    }
}

/// What a server tells, or `None` for files that cannot be read: that is said, and whoever scans them says who has what they
/// lack.
fn told<T>(server: &NativeOracle, told: Result<T, OracleError>) -> Result<Option<T>, OracleError> {
    match told {
        Err(error) if server.is_files() => {
            let name = server.describe();
            tracing::warn!("{name} cannot be compared with other oracles: {error}");
            Ok(None)
        }
        told => told.map(Some),
    }
}

struct Comparison<'s> {
    /// With their positions.
    servers: Vec<(usize, &'s NativeOracle)>,
    /// Whether their heads can be compared.
    heads: bool,
}

impl Comparison<'_> {
    /// The first height in a range at which claims differ, if they do at its end. What differs at a block does above it.
    async fn first_difference(
        &self,
        first: u32,
        last: u32,
    ) -> Result<Option<Disagreement>, OracleError> {
        let Some(mut found) = self.at(last).await? else {
            return Ok(None);
        };
        // Heights of which nothing is known yet.
        let (mut same, mut different) = (first, last);
        while same < different {
            let middle = same + (different - same) / 2;
            match self.at(middle).await? {
                Some(earlier) => {
                    different = middle;
                    found = earlier;
                }
                None => same = middle + 1,
            }
        }
        Ok(Some(found))
    }

    /// How the servers differ at a height, if they do.
    async fn at(&self, height: u32) -> Result<Option<Disagreement>, OracleError> {
        let claims = self
            .servers
            .iter()
            .map(|(_, server)| self.claim(server, height));
        let claims = join_all(claims).await;
        let mut parties: BTreeMap<Claim, Party> = BTreeMap::new();
        for (claim, (position, server)) in claims.into_iter().zip(&self.servers) {
            let Some(claim) = told(server, claim)? else {
                continue;
            };
            let party = parties.entry(claim).or_insert_with(|| Party {
                servers: Vec::new(),
                names: Vec::new(),
                claim,
            });
            party.servers.push(*position);
            party.names.push(server.describe());
        }
        if parties.len() < 2 {
            return Ok(None);
        }
        let mut parties: Vec<Party> = parties.into_values().collect();
        parties.sort_by_key(|party| std::cmp::Reverse(party.servers.len()));
        Ok(Some(Disagreement { height, parties }))
    }

    async fn claim(&self, server: &NativeOracle, height: u32) -> Result<Claim, OracleError> {
        if self.heads
            && let Some(links) = server.links(height).await?
        {
            return Ok(Claim {
                hash: Some(links.block.hash),
                head: links.columns_head,
            });
        }
        Ok(Claim {
            hash: server.block_hash(height).await?,
            head: None,
        })
    }
}
