use std::ops::Range;

use secp256k1::SecretKey;

use super::*;
use crate::curve::Engine;
use crate::curve::arch::Portable;
use crate::curve::kernel::Kernel;
use crate::curve::libsecp256k1::LibSecp256k1;
use crate::curve::point::{TweakPoint, pack};
use crate::curve::scalar::Scalar;
use crate::curve::suite::{candidates, exact_candidates, public, secret, unusual_scalars};

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

/// For wallets with these keys, two of them in a pass.
fn scanner(keys: Range<u64>) -> Scanner<Portable> {
    let kernel = Kernel::in_small_batches(Portable, MIN_POINTS);
    let targets: Vec<ScanTarget> = keys.map(|key| target(key, 0)).collect();
    Scanner::new(Portable, kernel.core(), &targets).expect("valid keys")
}

#[test]
fn what_is_judged_has_each_candidate_in_turn() {
    let tweaks = tweaks(3);
    let exact = libsecp256k1::Scanner::new(&[target(1, 4)]).expect("valid keys");
    let exact = &exact.wallets()[0];
    for numbers in [0..1, 0..2, 0..5, 2..5, 4..5] {
        let mut candidates = Vec::new();
        exact.scan(&tweaks, numbers.clone(), &mut |chunk| {
            candidates.extend_from_slice(chunk.keys);
        });
        let mut seen = vec![false; numbers.len()];
        for place in 0..tweaks.len() {
            for count in 0..8 {
                let judged = Judged::new(&tweaks, &numbers, &candidates, place, count);
                assert!(judged.agrees(exact));
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
                    assert!(!wrong.agrees(exact));
                }
            }
        }
        assert!(!seen.contains(&false), "{numbers:?}: {seen:?}");
    }
}

#[test]
fn samples_of_a_pass_have_each_wallet_in_turn() {
    let scanner = scanner(5..9);
    let exact = scanner.exact.wallets();
    // As few as are not left to libsecp256k1.
    let tweaks = tweaks(MIN_POINTS);
    let mut seen = [[false; 2]; 2];
    for _ in 0..24 {
        scanner.scan(Batch::of(&tweaks), &mut |_| {});
        for (number, pass) in scanner.passes.iter().enumerate() {
            let (at, judged) = pass.last.take().expect("a sample");
            let wallet = |at: usize| &exact[pass.members[at].wallet];
            assert!(judged.agrees(wallet(at)));
            assert!(!judged.agrees(wallet(1 - at)));
            seen[number][at] = true;
        }
    }
    assert_eq!(seen, [[true; 2]; 2]);
}

/// Another wallet's batch is left to libsecp256k1, say, and gives none.
#[test]
fn a_pass_without_the_wallet_in_turn_leaves_a_sample_if_there_is_none() {
    let scanner = scanner(5..7);
    let pass = &scanner.passes[0];
    let tweaks = tweaks(MIN_POINTS);
    let mut room = Room::new(Portable);
    let mut scan = |kept| {
        scanner.scan_batch(&mut room, pass, kept, Batch::of(&tweaks), &mut |_| {});
    };
    scan(2);
    let (at, judged) = pass.last.take().expect("a sample");
    assert_eq!(at, 0);
    assert!(judged.agrees(&scanner.exact.wallets()[0]));
    // The one in turn goes before the others, and stays.
    for kept in 0..2 {
        scan(kept);
        scan(2);
        let (at, _) = pass.last.take().expect("a sample");
        assert_eq!(at, kept);
    }
}

/// A sample waits for each pass, and a wrong one of any is noticed.
#[test]
fn samples_of_all_passes_are_compared() {
    let tweaks = tweaks(MIN_POINTS);
    for wrong in 0..3 {
        // Two passes of two, and of one that takes no part in them.
        let scanner = scanner(0..5);
        assert_eq!(scanner.passes.len(), 3);
        scanner.scan(Batch::of(&tweaks), &mut |_| {});
        assert!(scanner.confirm());
        scanner.scan(Batch::of(&tweaks), &mut |_| {});
        let last = &scanner.passes[wrong].last;
        let (at, mut judged) = last.take().expect("a sample");
        judged.candidates[0][0] ^= 1;
        last.put((at, judged));
        assert!(!scanner.confirm(), "{wrong}");
        let waiting = |pass: &Pass| pass.last.take().is_some();
        assert!(!scanner.passes.iter().any(waiting));
    }
}

#[test]
fn wallets_share_passes_unless_their_keys_do_not_allow_it() {
    let kernel = Kernel::in_small_batches(Portable, MIN_POINTS);
    let passes = |keys: &[u64]| {
        let targets: Vec<ScanTarget> = keys.iter().map(|key| target(*key, 0)).collect();
        let scanner = Scanner::new(Portable, kernel.core(), &targets).expect("valid keys");
        assert_eq!(scanner.wallets(), keys.len());
        assert!(scanner.left_out.is_empty());
        let passes = scanner.passes.iter();
        let passes = passes.map(|pass| {
            let members: Vec<usize> = pass.members.iter().map(|member| member.wallet).collect();
            assert_eq!(pass.is_shared(), members.len() > 1 || keys.len() == 4);
            members
        });
        passes.collect::<Vec<_>>()
    };
    // 0 stands for the key 1, which leaves buckets empty.
    assert_eq!(passes(&[]), [[0; 0]; 0]);
    assert_eq!(passes(&[1]), [[0]]);
    assert_eq!(passes(&[1, 0]), [[1], [0]]);
    assert_eq!(passes(&[1, 2]), [[0, 1]]);
    assert_eq!(passes(&[0, 1, 2]), [vec![0], vec![1, 2]]);
    assert_eq!(passes(&[1, 2, 3, 4]), [[0, 1], [2, 3]]);
}

/// Nothing is left of B, or of B + L, when the table's excess is taken off.
#[test]
fn wallets_that_no_batch_can_have_are_left_to_the_library_between_others() {
    let kernel = Kernel::in_small_batches(Portable, MIN_POINTS);
    let excess = GeneratorTable::shared().expect("a table").excess;
    let label = excess.combine(&public(2).negate(secp256k1::SECP256K1));
    let mut targets = [target(1, 1), target(2, 0), target(3, 2), target(0, 1)];
    targets[0].spend_key = excess.serialize();
    targets[2].labels[1] = label.expect("a point").serialize();
    let tweaks = tweaks(MIN_POINTS + 1);
    let scanner = Scanner::new(Portable, kernel.core(), &targets).expect("valid keys");
    assert_eq!(scanner.left_out, [0, 2]);
    let mut candidates = Vec::new();
    scanner.candidates(Batch::of(&tweaks), &mut candidates);
    let expected = targets
        .each_ref()
        .map(|target| exact_candidates(target, &tweaks));
    assert_eq!(candidates, expected);
    // Of each wallet of the others, two batches.
    assert_eq!(kernel.status().batches, 4);
    assert!(scanner.confirm());
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
    let scanner = Scanner::new(Portable, core, &[target]).expect("valid keys");
    let before = core.health.batches();
    candidates(&scanner, Batch::of(&tweaks(MIN_POINTS)));
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
    let scanner = kernel.scanner(std::slice::from_ref(&target));
    let batch = Batch {
        tweaks: &tweaks,
        multiples: Some(&multiples),
    };
    let made = candidates(&*scanner.expect("valid keys"), batch);
    assert_eq!(made, exact_candidates(&target, &tweaks));
    assert_eq!(kernel.status().fallback_batches, 1);
}
