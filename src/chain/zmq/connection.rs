//! A connection to a publisher, as a subscriber of ZMTP 3.0.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio::time::timeout;

use super::message::Message;
use crate::chain::http::one_line;

/// Most frames of a message; the node sends three.
const PARTS_LIMIT: usize = 8;

/// Most bytes of what a PING wants back.
const CONTEXT_LIMIT_BYTES: usize = 16;

/// A frame's flags: more frames of the message follow; its length has 8 bytes; it is a command.
const MORE: u8 = 1;
const LONG: u8 = 2;
const COMMAND: u8 = 4;

/// What is subscribed to.
#[derive(Debug)]
pub(super) struct Subscription {
    pub(super) topics: &'static [&'static [u8]],
    /// Most bytes of a frame.
    pub(super) frame_limit_bytes: u64,
}

/// Why a connection cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("no answer in time")]
    Silent,
    #[error("the other side is no publisher of ZMTP 3 without security: {0}")]
    Protocol(String),
}

fn protocol(what: impl Into<String>) -> Fault {
    Fault::Protocol(what.into())
}

/// A connection that is greeted and subscribed.
#[derive(Debug)]
pub(super) struct Connection<S = BufReader<TcpStream>> {
    stream: S,
    subscription: &'static Subscription,
    patience: Duration,
}

impl Connection {
    /// Connects to the first address of a host that greets as it should, each of them within `patience`.
    pub(super) async fn open(
        host: &str,
        port: u16,
        subscription: &'static Subscription,
        patience: Duration,
    ) -> Result<Self, Fault> {
        let addresses = in_time(patience, async { Ok(lookup_host((host, port)).await?) });
        Self::open_any(addresses.await?, subscription, patience).await
    }

    /// The same for addresses. The reason is that of the first one, which is as good as any.
    async fn open_any(
        addresses: impl IntoIterator<Item = SocketAddr>,
        subscription: &'static Subscription,
        patience: Duration,
    ) -> Result<Self, Fault> {
        let mut first = None;
        for address in addresses {
            let opened = async {
                let stream = connect(address).await?;
                let mut connection = Self {
                    stream,
                    subscription,
                    patience,
                };
                connection.greet().await?;
                Ok(connection)
            };
            match in_time(patience, opened).await {
                Ok(connection) => return Ok(connection),
                Err(fault) => first = first.or(Some(fault)),
            }
        }
        Err(first.unwrap_or_else(|| protocol("it has no address")))
    }
}

async fn connect(address: SocketAddr) -> Result<BufReader<TcpStream>, Fault> {
    let socket = match address.is_ipv4() {
        true => TcpSocket::new_v4()?,
        false => TcpSocket::new_v6()?,
    };
    // A publisher may have nothing to say for an hour; this notices when it is gone without a word.
    socket.set_keepalive(true)?;
    Ok(BufReader::new(socket.connect(address).await?))
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// Greets and subscribes.
    async fn greet(&mut self) -> Result<(), Fault> {
        let Subscription {
            topics,
            frame_limit_bytes,
        } = *self.subscription;
        let stream = &mut self.stream;
        stream.write_all(&greeting()).await?;
        let mut theirs = [0; 64];
        stream.read_exact(&mut theirs).await?;
        if theirs[0] != 0xff || theirs[9] & 1 == 0 || theirs[10] < 3 {
            return Err(protocol("another greeting"));
        }
        if theirs[12..32] != greeting()[12..32] {
            return Err(protocol("it wants credentials"));
        }

        // A command is its name with a length of 1 byte, and properties: name with 1 byte, value with 4.
        stream
            .write_all(b"\x04\x19\x05READY\x0bSocket-Type\x00\x00\x00\x03SUB")
            .await?;
        let (flags, body) = read_frame(stream, frame_limit_bytes).await?;
        if flags & COMMAND == 0 {
            return Err(protocol("it is not ready"));
        }
        if let Some(reason) = body.strip_prefix(b"\x05ERROR") {
            return Err(reported(reason));
        }
        let properties = body.strip_prefix(b"\x05READY");
        let properties = properties.ok_or_else(|| protocol("it is not ready"))?;
        match socket_type(properties) {
            Some(b"PUB" | b"XPUB") => {}
            Some(kind) => {
                let kind = one_line(&String::from_utf8_lossy(kind));
                return Err(protocol(format!("it is a {kind} socket")));
            }
            None => return Err(protocol("it does not say what socket it is")),
        }
        for topic in topics {
            // A message that begins with 1 subscribes.
            let length = topic.len() as u8 + 1;
            stream
                .write_all(&[&[0, length, 1], *topic].concat())
                .await?;
        }
        Ok(())
    }

    /// Reads one message, or a command, which gives none; a PING is answered. The first byte is waited for without a limit.
    pub(super) async fn receive(&mut self) -> Result<Option<Message>, Fault> {
        let Self {
            stream,
            subscription,
            patience,
        } = self;
        let limit_bytes = subscription.frame_limit_bytes;
        let flags = stream.read_u8().await?;
        let rest = async {
            let first = read_body(stream, flags, limit_bytes).await?;
            if flags & COMMAND != 0 {
                obey(stream, &first).await?;
                return Ok(None);
            }
            read_message(stream, first, flags, limit_bytes)
                .await
                .map(Some)
        };
        in_time(*patience, rest).await
    }
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

/// The value of the property that names the kind of socket.
fn socket_type(mut properties: &[u8]) -> Option<&[u8]> {
    while let [length, rest @ ..] = properties {
        let (name, rest) = rest.split_at_checked(usize::from(*length))?;
        let (length, rest) = rest.split_first_chunk()?;
        let (value, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        if name.eq_ignore_ascii_case(b"Socket-Type") {
            return Some(value);
        }
        properties = rest;
    }
    None
}

/// Does what a command asks for.
async fn obey(stream: &mut (impl AsyncWrite + Unpin), command: &[u8]) -> Result<(), Fault> {
    if let Some(reason) = command.strip_prefix(b"\x05ERROR") {
        return Err(reported(reason));
    }
    if let Some(ping) = command.strip_prefix(b"\x04PING") {
        // How long the other side waits, 2 bytes, and what it wants back.
        let context = ping
            .get(2..)
            .filter(|context| context.len() <= CONTEXT_LIMIT_BYTES)
            .ok_or_else(|| protocol("a malformed PING"))?;
        let body = [b"\x04PONG", context].concat();
        let frame = [&[COMMAND, body.len() as u8][..], &body].concat();
        stream.write_all(&frame).await?;
    }
    Ok(())
}

fn reported(reason: &[u8]) -> Fault {
    // A length of 1 byte, then the text.
    let reason = one_line(&String::from_utf8_lossy(
        reason.get(1..).unwrap_or_default(),
    ));
    protocol(format!("it reports an error: {reason}"))
}

/// Reads the further frames of a message.
async fn read_message(
    stream: &mut (impl AsyncRead + Unpin),
    first: Vec<u8>,
    flags: u8,
    limit_bytes: u64,
) -> Result<Message, Fault> {
    let mut frames = vec![first];
    let mut more = flags & MORE != 0;
    while more {
        if frames.len() == PARTS_LIMIT {
            return Err(protocol("a message of too many parts"));
        }
        let (flags, frame) = read_frame(stream, limit_bytes).await?;
        frames.push(frame);
        more = flags & MORE != 0;
    }
    Ok(Message::new(frames))
}

/// One frame: flags and body.
async fn read_frame(
    stream: &mut (impl AsyncRead + Unpin),
    limit_bytes: u64,
) -> Result<(u8, Vec<u8>), Fault> {
    let flags = stream.read_u8().await?;
    Ok((flags, read_body(stream, flags, limit_bytes).await?))
}

/// The rest of a frame.
async fn read_body(
    stream: &mut (impl AsyncRead + Unpin),
    flags: u8,
    limit_bytes: u64,
) -> Result<Vec<u8>, Fault> {
    let length = match flags & LONG {
        0 => u64::from(stream.read_u8().await?),
        _ => stream.read_u64().await?,
    };
    if length > limit_bytes {
        return Err(protocol("a frame of too many bytes"));
    }
    let mut body = vec![0; length as usize];
    stream.read_exact(&mut body).await?;
    Ok(body)
}

async fn in_time<T>(
    patience: Duration,
    work: impl Future<Output = Result<T, Fault>>,
) -> Result<T, Fault> {
    timeout(patience, work).await.unwrap_or(Err(Fault::Silent))
}

#[cfg(test)]
mod tests;
