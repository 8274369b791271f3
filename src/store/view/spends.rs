//! What blocks spent: positions, and what is foreign.

use bitcoin::OutPoint;
use rayon::prelude::*;

use super::{Full, View};
use crate::store::error::{Fault, InRow};
use crate::store::position::{OutputPosition, SpendPosition};
use crate::store::record::{SpendRow, Spender};
use crate::store::schema::{BlockRow, FOREIGN, SPENDERS, SPENDS, SpendItem, SpenderItem};

impl View {
    /// What a block spent, in block order, as it is stored.
    pub(in crate::store) fn spend_items(
        &self,
        full: &Full,
        row: &BlockRow,
    ) -> Result<Vec<SpendItem>, Fault> {
        let mut items = Vec::with_capacity(row.spends.count as usize);
        let range = row.spends.range();
        SPENDS.visit(full.spends()?, self.ends.spends, range, |bytes| {
            let bytes = bytes.as_chunks::<{ SpendItem::BYTES }>().0.iter();
            items.extend(bytes.map(|bytes| SpendItem::decode(*bytes)));
            Ok(())
        })?;
        let foreign = items.iter().filter(|item| **item == SpendItem::Foreign);
        if foreign.count() != row.foreign.count as usize {
            let reason = "as many foreign spends as the directory row says are not there";
            return Err(Fault::row(SPENDS.name(), row.spends.first, reason));
        }
        Ok(items)
    }

    /// Who spends what a block spent, in the same order.
    pub(in crate::store) fn spenders(
        &self,
        full: &Full,
        row: &BlockRow,
    ) -> Result<Vec<Option<Spender>>, Fault> {
        let mut spenders = Vec::with_capacity(row.spends.count as usize);
        let range = row.spends.range();
        SPENDERS.visit(full.spenders()?, self.ends.spends, range, |bytes| {
            let items = bytes.as_chunks::<{ SpenderItem::BYTES }>().0.iter();
            spenders.extend(items.map(|bytes| SpenderItem::decode(*bytes).0));
            Ok(())
        })?;
        let known = spenders.iter().flatten();
        let is_known = known.clone().count();
        if !known.is_sorted_by(|a, b| a < b) || is_known != 0 && is_known != spenders.len() {
            return Err(Fault::row(
                SPENDERS.name(),
                row.spends.first,
                "not in block order",
            ));
        }
        Ok(spenders)
    }

    /// The spend at a position, which is one of the block's. Reads no more than it must.
    pub(in crate::store) fn spend_at(
        &self,
        full: &Full,
        row: &BlockRow,
        SpendPosition(position): SpendPosition,
    ) -> Result<SpendRow, Fault> {
        let mut items = Vec::new();
        let range = row.spends.first..position.saturating_add(1);
        SPENDS.visit(full.spends()?, self.ends.spends, range, |bytes| {
            let bytes = bytes.as_chunks::<{ SpendItem::BYTES }>().0.iter();
            items.extend(bytes.map(|bytes| SpendItem::decode(*bytes)));
            Ok(())
        })?;
        let mut spend = match items.pop() {
            Some(SpendItem::Held(output)) => self.held(full)?.get(output)?.spend(),
            Some(SpendItem::Foreign) => {
                let before = items.iter().filter(|item| **item == SpendItem::Foreign);
                let at = row.foreign.first + before.count() as u64;
                let mut foreign = FOREIGN.items(full.foreign()?, self.ends.foreign);
                let item = foreign.get::<{ SpendRow::BYTES }>(at)?;
                SpendRow::decode(&item).in_row(FOREIGN.name(), at)?
            }
            None => return Err(Fault::row(SPENDS.name(), position, "not of its block")),
        };
        let mut spenders = SPENDERS.items(full.spenders()?, self.ends.spends);
        spend.spender = SpenderItem::decode(spenders.get(position)?).0;
        Ok(spend)
    }

    /// The positions among what a block spent, ascending.
    pub(in crate::store) fn spent_by(
        &self,
        full: &Full,
        row: &BlockRow,
    ) -> Result<Vec<OutputPosition>, Fault> {
        let items = self.spend_items(full, row)?;
        let mut positions: Vec<OutputPosition> = items
            .into_iter()
            .filter_map(|item| match item {
                SpendItem::Held(position) => Some(position),
                SpendItem::Foreign => None,
            })
            .collect();
        positions.sort_unstable();
        let first = row.spends.first;
        if positions.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(Fault::row(SPENDS.name(), first, "spends an output twice"));
        }
        if positions
            .last()
            .is_some_and(|last| last.0 >= row.ends().outputs)
        {
            return Err(Fault::row(SPENDS.name(), first, "spends a later output"));
        }
        Ok(positions)
    }

    /// What a block spent that is no output of the index.
    fn foreign(&self, full: &Full, row: &BlockRow) -> Result<Vec<SpendRow>, Fault> {
        let mut foreign = Vec::with_capacity(row.foreign.count as usize);
        let range = row.foreign.range();
        FOREIGN.visit(full.foreign()?, self.ends.foreign, range, |bytes| {
            for item in bytes.chunks_exact(SpendRow::BYTES) {
                foreign.push(SpendRow::decode(item).in_row(FOREIGN.name(), row.foreign.first)?);
            }
            Ok(())
        })?;
        Ok(foreign)
    }

    /// An outpoint that is an unspent output of the index, as far as that has locators, though a block spends it.
    pub(in crate::store) fn foreign_but_held(
        &self,
        full: &Full,
        row: &BlockRow,
    ) -> Result<Option<OutPoint>, Fault> {
        let foreign = self.foreign(full, row)?;
        let held = foreign.par_iter().map(|spend| {
            let position = self.position_of(full, &spend.outpoint)?;
            Ok(position.map(|_| spend.outpoint))
        });
        held.find_first(|held| !matches!(held, Ok(None)))
            .unwrap_or(Ok(None))
    }

    /// What a block spent, in block order, written out.
    pub(in crate::store) fn spends(
        &self,
        full: &Full,
        row: &BlockRow,
    ) -> Result<Vec<SpendRow>, Fault> {
        let mut rows = self.spent_rows(full, row)?;
        for (row, spender) in rows.iter_mut().zip(self.spenders(full, row)?) {
            row.spender = spender;
        }
        Ok(rows)
    }

    /// The same without saying by whom.
    pub(in crate::store) fn spent_rows(
        &self,
        full: &Full,
        row: &BlockRow,
    ) -> Result<Vec<SpendRow>, Fault> {
        let items = self.spend_items(full, row)?;
        let foreign = self.foreign(full, row)?;
        // In the order of the positions each chunk is read once.
        let mut held: Vec<(OutputPosition, usize)> = items
            .iter()
            .enumerate()
            .filter_map(|(index, item)| match item {
                SpendItem::Held(position) => Some((*position, index)),
                SpendItem::Foreign => None,
            })
            .collect();
        held.sort_unstable();
        let mut rows: Vec<Option<SpendRow>> = vec![None; items.len()];
        let mut outputs = self.held(full)?;
        for (position, index) in held {
            let output = outputs.get(position)?;
            if let Some(row) = rows.get_mut(index) {
                *row = Some(output.spend());
            }
        }
        // As many as there are gaps: `spend_items` has counted them.
        let mut foreign = foreign.into_iter();
        let rows = rows
            .into_iter()
            .map(|row| row.or_else(|| foreign.next()))
            .collect::<Option<Vec<SpendRow>>>();
        rows.ok_or_else(|| Fault::row(FOREIGN.name(), row.foreign.first, "missing"))
    }
}
