//! An index held against another server: the same tweaks, block for block? And, where the server has heads, the same outputs
//! and spends, and the same columns?

mod columns;
mod heads;

use std::collections::HashSet;
use std::sync::Arc;

use bitcoin::hex::DisplayHex;
use serde::Serialize;

use crate::client::{HttpOracle, Oracle, OracleError, OracleInfo, TweakQuery};
use crate::store::{RowFilter, Snapshot, StoreError};
use crate::wire::spcommit::Version;
pub use columns::{ColumnsComparison, PartedColumns};
pub use heads::{HeadsComparison, LinkPair, Parted};

/// The dust limit that lists are compared with, in satoshi: about what it costs to spend an output.
const DUST_LIMIT_SAT: u64 = 1_000;

/// Most tweaks that a difference lists of each side.
const LISTED_MAX: usize = 20;

/// Why an index could not be compared.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    /// The server gave no usable answer.
    #[error(transparent)]
    Oracle(#[from] OracleError),
    /// The index cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The server is of another chain.
    #[error(
        "{server} is of network {found}, the index of {expected}: compare with a server of the same network"
    )]
    Network {
        /// The server.
        server: String,
        /// Its network.
        found: &'static str,
        /// That of the index.
        expected: &'static str,
    },
}

/// What a comparison found.
#[derive(Debug, Clone, Serialize)]
pub struct Comparison {
    /// The server, and the proxy in between if there is one, without credentials.
    pub server: String,
    /// Its tip.
    pub server_tip: u32,
    /// Last height that both have the same block at, and up to which they were compared; `None` if there is none.
    pub common: Option<u32>,
    /// Whether the digests at that height are equal, which vouches for every tweak up to there; `None` if the server has
    /// none, or began at another height.
    pub digests_agree: Option<bool>,
    /// What the heads at that height say; `None` if the index or the server has none.
    pub heads: Option<HeadsComparison>,
    /// What the heads over the columns of the native protocol say there, and which columns differ; `None` if the index or the
    /// server has none.
    pub columns: Option<ColumnsComparison>,
    /// Heights whose lists of tweaks were compared, ascending.
    pub heights: Vec<u32>,
    /// What was noticed that is no difference.
    pub notes: Vec<String>,
    /// Where the two differ, ascending. With digests or heads the first one is the lowest there is.
    pub differences: Vec<Difference>,
}

/// A block of which an index and a server have something else.
#[derive(Debug, Clone, Serialize)]
pub struct Difference {
    /// Its height.
    pub height: u32,
    /// The dust limit of the lists, 0 for all tweaks.
    pub dust_limit_sat: u64,
    /// Tweaks the server does not have, compressed, as hex, the first of them.
    pub only_here: Vec<String>,
    /// Tweaks the index does not have, the same.
    pub only_there: Vec<String>,
    /// What differs in a few words.
    pub what: String,
}

/// Compares an index with a server: block hashes, digests and heads at the last height that both have, the first block that
/// differs by bisection, and at `heights` (those that both have) the hashes of all columns, and the lists of tweaks with and
/// without a dust limit.
///
/// A server with a lower tip or on another branch is no difference; it is said in the notes.
///
/// # Errors
/// No usable answer, an index that cannot be read, another network.
pub async fn compare(
    snapshot: &Snapshot,
    server: &Arc<HttpOracle>,
    heights: &[u32],
) -> Result<Comparison, CompareError> {
    let info = server.info().await?;
    if info.network != snapshot.network() {
        return Err(CompareError::Network {
            server: server.describe(),
            found: info.network.to_core_arg(),
            expected: snapshot.network().to_core_arg(),
        });
    }
    let server_tip = server.tip().await?;
    let mut job = Job {
        snapshot,
        server,
        info,
        result: Comparison {
            server: server.describe(),
            server_tip,
            common: None,
            digests_agree: None,
            heads: None,
            columns: None,
            heights: Vec::new(),
            notes: Vec::new(),
            differences: Vec::new(),
        },
    };
    job.run(heights).await?;
    Ok(job.result)
}

struct Job<'a> {
    snapshot: &'a Snapshot,
    server: &'a Arc<HttpOracle>,
    info: OracleInfo,
    result: Comparison,
}

impl Job<'_> {
    async fn run(&mut self, heights: &[u32]) -> Result<(), CompareError> {
        let Some(common) = self.common().await? else {
            return Ok(());
        };
        self.result.common = Some(common);
        let first_difference = self.digests(common).await?;
        let parted = self.heads(common, heights).await?;
        let chosen = heights.iter().copied().chain(first_difference);
        let mut heights: Vec<u32> = chosen
            .chain(parted)
            .filter(|height| *height <= common)
            .collect();
        heights.extend(self.columns(common, &heights).await?);
        heights.sort_unstable();
        heights.dedup();
        for height in heights {
            if self.lists(height).await? {
                self.result.heights.push(height);
            }
        }
        if let Some(height) = first_difference
            && !self.result.differences.iter().any(|d| d.height == height)
        {
            self.differ(
                height,
                0,
                "the digests differ, the tweaks as the server lists them do not",
            );
        }
        self.heads_differ();
        self.columns_differ();
        self.result.differences.sort_by_key(|d| d.height);
        Ok(())
    }

    fn note(&mut self, text: impl Into<String>) {
        self.result.notes.push(text.into());
    }

    fn differ(&mut self, height: u32, dust_limit_sat: u64, what: &str) {
        self.result.differences.push(Difference {
            height,
            dust_limit_sat,
            only_here: Vec::new(),
            only_there: Vec::new(),
            what: what.to_owned(),
        });
    }

    /// The last height at which both have the same block.
    async fn common(&mut self) -> Result<Option<u32>, CompareError> {
        let first = self.snapshot.first_height();
        let Some(tip) = self.snapshot.tip() else {
            self.note("the index is empty");
            return Ok(None);
        };
        let top = tip.height.min(self.result.server_tip);
        if self.result.server_tip != tip.height {
            self.note(format!(
                "the server's tip is {}, the index's {}",
                self.result.server_tip, tip.height
            ));
        }
        if top < first {
            self.note(format!(
                "the server ends below the index's first height {first}"
            ));
            return Ok(None);
        }
        if self.same_block(top).await? {
            return Ok(Some(top));
        }
        // Blocks are the same up to the fork and never again.
        let Some(fork) = self.lowest(first, top, Other::Block).await? else {
            return Ok(Some(top));
        };
        self.note(format!(
            "the server is on another branch from height {fork} on"
        ));
        Ok(fork.checked_sub(1).filter(|height| *height >= first))
    }

    async fn same_block(&self, height: u32) -> Result<bool, CompareError> {
        let ours = self.snapshot.block(height)?.map(|block| block.id().hash);
        let theirs = self.server.block_hash(height).await?;
        // A server that began later knows nothing of the first blocks, which is no fork.
        Ok(theirs.is_none() || theirs == ours)
    }

    /// `None` also for a row that is missing, which agrees with nothing.
    fn digest(&self, height: u32) -> Result<Option<[u8; 32]>, StoreError> {
        let block = self.snapshot.block(height)?;
        match block.map(|block| block.digest()) {
            Some(Err(StoreError::Corrupt { .. })) | None => Ok(None),
            Some(digest) => digest.map(Some),
        }
    }

    async fn same_digest(&self, height: u32) -> Result<bool, CompareError> {
        let theirs = self.server.digest(height).await?;
        let ours = self.digest(height)?;
        Ok(theirs.is_some() && theirs.map(|(_, digest)| digest) == ours)
    }

    /// The lowest height in a range at which the server has something else, as it has at all above; `None` if there is none.
    async fn lowest(
        &self,
        first: u32,
        last: u32,
        other: Other,
    ) -> Result<Option<u32>, CompareError> {
        let (mut low, mut high) = (first, last);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.differs(middle, other).await? {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        Ok(self.differs(low, other).await?.then_some(low))
    }

    async fn differs(&self, height: u32, other: Other) -> Result<bool, CompareError> {
        Ok(!match other {
            Other::Block => self.same_block(height).await?,
            Other::Digest => self.same_digest(height).await?,
            Other::Head(version) => self.same_head(height, version).await?,
            Other::Columns => self.same_columns(height).await?,
        })
    }

    /// Compares digests; gives the first block that differs.
    async fn digests(&mut self, common: u32) -> Result<Option<u32>, CompareError> {
        let first = self.snapshot.first_height();
        let Some((_, theirs)) = self.server.digest(common).await? else {
            self.note(
                "the server has no digests: the lists at the chosen heights alone were compared",
            );
            return Ok(None);
        };
        if self.digest(common)? == Some(theirs) {
            self.result.digests_agree = Some(true);
            return Ok(None);
        }
        // A server that has a block before the first one began earlier, or later if it has not the first one itself.
        let began = match first.checked_sub(1) {
            Some(before) => self.server.block_hash(before).await?.is_some(),
            None => false,
        };
        if began || self.server.block_hash(first).await?.is_none() {
            self.note(format!(
                "the server does not begin at height {first} as the index does, so digests cannot be compared: the lists at the \
                 chosen heights alone were"
            ));
            return Ok(None);
        }
        self.result.digests_agree = Some(false);
        self.lowest(first, common, Other::Digest).await
    }

    /// Compares the lists of tweaks of a block; `false` where the server does not have it.
    async fn lists(&mut self, height: u32) -> Result<bool, CompareError> {
        if self.server.block_hash(height).await?.is_none() {
            self.note(format!("the server has no block {height}"));
            return Ok(false);
        }
        if !self.info.full_list && !self.info.full_list_with_dust_limit {
            self.cut_through(height).await?;
            return Ok(true);
        }
        self.list(height, 0).await?;
        let with_outputs = self.snapshot.keep() == crate::store::Keep::Full;
        if self.info.full_list_with_dust_limit && with_outputs {
            self.list(height, DUST_LIMIT_SAT).await?;
        }
        Ok(true)
    }

    async fn list(&mut self, height: u32, dust_limit_sat: u64) -> Result<(), CompareError> {
        let query = TweakQuery {
            dust_limit_sat,
            cut_through: false,
        };
        let theirs = self.tweaks(height, query).await?;
        let ours = self.ours(height, dust_limit_sat)?;
        self.hold(height, dust_limit_sat, &ours, &theirs);
        Ok(())
    }

    /// What a server without full lists has depends on what its tip has spent; but it has nothing that the index has not.
    async fn cut_through(&mut self, height: u32) -> Result<(), CompareError> {
        let query = TweakQuery {
            dust_limit_sat: 0,
            cut_through: true,
        };
        let theirs = self.tweaks(height, query).await?;
        let known: HashSet<[u8; 33]> = theirs.iter().copied().collect();
        let mut ours = self.ours(height, 0)?;
        ours.retain(|tweak| known.contains(tweak));
        let order: HashSet<[u8; 33]> = ours.iter().copied().collect();
        if known != order {
            self.hold(height, 0, &ours, &theirs);
        }
        Ok(())
    }

    async fn tweaks(&self, height: u32, query: TweakQuery) -> Result<Vec<[u8; 33]>, CompareError> {
        let points = self.server.tweaks(height, query).await?;
        Ok(points.iter().map(|point| point.to_compressed()).collect())
    }

    fn ours(&self, height: u32, dust_limit_sat: u64) -> Result<Vec<[u8; 33]>, CompareError> {
        let filter = RowFilter {
            dust_limit_sat,
            cut_through: false,
        };
        let block = self.snapshot.block(height)?;
        let tweaks = block.map(|block| block.tweaks(filter)).transpose()?;
        Ok(tweaks.unwrap_or_default())
    }

    fn hold(&mut self, height: u32, dust_limit_sat: u64, ours: &[[u8; 33]], theirs: &[[u8; 33]]) {
        if ours == theirs {
            return;
        }
        let (here, there) = (only_in(ours, theirs), only_in(theirs, ours));
        if here.is_empty() && there.is_empty() && ours.len() == theirs.len() {
            let limit = match dust_limit_sat {
                0 => String::new(),
                limit => format!(" (dust limit {limit})"),
            };
            self.note(format!(
                "block {height}{limit}: the server has the same tweaks in another order"
            ));
            return;
        }
        let what = format!(
            "{} tweaks here, {} there; {} only here, {} only there",
            ours.len(),
            theirs.len(),
            here.len(),
            there.len()
        );
        self.result.differences.push(Difference {
            height,
            dust_limit_sat,
            only_here: listed(&here),
            only_there: listed(&there),
            what,
        });
    }
}

/// What bisection looks for.
#[derive(Clone, Copy)]
enum Other {
    Block,
    Digest,
    Head(Version),
    Columns,
}

fn only_in(these: &[[u8; 33]], those: &[[u8; 33]]) -> Vec<[u8; 33]> {
    let those: HashSet<&[u8; 33]> = those.iter().collect();
    let these = these.iter().filter(|tweak| !those.contains(tweak));
    these.copied().collect()
}

fn listed(tweaks: &[[u8; 33]]) -> Vec<String> {
    let tweaks = tweaks.iter().take(LISTED_MAX);
    tweaks.map(|tweak| tweak.to_lower_hex_string()).collect()
}
