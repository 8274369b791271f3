//! `spindex watch verify`: is what servers say of a process what the blocks say?

use std::io::Write;

use anyhow::{Result, bail};
use bitcoin::hex::DisplayHex;
use bitcoin::{BlockHash, OutPoint, Txid};
use clap::Args;
use serde::Serialize;

use super::asked::servers;
use crate::cli::config::{ComputeSettings, usage};
use crate::cli::output::write_stdout;
use crate::cli::server::block_on;
use crate::cli::token_source::TokenSource;
use crate::cli::transport::Transport;
use crate::client::NativeOracle;
use crate::client::watching::{
    Audit, AuditedStep, Claims, WatchServer, audit, compare, logged, told, watch_of,
};
use crate::process::{End, Rule};
use crate::wire::native::Follow;

/// Audits of one server, where its chain changes while it is asked.
const TRIES: u32 = 3;

#[derive(Args)]
pub(super) struct VerifyArgs {
    /// The first outpoint of the process
    #[arg(value_name = "TXID:VOUT")]
    outpoint: OutPoint,
    /// Base address of a server (may be repeated: each is audited, and what one proves must not be missing in another)
    #[arg(
        long,
        env = "SPINDEX_ORACLE",
        value_name = "URL",
        default_value = "http://127.0.0.1:8000"
    )]
    oracle: Vec<String>,
    #[command(flatten)]
    transport: Transport,
    /// Audit what the servers' logs say of the caller's watch of this process, instead of what they tell everybody: so also tips that are
    /// not taproot, and processes by another rule
    #[arg(long)]
    from_log: bool,
    #[command(flatten)]
    token: TokenSource,
    /// Print a JSON object a line: the steps of each server, what could not be verified, what is wrong, and a summary
    #[arg(long)]
    json: bool,
}

pub(super) fn verify(args: VerifyArgs) -> Result<()> {
    let VerifyArgs {
        outpoint,
        oracle,
        transport,
        from_log,
        token,
        json,
    } = args;
    // A token is of one server, and no other is to see it.
    if from_log && oracle.len() > 1 {
        return Err(usage!(
            "--from-log is about the watches of one server: name one --oracle"
        ));
    }
    let token = if from_log { token.token()? } else { None };
    let audits = block_on(&ComputeSettings::default(), async {
        let servers = servers(&transport, &oracle, token).await?;
        let mut audits = Vec::with_capacity(servers.len());
        for (http, server) in &servers {
            let watching = from_log.then(|| WatchServer::new(http.clone()));
            let audit = audited(server, watching.as_ref(), outpoint).await?;
            audits.push((server.as_ref(), audit));
        }
        compare(&mut audits).await?;
        let named = audits.into_iter();
        let named = named.map(|(server, audit)| (server.describe(), audit));
        anyhow::Ok(named.collect::<Vec<_>>())
    })?;
    write_stdout(|out| {
        for (server, audit) in &audits {
            match json {
                true => print_json(out, server, audit)?,
                false => print(out, server, audit)?,
            }
        }
        Ok(())
    })?;
    match audits.iter().map(|(_, audit)| audit.wrong.len()).sum() {
        0_usize => Ok(()),
        1 => bail!("the process of {outpoint} is not what it is said to be: one thing is wrong"),
        count => bail!(
            "the process of {outpoint} is not what it is said to be: {count} things are wrong"
        ),
    }
}

/// The audit of a server. Where something is wrong and its chain has changed meanwhile, it is asked anew.
async fn audited(
    server: &NativeOracle,
    watching: Option<&WatchServer>,
    outpoint: OutPoint,
) -> Result<Audit> {
    let mut tries = 1..TRIES;
    loop {
        let claimed = match watching {
            Some(watching) => of_log(watching, outpoint).await?,
            None => match told(server, outpoint).await? {
                Some(claims) => Ok((Rule::default(), claims)),
                None => Err("the server keeps nothing of processes"),
            },
        };
        let audit = match claimed {
            Ok((rule, claims)) => audit(server, outpoint, rule, claims).await?,
            Err(why) => {
                return Ok(Audit {
                    unverified: vec![why.to_owned()],
                    ..Audit::default()
                });
            }
        };
        let is_same = audit.is_right() || audit.chain_tip == Some(server.info().await?.tip);
        if is_same || tries.next().is_none() {
            return Ok(audit);
        }
    }
}

/// What a log says of the caller's watch, and by which rule; or why it says nothing.
async fn of_log(
    server: &WatchServer,
    outpoint: OutPoint,
) -> Result<std::result::Result<(Rule, Claims), &'static str>> {
    let Some(watch) = watch_of(server, &outpoint).await? else {
        return Ok(Err("there is no watch of this process, of this caller"));
    };
    let rule = match watch.follow {
        Follow::Process(rule) => rule,
        Follow::Outpoint => Rule::default(),
    };
    let claims = logged(server, &watch).await?;
    let gone = "the log does not go back to the first step any more";
    Ok(claims.map(|claims| (rule, claims)).ok_or(gone))
}

const fn word(end: End) -> &'static str {
    match end {
        End::NoState => "no_state",
        End::EndState => "end_state",
        End::NoSuccessor => "no_successor",
    }
}

#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Line<'a> {
    Step {
        server: &'a str,
        number: usize,
        height: u32,
        block_hash: BlockHash,
        transaction: u32,
        input: u32,
        spent: OutPoint,
        txid: Option<Txid>,
        vout: Option<u32>,
        state_id: Option<String>,
        next_tip: Option<OutPoint>,
        end: Option<&'static str>,
        proven: bool,
    },
    Unverified {
        server: &'a str,
        what: &'a str,
    },
    Wrong {
        server: &'a str,
        what: &'a str,
    },
    Audited {
        server: &'a str,
        ok: bool,
        steps: usize,
        proven: usize,
        tip: Option<OutPoint>,
        headers: u32,
        height: Option<u32>,
        block_hash: Option<BlockHash>,
    },
}

fn step<'a>(server: &'a str, number: usize, step: &AuditedStep) -> Line<'a> {
    let AuditedStep { claim, proven } = step;
    let said = &claim.spend;
    Line::Step {
        server,
        number,
        height: claim.block.height,
        block_hash: claim.block.hash,
        transaction: claim.transaction,
        input: said.input,
        spent: claim.spent,
        txid: said.txid,
        vout: said.state.map(|state| state.vout),
        state_id: said.state.map(|state| state.id.to_lower_hex_string()),
        next_tip: said.next,
        end: proven.and_then(|proven| proven.end).map(word),
        proven: proven.is_some(),
    }
}

fn print_json(out: &mut dyn Write, server: &str, audit: &Audit) -> std::io::Result<()> {
    let mut line = |line: Line<'_>| {
        serde_json::to_writer(&mut *out, &line)?;
        writeln!(out)
    };
    for (number, of) in (1..).zip(&audit.steps) {
        line(step(server, number, of))?;
    }
    for what in &audit.unverified {
        line(Line::Unverified { server, what })?;
    }
    for what in &audit.wrong {
        line(Line::Wrong { server, what })?;
    }
    line(Line::Audited {
        server,
        ok: audit.is_right(),
        steps: audit.steps.len(),
        proven: audit.proven().count(),
        tip: audit.tip,
        headers: audit.headers,
        height: audit.chain_tip.map(|tip| tip.height),
        block_hash: audit.chain_tip.map(|tip| tip.hash),
    })
}

fn print(out: &mut dyn Write, server: &str, audit: &Audit) -> std::io::Result<()> {
    let (steps, proven) = (audit.steps.len(), audit.proven().count());
    write!(out, "{server}: {proven} of {steps} steps proven")?;
    match audit.chain_tip {
        Some(tip) if audit.headers > 0 => {
            writeln!(out, ", {} headers up to block {tip}", audit.headers)?;
        }
        _ => writeln!(out)?,
    }
    for (number, step) in (1..).zip(&audit.steps) {
        let AuditedStep { claim, proven } = step;
        let state = claim
            .spend
            .state
            .map(|state| state.id.to_lower_hex_string());
        let state = state.unwrap_or_else(|| "no state id".to_owned());
        let height = claim.block.height;
        let txid = claim
            .spend
            .txid
            .map_or("-".to_owned(), |txid| txid.to_string());
        write!(out, "{number:>6}  {height:>8}  {txid}  {state}")?;
        match proven {
            None => writeln!(out, "  not proven")?,
            Some(proven) => match proven.end {
                Some(end) => writeln!(out, "  {}", word(end))?,
                None => writeln!(out)?,
            },
        }
    }
    match audit.tip {
        Some(tip) => writeln!(out, "tip: {tip}")?,
        None => writeln!(out, "tip: none")?,
    }
    for what in &audit.unverified {
        writeln!(out, "not verified: {what}")?;
    }
    for what in &audit.wrong {
        writeln!(out, "wrong: {what}")?;
    }
    Ok(())
}
