//! Version 1 of BlindBit's HTTP interface and spindex's own routes beside it: bodies in JSON. `docs/wire.md` has samples.
//!
//! Numbers are integers, hashes and txids in display order, bytes lower-case hex. What is read is read strictly, but for
//! fields that are not needed; an error is a text fit for one line of a log.

mod blocks;
mod lists;
pub mod words;

use bitcoin::{BlockHash, Network, Txid};
use serde::{Deserialize, Serialize};

use super::text::parse;

pub use super::text::excerpt;
pub use blocks::{Digest, Filter, Spend, Spends, SpentIndex};
pub use lists::{Tweaks, Utxo};

/// Writes a body. Plain structs cannot fail; the error is passed on all the same.
fn write(body: &impl Serialize) -> Result<Vec<u8>, String> {
    serde_json::to_vec(body).map_err(|error| error.to_string())
}

/// The body of every refusal, which parses as none of the answers: `{"error": …}`.
pub fn encode_error(text: &str) -> Vec<u8> {
    serde_json::json!({ "error": text })
        .to_string()
        .into_bytes()
}

/// The text of an error object, whatever else is in it.
pub fn decode_error(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Body {
        error: serde_json::Value,
    }
    if body.trim_ascii_start().first() != Some(&b'{') {
        return None;
    }
    match serde_json::from_slice::<Body>(body).ok()?.error {
        serde_json::Value::Null => None,
        serde_json::Value::String(text) => Some(excerpt(&text)),
        // The native protocol's, with a code beside it.
        other => match other.get("message").and_then(|message| message.as_str()) {
            Some(message) => Some(excerpt(message)),
            None => Some(excerpt(&other.to_string())),
        },
    }
}

/// `/info`: what a server says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Info {
    /// Its chain.
    pub network: Network,
    /// The last block it can answer for.
    pub height: u32,
    /// It has tweaks alone: no outputs, no filters, no spent index.
    pub tweaks_only: bool,
    /// It has the list of all tweaks of a block.
    pub full_list: bool,
    /// That list can be asked for with a dust limit (and then exists whatever `full_list` says).
    pub full_list_with_dust_limit: bool,
    /// It has the list of tweaks whose transactions still have an unspent taproot output.
    pub cut_through: bool,
}

impl Info {
    /// Networks are written with the names of Bitcoin Core's `-chain`: `main`, `test`, `testnet4`, `signet`, `regtest`,
    /// which is what the clients that ask know.
    ///
    /// # Errors
    /// None at present.
    pub fn encode(&self) -> Result<Vec<u8>, String> {
        #[derive(Serialize)]
        struct Body {
            network: &'static str,
            height: u32,
            tweaks_only: bool,
            tweaks_full_basic: bool,
            tweaks_full_with_dust_filter: bool,
            tweaks_cut_through_with_dust_filter: bool,
        }
        write(&Body {
            network: self.network.to_core_arg(),
            height: self.height,
            tweaks_only: self.tweaks_only,
            tweaks_full_basic: self.full_list,
            tweaks_full_with_dust_filter: self.full_list_with_dust_limit,
            tweaks_cut_through_with_dust_filter: self.cut_through,
        })
    }

    /// Networks are read with the names of Bitcoin Core's `-chain` or with rust-bitcoin's.
    ///
    /// # Errors
    /// What is wrong with the body.
    pub fn decode(body: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Body {
            network: String,
            height: u32,
            tweaks_only: bool,
            tweaks_full_basic: bool,
            tweaks_full_with_dust_filter: bool,
            tweaks_cut_through_with_dust_filter: bool,
        }
        let body: Body = parse(body)?;
        let network = match body.network.as_str() {
            "main" | "mainnet" | "bitcoin" => Network::Bitcoin,
            "test" | "testnet" | "testnet3" => Network::Testnet,
            "testnet4" => Network::Testnet4,
            "signet" => Network::Signet,
            "regtest" => Network::Regtest,
            other => return Err(format!("unknown network \"{}\"", excerpt(other))),
        };
        Ok(Self {
            network,
            height: body.height,
            tweaks_only: body.tweaks_only,
            full_list: body.tweaks_full_basic,
            full_list_with_dust_limit: body.tweaks_full_with_dust_filter,
            cut_through: body.tweaks_cut_through_with_dust_filter,
        })
    }
}

/// `/block-height`: height of the last block a server can answer for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockHeight(pub u32);

impl BlockHeight {
    /// In both spellings: one client reads `height`, all others `block_height`.
    ///
    /// # Errors
    /// None at present.
    pub fn encode(&self) -> Result<Vec<u8>, String> {
        #[derive(Serialize)]
        struct Body {
            block_height: u32,
            height: u32,
        }
        write(&Body {
            block_height: self.0,
            height: self.0,
        })
    }

    /// In one of the spellings, or both.
    ///
    /// # Errors
    /// What is wrong with the body.
    pub fn decode(body: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Body {
            block_height: Option<u32>,
            height: Option<u32>,
        }
        let body: Body = parse(body)?;
        match (body.block_height, body.height) {
            (Some(a), Some(b)) if a != b => Err(format!("two heights, {a} and {b}")),
            (Some(height), _) | (None, Some(height)) => Ok(Self(height)),
            (None, None) => Err("no height in the answer".to_owned()),
        }
    }
}

/// The body of `/block-hash`.
#[derive(Serialize, Deserialize)]
struct BlockHashBody {
    block_hash: BlockHash,
}

/// Writes `/block-hash`.
///
/// # Errors
/// None at present.
pub fn encode_block_hash(block_hash: BlockHash) -> Result<Vec<u8>, String> {
    write(&BlockHashBody { block_hash })
}

/// Reads `/block-hash`.
///
/// # Errors
/// What is wrong with the body.
pub fn decode_block_hash(body: &[u8]) -> Result<BlockHash, String> {
    parse(body).map(|body: BlockHashBody| body.block_hash)
}

/// The request of `/forward-tx`.
#[derive(Debug, Serialize, Deserialize)]
pub struct ForwardTx {
    /// The transaction as hex.
    pub data: String,
}

impl ForwardTx {
    /// As the JSON body of a request.
    ///
    /// # Errors
    /// None at present.
    pub fn encode(&self) -> Result<Vec<u8>, String> {
        write(self)
    }

    /// From the JSON body of a request.
    ///
    /// # Errors
    /// What is wrong with the body.
    pub fn decode(body: &[u8]) -> Result<Self, String> {
        parse(body)
    }
}

/// The answer of `/forward-tx`.
pub fn encode_forwarded(txid: Txid) -> Vec<u8> {
    format!("\"{txid}\"").into_bytes()
}

/// The answer of `/forward-tx`: the txid, or nothing on servers that do not say it.
///
/// # Errors
/// What is wrong with the body.
pub fn decode_forwarded(body: &[u8]) -> Result<Option<Txid>, String> {
    if body.trim_ascii().is_empty() {
        return Ok(None);
    }
    parse::<String>(body)?
        .parse()
        .map(Some)
        .map_err(|_| "no txid in the answer".to_owned())
}

#[cfg(test)]
mod tests;
