//! Word from the node, by ZMQ, that its tip has changed, and of what comes into its mempool and leaves it.
//!
//! A subscriber of ZMTP 3.0 (<https://rfc.zeromq.org/spec/23/>) without security, which is all that Bitcoin Core speaks, in
//! a few lines of its own: the `zeromq` crate makes room for frames of whatever length the other side announces.
//!
//! Messages only say that something happened. Lost ones cost nothing but time, since whoever hears them also looks by himself.

mod connection;
mod journal;
mod listening;
mod mempool;
mod message;

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use self::connection::Subscription;
use self::listening::{Ear, keep_listening};
pub use self::message::sequence_change;
use self::message::{HASHBLOCK, Message, RAWTX, SEQUENCE};
use super::ChainError;
use super::http::one_line;
use super::rpc::ZmqNotification;
use super::tip_signal::{TipSignal, TipWord};

/// What tells of tips. The longest body has 41 bytes.
static TIPS: Subscription = Subscription {
    topics: &[HASHBLOCK, SEQUENCE],
    frame_limit_bytes: 4096,
};

/// What tells of the mempool. The longest body is that of a transaction that fills a block.
static MEMPOOL: Subscription = Subscription {
    topics: &[RAWTX, SEQUENCE],
    frame_limit_bytes: 4_000_000,
};

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
        Self::local_of(notifications, &["pubsequence", "pubhashblock"])
    }

    /// An address on this machine that a node here tells of its mempool at.
    pub fn local_mempool(notifications: &[ZmqNotification]) -> Option<Self> {
        Self::local_of(notifications, &["pubsequence"])
    }

    /// The same for the first of these kinds that there is.
    fn local_of(notifications: &[ZmqNotification], kinds: &[&str]) -> Option<Self> {
        let by_kind = kinds.iter().flat_map(|kind| {
            let of_kind = move |n: &&ZmqNotification| n.kind == *kind;
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

/// How a [`TipSignal`] deals with its publisher.
#[derive(Debug, Clone)]
pub struct ZmqSettings {
    /// Longest wait for one address of the host to be connected to and to greet, and for the rest of a message that has begun.
    pub patience: Duration,
    /// By when a publisher has surely read the subscriptions.
    pub subscribed_after: Duration,
    /// Pause before a second try to connect; it doubles from try to try.
    pub first_pause: Duration,
    /// The longest such pause.
    pub longest_pause: Duration,
    /// A connection that held so long was a good one: pauses and complaints begin anew after it.
    pub steady_after: Duration,
    /// Least time between two words of a changed tip, however many messages come.
    pub gather: Duration,
}

impl Default for ZmqSettings {
    fn default() -> Self {
        Self {
            patience: Duration::from_secs(10),
            subscribed_after: Duration::from_secs(1),
            first_pause: Duration::from_millis(500),
            longest_pause: Duration::from_secs(30),
            steady_after: Duration::from_secs(60),
            gather: TipSignal::GATHER,
        }
    }
}

impl TipSignal {
    /// Listens to a node. To be called on a tokio runtime.
    pub fn listen(address: ZmqAddress) -> Self {
        Self::listen_with(address, ZmqSettings::default())
    }

    /// Listens to a node, with other times than the usual ones. To be called on a tokio runtime.
    pub fn listen_with(address: ZmqAddress, settings: ZmqSettings) -> Self {
        Self::new(settings.gather, |word| {
            keep_listening(address, settings, &TIPS, TipEar(word))
        })
    }
}

/// Passes on that the tip may have changed.
struct TipEar(TipWord);

impl Ear for TipEar {
    async fn may_have_missed(&self) {
        self.0.give();
    }

    async fn cut_off(&self) {}

    async fn hear(&self, message: Message) {
        if message.tells_of_tip() {
            self.0.give();
        }
    }
}

#[cfg(test)]
mod tests;
