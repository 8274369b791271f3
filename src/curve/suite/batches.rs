//! Every operation of an engine in several small batches: each result in its place, samples of any batch, batches that
//! are left to libsecp256k1 between others that are not.

use secp256k1::{PublicKey, SECP256K1, Scalar as LibScalar, SecretKey};

use super::engines::{exact_candidates, scanner, target, tweaks};
use super::{public, secret};
use crate::curve::arch::{Backend, Portable};
use crate::curve::batch_sizes::{MIN_POINTS, batch_points};
use crate::curve::group::{AffinePoint, CHAINS};
use crate::curve::kernel::Kernel;
use crate::curve::libsecp256k1::{self, LibSecp256k1};
use crate::curve::multiply;
use crate::curve::point::{pack, unpack};
use crate::curve::scalar::Scalar;
use crate::curve::scan::chunk_numbers;
use crate::curve::{
    Batch, CandidateChunk, CandidateScanner, Engine, Product, Sampled, ScanTarget, TweakPoint,
};

/// Points in a full batch: no more than a group of the narrow vectors, since debug builds take their time. How the vectors
/// of a batch are filled is tested elsewhere.
const BATCH: usize = MIN_POINTS;

/// One batch, two and three, full or of even size. With one point less, libsecp256k1 computes.
const COUNTS: [usize; 6] = [
    BATCH - 1,
    BATCH,
    BATCH + 1,
    2 * BATCH,
    2 * BATCH + 3,
    3 * BATCH,
];

fn small_batches<B: Backend>(backend: B) -> Kernel<B> {
    Kernel::in_small_batches(backend, BATCH)
}

/// How many batches that many points are.
fn batches(count: usize) -> u64 {
    match count < MIN_POINTS {
        true => 0,
        false => count.div_ceil(BATCH) as u64,
    }
}

/// How many chunks the candidates of that many tweaks come in, so many for each.
fn chunks(count: usize, per_tweak: usize) -> u64 {
    if count < MIN_POINTS {
        return 0;
    }
    let points = batch_points(count, BATCH);
    let starts = (0..count).step_by(points);
    let chunks = |start| chunk_numbers(0..per_tweak, points.min(count - start)).count();
    starts.map(chunks).sum::<usize>() as u64
}

/// Candidates of a wallet in their places, with those that were not handed over missing.
struct Places {
    per_tweak: usize,
    keys: Vec<Option<[u8; 32]>>,
}

impl Places {
    fn new(tweaks: usize, per_tweak: usize) -> Self {
        Self {
            keys: vec![None; tweaks * per_tweak],
            per_tweak,
        }
    }

    fn put(&mut self, chunk: &CandidateChunk) {
        for (tweak, keys) in chunk.by_tweak() {
            assert_eq!(keys.len(), chunk.numbers.len());
            for (number, key) in chunk.numbers.clone().zip(keys) {
                let place = tweak * self.per_tweak + number;
                let before = self.keys[place].replace(*key);
                assert_eq!(before, None, "candidate {number} of tweak {tweak} again");
            }
        }
    }

    /// Holds them against those of these tweaks, and more.
    fn assert_equal(&self, expected: &[[u8; 32]]) {
        let own = self.keys.chunks(self.per_tweak);
        for (tweak, (own, all)) in own.zip(expected.chunks(self.per_tweak)).enumerate() {
            let all = all.iter().map(|key| Some(*key));
            assert!(all.eq(own.iter().copied()), "tweak {tweak}");
        }
    }
}

/// By wallet.
fn scan_all(scanner: &dyn CandidateScanner, batch: Batch<'_>) -> Vec<Places> {
    let per_tweak = (0..scanner.wallets()).map(|wallet| scanner.candidates_per_tweak(wallet));
    let mut places: Vec<_> = per_tweak
        .map(|per_tweak| Places::new(batch.tweaks.len(), per_tweak))
        .collect();
    scanner.scan(batch, &mut |chunk| places[chunk.wallet].put(&chunk));
    places
}

/// Of the only wallet.
fn scan(scanner: &dyn CandidateScanner, batch: Batch<'_>) -> Places {
    let mut places = scan_all(scanner, batch);
    assert_eq!(places.len(), 1);
    places.remove(0)
}

/// 2^64 times each tweak; where it is none, something else.
fn multiples(tweaks: &[TweakPoint]) -> Vec<TweakPoint> {
    let multiples = LibSecp256k1.multiples(tweaks).into_iter();
    multiples
        .map(|multiple| multiple.unwrap_or(TweakPoint::from_bytes([7; 64])))
        .collect()
}

/// For one wallet, with and without multiples.
pub(crate) fn scans_in_batches_equal_the_library<B: Backend>(backend: B) {
    let kernel = small_batches(backend);
    let target = target(secret(1), 2);
    let tweaks = tweaks(3 * BATCH);
    let multiples = multiples(&tweaks);
    let expected = exact_candidates(&target, &tweaks);
    let scanner = scanner(&kernel, &target);
    for (i, count) in COUNTS.into_iter().enumerate() {
        let multiples = [None, Some(&multiples[..count])][i % 2];
        let chunks = chunks(count, 3);
        // One that is compared at once is in the last batch, in the one before, and so on.
        kernel.sample_after(chunks.saturating_sub(1 + i as u64));
        let before = kernel.status().batches;
        let tweaks = &tweaks[..count];
        scan(&*scanner, Batch { tweaks, multiples }).assert_equal(&expected);
        assert_eq!(kernel.status().batches - before, chunks, "{count} tweaks");
    }
    scan(&*scanner, Batch::of(&tweaks)).assert_equal(&expected);
    assert!(scanner.confirm());
    assert_eq!(kernel.status().fallback_batches, 0);
}

/// t_0·G of a tweak.
fn output_tweak_point(scan_key: &SecretKey, tweak: &TweakPoint) -> PublicKey {
    let secret = unpack(tweak)
        .expect("a point")
        .mul_tweak(SECP256K1, &LibScalar::from(*scan_key))
        .expect("a point");
    let t_0 = libsecp256k1::output_tweak(&secret, 0).expect("a scalar");
    let g = unpack(&AffinePoint::generator().into()).expect("G");
    g.mul_tweak(SECP256K1, &t_0).expect("a point")
}

/// A wallet whose plain candidate of one tweak is infinity, and that of its second label of another tweak.
fn target_with_infinities(plain: &TweakPoint, labelled: &TweakPoint) -> ScanTarget {
    let scan_key = secret(6);
    let spend_key = output_tweak_point(&scan_key, plain).negate(SECP256K1);
    let output = output_tweak_point(&scan_key, labelled)
        .combine(&spend_key)
        .expect("another point");
    let labels = [public(9), output.negate(SECP256K1)];
    ScanTarget {
        scan_key: scan_key.secret_bytes(),
        spend_key: spend_key.serialize(),
        labels: labels.map(|label| label.serialize()).to_vec(),
    }
}

/// Places in the second batch of three and in the third, of points that come once.
const SECOND: usize = BATCH + 3;
const THIRD: usize = 3 * BATCH - 2;

pub(crate) fn scans_fall_back_in_single_batches<B: Backend>(backend: B) {
    let tweaks = tweaks(3 * BATCH);
    let mut multiples = multiples(&tweaks);
    let target = target_with_infinities(&tweaks[SECOND], &tweaks[THIRD]);
    let expected = exact_candidates(&target, &tweaks);
    assert_eq!(expected[3 * SECOND], [0; 32]);
    assert_eq!(expected[3 * THIRD + 2], [0; 32]);

    let kernel = small_batches(backend);
    let scanner = scanner(&kernel, &target);
    scan(&*scanner, Batch::of(&tweaks)).assert_equal(&expected);
    assert_eq!(kernel.status().fallback_batches, 2);
    // One more in the first, for a multiple that is no point.
    multiples[3] = TweakPoint::from_bytes([1; 64]);
    let before = kernel.status().fallback_batches;
    let batch = Batch {
        tweaks: &tweaks,
        multiples: Some(&multiples),
    };
    scan(&*scanner, batch).assert_equal(&expected);
    assert_eq!(kernel.status().fallback_batches - before, 3);
    assert!(!kernel.status().is_broken);
}

/// For three wallets in two passes, and one in its own; multiples make no difference to the former.
pub(crate) fn shared_scans_in_batches_equal_the_library<B: Backend>(backend: B) {
    let kernel = small_batches(backend);
    let mut targets = [0, 3, 0, 1].map(|labels| target(secret(20 + labels), labels));
    // Scanned for by itself, as it leaves buckets empty.
    targets[2].scan_key = Scalar::ONE.to_be_bytes();
    let tweaks = tweaks(3 * BATCH);
    let expected = targets.each_ref().map(|t| exact_candidates(t, &tweaks));
    let multiples = multiples(&tweaks);
    let scanner = kernel.scanner(&targets).expect("valid keys");
    let chunks_of = |count, wallet: usize| chunks(count, 1 + targets[wallet].labels.len());
    for (i, count) in COUNTS.into_iter().enumerate() {
        // Full batches alone are those of three, where it takes long.
        if B::LANES > 1 && (count == BATCH || count == 2 * BATCH) {
            continue;
        }
        let chunks: u64 = (0..4).map(|wallet| chunks_of(count, wallet)).sum();
        kernel.sample_after(chunks.saturating_sub(1 + 2 * i as u64));
        let before = kernel.status().batches;
        let multiples = [None, Some(&multiples[..count])][i % 2];
        let tweaks = &tweaks[..count];
        let all = scan_all(&*scanner, Batch { tweaks, multiples });
        for (wallet, places) in all.iter().enumerate() {
            places.assert_equal(&expected[wallet]);
        }
        assert_eq!(kernel.status().batches - before, chunks, "{count} tweaks");
    }
    assert!(scanner.confirm());
    assert_eq!(kernel.status().fallback_batches, 0);
}

pub(crate) fn shared_scans_fall_back_in_single_batches<B: Backend>(backend: B) {
    let kernel = small_batches(backend);
    let tweaks = tweaks(3 * BATCH);
    let targets = [
        target(secret(21), 1),
        target_with_infinities(&tweaks[SECOND], &tweaks[THIRD]),
        target(secret(22), 0),
    ];
    let scanner = kernel.scanner(&targets).expect("valid keys");
    let all = scan_all(&*scanner, Batch::of(&tweaks));
    for (places, target) in all.iter().zip(&targets) {
        places.assert_equal(&exact_candidates(target, &tweaks));
    }
    // Of the one wallet.
    assert_eq!(kernel.status().fallback_batches, 2);
    assert!(scanner.confirm());
    assert!(!kernel.status().is_broken);
}

fn products(count: usize) -> Vec<Product> {
    let product = |i| Product {
        point: pack(&public(i)),
        scalar: secret(3000 + i).secret_bytes(),
    };
    (0..count as u64).map(product).collect()
}

/// Also of one scalar with points of which some are none.
pub(crate) fn products_in_batches_equal_the_library<B: Backend>(backend: B) {
    let kernel = small_batches(backend);
    let mut products = products(3 * BATCH);
    let expected = LibSecp256k1.multiply(&products);
    for (i, count) in COUNTS.into_iter().enumerate() {
        kernel.sample_after(batches(count).saturating_sub(1 + i as u64 % 2));
        let before = kernel.status().batches;
        assert_eq!(kernel.multiply(&products[..count]), expected[..count]);
        assert_eq!(kernel.status().batches - before, batches(count));
    }
    // Of what came last, one in any batch.
    assert!(kernel.confirm());
    // What is no product takes no place in a batch.
    let invalid = [3, BATCH + 1, 2 * BATCH + 5, 3 * BATCH - 1];
    for (i, at) in invalid.into_iter().enumerate() {
        match i % 2 {
            0 => products[at].scalar = [0; 32],
            _ => products[at].point = TweakPoint::from_bytes([5; 64]),
        }
    }
    let before = kernel.status().batches;
    assert_eq!(kernel.multiply(&products), LibSecp256k1.multiply(&products));
    assert_eq!(kernel.status().batches - before, 3);
    let tweaks = tweaks(2 * BATCH + 3);
    assert_eq!(kernel.multiples(&tweaks), LibSecp256k1.multiples(&tweaks));
    assert_eq!(kernel.status().fallback_batches, 0);
    assert!(!kernel.status().is_broken);
}

/// Scalars of which a step fails: if the last digit is d, that of the second half, and the scalar is 2d·λ, then what d·λ is
/// added to in the end is d·λ.
fn scalars_that_meet() -> Vec<Scalar> {
    let multiples = std::iter::successors(Some(Scalar::LAMBDA), |multiple| {
        Some(multiple.plus(&Scalar::LAMBDA))
    });
    let near = multiples.take(64).flat_map(|k| [k, k.negated()]);
    let meets = |scalar: &Scalar| {
        let mut point = [AffinePoint::generator()];
        multiply::multiply(Portable, &mut point, &[*scalar]).is_err()
    };
    near.filter(meets).collect()
}

pub(crate) fn products_fall_back_in_single_batches<B: Backend>(backend: B) {
    let scalars = scalars_that_meet();
    let kernel = small_batches(backend);
    let mut products = products(3 * BATCH);
    for at in [SECOND, THIRD] {
        products[at].scalar = scalars[at % scalars.len()].to_be_bytes();
    }
    assert_eq!(kernel.multiply(&products), LibSecp256k1.multiply(&products));
    assert_eq!(kernel.status().batches, 3);
    assert_eq!(kernel.status().fallback_batches, 2);
    assert!(!kernel.status().is_broken);
}

/// So many pairs of different neighbours, and of equal ones; then groups that take several rounds or vanish.
pub(crate) fn sums_in_batches_equal_the_library<B: Backend>(backend: B) {
    let kernel = small_batches(backend);
    let p: Vec<TweakPoint> = (0..6 * BATCH as u64).map(|i| pack(&public(i))).collect();
    let check = |points: &[TweakPoint], ends: &[usize]| {
        kernel.sample_after(0);
        assert_eq!(kernel.sums(points, ends), LibSecp256k1.sums(points, ends));
    };
    for count in COUNTS {
        let ends: Vec<usize> = (1..=count).map(|group| 2 * group).collect();
        check(&p[..2 * count], &ends);
        let equal: Vec<TweakPoint> = p[..count].iter().flat_map(|p| [*p, *p]).collect();
        check(&equal, &ends);
    }
    let mut points = Vec::new();
    let mut ends = Vec::new();
    for (i, p) in p.windows(5).enumerate() {
        let minus = |p: &TweakPoint| pack(&unpack(p).expect("a point").negate(SECP256K1));
        match i % 5 {
            0 => points.extend([p[0], p[0], minus(&p[0]), p[1], p[1]]),
            1 => points.extend([p[0], minus(&p[0]), p[1], minus(&p[1])]),
            2 => points.extend(p),
            3 => {}
            _ => points.extend([p[0], p[1], p[0], p[1], p[4]]),
        }
        ends.push(points.len());
    }
    check(&points, &ends);
    assert!(kernel.confirm());
    assert_eq!(kernel.status().fallback_batches, 0);
}

/// A batch is as many as the backend has lanes and chains.
pub(crate) fn decompression_in_batches_equals_the_library<B: Backend>(backend: B) {
    let kernel = small_batches(backend);
    let width = B::LANES * CHAINS;
    let mut keys: Vec<[u8; 33]> = (0..3 * width as u64)
        .map(|i| public(i).serialize())
        .collect();
    for i in [1, width, width + 2, 3 * width - 1] {
        // 5 is no x of a point.
        keys[i] = [0; 33];
        (keys[i][0], keys[i][32]) = (2, 5);
    }
    let expected = LibSecp256k1.decompress(&keys);
    for count in [width - 1, width, width + 1, 2 * width + 3, 3 * width] {
        kernel.sample_after(0);
        let before = kernel.status().batches;
        assert_eq!(kernel.decompress(&keys[..count]), expected[..count]);
        assert_eq!(kernel.status().batches - before, 1);
    }
    assert!(kernel.confirm());
}
