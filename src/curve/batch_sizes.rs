//! How many points, and how many wallets, are computed with at a time.

use super::arch::Backend;

/// Tweaks that a scanner gains from getting at once: a full batch of the backend with the smallest elements.
pub const SCAN_BATCH: usize = 2048;

/// Transactions that tweak computation gains from getting at once.
pub const TWEAK_BATCH: usize = 512;

/// Fewest items worth a batch: below this it loses more than a further core gains.
pub const LEAST_BATCH: usize = 64;

/// How many items to hand an engine at a time where `threads` share `items`: as many batches of the same size for each
/// thread, of `most` items at most and, unless there are fewer, [`LEAST_BATCH`] at least.
///
/// Make each batch a task of its own: rayon would otherwise hand out runs of them, which nobody can take over from a
/// thread that is late.
pub fn batch_for_threads(items: usize, threads: usize, most: usize) -> usize {
    let threads = threads.max(1);
    let batches = threads * items.div_ceil(threads * most).max(1);
    items.div_ceil(batches).max(LEAST_BATCH)
}

/// Fewer points than this are left to libsecp256k1: their share of the inversions would cost more than it saves.
pub(super) const MIN_POINTS: usize = 16;

/// Room for a coordinate of all points of a full batch. A scan has some 17 such columns, which the cache of a core should hold.
const COLUMN_BYTES: usize = 80 << 10;

/// What part of a full batch the batches of a pass for many wallets are: each wallet holds five batches of points.
const WALLETS_SHARE: usize = 2;

/// Wallets in one pass: more would fall out of the cache, and what they share is little by then.
const WALLETS_PER_PASS: usize = 16;

/// Products with a scalar each in a full batch: their tables, 1 KiB for each, should stay in the cache.
const MULTIPLY_POINTS: usize = 512;

/// Points in a full batch: enough that the shared inversion costs little for each, few enough that the columns
/// of a batch stay in the cache. 1024 in nine limbs, 2048 in five or in four words.
pub(super) const fn full_batch<B: Backend>() -> usize {
    let element_bytes = size_of::<B::Limbs>() / B::LANES;
    1 << (COLUMN_BYTES / element_bytes).ilog2()
}

/// The most that an engine computes with at a time. Changes speed and nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BatchSizes {
    /// Tweaks of a scan for one wallet.
    pub(super) scan: usize,
    /// Tweaks of a pass for many wallets.
    pub(super) shared_scan: usize,
    /// Wallets of a pass.
    pub(super) wallets: usize,
    /// Products with a scalar each.
    pub(super) products: usize,
    /// Pairs of neighbours in sums.
    pub(super) pairs: usize,
}

impl BatchSizes {
    /// Those that are fastest.
    pub(super) const fn full<B: Backend>() -> Self {
        Self {
            scan: full_batch::<B>(),
            shared_scan: full_batch::<B>() / WALLETS_SHARE,
            wallets: WALLETS_PER_PASS,
            products: MULTIPLY_POINTS,
            pairs: full_batch::<B>(),
        }
    }

    /// So many points of every kind, and two wallets in a pass: several batches are quickly computed.
    pub(super) const fn small(points: usize) -> Self {
        Self {
            scan: points,
            shared_scan: points,
            wallets: 2,
            products: points,
            pairs: points,
        }
    }
}

/// The size of batches that divides `count` points evenly, with at most `max` in each.
pub(super) fn batch_points(count: usize, max: usize) -> usize {
    count.div_ceil(count.div_ceil(max).max(1)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::curve::arch::Portable;

    #[test]
    fn batches_are_of_even_size() {
        assert_eq!(batch_points(0, 1024), 1);
        assert_eq!(batch_points(1, 1024), 1);
        assert_eq!(batch_points(1024, 1024), 1024);
        assert_eq!(batch_points(1025, 1024), 513);
        assert_eq!(batch_points(10_000, 1024), 1000);
    }

    #[test]
    fn full_batches_have_the_sizes_that_were_measured() {
        let sizes = |scan, shared_scan| BatchSizes {
            scan,
            shared_scan,
            wallets: 16,
            products: 512,
            pairs: scan,
        };
        assert_eq!(BatchSizes::full::<Portable>(), sizes(2048, 1024));
        #[cfg(target_arch = "x86_64")]
        {
            use crate::curve::arch::{avx2::Avx2Words, avx512::Avx512Words, ifma::IfmaWords};
            use crate::curve::field_5x52::Field5x52;
            use crate::curve::field_9x29::Field9x29;
            assert_eq!(BatchSizes::full::<Field9x29<Avx2Words>>(), sizes(1024, 512));
            assert_eq!(
                BatchSizes::full::<Field9x29<Avx512Words>>(),
                sizes(1024, 512)
            );
            assert_eq!(
                BatchSizes::full::<Field5x52<IfmaWords>>(),
                sizes(2048, 1024)
            );
        }
    }

    #[test]
    fn threads_get_as_many_batches_of_a_fitting_size() {
        for threads in [1, 2, 3, 8] {
            for items in (0..10_000).step_by(7) {
                let batch = batch_for_threads(items, threads, SCAN_BATCH);
                assert!(
                    (LEAST_BATCH..=SCAN_BATCH).contains(&batch),
                    "{items}, {threads}"
                );
                if items > threads * LEAST_BATCH {
                    // The busiest thread has hardly more than its share: an item for each of its batches.
                    let most = items.div_ceil(batch).div_ceil(threads);
                    assert!(
                        most * batch <= items / threads + most + 1,
                        "{items}, {threads}"
                    );
                }
            }
        }
        assert_eq!(batch_for_threads(16_384, 2, SCAN_BATCH), 2048);
        assert_eq!(batch_for_threads(2_049, 1, SCAN_BATCH), 1025);
        assert_eq!(batch_for_threads(2_049, 2, SCAN_BATCH), 1025);
        assert_eq!(batch_for_threads(10, 4, SCAN_BATCH), LEAST_BATCH);
    }
}
