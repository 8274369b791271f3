//! The stop flag that every long loop polls and every wait can be woken by, work that cannot be woken, and what the system grants
//! this process.

use std::time::Duration;

use futures::{Stream, StreamExt};
use tokio::sync::{oneshot, watch};

/// Runs blocking work on a thread of its own, which nobody waits for: whoever gives up this future leaves it to itself, and
/// it ends with the process if it has not before. `None` if it panicked, or no thread could be started.
pub async fn detached<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (done, result) = oneshot::channel();
    let work = move || drop(done.send(work()));
    std::thread::Builder::new().spawn(work).ok()?;
    result.await.ok()
}

/// How many files this process may have open at a time (`ulimit -n`); `None` where there is no limit, or none is known.
#[cfg(unix)]
pub fn open_files_limit() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current
}

/// How many files this process may have open at a time; not known on this system.
#[cfg(not(unix))]
pub fn open_files_limit() -> Option<u64> {
    None
}

/// A cheap, cloneable request to stop. Once set it stays set.
#[derive(Clone, Debug)]
pub struct Stop {
    sender: watch::Sender<bool>,
}

impl Stop {
    /// A flag that is not set.
    pub fn new() -> Self {
        Self {
            sender: watch::Sender::new(false),
        }
    }

    /// Asks everybody who holds a clone to finish.
    pub fn request(&self) {
        self.sender.send_replace(true);
    }

    /// Whether somebody asked to stop.
    pub fn is_requested(&self) -> bool {
        *self.sender.borrow()
    }

    /// Returns when somebody asks to stop.
    pub async fn requested(&self) {
        let mut receiver = self.sender.subscribe();
        // The sender lives as long as `self`, so waiting cannot fail.
        let _ = receiver.wait_for(|requested| *requested).await;
    }

    /// Does some work, unless the stop comes before it is done; then it is given up, and `None`.
    pub async fn unless<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            done = work => Some(done),
            () = self.requested() => None,
        }
    }

    /// Waits, but no longer than until the stop; false if it was asked for.
    pub async fn sleep(&self, duration: Duration) -> bool {
        tokio::select! {
            () = self.requested() => false,
            () = tokio::time::sleep(duration) => true,
        }
    }

    /// Sets the flag at the first SIGINT or SIGTERM; a later one ends the process at once with status 130. Those that come
    /// with the first, as from programs that send theirs to a process and to its group, are one with it.
    ///
    /// # Errors
    /// The operating system refuses to install a handler.
    pub fn on_signal(&self) -> std::io::Result<()> {
        let stop = self.clone();
        let signals = futures::stream::unfold(Signals::install()?, async |mut signals| {
            signals.next().await;
            Some(((), signals))
        });
        tokio::spawn(async move {
            stop.obey(signals).await;
            std::process::exit(130);
        });
        Ok(())
    }

    /// Sets the flag at the first signal, and returns at one that comes later.
    async fn obey(&self, signals: impl Stream<Item = ()>) {
        let mut signals = std::pin::pin!(signals);
        signals.next().await;
        tracing::info!("stopping; a second signal stops at once");
        self.request();
        let together = async { while signals.next().await.is_some() {} };
        // The time is over, or no signal can come any more.
        let _ = tokio::time::timeout(TOGETHER, together).await;
        signals.next().await;
    }
}

/// Signals are one if they come within this time of the first.
const TOGETHER: Duration = Duration::from_millis(500);

impl Default for Stop {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(unix)]
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn install() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn install() -> std::io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::channel::mpsc::unbounded;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn signals_that_come_together_are_one() {
        let (signals, received) = unbounded();
        let stop = Stop::new();
        let obeying = stop.clone();
        let mut obeyed = tokio::spawn(async move { obeying.obey(received).await });
        assert!(!stop.is_requested());
        for _ in 0..3 {
            signals.unbounded_send(()).unwrap();
        }
        stop.requested().await;
        let long = tokio::time::timeout(Duration::from_secs(3600), &mut obeyed);
        assert!(long.await.is_err(), "the process would have ended");
        signals.unbounded_send(()).unwrap();
        obeyed.await.unwrap();
    }
}
