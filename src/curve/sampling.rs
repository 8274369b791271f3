//! Results that were handed out are compared with libsecp256k1 before anybody relies on them.
//!
//! An engine that begins to compute wrongly is noticed by the next sample, and by then it has handed out results. So
//! whoever is to store, send or report results takes them from [`covered`]: it ends with a sample, and what no good
//! sample covers is computed again.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// What computes in a way of its own, and is held against libsecp256k1 by samples.
pub trait Sampled {
    /// Whether a sample was wrong: everything is left to libsecp256k1 since then, for good.
    fn is_broken(&self) -> bool {
        false
    }

    /// Whether all that was handed out so far may be relied on: compares some of the results that were handed out last, and
    /// computes results that are known, in every lane of the processor's vectors. Does nothing if a call before has done it.
    ///
    /// Once this is false it stays so, though what is handed out since then is exact: see [`covered`].
    fn confirm(&self) -> bool {
        true
    }
}

/// What `work` makes with results of `by`, all of them covered by a good sample that is younger than they are.
///
/// If there is none, all of it is suspect: `work` is done again, and libsecp256k1 computes. So it is called once or
/// twice, must not keep or report anything, and has to begin anew each time.
pub fn covered<T>(by: &(impl Sampled + ?Sized), mut work: impl FnMut() -> T) -> T {
    let is_exact = by.is_broken();
    let made = work();
    if is_exact || by.confirm() {
        return made;
    }
    drop(made);
    work()
}

/// The last results of a kind, until they are compared. A later one takes the place of one that waits.
pub(super) struct Last<S>(Mutex<Option<S>>);

impl<S> Default for Last<S> {
    fn default() -> Self {
        Self(Mutex::new(None))
    }
}

impl<S> Last<S> {
    pub(super) fn put(&self, sample: S) {
        *self.lock() = Some(sample);
    }

    /// In the place of none only.
    pub(super) fn put_if_none(&self, sample: S) {
        self.lock().get_or_insert(sample);
    }

    /// What waits, to be compared.
    pub(super) fn take(&self) -> Option<S> {
        self.lock().take()
    }

    fn lock(&self) -> MutexGuard<'_, Option<S>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A number that has nothing to do with those of other numbers, whatever the steps in which they are counted (SplitMix64).
pub(super) fn scatter(number: u64) -> usize {
    let mixed = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    (mixed ^ mixed >> 31) as usize
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// Answers by a script.
    struct Scripted {
        is_broken: bool,
        confirms: bool,
    }

    impl Sampled for Scripted {
        fn is_broken(&self) -> bool {
            self.is_broken
        }

        fn confirm(&self) -> bool {
            self.confirms
        }
    }

    #[test]
    fn work_is_done_again_unless_a_good_sample_covers_it() {
        for (is_broken, confirms, runs) in [
            (false, true, 1),
            (false, false, 2),
            // Broken before the work began: it was done by libsecp256k1.
            (true, false, 1),
        ] {
            let count = Cell::new(0);
            let by = Scripted {
                is_broken,
                confirms,
            };
            let last = covered(&by, || {
                count.set(count.get() + 1);
                count.get()
            });
            assert_eq!((last, count.get()), (runs, runs));
        }
    }

    /// The first numbers of SplitMix64 from 0, as its authors' code gives them.
    #[test]
    fn scattered_numbers_are_those_of_splitmix64() {
        let expected = [
            0xe220_a839_7b1d_cdaf_u64,
            0x6e78_9e6a_a1b9_65f4,
            0x06c4_5d18_8009_454f,
            0xf88b_b8a8_724c_81ec,
            0x1b39_896a_51a8_749b,
        ];
        assert_eq!(
            expected.map(|number| number as usize),
            [0, 1, 2, 3, 4].map(scatter)
        );
    }

    #[test]
    fn places_are_visited_in_whatever_steps_numbers_are_counted() {
        for step in 1..=64 {
            for count in [2, 3, 16] {
                let mut visits = vec![0; count];
                for i in 0..20 * count as u64 {
                    visits[scatter(i * step) % count] += 1;
                }
                let few = visits.iter().filter(|visits| **visits < 5);
                assert_eq!(few.count(), 0, "{visits:?} in steps of {step}");
            }
        }
    }

    #[test]
    fn what_waits_is_compared_once() {
        let last = Last::default();
        assert_eq!(last.take(), None);
        last.put(1);
        last.put(2);
        assert_eq!(last.take(), Some(2));
        assert_eq!(last.take(), None);
    }
}
