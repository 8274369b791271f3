//! Consistent reads at one tip.

use std::fmt;
use std::sync::Arc;

use bitcoin::{BlockHash, Network, OutPoint};
use redb::ReadableTableMetadata;
use serde::Serialize;

use super::block::Block;
use super::error::{Fault, StoreError};
use super::locator::Locating;
use super::meta::{Keep, TweakForm};
use super::view::View;
use crate::BlockId;

/// A consistent view of one commit; cheap to take, cheap to clone, does not block the writer.
///
/// As long as it lives the pages it sees stay in the file, so one that is kept for long makes the file grow.
#[derive(Clone)]
pub struct Snapshot {
    view: Arc<View>,
}

/// Totals of an index. One that keeps tweaks only has no outputs, spends and filters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Counts {
    /// Blocks.
    pub blocks: u64,
    /// Eligible transactions, each with one tweak.
    pub transactions: u64,
    /// Taproot outputs of those.
    pub outputs: u64,
    /// Those that no indexed block has spent.
    pub unspent: u64,
    /// Taproot outpoints spent, eligible or not.
    pub spends: u64,
    /// Those that are no outputs of the index.
    pub foreign: u64,
    /// Bytes of all filters.
    pub filter_bytes: u64,
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot")
            .field("network", &self.network())
            .field("tip", &self.tip())
            .finish_non_exhaustive()
    }
}

impl Snapshot {
    pub(super) fn new(view: View) -> Self {
        Self {
            view: Arc::new(view),
        }
    }

    /// Names the file in what goes wrong.
    pub(super) fn read<T>(
        &self,
        read: impl FnOnce(&View) -> Result<T, Fault>,
    ) -> Result<T, StoreError> {
        read(&self.view).map_err(|fault| fault.in_file(&self.view.file))
    }

    /// Network of the index.
    pub fn network(&self) -> Network {
        self.view.meta.network
    }

    /// First height the index holds or will hold.
    pub fn first_height(&self) -> u32 {
        self.view.meta.first_height
    }

    /// What the index keeps.
    pub fn keep(&self) -> Keep {
        self.view.meta.keep
    }

    /// How the index stores its tweaks.
    pub fn tweak_form(&self) -> TweakForm {
        self.view.meta.tweak_form
    }

    /// The last block, `None` in an empty index.
    pub fn tip(&self) -> Option<BlockId> {
        self.view.tip()
    }

    /// Totals, for logs.
    ///
    /// # Errors
    /// As [`block`](Self::block).
    pub fn counts(&self) -> Result<Counts, StoreError> {
        self.read(|view| {
            Ok(Counts {
                blocks: view.blocks()?.len()?,
                transactions: view.ends.transactions,
                outputs: view.ends.outputs,
                unspent: match view.kept() {
                    Some(full) => view.unspent(full)?,
                    None => 0,
                },
                spends: view.ends.spends,
                foreign: view.ends.foreign,
                filter_bytes: view.ends.filter_bytes,
            })
        })
    }

    /// The block at a height, `None` if not indexed.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] for a row that spindex did not write so; [`StoreError::Io`] and
    /// [`StoreError::Halted`] when the disk fails.
    pub fn block(&self, height: u32) -> Result<Option<Block<'_>>, StoreError> {
        self.read(|view| {
            let row = view.block_row(height)?;
            Ok(row.map(|row| Block::new(self, height, row)))
        })
    }

    /// Height of an indexed block by hash.
    ///
    /// # Errors
    /// As [`block`](Self::block).
    pub fn height_of(&self, hash: &BlockHash) -> Result<Option<u32>, StoreError> {
        self.read(|view| view.height_of(hash))
    }

    /// Lowest height that an update may disconnect, `None` if none: any block can be, and
    /// [`StoreOptions::undo_depth`](super::StoreOptions) bounds how many.
    ///
    /// # Errors
    /// None; a later format may have some.
    pub fn undo_from(&self) -> Result<Option<u32>, StoreError> {
        let above = self.view.undoable().checked_sub(1);
        let tip = self.view.tip().zip(above);
        Ok(tip.and_then(|(tip, above)| tip.height.checked_sub(above)))
    }

    /// The height from which on the index knows who spends what, if not in all of its blocks: those below were indexed
    /// before spenders were kept.
    pub fn spenders_from(&self) -> Option<u32> {
        self.view.spenders_from
    }

    /// How far the locator is, `None` if it has all that it should: a long sync leaves it for its end.
    pub fn locating(&self) -> Option<Locating> {
        self.view.deferred.map(|deferred| Locating {
            outputs: deferred.located,
            of: self.view.ends.outputs,
        })
    }

    /// Whether an outpoint is an unspent taproot output of an eligible indexed transaction.
    ///
    /// # Errors
    /// [`StoreError::NotKept`] for an index that keeps tweaks only, [`StoreError::NotLocated`] during a long sync; else
    /// as [`block`](Self::block).
    pub fn is_unspent(&self, outpoint: &OutPoint) -> Result<bool, StoreError> {
        self.read(|view| {
            let full = view.full("outputs")?;
            Ok(view.located_position(full, outpoint)?.is_some())
        })
    }
}
