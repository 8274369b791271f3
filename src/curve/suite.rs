//! One suite for every backend: edge values in every lane against the slow reference, steps and whole jobs against
//! the `secp256k1` crate, every tail length up to two groups, several batches, lanes that fail.

mod batches;
mod engines;

use secp256k1::hashes::{Hash, sha256};
use secp256k1::{PublicKey, SECP256K1, SecretKey};

use super::arch::{Backend, Task};
use super::backend::{Difference, NegatedSum, Sum, Tight};
use super::batch::{Degenerate, Lockstep, Points, StoreColumn, groups_for};
use super::engines::{Detect, ENGINES};
use super::field::{Element, FieldElement};
use super::group::{AffinePoint, CHAINS, Constant};
use super::point::{TweakPoint, pack, unpack};
use super::reference::{self, Number, P};
use super::scalar::Scalar;
use super::selection::is_testable;
use super::square_root::square_root;

pub(crate) use batches::*;
pub(crate) use engines::*;

/// Tests of a backend, which say that they are skipped where the processor cannot run it.
macro_rules! backend_suite {
    ($backend:ty) => {
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
            scans_in_batches_equal_the_library
            scans_fall_back_in_single_batches
            shared_scans_in_batches_equal_the_library
            shared_scans_fall_back_in_single_batches
            products_in_batches_equal_the_library
            products_fall_back_in_single_batches
            sums_in_batches_equal_the_library
            decompression_in_batches_equals_the_library
        }
    };
    ($backend:ty; $($name:ident)+) => {
        mod suite {
            $(
                #[test]
                fn $name() {
                    if let Some(backend) = crate::curve::suite::testable::<$backend>() {
                        crate::curve::suite::$name(backend);
                    }
                }
            )+
        }
    };
}
pub(crate) use backend_suite;

/// A backend, if tests can be run on it here.
pub(crate) fn testable<B: Detect>() -> Option<B> {
    let entry = ENGINES.iter().find(|entry| entry.name == B::NAME);
    is_testable(entry.expect("an engine of each backend"))
        .then(|| B::detect().expect("it is available"))
}

/// A secret key for each number.
pub(crate) fn secret(i: u64) -> SecretKey {
    let hash = sha256::Hash::hash(&i.to_le_bytes());
    SecretKey::from_slice(hash.as_byte_array()).expect("no hash is known that is 0 or above n")
}

/// 1, 2, 3, λ, λ², 2^64, 2^128 and their neighbours and negatives.
pub(crate) fn unusual_scalars() -> Vec<SecretKey> {
    let (one, lambda) = (Scalar::ONE, Scalar::LAMBDA);
    let starts = [
        one,
        lambda,
        lambda.times(&lambda),
        Scalar::power_of_two(64),
        Scalar::power_of_two(128),
    ];
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

/// Each pair of edge values, other pairs in the other lanes.
pub(crate) fn operations_equal_the_reference<B: Backend>(backend: B) {
    let edges = reference::edges(&P);
    let count = edges.len() * edges.len();
    let row = |pair: usize| {
        let (i, j) = (pair % count / edges.len(), pair % edges.len());
        [edges[i], edges[j], edges[(i * j) % edges.len()]]
    };
    for first in (0..count).step_by(B::LANES) {
        let rows: Vec<[Number; 3]> = (first..first + B::LANES).map(row).collect();
        assert_operations(backend, &rows);
    }
}

/// Holds all operations on a, b and c of each lane against the reference.
fn assert_operations<B: Backend>(backend: B, rows: &[[Number; 3]]) {
    let column =
        |k: usize| -> Vec<FieldElement> { rows.iter().map(|row| element(&row[k])).collect() };
    let results = backend.run(Operations {
        backend,
        a: &column(0),
        b: &column(1),
        c: &column(2),
    });
    for (lane, [a, b, c]) in rows.iter().enumerate() {
        for (operation, number) in expected(a, b, c, lane).iter().enumerate() {
            assert_eq!(
                results[operation][lane].words(),
                number,
                "operation {operation} of {a:x?}, {b:x?}, {c:x?} in lane {lane}"
            );
        }
    }
}

/// Random values in all lanes.
pub(crate) fn lanes_do_not_mix<B: Backend>(backend: B) {
    for seed in 0..16 {
        let columns = [0, 1, 2].map(|k| numbers(100 + 3 * seed + k, B::LANES));
        let row = |lane: usize| [columns[0][lane], columns[1][lane], columns[2][lane]];
        let rows: Vec<[Number; 3]> = (0..B::LANES).map(row).collect();
        assert_operations(backend, &rows);
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
