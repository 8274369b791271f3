//! Processes: outpoints that each spender passes on with a new state id.

use bitcoin::{BlockHash, OutPoint, Txid};
use serde::{Deserialize, Serialize};

use crate::BlockId;
use crate::wire::hex::Hex;
use crate::wire::text::parse;

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

impl From<&Step> for StepBody {
    fn from(step: &Step) -> Self {
        Self {
            height: step.block.height,
            block_hash: step.block.hash,
            txid: step.txid,
            transaction: step.transaction,
            input: step.input,
            vout: step.vout,
            state_id: Hex(step.state_id),
        }
    }
}

impl From<StepBody> for Step {
    fn from(body: StepBody) -> Self {
        Self {
            block: BlockId {
                height: body.height,
                hash: body.block_hash,
            },
            txid: body.txid,
            transaction: body.transaction,
            input: body.input,
            vout: body.vout,
            state_id: body.state_id.0,
        }
    }
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
        let steps = self.steps.iter().map(StepBody::from);
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
        let body: ProcessBody = parse(body)?;
        if body.start != start {
            return Err(format!("the process of {} instead of {start}", body.start));
        }
        let steps = body.steps.into_iter().map(Step::from);
        Ok(Self {
            start,
            steps: steps.collect(),
            tip: body.tip,
            more: body.more,
            known_from: body.known_from,
        })
    }
}
