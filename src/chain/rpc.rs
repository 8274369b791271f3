//! A client of a node's JSON-RPC: broadcasting, a check of the credentials, and the calls under
//! [`rpc_source`](super::rpc_source).

mod answer;
mod auth;
pub mod mempool;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bitcoin::consensus::encode::serialize_hex;
use bitcoin::{BlockHash, Network, Transaction, Txid};
use reqwest::StatusCode;
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::{Value, json};

use self::answer::{Answer, BatchAnswer, not_json};
pub(super) use self::answer::{CallError, RawAnswer};
use self::auth::Credentials;
pub use self::auth::RpcAuth;
use super::http::{self, Http};
use super::in_flight::{InFlight, Place};
use super::info::{ChainInfo, KnownChain, check_genesis};
use super::{BroadcastError, ChainError};
use crate::BlockId;

/// Most bytes read of an answer, but for those of [`RpcClient::fetch`]: a few kilobytes, or a batch of small ones.
const ANSWER_LIMIT_BYTES: usize = 1 << 20;

/// RPC_METHOD_NOT_FOUND.
const METHOD_NOT_FOUND: i64 = -32601;

/// RPC_INVALID_PARAMETER: no such height.
pub(super) const OUT_OF_RANGE: i64 = -8;

/// Requests under way at a time of a client that is asked now and then.
const FEW_IN_FLIGHT: usize = 4;

/// Most headers that are walked down from the tip of an invalid branch to a block on it.
const WALK_MAX: u32 = 1_000;

/// Where a node's JSON-RPC is and how to get in.
#[derive(Debug, Clone)]
pub struct RpcSettings {
    /// Base URL such as `http://127.0.0.1:8332`, without credentials.
    pub url: String,
    /// Credentials.
    pub auth: RpcAuth,
}

impl RpcSettings {
    /// Whether the node is on this machine, as far as its URL says.
    pub fn is_local(&self) -> bool {
        let url = reqwest::Url::parse(&self.url).ok();
        url.is_some_and(|url| match url.host_str() {
            Some("localhost") => true,
            Some(host) => {
                let host = host.trim_start_matches('[').trim_end_matches(']');
                let address = host.parse::<std::net::IpAddr>();
                address.is_ok_and(|address| address.is_loopback())
            }
            None => false,
        })
    }
}

/// A client of a node's JSON-RPC.
#[derive(Debug)]
pub struct RpcClient {
    http: Http,
    url: String,
    auth: RpcAuth,
    in_flight: Arc<InFlight>,
    chain: KnownChain,
    /// Of the next call that is no part of a batch.
    next_id: AtomicU64,
}

/// A message that the node publishes by ZMQ, and where.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ZmqNotification {
    /// `pub` and the topic, such as `pubhashblock`.
    #[serde(rename = "type")]
    pub kind: String,
    /// What the node binds, such as `tcp://127.0.0.1:28332`.
    pub address: String,
}

impl RpcClient {
    /// A client that gives up on a call once the node has been silent for `timeout`. Connects to nothing yet.
    ///
    /// # Errors
    /// [`ChainError::Setup`] for a URL that is none or contains credentials.
    pub fn new(settings: RpcSettings, timeout: Duration) -> Result<Self, ChainError> {
        Self::with_in_flight(settings, timeout, FEW_IN_FLIGHT)
    }

    /// The same, with at most so many requests under way, at least 1.
    pub(super) fn with_in_flight(
        settings: RpcSettings,
        timeout: Duration,
        max_in_flight: usize,
    ) -> Result<Self, ChainError> {
        Ok(Self {
            http: Http::new(timeout)?,
            url: http::base_url(&settings.url, "--rpc-url")?,
            auth: settings.auth,
            in_flight: InFlight::new(max_in_flight),
            chain: KnownChain::default(),
            next_id: AtomicU64::new(0),
        })
    }

    /// Base URL, for errors.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// The node's version, such as 300000 for 30.0 (`getnetworkinfo`); proves that the credentials are right.
    ///
    /// # Errors
    /// `Setup` for refused or missing credentials, `Unreachable` while the node is away or starting.
    pub async fn version(&self) -> Result<u64, ChainError> {
        #[derive(Deserialize)]
        struct NetworkInfo {
            version: u64,
        }
        let info: NetworkInfo = self.ask("getnetworkinfo", json!([])).await?;
        Ok(info.version)
    }

    /// What the node says of its chain (`getblockchaininfo`).
    ///
    /// # Errors
    /// Besides those of a call, `Setup` where it is not the chain that was checked before.
    pub(super) async fn chain_info(&self) -> Result<ChainInfo, ChainError> {
        let info = self.ask("getblockchaininfo", json!([])).await?;
        self.chain.require(&info, &self.url)?;
        Ok(info)
    }

    /// Whether [`RpcClient::learn_chain`] was told of one.
    pub(super) fn is_checked(&self) -> bool {
        self.chain.is_known()
    }

    /// Checks which chain the node serves.
    ///
    /// # Errors
    /// Besides those of a call, `Setup` for another one than `network`'s, or than the one that was checked before.
    pub(super) async fn check_chain(&self, network: Network) -> Result<ChainInfo, ChainError> {
        let info = self.chain_info().await?;
        self.chain.check(&info, network, &self.url)?;
        check_genesis(self.hash_at(0).await?, network, &self.url)?;
        Ok(info)
    }

    /// Notes that all was found right with the node; from now on it has to serve this chain.
    pub(super) fn learn_chain(&self, info: &ChainInfo) {
        self.chain.learn(info);
    }

    /// Hash of the active chain's block at a height, `None` above the tip (`getblockhash`).
    pub(super) async fn hash_at(&self, height: u32) -> Result<Option<BlockHash>, ChainError> {
        let method = "getblockhash";
        match self.call(method, json!([height])).await {
            Ok(hash) => Ok(Some(hash)),
            Err(CallError::Refused {
                code: OUT_OF_RANGE, ..
            }) => Ok(None),
            Err(e) => Err(e.unexpected(&self.url, method)),
        }
    }

    /// Whether the node knows a block and calls it, or one that it builds on, invalid (`getchaintips`).
    ///
    /// A block below the end of an invalid branch counts only if the node is not downloading: one that connects its
    /// blocks again has yet to come to it, and what is invalid may lie above.
    ///
    /// # Errors
    /// As for [`RpcClient::version`].
    pub(super) async fn rejects(&self, id: BlockId) -> Result<bool, ChainError> {
        #[derive(Deserialize)]
        struct ChainTip {
            height: u32,
            hash: BlockHash,
            branchlen: u32,
            status: String,
        }
        #[derive(Deserialize)]
        struct Header {
            previousblockhash: Option<BlockHash>,
        }
        let mut tips: Vec<ChainTip> = self.ask("getchaintips", json!([])).await?;
        tips.retain(|tip| tip.status == "invalid");
        if tips.iter().any(|tip| tip.hash == id.hash) {
            return Ok(true);
        }
        tips.retain(|tip| {
            let fork = tip.height.saturating_sub(tip.branchlen);
            fork < id.height && id.height < tip.height && tip.height - id.height <= WALK_MAX
        });
        if tips.is_empty() || self.chain_info().await?.is_downloading() {
            return Ok(false);
        }
        for tip in tips {
            let mut hash = Some(tip.hash);
            for _ in id.height..tip.height {
                let Some(above) = hash else {
                    break;
                };
                let header: Header = self.ask("getblockheader", json!([above])).await?;
                hash = header.previousblockhash;
            }
            if hash == Some(id.hash) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What the node publishes by ZMQ (`getzmqnotifications`); nothing where it was built without ZMQ.
    ///
    /// # Errors
    /// As for [`RpcClient::version`].
    pub async fn zmq_notifications(&self) -> Result<Vec<ZmqNotification>, ChainError> {
        let method = "getzmqnotifications";
        match self.call(method, json!([])).await {
            Err(CallError::Refused {
                code: METHOD_NOT_FOUND,
                ..
            }) => Ok(Vec::new()),
            result => result.map_err(|e| e.unexpected(&self.url, method)),
        }
    }

    /// Hands a transaction to the node's mempool and peers (`sendrawtransaction`).
    ///
    /// # Errors
    /// [`BroadcastError::Rejected`] with the node's reason; otherwise why the node could not be asked.
    pub async fn broadcast(&self, tx: &Transaction) -> Result<Txid, BroadcastError> {
        let method = "sendrawtransaction";
        match self
            .call::<String>(method, json!([serialize_hex(tx)]))
            .await
        {
            Ok(answer) => {
                let txid = tx.compute_txid();
                if answer.parse().ok() != Some(txid) {
                    return Err(ChainError::Mismatch(format!(
                        "{} accepts transaction {txid} under another id",
                        self.url
                    ))
                    .into());
                }
                Ok(txid)
            }
            Err(CallError::Refused { message, .. }) => Err(BroadcastError::Rejected(message)),
            Err(CallError::Chain(e)) => Err(e.into()),
        }
    }

    /// A call that no sound node refuses.
    pub(super) async fn ask<T: DeserializeOwned>(
        &self,
        method: &'static str,
        params: Value,
    ) -> Result<T, ChainError> {
        let result = self.call(method, params).await;
        result.map_err(|e| e.unexpected(&self.url, method))
    }

    /// A call with a small answer.
    pub(super) async fn call<T: DeserializeOwned>(
        &self,
        method: &'static str,
        params: Value,
    ) -> Result<T, CallError> {
        let answer = self.fetch(method, params, ANSWER_LIMIT_BYTES).await?;
        answer.result()
    }

    /// A call whose answer has at most `limit_bytes` and is left to the caller to read.
    pub(super) async fn fetch(
        &self,
        method: &'static str,
        params: Value,
        limit_bytes: usize,
    ) -> Result<RawAnswer, ChainError> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let call = request(id, method, &params);
        let (reply, place) = self.exchange(method, &call, limit_bytes).await?;
        Ok(RawAnswer {
            reply,
            url: self.url.clone(),
            method,
            id,
            _place: place,
        })
    }

    /// The same call with each of these parameters, in one request; the results in their order.
    ///
    /// # Errors
    /// Besides those of a call, `Mismatch` where an answer is missing or there are two.
    pub(super) async fn batch<T: DeserializeOwned>(
        &self,
        method: &'static str,
        params: &[Value],
    ) -> Result<Vec<Result<T, CallError>>, ChainError> {
        let answers = self.batch_answers(method, params, ANSWER_LIMIT_BYTES);
        let answers = answers.await?.into_iter();
        let results = answers.map(|answer| answer.into_result(&self.url, method));
        Ok(results.collect())
    }

    /// The answers of [`RpcClient::batch`], of at most so many bytes together.
    async fn batch_answers<T: DeserializeOwned>(
        &self,
        method: &'static str,
        params: &[Value],
        limit_bytes: usize,
    ) -> Result<Vec<Answer<T>>, ChainError> {
        let url = &self.url;
        let calls = (0..).zip(params);
        let calls: Vec<Value> = calls.map(|(id, one)| request(id, method, one)).collect();
        let (reply, _place) = self
            .exchange(method, &Value::Array(calls), limit_bytes)
            .await?;
        let Ok(answers) = serde_json::from_slice::<Vec<BatchAnswer<T>>>(&reply.body) else {
            // A node that refuses all of a batch answers as to one call.
            let single = serde_json::from_slice::<Answer<IgnoredAny>>(&reply.body);
            let single = single.map_err(|e| not_json(url, method, &reply, &e))?;
            return Err(match single.into_result(url, method) {
                Err(e) => e.unexpected(url, method),
                Ok(_) => ChainError::Mismatch(format!(
                    "{url} answers a batch of {method} with what no Bitcoin Core node says; check --rpc-url"
                )),
            });
        };
        let mut results: Vec<Option<Answer<T>>> = Vec::new();
        results.resize_with(params.len(), || None);
        let counted = answers.len() == params.len();
        for BatchAnswer { id, answer } in answers {
            if let Some(slot) = results.get_mut(id) {
                *slot = Some(answer);
            }
        }
        let results: Option<Vec<_>> = results.into_iter().collect();
        results.filter(|_| counted).ok_or_else(|| {
            ChainError::Mismatch(format!(
                "{url} does not answer each {method} of a batch once; is --rpc-url a Bitcoin Core node?"
            ))
        })
    }

    /// Sends a request when there is a place for it, and reads the answer unless its status says it all.
    async fn exchange(
        &self,
        method: &str,
        body: &Value,
        limit_bytes: usize,
    ) -> Result<(http::Reply, Place), ChainError> {
        let url = &self.url;
        let mut attempts = self.in_flight.request(url);
        let (reply, place) = loop {
            let place = attempts.place().await?;
            let reply = self.post(body, limit_bytes).await?;
            if let Some(through) = attempts.through(reply, place).await? {
                break through;
            }
        };
        match reply.status {
            StatusCode::UNAUTHORIZED => Err(ChainError::Setup(format!(
                "{url}: the node rejected the RPC credentials; check --rpc-cookie, or --rpc-user and SPINDEX_RPC_PASSWORD"
            ))),
            StatusCode::FORBIDDEN => Err(ChainError::Setup(format!(
                "{url}: the node forbids {method}; check its rpcallowip and rpcwhitelist, --rpc-cookie and --rpc-user"
            ))),
            StatusCode::SERVICE_UNAVAILABLE => Err(ChainError::Unreachable(format!(
                "{url} is busy or stopping: {}",
                reply.reason()
            ))),
            // Other statuses come with a JSON answer that says more.
            _ => Ok((reply, place)),
        }
    }

    /// Sends a request with whatever credentials there are.
    async fn post(&self, body: &Value, limit_bytes: usize) -> Result<http::Reply, ChainError> {
        // A node that is away has taken its cookie along: whether one is missing shows when the node asks for it.
        let credentials = self.auth.credentials().await.ok();
        let reply = self
            .post_as(credentials.as_ref(), body, limit_bytes)
            .await?;
        if reply.status != StatusCode::UNAUTHORIZED {
            return Ok(reply);
        }
        // A node that has restarted has written a new cookie, perhaps since it was read.
        let again = Some(self.auth.credentials().await?);
        match again == credentials {
            true => Ok(reply),
            false => self.post_as(again.as_ref(), body, limit_bytes).await,
        }
    }

    async fn post_as(
        &self,
        credentials: Option<&Credentials>,
        body: &Value,
        limit_bytes: usize,
    ) -> Result<http::Reply, ChainError> {
        let mut request = self.http.post(&self.url).json(body);
        if let Some(Credentials { user, password }) = credentials {
            request = request.basic_auth(user.as_str(), Some(password.as_str()));
        }
        self.http.send(request, &self.url, limit_bytes).await
    }
}

fn request(id: u64, method: &str, params: &Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})
}
