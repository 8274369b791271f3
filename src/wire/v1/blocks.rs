//! Bodies that name their block: filters, spent items, spends, digests.

use std::sync::Arc;

use bitcoin::{BlockHash, OutPoint, Txid};
use serde::{Deserialize, Serialize, de};

use super::{parse, write};
use crate::BlockId;
use crate::wire::hex::{Hex, HexBytes, HexList, HexOf};

/// The only filter type there is, for both filters.
const FILTER_TYPE: u8 = 4;

/// `/filter/new-utxos` and `/filter/spent`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// The block.
    pub block_hash: BlockHash,
    /// Serialized as [`crate::filter`] reads it.
    pub data: Vec<u8>,
}

impl Filter {
    /// Writes the filter of the block at a height.
    ///
    /// # Errors
    /// None at present.
    pub fn encode(&self, block_height: u32) -> Result<Vec<u8>, String> {
        #[derive(Serialize)]
        struct Body<'a> {
            block_hash: BlockHash,
            block_height: u32,
            data: HexOf<'a>,
            filter_type: u8,
        }
        write(&Body {
            block_hash: self.block_hash,
            block_height,
            data: HexOf(&self.data),
            filter_type: FILTER_TYPE,
        })
    }

    /// Reads the filter of the block at `height`.
    ///
    /// # Errors
    /// What is wrong with the body, another height or another type among it.
    pub fn decode(body: &[u8], height: u32) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Body {
            filter_type: u8,
            #[serde(alias = "height")]
            block_height: u32,
            block_hash: BlockHash,
            data: HexBytes,
        }
        let body: Body = parse(body)?;
        if body.filter_type != FILTER_TYPE {
            return Err(format!(
                "filter type {} instead of {FILTER_TYPE}",
                body.filter_type
            ));
        }
        if body.block_height != height {
            return Err(format!("the filter of height {}", body.block_height));
        }
        Ok(Self {
            block_hash: body.block_hash,
            data: body.data.0,
        })
    }
}

/// `/spent-index`: the spent items of one block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpentIndex {
    /// The block; `None` in the one answer that does not say it: that of other servers for an empty index.
    pub block_hash: Option<BlockHash>,
    /// [`crate::filter::spent_item`] of each taproot outpoint spent in the block, in block order.
    pub items: Vec<[u8; 8]>,
}

impl SpentIndex {
    /// Writes an object, also for an empty index; an array where the block is not known.
    ///
    /// # Errors
    /// None at present.
    pub fn encode(&self) -> Result<Vec<u8>, String> {
        #[derive(Serialize)]
        struct Body<'a> {
            block_hash: BlockHash,
            data: HexList<'a, [u8; 8]>,
        }
        let data = HexList(&self.items);
        match self.block_hash {
            Some(block_hash) => write(&Body { block_hash, data }),
            None => write(&data),
        }
    }

    /// Reads an object, or a bare `[]` for an empty index.
    ///
    /// # Errors
    /// What is wrong with the body.
    pub fn decode(body: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Body {
            block_hash: BlockHash,
            data: Vec<Hex<8>>,
        }
        if body.trim_ascii_start().first() == Some(&b'[') {
            let rows: Vec<de::IgnoredAny> = parse(body)?;
            if !rows.is_empty() {
                return Err("an array instead of an object".to_owned());
            }
            return Ok(Self {
                block_hash: None,
                items: Vec::new(),
            });
        }
        let body: Body = parse(body)?;
        Ok(Self {
            block_hash: Some(body.block_hash),
            items: body.data.into_iter().map(|item| item.0).collect(),
        })
    }
}

/// `/spends` (of spindex servers): who spent the taproot outpoints spent in one block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spends {
    /// The block.
    pub block_hash: BlockHash,
    /// In block order.
    pub spends: Vec<Spend>,
    /// Whether only the first entry of each spender has its data, as there would be too many. A server says so; nobody
    /// who reads needs it, so it is false in what is read.
    pub data_once: bool,
}

/// Who spent one outpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spend {
    /// What was spent.
    pub outpoint: OutPoint,
    /// The transaction that spent it.
    pub spending_txid: Txid,
    /// Which of its inputs.
    pub input: u32,
    /// For each OP_RETURN output of that transaction, in output order, the bytes pushed, joined.
    pub op_return: Arc<[Vec<u8>]>,
}

impl Spends {
    /// Writes the spends of the block at a height.
    ///
    /// # Errors
    /// None at present.
    pub fn encode(&self, block_height: u32) -> Result<Vec<u8>, String> {
        #[derive(Serialize)]
        struct Body<'a> {
            block_hash: BlockHash,
            block_height: u32,
            data: Vec<Row<'a>>,
            /// Says that an empty `op_return` may mean: see the first entry of that spender.
            #[serde(skip_serializing_if = "std::ops::Not::not")]
            op_return_once: bool,
        }
        #[derive(Serialize)]
        struct Row<'a> {
            txid: Txid,
            vout: u32,
            spending_txid: Txid,
            input: u32,
            op_return: HexList<'a, Vec<u8>>,
        }
        let rows = self.spends.iter().map(|spend| Row {
            txid: spend.outpoint.txid,
            vout: spend.outpoint.vout,
            spending_txid: spend.spending_txid,
            input: spend.input,
            op_return: HexList(&spend.op_return),
        });
        write(&Body {
            block_hash: self.block_hash,
            block_height,
            data: rows.collect(),
            op_return_once: self.data_once,
        })
    }

    /// Reads the spends of the block at `height`.
    ///
    /// # Errors
    /// What is wrong with the body, another height among it.
    pub fn decode(body: &[u8], height: u32) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Row {
            txid: Txid,
            vout: u32,
            spending_txid: Txid,
            input: u32,
            op_return: Vec<HexBytes>,
        }
        #[derive(Deserialize)]
        struct Body {
            block_hash: BlockHash,
            block_height: u32,
            data: Vec<Row>,
        }
        let body: Body = parse(body)?;
        if body.block_height != height {
            return Err(format!("the spends of height {}", body.block_height));
        }
        let spends = body.data.into_iter().map(|row| Spend {
            outpoint: OutPoint::new(row.txid, row.vout),
            spending_txid: row.spending_txid,
            input: row.input,
            op_return: row.op_return.into_iter().map(|data| data.0).collect(),
        });
        Ok(Self {
            block_hash: body.block_hash,
            spends: spends.collect(),
            data_once: false,
        })
    }
}

/// `/digest` (of spindex servers): the rolling commitment over all tweaks up to a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Digest {
    /// The block.
    pub block: BlockId,
    /// [`crate::store::roll_digest`].
    pub digest: [u8; 32],
}

impl Digest {
    /// Writes it.
    ///
    /// # Errors
    /// None at present.
    pub fn encode(&self) -> Result<Vec<u8>, String> {
        #[derive(Serialize)]
        struct Body<'a> {
            block_height: u32,
            block_hash: BlockHash,
            digest: HexOf<'a>,
        }
        write(&Body {
            block_height: self.block.height,
            block_hash: self.block.hash,
            digest: HexOf(&self.digest),
        })
    }

    /// Reads that of the block at `height`.
    ///
    /// # Errors
    /// What is wrong with the body, another height among it.
    pub fn decode(body: &[u8], height: u32) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Body {
            block_height: u32,
            block_hash: BlockHash,
            digest: Hex<32>,
        }
        let body: Body = parse(body)?;
        if body.block_height != height {
            return Err(format!("height {} instead of {height}", body.block_height));
        }
        Ok(Self {
            block: BlockId {
                height,
                hash: body.block_hash,
            },
            digest: body.digest.0,
        })
    }
}
