//! Word from the node, by ZMQ, that its tip has changed.
//!
//! A subscriber of ZMTP 3.0 (<https://rfc.zeromq.org/spec/23/>) without security, which is all that Bitcoin Core speaks, in
//! a few lines of its own: the `zeromq` crate makes room for frames of whatever length the other side announces.
//!
//! Messages only say that something happened. Lost ones cost nothing but time, since the indexer also looks by itself.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::ChainError;
use super::http::one_line;
use super::rpc::ZmqNotification;

/// Most bytes of a frame. What is subscribed to has at most 41.
const FRAME_LIMIT_BYTES: u64 = 4096;

/// Most frames of a message; the node sends three.
const PARTS_LIMIT: usize = 8;

/// Longest wait for a connection and for each step of the greeting.
const PATIENCE: Duration = Duration::from_secs(10);

/// By when a publisher has surely read the subscriptions.
const SUBSCRIBED_AFTER: Duration = Duration::from_secs(1);

const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// A frame's flags: more frames of the message follow; its length has 8 bytes; it is a command.
const MORE: u8 = 1;
const LONG: u8 = 2;
const COMMAND: u8 = 4;

/// A new tip, but not while the node downloads the chain and not when a tip is taken back.
const HASHBLOCK: &[u8] = b"hashblock";

/// Every block connected (`C`) or disconnected (`D`), and the mempool's comings and goings.
const SEQUENCE: &[u8] = b"sequence";

/// Where a node publishes, `tcp://` host and port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ZmqAddress {
    /// A name or an address; one of version 6 without its brackets.
    host: String,
    port: u16,
}

impl FromStr for ZmqAddress {
    type Err = ChainError;

    /// Reads `tcp://host:port`; [`ChainError::Setup`] for anything else.
    fn from_str(text: &str) -> Result<Self, ChainError> {
        let parts = || {
            let (host, port) = text.strip_prefix("tcp://")?.rsplit_once(':')?;
            let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
            // More colons would be an address of version 6 without brackets, or a path.
            let host = bare.or((!host.contains([':', '/', '@'])).then_some(host))?;
            let port = port.parse().ok().filter(|port| *port > 0)?;
            (!host.is_empty()).then(|| Self {
                host: host.to_owned(),
                port,
            })
        };
        parts().ok_or_else(|| {
            ChainError::Setup(format!(
                "{:?} is no ZMQ address over TCP; give one like tcp://127.0.0.1:28332, where the node publishes with -zmqpubhashblock=tcp://127.0.0.1:28332",
                one_line(text)
            ))
        })
    }
}

impl ZmqAddress {
    /// An address on this machine that a node here publishes new tips at, `sequence` before `hashblock`.
    pub fn local(notifications: &[ZmqNotification]) -> Option<Self> {
        let kinds = ["pubsequence", "pubhashblock"];
        let by_kind = kinds.into_iter().flat_map(|kind| {
            let of_kind = move |n: &&ZmqNotification| n.kind == kind;
            notifications.iter().filter(of_kind)
        });
        let addresses = by_kind.filter_map(|n| n.address.parse::<Self>().ok());
        let local = addresses.filter_map(|address| {
            let host = match address.host.as_str() {
                // It binds all addresses, that of this machine among them.
                "*" | "0.0.0.0" => "127.0.0.1",
                "::" => "::1",
                "localhost" => "localhost",
                host if host.parse::<std::net::IpAddr>().ok()?.is_loopback() => host,
                _ => return None,
            };
            let host = host.to_owned();
            Some(Self { host, ..address })
        });
        local.into_iter().next()
    }
}

impl fmt::Display for ZmqAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "tcp://[{}]:{}", self.host, self.port),
            false => write!(f, "tcp://{}:{}", self.host, self.port),
        }
    }
}

/// Tells when the node's tip may have changed. Connects in the background, again and again; dropped, it stops.
#[derive(Debug)]
pub struct TipSignal {
    changed: Arc<Notify>,
    listener: JoinHandle<()>,
}

impl TipSignal {
    /// Listens to a node. To be called on a tokio runtime.
    pub fn listen(address: ZmqAddress) -> Self {
        let changed = Arc::new(Notify::new());
        let listener = tokio::spawn(keep_listening(address, changed.clone()));
        Self { changed, listener }
    }

    /// Returns when the tip may have changed since the last call: at once if word has come meanwhile.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }
}

impl Drop for TipSignal {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

async fn keep_listening(address: ZmqAddress, changed: Arc<Notify>) {
    let mut pause = FIRST_PAUSE;
    let mut complained = false;
    loop {
        let reason = match timeout(PATIENCE, connect(&address)).await {
            Ok(Ok(mut stream)) => {
                tracing::info!("ZMQ: listening to {address}");
                complained = false;
                pause = FIRST_PAUSE;
                // What was published before is lost, and so may be what is published until the node has read the
                // subscriptions, of which it says nothing.
                changed.notify_one();
                let hears = async {
                    tokio::time::sleep(SUBSCRIBED_AFTER).await;
                    changed.notify_one();
                    std::future::pending::<Fault>().await
                };
                tokio::select! {
                    reason = pass_on(&mut stream, &changed) => reason,
                    reason = hears => reason,
                }
            }
            Ok(Err(reason)) => reason,
            Err(_) => Fault::Silent,
        };
        if !complained {
            tracing::warn!(
                "ZMQ: no connection to {address} ({reason}); trying again, and polling meanwhile"
            );
            complained = true;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Reads messages until the connection ends.
async fn pass_on(stream: &mut Stream, changed: &Notify) -> Fault {
    loop {
        match receive(stream).await {
            Ok(true) => changed.notify_one(),
            Ok(false) => {}
            Err(reason) => return reason,
        }
    }
}

/// Why a connection cannot be used.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("no answer in time")]
    Silent,
    #[error("the other side is no publisher of ZMTP 3 without security: {0}")]
    Protocol(&'static str),
}

type Stream = BufReader<TcpStream>;

/// Connects, greets, and subscribes.
async fn connect(address: &ZmqAddress) -> Result<Stream, Fault> {
    let mut last = None;
    let mut connected = None;
    for candidate in lookup_host((address.host.as_str(), address.port)).await? {
        let socket = match candidate.is_ipv4() {
            true => TcpSocket::new_v4()?,
            false => TcpSocket::new_v6()?,
        };
        // A publisher may have nothing to say for an hour; this notices when it is gone without a word.
        socket.set_keepalive(true)?;
        match socket.connect(candidate).await {
            Ok(stream) => {
                connected = Some(stream);
                break;
            }
            Err(error) => last = Some(error),
        }
    }
    let Some(stream) = connected else {
        return Err(last.map_or(Fault::Protocol("no address"), Fault::Io));
    };
    let mut stream = BufReader::new(stream);

    stream.write_all(&greeting()).await?;
    let mut theirs = [0; 64];
    stream.read_exact(&mut theirs).await?;
    if theirs[0] != 0xff || theirs[9] & 1 == 0 || theirs[10] < 3 {
        return Err(Fault::Protocol("another greeting"));
    }
    if theirs[12..32] != greeting()[12..32] {
        return Err(Fault::Protocol("it wants credentials"));
    }

    // A command is its name with a length of 1 byte, and properties: name with 1 byte, value with 4.
    stream
        .write_all(b"\x04\x19\x05READY\x0bSocket-Type\x00\x00\x00\x03SUB")
        .await?;
    match read_frame(&mut stream).await? {
        (flags, body) if flags & COMMAND != 0 && body.starts_with(b"\x05READY") => {}
        _ => return Err(Fault::Protocol("it is not ready")),
    }
    for topic in [HASHBLOCK, SEQUENCE] {
        // A message that begins with 1 subscribes.
        let length = topic.len() as u8 + 1;
        stream.write_all(&[&[0, length, 1], topic].concat()).await?;
    }
    Ok(stream)
}

/// Signature, version 3.0, mechanism, not a server, padding.
fn greeting() -> [u8; 64] {
    let mut greeting = [0; 64];
    greeting[0] = 0xff;
    greeting[9] = 0x7f;
    greeting[10] = 3;
    greeting[12..16].copy_from_slice(b"NULL");
    greeting
}

/// Reads one message or command; whether it is about a change of the tip.
async fn receive(stream: &mut (impl AsyncRead + Unpin)) -> Result<bool, Fault> {
    let (flags, first) = read_frame(stream).await?;
    if flags & COMMAND != 0 {
        return match first.starts_with(b"\x05ERROR") {
            true => Err(Fault::Protocol("it reports an error")),
            false => Ok(false),
        };
    }
    let mut parts = vec![first];
    let mut more = flags & MORE != 0;
    while more {
        if parts.len() == PARTS_LIMIT {
            return Err(Fault::Protocol("a message of too many parts"));
        }
        let (flags, part) = read_frame(stream).await?;
        parts.push(part);
        more = flags & MORE != 0;
    }
    // The topic, then its body: for `sequence` a hash of 32 bytes and a letter.
    let body = parts.get(1).map_or(&[][..], Vec::as_slice);
    Ok(match parts[0].as_slice() {
        HASHBLOCK => true,
        SEQUENCE => matches!(body.get(32), Some(b'C' | b'D')),
        _ => false,
    })
}

/// One frame: flags and body.
async fn read_frame(stream: &mut (impl AsyncRead + Unpin)) -> Result<(u8, Vec<u8>), Fault> {
    let flags = stream.read_u8().await?;
    let length = match flags & LONG {
        0 => u64::from(stream.read_u8().await?),
        _ => stream.read_u64().await?,
    };
    if length > FRAME_LIMIT_BYTES {
        return Err(Fault::Protocol("a frame of too many bytes"));
    }
    let mut body = vec![0; length as usize];
    stream.read_exact(&mut body).await?;
    Ok((flags, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> ZmqAddress {
        text.parse().unwrap()
    }

    #[test]
    fn addresses_are_tcp() {
        for text in [
            "tcp://127.0.0.1:28332",
            "tcp://node.example:1",
            "tcp://[::1]:65535",
        ] {
            assert_eq!(address(text).to_string(), text);
        }
        for text in [
            "",
            "127.0.0.1:28332",
            "ipc:///tmp/node",
            "http://127.0.0.1:28332",
            "tcp://127.0.0.1",
            "tcp://:28332",
            "tcp://[]:28332",
            "tcp://::1:28332",
            "tcp://127.0.0.1:0",
            "tcp://127.0.0.1:65536",
            "tcp://user:pass@host:1",
            "tcp://127.0.0.1:28332/path",
        ] {
            let error = text.parse::<ZmqAddress>().unwrap_err();
            assert!(matches!(error, ChainError::Setup(_)), "{text}: {error:?}");
            assert!(error.to_string().contains("-zmqpubhashblock"), "{error}");
        }
    }

    #[test]
    fn local_publishers_are_found() {
        let found = |list: &[(&str, &str)]| {
            let list = list.iter().map(|(kind, address)| ZmqNotification {
                kind: (*kind).to_owned(),
                address: (*address).to_owned(),
            });
            let list: Vec<_> = list.collect();
            ZmqAddress::local(&list).map(|address| address.to_string())
        };
        assert_eq!(found(&[]), None);
        let block = ("pubhashblock", "tcp://127.0.0.1:1");
        let sequence = ("pubsequence", "tcp://*:2");
        assert_eq!(found(&[block]).unwrap(), "tcp://127.0.0.1:1");
        assert_eq!(found(&[block, sequence]).unwrap(), "tcp://127.0.0.1:2");
        for (kind, address, wanted) in [
            ("pubrawtx", "tcp://127.0.0.1:1", None),
            ("pubhashblock", "ipc:///tmp/node", None),
            ("pubhashblock", "tcp://192.0.2.7:1", None),
            ("pubhashblock", "tcp://0.0.0.0:1", Some("tcp://127.0.0.1:1")),
            ("pubhashblock", "tcp://[::]:1", Some("tcp://[::1]:1")),
            (
                "pubhashblock",
                "tcp://localhost:1",
                Some("tcp://localhost:1"),
            ),
        ] {
            assert_eq!(found(&[(kind, address)]).as_deref(), wanted, "{address}");
        }
    }

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

    #[tokio::test]
    async fn messages_about_blocks_are_told_from_others() {
        let hash = [7; 32];
        let with = |letter: u8| [&hash[..], &[letter], &[0; 8]].concat();
        for (parts, wanted) in [
            (vec![HASHBLOCK, &hash, &[0; 4]], true),
            (vec![SEQUENCE, &with(b'C'), &[0; 4]], true),
            (vec![SEQUENCE, &with(b'D'), &[0; 4]], true),
            (vec![SEQUENCE, &with(b'A'), &[0; 4]], false),
            (vec![SEQUENCE, &with(b'R'), &[0; 4]], false),
            (vec![SEQUENCE, &hash, &[0; 4]], false),
            (vec![SEQUENCE], false),
            (vec![b"hashtx", &hash, &[0; 4]], false),
        ] {
            // Something before it, something after it.
            let mut bytes = b"\x04\x06\x05OTHER".to_vec();
            bytes.extend(message(&parts));
            bytes.extend(b"\x02");
            let mut stream = bytes.as_slice();
            assert!(!receive(&mut stream).await.unwrap());
            assert_eq!(receive(&mut stream).await.unwrap(), wanted, "{parts:?}");
            assert!(receive(&mut stream).await.is_err());
        }
        // A long frame is read by its length of 8 bytes.
        let mut long = vec![LONG | MORE, 0, 0, 0, 0, 0, 0, 0, 9];
        long.extend(HASHBLOCK);
        long.extend([0, 0]);
        assert!(receive(&mut long.as_slice()).await.unwrap());
    }

    #[tokio::test]
    async fn nothing_is_read_or_kept_without_bounds() {
        let endless = [&[LONG][..], &u64::MAX.to_be_bytes()].concat();
        let many = message(&[b"x".as_slice(); PARTS_LIMIT + 1]);
        let refused = b"\x04\x09\x05ERROR\x02no".to_vec();
        for (bytes, said) in [
            (endless, "too many bytes"),
            (many, "too many parts"),
            (refused, "reports an error"),
        ] {
            let error = receive(&mut bytes.as_slice()).await.unwrap_err();
            assert!(error.to_string().contains(said), "{error}");
        }
        let eight = message(&[b"x".as_slice(); PARTS_LIMIT]);
        assert!(!receive(&mut eight.as_slice()).await.unwrap());
    }
}
