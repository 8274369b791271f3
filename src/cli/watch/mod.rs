//! `spindex watch`: processes and outpoints as a relay follows them, through a server.

mod asked;
mod verify;

use anyhow::Result;
use clap::{Args, Subcommand};

#[derive(Args)]
pub(super) struct WatchArgs {
    #[command(subcommand)]
    command: WatchCommand,
}

#[derive(Subcommand)]
enum WatchCommand {
    /// Audit a process from its first outpoint on: every step by a proof from the blocks, and what no proof shows by several
    /// servers. Exit status 1 if anything is wrong
    Verify(verify::VerifyArgs),
}

pub(super) fn watch(args: WatchArgs) -> Result<()> {
    match args.command {
        WatchCommand::Verify(args) => verify::verify(args),
    }
}
