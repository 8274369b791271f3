//! One of those that are looked for in a pass: a wallet, or watched outpoints, with a state of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use bitcoin::{BlockHash, Network, OutPoint};

use super::super::report::Spend;
use super::super::state::{Change, Identity, KEPT_HASHES, State, WalletId, WatchedRow};
use super::fetch::FetchedBlock;
use super::matching::{Find, Unspent};
use super::reorg::changed;
use super::window::Looked;
use super::{ClientError, Interrupted};
use crate::bip352::keys::ReceiverKeys;

pub(super) struct Member {
    /// By which it is told from others.
    pub(super) name: Option<String>,
    /// `None` where only outpoints are watched.
    pub(super) keys: Option<Arc<ReceiverKeys>>,
    /// The outpoints that are followed. The state may hold others, of earlier runs: they wait until they are given again.
    pub(super) watched: BTreeSet<OutPoint>,
    pub(super) state: State,
    /// Lowest height to which the chain was taken back.
    pub(super) reorganised_above: Option<u32>,
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Member")
            .field("name", &self.name)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

impl Member {
    /// Whether there is something to look for, and the state is its own.
    pub(super) fn check(&self, network: Network) -> Result<(), ClientError> {
        let expected = Identity {
            network,
            wallet: self.keys.as_deref().map(WalletId::of),
        };
        if self.state.identity() != expected {
            return Err(ClientError::ForeignState {
                expected: expected.to_string(),
                actual: self.state.identity().to_string(),
            });
        }
        if self.keys.is_none() && self.watched.is_empty() {
            return Err(ClientError::NothingToDo);
        }
        Ok(())
    }

    /// Its name, or whose state it has.
    pub(super) fn describe(&self) -> String {
        match &self.name {
            Some(name) => name.clone(),
            None => self.state.identity().to_string(),
        }
    }

    /// What a line of the log begins with.
    pub(super) fn prefix(&self) -> String {
        let name = self.name.as_ref();
        name.map_or_else(String::new, |name| format!("{name}: "))
    }

    /// An error that is this member's own.
    pub(super) fn named(&self, error: ClientError) -> ClientError {
        match &self.name {
            Some(name) => ClientError::OfWallet {
                wallet: name.clone(),
                source: Box::new(error),
            },
            None => error,
        }
    }

    /// Rows of the outpoints that are followed.
    pub(super) fn followed(&self) -> impl Iterator<Item = (&OutPoint, &WatchedRow)> {
        let rows = self.state.contents.watched.iter();
        rows.filter(|(outpoint, _)| self.watched.contains(outpoint))
    }

    /// Next height of its scan.
    pub(super) fn next(&self) -> Option<u32> {
        Some(self.state.contents.cursor.as_ref()?.next)
    }

    /// All heights at which it goes on: with its scan, and with outputs that lag behind.
    pub(super) fn nexts(&self) -> impl Iterator<Item = u32> {
        let watched = self.followed().filter_map(|(_, row)| row.next);
        let found = self.state.contents.found.values();
        let found = found.filter_map(|row| row.next);
        watched.chain(found).chain(self.next())
    }

    /// The lowest height that was ever looked at.
    pub(super) fn first_scanned(&self) -> u32 {
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
    pub(super) fn fits_stored<'b>(
        &self,
        blocks: impl IntoIterator<Item = &'b FetchedBlock>,
    ) -> Result<(), Interrupted> {
        for block in blocks {
            let stored = self.state.contents.hashes.get(&block.height);
            if stored.is_some_and(|hash| *hash != block.hash) {
                return Err(changed(block.height, "block hash and stored block hash"));
            }
        }
        Ok(())
    }

    /// The stored block below a height.
    pub(super) fn stored_below(&self, height: u32) -> Option<(u32, BlockHash)> {
        let below = height.checked_sub(1)?;
        Some((below, *self.state.contents.hashes.get(&below)?))
    }

    /// Known outpoints that may be spent in the window that begins at `first`, those just found in it included, each with
    /// the height from which on. `scans` says whether the scan goes over it.
    pub(super) fn unspent(&self, scans: bool, first: u32, found: &[Find]) -> Unspent {
        let contents = &self.state.contents;
        let is_looked_for = |next: Option<u32>| match next {
            None => scans,
            Some(next) => next == first,
        };
        let watched = self
            .followed()
            .filter(|(_, row)| is_looked_for(row.next))
            .map(|(outpoint, row)| (*outpoint, row.from));
        let own = contents
            .found
            .iter()
            .filter(|(_, row)| is_looked_for(row.next))
            .map(|(outpoint, row)| (*outpoint, row.height));
        let new = found.iter().map(|(outpoint, row)| (*outpoint, row.height));
        // A wallet's own output may be watched as well: the lowest height counts.
        let mut unspent = Unspent::new();
        for (outpoint, height) in watched.chain(own).chain(new) {
            if !contents.spends.contains_key(&outpoint) {
                let at = unspent.entry(outpoint).or_insert(height);
                *at = height.min(*at);
            }
        }
        unspent
    }

    /// What a window changes, without heads. `scans` says whether the scan goes over it.
    pub(super) fn change(
        &self,
        scans: bool,
        blocks: &[FetchedBlock],
        looked: Looked,
        spends: Vec<(OutPoint, Spend)>,
    ) -> Change {
        let (Some(first), Some(last)) = (blocks.first(), blocks.last()) else {
            return Change::default();
        };
        let Looked { found, unresolved } = looked;
        let next = last.height.saturating_add(1);
        let contents = &self.state.contents;
        let cursor = contents.cursor.clone().map(|mut cursor| {
            if scans {
                cursor.next = next;
            }
            cursor
        });
        let wallet_next = cursor.as_ref().map_or(0, |cursor| cursor.next);
        let watched = self
            .followed()
            .filter(|(_, row)| row.next == Some(first.height))
            .map(|(outpoint, row)| {
                let mut row = row.clone();
                row.next = (next < wallet_next).then_some(next);
                (*outpoint, row)
            })
            .collect();
        let looked_back = contents
            .found
            .iter()
            .filter(|(_, row)| row.next == Some(first.height))
            .map(|(outpoint, row)| {
                let mut row = row.clone();
                row.next = (next < wallet_next).then_some(next);
                (*outpoint, row)
            });
        let found = looked_back.chain(found).collect();
        let keep_from = blocks.len().saturating_sub(KEPT_HASHES as usize);
        let hashes = blocks
            .iter()
            .skip(keep_from)
            .map(|block| (block.height, block.hash))
            .collect();
        Change {
            cursor,
            hashes,
            found,
            spends,
            watched,
            unresolved,
            ..Change::default()
        }
    }
}

/// Of spends in order of height the first of each outpoint that is looked for: one that seems to be spent twice is not (8-byte
/// items may collide).
pub(super) fn first_spends(
    unspent: &Unspent,
    spends: &[(OutPoint, Spend)],
) -> Vec<(OutPoint, Spend)> {
    let mut first = BTreeMap::new();
    for (outpoint, spend) in spends {
        if unspent
            .get(outpoint)
            .is_some_and(|from| *from <= spend.height)
        {
            first.entry(*outpoint).or_insert_with(|| spend.clone());
        }
    }
    first.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use bitcoin::Txid;
    use bitcoin::hashes::Hash;

    use super::*;

    #[test]
    fn of_several_spends_the_first_from_its_height_on_counts() {
        let outpoint = |number| OutPoint::new(Txid::from_byte_array([number; 32]), 0);
        let spend = |height: u32| Spend {
            height,
            block_hash: BlockHash::from_byte_array([height as u8; 32]),
            spending_txid: None,
            input: None,
            op_return: Vec::new(),
        };
        let spends = [(1, 50), (2, 51), (1, 60), (1, 70)];
        let spends = spends.map(|(number, height)| (outpoint(number), spend(height)));
        // What another member looks for is nothing to this one.
        for (from, first) in [(50, Some(50)), (51, Some(60)), (60, Some(60)), (71, None)] {
            let unspent = Unspent::from([(outpoint(1), from), (outpoint(3), 1)]);
            let expected = first.map(|height| (outpoint(1), spend(height)));
            let expected: Vec<_> = expected.into_iter().collect();
            assert_eq!(first_spends(&unspent, &spends), expected, "from {from}");
        }
    }
}
