//! A version 1 server over a made-up chain, on a real socket, with faults on demand.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use bitcoin::hex::DisplayHex;
use serde_json::{Value, json};
use spindex::filter::{new_utxos_filter, spent_filter, spent_item};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::world::{Block, World};

/// What is wrong with an answer.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// This status and body.
    Answer(u16, &'static str),
    /// The right answer, cut off in the middle.
    Cut,
}

type Hook = Box<dyn FnMut(&mut Served, &str) -> Option<Fault> + Send>;

/// What the server answers from.
pub(crate) struct Served {
    pub(crate) world: World,
    pub(crate) network: &'static str,
    /// Height the server says it has; its chain may be longer.
    pub(crate) height: u32,
    /// First height it has data for.
    pub(crate) first: u32,
    /// Whether transactions are forgotten once their taproot outputs are all spent, as version 1 does.
    pub(crate) forgets: bool,
    /// Whether it has the native route for spends.
    pub(crate) details: bool,
    pub(crate) tweaks_only: bool,
    pub(crate) cut_through: bool,
    pub(crate) full_list: bool,
    pub(crate) dust_list: bool,
    /// Paths asked for, in order.
    pub(crate) log: Vec<String>,
    /// Called with the path before each answer; may change everything.
    pub(crate) hook: Option<Hook>,
}

impl Served {
    pub(crate) fn new(world: World) -> Self {
        Self {
            network: "regtest",
            height: world.tip(),
            first: world.first,
            world,
            forgets: false,
            details: true,
            tweaks_only: false,
            cut_through: true,
            full_list: true,
            dust_list: true,
            log: Vec::new(),
            hook: None,
        }
    }

    /// How many requests to routes with this beginning there were.
    pub(crate) fn count(&self, route: &str) -> usize {
        self.log
            .iter()
            .filter(|path| path.starts_with(route))
            .count()
    }
}

pub(crate) struct Server {
    pub(crate) url: String,
    served: Arc<Mutex<Served>>,
    _task: JoinSet<()>,
}

impl Server {
    pub(crate) async fn start(served: Served) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/blindbit/regtest", listener.local_addr().unwrap());
        let served = Arc::new(Mutex::new(served));
        let router = Router::new().fallback(answer).with_state(served.clone());
        let mut task = JoinSet::new();
        task.spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self {
            url,
            served,
            _task: task,
        }
    }

    /// Looks at or changes what is served.
    pub(crate) fn with<T>(&self, act: impl FnOnce(&mut Served) -> T) -> T {
        act(&mut self.served.lock().unwrap())
    }

    /// Goes over to another chain.
    pub(crate) fn switch(&self, world: World) {
        self.with(|served| {
            served.height = world.tip();
            served.world = world;
        });
    }
}

async fn answer(State(served): State<Arc<Mutex<Served>>>, request: Request) -> Response {
    let mut served = served.lock().unwrap();
    let Some(route) = request
        .uri()
        .path_and_query()
        .and_then(|path| path.as_str().strip_prefix("/blindbit/regtest/"))
    else {
        return respond(404, "404 page not found");
    };
    served.log.push(route.to_owned());
    let mut hook = served.hook.take();
    let fault = hook.as_mut().and_then(|hook| hook(&mut served, route));
    served.hook = hook;
    let (status, body) = match &fault {
        Some(Fault::Answer(status, body)) => return respond(*status, *body),
        _ => route_answer(&served, route),
    };
    if fault.is_some() {
        let half = Bytes::copy_from_slice(&body.as_bytes()[..body.len() / 2]);
        let parts = [
            Ok(half),
            Err(std::io::Error::other("the connection is cut")),
        ];
        return Response::new(Body::from_stream(futures::stream::iter(parts)));
    }
    respond(status, body)
}

fn respond(status: u16, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response
}

fn error(status: u16, text: &str) -> (u16, String) {
    (status, json!({ "error": text }).to_string())
}

fn route_answer(served: &Served, route: &str) -> (u16, String) {
    let (path, query) = route.split_once('?').unwrap_or((route, ""));
    let (name, height) = path.rsplit_once('/').unwrap_or((path, ""));
    let ok = |value: Value| (200, value.to_string());
    match path {
        "info" => {
            return ok(json!({
                "network": served.network, "height": served.height, "tweaks_only": served.tweaks_only,
                "tweaks_full_basic": served.full_list, "tweaks_full_with_dust_filter": served.dust_list,
                "tweaks_cut_through_with_dust_filter": served.cut_through,
            }));
        }
        "block-height" => return ok(json!({ "block_height": served.height })),
        _ => (),
    }
    if name == "spends" && !served.details {
        return (404, "404 page not found".to_owned());
    }
    let height: u32 = height.parse().unwrap();
    // Headers run ahead of blocks: they are known above the height, while nothing else is.
    let Some(block) = served.world.block(height) else {
        return error(500, "could not fetch header inv");
    };
    let indexed = height >= served.first && height <= served.height;
    let world = &served.world;
    let hash = block.hash.to_string();
    match name {
        "block-hash" => ok(json!({ "block_hash": hash })),
        "tweaks" | "tweak-index" => {
            let dust: u64 = query
                .strip_prefix("dustLimit=")
                .map_or(0, |n| n.parse().unwrap());
            let cut = name == "tweaks";
            let listed = indexed
                && if cut {
                    served.cut_through
                } else {
                    served.full_list
                };
            let tweaks: Vec<String> = block
                .txs
                .iter()
                .filter(|_| listed)
                .filter(|tx| !(cut && world.is_gone(&tx.txid)))
                .filter(|tx| tx.outputs.iter().any(|output| output.value >= dust))
                .filter_map(|tx| tx.tweak.map(|tweak| tweak.to_lower_hex_string()))
                .collect();
            ok(json!(tweaks))
        }
        // Of a block that was never indexed version 1 has empty lists.
        "utxos" | "spent-index" if !indexed => ok(json!([])),
        "utxos" => ok(json!(utxos(served, block))),
        "filter/new-utxos" | "filter/spent" if !indexed => {
            error(500, "could not get filter from db")
        }
        "filter/new-utxos" => {
            let keys: Vec<[u8; 32]> = block
                .txs
                .iter()
                .flat_map(|tx| tx.outputs.iter().map(|output| output.key))
                .collect();
            let data = new_utxos_filter(&block.hash, &keys).to_lower_hex_string();
            ok(
                json!({ "filter_type": 4, "block_height": height, "block_hash": hash, "data": data }),
            )
        }
        "filter/spent" => {
            let data = spent_filter(&block.hash, &items(block)).to_lower_hex_string();
            ok(
                json!({ "filter_type": 4, "block_height": height, "block_hash": hash, "data": data }),
            )
        }
        "spent-index" => match items(block) {
            items if items.is_empty() => ok(json!([])),
            items => {
                let items: Vec<String> = items.iter().map(|i| i.to_lower_hex_string()).collect();
                ok(json!({ "block_hash": hash, "data": items }))
            }
        },
        "spends" => {
            let rows: Vec<Value> = block
                .txs
                .iter()
                .flat_map(|tx| {
                    tx.spends
                        .iter()
                        .enumerate()
                        .map(move |(i, spent)| (tx, i, spent))
                })
                .map(|(tx, input, spent)| {
                    // Data are given with a transaction's first input alone, as a server may do.
                    let data: Vec<String> = tx
                        .op_return
                        .iter()
                        .filter(|_| input == 0)
                        .map(|data| data.to_lower_hex_string())
                        .collect();
                    json!({
                        "txid": spent.txid.to_string(), "vout": spent.vout,
                        "spending_txid": tx.txid.to_string(), "input": input, "op_return": data,
                    })
                })
                .collect();
            ok(json!({ "block_hash": hash, "block_height": height, "data": rows }))
        }
        _ => (404, "404 page not found".to_owned()),
    }
}

fn items(block: &Block) -> Vec<[u8; 8]> {
    block
        .txs
        .iter()
        .flat_map(|tx| tx.spends.iter().map(|spent| spent_item(spent, &block.hash)))
        .collect()
}

/// Outputs of eligible transactions, spent siblings included, with version 1's gaps in height and time.
fn utxos(served: &Served, block: &Block) -> Vec<Value> {
    let world = &served.world;
    block
        .txs
        .iter()
        .filter(|tx| tx.tweak.is_some() && !(served.forgets && world.is_gone(&tx.txid)))
        .flat_map(|tx| tx.outputs.iter().map(move |output| (tx, output)))
        .map(|(tx, output)| {
            let outpoint = bitcoin::OutPoint::new(tx.txid, output.vout);
            let spent = world.spent.contains_key(&outpoint);
            json!({
                "txid": tx.txid.to_string(), "vout": output.vout, "value": output.value,
                "scriptpubkey": format!("5120{}", output.key.to_lower_hex_string()),
                "block_height": 0, "block_hash": block.hash.to_string(),
                "timestamp": if spent { 0 } else { 1_700_000_000 }, "spent": spent,
            })
        })
        .collect()
}
