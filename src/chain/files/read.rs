//! Blocks with their undo records, from the folder.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use bitcoin::OutPoint;
use bitcoin::hashes::Hash;
use rayon::prelude::*;

use super::folder::Folder;
use super::frames::ObfuscationKey;
use super::headers::{Location, Node};
use super::listing::open_file;
use super::state::State;
use super::undo::{CHECKSUM_BYTES, parse_undo, undo_checksum};
use super::undo_file::{NoRecord, UndoRecord};
use crate::BlockId;
use crate::chain::{BlockWithPrevouts, ChainError, Prevouts, RawBlock};

/// Neighbours are read in one go, up to this many bytes.
const PIECE_BYTES: u64 = 8 << 20;

/// A gap between neighbours that is read and dropped rather than skipped.
const GAP_BYTES: u64 = 64 << 10;

/// Why a block was not read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Miss {
    /// No file has it.
    Unknown,
    /// The file that had it is gone.
    Pruned,
    /// It is not all there yet; the file of which the undo records are to be looked at again.
    NotYet(Option<u32>, String),
    /// What is in the files cannot be right, or they cannot be read.
    Failed(ChainError),
    /// In this `blk` file is something else than there was, or something damaged.
    Changed(u32, ChainError),
}

impl From<ChainError> for Miss {
    fn from(error: ChainError) -> Self {
        Self::Failed(error)
    }
}

/// A block to read.
#[derive(Debug, Clone)]
struct Place {
    id: BlockId,
    node: Node,
    location: Location,
    is_genesis: bool,
    is_on_chain: bool,
    /// Children of the same parent, in the same file, with as many transactions: their undo records would fit.
    rivals: Vec<Node>,
}

/// Offset and length in a file.
type Range = (u64, u32);

impl Folder {
    /// Reads blocks, neighbours in one go. A block that is in several places is read from another one on each attempt.
    pub(super) fn read(
        &self,
        ids: &[BlockId],
        attempt: usize,
    ) -> Vec<Result<BlockWithPrevouts, Miss>> {
        let key = match self.key() {
            Ok(key) => key,
            Err(e) => return ids.iter().map(|_| Err(e.clone().into())).collect(),
        };
        let places = self.places(ids, attempt);
        let mut by_file: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        for (index, place) in places.iter().enumerate() {
            if let Ok(place) = place
                && place.rivals.is_empty()
            {
                by_file.entry(place.location.file).or_default().push(index);
            }
        }
        let mut bytes: HashMap<usize, Result<(Vec<u8>, Undo), Miss>> = HashMap::new();
        for (number, indices) in by_file {
            let in_file: Vec<&Place> = indices
                .iter()
                .filter_map(|index| places.get(*index)?.as_ref().ok())
                .collect();
            let read = self.read_file(number, key, &in_file);
            bytes.extend(indices.into_iter().zip(read));
        }
        let work: Vec<_> = places
            .into_iter()
            .enumerate()
            .map(|(index, place)| (place, bytes.remove(&index)))
            .collect();
        work.into_par_iter()
            .map(|(place, bytes)| match (place?, bytes) {
                (place, Some(bytes)) => {
                    let (block, undo) = bytes?;
                    self.join(&place, self.parse(&place, block)?, undo)
                }
                (place, None) => self.read_contested(&place, key),
            })
            .collect()
    }

    fn places(&self, ids: &[BlockId], attempt: usize) -> Vec<Result<Place, Miss>> {
        let state = self.read_state();
        ids.iter().map(|id| place(&state, *id, attempt)).collect()
    }

    /// Bytes of blocks of one file, and of their undo records.
    fn read_file(
        &self,
        number: u32,
        key: ObfuscationKey,
        places: &[&Place],
    ) -> Vec<Result<(Vec<u8>, Undo), Miss>> {
        let read = || {
            let records = self.undo_file(
                number,
                |undo| {
                    let mut places = places.iter();
                    places.any(|place| !place.is_genesis && undo.record(place.node).is_none())
                },
                |undo| -> Vec<Option<UndoRecord>> {
                    places.iter().map(|place| undo.record(place.node)).collect()
                },
            )?;
            let ranges: Vec<Range> = places.iter().map(|place| block_range(place)).collect();
            let blocks = self.read_ranges(&self.block_path(number), key, &ranges)?;
            let known = records.iter().flatten();
            let ranges: Vec<Range> = known.map(undo_range).collect();
            let mut undo = Vec::new();
            if !ranges.is_empty() {
                undo = self.read_ranges(&self.undo_path(number), key, &ranges)?;
            }
            Ok::<_, Miss>((records, blocks, undo))
        };
        let (records, blocks, undo) = match read() {
            Ok(read) => read,
            Err(miss) => return places.iter().map(|_| Err(miss.clone())).collect(),
        };
        let mut undo = undo.into_iter();
        let all = places.iter().zip(blocks).zip(records);
        all.map(|((place, block), record)| {
            let undo = match record {
                _ if place.is_genesis => Undo::Genesis,
                None => return Err(self.no_undo(place)),
                Some(record) => Undo::Record(record, undo.next().flatten().unwrap_or_default()),
            };
            Ok((block.unwrap_or_default(), undo))
        })
        .collect()
    }

    fn parse(&self, place: &Place, bytes: Vec<u8>) -> Result<RawBlock, Miss> {
        let block =
            RawBlock::parse(bytes).map_err(|e| self.changed(place, format!("no block, {e}")))?;
        match block.hash() == place.id.hash {
            true => Ok(block),
            false => Err(self.changed(place, format!("block {}", block.hash()))),
        }
    }

    /// Puts a block and its undo record together, after checking both.
    fn join(&self, place: &Place, block: RawBlock, undo: Undo) -> Result<BlockWithPrevouts, Miss> {
        let prevouts = match undo {
            Undo::Genesis => {
                let mut none = Prevouts::default();
                none.end_transaction();
                none
            }
            Undo::Record(record, bytes) => {
                let path = self.undo_path(place.location.file);
                let at = format!("{} at byte {}", path.display(), record.offset);
                let fitting =
                    bytes
                        .split_last_chunk::<CHECKSUM_BYTES>()
                        .filter(|(payload, sum)| {
                            undo_checksum(&block.header().prev_blockhash, payload) == **sum
                        });
                let Some((payload, _)) = fitting else {
                    self.forget_undo_file(place.location.file);
                    return Err(Miss::Changed(
                        place.location.file,
                        self.damaged(&at, "the checksum does not fit", place.id),
                    ));
                };
                parse_undo(payload).map_err(|e| self.damaged(&at, &e.to_string(), place.id))?
            }
        };
        BlockWithPrevouts::new(place.id, block, prevouts).map_err(|e| match e {
            ChainError::Mismatch(what) => self.changed(place, what),
            e => e.into(),
        })
    }

    /// A block whose undo record may be taken for a sibling's, and the sibling's for its own: checksum and number of
    /// transactions fit both. As a rule only one fits the inputs; where both do, what a record has is compared with the
    /// outputs that the block spends, in the blocks that made them.
    fn read_contested(
        &self,
        place: &Place,
        key: ObfuscationKey,
    ) -> Result<BlockWithPrevouts, Miss> {
        let number = place.location.file;
        let block = self.parse(place, self.read_range(number, key, block_range(place))?)?;
        let mut owners = vec![place.node];
        let mut alike = false;
        for rival in &place.rivals {
            owners.push(*rival);
            let places = self.read_state().index.locations(*rival);
            for location in places.iter().filter(|place| place.file == number) {
                let range = (u64::from(location.offset), location.length);
                let other = RawBlock::parse(self.read_range(number, key, range)?).ok();
                // One that cannot be read may be alike.
                alike |= other.is_none_or(|other| spends_alike(&block, &other));
            }
        }
        let records = self.undo_file(
            number,
            |undo| undo.record(place.node).is_none(),
            |undo| -> Vec<UndoRecord> {
                let records = owners.iter().filter_map(|node| undo.record(*node));
                records.collect()
            },
        )?;
        for record in records {
            let path = self.undo_path(number);
            let bytes = self.read_ranges(&path, key, &[undo_range(&record)])?;
            let bytes = bytes.into_iter().next().flatten().unwrap_or_default();
            let Ok(joined) = self.join(place, block.clone(), Undo::Record(record, bytes)) else {
                continue;
            };
            if !alike || self.is_what_it_spends(place.node, &joined, key)? {
                return Ok(joined);
            }
        }
        Err(self.no_undo(place))
    }

    /// Whether the spent outputs are those that the block's inputs name.
    fn is_what_it_spends(
        &self,
        node: Node,
        block: &BlockWithPrevouts,
        key: ObfuscationKey,
    ) -> Result<bool, Miss> {
        let mut sources: HashMap<u32, RawBlock> = HashMap::new();
        for (_, inputs) in block.spending_transactions() {
            for (input, prevout) in inputs {
                let Some(created) = prevout.created else {
                    return Err(Miss::NotYet(
                        None,
                        format!(
                            "which undo record belongs to block {} cannot be told; read it from the node's REST interface",
                            block.id
                        ),
                    ));
                };
                if let Entry::Vacant(vacant) = sources.entry(created) {
                    let Some(location) = self.read_state().ancestor_location(node, created) else {
                        return Ok(false);
                    };
                    let range = (u64::from(location.offset), location.length);
                    let bytes = self.read_range(location.file, key, range)?;
                    let Ok(source) = RawBlock::parse(bytes) else {
                        return Ok(false);
                    };
                    vacant.insert(source);
                }
                let outpoint: OutPoint = input.previous_output();
                let made = sources.get(&created).and_then(|source| {
                    let mut transactions = source.transactions();
                    let tx = transactions.find(|tx| tx.txid() == outpoint.txid)?;
                    tx.outputs().nth(outpoint.vout as usize)
                });
                let same = made.is_some_and(|output| {
                    (output.value_sat(), output.script_pubkey())
                        == (prevout.value_sat, prevout.script_pubkey)
                });
                if !same {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Whether a block's undo record is on the disk, which is to say that the node has connected the block. `looked_at` are the
    /// files that need no other look.
    pub(super) fn is_connected(
        &self,
        node: Node,
        looked_at: &mut BTreeSet<u32>,
    ) -> Result<bool, ChainError> {
        let locations = self.read_state().index.locations(node);
        for location in locations {
            let is_new = looked_at.insert(location.file);
            let has_record = self.undo_file(
                location.file,
                |undo| (is_new || undo.is_empty()) && undo.record(node).is_none(),
                |undo| undo.record(node).is_some(),
            )?;
            if has_record {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What to say of a block without undo record.
    fn no_undo(&self, place: &Place) -> Miss {
        let number = place.location.file;
        let path = self.undo_path(number);
        let path = path.display();
        let not_yet = format!(
            "{path} has no undo record of block {} yet: the node has not connected it, or not written it; read it from the node's REST interface if it stays so",
            place.id
        );
        match self.first_served() {
            Ok(Some(first)) if place.id.height < first => return Miss::Pruned,
            Ok(_) => {}
            Err(e) => return e.into(),
        }
        if !place.is_on_chain {
            return Miss::NotYet(Some(number), not_yet);
        }
        let failed = |at: &str, what: &str| {
            // It may be mended by the next time.
            self.forget_undo_file(number);
            Miss::Failed(self.damaged(at, what, place.id))
        };
        let candidates = self.read_state().candidates(number);
        let missing = self.undo_file(
            number,
            |undo| undo.is_empty(),
            |undo| (undo.is_empty(), undo.missing(place.node, candidates)),
        );
        let is_newest = self.read_state().newest() == Some(number);
        let missing = match missing {
            Ok((true, _)) if !is_newest => {
                return Miss::Failed(self.refused(format!(
                    "{path} is missing or has no records: what block {} spends cannot be read; restore it, or give the node's address (--node-url)",
                    place.id
                )));
            }
            missing => missing.map(|(_, missing)| missing),
        };
        match missing {
            Ok(NoRecord::NotYet) => Miss::NotYet(Some(number), not_yet),
            Ok(NoRecord::Damaged(offset)) => failed(
                &format!("{path} at byte {offset}"),
                "the checksum fits no block",
            ),
            Ok(NoRecord::Lost) => failed(
                &path.to_string(),
                "the record is not there but later ones are",
            ),
            Err(e) => e.into(),
        }
    }

    fn changed(&self, place: &Place, found: String) -> Miss {
        let path = self.block_path(place.location.file);
        Miss::Changed(
            place.location.file,
            ChainError::Mismatch(format!(
                "{} at byte {}: instead of block {} there is {found}; the file is damaged: {}",
                path.display(),
                place.location.offset,
                place.id,
                self.cure()
            )),
        )
    }

    fn damaged(&self, place: &str, what: &str, id: BlockId) -> ChainError {
        ChainError::Mismatch(format!(
            "{place}: the undo record of block {id} is damaged: {what}; {}",
            self.cure()
        ))
    }

    /// What to do about damaged files.
    fn cure(&self) -> &'static str {
        match self.read_state().is_pruned() {
            false => {
                "stop the node and start it once with -reindex, or read the blocks from its REST interface"
            }
            // A pruned node would begin by deleting what it has.
            true => {
                "read the blocks from the node's REST interface; with -reindex a pruned node downloads the whole chain again"
            }
        }
    }

    fn read_range(&self, number: u32, key: ObfuscationKey, range: Range) -> Result<Vec<u8>, Miss> {
        let read = self.read_ranges(&self.block_path(number), key, &[range])?;
        Ok(read.into_iter().next().flatten().unwrap_or_default())
    }

    fn read_ranges(
        &self,
        path: &Path,
        key: ObfuscationKey,
        ranges: &[Range],
    ) -> Result<Vec<Option<Vec<u8>>>, Miss> {
        let read = open_file(path).and_then(|mut file| read_ranges(&mut file, key, ranges));
        read.map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => Miss::Pruned,
            _ => self.unreadable(path, &e).into(),
        })
    }
}

/// Bytes that tell what a block spends.
enum Undo {
    /// Nothing; there is no record.
    Genesis,
    /// Payload and checksum of a record.
    Record(UndoRecord, Vec<u8>),
}

fn block_range(place: &Place) -> Range {
    (u64::from(place.location.offset), place.location.length)
}

fn undo_range(record: &UndoRecord) -> Range {
    (record.offset, record.length + CHECKSUM_BYTES as u32)
}

fn place(state: &State, id: BlockId, attempt: usize) -> Result<Place, Miss> {
    let index = &state.index;
    let node = index.find(&id.hash).ok_or(Miss::Unknown)?;
    let block = index.block(node).ok_or(Miss::Unknown)?;
    let all = index.locations(node);
    let there: Vec<Location> = all
        .into_iter()
        .filter(|location| !state.is_missing(location.file))
        .collect();
    let location = match attempt.checked_rem(there.len()) {
        Some(which) => there.get(which).copied().ok_or(Miss::Pruned)?,
        None => return Err(Miss::Pruned),
    };
    let mut rivals = Vec::new();
    // Without inputs all undo records are the same.
    if block.transactions > 1 {
        rivals = index.siblings(node);
        rivals.retain(|rival| {
            let same_file = |place: &Location| place.file == location.file;
            *rival != node
                && index.locations(*rival).iter().any(same_file)
                && index
                    .block(*rival)
                    .is_some_and(|rival| rival.transactions == block.transactions)
        });
    }
    Ok(Place {
        id,
        node,
        location,
        is_genesis: block.parent.as_byte_array() == &[0; 32],
        is_on_chain: index.is_on_chain(node),
        rivals,
    })
}

/// Whether two blocks have as many inputs in each transaction, but do not spend the same.
fn spends_alike(block: &RawBlock, other: &RawBlock) -> bool {
    let inputs = |block: &RawBlock| -> Vec<Vec<OutPoint>> {
        let spending = block.transactions().skip(1);
        spending
            .map(|tx| tx.inputs().map(|input| input.previous_output()).collect())
            .collect()
    };
    let (block, other) = (inputs(block), inputs(other));
    block.len() == other.len()
        && block
            .iter()
            .zip(&other)
            .all(|(tx, other)| tx.len() == other.len())
        && block != other
}

/// Reads ranges of a file in the order of the file, neighbours in one go, and gives them back in the order asked for;
/// `None` for one that the file does not reach.
///
/// # Errors
/// Of the reader.
pub fn read_ranges(
    reader: &mut (impl Read + Seek),
    key: ObfuscationKey,
    ranges: &[(u64, u32)],
) -> io::Result<Vec<Option<Vec<u8>>>> {
    let mut sorted: Vec<(usize, u64, u64)> = ranges
        .iter()
        .enumerate()
        .map(|(index, (start, length))| (index, *start, start.saturating_add(u64::from(*length))))
        .collect();
    sorted.sort_unstable_by_key(|(_, start, _)| *start);
    let file_end = reader.seek(SeekFrom::End(0))?;
    sorted.retain(|(_, _, end)| *end <= file_end);

    let mut read = vec![None; ranges.len()];
    let mut rest = sorted.as_slice();
    while let Some((_, start, first_end)) = rest.first().copied() {
        let mut end = first_end;
        let mut count = 1;
        for (_, next_start, next_end) in rest.iter().skip(1) {
            if *next_start > end + GAP_BYTES || next_end - start > PIECE_BYTES {
                break;
            }
            end = end.max(*next_end);
            count += 1;
        }
        let (here, after) = rest.split_at(count);
        rest = after;

        reader.seek(SeekFrom::Start(start))?;
        let mut piece = Vec::with_capacity((end - start) as usize);
        reader.take(end - start).read_to_end(&mut piece)?;
        key.apply(start, &mut piece);
        if let [(index, ..)] = here {
            if piece.len() as u64 == end - start {
                read[*index] = Some(piece);
            }
            continue;
        }
        for (index, from, to) in here {
            let range = (from - start) as usize..(to - start) as usize;
            read[*index] = piece.get(range).map(<[u8]>::to_vec);
        }
    }
    Ok(read)
}

#[cfg(test)]
mod tests;
