use tokio::io::{DuplexStream, duplex};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::*;
use crate::chain::zmq::message::{HASHBLOCK, SEQUENCE};

static SUBSCRIPTION: Subscription = Subscription {
    topics: &[HASHBLOCK, SEQUENCE],
    frame_limit_bytes: 4096,
};

const PATIENCE: Duration = Duration::from_secs(3600);

/// A message as the node sends it.
fn message(parts: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (at, part) in parts.iter().enumerate() {
        let more = if at + 1 < parts.len() { MORE } else { 0 };
        bytes.extend([more, part.len() as u8]);
        bytes.extend(*part);
    }
    bytes
}

/// A connection whose other side has sent these bytes; that side.
async fn sent(bytes: &[u8]) -> (Connection<DuplexStream>, DuplexStream) {
    let (stream, mut other) = duplex(1 << 16);
    other.write_all(bytes).await.unwrap();
    let connection = Connection {
        stream,
        subscription: &SUBSCRIPTION,
        patience: PATIENCE,
    };
    (connection, other)
}

fn framed(frames: &[&[u8]]) -> Message {
    Message::new(frames.iter().map(|frame| frame.to_vec()).collect())
}

#[tokio::test]
async fn messages_are_read_whole() {
    let hash = [7; 32];
    for parts in [
        vec![HASHBLOCK, &hash, &[0; 4]],
        vec![SEQUENCE, &hash, &[0; 4]],
        vec![SEQUENCE],
        vec![b"hashtx", &hash, &[1, 2, 3, 4]],
    ] {
        // Something before it, something after it.
        let mut bytes = b"\x04\x06\x05OTHER".to_vec();
        bytes.extend(message(&parts));
        bytes.extend(b"\x02");
        let (mut connection, other) = sent(&bytes).await;
        drop(other);
        assert_eq!(connection.receive().await.unwrap(), None);
        let read = connection.receive().await.unwrap();
        assert_eq!(read, Some(framed(&parts)), "{parts:?}");
        assert!(connection.receive().await.is_err());
    }
    // A long frame is read by its length of 8 bytes.
    let mut long = vec![LONG | MORE, 0, 0, 0, 0, 0, 0, 0, 9];
    long.extend(HASHBLOCK);
    long.extend([0, 0]);
    let (mut connection, _other) = sent(&long).await;
    let read = connection.receive().await.unwrap();
    assert_eq!(read, Some(framed(&[HASHBLOCK])));
}

#[tokio::test]
async fn nothing_is_read_or_kept_without_bounds() {
    let endless = [&[LONG][..], &u64::MAX.to_be_bytes()].concat();
    let many = message(&[b"x".as_slice(); PARTS_LIMIT + 1]);
    let refused = b"\x04\x09\x05ERROR\x02no".to_vec();
    let ping = [&[COMMAND, 24][..], b"\x04PING\x00\x01", &[9; 17]].concat();
    for (bytes, said) in [
        (endless, "too many bytes"),
        (many, "too many parts"),
        (refused, "reports an error: no"),
        (ping, "malformed PING"),
        (b"\x04\x06\x04PING\x00".to_vec(), "malformed PING"),
    ] {
        let (mut connection, _other) = sent(&bytes).await;
        let error = connection.receive().await.unwrap_err();
        assert!(error.to_string().contains(said), "{error}");
    }
    let eight = message(&[b"x".as_slice(); PARTS_LIMIT]);
    let (mut connection, _other) = sent(&eight).await;
    let read = connection.receive().await.unwrap();
    assert_eq!(read, Some(framed(&[b"x".as_slice(); PARTS_LIMIT])));
}

#[tokio::test]
async fn a_ping_is_answered_with_what_it_wants_back() {
    for context in [&b""[..], b"\x00", &[7; CONTEXT_LIMIT_BYTES]] {
        let body = [b"\x04PING\x00\x64", context].concat();
        let bytes = [&[COMMAND, body.len() as u8][..], &body].concat();
        let (mut connection, mut other) = sent(&bytes).await;
        assert_eq!(connection.receive().await.unwrap(), None);
        drop(connection);
        let mut answer = Vec::new();
        other.read_to_end(&mut answer).await.unwrap();
        let length = 5 + context.len() as u8;
        let wanted = [&[COMMAND, length][..], b"\x04PONG", context].concat();
        assert_eq!(answer, wanted);
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_that_has_begun_ends_in_time() {
    let (mut connection, _other) = sent(&[0]).await;
    let error = connection.receive().await.unwrap_err();
    assert!(matches!(error, Fault::Silent), "{error}");
    // The one before it may take as long as it likes.
    let (mut connection, mut other) = sent(&[]).await;
    let late = tokio::spawn(async move { connection.receive().await.unwrap() });
    tokio::time::sleep(100 * PATIENCE).await;
    other.write_all(&message(&[HASHBLOCK])).await.unwrap();
    assert_eq!(late.await.unwrap(), Some(framed(&[HASHBLOCK])));
}

/// A command READY with these properties.
fn ready(properties: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut body = b"\x05READY".to_vec();
    for (name, value) in properties {
        body.push(name.len() as u8);
        body.extend(*name);
        body.extend((value.len() as u32).to_be_bytes());
        body.extend(*value);
    }
    [&[COMMAND, body.len() as u8][..], &body].concat()
}

#[tokio::test]
async fn only_publishers_are_listened_to() {
    let named = |kind| ready(&[(b"Identity", b""), (b"Socket-Type", kind)]);
    let mut cut = named(b"PUB");
    cut[1] -= 1;
    cut.pop();
    for (answer, said) in [
        (named(b"PUB"), None),
        (named(b"XPUB"), None),
        (ready(&[(b"SOCKET-type", b"PUB")]), None),
        (named(b"REP"), Some("it is a REP socket")),
        (named(b"SUB"), Some("it is a SUB socket")),
        (named(b"R\n\x1bP"), Some("it is a R P socket")),
        (named(b""), Some("it is a  socket")),
        (ready(&[]), Some("does not say what socket")),
        (ready(&[(b"Identity", b"PUB")]), Some("does not say")),
        (cut, Some("does not say")),
        (b"\x04\x09\x05ERROR\x02no".to_vec(), Some("an error: no")),
        (b"\x04\x06\x05OTHER".to_vec(), Some("it is not ready")),
        (message(&[b"\x05READY"]), Some("it is not ready")),
    ] {
        let bytes = [&greeting()[..], &answer].concat();
        let (mut connection, _other) = sent(&bytes).await;
        match (connection.greet().await, said) {
            (Ok(()), None) => {}
            (Err(error), Some(said)) => {
                assert!(error.to_string().contains(said), "{said}: {error}");
            }
            (other, _) => panic!("{said:?}: {other:?}"),
        }
    }
}

/// A server that sends these bytes to whoever connects, and keeps the connections.
async fn server(bytes: Vec<u8>) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        let mut kept = Vec::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(&bytes).await.unwrap();
            kept.push(stream);
        }
    });
    (address, serving)
}

/// A host of several addresses, of which the first ones say nothing, or something else, or refuse.
#[tokio::test]
async fn each_address_of_a_host_has_its_own_time() {
    let publisher = [&greeting()[..], &ready(&[(b"Socket-Type", b"PUB")])].concat();
    let (silent, _silent) = server(Vec::new()).await;
    let (other, _other) = server(b"HTTP/1.1 400 Bad\r\n".repeat(4)).await;
    let (right, _right) = server(publisher).await;
    let refusing = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    };
    let open = |addresses: Vec<SocketAddr>| async {
        let opened = Connection::open_any(addresses, &SUBSCRIPTION, Duration::from_secs(3)).await;
        opened.map(|connection| connection.stream.get_ref().peer_addr().unwrap())
    };
    let (after_silence, after_others, in_vain) = tokio::join!(
        open(vec![silent, right]),
        open(vec![other, refusing, right]),
        open(vec![silent, other, refusing]),
    );
    assert_eq!(after_silence.unwrap(), right);
    assert_eq!(after_others.unwrap(), right);
    let fault = in_vain.unwrap_err();
    assert!(matches!(fault, Fault::Silent), "{fault}");
    let fault = open(vec![other, refusing]).await.unwrap_err();
    assert!(fault.to_string().contains("another greeting"), "{fault}");
    let fault = open(Vec::new()).await.unwrap_err();
    assert!(fault.to_string().contains("no address"), "{fault}");
}
