//! `spindex check`: is the index what it should be?

mod node;
mod report;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, anyhow};
use bitcoin::hex::DisplayHex;
use clap::Args;

pub(super) use self::node::{check_against_node, draw};
use self::report::{NodeReport, Report, place, print, state};
use super::config::{self, CommonSettings, ServerSettings};
use super::output::{SyncProgress, progress_bar, write_stdout};
use super::server::{block_on, index_file, index_settings};
use super::sources::{Sources, sources};
use crate::chain::{BlockSource, ChainError};
use crate::check::{
    CompareError, Damage, Finding, PublishedHead, Repair, check_head, check_self, compare, repair,
};
use crate::client::{HttpOracle, HttpSettings, Oracle};
use crate::index::IndexError;
use crate::runtime::Stop;
use crate::store::{
    Locating, Remains, Snapshot, Store, StoreError, StoreOptions, default_first_height, remains,
};

/// How long a repair waits for a node that does not answer.
const WAIT: Duration = Duration::from_secs(60);

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
    /// Also compare with a head of the SPCOMMIT chains that somebody has published, of either version; may be given several times
    #[arg(long = "head", value_name = "HEIGHT:HEX")]
    heads: Vec<PublishedHead>,
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

pub(super) fn check(args: CheckArgs) -> Result<()> {
    let CheckArgs {
        common,
        server,
        blocks,
        against,
        heads,
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
        .transpose()?
        .map(Arc::new);
    block_on(&common.compute, async {
        let mut job = Job {
            options,
            remains: Remains::default(),
            report: Report {
                ok: false,
                index: path.clone(),
                network: common.network().to_core_arg(),
                state: None,
                content_hash: None,
                multiples_checked: 0,
                node: None,
                against: None,
                heads: Vec::new(),
                notes: Vec::new(),
                wrong: Vec::new(),
                repaired: None,
            },
            wrong_heights: BTreeSet::new(),
            failure: None,
        };
        let store = job.open(&path)?;
        let mut sources = None;
        let mut sample = BTreeSet::new();
        if let Some(store) = &store {
            let snapshot = store.snapshot()?;
            sample = draw(&snapshot, blocks);
            job.check_self(&snapshot, &sample)?;
            job.check_heads(&snapshot, &heads)?;
            if let Some(server) = &against {
                job.check_against(&snapshot, server, &sample).await?;
            }
            if blocks > 0 || with_repair {
                sources = job.node(&common, &server).await?;
            } else {
                job.note("not compared with a node (--blocks 0)");
            }
            if let Some(sources) = &sources {
                let engine = common.compute.engine()?;
                job.check_node(
                    &snapshot,
                    sources.blocks.as_ref(),
                    engine.as_ref(),
                    &sample,
                    store.undo_depth(),
                )
                .await?;
            }
        } else if with_repair {
            sources = job.node(&common, &server).await?;
        }
        if with_repair && !job.report.wrong.is_empty() {
            let stop = Stop::new();
            stop.on_signal()?;
            let repair = Repair {
                path: &path,
                options: job.remains.options.clone().unwrap_or(job.options.clone()),
                source: sources.as_ref().map(|sources| sources.blocks.clone()),
                node: sources.and_then(|sources| sources.node),
                engine: common.compute.engine()?,
                settings: index_settings(&server, Some(WAIT))?,
                stop,
            };
            let store = job.repair(&repair, store).await?;
            job.check_heads(&store.snapshot()?, &heads)?;
            if let Some(server) = &against {
                let snapshot = store.snapshot()?;
                job.check_against(&snapshot, server, &sample).await?;
            }
        }
        job.finish(json)
    })
}

struct Job {
    options: StoreOptions,
    /// What the file says of itself.
    remains: Remains,
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
        let mut store = match Store::open_to_check(path, &self.options) {
            Ok((store, wrong)) => {
                let wrong = wrong.into_iter().map(Finding::from);
                self.report.wrong.extend(wrong);
                store
            }
            Err(error) => {
                let found = self.unreadable(error)?;
                self.remains = remains(path, &self.options);
                return Ok(found);
            }
        };
        self.remains = store.remains();
        match store.check_pages() {
            Ok(true) => {}
            Ok(false) => self.note("the storage engine mended its own bookkeeping"),
            Err(error) => return self.unreadable(error),
        }
        self.report.state = match state(&store) {
            Ok(state) => Some(state),
            // What cannot be read is found by the check.
            Err(StoreError::Corrupt { .. }) => None,
            Err(error) => return Err(error.into()),
        };
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
        if let Some(Locating { outputs, of }) = snapshot.locating() {
            self.note(format!(
                "a long sync has not come to its end: {outputs} of {of} outputs are located; the next `spindex sync` or `run` does the rest"
            ));
        }
        if let Some(height) = snapshot.spenders_from() {
            self.note(format!(
                "who spends what below height {height} is not known: the index was built before that was kept; `spindex run` and `sync` fill it in from the source"
            ));
        }
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

    fn check_heads(&mut self, snapshot: &Snapshot, heads: &[PublishedHead]) -> Result<()> {
        let checked = heads.iter().map(|head| check_head(snapshot, *head));
        self.report.heads = match checked.collect() {
            Ok(checked) => checked,
            // The check against itself has named the row.
            Err(error) if Finding::of_error(&error).is_some() => Vec::new(),
            Err(error) => return Err(error.into()),
        };
        Ok(())
    }

    async fn check_against(
        &mut self,
        snapshot: &Snapshot,
        server: &Arc<HttpOracle>,
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

    /// The node and its files, if they answer.
    async fn node(
        &mut self,
        common: &CommonSettings,
        server: &ServerSettings,
    ) -> Result<Option<Sources>> {
        let sources = sources(common, server)?;
        match sources.blocks.check(common.network()).await {
            Ok(()) => Ok(Some(sources)),
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
        // The one that filling in spenders comes to next, and ends at if it differs.
        heights.extend(snapshot.lacking_spenders(1)?.iter().map(|id| id.height));
        let check =
            check_against_node(snapshot, source, engine, undo_depth, &heights, &suspects).await;
        let check = match check {
            Ok(check) => check,
            // A pruned node passes the check and has not all blocks.
            Err(IndexError::Chain(
                error @ (ChainError::Unreachable(_)
                | ChainError::NotAvailable(_)
                | ChainError::Setup(_)),
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
        let wrong = match self.report.node {
            Some(_) => self.wrong_heights.clone(),
            None => {
                let wrong = self.report.wrong.iter();
                let wrong = wrong.filter(|finding| finding.needs_node);
                wrong.filter_map(|finding| finding.height).collect()
            }
        };
        let damage = Damage {
            old: store,
            tip_height: self.remains.tip_height,
            wrong,
        };
        let progress = Arc::new(SyncProgress::default());
        let repaired = repair(with, damage, move |report| progress.report(report)).await?;
        match (repaired.shortened_to, self.remains.tip_height) {
            (Some(height), Some(tip)) => self.note(format!(
                "the node's chain ends at height {height}, with a block from which the damaged index does not go on: the new index ends there, the old one went up to {tip}"
            )),
            (_, None) if repaired.from_node.is_some() => self.note(
                "the damaged file does not say how far it went: the new index ends where the node's chain does",
            ),
            _ => {}
        }
        if self.remains.options.is_none() {
            self.note(format!(
                "the damaged file does not say what it was built with: the new index begins at height {}, and has the other options given too, or their defaults",
                with.options.first_height.unwrap_or_else(|| default_first_height(with.options.network))
            ));
        }
        self.report.repaired = Some(repaired);
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
        let other_head = report.heads.iter().find(|head| head.version.is_none());
        let is_mended = report.wrong.is_empty() || report.repaired.is_some();
        report.ok =
            is_mended && differs.is_none() && other_head.is_none() && self.failure.is_none();
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
            _ => match (self.failure, other_head) {
                (Some(failure), _) => Err(failure),
                (None, Some(head)) => Err(anyhow!(
                    "the index {} does not have the published head at height {}: {}",
                    report.index.display(),
                    head.height,
                    match head.own {
                        [None, _] => "it has none there",
                        _ =>
                            "one of both has left something out, or has something that the chain has not; `--against` finds the block if that server is at hand",
                    }
                )),
                (None, None) => Ok(()),
            },
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
