//! Serving the index: bind, serve, drain.
//!
//! The [`desk`] answers what can be asked, over one [`Snapshot`](crate::store::Snapshot) at a time so that no answer mixes two
//! tips. A dialect ([`http`] has those over HTTP) decodes, asks the desk, and encodes, its own words for refusals included.

mod connection;
pub mod desk;
pub mod http;
mod room;
mod traffic;

use std::future::{Future, IntoFuture};
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::future::try_join_all;
use tokio::net::TcpListener;
use tokio::sync::watch;

use connection::{BoundedListener, Traffic};
use desk::Desk;
use room::Room;
use traffic::Bounds;

/// What is spoken on a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1, with all dialects over it.
    Http,
}

/// A listening socket and what is spoken on it.
#[derive(Debug)]
pub struct Listener {
    /// The socket.
    pub socket: TcpListener,
    /// What is spoken.
    pub protocol: Protocol,
}

impl Listener {
    /// HTTP on a socket.
    pub const fn http(socket: TcpListener) -> Self {
        Self {
            socket,
            protocol: Protocol::Http,
        }
    }
}

/// Bounds of a server. The defaults suit a public server on a small machine.
#[derive(Debug, Clone)]
pub struct ServeSettings {
    /// Connections served at the same time; further ones wait. Stay below the limit of open files, with those that wait. A quarter
    /// of them can be streams of events, of which a quarter for one address.
    pub max_connections: usize,
    /// Of these, how many are kept for addresses that have few: less than a quarter of this number. (Of IPv6, the 64 bits
    /// of a subscriber are an address.) So nobody has them all.
    pub reserved_connections: usize,
    /// Connections that wait for a place; when there are more, whoever has most of them loses the last.
    pub max_waiting_connections: usize,
    /// A connection on which nothing has happened for so long, and no request is worked on, gives way to one that waits.
    pub idle_grace: Duration,
    /// A connection that takes no byte of an answer for so long is closed, and an idle one. Each byte taken is worth some time
    /// more, at 256 bytes a second.
    pub silence_timeout: Duration,
    /// How long the head of a request may take from its first byte.
    pub head_timeout: Duration,
    /// How long the body of a request may take.
    pub body_timeout: Duration,
    /// Most bytes of encoded answers that are kept for the next one who asks; 0 for none.
    pub kept_answer_bytes: u64,
    /// Room for answers of the native protocol that are made and not taken yet, in bytes, beside those that are kept. Whoever
    /// asks for more waits; so does one address for more than three quarters of it.
    pub outgoing_bytes: u64,
    /// How long whoever asks for a chunk or a range waits for that room before it is refused, or cut off.
    pub outgoing_patience: Duration,
    /// How long running requests may go on after shutdown was asked for; then their connections are cut.
    pub drain_timeout: Duration,
}

impl Default for ServeSettings {
    fn default() -> Self {
        Self {
            // The usual limit of open files is 1024; the node and the index need some of them.
            max_connections: 768,
            // A syncing wallet has up to 600 for itself.
            reserved_connections: 128,
            max_waiting_connections: 128,
            idle_grace: Duration::from_secs(5),
            silence_timeout: Duration::from_secs(120),
            head_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(10),
            kept_answer_bytes: 64 << 20,
            outgoing_bytes: 192 << 20,
            outgoing_patience: Duration::from_secs(20),
            drain_timeout: Duration::from_secs(10),
        }
    }
}

/// Opens the listening socket; port 0 takes any free one.
///
/// # Errors
/// The address is in use or not one of this machine; the text names it.
pub async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        io::Error::new(
            error.kind(),
            format!("cannot listen on {address}: {error}; choose another address"),
        )
    })
}

/// Serves on all sockets until `shutdown` completes, then stops accepting, lets running requests finish for
/// [`ServeSettings::drain_timeout`] at most, and returns. Dropping the future cuts all connections.
///
/// # Errors
/// None at present: faults of single connections end those connections only.
pub async fn serve(
    listeners: Vec<Listener>,
    desk: Arc<Desk>,
    shutdown: impl Future<Output = ()> + Send + 'static,
    settings: ServeSettings,
) -> io::Result<()> {
    let (cut, is_cut) = watch::channel(false);
    let (stop, is_stopping) = watch::channel(false);
    let bounds = Bounds {
        silence: settings.silence_timeout,
        head: settings.head_timeout,
        grace: settings.idle_grace,
    };
    // One room for all: it stands for files that may be open, and for memory.
    let room = Room::new(
        settings.max_connections,
        settings.reserved_connections,
        bounds,
    );
    // One for all as well, with the answers that it keeps.
    let http = http::router_until(desk, &settings, Some(is_stopping.clone()));
    // With nothing to serve on, all are at their end at once.
    let is_serving = !listeners.is_empty();
    let servers = listeners.into_iter().map(|Listener { socket, protocol }| {
        let waiting = settings.max_waiting_connections;
        let listener = BoundedListener::new(socket, room.clone(), waiting, is_cut.clone());
        let router = match protocol {
            Protocol::Http => http.clone(),
        };
        let mut is_stopping = is_stopping.clone();
        let service = router.into_make_service_with_connect_info::<Traffic>();
        axum::serve(listener, service)
            .with_graceful_shutdown(async move {
                // An error means that this future is gone, and with it everything.
                let _ = is_stopping.wait_for(|stopping| *stopping).await;
            })
            .into_future()
    });
    let mut servers = pin!(try_join_all(servers.collect::<Vec<_>>()));
    tokio::select! {
        result = &mut servers, if is_serving => return result.map(|_| ()),
        () = shutdown => {}
    }
    stop.send_replace(true);
    if let Ok(result) = tokio::time::timeout(settings.drain_timeout, &mut servers).await {
        return result.map(|_| ());
    }
    tracing::warn!(
        "requests still running {:?} after shutdown was asked for are cut off",
        settings.drain_timeout
    );
    cut.send_replace(true);
    // Every connection wakes up with an error now; not waiting for ever all the same.
    tokio::time::timeout(Duration::from_secs(1), &mut servers)
        .await
        .unwrap_or(Ok(Vec::new()))
        .map(|_| ())
}
