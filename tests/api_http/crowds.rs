//! Connections and bodies that would shut others out. Addresses of the loopback network stand for different peers.

use std::net::SocketAddr;
use std::time::Duration;

use bitcoin::Network;
use bitcoin::consensus::encode::serialize_hex;
use serde_json::json;
use spindex::api::ServeSettings;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use super::fixture::{RecordingNode, Server, TestStore, sample_chain};

/// Longer than a test takes: what is bounded by it does not happen.
const NEVER: Duration = Duration::from_secs(24 * 3600);

fn settings() -> ServeSettings {
    ServeSettings {
        silence_timeout: NEVER,
        head_timeout: NEVER,
        body_timeout: NEVER,
        idle_grace: NEVER,
        ..ServeSettings::default()
    }
}

async fn connect(server: &Server, last: u8) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    let from = SocketAddr::from(([127, 0, 0, last], 0));
    socket.bind(from).expect("an address of the loopback");
    socket.connect(server.address).await.expect("connects")
}

const REQUEST: &[u8] = b"GET /block-height HTTP/1.1\r\nHost: x\r\n\r\n";

/// The next answer, up to the end of its body, which is a JSON object.
async fn answer(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    while !text.ends_with(b"}") {
        let mut byte = [0];
        stream.read_exact(&mut byte).await.expect("reads");
        text.push(byte[0]);
    }
    String::from_utf8(text).expect("text")
}

async fn ask(stream: &mut TcpStream) -> String {
    stream.write_all(REQUEST).await.expect("writes");
    answer(stream).await
}

/// Waits until the server has closed the connection.
async fn closed(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    // Closed in order or reset, but closed.
    let _ = stream.read_to_end(&mut rest).await;
    assert_eq!(rest, b"");
}

/// What must end by itself, and would never if it were wrong.
async fn soon<T>(work: impl Future<Output = T>) -> T {
    let work = tokio::time::timeout(Duration::from_secs(60), work);
    work.await.expect("does not wait for anybody")
}

async fn start(settings: ServeSettings) -> (TestStore, Server) {
    let chain = sample_chain();
    let store = TestStore::new(Network::Regtest, 1);
    store.connect(&chain.records());
    let node = RecordingNode::new(&chain);
    let server = Server::start_with(&store, Some(node), settings).await;
    (store, server)
}

#[tokio::test]
async fn idle_connections_of_one_address_leave_room_for_others() {
    let (_store, server) = start(ServeSettings {
        max_connections: 12,
        reserved_connections: 4,
        ..settings()
    })
    .await;
    let mut idle = Vec::new();
    for _ in 0..40 {
        idle.push(connect(&server, 1).await);
    }
    for last in 2..6 {
        let answer = soon(async { ask(&mut connect(&server, last).await).await }).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
    // Those that have places are served too, and when they go, the others have their turn.
    for stream in &mut idle[..8] {
        soon(ask(stream)).await;
    }
    let mut waiting = idle.split_off(8);
    drop(idle);
    soon(ask(&mut waiting[0])).await;
}

#[tokio::test]
async fn idle_connections_give_way_when_all_places_are_taken() {
    let (_store, server) = start(ServeSettings {
        max_connections: 6,
        reserved_connections: 0,
        idle_grace: Duration::ZERO,
        ..settings()
    })
    .await;
    let mut many = Vec::new();
    for last in [1, 1, 1, 1, 2, 3] {
        let mut stream = connect(&server, last).await;
        soon(ask(&mut stream)).await;
        many.push(stream);
    }
    // The first of the address that has most goes; one that only sends the beginning of a head is idle too.
    let start = b"GET /bl";
    many[1].write_all(start).await.expect("writes");
    let mut newcomer = connect(&server, 4).await;
    soon(ask(&mut newcomer)).await;
    soon(closed(&mut many[0])).await;
    for at in [4, 5] {
        soon(ask(&mut many[at])).await;
    }
    // Who has most itself pushes out its own.
    let mut own = Vec::new();
    for _ in 0..4 {
        let mut stream = connect(&server, 1).await;
        soon(ask(&mut stream)).await;
        own.push(stream);
    }
    soon(closed(&mut many[2])).await;
    for at in [4, 5] {
        soon(ask(&mut many[at])).await;
    }
    soon(ask(&mut newcomer)).await;
}

#[tokio::test]
async fn who_is_served_keeps_its_place_and_who_finds_none_to_wait_is_told() {
    let chain = sample_chain();
    let store = TestStore::new(Network::Regtest, 1);
    store.connect(&chain.records());
    let node = RecordingNode::gated(&chain);
    let settings = ServeSettings {
        max_connections: 1,
        max_waiting_connections: 1,
        idle_grace: Duration::ZERO,
        ..settings()
    };
    let server = Server::start_with(&store, Some(node.clone()), settings).await;
    let mut served = connect(&server, 1).await;
    let request = b"GET /spends/4 HTTP/1.1\r\nHost: x\r\n\r\n";
    served.write_all(request).await.expect("writes");
    node.entered.acquire().await.expect("never closed").forget();
    let mut waiting = connect(&server, 2).await;
    waiting.write_all(REQUEST).await.expect("writes");
    // Each has one that waits; of the two for one place the last goes.
    let mut last = connect(&server, 3).await;
    let told = soon(answer(&mut last)).await;
    assert!(told.starts_with("HTTP/1.1 503 "), "{told}");
    assert!(told.contains("{\"error\":\"too many connections"), "{told}");
    node.gate.add_permits(1);
    let served = soon(answer(&mut served)).await;
    assert!(served.starts_with("HTTP/1.1 200 "), "{served}");
    let waited = soon(answer(&mut waiting)).await;
    assert!(waited.starts_with("HTTP/1.1 200 "), "{waited}");
}

#[tokio::test]
async fn a_head_has_a_short_time_and_an_idle_connection_a_long_one() {
    let (_store, server) = start(ServeSettings {
        head_timeout: Duration::from_millis(50),
        ..settings()
    })
    .await;
    let mut idle = connect(&server, 1).await;
    let mut slow = connect(&server, 1).await;
    slow.write_all(b"GET /info HTTP/1.1\r\nX: ")
        .await
        .expect("writes");
    soon(closed(&mut slow)).await;
    // Also one that has been served before.
    let mut later = connect(&server, 1).await;
    soon(ask(&mut later)).await;
    later.write_all(b"G").await.expect("writes");
    soon(closed(&mut later)).await;
    soon(ask(&mut idle)).await;
}

/// The head of a broadcast with a body of so many bytes, and the first of them.
fn begun(length: usize, sent: usize) -> Vec<u8> {
    let head = format!(
        "POST /forward-tx HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n"
    );
    [head.into_bytes(), vec![b' '; sent]].concat()
}

#[tokio::test]
async fn bodies_that_never_come_hold_nobody_up() {
    let (_store, server) = start(settings()).await;
    let mut slow = Vec::new();
    for length in [500; 40] {
        let mut stream = connect(&server, 1).await;
        stream.write_all(&begun(length, 10)).await.expect("writes");
        slow.push(stream);
    }
    let transaction = sample_chain().at(2).block.txdata[1].clone();
    let request = server.client.post(server.url("forward-tx"));
    let request = request.json(&json!({"data": serialize_hex(&transaction)}));
    let response = soon(request.send()).await.expect("an answer");
    assert_eq!(response.status(), 200);
}

#[tokio::test]
async fn large_bodies_have_a_share_for_each_address() {
    const LARGE: usize = 200_000;
    let (_store, server) = start(settings()).await;
    let mut held = Vec::new();
    for _ in 0..4 {
        let mut stream = connect(&server, 1).await;
        stream
            .write_all(&begun(LARGE, LARGE - 1))
            .await
            .expect("writes");
        held.push(stream);
    }
    // A fifth one of the same address is refused as soon as those are in; until then it is one of four.
    let told = soon(async {
        loop {
            let mut stream = connect(&server, 1).await;
            stream
                .write_all(&begun(LARGE, LARGE - 1))
                .await
                .expect("writes");
            held.push(stream);
            // Whichever came fifth.
            for stream in &mut held {
                let mut byte = [0];
                let read = stream.read(&mut byte);
                let read = tokio::time::timeout(Duration::from_millis(20), read);
                if read.await.is_ok() {
                    return answer(stream).await;
                }
            }
        }
    })
    .await;
    assert!(told.starts_with("TTP/1.1 503 "), "{told}");
    assert!(told.contains("retry-after: 5"), "{told}");
    // Another address is served, and so are small bodies.
    for (last, length) in [(2, LARGE), (1, 100)] {
        let mut stream = connect(&server, last).await;
        let body = begun(length, length);
        stream.write_all(&body).await.expect("writes");
        let answer = soon(answer(&mut stream)).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    }
}

#[tokio::test]
async fn a_body_has_a_short_time() {
    let (_store, server) = start(ServeSettings {
        body_timeout: Duration::from_millis(50),
        ..settings()
    })
    .await;
    let mut stream = connect(&server, 1).await;
    stream.write_all(&begun(500, 10)).await.expect("writes");
    let answer = soon(answer(&mut stream)).await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
}
