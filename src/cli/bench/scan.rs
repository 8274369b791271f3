//! `spindex bench scan`.

use std::hint::black_box;
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::Args;
use rayon::prelude::*;
use secp256k1::hashes::{Hash, HashEngine, sha256t_hash_newtype};
use secp256k1::{PublicKey, SECP256K1, Scalar, SecretKey};

use super::super::engine::engine;
use super::{BATCHES_PER_THREAD, Measuring, Row, Subject, engines, measure, pool, print};
use crate::bip352::keys::{ReceiverKeys, ScanKey, SpendKey};
use crate::curve::{
    Batch, CandidateScanner, Engine, EngineKind, LEAST_BATCH, SCAN_BATCH, ScanTarget, TweakPoint,
};

sha256t_hash_newtype! {
    struct OutputTweakTag = hash_str("BIP0352/SharedSecret");

    #[hash_newtype(forward)]
    struct OutputTweakHash(_);
}

/// Times that rows of several threads go through the tweaks.
const PASSES: usize = 2;
/// The library is so much slower that it gets fewer tweaks.
const LIBRARY_SHARE: usize = 8;
const TOO_FEW: &str = "too few tweaks";

#[derive(Args)]
pub(super) struct ScanBenchArgs {
    #[command(flatten)]
    measuring: Measuring,
    /// Tweaks of one measurement
    #[arg(long, value_name = "N", default_value_t = 32_768, value_parser = clap::value_parser!(u32).range(128..=4_194_304))]
    tweaks: u32,
}

/// Tweaks in every form they may be stored in.
struct Tweaks {
    compressed: Vec<[u8; 33]>,
    points: Vec<TweakPoint>,
    multiples: Vec<TweakPoint>,
    keys: Vec<PublicKey>,
}

pub(super) fn bench_scan(args: ScanBenchArgs) -> Result<()> {
    let tweaks = Tweaks::new(args.tweaks)?;
    let few = tweaks.keys.len() / LIBRARY_SHARE;
    let mut subjects = Vec::new();

    // The baseline: what a program does that uses the library as it is. One for each number of labels.
    let label_counts = [1, 0, 11];
    for labels in label_counts {
        let target = target(0, labels)?;
        let baseline = Library::new(&target)?;
        let keys = tweaks.keys.get(..few).context(TOO_FEW)?;
        subjects.push(Subject {
            row: Row {
                labels,
                ..Row::new("libsecp256k1", "secp256k1 crate")
            },
            tweaks: few,
            baseline: subjects.len(),
            one_thread: subjects.len(),
            run: Box::new(move || keys.iter().for_each(|key| baseline.scan(key))),
        });
    }
    let baseline_of = |labels| {
        label_counts
            .iter()
            .position(|count| *count == labels)
            .unwrap_or(0)
    };

    for (engine, row) in engines() {
        let count = if row.engine == "batched" {
            tweaks.points.len()
        } else {
            few
        };
        let points = tweaks.points.get(..count).context(TOO_FEW)?;

        // What programs do with many tweaks: threads take batches until none is left. Each thread has as many to do
        // as a single one has, and the rows are measured one right after the other.
        let one_thread = subjects.len();
        let batch = (count / BATCHES_PER_THREAD).clamp(LEAST_BATCH, SCAN_BATCH);
        let batches: Vec<&[TweakPoint]> = points.chunks(batch).collect();
        for threads in args.measuring.thread_counts() {
            let scanner: Arc<dyn CandidateScanner> = engine.scanner(&[target(0, 1)?])?.into();
            let pool = pool(threads)?;
            let batches = batches.clone();
            subjects.push(Subject {
                row: Row {
                    threads,
                    ..row.clone()
                },
                tweaks: threads * PASSES * count,
                baseline: 0,
                one_thread,
                run: Box::new(move || {
                    pool.install(|| {
                        (0..threads * PASSES * batches.len())
                            .into_par_iter()
                            .with_max_len(1)
                            .map(|number| batches[number % batches.len()])
                            .for_each_init(Vec::new, |candidates, points| {
                                scanner.candidates(Batch::of(points), candidates);
                                black_box(&candidates);
                            });
                    });
                }),
            });
        }
        for labels in [0, 11] {
            let scanner = engine.scanner(&[target(0, labels)?])?;
            subjects.push(Subject {
                row: Row {
                    labels,
                    ..row.clone()
                },
                tweaks: count,
                baseline: baseline_of(labels),
                one_thread: subjects.len(),
                run: Box::new(move || scan_points(scanner.as_ref(), points)),
            });
        }
        let compressed = tweaks.compressed.get(..count).context(TOO_FEW)?;
        let multiples = tweaks.multiples.get(..count).context(TOO_FEW)?;
        for stored in [33, 128] {
            let scanner = engine.scanner(&[target(0, 1)?])?;
            let engine = engine.clone();
            subjects.push(Subject {
                row: Row {
                    stored,
                    ..row.clone()
                },
                tweaks: count,
                baseline: 0,
                one_thread: subjects.len(),
                run: Box::new(move || match stored {
                    33 => scan_compressed(engine.as_ref(), scanner.as_ref(), compressed),
                    _ => scan_with_multiples(scanner.as_ref(), points, multiples),
                }),
            });
        }
        for wallets in [4, 16] {
            let targets: Vec<ScanTarget> = (0..wallets)
                .map(|wallet| target(wallet, 1))
                .collect::<Result<_>>()?;
            let scanner = engine.scanner(&targets)?;
            let count = count / wallets as usize;
            let points = points.get(..count).context(TOO_FEW)?;
            subjects.push(Subject {
                row: Row {
                    wallets: wallets as usize,
                    ..row.clone()
                },
                tweaks: count,
                baseline: 0,
                one_thread: subjects.len(),
                run: Box::new(move || scan_points(scanner.as_ref(), points)),
            });
        }
    }
    let rows = measure(subjects, args.measuring.rounds);
    print("scan", &args.measuring, &rows)
}

impl Tweaks {
    fn new(count: u32) -> Result<Self> {
        let keys: Vec<PublicKey> = (0..count)
            .into_par_iter()
            .map(|number| secret(b"tweak", number).map(|secret| secret.public_key(SECP256K1)))
            .collect::<Result<_>>()?;
        let compressed: Vec<[u8; 33]> = keys.iter().map(PublicKey::serialize).collect();
        let points: Option<Vec<TweakPoint>> =
            compressed.iter().map(TweakPoint::from_compressed).collect();
        let points = points.context("a public key is no point")?;
        let multiples: Option<Vec<TweakPoint>> = engine(EngineKind::Auto)?
            .multiples(&points)
            .into_iter()
            .collect();
        Ok(Self {
            compressed,
            points,
            multiples: multiples.context("a public key has no multiple")?,
            keys,
        })
    }
}

fn secret(purpose: &[u8], number: u32) -> Result<SecretKey> {
    let hash = secp256k1::hashes::sha256::Hash::hash(&[purpose, &number.to_be_bytes()].concat());
    SecretKey::from_slice(hash.as_byte_array()).context("a hash that is no secret key")
}

/// A wallet with that many labels, change first.
fn target(wallet: u32, labels: usize) -> Result<ScanTarget> {
    let scan_key =
        ScanKey::from_bytes(secret(b"scan key", wallet)?.secret_bytes()).context("a scan key")?;
    let spend_key = SpendKey::from_bytes(secret(b"spend key", wallet)?.secret_bytes())
        .context("a spend key")?;
    let more = u32::try_from(labels.saturating_sub(1))?;
    let mut target = ReceiverKeys::new(scan_key, spend_key.public_key(), 1..=more).scan_target();
    target.labels.truncate(labels);
    Ok(target)
}

fn scan_points(scanner: &dyn CandidateScanner, points: &[TweakPoint]) {
    let mut candidates = Vec::new();
    for points in points.chunks(SCAN_BATCH) {
        scanner.candidates(Batch::of(points), &mut candidates);
        black_box(&candidates);
    }
}

fn scan_compressed(engine: &dyn Engine, scanner: &dyn CandidateScanner, tweaks: &[[u8; 33]]) {
    let mut candidates = Vec::new();
    for tweaks in tweaks.chunks(SCAN_BATCH) {
        let points: Vec<TweakPoint> = engine.decompress(tweaks).into_iter().flatten().collect();
        scanner.candidates(Batch::of(&points), &mut candidates);
        black_box(&candidates);
    }
}

fn scan_with_multiples(
    scanner: &dyn CandidateScanner,
    points: &[TweakPoint],
    multiples: &[TweakPoint],
) {
    let mut candidates = Vec::new();
    for (tweaks, multiples) in points.chunks(SCAN_BATCH).zip(multiples.chunks(SCAN_BATCH)) {
        let multiples = Some(multiples);
        scanner.candidates(Batch { tweaks, multiples }, &mut candidates);
        black_box(&candidates);
    }
}

/// The `secp256k1` crate as programs use it, on points parsed beforehand.
struct Library {
    scan_key: Scalar,
    spend_key: PublicKey,
    labels: Vec<PublicKey>,
}

impl Library {
    fn new(target: &ScanTarget) -> Result<Self> {
        let labels: Result<Vec<PublicKey>, _> = target
            .labels
            .iter()
            .map(|label| PublicKey::from_slice(label))
            .collect();
        Ok(Self {
            scan_key: Scalar::from_be_bytes(target.scan_key)?,
            spend_key: PublicKey::from_slice(&target.spend_key)?,
            labels: labels?,
        })
    }

    fn scan(&self, tweak: &PublicKey) {
        let Ok(shared_secret) = tweak.mul_tweak(SECP256K1, &self.scan_key) else {
            return;
        };
        let mut hash = OutputTweakHash::engine();
        hash.input(&shared_secret.serialize());
        hash.input(&[0; 4]);
        let Ok(t_0) = Scalar::from_be_bytes(OutputTweakHash::from_engine(hash).to_byte_array())
        else {
            return;
        };
        let Ok(output) = self.spend_key.add_exp_tweak(SECP256K1, &t_0) else {
            return;
        };
        black_box(output.x_only_public_key().0.serialize());
        for label in &self.labels {
            if let Ok(output) = output.combine(label) {
                black_box(output.x_only_public_key().0.serialize());
            }
        }
    }
}
