//! `spindex check`: is the index what it should be?

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, anyhow};
use bitcoin::BlockHash;
use bitcoin::hex::DisplayHex;
use clap::Args;
use secp256k1::rand;
use serde::Serialize;

use super::config::{self, CommonSettings, ServerSettings};
use super::output::{SyncProgress, progress_bar, write_stdout};
use super::server::{block_on, index_file, index_settings, node};
use crate::chain::{BlockSource, ChainError};
use crate::client::compare::{CompareError, Comparison, compare};
use crate::client::{HttpOracle, HttpSettings, Oracle};
use crate::index::IndexError;
use crate::index::check::{Finding, Repair, Repaired, check_against_source, check_self, repair};
use crate::runtime::Stop;
use crate::store::{Counts, Snapshot, Space, Store, StoreError, StoreOptions};

/// How long a repair waits for a node that does not answer.
const WAIT: Duration = Duration::from_secs(60);
/// Most findings that are printed; a JSON document has all that are kept.
const PRINTED_MAX: usize = 20;

#[derive(Args)]
pub(super) struct CheckArgs {
    #[command(flatten)]
    common: CommonSettings,
    #[command(flatten)]
    server: ServerSettings,
    /// How many blocks, drawn at random, to compare with the node and with --against, beside the tip; 0 asks no node
    #[arg(long, value_name = "N", default_value_t = 20)]
    blocks: u32,
    /// Also compare with a tweak server (BlindBit HTTP version 1), by digests where it has them
    #[arg(long, value_name = "URL")]
    against: Option<String>,
    /// Proxy to that server, such as socks5://127.0.0.1:9050
    #[arg(
        long,
        env = "SPINDEX_PROXY",
        value_name = "URL",
        hide_env_values = true
    )]
    proxy: Option<String>,
    /// Build what is wrong anew, beside the damaged file, which is kept as index.redb.damaged
    #[arg(long)]
    repair: bool,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// What is printed.
#[derive(Serialize)]
struct Report {
    /// Whether all is right now.
    ok: bool,
    index: PathBuf,
    network: &'static str,
    /// Of the repaired index, if there is one; `None` for a file that cannot be read.
    #[serde(flatten)]
    state: Option<IndexState>,
    /// Hash over all rows; `None` if something is wrong.
    content_hash: Option<String>,
    /// Number of multiples that were computed again.
    multiples_checked: u64,
    node: Option<NodeReport>,
    against: Option<Comparison>,
    notes: Vec<String>,
    /// Also what a repair has mended.
    wrong: Vec<Finding>,
    repaired: Option<Repaired>,
}

#[derive(Serialize)]
struct IndexState {
    tip: Option<Tip>,
    /// Rolling digest at the tip.
    digest: Option<String>,
    counts: Totals,
    space: SpaceReport,
}

#[derive(Serialize)]
struct Tip {
    height: u32,
    hash: BlockHash,
}

#[derive(Serialize)]
struct Totals {
    blocks: u64,
    transactions: u64,
    outputs: u64,
    unspent: u64,
    spends: u64,
    foreign: u64,
    filter_bytes: u64,
}

#[derive(Serialize)]
struct SpaceReport {
    file_bytes: u64,
    disk_bytes: u64,
    stored_bytes: u64,
    allocated_bytes: u64,
    /// File size over what is stored.
    overhead: f64,
    tables: Vec<TableReport>,
}

#[derive(Serialize)]
struct TableReport {
    name: &'static str,
    rows: u64,
    stored_bytes: u64,
    allocated_bytes: u64,
}

#[derive(Serialize)]
struct NodeReport {
    source: String,
    /// Heights whose rows were compared, ascending.
    compared: BTreeSet<u32>,
}

pub(super) fn check(args: CheckArgs) -> Result<()> {
    let CheckArgs {
        common,
        server,
        blocks,
        against,
        proxy,
        repair: with_repair,
        json,
    } = args;
    let (common, server) = config::complete(common, server)?;
    let (path, options) = index_file(&common, &server)?;
    let against = against
        .map(|url| {
            HttpOracle::new(
                &url,
                HttpSettings {
                    proxy,
                    ..HttpSettings::default()
                },
            )
        })
        .transpose()?;
    block_on(&common.compute, async {
        let mut job = Job {
            options,
            repair_options: None,
            report: Report {
                ok: false,
                index: path.clone(),
                network: common.network().to_core_arg(),
                state: None,
                content_hash: None,
                multiples_checked: 0,
                node: None,
                against: None,
                notes: Vec::new(),
                wrong: Vec::new(),
                repaired: None,
            },
            wrong_heights: BTreeSet::new(),
            failure: None,
        };
        let store = job.open(&path)?;
        let mut source = None;
        let mut sample = BTreeSet::new();
        if let Some(store) = &store {
            let snapshot = store.snapshot()?;
            sample = draw(&snapshot, blocks);
            job.check_self(&snapshot, &sample)?;
            if let Some(server) = &against {
                job.check_against(&snapshot, server, &sample).await?;
            }
            if blocks > 0 || with_repair {
                source = job.node(&common, &server).await?;
            } else {
                job.note("not compared with a node (--blocks 0)");
            }
            if let Some(source) = &source {
                let engine = common.compute.engine()?;
                job.check_node(
                    &snapshot,
                    source.as_ref(),
                    engine.as_ref(),
                    &sample,
                    store.undo_depth(),
                )
                .await?;
            }
        } else if with_repair {
            source = job.node(&common, &server).await?;
        }
        if with_repair && !job.report.wrong.is_empty() {
            let stop = Stop::new();
            stop.on_signal()?;
            let repair = Repair {
                path: &path,
                options: job.repair_options.clone().unwrap_or(job.options.clone()),
                source,
                engine: common.compute.engine()?,
                settings: index_settings(&server, Some(WAIT))?,
                stop,
            };
            let store = job.repair(&repair, store).await?;
            if let Some(server) = &against {
                let snapshot = store.snapshot()?;
                job.check_against(&snapshot, server, &sample).await?;
            }
        }
        job.finish(json)
    })
}

/// Heights to compare beside the tip.
fn draw(snapshot: &Snapshot, blocks: u32) -> BTreeSet<u32> {
    let Some(tip) = snapshot.tip().filter(|_| blocks > 0) else {
        return BTreeSet::new();
    };
    let first = snapshot.first_height();
    let count = tip.height.saturating_sub(first).saturating_add(1);
    let drawn = blocks.min(count) as usize;
    let drawn = rand::seq::index::sample(&mut rand::thread_rng(), count as usize, drawn);
    let heights = drawn.into_iter().map(|offset| first + offset as u32);
    heights.chain([tip.height]).collect()
}

struct Job {
    options: StoreOptions,
    /// What a new file is opened with to be as the one that is there.
    repair_options: Option<StoreOptions>,
    report: Report,
    /// Heights whose rows differ from the node's.
    wrong_heights: BTreeSet<u32>,
    /// Why a server could not be compared with.
    failure: Option<anyhow::Error>,
}

impl Job {
    fn note(&mut self, text: impl Into<String>) {
        self.report.notes.push(text.into());
    }

    /// Opens the file and checks its pages; `None` if it cannot be read, which is found.
    fn open(&mut self, path: &Path) -> Result<Option<Store>> {
        let mut store = match Store::open_existing(path, &self.options) {
            Ok(store) => store,
            Err(error) => return self.unreadable(error),
        };
        {
            let snapshot = store.snapshot()?;
            self.repair_options = Some(StoreOptions {
                network: snapshot.network(),
                first_height: Some(snapshot.first_height()),
                keep: Some(snapshot.keep()),
                tweak_form: Some(snapshot.tweak_form()),
                multiples: Some(snapshot.has_multiples()),
                ..self.options.clone()
            });
        }
        match store.check_pages() {
            Ok(true) => {}
            Ok(false) => self.note("the storage engine mended its own bookkeeping"),
            Err(error) => return self.unreadable(error),
        }
        self.report.state = Some(state(&store)?);
        Ok(Some(store))
    }

    fn unreadable(&mut self, error: StoreError) -> Result<Option<Store>> {
        match Finding::of_error(&error) {
            Some(found) => {
                self.report.wrong.push(found);
                Ok(None)
            }
            None => Err(error.into()),
        }
    }

    fn check_self(&mut self, snapshot: &Snapshot, sample: &BTreeSet<u32>) -> Result<()> {
        let bar = progress_bar(0, "blocks, in two passes");
        bar.set_message("index");
        let check = check_self(snapshot, sample, |done, all| {
            bar.set_length(all);
            bar.set_position(done);
        });
        bar.finish_and_clear();
        let check = check?;
        self.report.content_hash = check.content_hash.map(|hash| hash.to_lower_hex_string());
        self.report.multiples_checked = check.multiples;
        self.report.wrong.extend(check.findings);
        Ok(())
    }

    async fn check_against(
        &mut self,
        snapshot: &Snapshot,
        server: &HttpOracle,
        sample: &BTreeSet<u32>,
    ) -> Result<()> {
        let heights: Vec<u32> = sample.iter().copied().collect();
        match compare(snapshot, server, &heights).await {
            Ok(comparison) => self.report.against = Some(comparison),
            Err(CompareError::Store(error)) => return Err(error.into()),
            // What else was found is worth telling all the same.
            Err(error) => {
                self.note(format!("not compared with {}: {error}", server.describe()));
                self.failure = Some(error.into());
            }
        }
        Ok(())
    }

    /// The node, if it answers.
    async fn node(
        &mut self,
        common: &CommonSettings,
        server: &ServerSettings,
    ) -> Result<Option<Arc<dyn BlockSource>>> {
        let source = node(common, server)?.source;
        match source.check(common.network()).await {
            Ok(()) => Ok(Some(source)),
            Err(error) => {
                let is_named = server.node_url.is_some() || server.rpc_url.is_some();
                if is_named && !error.is_transient() {
                    return Err(error.into());
                }
                self.note(format!(
                    "not compared with a node, as none answers: {error}"
                ));
                Ok(None)
            }
        }
    }

    async fn check_node(
        &mut self,
        snapshot: &Snapshot,
        source: &dyn BlockSource,
        engine: &dyn crate::curve::Engine,
        sample: &BTreeSet<u32>,
        undo_depth: u32,
    ) -> Result<()> {
        let wrong = self.report.wrong.iter();
        let suspects: BTreeSet<u32> = wrong
            .filter(|finding| finding.needs_node)
            .filter_map(|finding| finding.height)
            .collect();
        let mut heights = sample.clone();
        if let Some(against) = &self.report.against {
            heights.extend(against.differences.iter().map(|differ| differ.height));
        }
        let bar = progress_bar(0, "blocks");
        bar.set_message("node");
        let check = check_against_source(
            snapshot,
            source,
            engine,
            undo_depth,
            &heights,
            &suspects,
            |done, all| {
                bar.set_length(all as u64);
                bar.set_position(done as u64);
            },
        )
        .await;
        bar.finish_and_clear();
        let check = match check {
            Ok(check) => check,
            Err(IndexError::Chain(
                error @ (ChainError::Unreachable(_) | ChainError::NotAvailable(_)),
            )) => {
                self.note(format!("the comparison with the node broke off: {error}"));
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        self.wrong_heights = check.wrong;
        self.report.notes.extend(check.notes);
        self.report.wrong.extend(check.findings);
        self.report.node = Some(NodeReport {
            source: source.describe(),
            compared: check.compared,
        });
        Ok(())
    }

    /// Gives the repaired index.
    async fn repair(&mut self, with: &Repair<'_>, store: Option<Store>) -> Result<Store> {
        // Where the node was asked, it has judged; else whatever something speaks against has to come from it.
        let wrong_from = match self.report.node {
            Some(_) => self.wrong_heights.first().copied(),
            None => {
                let wrong = self.report.wrong.iter();
                let wrong = wrong.filter(|finding| finding.needs_node);
                wrong.filter_map(|finding| finding.height).min()
            }
        };
        let progress = Arc::new(SyncProgress::default());
        let repaired = repair(with, store, wrong_from, move |report| {
            progress.report(report)
        });
        self.report.repaired = Some(repaired.await?);
        let store = Store::open_existing(with.path, &with.options)?;
        self.report.state = Some(state(&store)?);
        let content = store.snapshot()?.content_hash()?;
        self.report.content_hash = Some(content.to_lower_hex_string());
        Ok(store)
    }

    fn finish(self, json: bool) -> Result<()> {
        let mut report = self.report;
        let differs = report
            .against
            .as_ref()
            .filter(|against| !against.differences.is_empty());
        let is_mended = report.wrong.is_empty() || report.repaired.is_some();
        report.ok = is_mended && differs.is_none() && self.failure.is_none();
        let verdict = match (report.wrong.first(), differs) {
            (Some(first), _) if !is_mended => Err(anyhow!(
                "the index {} is wrong in {} places, the first in {}: repair it with `spindex check --repair`",
                report.index.display(),
                report.wrong.len(),
                place(first)
            )),
            (_, Some(against)) => {
                let height = against
                    .differences
                    .first()
                    .map_or(0, |differ| differ.height);
                let vouched = report.node.as_ref();
                let cure = match vouched.filter(|node| node.compared.contains(&height)) {
                    Some(_) => "the node agrees with the index, so the server is wrong",
                    None => {
                        "check with a node at hand (--node-url), which tells which of both is right"
                    }
                };
                Err(anyhow!(
                    "the index {} and {} differ, first in block {height}: {cure}",
                    report.index.display(),
                    against.server
                ))
            }
            _ => self.failure.map_or(Ok(()), Err),
        };
        write_stdout(|out| {
            if json {
                serde_json::to_writer(&mut *out, &report)?;
                writeln!(out)
            } else {
                print(out, &report)
            }
        })?;
        verdict
    }
}

/// What an index holds and takes.
fn state(store: &Store) -> Result<IndexState> {
    let snapshot = store.snapshot()?;
    let tip = snapshot.tip();
    let digest = match tip {
        // A missing row is found by the check.
        Some(tip) => snapshot.digest(tip.height)?,
        None => None,
    };
    Ok(IndexState {
        tip: tip.map(|tip| Tip {
            height: tip.height,
            hash: tip.hash,
        }),
        digest: digest.map(|digest| digest.to_lower_hex_string()),
        counts: totals(snapshot.counts()?),
        space: space(&store.space()?),
    })
}

fn totals(counts: Counts) -> Totals {
    Totals {
        blocks: counts.blocks,
        transactions: counts.transactions,
        outputs: counts.outputs,
        unspent: counts.unspent,
        spends: counts.spends,
        foreign: counts.foreign,
        filter_bytes: counts.filter_bytes,
    }
}

fn space(space: &Space) -> SpaceReport {
    let stored_bytes = space.stored_bytes();
    let tables = space.tables.iter();
    SpaceReport {
        file_bytes: space.file_bytes,
        disk_bytes: space.disk_bytes,
        stored_bytes,
        allocated_bytes: space.allocated_bytes(),
        overhead: space.file_bytes as f64 / stored_bytes.max(1) as f64,
        tables: tables
            .map(|table| TableReport {
                name: table.name,
                rows: table.rows,
                stored_bytes: table.stored_bytes,
                allocated_bytes: table.allocated_bytes,
            })
            .collect(),
    }
}

fn place(finding: &Finding) -> String {
    let height = finding
        .height
        .map_or_else(String::new, |height| format!(", height {height}"));
    format!(
        "table {}{height}, key {}: {}",
        finding.table, finding.key, finding.reason
    )
}

fn print(out: &mut dyn Write, report: &Report) -> io::Result<()> {
    writeln!(
        out,
        "index     {} ({})",
        report.index.display(),
        report.network
    )?;
    if let Some(state) = &report.state {
        print_state(out, state)?;
    }
    if let Some(hash) = &report.content_hash {
        writeln!(out, "content   {hash}")?;
        let multiples = match report.multiples_checked {
            0 => String::new(),
            count => format!(", {count} multiples computed again"),
        };
        writeln!(
            out,
            "itself    pages, rows and filters fit each other{multiples}"
        )?;
    }
    if let Some(node) = &report.node {
        writeln!(
            out,
            "node      {} blocks compared with {}",
            node.compared.len(),
            node.source
        )?;
    }
    if let Some(against) = &report.against {
        print_against(out, against)?;
    }
    for note in &report.notes {
        writeln!(out, "note      {note}")?;
    }
    for finding in report.wrong.iter().take(PRINTED_MAX) {
        writeln!(out, "wrong     {}", place(finding))?;
    }
    if let Some(more) = report.wrong.len().checked_sub(PRINTED_MAX + 1) {
        writeln!(out, "wrong     and {} more: --json has them", more + 1)?;
    }
    if let Some(repaired) = &report.repaired {
        let from_node = repaired.from_node.map_or_else(
            || "none from the node".to_owned(),
            |height| format!("from height {height} on by the node"),
        );
        writeln!(
            out,
            "repaired  {} blocks taken over, {from_node}; the damaged file is kept as {}",
            repaired.copied,
            repaired.kept.display()
        )?;
    }
    writeln!(
        out,
        "{}",
        if report.ok {
            "all right"
        } else {
            "something is wrong"
        }
    )
}

fn print_state(out: &mut dyn Write, state: &IndexState) -> io::Result<()> {
    match &state.tip {
        Some(tip) => writeln!(out, "tip       {} ({})", tip.height, tip.hash)?,
        None => writeln!(out, "tip       none, the index is empty")?,
    }
    if let Some(digest) = &state.digest {
        writeln!(out, "digest    {digest}")?;
    }
    let counts = &state.counts;
    writeln!(
        out,
        "counts    {} blocks, {} tweaks, {} outputs ({} unspent), {} spends ({} foreign), {} bytes of filters",
        counts.blocks,
        counts.transactions,
        counts.outputs,
        counts.unspent,
        counts.spends,
        counts.foreign,
        counts.filter_bytes
    )?;
    let space = &state.space;
    writeln!(
        out,
        "space     {} bytes stored in a file of {}: {:.3} times that, {} on the disk",
        space.stored_bytes, space.file_bytes, space.overhead, space.disk_bytes
    )
}

fn print_against(out: &mut dyn Write, against: &Comparison) -> io::Result<()> {
    let common = against.common.map_or_else(
        || "nothing in common".to_owned(),
        |height| format!("compared up to height {height}"),
    );
    let digests = match against.digests_agree {
        Some(true) => ", digests agree",
        Some(false) => ", digests differ",
        None => "",
    };
    writeln!(
        out,
        "against   {}: {common}{digests}, lists of {} blocks",
        against.server,
        against.heights.len()
    )?;
    for note in &against.notes {
        writeln!(out, "note      {note}")?;
    }
    for differ in &against.differences {
        let limit = match differ.dust_limit_sat {
            0 => String::new(),
            limit => format!(" with dust limit {limit}"),
        };
        writeln!(
            out,
            "differs   block {}{limit}: {}",
            differ.height, differ.what
        )?;
        for tweak in &differ.only_here {
            writeln!(out, "            only here   {tweak}")?;
        }
        for tweak in &differ.only_there {
            writeln!(out, "            only there  {tweak}")?;
        }
    }
    Ok(())
}
