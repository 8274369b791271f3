//! What chains of hashes commit to of each block, and their heads.

use bitcoin::BlockHash;
use serde::{Deserialize, Serialize};

use crate::BlockId;
use crate::wire::hex::Hex;
use crate::wire::text::parse;

/// What a chain of hashes commits to at a block, and its head there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// What it commits to of the block ([`spcommit::commitment`](crate::wire::spcommit::commitment)).
    pub commitment: [u8; 32],
    /// Its head ([`spcommit::next_head`](crate::wire::spcommit::next_head)).
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
    /// Head of the chain over the columns ([`SectionHashes::next_head`](super::section::SectionHashes::next_head)), whose
    /// commitments stand in `headers`; `None` from a server that keeps tweaks only.
    pub columns_head: Option<[u8; 32]>,
}

/// `GET /spindex/v1/commitments?from=&to=`: the links of consecutive blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commitments {
    /// In order of height.
    pub blocks: Vec<Links>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct LinkBody {
    commitment: Hex<32>,
    head: Hex<32>,
}

#[derive(Serialize, Deserialize)]
struct LinksBody {
    height: u32,
    block_hash: BlockHash,
    v1: LinkBody,
    v2: Option<LinkBody>,
    columns_head: Option<Hex<32>>,
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
            columns_head: links.columns_head.map(Hex),
        });
        let blocks = blocks.collect();
        serde_json::to_vec(&CommitmentsBody { blocks }).map_err(|error| error.to_string())
    }

    /// Reads those of `from` to `to`.
    ///
    /// # Errors
    /// What is wrong with the body, other heights among it.
    pub fn decode(body: &[u8], from: u32, to: u32) -> Result<Self, String> {
        let body: CommitmentsBody = parse(body)?;
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
            columns_head: links.columns_head.map(|head| head.0),
        });
        Ok(Self {
            blocks: blocks.collect(),
        })
    }
}
