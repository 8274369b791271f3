//! The native protocol, `/spindex/v1`: JSON of answers and refusals.

pub mod column;
pub mod section;

use std::fmt;

use bitcoin::{BlockHash, OutPoint, Txid};
use serde::{Deserialize, Serialize};

use super::hex::Hex;
use crate::BlockId;

/// Where its routes stand.
pub const PREFIX: &str = "/spindex/v1";

/// Why a request is refused, for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// The request cannot be understood or asks for too much.
    BadRequest,
    /// The height is above the tip, or nothing is indexed at all.
    NotYetIndexed,
    /// The height is below the first one of this server.
    NeverIndexed,
    /// This server does not keep what is asked for.
    NotKept,
    /// Not now; `Retry-After` says when.
    Busy,
    /// A fault of this server or of its node.
    Internal,
}

/// A request that is refused: `{"error":{"code":"…","message":"…"}}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// For programs.
    pub code: Code,
    /// For people.
    pub message: String,
}

#[derive(Serialize, Deserialize)]
struct Refused {
    error: Refusal,
}

impl Refusal {
    /// Writes it.
    pub fn encode(&self) -> Vec<u8> {
        let refused = Refused {
            error: self.clone(),
        };
        // Of texts alone, which can be written.
        serde_json::to_vec(&refused).unwrap_or_default()
    }

    /// Reads it.
    ///
    /// # Errors
    /// What is wrong with the body.
    pub fn decode(body: &[u8]) -> Result<Self, String> {
        let refused: Refused = serde_json::from_slice(body).map_err(|error| error.to_string())?;
        Ok(refused.error)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// What a chain of hashes commits to at a block, and its head there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// What it commits to of the block ([`spcommit::commitment`](super::spcommit::commitment)).
    pub commitment: [u8; 32],
    /// Its head ([`spcommit::next_head`](super::spcommit::next_head)).
    pub head: [u8; 32],
}

/// Both chains at a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Links {
    /// The block.
    pub block: BlockId,
    /// Version 1.
    pub v1: Link,
    /// Version 2; `None` from a server that keeps tweaks only.
    pub v2: Option<Link>,
}

/// `GET /spindex/v1/commitments?from=&to=`: the links of consecutive blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commitments {
    /// In order of height.
    pub blocks: Vec<Links>,
}

#[derive(Serialize, Deserialize)]
struct LinkBody {
    commitment: Hex<32>,
    head: Hex<32>,
}

#[derive(Serialize, Deserialize)]
struct LinksBody {
    height: u32,
    block_hash: BlockHash,
    v1: LinkBody,
    v2: Option<LinkBody>,
}

#[derive(Serialize, Deserialize)]
struct CommitmentsBody {
    blocks: Vec<LinksBody>,
}

impl From<&Link> for LinkBody {
    fn from(link: &Link) -> Self {
        Self {
            commitment: Hex(link.commitment),
            head: Hex(link.head),
        }
    }
}

impl From<LinkBody> for Link {
    fn from(body: LinkBody) -> Self {
        Self {
            commitment: body.commitment.0,
            head: body.head.0,
        }
    }
}

impl Commitments {
    /// Writes them.
    ///
    /// # Errors
    /// None at present.
    pub fn encode(&self) -> Result<Vec<u8>, String> {
        let blocks = self.blocks.iter().map(|links| LinksBody {
            height: links.block.height,
            block_hash: links.block.hash,
            v1: (&links.v1).into(),
            v2: links.v2.as_ref().map(LinkBody::from),
        });
        let blocks = blocks.collect();
        serde_json::to_vec(&CommitmentsBody { blocks }).map_err(|error| error.to_string())
    }

    /// Reads those of `from` to `to`.
    ///
    /// # Errors
    /// What is wrong with the body, other heights among it.
    pub fn decode(body: &[u8], from: u32, to: u32) -> Result<Self, String> {
        let body: CommitmentsBody =
            serde_json::from_slice(body).map_err(|error| error.to_string())?;
        let heights = body.blocks.iter().map(|links| links.height);
        if !heights.eq(from..=to) {
            return Err(format!("not the heights from {from} to {to}"));
        }
        let blocks = body.blocks.into_iter().map(|links| Links {
            block: BlockId {
                height: links.height,
                hash: links.block_hash,
            },
            v1: links.v1.into(),
            v2: links.v2.map(Link::from),
        });
        Ok(Self {
            blocks: blocks.collect(),
        })
    }
}

/// A step of a process: who spent its tip, and the state id that the spender carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The block that holds the spender.
    pub block: BlockId,
    /// The spender.
    pub txid: Txid,
    /// Index of the spender in its block, and of the input that spends the tip.
    pub transaction: u16,
    /// See `transaction`.
    pub input: u16,
    /// Which output of the spender carries the state id.
    pub vout: u32,
    /// The state id; 32 zero bytes end the process.
    pub state_id: [u8; 32],
}

/// `GET /spindex/v1/process/{txid}:{vout}`: the steps of a process from an outpoint on, as far as the index knows them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Where it was followed from.
    pub start: OutPoint,
    /// The steps, oldest first.
    pub steps: Vec<Step>,
    /// The outpoint after the last step; `None` once the process has ended.
    pub tip: Option<OutPoint>,
    /// Whether there are more steps than one answer gives: ask again from `tip`.
    pub more: bool,
    /// What blocks below this height spent is not known, so that steps may be missing; `None` if all is known.
    pub known_from: Option<u32>,
}

#[derive(Serialize, Deserialize)]
struct StepBody {
    height: u32,
    block_hash: BlockHash,
    txid: Txid,
    transaction: u16,
    input: u16,
    vout: u32,
    state_id: Hex<32>,
}

#[derive(Serialize, Deserialize)]
struct ProcessBody {
    start: OutPoint,
    steps: Vec<StepBody>,
    tip: Option<OutPoint>,
    more: bool,
    known_from: Option<u32>,
}

impl Process {
    /// Writes it.
    ///
    /// # Errors
    /// None at present.
    pub fn encode(&self) -> Result<Vec<u8>, String> {
        let steps = self.steps.iter().map(|step| StepBody {
            height: step.block.height,
            block_hash: step.block.hash,
            txid: step.txid,
            transaction: step.transaction,
            input: step.input,
            vout: step.vout,
            state_id: Hex(step.state_id),
        });
        let body = ProcessBody {
            start: self.start,
            steps: steps.collect(),
            tip: self.tip,
            more: self.more,
            known_from: self.known_from,
        };
        serde_json::to_vec(&body).map_err(|error| error.to_string())
    }

    /// Reads it.
    ///
    /// # Errors
    /// What is wrong with the body, another outpoint among it.
    pub fn decode(body: &[u8], start: OutPoint) -> Result<Self, String> {
        let body: ProcessBody = serde_json::from_slice(body).map_err(|error| error.to_string())?;
        if body.start != start {
            return Err(format!("the process of {} instead of {start}", body.start));
        }
        let steps = body.steps.into_iter().map(|step| Step {
            block: BlockId {
                height: step.height,
                hash: step.block_hash,
            },
            txid: step.txid,
            transaction: step.transaction,
            input: step.input,
            vout: step.vout,
            state_id: step.state_id.0,
        });
        Ok(Self {
            start,
            steps: steps.collect(),
            tip: body.tip,
            more: body.more,
            known_from: body.known_from,
        })
    }
}

#[cfg(test)]
mod tests;
