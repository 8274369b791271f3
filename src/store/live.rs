//! Which spends of an update are of outputs that the update itself creates or gives back.
//!
//! In a large update that is half of them or more, and an output that is created and spent within one never reaches the
//! locator. Outpoints are shared out by their marks, a keyed hash, so
//! that nobody can choose some that collide, and each share is matched by itself, in chain order.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasherDefault, Hash, Hasher};

use bitcoin::OutPoint;
use rayon::prelude::*;

use super::error::StoreError;
use super::locator::OlderSpend;
use super::position::OutputPosition;
use super::record::BlockRecord;
use super::schema::{BlockRow, LocatorHasher, LocatorKey, hash_of_mark, key_prefix, locator_key};

/// High bits of a mark that say which share it is in: more shares than there are cores, so that they end at about the
/// same time.
const SHARE_BITS: u32 = 4;

/// An output that is unspent again because the block that spent it is disconnected.
pub(super) struct Revived {
    pub(super) outpoint: OutPoint,
    pub(super) position: OutputPosition,
    /// First bytes of its key.
    pub(super) key_prefix: [u8; 8],
}

/// A spend of an output of the index.
pub(super) struct Taken {
    /// Index of the spending block in the update.
    pub(super) block: usize,
    /// Index of the spend in its block.
    pub(super) index: usize,
    pub(super) position: OutputPosition,
    /// Whether it was spent before the update too, by a block that is disconnected.
    pub(super) again: bool,
}

/// What the connected blocks spend of what is live, and what is left of that.
#[derive(Default)]
pub(super) struct Matched<'a> {
    pub(super) taken: Vec<Taken>,
    /// Spends of anything else.
    pub(super) older: Vec<OlderSpend<'a>>,
    /// Locators of the outputs that are unspent after the update.
    pub(super) unspent: Vec<LocatorKey>,
    /// Positions of those among them that were spent before.
    pub(super) cleared: Vec<OutputPosition>,
    /// Per block the marks of its outputs.
    pub(super) marks: Vec<Vec<u64>>,
}

/// Matches the spends of `connect` with the outputs it creates, which stand at the positions of `rows`, and with those
/// that are `revived`.
///
/// # Errors
/// [`StoreError::InvalidRecord`] for an output that is created twice, or a spend that says of its key what is not so.
pub(super) fn match_spends<'a>(
    connect: &'a [BlockRecord],
    rows: &[BlockRow],
    revived: &[Revived],
    hasher: &LocatorHasher,
) -> Result<Matched<'a>, StoreError> {
    let mark = |outpoint: &OutPoint| hasher.mark(outpoint);
    let blocks: Vec<Block<'a>> = connect
        .par_iter()
        .zip(rows)
        .map(|(record, row)| Block {
            record,
            first: row.outputs.first,
            outputs: record.outpoints().map(|outpoint| mark(&outpoint)).collect(),
            spends: record
                .spends
                .iter()
                .map(|spend| mark(&spend.outpoint))
                .collect(),
        })
        .collect();
    let revived: Vec<(u64, &Revived)> = revived
        .iter()
        .map(|output| (mark(&output.outpoint), output))
        .collect();
    let shares = (0..1 << SHARE_BITS)
        .into_par_iter()
        .map(|share| match_share(share, &blocks, &revived))
        .collect::<Result<Vec<_>, StoreError>>()?;
    let mut all = Matched::default();
    for share in shares {
        all.taken.extend(share.taken);
        all.older.extend(share.older);
        all.unspent.extend(share.unspent);
        all.cleared.extend(share.cleared);
    }
    all.marks = blocks.into_iter().map(|block| block.outputs).collect();
    Ok(all)
}

/// A connected block with the marks of its outpoints.
struct Block<'a> {
    record: &'a BlockRecord,
    /// Position of its first output.
    first: u64,
    outputs: Vec<u64>,
    spends: Vec<u64>,
}

/// An unspent output that is in no locator.
struct Live {
    position: OutputPosition,
    key_prefix: [u8; 8],
    revived: bool,
}

fn match_share<'a>(
    share: u64,
    blocks: &[Block<'a>],
    revived: &[(u64, &Revived)],
) -> Result<Matched<'a>, StoreError> {
    let is_mine = |mark: u64| mark >> (u64::BITS - SHARE_BITS) == share;
    let outputs: usize = blocks.iter().map(|block| block.outputs.len()).sum();
    let capacity = (outputs + revived.len()) >> SHARE_BITS;
    let mut live: HashMap<Name, Live, BuildHasherDefault<AsItIs>> =
        HashMap::with_capacity_and_hasher(capacity, BuildHasherDefault::default());
    for &(mark, output) in revived.iter().filter(|(mark, _)| is_mine(*mark)) {
        let outpoint = output.outpoint;
        let (position, key_prefix) = (output.position, output.key_prefix);
        let revived = true;
        live.insert(
            Name { mark, outpoint },
            Live {
                position,
                key_prefix,
                revived,
            },
        );
    }
    let mut matched = Matched::default();
    for (block, at) in blocks.iter().enumerate() {
        let Block { record, .. } = *at;
        let outputs = at.outputs.iter().zip((at.first..).map(OutputPosition));
        let outputs = outputs.zip(record.outpoints().zip(&record.outputs));
        for ((&mark, position), (outpoint, output)) in outputs {
            if !is_mine(mark) {
                continue;
            }
            match live.entry(Name { mark, outpoint }) {
                Entry::Vacant(entry) => entry.insert(Live {
                    position,
                    key_prefix: key_prefix(&output.key),
                    revived: false,
                }),
                Entry::Occupied(_) => {
                    return Err(record.invalid(format!("output {outpoint} exists already")));
                }
            };
        }
        for (index, (&mark, spend)) in at.spends.iter().zip(&record.spends).enumerate() {
            if !is_mine(mark) {
                continue;
            }
            let outpoint = spend.outpoint;
            match live.remove(&Name { mark, outpoint }) {
                Some(output) => {
                    record.check_spent_key(spend, output.key_prefix)?;
                    matched.taken.push(Taken {
                        block,
                        index,
                        position: output.position,
                        again: output.revived,
                    });
                }
                None => matched.older.push(OlderSpend {
                    block,
                    index,
                    mark,
                    row: spend,
                }),
            }
        }
    }
    for (name, output) in live {
        matched
            .unspent
            .push(locator_key(hash_of_mark(name.mark), output.position));
        if output.revived {
            matched.cleared.push(output.position);
        }
    }
    Ok(matched)
}

/// An outpoint with its mark.
#[derive(PartialEq, Eq)]
struct Name {
    mark: u64,
    outpoint: OutPoint,
}

impl Hash for Name {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.mark);
    }
}

/// Takes a mark for its own hash.
#[derive(Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, mark: u64) {
        self.0 = mark;
    }

    fn finish(&self) -> u64 {
        // A map tells the entries of a place apart by the highest bits, which are the same in all of a share.
        self.0.rotate_left(SHARE_BITS)
    }
}
