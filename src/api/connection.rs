//! Accepted connections with bounds: how many, how long silent, and a switch that cuts them all.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::serve::Listener;
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, Sleep, sleep, sleep_until};

/// Accepts while there is room.
pub(super) struct BoundedListener {
    listener: TcpListener,
    room: Arc<Semaphore>,
    silence_timeout: Duration,
    is_cut: watch::Receiver<bool>,
}

impl BoundedListener {
    /// `is_cut` turning true (or losing its sender) fails every read and write from then on.
    pub(super) fn new(
        listener: TcpListener,
        max_connections: usize,
        silence_timeout: Duration,
        is_cut: watch::Receiver<bool>,
    ) -> Self {
        Self {
            listener,
            room: Arc::new(Semaphore::new(
                max_connections.clamp(1, Semaphore::MAX_PERMITS),
            )),
            silence_timeout,
            is_cut,
        }
    }

    fn wrap(&self, stream: TcpStream, room: Option<OwnedSemaphorePermit>) -> Connection {
        // Answers are written in one go; waiting to fill a packet only adds delay.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!("TCP_NODELAY: {error}");
        }
        let mut is_cut = self.is_cut.clone();
        Connection {
            stream,
            silence_timeout: self.silence_timeout,
            silent_until: Box::pin(sleep_until(deadline(self.silence_timeout))),
            cut: async move {
                // An error means the server is gone, which is the same as cut.
                let _ = is_cut.wait_for(|cut| *cut).await;
            }
            .boxed(),
            is_closed: false,
            is_reading: false,
            _room: room,
        }
    }
}

/// A time so far away that adding to the clock overflows counts as never (a year).
fn deadline(timeout: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(timeout)
        .unwrap_or_else(|| now + Duration::from_secs(365 * 24 * 3600))
}

impl Listener for BoundedListener {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        // The semaphore is never closed.
        let room = self.room.clone().acquire_owned().await.ok();
        loop {
            match self.listener.accept().await {
                Ok((stream, address)) => return (self.wrap(stream, room), address),
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
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A TCP connection that fails once it is cut, or once it took no byte for the time allowed.
///
/// The clock restarts with every write and with the first bytes read after a write, not with further ones: a peer
/// that trickles a request in has the same time for all of it and the answer's start as an honest one.
pub(super) struct Connection {
    stream: TcpStream,
    silence_timeout: Duration,
    silent_until: Pin<Box<Sleep>>,
    cut: BoxFuture<'static, ()>,
    is_closed: bool,
    /// Whether bytes came in since the last write.
    is_reading: bool,
    _room: Option<OwnedSemaphorePermit>,
}

impl Connection {
    /// Ready with the reason once the connection must end.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        if !self.is_closed && self.cut.as_mut().poll(cx).is_ready() {
            self.is_closed = true;
        }
        if self.is_closed {
            return Poll::Ready(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "the server is stopping",
            ));
        }
        ready!(self.silent_until.as_mut().poll(cx));
        Poll::Ready(io::Error::new(
            io::ErrorKind::TimedOut,
            "the peer was silent for too long",
        ))
    }

    fn written(&mut self, result: io::Result<usize>) -> Poll<io::Result<usize>> {
        if matches!(result, Ok(count) if count > 0) {
            self.is_reading = false;
            self.restart_clock();
        }
        Poll::Ready(result)
    }

    fn restart_clock(&mut self) {
        let next = deadline(self.silence_timeout);
        self.silent_until.as_mut().reset(next);
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
        if buffer.filled().len() > before && !self.is_reading {
            self.is_reading = true;
            self.restart_clock();
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
