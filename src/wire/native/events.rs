//! Events of the chain, each with a cursor from which whoever lost the connection goes on.

use bitcoin::BlockHash;
use serde::{Deserialize, Serialize};

use super::info::BlockIdBody;
use crate::BlockId;
use crate::wire::text::parse;

/// Something that happened to the chain of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// `tip`: a block was connected, or is the tip to begin with.
    Tip {
        /// The block.
        block: BlockId,
        /// How many blocks below it were connected too since the event before and are not told of.
        skipped: u32,
    },
    /// `reorg`: blocks left the chain.
    Reorg {
        /// The last block below them that did not; `None` if the index has none.
        fork: Option<BlockId>,
        /// What left, newest first.
        disconnected: Vec<BlockId>,
        /// What stands in its place, oldest first. Further blocks follow as events of their own.
        connected: Vec<BlockId>,
    },
    /// `reset`: the block of the cursor is not in the chain, and what it was replaced by is not known.
    Reset {
        /// The block of the cursor.
        cursor: BlockId,
        /// The tip.
        tip: BlockId,
    },
    /// `lagged`: events were taken too slowly, and these are the last words. Nothing is lost by whoever comes back with
    /// the cursor.
    Lagged {
        /// How many changes of the chain were not told of.
        missed: u64,
    },
}

#[derive(Serialize, Deserialize)]
struct TipBody {
    height: u32,
    block_hash: BlockHash,
    skipped: u32,
}

#[derive(Serialize, Deserialize)]
struct ReorgBody {
    fork: Option<BlockIdBody>,
    disconnected: Vec<BlockIdBody>,
    connected: Vec<BlockIdBody>,
}

#[derive(Serialize, Deserialize)]
struct ResetBody {
    cursor: BlockIdBody,
    tip: BlockIdBody,
}

#[derive(Serialize, Deserialize)]
struct LaggedBody {
    missed: u64,
}

impl Event {
    /// Its name, as `event:` has it.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Tip { .. } => "tip",
            Self::Reorg { .. } => "reorg",
            Self::Reset { .. } => "reset",
            Self::Lagged { .. } => "lagged",
        }
    }

    /// The block that a client is at which has taken the event, so its cursor; `None` if that is what it was.
    pub fn cursor(&self) -> Option<BlockId> {
        match self {
            Self::Tip { block, .. } => Some(*block),
            Self::Reorg {
                fork, connected, ..
            } => connected.last().copied().or(*fork),
            Self::Reset { tip, .. } => Some(*tip),
            Self::Lagged { .. } => None,
        }
    }

    /// JSON in one line, as `data:` has it.
    ///
    /// # Errors
    /// None at present.
    pub fn encode(&self) -> Result<String, String> {
        let list = |blocks: &[BlockId]| blocks.iter().map(|block| (*block).into()).collect();
        let text = match self {
            Self::Tip { block, skipped } => serde_json::to_string(&TipBody {
                height: block.height,
                block_hash: block.hash,
                skipped: *skipped,
            }),
            Self::Reorg {
                fork,
                disconnected,
                connected,
            } => serde_json::to_string(&ReorgBody {
                fork: fork.map(BlockIdBody::from),
                disconnected: list(disconnected),
                connected: list(connected),
            }),
            Self::Reset { cursor, tip } => serde_json::to_string(&ResetBody {
                cursor: (*cursor).into(),
                tip: (*tip).into(),
            }),
            Self::Lagged { missed } => serde_json::to_string(&LaggedBody { missed: *missed }),
        };
        text.map_err(|error| error.to_string())
    }

    /// Reads an event; `None` for one of a name that is not known, which is to be passed over.
    ///
    /// # Errors
    /// What is wrong with the data.
    pub fn decode(name: &str, data: &str) -> Result<Option<Self>, String> {
        let list = |blocks: Vec<BlockIdBody>| blocks.into_iter().map(BlockId::from).collect();
        Ok(Some(match name {
            "tip" => {
                let body: TipBody = parse(data.as_bytes())?;
                Self::Tip {
                    block: BlockId {
                        height: body.height,
                        hash: body.block_hash,
                    },
                    skipped: body.skipped,
                }
            }
            "reorg" => {
                let body: ReorgBody = parse(data.as_bytes())?;
                Self::Reorg {
                    fork: body.fork.map(BlockId::from),
                    disconnected: list(body.disconnected),
                    connected: list(body.connected),
                }
            }
            "reset" => {
                let body: ResetBody = parse(data.as_bytes())?;
                Self::Reset {
                    cursor: body.cursor.into(),
                    tip: body.tip.into(),
                }
            }
            "lagged" => {
                let body: LaggedBody = parse(data.as_bytes())?;
                Self::Lagged {
                    missed: body.missed,
                }
            }
            _ => return Ok(None),
        }))
    }
}

/// A block as `height:hash`, which is what `id:` has of an event, and what a client gives back.
pub fn write_cursor(block: &BlockId) -> String {
    format!("{}:{}", block.height, block.hash)
}

/// The block of a cursor; `None` for any other text.
pub fn read_cursor(text: &str) -> Option<BlockId> {
    let (height, hash) = text.split_once(':')?;
    // Rust's own parser takes a sign, too.
    let is_number = height.bytes().all(|byte| byte.is_ascii_digit());
    Some(BlockId {
        height: height.parse().ok().filter(|_| is_number)?,
        hash: hash.parse().ok()?,
    })
}
