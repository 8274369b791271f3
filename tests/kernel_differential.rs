//! Every batched engine that this processor runs, against libsecp256k1 on random points.
//!
//! `SPINDEX_DIFFERENTIAL_POINTS` sets how many: by default few in a debug build, and in a release build so many that every
//! operation takes several batches. A million take some minutes:
//! `SPINDEX_DIFFERENTIAL_POINTS=1000000 cargo test --release --test kernel_differential`. `SPINDEX_DIFFERENTIAL_ENGINE`
//! names a single engine.

use std::sync::Arc;

use secp256k1::hashes::{Hash, sha256};
use secp256k1::{SECP256K1, SecretKey};
use spindex::curve::libsecp256k1::LibSecp256k1;
use spindex::curve::{
    Batch, Engine, EngineKind, Product, ScanTarget, TweakPoint, engine, testable,
};

/// Points when the environment does not say.
const DEFAULT_POINTS: usize = if cfg!(debug_assertions) { 100 } else { 20_000 };

/// Points at a time: their pairs are more than a batch, and no multiple of one.
const CHUNK_POINTS: usize = 5000;

/// Wallets that are scanned for together, in a release build more than one pass has.
const WALLETS: u64 = if cfg!(debug_assertions) { 3 } else { 17 };

/// Most tweaks that they are scanned for: more than a batch of such a scan.
const WALLETS_POINTS: usize = 1500;

/// Every so many chunks this is done.
const WALLETS_EVERY_CHUNKS: u64 = 8;

fn hash(what: &str, i: u64) -> [u8; 32] {
    sha256::Hash::hash(format!("{what} {i}").as_bytes()).to_byte_array()
}

fn public(what: &str, i: u64) -> [u8; 33] {
    let secret = SecretKey::from_slice(&hash(what, i)).expect("a hash in 1..n");
    secret.public_key(SECP256K1).serialize()
}

fn target(wallet: u64) -> ScanTarget {
    ScanTarget {
        scan_key: hash("scan key", wallet),
        spend_key: public("spend key", wallet),
        labels: vec![public("label", wallet)],
    }
}

/// Bytes of which about half are points.
fn keys(start: u64, count: usize) -> Vec<[u8; 33]> {
    (start..)
        .take(count)
        .map(|i| {
            let mut key = [2; 33];
            key[1..].copy_from_slice(&hash("x", i));
            key[0] += key[32] >> 7;
            key
        })
        .collect()
}

fn engines() -> Vec<Arc<dyn Engine>> {
    let only = std::env::var("SPINDEX_DIFFERENTIAL_ENGINE").ok();
    testable()
        .filter(|entry| entry.kind != EngineKind::LibSecp256k1)
        .filter(|entry| only.as_ref().is_none_or(|only| only == entry.name))
        .map(|entry| {
            let engine = engine(entry.kind, |broken| panic!("{broken}"));
            engine.expect("it can be tested here")
        })
        .collect()
}

#[test]
fn engines_equal_libsecp256k1() {
    let points = std::env::var("SPINDEX_DIFFERENTIAL_POINTS")
        .ok()
        .map_or(DEFAULT_POINTS, |count| {
            count.parse().expect("a number of points")
        });
    let engines = engines();
    let wallets: Vec<ScanTarget> = (0..WALLETS).map(target).collect();
    assert!(!engines.is_empty(), "no engine to compare");
    let exact_scanner = LibSecp256k1.scanner(&wallets[..1]).expect("valid keys");
    let scanners: Vec<_> = engines
        .iter()
        .map(|engine| engine.scanner(&wallets[..1]).expect("valid keys"))
        .collect();

    let mut compared = 0;
    let mut expected = Vec::new();
    let mut candidates = Vec::new();
    for chunk in 0.. {
        let left = points - compared;
        if left == 0 {
            break;
        }
        let start = chunk * 4 * CHUNK_POINTS as u64;
        let keys = keys(start, 4 * left.min(CHUNK_POINTS));
        let decompressed = LibSecp256k1.decompress(&keys);
        let mut tweaks: Vec<TweakPoint> = decompressed.iter().flatten().copied().collect();
        tweaks.truncate(left.min(CHUNK_POINTS));
        compared += tweaks.len();
        let products: Vec<Product> = tweaks
            .iter()
            .zip(start..)
            .map(|(point, i)| Product {
                point: *point,
                scalar: hash("scalar", i),
            })
            .collect();
        let groups = groups(&tweaks, |i| keys[i][5].is_multiple_of(3));
        let multiplied = LibSecp256k1.multiply(&products);
        let summed = groups
            .each_ref()
            .map(|(points, ends)| LibSecp256k1.sums(points, ends));
        exact_scanner.candidates(Batch::of(&tweaks), &mut expected);
        for (engine, scanner) in engines.iter().zip(&scanners) {
            let name = engine.name();
            assert!(
                engine.decompress(&keys) == decompressed,
                "{name}, chunk {chunk}"
            );
            assert!(
                engine.multiply(&products) == multiplied,
                "{name}, chunk {chunk}"
            );
            for ((points, ends), summed) in groups.iter().zip(&summed) {
                assert!(
                    engine.sums(points, ends) == *summed,
                    "{name}, chunk {chunk}"
                );
            }
            scanner.candidates(Batch::of(&tweaks), &mut candidates);
            assert!(candidates == expected, "{name}, chunk {chunk}");
            let multiples: Vec<TweakPoint> =
                engine.multiples(&tweaks).into_iter().flatten().collect();
            let batch = Batch {
                tweaks: &tweaks,
                multiples: Some(&multiples),
            };
            scanner.candidates(batch, &mut candidates);
            assert!(
                candidates == expected,
                "{name} with multiples, chunk {chunk}"
            );
        }
        if chunk % WALLETS_EVERY_CHUNKS == 0 {
            let tweaks = &tweaks[..tweaks.len().min(WALLETS_POINTS)];
            compare_wallets(&engines, &wallets, tweaks);
        }
    }
    for engine in &engines {
        let status = engine.status();
        eprintln!("{}: {compared} points, {status:?}", engine.name());
        assert!(!status.is_broken);
        assert_eq!(status.fallback_batches, 0, "random points do not meet");
    }
}

/// Points to be summed, and where groups of them end: some that end where they may, pairs, and each point twice.
fn groups(
    points: &[TweakPoint],
    may_end: impl Fn(usize) -> bool,
) -> [(Vec<TweakPoint>, Vec<usize>); 3] {
    let some = (0..points.len()).filter(|i| may_end(*i)).collect();
    let pairs = (2..=points.len()).step_by(2).collect();
    let twice: Vec<TweakPoint> = points.iter().flat_map(|point| [*point; 2]).collect();
    let ends_of_two = (2..=twice.len()).step_by(2).collect();
    [
        (points.to_vec(), some),
        (points.to_vec(), pairs),
        (twice, ends_of_two),
    ]
}

fn compare_wallets(engines: &[Arc<dyn Engine>], wallets: &[ScanTarget], tweaks: &[TweakPoint]) {
    let candidates = |engine: &dyn Engine| {
        let mut candidates = Vec::new();
        let scanner = engine.scanner(wallets).expect("valid keys");
        scanner.candidates(Batch::of(tweaks), &mut candidates);
        candidates
    };
    let expected = candidates(&LibSecp256k1);
    for engine in engines {
        assert!(candidates(&**engine) == expected, "{}", engine.name());
    }
}
