//! Columns of consecutive blocks, as parts of the native protocol.

use bitcoin::hashes::{Hash, HashEngine, sha256};

use super::{BlockReading, DeskError, Reading};
use crate::BlockId;
use crate::store::Block;
use crate::wire::native::column::{Column, PartHead};
use crate::wire::native::section::HeaderSection;
use crate::wire::native::selection::{Rule, Selection};

/// A part takes no more than so many bytes for each transaction, output and spend of its blocks, and beside them.
const ROW_BYTES: [u64; 3] = [40, 64, 96];

impl Reading<'_> {
    /// First height the index holds, or will hold.
    pub fn first_height(&self) -> u32 {
        self.snapshot.first_height()
    }

    /// Whether what blocks from a height on have of a column can still change, though they stay in the chain: spenders that
    /// are not known yet ([`Column::tells_spenders`]).
    pub fn may_grow(&self, column: Column, from: u32) -> bool {
        let known_from = self.snapshot.spenders_from();
        column.tells_spenders() && known_from.is_some_and(|known_from| from < known_from)
    }

    /// At least how many bytes the parts of these columns take over these heights, about.
    ///
    /// # Errors
    /// As [`block`](Self::block).
    pub fn weight(&self, columns: &[Column], from: u32, to: u32) -> Result<u64, DeskError> {
        let mut weight = 0;
        for height in from..=to {
            let BlockReading { block, .. } = self.block(height)?;
            let of_block = columns.iter().map(|column| section_weight(&block, *column));
            weight += of_block.sum::<u64>();
        }
        Ok(weight)
    }

    /// The selection by a rule at the tip.
    ///
    /// # Errors
    /// [`DeskError::NothingIndexed`].
    pub fn selection(&self, rule: Rule) -> Result<Selection, DeskError> {
        let tip = self.status()?.tip;
        Ok(Selection { rule, tip })
    }

    /// Up to which of these heights the parts of these columns take no more than so many bytes, one block at least, and how many
    /// they take, about.
    ///
    /// # Errors
    /// As [`block`](Self::block).
    pub fn fitting(
        &self,
        columns: &[Column],
        from: u32,
        to: u32,
        most: u64,
    ) -> Result<(u32, u64), DeskError> {
        let mut weight = self.weight(columns, from, from)?;
        for height in from + 1..=to {
            let with = weight + self.weight(columns, height, height)?;
            if with > most {
                return Ok((height - 1, weight));
            }
            weight = with;
        }
        Ok((to, weight))
    }

    /// Appends a part and gives its last block: a column of the blocks at these heights, a chunk of them at most; or what a
    /// selection has of it, which must have been made at this tip if it hangs on one.
    ///
    /// # Errors
    /// As [`block`](Self::block), and that the index does not keep the column.
    pub fn append_part(
        &self,
        column: Column,
        selection: Option<&Selection>,
        from: u32,
        to: u32,
        out: &mut Vec<u8>,
    ) -> Result<BlockId, DeskError> {
        let last = self
            .snapshot
            .append_part(column, selection, from, to, out)?;
        match last {
            Some(last) => Ok(last),
            None if self.snapshot.tip().is_none() => Err(DeskError::NothingIndexed),
            None => Err(DeskError::UnknownHeight { height: to }),
        }
    }

    /// What names the parts of these columns over these heights, and any other bytes not: by the hashes of their sections,
    /// which cost less than a hash of all.
    ///
    /// # Errors
    /// As [`block`](Self::block).
    pub fn name_parts(
        &self,
        columns: &[Column],
        selection: Option<&Selection>,
        from: u32,
        to: u32,
    ) -> Result<[u8; 32], DeskError> {
        let mut name = sha256::Hash::engine();
        let network = self.snapshot.network();
        for column in columns {
            let head = PartHead {
                network,
                column: Some(*column),
                is_selection: selection.is_some(),
                first: from,
                blocks: to - from + 1,
                bytes: 0,
                last_hash: self.block(to)?.id().hash,
            };
            name.input(&head.encode());
        }
        name.input(
            &selection
                .map(Selection::encode)
                .unwrap_or([0; Selection::BYTES]),
        );
        for height in from..=to {
            let hashes = self.block(height)?.sections()?.hashes;
            for column in columns {
                match column {
                    Column::Headers => name.input(&hashes.encode()),
                    Column::Tweaks => name.input(&hashes.tweaks),
                    Column::Prefixes => name.input(&hashes.prefixes),
                    Column::Outputs => name.input(&hashes.outputs),
                    Column::Spent => name.input(&hashes.spent),
                    Column::Spends => name.input(&hashes.spends),
                    Column::NewUtxos => name.input(&hashes.new_utxos),
                    // It follows from the selection, which names the tip.
                    Column::Selected => {}
                }
            }
        }
        Ok(sha256::Hash::from_engine(name).to_byte_array())
    }

    /// The mark at the end of a range that reaches to a block.
    ///
    /// # Errors
    /// [`DeskError::NothingIndexed`].
    pub fn end_mark(&self, reached: BlockId) -> Result<[u8; PartHead::BYTES], DeskError> {
        Ok(PartHead::end(self.status()?.network, reached).encode())
    }
}

fn section_weight(block: &Block<'_>, column: Column) -> u64 {
    let [transactions, outputs, spends] = ROW_BYTES;
    let counts = [
        block.transaction_count(),
        block.output_count(),
        block.spend_count(),
    ];
    let [of_transactions, of_outputs, of_spends] = counts.map(u64::from);
    4 + match column {
        Column::Headers => HeaderSection::BYTES as u64,
        Column::Tweaks => 33 * of_transactions,
        Column::Prefixes => 4 * of_outputs,
        Column::Outputs => transactions * of_transactions + outputs * of_outputs,
        Column::Spent => 8 + 3 * of_spends,
        // Of all outputs of the block, of which the index does not know the number.
        Column::NewUtxos => 8 + 6 * of_outputs,
        Column::Spends => spends * of_spends,
        Column::Selected => of_transactions / 8 + 1,
    }
}
