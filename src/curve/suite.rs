//! One suite for every backend: edge values in every lane against the slow reference, steps and whole jobs against
//! the `secp256k1` crate, every tail length up to two groups, lanes that fail.

use secp256k1::hashes::{Hash, sha256};
use secp256k1::{PublicKey, SECP256K1, Scalar as LibScalar, SecretKey};

use super::arch::{Backend, Task};
use super::batch::{Degenerate, Lockstep, Points, StoreColumn, groups_for};
use super::field::{Difference, Element, FieldElement, NegatedSum, Sum, Tight, square_root};
use super::group::{AffinePoint, CHAINS, Constant};
use super::kernel::{Kernel, MIN_POINTS};
use super::libsecp256k1::{LibSecp256k1, pack, unpack};
use super::reference::{self, Number, P};
use super::{Engine, Product, ScanTarget, TweakPoint};

/// Tests of a backend, given an `Option` of its token; without it they say that they were skipped.
macro_rules! backend_suite {
    ($backend:expr) => {
        crate::curve::suite::backend_suite! { $backend;
            operations_equal_the_reference
            lanes_do_not_mix
            roots_square_to_plus_or_minus
            steps_equal_the_library
            meeting_points_are_noticed
            scans_equal_the_library
            scans_with_multiples_equal_the_library
            unusual_scan_keys_work
            infinite_candidates_are_zeros
            products_equal_the_library
            decompression_equals_the_library
            sums_equal_the_library
        }
    };
    ($backend:expr; $($name:ident)+) => {
        mod suite {
            $(
                #[test]
                fn $name() {
                    match $backend {
                        Some(backend) => crate::curve::suite::$name(backend),
                        None => println!("skipped: this processor lacks the instructions"),
                    }
                }
            )+
        }
    };
}
pub(crate) use backend_suite;

/// A secret key for each number.
pub(crate) fn secret(i: u64) -> SecretKey {
    let hash = sha256::Hash::hash(&i.to_le_bytes());
    SecretKey::from_slice(hash.as_byte_array()).expect("no hash is known that is 0 or above n")
}

pub(crate) fn public(i: u64) -> PublicKey {
    secret(i).public_key(SECP256K1)
}

pub(crate) fn point(key: &PublicKey) -> AffinePoint {
    pack(key).to_affine().expect("coordinates of a key")
}

fn key(point: &AffinePoint) -> PublicKey {
    unpack(&TweakPoint::from(*point)).expect("on the curve")
}

fn element(number: &Number) -> FieldElement {
    FieldElement::from_words(*number).expect("below p")
}

/// `count` numbers below p that depend on `seed`.
fn numbers(seed: u64, count: usize) -> Vec<Number> {
    (0..count as u64)
        .map(|i| {
            let hash = sha256::Hash::hash(&[seed.to_le_bytes(), i.to_le_bytes()].concat());
            reference::reduce(&super::field::words_from_be_bytes(hash.as_byte_array()), &P)
        })
        .collect()
}

/// All operations on vectors of a, b and c; results in the order of [`expected`].
struct Operations<'a, B> {
    backend: B,
    a: &'a [FieldElement],
    b: &'a [FieldElement],
    c: &'a [FieldElement],
}

impl<B: Backend> Task for Operations<'_, B> {
    type Output = Vec<Vec<FieldElement>>;

    #[inline(always)]
    fn run(self) -> Self::Output {
        let v = self.backend;
        let a = v.load(|lane| &self.a[lane]);
        let b = v.load(|lane| &self.b[lane]);
        let c = v.load(|lane| &self.c[lane]);
        let sum: Sum<B> = v.add(&a, &b);
        let difference: Difference<B> = v.sub(&a, &b);
        let negated: NegatedSum<B> = v.negated_sum(&a, &b);
        let odd_lanes = 0b1010_1010;
        vec![
            stored(v, &a),
            stored(v, &sum),
            stored(v, &difference),
            stored(v, &negated),
            stored(v, &v.tighten(&sum)),
            stored(v, &v.tighten(&difference)),
            stored(v, &v.tighten(&negated)),
            stored(v, &v.mul(&a, &b)),
            stored(v, &v.square(&a)),
            stored(v, &v.mul_sub(&a, &b, &c)),
            stored(v, &v.square_sub2(&a, &b, &c)),
            stored(v, &v.mul(&sum, &difference)),
            stored(v, &v.mul(&negated, &c)),
            stored(v, &v.square(&sum)),
            stored(v, &v.mul_sub(&difference, &sum, &c)),
            stored(v, &v.square_sub2(&sum, &c, &a)),
            stored(v, &v.negate_lanes(&a, odd_lanes)),
            stored(v, &v.negate_lanes(&v.mul(&a, &b), !odd_lanes)),
        ]
    }
}

/// The canonical value of each lane.
fn stored<B: Backend, const A: u32>(v: B, a: &Element<B::Limbs, A>) -> Vec<FieldElement> {
    let mut out = vec![FieldElement::ZERO; B::LANES];
    v.store(a, &mut out);
    out
}

/// The same, slowly, for one lane.
fn expected(a: &Number, b: &Number, c: &Number, lane: usize) -> Vec<Number> {
    let add = |a: &Number, b: &Number| reference::add(a, b, &P);
    let sub = |a: &Number, b: &Number| reference::sub(a, b, &P);
    let mul = |a: &Number, b: &Number| reference::mul(a, b, &P);
    let neg = |a: &Number| reference::negate(a, &P);
    let (sum, difference) = (add(a, b), sub(a, b));
    let (product, square) = (mul(a, b), mul(a, a));
    let is_odd = lane % 2 == 1;
    vec![
        *a,
        sum,
        difference,
        neg(&sum),
        sum,
        difference,
        neg(&sum),
        product,
        square,
        sub(&product, c),
        sub(&sub(&square, b), c),
        mul(&sum, &difference),
        mul(&neg(&sum), c),
        mul(&sum, &sum),
        sub(&mul(&difference, &sum), c),
        sub(&sub(&mul(&sum, &sum), c), a),
        if is_odd { neg(a) } else { *a },
        if is_odd { product } else { neg(&product) },
    ]
}

/// Each pair of edge values, in every lane in turn, random values in the others.
pub(crate) fn operations_equal_the_reference<B: Backend>(backend: B) {
    let edges = reference::edges(&P);
    let random = numbers(1, 64);
    for (i, x) in edges.iter().enumerate() {
        for (j, y) in edges.iter().enumerate() {
            let edge_lane = (i + j) % B::LANES;
            let pick = |lane: usize, edge: &Number, salt: usize| match lane == edge_lane {
                true => *edge,
                false => random[(7 * i + 3 * j + salt + lane) % random.len()],
            };
            let z = &edges[(i * j) % edges.len()];
            let rows: Vec<[Number; 3]> = (0..B::LANES)
                .map(|lane| [pick(lane, x, 0), pick(lane, y, 20), pick(lane, z, 40)])
                .collect();
            let column = |k: usize| -> Vec<FieldElement> {
                rows.iter().map(|row| element(&row[k])).collect()
            };
            let results = backend.run(Operations {
                backend,
                a: &column(0),
                b: &column(1),
                c: &column(2),
            });
            // The reference is slow: only the lane with edges is compared each time.
            let [a, b, c] = rows[edge_lane];
            for (operation, number) in expected(&a, &b, &c, edge_lane).iter().enumerate() {
                assert_eq!(
                    results[operation][edge_lane].words(),
                    number,
                    "operation {operation} of {a:x?}, {b:x?}, {c:x?} in lane {edge_lane}"
                );
            }
        }
    }
}

/// Random values in all lanes, all lanes compared.
pub(crate) fn lanes_do_not_mix<B: Backend>(backend: B) {
    for seed in 0..16 {
        let columns = [0, 1, 2].map(|k| numbers(100 + 3 * seed + k, B::LANES));
        let [a, b, c] =
            [0, 1, 2].map(|k: usize| columns[k].iter().map(element).collect::<Vec<_>>());
        let results = backend.run(Operations {
            backend,
            a: &a,
            b: &b,
            c: &c,
        });
        for lane in 0..B::LANES {
            let [a, b, c] = [0, 1, 2].map(|k: usize| columns[k][lane]);
            for (operation, number) in expected(&a, &b, &c, lane).iter().enumerate() {
                assert_eq!(
                    results[operation][lane].words(),
                    number,
                    "operation {operation}"
                );
            }
        }
    }
}

struct Roots<'a, B> {
    backend: B,
    a: &'a [FieldElement],
}

impl<B: Backend> Task for Roots<'_, B> {
    type Output = Vec<FieldElement>;

    #[inline(always)]
    fn run(self) -> Self::Output {
        let v = self.backend;
        let mut vectors: [Tight<B>; CHAINS] = [v.splat(&FieldElement::ZERO); CHAINS];
        for (c, vector) in vectors.iter_mut().enumerate() {
            *vector = v.load(|lane| &self.a[c * B::LANES + lane]);
        }
        let roots = square_root(v, &vectors);
        roots.iter().flat_map(|root| stored(v, root)).collect()
    }
}

/// A root of a, or else of -a.
pub(crate) fn roots_square_to_plus_or_minus<B: Backend>(backend: B) {
    let mut values = reference::edges(&P);
    values.truncate(B::LANES * CHAINS);
    let missing = B::LANES * CHAINS - values.len();
    values.extend(numbers(2, missing));
    let a: Vec<FieldElement> = values.iter().map(element).collect();
    let roots = backend.run(Roots { backend, a: &a });
    for (root, value) in roots.iter().zip(&values) {
        let square = reference::mul(root.words(), root.words(), &P);
        assert!(
            square == *value || square == reference::negate(value, &P),
            "{value:x?}"
        );
    }
}

/// Every step for every number of points up to two full groups.
pub(crate) fn steps_equal_the_library<B: Backend>(backend: B) {
    let two = secp256k1::Scalar::from(
        SecretKey::from_slice(&{
            let mut two = [0; 32];
            two[31] = 2;
            two
        })
        .expect("2"),
    );
    let twice = |p: &PublicKey| p.mul_tweak(SECP256K1, &two).expect("2P");
    let max = 2 * B::LANES * CHAINS;
    let p: Vec<PublicKey> = (0..max as u64).map(public).collect();
    let q: Vec<PublicKey> = (0..max as u64).map(|i| public(1000 + i)).collect();
    let affine = |keys: &[PublicKey]| keys.iter().map(point).collect::<Vec<_>>();
    let (p_points, q_points) = (affine(&p), affine(&q));
    for count in 1..=max {
        let groups = groups_for::<B>(count);
        let mut lockstep = Lockstep::new(backend, groups);
        let load = |from: &[AffinePoint]| {
            let mut points = Points::new(backend, groups);
            points.load(backend, |i| &from[i.min(count - 1)]);
            points
        };
        let check = |points: &Points<B>, what: &str, expected: &dyn Fn(usize) -> PublicKey| {
            let mut out = vec![AffinePoint::generator(); count];
            points.store(backend, &mut out);
            for (i, out) in out.iter().enumerate() {
                assert_eq!(key(out), expected(i), "{what} of point {i} of {count}");
            }
        };
        let operand = load(&q_points);
        let mut points = load(&p_points);
        lockstep.double(&mut points).expect("doubling");
        check(&points, "2P", &|i| twice(&p[i]));
        for negate in [false, true] {
            let term = |i: usize| if negate { q[i].negate(SECP256K1) } else { q[i] };
            let mut points = load(&p_points);
            lockstep
                .add(&mut points, operand.operand(), negate)
                .expect("addition");
            check(&points, "P + Q", &|i| p[i].combine(&term(i)).expect("sum"));
            let mut points = load(&p_points);
            lockstep
                .double_add(&mut points, operand.operand(), negate)
                .expect("both");
            check(&points, "2P + Q", &|i| {
                twice(&p[i]).combine(&term(i)).expect("sum")
            });
        }
        let constant = Constant::new(backend, &q_points[0]);
        let points = load(&p_points);
        let column = lockstep.add_x(&points, &constant).expect("addition");
        let mut out = vec![FieldElement::ZERO; count];
        backend.run(StoreColumn {
            backend,
            column,
            out: &mut out,
        });
        for (x, p) in out.iter().zip(&p) {
            assert_eq!(*x, point(&p.combine(&q[0]).expect("sum")).x);
        }
    }
}

/// A lane in which points meet makes the step fail, wherever it is.
pub(crate) fn meeting_points_are_noticed<B: Backend>(backend: B) {
    let count = B::LANES * CHAINS;
    let p: Vec<AffinePoint> = (0..count as u64).map(|i| point(&public(i))).collect();
    let other: Vec<AffinePoint> = (0..count as u64).map(|i| point(&public(500 + i))).collect();
    let double = |a: &AffinePoint| point(&key(a).combine(&key(a)).expect("2P"));
    let mut lockstep = Lockstep::new(backend, groups_for::<B>(count));
    let load = |from: &[AffinePoint]| {
        let mut points = Points::new(backend, groups_for::<B>(count));
        points.load(backend, |i| &from[i]);
        points
    };
    for lane in 0..count {
        for meeting in [p[lane], p[lane].negated()] {
            let mut q = other.clone();
            q[lane] = meeting;
            let q = load(&q);
            for negate in [false, true] {
                let sum = lockstep.add(&mut load(&p), q.operand(), negate);
                assert_eq!(sum, Err(Degenerate), "lane {lane}");
                let sum = lockstep.double_add(&mut load(&p), q.operand(), negate);
                assert_eq!(sum, Err(Degenerate), "lane {lane}");
            }
            assert!(
                lockstep.add_x(&load(&p), q.operand()).is_err(),
                "lane {lane}"
            );
        }
        // 2P + Q is infinity for Q = -2P: only the second half fails.
        let mut q = other.clone();
        q[lane] = double(&p[lane]).negated();
        let q = load(&q);
        assert_eq!(lockstep.add(&mut load(&p), q.operand(), false), Ok(()));
        let sum = lockstep.double_add(&mut load(&p), q.operand(), false);
        assert_eq!(sum, Err(Degenerate), "lane {lane}");
    }
}

/// Tweaks of which some are no points, with their multiples.
fn tweaks(count: usize) -> Vec<TweakPoint> {
    (0..count as u64)
        .map(|i| match i % 11 {
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

fn target(scan_key: SecretKey, labels: u64) -> ScanTarget {
    ScanTarget {
        scan_key: scan_key.secret_bytes(),
        spend_key: public(1).serialize(),
        labels: (0..labels).map(|i| public(2000 + i).serialize()).collect(),
    }
}

fn exact_candidates(target: &ScanTarget, tweaks: &[TweakPoint]) -> Vec<[u8; 32]> {
    let mut candidates = Vec::new();
    let scanner = LibSecp256k1.scanner(target).expect("valid keys");
    scanner.candidates(tweaks, &mut candidates);
    candidates
}

/// Whole scans for every number of tweaks in the last group, for one wallet and for three.
pub(crate) fn scans_equal_the_library<B: Backend>(backend: B) {
    let kernel = Kernel::new(backend);
    // Each remainder that the last group can have.
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
    let scanner = kernel.scanner(&targets[1]).expect("valid keys");
    let all = kernel.wallets_scanner(&targets).expect("valid keys");
    assert_eq!(all.wallets(), 3);
    let mut candidates = vec![[9; 32]; 5];
    let mut by_wallet = Vec::new();
    for count in 0..=max {
        scanner.candidates(&tweaks[..count], &mut candidates);
        assert_eq!(candidates, expected[1][..2 * count], "{count} tweaks");
        if count % 5 != 0 {
            continue;
        }
        all.candidates(&tweaks[..count], &mut by_wallet);
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
    let kernel = Kernel::new(backend);
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
    let scanner = kernel.scanner(&target).expect("valid keys");
    let expected = exact_candidates(&target, &tweaks);
    let mut candidates = Vec::new();
    scanner.candidates_with_multiples(&tweaks, &multiples, &mut candidates);
    assert_eq!(candidates, expected);
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
    scanner.candidates_with_multiples(&some_invalid, &multiples, &mut candidates);
    assert_eq!(candidates, exact_candidates(&target, &some_invalid));
    assert_eq!(kernel.status().fallback_batches, 0);
    multiples[17] = TweakPoint::from_bytes([1; 64]);
    scanner.candidates_with_multiples(&tweaks, &multiples, &mut candidates);
    assert_eq!(candidates, expected);
    assert_eq!(kernel.status().fallback_batches, 1);
}

/// Keys that make schedules fail, and keys near them.
pub(crate) fn unusual_scan_keys_work<B: Backend>(backend: B) {
    let kernel = Kernel::new(backend);
    let tweaks: Vec<TweakPoint> = (0..MIN_POINTS as u64).map(|i| pack(&public(i))).collect();
    let targets: Vec<ScanTarget> = unusual_scalars()
        .iter()
        .map(|key| target(*key, 1))
        .collect();
    for target in &targets {
        let mut candidates = Vec::new();
        let scanner = kernel.scanner(target).expect("valid keys");
        scanner.candidates(&tweaks, &mut candidates);
        assert_eq!(candidates, exact_candidates(target, &tweaks));
    }
    let mut by_wallet = Vec::new();
    let all = kernel.wallets_scanner(&targets).expect("valid keys");
    all.candidates(&tweaks, &mut by_wallet);
    for (target, candidates) in targets.iter().zip(&by_wallet) {
        assert_eq!(*candidates, exact_candidates(target, &tweaks));
    }
}

/// 1, 2, 3, λ, λ², 2^64, 2^128 and their neighbours and negatives.
pub(crate) fn unusual_scalars() -> Vec<SecretKey> {
    let lambda = super::scalar::Scalar::LAMBDA;
    let power = |bits| super::scalar::Scalar::power_of_two(bits);
    let one = super::scalar::Scalar::ONE;
    let starts = [one, lambda, lambda.times(&lambda), power(64), power(128)];
    let mut scalars = Vec::new();
    for start in starts {
        let mut near = start.plus(&one.plus(&one).negated());
        for _ in 0..5 {
            for scalar in [near, near.negated()] {
                scalars.extend(SecretKey::from_slice(&scalar.to_be_bytes()));
            }
            near = near.plus(&one);
        }
    }
    scalars
}

/// Candidates at infinity, and wallets whose points meet those of the table.
pub(crate) fn infinite_candidates_are_zeros<B: Backend>(backend: B) {
    let kernel = Kernel::new(backend);
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
        let t_0 = super::libsecp256k1::output_tweak(&secret, 0)?;
        spend_key.add_exp_tweak(SECP256K1, &t_0).ok()
    };
    let spend_key = PublicKey::from_slice(&probe.spend_key).expect("a key");
    let p_0 = first(&spend_key, &tweaks[5]).expect("a point");
    let t_0 = p_0.combine(&spend_key.negate(SECP256K1)).expect("a point");
    let excess = super::generator::GeneratorTable::shared()
        .expect("a table")
        .excess;
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
        let mut candidates = Vec::new();
        let scanner = kernel.scanner(&target).expect("valid keys");
        scanner.candidates(&tweaks, &mut candidates);
        assert_eq!(candidates, exact_candidates(&target, &tweaks));
    }
    assert_eq!(kernel.status().fallback_batches, 2);
}

/// Products with scalars of their own, usual and unusual, and invalid factors.
pub(crate) fn products_equal_the_library<B: Backend>(backend: B) {
    let kernel = Kernel::new(backend);
    let product = |i: u64, scalar: [u8; 32]| Product {
        point: pack(&public(i)),
        scalar,
    };
    let max = 2 * B::LANES * CHAINS + MIN_POINTS;
    let mut products: Vec<Product> = (0..max as u64)
        .map(|i| product(i, secret(3000 + i).secret_bytes()))
        .collect();
    for count in (0..=max).step_by(3) {
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
    // Unusual scalars may.
    for (product, scalar) in products.iter_mut().skip(10).zip(unusual_scalars()) {
        product.scalar = scalar.secret_bytes();
    }
    assert_eq!(kernel.multiply(&products), LibSecp256k1.multiply(&products));
    assert!(!kernel.status().is_broken);
}

/// Compressed keys, valid and not.
pub(crate) fn decompression_equals_the_library<B: Backend>(backend: B) {
    let kernel = Kernel::new(backend);
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
    for count in (0..B::LANES * CHAINS * 2).chain([keys.len()]) {
        let keys = &keys[..count.min(keys.len())];
        assert_eq!(kernel.decompress(keys), LibSecp256k1.decompress(keys));
    }
    assert!(!kernel.status().is_broken);
}

/// Groups of every size, with repeated and opposite points, infinity on the way and at the end.
pub(crate) fn sums_equal_the_library<B: Backend>(backend: B) {
    let kernel = Kernel::new(backend);
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
