//! Whether what was scanned is still in the server's chain.

use std::collections::{BTreeMap, BTreeSet};

use bitcoin::BlockHash;
use futures::{StreamExt, TryStreamExt};
use rayon::prelude::*;

use super::super::state::{Change, KEPT_HASHES, StateError};
use super::fetch::FetchedBlock;
use super::{ClientError, Interrupted, Member, WalletsClient};

/// What the server has answered for heights, so that wallets which are equally far make it one question.
type Asked = BTreeMap<u32, Option<BlockHash>>;

impl WalletsClient {
    /// Takes back what was stored of blocks that are no longer in the server's chain.
    ///
    /// A server whose height is below the stored one, on the same chain, is merely behind: nothing is taken back.
    pub(super) async fn take_back_stale(&mut self, tip: u32) -> Result<(), Interrupted> {
        let mut asked = Asked::new();
        let mut forks = Vec::new();
        for (at, member) in self.members.iter().enumerate() {
            if let Some(fork) = self.fork(member, tip, &mut asked).await? {
                tracing::warn!(
                    "{}the chain was reorganised above height {fork}: what was found there is taken back",
                    member.prefix()
                );
                forks.push((at, fork));
            }
        }
        for (at, fork) in &forks {
            let fork = u32::try_from(*fork).unwrap_or(0);
            if let Some(member) = self.members.get_mut(*at) {
                let lowest = member.reorganised_above.map_or(fork, |old| old.min(fork));
                member.reorganised_above = Some(lowest);
            }
        }
        let changes = forks.into_iter().map(|(at, fork)| {
            let change = Change {
                roll_back_to: Some(fork),
                ..Change::default()
            };
            (at, change)
        });
        self.apply(changes.collect())
    }

    /// The height above which the stored blocks of a member are not in the server's chain; `None` if all are.
    async fn fork(
        &self,
        member: &Member,
        tip: u32,
        asked: &mut Asked,
    ) -> Result<Option<i64>, Interrupted> {
        let stored: Vec<_> = member
            .state
            .contents
            .hashes
            .range(..=tip)
            .map(|(height, hash)| (*height, *hash))
            .collect();
        let (Some(lowest), Some(highest)) = (stored.first(), stored.last()) else {
            return Ok(None);
        };
        if self.is_on_chain(*highest, asked).await? {
            return Ok(None);
        }
        // Blocks below the fork are in both chains and blocks above in one, so halving finds it.
        let (mut same, mut different) = (0, stored.len() - 1);
        while same < different {
            let middle = same + (different - same) / 2;
            let Some(block) = stored.get(middle) else {
                break;
            };
            if self.is_on_chain(*block, asked).await? {
                same = middle + 1;
            } else {
                different = middle;
            }
        }
        match different.checked_sub(1).and_then(|at| stored.get(at)) {
            Some((height, _)) => Ok(Some(i64::from(*height))),
            None if lowest.0 <= member.first_scanned() => Ok(Some(i64::from(lowest.0) - 1)),
            None => {
                let error = ClientError::DeepReorganisation {
                    oracle: self.server.describe(),
                    lowest: lowest.0,
                };
                Err(member.named(error).into())
            }
        }
    }

    async fn is_on_chain(
        &self,
        (height, hash): (u32, BlockHash),
        asked: &mut Asked,
    ) -> Result<bool, Interrupted> {
        let told = match asked.get(&height) {
            Some(told) => *told,
            None => {
                let told = self.server.block_hash(height).await?;
                asked.insert(height, told);
                told
            }
        };
        Ok(told == Some(hash))
    }

    /// Applies changes, each as one durable transaction of a member's state: one that fails keeps no other from being stored.
    /// They wait for the disk at the same time.
    ///
    /// # Errors
    /// The first that failed.
    pub(super) fn apply(&mut self, changes: Vec<(usize, Change)>) -> Result<(), Interrupted> {
        let mut changes: BTreeMap<usize, Change> = changes.into_iter().collect();
        let members = self.members.iter_mut().enumerate();
        let changing: Vec<_> = members
            .filter_map(|(at, member)| Some((member, changes.remove(&at)?)))
            .collect();
        let applied = changing
            .into_par_iter()
            .map(|(member, change)| member.state.apply(change));
        let applied: Vec<Result<(), StateError>> = applied.collect();
        Ok(applied.into_iter().collect::<Result<(), _>>()?)
    }

    /// Whether the blocks of a window, and the stored ones before it, are in the server's chain after all their data
    /// were fetched. Each was named by the server before, so the data in between are of this one chain. Blocks too deep
    /// to be reorganised are not asked for.
    pub(super) async fn still_in_chain(
        &self,
        members: &[usize],
        blocks: &[FetchedBlock],
        tip: u32,
    ) -> Result<(), Interrupted> {
        let Some(first) = blocks.first() else {
            return Ok(());
        };
        let members = members.iter().filter_map(|at| self.members.get(*at));
        let before: BTreeSet<(u32, BlockHash)> = members
            .filter_map(|member| member.stored_below(first.height))
            .collect();
        if let Some(native) = first.native() {
            // Columns name their block, and each is on top of the one before it.
            let below = native.header.header.prev_blockhash;
            return match before.iter().find(|(_, hash)| *hash != below) {
                Some((height, _)) => Err(changed(*height, "block hash and stored block hash")),
                None => Ok(()),
            };
        }
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
