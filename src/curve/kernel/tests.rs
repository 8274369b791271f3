//! What an engine does when its backend computes wrongly.

mod samples;

use std::ops::Range;

use secp256k1::{Parity, SECP256K1, XOnlyPublicKey};

use super::*;
use crate::curve::arch::Portable;
use crate::curve::covered;
use crate::curve::failing::{Fault, Faulty};
use crate::curve::suite::{public, secret};
use crate::curve::{CHUNK_CANDIDATES, LEAST_BATCH, SCAN_BATCH, batch_for_threads};

impl<B: Backend> Kernel<B> {
    /// Without the self-check, in batches of at most so many points, and two wallets in a pass.
    pub(in crate::curve) fn in_small_batches(backend: B, points: usize) -> Self {
        Self::with_sizes(backend, BatchSizes::small(points))
    }

    /// What its scanners share with it.
    pub(in crate::curve) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    /// Has the result compared at once that is in the batch after so many more.
    pub(in crate::curve) fn sample_after(&self, batches: u64) {
        let batch = &self.core.health.batches;
        let sampled = batch.load(Ordering::Relaxed) / CHECK_INTERVAL + 1000;
        batch.store(sampled * CHECK_INTERVAL - batches, Ordering::Relaxed);
    }
}

fn target() -> ScanTarget {
    ScanTarget {
        scan_key: secret(1).secret_bytes(),
        spend_key: public(2).serialize(),
        labels: vec![public(3).serialize()],
    }
}

fn tweaks() -> Vec<TweakPoint> {
    (0..MIN_POINTS as u64 + 4)
        .map(|i| libsecp256k1::pack(&public(100 + i)))
        .collect()
}

fn candidates(engine: &dyn Engine) -> Vec<[u8; 32]> {
    let mut candidates = Vec::new();
    let scanner = engine.scanner(&target()).expect("valid keys");
    scanner.candidates(&tweaks(), &mut candidates);
    candidates
}

#[test]
fn a_backend_that_is_wrong_from_the_start_is_not_used() {
    let kernel = Kernel::new(Faulty::new(Fault::Doubled, 0));
    assert!(kernel.status().is_broken);
    assert_eq!(candidates(&kernel), candidates(&LibSecp256k1));
}

#[test]
fn a_wrong_result_in_the_sample_ends_the_use_of_the_backend() {
    // The self-check at the start is left out; the first batch is sampled.
    let kernel = Kernel::unchecked(Faulty::new(Fault::Doubled, 0));
    assert!(!kernel.status().is_broken);
    assert_eq!(candidates(&kernel), candidates(&LibSecp256k1));
    assert!(kernel.status().is_broken);

    let kernel = Kernel::unchecked(Faulty::new(Fault::Doubled, 0));
    let scanner = kernel
        .wallets_scanner(&[target(), target()])
        .expect("valid keys");
    let mut by_wallet = Vec::new();
    scanner.candidates(&tweaks(), &mut by_wallet);
    assert_eq!(
        by_wallet,
        [candidates(&LibSecp256k1), candidates(&LibSecp256k1)]
    );
    assert!(kernel.status().is_broken);

    let kernel = Kernel::unchecked(Faulty::new(Fault::Doubled, 0));
    let scalar = secret(5).secret_bytes();
    let product = |point: TweakPoint| Product { point, scalar };
    let products: Vec<Product> = tweaks().into_iter().map(product).collect();
    assert_eq!(kernel.multiply(&products), LibSecp256k1.multiply(&products));
    assert!(kernel.status().is_broken);
}

#[test]
fn a_fault_between_samples_is_found_by_a_later_one() {
    let backend = Faulty::new(Fault::Doubled, usize::MAX);
    let kernel = Kernel::new(backend);
    assert!(!kernel.status().is_broken);
    assert_eq!(candidates(&kernel), candidates(&LibSecp256k1));
    backend.fail();
    let scanner = kernel.scanner(&target()).expect("valid keys");
    let mut candidates = Vec::new();
    for _ in 0..CHECK_INTERVAL {
        if kernel.status().is_broken {
            break;
        }
        scanner.candidates(&tweaks(), &mut candidates);
    }
    assert!(kernel.status().is_broken);
}

/// Everything that an engine computes, from one covered call each.
fn all_covered(engine: &dyn Engine) -> impl PartialEq + std::fmt::Debug + use<> {
    let tweaks = tweaks();
    let multiples: Vec<TweakPoint> = LibSecp256k1
        .multiples(&tweaks)
        .into_iter()
        .flatten()
        .collect();
    let scanner = engine.scanner(&target()).expect("valid keys");
    let scanned = |with_multiples: bool| {
        covered(scanner.as_ref(), || {
            let mut candidates = Vec::new();
            match with_multiples {
                true => scanner.candidates_with_multiples(&tweaks, &multiples, &mut candidates),
                false => scanner.candidates(&tweaks, &mut candidates),
            }
            candidates
        })
    };
    let wallets = engine
        .wallets_scanner(&[target(), target()])
        .expect("valid keys");
    let by_wallet = covered(wallets.as_ref(), || {
        let mut candidates = Vec::new();
        wallets.candidates(&tweaks, &mut candidates);
        candidates
    });
    let scalar = secret(5).secret_bytes();
    let products: Vec<Product> = (tweaks.iter())
        .map(|point| Product {
            point: *point,
            scalar,
        })
        .collect();
    let mut keys: Vec<[u8; 33]> = tweaks.iter().map(TweakPoint::to_compressed).collect();
    // Of one key nothing is to be found: 5 is no x of a point.
    keys[3] = [0; 33];
    keys[3][0] = 2;
    keys[3][32] = 5;
    let ends: Vec<usize> = (1..=tweaks.len()).step_by(3).collect();
    (
        scanned(false),
        scanned(true),
        by_wallet,
        covered(engine, || engine.multiply(&products)),
        covered(engine, || engine.multiples(&tweaks)),
        covered(engine, || engine.decompress(&keys)),
        covered(engine, || engine.sums(&tweaks, &ends)),
    )
}

#[test]
fn whenever_an_engine_fails_what_is_covered_is_right() {
    let exact = all_covered(&LibSecp256k1);
    let backend = Faulty::new(Fault::Doubled, usize::MAX);
    let kernel = Kernel::unchecked(backend);
    // No sample is due by itself for long.
    kernel.core.health.batches.store(1, Ordering::Relaxed);
    assert_eq!(all_covered(&kernel), exact);
    assert!(!kernel.status().is_broken);
    let stores = backend.stored();
    for fault in [Fault::Doubled, Fault::Denied] {
        for correct in (0..stores).step_by(stores / 13) {
            let kernel = Kernel::unchecked(Faulty::new(fault, correct));
            kernel.core.health.batches.store(1, Ordering::Relaxed);
            // Not printed: there is much of it.
            assert!(all_covered(&kernel) == exact, "{correct} of {stores}");
            // A denied equation in the results that are known for sums is harmless: these are left to libsecp256k1.
            let is_noticed = matches!(fault, Fault::Doubled) && correct < stores / 10 * 9;
            assert!(
                kernel.status().is_broken || !is_noticed,
                "{correct} of {stores}"
            );
        }
    }
}

#[test]
fn a_point_that_is_taken_for_none_is_noticed_without_a_sample() {
    let products: Vec<Product> = tweaks()
        .into_iter()
        .map(|point| Product {
            point,
            scalar: secret(5).secret_bytes(),
        })
        .collect();
    let keys: Vec<[u8; 33]> = tweaks().iter().map(TweakPoint::to_compressed).collect();
    let kernel = || {
        let kernel = Kernel::unchecked(Faulty::new(Fault::Denied, 0));
        kernel.core.health.batches.store(1, Ordering::Relaxed);
        kernel
    };
    let (scanning, multiplying, expanding, adding) = (kernel(), kernel(), kernel(), kernel());
    assert_eq!(candidates(&scanning), candidates(&LibSecp256k1));
    assert_eq!(
        multiplying.multiply(&products),
        LibSecp256k1.multiply(&products)
    );
    assert_eq!(expanding.decompress(&keys), LibSecp256k1.decompress(&keys));
    let (points, ends) = (tweaks(), [3, 7, 20]);
    assert_eq!(
        adding.sums(&points, &ends),
        LibSecp256k1.sums(&points, &ends)
    );
    for kernel in [scanning, multiplying, expanding, adding] {
        assert!(kernel.status().is_broken);
    }
}

#[test]
fn what_another_call_is_comparing_is_not_confirmed_yet() {
    let health = Health::default();
    std::thread::scope(|scope| {
        let (begun, has_begun) = std::sync::mpsc::channel();
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

/// The numbers of each chunk that a scan hands over for the first run of tweaks, and all candidates put together.
fn chunks(
    scanner: &dyn CandidateScanner,
    numbers: Range<usize>,
) -> (Vec<Range<usize>>, Vec<[u8; 32]>) {
    let tweaks = tweaks();
    let mut seen = Vec::new();
    let mut all = vec![None; tweaks.len() * numbers.len()];
    scanner.chunks(&tweaks, None, numbers.clone(), &mut |chunk| {
        assert!(chunk.keys.len() <= CHUNK_CANDIDATES.max(tweaks.len()));
        if chunk.first_tweak == 0 {
            seen.push(chunk.numbers.clone());
        }
        for (tweak, keys) in chunk.by_tweak() {
            let start = tweak * numbers.len() + chunk.numbers.start - numbers.start;
            for (place, key) in all[start..].iter_mut().zip(keys) {
                assert_eq!(place.replace(*key), None, "a candidate again");
            }
        }
    });
    let all = all.into_iter().map(|key| key.expect("a candidate"));
    (seen, all.collect())
}

#[test]
fn many_labels_come_in_chunks_of_bounded_size() {
    let target = ScanTarget {
        labels: (0..10).map(|i| public(3 + i).serialize()).collect(),
        ..target()
    };
    let mut expected = Vec::new();
    let exact = LibSecp256k1.scanner(&target).expect("valid keys");
    exact.candidates(&tweaks(), &mut expected);
    let kernel = Kernel::new(Portable);
    let scanner = kernel.scanner(&target).expect("valid keys");
    // 20 tweaks leave room for three candidates each.
    let (seen, all) = chunks(&*scanner, 0..11);
    assert_eq!(seen, [0..3, 3..6, 6..9, 9..11]);
    assert_eq!(all, expected);
    assert_eq!(chunks(&*exact, 0..11), (seen, all));
    // Some of them alone.
    for scanner in [&*scanner, &*exact] {
        let (seen, some) = chunks(scanner, 4..9);
        assert_eq!(seen, [4..7, 7..9]);
        for (some, all) in some.chunks(5).zip(expected.chunks(11)) {
            assert_eq!(some, &all[4..9]);
        }
    }
}

#[test]
fn a_fault_in_a_later_chunk_leaves_the_rest_to_the_library() {
    let target = ScanTarget {
        labels: (0..10).map(|i| public(3 + i).serialize()).collect(),
        ..target()
    };
    // The last label is minus what one tweak pays to: its sum has no slope, whatever the chunks before.
    let mut expected = Vec::new();
    let exact = LibSecp256k1.scanner(&target).expect("valid keys");
    exact.candidates(&tweaks(), &mut expected);
    let key = XOnlyPublicKey::from_slice(&expected[0]).expect("a point");
    let first = key.public_key(Parity::Even);
    let mut fallen_back = 0;
    for label in [first, first.negate(SECP256K1)] {
        let mut target = target.clone();
        target.labels[9] = label.serialize();
        let exact = LibSecp256k1.scanner(&target).expect("valid keys");
        exact.candidates(&tweaks(), &mut expected);
        let kernel = Kernel::new(Portable);
        let scanner = kernel.scanner(&target).expect("valid keys");
        let (_, all) = chunks(&*scanner, 0..11);
        assert_eq!(all, expected);
        fallen_back += kernel.status().fallback_batches;
        assert!(!kernel.status().is_broken);
    }
    assert_eq!(
        fallen_back, 1,
        "of the two keys with this x one is minus the output"
    );
}

#[test]
fn matches_are_the_candidates_that_start_alike() {
    let all = candidates(&LibSecp256k1);
    let short = |key: &[u8; 32]| u64::from_be_bytes(key[..8].try_into().expect("8 bytes"));
    // Tweak 0 has an output of its own label, tweak 1 none, tweak 2 one of tweak 3 and its own plain one, tweak 3 one
    // that belongs to nobody.
    let keys = [short(&all[1]), short(&all[6]), short(&all[4]), 77];
    let ends = [1, 1, 3, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4];
    let outputs = crate::curve::ShortKeys {
        keys: &keys,
        ends: &ends,
    };
    let kernel = Kernel::new(Portable);
    let scanner = kernel.scanner(&target()).expect("valid keys");
    let mut matches = Vec::new();
    scanner.matches(&tweaks(), &outputs, &mut matches);
    let expected = [(0, 1, all[1]), (2, 0, all[4])];
    let found: Vec<_> = matches
        .iter()
        .map(|m| (m.tweak, m.candidate, m.key))
        .collect();
    assert_eq!(found, expected);
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
