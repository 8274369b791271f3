//! Blocks with their undo records, from the folder.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};

use bitcoin::OutPoint;
use bitcoin::hashes::Hash;

use super::folder::Folder;
use super::headers::{Location, Node};
use super::open_files::OpenFiles;
use super::state::State;
use super::undo::{CHECKSUM_BYTES, parse_undo, undo_checksum};
use super::undo_file::{NoRecord, UndoRecord};
use crate::BlockId;
use crate::chain::{BlockWithPrevouts, ChainError, Prevouts, RawBlock};

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

impl Folder {
    /// Reads blocks. One that is in several places is read from another one on each attempt.
    pub(super) fn read(
        &self,
        ids: &[BlockId],
        attempt: usize,
    ) -> Vec<Result<BlockWithPrevouts, Miss>> {
        let (places, key) = {
            let state = self.read_state();
            let places = ids.iter().map(|id| place(&state, *id, attempt));
            (places.collect::<Vec<_>>(), state.key)
        };
        let mut files = OpenFiles::new(self, key);
        let read = places.into_iter().map(|place| {
            let place = place?;
            match place.rivals.is_empty() {
                true => self.read_block(&place, &mut files),
                false => self.read_contested(&place, &mut files),
            }
        });
        read.collect()
    }

    fn read_block(
        &self,
        place: &Place,
        files: &mut OpenFiles<'_>,
    ) -> Result<BlockWithPrevouts, Miss> {
        let block = self.parse(place, files.block(place.location)?)?;
        if place.is_genesis {
            return self.join(place, block, Undo::Genesis);
        }
        let number = place.location.file;
        let record = self.undo_file(
            number,
            |undo| {
                let is_missing = undo.record(place.node).is_none();
                is_missing && (files.looked_at.insert(number) || undo.is_empty())
            },
            |undo| undo.record(place.node),
        )?;
        let record = record.ok_or_else(|| self.no_undo(place))?;
        let bytes = files.undo(number, record)?;
        self.join(place, block, Undo::Record(record, bytes))
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
        files: &mut OpenFiles<'_>,
    ) -> Result<BlockWithPrevouts, Miss> {
        let number = place.location.file;
        let block = self.parse(place, files.block(place.location)?)?;
        let mut owners = vec![place.node];
        let mut alike = false;
        for rival in &place.rivals {
            owners.push(*rival);
            let places = self.read_state().index.locations(*rival);
            for location in places.iter().filter(|place| place.file == number) {
                let other = RawBlock::parse(files.block(*location)?).ok();
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
            let bytes = files.undo(number, record)?;
            let Ok(joined) = self.join(place, block.clone(), Undo::Record(record, bytes)) else {
                continue;
            };
            if !alike || self.is_what_it_spends(place.node, &joined, files)? {
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
        files: &mut OpenFiles<'_>,
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
                    let Ok(source) = RawBlock::parse(files.block(location)?) else {
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
}

/// Bytes that tell what a block spends.
enum Undo {
    /// Nothing; there is no record.
    Genesis,
    /// Payload and checksum of a record.
    Record(UndoRecord, Vec<u8>),
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
