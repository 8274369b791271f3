//! Writes a plan in one transaction.

use bitcoin::hashes::Hash;
use redb::{Database, Durability, WriteTransaction};

use super::bitmap;
use super::column::Column;
use super::error::Fault;
use super::plan::Plan;
use super::schema::{
    BLOCKS, DIGEST, FILTERS, HEIGHTS, LOCATOR, MULTIPLES, OUTPUTS, OutputItem, SPENDS, TWEAKS,
    TXIDS, UNDO,
};

/// Commits a plan: on disk when this returns, or not at all.
///
/// Quick repair stores the engine's allocator state with each commit and takes a second sync, for which a file that
/// was not closed opens at once instead of after three passes over all of it.
pub(super) fn commit(database: &Database, plan: &Plan<'_>) -> Result<(), Fault> {
    let mut write = database.begin_write()?;
    write.set_durability(Durability::Immediate)?;
    write.set_quick_repair(true);
    write_columns(&write, plan)?;
    write_spent(&write, plan)?;
    write_locators(&write, plan)?;
    write_blocks(&write, plan)?;
    write_undo(&write, plan)?;
    write.commit()?;
    Ok(())
}

fn write_columns(write: &WriteTransaction, plan: &Plan<'_>) -> Result<(), Fault> {
    let column = |column: Column| write.open_table(column.definition());

    let (old, cut) = (plan.old.transactions, plan.cut.transactions);
    let mut table = column(TWEAKS)?;
    let mut tail = TWEAKS.truncate(&mut table, old, cut)?;
    for row in plan.connect.iter().flat_map(|record| &record.transactions) {
        tail.push(&row.tweak)?;
    }
    tail.finish()?;

    if plan.multiples {
        let mut table = column(MULTIPLES)?;
        let mut tail = MULTIPLES.truncate(&mut table, old, cut)?;
        for multiple in plan.connect.iter().flat_map(|record| &record.multiples) {
            tail.push(multiple)?;
        }
        tail.finish()?;
    }

    let mut table = column(TXIDS)?;
    let mut tail = TXIDS.truncate(&mut table, old, cut)?;
    for row in plan.connect.iter().flat_map(|record| &record.transactions) {
        tail.push(row.txid.as_byte_array())?;
    }
    tail.finish()?;

    let mut table = column(OUTPUTS)?;
    let mut tail = OUTPUTS.truncate(&mut table, plan.old.outputs, plan.cut.outputs)?;
    for (record, row) in plan.connect.iter().zip(&plan.rows) {
        for output in &record.outputs {
            let item = OutputItem {
                key: output.key,
                value_sat: output.value_sat,
                vout: output.vout,
                // Below TRANSACTIONS_MAX: the plan has laid the blocks out.
                transaction: (row.transactions.first + u64::from(output.transaction)) as u32,
            };
            tail.push(&item.encode())?;
        }
    }
    tail.finish()?;

    let mut table = column(SPENDS)?;
    let mut tail = SPENDS.truncate(&mut table, plan.old.spends, plan.cut.spends)?;
    for spend in plan.connect.iter().flat_map(|record| &record.spends) {
        tail.push(&spend.encode())?;
    }
    tail.finish()?;

    let mut table = column(FILTERS)?;
    let mut tail = FILTERS.truncate(&mut table, plan.old.filter_bytes, plan.cut.filter_bytes)?;
    for record in plan.connect {
        tail.push(&record.new_utxos_filter)?;
        tail.push(&record.spent_filter)?;
    }
    tail.finish()
}

fn write_spent(write: &WriteTransaction, plan: &Plan<'_>) -> Result<(), Fault> {
    let mut table = write.open_table(super::schema::SPENT.definition())?;
    bitmap::write(
        &mut table,
        &bitmap::Change {
            old: plan.old.outputs,
            cut: plan.cut.outputs,
            new: plan.new.outputs,
            clear: &plan.clear,
            set: &plan.set,
        },
    )
}

fn write_locators(write: &WriteTransaction, plan: &Plan<'_>) -> Result<(), Fault> {
    let mut table = write.open_table(LOCATOR)?;
    for key in &plan.forget {
        if table.remove(key)?.is_none() {
            return Err(Fault::row("locator", hex(key), "missing"));
        }
    }
    for key in &plan.locate {
        if table.insert(key, ())?.is_some() {
            return Err(Fault::row("locator", hex(key), "there already"));
        }
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn write_blocks(write: &WriteTransaction, plan: &Plan<'_>) -> Result<(), Fault> {
    let mut blocks = write.open_table(BLOCKS)?;
    let mut heights = write.open_table(HEIGHTS)?;
    let mut digests = write.open_table(DIGEST)?;
    for id in &plan.disconnect {
        blocks.remove(id.height)?;
        heights.remove(id.hash.as_byte_array())?;
        digests.remove(id.height)?;
    }
    let connected = plan.connect.iter().zip(&plan.rows).zip(&plan.digests);
    for ((record, row), digest) in connected {
        blocks.insert(record.id.height, &row.encode())?;
        digests.insert(record.id.height, digest)?;
    }
    // Sorted, because hashes come in no order.
    let mut by_hash: Vec<_> = plan.connect.iter().map(|record| record.id).collect();
    by_hash.sort_unstable_by_key(|id| *id.hash.as_byte_array());
    for id in by_hash {
        heights.insert(id.hash.as_byte_array(), id.height)?;
    }
    Ok(())
}

fn write_undo(write: &WriteTransaction, plan: &Plan<'_>) -> Result<(), Fault> {
    let mut table = write.open_table(UNDO)?;
    for id in &plan.disconnect {
        table.remove(id.height)?;
    }
    for (height, positions) in &plan.undo {
        let row = super::schema::encode_undo(positions);
        table.insert(height, row.as_slice())?;
    }
    table.retain_in(..plan.undo_from, |_, _| false)?;
    Ok(())
}
