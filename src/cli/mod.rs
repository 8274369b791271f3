//! Commands and configuration: the only place that reads arguments, environment and settings files, and prints.

mod bench;
mod check;
mod compaction;
mod config;
mod core_dumps;
mod demo;
mod engine;
mod export;
mod oracle;
mod output;
mod scan;
mod server;
mod sources;
mod token;
mod token_source;
mod transport;
mod tweaks;
mod upstream;
mod wallet;
mod watch;
mod watching;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub use config::{NetworkName, UsageError};

/// Silent Payments (BIP352) index, server and light client.
///
/// Exit status: 0 done, 1 failed, 2 wrong usage.
#[derive(Parser)]
#[command(version, max_term_width = 110)]
struct Cli {
    /// What to log to stderr: error, warn, info, debug, trace or off; or other levels for modules, such as
    /// "spindex::index=debug", beside info for the rest
    #[arg(
        long,
        env = "SPINDEX_LOG",
        default_value = "info",
        global = true,
        value_name = "LEVEL"
    )]
    log: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Sync, follow the node's tip, and serve
    Run(server::RunArgs),
    /// Index up to the node's tip and exit
    Sync(server::SyncArgs),
    /// Serve an existing index without following a node
    Serve(server::ServeArgs),
    /// Light client: find a wallet's outputs and spends through an oracle
    Scan(scan::ScanArgs),
    /// Create a test wallet, print its addresses, import a descriptor
    Wallet(wallet::WalletArgs),
    /// Everything on a simulated regtest chain, in one process, with nothing installed
    Demo(demo::DemoArgs),
    /// Measure this machine and print a table
    Bench(bench::BenchArgs),
    /// Write the index as files, to a folder or an object store, for any server of files to serve
    Export(export::ExportArgs),
    /// Check the index: against itself, the node, another server; and repair it
    Check(check::CheckArgs),
    /// Watch outpoints and processes through a server: register, list, follow, audit
    Watch(watch::WatchArgs),
    /// Make, list and revoke tokens of those who may watch
    Token(token::TokenArgs),
    /// Print `txid tweak` for each eligible transaction of one block
    Tweaks(tweaks::TweaksArgs),
}

impl Command {
    /// Whether it reads keys or the node's password.
    fn holds_secrets(&self) -> bool {
        match self {
            Self::Run(_)
            | Self::Sync(_)
            | Self::Serve(_)
            | Self::Scan(_)
            | Self::Wallet(_)
            | Self::Export(_)
            | Self::Check(_)
            | Self::Token(_)
            | Self::Watch(_) => true,
            // The demo's keys follow from its seed.
            Self::Demo(_) | Self::Bench(_) | Self::Tweaks(_) => false,
        }
    }
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    if cli.command.holds_secrets() {
        core_dumps::refuse();
    }
    let result = output::start_log(&cli.log).and_then(|()| match cli.command {
        Command::Run(args) => server::run(args),
        Command::Sync(args) => server::sync(args),
        Command::Serve(args) => server::serve(args),
        Command::Scan(args) => scan::scan(args),
        Command::Wallet(args) => wallet::wallet(args),
        Command::Demo(args) => demo::demo(args),
        Command::Bench(args) => bench::bench(args),
        Command::Export(args) => export::export(args),
        Command::Check(args) => check::check(args),
        Command::Token(args) => token::token(args),
        Command::Tweaks(args) => tweaks::tweaks(args),
        Command::Watch(args) => watch::watch(args),
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::print_error(&error);
            ExitCode::from(if error.is::<UsageError>() { 2 } else { 1 })
        }
    }
}

#[cfg(test)]
mod tests;
