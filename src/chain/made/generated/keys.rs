//! Millions of public keys at the price of one addition each.
//!
//! Key n of a lane is the sum of two points whose secrets are hashes of the seed: `ROW[n mod ROWS] + COLUMN[n / ROWS]`.
//! Rows are the same for all lanes, columns are a lane's own, so that keys differ everywhere. Batches are added by the
//! curve engine.

use std::sync::Arc;

use bitcoin::hashes::{Hash, HashEngine, sha256};
use rayon::prelude::*;
use secp256k1::{SECP256K1, SecretKey};

use crate::curve::{Engine, TweakPoint};

/// Points in the table that all lanes share: a power of two, small enough for the processor's cache.
const ROWS: u32 = 1 << 14;

/// The lane number that stands for the shared table.
const SHARED: u32 = u32::MAX;

/// The keys of one lane.
pub(super) struct Keys {
    seed: u64,
    lane: u32,
    rows: Arc<[TweakPoint]>,
    columns: Vec<TweakPoint>,
    next: u32,
}

/// The table that all lanes share.
pub(super) fn shared_rows(seed: u64) -> Arc<[TweakPoint]> {
    (0..ROWS)
        .into_par_iter()
        .map(|number| table_point(seed, SHARED, number))
        .collect::<Vec<_>>()
        .into()
}

fn table_point(seed: u64, lane: u32, number: u32) -> TweakPoint {
    let mut hash = sha256::Hash::engine();
    hash.input(b"spindex generated key");
    hash.input(&seed.to_le_bytes());
    hash.input(&lane.to_le_bytes());
    hash.input(&number.to_le_bytes());
    let secret = sha256::Hash::from_engine(hash).to_byte_array();
    let secret = SecretKey::from_slice(&secret).expect("a hash is a secret key but for 1 in 2^127");
    let sec1 = secret.public_key(SECP256K1).serialize_uncompressed();
    let mut point = [0; 64];
    point.copy_from_slice(&sec1[1..]);
    TweakPoint::from_bytes(point)
}

impl Keys {
    pub(super) fn new(seed: u64, lane: u32, rows: Arc<[TweakPoint]>) -> Self {
        Self {
            seed,
            lane,
            rows,
            columns: Vec::new(),
            next: 0,
        }
    }

    /// The number of the first of some keys that were not used before; the others follow it. After 2^32 keys they
    /// begin again.
    pub(super) fn fresh(&mut self, count: u32) -> u32 {
        let first = self.next;
        self.next = self.next.wrapping_add(count);
        let last_column = first.saturating_add(count.saturating_sub(1)) / ROWS;
        while self.columns.len() <= last_column as usize {
            let number = u32::try_from(self.columns.len()).expect("there are 2^18 columns at most");
            self.columns.push(table_point(self.seed, self.lane, number));
        }
        first
    }

    /// The points of keys that [`fresh`](Self::fresh) has given out, in order.
    pub(super) fn points(&self, engine: &dyn Engine, numbers: &[u32]) -> Vec<TweakPoint> {
        let mut summands = Vec::with_capacity(numbers.len() * 2);
        for number in numbers {
            summands.push(self.rows[(number % ROWS) as usize]);
            summands.push(self.columns[(number / ROWS) as usize]);
        }
        let ends: Vec<usize> = (1..=numbers.len()).map(|end| end * 2).collect();
        let sums = engine.sums(&summands, &ends);
        let or_row = |(sum, pair): (Option<TweakPoint>, &[TweakPoint])| sum.unwrap_or(pair[0]);
        sums.into_iter()
            .zip(summands.chunks(2))
            .map(or_row)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use secp256k1::PublicKey;

    use super::*;
    use crate::curve::libsecp256k1::LibSecp256k1;
    use crate::curve::{EngineKind, engine};

    #[test]
    fn keys_are_distinct_points_and_the_same_for_every_engine() {
        let rows = shared_rows(7);
        let mut lanes = [3, 4].map(|lane| Keys::new(7, lane, Arc::clone(&rows)));
        let batched = engine(EngineKind::Auto, |broken| panic!("{broken}")).unwrap();
        let mut seen = HashSet::new();
        for keys in &mut lanes {
            keys.fresh(ROWS - 2);
            // Over the edge of a column.
            let first = keys.fresh(200);
            let numbers: Vec<u32> = (first..first + 200).collect();
            let points = keys.points(batched.as_ref(), &numbers);
            assert_eq!(points, keys.points(&LibSecp256k1, &numbers));
            for point in points {
                assert!(PublicKey::from_slice(&point.to_compressed()).is_ok());
                assert!(seen.insert(point.to_compressed()));
            }
        }
        let other_seed = Keys::new(8, 3, shared_rows(8));
        assert_ne!(other_seed.rows[0], rows[0]);
    }
}
