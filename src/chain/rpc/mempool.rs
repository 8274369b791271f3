//! What a node's JSON-RPC tells of its mempool, and of the outputs that transactions there spend.
//!
//! `getrawmempool` has ids alone, with the number that ZMQ's `sequence` goes on with. Everything else is asked for in batches.
//! `gettxout` without the mempool knows the outputs that blocks have left unspent, on a pruned node too, and whatever an
//! unconfirmed transaction spends is one of these, or an output of another unconfirmed transaction.

use bitcoin::hex::FromHex;
use bitcoin::{OutPoint, ScriptBuf, Txid};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::task;

use super::RpcClient;
use super::answer::{Answer, CallError};
use crate::chain::http::one_line;
use crate::chain::{ChainError, MempoolListing};

/// Most bytes read of the list of a mempool: some four million transactions, ten times what the default of 300 MB holds.
const LISTING_LIMIT_BYTES: usize = 256 << 20;

/// Calls in one request.
const CALLS_AT_ONCE: usize = 100;

/// Most bytes read of the answer to one request. The longest answer to one call is that of `getrawtransaction` for a
/// transaction of 4,000,000 bytes, in hex, or of `gettxout` for a script of 1,000,000 bytes, in four spellings.
const ANSWER_LIMIT_BYTES: usize = 16 << 20;

/// RPC_INVALID_ADDRESS_OR_KEY: no such transaction.
const NOT_FOUND: i64 = -5;

/// How often the mempool is asked for again where the tip changes meanwhile.
const TRIES: usize = 5;

/// The list of a mempool: `getrawmempool` without details, with the sequence number.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct RawMempool {
    /// The transactions, in no order.
    pub txids: Vec<Txid>,
    /// The number of the next change.
    pub mempool_sequence: u64,
}

/// Reads the result of `getrawmempool`.
///
/// # Errors
/// [`ChainError::Mismatch`] for what is none.
pub fn raw_mempool_from_json(result: &[u8]) -> Result<RawMempool, ChainError> {
    serde_json::from_slice(result).map_err(|error| mismatch(&error))
}

/// Reads the script out of the result of `gettxout`, `None` where that is null.
///
/// # Errors
/// [`ChainError::Mismatch`] for what is none.
pub fn unspent_script_from_json(result: &[u8]) -> Result<Option<ScriptBuf>, ChainError> {
    let output: Option<UnspentOutput> =
        serde_json::from_slice(result).map_err(|error| mismatch(&error))?;
    output.map(|output| output.script("the node")).transpose()
}

/// Reads the time out of the result of `getmempoolentry`, in seconds since 1970.
///
/// # Errors
/// [`ChainError::Mismatch`] for what is none.
pub fn entry_time_from_json(result: &[u8]) -> Result<u64, ChainError> {
    let entry: MempoolEntry = serde_json::from_slice(result).map_err(|error| mismatch(&error))?;
    Ok(entry.time)
}

fn mismatch(error: &serde_json::Error) -> ChainError {
    ChainError::Mismatch(one_line(&error.to_string()))
}

/// What matters of `getmempoolinfo`.
#[derive(Deserialize)]
struct MempoolInfo {
    /// Whether what was kept of the last run has been read. Missing in nodes that are too old to say.
    loaded: Option<bool>,
}

/// What matters of `getmempoolentry`.
#[derive(Deserialize)]
struct MempoolEntry {
    time: u64,
}

/// What matters of `gettxout`.
#[derive(Deserialize)]
struct UnspentOutput {
    #[serde(rename = "scriptPubKey")]
    script_pubkey: ScriptJson,
}

#[derive(Deserialize)]
struct ScriptJson {
    hex: String,
}

impl UnspentOutput {
    fn script(&self, url: &str) -> Result<ScriptBuf, ChainError> {
        ScriptBuf::from_hex(&self.script_pubkey.hex).map_err(|error| {
            ChainError::Mismatch(format!("{url} names a script that is none ({error})"))
        })
    }
}

impl RpcClient {
    /// What is in the mempool, and on which tip.
    ///
    /// # Errors
    /// As for [`RpcClient::version`]; `NotAvailable` where the tip is another one each time.
    pub(in crate::chain) async fn mempool(&self) -> Result<MempoolListing, ChainError> {
        for _ in 0..TRIES {
            let before = self.chain_info().await?;
            let info: MempoolInfo = self.ask("getmempoolinfo", json!([])).await?;
            let listed = self.listed().await?;
            let after = self.chain_info().await?;
            if before.tip() == after.tip() {
                return Ok(MempoolListing {
                    tip: after.tip(),
                    is_settled: info.loaded.unwrap_or(true) && !after.is_downloading(),
                    sequence: listed.mempool_sequence,
                    txids: listed.txids,
                });
            }
        }
        Err(ChainError::NotAvailable(format!(
            "{} is at another tip each time its mempool is asked for",
            self.url
        )))
    }

    async fn listed(&self) -> Result<RawMempool, ChainError> {
        let (method, params) = ("getrawmempool", json!([false, true]));
        let answer = self.fetch(method, params, LISTING_LIMIT_BYTES).await?;
        let url = self.url.clone();
        // Megabytes of text, where there are many.
        let read = task::spawn_blocking(move || {
            let listed: Result<RawMempool, CallError> = answer.result();
            listed.map_err(|e| e.unexpected(&url, method))
        });
        read.await.unwrap_or_else(|_| {
            Err(ChainError::Unreachable(
                "the mempool was not read: the program is stopping".to_owned(),
            ))
        })
    }

    /// When each transaction entered the mempool (`getmempoolentry`).
    ///
    /// # Errors
    /// As for [`RpcClient::version`].
    pub(in crate::chain) async fn entered_mempool(
        &self,
        txids: &[Txid],
    ) -> Result<Vec<Option<u64>>, ChainError> {
        let entries = self.found("getmempoolentry", txids.iter().map(|txid| json!([txid])));
        let entries: Vec<Option<MempoolEntry>> = entries.await?;
        let times = entries.into_iter().map(|entry| Some(entry?.time));
        Ok(times.collect())
    }

    /// The bytes of each transaction (`getrawtransaction`).
    ///
    /// # Errors
    /// As for [`RpcClient::version`].
    pub(in crate::chain) async fn raw_unconfirmed(
        &self,
        txids: &[Txid],
    ) -> Result<Vec<Option<Vec<u8>>>, ChainError> {
        let texts = self.found("getrawtransaction", txids.iter().map(|txid| json!([txid])));
        let texts: Vec<Option<String>> = texts.await?;
        let bytes = texts.into_iter().map(|text| {
            let bytes = text.map(|text| Vec::from_hex(&text)).transpose();
            bytes.map_err(|error| {
                let url = &self.url;
                ChainError::Mismatch(format!("{url} gives a transaction that is none ({error})"))
            })
        });
        bytes.collect()
    }

    /// The script of each output that blocks have left unspent (`gettxout`, without the mempool).
    ///
    /// # Errors
    /// As for [`RpcClient::version`].
    pub(in crate::chain) async fn unspent_scripts(
        &self,
        outpoints: &[OutPoint],
    ) -> Result<Vec<Option<ScriptBuf>>, ChainError> {
        let params = outpoints.iter();
        let params = params.map(|outpoint| json!([outpoint.txid, outpoint.vout, false]));
        let outputs: Vec<Option<UnspentOutput>> = self.found("gettxout", params).await?;
        let scripts = outputs.into_iter();
        let scripts = scripts.map(|output| output.map(|o| o.script(&self.url)).transpose());
        scripts.collect()
    }

    /// The results of many calls; `None` for what the node does not have.
    async fn found<T: DeserializeOwned>(
        &self,
        method: &'static str,
        params: impl Iterator<Item = Value>,
    ) -> Result<Vec<Option<T>>, ChainError> {
        let params: Vec<Value> = params.collect();
        let mut found = Vec::with_capacity(params.len());
        let mut parts: Vec<&[Value]> = params.chunks(CALLS_AT_ONCE).rev().collect();
        while let Some(part) = parts.pop() {
            match self.batch_answers(method, part, ANSWER_LIMIT_BYTES).await {
                Ok(answers) => {
                    for answer in answers {
                        found.push(self.found_one(method, answer)?);
                    }
                }
                // Perhaps it was too long, and each of two halves is not.
                Err(ChainError::Mismatch(_)) if part.len() > 1 => {
                    let (first, second) = part.split_at(part.len() / 2);
                    parts.extend([second, first]);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    fn found_one<T>(&self, method: &str, answer: Answer<T>) -> Result<Option<T>, ChainError> {
        match answer.into_nullable(&self.url, method) {
            Err(CallError::Refused {
                code: NOT_FOUND, ..
            }) => Ok(None),
            result => result.map_err(|e| e.unexpected(&self.url, method)),
        }
    }
}
