//! A block: what is in it, and what is committed to up to it.

use bitcoin::BlockHash;
use bitcoin::block::Header;
use bitcoin::consensus::encode::{deserialize_hex, serialize_hex};
use serde::{Deserialize, Serialize};

use super::commitments::{Link, LinkBody, Links};
use crate::BlockId;
use crate::wire::hex::Hex;
use crate::wire::text::parse;

/// Numbers of what only a server has that keeps everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Taproot outputs of the eligible transactions.
    pub outputs: u32,
    /// Those that no indexed block has spent.
    pub unspent: u32,
    /// Taproot outpoints that the block spends.
    pub spends: u32,
    /// State ids of the transactions that spend those.
    pub states: u32,
}

/// `GET /spindex/v1/block/{height|hash}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// Height and hash.
    pub block: BlockId,
    /// The header, which has that hash.
    pub header: Header,
    /// Number of eligible transactions.
    pub transactions: u32,
    /// Other numbers; `None` from a server that keeps tweaks only.
    pub counts: Option<Counts>,
    /// The rolling digest over all tweaks up to the block.
    pub digest: [u8; 32],
    /// Links of the chains of hashes, of this block; `None` where the chains do not reach.
    pub links: Option<Links>,
    /// Whether no reorganisation reaches the block any more.
    pub settled: bool,
}

/// `GET /spindex/v1/digest/{height}`: the rolling digest over all tweaks up to a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Digest {
    /// The block.
    pub block: BlockId,
    /// The digest.
    pub digest: [u8; 32],
}

#[derive(Serialize, Deserialize)]
struct LinksPart {
    v1: LinkBody,
    v2: Option<LinkBody>,
    columns_head: Option<Hex<32>>,
}

#[derive(Serialize, Deserialize)]
struct BlockBody {
    height: u32,
    block_hash: BlockHash,
    header: String,
    previous_hash: BlockHash,
    time: u32,
    transactions: u32,
    outputs: Option<u32>,
    unspent: Option<u32>,
    spends: Option<u32>,
    states: Option<u32>,
    digest: Hex<32>,
    commitments: Option<LinksPart>,
    settled: bool,
}

impl Block {
    /// Writes it.
    ///
    /// # Errors
    /// None at present.
    pub fn encode(&self) -> Result<Vec<u8>, String> {
        let body = BlockBody {
            height: self.block.height,
            block_hash: self.block.hash,
            header: serialize_hex(&self.header),
            previous_hash: self.header.prev_blockhash,
            time: self.header.time,
            transactions: self.transactions,
            outputs: self.counts.map(|counts| counts.outputs),
            unspent: self.counts.map(|counts| counts.unspent),
            spends: self.counts.map(|counts| counts.spends),
            states: self.counts.map(|counts| counts.states),
            digest: Hex(self.digest),
            commitments: self.links.as_ref().map(|links| LinksPart {
                v1: (&links.v1).into(),
                v2: links.v2.as_ref().map(LinkBody::from),
                columns_head: links.columns_head.map(Hex),
            }),
            settled: self.settled,
        };
        serde_json::to_vec(&body).map_err(|error| error.to_string())
    }

    /// Reads it.
    ///
    /// # Errors
    /// What is wrong with the body, a header of another hash among it.
    pub fn decode(body: &[u8]) -> Result<Self, String> {
        let body: BlockBody = parse(body)?;
        let header: Header = deserialize_hex(&body.header).map_err(|error| error.to_string())?;
        let (hash, found) = (body.block_hash, header.block_hash());
        if hash != found {
            return Err(format!("a header of block {found} instead of {hash}"));
        }
        if (header.prev_blockhash, header.time) != (body.previous_hash, body.time) {
            return Err("the header says something else than the rest".to_owned());
        }
        let counts = (body.outputs, body.unspent, body.spends, body.states);
        let counts = match counts {
            (Some(outputs), Some(unspent), Some(spends), Some(states)) => Some(Counts {
                outputs,
                unspent,
                spends,
                states,
            }),
            (None, None, None, None) => None,
            _ => return Err("some numbers are there and some are not".to_owned()),
        };
        let height = body.height;
        let block = BlockId { height, hash };
        Ok(Self {
            block,
            header,
            transactions: body.transactions,
            counts,
            digest: body.digest.0,
            links: body.commitments.map(|links| Links {
                block,
                v1: links.v1.into(),
                v2: links.v2.map(Link::from),
                columns_head: links.columns_head.map(|head| head.0),
            }),
            settled: body.settled,
        })
    }
}

#[derive(Serialize, Deserialize)]
struct DigestBody {
    height: u32,
    block_hash: BlockHash,
    digest: Hex<32>,
}

impl Digest {
    /// Writes it.
    ///
    /// # Errors
    /// None at present.
    pub fn encode(&self) -> Result<Vec<u8>, String> {
        let body = DigestBody {
            height: self.block.height,
            block_hash: self.block.hash,
            digest: Hex(self.digest),
        };
        serde_json::to_vec(&body).map_err(|error| error.to_string())
    }

    /// Reads that of a height.
    ///
    /// # Errors
    /// What is wrong with the body, another height among it.
    pub fn decode(body: &[u8], height: u32) -> Result<Self, String> {
        let body: DigestBody = parse(body)?;
        if body.height != height {
            return Err(format!("the digest of height {} instead", body.height));
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
