//! Blocks from a node's JSON-RPC alone: slower than REST, for nodes whose REST interface is off or too old.
//!
//! `getblock` with verbosity 3 says all there is: the header's fields, each transaction's bytes in hex, and each input's
//! spent output. It is JSON of nine times the block's size that takes the node some thirty times as long as the bytes that
//! REST gives; verbosity 0 beside it says nothing more.

use std::ops::RangeInclusive;
use std::time::Duration;

use bitcoin::consensus::Encodable;
use bitcoin::hashes::Hash;
use bitcoin::hex::HexToBytesIter;
use bitcoin::{
    Amount, BlockHash, CompactTarget, Denomination, Network, OutPoint, ScriptBuf, Transaction,
    TxMerkleNode, Txid, VarInt,
};
use futures::future::BoxFuture;
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;
use tokio::task;

use super::info::{is_pruned, prune_cure};
use super::rpc::{CallError, OUT_OF_RANGE, RpcClient, RpcSettings};
use super::{
    BlockSource, BlockWithPrevouts, BroadcastError, ChainError, MempoolListing, Node, Prevouts,
    RawBlock,
};
use crate::BlockId;

/// Most bytes read of a block's JSON. A full block answers with some 20 MB; one that spends thousands of scripts of
/// kilobytes could answer with more than this, and is left to the other sources.
const BLOCK_LIMIT_BYTES: usize = 512 << 20;

/// Most bytes of a block: consensus allows a weight of 4,000,000, and a byte weighs at least 1.
const RAW_BLOCK_LIMIT_BYTES: usize = 4_000_000;

/// Hashes asked for in one request.
const HASHES_AT_ONCE: u32 = 2000;

/// The first version whose `getblock` knows verbosity 3: 23.0.
const OLDEST_VERSION: u64 = 230_000;

/// RPC_INVALID_ADDRESS_OR_KEY: no such block.
const NOT_FOUND: i64 = -5;

/// RPC_MISC_ERROR: the block is pruned.
const MISC_ERROR: i64 = -1;

/// Blocks from a node's JSON-RPC (Bitcoin Core 23 or newer).
#[derive(Debug)]
pub struct RpcSource {
    client: RpcClient,
}

impl RpcSource {
    /// A source that connects to nothing yet, gives up on a request once the node has been silent for `timeout`, and
    /// has at most `max_in_flight` requests under way, at least 1, fewer while the node's work queue is full. Each may
    /// hold a block's JSON, some 20 MB.
    ///
    /// # Errors
    /// [`ChainError::Setup`] for a URL that is none or contains credentials.
    pub fn new(
        settings: RpcSettings,
        timeout: Duration,
        max_in_flight: usize,
    ) -> Result<Self, ChainError> {
        Ok(Self {
            client: RpcClient::with_in_flight(settings, timeout, max_in_flight)?,
        })
    }

    async fn check_node(&self, network: Network) -> Result<(), ChainError> {
        let url = self.client.url();
        let is_first = !self.client.is_checked();
        let asked = async {
            Ok((
                self.client.check_chain(network).await?,
                self.client.version().await?,
            ))
        };
        let (info, version) = asked.await.map_err(|e| match e {
            // Nothing is known of the server yet, so that this is no passing trouble but the wrong one.
            ChainError::Mismatch(what) if is_first => ChainError::Setup(what),
            e => e,
        })?;
        if version < OLDEST_VERSION {
            return Err(ChainError::Setup(format!(
                "{url}: the node's version {version} is too old; Bitcoin Core 23 or newer is needed for getblock with spent outputs"
            )));
        }
        self.client.learn_chain(&info);
        if is_first {
            let tip = info.tip();
            tracing::info!(
                "RPC at {url}: version {version}, credentials are right, network \"{}\", first block is right, tip {tip}",
                info.chain()
            );
            info.log();
        }
        Ok(())
    }

    /// The hashes of the active chain at these heights, up to its end.
    async fn hashes(&self, heights: RangeInclusive<u32>) -> Result<Vec<BlockId>, ChainError> {
        // Larger ones are no heights to the node but malformed.
        let last = (*heights.end()).min(i32::MAX as u32);
        let heights = *heights.start()..=last;
        if heights.is_empty() {
            return Ok(Vec::new());
        }
        let method = "getblockhash";
        let params: Vec<_> = heights.clone().map(|height| json!([height])).collect();
        let answers = self.client.batch::<BlockHash>(method, &params).await?;
        let mut ids = Vec::with_capacity(answers.len());
        for (height, answer) in heights.zip(answers) {
            match answer {
                Ok(hash) => ids.push(BlockId { height, hash }),
                Err(CallError::Refused {
                    code: OUT_OF_RANGE, ..
                }) => break,
                Err(e) => return Err(e.unexpected(self.client.url(), method)),
            }
        }
        Ok(ids)
    }

    async fn fetch_block(&self, id: BlockId) -> Result<BlockWithPrevouts, ChainError> {
        let params = json!([id.hash, 3]);
        let answer = self.client.fetch("getblock", params, BLOCK_LIMIT_BYTES);
        let answer = answer.await?;
        // Reading megabytes would hold up the other requests of this thread. The JSON is gone when they are read.
        let read = task::spawn_blocking(move || {
            answer
                .result()
                .map_err(ReadError::from)
                .and_then(|block| read_block(id, &block))
        });
        let Ok(read) = read.await else {
            return Err(ChainError::Unreachable(format!(
                "block {id} was not read: the program is stopping"
            )));
        };
        let url = self.client.url();
        let read = match read {
            Err(ReadError::Refused { message, .. }) if is_pruned(&message) => {
                let info = self.client.chain_info().await.ok();
                match info.and_then(|info| info.pruned(url, id)) {
                    Some(error) => return Err(error),
                    None => Err(ReadError::Refused {
                        code: MISC_ERROR,
                        message,
                    }),
                }
            }
            read => read,
        };
        read.map_err(|error| match error {
            ReadError::Chain(ChainError::Mismatch(what)) => {
                ChainError::Mismatch(format!("{url}: block {id}: {what}"))
            }
            ReadError::Chain(error) => error,
            ReadError::Refused {
                code: NOT_FOUND | MISC_ERROR,
                message,
            } => ChainError::NotAvailable(format!(
                "{url}: the node does not have block {id}: {message}{}",
                prune_cure(&message)
            )),
            ReadError::Refused { code, message } => ChainError::Mismatch(format!(
                "{url} refuses getblock for block {id}: {message} (code {code})"
            )),
        })
    }
}

/// A block from the result of `getblock` with verbosity 3, checked as [`BlockWithPrevouts::new`] does.
///
/// # Errors
/// [`ChainError::Mismatch`] for a result that is no such block, [`ChainError::NotAvailable`] where the node left out what
/// the block spends.
pub fn block_from_rpc_json(id: BlockId, result: &[u8]) -> Result<BlockWithPrevouts, ChainError> {
    let json: BlockJson<'_> = serde_json::from_slice(result)
        .map_err(|error| ChainError::Mismatch(format!("block {id}: {error}")))?;
    read_block(id, &json).map_err(|error| match error {
        ReadError::Chain(error) => error,
        ReadError::Refused { message, .. } => ChainError::Mismatch(message),
    })
}

/// Why a block could not be read from an answer.
enum ReadError {
    Refused { code: i64, message: String },
    Chain(ChainError),
}

impl From<CallError> for ReadError {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Refused { code, message } => Self::Refused { code, message },
            CallError::Chain(error) => Self::Chain(error),
        }
    }
}

/// A block as `getblock` with verbosity 3 shows it: what matters of it, borrowed from the answer.
#[derive(Deserialize)]
struct BlockJson<'a> {
    version: i32,
    /// Missing for the genesis block.
    previousblockhash: Option<BlockHash>,
    merkleroot: TxMerkleNode,
    time: u32,
    bits: &'a str,
    nonce: u32,
    #[serde(borrow)]
    tx: Vec<TransactionJson<'a>>,
}

#[derive(Deserialize)]
struct TransactionJson<'a> {
    hex: &'a str,
    #[serde(borrow)]
    vin: Vec<InputJson<'a>>,
}

/// A coinbase's input has none of these.
#[derive(Deserialize)]
struct InputJson<'a> {
    txid: Option<Txid>,
    vout: Option<u32>,
    #[serde(borrow)]
    prevout: Option<PrevoutJson<'a>>,
}

#[derive(Deserialize)]
struct PrevoutJson<'a> {
    height: u32,
    /// A number of bitcoins with eight decimals, kept as its text: no floating point comes near it.
    #[serde(borrow)]
    value: &'a RawValue,
    #[serde(borrow, rename = "scriptPubKey")]
    script_pubkey: ScriptJson<'a>,
}

#[derive(Deserialize)]
struct ScriptJson<'a> {
    hex: &'a str,
}

fn mismatch(what: impl Into<String>) -> ReadError {
    ReadError::Chain(ChainError::Mismatch(what.into()))
}

/// Puts a block together. That the parts belong together shows in the block's hash and merkle root.
fn read_block(id: BlockId, json: &BlockJson<'_>) -> Result<BlockWithPrevouts, ReadError> {
    let block = RawBlock::parse(block_bytes(json)?).map_err(|e| mismatch(e.to_string()))?;
    let mut prevouts = Prevouts::with_capacity(json.tx.len(), block.input_count(), 0);
    let mut script = Vec::new();
    for (tx, json) in block.transactions().zip(&json.tx) {
        let at = tx.index();
        // The coinbase spends nothing.
        let spending = if at == 0 { &[][..] } else { &json.vin };
        for (input, json) in tx.inputs().zip(spending) {
            let outpoint = json.txid.zip(json.vout);
            if outpoint.map(|(txid, vout)| OutPoint { txid, vout }) != Some(input.previous_output())
            {
                return Err(mismatch(format!(
                    "the inputs of transaction {at} are not those of its bytes"
                )));
            }
            let Some(prevout) = &json.prevout else {
                return Err(ReadError::Chain(ChainError::NotAvailable(format!(
                    "the node has no spent outputs for block {id}; it pruned them, or never connected this block"
                ))));
            };
            if prevout.height > id.height {
                return Err(mismatch(format!(
                    "transaction {at} spends an output of height {}",
                    prevout.height
                )));
            }
            let value_sat = amount_sat(prevout.value.get())
                .ok_or_else(|| mismatch(format!("transaction {at} spends no amount in bitcoin")))?;
            script.clear();
            push_hex(&mut script, prevout.script_pubkey.hex, usize::MAX)?;
            prevouts.push(value_sat, &script, Some(prevout.height));
        }
        prevouts.end_transaction();
    }
    BlockWithPrevouts::new(id, block, prevouts).map_err(ReadError::Chain)
}

/// The block in the form of the peer-to-peer protocol.
fn block_bytes(json: &BlockJson<'_>) -> Result<Vec<u8>, ReadError> {
    let bits =
        u32::from_str_radix(json.bits, 16).map_err(|_| mismatch("its bits are no number"))?;
    let header = bitcoin::block::Header {
        version: bitcoin::block::Version::from_consensus(json.version),
        prev_blockhash: json.previousblockhash.unwrap_or_else(BlockHash::all_zeros),
        merkle_root: json.merkleroot,
        time: json.time,
        bits: CompactTarget::from_consensus(bits),
        nonce: json.nonce,
    };
    let mut bytes = Vec::new();
    let count = VarInt::from(json.tx.len());
    header
        .consensus_encode(&mut bytes)
        .and_then(|_| count.consensus_encode(&mut bytes))
        .map_err(|e| mismatch(e.to_string()))?;
    for tx in &json.tx {
        push_hex(&mut bytes, tx.hex, RAW_BLOCK_LIMIT_BYTES)?;
    }
    Ok(bytes)
}

/// Appends the bytes written in hex, up to a length of all together.
fn push_hex(bytes: &mut Vec<u8>, hex: &str, limit_bytes: usize) -> Result<(), ReadError> {
    if hex.len() / 2 > limit_bytes.saturating_sub(bytes.len()) {
        return Err(mismatch(format!(
            "its transactions have more than {limit_bytes} bytes"
        )));
    }
    let digits = HexToBytesIter::new(hex).map_err(|e| mismatch(e.to_string()))?;
    bytes.reserve(hex.len() / 2);
    for byte in digits {
        bytes.push(byte.map_err(|e| mismatch(e.to_string()))?);
    }
    Ok(())
}

/// The satoshis of a decimal number of bitcoins; `None` for other texts, parts of a satoshi, and more than there can be.
fn amount_sat(text: &str) -> Option<u64> {
    let amount = Amount::from_str_in(text, Denomination::Bitcoin).ok()?;
    (amount <= Amount::MAX_MONEY).then_some(amount.to_sat())
}

impl BlockSource for RpcSource {
    fn describe(&self) -> String {
        format!("Bitcoin Core RPC at {}", self.client.url())
    }

    fn check(&self, network: Network) -> BoxFuture<'_, Result<(), ChainError>> {
        Box::pin(self.check_node(network))
    }

    fn tip(&self) -> BoxFuture<'_, Result<BlockId, ChainError>> {
        Box::pin(async { Ok(self.client.chain_info().await?.tip()) })
    }

    fn block_at(&self, height: u32) -> BoxFuture<'_, Result<Option<BlockId>, ChainError>> {
        Box::pin(async move { Ok(self.hashes(height..=height).await?.pop()) })
    }

    /// One request for up to 2,000 hashes.
    fn blocks_at(
        &self,
        heights: RangeInclusive<u32>,
    ) -> BoxFuture<'_, Result<Vec<BlockId>, ChainError>> {
        let (first, last) = heights.into_inner();
        let last = last.min(first.saturating_add(HASHES_AT_ONCE - 1));
        Box::pin(self.hashes(first..=last))
    }

    fn block(&self, id: BlockId) -> BoxFuture<'_, Result<BlockWithPrevouts, ChainError>> {
        Box::pin(self.fetch_block(id))
    }
}

impl Node for RpcSource {
    fn signet_challenge(&self) -> BoxFuture<'_, Result<Option<ScriptBuf>, ChainError>> {
        Box::pin(async {
            let info = self.client.chain_info().await?;
            info.signet_challenge(self.client.url())
        })
    }

    fn rejects(&self, id: BlockId) -> BoxFuture<'_, Result<bool, ChainError>> {
        Box::pin(self.client.rejects(id))
    }

    fn broadcast<'a>(&'a self, tx: &'a Transaction) -> BoxFuture<'a, Result<Txid, BroadcastError>> {
        Box::pin(self.client.broadcast(tx))
    }

    fn mempool(&self) -> BoxFuture<'_, Result<MempoolListing, ChainError>> {
        Box::pin(self.client.mempool())
    }

    fn entered_mempool<'a>(
        &'a self,
        txids: &'a [Txid],
    ) -> BoxFuture<'a, Result<Vec<Option<u64>>, ChainError>> {
        Box::pin(self.client.entered_mempool(txids))
    }

    fn raw_unconfirmed<'a>(
        &'a self,
        txids: &'a [Txid],
    ) -> BoxFuture<'a, Result<Vec<Option<Vec<u8>>>, ChainError>> {
        Box::pin(self.client.raw_unconfirmed(txids))
    }

    fn unspent_scripts<'a>(
        &'a self,
        outpoints: &'a [OutPoint],
    ) -> BoxFuture<'a, Result<Vec<Option<ScriptBuf>>, ChainError>> {
        Box::pin(self.client.unspent_scripts(outpoints))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_exact() {
        for (text, sat) in [
            ("0.00000000", 0),
            ("0.00000001", 1),
            ("50.00000000", 5_000_000_000),
            ("20999999.97690000", 2_099_999_997_690_000),
            // Neither is a multiple of a power of two.
            ("0.1", 10_000_000),
            ("12345678.12345679", 1_234_567_812_345_679),
            ("21000000", 2_100_000_000_000_000),
        ] {
            assert_eq!(amount_sat(text), Some(sat), "{text}");
        }
        for text in [
            "",
            "1e-8",
            "-1.0",
            "0.000000001",
            "21000000.00000001",
            "1 BTC",
            "\"1.0\"",
            "null",
            "1.2.3",
            "184467440737.09551617",
        ] {
            assert_eq!(amount_sat(text), None, "{text}");
        }
    }

    #[test]
    fn hex_is_bounded() {
        let mut bytes = vec![9];
        assert!(push_hex(&mut bytes, "00ff", 3).is_ok());
        assert_eq!(bytes, [9, 0, 255]);
        for (hex, limit) in [("00", 3), ("0", 9), ("0g", 9)] {
            assert!(push_hex(&mut bytes, hex, limit).is_err(), "{hex}");
            bytes.truncate(3);
        }
    }
}
