//! Which watches wait for the spend of an outpoint.
//!
//! All that is in memory of a watch that is not over: a hash of its tip, and its number. 16 bytes, in a table that is between
//! half and nearly full.

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState};

use bitcoin::OutPoint;

use crate::store::schema::outpoint_bytes;

/// A hash of an outpoint, under a key that is drawn at each start: nobody can choose outpoints that share one.
pub(super) type Mark = u64;

/// Numbers of watches by the marks of their tips. Some may have the same, as their outpoints are, or by chance: whoever is given
/// a number looks at the watch.
#[derive(Default)]
pub(super) struct Tips {
    key: RandomState,
    first: HashMap<Mark, u64, BuildHasherDefault<AsItIs>>,
    /// Those behind the first of a mark.
    others: HashMap<Mark, Vec<u64>>,
}

impl Tips {
    pub(super) fn mark(&self, outpoint: &OutPoint) -> Mark {
        self.key.hash_one(outpoint_bytes(outpoint))
    }

    /// Whose tips have this mark, in no order.
    pub(super) fn of(&self, mark: Mark) -> impl Iterator<Item = u64> {
        let first = self.first.get(&mark).copied();
        let others = first.and_then(|_| self.others.get(&mark));
        first
            .into_iter()
            .chain(others.into_iter().flatten().copied())
    }

    pub(super) fn insert(&mut self, tip: &OutPoint, watch: u64) {
        let mark = self.mark(tip);
        if let Some(first) = self.first.get(&mark) {
            let others = self.others.entry(mark).or_default();
            if *first != watch && !others.contains(&watch) {
                others.push(watch);
            }
            return;
        }
        self.first.insert(mark, watch);
    }

    pub(super) fn remove(&mut self, tip: &OutPoint, watch: u64) {
        let mark = self.mark(tip);
        let mut others = self.others.remove(&mark).unwrap_or_default();
        if self.first.get(&mark) == Some(&watch) {
            match others.pop() {
                Some(other) => drop(self.first.insert(mark, other)),
                None => drop(self.first.remove(&mark)),
            }
        } else {
            others.retain(|other| *other != watch);
        }
        if !others.is_empty() {
            self.others.insert(mark, others);
        }
    }

    /// Number of watches that wait.
    pub(super) fn len(&self) -> usize {
        self.first.len() + self.others.values().map(Vec::len).sum::<usize>()
    }
}

/// Takes a mark for its own hash.
#[derive(Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, mark: u64) {
        self.0 = mark;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use bitcoin::Txid;
    use bitcoin::hashes::Hash;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Several watches may wait for one outpoint, and each is there as often as it was told last.
        #[test]
        fn tips_are_a_set_of_pairs(
            changes in proptest::collection::vec((any::<bool>(), 0_u32..4, 0_u64..4), 0..60)
        ) {
            let mut tips = Tips::default();
            let mut model = BTreeSet::new();
            let outpoint = |vout| OutPoint::new(Txid::all_zeros(), vout);
            for (is_new, vout, watch) in changes {
                match is_new {
                    true => {
                        tips.insert(&outpoint(vout), watch);
                        model.insert((vout, watch));
                    }
                    false => {
                        tips.remove(&outpoint(vout), watch);
                        model.remove(&(vout, watch));
                    }
                }
                prop_assert_eq!(tips.len(), model.len());
                for vout in 0..4 {
                    let mut found: Vec<u64> = tips.of(tips.mark(&outpoint(vout))).collect();
                    found.sort_unstable();
                    let expected = model.range((vout, 0)..(vout + 1, 0)).map(|(_, watch)| *watch);
                    prop_assert_eq!(found, expected.collect::<Vec<_>>());
                }
            }
        }
    }
}
