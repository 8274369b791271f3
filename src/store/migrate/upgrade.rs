//! Files of formats 5 and 6, or copies with sums of older ones: what this format has beyond them is computed from their rows.
//!
//! Spenders and state ids follow from no row: they are marked as missing. Nothing is watched yet.

use std::fs;
use std::path::Path;
use std::time::Instant;

use rayon::prelude::*;
use redb::{Database, ReadableDatabase, WriteTransaction};

use super::PROGRESS_INTERVAL;
use crate::store::error::{Fault, StoreError, explain_io};
use crate::store::heads::{Commitments, HEADS_V1, HEADS_V2, Roll, first_height};
use crate::store::meta::{self, Keep, Meta};
use crate::store::opening::Demand;
use crate::store::replace::{create_like, remove, sync};
use crate::store::schema::{SPENDERS, SpenderItem};
use crate::store::sections::{self, Chain, SECTIONS};
use crate::store::states::{STATE_LOCATOR, STATES};
use crate::store::sums::Summed;
use crate::store::view::View;
use crate::store::{Store, StoreOptions, watches};

/// Blocks whose commitments are computed at a time.
const WINDOW: usize = 256;

/// Copies a file with sums into a new one beside it and upgrades that. A copy that was cut short starts again.
pub(super) fn copy(file: &Path, beside: &Path, options: &StoreOptions) -> Result<(), StoreError> {
    remove(beside)?;
    create_like(beside, file)?;
    fs::copy(file, beside).map_err(|error| explain_io(error, "copy", file))?;
    sync(beside)?;
    upgrade(beside, options)
}

/// Adds to a file with sums what this format has more, in one commit.
pub(super) fn upgrade(file: &Path, options: &StoreOptions) -> Result<(), StoreError> {
    add_tables(file, options).map_err(|fault| fault.in_file(file))?;
    let (store, _) = Store::build(file, options, Demand::Sound)?.ready(file)?;
    drop(store);
    sync(file)
}

fn add_tables(file: &Path, options: &StoreOptions) -> Result<(), Fault> {
    let mut builder = Database::builder();
    builder.set_cache_size(options.cache_bytes);
    let database = builder.create_with_backend(Summed::file(file)?)?;
    let missing = || Fault::row("meta", "schema", "missing");
    let meta = Meta::load(&database.begin_read()?, file, options, Demand::Readable)?;
    let meta = meta.ok_or_else(missing)?;
    let version = meta.version;
    let view = View::new(
        database.begin_read()?,
        meta.into(),
        file.into(),
        options.undo_depth,
        Default::default(),
    )?;
    let write = database.begin_write()?;
    if version < meta::WITH_HEADS {
        add_heads(&write, &view)?;
    }
    watches::create(&write)?;
    meta::raise_version(&write)?;
    write.commit()?;
    Ok(())
}

fn add_heads(write: &WriteTransaction, view: &View) -> Result<(), Fault> {
    write.open_table(HEADS_V1)?;
    write.open_table(SECTIONS)?;
    if view.kept().is_some() {
        write.open_table(HEADS_V2)?;
        write.open_table(STATES)?;
        write.open_table(STATE_LOCATOR)?;
        lack_spenders(write, view)?;
    }
    roll_heads(write, view)?;
    bind_sections(write, view)
}

/// Marks all spenders as missing.
fn lack_spenders(write: &WriteTransaction, view: &View) -> Result<(), Fault> {
    let mut table = write.open_table(SPENDERS.definition())?;
    let mut tail = SPENDERS.truncate(&mut table, 0, 0)?;
    for _ in 0..view.ends.spends {
        tail.push(&SpenderItem::UNKNOWN)?;
    }
    tail.finish()?;
    if view.ends.spends > 0 {
        let tip = view.tip().map(|tip| tip.height.saturating_add(1));
        meta::write_spenders_from(write, tip)?;
    }
    Ok(())
}

fn roll_heads(write: &WriteTransaction, view: &View) -> Result<(), Fault> {
    let (Some(tip), Some(first)) = (view.tip(), first_height(&view.meta)) else {
        return Ok(());
    };
    let mut v1 = write.open_table(HEADS_V1)?;
    let mut v2 = match view.meta.keep {
        Keep::Full => Some(write.open_table(HEADS_V2)?),
        Keep::Tweaks => None,
    };
    let mut roll = Roll::start(first);
    let mut last_line = Instant::now();
    let heights: Vec<u32> = (first..=tip.height).collect();
    for window in heights.chunks(WINDOW) {
        let commitments = window
            .par_iter()
            .map(|&height| Commitments::at(view, height))
            .collect::<Result<Vec<_>, Fault>>()?;
        for (&height, commitments) in window.iter().zip(&commitments) {
            let Some(heads) = roll.next(height, commitments) else {
                continue;
            };
            v1.insert(height, &heads.v1)?;
            if let (Some(table), Some(head)) = (&mut v2, &heads.v2) {
                table.insert(height, head)?;
            }
            if last_line.elapsed() >= PROGRESS_INTERVAL {
                last_line = Instant::now();
                tracing::info!(
                    "migrating the index: commitments of block {height} of {}",
                    tip.height
                );
            }
        }
    }
    Ok(())
}

fn bind_sections(write: &WriteTransaction, view: &View) -> Result<(), Fault> {
    let Some(tip) = view.tip() else {
        return Ok(());
    };
    let mut table = write.open_table(SECTIONS)?;
    let mut chain = Chain::start(&view.meta);
    let mut last_line = Instant::now();
    let heights: Vec<u32> = (view.meta.first_height..=tip.height).collect();
    for window in heights.chunks(WINDOW) {
        let hashes = window
            .par_iter()
            .map(|&height| {
                let hash = view.present_row(height)?.hash;
                Ok((hash, sections::hashes_without_spenders(view, height)?))
            })
            .collect::<Result<Vec<_>, Fault>>()?;
        for (&height, (hash, hashes)) in window.iter().zip(hashes) {
            table.insert(height, &chain.next(height, &hash, hashes).encode())?;
        }
        if last_line.elapsed() >= PROGRESS_INTERVAL {
            last_line = Instant::now();
            let done = window.last().copied().unwrap_or_default();
            tracing::info!(
                "migrating the index: sections of block {done} of {}",
                tip.height
            );
        }
    }
    Ok(())
}
