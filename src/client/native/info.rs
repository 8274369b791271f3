//! What a server says of itself, as far as a scan asks.

use bitcoin::{BlockHash, Network};
use serde::Deserialize;

use crate::BlockId;
use crate::wire::text::{excerpt, parse};

/// What a server says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NativeInfo {
    /// Its chain.
    pub network: Network,
    /// The first block it has.
    pub first_height: u32,
    /// The last one.
    pub tip: BlockId,
    /// Whether it has tweaks alone: no outputs, no spends.
    pub tweaks_only: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Keeps {
    Full,
    Tweaks,
}

#[derive(Deserialize)]
struct Tip {
    height: u32,
    block_hash: BlockHash,
}

#[derive(Deserialize)]
struct Body {
    network: String,
    first_height: u32,
    tip: Tip,
    keeps: Keeps,
}

impl NativeInfo {
    /// Reads `info`.
    ///
    /// # Errors
    /// What is wrong with the body.
    pub fn decode(body: &[u8]) -> Result<Self, String> {
        let body: Body = parse(body)?;
        let network = Network::from_core_arg(&body.network);
        Ok(Self {
            network: network.map_err(|error| excerpt(&error.to_string()))?,
            first_height: body.first_height,
            tip: BlockId {
                height: body.tip.height,
                hash: body.tip.block_hash,
            },
            tweaks_only: matches!(body.keeps, Keeps::Tweaks),
        })
    }
}
