//! `spindex scan`: the light client.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use bitcoin::{Network, OutPoint};
use clap::Args;

use super::config::{self, CommonSettings, ServerSettings, usage};
use super::output::{progress_bar, write_stdout};
use super::server::block_on;
use super::wallet::WalletSource;
use crate::bip352::keys::ReceiverKeys;
use crate::client::{
    HttpSettings, Identity, LightClient, LightSettings, Oracle, ScanReport, Spend, State, WalletId,
};
use crate::curve::Engine;
use crate::runtime::Stop;
use crate::scan::Scanner;
use connect::{Connected, Dialect};
use witnesses::{OnDisagreement, Witnesses};

mod connect;
mod following;
mod witnesses;

#[derive(Args)]
pub(super) struct ScanArgs {
    #[command(flatten)]
    common: CommonSettings,
    /// Base address of a tweak server, with any path in front (may be repeated: the first one is scanned, and all are
    /// compared before and after, in the native protocol)
    #[arg(
        long,
        env = "SPINDEX_ORACLE",
        value_name = "URL",
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
    /// Server that is asked for the outputs and spends that a match needs, instead of the one that is scanned (native
    /// protocol)
    #[arg(long, env = "SPINDEX_FETCH_FROM", value_name = "URL")]
    fetch_from: Option<String>,
    /// Ask for the txids of all spenders, by requests that name the block of a spend (native protocol, where they are known
    /// only if they carry a state id)
    #[arg(long, env = "SPINDEX_ASK_SPENDERS")]
    ask_spenders: bool,
    #[command(flatten)]
    wallet: WalletSource,
    /// Also look for who spends this taproot output, such as a process tip (may be repeated). Only those named in this
    /// call are followed and printed; of others the state keeps how far they were followed. A server cannot tell
    /// whether an output exists
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
    /// Proxy such as socks5://127.0.0.1:9050; it resolves the server's name too. Without one the environment's
    /// (http_proxy, ...) is used, but not for a server on this machine
    #[arg(
        long,
        env = "SPINDEX_PROXY",
        value_name = "URL",
        hide_env_values = true
    )]
    proxy: Option<String>,
    /// How long to wait for an answer, in seconds
    #[arg(
        long,
        env = "SPINDEX_TIMEOUT",
        value_name = "SECONDS",
        default_value_t = 30,
        value_parser = clap::value_parser!(u64).range(1..=86_400)
    )]
    timeout: u64,
    /// File with progress and finds, no secrets [default: a file per wallet in the data directory]
    #[arg(long, env = "SPINDEX_STATE", value_name = "FILE")]
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
    /// Print one JSON document, with --changes or --follow one a line for each change
    #[arg(long)]
    json: bool,
}

pub(super) fn scan(args: ScanArgs) -> Result<()> {
    let (mut common, _) = config::complete(args.common.clone(), ServerSettings::default())?;
    if common.network.is_none() {
        common.network = args.wallet.network()?.map(config::NetworkName);
    }
    let network = common.network();
    let keys = args.wallet.keys(network)?;
    let mut watched = watched_outpoints(&args)?;
    let is_about_state = args.watched || !args.unwatch.is_empty();
    if keys.is_none() && watched.is_empty() && !is_about_state {
        return Err(usage!(
            "nothing to scan for: name a wallet (--wallet FILE, --prompt, or SPINDEX_DESCRIPTOR, or SPINDEX_SCAN_KEY with \
             SPINDEX_SPEND_PUBKEY) or an outpoint (--outpoint)"
        ));
    }
    let mut state = open_state(&args, &common, keys.as_ref())?;
    state.unwatch(&args.unwatch)?;
    if args.watched {
        watched.extend(state.watched());
    }
    if keys.is_none() && watched.is_empty() {
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
    let http = HttpSettings {
        timeout: Duration::from_secs(args.timeout),
        proxy: args.proxy.clone(),
        ..HttpSettings::default()
    };
    let (before, report) = block_on(&common.compute, async {
        let stop = Stop::new();
        stop.on_signal()?;
        let mut witnesses = Witnesses::connect(&args.oracle, &http, network)?;
        witnesses.compare(args.on_disagreement).await?;
        let oracle = connect(&args, witnesses.first(&args.oracle), http, network).await?;
        let engine = common.compute.engine()?;
        let teller = oracle.teller();
        let mut client = oracle.client(engine, keys, watched, state, settings)?;
        let before = client.known();
        let report = tokio::select! {
            report = scan_and_compare(&mut client, &witnesses, args.on_disagreement) => report?,
            () = stop.requested() => anyhow::bail!("stopped; the same command goes on from the last stored block"),
        };
        if args.follow {
            following::print_changes(&report.since(&before), args.json)?;
            let interval = Duration::from_secs(args.follow_interval);
            let looks = following::Looks::new(interval, teller);
            tokio::select! {
                ended = following::follow(&mut client, report.clone(), looks, args.json) => ended?,
                () = stop.requested() => (),
            }
        }
        Ok((before, report))
    })?;
    if args.follow {
        Ok(())
    } else if args.changes {
        following::print_changes(&report.since(&before), args.json)
    } else if args.json {
        write_stdout(|out| {
            serde_json::to_writer(&mut *out, &report)?;
            writeln!(out)
        })
    } else {
        write_stdout(|out| print_report(out, &report))
    }
}

/// Runs a scan, and compares servers once more at the last block that was scanned.
async fn scan_and_compare(
    client: &mut LightClient,
    witnesses: &Witnesses,
    on_disagreement: OnDisagreement,
) -> Result<ScanReport> {
    let report = run_with_progress(client).await?;
    if let Some(to) = report.scanned_to {
        witnesses.compare_again(to, on_disagreement).await?;
    }
    Ok(report)
}

async fn connect(
    args: &ScanArgs,
    oracle: &str,
    http: HttpSettings,
    network: Network,
) -> Result<Connected> {
    if let (Some(_), Dialect::V1) = (&args.fetch_from, args.dialect) {
        return Err(usage!(
            "--fetch-from is for the native protocol, not for version 1"
        ));
    }
    let dialect = match args.dialect {
        Dialect::Auto if args.cut_through || args.dust_limit > 0 => Dialect::V1,
        dialect => dialect,
    };
    let follow_ups = args.fetch_from.as_deref();
    connect::connect(dialect, oracle, follow_ups, http, network).await
}

/// A client over any oracle.
pub(super) fn light_client(
    engine: Arc<dyn Engine>,
    oracle: Arc<dyn Oracle>,
    keys: Option<ReceiverKeys>,
    watched: Vec<OutPoint>,
    state: State,
    settings: LightSettings,
) -> Result<LightClient> {
    let scanner = keys.map(|keys| Scanner::new(engine, keys)).transpose()?;
    Ok(LightClient::new(oracle, scanner, watched, state, settings)?)
}

/// Runs a scan under a progress bar.
pub(super) async fn run_with_progress(client: &mut LightClient) -> Result<ScanReport> {
    let bar = progress_bar(0, "blocks");
    let report = client
        .run(&mut |progress| {
            bar.set_length(u64::from(progress.last - progress.first + 1));
            bar.set_position(u64::from(
                progress.done.map_or(0, |done| done - progress.first + 1),
            ));
            bar.set_message(format!(
                "{} found, {} spent",
                progress.found, progress.spends
            ));
        })
        .await;
    bar.finish_and_clear();
    Ok(report?)
}

fn open_state(
    args: &ScanArgs,
    common: &CommonSettings,
    keys: Option<&ReceiverKeys>,
) -> Result<State> {
    let identity = Identity {
        network: common.network(),
        wallet: keys.map(WalletId::of),
    };
    let path = match &args.state {
        Some(path) => path.clone(),
        None => common.network_dir()?.join(match identity.wallet {
            Some(wallet) => format!("scan-{:.16}.redb", wallet.to_string()),
            None => "scan-outpoints.redb".to_owned(),
        }),
    };
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
    }
    Ok(State::open(&path, identity)?)
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

/// The report as tables.
pub(super) fn print_report(
    out: &mut dyn std::io::Write,
    report: &ScanReport,
) -> std::io::Result<()> {
    if !report.found.is_empty() {
        writeln!(
            out,
            "{:>8}  {:>14}  {:<8}  {:<70}  spent",
            "height", "sat", "label", "output"
        )?;
        for found in &report.found {
            let label = found.label.map_or_else(String::new, |m| match m {
                0 => "change".to_owned(),
                m => m.to_string(),
            });
            let spent = found
                .spent
                .as_ref()
                .map_or_else(|| "no".to_owned(), spend_text);
            writeln!(
                out,
                "{:>8}  {:>14}  {label:<8}  {:<70}  {spent}",
                found.height,
                found.value_sat,
                found.outpoint.to_string()
            )?;
        }
    }
    for watched in &report.watched {
        // Whether the output exists is not known, so it is not said to be unspent.
        let spent = watched.spend.as_ref().map_or_else(
            || match watched.to {
                Some(to) => format!("no spend in blocks {} to {to}", watched.from),
                None => "no block scanned".to_owned(),
            },
            |spend| format!("spent {}", spend_text(spend)),
        );
        writeln!(out, "{}  {spent}", watched.outpoint)?;
    }
    print_unresolved(out, report)?;
    if let Some(to) = report.spends_known_to {
        writeln!(
            out,
            "spends of outputs that were found late were looked for up to {to} alone: a scan without --to goes on"
        )?;
    }
    let unspent = report
        .found
        .iter()
        .filter(|found| found.spent.is_none())
        .count();
    let reached = match report.scanned_to {
        Some(to) if report.oracle_height < to => format!(
            "scanned {} to {to}, beyond the server's last block {}",
            report.from, report.oracle_height
        ),
        Some(to) => format!("scanned {} to {to}", report.from),
        None => "no block to scan".to_owned(),
    };
    writeln!(
        out,
        "{reached} ({}): {} found, {unspent} unspent, {} sat",
        network_name(report.network),
        report.found.len(),
        report.unspent_sat
    )
}

/// Heights named in a line at most.
const HEIGHTS_NAMED: usize = 20;

/// What the scan cannot know, if there is anything.
fn print_unresolved(out: &mut dyn std::io::Write, report: &ScanReport) -> std::io::Result<()> {
    if !report.unresolved.is_empty() {
        let matches: u64 = report
            .unresolved
            .iter()
            .map(|block| u64::from(block.matches))
            .sum();
        let named = report.unresolved.iter().take(HEIGHTS_NAMED);
        let mut heights: Vec<String> = named.map(|block| block.height.to_string()).collect();
        if let Some(more @ 1..) = report.unresolved.len().checked_sub(HEIGHTS_NAMED) {
            heights.push(format!("{more} more"));
        }
        writeln!(
            out,
            "{matches} unresolved, at {}: the filters there match, and the server no longer lists the outputs. They are \
             spent, or it is chance; after a reorganisation, or with --ask-again, it is asked again",
            heights.join(", ")
        )?;
    }
    if let Some(below) = report.unresolved_unknown_below {
        writeln!(
            out,
            "what was unresolved below {below} is unknown, since an older program scanned there: --rescan tells"
        )?;
    }
    Ok(())
}

fn spend_text(spend: &Spend) -> String {
    use bitcoin::hex::DisplayHex;
    let mut text = format!("at {}", spend.height);
    if let Some(txid) = spend.spending_txid {
        text.push_str(&format!(" by {txid}"));
    }
    for state_id in &spend.op_return {
        text.push_str(&format!(", state id {}", state_id.as_hex()));
    }
    text
}

fn network_name(network: Network) -> &'static str {
    network.to_core_arg()
}

#[cfg(test)]
mod tests {
    use bitcoin::BlockHash;
    use bitcoin::hashes::Hash;

    use super::*;
    use crate::client::Unresolved;

    fn table(unresolved: &[(u32, u32)], unknown_below: Option<u32>) -> Vec<String> {
        let unresolved = unresolved.iter().map(|(height, matches)| Unresolved {
            height: *height,
            block_hash: BlockHash::all_zeros(),
            matches: *matches,
        });
        let report = ScanReport {
            network: Network::Regtest,
            from: 1,
            scanned_to: Some(200),
            oracle_height: 200,
            reorganised_above: None,
            unspent_sat: 0,
            found: Vec::new(),
            spends_known_to: None,
            watched: Vec::new(),
            unresolved: unresolved.collect(),
            head: None,
            unresolved_unknown_below: unknown_below,
        };
        let mut out = Vec::new();
        print_report(&mut out, &report).expect("memory");
        let text = String::from_utf8(out).expect("text");
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn one_line_says_what_is_unresolved_and_where() {
        assert_eq!(table(&[], None).len(), 1, "nothing but the sum");
        let lines = table(&[(101, 1), (105, 2), (230, 1)], None);
        assert_eq!(lines.len(), 2);
        let line = &lines[0];
        assert!(
            line.starts_with("4 unresolved, at 101, 105, 230: "),
            "{line}"
        );
        assert!(line.contains("no longer lists") && line.contains("--ask-again"));

        let many: Vec<(u32, u32)> = (0..1000).map(|height| (height, 1)).collect();
        let line = &table(&many, None)[0];
        assert!(line.starts_with("1000 unresolved, at 0, 1, 2, "), "{line}");
        assert!(line.contains(", 19, 980 more: "), "{line}");
        assert_eq!(table(&many[..20], None)[0].matches("more").count(), 0);
    }

    #[test]
    fn a_state_of_an_older_program_says_what_it_cannot_know() {
        let lines = table(&[], Some(150));
        assert_eq!(lines.len(), 2);
        assert!(lines[0].contains("below 150") && lines[0].contains("--rescan"));
    }
}
