//! New tips heard of by ZMQ, from a real node and from publishers with worse manners.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod support;

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use bitcoin::ScriptBuf;
use spindex::chain::BlockSource;
use spindex::chain::rest::{RestSettings, RestSource};
use spindex::chain::rpc::{RpcAuth, RpcClient, RpcSettings};
use spindex::chain::zmq::{TipSignal, ZmqAddress};
use spindex::curve::libsecp256k1::LibSecp256k1;
use spindex::index::{IndexSettings, Indexer};
use spindex::runtime::Stop;
use support::index::{content, fresh_content, memory_store};
use support::node::TestNode;
use support::spindex::{Spindex, command};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

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
    let client = RpcClient::new(settings, PATIENCE).unwrap();
    assert!(client.is_local());
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
    let store = memory_store(false);
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
            let _ = sender.send(report.tip.map(|tip| tip.height));
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

#[tokio::test]
async fn publishers_with_bad_manners_are_left_and_tried_again() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("tcp://{}", listener.local_addr().unwrap());
    let signal = listen(&address);
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
    stream
        .write_all(b"\x01\x09hashblock\x01\x01x\x00\x04\x00\x00\x00\x00")
        .await
        .unwrap();
    changed(&signal).await;
    // Dropped, it is gone.
    drop(signal);
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
}
