//! Whether what was scanned is still in the server's chain.

use futures::{StreamExt, TryStreamExt};

use super::super::state::{Change, KEPT_HASHES};
use super::fetch::FetchedBlock;
use super::{ClientError, Interrupted, LightClient};

impl LightClient {
    /// Takes back what was stored of blocks that are no longer in the server's chain.
    ///
    /// A server whose height is below the stored one, on the same chain, is merely behind: nothing is taken back.
    pub(super) async fn take_back_stale(&mut self, tip: u32) -> Result<(), Interrupted> {
        let stored: Vec<_> = self
            .state
            .contents
            .hashes
            .range(..=tip)
            .map(|(height, hash)| (*height, *hash))
            .collect();
        let on_chain = async |(height, hash)| -> Result<bool, Interrupted> {
            Ok(self.server.block_hash(height).await? == Some(hash))
        };
        let (Some(lowest), Some(highest)) = (stored.first(), stored.last()) else {
            return Ok(());
        };
        if on_chain(*highest).await? {
            return Ok(());
        }
        // Blocks below the fork are in both chains and blocks above in one, so halving finds it.
        let (mut same, mut different) = (0, stored.len() - 1);
        while same < different {
            let middle = same + (different - same) / 2;
            let Some(block) = stored.get(middle) else {
                break;
            };
            if on_chain(*block).await? {
                same = middle + 1;
            } else {
                different = middle;
            }
        }
        let fork = match different.checked_sub(1).and_then(|at| stored.get(at)) {
            Some((height, _)) => i64::from(*height),
            None if lowest.0 <= self.first_scanned() => i64::from(lowest.0) - 1,
            None => {
                return Err(ClientError::DeepReorganisation {
                    oracle: self.server.describe(),
                    lowest: lowest.0,
                }
                .into());
            }
        };
        tracing::warn!(
            "the chain was reorganised above height {fork}: what was found there is taken back"
        );
        self.state.apply(Change {
            roll_back_to: Some(fork),
            ..Change::default()
        })?;
        let fork = u32::try_from(fork).unwrap_or(0);
        self.reorganised_above = Some(self.reorganised_above.map_or(fork, |old| old.min(fork)));
        Ok(())
    }

    /// The lowest height that was ever looked at.
    fn first_scanned(&self) -> u32 {
        let contents = &self.state.contents;
        contents
            .watched
            .values()
            .map(|row| row.from)
            .chain(contents.cursor.as_ref().map(|cursor| cursor.first))
            .min()
            .unwrap_or(0)
    }

    /// Whether blocks just fetched fit the stored ones, before any work is put into them.
    pub(super) fn fits_stored(&self, blocks: &[FetchedBlock]) -> Result<(), Interrupted> {
        for block in blocks {
            let stored = self.state.contents.hashes.get(&block.height);
            if stored.is_some_and(|hash| *hash != block.hash) {
                return Err(changed(block.height, "block hash and stored block hash"));
            }
        }
        Ok(())
    }

    /// Whether the blocks of a window, and the stored one before it, are in the server's chain after all their data
    /// were fetched. Each was named by the server before, so the data in between are of this one chain. Blocks too deep
    /// to be reorganised are not asked for.
    pub(super) async fn still_in_chain(
        &self,
        blocks: &[FetchedBlock],
        tip: u32,
    ) -> Result<(), Interrupted> {
        if self.server.is_native() {
            // Columns name their block, and each is on top of the one before it.
            return Ok(());
        }
        let before = blocks
            .first()
            .and_then(|block| block.height.checked_sub(1))
            .and_then(|height| self.state.contents.hashes.get_key_value(&height))
            .map(|(height, hash)| (*height, *hash));
        let checks: Vec<_> = blocks
            .iter()
            .map(|block| (block.height, block.hash))
            .chain(before)
            .filter(|(height, _)| height.saturating_add(KEPT_HASHES) > tip)
            .collect();
        futures::stream::iter(checks)
            .map(|(height, hash)| async move {
                match self.server.block_hash(height).await? {
                    Some(now) if now == hash => Ok(()),
                    _ => Err(changed(height, "block hash before and after")),
                }
            })
            .buffer_unordered(self.settings.concurrency.max(1))
            .try_collect()
            .await
    }
}

/// Two answers for a height that are not of one block.
pub(super) fn changed(height: u32, what: &str) -> Interrupted {
    Interrupted::ChainChanged {
        height,
        what: what.to_owned(),
    }
}
