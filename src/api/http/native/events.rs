//! Server-sent events: what happens to the chain, for as long as a client listens.
//!
//! Each event follows from the cursor, the block at which the client is, and the chain as it is then: changes that are told
//! only wake the stream up. So a client that comes back with its cursor is told the same as one that never left, and a stream
//! holds no more than the blocks of one look.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::sse::{self, Sse};
use axum::response::{IntoResponse, Response};
use futures::Stream;
use futures::future::BoxFuture;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use super::{NativeError, Parameters, log, named};
use crate::BlockId;
use crate::api::connection::Traffic;
use crate::api::desk::{Desk, DeskError, Since};
use crate::api::http::Context;
use crate::api::http::access::traffic;
use crate::api::http::streams::StreamPlace;
use crate::store::Applied;
use crate::wire::native::{Event, read_cursor, write_cursor};

/// Most blocks that are told of one by one: a day of them.
const BLOCKS_MAX: u32 = 144;

pub(super) const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Says to proxies of one kind that each event is to be passed on at once.
pub(super) const NO_BUFFERING: (HeaderName, HeaderValue) = (
    HeaderName::from_static("x-accel-buffering"),
    HeaderValue::from_static("no"),
);

/// `GET /spindex/v1/events?cursor=`, or with `Last-Event-ID`; with `after` or `watch` it is the log of watches.
pub(super) async fn events(
    State(context): State<Context>,
    parameters: Parameters,
    request: Request,
) -> Response {
    let (parts, _) = request.into_parts();
    if log::is_of_log(&parameters) {
        return log::log(State(context), parameters, parts).await;
    }
    let headers = &parts.headers;
    match follow(&context, traffic(&parts), parameters, headers).await {
        Ok(follower) => {
            let mut response = Sse::new(stream(follower)).into_response();
            let (name, value) = NO_BUFFERING;
            response.headers_mut().insert(name, value);
            response
        }
        Err(error) => context.refuse(headers, &error),
    }
}

async fn follow(
    context: &Context,
    traffic: Option<&Traffic>,
    parameters: Parameters,
    headers: &HeaderMap,
) -> Result<Follower, NativeError> {
    let cursor = cursor(parameters, headers)?;
    // First of all, so that no change comes between.
    let changes = context.desk.subscribe();
    let status = context.desk.read(|reading| reading.status());
    let tip = status.await?.tip;
    let place = context.streams.take(traffic);
    let place = place.ok_or(NativeError::TooManyStreams)?;
    let desk = context.desk.clone();
    Ok(Follower::new(
        desk,
        changes,
        place,
        context.streams.heartbeat,
        cursor,
        tip,
    ))
}

/// Where the client is, if it says so. The header wins: a browser that comes back sends it to the address it was given.
fn cursor(parameters: Parameters, headers: &HeaderMap) -> Result<Option<BlockId>, NativeError> {
    let [parameter] = named(parameters, ["cursor"])?;
    let header = headers.get(LAST_EVENT_ID);
    let header = header.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let Some(text) = header.or(parameter) else {
        return Ok(None);
    };
    let bad =
        || NativeError::BadRequest("no cursor: give height and hash, as height:hash".to_owned());
    read_cursor(&text).map(Some).ok_or_else(bad)
}

/// A client that listens.
struct Follower {
    desk: Arc<Desk>,
    changes: broadcast::Receiver<Applied>,
    stopping: BoxFuture<'static, ()>,
    heartbeat: Interval,
    place: StreamPlace,
    /// The block that the client is at once it has taken what is in `ready`.
    cursor: BlockId,
    /// Whether more may have happened since.
    is_behind: bool,
    ready: VecDeque<Event>,
    is_ended: bool,
}

impl Follower {
    fn new(
        desk: Arc<Desk>,
        changes: broadcast::Receiver<Applied>,
        place: StreamPlace,
        heartbeat: Duration,
        cursor: Option<BlockId>,
        tip: BlockId,
    ) -> Self {
        let every = heartbeat.max(Duration::from_millis(1));
        let mut heartbeat = interval_at(Instant::now() + every, every);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let first = Event::Tip {
            block: tip,
            skipped: 0,
        };
        Self {
            desk,
            changes,
            stopping: Box::pin(place.stopping()),
            heartbeat,
            place,
            cursor: cursor.unwrap_or(tip),
            is_behind: true,
            ready: cursor.is_none().then_some(first).into_iter().collect(),
            is_ended: false,
        }
    }

    /// What is to be sent next; `None` at the end.
    async fn next(&mut self) -> Option<sse::Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return self.write(&event);
            }
            if self.is_ended {
                return None;
            }
            if self.is_behind {
                if let Err(error) = self.look().await {
                    error.log();
                    return None;
                }
                continue;
            }
            tokio::select! {
                biased;
                () = &mut self.stopping => return None,
                change = self.changes.recv() => match change {
                    Ok(_) => self.is_behind = true,
                    Err(RecvError::Lagged(missed)) => {
                        self.ready.push_back(Event::Lagged { missed });
                        self.is_ended = true;
                    }
                    Err(RecvError::Closed) => return None,
                },
                _ = self.heartbeat.tick() => {
                    // A line that says nothing.
                    return (!self.place.is_giving_way()).then(|| sse::Event::default().comment(""));
                }
            }
        }
    }

    /// Looks what happened since the cursor.
    async fn look(&mut self) -> Result<(), DeskError> {
        let cursor = self.cursor;
        let tip = |block, skipped| Event::Tip { block, skipped };
        self.is_behind = true;
        match self.desk.since(cursor, BLOCKS_MAX).await? {
            // Or it comes with the next change.
            Since::Nothing => self.is_behind = false,
            Since::Connected(blocks) => {
                self.ready
                    .extend(blocks.into_iter().map(|block| tip(block, 0)));
            }
            Since::ConnectedMany { tip: block, blocks } => {
                self.ready.push_back(tip(block, blocks.saturating_sub(1)));
            }
            Since::Reorganized {
                fork,
                disconnected,
                connected,
            } => self.ready.push_back(Event::Reorg {
                fork,
                disconnected,
                connected,
            }),
            Since::Unknown { tip } => self.ready.push_back(Event::Reset { cursor, tip }),
        }
        let last = self.ready.back().and_then(Event::cursor);
        self.cursor = last.unwrap_or(cursor);
        Ok(())
    }

    fn write(&self, event: &Event) -> Option<sse::Event> {
        let data = event.encode();
        // Of numbers and hashes alone, which can be written.
        let data = data.ok()?;
        let id = event.cursor().unwrap_or(self.cursor);
        let text = sse::Event::default().event(event.name()).data(data);
        Some(text.id(write_cursor(&id)))
    }
}

fn stream(follower: Follower) -> impl Stream<Item = Result<sse::Event, Infallible>> {
    futures::stream::unfold(follower, |mut follower| async {
        let event = follower.next().await?;
        Some((Ok(event), follower))
    })
}

#[cfg(test)]
mod tests;
