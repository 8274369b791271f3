//! `spindex watch`: processes and outpoints as a relay follows them, through a server.

mod asked;
mod follow;
mod list;
mod register;
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
    /// Register outpoints: the tips of processes, or single ones
    Add(register::AddArgs),
    /// Register the outpoints of a list, in batches, each as a whole or not at all; the same list may be imported again
    Import(register::ImportArgs),
    /// List what is registered, and where it is
    List(list::ListArgs),
    /// Remove watches. Exit status 1 if one of them is not there
    Remove(list::RemoveArgs),
    /// Print what happens to the watches, from where the call before ended; nothing is missed, and after a crash an event may come
    /// twice, with the same cursor
    Follow(follow::FollowArgs),
    /// Audit a process from its first outpoint on: every step by a proof from the blocks, and what no proof shows by several
    /// servers. Exit status 1 if anything is wrong
    Verify(verify::VerifyArgs),
}

pub(super) fn watch(args: WatchArgs) -> Result<()> {
    match args.command {
        WatchCommand::Add(args) => register::add(args),
        WatchCommand::Import(args) => register::import(args),
        WatchCommand::List(args) => list::list(args),
        WatchCommand::Remove(args) => list::remove(args),
        WatchCommand::Follow(args) => follow::follow(args),
        WatchCommand::Verify(args) => verify::verify(args),
    }
}
