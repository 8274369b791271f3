//! Accepted connections with bounds: how many, for whom, how long they may take, and a switch that cuts them all.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use super::room::{Place, Room};
use super::traffic::{Activity, Peer};

/// What is said to a connection for which there is not even room to wait.
const NO_ROOM: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json; charset=utf-8\r\n\
    Retry-After: 5\r\nConnection: close\r\nContent-Length: 68\r\n\r\n\
    {\"error\":\"too many connections from your address, try again later\"}\n";

/// Accepts all, and serves those for whom there is room; others wait.
pub(super) struct BoundedListener {
    listener: TcpListener,
    room: Arc<Room>,
    /// Says that a place became free.
    freed: watch::Receiver<()>,
    /// In the order in which they came.
    waiting: VecDeque<(TcpStream, SocketAddr)>,
    max_waiting: usize,
    is_cut: watch::Receiver<bool>,
}

impl BoundedListener {
    /// `is_cut` turning true (or losing its sender) fails every read and write from then on.
    pub(super) fn new(
        listener: TcpListener,
        room: Arc<Room>,
        max_waiting: usize,
        is_cut: watch::Receiver<bool>,
    ) -> Self {
        Self {
            listener,
            freed: room.freed(),
            room,
            waiting: VecDeque::new(),
            max_waiting: max_waiting.max(1),
            is_cut,
        }
    }

    /// The first one that waits and can have a place; else when to look again, if anybody waits.
    fn admit(&mut self) -> Result<(Connection, SocketAddr), Option<Instant>> {
        let mut again: Option<Instant> = None;
        let mut turned_down = HashSet::new();
        for at in 0..self.waiting.len() {
            let Some((_, address)) = self.waiting.get(at) else {
                break;
            };
            let peer = Peer::from(*address);
            if turned_down.contains(&peer) {
                continue;
            }
            match self.room.take(peer) {
                Ok(place) => {
                    if let Some((stream, address)) = self.waiting.remove(at) {
                        return Ok((self.wrap(stream, place), address));
                    }
                }
                Err(next) => {
                    turned_down.insert(peer);
                    again = Some(again.map_or(next, |again| again.min(next)));
                }
            }
        }
        Err(again)
    }

    /// Lets go of those for whom there is no room to wait: the last of whoever has most of them.
    fn bound_waiting(&mut self) {
        while self.waiting.len() > self.max_waiting {
            let mut held: HashMap<Peer, usize> = HashMap::new();
            for (_, address) in &self.waiting {
                *held.entry((*address).into()).or_default() += 1;
            }
            let most = held.values().copied().max().unwrap_or_default();
            let last = self
                .waiting
                .iter()
                .rposition(|(_, address)| held.get(&(*address).into()) == Some(&most));
            if let Some((stream, address)) = last.and_then(|at| self.waiting.remove(at)) {
                tracing::debug!("no room for another connection from {address}");
                // What was sent is taken first: closing a socket with bytes unread takes the answer back.
                let _ = stream.try_read(&mut [0; 16 << 10]);
                let _ = stream.try_write(NO_ROOM);
            }
        }
    }

    fn wrap(&self, stream: TcpStream, place: Place) -> Connection {
        // Answers are written in one go; waiting to fill a packet only adds delay.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!("TCP_NODELAY: {error}");
        }
        let mut is_cut = self.is_cut.clone();
        Connection {
            stream,
            place,
            until: Box::pin(sleep_until(Instant::now())),
            cut: async move {
                // An error means the server is gone, which is the same as cut.
                let _ = is_cut.wait_for(|cut| *cut).await;
            }
            .boxed(),
            is_closed: false,
        }
    }
}

impl Listener for BoundedListener {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        loop {
            let again = match self.admit() {
                Ok(admitted) => return admitted,
                Err(again) => again,
            };
            let in_time = async {
                match again {
                    Some(again) => sleep_until(again).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok(accepted) => {
                        self.waiting.push_back(accepted);
                        self.bound_waiting();
                    }
                    // The peer gave up while waiting: its fault only.
                    Err(error)
                        if matches!(
                            error.kind(),
                            io::ErrorKind::ConnectionAborted
                                | io::ErrorKind::ConnectionRefused
                                | io::ErrorKind::ConnectionReset
                        ) => {}
                    Err(error) => {
                        tracing::warn!(
                            "cannot accept a connection: {error}; trying again in a second (out of \
                             file descriptors? lower the number of connections)"
                        );
                        sleep(Duration::from_secs(1)).await;
                    }
                },
                // The room is ours too, so the other end is there.
                _ = self.freed.changed() => {}
                () = in_time => {}
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A TCP connection that fails once it is cut, has to give way, or has taken too long.
pub(super) struct Connection {
    stream: TcpStream,
    place: Place,
    until: Pin<Box<Sleep>>,
    cut: BoxFuture<'static, ()>,
    is_closed: bool,
}

/// What handlers know of the connection that a request came by.
#[derive(Clone)]
pub(super) struct Traffic(pub(super) Arc<Activity>);

impl Connected<IncomingStream<'_, BoundedListener>> for Traffic {
    fn connect_info(stream: IncomingStream<'_, BoundedListener>) -> Self {
        Self(stream.io().place.activity.clone())
    }
}

impl Connection {
    /// Ready with the reason once the connection must end.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        if !self.is_closed && self.cut.as_mut().poll(cx).is_ready() {
            self.is_closed = true;
        }
        let ended = |kind, reason| Poll::Ready(io::Error::new(kind, reason));
        if self.is_closed {
            return ended(io::ErrorKind::ConnectionAborted, "the server is stopping");
        }
        let activity = &self.place.activity;
        if activity.is_giving_way(Some(cx.waker())) {
            return ended(
                io::ErrorKind::ConnectionAborted,
                "it was idle while another one waited for a place",
            );
        }
        // Nothing to wait for while a request is worked on: what ends that comes back here.
        let Some(deadline) = activity.deadline() else {
            return Poll::Pending;
        };
        if self.until.deadline() != deadline {
            self.until.as_mut().reset(deadline);
        }
        ready!(self.until.as_mut().poll(cx));
        ended(io::ErrorKind::TimedOut, "the peer took too long")
    }

    fn written(&self, result: io::Result<usize>) -> Poll<io::Result<usize>> {
        if let Ok(count) = result
            && count > 0
        {
            self.place.activity.sent(count);
        }
        Poll::Ready(result)
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // The end is asked for first: a peer that always has bytes ready must not outrun it.
        if let Poll::Ready(error) = self.poll_end(cx) {
            return Poll::Ready(Err(error));
        }
        let before = buffer.filled().len();
        let result = ready!(Pin::new(&mut self.stream).poll_read(cx, buffer));
        if buffer.filled().len() > before {
            self.place.activity.received();
        }
        Poll::Ready(result)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.stream).poll_write(cx, bytes) {
            Poll::Ready(result) => self.written(result),
            Poll::Pending => self.poll_end(cx).map(Err),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.stream).poll_write_vectored(cx, slices) {
            Poll::Ready(result) => self.written(result),
            Poll::Pending => self.poll_end(cx).map(Err),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
