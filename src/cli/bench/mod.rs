//! `spindex bench`: what this machine can do, beside libsecp256k1 in the same run.
//!
//! Machines are shared and their speed drifts, so every round measures the baseline and each configuration in turn;
//! a row's ratio is the median of the ratios within the rounds, and its time the median of its times.

mod api;
mod generate;
mod index;
mod scan;
mod tweak;

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use serde::Serialize;

use super::config::{MOST_THREADS, whole};
use super::engine::engine;
use super::output::{progress_bar, write_stdout};
use crate::curve::{self, Engine, EngineKind};

/// Eligible transactions of mainnet from taproot's activation (709,632) up to this height, as counted by another
/// project's index.
const HISTORY_TWEAKS: f64 = 187_015_795.0;
const HISTORY_HEIGHT: u32 = 962_151;

#[derive(Args)]
pub(super) struct BenchArgs {
    #[command(subcommand)]
    job: Job,
}

#[derive(Subcommand)]
enum Job {
    /// Scanning: tweaks to candidate output keys
    Scan(scan::ScanBenchArgs),
    /// Indexing: a block's transactions to their tweaks
    Tweak(tweak::TweakBenchArgs),
    /// The whole path: a stream of blocks to committed rows
    Index(index::IndexBenchArgs),
    /// Serving: requests a second of the version 1 routes, beside nginx where it is installed
    Api(api::ApiBenchArgs),
    /// Write a made-up chain as Bitcoin Core's block files, for syncs of any length without a node
    Generate(generate::GenerateArgs),
}

pub(super) fn bench(args: BenchArgs) -> Result<()> {
    match args.job {
        Job::Scan(args) => scan::bench_scan(args),
        Job::Tweak(args) => tweak::bench_tweak(args),
        Job::Index(args) => index::bench_index(args),
        Job::Api(args) => api::bench_api(args),
        Job::Generate(args) => generate::bench_generate(args),
    }
}

/// How often, and how it is printed.
#[derive(Args)]
struct Measuring {
    /// Rounds; medians over them are reported
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Most threads to measure with [default: one per core]
    #[arg(long, env = "SPINDEX_THREADS", value_name = "N", value_parser = whole(1, MOST_THREADS))]
    threads: Option<usize>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

impl Measuring {
    /// 1, 2, 4, … and the most.
    fn thread_counts(&self) -> Vec<usize> {
        let most = self
            .threads
            .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
            .max(1);
        let mut counts: Vec<usize> = std::iter::successors(Some(1), |count| Some(count * 2))
            .take_while(|count| *count < most)
            .collect();
        counts.push(most);
        counts
    }
}

/// One configuration and what it cost.
#[derive(Debug, Clone, Serialize)]
struct Row {
    /// `batched`, or `libsecp256k1` for the library point by point.
    engine: &'static str,
    /// Which arithmetic the engine runs on.
    backend: &'static str,
    wallets: usize,
    /// Labels beside the plain address; 1 is change alone.
    labels: usize,
    threads: usize,
    /// Bytes stored for a tweak: 33 compressed, 64 as a point, 128 with 2^64·T.
    stored: usize,
    /// Core time in µs for one tweak and one wallet.
    us_per_tweak: f64,
    /// Tweaks a second, by all threads together; for several wallets, tweaks scanned for all of them.
    tweaks_per_s: f64,
    /// How many times as fast as libsecp256k1 on one core, per tweak and wallet.
    ratio: f64,
    /// Tweaks a second as a multiple of those of one thread with the same configuration.
    speedup: f64,
}

impl Row {
    /// One wallet with the change label, points stored, one thread; to be filled in by [`measure`].
    fn new(engine: &'static str, backend: &'static str) -> Self {
        Self {
            engine,
            backend,
            wallets: 1,
            labels: 1,
            threads: 1,
            stored: 64,
            us_per_tweak: 0.0,
            tweaks_per_s: 0.0,
            ratio: 0.0,
            speedup: 0.0,
        }
    }
}

/// A configuration to be measured.
struct Subject<'a> {
    row: Row,
    /// Tweaks that one run takes care of.
    tweaks: usize,
    /// Position of the subject that the ratio refers to.
    baseline: usize,
    /// Position of the subject that does the same on one thread; its own, if that is what it does.
    one_thread: usize,
    run: Box<dyn FnMut() + 'a>,
}

/// Batches that each thread gets in one run, so that waiting for the last ones costs little.
const BATCHES_PER_THREAD: usize = 16;

/// Measures the subjects in turn, round after round, after one round that does not count.
fn measure(mut subjects: Vec<Subject<'_>>, rounds: u32) -> Vec<Row> {
    let bar = progress_bar(
        u64::from(rounds + 1) * subjects.len() as u64,
        "measurements",
    );
    let mut seconds = vec![Vec::new(); subjects.len()];
    for round in 0..=rounds {
        for (subject, seconds) in subjects.iter_mut().zip(&mut seconds) {
            let started = Instant::now();
            (subject.run)();
            if round > 0 {
                seconds.push(started.elapsed().as_secs_f64());
            }
            bar.inc(1);
        }
    }
    bar.finish_and_clear();

    // Core seconds for one tweak and one wallet, per round.
    let cost = |position: usize| {
        let (Some(subject), Some(seconds)) = (subjects.get(position), seconds.get(position)) else {
            return Vec::new();
        };
        let share = subject.row.threads as f64 / (subject.tweaks * subject.row.wallets) as f64;
        seconds.iter().map(|seconds| seconds * share).collect()
    };
    let rows = subjects.iter().enumerate().map(|(position, subject)| {
        let costs = cost(position);
        let times_as_fast_as = |other: usize| {
            let costs = cost(other).into_iter().zip(&costs);
            median(costs.map(|(other, cost)| other / cost).collect())
        };
        let ratio = times_as_fast_as(subject.baseline);
        let speedup = times_as_fast_as(subject.one_thread) * subject.row.threads as f64;
        let core_seconds = median(costs);
        Row {
            us_per_tweak: core_seconds * 1e6,
            tweaks_per_s: subject.row.threads as f64 / (core_seconds * subject.row.wallets as f64),
            ratio,
            speedup,
            ..subject.row.clone()
        }
    });
    rows.collect()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.get(middle) {
        Some(upper) if values.len() % 2 == 1 => *upper,
        Some(upper) => (values.get(middle.wrapping_sub(1)).unwrap_or(upper) + upper) / 2.0,
        None => f64::NAN,
    }
}

/// Every engine that runs here, libsecp256k1 first; with the names of engine and backend in a [`Row`].
fn engines() -> Vec<(Arc<dyn Engine>, Row)> {
    curve::available()
        .filter_map(|entry| {
            let family = match entry.kind {
                EngineKind::LibSecp256k1 => entry.name,
                _ => "batched",
            };
            Some((engine(entry.kind).ok()?, Row::new(family, entry.name)))
        })
        .collect()
}

/// Prints the rows as one document or as a table with a title.
fn print(title: &str, measuring: &Measuring, rows: &[Row]) -> Result<()> {
    let cpu = cpu_name();
    write_stdout(|out| {
        if measuring.json {
            let report = serde_json::json!({
                "job": title,
                "cpu": cpu,
                "rounds": measuring.rounds,
                "history_tweaks": HISTORY_TWEAKS,
                "rows": rows,
            });
            return writeln!(out, "{report}");
        }
        writeln!(
            out,
            "{title} on {cpu}, medians of {} rounds",
            measuring.rounds
        )?;
        writeln!(
            out,
            "{:<13} {:<13} {:>7} {:>6} {:>7} {:>6}  {:>12} {:>12} {:>6} {:>7}  {:>9}",
            "engine",
            "backend",
            "wallets",
            "labels",
            "threads",
            "stored",
            "µs per tweak",
            "tweaks/s",
            "ratio",
            "speedup",
            "history"
        )?;
        for row in rows {
            let history_minutes = HISTORY_TWEAKS / row.tweaks_per_s / 60.0;
            writeln!(
                out,
                "{:<13} {:<13} {:>7} {:>6} {:>7} {:>6}  {:>12.2} {:>12.0} {:>6.2} {:>7.2}  {history_minutes:>5.1} min",
                row.engine,
                row.backend,
                row.wallets,
                row.labels,
                row.threads,
                row.stored,
                row.us_per_tweak,
                row.tweaks_per_s,
                row.ratio,
                row.speedup
            )?;
        }
        writeln!(
            out,
            "µs per tweak: core time for one tweak and one wallet; ratio: to libsecp256k1 on one core in the same rounds;\n\
             speedup: tweaks/s to those of one thread in the same rounds, with as many tweaks for each thread;\n\
             history: mainnet's {HISTORY_TWEAKS} eligible transactions up to height {HISTORY_HEIGHT}"
        )
    })
}

/// What the operating system calls the processor.
fn cpu_name() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    name.map_or_else(
        || std::env::consts::ARCH.to_owned(),
        |(_, name)| name.trim().to_owned(),
    )
}

/// A pool of that many threads.
fn pool(threads: usize) -> Result<rayon::ThreadPool> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .context("cannot start threads")
}
