//! Word from the node, by ZMQ, that its tip has changed.
//!
//! A subscriber of ZMTP 3.0 (<https://rfc.zeromq.org/spec/23/>) without security, which is all that Bitcoin Core speaks, in
//! a few lines of its own: the `zeromq` crate makes room for frames of whatever length the other side announces.
//!
//! Messages only say that something happened. Lost ones cost nothing but time, since the indexer also looks by itself.

mod connection;
mod journal;

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use tokio::time::Instant;

use self::connection::{Connection, Fault, Heard};
use self::journal::Journal;
use super::ChainError;
use super::http::one_line;
use super::rpc::ZmqNotification;
use super::tip_signal::{TipSignal, TipWord};

/// Messages read in one go before others get their turn; a node with a full mempool sends some dozens a second.
const MESSAGES_AT_ONCE: usize = 1000;

/// Shortest time for so many messages. What a publisher cannot send meanwhile it drops, which costs nothing.
const MESSAGES_TIME: Duration = Duration::from_millis(200);

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
            keep_listening(address, settings, word)
        })
    }
}

async fn keep_listening(address: ZmqAddress, settings: ZmqSettings, word: TipWord) {
    let mut pause = settings.first_pause;
    let mut journal = Journal::new(address.clone());
    loop {
        let connected = Connection::open(&address.host, address.port, settings.patience).await;
        let reason = match connected {
            Ok(connection) => {
                let since = Instant::now();
                let reason = pass_on(connection, &settings, &word, &mut journal).await;
                if since.elapsed() >= settings.steady_after {
                    pause = settings.first_pause;
                    journal.forgive();
                }
                reason
            }
            Err(reason) => reason,
        };
        journal.complain(&reason);
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(settings.longest_pause);
    }
}

/// Passes on what is heard until the connection ends.
async fn pass_on(
    mut connection: Connection,
    settings: &ZmqSettings,
    word: &TipWord,
    journal: &mut Journal,
) -> Fault {
    // What was published before is lost, and so may be what is published until the node has read the subscriptions, of
    // which it says nothing.
    word.give();
    let subscribed = async {
        tokio::time::sleep(settings.subscribed_after).await;
        journal.announce();
        word.give();
        std::future::pending::<Fault>().await
    };
    tokio::select! {
        reason = hear(&mut connection, word) => reason,
        reason = subscribed => reason,
    }
}

/// Reads messages, no more at a time than costs little, until the connection ends.
async fn hear(connection: &mut Connection, word: &TipWord) -> Fault {
    loop {
        let since = Instant::now();
        for _ in 0..MESSAGES_AT_ONCE {
            match connection.receive().await {
                Ok(Heard::Tip) => word.give(),
                Ok(Heard::Other) => {}
                Err(reason) => return reason,
            }
        }
        tokio::time::sleep(MESSAGES_TIME.saturating_sub(since.elapsed())).await;
    }
}

#[cfg(test)]
mod tests;
