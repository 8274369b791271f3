//! What can still be said of a file whose rows contradict each other: what a check and a repair start from.
//!
//! An index that is to be served or written to must stand without a gap from its first height on. One that is only to be
//! checked is opened all the same, and `meta` is not believed where rows say otherwise.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use redb::{Database, ReadTransaction, ReadableDatabase, ReadableTable, ReadableTableMetadata};

use super::digest::{DIGEST_START, roll_digest};
use super::error::{Fault, StoreError, explain_io};
use super::meta::Meta;
use super::opening::{Demand, open_file};
use super::schema::{BLOCKS, DIGEST, HEIGHTS};
use super::view::View;
use super::walk::WrongRow;
use super::{Store, StoreOptions, Summed, replace};

/// What a damaged file says of the index it was.
#[derive(Debug, Clone, Default)]
pub struct Remains {
    /// What it was built with, to build another like it; `None` if it does not say.
    pub options: Option<StoreOptions>,
    /// Height of its last block, by the number of rows that most of its tables have; `None` if it has no block, or does
    /// not say.
    pub tip_height: Option<u32>,
}

impl Store {
    /// Opens the index file if there is one, also if its rows contradict each other: to be checked and repaired, not to
    /// be written to or served. Gives what had to be corrected in memory to read the rest; everything else that is wrong
    /// is found by [`Snapshot::audit`](super::Snapshot::audit).
    ///
    /// # Errors
    /// As [`open_existing`](Self::open_existing), but only for what makes reading impossible.
    pub fn open_to_check(
        path: &Path,
        options: &StoreOptions,
    ) -> Result<(Self, Vec<WrongRow>), StoreError> {
        let file = replace::followed(path)?;
        replace::finish_swap(&file)?;
        match std::fs::metadata(&file) {
            Ok(_) => Self::open_at(&file, options, Demand::Readable),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(StoreError::Missing { file })
            }
            Err(error) => Err(explain_io(error, "open", &file)),
        }
    }

    /// What the file says of the index it is or was.
    pub fn remains(&self) -> Remains {
        let options = StoreOptions {
            undo_depth: self.undo_depth,
            cache_bytes: self.cache_bytes,
            ..options_of(&self.meta)
        };
        let database = self.database.read().ok();
        let read = database.and_then(|database| database.begin_read().ok());
        Remains {
            options: Some(options),
            tip_height: read.and_then(|read| tip_height(&read, self.meta.first_height).ok()?),
        }
    }
}

/// What a file says of the index it was that cannot be opened as one.
pub fn remains(path: &Path, like: &StoreOptions) -> Remains {
    let read = |salvage: bool| {
        let file = replace::followed(path).ok()?;
        std::fs::metadata(&file).ok()?;
        let builder = Database::builder();
        let database = match salvage {
            true => builder.create_with_backend(Summed::file(&file).ok()?.salvage()),
            false => open_file(&builder, &file).map(|(database, _)| database),
        };
        let database = database.ok()?;
        let read = database.begin_read().ok()?;
        let meta = Meta::load(&read, &file, like, Demand::Readable).ok()??;
        Some(said_by(&read, &meta, like))
    };
    let sound = read(false);
    if let Some(remains) = sound.as_ref().filter(|said| said.tip_height.is_some()) {
        return remains.clone();
    }
    // The engine is not made for pages that are not what it wrote.
    let salvaged = catch_unwind(AssertUnwindSafe(|| read(true)));
    salvaged.ok().flatten().or(sound).unwrap_or_default()
}

fn said_by(read: &ReadTransaction, meta: &Meta, like: &StoreOptions) -> Remains {
    let first = lowest(read).ok().flatten();
    let first_height = first.unwrap_or(meta.first_height).min(meta.first_height);
    Remains {
        options: Some(StoreOptions {
            first_height: Some(first_height),
            ..meta.options(like)
        }),
        tip_height: tip_height(read, first_height).ok().flatten(),
    }
}

fn options_of(meta: &Meta) -> StoreOptions {
    meta.options(&StoreOptions {
        network: meta.network,
        first_height: None,
        keep: None,
        tweak_form: None,
        undo_depth: 0,
        cache_bytes: 0,
    })
}

fn lowest(read: &ReadTransaction) -> Result<Option<u32>, Fault> {
    let blocks = read.open_table(BLOCKS)?;
    let first = blocks.first()?;
    Ok(first.map(|(height, _)| height.value()))
}

fn tip_height(read: &ReadTransaction, first_height: u32) -> Result<Option<u32>, Fault> {
    let counts = [
        read.open_table(BLOCKS)?.len()?,
        read.open_table(HEIGHTS)?.len()?,
        read.open_table(DIGEST)?.len()?,
    ];
    Ok(tip_of(counts, first_height))
}

/// Height of the last block by the number of rows of the three tables that have one per block, of which one may be wrong.
fn tip_of(mut counts: [u64; 3], first_height: u32) -> Option<u32> {
    counts.sort_unstable();
    let [_, count, _] = counts;
    let above = u32::try_from(count.checked_sub(1)?).ok()?;
    first_height.checked_add(above)
}

/// Checks that there is a row of `blocks` for every height from the first one to the tip.
pub(super) fn check_heights(view: &View) -> Result<(), Fault> {
    let Some((lowest, tip)) = view.blocks()?.first()?.zip(view.tip()) else {
        return Ok(());
    };
    let (lowest, first) = (lowest.0.value(), view.meta.first_height);
    if lowest != first {
        return Err(Fault::row(
            "meta",
            "first_height",
            wrong_first(first, lowest),
        ));
    }
    let (rows, heights) = (view.blocks()?.len()?, u64::from(tip.height - first) + 1);
    if rows != heights {
        let reason = format!("{rows} rows for the heights from {first} to {}", tip.height);
        return Err(Fault::row("blocks", "all", reason));
    }
    Ok(())
}

fn wrong_first(first: u32, lowest: u32) -> String {
    format!("{first}, where the lowest block is at {lowest}")
}

/// Sets the first height in memory to that of the rows, if `meta` says otherwise, and gives what is wrong then.
///
/// The lowest row is known to be the first one if its digest is rolled from the start. If it is not, then either rows
/// below it are lost or `meta` is wrong, and the lower of both is taken, so that nothing is left out.
pub(super) fn correct_first_height(
    read: ReadTransaction,
    meta: &mut Meta,
    file: &Path,
) -> Result<Option<WrongRow>, Fault> {
    let (first, Some(lowest)) = (meta.first_height, lowest(&read)?) else {
        return Ok(None);
    };
    if lowest == first {
        return Ok(None);
    }
    let view = View::new(read, Arc::new(meta.clone()), file.into(), 0, Arc::default())?;
    let row = view.present_row(lowest)?;
    let tweaks = view.compressed(row.transactions.range());
    let rolled = tweaks.map(|tweaks| roll_digest(&DIGEST_START, &row.hash, tweaks));
    let is_first = view.digest(lowest)? == rolled.ok();
    meta.first_height = match is_first {
        true => lowest,
        false => lowest.min(first),
    };
    Ok(Some(WrongRow {
        table: "meta",
        key: "first_height".to_owned(),
        height: None,
        reason: wrong_first(first, lowest),
        follows: is_first,
    }))
}

/// Refuses a file whose last row stands far above where its rows can end: all heights up to there would be walked.
pub(super) fn check_tip(view: &View) -> Result<(), Fault> {
    let Some(tip) = view.tip() else {
        return Ok(());
    };
    let counts = [
        view.blocks()?.len()?,
        view.heights()?.len()?,
        view.digests()?.len()?,
    ];
    let known = tip_of(counts, view.meta.first_height);
    if known < Some(tip.height) && check_heights(view).is_err() {
        let reason = "far above the rows before it";
        return Err(Fault::row("blocks", tip.height, reason));
    }
    Ok(())
}
