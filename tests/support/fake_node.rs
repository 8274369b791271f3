//! A server that plays a node's REST and RPC interfaces over a simulated chain, and misbehaves on request.
//!
//! ```ignore
//! let chain = Arc::new(SimulatedChain::new(SimulationSettings::default()));
//! let node = FakeNode::start(chain.clone()).await;
//! node.on("/rest/block/", Reply::Stall);       // every path with this part, until `behave`
//! node.on_times("/rpc/getblock/", Reply::Hangup, 3);
//! let source = RestSource::new(RestSettings::new(node.url()))?;
//! ```
//!
//! Faults may be left to chance ([`FakeNode::leave_to_chance`]), and the node may become that of another chain.
//!
//! An RPC call goes by the path `/rpc/<method>/<first parameter>`, a batch by `/rpc/<method>/batch`. Credentials are not
//! looked at.

use std::collections::{BTreeMap, HashMap};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bitcoin::consensus::encode::serialize_hex;
use bitcoin::consensus::serialize;
use bitcoin::hashes::Hash;
use bitcoin::secp256k1::rand::rngs::StdRng;
use bitcoin::secp256k1::rand::seq::SliceRandom;
use bitcoin::secp256k1::rand::{Rng, SeedableRng};
use bitcoin::{BlockHash, Txid, VarInt};
use serde_json::{Value, json};
use spindex::chain::BlockSource;
use spindex::chain::made::simulated::{SimulatedBlock, SimulatedChain};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// An answer to a request.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    /// Status and body, as a well-behaved server sends them.
    Full(u16, Vec<u8>),
    /// Only the first bytes of the right answer, which is announced in full; then the connection closes.
    Truncated(usize),
    /// The right answer and these bytes after it.
    Longer(Vec<u8>),
    /// The connection closes without an answer.
    Hangup,
    /// The connection is reset without an answer.
    Reset,
    /// Silence. The connection stays open.
    Stall,
    /// The right answer after this time.
    Late(Duration),
    /// The right answer, announced in full, of which a byte comes each time this has gone by.
    Drip(Duration),
    /// A body without an end and without a length.
    Endless,
    /// Only the announcement of a body of this length.
    Announced(u64),
    /// The right answer to another path; for RPC, with the id that was asked for.
    Of(String),
    /// The right answer, changed.
    Changed(fn(Vec<u8>) -> Vec<u8>),
}

/// Faults left to chance.
struct Chance {
    rng: StdRng,
    /// One request of so many is struck.
    one_in: u32,
    replies: Vec<(&'static str, Reply)>,
    /// Which of them, by name, do not befall a path.
    spares: fn(&str, &str) -> bool,
}

/// The server; it ends when dropped.
pub(crate) struct FakeNode {
    url: String,
    script: Shared,
    server: JoinHandle<()>,
}

/// The answer to requests for paths that contain a text.
struct Rule {
    part: String,
    reply: Reply,
    /// How often it still applies.
    times: u32,
}

struct Script {
    chain: Arc<SimulatedChain>,
    rules: Vec<Rule>,
    /// For requests that no rule is about.
    chance: Option<Chance>,
    /// The paths asked for.
    requests: Vec<String>,
    /// How often each fault was left to chance and came.
    struck: BTreeMap<&'static str, u32>,
    /// Who is told of each.
    watcher: Option<Sender<String>>,
}

type Shared = Arc<Mutex<Script>>;

impl FakeNode {
    /// Serves a chain as Bitcoin Core does.
    pub(crate) async fn start(chain: Arc<SimulatedChain>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let script = Arc::new(Mutex::new(Script {
            chain,
            rules: Vec::new(),
            chance: None,
            requests: Vec::new(),
            struck: BTreeMap::new(),
            watcher: None,
        }));
        let shared = Arc::clone(&script);
        let server = tokio::spawn(async move {
            // Connections end with the set, and the set with this task.
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let Ok((stream, _)) = listener.accept().await else {
                    return;
                };
                connections.spawn(answer(stream, Arc::clone(&shared)));
            }
        });
        Self {
            url,
            script,
            server,
        }
    }

    /// Base URL.
    pub(crate) fn url(&self) -> String {
        self.url.clone()
    }

    /// From now on answers requests for paths that contain `part` in this way. The newest rule wins.
    pub(crate) fn on(&self, part: &str, reply: Reply) {
        self.on_times(part, reply, u32::MAX);
    }

    /// The same for so many requests only.
    pub(crate) fn on_times(&self, part: &str, reply: Reply, times: u32) {
        let part = part.to_owned();
        let rule = Rule { part, reply, times };
        self.script.lock().unwrap().rules.push(rule);
    }

    /// Answers one request of so many by one of these faults, unless a rule is about it, or the fault, by its name, spares
    /// its path.
    pub(crate) fn leave_to_chance(
        &self,
        seed: u64,
        one_in: u32,
        replies: Vec<(&'static str, Reply)>,
        spares: fn(&str, &str) -> bool,
    ) {
        self.script.lock().unwrap().chance = Some(Chance {
            rng: StdRng::seed_from_u64(seed),
            one_in,
            replies,
            spares,
        });
    }

    /// How often each fault came by chance.
    pub(crate) fn struck(&self) -> BTreeMap<&'static str, u32> {
        self.script.lock().unwrap().struck.clone()
    }

    /// Becomes the node of another chain.
    pub(crate) fn serve(&self, chain: &Arc<SimulatedChain>) {
        self.script.lock().unwrap().chain = Arc::clone(chain);
    }

    /// Forgets all rules, and leaves nothing to chance.
    pub(crate) fn behave(&self) {
        let mut script = self.script.lock().unwrap();
        script.rules.clear();
        script.chance = None;
    }

    /// Whether every rule of [`FakeNode::on_times`] has applied as often as it should.
    pub(crate) fn is_worn_out(&self) -> bool {
        let script = self.script.lock().unwrap();
        script.rules.iter().all(|rule| rule.times == 0)
    }

    /// The paths asked for from now on, as they come; ends an earlier watch.
    pub(crate) fn watch(&self) -> Receiver<String> {
        let (sender, requests) = channel();
        self.script.lock().unwrap().watcher = Some(sender);
        requests
    }

    /// The paths asked for since the last call, in order.
    pub(crate) fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.script.lock().unwrap().requests)
    }
}

impl Drop for FakeNode {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// A text put in place of another, which must be in an answer.
pub(crate) fn replaced(body: Vec<u8>, from: &str, to: &str) -> Vec<u8> {
    let text = String::from_utf8(body).unwrap();
    assert!(text.contains(from), "{from} is not in {text:.300}");
    text.replacen(from, to, 1).into_bytes()
}

/// Spent outputs as `/rest/spenttxouts/<hash>.bin` has them.
pub(crate) fn spent_bytes(block: &SimulatedBlock) -> Vec<u8> {
    let mut bytes = serialize(&VarInt::from(block.prevouts.len()));
    for spent in &block.prevouts {
        bytes.extend(serialize(spent));
    }
    bytes
}

impl Script {
    /// How to answer, if not rightly.
    fn reply_to(&mut self, path: &str) -> Option<Reply> {
        self.requests.push(path.to_owned());
        let mut rules = self.rules.iter_mut().rev();
        if let Some(newest) = rules.find(|rule| rule.times > 0 && path.contains(&rule.part)) {
            newest.times -= 1;
            return Some(newest.reply.clone());
        }
        let chance = self.chance.as_mut()?;
        if chance.rng.gen_range(0..chance.one_in) > 0 {
            return None;
        }
        let (name, reply) = chance.replies.choose(&mut chance.rng)?;
        if (chance.spares)(name, path) {
            return None;
        }
        *self.struck.entry(name).or_default() += 1;
        Some(reply.clone())
    }
}

async fn answer(mut stream: TcpStream, script: Shared) -> Option<()> {
    let request = Request::read(&mut stream).await?;
    let path = request.path();
    let (rule, chain) = {
        let mut script = script.lock().unwrap();
        if let Some(watcher) = &script.watcher {
            let _ = watcher.send(path.clone());
        }
        (script.reply_to(&path), Arc::clone(&script.chain))
    };
    let asked = match &rule {
        Some(Reply::Of(other)) => request.with_path(other),
        _ => request,
    };
    let (status, mut body) = asked.right_answer(&chain).await;
    let mut announced = None;
    match rule {
        None | Some(Reply::Of(_)) => {}
        Some(Reply::Changed(change)) => body = change(body),
        Some(Reply::Full(other_status, other_body)) => {
            return send(
                &mut stream,
                other_status,
                other_body.len() as u64,
                &other_body,
            )
            .await;
        }
        Some(Reply::Truncated(bytes)) => {
            announced = Some(body.len() as u64);
            body.truncate(bytes);
        }
        Some(Reply::Longer(more)) => body.extend(more),
        Some(Reply::Hangup) => return None,
        Some(Reply::Reset) => {
            let _ = stream.set_zero_linger();
            return None;
        }
        Some(Reply::Stall) => {
            // Until the client gives up.
            let mut nothing = [0; 1];
            let _ = stream.read(&mut nothing).await;
            return None;
        }
        Some(Reply::Late(time)) => tokio::time::sleep(time).await,
        Some(Reply::Drip(pause)) => {
            let head = format!(
                "HTTP/1.1 {status} Status\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            stream.write_all(head.as_bytes()).await.ok()?;
            for byte in body {
                tokio::time::sleep(pause).await;
                stream.write_all(&[byte]).await.ok()?;
            }
            return None;
        }
        Some(Reply::Endless) => {
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.ok()?;
            loop {
                stream.write_all(&[b'x'; 65_536]).await.ok()?;
            }
        }
        Some(Reply::Announced(length)) => return send(&mut stream, 200, length, &[]).await,
    }
    let length = announced.unwrap_or(body.len() as u64);
    send(&mut stream, status, length, &body).await
}

async fn send(stream: &mut TcpStream, status: u16, length: u64, body: &[u8]) -> Option<()> {
    let head = format!(
        "HTTP/1.1 {status} Status\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.ok()?;
    stream.write_all(body).await.ok()?;
    stream.shutdown().await.ok()
}

/// What is asked for.
enum Request {
    Rest {
        path: String,
    },
    /// One call, or several.
    Rpc {
        body: Value,
    },
}

impl Request {
    async fn read(stream: &mut TcpStream) -> Option<Self> {
        let mut bytes = Vec::new();
        let head_end = loop {
            if let Some(at) = bytes.windows(4).position(|end| end == b"\r\n\r\n") {
                break at + 4;
            }
            if stream.read_buf(&mut bytes).await.ok()? == 0 {
                return None;
            }
        };
        let head = String::from_utf8_lossy(&bytes[..head_end]).to_lowercase();
        if head.starts_with("get ") {
            let head = String::from_utf8_lossy(&bytes[..head_end]).into_owned();
            let path = head.split(' ').nth(1)?.to_owned();
            return Some(Self::Rest { path });
        }
        let (_, length) = head.split_once("content-length: ")?;
        let length: usize = length.lines().next()?.trim().parse().ok()?;
        while bytes.len() < head_end + length {
            if stream.read_buf(&mut bytes).await.ok()? == 0 {
                return None;
            }
        }
        let body = serde_json::from_slice(&bytes[head_end..]).ok()?;
        Some(Self::Rpc { body })
    }

    fn path(&self) -> String {
        let text = |value: &Value| value.to_string().trim_matches('"').to_owned();
        match self {
            Self::Rest { path } => path.clone(),
            Self::Rpc { body } if body.is_array() => {
                format!("/rpc/{}/batch", text(&body[0]["method"]))
            }
            Self::Rpc { body } => {
                format!(
                    "/rpc/{}/{}",
                    text(&body["method"]),
                    text(&body["params"][0])
                )
            }
        }
    }

    /// The same request for something else.
    fn with_path(self, other: &str) -> Self {
        match self {
            Self::Rest { .. } => Self::Rest {
                path: other.to_owned(),
            },
            Self::Rpc { mut body } => {
                let (_, argument) = other.rsplit_once('/').unwrap();
                body["params"][0] = json!(argument);
                Self::Rpc { body }
            }
        }
    }

    async fn right_answer(&self, chain: &SimulatedChain) -> (u16, Vec<u8>) {
        match self {
            Self::Rest { path } => rest_answer(chain, path).await.unwrap_or((404, Vec::new())),
            Self::Rpc { body } => {
                let answer = match body.as_array() {
                    None => rpc_answer(chain, body),
                    Some(calls) => {
                        let answers = calls.iter().map(|call| rpc_answer(chain, call));
                        format!("[{}]", answers.collect::<Vec<_>>().join(","))
                    }
                };
                (200, answer.into_bytes())
            }
        }
    }
}

fn chain_info(chain: &SimulatedChain) -> Value {
    let tip = chain.tip_id();
    json!({
        "chain": "regtest",
        "blocks": tip.height,
        "bestblockhash": tip.hash,
        "initialblockdownload": false,
    })
}

/// What Bitcoin Core answers; `None` for paths that it does not know.
async fn rest_answer(chain: &SimulatedChain, path: &str) -> Option<(u16, Vec<u8>)> {
    let rest = path.strip_prefix("/rest/")?;
    if rest == "chaininfo.json" {
        return Some((200, chain_info(chain).to_string().into_bytes()));
    }
    let (rest, count) = rest.split_once("?count=").unwrap_or((rest, "5"));
    let (method, argument) = rest.strip_suffix(".bin")?.split_once('/')?;
    if method == "blockhashbyheight" {
        let id = chain.block_at(argument.parse().ok()?).await.unwrap();
        return Some(match id {
            Some(id) => (200, id.hash.to_byte_array().to_vec()),
            None => (404, b"Block height out of range\r\n".to_vec()),
        });
    }
    let hash: BlockHash = argument.parse().ok()?;
    let block = chain.stored_block(hash);
    let not_found = || (404, format!("{hash} not found\r\n").into_bytes());
    match method {
        "block" => Some(block.map_or_else(not_found, |block| (200, serialize(&block.block)))),
        "spenttxouts" => Some(block.map_or_else(not_found, |block| (200, spent_bytes(&block)))),
        "headers" => {
            let blocks = chain.active_blocks();
            let from = blocks.iter().skip_while(|block| block.id.hash != hash);
            let headers = from.take(count.parse().ok()?);
            let headers = headers.flat_map(|block| serialize(&block.block.header));
            Some((200, headers.collect()))
        }
        _ => None,
    }
}

/// What Bitcoin Core answers to one call, as the text of the JSON: amounts are no floating-point numbers.
fn rpc_answer(chain: &SimulatedChain, call: &Value) -> String {
    let id = &call["id"];
    let refuse = |code: i64, message: &str| {
        json!({"jsonrpc": "2.0", "error": {"code": code, "message": message}, "id": id}).to_string()
    };
    let first = &call["params"][0];
    let result = match call["method"].as_str().unwrap() {
        "getblockchaininfo" => chain_info(chain).to_string(),
        "getnetworkinfo" => json!({"version": 300_000}).to_string(),
        "getzmqnotifications" => "[]".to_owned(),
        "getblockhash" => {
            let height = usize::try_from(first.as_u64().unwrap()).unwrap();
            match chain.active_blocks().get(height) {
                Some(block) => json!(block.id.hash).to_string(),
                None => return refuse(-8, "Block height out of range"),
            }
        }
        "getchaintips" => {
            let tip = chain.tip_id();
            let mut tips = vec![
                json!({"height": tip.height, "hash": tip.hash, "branchlen": 0, "status": "active"}),
            ];
            for branch in chain.invalid_branches() {
                let tip = branch[0];
                tips.push(json!({"height": tip.height, "hash": tip.hash, "branchlen": branch.len(), "status": "invalid"}));
            }
            json!(tips).to_string()
        }
        "getblockheader" => {
            let hash = first.as_str().unwrap().parse().unwrap();
            match chain.stored_block(hash) {
                Some(block) => {
                    json!({"previousblockhash": block.block.header.prev_blockhash}).to_string()
                }
                None => return refuse(-5, "Block not found"),
            }
        }
        "getblock" => {
            assert_eq!(call["params"][1], 3);
            let hash = first.as_str().unwrap().parse().unwrap();
            match chain.stored_block(hash) {
                Some(block) => block_json(chain, &block),
                None => return refuse(-5, "Block not found"),
            }
        }
        _ => return refuse(-32601, "Method not found"),
    };
    format!(r#"{{"jsonrpc":"2.0","result":{result},"id":{id}}}"#)
}

/// What `getblock` with verbosity 3 says that matters.
pub(crate) fn block_json(chain: &SimulatedChain, block: &SimulatedBlock) -> String {
    let created: HashMap<Txid, u32> = chain
        .active_blocks()
        .iter()
        .flat_map(|block| block.txids.iter().map(|txid| (*txid, block.id.height)))
        .collect();
    let mut transactions = Vec::new();
    for (tx, prevouts) in block.block.txdata.iter().zip(&block.prevouts) {
        let spends = tx.input.iter().zip(prevouts).map(|(input, prevout)| {
            let outpoint = input.previous_output;
            let sat = prevout.value.to_sat();
            format!(
                r#"{{"txid":"{}","vout":{},"prevout":{{"generated":false,"height":{},"value":{}.{:08},"scriptPubKey":{{"hex":"{:x}"}}}}}}"#,
                outpoint.txid,
                outpoint.vout,
                created.get(&outpoint.txid).unwrap_or(&block.id.height),
                sat / 100_000_000,
                sat % 100_000_000,
                prevout.script_pubkey
            )
        });
        let spends = match tx.is_coinbase() {
            true => r#"{"coinbase":"00"}"#.to_owned(),
            false => spends.collect::<Vec<_>>().join(","),
        };
        let hex = serialize_hex(tx);
        transactions.push(format!(r#"{{"hex":"{hex}","vin":[{spends}]}}"#));
    }
    let header = &block.block.header;
    let parent = match block.id.height {
        0 => String::new(),
        _ => format!(r#""previousblockhash":"{}","#, header.prev_blockhash),
    };
    format!(
        r#"{{"version":{},{parent}"merkleroot":"{}","time":{},"bits":"{:08x}","nonce":{},"tx":[{}]}}"#,
        header.version.to_consensus(),
        header.merkle_root,
        header.time,
        header.bits.to_consensus(),
        header.nonce,
        transactions.join(",")
    )
}
