//! What `spindex check` prints: one document, or the same for people.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::PathBuf;

use bitcoin::BlockHash;
use bitcoin::hex::DisplayHex;
use serde::Serialize;

use crate::check::{Comparison, Finding, HeadCheck, Repaired};
use crate::store::{Counts, Space, Store, StoreError, TableSpace};

/// Most findings that are printed; a JSON document has all that are kept.
const PRINTED_MAX: usize = 20;

/// What is printed.
#[derive(Serialize)]
pub(super) struct Report {
    /// Whether all is right now.
    pub(super) ok: bool,
    pub(super) index: PathBuf,
    pub(super) network: &'static str,
    /// Of the repaired index, if there is one; `None` for a file that cannot be read.
    #[serde(flatten)]
    pub(super) state: Option<IndexState>,
    /// Hash over all rows; `None` if something is wrong.
    pub(super) content_hash: Option<String>,
    /// Number of multiples that were computed again.
    pub(super) multiples_checked: u64,
    pub(super) node: Option<NodeReport>,
    pub(super) against: Option<Comparison>,
    /// Published heads that were given.
    pub(super) heads: Vec<HeadCheck>,
    pub(super) notes: Vec<String>,
    /// Also what a repair has mended.
    pub(super) wrong: Vec<Finding>,
    pub(super) repaired: Option<Repaired>,
}

#[derive(Serialize)]
pub(super) struct IndexState {
    tip: Option<Tip>,
    /// Rolling digest at the tip.
    digest: Option<String>,
    counts: Counts,
    space: SpaceReport,
}

#[derive(Serialize)]
struct Tip {
    height: u32,
    hash: BlockHash,
}

#[derive(Serialize)]
struct SpaceReport {
    file_bytes: u64,
    disk_bytes: u64,
    stored_bytes: u64,
    allocated_bytes: u64,
    /// File size over what is stored.
    overhead: f64,
    tables: Vec<TableSpace>,
}

#[derive(Serialize)]
pub(super) struct NodeReport {
    pub(super) source: String,
    /// Heights whose rows were compared, ascending.
    pub(super) compared: BTreeSet<u32>,
}

/// What an index holds and takes.
pub(super) fn state(store: &Store) -> Result<IndexState, StoreError> {
    let snapshot = store.snapshot()?;
    let tip = snapshot.tip();
    let digest = match tip {
        // A missing row is found by the check.
        Some(tip) => match snapshot.block(tip.height)?.map(|block| block.digest()) {
            Some(Err(StoreError::Corrupt { .. })) | None => None,
            Some(digest) => Some(digest?),
        },
        None => None,
    };
    Ok(IndexState {
        tip: tip.map(|tip| Tip {
            height: tip.height,
            hash: tip.hash,
        }),
        digest: digest.map(|digest| digest.to_lower_hex_string()),
        counts: snapshot.counts()?,
        space: space(store.space()?),
    })
}

fn space(space: Space) -> SpaceReport {
    let stored_bytes = space.stored_bytes();
    SpaceReport {
        file_bytes: space.file_bytes,
        disk_bytes: space.disk_bytes,
        stored_bytes,
        allocated_bytes: space.allocated_bytes(),
        overhead: space.file_bytes as f64 / stored_bytes.max(1) as f64,
        tables: space.tables,
    }
}

pub(super) fn place(finding: &Finding) -> String {
    let height = finding
        .height
        .map_or_else(String::new, |height| format!(", height {height}"));
    format!(
        "table {}{height}, key {}: {}",
        finding.table, finding.key, finding.reason
    )
}

pub(super) fn print(out: &mut dyn Write, report: &Report) -> io::Result<()> {
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
    for head in &report.heads {
        print_head(out, head)?;
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
        let from_node = match (repaired.from_node, repaired.until_node) {
            (None, _) => "none from the node".to_owned(),
            (Some(from), None) => format!("from height {from} on by the node"),
            (Some(from), Some(until)) => format!(
                "heights {from} to {until} by the node, whose chain ends there, the others above it too"
            ),
        };
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

fn print_head(out: &mut dyn Write, head: &HeadCheck) -> io::Result<()> {
    let height = head.height;
    if let Some(version) = head.version {
        return writeln!(
            out,
            "head      the published one at height {height} is the index's, of version {version}"
        );
    }
    writeln!(
        out,
        "head      the published one at height {height} is not the index's"
    )?;
    for (version, own) in (1..).zip(&head.own) {
        let own = own.as_deref().unwrap_or("none");
        writeln!(out, "            own, of version {version}  {own}")?;
    }
    writeln!(out, "            published          {}", head.head)
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
        "against   {}: {common}{digests}{}{}, lists of {} blocks",
        against.server,
        heads(against),
        columns(against),
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
    let parted = against.heads.iter().flat_map(|heads| &heads.parted);
    for parted in parted {
        for pair in &parted.links {
            let (height, version) = (parted.height, pair.version);
            writeln!(out, "commits   block {height}, version {version}")?;
            writeln!(out, "            here   {}", pair.commitment_here)?;
            writeln!(out, "            there  {}", pair.commitment_there)?;
        }
    }
    let parted = against.columns.iter().flat_map(|columns| &columns.parted);
    for parted in parted {
        if !parted.columns.is_empty() {
            let columns = parted.columns.join(", ");
            writeln!(out, "columns   block {}: {columns}", parted.height)?;
        }
    }
    Ok(())
}

/// Whether the heads over the columns agree.
fn columns(against: &Comparison) -> &'static str {
    match against.columns.as_ref().and_then(|columns| columns.agree) {
        Some(true) => ", heads over the columns agree",
        Some(false) => ", heads over the columns differ",
        None => "",
    }
}

/// Which heads agree.
fn heads(against: &Comparison) -> String {
    let Some(heads) = &against.heads else {
        return String::new();
    };
    let versions: Vec<String> = heads.versions.iter().map(u8::to_string).collect();
    let versions = versions.join(" and ");
    match heads.agree {
        Some(true) => format!(", heads of version {versions} agree"),
        Some(false) => format!(", heads of version {versions} differ"),
        None => String::new(),
    }
}
