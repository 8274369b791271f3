//! What columns of the native protocol have of a block ([`section`]), the hashes that bind it, and the chain of these.

use bitcoin::{BlockHash, Txid};
use redb::TableDefinition;

use super::block::CompressedTweak;
use super::error::{Fault, StoreError};
use super::heads::first_height;
use super::meta::{Keep, Meta};
use super::record::{BlockRecord, SpendRow, Spender, StateRow};
use super::schema::BlockRow;
use super::snapshot::Snapshot;
use super::view::{Full, View};
use crate::BlockId;
use crate::curve::TweakPoint;
use crate::wire::native::column::{CHUNK_BLOCKS, Column, PartHead, append_part};
use crate::wire::native::section::{
    self, HeaderSection, Output, SectionHashes, Spends, SpentOutput, State, section_hash,
};
use crate::wire::native::selection::{Selection, varies, write_selected};

/// Height to [`Sections`], as bytes.
pub const SECTIONS: TableDefinition<'static, u32, &[u8; Sections::BYTES]> =
    TableDefinition::new("sections");

/// What binds the sections of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sections {
    /// Of each section.
    pub hashes: SectionHashes,
    /// Of all up to the block ([`SectionHashes::next_head`]); `None` below the start of the chain, which is that of the
    /// other chains of hashes, and in an index that keeps tweaks only.
    pub head: Option<[u8; 32]>,
}

impl Sections {
    /// Length of its bytes: the hashes, then the head, 32 zeros for none.
    pub const BYTES: usize = SectionHashes::BYTES + 32;

    pub(super) fn encode(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        let (hashes, head) = bytes.split_at_mut(SectionHashes::BYTES);
        hashes.copy_from_slice(&self.hashes.encode());
        head.copy_from_slice(&self.head.unwrap_or_default());
        bytes
    }

    pub(super) fn decode(bytes: &[u8; Self::BYTES]) -> Self {
        let (mut hashes, mut head) = ([0; SectionHashes::BYTES], [0; 32]);
        hashes.copy_from_slice(&bytes[..SectionHashes::BYTES]);
        head.copy_from_slice(&bytes[SectionHashes::BYTES..]);
        Self {
            hashes: SectionHashes::decode(&hashes),
            head: Some(head).filter(|head| *head != [0; 32]),
        }
    }
}

/// The hashes of a block whose sections `write` writes.
fn hashes<E>(
    keep: Keep,
    mut write: impl FnMut(Column, &mut Vec<u8>) -> Result<(), E>,
) -> Result<SectionHashes, E> {
    let mut buffer = Vec::new();
    let mut hash = |column| {
        if keep == Keep::Tweaks && column != Column::Tweaks {
            return Ok([0; 32]);
        }
        buffer.clear();
        write(column, &mut buffer)?;
        Ok(section_hash(&buffer))
    };
    Ok(SectionHashes {
        tweaks: hash(Column::Tweaks)?,
        prefixes: hash(Column::Prefixes)?,
        outputs: hash(Column::Outputs)?,
        spent: hash(Column::Spent)?,
        new_utxos: hash(Column::NewUtxos)?,
        spends: hash(Column::Spends)?,
    })
}

impl BlockRecord {
    /// Hashes of its sections, as an index has them that keeps so much of it.
    pub fn section_hashes(&self, keep: Keep) -> SectionHashes {
        hashes_of(self, keep)
    }
}

/// The hashes of a record.
pub(super) fn hashes_of(record: &BlockRecord, keep: Keep) -> SectionHashes {
    let written = hashes(keep, |column, out| {
        write_of_record(record, column, out);
        Ok::<_, std::convert::Infallible>(())
    });
    match written {
        Ok(hashes) => hashes,
        Err(never) => match never {},
    }
}

/// The hash of what `spends` has of a block.
pub(super) fn spends_hash(spent: &[SpendRow], states: &[StateRow]) -> [u8; 32] {
    let mut section = Vec::new();
    spends(spent, states).encode(&mut section);
    section_hash(&section)
}

/// The hashes of an indexed block, from its rows.
pub(super) fn hashes_at(view: &View, height: u32, row: &BlockRow) -> Result<SectionHashes, Fault> {
    hashes(view.meta.keep, |column, out| {
        write(view, height, row, column, out)
    })
}

/// The same of a block whose spenders are not known, in a file that has no place for them yet.
pub(super) fn hashes_without_spenders(view: &View, height: u32) -> Result<SectionHashes, Fault> {
    let row = view.present_row(height)?;
    hashes(view.meta.keep, |column, out| match column {
        Column::Spends => {
            let rows = view.spent_rows(view.full("spends")?, &row)?;
            spends(&rows, &[]).encode(out);
            Ok(())
        }
        column => write(view, height, &row, column, out),
    })
}

/// All but `headers`.
fn write_of_record(record: &BlockRecord, column: Column, out: &mut Vec<u8>) {
    let outputs = record.outputs.iter();
    match column {
        // Of no record alone.
        Column::Headers | Column::Selected => {}
        Column::Tweaks => {
            let rows = record.transactions.iter();
            let tweaks = rows.map(|row| TweakPoint::from_bytes(row.tweak).to_compressed());
            section::write_tweaks(&tweaks.collect::<Vec<CompressedTweak>>(), out);
        }
        Column::Prefixes => {
            let keys = outputs.map(|output| (output.transaction as usize, &output.key));
            section::write_prefixes(keys, out);
        }
        Column::Outputs => {
            let txids: Vec<Txid> = record.transactions.iter().map(|row| row.txid).collect();
            let outputs = outputs.map(|output| {
                let row = Output {
                    vout: output.vout,
                    value_sat: output.value_sat,
                    key: output.key,
                };
                (output.transaction as usize, row)
            });
            write_outputs(&txids, outputs, out);
        }
        Column::Spent => out.extend_from_slice(&record.spent_filter),
        Column::NewUtxos => out.extend_from_slice(&record.new_utxos_filter),
        Column::Spends => spends(&record.spends, &record.states).encode(out),
    }
}

/// Appends the section of an indexed block. An index that keeps tweaks only has the first two columns.
pub(super) fn write(
    view: &View,
    height: u32,
    row: &BlockRow,
    column: Column,
    out: &mut Vec<u8>,
) -> Result<(), Fault> {
    match column {
        Column::Headers => header(view, height, row)?.encode(out),
        Column::Tweaks => {
            section::write_tweaks(&view.compressed(row.transactions.range())?, out);
        }
        Column::Prefixes => {
            let outputs = view.outputs_of(view.full("outputs")?, row)?;
            let keys = outputs
                .iter()
                .map(|output| (output.index, &output.item.key));
            section::write_prefixes(keys, out);
        }
        Column::Outputs => {
            let full = view.full("outputs")?;
            let txids = view.txids(full, row.transactions)?;
            let outputs = view.outputs_of(full, row)?;
            let outputs = outputs.iter().map(|output| {
                let row = Output {
                    vout: output.item.vout,
                    value_sat: output.item.value_sat,
                    key: output.item.key,
                };
                (output.index, row)
            });
            write_outputs(&txids, outputs, out);
        }
        Column::Spent => {
            let full = view.full("filters")?;
            out.extend_from_slice(&view.filter_bytes(full, row.spent_filter)?);
        }
        Column::NewUtxos => {
            let full = view.full("filters")?;
            out.extend_from_slice(&view.filter_bytes(full, row.new_utxos_filter)?);
        }
        Column::Spends => {
            let full = view.full("spends")?;
            spends_at(view, full, height, row)?.encode(out);
        }
        Column::Selected => {
            let all = std::iter::repeat_n(true, row.transactions.count as usize);
            write_selected(all, out);
        }
    }
    Ok(())
}

fn spends_at(view: &View, full: &Full, height: u32, row: &BlockRow) -> Result<Spends, Fault> {
    Ok(spends(
        &view.spends(full, row)?,
        &view.states(full, height)?,
    ))
}

fn header(view: &View, height: u32, row: &BlockRow) -> Result<HeaderSection, Fault> {
    let states = match view.kept() {
        Some(full) => view.states(full, height)?.len(),
        None => 0,
    };
    Ok(HeaderSection {
        header: row.header,
        transactions: row.transactions.count,
        outputs: row.outputs.count,
        spends: row.spends.count,
        // At most one for each output of a block.
        states: states as u32,
        hashes: view.sections(height)?.hashes,
    })
}

fn write_outputs(
    txids: &[Txid],
    outputs: impl Iterator<Item = (usize, Output)>,
    out: &mut Vec<u8>,
) {
    let mut outputs = outputs.peekable();
    let mut own = Vec::new();
    for (index, txid) in txids.iter().enumerate() {
        own.clear();
        while let Some((_, output)) = outputs.next_if(|(of, _)| *of == index) {
            own.push(output);
        }
        section::write_transaction(txid, &own, out);
    }
}

fn spends(spends: &[SpendRow], states: &[StateRow]) -> Spends {
    let spent = spends.iter().map(|spend| SpentOutput {
        outpoint: spend.outpoint,
        key_prefix: spend.key_prefix,
        spender: spend
            .spender
            .map(|Spender { transaction, input }| (transaction, input)),
    });
    let states = states.iter().map(|state| State {
        transaction: state.transaction,
        vout: state.vout,
        txid: state.txid,
        state_id: state.state_id,
    });
    Spends {
        spent: spent.collect(),
        states: states.collect(),
    }
}

/// The chain of hashes from one block on.
pub(super) struct Chain {
    first: Option<u32>,
    before: [u8; 32],
}

impl Chain {
    /// From the first block of an index on.
    pub(super) fn start(meta: &Meta) -> Self {
        Self {
            first: first_height(meta).filter(|_| meta.keep == Keep::Full),
            before: [0; 32],
        }
    }

    /// From the child of a block on, or from the first block.
    pub(super) fn from(view: &View, parent: Option<BlockId>) -> Result<Self, Fault> {
        let mut chain = Self::start(&view.meta);
        if let (Some(first), Some(parent)) = (chain.first, parent)
            && parent.height >= first
        {
            let head = view.sections(parent.height)?.head;
            chain.before = head.ok_or_else(|| Fault::row("sections", parent.height, "no head"))?;
        }
        Ok(chain)
    }

    /// The row of the next block.
    pub(super) fn next(
        &mut self,
        height: u32,
        hash: &BlockHash,
        hashes: SectionHashes,
    ) -> Sections {
        let head = self.first.filter(|first| *first <= height).map(|_| {
            self.before = hashes.next_head(&self.before, hash);
            self.before
        });
        Sections { hashes, head }
    }
}

impl View {
    /// What binds the sections of the block at a height, which is indexed.
    pub(super) fn sections(&self, height: u32) -> Result<Sections, Fault> {
        let row = self.sections_table()?.get(height)?;
        let row = row.ok_or_else(|| Fault::row("sections", height, "missing"))?;
        Ok(Sections::decode(row.value()))
    }
}

/// A part, and the last of its blocks.
pub struct Part {
    /// Head, lengths, sections.
    pub bytes: Vec<u8>,
    /// The last block.
    pub last: BlockId,
}

impl Snapshot {
    /// A part: a column of the blocks at these heights, a chunk of them at most. `None` if one of them is not indexed.
    ///
    /// # Errors
    /// [`StoreError::NotKept`] for any but `headers` and `tweaks` of an index that keeps tweaks only.
    pub fn part(&self, column: Column, from: u32, to: u32) -> Result<Option<Part>, StoreError> {
        let mut bytes = Vec::new();
        let last = self.append_part(column, None, from, to, &mut bytes)?;
        Ok(last.map(|last| Part { bytes, last }))
    }

    /// Appends a part, of a selection if one is given: by its rule at this commit, whatever tip it names. Its last block;
    /// `None`, with nothing appended, if one of them is not indexed.
    ///
    /// # Errors
    /// [`StoreError::NotKept`] for any but `headers` and `tweaks` of an index that keeps tweaks only, and for a selection.
    pub fn append_part(
        &self,
        column: Column,
        selection: Option<&Selection>,
        from: u32,
        to: u32,
        out: &mut Vec<u8>,
    ) -> Result<Option<BlockId>, StoreError> {
        let to = to.min(from.saturating_add(CHUNK_BLOCKS - 1));
        let ends = (self.block(from)?, self.block(to)?);
        let (Some(_), Some(last)) = ends else {
            return Ok(None);
        };
        let selection = selection.filter(|_| varies(column));
        let head = PartHead {
            network: self.network(),
            column: Some(column),
            is_selection: selection.is_some(),
            first: from,
            blocks: to - from + 1,
            bytes: 0,
            last_hash: last.id().hash,
        };
        append_part(out, head, selection, |height, out| {
            // An index has no gaps.
            let Some(block) = self.block(height)? else {
                return self.read(|_| Err(Fault::row("blocks", height, "missing")));
            };
            match selection {
                Some(selection) => block.write_selected_section(column, selection.rule.into(), out),
                None => block.write_section(column, out),
            }
        })?;
        Ok(Some(last.id()))
    }
}
