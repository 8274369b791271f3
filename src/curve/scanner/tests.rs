use secp256k1::SecretKey;

use super::*;
use crate::curve::Engine;
use crate::curve::arch::Portable;
use crate::curve::kernel::Kernel;
use crate::curve::libsecp256k1::{LibSecp256k1, pack};
use crate::curve::suite::{public, secret, unusual_scalars};

fn target(key: u64, labels: u64) -> ScanTarget {
    let one = SecretKey::from_slice(&Scalar::ONE.to_be_bytes()).expect("1");
    let scan_key = if key == 0 { one } else { secret(key) };
    ScanTarget {
        scan_key: scan_key.secret_bytes(),
        spend_key: public(2).serialize(),
        labels: (0..labels).map(|i| public(3 + i).serialize()).collect(),
    }
}

fn tweaks(count: usize) -> Vec<TweakPoint> {
    (100..).take(count).map(|i| pack(&public(i))).collect()
}

#[test]
fn what_is_judged_has_each_candidate_in_turn() {
    let tweaks = tweaks(3);
    let exact = libsecp256k1::Scanner::new(&target(1, 4)).expect("valid keys");
    for numbers in [0..1, 0..2, 0..5, 2..5, 4..5] {
        let mut candidates = Vec::new();
        exact.chunks(&tweaks, None, numbers.clone(), &mut |chunk| {
            candidates.extend_from_slice(chunk.keys);
        });
        let mut seen = vec![false; numbers.len()];
        for place in 0..tweaks.len() {
            for count in 0..8 {
                let judged = Judged::new(&tweaks, &numbers, &candidates, place, count);
                assert!(judged.agrees(&exact));
                assert_eq!(judged.tweak, tweaks[place]);
                assert_eq!(judged.numbers[0], numbers.start);
                assert!(numbers.len() == 1 || judged.numbers[1] > numbers.start);
                for number in judged.numbers {
                    seen[number - numbers.start] = true;
                }
                // A wrong one of either is noticed.
                for i in 0..2 {
                    let mut wrong = Judged::new(&tweaks, &numbers, &candidates, place, count);
                    wrong.candidates[i][0] ^= 1;
                    assert!(!wrong.agrees(&exact));
                }
            }
        }
        assert!(!seen.contains(&false), "{numbers:?}: {seen:?}");
    }
}

#[test]
fn samples_of_a_shared_scan_have_each_wallet_in_turn() {
    let kernel = Kernel::in_small_batches(Portable, MIN_POINTS);
    let targets: Vec<ScanTarget> = (0..4).map(|i| target(5 + i, 0)).collect();
    let scanner = SharedScanner::new(Portable, kernel.core(), &targets).expect("valid keys");
    let wallets: Vec<_> = scanner
        .passes
        .iter()
        .map(|pass| &pass.wallets[..])
        .collect();
    assert_eq!(wallets, [[0, 1], [2, 3]]);
    // As few as are not left to libsecp256k1.
    let tweaks = tweaks(MIN_POINTS);
    let mut seen = [[false; 2]; 2];
    for _ in 0..24 {
        scanner.chunks(&tweaks, &mut |_, _| {});
        let (pass, at, judged) = scanner.last.take().expect("a sample");
        assert!(judged.agrees(&scanner.passes[pass].exact[at]));
        assert!(!judged.agrees(&scanner.passes[pass].exact[1 - at]));
        seen[pass][at] = true;
    }
    assert_eq!(seen, [[true; 2]; 2]);
}

/// Another wallet's batch is left to libsecp256k1, say, and gives none.
#[test]
fn a_pass_without_the_wallet_in_turn_leaves_a_sample_if_there_is_none() {
    let kernel = Kernel::in_small_batches(Portable, MIN_POINTS);
    let targets: Vec<ScanTarget> = (0..4).map(|i| target(5 + i, 0)).collect();
    let scanner = SharedScanner::new(Portable, kernel.core(), &targets).expect("valid keys");
    let tweaks = tweaks(MIN_POINTS);
    let mut room = SharedRoom::new(Portable);
    let mut scan = |pass: usize, kept| {
        let pass = (pass, &scanner.passes[pass]);
        scanner.scan_batch(&mut room, pass, kept, &tweaks, &mut |_, _| {});
    };
    scan(1, 0);
    let (pass, at, judged) = scanner.last.take().expect("a sample");
    assert_eq!(pass, 1);
    assert!(judged.agrees(&scanner.passes[pass].exact[at]));
    // The one in turn goes before the others, and stays.
    for kept in 0..4 {
        scan(0, kept);
        scan(1, kept);
        let (pass, at, _) = scanner.last.take().expect("a sample");
        assert_eq!(2 * pass + at, kept);
    }
}

#[test]
fn wallets_share_passes_unless_their_keys_do_not_allow_it() {
    let kernel = Kernel::in_small_batches(Portable, MIN_POINTS);
    let passes = |keys: &[u64]| {
        let targets: Vec<ScanTarget> = keys.iter().map(|key| target(*key, 0)).collect();
        let scanner = SharedScanner::new(Portable, kernel.core(), &targets).expect("valid keys");
        assert_eq!(scanner.scanners.len(), keys.len());
        scanner
            .passes
            .into_iter()
            .map(|pass| pass.wallets)
            .collect::<Vec<_>>()
    };
    // 0 stands for the key 1, which leaves buckets empty.
    assert_eq!(passes(&[]), [[0; 0]; 0]);
    assert_eq!(passes(&[1]), [[0; 0]; 0]);
    assert_eq!(passes(&[1, 0]), [[0; 0]; 0]);
    assert_eq!(passes(&[1, 2]), [[0, 1]]);
    assert_eq!(passes(&[0, 1, 2]), [[1, 2]]);
    assert_eq!(passes(&[1, 0, 2, 3]), [vec![0, 2], vec![3]]);
}

#[test]
fn usual_and_unusual_keys_are_scanned_for_in_batches() {
    let kernel = Kernel::unchecked(Portable);
    for i in 0..20 {
        assert!(
            is_batched(kernel.core(), secret(i).secret_bytes()),
            "key {i}"
        );
    }
    for key in unusual_scalars() {
        assert!(is_batched(kernel.core(), key.secret_bytes()), "{key:?}");
    }
}

/// Whether tweaks are computed in batches for this scan key.
fn is_batched(core: &Arc<Core>, scan_key: [u8; 32]) -> bool {
    let mut target = target(1, 0);
    target.scan_key = scan_key;
    let scanner = one_wallet(Portable, core, &target).expect("valid keys");
    let before = core.health.batches();
    let mut candidates = Vec::new();
    scanner.candidates(&tweaks(MIN_POINTS), &mut candidates);
    core.health.batches() == before + 1
}

/// libsecp256k1 hands over what is more than 64 tweaks in several runs.
#[test]
fn runs_of_a_later_batch_that_falls_back_keep_their_places() {
    const BATCH: usize = 70;
    let kernel = Kernel::in_small_batches(Portable, BATCH);
    let target = target(1, 1);
    let tweaks = tweaks(2 * BATCH);
    let multiples = LibSecp256k1.multiples(&tweaks).into_iter();
    let mut multiples: Vec<TweakPoint> = multiples.map(|point| point.expect("a point")).collect();
    multiples[BATCH + 3] = TweakPoint::from_bytes([1; 64]);
    let exact = libsecp256k1::Scanner::new(&target).expect("valid keys");
    let (mut candidates, mut expected) = (Vec::new(), Vec::new());
    exact.candidates(&tweaks, &mut expected);
    let scanner = kernel.scanner(&target).expect("valid keys");
    scanner.candidates_with_multiples(&tweaks, &multiples, &mut candidates);
    assert_eq!(candidates, expected);
    assert_eq!(kernel.status().fallback_batches, 1);
}
