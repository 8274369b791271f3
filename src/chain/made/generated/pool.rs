//! Outputs that may still be spent, found by their age.

use std::collections::VecDeque;

use secp256k1::rand::Rng;

use super::coin::Coin;

/// Heights that share a bucket once they are old.
const SPAN: u32 = 512;

/// The coins of one family in one lane: a bucket per height for the newest, one per [`SPAN`] heights for the others.
///
/// A coin is found by its age in constant time and taken at random from its bucket, which is a swap with the last one:
/// memory is what the coins need, and the slack of vectors.
#[derive(Default)]
pub(super) struct Pool {
    /// Bucket i has heights `i·SPAN..(i + 1)·SPAN`.
    old: Vec<Vec<Coin>>,
    /// One height each, from `old.len()·SPAN` to the newest.
    recent: VecDeque<Vec<Coin>>,
    len: usize,
}

impl Pool {
    /// Makes room for the next height; the first call is for height 0.
    pub(super) fn next_height(&mut self) {
        if self.recent.len() as u32 >= 2 * SPAN {
            let merged = self.recent.drain(..SPAN as usize);
            let merged: Vec<_> = merged.collect();
            self.old.push(merged.concat());
        }
        self.recent.push_back(Vec::new());
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Memory held for the coins, in bytes.
    pub(super) fn allocated_bytes(&self) -> usize {
        let buckets = self.old.iter().chain(&self.recent);
        buckets.map(Vec::capacity).sum::<usize>() * size_of::<Coin>()
    }

    /// Adds a coin, to be found under its height.
    pub(super) fn add(&mut self, coin: Coin) {
        let bucket = self.bucket_of(coin.height);
        if let Some(bucket) = self.bucket_mut(bucket) {
            bucket.push(coin);
            self.len += 1;
        }
    }

    /// Takes a coin at random among those created this many blocks before the newest height; or the next older ones, or
    /// else the next younger ones.
    pub(super) fn take(&mut self, distance: u64, rng: &mut impl Rng) -> Option<Coin> {
        if self.len == 0 {
            return None;
        }
        let newest = self.old.len() as u64 * u64::from(SPAN) + self.recent.len() as u64 - 1;
        let wanted = self.bucket_of(newest.saturating_sub(distance) as u32);
        let older = (0..=wanted).rev();
        let younger = wanted + 1..self.old.len() + self.recent.len();
        for bucket in older.chain(younger) {
            let Some(coins) = self.bucket_mut(bucket) else {
                continue;
            };
            if coins.is_empty() {
                continue;
            }
            let coin = coins.swap_remove(rng.gen_range(0..coins.len()));
            if coins.len() < coins.capacity() / 2 && coins.capacity() > 8 {
                coins.shrink_to(coins.len() + coins.len() / 4);
            }
            self.len -= 1;
            return Some(coin);
        }
        None
    }

    /// The coins of the newest height.
    pub(super) fn newest_mut(&mut self) -> &mut [Coin] {
        self.recent.back_mut().map_or(&mut [], Vec::as_mut_slice)
    }

    /// Position of a height's bucket among all, the old ones first.
    fn bucket_of(&self, height: u32) -> usize {
        let old_heights = self.old.len() as u32 * SPAN;
        match height.checked_sub(old_heights) {
            Some(recent) => self.old.len() + recent as usize,
            None => (height / SPAN) as usize,
        }
    }

    fn bucket_mut(&mut self, bucket: usize) -> Option<&mut Vec<Coin>> {
        match bucket.checked_sub(self.old.len()) {
            Some(recent) => self.recent.get_mut(recent),
            None => self.old.get_mut(bucket),
        }
    }
}

#[cfg(test)]
mod tests {
    use secp256k1::rand::SeedableRng;
    use secp256k1::rand::rngs::StdRng;

    use super::super::coin::Kind;
    use super::*;

    fn coin(height: u32, key: u32) -> Coin {
        Coin {
            txid: [0; 32],
            value_sat: 1,
            key,
            height,
            vout: 0,
            kind: Kind::P2wpkh,
            is_coinbase: false,
        }
    }

    #[test]
    fn coins_are_found_by_age_and_taken_once() {
        const HEIGHTS: u32 = 5 * SPAN;
        let mut rng = StdRng::seed_from_u64(0);
        let mut pool = Pool::default();
        for height in 0..HEIGHTS {
            pool.next_height();
            for key in 0..3 {
                pool.add(coin(height, key));
            }
        }
        // Recent heights are exact, old ones lie in the same span.
        for distance in [0, 1, 40, SPAN - 1, SPAN] {
            let taken = pool.take(u64::from(distance), &mut rng).unwrap();
            assert_eq!(taken.height, HEIGHTS - 1 - distance);
        }
        let old = pool.take(u64::from(4 * SPAN), &mut rng).unwrap().height;
        assert!(old < SPAN, "{old}");
        // Beyond the beginning: the oldest span.
        assert!(pool.take(u64::MAX, &mut rng).unwrap().height < SPAN);

        // An empty height gives way to the one before.
        for _ in 0..2 {
            assert_eq!(pool.take(0, &mut rng).unwrap().height, HEIGHTS - 1);
        }
        assert_eq!(pool.take(0, &mut rng).unwrap().height, HEIGHTS - 2);

        let left = pool.len();
        let taken = std::iter::from_fn(|| pool.take(700, &mut rng)).count();
        assert_eq!((taken, pool.len()), (left, 0));
        assert_eq!(left, 3 * HEIGHTS as usize - 10);
        assert!(pool.allocated_bytes() <= 8 * size_of::<Coin>() * (5 + pool.recent.len()));
    }

    #[test]
    fn a_coin_fits_into_56_bytes() {
        assert_eq!(size_of::<Coin>(), 56);
    }
}
