//! The heads of chains of hashes that other people compute too ([`spcommit`](crate::wire::spcommit)), compared with those of a
//! server.

use bitcoin::hex::DisplayHex;
use serde::Serialize;

use super::{CompareError, Job, Other};
use crate::client::OracleError;
use crate::store::{Commitments, StoreError};
use crate::wire::native::{Code, Link, Links};
use crate::wire::spcommit::{Version, next_head};

/// What the heads of an index and a server say of each other.
#[derive(Debug, Clone, Serialize)]
pub struct HeadsComparison {
    /// Versions of the chains that both have.
    pub versions: Vec<u8>,
    /// Whether the heads of all of them are equal at the last height that both have; `None` if the chains begin at different
    /// heights, so that no head of one is one of the other.
    pub agree: Option<bool>,
    /// Where they part, ascending: the first block of each chain. If the chains begin at different heights, those of the
    /// chosen heights at which both commit to something else.
    pub parted: Vec<Parted>,
}

/// A block at which the heads of an index and a server part.
#[derive(Debug, Clone, Serialize)]
pub struct Parted {
    /// Its height.
    pub height: u32,
    /// Which lists differ by what both commit to: `tweaks`, or `outputs and spends` where the tweaks are the same. `None` if both
    /// commit to the same, so that one head is not what follows.
    pub lists: Option<&'static str>,
    /// What both say there, of each version that both have.
    pub links: Vec<LinkPair>,
}

/// What an index and a server commit to at a block, and their heads there, as hex.
#[derive(Debug, Clone, Serialize)]
pub struct LinkPair {
    /// Of which chain.
    pub version: u8,
    /// The index's commitment.
    pub commitment_here: String,
    /// The server's.
    pub commitment_there: String,
    /// The index's head.
    pub head_here: String,
    /// The server's.
    pub head_there: String,
    /// Whether the server's head follows from its head before and its commitment.
    pub follows: bool,
}

/// What somebody commits to at a block, and his heads there, by version.
type Chains = [Option<Link>; 2];

const VERSIONS: [Version; 2] = [Version::One, Version::Two];

fn chains(links: &Links) -> Chains {
    [Some(links.v1), links.v2]
}

impl Parted {
    /// What differs, in a few words.
    fn what(&self) -> String {
        let follows = self.links.iter().all(|pair| pair.follows);
        match (self.lists, follows) {
            (Some(lists), _) => format!("{lists} differ, by what both commit to"),
            (None, false) => "the server's head does not follow from what it commits to".to_owned(),
            (None, true) => "the heads differ, what both commit to does not".to_owned(),
        }
    }
}

impl Job<'_> {
    /// Compares the heads at the last height that both have, and finds the first block of each chain where they part; gives
    /// their heights. Where the chains begin at different heights, commitments at `heights` are compared.
    pub(super) async fn heads(
        &mut self,
        common: u32,
        heights: &[u32],
    ) -> Result<Vec<u32>, CompareError> {
        let Some(ours) = self.links(common)? else {
            self.note(format!(
                "the index has no heads at height {common}: none were compared"
            ));
            return Ok(Vec::new());
        };
        let theirs = match self.server.commitments(common).await {
            Ok(Some(links)) => chains(&links),
            Ok(None) => {
                self.note("the server has no native routes, and so no heads: none were compared");
                return Ok(Vec::new());
            }
            Err(OracleError::Refused { message, .. } | OracleError::Declined { message, .. }) => {
                self.note(format!(
                    "the server gives no heads ({message}): none were compared"
                ));
                return Ok(Vec::new());
            }
            Err(error) => return Err(error.into()),
        };
        let pairs = pairs(&ours, &theirs);
        let versions = pairs.iter().map(|(version, ..)| number(*version));
        let mut result = HeadsComparison {
            versions: versions.collect(),
            agree: Some(true),
            parted: Vec::new(),
        };
        let first = self.first_link(common)?;
        let mut parted = Vec::new();
        for (version, ours, theirs) in pairs {
            if ours.head == theirs.head {
                continue;
            }
            if self.begins_elsewhere(first).await? {
                self.note(format!(
                    "the server's heads do not begin at height {first} as the index's do: what both commit to at the chosen heights \
                     was compared in their place"
                ));
                result.agree = None;
                parted = self.other_commitments(heights).await?;
                break;
            }
            result.agree = Some(false);
            let other = Other::Head(version);
            parted.extend(self.lowest(first, common, other).await?);
        }
        parted.sort_unstable();
        parted.dedup();
        for height in &parted {
            result.parted.extend(self.parted(*height).await?);
        }
        self.result.heads = Some(result);
        Ok(parted)
    }

    /// Adds to the differences what only heads have shown.
    pub(super) fn heads_differ(&mut self) {
        let parted = self.result.heads.iter().flat_map(|heads| &heads.parted);
        let parted: Vec<(u32, String)> = parted
            .map(|parted| (parted.height, parted.what()))
            .collect();
        for (height, what) in parted {
            if !self.result.differences.iter().any(|d| d.height == height) {
                self.differ(height, 0, &what);
            }
        }
    }

    /// What the index commits to at a height; `None` where it has no heads, and for rows that are wrong.
    fn links(&self, height: u32) -> Result<Option<Chains>, StoreError> {
        let Some(block) = self.snapshot.block(height)? else {
            return Ok(None);
        };
        let (heads, texts) = match (block.heads(), block.texts()) {
            (Ok(Some(heads)), Ok(texts)) => (heads, texts),
            (Ok(None), _)
            | (Err(StoreError::Corrupt { .. }), _)
            | (_, Err(StoreError::Corrupt { .. })) => return Ok(None),
            (Err(error), _) | (_, Err(error)) => return Err(error),
        };
        let own = Commitments::by(&texts);
        let link = |commitment, head| Link { commitment, head };
        let v2 = own.v2.zip(heads.v2);
        Ok(Some([
            Some(link(own.v1, heads.v1)),
            v2.map(|(commitment, head)| link(commitment, head)),
        ]))
    }

    /// Where the index's chains begin, which reach to `common`.
    pub(super) fn first_link(&self, common: u32) -> Result<u32, StoreError> {
        let (mut low, mut high) = (self.snapshot.first_height(), common);
        while low < high {
            let middle = low + (high - low) / 2;
            let block = self.snapshot.block(middle)?;
            match block.map_or(Ok(None), |block| block.heads()) {
                Ok(None) => low = middle + 1,
                Ok(Some(_)) | Err(StoreError::Corrupt { .. }) => high = middle,
                Err(error) => return Err(error),
            }
        }
        Ok(low)
    }

    /// What the server commits to at a height; `None` where it has nothing.
    async fn theirs(&self, height: u32) -> Result<Option<Chains>, CompareError> {
        match self.server.commitments(height).await {
            Err(OracleError::Declined {
                code: Code::NotYetIndexed | Code::NeverIndexed,
                ..
            }) => Ok(None),
            links => Ok(links?.as_ref().map(chains)),
        }
    }

    /// What both commit to at a height.
    async fn both(&self, height: u32) -> Result<Option<(Chains, Chains)>, CompareError> {
        let ours = self.links(height)?;
        Ok(ours.zip(self.theirs(height).await?))
    }

    /// Whether the server's chains begin above this height or below it.
    pub(super) async fn begins_elsewhere(&self, first: u32) -> Result<bool, CompareError> {
        let begins_above = self.theirs(first).await?.is_none();
        Ok(begins_above
            || match first.checked_sub(1) {
                Some(before) => self.theirs(before).await?.is_some(),
                None => false,
            })
    }

    /// Of some heights those at which both commit to something else.
    async fn other_commitments(&self, heights: &[u32]) -> Result<Vec<u32>, CompareError> {
        let mut other = Vec::new();
        for height in heights {
            let Some((ours, theirs)) = self.both(*height).await? else {
                continue;
            };
            let pairs = pairs(&ours, &theirs);
            let mut pairs = pairs.iter();
            if pairs.any(|(_, ours, theirs)| ours.commitment != theirs.commitment) {
                other.push(*height);
            }
        }
        Ok(other)
    }

    pub(super) async fn same_head(
        &self,
        height: u32,
        version: Version,
    ) -> Result<bool, CompareError> {
        let Some((ours, theirs)) = self.both(height).await? else {
            return Ok(false);
        };
        let pairs = pairs(&ours, &theirs);
        let mut pairs = pairs.iter();
        Ok(pairs.any(|(of, ours, theirs)| *of == version && ours.head == theirs.head))
    }

    /// What both say at a height.
    async fn parted(&self, height: u32) -> Result<Option<Parted>, CompareError> {
        let Some((ours, theirs)) = self.both(height).await? else {
            return Ok(None);
        };
        let before = match height.checked_sub(1) {
            Some(before) => self.theirs(before).await?,
            None => None,
        };
        let pairs = pairs(&ours, &theirs);
        let differs = |wanted: Version| {
            let mut pairs = pairs.iter();
            pairs.any(|(version, ours, theirs)| {
                *version == wanted && ours.commitment != theirs.commitment
            })
        };
        // Version 2 commits to the tweaks too.
        let lists = match (differs(Version::One), differs(Version::Two)) {
            (true, _) => Some("tweaks"),
            (false, true) => Some("outputs and spends"),
            (false, false) => None,
        };
        let links = pairs.iter().map(|(version, ours, theirs)| {
            let before = before.and_then(|[v1, v2]| match version {
                Version::One => v1,
                Version::Two => v2,
            });
            let before = before.map_or_else(|| version.genesis(), |link| link.head);
            LinkPair {
                version: number(*version),
                commitment_here: ours.commitment.to_lower_hex_string(),
                commitment_there: theirs.commitment.to_lower_hex_string(),
                head_here: ours.head.to_lower_hex_string(),
                head_there: theirs.head.to_lower_hex_string(),
                follows: next_head(&before, &theirs.commitment) == theirs.head,
            }
        });
        Ok(Some(Parted {
            height,
            lists,
            links: links.collect(),
        }))
    }
}

const fn number(version: Version) -> u8 {
    match version {
        Version::One => 1,
        Version::Two => 2,
    }
}

/// The links of each version that both have, the index's first.
fn pairs(ours: &Chains, theirs: &Chains) -> Vec<(Version, Link, Link)> {
    let both = ours.iter().zip(theirs);
    let pairs = VERSIONS.into_iter().zip(both);
    let pairs = pairs.filter_map(|(version, (ours, theirs))| Some((version, (*ours)?, (*theirs)?)));
    pairs.collect()
}
