//! Files of older formats, written anew in this one.
//!
//! The old file is only read. Where its tables are among those of this format, its pages are copied, get sums if they had
//! none ([`pages`]), and what is missing is computed or marked as missing ([`upgrade`]). Otherwise its blocks become records again, and an ordinary [`Store`] beside it takes them, so that
//! what is written is what a sync would have written. When all are there and both files agree on digests, spent outputs
//! and totals, the new one takes the old one's name. Until then nothing but the file `*.migrating` has changed; it may
//! be deleted, and if it is left, the next attempt goes on from where it ends, or starts again.

mod pages;
mod upgrade;

use std::path::Path;
use std::time::{Duration, Instant};

use bitcoin::hashes::Hash;
use bitcoin::{BlockHash, Txid, block::Header, consensus};
use redb::{
    Database, ReadOnlyTable, ReadTransaction, ReadableDatabase, ReadableTable,
    ReadableTableMetadata, TableDefinition,
};

use super::column::Column;
use super::error::{Fault, InRow, StoreError};
use super::meta::{Meta, SAME_TABLES, WITH_SUMS};
use super::opening::{Demand, Opened};
use super::position::OutputPosition;
use super::record::{BlockRecord, OutputRow, SpendRow, TransactionRow, Update};
use super::replace::{create_like, migrated, migration_place, remove, swap, sync};
use super::schema::{
    BLOCK_ITEMS_MAX, DIGEST, FILTER_BYTES_MAX, FILTERS, MULTIPLES, RowError, SCHEMA_VERSION, Span,
    TWEAKS, TXIDS,
};
use super::snapshot::Snapshot;
use super::view::Chunks;
use super::{Store, StoreOptions};
use crate::BlockId;

/// Formats 1 and 2: rows of `blocks` without foreign spends.
const OLD_BLOCKS: TableDefinition<'static, u32, &[u8; OldRow::BYTES]> =
    TableDefinition::new("blocks");
/// Formats 1 and 2: per height the positions that its block spent, 5 bytes BE each, for the last blocks.
const OLD_UNDO: TableDefinition<'static, u32, &[u8]> = TableDefinition::new("undo");
/// Formats 1 and 2: 8 bytes of hash.
const OLD_LOCATOR: TableDefinition<'static, &[u8; 13], ()> = TableDefinition::new("locator");
/// Formats 1 and 2: key 32, amount u64 LE, vout u32 LE, position of its transaction u32 LE.
const OLD_OUTPUTS: Column = Column::new("outputs", 48, 341);
/// Formats 1 and 2: every spend in full.
const OLD_SPENDS: Column = Column::new("spends", SpendRow::BYTES, 372);

/// Rows (transactions, outputs, spends) that one update of the new file takes, or a little more: some hundred megabytes
/// of memory.
const BATCH_ROWS: usize = 1 << 20;
/// Pause between two lines of progress.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);

/// Writes the open file of an older format anew beside it, and swaps the two.
///
/// # Errors
/// [`StoreError::MigrationFailed`]: the old file is as it was.
pub(super) fn migrate(
    file: &Path,
    mut old: Database,
    meta: &Meta,
    options: &StoreOptions,
) -> Result<(), StoreError> {
    let failed = |source: StoreError| StoreError::MigrationFailed {
        file: file.into(),
        found: meta.version,
        source: Box::new(source),
    };
    let beside = migration_place(file);
    tracing::info!(
        "index {} has format {}, migrating it to format {SCHEMA_VERSION} in {}",
        file.display(),
        meta.version,
        beside.display()
    );
    let written = match meta.version {
        WITH_SUMS.. => {
            drop(old);
            upgrade::copy(file, &beside, &meta.options(options))
        }
        SAME_TABLES.. => pages::copy(file, &mut old, &beside, &meta.options(options)),
        _ => write_anew(file, &old, meta, &beside, options),
    };
    if let Err(error) = written {
        // What the disk did not take can go on later; what does not fit never will, and a copy of pages starts again.
        if meta.version >= SAME_TABLES
            || matches!(
                error,
                StoreError::Corrupt { .. } | StoreError::InvalidRecord { .. }
            )
        {
            let _ = remove(&beside);
        }
        return Err(failed(error));
    }
    let kept = migrated(file, meta.version);
    swap(file, &beside, &kept).map_err(failed)?;
    tracing::info!(
        "index {} has format {SCHEMA_VERSION} now; the old file is kept as {} and removed when spindex starts next",
        file.display(),
        kept.display()
    );
    Ok(())
}

fn write_anew(
    file: &Path,
    old: &Database,
    meta: &Meta,
    beside: &Path,
    options: &StoreOptions,
) -> Result<(), StoreError> {
    let told = |fault: Fault| fault.in_file(file);
    let read = old.begin_read().map_err(|error| told(error.into()))?;
    let old = OldIndex::new(&read, meta).map_err(told)?;
    let store = begin(&old, file, beside, &meta.options(options)).map_err(told)?;

    let tip = old.tip().map_err(told)?;
    let start = store.snapshot()?.tip();
    let mut next = start.map_or(meta.first_height, |tip| tip.height.saturating_add(1));
    let mut last_line = Instant::now();
    let mut batch = Vec::new();
    let mut rows = 0;
    while let Some(tip) = tip.filter(|tip| next <= tip.height) {
        let record = old.record(next).map_err(told)?;
        rows += record.transactions.len() + record.outputs.len() + record.spends.len() + 1;
        batch.push(record);
        if rows >= BATCH_ROWS || next == tip.height {
            let disconnect = 0;
            store.apply(Update {
                disconnect,
                connect: &batch,
            })?;
            batch.clear();
            rows = 0;
        }
        if last_line.elapsed() >= PROGRESS_INTERVAL {
            last_line = Instant::now();
            tracing::info!("migrating the index: height {next} of {}", tip.height);
        }
        next = next.saturating_add(1);
    }
    compare(&old, &store.snapshot()?).map_err(told)?;
    store.compact(Duration::ZERO)?;
    drop(store);
    sync(beside)
}

/// The new file: the one an earlier attempt has left, if it is the beginning of the old one, or an empty one.
fn begin(
    old: &OldIndex,
    file: &Path,
    beside: &Path,
    options: &StoreOptions,
) -> Result<Store, Fault> {
    let open = || Store::build(beside, options, Demand::Sound);
    if beside.exists() {
        match open() {
            Ok(Opened::Ready(store, _)) if old.begins_with(&store.snapshot()?)? => {
                return Ok(store);
            }
            Err(error @ StoreError::InUse { .. }) => return Err(error.into()),
            _ => {}
        }
        remove(beside)?;
    }
    create_like(beside, file)?;
    Ok(open()?.ready(beside)?.0)
}

/// Checks that the new file, complete, says what the old one does beyond the records that were copied.
fn compare(old: &OldIndex, new: &Snapshot) -> Result<(), Fault> {
    let tip = old.tip()?;
    let differ =
        |table, key: &dyn ToString, reason: &str| Fault::row(table, key.to_string(), reason);
    if new.tip() != tip {
        return Err(differ("blocks", &"last", "the copy has another tip"));
    }
    if !old.begins_with(new)? {
        return Err(differ("digest", &"last", "not the digest of the tweaks"));
    }
    if new.counts()?.unspent != old.locator.len()? {
        let reason = "as many rows as there are unspent outputs are not there";
        return Err(differ("locator", &"all", reason));
    }
    for entry in old.undo.iter()? {
        let (height, row) = entry?;
        let height = height.value();
        let (items, rest) = row.value().as_chunks::<5>();
        let positions = items.iter().map(|item| {
            let [p0, p1, p2, p3, p4] = *item;
            OutputPosition(u64::from_be_bytes([0, 0, 0, p0, p1, p2, p3, p4]))
        });
        let found = new.block(height)?;
        let found = found.map(|block| block.spent_positions()).transpose()?;
        if !rest.is_empty() || !found.is_some_and(|found| positions.eq(found)) {
            return Err(differ("undo", &height, "not what its block spent"));
        }
    }
    Ok(())
}

/// The tables of a file of format 1 or 2.
struct OldIndex {
    blocks: ReadOnlyTable<u32, &'static [u8; OldRow::BYTES]>,
    digest: ReadOnlyTable<u32, &'static [u8; 32]>,
    undo: ReadOnlyTable<u32, &'static [u8]>,
    locator: ReadOnlyTable<&'static [u8; 13], ()>,
    tweaks: Chunks,
    multiples: Option<Chunks>,
    txids: Chunks,
    outputs: Chunks,
    spends: Chunks,
    filters: Chunks,
    /// The last row: where it ends, the columns do.
    last: Option<(u32, OldRow)>,
}

impl OldIndex {
    fn new(read: &ReadTransaction, meta: &Meta) -> Result<Self, Fault> {
        let column = |column: Column| read.open_table(column.definition());
        let blocks = read.open_table(OLD_BLOCKS)?;
        let last = match blocks.last()? {
            Some((height, row)) => Some((
                height.value(),
                OldRow::decode(row.value()).in_row("blocks", height.value())?,
            )),
            None => None,
        };
        Ok(Self {
            blocks,
            digest: read.open_table(DIGEST)?,
            undo: read.open_table(OLD_UNDO)?,
            locator: read.open_table(OLD_LOCATOR)?,
            tweaks: column(TWEAKS)?,
            multiples: match meta.tweak_form.has_multiples() {
                true => Some(column(MULTIPLES)?),
                false => None,
            },
            txids: column(TXIDS)?,
            outputs: column(OLD_OUTPUTS)?,
            spends: column(OLD_SPENDS)?,
            filters: column(FILTERS)?,
            last,
        })
    }

    fn row(&self, height: u32) -> Result<OldRow, Fault> {
        let row = self.blocks.get(height)?;
        let row = row.ok_or_else(|| Fault::row("blocks", height, "missing"))?;
        OldRow::decode(row.value()).in_row("blocks", height)
    }

    fn tip(&self) -> Result<Option<BlockId>, Fault> {
        Ok(self.last.as_ref().map(|(height, row)| BlockId {
            height: *height,
            hash: row.hash,
        }))
    }

    /// Whether a new file holds this one's blocks up to some height: the same block and digest there.
    fn begins_with(&self, new: &Snapshot) -> Result<bool, Fault> {
        let Some(tip) = new.tip() else {
            return Ok(true);
        };
        let (Some(row), Some(digest)) =
            (self.blocks.get(tip.height)?, self.digest.get(tip.height)?)
        else {
            return Ok(false);
        };
        let row = OldRow::decode(row.value()).in_row("blocks", tip.height)?;
        let new = new.read(|view| view.digest(tip.height))?;
        Ok(row.hash == tip.hash && new == Some(*digest.value()))
    }

    /// A block as it was handed to the old file.
    fn record(&self, height: u32) -> Result<BlockRecord, Fault> {
        let row = self.row(height)?;
        let Some((_, last)) = &self.last else {
            return Err(Fault::row("blocks", height, "missing"));
        };
        let transactions = row.transactions.range();
        let len = last.transactions.end();
        let tweaks = TWEAKS.read(&self.tweaks, len, transactions.clone())?;
        let txids = TXIDS.read(&self.txids, len, transactions.clone())?;
        let multiples = match &self.multiples {
            Some(table) => MULTIPLES.read(table, len, transactions)?,
            None => Vec::new(),
        };
        let rows = txids.as_chunks::<32>().0.iter();
        let rows = rows.zip(tweaks.as_chunks::<64>().0);

        let len = last.outputs.end();
        let outputs = OLD_OUTPUTS.read(&self.outputs, len, row.outputs.range())?;
        let outputs = outputs.as_chunks::<48>().0.iter();
        let len = last.spends.end();
        let spends = OLD_SPENDS.read(&self.spends, len, row.spends.range())?;
        let spends = spends.chunks_exact(SpendRow::BYTES);
        let len = last.spent_filter.end();
        let filter = |span: Span| FILTERS.read(&self.filters, len, span.range());
        Ok(BlockRecord {
            id: BlockId {
                height,
                hash: row.hash,
            },
            header: row.header,
            transactions: rows
                .map(|(txid, tweak)| TransactionRow {
                    txid: Txid::from_byte_array(*txid),
                    tweak: *tweak,
                })
                .collect(),
            multiples: multiples.as_chunks::<64>().0.to_vec(),
            outputs: outputs
                .map(|item| row.output(item).in_row("outputs", row.outputs.first))
                .collect::<Result<_, Fault>>()?,
            spends: spends
                .map(|item| SpendRow::decode(item).in_row("spends", row.spends.first))
                .collect::<Result<_, Fault>>()?,
            states: Vec::new(),
            new_utxos_filter: filter(row.new_utxos_filter)?,
            spent_filter: filter(row.spent_filter)?,
        })
    }
}

/// Directory row of formats 1 and 2: header 80, hash 32, then for transactions, outputs and spends each the first
/// position (u64 LE) and the count (u32 LE), the first byte of its filters (u64 LE) and their lengths (u32 LE each).
struct OldRow {
    header: Header,
    hash: BlockHash,
    transactions: Span,
    outputs: Span,
    spends: Span,
    new_utxos_filter: Span,
    spent_filter: Span,
}

impl OldRow {
    const BYTES: usize = 164;

    fn decode(bytes: &[u8; Self::BYTES]) -> Result<Self, RowError> {
        let (header, rest) = bytes.split_at(80);
        let header = consensus::deserialize(header);
        let (hash, rest) = rest.split_at(32);
        let span = |at: usize, count_max: u32| {
            let first = rest.get(at..).and_then(<[u8]>::first_chunk);
            let count = rest.get(at + 8..).and_then(<[u8]>::first_chunk);
            let (Some(first), Some(count)) = (first, count) else {
                return Err(RowError::Value("too short"));
            };
            let (first, count) = (u64::from_le_bytes(*first), u32::from_le_bytes(*count));
            if count > count_max || first >= 1 << 40 {
                return Err(RowError::Value("a range beyond what its column can hold"));
            }
            Ok(Span { first, count })
        };
        let new_utxos_filter = span(36, FILTER_BYTES_MAX)?;
        let spent_filter = rest.get(48..).and_then(<[u8]>::first_chunk);
        let spent_filter = Span {
            first: new_utxos_filter.end(),
            count: spent_filter.map_or(0, |count| u32::from_le_bytes(*count)),
        };
        if spent_filter.count > FILTER_BYTES_MAX {
            return Err(RowError::Value("a filter longer than a block's can be"));
        }
        Ok(Self {
            header: header.map_err(|_| RowError::Value("no block header"))?,
            hash: BlockHash::from_slice(hash).map_err(|_| RowError::Value("no hash"))?,
            transactions: span(0, BLOCK_ITEMS_MAX)?,
            outputs: span(12, BLOCK_ITEMS_MAX)?,
            spends: span(24, BLOCK_ITEMS_MAX)?,
            new_utxos_filter,
            spent_filter,
        })
    }

    /// An item of `outputs` of this block.
    fn output(&self, item: &[u8; 48]) -> Result<OutputRow, RowError> {
        let [key @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _] = *item;
        let [
            ..,
            a0,
            a1,
            a2,
            a3,
            a4,
            a5,
            a6,
            a7,
            v0,
            v1,
            v2,
            v3,
            t0,
            t1,
            t2,
            t3,
        ] = *item;
        let transaction = u64::from(u32::from_le_bytes([t0, t1, t2, t3]));
        let transaction = transaction.checked_sub(self.transactions.first);
        let transaction = transaction.and_then(|index| u32::try_from(index).ok());
        Ok(OutputRow {
            key,
            value_sat: u64::from_le_bytes([a0, a1, a2, a3, a4, a5, a6, a7]),
            vout: u32::from_le_bytes([v0, v1, v2, v3]),
            transaction: transaction
                .filter(|index| *index < self.transactions.count)
                .ok_or(RowError::Value(
                    "an output of a transaction of another block",
                ))?,
        })
    }
}
