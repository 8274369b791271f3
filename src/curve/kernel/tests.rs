//! What an engine does when its backend computes wrongly.

mod samples;

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use secp256k1::{Parity, SECP256K1, XOnlyPublicKey};

use super::*;
use crate::curve::arch::Portable;
use crate::curve::failing::{Fault, Faulty};
use crate::curve::health::CHECK_INTERVAL;
use crate::curve::point::pack;
use crate::curve::scan::CHUNK_CANDIDATES;
use crate::curve::suite::{exact_candidates, public, scanner, secret};
use crate::curve::{Batch, Match, ShortKeys, covered, suite};

impl<B: Backend> Kernel<B> {
    /// After the self-check.
    fn checked(backend: B) -> Self {
        let kernel = Self::unchecked(backend);
        kernel.check_itself();
        kernel
    }

    /// Without the self-check, and nobody is told.
    pub(in crate::curve) fn unchecked(backend: B) -> Self {
        Self::new(backend, BatchSizes::full::<B>(), |_| ())
    }

    /// Without the self-check, in batches of at most so many points, and two wallets in a pass.
    pub(in crate::curve) fn in_small_batches(backend: B, points: usize) -> Self {
        Self::new(backend, BatchSizes::small(points), |_| ())
    }

    /// What its scanners share with it.
    pub(in crate::curve) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    /// See [`Health::sample_after`].
    pub(in crate::curve) fn sample_after(&self, batches: u64) {
        self.core.health.sample_after(batches);
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
        .map(|i| pack(&public(100 + i)))
        .collect()
}

fn candidates(engine: &dyn Engine) -> Vec<[u8; 32]> {
    let scanner = scanner(engine, &target());
    suite::candidates(&*scanner, Batch::of(&tweaks()))
}

#[test]
fn a_backend_that_is_wrong_from_the_start_is_not_used() {
    let told = Arc::new(AtomicUsize::new(0));
    let report = {
        let told = Arc::clone(&told);
        move |_| {
            told.fetch_add(1, Ordering::Relaxed);
        }
    };
    let backend = Faulty::new(Fault::Doubled, 0);
    let kernel = Kernel::new(backend, BatchSizes::full::<Faulty>(), report);
    assert_eq!(told.load(Ordering::Relaxed), 0);
    kernel.check_itself();
    assert!(kernel.status().is_broken);
    assert_eq!(told.load(Ordering::Relaxed), 1);
    assert_eq!(candidates(&kernel), candidates(&LibSecp256k1));
    assert_eq!(told.load(Ordering::Relaxed), 1);
}

#[test]
fn a_wrong_result_in_the_sample_ends_the_use_of_the_backend() {
    // The self-check at the start is left out; the first batch is sampled.
    let kernel = Kernel::unchecked(Faulty::new(Fault::Doubled, 0));
    assert!(!kernel.status().is_broken);
    assert_eq!(candidates(&kernel), candidates(&LibSecp256k1));
    assert!(kernel.status().is_broken);

    let kernel = Kernel::unchecked(Faulty::new(Fault::Doubled, 0));
    let scanner = kernel.scanner(&[target(), target()]).expect("valid keys");
    let mut by_wallet = Vec::new();
    scanner.candidates(Batch::of(&tweaks()), &mut by_wallet);
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
    let kernel = Kernel::checked(backend);
    assert!(!kernel.status().is_broken);
    assert_eq!(candidates(&kernel), candidates(&LibSecp256k1));
    backend.fail();
    let scanner = scanner(&kernel, &target());
    let mut candidates = Vec::new();
    for _ in 0..CHECK_INTERVAL {
        if kernel.status().is_broken {
            break;
        }
        scanner.candidates(Batch::of(&tweaks()), &mut candidates);
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
    let scanned = |wallets: usize, multiples| {
        let scanner = engine.scanner(&vec![target(); wallets]);
        let scanner = scanner.expect("valid keys");
        covered(scanner.as_ref(), || {
            let mut candidates = Vec::new();
            let tweaks = &tweaks;
            scanner.candidates(Batch { tweaks, multiples }, &mut candidates);
            candidates
        })
    };
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
        scanned(1, None),
        scanned(1, Some(&multiples)),
        scanned(2, None),
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
    kernel.core.health.set_batches(1);
    assert_eq!(all_covered(&kernel), exact);
    assert!(!kernel.status().is_broken);
    let stores = backend.stored();
    for fault in [Fault::Doubled, Fault::Denied] {
        for correct in (0..stores).step_by(stores / 13) {
            let kernel = Kernel::unchecked(Faulty::new(fault, correct));
            kernel.core.health.set_batches(1);
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
        kernel.core.health.set_batches(1);
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

/// The numbers of each chunk that a scan hands over for the first run of tweaks, and all candidates put together.
fn chunks(scanner: &dyn CandidateScanner) -> (Vec<Range<usize>>, Vec<[u8; 32]>) {
    let tweaks = tweaks();
    let per_tweak = scanner.candidates_per_tweak(0);
    let mut seen = Vec::new();
    let mut all = vec![None; tweaks.len() * per_tweak];
    scanner.scan(Batch::of(&tweaks), &mut |chunk| {
        assert!(chunk.keys.len() <= CHUNK_CANDIDATES.max(tweaks.len()));
        if chunk.first_tweak == 0 {
            seen.push(chunk.numbers.clone());
        }
        for (tweak, keys) in chunk.by_tweak() {
            let start = tweak * per_tweak + chunk.numbers.start;
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
    let expected = exact_candidates(&target, &tweaks());
    let kernel = Kernel::checked(Portable);
    for engine in [&kernel as &dyn Engine, &LibSecp256k1] {
        // 20 tweaks leave room for three candidates each.
        let (seen, all) = chunks(&*scanner(engine, &target));
        assert_eq!(seen, [0..3, 3..6, 6..9, 9..11]);
        assert_eq!(all, expected);
    }
}

#[test]
fn a_fault_in_a_later_chunk_leaves_the_rest_to_the_library() {
    let target = ScanTarget {
        labels: (0..10).map(|i| public(3 + i).serialize()).collect(),
        ..target()
    };
    // The last label is minus what one tweak pays to: its sum has no slope, whatever the chunks before.
    let key = exact_candidates(&target, &tweaks())[0];
    let key = XOnlyPublicKey::from_slice(&key).expect("a point");
    let first = key.public_key(Parity::Even);
    let mut fallen_back = 0;
    for label in [first, first.negate(SECP256K1)] {
        let mut target = target.clone();
        target.labels[9] = label.serialize();
        let kernel = Kernel::checked(Portable);
        let (_, all) = chunks(&*scanner(&kernel, &target));
        assert_eq!(all, exact_candidates(&target, &tweaks()));
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
    let outputs = ShortKeys {
        keys: &keys,
        ends: &ends,
    };
    let kernel = Kernel::checked(Portable);
    let mut matches = Vec::new();
    let found_by = |scanner: &dyn CandidateScanner, matches: &mut Vec<Match>| {
        scanner.matches(Batch::of(&tweaks()), &outputs, matches);
        let found = matches.iter();
        let found: Vec<_> = found
            .map(|m| (m.tweak, m.wallet, m.candidate, m.key))
            .collect();
        found
    };
    let expected = [(0, 0, 1, all[1]), (2, 0, 0, all[4])];
    let one = scanner(&kernel, &target());
    assert_eq!(found_by(&*one, &mut matches), expected);
    // Of a stranger, nothing; of the same wallet once more, the same.
    let mut stranger = target();
    stranger.scan_key = secret(77).secret_bytes();
    let three = kernel.scanner(&[stranger, target(), target()]);
    let expected = [
        (0, 1, 1, all[1]),
        (0, 2, 1, all[1]),
        (2, 1, 0, all[4]),
        (2, 2, 0, all[4]),
    ];
    let three = three.expect("valid keys");
    assert_eq!(found_by(&*three, &mut matches), expected);
}

/// Which result is compared depends on how many there are.
#[test]
fn samples_are_taken_of_all_results_of_a_batch() {
    let tweaks = tweaks();
    let keys: Vec<[u8; 33]> = tweaks.iter().map(TweakPoint::to_compressed).collect();
    let product = |point: &TweakPoint| Product {
        point: *point,
        scalar: secret(1).secret_bytes(),
    };
    let products: Vec<Product> = tweaks.iter().map(product).collect();
    let ends: Vec<usize> = (2..=tweaks.len()).step_by(2).collect();
    let groups = Groups {
        points: &tweaks,
        ends: &ends,
    };
    assert_eq!(products[..].count(), tweaks.len());
    assert_eq!(keys[..].count(), tweaks.len());
    assert_eq!(groups.count(), ends.len());
}
