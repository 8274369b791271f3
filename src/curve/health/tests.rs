use std::collections::BTreeSet;
use std::sync::{Arc, mpsc};

use super::*;

impl Health {
    /// Has the result compared at once that is in the batch after so many more.
    pub(in crate::curve) fn sample_after(&self, batches: u64) {
        let sampled = self.batches() / CHECK_INTERVAL + 1000;
        self.set_batches(sampled * CHECK_INTERVAL - batches);
    }

    /// As if there had been so many. After the first, no sample is due by itself for long.
    pub(in crate::curve) fn set_batches(&self, batches: u64) {
        self.batches.store(batches, Ordering::Relaxed);
    }
}

fn unheard() -> Health {
    Health::new(|_| ())
}

#[test]
fn each_place_of_a_batch_is_compared_in_its_turn() {
    for count in [1, 5, 20, 64] {
        let health = unheard();
        let (mut asked, mut places) = (0, BTreeSet::new());
        let batches = CHECK_INTERVAL * 6 * count as u64;
        for number in 0..batches {
            let accepted = health.accept(
                || Ok(number),
                count,
                |made, place| {
                    asked += 1;
                    places.insert(place);
                    *made == number
                },
            );
            assert_eq!(accepted, Some(number));
        }
        assert_eq!(asked, batches / CHECK_INTERVAL);
        assert!(places.iter().copied().eq(0..count), "{count}: {places:?}");
    }
}

#[test]
fn batches_that_are_empty_or_failed_are_not_compared() {
    let health = unheard();
    let unasked = |_: &(), _| panic!("there is nothing to compare");
    assert_eq!(health.accept(|| Ok(()), 0, unasked), Some(()));
    for _ in 0..2 * CHECK_INTERVAL {
        assert_eq!(health.accept(|| Err(Degenerate), 3, unasked), None);
    }
    let so_far = EngineStatus {
        batches: 1 + 2 * CHECK_INTERVAL,
        fallback_batches: 2 * CHECK_INTERVAL,
        is_broken: false,
    };
    assert_eq!(health.status(), so_far);
    // One that is wrong is the last that is accepted, and even computed.
    let wrong = |_: &(), _| false;
    let accepted = (0..CHECK_INTERVAL).filter(|_| health.accept(|| Ok(()), 3, wrong).is_some());
    assert!(accepted.count() < CHECK_INTERVAL as usize);
    assert!(health.is_broken());
    let uncomputed = || -> Result<(), Degenerate> { panic!("the engine is broken") };
    assert_eq!(health.accept(uncomputed, 3, |_, _| true), None);
}

#[test]
fn what_is_found_wrong_while_a_batch_is_computed_ends_its_use() {
    let health = unheard();
    let batched = || {
        health.distrust();
        Ok(())
    };
    assert_eq!(health.accept(batched, 3, |_, _| true), None);
}

#[test]
fn what_is_absent_is_compared_each_time() {
    let health = unheard();
    let present = [true, false, true, false];
    health.judge_absent(present, |i| i % 2 == 0);
    assert!(!health.is_broken());
    health.judge_absent(present, |i| i == 3);
    assert!(health.is_broken());
}

#[test]
fn what_another_call_is_comparing_is_not_confirmed_yet() {
    let health = unheard();
    std::thread::scope(|scope| {
        let (begun, has_begun) = mpsc::channel();
        let health = &health;
        scope.spawn(move || {
            health.confirm(|| {
                begun.send(()).expect("received below");
                // As if it took long: whoever asks meanwhile would be through by now.
                std::thread::yield_now();
                false
            })
        });
        has_begun.recv().expect("sent above");
        assert!(!health.confirm(|| true));
    });
}

#[test]
fn whoever_is_to_be_told_is_told_once() {
    let finds: [fn(&Health); 4] = [
        |health| health.distrust(),
        |health| health.judge_absent([false], |_| true),
        |health| assert!(!health.confirm(|| false)),
        |health| {
            health.sample_after(0);
            assert_eq!(health.accept(|| Ok(()), 3, |_, _| false), None);
        },
    ];
    for find in finds {
        let told = Arc::new(Mutex::new(Vec::new()));
        let health = Health::new({
            let told = Arc::clone(&told);
            move |batches| told.lock().expect("no panic").push(batches)
        });
        assert!(health.confirm(|| true));
        health.set_batches(5);
        assert!(told.lock().expect("no panic").is_empty());
        find(&health);
        let batches = health.batches();
        assert!(health.is_broken() && batches >= 5);
        find_again(&health);
        assert_eq!(*told.lock().expect("no panic"), [batches]);
    }
}

/// By several threads.
fn find_again(health: &Health) {
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                health.distrust();
                assert!(!health.confirm(|| false));
                health.judge_absent([false], |_| true);
            });
        }
    });
}
