//! Everything an index holds, checked against itself and hashed.

use bitcoin::hashes::{Hash, HashEngine, sha256};
use rayon::prelude::*;
use redb::ReadableTable;

use super::column::Column;
use super::error::{Fault, StoreError};
use super::schema::BlockRow;
use super::snapshot::Snapshot;
use super::view::{Chunks, View};
use super::walk::{Sink, WrongRow, walk};

/// Most wrong rows that are kept of each kind: a file with more is named well enough by these.
const WRONG_ROWS_MAX: usize = 1_000;

/// What an index says of its chain, or what of it cannot be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audit {
    /// Every row that contradicts others, as many as a thousand of each kind.
    pub wrong: Vec<WrongRow>,
    /// The [hash](Snapshot::content_hash) over everything, if nothing is wrong.
    pub content_hash: Option<[u8; 32]>,
}

impl Snapshot {
    /// A hash over everything the index says of its chain: two files with the same blocks have the same hash,
    /// however they came to them (batches, reorgs, restarts, compaction), if both were built with the same options.
    ///
    /// Covered are network, first height, what is kept, every directory row (positions included), digest, head, column,
    /// state id and spent bit. Checked but not hashed, because they follow from the rest, are `heights`, `locator` and
    /// `state_locator` (keyed with the file's own random key).
    /// Reads the whole file.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] naming the first row that contradicts another: headers that do not link, ranges that
    /// do not meet, a digest that is not the one of the tweaks, an unspent output without locator, a spent bit that no
    /// block accounts for, and so on.
    pub fn content_hash(&self) -> Result<[u8; 32], StoreError> {
        self.read(|view| {
            let mut content = Content::of(view);
            walk(view, &mut Strict(&mut content))?;
            content.finish(view)
        })
    }

    /// The same, but goes on behind what is wrong. Calls `progress` with the steps that are done and their number.
    ///
    /// # Errors
    /// [`StoreError::Io`] and [`StoreError::Halted`] when the disk fails; what can be read is no error, whatever it says.
    pub fn audit(&self, progress: impl FnMut(u64, u64)) -> Result<Audit, StoreError> {
        self.read(|view| {
            let mut collected = Collected {
                content: Content::of(view),
                progress,
                wrong: Vec::new(),
                alike: [0; 2],
            };
            walk(view, &mut collected)?;
            let Collected {
                content, mut wrong, ..
            } = collected;
            if !wrong.is_empty() {
                return Ok(Audit {
                    wrong,
                    content_hash: None,
                });
            }
            let content_hash = match content.finish(view) {
                Ok(hash) => Some(hash),
                Err(fault) => {
                    // The walk does not read every column.
                    wrong.push(WrongRow::of_fault(fault, None)?);
                    None
                }
            };
            Ok(Audit {
                wrong,
                content_hash,
            })
        })
    }
}

/// The hash in the making.
struct Content(sha256::HashEngine);

impl Content {
    fn of(view: &View) -> Self {
        let meta = &view.meta;
        let mut hash = sha256::Hash::engine();
        hash.input(meta.network.to_core_arg().as_bytes());
        hash.input(&meta.first_height.to_le_bytes());
        hash.input(meta.keep.name().as_bytes());
        hash.input(meta.tweak_form.name().as_bytes());
        Self(hash)
    }

    fn block(&mut self, height: u32, row: &[u8; BlockRow::BYTES], digest: &[u8; 32]) {
        self.0.input(&height.to_le_bytes());
        self.0.input(row);
        self.0.input(digest);
    }

    fn finish(mut self, view: &View) -> Result<[u8; 32], Fault> {
        let columns = view.columns()?;
        let hashes: Vec<_> = columns
            .par_iter()
            .map(|(column, table, len)| column_hash(*column, table, *len))
            .collect();
        for ((column, ..), found) in columns.iter().zip(hashes) {
            self.0.input(column.name().as_bytes());
            self.0.input(&found?);
        }
        for entry in view.heads_v1()?.iter()? {
            let (height, head) = entry?;
            self.0.input(&height.value().to_le_bytes());
            self.0.input(head.value());
        }
        for entry in view.sections_table()?.iter()? {
            let (height, row) = entry?;
            self.0.input(&height.value().to_le_bytes());
            self.0.input(row.value());
        }
        if let Some(full) = view.kept() {
            for entry in full.heads_v2()?.iter()? {
                let (height, head) = entry?;
                self.0.input(&height.value().to_le_bytes());
                self.0.input(head.value());
            }
            for entry in full.states()?.iter()? {
                let (key, value) = entry?;
                self.0.input(key.value());
                self.0.input(value.value());
            }
        }
        Ok(sha256::Hash::from_engine(self.0).to_byte_array())
    }
}

fn column_hash(column: Column, table: &Chunks, len: u64) -> Result<[u8; 32], Fault> {
    let mut hash = sha256::Hash::engine();
    column.visit(table, len, 0..len, |items| {
        hash.input(items);
        Ok(())
    })?;
    Ok(sha256::Hash::from_engine(hash).to_byte_array())
}

/// Ends a walk at the first wrong row.
struct Strict<'c>(&'c mut Content);

impl Sink for Strict<'_> {
    fn block(&mut self, height: u32, row: &[u8; BlockRow::BYTES], digest: &[u8; 32]) {
        self.0.block(height, row, digest);
    }

    fn wrong(&mut self, row: WrongRow) -> Result<(), Fault> {
        Err(Fault::row(row.table, row.key, row.reason))
    }

    fn progress(&mut self, _: u64, _: u64) {}
}

/// Notes wrong rows and lets the walk go on.
struct Collected<P> {
    content: Content,
    progress: P,
    wrong: Vec<WrongRow>,
    /// How many rows are wrong of those that follow from others and those that do not, kept or not.
    alike: [usize; 2],
}

impl<P: FnMut(u64, u64)> Sink for Collected<P> {
    fn block(&mut self, height: u32, row: &[u8; BlockRow::BYTES], digest: &[u8; 32]) {
        self.content.block(height, row, digest);
    }

    fn wrong(&mut self, row: WrongRow) -> Result<(), Fault> {
        let [alike, follows] = &mut self.alike;
        let alike = if row.follows { follows } else { alike };
        *alike += 1;
        if *alike <= WRONG_ROWS_MAX {
            self.wrong.push(row);
        }
        Ok(())
    }

    fn progress(&mut self, done: u64, of: u64) {
        (self.progress)(done, of);
    }
}
