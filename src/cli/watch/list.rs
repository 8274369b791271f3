//! `spindex watch list` and `remove`.

use std::io::Write;

use anyhow::{Result, bail};
use clap::Args;
use serde_json::json;

use super::asked::OneServer;
use crate::cli::config::ComputeSettings;
use crate::cli::output::write_stdout;
use crate::cli::server::block_on;
use crate::wire::native::{REGISTRATIONS_MAX, Watch};

#[derive(Args)]
pub(super) struct ListArgs {
    #[command(flatten)]
    server: OneServer,
    /// Print a JSON object a line for each
    #[arg(long)]
    json: bool,
}

pub(super) fn list(args: ListArgs) -> Result<()> {
    let server = args.server.connect()?;
    block_on(&ComputeSettings::default(), async {
        let mut from = Some(0);
        while let Some(first) = from {
            let page = server.watches(first).await?;
            write_stdout(|out| {
                let mut watches = page.watches.iter();
                watches.try_for_each(|watch| print(out, watch, args.json))
            })?;
            from = page.next;
        }
        Ok(())
    })
}

fn print(out: &mut dyn Write, watch: &Watch, json: bool) -> std::io::Result<()> {
    if json {
        out.write_all(&watch.encode().map_err(std::io::Error::other)?)?;
        return writeln!(out);
    }
    let (number, steps, tag) = (watch.watch, watch.steps, &watch.tag);
    let word = match (watch.is_over, watch.unknown_below) {
        (true, _) => "over".to_owned(),
        (false, Some(height)) => format!("waits, unknown below {height}"),
        (false, None) => "waits".to_owned(),
    };
    let (start, tip) = (watch.outpoint, watch.tip);
    writeln!(
        out,
        "{number}  {start}  {steps} steps  {tip}  {word}  {tag}"
    )
}

#[derive(Args)]
pub(super) struct RemoveArgs {
    #[command(flatten)]
    server: OneServer,
    /// Number of the watch (may be repeated)
    #[arg(value_name = "NUMBER", required = true)]
    watch: Vec<u64>,
    /// Print a JSON object a line for each
    #[arg(long)]
    json: bool,
}

pub(super) fn remove(args: RemoveArgs) -> Result<()> {
    let server = args.server.connect()?;
    let mut missing: Vec<u64> = Vec::new();
    block_on(&ComputeSettings::default(), async {
        for batch in args.watch.chunks(REGISTRATIONS_MAX) {
            let removed = server.remove(batch).await?;
            let was_there = |watch: &u64| removed.contains(watch);
            write_stdout(|out| {
                for watch in batch {
                    let removed = was_there(watch);
                    match args.json {
                        true => writeln!(out, "{}", json!({"watch": watch, "removed": removed}))?,
                        false if removed => writeln!(out, "{watch}  removed")?,
                        false => writeln!(out, "{watch}  not there")?,
                    }
                }
                Ok(())
            })?;
            missing.extend(batch.iter().copied().filter(|watch| !was_there(watch)));
        }
        anyhow::Ok(())
    })?;
    match missing.as_slice() {
        [] => Ok(()),
        [one] => bail!("there is no watch {one}"),
        several => bail!("{} of the watches are not there", several.len()),
    }
}
