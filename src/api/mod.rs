//! Serving the index: bind, serve, drain, and the state the routes answer from.
//!
//! A request is decoded by its dialect ([`http`]), answered by [`query`] over one [`Snapshot`](crate::store::Snapshot)
//! (so an answer never mixes two tips) and, if that fails, put into the dialect's words by [`error`].

mod connection;
pub mod error;
pub mod http;
pub mod query;
mod room;
mod spends;
mod traffic;

use std::future::{Future, IntoFuture};
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};

use crate::chain::BlockSource;
use crate::curve::Engine;
use crate::curve::libsecp256k1::LibSecp256k1;
use crate::store::Store;
use connection::{BoundedListener, Traffic};

/// What the routes answer from.
#[derive(Clone)]
pub struct ApiState {
    /// The index.
    pub store: Arc<Store>,
    /// The own node, for broadcasting and for details of spends; `None` for `spindex serve`.
    pub node: Option<Arc<dyn BlockSource>>,
}

/// Bounds of a server. The defaults suit a public server on a small machine.
#[derive(Debug, Clone)]
pub struct ServeSettings {
    /// Requests that read the index at the same time; further ones wait in line, none is refused.
    pub max_working: usize,
    /// Connections served at the same time; further ones wait. Stay below the limit of open files, with those that wait.
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
    /// How long a request waits for the node, with all that stand in line before it.
    pub node_timeout: Duration,
    /// What tells output keys that are points from others; a batched one is cheaper.
    pub engine: Arc<dyn Engine>,
    /// How long running requests may go on after shutdown was asked for; then their connections are cut.
    pub drain_timeout: Duration,
}

impl Default for ServeSettings {
    fn default() -> Self {
        Self {
            // More readers than cores: some of them wait for the disk.
            max_working: 4 * std::thread::available_parallelism().map_or(4, usize::from),
            // The usual limit of open files is 1024; the node and the index need some of them.
            max_connections: 768,
            // A syncing wallet has up to 600 for itself.
            reserved_connections: 128,
            max_waiting_connections: 128,
            idle_grace: Duration::from_secs(5),
            silence_timeout: Duration::from_secs(120),
            head_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(10),
            node_timeout: Duration::from_secs(60),
            engine: Arc::new(LibSecp256k1),
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

/// Serves HTTP until `shutdown` completes, then stops accepting, lets running requests finish for
/// [`ServeSettings::drain_timeout`] at most, and returns. Dropping the future cuts all connections.
///
/// # Errors
/// None at present: faults of single connections end those connections only.
pub async fn serve(
    listener: TcpListener,
    state: ApiState,
    shutdown: impl Future<Output = ()> + Send + 'static,
    settings: ServeSettings,
) -> io::Result<()> {
    let (cut, is_cut) = watch::channel(false);
    let (stopping, stopped) = oneshot::channel();
    let listener = BoundedListener::new(listener, &settings, is_cut);
    let router = http::router_with(state, &settings);
    let service = router.into_make_service_with_connect_info::<Traffic>();
    let mut server = pin!(
        axum::serve(listener, service)
            .with_graceful_shutdown(async move {
                shutdown.await;
                // The receiver is gone only together with the whole server.
                let _ = stopping.send(());
            })
            .into_future()
    );
    tokio::select! {
        result = &mut server => return result,
        _ = stopped => {}
    }
    if let Ok(result) = tokio::time::timeout(settings.drain_timeout, &mut server).await {
        return result;
    }
    tracing::warn!(
        "requests still running {:?} after shutdown was asked for are cut off",
        settings.drain_timeout
    );
    cut.send_replace(true);
    // Every connection wakes up with an error now; not waiting for ever all the same.
    tokio::time::timeout(Duration::from_secs(1), &mut server)
        .await
        .unwrap_or(Ok(()))
}
