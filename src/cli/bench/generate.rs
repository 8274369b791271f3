//! `spindex bench generate`.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Result, bail};
use clap::Args;

use super::super::config::ComputeSettings;
use super::super::output::{progress_bar, write_stdout};
use super::pool;
use crate::chain::made::generated::{ChainLength, ChainParameters, Summary, Target, generate};

#[derive(Args)]
pub(super) struct GenerateArgs {
    #[command(flatten)]
    compute: ComputeSettings,
    /// Directory that gets blocks/blk00000.dat, blocks/rev00000.dat and so on
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Taproot outputs of eligible transactions to make; the block that reaches the number is the last
    #[arg(long, value_name = "N", required_unless_present = "blocks")]
    outputs: Option<u64>,
    /// Blocks to make above the genesis block, if there are not enough outputs before. The first 100 are empty
    #[arg(long, value_name = "N")]
    blocks: Option<u32>,
    /// Mean number of transactions in a block
    #[arg(long, value_name = "N", default_value_t = ChainParameters::MAINNET.transactions_per_block, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    transactions_per_block: u32,
    /// How many in a hundred transactions are to be eligible [default: 24.7, as on mainnet since taproot]
    #[arg(long, value_name = "PERCENT")]
    eligible_percent: Option<f64>,
    /// Everything follows from it: the same number makes the same bytes
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// XOR the files with a key, as Bitcoin Core does, and write it to blocks/xor.dat
    #[arg(long)]
    xor: bool,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

pub(super) fn bench_generate(args: GenerateArgs) -> Result<()> {
    let parameters = ChainParameters {
        seed: args.seed,
        transactions_per_block: args.transactions_per_block,
        eligible: args
            .eligible_percent
            .map_or(ChainParameters::MAINNET.eligible, |percent| percent / 100.0),
        ..ChainParameters::MAINNET
    };
    let length = ChainLength {
        blocks: args.blocks,
        outputs: args.outputs,
    };
    let target = Target {
        directory: args.out.join("blocks"),
        xor: args.xor,
        most_file_bytes: None,
    };
    let engine = args.compute.engine()?;
    let threads = args
        .compute
        .threads
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let (steps, unit) = match (args.outputs, args.blocks) {
        (Some(outputs), None) => (outputs, "outputs"),
        (_, blocks) => (u64::from(blocks.unwrap_or(0)), "blocks"),
    };
    let bar = progress_bar(steps, unit);
    let progress = |summary: &Summary| {
        bar.set_position(match unit {
            "outputs" => summary.counts.eligible_taproot_outputs.min(steps),
            _ => u64::from(summary.height),
        });
    };
    let started = Instant::now();
    let was_broken = engine.is_broken();
    let summary = pool(threads.max(1))?
        .install(|| generate(&parameters, length, &target, engine.as_ref(), progress))?;
    bar.finish_and_clear();
    // An engine that was broken before left everything to libsecp256k1.
    if !was_broken && !engine.confirm() {
        bail!(
            "the curve engine computed a wrong result: the files written may hold wrong keys, so remove them, and generate \
             them again"
        );
    }
    print(&summary, started.elapsed().as_secs_f64(), args.json)
}

fn print(summary: &Summary, seconds: f64, json: bool) -> Result<()> {
    let counts = &summary.counts;
    write_stdout(|out| {
        if json {
            let mut report = serde_json::to_value(summary)?;
            report["seconds"] = seconds.into();
            return writeln!(out, "{report}");
        }
        let per = |count: u64, of: u64| count as f64 / of.max(1) as f64;
        let blocks = u64::from(summary.height);
        writeln!(
            out,
            "{blocks} blocks above regtest's genesis block, up to {}",
            summary.tip
        )?;
        for (count, name, note) in [
            (
                counts.transactions,
                "transactions",
                format!("{:.0} a block", per(counts.transactions, blocks)),
            ),
            (
                counts.eligible_transactions,
                "eligible",
                format!(
                    "{:.1} % of transactions, {:.0} a block",
                    per(counts.eligible_transactions, counts.transactions) * 100.0,
                    per(counts.eligible_transactions, blocks)
                ),
            ),
            (
                counts.eligible_taproot_outputs,
                "taproot outputs of eligible transactions",
                format!(
                    "{:.2} each",
                    per(
                        counts.eligible_taproot_outputs,
                        counts.eligible_transactions
                    )
                ),
            ),
            (counts.taproot_outputs, "taproot outputs", String::new()),
            (
                counts.taproot_spends,
                "taproot outputs spent",
                format!(
                    "{:.0} % of them",
                    per(counts.taproot_spends, counts.taproot_outputs) * 100.0
                ),
            ),
            (
                summary.block_bytes,
                "bytes of blocks",
                format!("{:.2} MB a block", per(summary.block_bytes, blocks) / 1e6),
            ),
            (
                summary.undo_bytes,
                "bytes of undo data",
                format!("{:.3} MB a block", per(summary.undo_bytes, blocks) / 1e6),
            ),
            (
                summary.coins,
                "outputs left to spend",
                format!("in {:.0} MB of memory", summary.coin_bytes as f64 / 1e6),
            ),
        ] {
            writeln!(out, "{count:>14} {name:<41} {note}")?;
        }
        writeln!(
            out,
            "in {seconds:.1} s: {:.0} transactions, {:.0} taproot outputs, {:.1} MB a second",
            counts.transactions as f64 / seconds,
            counts.taproot_outputs as f64 / seconds,
            (summary.block_bytes + summary.undo_bytes) as f64 / 1e6 / seconds
        )
    })
}
