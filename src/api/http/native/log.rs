//! The log of what happened to watches: page by page, and as server-sent events that go on.
//!
//! A stream takes from the log as it is taken from: what waits for a slow reader are the events of one look, whatever it is behind.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::http::request::Parts;
use axum::http::{HeaderValue, header};
use axum::response::sse::{self, Sse};
use axum::response::{IntoResponse, Response};
use futures::Stream;
use futures::future::BoxFuture;
use tokio::sync::watch;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use super::events::{LAST_EVENT_ID, NO_BUFFERING};
use super::watches::{admit, long, page_limit, private};
use super::{NativeError, Parameters, encoded, named};
use crate::api::desk::{Bearer, Credential, Desk, DeskError, WatchingError};
use crate::api::http::Context;
use crate::api::http::access::{credential, traffic};
use crate::api::http::streams::StreamPlace;
use crate::watch::WatchError;
use crate::watch::feed::{Listener, Selection};
use crate::wire::native::{EVENTS_PAGE_MAX, EventPage, LogCut, Scope};

/// Most watches that one request names.
const WATCHES_NAMED_MAX: usize = 1_000;

/// Whether a request to `/events` is about the log, and not about the chain.
pub(super) fn is_of_log(parameters: &Parameters) -> bool {
    let Ok(axum::extract::Query(parameters)) = parameters else {
        return false;
    };
    let mut names = parameters.iter().map(|(name, _)| name.as_str());
    names.any(|name| matches!(name, "after" | "watch"))
}

/// `GET /spindex/v1/events?after=&watch=&limit=`.
pub(super) async fn log(context: State<Context>, parameters: Parameters, parts: Parts) -> Response {
    let State(context) = context;
    let answer = async {
        let bearer = admit(&context, &parts, Scope::Read).await?;
        let [after, watch, limit] = named(parameters, ["after", "watch", "limit"])?;
        let selection = Selection {
            owner: Some(bearer.owner),
            watches: watch.map(|names| watches(&names)).transpose()?,
        };
        match wants_stream(&parts) {
            true => {
                if limit.is_some() {
                    let text = "limit is for pages: a stream has none";
                    return Err(NativeError::BadRequest(text.to_owned()));
                }
                let after = last_event_id(&parts)?.or(after);
                let after = cursor(&context, after).await?;
                let follower = follow(&context, &parts, &bearer, after, selection).await?;
                Ok(Answer::Stream(Box::new(follower)))
            }
            false => {
                let most = page_limit(limit, EVENTS_PAGE_MAX)?;
                let after = cursor(&context, after).await?;
                Ok(Answer::Page(page(&context, after, selection, most).await?))
            }
        }
    };
    match answer.await {
        Ok(Answer::Page(page)) => private(&context, &parts.headers, encoded(page.encode())),
        Ok(Answer::Stream(follower)) => {
            let mut response = Sse::new(stream(*follower)).into_response();
            let headers = response.headers_mut();
            let (name, value) = NO_BUFFERING;
            headers.insert(name, value);
            let no_store = HeaderValue::from_static("private, no-store");
            headers.insert(header::CACHE_CONTROL, no_store);
            response
        }
        Err(error) => private(&context, &parts.headers, Err(error)),
    }
}

enum Answer {
    Page(EventPage),
    Stream(Box<Follower>),
}

fn wants_stream(parts: &Parts) -> bool {
    let accept = parts.headers.get_all(header::ACCEPT).iter();
    let mut accept = accept.filter_map(|value| value.to_str().ok());
    accept.any(|value| {
        let mut types = value.split(',').map(|text| text.split(';').next());
        types.any(|text| {
            text.is_some_and(|text| text.trim().eq_ignore_ascii_case("text/event-stream"))
        })
    })
}

fn last_event_id(parts: &Parts) -> Result<Option<String>, NativeError> {
    let Some(value) = parts.headers.get(LAST_EVENT_ID) else {
        return Ok(None);
    };
    let bad = || NativeError::BadRequest("Last-Event-ID is no cursor of the log".to_owned());
    value
        .to_str()
        .map(|text| Some(text.to_owned()))
        .map_err(|_| bad())
}

/// Numbers of watches, joined by commas.
fn watches(names: &str) -> Result<std::collections::HashSet<u64>, NativeError> {
    let numbers = names.split(',').map(|name| long("watch", name));
    let numbers = numbers.collect::<Result<Vec<_>, _>>()?;
    match numbers.len() {
        0..=WATCHES_NAMED_MAX => Ok(numbers.into_iter().collect()),
        found => Err(NativeError::BadRequest(format!(
            "{found} watches are named: name {WATCHES_NAMED_MAX} at most"
        ))),
    }
}

/// Where to go on from: a cursor, or `last`. Whoever has taken none has missed none, whatever was cut off.
async fn cursor(context: &Context, after: Option<String>) -> Result<u64, NativeError> {
    let missing = || {
        NativeError::BadRequest(
            "give after: the cursor of the last event that was taken, 0 for all that there are, or last".to_owned(),
        )
    };
    let feed = context.desk.watching()?.feed();
    match after.ok_or_else(missing)?.as_str() {
        "last" => Ok(feed.last()),
        "0" => {
            let first = context.desk.first_event().await?;
            Ok(first.map_or_else(|| feed.last(), |first| first.saturating_sub(1)))
        }
        number => long("after", number),
    }
}

async fn page(
    context: &Context,
    after: u64,
    selection: Selection,
    most: usize,
) -> Result<EventPage, NativeError> {
    let feed = context.desk.watching()?.feed();
    let batch = feed.page(after, selection, most).await?;
    let events = batch.entries.iter().map(|entry| entry.event.clone());
    Ok(EventPage {
        events: events.collect(),
        cursor: batch.cursor,
        first: batch.first,
        last: batch.last,
    })
}

async fn follow(
    context: &Context,
    parts: &Parts,
    bearer: &Bearer,
    after: u64,
    selection: Selection,
) -> Result<Follower, NativeError> {
    let watching = context.desk.watching()?;
    let place = context.streams.take_for(traffic(parts), bearer);
    let place = place.ok_or(NativeError::TooManyStreams)?;
    if after < watching.feed().last() {
        // Whether what is asked for is there; said in the answer, where it can be understood.
        let any = Selection::default();
        watching.feed().page(after, any, 1).await?;
    }
    let listener = watching.feed().listen(after, selection)?;
    let every = context.streams.heartbeat.max(Duration::from_millis(1));
    let mut heartbeat = interval_at(Instant::now() + every, every);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    Ok(Follower {
        stopping: Box::pin(place.stopping()),
        place,
        listener,
        heartbeat,
        tokens: watching.token_changes(),
        credential: credential(parts),
        desk: context.desk.clone(),
        is_ended: false,
    })
}

/// A client that listens.
struct Follower {
    desk: std::sync::Arc<Desk>,
    listener: Listener,
    stopping: BoxFuture<'static, ()>,
    heartbeat: Interval,
    place: StreamPlace,
    tokens: watch::Receiver<u64>,
    credential: Credential,
    is_ended: bool,
}

impl Follower {
    /// What is to be sent next; `None` at the end.
    async fn next(&mut self) -> Option<sse::Event> {
        if self.is_ended {
            return None;
        }
        loop {
            tokio::select! {
                biased;
                () = &mut self.stopping => return None,
                changed = self.tokens.changed() => {
                    changed.ok()?;
                    let credential = self.credential.clone();
                    self.desk.admit(credential, Scope::Read).await.ok()?;
                }
                entry = self.listener.next() => return match entry {
                    Ok(entry) => {
                        let text = sse::Event::default().event(entry.event.what.name());
                        let text = text.data(&*entry.text().ok()?);
                        Some(text.id(entry.cursor().to_string()))
                    }
                    Err(error) => self.end(error),
                },
                _ = self.heartbeat.tick() => {
                    // The cursor goes on with events that are not told, too.
                    let cursor = self.listener.cursor().to_string();
                    let beat = || sse::Event::default().comment("").id(cursor);
                    return (!self.place.is_giving_way()).then(beat);
                }
            }
        }
    }

    /// The last words.
    fn end(&mut self, error: WatchError) -> Option<sse::Event> {
        self.is_ended = true;
        match error {
            WatchError::Cut { after, first } => {
                let cut = LogCut { after, first };
                let data = cut.encode().ok()?;
                Some(sse::Event::default().event(LogCut::NAME).data(data))
            }
            WatchError::Store(error) => {
                DeskError::from(error).log();
                None
            }
            error => {
                DeskError::Internal(error.to_string()).log();
                None
            }
        }
    }
}

fn stream(follower: Follower) -> impl Stream<Item = Result<sse::Event, Infallible>> {
    futures::stream::unfold(follower, |mut follower| async {
        let event = follower.next().await?;
        Some((Ok(event), follower))
    })
}

impl From<WatchError> for NativeError {
    fn from(error: WatchError) -> Self {
        WatchingError::from(error).into()
    }
}
