//! Transactions and outpoints by their names, and heights by times.

use bitcoin::{BlockHash, OutPoint, Txid};
use serde::{Deserialize, Serialize};

use crate::BlockId;
use crate::wire::hex::Hex;
use crate::wire::text::parse;

/// Which input spends an output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spender {
    /// Index of the transaction in its block.
    pub transaction: u16,
    /// Index of the input in the transaction.
    pub input: u16,
}

/// A state id, and the transaction that carries it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CarriedState {
    /// The transaction.
    pub txid: Txid,
    /// Which of its outputs carries it.
    pub vout: u32,
    /// The state id.
    pub state_id: [u8; 32],
}

/// The spend of an output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spend {
    /// The block that holds it.
    pub block: BlockId,
    /// By whom, if that is known.
    pub spender: Option<Spender>,
    /// The first state id of the spender, if it carries one.
    pub state: Option<CarriedState>,
}

#[derive(Serialize, Deserialize)]
struct SpendBody {
    height: u32,
    block_hash: BlockHash,
    transaction: Option<u16>,
    input: Option<u16>,
    txid: Option<Txid>,
    vout: Option<u32>,
    state_id: Option<Hex<32>>,
}

impl From<&Spend> for SpendBody {
    fn from(spend: &Spend) -> Self {
        Self {
            height: spend.block.height,
            block_hash: spend.block.hash,
            transaction: spend.spender.map(|spender| spender.transaction),
            input: spend.spender.map(|spender| spender.input),
            txid: spend.state.map(|state| state.txid),
            vout: spend.state.map(|state| state.vout),
            state_id: spend.state.map(|state| Hex(state.state_id)),
        }
    }
}

impl TryFrom<SpendBody> for Spend {
    type Error = String;

    fn try_from(body: SpendBody) -> Result<Self, String> {
        let half = || "half of a spender".to_owned();
        Ok(Self {
            block: BlockId {
                height: body.height,
                hash: body.block_hash,
            },
            spender: match (body.transaction, body.input) {
                (Some(transaction), Some(input)) => Some(Spender { transaction, input }),
                (None, None) => None,
                _ => return Err(half()),
            },
            state: match (body.txid, body.vout, body.state_id) {
                (Some(txid), Some(vout), Some(Hex(state_id))) => Some(CarriedState {
                    txid,
                    vout,
                    state_id,
                }),
                (None, None, None) => None,
                _ => return Err(half()),
            },
        })
    }
}

/// A taproot output of an eligible transaction, and the block that created it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Created {
    /// The block.
    pub block: BlockId,
    /// Amount in satoshi.
    pub value_sat: u64,
    /// x-only output key.
    pub key: [u8; 32],
}

/// What a server can say of an outpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutpointState {
    /// No indexed block spends it.
    Unspent(Created),
    /// One does.
    Spent {
        /// The output; `None` if the server knows its spend alone.
        created: Option<Created>,
        /// Its spend, if the server finds it.
        spent: Option<Spend>,
    },
    /// No taproot output of an eligible transaction of the block at the height that was given.
    Unknown,
    /// Not unspent: it was spent, or never was there.
    SpentOrUnknown,
}

/// `GET /spindex/v1/outpoint/{txid}:{vout}?height=`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outpoint {
    /// Which one.
    pub outpoint: OutPoint,
    /// What is known of it.
    pub state: OutpointState,
    /// Who spends what is not known below this height; `None` if it is for all blocks.
    pub known_from: Option<u32>,
}

#[derive(Serialize, Deserialize)]
struct CreatedBody {
    height: u32,
    block_hash: BlockHash,
    value: u64,
    key: Hex<32>,
}

impl From<Created> for CreatedBody {
    fn from(created: Created) -> Self {
        Self {
            height: created.block.height,
            block_hash: created.block.hash,
            value: created.value_sat,
            key: Hex(created.key),
        }
    }
}

impl From<CreatedBody> for Created {
    fn from(body: CreatedBody) -> Self {
        Self {
            block: BlockId {
                height: body.height,
                hash: body.block_hash,
            },
            value_sat: body.value,
            key: body.key.0,
        }
    }
}

#[derive(Serialize, Deserialize, Clone, Copy)]
#[serde(rename_all = "snake_case")]
enum StateName {
    Unspent,
    Spent,
    Unknown,
    SpentOrUnknown,
}

#[derive(Serialize, Deserialize)]
struct OutpointBody {
    outpoint: OutPoint,
    state: StateName,
    created: Option<CreatedBody>,
    spent: Option<SpendBody>,
    known_from: Option<u32>,
}

impl Outpoint {
    /// Writes it.
    ///
    /// # Errors
    /// None at present.
    pub fn encode(&self) -> Result<Vec<u8>, String> {
        let (state, created, spent) = match &self.state {
            OutpointState::Unspent(created) => (StateName::Unspent, Some(*created), None),
            OutpointState::Spent { created, spent } => (StateName::Spent, *created, spent.as_ref()),
            OutpointState::Unknown => (StateName::Unknown, None, None),
            OutpointState::SpentOrUnknown => (StateName::SpentOrUnknown, None, None),
        };
        let body = OutpointBody {
            outpoint: self.outpoint,
            state,
            created: created.map(CreatedBody::from),
            spent: spent.map(SpendBody::from),
            known_from: self.known_from,
        };
        serde_json::to_vec(&body).map_err(|error| error.to_string())
    }

    /// Reads that of an outpoint.
    ///
    /// # Errors
    /// What is wrong with the body, another outpoint among it.
    pub fn decode(body: &[u8], outpoint: OutPoint) -> Result<Self, String> {
        let body: OutpointBody = parse(body)?;
        if body.outpoint != outpoint {
            return Err(format!("the state of {} instead", body.outpoint));
        }
        let state = match (body.state, body.created, body.spent) {
            (StateName::Unspent, Some(created), None) => OutpointState::Unspent(created.into()),
            (StateName::Spent, created, spent) => OutpointState::Spent {
                created: created.map(Created::from),
                spent: spent.map(Spend::try_from).transpose()?,
            },
            (StateName::Unknown, None, None) => OutpointState::Unknown,
            (StateName::SpentOrUnknown, None, None) => OutpointState::SpentOrUnknown,
            _ => return Err("a state that does not fit the rest".to_owned()),
        };
        Ok(Self {
            outpoint,
            state,
            known_from: body.known_from,
        })
    }
}

/// A taproot output of an eligible transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Index among all outputs of the transaction.
    pub vout: u32,
    /// Amount in satoshi.
    pub value_sat: u64,
    /// x-only output key.
    pub key: [u8; 32],
    /// Whether an indexed block spends it.
    pub is_spent: bool,
    /// Its spend, if the server finds it.
    pub spent: Option<Spend>,
}

/// `GET /spindex/v1/tx/{txid}?height=`: an eligible transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transaction {
    /// Which one.
    pub txid: Txid,
    /// The block that holds it.
    pub block: BlockId,
    /// Its tweak, SEC1 compressed.
    pub tweak: [u8; 33],
    /// Its taproot outputs, by vout.
    pub outputs: Vec<Output>,
    /// Who spends what is not known below this height; `None` if it is for all blocks.
    pub known_from: Option<u32>,
}

#[derive(Serialize, Deserialize)]
struct OutputBody {
    vout: u32,
    value: u64,
    key: Hex<32>,
    is_spent: bool,
    spent: Option<SpendBody>,
}

#[derive(Serialize, Deserialize)]
struct TransactionBody {
    txid: Txid,
    height: u32,
    block_hash: BlockHash,
    tweak: Hex<33>,
    outputs: Vec<OutputBody>,
    known_from: Option<u32>,
}

impl Transaction {
    /// Writes it.
    ///
    /// # Errors
    /// None at present.
    pub fn encode(&self) -> Result<Vec<u8>, String> {
        let outputs = self.outputs.iter().map(|output| OutputBody {
            vout: output.vout,
            value: output.value_sat,
            key: Hex(output.key),
            is_spent: output.is_spent,
            spent: output.spent.as_ref().map(SpendBody::from),
        });
        let body = TransactionBody {
            txid: self.txid,
            height: self.block.height,
            block_hash: self.block.hash,
            tweak: Hex(self.tweak),
            outputs: outputs.collect(),
            known_from: self.known_from,
        };
        serde_json::to_vec(&body).map_err(|error| error.to_string())
    }

    /// Reads that with a txid.
    ///
    /// # Errors
    /// What is wrong with the body, another transaction among it.
    pub fn decode(body: &[u8], txid: Txid) -> Result<Self, String> {
        let body: TransactionBody = parse(body)?;
        if body.txid != txid {
            return Err(format!("transaction {} instead", body.txid));
        }
        let outputs = body.outputs.into_iter().map(|output| {
            Ok(Output {
                vout: output.vout,
                value_sat: output.value,
                key: output.key.0,
                is_spent: output.is_spent,
                spent: output.spent.map(Spend::try_from).transpose()?,
            })
        });
        let outputs = outputs.collect::<Result<_, String>>()?;
        Ok(Self {
            txid,
            block: BlockId {
                height: body.height,
                hash: body.block_hash,
            },
            tweak: body.tweak.0,
            outputs,
            known_from: body.known_from,
        })
    }
}

/// `GET /spindex/v1/height?time=`: where a wallet of some age has to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Birthday {
    /// The time asked for, Unix seconds.
    pub time: u32,
    /// The block to begin with.
    pub block: BlockId,
    /// The time in its header.
    pub block_time: u32,
}

#[derive(Serialize, Deserialize)]
struct BirthdayBody {
    time: u32,
    height: u32,
    block_hash: BlockHash,
    block_time: u32,
}

impl Birthday {
    /// Writes it.
    ///
    /// # Errors
    /// None at present.
    pub fn encode(&self) -> Result<Vec<u8>, String> {
        let body = BirthdayBody {
            time: self.time,
            height: self.block.height,
            block_hash: self.block.hash,
            block_time: self.block_time,
        };
        serde_json::to_vec(&body).map_err(|error| error.to_string())
    }

    /// Reads that of a time.
    ///
    /// # Errors
    /// What is wrong with the body, another time among it.
    pub fn decode(body: &[u8], time: u32) -> Result<Self, String> {
        let body: BirthdayBody = parse(body)?;
        if body.time != time {
            return Err(format!("the height of time {} instead", body.time));
        }
        Ok(Self {
            time,
            block: BlockId {
                height: body.height,
                hash: body.block_hash,
            },
            block_time: body.block_time,
        })
    }
}
