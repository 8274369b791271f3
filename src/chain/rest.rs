//! Bitcoin Core's REST interface.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bitcoin::hashes::{Hash, sha256d};
use bitcoin::{BlockHash, Network, OutPoint, ScriptBuf, Transaction, Txid};
use futures::future::BoxFuture;
use reqwest::StatusCode;
use tokio::task;

use super::http::{self, Http};
use super::in_flight::InFlight;
use super::info::{ChainInfo, KnownChain, check_genesis, is_pruned, prune_cure};
use super::parse::parse_spent_outputs;
use super::raw::RawBlock;
use super::rpc::{RpcClient, RpcSettings};
use super::{BlockSource, BlockWithPrevouts, BroadcastError, ChainError, MempoolListing, Node};
use crate::BlockId;

/// Most bytes of a block: consensus allows a weight of 4,000,000, and a byte weighs at least 1.
const BLOCK_LIMIT_BYTES: usize = 4_000_000;

/// Most bytes of a block's spent outputs. An input weighs at least 4 x 41, so that a block has fewer than 24,391; each
/// spends at most an amount of 8 bytes, a length of 3 and a script of 10,000 (longer ones cannot be spent). A
/// transaction weighs at least 4 x 60 and adds a count of at most 3 bytes.
const SPENT_LIMIT_BYTES: usize = 24_391 * (8 + 3 + 10_000) + 16_667 * 3 + 9;

/// Most bytes of the small answers (chain state, a hash).
const SMALL_LIMIT_BYTES: usize = 1 << 20;

/// Bytes of a block header.
const HEADER_BYTES: usize = 80;

/// Most headers the node gives at once (its `MAX_REST_HEADERS_RESULTS`).
const HEADERS_AT_ONCE: u32 = 2000;

/// Blocks below the tip that two nodes of one chain agree upon.
const SETTLED_BLOCKS: u32 = 6;

/// How to reach a node.
#[derive(Debug, Clone)]
pub struct RestSettings {
    /// Base URL such as `http://127.0.0.1:8332`, without credentials.
    pub url: String,
    /// Longest silence of the node before a request fails, and how long an answer may take besides the time for its bytes.
    pub timeout: Duration,
    /// JSON-RPC, for what REST does not do: without it [`Node::broadcast`] and [`Node::rejects`] are errors.
    pub rpc: Option<RpcSettings>,
    /// Most requests under way at a time, at least 1. There are fewer while the node's `-rpcworkqueue` is full.
    pub max_in_flight: usize,
}

impl RestSettings {
    /// A node at `url`, 30 s of patience, 8 requests at a time, no RPC.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            timeout: Duration::from_secs(30),
            rpc: None,
            max_in_flight: 8,
        }
    }
}

/// Blocks from a node's REST interface (Bitcoin Core 30 or newer, started with `-rest`).
#[derive(Debug)]
pub struct RestSource {
    http: Http,
    url: String,
    in_flight: Arc<InFlight>,
    chain: KnownChain,
    rpc: Option<RpcClient>,
    /// Whether it was said that RPC does not answer, and it has not since.
    rpc_is_away: AtomicBool,
}

/// An answer with a meaning of its own; all others are errors wherever they occur.
enum Answer {
    Body(Vec<u8>),
    /// HTTP 404 and its reason, empty where the node does not know the path at all.
    NotFound(String),
}

impl RestSource {
    /// A source that connects to nothing yet.
    ///
    /// # Errors
    /// [`ChainError::Setup`] for a URL that is none or contains credentials.
    pub fn new(settings: RestSettings) -> Result<Self, ChainError> {
        let rpc = settings
            .rpc
            .map(|rpc| RpcClient::new(rpc, settings.timeout))
            .transpose()?;
        Ok(Self {
            http: Http::new(settings.timeout)?,
            url: http::base_url(&settings.url, "--node-url")?,
            in_flight: InFlight::new(settings.max_in_flight),
            chain: KnownChain::default(),
            rpc,
            rpc_is_away: AtomicBool::new(false),
        })
    }

    async fn get(&self, path: &str, limit_bytes: usize) -> Result<Answer, ChainError> {
        let url = format!("{}/rest/{path}", self.url);
        let mut attempts = self.in_flight.request(&url);
        let (reply, _place) = loop {
            let place = attempts.place().await?;
            let reply = self.http.send(self.http.get(&url), &url, limit_bytes);
            if let Some(through) = attempts.through(reply.await?, place).await? {
                break through;
            }
        };
        let status = reply.status.as_u16();
        match reply.status {
            StatusCode::OK => Ok(Answer::Body(reply.body)),
            StatusCode::NOT_FOUND => Ok(Answer::NotFound(reply.reason())),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(ChainError::Setup(format!(
                "{url}: the node refuses this machine (HTTP {status}); start bitcoind with -rest (rest=1) and allow this address with rpcallowip"
            ))),
            _ if reply.is_passing() => Err(ChainError::Unreachable(format!(
                "{url}: the node is starting, stopping or busy (HTTP {status}: {})",
                reply.reason()
            ))),
            _ => Err(ChainError::Mismatch(format!(
                "{url} answers HTTP {status} ({}); is this a Bitcoin Core node?",
                reply.reason()
            ))),
        }
    }

    async fn chain_info(&self) -> Result<ChainInfo, ChainError> {
        let path = "chaininfo.json";
        match self.get(path, SMALL_LIMIT_BYTES).await? {
            Answer::NotFound(_) => Err(self.no_rest(path)),
            Answer::Body(body) => {
                let info = serde_json::from_slice(&body).map_err(|e| {
                    ChainError::Mismatch(format!(
                        "{}/rest/{path}: not what a Bitcoin Core node answers ({}); check --node-url",
                        self.url,
                        http::one_line(&e.to_string())
                    ))
                })?;
                self.chain.require(&info, &self.url)?;
                Ok(info)
            }
        }
    }

    /// What to say of a block, or of what it spends, that the node has pruned.
    async fn pruned(&self, id: BlockId, reason: &str) -> Option<ChainError> {
        if !is_pruned(reason) {
            return None;
        }
        let info = self.chain_info().await.ok()?;
        info.pruned(&self.url, id)
    }

    async fn hash_at(&self, height: u32) -> Result<Option<BlockHash>, ChainError> {
        // Larger ones are no heights to the node but malformed.
        if i32::try_from(height).is_err() {
            return Ok(None);
        }
        let path = format!("blockhashbyheight/{height}.bin");
        match self.get(&path, SMALL_LIMIT_BYTES).await? {
            Answer::NotFound(reason) if reason.is_empty() => Err(self.no_rest(&path)),
            Answer::NotFound(_) => Ok(None),
            Answer::Body(body) => match <[u8; 32]>::try_from(body) {
                Ok(hash) => Ok(Some(BlockHash::from_byte_array(hash))),
                Err(body) => Err(ChainError::Mismatch(format!(
                    "{}/rest/{path}: {} bytes instead of a hash of 32",
                    self.url,
                    body.len()
                ))),
            },
        }
    }

    /// The active chain's blocks from one of them on, at most `count` and [`HEADERS_AT_ONCE`].
    async fn hashes_from(&self, first: BlockId, count: u32) -> Result<Vec<BlockId>, ChainError> {
        let count = count.min(HEADERS_AT_ONCE);
        let path = format!("headers/{}.bin?count={count}", first.hash);
        let body = match self.get(&path, SMALL_LIMIT_BYTES).await? {
            Answer::Body(body) => body,
            Answer::NotFound(_) => return Err(self.no_rest(&path)),
        };
        if body.is_empty() {
            return Err(ChainError::NotAvailable(format!(
                "{}/rest/{path}: block {first} has left the active chain",
                self.url
            )));
        }
        linked_headers(first, count, &body)
            .map_err(|what| ChainError::Mismatch(format!("{}/rest/{path}: {what}", self.url)))
    }

    async fn block_bytes(&self, id: BlockId) -> Result<Vec<u8>, ChainError> {
        let path = format!("block/{}.bin", id.hash);
        match self.get(&path, BLOCK_LIMIT_BYTES).await? {
            Answer::Body(body) => Ok(body),
            Answer::NotFound(reason) if reason.is_empty() => Err(self.no_rest(&path)),
            Answer::NotFound(reason) => Err(match self.pruned(id, &reason).await {
                Some(error) => error,
                None => ChainError::NotAvailable(format!(
                    "{}/rest/{path}: the node does not have block {id}: {reason}{}",
                    self.url,
                    prune_cure(&reason)
                )),
            }),
        }
    }

    async fn spent_bytes(&self, id: BlockId) -> Result<Vec<u8>, ChainError> {
        let path = format!("spenttxouts/{}.bin", id.hash);
        match self.get(&path, SPENT_LIMIT_BYTES).await? {
            Answer::Body(body) => Ok(body),
            // A node that knows the path says what it did not find; one that does not says nothing.
            Answer::NotFound(reason) if reason.is_empty() => Err(ChainError::Setup(format!(
                "{}/rest/{path}: this REST server is too old; Bitcoin Core 30 or newer is needed for /rest/spenttxouts",
                self.url
            ))),
            Answer::NotFound(reason) => Err(match self.pruned(id, &reason).await {
                Some(error) => error,
                None => ChainError::NotAvailable(format!(
                    "{}/rest/{path}: the node has no spent outputs for the block: {reason}; it pruned them, or never connected this block{}",
                    self.url,
                    prune_cure(&reason)
                )),
            }),
        }
    }

    fn no_rest(&self, path: &str) -> ChainError {
        ChainError::Setup(format!(
            "{}/rest/{path} is unknown to the server there; start bitcoind with -rest (rest=1) and check --node-url",
            self.url
        ))
    }

    async fn check_node(&self, network: Network) -> Result<(), ChainError> {
        let is_first = !self.chain.is_known();
        let info = self.chain_info().await.map_err(|e| match e {
            // Nothing is known of the server yet, so that this is no passing trouble but the wrong one.
            ChainError::Mismatch(what) if is_first => ChainError::Setup(what),
            e => e,
        })?;
        self.chain.check(&info, network, &self.url)?;
        let genesis = self.hash_at(0).await?;
        check_genesis(genesis, network, &self.url)?;
        // Any node has the genesis block's spent outputs: none.
        let genesis = bitcoin::constants::genesis_block(network).block_hash();
        self.spent_bytes(BlockId {
            height: 0,
            hash: genesis,
        })
        .await?;
        let version = match &self.rpc {
            Some(rpc) => self.check_rpc(rpc, network, info.tip()).await?,
            None => None,
        };
        self.chain.learn(&info);
        if !is_first {
            return Ok(());
        }

        let tip = info.tip();
        tracing::info!(
            "REST at {}: network \"{}\", first block and spent outputs are right, tip {tip}",
            self.url,
            info.chain()
        );
        if let (Some(rpc), Some(version)) = (&self.rpc, version) {
            let url = rpc.url();
            match url == self.url {
                true => tracing::info!("RPC at {url}: version {version}, credentials are right"),
                false => tracing::info!(
                    "RPC at {url}: version {version}, credentials are right, the same chain as by REST"
                ),
            }
        }
        info.log();
        Ok(())
    }

    /// Checks the credentials, and where RPC has an address of its own, that it is of the same chain. Gives the node's
    /// version; `None` where it had answered before and does not now: blocks come without it.
    async fn check_rpc(
        &self,
        rpc: &RpcClient,
        network: Network,
        rest_tip: BlockId,
    ) -> Result<Option<u64>, ChainError> {
        let version = match rpc.version().await {
            Ok(version) => Some(version),
            Err(error) if self.chain.is_known() => {
                if !self.rpc_is_away.swap(true, Ordering::Relaxed) {
                    tracing::warn!("{error}; blocks come by REST meanwhile");
                }
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        self.rpc_is_away.store(false, Ordering::Relaxed);
        if rpc.url() == self.url {
            return Ok(version);
        }
        let info = rpc.check_chain(network).await?;
        // The tips of one chain may differ for a while.
        let common = info.tip().height.min(rest_tip.height);
        let mut heights = [Some(common), common.checked_sub(SETTLED_BLOCKS)];
        if heights[1] == Some(0) {
            heights[1] = None;
        }
        let mut differ = None;
        for height in heights.into_iter().flatten() {
            let (by_rest, by_rpc) = futures::join!(self.hash_at(height), rpc.hash_at(height));
            match (by_rest?, by_rpc?) {
                (Some(by_rest), Some(by_rpc)) if by_rest == by_rpc => return Ok(version),
                (Some(by_rest), Some(by_rpc)) => differ = Some((height, by_rest, by_rpc)),
                _ => {}
            }
        }
        match differ {
            None => Ok(version),
            Some((height, by_rest, by_rpc)) => Err(ChainError::Conflict(format!(
                "two nodes of different chains: at height {height}, REST at {} has block {by_rest} and RPC at {} has {by_rpc}; give the addresses of one node by --node-url and --rpc-url",
                self.url,
                rpc.url()
            ))),
        }
    }

    async fn fetch_block(&self, id: BlockId) -> Result<BlockWithPrevouts, ChainError> {
        let (block, spent) = futures::join!(self.block_bytes(id), self.spent_bytes(id));
        // The block's error first: where it is missing, that is the cause of the other.
        let (block, spent) = (block?, spent?);
        let describe = |path: &str, e| {
            ChainError::Mismatch(format!("{}/rest/{path}/{}.bin: {e}", self.url, id.hash))
        };
        // Decoding and hashing megabytes would hold up the other requests of this thread.
        let joined = task::spawn_blocking(move || {
            let block = RawBlock::parse(block).map_err(|e| ("block", e))?;
            let prevouts = parse_spent_outputs(&spent).map_err(|e| ("spenttxouts", e))?;
            Ok(BlockWithPrevouts::new(id, block, prevouts))
        });
        match joined.await {
            Ok(Ok(joined)) => joined.map_err(|e| match e {
                ChainError::Mismatch(what) => ChainError::Mismatch(format!("{}: {what}", self.url)),
                e => e,
            }),
            Ok(Err((path, e))) => Err(describe(path, e)),
            Err(_) => Err(ChainError::Unreachable(format!(
                "block {id} was not read: the program is stopping"
            ))),
        }
    }
}

/// The blocks whose headers these are, each the child of the one before.
fn linked_headers(first: BlockId, count: u32, bytes: &[u8]) -> Result<Vec<BlockId>, String> {
    let (headers, rest) = bytes.as_chunks::<HEADER_BYTES>();
    if !rest.is_empty() || headers.len() > count as usize {
        return Err(format!(
            "{} bytes instead of at most {count} headers of {HEADER_BYTES}",
            bytes.len()
        ));
    }
    let mut blocks = Vec::with_capacity(headers.len());
    for (height, header) in (first.height..=u32::MAX).zip(headers) {
        let hash = BlockHash::from_raw_hash(sha256d::Hash::hash(header));
        let id = BlockId { height, hash };
        match blocks.last() {
            None if id != first => {
                return Err(format!("the headers begin with {id} instead of {first}"));
            }
            // After the version, 4 bytes, the header names the block before it.
            Some(BlockId { hash: parent, .. }) if header[4..36] != parent.to_byte_array() => {
                return Err(format!("the header {id} does not follow the one before it"));
            }
            _ => blocks.push(id),
        }
    }
    Ok(blocks)
}

impl BlockSource for RestSource {
    fn describe(&self) -> String {
        format!("Bitcoin Core REST at {}", self.url)
    }

    fn check(&self, network: Network) -> BoxFuture<'_, Result<(), ChainError>> {
        Box::pin(self.check_node(network))
    }

    fn tip(&self) -> BoxFuture<'_, Result<BlockId, ChainError>> {
        Box::pin(async { Ok(self.chain_info().await?.tip()) })
    }

    fn block_at(&self, height: u32) -> BoxFuture<'_, Result<Option<BlockId>, ChainError>> {
        Box::pin(async move {
            let hash = self.hash_at(height).await?;
            Ok(hash.map(|hash| BlockId { height, hash }))
        })
    }

    /// One request for the first hash, one for up to 2,000 headers after it.
    fn blocks_at(
        &self,
        heights: RangeInclusive<u32>,
    ) -> BoxFuture<'_, Result<Vec<BlockId>, ChainError>> {
        Box::pin(async move {
            let (first, last) = heights.clone().into_inner();
            let Some(more) = last.checked_sub(first) else {
                return Ok(Vec::new());
            };
            match self.block_at(first).await? {
                None => Ok(Vec::new()),
                Some(id) if more == 0 => Ok(vec![id]),
                Some(id) => self.hashes_from(id, more.saturating_add(1)).await,
            }
        })
    }

    fn block(&self, id: BlockId) -> BoxFuture<'_, Result<BlockWithPrevouts, ChainError>> {
        Box::pin(self.fetch_block(id))
    }
}

impl Node for RestSource {
    fn signet_challenge(&self) -> BoxFuture<'_, Result<Option<ScriptBuf>, ChainError>> {
        Box::pin(async { self.chain_info().await?.signet_challenge(&self.url) })
    }

    fn rejects(&self, id: BlockId) -> BoxFuture<'_, Result<bool, ChainError>> {
        Box::pin(async move {
            match &self.rpc {
                Some(rpc) => rpc.rejects(id).await,
                None => Err(no_credentials("asking which blocks are invalid")),
            }
        })
    }

    fn broadcast<'a>(&'a self, tx: &'a Transaction) -> BoxFuture<'a, Result<Txid, BroadcastError>> {
        Box::pin(async move {
            match &self.rpc {
                Some(rpc) => rpc.broadcast(tx).await,
                None => Err(no_credentials("broadcasting").into()),
            }
        })
    }

    fn mempool(&self) -> BoxFuture<'_, Result<MempoolListing, ChainError>> {
        Box::pin(async { self.mempool_rpc()?.mempool().await })
    }

    fn entered_mempool<'a>(
        &'a self,
        txids: &'a [Txid],
    ) -> BoxFuture<'a, Result<Vec<Option<u64>>, ChainError>> {
        Box::pin(async { self.mempool_rpc()?.entered_mempool(txids).await })
    }

    fn raw_unconfirmed<'a>(
        &'a self,
        txids: &'a [Txid],
    ) -> BoxFuture<'a, Result<Vec<Option<Vec<u8>>>, ChainError>> {
        Box::pin(async { self.mempool_rpc()?.raw_unconfirmed(txids).await })
    }

    fn unspent_scripts<'a>(
        &'a self,
        outpoints: &'a [OutPoint],
    ) -> BoxFuture<'a, Result<Vec<Option<ScriptBuf>>, ChainError>> {
        Box::pin(async { self.mempool_rpc()?.unspent_scripts(outpoints).await })
    }
}

impl RestSource {
    fn mempool_rpc(&self) -> Result<&RpcClient, ChainError> {
        let rpc = self.rpc.as_ref();
        rpc.ok_or_else(|| no_credentials("following the mempool"))
    }
}

/// What to say of what only RPC does.
fn no_credentials(what: &str) -> ChainError {
    ChainError::Setup(format!(
        "no RPC credentials configured, and {what} needs them; give --rpc-cookie, or --rpc-user and SPINDEX_RPC_PASSWORD"
    ))
}
