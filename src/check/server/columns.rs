//! The columns of the native protocol, compared with those of a server by the hashes that bind them: which of them differ, and
//! in which block.

use bitcoin::BlockHash;
use serde::Serialize;

use super::{CompareError, Job, Other};
use crate::client::OracleError;
use crate::client::native::NativeOracle;
use crate::store::{Sections, StoreError};
use crate::wire::native::Code;
use crate::wire::native::column::Column;
use crate::wire::native::section::SectionHashes;

/// What the columns of an index and a server say of each other.
#[derive(Debug, Clone, Serialize)]
pub struct ColumnsComparison {
    /// Whether the heads of the chain over the columns are equal at the last height that both have; `None` if the chains begin
    /// at different heights, so that no head of one is one of the other.
    pub agree: Option<bool>,
    /// Heights whose sections were compared by their hashes, ascending: those chosen, and the first one where heads part.
    pub heights: Vec<u32>,
    /// Those of them at which something differs.
    pub parted: Vec<PartedColumns>,
}

/// A block of which an index and a server have other sections, or other heads.
#[derive(Debug, Clone, Serialize)]
pub struct PartedColumns {
    /// Its height.
    pub height: u32,
    /// The columns whose sections have other hashes. None if both have the same, so that one head is not what follows.
    pub columns: Vec<&'static str>,
    /// Whether the server's head follows from its head before and its hashes; `None` where it has none.
    pub follows: Option<bool>,
}

impl PartedColumns {
    /// What differs, in a few words.
    fn what(&self) -> String {
        match (self.columns.as_slice(), self.follows) {
            ([], Some(false)) => {
                "the server's head over all columns does not follow from their hashes".to_owned()
            }
            ([], _) => "the heads over all columns differ, their hashes do not".to_owned(),
            (columns, _) => format!(
                "the sections of {} differ, by the hashes of both",
                columns.join(", ")
            ),
        }
    }
}

/// What somebody has of a block.
struct Bound {
    hash: BlockHash,
    hashes: SectionHashes,
}

impl Job<'_> {
    /// Compares heads at the last height that both have, finds the first block where they part, and compares the hashes of
    /// sections there and at `heights`, which reach up to it; gives the heights that differ.
    pub(super) async fn columns(
        &mut self,
        common: u32,
        heights: &[u32],
    ) -> Result<Vec<u32>, CompareError> {
        let Some(ours) = self.own_sections(common)?.and_then(|own| own.head) else {
            return Ok(Vec::new());
        };
        let Some(theirs) = self.columns_head(common).await? else {
            return Ok(Vec::new());
        };
        let server = NativeOracle::new(self.server.clone(), self.snapshot.network());
        let known_from = server.info().await?.spenders_from.unwrap_or_default();
        let known_from = known_from.max(self.snapshot.spenders_from().unwrap_or_default());
        let first = self.first_link(common)?;
        let agree = match ours == theirs {
            true => Some(true),
            false if self.begins_elsewhere(first).await? => None,
            false => Some(false),
        };
        let part = match agree {
            Some(false) => self.lowest(first, common, Other::Columns).await?,
            _ => None,
        };
        let mut heights: Vec<u32> = heights.iter().copied().chain(part).collect();
        heights.sort_unstable();
        heights.dedup();
        let mut result = ColumnsComparison {
            agree,
            heights: Vec::with_capacity(heights.len()),
            parted: Vec::new(),
        };
        for height in heights {
            let Some((ours, theirs)) = self.bound(&server, height).await? else {
                continue;
            };
            result.heights.push(height);
            let columns = differing(&ours, &theirs, height >= known_from);
            if columns.is_empty() && part != Some(height) {
                continue;
            }
            result.parted.push(PartedColumns {
                height,
                columns,
                follows: self.follows(height, &theirs).await?,
            });
        }
        let parted = result.parted.iter().map(|parted| parted.height).collect();
        self.result.columns = Some(result);
        Ok(parted)
    }

    /// Adds to the differences what only columns have shown.
    pub(super) fn columns_differ(&mut self) {
        let parted = self
            .result
            .columns
            .iter()
            .flat_map(|columns| &columns.parted);
        let parted: Vec<(u32, String)> = parted
            .map(|parted| (parted.height, parted.what()))
            .collect();
        for (height, what) in parted {
            if !self.result.differences.iter().any(|d| d.height == height) {
                self.differ(height, 0, &what);
            }
        }
    }

    pub(super) async fn same_columns(&self, height: u32) -> Result<bool, CompareError> {
        let ours = self.own_sections(height)?.and_then(|own| own.head);
        Ok(ours.is_some() && self.columns_head(height).await? == ours)
    }

    /// What binds a block's sections in the index; `None` for rows that are wrong.
    fn own_sections(&self, height: u32) -> Result<Option<Sections>, StoreError> {
        let block = self.snapshot.block(height)?;
        match block.map(|block| block.sections()) {
            Some(Err(StoreError::Corrupt { .. })) | None => Ok(None),
            Some(sections) => sections.map(Some),
        }
    }

    /// The server's head over all columns; `None` where it has none.
    async fn columns_head(&self, height: u32) -> Result<Option<[u8; 32]>, CompareError> {
        match self.server.commitments(height).await {
            Err(OracleError::Declined { .. } | OracleError::Refused { .. }) => Ok(None),
            links => Ok(links?.and_then(|links| links.columns_head)),
        }
    }

    /// The hashes of both, where both have the block.
    async fn bound(
        &self,
        server: &NativeOracle,
        height: u32,
    ) -> Result<Option<(SectionHashes, Bound)>, CompareError> {
        let theirs = match server.header(height).await {
            Err(OracleError::Declined {
                code: Code::NeverIndexed | Code::NotKept,
                ..
            }) => None,
            header => header?,
        };
        let theirs = theirs.map(|block| Bound {
            hash: block.hash,
            hashes: block.header.hashes,
        });
        let ours = self.own_sections(height)?.map(|own| own.hashes);
        Ok(ours.zip(theirs))
    }

    /// Whether the server's head at a block is what its hashes make of the one before.
    async fn follows(&self, height: u32, theirs: &Bound) -> Result<Option<bool>, CompareError> {
        let Some(head) = self.columns_head(height).await? else {
            return Ok(None);
        };
        let before = match height.checked_sub(1) {
            Some(before) => self.columns_head(before).await?,
            None => None,
        };
        let next = theirs
            .hashes
            .next_head(&before.unwrap_or_default(), &theirs.hash);
        Ok(Some(next == head))
    }
}

/// The columns with other hashes; `spends` only where both know who spends what.
fn differing(ours: &SectionHashes, theirs: &Bound, with_spends: bool) -> Vec<&'static str> {
    let theirs = &theirs.hashes;
    let all = [
        (Column::Tweaks, ours.tweaks, theirs.tweaks),
        (Column::Prefixes, ours.prefixes, theirs.prefixes),
        (Column::Outputs, ours.outputs, theirs.outputs),
        (Column::Spent, ours.spent, theirs.spent),
        (Column::NewUtxos, ours.new_utxos, theirs.new_utxos),
        (Column::Spends, ours.spends, theirs.spends),
    ];
    let differing = all.into_iter().filter(|(column, ours, theirs)| {
        ours != theirs && (with_spends || *column != Column::Spends)
    });
    differing.map(|(column, ..)| column.name()).collect()
}
