//! `spindex bench tweak`.

use std::hint::black_box;
use std::path::PathBuf;

use anyhow::{Context, Result};
use bitcoin::OutPoint;
use bitcoin::hashes::Hash;
use clap::Args;
use rayon::prelude::*;
use secp256k1::{PublicKey, SECP256K1, SecretKey};

use super::super::tweaks::read_block;
use super::{BATCHES_PER_THREAD, Measuring, Row, Subject, engines, measure, pool, print};
use crate::bip352::hash::input_hash;
use crate::bip352::inputs::TweakInputs;
use crate::bip352::tweak::tweaks;
use crate::chain::BlockWithPrevouts;
use crate::curve::{LEAST_BATCH, TWEAK_BATCH};
use crate::index::tweak_candidates;

#[derive(Args)]
pub(super) struct TweakBenchArgs {
    #[command(flatten)]
    measuring: Measuring,
    /// Answer of Bitcoin Core's /rest/block/HASH.bin, plain or .zst [default: made-up input keys]
    #[arg(long, value_name = "FILE", requires = "spent")]
    block: Option<PathBuf>,
    /// Answer of Bitcoin Core's /rest/spenttxouts/HASH.bin, plain or .zst
    #[arg(long, value_name = "FILE", requires = "block")]
    spent: Option<PathBuf>,
    /// Eligible transactions of one measurement: so many are made up, with 1 to 4 keys each, or the block is taken
    /// as often as it needs for as many
    #[arg(long, value_name = "N", default_value_t = 8_192, value_parser = clap::value_parser!(u32).range(128..=4_194_304))]
    tweaks: u32,
}

/// Where the keys come from: a parsed block, or keys at once.
enum Source {
    Block(Box<BlockWithPrevouts>),
    MadeUp(Vec<TweakInputs>),
}

impl Source {
    /// Keys of the eligible transactions, so many times over; from a block this is part of what is measured.
    fn inputs(&self, copies: usize) -> Vec<TweakInputs> {
        let copies = (0..copies).into_par_iter();
        match self {
            Self::Block(block) => copies
                .flat_map_iter(|_| tweak_candidates(block).map(|(_, inputs)| inputs))
                .collect(),
            Self::MadeUp(inputs) => copies.flat_map(|_| inputs.par_iter().cloned()).collect(),
        }
    }
}

pub(super) fn bench_tweak(args: TweakBenchArgs) -> Result<()> {
    let source = match (&args.block, &args.spent) {
        (Some(block), Some(spent)) => Source::Block(Box::new(read_block(block, spent)?)),
        _ => Source::MadeUp((0..args.tweaks).map(made_up).collect::<Result<_>>()?),
    };
    let source = &source;
    let one = pool(1)?;
    let inputs = source.inputs(1);
    let count = inputs
        .iter()
        .filter(|inputs| library_tweak(inputs).is_some())
        .count();
    let copies = (args.tweaks as usize).div_ceil(inputs.len().max(1));
    let batch = (copies * inputs.len() / BATCHES_PER_THREAD).clamp(LEAST_BATCH, TWEAK_BATCH);
    drop(inputs);
    let mut subjects = vec![Subject {
        row: Row {
            labels: 0,
            wallets: 1,
            ..Row::new("libsecp256k1", "secp256k1 crate")
        },
        tweaks: count,
        baseline: 0,
        one_thread: 0,
        run: Box::new(move || {
            for inputs in one.install(|| source.inputs(1)) {
                black_box(library_tweak(&inputs));
            }
        }),
    }];
    for (engine, row) in engines() {
        let one_thread = subjects.len();
        for threads in args.measuring.thread_counts() {
            let pool = pool(threads)?;
            let engine = engine.clone();
            subjects.push(Subject {
                row: Row {
                    labels: 0,
                    threads,
                    ..row.clone()
                },
                tweaks: threads * copies * count,
                baseline: 0,
                one_thread,
                run: Box::new(move || {
                    pool.install(|| {
                        let inputs = source.inputs(threads * copies);
                        let batches = inputs.par_chunks(batch).with_max_len(1);
                        batches.for_each(|inputs| {
                            black_box(tweaks(engine.as_ref(), inputs));
                        });
                    });
                }),
            });
        }
    }
    let rows = measure(subjects, args.measuring.rounds);
    print("tweak", &args.measuring, &rows)
}

/// The tweak as a program computes it with the `secp256k1` crate.
fn library_tweak(inputs: &TweakInputs) -> Option<PublicKey> {
    let keys: Vec<PublicKey> = inputs
        .keys
        .iter()
        .filter_map(|key| PublicKey::from_slice(key).ok())
        .collect();
    let sum = match keys.as_slice() {
        [key] => *key,
        keys => PublicKey::combine_keys(&keys.iter().collect::<Vec<_>>()).ok()?,
    };
    let input_hash = input_hash(&inputs.smallest_outpoint, &sum.serialize())?;
    sum.mul_tweak(SECP256K1, &input_hash).ok()
}

fn made_up(number: u32) -> Result<TweakInputs> {
    let key = |input: u32| -> Result<[u8; 33]> {
        let bytes = [&b"input"[..], &number.to_be_bytes(), &input.to_be_bytes()].concat();
        let secret =
            SecretKey::from_slice(bitcoin::hashes::sha256::Hash::hash(&bytes).as_byte_array());
        Ok(secret
            .context("a hash that is no secret key")?
            .public_key(SECP256K1)
            .serialize())
    };
    Ok(TweakInputs {
        keys: (0..=number % 4).map(key).collect::<Result<_>>()?,
        smallest_outpoint: OutPoint::new(bitcoin::Txid::hash(&number.to_be_bytes()), 0),
    })
}
