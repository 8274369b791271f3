//! From a parsed block to its index rows, on the real block of `../shared/data` where there is one, else on blocks of
//! the simulated chain: `cargo bench --bench index`.
#![allow(missing_docs)]

use std::hint::black_box;
use std::io::Read;
use std::path::Path;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use spindex::bip352::tweak::tweaks;
use spindex::chain::BlockWithPrevouts;
use spindex::chain::parse::block_from_rest_bytes;
use spindex::curve::libsecp256k1::LibSecp256k1;
use spindex::index::{derive_records, tweak_candidates};
use spindex::store::TweakForm;

fn real_block() -> Option<BlockWithPrevouts> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/mainnet-866342");
    let read = |name: &str| {
        let mut bytes = Vec::new();
        zstd::Decoder::new(std::fs::File::open(folder.join(name)).ok()?)
            .ok()?
            .read_to_end(&mut bytes)
            .ok()?;
        Some(bytes)
    };
    block_from_rest_bytes(
        Some(866_342),
        &read("block.bin.zst")?,
        &read("spenttxouts.bin.zst")?,
    )
    .ok()
}

fn index(c: &mut Criterion) {
    let Some(block) = real_block() else {
        eprintln!("skipped: ../shared/data is missing");
        return;
    };
    let inputs: Vec<_> = tweak_candidates(&block).map(|(_, inputs)| inputs).collect();

    let mut group = c.benchmark_group("mainnet block 866342");
    group
        .sample_size(20)
        .throughput(Throughput::Elements(inputs.len() as u64));
    group.bench_function("input keys", |b| {
        b.iter(|| tweak_candidates(&block).count());
    });
    group.bench_function("tweaks, libsecp256k1, 1 thread", |b| {
        b.iter(|| tweaks(&LibSecp256k1, black_box(&inputs)))
    });
    group.bench_function("block to rows, libsecp256k1, all threads", |b| {
        b.iter(|| {
            derive_records(
                &LibSecp256k1,
                std::slice::from_ref(&block),
                TweakForm::Point,
            )
        });
    });
    group.bench_function(
        "block to rows with multiples, libsecp256k1, all threads",
        |b| {
            b.iter(|| {
                derive_records(
                    &LibSecp256k1,
                    std::slice::from_ref(&block),
                    TweakForm::PointAndMultiple,
                )
            });
        },
    );
    group.finish();
}

criterion_group!(benches, index);
criterion_main!(benches);
