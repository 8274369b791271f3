//! What the file's bytes are used for.

use std::fs;

use redb::{ReadTransaction, ReadableDatabase, ReadableTableMetadata};
use serde::Serialize;

use super::Store;
use super::column::Column;
use super::error::{Fault, StoreError};
use super::heads::{HEADS_V1, HEADS_V2};
use super::schema::{BLOCKS, DIGEST, HEIGHTS, LOCATOR, MARKS, META};
use super::sections::SECTIONS;
use super::states::{STATE_LOCATOR, STATES};
use super::view::View;
use super::watches::{CONSUMERS, DEEP_DUE, EVENT_BLOCKS, EVENTS, TOKENS, WATCH_STARTS, WATCHES};

/// Bytes of a page of the engine.
const PAGE: u64 = 4096;
/// Bytes that a page of the engine needs beside the chunk it holds: its own header, the end of the value, the key.
const LEAF_OVERHEAD: u64 = 12;
/// Chunks below one branch page of the engine when they were appended in order: a full one has twice as many.
const BRANCH_CHUNKS: u64 = 72;
/// Bytes of pages that a row of the other tables takes, as measured: keys that come in order fill the pages nearly, others
/// fill 70 %.
const BLOCK_BYTES: u64 = 192;
const DIGEST_BYTES: u64 = 41;
const SECTIONS_BYTES: u64 = 240;
const HEIGHT_BYTES: u64 = 17;
const LOCATOR_BYTES: u64 = 15;
const STATE_BYTES: u64 = 80;
const WATCH_BYTES: u64 = 130;
const WATCH_START_BYTES: u64 = 70;
const EVENT_BYTES: u64 = 210;
const EVENT_KEY_BYTES: u64 = 17;

/// What the file's bytes are used for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Space {
    /// Size of the file; 0 on a backend.
    pub file_bytes: u64,
    /// What the file takes of the disk, where the operating system tells: less than its size while it has holes, since
    /// the engine makes a file longer long before it writes there.
    pub disk_bytes: u64,
    /// Every table there is.
    pub tables: Vec<TableSpace>,
}

/// What a table takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct TableSpace {
    /// Name of the table.
    pub name: &'static str,
    /// Number of its rows; chunks of a column.
    pub rows: u64,
    /// Sum of its keys and values.
    pub stored_bytes: u64,
    /// Sum of the pages that hold them, with what is empty in them and the inner pages of the tree.
    pub allocated_bytes: u64,
}

impl Space {
    /// Sum of the keys and values of all tables.
    pub fn stored_bytes(&self) -> u64 {
        self.tables.iter().map(|table| table.stored_bytes).sum()
    }

    /// Sum of the pages of all tables. What the file has beyond that is free, or the engine's own.
    pub fn allocated_bytes(&self) -> u64 {
        self.tables.iter().map(|table| table.allocated_bytes).sum()
    }
}

impl Store {
    /// What each table takes. Columns, which make up nearly all of a file, are computed from their lengths; the other
    /// tables are walked.
    ///
    /// # Errors
    /// As [`snapshot`](Self::snapshot).
    pub fn space(&self) -> Result<Space, StoreError> {
        let told = |fault: Fault| fault.in_file(&self.file);
        let view = self.view().map_err(told)?;
        let read = self.database.read().map_err(|_| self.halted())?;
        let read = read.begin_read().map_err(|error| told(error.into()))?;
        let metadata = fs::metadata(self.path()).ok();
        Ok(Space {
            file_bytes: metadata.as_ref().map_or(0, fs::Metadata::len),
            disk_bytes: metadata.as_ref().map_or(0, disk_bytes),
            tables: tables(&view, &read).map_err(told)?,
        })
    }
}

/// What an index takes of the disk and how much of that it may need, told without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slack {
    /// What the file takes of the disk.
    pub disk_bytes: u64,
    /// Estimate of what it takes beyond the pages that its rows need.
    pub slack_bytes: u64,
}

impl Store {
    /// How much of the file compaction would give back, by the number of rows. 0 on a backend.
    ///
    /// # Errors
    /// As [`snapshot`](Self::snapshot).
    pub fn slack(&self) -> Result<Slack, StoreError> {
        let told = |fault: Fault| fault.in_file(&self.file);
        let metadata = fs::metadata(self.path()).ok();
        let disk = metadata.as_ref().map_or(0, |metadata| {
            // Less where the engine has made a hole, more where the file system has set room aside.
            disk_bytes(metadata).min(metadata.len())
        });
        let needed = needed_bytes(&self.view().map_err(told)?).map_err(told)?;
        Ok(Slack {
            disk_bytes: disk,
            slack_bytes: disk.saturating_sub(needed),
        })
    }
}

fn needed_bytes(view: &View) -> Result<u64, Fault> {
    let mut needed = view.blocks()?.len()? * BLOCK_BYTES
        + view.digests()?.len()? * DIGEST_BYTES
        + view.heads_v1()?.len()? * DIGEST_BYTES
        + view.sections_table()?.len()? * SECTIONS_BYTES
        + view.heights()?.len()? * HEIGHT_BYTES;
    let watching = view.watching();
    needed += watching.watches()?.len()? * WATCH_BYTES
        + watching.starts()?.len()? * WATCH_START_BYTES
        + watching.events()?.len()? * EVENT_BYTES
        + (watching.event_blocks()?.len()? + watching.deep_due()?.len()?) * EVENT_KEY_BYTES;
    if let Some(full) = view.kept() {
        needed += full.heads_v2()?.len()? * DIGEST_BYTES
            + full.states()?.len()? * STATE_BYTES
            + (full.locator()?.len()? + full.state_locator()?.len()?) * LOCATOR_BYTES;
    }
    for (column, _, len) in view.columns()? {
        needed += computed(column, len)?.allocated_bytes;
    }
    if let Some((_, len, _)) = view.marks()? {
        needed += computed(MARKS, len)?.allocated_bytes;
    }
    Ok(needed)
}

#[cfg(unix)]
fn disk_bytes(metadata: &fs::Metadata) -> u64 {
    use std::os::unix::fs::MetadataExt;
    metadata.blocks().saturating_mul(512)
}

#[cfg(not(unix))]
fn disk_bytes(metadata: &fs::Metadata) -> u64 {
    metadata.len()
}

fn tables(view: &View, read: &ReadTransaction) -> Result<Vec<TableSpace>, Fault> {
    let mut tables = vec![
        walked("meta", &read.open_table(META)?)?,
        walked("blocks", &read.open_table(BLOCKS)?)?,
        walked("heights", &read.open_table(HEIGHTS)?)?,
        walked("digest", &read.open_table(DIGEST)?)?,
        walked("heads_v1", &read.open_table(HEADS_V1)?)?,
        walked("sections", &read.open_table(SECTIONS)?)?,
        walked("watches", &read.open_table(WATCHES)?)?,
        walked("watch_starts", &read.open_table(WATCH_STARTS)?)?,
        walked("events", &read.open_table(EVENTS)?)?,
        walked("event_blocks", &read.open_table(EVENT_BLOCKS)?)?,
        walked("deep_due", &read.open_table(DEEP_DUE)?)?,
        walked("consumers", &read.open_table(CONSUMERS)?)?,
        walked("tokens", &read.open_table(TOKENS)?)?,
    ];
    if view.kept().is_some() {
        tables.push(walked("heads_v2", &read.open_table(HEADS_V2)?)?);
        tables.push(walked("states", &read.open_table(STATES)?)?);
        tables.push(walked("state_locator", &read.open_table(STATE_LOCATOR)?)?);
        tables.push(walked("locator", &read.open_table(LOCATOR)?)?);
    }
    for (column, _, len) in view.columns()? {
        tables.push(computed(column, len)?);
    }
    if let Some((_, len, _)) = view.marks()? {
        tables.push(computed(MARKS, len)?);
    }
    Ok(tables)
}

fn walked(name: &'static str, table: &impl ReadableTableMetadata) -> Result<TableSpace, Fault> {
    let stats = table.stats()?;
    Ok(TableSpace {
        name,
        rows: table.len()?,
        stored_bytes: stats.stored_bytes(),
        allocated_bytes: stats.stored_bytes() + stats.metadata_bytes() + stats.fragmented_bytes(),
    })
}

fn computed(column: Column, len: u64) -> Result<TableSpace, Fault> {
    let chunks = u64::from(column.chunks(len)?);
    let page = |bytes: u64| (bytes + LEAF_OVERHEAD).div_ceil(PAGE).next_power_of_two() * PAGE;
    let full = len / column.chunk_items();
    let rest = len % column.chunk_items() * column.item_bytes() as u64;
    let mut allocated = full * page(column.chunk_bytes() as u64);
    if rest > 0 {
        allocated += page(rest);
    }
    let mut below = chunks;
    while below > 1 {
        below = below.div_ceil(BRANCH_CHUNKS);
        allocated += below * PAGE;
    }
    Ok(TableSpace {
        name: column.name(),
        rows: chunks,
        stored_bytes: len * column.item_bytes() as u64 + chunks * 4,
        allocated_bytes: allocated,
    })
}
