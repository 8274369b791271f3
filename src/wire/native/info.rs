//! What a server says of itself.

use bitcoin::{BlockHash, Network};
use serde::{Deserialize, Serialize};

use super::column::Column;
use crate::BlockId;
use crate::wire::hex::Hex;
use crate::wire::text::{excerpt, parse};

/// Heads of the chains of hashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heads {
    /// Version 1.
    pub v1: [u8; 32],
    /// Version 2; `None` from a server that keeps tweaks only.
    pub v2: Option<[u8; 32]>,
    /// That over the columns; `None` from a server that keeps tweaks only.
    pub columns: Option<[u8; 32]>,
}

/// `GET /spindex/v1/info`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    /// Its chain.
    pub network: Network,
    /// Hash of the block at height 0.
    pub genesis_hash: BlockHash,
    /// The first height of its index.
    pub first_height: u32,
    /// The last block of its index.
    pub tip: BlockId,
    /// Whether it has tweaks alone: no outputs, no spends.
    pub tweaks_only: bool,
    /// The columns it has; those of a newer protocol are left out when it is read.
    pub columns: Vec<Column>,
    /// Blocks of a chunk.
    pub chunk_blocks: u32,
    /// How many of the last blocks a reorganisation may reach.
    pub horizon: u32,
    /// The height from which on it knows who spends what; `None` if it does for all of its blocks.
    pub spenders_from: Option<u32>,
    /// The rolling digest over all tweaks up to the tip.
    pub digest: [u8; 32],
    /// The heads at the tip; `None` where the chains have not begun.
    pub heads: Option<Heads>,
    /// The program that serves it, and its version.
    pub server: Server,
}

/// A program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Server {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
}

/// A block as the answers of this protocol name it.
#[derive(Serialize, Deserialize)]
pub(super) struct BlockIdBody {
    height: u32,
    block_hash: BlockHash,
}

impl From<BlockId> for BlockIdBody {
    fn from(block: BlockId) -> Self {
        Self {
            height: block.height,
            block_hash: block.hash,
        }
    }
}

impl From<BlockIdBody> for BlockId {
    fn from(body: BlockIdBody) -> Self {
        Self {
            height: body.height,
            hash: body.block_hash,
        }
    }
}

#[derive(Serialize, Deserialize)]
struct HeadsBody {
    v1: Hex<32>,
    v2: Option<Hex<32>>,
    columns: Option<Hex<32>>,
}

#[derive(Serialize, Deserialize, Clone, Copy)]
#[serde(rename_all = "snake_case")]
enum Keeps {
    Full,
    Tweaks,
}

#[derive(Serialize, Deserialize)]
struct Body {
    network: String,
    genesis_hash: BlockHash,
    first_height: u32,
    tip: BlockIdBody,
    keeps: Keeps,
    columns: Vec<String>,
    chunk_blocks: u32,
    horizon: u32,
    spenders_from: Option<u32>,
    digest: Hex<32>,
    heads: Option<HeadsBody>,
    server: Server,
}

impl Info {
    /// Writes it; networks with the names of Bitcoin Core's `-chain`.
    ///
    /// # Errors
    /// None at present.
    pub fn encode(&self) -> Result<Vec<u8>, String> {
        let columns = self.columns.iter();
        let body = Body {
            network: self.network.to_core_arg().to_owned(),
            genesis_hash: self.genesis_hash,
            first_height: self.first_height,
            tip: self.tip.into(),
            keeps: match self.tweaks_only {
                true => Keeps::Tweaks,
                false => Keeps::Full,
            },
            columns: columns.map(|column| column.name().to_owned()).collect(),
            chunk_blocks: self.chunk_blocks,
            horizon: self.horizon,
            spenders_from: self.spenders_from,
            digest: Hex(self.digest),
            heads: self.heads.map(|heads| HeadsBody {
                v1: Hex(heads.v1),
                v2: heads.v2.map(Hex),
                columns: heads.columns.map(Hex),
            }),
            server: self.server.clone(),
        };
        serde_json::to_vec(&body).map_err(|error| error.to_string())
    }

    /// Reads it.
    ///
    /// # Errors
    /// What is wrong with the body.
    pub fn decode(body: &[u8]) -> Result<Self, String> {
        let body: Body = parse(body)?;
        let network = Network::from_core_arg(&body.network);
        let columns = body.columns.iter();
        Ok(Self {
            network: network.map_err(|error| excerpt(&error.to_string()))?,
            genesis_hash: body.genesis_hash,
            first_height: body.first_height,
            tip: body.tip.into(),
            tweaks_only: matches!(body.keeps, Keeps::Tweaks),
            columns: columns.filter_map(|name| Column::by_name(name)).collect(),
            chunk_blocks: body.chunk_blocks,
            horizon: body.horizon,
            spenders_from: body.spenders_from,
            digest: body.digest.0,
            heads: body.heads.map(|heads| Heads {
                v1: heads.v1.0,
                v2: heads.v2.map(|v2| v2.0),
                columns: heads.columns.map(|columns| columns.0),
            }),
            server: body.server,
        })
    }
}
