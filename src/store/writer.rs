//! Writes a plan in one transaction.

use std::path::Path;
use std::sync::Arc;

use bitcoin::hashes::Hash;
use redb::{Database, Durability, WriteTransaction};

use super::bitmap;
use super::column::Column;
use super::error::Fault;
use super::heads::{HEADS_V1, HEADS_V2};
use super::locator::hex;
use super::meta::{Keep, write_deferred, write_spenders_from};
use super::plan::Plan;
use super::schema::{
    BLOCKS, DIGEST, FILTERS, FIRSTS, FOREIGN, HEIGHTS, LOCATOR, MARKS, MULTIPLES, OUTPUTS,
    OutputItem, SPENDERS, SPENDS, SPENT, SpendItem, SpenderItem, TXIDS, height_key,
};
use super::sections::SECTIONS;
use super::states;
use super::watches::{ChainChange, Committed, Inputs, WatchLog, Watcher};
use crate::curve::TweakPoint;

/// Who writes down what an update means for what is watched, and what it is told of inputs.
pub(super) type Following<'a> = (Arc<dyn Watcher>, Inputs<'a>);

/// Commits a plan, with what whoever follows makes of it: on disk when this returns, or not at all.
///
/// Quick repair stores the engine's allocator state with each commit and takes a second sync, for which a file that
/// was not closed opens at once instead of after three passes over all of it.
pub(super) fn commit(
    database: &Database,
    plan: &Plan<'_>,
    file: &Path,
    following: Option<Following<'_>>,
) -> Result<Option<Committed>, Fault> {
    let mut write = database.begin_write()?;
    write.set_durability(Durability::Immediate)?;
    write.set_quick_repair(true);
    write_tweaks(&write, plan)?;
    if plan.keep == Keep::Full {
        write_columns(&write, plan)?;
        write_spends(&write, plan)?;
        states::write(&write, plan)?;
        write_spent(&write, plan)?;
        write_locators(&write, plan)?;
    }
    write_blocks(&write, plan)?;
    let committed = match following {
        Some((watcher, inputs)) => {
            let change = ChainChange {
                disconnected: &plan.disconnect,
                connected: plan.connect,
                inputs,
            };
            let mut log = WatchLog::open(&write, file)?;
            let committed = watcher.follow(&change, &mut log)?;
            log.finish(plan.tip())?;
            Some(committed)
        }
        None => None,
    };
    write.commit()?;
    Ok(committed)
}

fn write_tweaks(write: &WriteTransaction, plan: &Plan<'_>) -> Result<(), Fault> {
    let (old, cut) = (plan.old.transactions, plan.cut.transactions);
    let column = plan.tweak_form.column();
    let mut table = write.open_table(column.definition())?;
    let mut tail = column.truncate(&mut table, old, cut)?;
    for row in plan.connect.iter().flat_map(|record| &record.transactions) {
        match plan.tweak_form.has_points() {
            true => tail.push(&row.tweak)?,
            false => tail.push(&TweakPoint::from_bytes(row.tweak).to_compressed())?,
        }
    }
    tail.finish()?;

    if plan.tweak_form.has_multiples() {
        let mut table = write.open_table(MULTIPLES.definition())?;
        let mut tail = MULTIPLES.truncate(&mut table, old, cut)?;
        for multiple in plan.connect.iter().flat_map(|record| &record.multiples) {
            tail.push(multiple)?;
        }
        tail.finish()?;
    }
    Ok(())
}

fn write_columns(write: &WriteTransaction, plan: &Plan<'_>) -> Result<(), Fault> {
    let column = |column: Column| write.open_table(column.definition());
    let (old, cut) = (plan.old.transactions, plan.cut.transactions);

    let mut table = column(TXIDS)?;
    let mut tail = TXIDS.truncate(&mut table, old, cut)?;
    for row in plan.connect.iter().flat_map(|record| &record.transactions) {
        tail.push(row.txid.as_byte_array())?;
    }
    tail.finish()?;

    let mut table = column(FIRSTS)?;
    let mut tail = FIRSTS.truncate(&mut table, old, cut)?;
    for record in plan.connect {
        let mut outputs = record.outputs.iter().peekable();
        let mut first: u16 = 0;
        for index in 0..record.transactions.len() {
            tail.push(&first.to_le_bytes())?;
            while outputs
                .next_if(|output| output.transaction as usize == index)
                .is_some()
            {
                // Within BLOCK_OUTPUTS_MAX: the plan has seen the record.
                first = first.wrapping_add(1);
            }
        }
    }
    tail.finish()?;

    let mut table = column(OUTPUTS)?;
    let mut tail = OUTPUTS.truncate(&mut table, plan.old.outputs, plan.cut.outputs)?;
    for output in plan.connect.iter().flat_map(|record| &record.outputs) {
        let item = OutputItem {
            key: output.key,
            value_sat: output.value_sat,
            vout: output.vout,
        };
        tail.push(&item.encode())?;
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

fn write_spends(write: &WriteTransaction, plan: &Plan<'_>) -> Result<(), Fault> {
    let mut spends = write.open_table(SPENDS.definition())?;
    let mut foreign = write.open_table(FOREIGN.definition())?;
    let mut spends = SPENDS.truncate(&mut spends, plan.old.spends, plan.cut.spends)?;
    let mut foreign = FOREIGN.truncate(&mut foreign, plan.old.foreign, plan.cut.foreign)?;
    let mut spenders = write.open_table(SPENDERS.definition())?;
    let mut spenders = SPENDERS.truncate(&mut spenders, plan.old.spends, plan.cut.spends)?;
    for (record, items) in plan.connect.iter().zip(&plan.spends) {
        for (row, item) in record.spends.iter().zip(items) {
            spends.push(&item.encode())?;
            spenders.push(&SpenderItem(row.spender).encode())?;
            if *item == SpendItem::Foreign {
                foreign.push(&row.encode())?;
            }
        }
    }
    spends.finish()?;
    spenders.finish()?;
    foreign.finish()?;
    if plan.spenders_from != plan.old_spenders_from {
        write_spenders_from(write, plan.spenders_from)?;
    }
    Ok(())
}

fn write_spent(write: &WriteTransaction, plan: &Plan<'_>) -> Result<(), Fault> {
    let mut table = write.open_table(SPENT.definition())?;
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
    let Some(deferred) = plan.deferred else {
        return Ok(());
    };
    write_deferred(write, Some(deferred))?;
    let mut table = write.open_table(MARKS.definition())?;
    let len = plan.old.outputs.saturating_sub(deferred.marked);
    let mut tail = MARKS.truncate(&mut table, len, len)?;
    for mark in plan.marks.iter().flatten() {
        tail.push(&mark.to_le_bytes())?;
    }
    tail.finish()
}

fn write_blocks(write: &WriteTransaction, plan: &Plan<'_>) -> Result<(), Fault> {
    let mut blocks = write.open_table(BLOCKS)?;
    let mut heights = write.open_table(HEIGHTS)?;
    let mut digests = write.open_table(DIGEST)?;
    let mut heads_v1 = write.open_table(HEADS_V1)?;
    let mut heads_v2 = match plan.keep {
        Keep::Full => Some(write.open_table(HEADS_V2)?),
        Keep::Tweaks => None,
    };
    let mut sections = write.open_table(SECTIONS)?;
    for id in &plan.disconnect {
        sections.remove(id.height)?;
        blocks.remove(id.height)?;
        heights.remove(&height_key(&id.hash, id.height))?;
        digests.remove(id.height)?;
        heads_v1.remove(id.height)?;
        if let Some(heads_v2) = &mut heads_v2 {
            heads_v2.remove(id.height)?;
        }
    }
    let connected = plan.connect.iter().zip(&plan.rows).zip(&plan.digests);
    for ((record, row), digest) in connected {
        blocks.insert(record.id.height, &row.encode())?;
        digests.insert(record.id.height, digest)?;
    }
    for (record, row) in plan.connect.iter().zip(&plan.sections) {
        sections.insert(record.id.height, &row.encode())?;
    }
    for (record, heads) in plan.connect.iter().zip(&plan.heads) {
        let Some(heads) = heads else { continue };
        heads_v1.insert(record.id.height, &heads.v1)?;
        if let (Some(table), Some(head)) = (&mut heads_v2, &heads.v2) {
            table.insert(record.id.height, head)?;
        }
    }
    // Sorted, because hashes come in no order.
    let ids = plan.connect.iter().map(|record| record.id);
    let mut keys: Vec<_> = ids.map(|id| height_key(&id.hash, id.height)).collect();
    keys.sort_unstable();
    for key in keys {
        heights.insert(&key, ())?;
    }
    Ok(())
}
