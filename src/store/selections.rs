//! Selections: columns of the transactions of each block alone that a rule keeps at this commit.

use super::block::{Block, Kept, RowFilter};
use super::error::{Fault, StoreError};
use super::schema::BlockRow;
use super::sections;
use super::view::View;
use crate::wire::native::column::Column;
use crate::wire::native::section;
use crate::wire::native::selection::{Rule, varies, write_selected};

impl From<Rule> for RowFilter {
    fn from(rule: Rule) -> Self {
        Self {
            dust_limit_sat: rule.dust_limit_sat,
            cut_through: rule.cut_through,
        }
    }
}

/// Appends what a selection has of a column of an indexed block.
fn write(
    view: &View,
    height: u32,
    row: &BlockRow,
    column: Column,
    filter: RowFilter,
    out: &mut Vec<u8>,
) -> Result<(), Fault> {
    if !varies(column) {
        return sections::write(view, height, row, column, out);
    }
    let outputs = view.outputs_of(view.full("outputs")?, row)?;
    let kept = Kept::new(row, &outputs, filter);
    let selected = (0..row.transactions.count as usize).map(|index| kept.has(index));
    match column {
        Column::Tweaks => {
            let tweaks = view.compressed(row.transactions.range())?.into_iter();
            let tweaks = tweaks.zip(selected).filter(|(_, is_kept)| *is_kept);
            let tweaks: Vec<_> = tweaks.map(|(tweak, _)| tweak).collect();
            section::write_tweaks(&tweaks, out);
        }
        Column::Prefixes => {
            let outputs = outputs.iter().filter(|output| kept.has(output.index));
            let keys = outputs.map(|output| (output.index, &output.item.key));
            section::write_prefixes(keys, out);
        }
        _ => write_selected(selected, out),
    }
    Ok(())
}

impl Block<'_> {
    /// Appends what a selection has of a column of the block: of `selected`, `tweaks` and `prefixes` the transactions alone
    /// that pass the filter, in block order; of the others all.
    ///
    /// # Errors
    /// [`StoreError::NotKept`] for an index that keeps tweaks only.
    pub fn write_selected_section(
        &self,
        column: Column,
        filter: RowFilter,
        out: &mut Vec<u8>,
    ) -> Result<(), StoreError> {
        self.read(|view, row| write(view, self.id().height, row, column, filter, out))
    }
}
