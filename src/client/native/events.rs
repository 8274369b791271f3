//! What a server says of its chain as it happens: reason to look, and nothing else.
//!
//! Whoever listens also looks by himself now and then, so that a stream that lies, stalls, ends or is not there loses nothing:
//! what was missed is found a little later, what is made up costs a look. So nothing that comes is held against anything but
//! itself, faults are no errors, and the stream is asked for again, ever more seldom, for as long as anybody listens.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::super::http::Unheard;
use super::{NativeOracle, route};
use crate::BlockId;
use crate::wire::native::{Event, EventReader, write_cursor};

/// The media type of server-sent events.
const EVENT_STREAM: &str = "text/event-stream";

/// Longest time that a stream is left alone because the server asks for it.
const LONGEST_WAIT: Duration = Duration::from_secs(600);

/// Bytes that are read in one go before others get their turn, and the shortest time for so many. More than that is sent by
/// no chain, and waits.
const BYTES_AT_ONCE: usize = 1 << 20;
const BYTES_TIME: Duration = Duration::from_secs(1);

/// Least time between two lines of log about a stream that comes and goes.
const LINES_TIME: Duration = Duration::from_secs(600);

/// How a stream of events is dealt with.
#[derive(Debug, Clone)]
pub struct EventSettings {
    /// How long it may say nothing, not even that it is there, which servers do every 15 seconds.
    pub silence: Duration,
    /// Pause before it is asked for again; it doubles from try to try.
    pub first_pause: Duration,
    /// The longest such pause.
    pub longest_pause: Duration,
    /// A stream that held so long was a good one: pauses begin anew after it.
    pub steady_after: Duration,
}

impl Default for EventSettings {
    fn default() -> Self {
        Self {
            silence: Duration::from_secs(45),
            first_pause: Duration::from_millis(500),
            longest_pause: Duration::from_secs(60),
            steady_after: Duration::from_secs(60),
        }
    }
}

/// Listens to what a server says of its chain, and never returns. The first event is the tip as it is; whoever is heard again
/// after a break is asked what happened meanwhile.
///
/// Events are the server's word. None may come of what has happened, and some of what has not.
pub async fn follow_events(
    server: &NativeOracle,
    settings: EventSettings,
    mut told: impl FnMut(&Event) + Send,
) {
    let mut journal = Journal::default();
    let mut pause = settings.first_pause;
    let mut cursor = None;
    loop {
        let since = Instant::now();
        let heard = listen(
            server,
            settings.silence,
            &mut cursor,
            &mut told,
            &mut journal,
        );
        let Unheard {
            reason,
            is_passing,
            wait,
        } = heard.await;
        if !is_passing {
            // Perhaps what it was asked is what is wrong.
            cursor = None;
        }
        if since.elapsed() >= settings.steady_after {
            pause = settings.first_pause;
        }
        journal.lost(server, &reason);
        // All who listened to a server that ended are not to come back at once.
        let spread = pause.mul_f64(0.5 + secp256k1::rand::random::<f64>());
        let wait = wait.unwrap_or_default().min(LONGEST_WAIT);
        sleep(spread.max(wait)).await;
        pause = (pause * 2).min(settings.longest_pause);
    }
}

/// Listens to one answer, until it ends; why.
async fn listen(
    server: &NativeOracle,
    silence: Duration,
    cursor: &mut Option<BlockId>,
    told: &mut (impl FnMut(&Event) + Send),
    journal: &mut Journal,
) -> Unheard {
    let route = match cursor {
        Some(cursor) => route(&format!("events?cursor={}", write_cursor(cursor))),
        None => route("events"),
    };
    let over = |reason, is_passing| Unheard {
        reason,
        is_passing,
        wait: None,
    };
    let http = match server.teller().await {
        Ok(Some(http)) => http,
        // Files tell nobody when there are more of them.
        Ok(None) => std::future::pending().await,
        Err(error) => return over(error.to_string(), true),
    };
    let mut incoming = match http.listen(&route, EVENT_STREAM, silence).await {
        Ok(incoming) => incoming,
        Err(unheard) => return unheard,
    };
    let mut reader = EventReader::default();
    let (mut buffer, mut events) = (Vec::new(), Vec::new());
    let (mut since, mut bytes) = (Instant::now(), 0);
    loop {
        buffer.clear();
        match incoming.read(&mut buffer).await {
            Ok(true) => {}
            Ok(false) => return over("it ended".to_owned(), true),
            Err(reason) => return over(reason, true),
        }
        journal.heard(server);
        let taken = reader.take(&buffer, &mut events);
        for event in events.drain(..) {
            told(&event.event);
            *cursor = Some(event.cursor);
        }
        if let Err(what) = taken {
            return over(what, false);
        }
        bytes += buffer.len();
        if bytes >= BYTES_AT_ONCE {
            sleep(BYTES_TIME.saturating_sub(since.elapsed())).await;
            (since, bytes) = (Instant::now(), 0);
        }
    }
}

/// What the log says of a stream: whether there is one, and few lines of one that comes and goes.
#[derive(Default)]
struct Journal {
    /// Whether there is one, as was said last.
    is_there: Option<bool>,
    /// When it was said that there is none.
    lost_at: Option<Instant>,
}

impl Journal {
    fn heard(&mut self, server: &NativeOracle) {
        if self.is_there.replace(true) != Some(true) {
            tracing::info!("events: listening to {}", server.describe());
        }
    }

    fn lost(&mut self, server: &NativeOracle, reason: &str) {
        let server = server.describe();
        let is_old = |at: Instant| at.elapsed() >= LINES_TIME;
        if self.is_there == Some(false) || !self.lost_at.is_none_or(is_old) {
            tracing::debug!("events: none from {server} ({reason})");
            return;
        }
        tracing::info!(
            "events: none from {server} ({reason}); trying again, and looking at each interval meanwhile"
        );
        self.is_there = Some(false);
        self.lost_at = Some(Instant::now());
    }
}
