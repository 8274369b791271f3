//! Who spends what in old blocks, learnt from their source after they were indexed: files of older formats do not say.
//!
//! It is filled in from the top down. Each commit overwrites the end of what is missing and moves the height from which on
//! spenders are known, so that a file is right at any moment and the next commit goes on from there.

use bitcoin::hex::DisplayHex;
use rayon::prelude::*;
use redb::{Database, Durability};

use super::Store;
use super::applied::Applied;
use super::error::{Fault, StoreError};
use super::meta::write_spenders_from;
use super::record::{SpendRow, StateRow};
use super::schema::{LocatorKey, SPENDERS, SpenderItem};
use super::sections::{SECTIONS, Sections, spends_hash};
use super::snapshot::Snapshot;
use super::states;
use super::view::{Full, View};
use crate::BlockId;

/// What a block spends and who spends it, as its source says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockSpends {
    /// The block.
    pub id: BlockId,
    /// Spent taproot outpoints in block order then input order, all of them with their spenders.
    pub spends: Vec<SpendRow>,
    /// State ids that the spenders carry, in block order then by vout.
    pub states: Vec<StateRow>,
}

impl BlockSpends {
    /// Bytes in memory, about.
    pub fn size_bytes(&self) -> usize {
        size_of::<Self>() + size_of_val(&*self.spends) + size_of_val(&*self.states)
    }
}

/// What blocks spend by the word of their source and of the index alike ([`Snapshot::agree_on_spends`]).
#[derive(Debug)]
pub struct AgreedSpends {
    /// Oldest first.
    blocks: Vec<BlockSpends>,
    /// Why the block below these is not among them: [`StoreError::OtherSpends`], or [`StoreError::Corrupt`] for rows of it that
    /// contradict each other.
    pub difference: Option<StoreError>,
}

impl Snapshot {
    /// The highest blocks whose spenders are not known, `most` of them, oldest first; none if all are known.
    ///
    /// # Errors
    /// As [`block`](Self::block).
    pub fn lacking_spenders(&self, most: u32) -> Result<Vec<BlockId>, StoreError> {
        self.read(|view| {
            let first = view.meta.first_height;
            let from = view.spenders_from.unwrap_or(first);
            let heights = from.saturating_sub(most).max(first)..from;
            heights
                .map(|height| Ok(view.present_row(height)?.id(height)))
                .collect()
        })
    }

    /// Holds what consecutive blocks spend, oldest first, against what the index has of them. From the last one down those are
    /// given back that agree; blocks that the index does not have (any more) are left out. Reads what the blocks spend,
    /// which lies all over the file.
    ///
    /// # Errors
    /// [`StoreError::InvalidRecord`] for spends that do not say who spends, or contradict each other;
    /// [`StoreError::NotKept`]; else as [`block`](Self::block).
    pub fn agree_on_spends(&self, blocks: Vec<BlockSpends>) -> Result<AgreedSpends, StoreError> {
        self.read(|view| {
            let full = view.full("spends")?;
            let compared = blocks.par_iter().map(|block| compare(view, full, block));
            let compared: Vec<Result<Compared, Fault>> = compared.collect();
            let mut agreed = AgreedSpends {
                blocks: Vec::new(),
                difference: None,
            };
            for (block, found) in blocks.into_iter().zip(compared).rev() {
                let difference = match found {
                    Ok(Compared::Same) => {
                        agreed.blocks.push(block);
                        continue;
                    }
                    Ok(Compared::Gone) => continue,
                    Ok(Compared::Other(reason)) => StoreError::OtherSpends {
                        file: view.file.to_path_buf(),
                        block: block.id,
                        reason,
                    },
                    Err(fault @ (Fault::Row { .. } | Fault::Told(StoreError::Corrupt { .. }))) => {
                        fault.in_file(&view.file)
                    }
                    Err(fault) => return Err(fault),
                };
                agreed.difference = Some(difference);
                break;
            }
            agreed.blocks.reverse();
            Ok(agreed)
        })
    }
}

enum Compared {
    Same,
    /// The index has another block there, or none.
    Gone,
    Other(String),
}

fn compare(view: &View, full: &Full, block: &BlockSpends) -> Result<Compared, Fault> {
    let height = block.id.height;
    states::check(block.id, &block.spends, &block.states)?;
    if block.spends.iter().any(|spend| spend.spender.is_none()) {
        let reason = "it does not say who spends".to_owned();
        let block = block.id;
        return Err(StoreError::InvalidRecord { block, reason }.into());
    }
    let row = match view.block_row(height)? {
        Some(row) if row.id(height) == block.id => row,
        _ => return Ok(Compared::Gone),
    };
    let ours = view.spends(full, &row)?;
    let (count, theirs) = (ours.len(), block.spends.len());
    if count != theirs {
        let reason = format!("{count} taproot outpoints where it has {theirs}");
        return Ok(Compared::Other(reason));
    }
    let is_known = ours.iter().any(|spend| spend.spender.is_some());
    for (index, (ours, theirs)) in ours.iter().zip(&block.spends).enumerate() {
        let outpoint = ours.outpoint;
        if outpoint != theirs.outpoint {
            let (ours, theirs) = (outpoint, theirs.outpoint);
            let reason = format!("{ours} where it has {theirs}, at place {index}");
            return Ok(Compared::Other(reason));
        }
        if ours.key_prefix != theirs.key_prefix {
            let [ours, theirs] = [ours, theirs].map(|spend| spend.key_prefix.to_lower_hex_string());
            let reason = format!("{outpoint} has a key of {ours}… where it has {theirs}…");
            return Ok(Compared::Other(reason));
        }
        if is_known && ours.spender != theirs.spender {
            let reason = format!("{outpoint} is spent by another input there");
            return Ok(Compared::Other(reason));
        }
    }
    if is_known && view.states(full, height)? != block.states {
        let reason = "its spenders carry other state ids".to_owned();
        return Ok(Compared::Other(reason));
    }
    Ok(Compared::Same)
}

impl Store {
    /// Writes down who spends what in the highest blocks of which that is not known, in one durable transaction, and gives the
    /// height from which on it is known then; `None` if it is known of all.
    ///
    /// The last of these blocks must be the one below that height; what is no longer in the index, or is known by now, is
    /// passed over, and whatever has no known block above it is left for later. Nothing is written if that is all.
    /// The [listeners](Self::on_applied) are told of a change without blocks.
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    pub fn fill_spenders(&self, agreed: &AgreedSpends) -> Result<Option<u32>, StoreError> {
        let mut writer = self.writer()?;
        let told = |fault: Fault| fault.in_file(&self.file);
        let view = self.view().map_err(told)?;
        let (tip, known_from) = (view.tip(), view.spenders_from);
        let Some(fill) = Fill::new(&view, &agreed.blocks).map_err(told)? else {
            return Ok(known_from);
        };
        drop(view);
        let database = self.database.read().map_err(|_| self.halted())?;
        let _writing = self.start_writing()?;
        if let Err(fault) = fill.write(&database) {
            writer.halted = true;
            return Err(told(fault));
        }
        self.listeners.tell(&Applied {
            tip,
            ..Applied::default()
        });
        Ok(fill.known_from)
    }
}

/// What one commit writes.
struct Fill<'a> {
    /// Length of the column.
    len: u64,
    /// Where in it the items go.
    first: u64,
    items: Vec<u8>,
    /// With their heights.
    states: Vec<(u32, &'a StateRow)>,
    /// Ascending.
    locators: Vec<LocatorKey>,
    /// By height, with the hashes of what is known now. The chain that binds them leaves those out.
    sections: Vec<(u32, Sections)>,
    known_from: Option<u32>,
}

impl<'a> Fill<'a> {
    /// `None` if there is nothing to write.
    fn new(view: &View, blocks: &'a [BlockSpends]) -> Result<Option<Self>, Fault> {
        let (Some(known_from), Some(full)) = (view.spenders_from, view.kept()) else {
            return Ok(None);
        };
        let mut from = known_from;
        let mut rows = Vec::new();
        let unknown = blocks.iter().rev();
        for block in unknown.skip_while(|block| block.id.height >= known_from) {
            let height = block.id.height;
            if height.checked_add(1) != Some(from) {
                break;
            }
            match view.block_row(height)? {
                Some(row) if row.id(height) == block.id => rows.push((row, block)),
                _ => break,
            }
            from = height;
        }
        rows.reverse();
        let Some((lowest, _)) = rows.first() else {
            return Ok(None);
        };
        let mut fill = Self {
            len: view.ends.spends,
            first: lowest.spends.first,
            items: Vec::new(),
            states: Vec::new(),
            locators: Vec::new(),
            sections: Vec::new(),
            known_from: Some(from).filter(|from| *from > view.meta.first_height),
        };
        for (row, block) in &rows {
            let height = block.id.height;
            if block.spends.len() != row.spends.count as usize {
                let reason = "another number of spends than a moment ago";
                return Err(Fault::row("blocks", height, reason));
            }
            let items = block.spends.iter();
            let items = items.flat_map(|spend| SpenderItem(spend.spender).encode());
            fill.items.extend(items);
            // Known ones stand between others where an index was repaired with blocks of one that lacks them.
            let was_known = view.spenders(full, row)?;
            if was_known.iter().all(Option::is_none) {
                let states = block.states.iter().map(|state| (height, state));
                fill.states.extend(states);
                let hasher = &view.meta.locator;
                let locators = states::locators(hasher, row, &block.spends, &block.states);
                fill.locators.extend(locators);
                let mut sections = view.sections(height)?;
                sections.hashes.spends = spends_hash(&block.spends, &block.states);
                fill.sections.push((height, sections));
            }
        }
        fill.locators.sort_unstable();
        Ok(Some(fill))
    }

    fn write(&self, database: &Database) -> Result<(), Fault> {
        let mut write = database.begin_write()?;
        write.set_durability(Durability::Immediate)?;
        write.set_quick_repair(true);
        {
            let mut table = write.open_table(SPENDERS.definition())?;
            SPENDERS.overwrite(&mut table, self.len, self.first, &self.items)?;
        }
        states::insert(&write, self.states.iter().copied(), &self.locators)?;
        {
            let mut table = write.open_table(SECTIONS)?;
            for (height, sections) in &self.sections {
                table.insert(height, &sections.encode())?;
            }
        }
        write_spenders_from(&write, self.known_from)?;
        write.commit()?;
        Ok(())
    }
}
