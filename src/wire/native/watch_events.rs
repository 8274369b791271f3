//! The log of what happened to watches: each event with its cursor.

use bitcoin::{BlockHash, OutPoint, Txid};
use serde::{Deserialize, Serialize};

use super::info::BlockIdBody;
use crate::BlockId;
use crate::process::{End, State};
use crate::wire::hex::Hex;
use crate::wire::text::parse;

/// Most events of one page.
pub const EVENTS_PAGE_MAX: usize = 1_000;

/// The spend of a watched outpoint in a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfirmedSpend {
    /// The block.
    pub block: BlockId,
    /// Index of the spender in its block, and of the input that spends.
    pub transaction: u16,
    /// See `transaction`.
    pub input: u16,
    /// The spender; `None` where the index alone told of one that carries no state id.
    pub txid: Option<Txid>,
    /// What is spent.
    pub spent: OutPoint,
    /// The state id that counts.
    pub state: Option<State>,
    /// The next tip, if the process goes on.
    pub next_tip: Option<OutPoint>,
}

/// The spend of a watched outpoint by a transaction that waits for a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenSpend {
    /// The spender.
    pub txid: Txid,
    /// What it would spend.
    pub spent: OutPoint,
    /// The state id that would count.
    pub state: Option<State>,
    /// What would be the next tip.
    pub next_tip: Option<OutPoint>,
}

/// Why a transaction waits no longer and is in no block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GoneWhy {
    /// There was no room for it.
    NoRoom,
    /// It had waited for too long.
    TooOld,
    /// The node does not say.
    NotKnown,
}

/// What happened to a watch. Where an event is about another one, `of` is its cursor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchHappening {
    /// A block spends the tip.
    Confirmed(ConfirmedSpend),
    /// With that the process has ended.
    Ended {
        /// The `confirmed` event.
        of: u64,
        /// Its block.
        block: BlockId,
        /// Why.
        end: End,
    },
    /// The spend has as many confirmations as were asked for.
    Deep {
        /// The `confirmed` event.
        of: u64,
        /// Its block.
        block: BlockId,
        /// The tip by which it has them.
        tip: BlockId,
    },
    /// An event is no longer true.
    Reorged {
        /// Which.
        of: u64,
    },
    /// A transaction that waits for a block would spend the tip.
    Seen(SeenSpend),
    /// Another one has taken its place.
    Replaced {
        /// The `seen` event.
        of: u64,
        /// The other, if the node says which.
        by: Option<Txid>,
    },
    /// It waits no longer.
    Evicted {
        /// The `seen` event.
        of: u64,
        /// Why.
        why: GoneWhy,
    },
    /// A block holds another spend of the tip.
    Conflict {
        /// The `seen` event.
        of: u64,
        /// The transaction in the block.
        by: Txid,
    },
}

impl WatchHappening {
    /// Its name, as `event` has it.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Confirmed(_) => "confirmed",
            Self::Ended { .. } => "ended",
            Self::Deep { .. } => "deep",
            Self::Reorged { .. } => "reorged",
            Self::Seen(_) => "seen",
            Self::Replaced { .. } => "replaced",
            Self::Evicted { .. } => "evicted",
            Self::Conflict { .. } => "conflict",
        }
    }
}

/// An event of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchEvent {
    /// Where it stands in the log; never given to another.
    pub cursor: u64,
    /// Number of the watch that it is of.
    pub watch: u64,
    /// The tag of that; `None` if it has been removed since, empty if it has none.
    pub tag: Option<String>,
    /// What happened.
    pub what: WatchHappening,
}

#[derive(Serialize, Deserialize)]
struct EventBody {
    cursor: u64,
    watch: u64,
    tag: Option<String>,
    #[serde(flatten)]
    what: WhatBody,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum EndBody {
    NoState,
    EndState,
    NoSuccessor,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum WhatBody {
    Confirmed {
        height: u32,
        block_hash: BlockHash,
        transaction: u16,
        input: u16,
        txid: Option<Txid>,
        spent: OutPoint,
        vout: Option<u32>,
        state_id: Option<Hex<32>>,
        next_tip: Option<OutPoint>,
    },
    Ended {
        of: u64,
        height: u32,
        block_hash: BlockHash,
        end: EndBody,
    },
    Deep {
        of: u64,
        height: u32,
        block_hash: BlockHash,
        tip: BlockIdBody,
    },
    Reorged {
        of: u64,
    },
    Seen {
        txid: Txid,
        spent: OutPoint,
        vout: Option<u32>,
        state_id: Option<Hex<32>>,
        next_tip: Option<OutPoint>,
    },
    Replaced {
        of: u64,
        by: Option<Txid>,
    },
    Evicted {
        of: u64,
        why: GoneWhy,
    },
    Conflict {
        of: u64,
        by: Txid,
    },
    /// Of a newer program.
    #[serde(other)]
    Unknown,
}

impl From<&WatchHappening> for WhatBody {
    fn from(what: &WatchHappening) -> Self {
        let vout = |state: &Option<State>| state.map(|state| state.vout);
        let state_id = |state: &Option<State>| state.map(|state| Hex(state.id));
        match what {
            WatchHappening::Confirmed(spend) => Self::Confirmed {
                height: spend.block.height,
                block_hash: spend.block.hash,
                transaction: spend.transaction,
                input: spend.input,
                txid: spend.txid,
                spent: spend.spent,
                vout: vout(&spend.state),
                state_id: state_id(&spend.state),
                next_tip: spend.next_tip,
            },
            WatchHappening::Ended { of, block, end } => Self::Ended {
                of: *of,
                height: block.height,
                block_hash: block.hash,
                end: match end {
                    End::NoState => EndBody::NoState,
                    End::EndState => EndBody::EndState,
                    End::NoSuccessor => EndBody::NoSuccessor,
                },
            },
            WatchHappening::Deep { of, block, tip } => Self::Deep {
                of: *of,
                height: block.height,
                block_hash: block.hash,
                tip: (*tip).into(),
            },
            WatchHappening::Reorged { of } => Self::Reorged { of: *of },
            WatchHappening::Seen(spend) => Self::Seen {
                txid: spend.txid,
                spent: spend.spent,
                vout: vout(&spend.state),
                state_id: state_id(&spend.state),
                next_tip: spend.next_tip,
            },
            WatchHappening::Replaced { of, by } => Self::Replaced { of: *of, by: *by },
            WatchHappening::Evicted { of, why } => Self::Evicted { of: *of, why: *why },
            WatchHappening::Conflict { of, by } => Self::Conflict { of: *of, by: *by },
        }
    }
}

fn state(vout: Option<u32>, id: Option<Hex<32>>) -> Result<Option<State>, String> {
    match (vout, id) {
        (Some(vout), Some(Hex(id))) => Ok(Some(State { vout, id })),
        (None, None) => Ok(None),
        _ => Err("half of a state id".to_owned()),
    }
}

/// A next tip has to be an output of the spender.
fn of_spender(
    next_tip: Option<OutPoint>,
    spender: Option<Txid>,
) -> Result<Option<OutPoint>, String> {
    match next_tip {
        Some(tip) if Some(tip.txid) != spender => {
            Err(format!("the next tip {tip} is no output of the spender"))
        }
        tip => Ok(tip),
    }
}

/// `None` for an event of a name that is not known.
fn happening(body: WhatBody) -> Result<Option<WatchHappening>, String> {
    let block = |height, hash| BlockId { height, hash };
    Ok(Some(match body {
        WhatBody::Confirmed {
            height,
            block_hash,
            transaction,
            input,
            txid,
            spent,
            vout,
            state_id,
            next_tip,
        } => WatchHappening::Confirmed(ConfirmedSpend {
            block: block(height, block_hash),
            transaction,
            input,
            txid,
            spent,
            state: state(vout, state_id)?,
            next_tip: of_spender(next_tip, txid)?,
        }),
        WhatBody::Ended {
            of,
            height,
            block_hash,
            end,
        } => WatchHappening::Ended {
            of,
            block: block(height, block_hash),
            end: match end {
                EndBody::NoState => End::NoState,
                EndBody::EndState => End::EndState,
                EndBody::NoSuccessor => End::NoSuccessor,
            },
        },
        WhatBody::Deep {
            of,
            height,
            block_hash,
            tip,
        } => WatchHappening::Deep {
            of,
            block: block(height, block_hash),
            tip: tip.into(),
        },
        WhatBody::Reorged { of } => WatchHappening::Reorged { of },
        WhatBody::Seen {
            txid,
            spent,
            vout,
            state_id,
            next_tip,
        } => WatchHappening::Seen(SeenSpend {
            txid,
            spent,
            state: state(vout, state_id)?,
            next_tip: of_spender(next_tip, Some(txid))?,
        }),
        WhatBody::Replaced { of, by } => WatchHappening::Replaced { of, by },
        WhatBody::Evicted { of, why } => WatchHappening::Evicted { of, why },
        WhatBody::Conflict { of, by } => WatchHappening::Conflict { of, by },
        WhatBody::Unknown => return Ok(None),
    }))
}

impl From<&WatchEvent> for EventBody {
    fn from(event: &WatchEvent) -> Self {
        Self {
            cursor: event.cursor,
            watch: event.watch,
            tag: event.tag.clone(),
            what: (&event.what).into(),
        }
    }
}

impl EventBody {
    fn read(self) -> Result<Option<WatchEvent>, String> {
        let (cursor, watch, tag) = (self.cursor, self.watch, self.tag);
        let what = happening(self.what)?;
        Ok(what.map(|what| WatchEvent {
            cursor,
            watch,
            tag,
            what,
        }))
    }
}

impl WatchEvent {
    /// JSON in one line: what stands in a page, in a stream as `data:`, and in a webhook.
    ///
    /// # Errors
    /// None at present.
    pub fn encode(&self) -> Result<String, String> {
        serde_json::to_string(&EventBody::from(self)).map_err(|error| error.to_string())
    }

    /// Reads it; `None` for an event of a name that is not known, which is to be passed over.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(text: &[u8]) -> Result<Option<Self>, String> {
        parse::<EventBody>(text)?.read()
    }
}

/// `GET /spindex/v1/events?after=&watch=&limit=`: events behind a cursor, oldest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventPage {
    /// The events. Those of names that are not known are left out when it is read.
    pub events: Vec<WatchEvent>,
    /// The cursor to go on from: the page says all that there was up to it.
    pub cursor: u64,
    /// Cursor of the oldest event of the log that is kept, whosever it is; `None` if none is.
    pub first: Option<u64>,
    /// Cursor of the last one there has been; 0 before the first. Where `cursor` is below it, there may be more.
    pub last: u64,
}

#[derive(Serialize, Deserialize)]
struct PageBody {
    events: Vec<EventBody>,
    cursor: u64,
    first: Option<u64>,
    last: u64,
}

impl EventPage {
    /// Writes it.
    ///
    /// # Errors
    /// None at present.
    pub fn encode(&self) -> Result<Vec<u8>, String> {
        let body = PageBody {
            events: self.events.iter().map(EventBody::from).collect(),
            cursor: self.cursor,
            first: self.first,
            last: self.last,
        };
        serde_json::to_vec(&body).map_err(|error| error.to_string())
    }

    /// Reads the page behind a cursor.
    ///
    /// # Errors
    /// What is wrong with the body: cursors that do not ascend from `after` to the one to go on from, which is not above the last.
    pub fn decode(body: &[u8], after: u64) -> Result<Self, String> {
        let body: PageBody = parse(body)?;
        let mut before = after;
        for event in &body.events {
            if event.cursor <= before {
                return Err(format!(
                    "event {} stands behind {before} in the log",
                    event.cursor
                ));
            }
            before = event.cursor;
        }
        if body.cursor < before || body.cursor > body.last {
            return Err(format!(
                "goes on from {} after event {before}, and the last one is {}",
                body.cursor, body.last
            ));
        }
        let events = body.events.into_iter().map(EventBody::read);
        let events = events.collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            events: events.into_iter().flatten().collect(),
            cursor: body.cursor,
            first: body.first,
            last: body.last,
        })
    }
}

/// The last event of a stream whose next ones were cut off the log; it has no `id`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogCut {
    /// The cursor behind which the stream was.
    pub after: u64,
    /// Cursor of the first event that is kept, or of the next one there will be.
    pub first: u64,
}

impl LogCut {
    /// Its name, as `event:` has it.
    pub const NAME: &'static str = "cut";

    /// JSON in one line.
    ///
    /// # Errors
    /// None at present.
    pub fn encode(&self) -> Result<String, String> {
        serde_json::to_string(self).map_err(|error| error.to_string())
    }

    /// Reads it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(text: &[u8]) -> Result<Self, String> {
        parse(text)
    }
}

#[cfg(test)]
mod tests;
