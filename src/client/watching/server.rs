//! A server's watches and its log: registered, listed, removed; read by cursor, and followed.
//!
//! The log is read in pages, each behind the cursor of the one before, so that nothing is missed or taken twice, however often a
//! connection breaks. The server's stream of events is reason to ask for the next page, and nothing else: a stream that lies,
//! stalls or is not there costs time, as pages are asked for at each interval all the same.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use reqwest::Method;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};

use super::super::http::Unheard;
use super::super::{HttpOracle, Oracle, OracleError};
use crate::wire::native::{
    Code, EventPage, PREFIX, REGISTRATIONS_MAX, Registered, Registration, Removal, WatchEvent,
    WatchPage,
};

/// The media type of server-sent events.
const EVENT_STREAM: &str = "text/event-stream";

/// Longest body of a page of watches or events, or of an answer to registrations.
pub(super) const PAGE_BYTES: usize = 8 << 20;

/// Longest time that a stream is left alone because the server asks for it.
const LONGEST_WAIT: Duration = Duration::from_secs(600);

/// A stream that held so long was a good one: pauses begin anew after it.
const STEADY_AFTER: Duration = Duration::from_secs(60);

/// How a log is followed.
#[derive(Debug, Clone)]
pub struct FollowSettings {
    /// The watch whose events are wanted; all of the caller's without one.
    pub watch: Option<u64>,
    /// The longest time between two looks, whatever the stream says.
    pub interval: Duration,
    /// How long a stream may say nothing, not even that it is there, which servers do every 15 seconds.
    pub silence: Duration,
    /// Pause before a stream is asked for again; it doubles from try to try.
    pub first_pause: Duration,
    /// The longest such pause.
    pub longest_pause: Duration,
}

impl Default for FollowSettings {
    fn default() -> Self {
        Self {
            watch: None,
            interval: Duration::from_secs(10),
            silence: Duration::from_secs(45),
            first_pause: Duration::from_millis(500),
            longest_pause: Duration::from_secs(60),
        }
    }
}

/// Why a log cannot be followed from a cursor on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FollowError {
    /// The server does not answer as it should.
    #[error(transparent)]
    Oracle(#[from] OracleError),
    /// Events were cut off the log that were not taken yet.
    #[error(
        "the events behind {after} are not in the log of the server any more, which begins with {first}: read the state of the watches anew, and follow from {first} on"
    )]
    Cut {
        /// The cursor behind which they stood.
        after: u64,
        /// The first one that there is.
        first: u64,
    },
    /// The log ends before the cursor: it is another one.
    #[error(
        "the log of the server ends with event {last}, and {after} was taken of it before: it is another log"
    )]
    Another {
        /// The cursor.
        after: u64,
        /// The last one there is.
        last: u64,
    },
}

/// A server that watches.
pub struct WatchServer {
    pub(super) http: Arc<HttpOracle>,
}

impl WatchServer {
    /// The server behind an address; what it lets the caller do hangs on the token in the settings of that.
    pub fn new(http: Arc<HttpOracle>) -> Self {
        Self { http }
    }

    /// Its name, for logs and errors. No credentials.
    pub fn describe(&self) -> String {
        self.http.describe()
    }

    /// Registers watches, all or none, [`REGISTRATIONS_MAX`] at most; those that there are already stay as they are.
    ///
    /// # Errors
    /// [`OracleError::Declined`] if the server refuses; as all of [`Oracle`].
    pub async fn register(
        &self,
        registrations: &[Registration],
    ) -> Result<Vec<Registered>, OracleError> {
        let found = registrations.len();
        if found > REGISTRATIONS_MAX {
            return Err(OracleError::Setup(format!(
                "{found} watches: register {REGISTRATIONS_MAX} at most at a time"
            )));
        }
        let body = Registration::encode_all(registrations).map_err(OracleError::Setup)?;
        let route = route("watches");
        let answer = self
            .http
            .send(Method::POST, &route, body, PAGE_BYTES)
            .await?;
        Registered::decode_all(&answer.body, found).map_err(|what| answer.malformed(what))
    }

    /// A page of the watches, those from a number on.
    ///
    /// # Errors
    /// As all of [`Oracle`].
    pub async fn watches(&self, from: u64) -> Result<WatchPage, OracleError> {
        let route = route(&format!("watches?from={from}"));
        let answer = self.http.get(&route, PAGE_BYTES).await?;
        WatchPage::decode(&answer.body).map_err(|what| answer.malformed(what))
    }

    /// Removes watches; gives those that were there.
    ///
    /// # Errors
    /// As all of [`Oracle`].
    pub async fn remove(&self, watches: &[u64]) -> Result<Vec<u64>, OracleError> {
        let watches = watches.to_vec();
        let body = Removal { watches }.encode().map_err(OracleError::Setup)?;
        let route = route("watches");
        let answer = self
            .http
            .send(Method::DELETE, &route, body, PAGE_BYTES)
            .await?;
        let removed = Removal::decode(&answer.body).map_err(|what| answer.malformed(what))?;
        Ok(removed.watches)
    }

    /// The events behind a cursor, as many as one page has.
    ///
    /// # Errors
    /// As all of [`Oracle`].
    pub async fn events(&self, after: u64, watch: Option<u64>) -> Result<EventPage, OracleError> {
        let answer = self.http.get(&log_route(after, watch), PAGE_BYTES).await?;
        EventPage::decode(&answer.body, after).map_err(|what| answer.malformed(what))
    }

    /// Follows the log from a cursor on: hands over the events behind it in their order, with the cursor to go on from, until
    /// `take` breaks off. A server that does not answer is waited for, which the log says.
    ///
    /// # Errors
    /// [`FollowError::Cut`] and [`FollowError::Another`]; an answer that another attempt would not change.
    pub async fn follow(
        &self,
        mut after: u64,
        settings: &FollowSettings,
        mut take: impl FnMut(Vec<WatchEvent>, u64) -> ControlFlow<()>,
    ) -> Result<(), FollowError> {
        let woken = Notify::new();
        let cursor = tokio::sync::watch::Sender::new(after);
        let listening = self.listen_always(settings, &cursor, &woken);
        let reading = async {
            loop {
                if let Some(page) = self.page(after, settings).await? {
                    after = page.cursor;
                    cursor.send_replace(after);
                    let more = page.cursor < page.last;
                    if take(page.events, after).is_break() {
                        return Ok(());
                    }
                    if more {
                        continue;
                    }
                }
                // Woken, or it is time.
                let _ = timeout(settings.interval, woken.notified()).await;
            }
        };
        tokio::select! {
            ended = reading => ended,
            () = listening => Ok(()),
        }
    }

    /// The next page; `None` while the server does not answer.
    async fn page(
        &self,
        after: u64,
        settings: &FollowSettings,
    ) -> Result<Option<EventPage>, FollowError> {
        match self.page_behind(after, settings.watch).await {
            Err(FollowError::Oracle(
                error @ (OracleError::Unreachable { .. } | OracleError::Busy { .. }),
            )) => {
                tracing::warn!("{error}");
                Ok(None)
            }
            page => page.map(Some),
        }
    }

    /// The page behind a cursor, if nothing was cut off in between.
    ///
    /// # Errors
    /// [`FollowError`].
    pub async fn page_behind(
        &self,
        after: u64,
        watch: Option<u64>,
    ) -> Result<EventPage, FollowError> {
        let page = match self.events(after, watch).await {
            // Why it has none behind this one, the ends of its log say.
            Err(
                declined @ OracleError::Declined {
                    code: Code::Cut | Code::BadRequest,
                    ..
                },
            ) if after > 0 => {
                let kept = self.events(0, watch).await?;
                return Err(missed(after, &kept).unwrap_or(declined.into()));
            }
            page => page?,
        };
        match missed(after, &page) {
            Some(error) => Err(error),
            None => Ok(page),
        }
    }

    /// Listens for as long as anybody waits, and wakes whoever does when something comes.
    async fn listen_always(
        &self,
        settings: &FollowSettings,
        cursor: &tokio::sync::watch::Sender<u64>,
        woken: &Notify,
    ) {
        let mut pause = settings.first_pause;
        loop {
            let since = Instant::now();
            let after = *cursor.borrow();
            let route = log_route(after, settings.watch);
            let heard = self.listen(&route, settings.silence, woken);
            let Unheard { reason, wait, .. } = heard.await;
            tracing::debug!("events: none from {} ({reason})", self.describe());
            if since.elapsed() >= STEADY_AFTER {
                pause = settings.first_pause;
            }
            // What came since is looked for, not waited for.
            woken.notify_one();
            let spread = pause.mul_f64(0.5 + secp256k1::rand::random::<f64>());
            sleep(spread.max(wait.unwrap_or_default().min(LONGEST_WAIT))).await;
            pause = (pause * 2).min(settings.longest_pause);
        }
    }

    async fn listen(&self, route: &str, silence: Duration, woken: &Notify) -> Unheard {
        let over = |reason| Unheard {
            reason,
            is_passing: true,
            wait: None,
        };
        let mut incoming = match self.http.listen(route, EVENT_STREAM, silence).await {
            Ok(incoming) => incoming,
            Err(unheard) => return unheard,
        };
        let mut buffer = Vec::new();
        loop {
            buffer.clear();
            match incoming.read(&mut buffer).await {
                Ok(true) => {}
                Ok(false) => return over("it ended".to_owned()),
                Err(reason) => return over(reason),
            }
            // Comments say that it is there, and no more.
            if buffer.iter().any(|byte| !b":\r\n ".contains(byte)) {
                woken.notify_one();
            }
        }
    }
}

/// Why a log with the ends that a page names cannot be followed from a cursor on, if it cannot.
fn missed(after: u64, page: &EventPage) -> Option<FollowError> {
    let last = page.last;
    // Of a log without events the next one will be the first.
    let first = page.first.unwrap_or(last.saturating_add(1));
    match () {
        () if last < after => Some(FollowError::Another { after, last }),
        () if after > 0 && first > after.saturating_add(1) => {
            Some(FollowError::Cut { after, first })
        }
        () => None,
    }
}

/// Below the base address of the server.
pub(super) fn route(of: &str) -> String {
    format!("{}/{of}", PREFIX.trim_start_matches('/'))
}

fn log_route(after: u64, watch: Option<u64>) -> String {
    let of_watch = watch.map_or(String::new(), |watch| format!("&watch={watch}"));
    route(&format!("events?after={after}{of_watch}"))
}
