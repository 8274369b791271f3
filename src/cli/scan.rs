//! `spindex scan`: the light client.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use bitcoin::{Network, OutPoint};
use clap::Args;
use indicatif::ProgressBar;
use serde::Serialize;

use super::config::{self, CommonSettings, ServerSettings, usage};
use super::output::{progress_bar, write_stdout};
use super::server::block_on;
use super::transport::Transport;
use super::wallet::WalletSource;
use crate::client::{
    HttpSettings, LightSettings, NativeOracle, Progress, Reports, WalletsClient, WatchedState,
};
use crate::runtime::Stop;
use connect::{Asked, Connected, Dialect};
use witnesses::{OnDisagreement, Witnesses};

mod connect;
mod following;
mod members;
mod table;
mod witnesses;

#[derive(Args)]
pub(super) struct ScanArgs {
    #[command(flatten)]
    common: CommonSettings,
    /// Base address of a tweak server, with any path in front, or of exported files, or a folder or bucket with such files (may
    /// be repeated: the first one is scanned, and all are compared before and after, in the native protocol; what files lack
    /// is taken from the next one)
    #[arg(
        long,
        env = "SPINDEX_ORACLE",
        value_name = "URL|FOLDER",
        default_value = "http://127.0.0.1:8000"
    )]
    oracle: Vec<String>,
    /// If the servers disagree: stop, or scan one of more than half of them that tell the same
    #[arg(
        long,
        env = "SPINDEX_ON_DISAGREEMENT",
        value_enum,
        value_name = "WHAT",
        default_value_t
    )]
    on_disagreement: OnDisagreement,
    /// What the server is asked in: the native protocol, version 1 of BlindBit's HTTP interface, or whichever it speaks,
    /// native first [auto with --cut-through or --dust-limit: version 1, which has such lists]
    #[arg(
        long,
        env = "SPINDEX_DIALECT",
        value_enum,
        value_name = "NAME",
        default_value_t
    )]
    dialect: Dialect,
    /// Fetch what a match would need of every block, so that no request depends on what is the wallet's (native protocol)
    #[arg(long, env = "SPINDEX_PRIVATE")]
    private: bool,
    /// Server, or exported files, for the outputs and spends that a match needs, instead of what is scanned (native protocol;
    /// may be repeated: what files lack is taken from the next one)
    #[arg(long, env = "SPINDEX_FETCH_FROM", value_name = "URL|FOLDER")]
    fetch_from: Vec<String>,
    /// Ask for the txids of all spenders, by requests that name the block of a spend (native protocol, where they are known
    /// only if they carry a state id)
    #[arg(long, env = "SPINDEX_ASK_SPENDERS")]
    ask_spenders: bool,
    /// Ask whether watched outpoints are there of which neither a making nor a spend was seen, by requests that name them
    /// (native protocol; of the server of --fetch-from, if there is one). Without it their state is unknown
    #[arg(
        long,
        env = "SPINDEX_ASK_OUTPOINTS",
        conflicts_with_all = ["private", "follow"]
    )]
    ask_outpoints: bool,
    #[command(flatten)]
    wallet: WalletSource,
    /// Also look for who spends this taproot output, such as a process tip (may be repeated). Only those named in this
    /// call are followed and printed; of others the state keeps how far they were followed. Whether an output exists is
    /// not known without a spend: see --ask-outpoints
    #[arg(long, value_name = "TXID:VOUT")]
    outpoint: Vec<OutPoint>,
    /// File with such outpoints, one a line; `#` begins a comment
    #[arg(long, value_name = "FILE")]
    outpoints: Option<PathBuf>,
    /// Follow also all outpoints that earlier calls with this state have named
    #[arg(long)]
    watched: bool,
    /// Forget a watched outpoint (may be repeated); with nothing to scan for, that is all
    #[arg(long, value_name = "TXID:VOUT")]
    unwatch: Vec<OutPoint>,
    /// First height to scan [default: where an earlier scan began, else the server's first block since taproot]
    #[arg(long, value_name = "HEIGHT")]
    from: Option<u32>,
    /// Last height to scan [default: the server's tip]
    #[arg(long, value_name = "HEIGHT")]
    to: Option<u32>,
    /// Skip transactions whose largest taproot output is below this, in satoshi
    #[arg(
        long,
        env = "SPINDEX_DUST_LIMIT",
        value_name = "SAT",
        default_value_t = 0
    )]
    dust_limit: u64,
    /// Ask only for transactions that still have an unspent taproot output: quicker, but blind to what is spent
    #[arg(long, env = "SPINDEX_CUT_THROUGH")]
    cut_through: bool,
    /// Ask once more for everything that the server did not list when its block was scanned ("unresolved")
    #[arg(long)]
    ask_again: bool,
    /// Scan again from --from, or from where the scan began. Spends are looked for anew, outputs that were found stay
    #[arg(long)]
    rescan: bool,
    /// Blocks whose requests are under way at a time
    #[arg(
        long,
        env = "SPINDEX_CONCURRENCY",
        value_name = "N",
        default_value_t = 32,
        value_parser = clap::value_parser!(u16).range(1..=1000)
    )]
    concurrency: u16,
    #[command(flatten)]
    transport: Transport,
    /// File with progress and finds, no secrets, or a folder for one file per wallet, as it must be for several wallets
    /// [default: a file per wallet in the data directory]
    #[arg(long, env = "SPINDEX_STATE", value_name = "FILE|FOLDER")]
    state: Option<PathBuf>,
    /// Print only what has changed since the last scan: finds, spends, and what was reorganised away
    #[arg(long)]
    changes: bool,
    /// Stay, and print what has changed as it comes
    #[arg(long, conflicts_with = "to")]
    follow: bool,
    /// With --follow, how long to wait between two looks at the server, in seconds; one that speaks the native protocol tells of
    /// new blocks, and is looked at then too
    #[arg(
        long,
        env = "SPINDEX_FOLLOW_INTERVAL",
        value_name = "SECONDS",
        default_value_t = 10,
        value_parser = clap::value_parser!(u64).range(1..=86_400)
    )]
    follow_interval: u64,
    /// Print one JSON document, with --changes or --follow one a line for each change; with several wallets it has a list of
    /// them, and a line the wallet's name
    #[arg(long)]
    json: bool,
}

pub(super) fn scan(args: ScanArgs) -> Result<()> {
    let (mut common, _) = config::complete(args.common.clone(), ServerSettings::default())?;
    let files = args.wallet.files()?;
    if common.network.is_none() {
        common.network = files.network()?.map(config::NetworkName);
    }
    let network = common.network();
    let are_many = files.are_many();
    let wallets = args.wallet.wallets(files, network)?;
    let outpoints = watched_outpoints(&args)?;
    let is_about_state = args.watched || !args.unwatch.is_empty();
    if wallets.is_empty() && outpoints.is_empty() && !is_about_state {
        return Err(usage!(
            "nothing to scan for: name a wallet (--wallet FILE, --prompt, or SPINDEX_DESCRIPTOR, or SPINDEX_SCAN_KEY with \
             SPINDEX_SPEND_PUBKEY) or an outpoint (--outpoint)"
        ));
    }
    let members = members::open(&args, &common, wallets, are_many, outpoints)?;
    if members.is_empty() {
        return Ok(());
    }
    let settings = LightSettings {
        from: args.from,
        to: args.to,
        dust_limit_sat: args.dust_limit,
        cut_through: args.cut_through,
        ask_again: args.ask_again,
        private: args.private,
        ask_spenders: args.ask_spenders,
        rescan: args.rescan,
        concurrency: args.concurrency.into(),
        ..LightSettings::new(network)
    };
    let http = args.transport.settings();
    let (before, reports) = block_on(&common.compute, async {
        let stop = Stop::new();
        stop.on_signal()?;
        let mut witnesses = Witnesses::connect(&args.oracle, args.dialect, &http, network).await?;
        witnesses.compare(args.on_disagreement).await?;
        let oracle = connect(&args, &witnesses, http, network).await?;
        let engine = common.compute.engine()?;
        let teller = oracle.teller();
        let knows_outpoints = oracle.knows_outpoints();
        if args.ask_outpoints && knows_outpoints.is_none() {
            return Err(usage!(
                "--ask-outpoints is for the native protocol, which the server is not asked in"
            ));
        }
        let mut client = oracle.client(engine, members, settings)?;
        let before = client.known();
        let reports = tokio::select! {
            reports = async {
                let mut reports = scan_and_compare(&mut client, &witnesses, args.on_disagreement).await?;
                if let (true, Some(server)) = (args.ask_outpoints, &knows_outpoints) {
                    ask_outpoints(server, &mut reports).await;
                }
                anyhow::Ok(reports)
            } => reports?,
            () = stop.requested() => anyhow::bail!("stopped; the same command goes on from the last stored block"),
        };
        if args.follow {
            following::print_changes(&reports.since(&before), args.json)?;
            let interval = Duration::from_secs(args.follow_interval);
            let looks = following::Looks::new(interval, teller);
            tokio::select! {
                ended = following::follow(&mut client, reports.clone(), looks, args.json) => ended?,
                () = stop.requested() => (),
            }
        }
        Ok((before, reports))
    })?;
    if args.follow {
        Ok(())
    } else if args.changes {
        following::print_changes(&reports.since(&before), args.json)
    } else if args.json {
        write_stdout(|out| {
            match (are_many, reports.0.as_slice()) {
                (false, [of_one]) => serde_json::to_writer(&mut *out, of_one)?,
                _ => serde_json::to_writer(&mut *out, &Document { wallets: &reports })?,
            }
            writeln!(out)
        })
    } else {
        write_stdout(|out| table::print_reports(out, &reports))
    }
}

/// What is printed of several wallets.
#[derive(Serialize)]
struct Document<'a> {
    wallets: &'a Reports,
}

/// Runs a scan, and compares servers once more at the last block that was scanned.
async fn scan_and_compare(
    client: &mut WalletsClient,
    witnesses: &Witnesses,
    on_disagreement: OnDisagreement,
) -> Result<Reports> {
    let bar = progress_bar(0, "blocks");
    let reports = client.run(&mut show(&bar)).await;
    bar.finish_and_clear();
    let reports = reports?;
    if let Some(to) = reports.scanned_to() {
        witnesses.compare_again(to, on_disagreement).await?;
    }
    Ok(reports)
}

/// Asks whether outputs are there of which nothing was seen. What cannot be had stays unknown.
async fn ask_outpoints(server: &NativeOracle, reports: &mut Reports) {
    let watched = reports.0.iter_mut().flat_map(|of| &mut of.report.watched);
    for watched in watched.filter(|watched| watched.state == WatchedState::Unknown) {
        match server.outpoint(watched.outpoint).await {
            Ok(said) => said.iter().for_each(|said| watched.told(&said.state)),
            Err(error) => {
                tracing::warn!("{error}");
                return;
            }
        }
    }
}

/// Shows where a scan is.
pub(super) fn show(bar: &ProgressBar) -> impl FnMut(Progress) + Send {
    |progress: Progress| {
        bar.set_length(u64::from(progress.last - progress.first + 1));
        bar.set_position(u64::from(
            progress.done.map_or(0, |done| done - progress.first + 1),
        ));
        bar.set_message(format!(
            "{} found, {} spent",
            progress.found, progress.spends
        ));
    }
}

async fn connect(
    args: &ScanArgs,
    witnesses: &Witnesses,
    http: HttpSettings,
    network: Network,
) -> Result<Connected> {
    if !args.fetch_from.is_empty() && args.dialect == Dialect::V1 {
        return Err(usage!(
            "--fetch-from is for the native protocol, not for version 1"
        ));
    }
    let asked = Asked {
        dialect: args.dialect,
        partial: args.cut_through || args.dust_limit > 0,
        ask_spenders: args.ask_spenders,
        fetch_from: &args.fetch_from,
    };
    connect::connect(asked, witnesses, http, network).await
}

fn watched_outpoints(args: &ScanArgs) -> Result<Vec<OutPoint>> {
    let mut outpoints = args.outpoint.clone();
    let Some(path) = &args.outpoints else {
        return Ok(outpoints);
    };
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    for (number, line) in (1..).zip(text.lines()) {
        let entry = line.split('#').next().unwrap_or_default().trim();
        if !entry.is_empty() {
            let outpoint = entry.parse().map_err(|_| {
                anyhow::anyhow!("line {number} of {} is no TXID:VOUT", path.display())
            })?;
            outpoints.push(outpoint);
        }
    }
    Ok(outpoints)
}
