//! New tips heard of by ZMQ, from a real node and from publishers with worse manners.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use bitcoin::ScriptBuf;
use spindex::chain::rest::{RestSettings, RestSource};
use spindex::chain::rpc::{RpcAuth, RpcClient, RpcSettings};
use spindex::chain::zmq::{ZmqAddress, ZmqSettings};
use spindex::chain::{BlockSource, TipSignal};
use spindex::curve::libsecp256k1::LibSecp256k1;
use spindex::index::{IndexSettings, Indexer};
use spindex::runtime::Stop;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::index::{content, fresh_content, memory_store};
use crate::support::node::TestNode;
use crate::support::spindex::{Spindex, command};

/// Long enough for a busy machine; only reached by a test that fails.
const PATIENCE: Duration = Duration::from_secs(120);

fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("tcp://{}", listener.local_addr().unwrap())
}

fn nowhere() -> ScriptBuf {
    ScriptBuf::new_op_return([])
}

fn listen(address: &str) -> TipSignal {
    TipSignal::listen(address.parse().unwrap())
}

async fn changed(signal: &TipSignal) {
    let changed = tokio::time::timeout(PATIENCE, signal.changed());
    changed.await.expect("no word of a new tip");
}

fn run_args(node: &TestNode, more: &[String]) -> Vec<String> {
    let fixed = [
        "run".to_owned(),
        "--network=regtest".to_owned(),
        "--first-height=0".to_owned(),
        "--http-bind=127.0.0.1:0".to_owned(),
        format!("--node-url={}", node.url()),
        format!("--poll-ms={}", Duration::from_secs(3600).as_millis()),
    ];
    [&fixed, more].concat()
}

/// With a pause of an hour between two looks, only word from the node explains that blocks are seen.
#[test]
fn a_new_block_is_indexed_at_once_and_so_is_one_that_is_taken_back() {
    let address = free_address();
    let mut node = TestNode::start(&[&format!("-zmqpubsequence={address}")]);
    node.mine(3, &nowhere());
    let home = tempfile::tempdir().unwrap();
    // Without it nobody could say that the block taken back is invalid.
    let cookie = format!("--rpc-cookie={}", node.cookie_path().display());
    let args = run_args(&node, &[format!("--zmq={address}"), cookie]);
    let mut server = Spindex::start(command(home.path(), &args));
    server.wait_for(&["ZMQ: listening", &address]);
    node.mine(1, &nowhere());
    server.wait_for_height(4);
    let tip = node.tip().hash;
    node.mine(1, &nowhere());
    server.wait_for_height(5);

    // The tip moves back, comes again, and is replaced by another of the same height.
    node.invalidate_block(tip);
    server.wait_for(&["reorg", "tip=3 ("]);
    node.reconsider_block(tip);
    server.wait_for_height(5);
    node.invalidate_block(node.tip().hash);
    server.wait_for(&["reorg", "tip=4 ("]);
    node.mine(1, &ScriptBuf::new_op_return([7]));
    server.wait_for_height(5);

    // A node that restarts is listened to again.
    node.stop();
    server.wait_for(&["WARN", "ZMQ: no connection", &address]);
    node.start_again(&["-rest", &format!("-zmqpubsequence={address}")]);
    server.wait_for(&["ZMQ: listening", &address]);
    node.mine(2, &nowhere());
    server.wait_for_height(7);
    let (status, lines) = server.terminate();
    assert!(status.success(), "{lines:#?}");
    let complaints = lines.iter().filter(|line| line.contains("ZMQ: no"));
    assert_eq!(complaints.count(), 1, "{lines:#?}");
}

#[test]
fn the_address_is_asked_of_a_node_on_this_machine() {
    let address = free_address();
    let any = address.replace("127.0.0.1", "0.0.0.0");
    let node = TestNode::start(&[&format!("-zmqpubhashblock={any}")]);
    node.mine(2, &nowhere());
    let home = tempfile::tempdir().unwrap();
    let cookie = format!("--rpc-cookie={}", node.cookie_path().display());
    let mut server = Spindex::start(command(home.path(), &run_args(&node, &[cookie])));
    server.wait_for(&["ZMQ: listening", &address]);
    node.mine(1, &nowhere());
    server.wait_for_height(3);
    assert!(server.terminate().0.success());
}

#[tokio::test]
async fn a_node_says_where_it_publishes() {
    let (first, second) = (free_address(), free_address());
    let node = TestNode::start(&[
        &format!("-zmqpubhashblock={first}"),
        &format!("-zmqpubrawtx={second}"),
    ]);
    let settings = RpcSettings {
        url: node.url(),
        auth: RpcAuth::CookieFile(node.cookie_path()),
    };
    assert!(settings.is_local());
    let client = RpcClient::new(settings, PATIENCE).unwrap();
    let list = client.zmq_notifications().await.unwrap();
    let mut list: Vec<_> = list.iter().map(|n| (&*n.kind, &*n.address)).collect();
    list.sort_unstable();
    assert_eq!(list, [("pubhashblock", &*first), ("pubrawtx", &*second)]);
    let list = client.zmq_notifications().await.unwrap();
    let address = ZmqAddress::local(&list).unwrap();
    assert_eq!(address.to_string(), first);

    let signal = TipSignal::listen(address);
    // For the connection, when it is made and when it surely hears, and for the block.
    changed(&signal).await;
    changed(&signal).await;
    node.mine(1, &nowhere());
    changed(&signal).await;
}

/// The follower itself: woken by the node, with an index that equals a fresh one.
#[tokio::test(flavor = "multi_thread")]
async fn the_follower_is_woken() {
    let address = free_address();
    let node = TestNode::start(&[&format!("-zmqpubhashblock={address}")]);
    node.mine(5, &nowhere());
    let source = Arc::new(RestSource::new(RestSettings::new(node.url())).unwrap());
    let store = memory_store();
    let stop = Stop::new();
    let (sender, mut heights) = tokio::sync::mpsc::unbounded_channel();
    let settings = IndexSettings {
        poll_interval: Duration::from_secs(3600),
        ..IndexSettings::default()
    };
    let indexer = Indexer::new(
        store.clone(),
        source.clone(),
        Arc::new(LibSecp256k1),
        settings,
        stop.clone(),
        move |report| {
            let _ = sender.send(report.applied.tip.map(|tip| tip.height));
        },
    );
    let signal = listen(&address);
    let following = tokio::spawn(async move { indexer.follow(Some(&signal)).await });
    for height in [5, 6, 7] {
        let indexed = tokio::time::timeout(PATIENCE, heights.recv()).await;
        assert_eq!(indexed.unwrap().unwrap(), Some(height));
        node.mine(1, &nowhere());
    }
    let indexed = tokio::time::timeout(PATIENCE, heights.recv()).await;
    assert_eq!(indexed.unwrap().unwrap(), Some(8));
    stop.request();
    following.await.unwrap().unwrap();
    assert_eq!(content(&store), fresh_content(source.clone()).await);
    assert_eq!(source.tip().await.unwrap().height, 8);
}

/// A greeting of ZMTP 3.0 without security, a READY command, and the two subscriptions that follow.
async fn greet(stream: &mut tokio::net::TcpStream) {
    let mut greeting = [0; 64];
    greeting[..12].copy_from_slice(&[0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0x7f, 3, 1]);
    greeting[12..16].copy_from_slice(b"NULL");
    let mut theirs = [0; 64];
    stream.read_exact(&mut theirs).await.unwrap();
    assert_eq!(theirs[..12], [0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0x7f, 3, 0]);
    assert_eq!(theirs[12..32], greeting[12..32]);
    stream.write_all(&greeting).await.unwrap();
    let ready = b"\x04\x19\x05READY\x0bSocket-Type\x00\x00\x00\x03PUB";
    stream.write_all(ready).await.unwrap();
    let mut theirs = [0; 27];
    stream.read_exact(&mut theirs).await.unwrap();
    assert_eq!(&theirs[..24], &ready[..24]);
    assert_eq!(&theirs[24..], b"SUB");
    let mut subscriptions = [0; 23];
    stream.read_exact(&mut subscriptions).await.unwrap();
    assert_eq!(&subscriptions, b"\x00\x0a\x01hashblock\x00\x09\x01sequence");
}

/// Pauses too short to be noticed.
fn impatient() -> ZmqSettings {
    ZmqSettings {
        first_pause: Duration::from_millis(10),
        longest_pause: Duration::from_millis(10),
        ..ZmqSettings::default()
    }
}

#[tokio::test]
async fn publishers_with_bad_manners_are_left_and_tried_again() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("tcp://{}", listener.local_addr().unwrap());
    let signal = TipSignal::listen_with(address.parse().unwrap(), impatient());
    let curve = {
        let mut greeting = [0; 64];
        greeting[..12].copy_from_slice(&[0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0x7f, 3, 0]);
        greeting[12..17].copy_from_slice(b"CURVE");
        greeting
    };
    for first in [b"HTTP/1.1 400 Bad\r\n".repeat(4).as_slice(), &curve, &[]] {
        let (mut stream, _) = listener.accept().await.unwrap();
        let _ = stream.write_all(first).await;
    }
    // Greeted, but then a frame without end: left as well, after word that something may have been missed.
    let (mut stream, _) = listener.accept().await.unwrap();
    greet(&mut stream).await;
    changed(&signal).await;
    stream.write_all(&[2; 9]).await.unwrap();
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;

    let (mut stream, _) = listener.accept().await.unwrap();
    greet(&mut stream).await;
    changed(&signal).await;
    changed(&signal).await;
    stream.write_all(HASHBLOCK).await.unwrap();
    changed(&signal).await;
    // Dropped, it is gone.
    drop(signal);
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
}

/// A new tip, as the node says it.
const HASHBLOCK: &[u8] = b"\x01\x09hashblock\x01\x01x\x00\x04\x00\x00\x00\x00";

/// A block that was connected: the hash is the shortest that will do.
fn connected() -> Vec<u8> {
    let body = [&[7; 32][..], b"C"].concat();
    [b"\x01\x08sequence\x00\x21", &body[..]].concat()
}

/// Tries are made less and less often while each connection ends at once, and often again after a good one.
#[tokio::test]
async fn a_publisher_that_closes_is_tried_less_and_less() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("tcp://{}", listener.local_addr().unwrap());
    let settings = ZmqSettings {
        first_pause: Duration::from_millis(20),
        longest_pause: Duration::from_millis(640),
        steady_after: Duration::from_millis(100),
        ..ZmqSettings::default()
    };
    let _signal = TipSignal::listen_with(address.parse().unwrap(), settings);
    let mut tries = Vec::new();
    for _ in 0..7 {
        let (mut stream, _) = listener.accept().await.unwrap();
        tries.push(tokio::time::Instant::now());
        greet(&mut stream).await;
    }
    // 20, 40, 80, 160, 320 and 640 ms: a pause is never shorter than it should be.
    for (pair, pause) in tries.windows(2).zip([20, 40, 80, 160, 320, 640]) {
        assert!(
            pair[1] - pair[0] >= Duration::from_millis(pause),
            "{tries:?}"
        );
    }
}

/// However many messages come, there is one word of a changed tip in each span of time, and each PING has its answer.
#[tokio::test]
async fn a_flood_of_messages_is_few_words() {
    const SPAN: Duration = Duration::from_millis(200);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("tcp://{}", listener.local_addr().unwrap());
    let settings = ZmqSettings {
        gather: SPAN,
        ..ZmqSettings::default()
    };
    let signal = Arc::new(TipSignal::listen_with(address.parse().unwrap(), settings));
    let (mut stream, _) = listener.accept().await.unwrap();
    greet(&mut stream).await;
    let words = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let counting = {
        let (signal, words) = (Arc::clone(&signal), Arc::clone(&words));
        tokio::spawn(async move {
            loop {
                signal.changed().await;
                words.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
        })
    };
    let started = tokio::time::Instant::now();
    let flood = connected().repeat(100);
    for n in 0..50u8 {
        stream.write_all(&flood).await.unwrap();
        let ping = [b"\x04\x08\x04PING\x00\x64", &[n][..]].concat();
        stream.write_all(&ping).await.unwrap();
        let mut pong = [0; 8];
        stream.read_exact(&mut pong).await.unwrap();
        assert_eq!(pong, [4, 6, 4, b'P', b'O', b'N', b'G', n]);
    }
    let spans = started.elapsed().as_millis() / SPAN.as_millis();
    let words = words.load(std::sync::atomic::Ordering::Relaxed);
    // One for the connection, one at once, one for each span, and one for the subscriptions.
    assert!(u128::from(words) <= spans + 4, "{words} in {spans} spans");
    counting.abort();

    // And the last one is not forgotten.
    stream.write_all(HASHBLOCK).await.unwrap();
    changed(&signal).await;
}

/// A peer that greets and closes is one line of log; one that is no publisher is told by what it is.
#[test]
fn a_peer_that_is_no_publisher_is_said_once() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("tcp://{}", listener.local_addr().unwrap());
    let node = TestNode::start(&[]);
    node.mine(1, &nowhere());
    let home = tempfile::tempdir().unwrap();
    let args = run_args(&node, &[format!("--zmq={address}")]);
    let server = Spindex::start(command(home.path(), &args));
    for _ in 0..4 {
        use std::io::{Read, Write};
        let (mut stream, _) = listener.accept().unwrap();
        let mut greeting = [0; 64];
        greeting[..12].copy_from_slice(&[0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0x7f, 3, 1]);
        greeting[12..16].copy_from_slice(b"NULL");
        stream.write_all(&greeting).unwrap();
        let ready = b"\x04\x19\x05READY\x0bSocket-Type\x00\x00\x00\x03REP";
        stream.write_all(ready).unwrap();
        // Until it leaves.
        let _ = stream.read_to_end(&mut Vec::new());
    }
    let (status, lines) = server.terminate();
    assert!(status.success(), "{lines:#?}");
    let said: Vec<_> = lines.iter().filter(|line| line.contains("ZMQ")).collect();
    assert_eq!(said.len(), 1, "{lines:#?}");
    assert!(said[0].contains("it is a REP socket"), "{said:?}");
}
