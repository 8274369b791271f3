//! A server that plays a node's REST interface over a simulated chain, and misbehaves on request.
//!
//! ```ignore
//! let chain = Arc::new(SimulatedChain::new(SimulationSettings::default()));
//! let node = FakeNode::start(chain.clone()).await;
//! node.on("/rest/block/", Reply::Stall);       // every path with this part, until `behave`
//! let source = RestSource::new(RestSettings::new(node.url()))?;
//! ```

use std::sync::{Arc, Mutex};

use bitcoin::consensus::serialize;
use bitcoin::hashes::Hash;
use bitcoin::{BlockHash, VarInt};
use serde_json::json;
use spindex::chain::BlockSource;
use spindex::chain::simulated::{SimulatedBlock, SimulatedChain};
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
    /// Silence. The connection stays open.
    Stall,
    /// A body without an end and without a length.
    Endless,
    /// Only the announcement of a body of this length.
    Announced(u64),
}

/// The server; it ends when dropped.
pub(crate) struct FakeNode {
    url: String,
    rules: Rules,
    server: JoinHandle<()>,
}

/// Part of a path, and the answer to requests for paths that contain it.
type Rules = Arc<Mutex<Vec<(String, Reply)>>>;

impl FakeNode {
    /// Serves a chain as Bitcoin Core does.
    pub(crate) async fn start(chain: Arc<SimulatedChain>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let rules = Rules::default();
        let shared = Arc::clone(&rules);
        let server = tokio::spawn(async move {
            // Connections end with the set, and the set with this task.
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let Ok((stream, _)) = listener.accept().await else {
                    return;
                };
                connections.spawn(answer(stream, Arc::clone(&chain), Arc::clone(&shared)));
            }
        });
        Self { url, rules, server }
    }

    /// Base URL.
    pub(crate) fn url(&self) -> String {
        self.url.clone()
    }

    /// From now on answers requests for paths that contain `part` in this way. The newest rule wins.
    pub(crate) fn on(&self, part: &str, reply: Reply) {
        self.rules.lock().unwrap().push((part.to_owned(), reply));
    }

    /// Forgets all rules of [`FakeNode::on`].
    pub(crate) fn behave(&self) {
        self.rules.lock().unwrap().clear();
    }
}

impl Drop for FakeNode {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// Spent outputs as `/rest/spenttxouts/<hash>.bin` has them.
pub(crate) fn spent_bytes(block: &SimulatedBlock) -> Vec<u8> {
    let mut bytes = serialize(&VarInt::from(block.prevouts.len()));
    for spent in &block.prevouts {
        bytes.extend(serialize(spent));
    }
    bytes
}

async fn answer(mut stream: TcpStream, chain: Arc<SimulatedChain>, rules: Rules) -> Option<()> {
    let mut request = Vec::new();
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        if stream.read_buf(&mut request).await.ok()? == 0 {
            return None;
        }
    }
    let request = String::from_utf8_lossy(&request).into_owned();
    let path = request.split(' ').nth(1)?;
    let rule = {
        let rules = rules.lock().unwrap();
        let newest = rules.iter().rev().find(|(part, _)| path.contains(part));
        newest.map(|(_, reply)| reply.clone())
    };
    let right = right_answer(&chain, path).await;
    let (status, mut body) = right.unwrap_or((404, Vec::new()));
    let mut announced = None;
    match rule {
        None => {}
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
        Some(Reply::Stall) => {
            // Until the client gives up.
            let mut nothing = [0; 1];
            let _ = stream.read(&mut nothing).await;
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

/// What Bitcoin Core answers; `None` for paths that it does not know.
async fn right_answer(chain: &SimulatedChain, path: &str) -> Option<(u16, Vec<u8>)> {
    let rest = path.strip_prefix("/rest/")?;
    if rest == "chaininfo.json" {
        let tip = chain.tip_id();
        let info = json!({
            "chain": "regtest",
            "blocks": tip.height,
            "bestblockhash": tip.hash,
            "initialblockdownload": false,
        });
        return Some((200, info.to_string().into_bytes()));
    }
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
        _ => None,
    }
}
