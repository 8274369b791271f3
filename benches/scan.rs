//! Candidates of many tweaks for one wallet: `cargo bench --bench scan`.
#![allow(missing_docs)]

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use secp256k1::{PublicKey, SECP256K1, SecretKey};
use spindex::bip352::keys::{ReceiverKeys, ScanKey};
use spindex::curve::libsecp256k1::LibSecp256k1;
use spindex::curve::{Batch, Engine, TweakPoint};

const TWEAKS: usize = 2_000;

fn secret(seed: u32) -> SecretKey {
    let mut bytes = [7; 32];
    bytes[..4].copy_from_slice(&seed.to_be_bytes());
    SecretKey::from_slice(&bytes).expect("far below the group order and not zero")
}

fn scan(c: &mut Criterion) {
    let points: Vec<TweakPoint> = (0..TWEAKS as u32)
        .filter_map(|seed| {
            TweakPoint::from_compressed(
                &PublicKey::from_secret_key(SECP256K1, &secret(seed)).serialize(),
            )
        })
        .collect();
    let mut group = c.benchmark_group("scan, 1 thread");
    group
        .sample_size(10)
        .throughput(Throughput::Elements(TWEAKS as u64));
    for extra_labels in [0, 10] {
        let scan_key = ScanKey::from_bytes([9; 32]).expect("below the group order");
        let spend_pubkey = secret(1_000_000).public_key(SECP256K1);
        let keys = ReceiverKeys::new(scan_key, spend_pubkey, 1..=extra_labels);
        let scanner = LibSecp256k1
            .scanner(&[keys.scan_target()])
            .expect("the keys are valid");
        let mut candidates = Vec::new();
        let id = BenchmarkId::new("libsecp256k1, labels beside change", extra_labels);
        group.bench_function(id, |b| {
            b.iter(|| scanner.candidates(Batch::of(black_box(&points)), &mut candidates))
        });
    }
    group.finish();
}

criterion_group!(benches, scan);
criterion_main!(benches);
