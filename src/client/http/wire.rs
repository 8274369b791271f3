//! The bodies of version 1 and of the native routes, parsed strictly. Unknown fields are ignored.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use bitcoin::hex::FromHex;
use bitcoin::{BlockHash, Network, OutPoint, Txid};
use rayon::prelude::*;
use serde::de::{self, DeserializeOwned, Deserializer, Visitor};
use serde::{Deserialize, Serialize};

use super::super::{OracleInfo, OracleUtxo, SpendDetail, SpendDetails, SpentIndex};
use crate::curve::TweakPoint;

/// Longest part of a peer's text that goes into an error.
const EXCERPT_CHARS: usize = 200;

/// A text of the peer, fit for one line of a log: shortened, without control characters.
pub(super) fn excerpt(text: &str) -> String {
    let mut excerpt: String = text
        .chars()
        .take(EXCERPT_CHARS)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    if text.chars().nth(EXCERPT_CHARS).is_some() {
        excerpt.push('…');
    }
    excerpt
}

/// The text of an error object (`{"error": …}`), whatever else is in it.
pub(super) fn error_text(body: &[u8]) -> Option<String> {
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
        other => Some(excerpt(&other.to_string())),
    }
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    serde_json::from_slice(body).map_err(|error| excerpt(&error.to_string()))
}

/// `N` bytes as hex, of exactly that length.
struct Hex<const N: usize>([u8; N]);

/// Any number of bytes as hex.
struct HexBytes(Vec<u8>);

struct HexVisitor<T>(PhantomData<T>);

impl<const N: usize> Visitor<'_> for HexVisitor<Hex<N>> {
    type Value = Hex<N>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} hex characters", 2 * N)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Hex<N>, E> {
        let mut bytes = [0; N];
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        if pairs.len() != N || !rest.is_empty() {
            return Err(E::invalid_length(text.len(), &self));
        }
        for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
            let (Some(high), Some(low)) = (nibble(*high), nibble(*low)) else {
                return Err(E::custom("a character that is no hex digit"));
            };
            *byte = high << 4 | low;
        }
        Ok(Hex(bytes))
    }
}

fn nibble(digit: u8) -> Option<u8> {
    // A hex digit is below 16 and fits.
    (digit as char).to_digit(16).map(|value| value as u8)
}

impl Visitor<'_> for HexVisitor<HexBytes> {
    type Value = HexBytes;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("hex characters, two a byte")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<HexBytes, E> {
        Vec::from_hex(text).map(HexBytes).map_err(E::custom)
    }
}

impl<'de, const N: usize> Deserialize<'de> for Hex<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(HexVisitor::<Self>(PhantomData))
    }
}

impl<'de> Deserialize<'de> for HexBytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(HexVisitor::<Self>(PhantomData))
    }
}

/// `/digest/:height`, of spindex.
pub(super) fn digest(body: &[u8], height: u32) -> Result<(BlockHash, [u8; 32]), String> {
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
    Ok((body.block_hash, body.digest.0))
}

/// `/info`. Servers name networks like Bitcoin Core's `-chain` or like rust-bitcoin.
pub(super) fn info(body: &[u8]) -> Result<OracleInfo, String> {
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
    Ok(OracleInfo {
        network,
        height: body.height,
        tweaks_only: body.tweaks_only,
        full_list: body.tweaks_full_basic,
        full_list_with_dust_limit: body.tweaks_full_with_dust_filter,
        cut_through: body.tweaks_cut_through_with_dust_filter,
    })
}

/// `/block-height`, in one of its two spellings or both.
pub(super) fn block_height(body: &[u8]) -> Result<u32, String> {
    #[derive(Deserialize)]
    struct Body {
        block_height: Option<u32>,
        height: Option<u32>,
    }
    let body: Body = parse(body)?;
    match (body.block_height, body.height) {
        (Some(a), Some(b)) if a != b => Err(format!("two heights, {a} and {b}")),
        (Some(height), _) | (None, Some(height)) => Ok(height),
        (None, None) => Err("no height in the answer".to_owned()),
    }
}

/// `/block-hash`.
pub(super) fn block_hash(body: &[u8]) -> Result<BlockHash, String> {
    #[derive(Deserialize)]
    struct Body {
        block_hash: BlockHash,
    }
    parse(body).map(|body: Body| body.block_hash)
}

/// `/tweaks` and `/tweak-index`. Checks every point, on rayon.
pub(super) fn tweaks(body: &[u8]) -> Result<Vec<TweakPoint>, String> {
    let tweaks: Vec<Hex<33>> = parse(body)?;
    tweaks
        .par_iter()
        .with_min_len(32)
        .enumerate()
        .map(|(position, Hex(bytes))| {
            TweakPoint::from_compressed(bytes)
                .ok_or_else(|| format!("tweak {position} is no point of the curve"))
        })
        .collect()
}

/// One filter of the block at `height`: its block and its bytes.
pub(super) fn filter(body: &[u8], height: u32) -> Result<(BlockHash, Vec<u8>), String> {
    #[derive(Deserialize)]
    struct Body {
        filter_type: u8,
        #[serde(alias = "height")]
        block_height: u32,
        block_hash: BlockHash,
        data: HexBytes,
    }
    let body: Body = parse(body)?;
    if body.filter_type != 4 {
        return Err(format!("filter type {} instead of 4", body.filter_type));
    }
    if body.block_height != height {
        return Err(format!("the filter of height {}", body.block_height));
    }
    Ok((body.block_hash, body.data.0))
}

/// `/utxos`. `block_height` and `timestamp` are 0 on some servers and not needed.
pub(super) fn utxos(body: &[u8]) -> Result<Vec<OracleUtxo>, String> {
    #[derive(Deserialize)]
    struct Row {
        txid: Txid,
        vout: u32,
        value: u64,
        scriptpubkey: Hex<34>,
        block_hash: BlockHash,
        spent: bool,
    }
    let rows: Vec<Row> = parse(body)?;
    rows.into_iter()
        .map(|row| {
            let outpoint = OutPoint::new(row.txid, row.vout);
            let Some([0x51, 0x20, key @ ..]) = row.scriptpubkey.0.first_chunk::<34>() else {
                return Err(format!("the script of {outpoint} is not taproot"));
            };
            Ok(OracleUtxo {
                outpoint,
                value_sat: row.value,
                key: *key,
                block_hash: row.block_hash,
                spent: row.spent,
            })
        })
        .collect()
}

/// `/spent-index`: an object, or a bare `[]` for an empty index.
pub(super) fn spent_index(body: &[u8]) -> Result<SpentIndex, String> {
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
        return Ok(SpentIndex {
            block_hash: None,
            items: Vec::new(),
        });
    }
    let body: Body = parse(body)?;
    Ok(SpentIndex {
        block_hash: Some(body.block_hash),
        items: body.data.into_iter().map(|item| item.0).collect(),
    })
}

/// `/spends` of the block at `height` (native).
pub(super) fn spend_details(body: &[u8], height: u32) -> Result<SpendDetails, String> {
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
    Ok(SpendDetails {
        block_hash: body.block_hash,
        spends: body
            .data
            .into_iter()
            .map(|row| SpendDetail {
                outpoint: OutPoint::new(row.txid, row.vout),
                spending_txid: row.spending_txid,
                input: row.input,
                op_return: row.op_return.into_iter().map(|data| data.0).collect(),
            })
            .collect(),
    })
}

/// The request of `/forward-tx`.
#[derive(Serialize)]
pub(super) struct ForwardTx {
    /// The transaction as hex.
    pub(super) data: String,
}

/// The answer of `/forward-tx`: the txid, or nothing on servers that do not say it.
pub(super) fn forwarded(body: &[u8]) -> Result<Option<Txid>, String> {
    if body.trim_ascii().is_empty() {
        return Ok(None);
    }
    let text: Cow<'_, str> = parse::<String>(body)?.into();
    text.parse()
        .map(Some)
        .map_err(|_| "no txid in the answer".to_owned())
}

#[cfg(test)]
mod tests;
