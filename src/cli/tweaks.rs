//! `spindex tweaks`: one block's tweaks from two files, without a node.

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use bitcoin::hex::DisplayHex;
use clap::Args;

use super::config::ComputeSettings;
use super::output::write_stdout;
use crate::chain::BlockWithPrevouts;
use crate::chain::parse::block_from_rest_bytes;
use crate::curve::TweakPoint;
use crate::index::derive_records;
use crate::store::TweakForm;

/// Far above any block with its spent outputs; what a compressed file unpacks to ends there.
const LARGEST_FILE_BYTES: u64 = 1 << 30;

#[derive(Args)]
pub(super) struct TweaksArgs {
    #[command(flatten)]
    compute: ComputeSettings,
    /// Answer of Bitcoin Core's /rest/block/HASH.bin, plain or .zst
    #[arg(long, value_name = "FILE")]
    block: PathBuf,
    /// Answer of Bitcoin Core's /rest/spenttxouts/HASH.bin, plain or .zst
    #[arg(long, value_name = "FILE")]
    spent: PathBuf,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
}

pub(super) fn tweaks(args: TweaksArgs) -> Result<()> {
    let block = read_block(&args.block, &args.spent)?;
    let records = derive_records(
        args.compute.engine()?.as_ref(),
        std::slice::from_ref(&block),
        TweakForm::Point,
    );
    write_stdout(|out| {
        for transaction in records.iter().flat_map(|record| &record.transactions) {
            let tweak = TweakPoint::from_bytes(transaction.tweak).to_compressed();
            if args.json {
                let tweak = tweak.to_lower_hex_string();
                writeln!(
                    out,
                    "{}",
                    serde_json::json!({"txid": transaction.txid, "tweak": tweak})
                )?;
            } else {
                writeln!(out, "{} {}", transaction.txid, tweak.as_hex())?;
            }
        }
        Ok(())
    })
}

/// A block from two files.
///
/// # Errors
/// A file that cannot be read, or files that do not hold a block and its spent outputs.
pub(super) fn read_block(block: &Path, spent: &Path) -> Result<BlockWithPrevouts> {
    let (block_bytes, spent_bytes) = (read_file(block)?, read_file(spent)?);
    block_from_rest_bytes(None, &block_bytes, &spent_bytes).with_context(|| {
        format!(
            "{} and {} do not hold a block",
            block.display(),
            spent.display()
        )
    })
}

fn read_file(path: &Path) -> Result<Vec<u8>> {
    let file =
        std::fs::File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut bytes = Vec::new();
    let read = if path.extension().is_some_and(|extension| extension == "zst") {
        zstd::Decoder::new(file)?
            .take(LARGEST_FILE_BYTES + 1)
            .read_to_end(&mut bytes)
    } else {
        file.take(LARGEST_FILE_BYTES + 1).read_to_end(&mut bytes)
    };
    read.with_context(|| format!("cannot read {}", path.display()))?;
    if bytes.len() as u64 > LARGEST_FILE_BYTES {
        bail!(
            "{} holds more than {LARGEST_FILE_BYTES} bytes, which no block does",
            path.display()
        );
    }
    Ok(bytes)
}
