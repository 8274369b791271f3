//! Server-sent events over real connections.

use std::time::Duration;

use bitcoin::Network;
use futures::StreamExt;
use serde_json::{Value, json};
use spindex::BlockId;
use spindex::api::ServeSettings;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::super::fixture::{Server, TestChain, TestStore, json_of, pays};
use super::super::serve_chain;
use super::refused;

/// One client's stream, read line by line as the standard of events says.
pub(super) struct Listening {
    bytes: futures::stream::BoxStream<'static, reqwest::Result<Vec<u8>>>,
    read: String,
}

/// An event: name, id, data.
#[derive(Debug, PartialEq)]
pub(super) struct Received {
    pub(super) name: String,
    pub(super) id: String,
    pub(super) data: Value,
}

impl Listening {
    async fn to(server: &Server, path: &str, last_event_id: Option<&str>) -> Self {
        let mut request = server.client.get(server.url(path));
        if let Some(id) = last_event_id {
            request = request.header("Last-Event-ID", id);
        }
        let response = request.send().await.expect("an answer");
        assert_eq!(response.status().as_u16(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        assert_eq!(response.headers()["cache-control"], "no-cache");
        Self::of(response)
    }

    /// The stream of an answer.
    pub(super) fn of(response: reqwest::Response) -> Self {
        let bytes = response.bytes_stream().map(|bytes| bytes.map(Vec::from));
        Self {
            bytes: bytes.boxed(),
            read: String::new(),
        }
    }

    /// What stands up to the next empty line; `None` at the end.
    pub(super) async fn block(&mut self) -> Option<String> {
        loop {
            if let Some((block, rest)) = self.read.split_once("\n\n") {
                let (block, rest) = (block.to_owned(), rest.to_owned());
                self.read = rest;
                return Some(block);
            }
            let bytes = self.bytes.next().await?.ok()?;
            self.read.push_str(&String::from_utf8(bytes).expect("text"));
        }
    }

    /// The next event; comments are passed over.
    pub(super) async fn next(&mut self) -> Option<Received> {
        loop {
            let block = self.block().await?;
            let field = |name: &str| {
                let mut lines = block.lines();
                lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
            };
            if let Some(name) = field("event") {
                return Some(Received {
                    name: name.to_owned(),
                    id: field("id").expect("an id").to_owned(),
                    data: serde_json::from_str(field("data").expect("data")).expect("JSON"),
                });
            }
            assert!(block.starts_with(':'), "{block}");
        }
    }
}

fn cursor(block: BlockId) -> String {
    format!("{}:{}", block.height, block.hash)
}

fn name(block: BlockId) -> Value {
    json!({"height": block.height, "block_hash": block.hash.to_string()})
}

fn tip(block: BlockId) -> Option<Received> {
    Some(Received {
        name: "tip".into(),
        id: cursor(block),
        data: json!({"height": block.height, "block_hash": block.hash.to_string(), "skipped": 0}),
    })
}

fn reorg(fork: BlockId, disconnected: &[BlockId], connected: &[BlockId]) -> Option<Received> {
    let names = |blocks: &[BlockId]| blocks.iter().map(|block| name(*block)).collect::<Vec<_>>();
    Some(Received {
        name: "reorg".into(),
        id: cursor(*connected.last().unwrap_or(&fork)),
        data: json!({
            "fork": name(fork), "disconnected": names(disconnected), "connected": names(connected),
        }),
    })
}

/// Ids of the blocks of a chain from a height on.
fn ids(chain: &TestChain, from: u32) -> Vec<BlockId> {
    let ids = chain.blocks.iter().map(|block| block.id());
    ids.filter(|id| id.height >= from).collect()
}

#[tokio::test]
async fn blocks_and_both_branches_of_a_reorganisation_are_told_and_nothing_twice() {
    let mut chain = TestChain::new(1);
    for _ in 0..3 {
        chain.mine(&[pays(&[600])]);
    }
    let (store, server) = serve_chain(&chain).await;
    let mut listening = Listening::to(&server, "spindex/v1/events", None).await;
    assert_eq!(listening.next().await, tip(chain.tip().id()));
    chain.mine(&[]);
    store.connect(&chain.records()[3..]);
    assert_eq!(listening.next().await, tip(chain.tip().id()));

    // Who leaves here comes back later.
    let left_at = chain.tip().id();
    let mut old = ids(&chain, 3);
    old.reverse();
    chain.pop(2);
    chain.salt(1);
    for _ in 0..3 {
        chain.mine(&[]);
    }
    store.reorganize(2, &chain.records()[2..]);
    let new = ids(&chain, 3);
    let fork = chain.at(2).id();
    assert_eq!(listening.next().await, reorg(fork, &old, &new));

    // A second one, which goes below the first one's fork.
    let second_old = ids(&chain, 2);
    chain.pop(4);
    chain.salt(1);
    for _ in 0..5 {
        chain.mine(&[]);
    }
    store.reorganize(4, &chain.records()[1..]);
    let newest = ids(&chain, 2);
    let fork = chain.at(1).id();
    let mut disconnected = second_old.clone();
    disconnected.reverse();
    assert_eq!(listening.next().await, reorg(fork, &disconnected, &newest));
    chain.mine(&[]);
    store.connect(&chain.records()[6..]);
    assert_eq!(listening.next().await, tip(chain.tip().id()));

    // Each of them is told from where it was: what it knew and is no more, and all that came since.
    let mut left = old.clone();
    left.push(second_old[0]);
    let came: Vec<BlockId> = ids(&chain, 2);
    let mut again = Listening::to(&server, "spindex/v1/events", Some(&cursor(left_at))).await;
    assert_eq!(again.next().await, reorg(fork, &left, &came));
    // The header wins.
    let path = format!("spindex/v1/events?cursor={}", cursor(left_at));
    let at = chain.at(5).id();
    let mut again = Listening::to(&server, &path, Some(&cursor(at))).await;
    assert_eq!(again.next().await, tip(chain.at(6).id()));
    assert_eq!(again.next().await, tip(chain.at(7).id()));
    let mut by_parameter = Listening::to(&server, &path, None).await;
    assert_eq!(by_parameter.next().await, reorg(fork, &left, &came));

    // Whoever is up to date hears of the next block first.
    let here = cursor(chain.tip().id());
    let mut up_to_date = Listening::to(&server, "spindex/v1/events", Some(&here)).await;
    chain.mine(&[]);
    store.connect(&chain.records()[7..]);
    for listening in [
        &mut listening,
        &mut again,
        &mut by_parameter,
        &mut up_to_date,
    ] {
        assert_eq!(listening.next().await, tip(chain.tip().id()));
    }
}

#[tokio::test]
async fn a_cursor_of_another_chain_is_a_new_beginning() {
    let mut chain = TestChain::new(1);
    chain.mine(&[]);
    let (_store, server) = serve_chain(&chain).await;
    let mut other = TestChain::new(1);
    other.salt(5);
    let foreign = other.mine(&[]).id();
    let at = cursor(foreign);
    let mut listening = Listening::to(&server, "spindex/v1/events", Some(&at)).await;
    let expected = Received {
        name: "reset".into(),
        id: cursor(chain.tip().id()),
        data: json!({"cursor": name(foreign), "tip": name(chain.tip().id())}),
    };
    assert_eq!(listening.next().await, Some(expected));
}

#[tokio::test]
async fn what_is_no_cursor_is_refused_and_so_is_one_stream_too_many() {
    let mut chain = TestChain::new(1);
    chain.mine(&[]);
    let store = TestStore::new(Network::Regtest, 1);
    store.connect(&chain.records());
    let settings = ServeSettings {
        // A quarter of these for streams, a quarter of that for each peer.
        max_connections: 32,
        ..ServeSettings::default()
    };
    let server = Server::start_with(&store, None, settings).await;
    for path in [
        "events?cursor=5",
        "events?cursor=",
        "events?at=5",
        "events?cursor=1:00",
    ] {
        refused(&server, path, 400, "bad_request").await;
    }
    let first = Listening::to(&server, "spindex/v1/events", None).await;
    let _second = Listening::to(&server, "spindex/v1/events", None).await;
    refused(&server, "events", 503, "busy").await;
    // Others are served as ever, and a place that is left is free.
    server.ok("spindex/v1/info").await;
    drop(first);
    loop {
        let answer = server.get("spindex/v1/events").await;
        if answer.status().as_u16() == 200 {
            break;
        }
        let (status, _) = json_of(answer).await;
        assert_eq!(status, 503);
    }
    let empty = TestStore::new(Network::Regtest, 7);
    let server = Server::start(&empty, None).await;
    refused(&server, "events", 503, "busy").await;
}

#[tokio::test]
async fn a_quiet_stream_outlives_the_silence_that_ends_a_dead_one() {
    let mut chain = TestChain::new(1);
    chain.mine(&[]);
    let store = TestStore::new(Network::Regtest, 1);
    store.connect(&chain.records());
    let silence = Duration::from_millis(200);
    let settings = ServeSettings {
        silence_timeout: silence,
        ..ServeSettings::default()
    };
    let server = Server::start_with(&store, None, settings).await;
    let mut listening = Listening::to(&server, "spindex/v1/events", None).await;
    assert_eq!(listening.next().await, tip(chain.tip().id()));
    // More of them than there is time for before an ordinary answer would be cut off.
    for _ in 0..12 {
        let line = listening.block().await.expect("it goes on");
        assert!(line.starts_with(':'), "{line}");
    }
    chain.mine(&[]);
    store.connect(&chain.records()[1..]);
    assert_eq!(listening.next().await, tip(chain.tip().id()));
}

#[tokio::test]
async fn streams_end_when_the_server_stops_and_do_not_hold_it() {
    let mut chain = TestChain::new(1);
    chain.mine(&[]);
    let store = TestStore::new(Network::Regtest, 1);
    store.connect(&chain.records());
    let settings = ServeSettings {
        // Nothing but the end of the streams ends this test.
        drain_timeout: Duration::from_secs(3600),
        ..ServeSettings::default()
    };
    let mut server = Server::start_with(&store, None, settings).await;
    let mut listening = Listening::to(&server, "spindex/v1/events", None).await;
    assert_eq!(listening.next().await, tip(chain.tip().id()));
    server.ask_to_stop();
    assert_eq!(listening.next().await, None);
    server.end().await.expect("a clean end");
}

/// One place for all: who listens has it until another one comes.
#[tokio::test]
async fn a_stream_gives_way_to_who_waits_and_goes_on_elsewhere() {
    let mut chain = TestChain::new(1);
    chain.mine(&[]);
    let store = TestStore::new(Network::Regtest, 1);
    store.connect(&chain.records());
    let settings = ServeSettings {
        max_connections: 1,
        reserved_connections: 0,
        idle_grace: Duration::from_millis(100),
        ..ServeSettings::default()
    };
    let server = Server::start_with(&store, None, settings).await;
    let mut listening = Listening::to(&server, "spindex/v1/events", None).await;
    assert_eq!(listening.next().await, tip(chain.tip().id()));
    let mut stream = TcpStream::connect(server.address).await.expect("connects");
    let request = b"GET /spindex/v1/info HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    stream.write_all(request).await.expect("writes");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("reads");
    assert!(answer.starts_with(b"HTTP/1.1 200"));
    assert_eq!(listening.next().await, None);
    chain.mine(&[]);
    store.connect(&chain.records()[1..]);
    let at = cursor(chain.at(1).id());
    let mut again = Listening::to(&server, "spindex/v1/events", Some(&at)).await;
    assert_eq!(again.next().await, tip(chain.tip().id()));
}
