//! The spindex server, or the exported files, that an index is built from instead of a node's blocks, as the settings describe it.

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::{Context, Result, bail};

use super::check::{check_against_node, draw};
use super::config::{CommonSettings, ServerSettings, SourceKind, usage};
use super::oracle::{Named, one_behind_the_other};
use crate::chain::BlockSource;
use crate::client::{HttpSettings, NativeOracle};
use crate::curve::Engine;
use crate::replica::Upstream;
use crate::store::Store;

/// Blocks of a node that rows of another server are held against.
pub(super) struct Verify {
    blocks: Arc<dyn BlockSource>,
    count: u32,
}

/// The server, where the settings name one as the source; nothing is asked of it yet.
pub(super) fn upstream(
    common: &CommonSettings,
    server: &ServerSettings,
    store: &Store,
    engine: &Arc<dyn Engine>,
) -> Result<Option<Arc<Upstream>>> {
    let is_source = server.source == Some(SourceKind::Spindex);
    let names = match (server.upstream.as_deref(), is_source) {
        (Some(names), true) => names,
        (None, true) => return Err(usage!("--source spindex needs --upstream")),
        (Some(_), false) => return Err(usage!("--upstream needs --source spindex")),
        (None, false) => return Ok(None),
    };
    // Whoever waits for a source does so in its own way, and says so.
    let settings = HttpSettings {
        attempts: 1,
        ..HttpSettings::default()
    };
    let oracles: Vec<Arc<NativeOracle>> = names
        .iter()
        .map(|name| Ok(Named::new("--upstream", name, &settings)?.native(common.network())))
        .collect::<Result<_>>()?;
    let native = one_behind_the_other(oracles.into_iter());
    let native = native.ok_or_else(|| usage!("--source spindex needs --upstream"))?;
    Ok(Some(Arc::new(Upstream::new(
        native,
        engine.clone(),
        store.keep(),
        store.tweak_form(),
    ))))
}

/// The blocks that rows are to be held against, if any are.
pub(super) fn verify(
    server: &ServerSettings,
    blocks: Option<Arc<dyn BlockSource>>,
) -> Result<Option<Verify>> {
    match (server.verify_blocks.unwrap_or(0), blocks) {
        (0, _) => Ok(None),
        (count, Some(blocks)) => Ok(Some(Verify { blocks, count })),
        (_, None) => Err(usage!(
            "--verify-blocks needs a node: name it with --node-url"
        )),
    }
}

/// Says up to where the index and the server it is of agree, and holds random blocks against the node.
pub(super) async fn verify_replica(
    upstream: &Upstream,
    verify: Option<&Verify>,
    store: &Store,
    engine: &dyn Engine,
    undo_depth: u32,
) -> Result<()> {
    let snapshot = store.snapshot()?;
    if let Some(block) = upstream.agrees(&snapshot).await?? {
        tracing::info!(%block, "the head over all columns is that of the upstream server");
    }
    let Some(Verify { blocks, count }) = verify else {
        return Ok(());
    };
    let sample = draw(&snapshot, *count);
    let none = BTreeSet::new();
    let blocks = blocks.as_ref();
    let check = check_against_node(&snapshot, blocks, engine, undo_depth, &sample, &none).await;
    let check = check.context("the node could not be asked for --verify-blocks")?;
    for note in &check.notes {
        tracing::warn!("{note}");
    }
    if let Some(finding) = check.findings.first() {
        bail!(
            "what {} gave is not what the node's blocks make: table {}, {}{}: {} ({} findings): use another upstream server, and move the index away",
            upstream.describe(),
            finding.table,
            finding.key,
            finding
                .height
                .map_or_else(String::new, |height| format!(", block {height}")),
            finding.reason,
            check.findings.len()
        );
    }
    tracing::info!("{} blocks are what the node's make", check.compared.len());
    Ok(())
}
