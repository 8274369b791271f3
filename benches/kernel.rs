//! The curve kernel from single field operations to whole jobs, with libsecp256k1 beside it.
//!
//! `cargo bench --bench kernel -- scan` runs one group. All figures are for one thread; those of groups other than
//! `field and steps` are per run of the whole slice, with the throughput in points.

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use secp256k1::hashes::{Hash, sha256};
use secp256k1::{SECP256K1, SecretKey};
use spindex::bip352::inputs::TweakInputs;
use spindex::bip352::tweak;
use spindex::chain::parse::block_from_rest_bytes;
use spindex::curve::{
    Batch, Engine, EngineKind, Product, ScanTarget, TweakPoint, available, engine,
};
use spindex::index::tweak_candidates;

/// Tweaks in a scan: some full batches.
const TWEAKS: usize = 4096;
/// Tweaks that libsecp256k1 is given, as it takes ten times as long for each.
const BASELINE_TWEAKS: usize = 512;

fn hash(what: &str, i: usize) -> [u8; 32] {
    sha256::Hash::hash(format!("{what} {i}").as_bytes()).to_byte_array()
}

fn public(what: &str, i: usize) -> [u8; 33] {
    let secret = SecretKey::from_slice(&hash(what, i)).expect("a hash in 1..n");
    secret.public_key(SECP256K1).serialize()
}

fn target(wallet: usize, labels: usize) -> ScanTarget {
    ScanTarget {
        scan_key: hash("scan key", wallet),
        spend_key: public("spend key", wallet),
        labels: (0..labels).map(|i| public("label", i)).collect(),
    }
}

fn tweaks() -> Vec<TweakPoint> {
    (0..TWEAKS)
        .filter_map(|i| TweakPoint::from_compressed(&public("tweak", i)))
        .collect()
}

/// libsecp256k1 and every batched engine that runs here, with the number of points each is measured with.
fn engines() -> Vec<(Arc<dyn Engine>, usize)> {
    available()
        .map(|entry| {
            let points = match entry.kind {
                EngineKind::LibSecp256k1 => BASELINE_TWEAKS,
                _ => TWEAKS,
            };
            let engine = engine(entry.kind, |broken| panic!("{broken}"));
            (engine.expect("it is available"), points)
        })
        .collect()
}

fn field_and_steps(c: &mut Criterion) {
    let mut group = c.benchmark_group("field and steps");
    for entry in available() {
        for mut operation in entry.operations() {
            group.throughput(Throughput::Elements(operation.count as u64));
            group.bench_function(BenchmarkId::new(operation.name, entry.name), |b| {
                b.iter(|| (operation.run)());
            });
        }
    }
}

fn scans(c: &mut Criterion) {
    let tweaks = tweaks();
    let mut candidates = Vec::new();
    for (group, labels) in [
        ("scan, no label", 0),
        ("scan, 1 label", 1),
        ("scan, 11 labels", 11),
    ] {
        let mut group = c.benchmark_group(group);
        for (engine, count) in engines() {
            let scanner = engine.scanner(&[target(0, labels)]).expect("valid keys");
            group.throughput(Throughput::Elements(count as u64));
            group.bench_function(engine.name(), |b| {
                b.iter(|| scanner.candidates(Batch::of(&tweaks[..count]), &mut candidates));
            });
        }
    }
    let mut group = c.benchmark_group("scan, 1 label, with 2^64 T");
    for (engine, count) in engines() {
        let multiples: Vec<_> = engine.multiples(&tweaks).into_iter().flatten().collect();
        let scanner = engine.scanner(&[target(0, 1)]).expect("valid keys");
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(engine.name(), |b| {
            b.iter(|| {
                let batch = Batch {
                    tweaks: &tweaks[..count],
                    multiples: Some(&multiples[..count]),
                };
                scanner.candidates(batch, &mut candidates);
            });
        });
    }
}

/// Tweaks as a block brings them, instead of in full batches.
fn batch_sizes(c: &mut Criterion) {
    let tweaks = tweaks();
    let mut candidates = Vec::new();
    let mut group = c.benchmark_group("scan by number of tweaks");
    for (engine, max) in engines() {
        let scanner = engine.scanner(&[target(0, 1)]).expect("valid keys");
        for count in [16, 64, 256, 512, 1024, 2048] {
            if count > max {
                continue;
            }
            group.throughput(Throughput::Elements(count as u64));
            group.bench_function(BenchmarkId::new(engine.name(), count), |b| {
                b.iter(|| scanner.candidates(Batch::of(&tweaks[..count]), &mut candidates));
            });
        }
    }
}

fn many_wallets(c: &mut Criterion) {
    let tweaks = tweaks();
    let mut candidates = Vec::new();
    for wallets in [2, 16] {
        let targets: Vec<_> = (0..wallets).map(|wallet| target(wallet, 1)).collect();
        let mut group = c.benchmark_group(format!("scan for {wallets} wallets, 1 label"));
        group.sample_size(10);
        for (engine, count) in engines() {
            let count = count / 4;
            let scanner = engine.scanner(&targets).expect("valid keys");
            group.throughput(Throughput::Elements((count * wallets) as u64));
            group.bench_function(engine.name(), |b| {
                b.iter(|| scanner.candidates(Batch::of(&tweaks[..count]), &mut candidates));
            });
        }
    }
}

fn indexing(c: &mut Criterion) {
    let tweaks = tweaks();
    let keys: Vec<_> = tweaks.iter().map(TweakPoint::to_compressed).collect();
    let ends: Vec<usize> = (1..=TWEAKS).filter(|i| i % 3 == 0).collect();
    let products: Vec<_> = (tweaks.iter().enumerate())
        .map(|(i, point)| Product {
            point: *point,
            scalar: hash("scalar", i),
        })
        .collect();
    let mut group = c.benchmark_group("products with own scalars");
    for (engine, count) in engines() {
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(engine.name(), |b| {
            b.iter(|| black_box(engine.multiply(&products[..count])));
        });
    }
    drop(group);
    let mut group = c.benchmark_group("decompression");
    for (engine, count) in engines() {
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(engine.name(), |b| {
            b.iter(|| black_box(engine.decompress(&keys[..count])));
        });
    }
    drop(group);
    let mut group = c.benchmark_group("sums of three");
    for (engine, count) in engines() {
        let groups = count / 3;
        group.throughput(Throughput::Elements(3 * groups as u64));
        group.bench_function(engine.name(), |b| {
            b.iter(|| black_box(engine.sums(&tweaks[..3 * groups], &ends[..groups])));
        });
    }
}

/// Input keys of each eligible transaction of a mainnet block; `None` without the data.
fn mainnet_inputs() -> Option<Vec<TweakInputs>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/mainnet-866342");
    let read = |name: &str| zstd::decode_all(std::fs::File::open(folder.join(name)).ok()?).ok();
    let block = block_from_rest_bytes(None, &read("block.bin.zst")?, &read("spenttxouts.bin.zst")?);
    let block = block.expect("a block");
    Some(tweak_candidates(&block).map(|(_, inputs)| inputs).collect())
}

/// Keys to tweaks: decompression, sums, input hashes, products.
fn mainnet_block(c: &mut Criterion) {
    let Some(inputs) = mainnet_inputs() else {
        eprintln!("skipped: ../shared/data is missing");
        return;
    };
    let mut group = c.benchmark_group("tweaks of a mainnet block");
    group.throughput(Throughput::Elements(inputs.len() as u64));
    group.sample_size(10);
    for (engine, _) in engines() {
        group.bench_function(engine.name(), |b| {
            b.iter(|| black_box(tweak::tweaks(&*engine, &inputs)));
        });
    }
}

criterion_group!(
    benches,
    field_and_steps,
    scans,
    batch_sizes,
    many_wallets,
    indexing,
    mainnet_block
);
criterion_main!(benches);
