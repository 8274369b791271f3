//! Building a block's filter and matching many blocks' filters: `cargo bench --bench filter`.
#![allow(missing_docs)]

use std::hint::black_box;

use bitcoin::BlockHash;
use bitcoin::hashes::{Hash, sha256};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use spindex::filter::{matches, new_utxos_filter};

/// Taproot outputs of a well filled mainnet block.
const OUTPUTS: u32 = 2_757;
/// Candidates of one block: 740 eligible transactions, plain and change.
const CANDIDATES: u32 = 1_480;

fn keys(seed: u8, count: u32) -> Vec<[u8; 32]> {
    let key = |number: u32| {
        sha256::Hash::hash(&[&[seed][..], &number.to_be_bytes()].concat()).to_byte_array()
    };
    (0..count).map(key).collect()
}

fn filter(c: &mut Criterion) {
    let block = BlockHash::hash(b"a block");
    let outputs = keys(1, OUTPUTS);
    let candidates = keys(2, CANDIDATES);
    let filter = new_utxos_filter(&block, &outputs);
    let mut group = c.benchmark_group("filter");
    group.throughput(Throughput::Elements(u64::from(OUTPUTS)));
    group.bench_function("build, 2757 elements", |b| {
        b.iter(|| new_utxos_filter(black_box(&block), &outputs));
    });
    group.bench_function("match, 1480 queries in 2757 elements", |b| {
        b.iter(|| matches(black_box(&filter), &block, &candidates));
    });
    group.finish();
}

criterion_group!(benches, filter);
criterion_main!(benches);
