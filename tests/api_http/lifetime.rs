//! Shutdown, and connections that would hold the server.

use std::sync::Arc;
use std::time::Duration;

use bitcoin::Network;
use bitcoin::consensus::encode::serialize_hex;
use serde_json::{Value, json};
use spindex::api::desk::{Desk, DeskSettings};
use spindex::api::{Listener, ServeSettings, bind, serve};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::fixture::{RecordingNode, Server, TestChain, TestStore, json_of, pays, sample_chain};

#[tokio::test]
async fn shutdown_lets_a_running_request_finish() {
    let chain = sample_chain();
    let store = TestStore::new(Network::Regtest, 1);
    store.connect(&chain.records());
    let node = RecordingNode::gated(&chain);
    let mut server = Server::start(&store, Some(node.clone())).await;
    // A connection that is only kept open must not be waited for.
    let mut idle = TcpStream::connect(server.address).await.expect("connects");
    let request = b"GET /info HTTP/1.1\r\nHost: x\r\n\r\n";
    idle.write_all(request).await.expect("writes");
    idle.read_exact(&mut [0; 15]).await.expect("reads");

    let transaction = chain.at(2).block.txdata[1].clone();
    let request = server.client.post(server.url("forward-tx"));
    let request = request.json(&json!({"data": serialize_hex(&transaction)}));
    let running = tokio::spawn(request.send());
    node.entered.acquire().await.expect("never closed").forget();
    server.ask_to_stop();
    // The idle connection is closed at once, which shows that the server is stopping.
    let mut rest = Vec::new();
    idle.read_to_end(&mut rest).await.expect("closed in order");
    assert!(!running.is_finished());
    node.gate.add_permits(1);
    let response = running.await.expect("no panic").expect("an answer");
    let txid = Value::from(transaction.compute_txid().to_string());
    assert_eq!(json_of(response).await, (200, txid));
    let address = server.address;
    server.end().await.expect("a clean end");
    assert!(
        TcpStream::connect(address).await.is_err(),
        "the port is free"
    );
}

#[tokio::test]
async fn all_sockets_are_served_with_the_same_places_until_the_shutdown() {
    let chain = sample_chain();
    let store = TestStore::new(Network::Regtest, 1);
    store.connect(&chain.records());
    let settings = ServeSettings {
        max_connections: 1,
        reserved_connections: 0,
        ..ServeSettings::default()
    };
    for sockets in [0, 1, 3] {
        let mut listeners = Vec::new();
        let mut addresses = Vec::new();
        for _ in 0..sockets {
            let socket = bind(([127, 0, 0, 1], 0).into()).await.expect("a free port");
            addresses.push(socket.local_addr().expect("bound"));
            listeners.push(Listener::http(socket));
        }
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let shutdown = async move {
            let _ = stopped.await;
        };
        let desk = Desk::new(store.store.clone(), None, None, DeskSettings::default());
        let mut serving = Box::pin(serve(listeners, desk, shutdown, settings.clone()));
        assert!(futures::poll!(&mut serving).is_pending(), "{sockets}");
        let serving = tokio::spawn(serving);
        // Each waits for the place that the one before it had.
        for address in &addresses {
            let mut stream = TcpStream::connect(address).await.expect("connects");
            let request = b"GET /info HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
            stream.write_all(request).await.expect("writes");
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.expect("reads");
            assert!(answer.starts_with(b"HTTP/1.1 200"));
        }
        stop.send(()).expect("it is served until then");
        serving.await.expect("no panic").expect("a clean end");
        for address in &addresses {
            assert!(TcpStream::connect(address).await.is_err(), "{address}");
        }
    }
}

#[tokio::test]
async fn a_stuck_request_holds_the_shutdown_for_the_drain_time_only() {
    let chain = sample_chain();
    let store = TestStore::new(Network::Regtest, 1);
    store.connect(&chain.records());
    let node = RecordingNode::gated(&chain);
    let settings = ServeSettings {
        drain_timeout: Duration::from_millis(50),
        ..ServeSettings::default()
    };
    let mut server = Server::start_with(&store, Some(node.clone()), settings).await;
    let mut half = TcpStream::connect(server.address).await.expect("connects");
    half.write_all(b"GET /info HT").await.expect("writes");
    let running = tokio::spawn(server.client.get(server.url("spends/4")).send());
    node.entered.acquire().await.expect("never closed").forget();
    server.ask_to_stop();
    server
        .end()
        .await
        .expect("ends although requests are stuck");
    assert!(running.await.expect("no panic").is_err());
    // Nothing of the server is left to hold the index.
    let mut store = store;
    let released = async {
        while Arc::get_mut(&mut store.store).is_none() {
            tokio::task::yield_now().await;
        }
    };
    let released = tokio::time::timeout(Duration::from_secs(30), released).await;
    released.expect("no task of the server goes on");
}

#[tokio::test]
async fn a_silent_or_trickling_connection_is_closed() {
    let chain = sample_chain();
    let store = TestStore::new(Network::Regtest, 1);
    store.connect(&chain.records());
    let settings = ServeSettings {
        silence_timeout: Duration::from_millis(200),
        head_timeout: Duration::from_millis(200),
        ..ServeSettings::default()
    };
    let server = Server::start_with(&store, None, settings).await;
    for start in ["", "GET /info HT"] {
        let mut stream = TcpStream::connect(server.address).await.expect("connects");
        stream.write_all(start.as_bytes()).await.expect("writes");
        let mut rest = Vec::new();
        // Closed in order or reset, but closed.
        let _ = stream.read_to_end(&mut rest).await;
        assert!(!rest.starts_with(b"HTTP/1.1 200"));
    }
    // Endless headers, a byte at a time and always more before the time is over.
    let mut stream = TcpStream::connect(server.address).await.expect("connects");
    stream
        .write_all(b"GET /info HTTP/1.1\r\nX: ")
        .await
        .expect("writes");
    let (mut reader, mut writer) = stream.split();
    let trickle = async {
        let mut tick = tokio::time::interval(Duration::from_millis(20));
        loop {
            tick.tick().await;
            if writer.write_all(b"x").await.is_err() {
                return;
            }
        }
    };
    let mut byte = [0; 1];
    let closed = async {
        tokio::select! {
            () = trickle => {}
            read = reader.read(&mut byte) => assert!(matches!(read, Ok(0) | Err(_)), "no answer"),
        }
    };
    let closed = tokio::time::timeout(Duration::from_secs(30), closed).await;
    closed.expect("the server gives up first");
}

#[tokio::test]
async fn an_address_in_use_is_named() {
    let taken = bind(([127, 0, 0, 1], 0).into()).await.expect("a free port");
    let address = taken.local_addr().expect("bound");
    let error = bind(address).await.expect_err("taken").to_string();
    assert!(error.contains(&address.to_string()), "{error}");
}

#[tokio::test]
async fn more_connections_than_allowed_wait_their_turn() {
    let chain = sample_chain();
    let store = TestStore::new(Network::Regtest, 1);
    store.connect(&chain.records());
    let settings = ServeSettings {
        max_connections: 2,
        ..ServeSettings::default()
    };
    let desk = DeskSettings {
        max_reading: 1,
        ..DeskSettings::default()
    };
    let server = Server::start_over(&store, None, desk, settings).await;
    let ask = async || {
        let mut stream = TcpStream::connect(server.address).await.expect("connects");
        let request = b"GET /block-hash/6 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        stream.write_all(request).await.expect("writes");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("reads");
        answer
    };
    let answers = futures::future::join_all((0..50).map(|_| ask())).await;
    let hash = chain.at(6).id().hash.to_string();
    for answer in answers {
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains(&hash));
    }
}

#[tokio::test]
async fn readers_that_stop_reading_do_not_block_others() {
    let mut chain = TestChain::new(1);
    chain.mine(&vec![pays(&[1000]); 3000]);
    let store = TestStore::new(Network::Regtest, 1);
    store.connect(&chain.records());
    let desk = DeskSettings {
        max_reading: 1,
        ..DeskSettings::default()
    };
    let settings = ServeSettings::default();
    let server = Server::start_over(&store, None, desk, settings).await;
    let mut stuck = Vec::new();
    for _ in 0..20 {
        let mut stream = TcpStream::connect(server.address).await.expect("connects");
        let request = b"GET /utxos/1 HTTP/1.1\r\nHost: x\r\n\r\n";
        stream.write_all(&request.repeat(50)).await.expect("writes");
        // The first answer has begun; no more of it is read.
        stream.read_exact(&mut [0; 15]).await.expect("reads");
        stuck.push(stream);
    }
    assert_eq!(server.ok("tweaks/1").await, chain.tweaks(1, 0));
}
