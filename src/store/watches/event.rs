//! Rows of `events`: what happened to what is watched.

use bitcoin::hashes::Hash;
use bitcoin::{BlockHash, OutPoint, Txid};

use crate::BlockId;
use crate::process::{End, State};
use crate::store::record::Spender;
use crate::store::schema::{Fields, RowError, outpoint_bytes};

/// The spend of a watched outpoint in a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confirmed {
    /// The block.
    pub block: BlockId,
    /// Where in it the outpoint is spent.
    pub spender: Spender,
    /// Who spends it; `None` where the index alone told of a spender that carries no state id.
    pub txid: Option<Txid>,
    /// What is spent.
    pub spent: OutPoint,
    /// The state id that counts.
    pub state: Option<State>,
    /// Index of the spender's output that is the next tip, if the process goes on.
    pub next: Option<u32>,
    /// After how many confirmations a [`Happening::Deep`] follows; 0 for none.
    pub confirmations: u32,
}

impl Confirmed {
    /// The next tip.
    pub fn next_tip(&self) -> Option<OutPoint> {
        Some(OutPoint::new(self.txid?, self.next?))
    }

    /// Height of the tip at which it is deep.
    pub(in crate::store) fn deep_at(&self) -> Option<u32> {
        let above = self.confirmations.checked_sub(1)?;
        self.block.height.checked_add(above)
    }
}

/// The spend of a watched outpoint by a transaction that waits for a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The transaction.
    pub txid: Txid,
    /// What it would spend.
    pub spent: OutPoint,
    /// The state id that would count.
    pub state: Option<State>,
    /// Index of its output that would be the next tip.
    pub next: Option<u32>,
}

/// Why a transaction that was seen waits no longer, and is in no block either.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gone {
    /// There was no room for it.
    Evicted,
    /// It had waited for too long.
    Expired,
    /// The node does not say.
    Unknown,
}

/// What happened to a watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Happening {
    /// A block spends the tip.
    Confirmed(Confirmed),
    /// With that the process is over.
    Ended {
        /// Cursor of the [`Confirmed`] event.
        of: u64,
        /// Its block.
        block: BlockId,
        /// Why.
        end: End,
    },
    /// The spend has as many confirmations as were asked for.
    Deep {
        /// Cursor of the [`Confirmed`] event.
        of: u64,
        /// Its block.
        block: BlockId,
        /// The tip by which it has them.
        tip: BlockId,
    },
    /// An event is no longer true: its block has left the chain.
    Reorged {
        /// Cursor of that event.
        of: u64,
    },
    /// A transaction that waits for a block would spend the tip.
    Seen(Seen),
    /// Another one has taken its place.
    Replaced {
        /// Cursor of the [`Seen`] event.
        of: u64,
        /// The other, if the node says which.
        by: Option<Txid>,
    },
    /// It waits no longer.
    Evicted {
        /// Cursor of the [`Seen`] event.
        of: u64,
        /// Why.
        why: Gone,
    },
    /// A block holds another spend of the tip.
    Conflict {
        /// Cursor of the [`Seen`] event.
        of: u64,
        /// The transaction in the block.
        by: Txid,
    },
}

/// An event of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The watch that it is of. It may have been removed since.
    pub watch: u64,
    /// Whom that belongs to.
    pub owner: u32,
    /// What happened.
    pub what: Happening,
}

const CONFIRMED: u8 = 1;
const ENDED: u8 = 2;
const DEEP: u8 = 3;
const REORGED: u8 = 4;
const SEEN: u8 = 5;
const REPLACED: u8 = 6;
const EVICTED: u8 = 7;
const CONFLICT: u8 = 8;

impl Event {
    /// The block without which the event is not true.
    pub const fn block(&self) -> Option<BlockId> {
        match &self.what {
            Happening::Confirmed(confirmed) => Some(confirmed.block),
            Happening::Ended { block, .. } | Happening::Deep { block, .. } => Some(*block),
            _ => None,
        }
    }

    /// Cursor of the event that it is about.
    pub const fn of(&self) -> Option<u64> {
        match &self.what {
            Happening::Ended { of, .. }
            | Happening::Deep { of, .. }
            | Happening::Reorged { of }
            | Happening::Replaced { of, .. }
            | Happening::Evicted { of, .. }
            | Happening::Conflict { of, .. } => Some(*of),
            Happening::Confirmed(_) | Happening::Seen(_) => None,
        }
    }

    /// The row's bytes: kind 1, watch u64 LE, owner u32 LE, then what `docs/schema.md` says of the kind.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(192);
        let kind = match &self.what {
            Happening::Confirmed(_) => CONFIRMED,
            Happening::Ended { .. } => ENDED,
            Happening::Deep { .. } => DEEP,
            Happening::Reorged { .. } => REORGED,
            Happening::Seen(_) => SEEN,
            Happening::Replaced { .. } => REPLACED,
            Happening::Evicted { .. } => EVICTED,
            Happening::Conflict { .. } => CONFLICT,
        };
        bytes.push(kind);
        bytes.extend_from_slice(&self.watch.to_le_bytes());
        bytes.extend_from_slice(&self.owner.to_le_bytes());
        match &self.what {
            Happening::Confirmed(confirmed) => {
                push_block(&mut bytes, &confirmed.block);
                bytes.extend_from_slice(&confirmed.spender.transaction.to_le_bytes());
                bytes.extend_from_slice(&confirmed.spender.input.to_le_bytes());
                bytes.extend_from_slice(&confirmed.confirmations.to_le_bytes());
                push_outpoint(&mut bytes, &confirmed.spent);
                push_txid(&mut bytes, confirmed.txid.as_ref());
                push_step(&mut bytes, confirmed.state, confirmed.next);
            }
            Happening::Ended { of, block, end } => {
                bytes.extend_from_slice(&of.to_le_bytes());
                push_block(&mut bytes, block);
                bytes.push(match end {
                    End::NoState => 1,
                    End::EndState => 2,
                    End::NoSuccessor => 3,
                });
            }
            Happening::Deep { of, block, tip } => {
                bytes.extend_from_slice(&of.to_le_bytes());
                push_block(&mut bytes, block);
                push_block(&mut bytes, tip);
            }
            Happening::Reorged { of } => bytes.extend_from_slice(&of.to_le_bytes()),
            Happening::Seen(seen) => {
                push_outpoint(&mut bytes, &seen.spent);
                bytes.extend_from_slice(seen.txid.as_byte_array());
                push_step(&mut bytes, seen.state, seen.next);
            }
            Happening::Replaced { of, by } => {
                bytes.extend_from_slice(&of.to_le_bytes());
                push_txid(&mut bytes, by.as_ref());
            }
            Happening::Evicted { of, why } => {
                bytes.extend_from_slice(&of.to_le_bytes());
                bytes.push(match why {
                    Gone::Evicted => 1,
                    Gone::Expired => 2,
                    Gone::Unknown => 3,
                });
            }
            Happening::Conflict { of, by } => {
                bytes.extend_from_slice(&of.to_le_bytes());
                bytes.extend_from_slice(by.as_byte_array());
            }
        }
        bytes
    }

    /// Reads a row.
    ///
    /// # Errors
    /// Bytes that are missing or left over, numbers that stand for nothing.
    pub fn decode(bytes: &[u8]) -> Result<Self, RowError> {
        let mut fields = Fields::over(bytes);
        let [kind] = fields.take()?;
        let watch = u64::from_le_bytes(fields.take()?);
        let owner = u32::from_le_bytes(fields.take()?);
        let what = match kind {
            CONFIRMED => Happening::Confirmed(confirmed(&mut fields)?),
            ENDED => Happening::Ended {
                of: u64::from_le_bytes(fields.take()?),
                block: block(&mut fields)?,
                end: match fields.take()? {
                    [1] => End::NoState,
                    [2] => End::EndState,
                    [3] => End::NoSuccessor,
                    _ => return Err(RowError::Value("no such end of a process")),
                },
            },
            DEEP => Happening::Deep {
                of: u64::from_le_bytes(fields.take()?),
                block: block(&mut fields)?,
                tip: block(&mut fields)?,
            },
            REORGED => Happening::Reorged {
                of: u64::from_le_bytes(fields.take()?),
            },
            SEEN => {
                let spent = outpoint(fields.take()?);
                let txid = Txid::from_byte_array(fields.take()?);
                let (state, next) = step(&mut fields)?;
                Happening::Seen(Seen {
                    txid,
                    spent,
                    state,
                    next,
                })
            }
            REPLACED => Happening::Replaced {
                of: u64::from_le_bytes(fields.take()?),
                by: optional(&mut fields)?.map(Txid::from_byte_array),
            },
            EVICTED => Happening::Evicted {
                of: u64::from_le_bytes(fields.take()?),
                why: match fields.take()? {
                    [1] => Gone::Evicted,
                    [2] => Gone::Expired,
                    [3] => Gone::Unknown,
                    _ => return Err(RowError::Value("no such reason to be gone")),
                },
            },
            CONFLICT => Happening::Conflict {
                of: u64::from_le_bytes(fields.take()?),
                by: Txid::from_byte_array(fields.take()?),
            },
            _ => return Err(RowError::Value("no such event")),
        };
        fields.end()?;
        Ok(Self { watch, owner, what })
    }
}

fn confirmed(fields: &mut Fields<'_>) -> Result<Confirmed, RowError> {
    let block = block(fields)?;
    let spender = Spender {
        transaction: u16::from_le_bytes(fields.take()?),
        input: u16::from_le_bytes(fields.take()?),
    };
    let confirmations = u32::from_le_bytes(fields.take()?);
    let spent = outpoint(fields.take()?);
    let txid = optional(fields)?.map(Txid::from_byte_array);
    let (state, next) = step(fields)?;
    Ok(Confirmed {
        block,
        spender,
        txid,
        spent,
        state,
        next,
        confirmations,
    })
}

pub(super) fn outpoint(bytes: [u8; 36]) -> OutPoint {
    let [txid @ .., v0, v1, v2, v3] = bytes;
    OutPoint {
        txid: Txid::from_byte_array(txid),
        vout: u32::from_le_bytes([v0, v1, v2, v3]),
    }
}

pub(super) fn push_outpoint(bytes: &mut Vec<u8>, outpoint: &OutPoint) {
    bytes.extend_from_slice(&outpoint_bytes(outpoint));
}

fn block(fields: &mut Fields<'_>) -> Result<BlockId, RowError> {
    Ok(BlockId {
        height: u32::from_le_bytes(fields.take()?),
        hash: BlockHash::from_byte_array(fields.take()?),
    })
}

fn push_block(bytes: &mut Vec<u8>, block: &BlockId) {
    bytes.extend_from_slice(&block.height.to_le_bytes());
    bytes.extend_from_slice(block.hash.as_byte_array());
}

/// Bytes behind a 1, or a 0.
fn optional<const N: usize>(fields: &mut Fields<'_>) -> Result<Option<[u8; N]>, RowError> {
    match fields.take()? {
        [0] => Ok(None),
        [1] => Ok(Some(fields.take()?)),
        _ => Err(RowError::Value("neither there nor not")),
    }
}

fn push_txid(bytes: &mut Vec<u8>, txid: Option<&Txid>) {
    bytes.push(txid.is_some().into());
    if let Some(txid) = txid {
        bytes.extend_from_slice(txid.as_byte_array());
    }
}

fn step(fields: &mut Fields<'_>) -> Result<(Option<State>, Option<u32>), RowError> {
    let state = optional(fields)?.map(|bytes: [u8; 36]| {
        let [v0, v1, v2, v3, id @ ..] = bytes;
        let vout = u32::from_le_bytes([v0, v1, v2, v3]);
        State { vout, id }
    });
    let next = optional(fields)?.map(u32::from_le_bytes);
    Ok((state, next))
}

fn push_step(bytes: &mut Vec<u8>, state: Option<State>, next: Option<u32>) {
    bytes.push(state.is_some().into());
    if let Some(State { vout, id }) = state {
        bytes.extend_from_slice(&vout.to_le_bytes());
        bytes.extend_from_slice(&id);
    }
    bytes.push(next.is_some().into());
    if let Some(next) = next {
        bytes.extend_from_slice(&next.to_le_bytes());
    }
}
