//! Whole jobs of an engine on the backend, in one batch each.

use secp256k1::{PublicKey, SECP256K1, Scalar as LibScalar, SecretKey};

use super::{element, public, secret, unusual_scalars};
use crate::curve::arch::Backend;
use crate::curve::batch_sizes::MIN_POINTS;
use crate::curve::generator::GeneratorTable;
use crate::curve::group::{AffinePoint, CHAINS};
use crate::curve::kernel::Kernel;
use crate::curve::libsecp256k1::{self, LibSecp256k1};
use crate::curve::point::{pack, unpack};
use crate::curve::reference::{self, P};
use crate::curve::{Batch, CandidateScanner, Engine, Product, ScanTarget, TweakPoint};

/// Tweaks of which some are no points, with their multiples.
pub(super) fn tweaks(count: usize) -> Vec<TweakPoint> {
    (0..count as u64)
        .map(|i| match i % 11 {
            // With y = 0 it has no double.
            7 if i % 2 == 0 => TweakPoint::from_bytes([0; 64]),
            7 => {
                let mut bytes = *pack(&public(i)).as_bytes();
                bytes[63] ^= 1;
                TweakPoint::from_bytes(bytes)
            }
            9 if i > 30 => TweakPoint::from_bytes([0xff; 64]),
            // Repeated, negated.
            3 => pack(&public(0)),
            4 => pack(&public(0).negate(SECP256K1)),
            _ => pack(&public(i)),
        })
        .collect()
}

pub(super) fn target(scan_key: SecretKey, labels: u64) -> ScanTarget {
    ScanTarget {
        scan_key: scan_key.secret_bytes(),
        spend_key: public(1).serialize(),
        labels: (0..labels).map(|i| public(2000 + i).serialize()).collect(),
    }
}

/// A scan for one wallet.
pub(crate) fn scanner(engine: &dyn Engine, target: &ScanTarget) -> Box<dyn CandidateScanner> {
    let scanner = engine.scanner(std::slice::from_ref(target));
    scanner.expect("valid keys")
}

/// The candidates of its wallet.
pub(crate) fn candidates(scanner: &dyn CandidateScanner, batch: Batch<'_>) -> Vec<[u8; 32]> {
    // What is there before is no matter.
    let mut candidates = vec![vec![[9; 32]; 5]; 2];
    scanner.candidates(batch, &mut candidates);
    assert_eq!(candidates.len(), 1);
    candidates.remove(0)
}

pub(crate) fn exact_candidates(target: &ScanTarget, tweaks: &[TweakPoint]) -> Vec<[u8; 32]> {
    candidates(&*scanner(&LibSecp256k1, target), Batch::of(tweaks))
}

/// Whole scans for every number of tweaks in the last vector and around a group, for one wallet and for three.
pub(crate) fn scans_equal_the_library<B: Backend>(backend: B) {
    let kernel = Kernel::unchecked(backend);
    let max = MIN_POINTS + B::LANES * CHAINS + 1;
    let tweaks = tweaks(max);
    let targets = [
        target(secret(1), 0),
        target(secret(2), 1),
        target(secret(3), 3),
    ];
    let expected: Vec<_> = targets
        .iter()
        .map(|t| exact_candidates(t, &tweaks))
        .collect();
    let scanner = scanner(&kernel, &targets[1]);
    let all = kernel.scanner(&targets).expect("valid keys");
    assert_eq!(all.wallets(), 3);
    let mut by_wallet = Vec::new();
    let width = B::LANES * CHAINS;
    let around = [width - 1, width, width + 1, max];
    for count in (0..max).step_by(3).chain(around) {
        let candidates = candidates(&*scanner, Batch::of(&tweaks[..count]));
        assert_eq!(candidates, expected[1][..2 * count], "{count} tweaks");
        if count != max && count % 30 != 0 {
            continue;
        }
        all.candidates(Batch::of(&tweaks[..count]), &mut by_wallet);
        for (wallet, candidates) in by_wallet.iter().enumerate() {
            let per_tweak = all.candidates_per_tweak(wallet);
            assert_eq!(
                *candidates,
                expected[wallet][..per_tweak * count],
                "{count} tweaks"
            );
        }
    }
    assert!(!kernel.status().is_broken);
    assert_eq!(kernel.status().fallback_batches, 0);
}

/// With the multiples by 2^64, also where one of them is no point.
pub(crate) fn scans_with_multiples_equal_the_library<B: Backend>(backend: B) {
    let kernel = Kernel::unchecked(backend);
    let tweaks: Vec<TweakPoint> = (0..40).map(|i| pack(&public(i))).collect();
    let mut multiples: Vec<TweakPoint> = kernel
        .multiples(&tweaks)
        .into_iter()
        .map(|point| point.expect("a point"))
        .collect();
    let mut two_to_64 = [0; 32];
    two_to_64[23] = 1;
    let two_to_64 = LibScalar::from_be_bytes(two_to_64).expect("below n");
    for (tweak, multiple) in tweaks.iter().zip(&multiples) {
        let tweak = unpack(tweak).expect("a point");
        assert_eq!(
            *multiple,
            pack(&tweak.mul_tweak(SECP256K1, &two_to_64).expect("a point"))
        );
    }
    let target = target(secret(5), 1);
    let scanner = scanner(&kernel, &target);
    let expected = exact_candidates(&target, &tweaks);
    let scan = |tweaks: &[TweakPoint], multiples: &[TweakPoint]| {
        let multiples = Some(multiples);
        candidates(&*scanner, Batch { tweaks, multiples })
    };
    assert_eq!(scan(&tweaks, &multiples), expected);
    assert_eq!(kernel.status().fallback_batches, 0);
    // A tweak that is no point goes with the same multiple of G, a multiple that is none sends the batch back.
    let two_to_64_g = AffinePoint::generator_times_2_64().into();
    let g = unpack(&AffinePoint::generator().into()).expect("G");
    assert_eq!(
        pack(&g.mul_tweak(SECP256K1, &two_to_64).expect("a point")),
        two_to_64_g
    );
    let mut some_invalid = tweaks.clone();
    some_invalid[8] = TweakPoint::from_bytes([2; 64]);
    assert_eq!(
        scan(&some_invalid, &multiples),
        exact_candidates(&target, &some_invalid)
    );
    assert_eq!(kernel.status().fallback_batches, 0);
    multiples[17] = TweakPoint::from_bytes([1; 64]);
    assert_eq!(scan(&tweaks, &multiples), expected);
    assert_eq!(kernel.status().fallback_batches, 1);
    // So do multiples that are too few.
    assert_eq!(scan(&tweaks, &multiples[..17]), expected);
    assert_eq!(kernel.status().fallback_batches, 2);
}

/// Small keys, and keys near λ and powers of two: all of them on the narrowest backend, some on the others.
pub(crate) fn unusual_scan_keys_work<B: Backend>(backend: B) {
    let kernel = Kernel::unchecked(backend);
    let tweaks: Vec<TweakPoint> = (0..MIN_POINTS as u64).map(|i| pack(&public(i))).collect();
    let step = if B::LANES == 1 { 1 } else { 9 };
    let targets: Vec<ScanTarget> = (unusual_scalars().iter().step_by(step))
        .map(|key| target(*key, 1))
        .collect();
    for target in &targets {
        let candidates = candidates(&*scanner(&kernel, target), Batch::of(&tweaks));
        assert_eq!(candidates, exact_candidates(target, &tweaks));
    }
    let mut by_wallet = Vec::new();
    let all = kernel.scanner(&targets).expect("valid keys");
    all.candidates(Batch::of(&tweaks), &mut by_wallet);
    for (target, candidates) in targets.iter().zip(&by_wallet) {
        assert_eq!(*candidates, exact_candidates(target, &tweaks));
    }
    // Each of them alone, and with the others.
    assert_eq!(kernel.status().batches, 2 * targets.len() as u64);
    assert_eq!(kernel.status().fallback_batches, 0);
}

/// Candidates at infinity, and wallets whose points meet those of the table.
pub(crate) fn infinite_candidates_are_zeros<B: Backend>(backend: B) {
    let kernel = Kernel::unchecked(backend);
    let tweaks: Vec<TweakPoint> = (0..MIN_POINTS as u64 + 3)
        .map(|i| pack(&public(i)))
        .collect();
    let scan_key = secret(6);
    // t_0·G of tweak 5, as the output key of a wallet whose spend key is taken off again.
    let probe = target(scan_key, 0);
    let first = |spend_key: &PublicKey, tweak: &TweakPoint| {
        let secret = unpack(tweak)?
            .mul_tweak(SECP256K1, &LibScalar::from(scan_key))
            .ok()?;
        let t_0 = libsecp256k1::output_tweak(&secret, 0)?;
        spend_key.add_exp_tweak(SECP256K1, &t_0).ok()
    };
    let spend_key = PublicKey::from_slice(&probe.spend_key).expect("a key");
    let p_0 = first(&spend_key, &tweaks[5]).expect("a point");
    let t_0 = p_0.combine(&spend_key.negate(SECP256K1)).expect("a point");
    let excess = GeneratorTable::shared().expect("a table").excess;
    let labels = vec![public(9).serialize(), p_0.negate(SECP256K1).serialize()];
    let wallets = [
        (t_0.negate(SECP256K1), vec![public(9).serialize()]),
        (spend_key, labels),
        (excess, vec![public(9).serialize()]),
        (spend_key, vec![spend_key.negate(SECP256K1).serialize()]),
        (unpack(&tweaks[3]).expect("a key"), vec![]),
        (unpack(&AffinePoint::generator().into()).expect("G"), vec![]),
    ];
    for (spend_key, labels) in wallets {
        let target = ScanTarget {
            scan_key: scan_key.secret_bytes(),
            spend_key: spend_key.serialize(),
            labels,
        };
        let candidates = candidates(&*scanner(&kernel, &target), Batch::of(&tweaks));
        assert_eq!(candidates, exact_candidates(&target, &tweaks));
    }
    assert_eq!(kernel.status().fallback_batches, 2);
}

/// Products with scalars of their own, usual and unusual, and invalid factors.
pub(crate) fn products_equal_the_library<B: Backend>(backend: B) {
    let kernel = Kernel::unchecked(backend);
    let product = |i: u64, scalar: [u8; 32]| Product {
        point: pack(&public(i)),
        scalar,
    };
    let width = B::LANES * CHAINS;
    let max = 2 * width + MIN_POINTS;
    let mut products: Vec<Product> = (0..max as u64)
        .map(|i| product(i, secret(3000 + i).secret_bytes()))
        .collect();
    let around = [width - 1, width, width + 1, 2 * width + 1, max];
    for count in (0..max).step_by(21).chain(around) {
        let results = kernel.multiply(&products[..count]);
        assert_eq!(results, LibSecp256k1.multiply(&products[..count]));
    }
    assert_eq!(kernel.status().fallback_batches, 0);
    // Invalid ones do not spoil the batch.
    for (i, scalar) in [[0; 32], [0xff; 32], secp256k1::constants::CURVE_ORDER]
        .iter()
        .enumerate()
    {
        products[3 * i].scalar = *scalar;
    }
    products[1].point = TweakPoint::from_bytes([5; 64]);
    products[2].point = TweakPoint::from_bytes([0xff; 64]);
    assert_eq!(kernel.multiply(&products), LibSecp256k1.multiply(&products));
    assert_eq!(kernel.status().fallback_batches, 0);
    // Nor do unusual scalars.
    for (product, scalar) in products.iter_mut().skip(10).zip(unusual_scalars()) {
        product.scalar = scalar.secret_bytes();
    }
    assert_eq!(kernel.multiply(&products), LibSecp256k1.multiply(&products));
    assert_eq!(kernel.status().fallback_batches, 0);
    assert!(!kernel.status().is_broken);
}

/// Compressed keys, valid and not.
pub(crate) fn decompression_equals_the_library<B: Backend>(backend: B) {
    let kernel = Kernel::unchecked(backend);
    let mut keys: Vec<[u8; 33]> = (0..50).map(|i| public(i).serialize()).collect();
    for (i, prefix) in [0, 1, 4, 5, 6, 7, 0xff].into_iter().enumerate() {
        keys[2 * i][0] = prefix;
    }
    for edge in reference::edges(&P) {
        for prefix in [2, 3] {
            let mut key = [prefix; 33];
            key[1..].copy_from_slice(&element(&edge).to_be_bytes());
            keys.push(key);
        }
    }
    // p, which reads as 0, p + 1, and the largest number.
    for above in [P[0], P[0] + 1, u64::MAX] {
        let mut key = [0xff; 33];
        key[0] = 2;
        key[25..].copy_from_slice(&above.to_be_bytes());
        keys.push(key);
    }
    let width = B::LANES * CHAINS;
    let around = [width - 1, width, width + 1, 2 * width, keys.len()];
    for count in (0..2 * width).step_by(7).chain(around) {
        let keys = &keys[..count.min(keys.len())];
        assert_eq!(kernel.decompress(keys), LibSecp256k1.decompress(keys));
    }
    assert!(!kernel.status().is_broken);
}

/// Groups of every size, with repeated and opposite points, infinity on the way and at the end.
pub(crate) fn sums_equal_the_library<B: Backend>(backend: B) {
    let kernel = Kernel::unchecked(backend);
    let p = |i: u64| pack(&public(i));
    let minus = |i: u64| pack(&public(i).negate(SECP256K1));
    let mut groups: Vec<Vec<TweakPoint>> = (0..40).map(|size| (0..size).map(p).collect()).collect();
    groups.extend([
        vec![p(1); 2],
        vec![p(1); 7],
        vec![p(1); 64],
        vec![p(1), minus(1)],
        vec![p(1), minus(1), p(2)],
        vec![p(2), p(1), minus(1)],
        vec![p(1), p(2), minus(1), minus(2)],
        vec![p(1), p(1), minus(1), minus(1), p(3), p(3)],
        vec![p(1), p(2), p(1), p(2)],
    ]);
    let check = |groups: &[Vec<TweakPoint>]| {
        let ends: Vec<usize> = groups
            .iter()
            .scan(0, |end, group| {
                *end += group.len();
                Some(*end)
            })
            .collect();
        let points = groups.concat();
        assert_eq!(
            kernel.sums(&points, &ends),
            LibSecp256k1.sums(&points, &ends)
        );
    };
    for group in &groups {
        check(std::slice::from_ref(group));
    }
    check(&groups);
    groups[20][3] = TweakPoint::from_bytes([3; 64]);
    check(&groups);
    assert!(!kernel.status().is_broken);
}
