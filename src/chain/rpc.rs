//! A client of a node's JSON-RPC: broadcasting, a check of the credentials, and the calls under
//! [`rpc_source`](super::rpc_source).

use std::fmt;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bitcoin::consensus::encode::serialize_hex;
use bitcoin::{BlockHash, Network, Transaction, Txid};
use reqwest::StatusCode;
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use zeroize::Zeroizing;

use super::http::{self, Http, one_line};
use super::in_flight::{InFlight, Place};
use super::info::{ChainInfo, KnownChain, check_genesis};
use super::{BroadcastError, ChainError};
use crate::BlockId;

/// Most bytes read of an answer, but for those of [`RpcClient::fetch`]: a few kilobytes, or a batch of small ones.
const ANSWER_LIMIT_BYTES: usize = 1 << 20;

/// Most bytes read of a cookie file; the node writes about 80.
const COOKIE_LIMIT_BYTES: u64 = 4096;

/// RPC_IN_WARMUP: the node is still starting.
const IN_WARMUP: i64 = -28;

/// RPC_METHOD_NOT_FOUND.
const METHOD_NOT_FOUND: i64 = -32601;

/// RPC_INVALID_PARAMETER: no such height.
pub(super) const OUT_OF_RANGE: i64 = -8;

/// Requests under way at a time of a client that is asked now and then.
const FEW_IN_FLIGHT: usize = 4;

/// Most headers that are walked down from the tip of an invalid branch to a block on it.
const WALK_MAX: u32 = 1_000;

/// How to prove to the node that RPC is allowed. `Debug` never shows the password.
#[derive(Clone)]
pub enum RpcAuth {
    /// The file the node writes at each start, `.cookie` in its data directory. Read anew for each call.
    CookieFile(PathBuf),
    /// A name and password configured in the node (`rpcauth`, or `rpcuser` and `rpcpassword`).
    UserPassword {
        /// Name, without a colon.
        user: String,
        /// Password.
        password: Zeroizing<String>,
    },
}

impl fmt::Debug for RpcAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CookieFile(path) => f.debug_tuple("CookieFile").field(path).finish(),
            Self::UserPassword { user, .. } => f
                .debug_struct("UserPassword")
                .field("user", user)
                .field("password", &format_args!("***"))
                .finish(),
        }
    }
}

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

/// Why a call has no result.
#[derive(Debug)]
pub(super) enum CallError {
    /// The node executed the call and refused.
    Refused { code: i64, message: String },
    /// The node could not be asked.
    Chain(ChainError),
}

impl CallError {
    /// For calls that no sound node refuses.
    pub(super) fn unexpected(self, url: &str, method: &str) -> ChainError {
        match self {
            Self::Chain(error) => error,
            Self::Refused { code, message } => {
                ChainError::Mismatch(format!("{url} refuses {method}: {message} (code {code})"))
            }
        }
    }
}

impl From<ChainError> for CallError {
    fn from(error: ChainError) -> Self {
        Self::Chain(error)
    }
}

/// An answer to one call. `result` is missing or null where there is an error.
#[derive(Deserialize)]
struct Answer<T> {
    result: Option<T>,
    error: Option<AnswerError>,
}

/// The answer to a call that is no part of a batch. The id comes with errors too, unless the call was not understood.
#[derive(Deserialize)]
struct SingleAnswer<T> {
    id: Option<u64>,
    result: Option<T>,
    error: Option<AnswerError>,
}

#[derive(Deserialize)]
struct AnswerError {
    code: i64,
    message: String,
}

/// One answer of a batch, which may be in any order.
#[derive(Deserialize)]
struct BatchAnswer<T> {
    id: usize,
    #[serde(flatten)]
    answer: Answer<T>,
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

/// The bytes of an answer, not looked at yet.
pub(super) struct RawAnswer {
    reply: http::Reply,
    url: String,
    method: &'static str,
    id: u64,
    /// Given back with the bytes.
    _place: Place,
}

impl RawAnswer {
    /// The result, which may borrow from the bytes.
    pub(super) fn result<'a, T: Deserialize<'a>>(&'a self) -> Result<T, CallError> {
        let (url, method, reply) = (&self.url, self.method, &self.reply);
        let SingleAnswer { id, result, error } =
            serde_json::from_slice(&reply.body).map_err(|e| not_json(url, method, reply, &e))?;
        let is_answer = id == Some(self.id) || id.is_none() && result.is_none();
        match is_answer {
            true => Answer { result, error }.into_result(url, method),
            false => Err(ChainError::Mismatch(format!(
                "{url} answers another call than this {method}; is --rpc-url a Bitcoin Core node?"
            ))
            .into()),
        }
    }
}

impl<T> Answer<T> {
    fn into_result(self, url: &str, method: &str) -> Result<T, CallError> {
        match (self.error, self.result) {
            (None, Some(result)) => Ok(result),
            (None, None) => Err(ChainError::Mismatch(format!(
                "{url} answers {method} without a result; is --rpc-url a Bitcoin Core node?"
            ))
            .into()),
            (
                Some(AnswerError {
                    code: IN_WARMUP,
                    message,
                }),
                _,
            ) => Err(ChainError::Unreachable(format!(
                "{url}: the node is starting: {}",
                one_line(&message)
            ))
            .into()),
            (Some(AnswerError { code, message }), _) => Err(CallError::Refused {
                code,
                message: one_line(&message),
            }),
        }
    }
}

/// What an answer means that does not parse.
fn not_json(url: &str, method: &str, reply: &http::Reply, error: &serde_json::Error) -> ChainError {
    let status = reply.status.as_u16();
    match reply.status {
        status if status.is_success() => ChainError::Mismatch(format!(
            "{url} answers {method} with what no Bitcoin Core node says ({}); check --rpc-url",
            one_line(&error.to_string())
        )),
        _ if reply.is_passing() => ChainError::Unreachable(format!(
            "{url}: the node is starting, stopping or busy (HTTP {status}: {})",
            reply.reason()
        )),
        _ => ChainError::Mismatch(format!(
            "{url} answers {method} with HTTP {status} and no JSON-RPC; is --rpc-url a Bitcoin Core node?"
        )),
    }
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

    /// The same call with each of these parameters, in one request; the answers in their order.
    ///
    /// # Errors
    /// Besides those of a call, `Mismatch` where an answer is missing or there are two.
    pub(super) async fn batch<T: DeserializeOwned>(
        &self,
        method: &'static str,
        params: &[Value],
    ) -> Result<Vec<Result<T, CallError>>, ChainError> {
        let url = &self.url;
        let calls = (0..).zip(params);
        let calls: Vec<Value> = calls.map(|(id, one)| request(id, method, one)).collect();
        let (reply, _place) = self
            .exchange(method, &Value::Array(calls), ANSWER_LIMIT_BYTES)
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
        let mut results: Vec<Option<Result<T, CallError>>> = Vec::new();
        results.resize_with(params.len(), || None);
        let counted = answers.len() == params.len();
        for BatchAnswer { id, answer } in answers {
            if let Some(slot) = results.get_mut(id) {
                *slot = Some(answer.into_result(url, method));
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
        let credentials = self.credentials().await.ok();
        let reply = self
            .post_as(credentials.as_ref(), body, limit_bytes)
            .await?;
        if reply.status != StatusCode::UNAUTHORIZED {
            return Ok(reply);
        }
        // A node that has restarted has written a new cookie, perhaps since it was read.
        let again = Some(self.credentials().await?);
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

    async fn credentials(&self) -> Result<Credentials, ChainError> {
        let path = match &self.auth {
            RpcAuth::UserPassword { user, password } => {
                return Ok(Credentials {
                    user: Zeroizing::new(user.clone()),
                    password: password.clone(),
                });
            }
            RpcAuth::CookieFile(path) => path,
        };
        let cookie = read_cookie(path).await.map_err(|e| {
            ChainError::Setup(format!(
                "cannot read the RPC cookie file {} ({e}); {}",
                path.display(),
                cookie_cure(e.kind())
            ))
        })?;
        match cookie.trim_end().split_once(':') {
            Some((user, password)) if !user.is_empty() => Ok(Credentials {
                user: Zeroizing::new(user.to_owned()),
                password: Zeroizing::new(password.to_owned()),
            }),
            _ => Err(ChainError::Setup(format!(
                "{} is no RPC cookie file; does --rpc-cookie name the file .cookie in the node's data directory?",
                path.display()
            ))),
        }
    }
}

/// What to do about a cookie file that cannot be read.
fn cookie_cure(error: ErrorKind) -> &'static str {
    match error {
        ErrorKind::PermissionDenied => {
            "start bitcoind with -rpccookieperms=group, put this user into its group, and let that group into the data directory; or give --rpc-user and SPINDEX_RPC_PASSWORD"
        }
        _ => "is the node running, and does --rpc-cookie name the file in its data directory?",
    }
}

fn request(id: u64, method: &str, params: &Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})
}

#[derive(PartialEq, Eq)]
struct Credentials {
    user: Zeroizing<String>,
    password: Zeroizing<String>,
}

async fn read_cookie(path: &PathBuf) -> std::io::Result<Zeroizing<String>> {
    let file = tokio::fs::File::open(path).await?;
    let mut cookie = Zeroizing::new(String::new());
    file.take(COOKIE_LIMIT_BYTES)
        .read_to_string(&mut cookie)
        .await?;
    Ok(cookie)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password_settings() -> RpcSettings {
        RpcSettings {
            url: "http://127.0.0.1:1".into(),
            auth: RpcAuth::UserPassword {
                user: "alice".into(),
                password: Zeroizing::new("s3cret".into()),
            },
        }
    }

    #[test]
    fn debug_masks_the_password() {
        let client = RpcClient::new(password_settings(), Duration::from_secs(1)).unwrap();
        for text in [format!("{:?}", password_settings()), format!("{client:?}")] {
            assert!(text.contains("alice"), "{text}");
            assert!(!text.contains("s3cret"), "{text}");
        }
    }

    /// The tests' user may read everything where that is root.
    #[test]
    fn a_cookie_file_of_another_user_names_the_option_for_it() {
        assert!(cookie_cure(ErrorKind::PermissionDenied).contains("-rpccookieperms"));
        assert!(cookie_cure(ErrorKind::NotFound).contains("is the node running"));
    }

    #[tokio::test]
    async fn a_missing_or_odd_cookie_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(".cookie");
        let client = RpcClient::new(
            RpcSettings {
                auth: RpcAuth::CookieFile(path.clone()),
                ..password_settings()
            },
            Duration::from_secs(1),
        )
        .unwrap();

        let error = client.credentials().await.err().unwrap();
        assert!(matches!(error, ChainError::Setup(_)), "{error:?}");
        assert!(
            error.to_string().contains(path.to_str().unwrap()),
            "{error}"
        );
        // Without a node nobody knows whether one is missing.
        let error = client.version().await.unwrap_err();
        assert!(matches!(error, ChainError::Unreachable(_)), "{error:?}");

        std::fs::write(&path, "no colon here").unwrap();
        let error = client.credentials().await.err().unwrap();
        assert!(matches!(error, ChainError::Setup(_)), "{error:?}");
        assert!(
            error.to_string().contains("is no RPC cookie file"),
            "{error}"
        );
        assert!(!error.to_string().contains("no colon here"), "{error}");
    }
}
