//! The judge here is arithmetic on secret keys: all points are multiples of G by known scalars.

use proptest::prelude::*;
use secp256k1::SecretKey;
use secp256k1::hashes::sha256;

use super::*;
use crate::curve::EngineStatus;

/// n, the order of the group.
const ORDER: [u8; 32] = secp256k1::constants::CURVE_ORDER;

fn secret(bytes: [u8; 32]) -> SecretKey {
    SecretKey::from_slice(&bytes).expect("in 1..n")
}

fn point_of(secret: &SecretKey) -> PublicKey {
    secret.public_key(SECP256K1)
}

fn times(a: &SecretKey, b: &SecretKey) -> SecretKey {
    a.mul_tweak(&Scalar::from(*b)).expect("neither is 0")
}

fn plus(a: &SecretKey, b: &SecretKey) -> Option<SecretKey> {
    a.add_tweak(&Scalar::from(*b)).ok()
}

fn x_of(secret: Option<SecretKey>) -> [u8; 32] {
    secret.map_or([0; 32], |secret| {
        secret.x_only_public_key(SECP256K1).0.serialize()
    })
}

/// The tagged hash without a midstate.
fn slow_output_tweak(shared_secret: &PublicKey, k: u32) -> SecretKey {
    let tag = sha256::Hash::hash(b"BIP0352/SharedSecret").to_byte_array();
    let mut preimage = [tag, tag].concat();
    preimage.extend(shared_secret.serialize());
    preimage.extend(k.to_be_bytes());
    secret(sha256::Hash::hash(&preimage).to_byte_array())
}

fn any_secret() -> impl Strategy<Value = SecretKey> {
    prop_oneof![
        8 => any::<[u8; 32]>(),
        1 => (1u8..4).prop_map(|small| {
            let mut bytes = [0; 32];
            bytes[31] = small;
            bytes
        }),
        1 => (1u8..4).prop_map(|below| {
            let mut bytes = ORDER;
            bytes[31] -= below;
            bytes
        }),
    ]
    .prop_filter_map("not in 1..n", |bytes| SecretKey::from_slice(&bytes).ok())
}

/// A point that is off the curve, near one that is on it.
fn off_curve() -> TweakPoint {
    let mut bytes = *pack(&point_of(&secret([7; 32]))).as_bytes();
    bytes[63] ^= 1;
    TweakPoint::from_bytes(bytes)
}

fn bad_points() -> [TweakPoint; 3] {
    [
        off_curve(),
        TweakPoint::from_bytes([0; 64]),
        TweakPoint::from_bytes([0xff; 64]),
    ]
}

proptest! {
    #[test]
    fn compressed_form_round_trips(secret in any_secret()) {
        let point = point_of(&secret);
        let tweak = TweakPoint::from_compressed(&point.serialize()).expect("on the curve");
        prop_assert_eq!(&tweak.as_bytes()[..], &point.serialize_uncompressed()[1..]);
        prop_assert_eq!(tweak.to_compressed(), point.serialize());
        prop_assert_eq!(unpack(&tweak), Some(point));
        prop_assert_eq!(pack(&point), tweak);
    }

    #[test]
    fn products_keep_their_order(
        factors in prop::collection::vec((any_secret(), any_secret()), 0..8),
        bad in any::<prop::sample::Index>(),
    ) {
        let mut products: Vec<Product> = factors
            .iter()
            .map(|(point, scalar)| Product {
                point: pack(&point_of(point)),
                scalar: scalar.secret_bytes(),
            })
            .collect();
        let mut expected: Vec<Option<TweakPoint>> = factors
            .iter()
            .map(|(point, scalar)| Some(pack(&point_of(&times(point, scalar)))))
            .collect();
        let bad = bad.index(products.len() + 1);
        products.insert(bad, Product { point: off_curve(), scalar: [1; 32] });
        expected.insert(bad, None);
        prop_assert_eq!(LibSecp256k1.multiply(&products), expected);
    }

    #[test]
    fn candidates_equal_sums_of_secrets(
        scan_key in any_secret(),
        spend_key in any_secret(),
        labels in prop::collection::vec(any_secret(), 0..4),
        tweaks in prop::collection::vec(prop::option::weighted(0.8, any_secret()), 0..6),
    ) {
        let target = target(&scan_key, &spend_key, &labels);
        let scanner = LibSecp256k1.scanner(&[target]).expect("valid keys");
        prop_assert_eq!(scanner.wallets(), 1);
        prop_assert_eq!(scanner.candidates_per_tweak(0), 1 + labels.len());

        let mut expected = Vec::new();
        for tweak in &tweaks {
            let t_0 = tweak.map(|tweak| slow_output_tweak(&point_of(&times(&scan_key, &tweak)), 0));
            let first = t_0.and_then(|t_0| plus(&spend_key, &t_0));
            expected.push(x_of(first));
            for label in &labels {
                expected.push(x_of(first.and_then(|first| plus(&first, label))));
            }
        }
        let tweaks: Vec<TweakPoint> = tweaks
            .iter()
            .map(|tweak| tweak.map_or(off_curve(), |tweak| pack(&point_of(&tweak))))
            .collect();
        let mut candidates = vec![vec![[9; 32]; 3]; 2];
        scanner.candidates(Batch::of(&tweaks), &mut candidates);
        prop_assert_eq!(candidates, [expected]);
    }

    #[test]
    fn output_tweak_equals_the_hash_without_midstate(secret in any_secret(), k in any::<u32>()) {
        let point = point_of(&secret);
        let expected = Scalar::from(slow_output_tweak(&point, k));
        prop_assert!(output_tweak(&point, k) == Some(expected));
    }
}

fn target(scan_key: &SecretKey, spend_key: &SecretKey, labels: &[SecretKey]) -> ScanTarget {
    ScanTarget {
        scan_key: scan_key.secret_bytes(),
        spend_key: point_of(spend_key).serialize(),
        labels: labels
            .iter()
            .map(|label| point_of(label).serialize())
            .collect(),
    }
}

#[test]
fn bytes_that_are_no_point_do_not_decompress() {
    let valid = point_of(&secret([7; 32])).serialize();
    for prefix in [0, 1, 4, 5, 6, 7, 0x50, 0xff] {
        let mut bytes = valid;
        bytes[0] = prefix;
        assert_eq!(TweakPoint::from_compressed(&bytes), None, "{prefix}");
    }
    // x = 5 is no x coordinate, and 2^256 - 1 no field element.
    let mut no_coordinate = [0; 33];
    no_coordinate[0] = 2;
    no_coordinate[32] = 5;
    assert_eq!(TweakPoint::from_compressed(&no_coordinate), None);
    let mut above_field = [0xff; 33];
    above_field[0] = 2;
    assert_eq!(TweakPoint::from_compressed(&above_field), None);
}

#[test]
fn bad_factors_have_no_product() {
    let point = pack(&point_of(&secret([7; 32])));
    let mut below_order = ORDER;
    below_order[31] -= 1;
    for scalar in [[0; 32], ORDER, [0xff; 32]] {
        let product = LibSecp256k1.multiply(&[Product { point, scalar }]);
        assert_eq!(product, [None], "{scalar:?}");
    }
    let negated = LibSecp256k1.multiply(&[Product {
        point,
        scalar: below_order,
    }]);
    assert_eq!(negated, [Some(pack(&point_of(&secret([7; 32]).negate())))]);
    for point in bad_points() {
        let scalar = [1; 32];
        assert_eq!(LibSecp256k1.multiply(&[Product { point, scalar }]), [None]);
    }
    assert_eq!(LibSecp256k1.multiply(&[]), []);
}

#[test]
fn bad_tweaks_have_zeros_for_candidates() {
    let label = secret([3; 32]);
    let target = target(&secret([1; 32]), &secret([2; 32]), &[label, label]);
    let scanner = LibSecp256k1.scanner(&[target]).expect("valid keys");
    let mut candidates = Vec::new();
    scanner.candidates(Batch::of(&bad_points()), &mut candidates);
    assert_eq!(candidates, [[[0; 32]; 9]]);
}

#[test]
fn sums_at_infinity_are_zeros_and_only_they() {
    let scan_key = secret([1; 32]);
    let tweak = secret([5; 32]);
    let t_0 = slow_output_tweak(&point_of(&times(&scan_key, &tweak)), 0);
    let tweaks = [pack(&point_of(&tweak))];
    let label = secret([3; 32]);
    let mut candidates = Vec::new();

    // P_0 at infinity: P_0 + L is L.
    let first_at_infinity = target(&scan_key, &t_0.negate(), &[label]);
    LibSecp256k1
        .scanner(&[first_at_infinity])
        .expect("valid keys")
        .candidates(Batch::of(&tweaks), &mut candidates);
    assert_eq!(candidates, [[[0; 32], x_of(Some(label))]]);

    // P_0 + L at infinity.
    let spend_key = secret([2; 32]);
    let first = plus(&spend_key, &t_0).expect("not 0");
    let second_at_infinity = target(&scan_key, &spend_key, &[first.negate(), label]);
    LibSecp256k1
        .scanner(&[second_at_infinity])
        .expect("valid keys")
        .candidates(Batch::of(&tweaks), &mut candidates);
    assert_eq!(
        candidates,
        [[x_of(Some(first)), [0; 32], x_of(plus(&first, &label))]]
    );
}

#[test]
fn invalid_targets_are_named() {
    let valid = target(&secret([1; 32]), &secret([2; 32]), &[secret([3; 32])]);
    let error = |target: &ScanTarget| LibSecp256k1.scanner(std::slice::from_ref(target)).err();
    assert_eq!(error(&valid), None);
    for scan_key in [[0; 32], ORDER, [0xff; 32]] {
        let mut target = valid.clone();
        target.scan_key = scan_key;
        assert_eq!(error(&target), Some(InvalidTarget("scan key")));
    }
    let mut target = valid.clone();
    target.spend_key[0] = 4;
    assert_eq!(error(&target), Some(InvalidTarget("spend key")));
    let mut target = valid.clone();
    target.labels.push([0; 33]);
    assert_eq!(error(&target), Some(InvalidTarget("label")));
    // Of the second of two wallets, too.
    assert_eq!(
        LibSecp256k1.scanner(&[valid, target]).err(),
        Some(InvalidTarget("label"))
    );
}

#[test]
fn debug_of_a_target_shows_no_key() {
    let target = target(&secret([1; 32]), &secret([2; 32]), &[secret([3; 32])]);
    assert_eq!(format!("{target:?}"), "ScanTarget { labels: 1, .. }");
}

#[test]
fn points_and_engines_show_what_they_are() {
    let key = SecretKey::from_slice(&[1; 32])
        .expect("a key")
        .public_key(SECP256K1);
    assert_eq!(format!("{:?}", pack(&key)), format!("TweakPoint({key})"));
    let engine: &dyn Engine = &LibSecp256k1;
    assert_eq!(format!("{engine:?}"), "Engine(libsecp256k1)");
}

#[test]
fn the_library_is_its_own_judge() {
    assert_eq!(LibSecp256k1.status(), EngineStatus::default());
    let target = target(&secret([1; 32]), &secret([2; 32]), &[]);
    let scanner = LibSecp256k1.scanner(&[target]).expect("valid keys");
    let sampled: [&dyn Sampled; 2] = [&LibSecp256k1, &*scanner];
    for by in sampled {
        assert!(!by.is_broken() && by.confirm());
    }
}
