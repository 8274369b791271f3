//! Streams of events as a test wants them, in front of a server's own.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use tokio::sync::watch;

/// How long a test waits for what it waits for; only reached by one that fails.
const PATIENCE: Duration = Duration::from_secs(120);

/// What becomes of a request for events.
#[derive(Debug, Clone)]
pub(crate) enum Telling {
    /// The server's own.
    Own,
    /// There is no such route.
    Absent,
    /// There is no place, and the server wants to be left alone for so many seconds.
    Busy(u64),
    /// A page for people.
    Page,
    /// No answer at all.
    Withheld,
    /// These bytes, and the end.
    Cut(Vec<u8>),
    /// These bytes, and then silence.
    Held(Vec<u8>),
    /// These bytes, again and again without an end.
    Endless(Vec<u8>),
}

/// Stands in front of the route of events.
#[derive(Clone)]
pub(crate) struct Teller(Arc<Inner>);

struct Inner {
    /// What comes next; the last one stays.
    tellings: Mutex<VecDeque<Telling>>,
    /// What was asked for.
    asked: watch::Sender<Vec<String>>,
    /// Changed to end the server's own streams.
    cuts: watch::Sender<()>,
}

impl Teller {
    pub(crate) fn new(tellings: impl IntoIterator<Item = Telling>) -> Self {
        Self(Arc::new(Inner {
            tellings: Mutex::new(tellings.into_iter().collect()),
            asked: watch::Sender::new(Vec::new()),
            cuts: watch::Sender::new(()),
        }))
    }

    /// Puts it around the routes of a server.
    pub(crate) fn around(&self, router: Router) -> Router {
        let teller = self.clone();
        router.layer(from_fn(move |request: Request, next: Next| {
            let teller = teller.clone();
            async move {
                match request.uri().path() == "/spindex/v1/events" {
                    true => teller.answer(request, next).await,
                    false => next.run(request).await,
                }
            }
        }))
    }

    /// Waits until events were asked for so often; what was asked each time.
    pub(crate) async fn asked(&self, times: usize) -> Vec<String> {
        let mut asked = self.0.asked.subscribe();
        let reached = asked.wait_for(|asked| asked.len() >= times);
        let reached = tokio::time::timeout(PATIENCE, reached).await;
        let asked = reached.expect("asked for less").expect("it is there");
        asked[..times].to_vec()
    }

    /// Ends the server's own streams that there are.
    pub(crate) fn cut(&self) {
        self.0.cuts.send_replace(());
    }

    fn next(&self) -> Telling {
        let mut tellings = self.0.tellings.lock().unwrap();
        match tellings.len() {
            1 => tellings[0].clone(),
            _ => tellings.pop_front().expect("something to tell"),
        }
    }

    async fn answer(&self, request: Request, next: Next) -> Response {
        let asked = request.uri().path_and_query().unwrap().to_string();
        let telling = self.next();
        self.0.asked.send_modify(|all| all.push(asked));
        let status = |status| Response::builder().status(status);
        let page = |builder: axum::http::response::Builder| {
            let page = builder.header(CONTENT_TYPE, "text/html; charset=utf-8");
            page.body(Body::from("<p>data: {}\n\n")).unwrap()
        };
        let pieces: BoxStream<'static, Bytes> = match telling {
            Telling::Own => {
                let mut cuts = self.0.cuts.subscribe();
                cuts.mark_unchanged();
                let (parts, body) = next.run(request).await.into_parts();
                let cut = async move { cuts.changed().await.unwrap_or_default() };
                let own = body.into_data_stream().take_until(Box::pin(cut));
                return Response::from_parts(parts, Body::from_stream(own));
            }
            Telling::Absent => return page(status(404)),
            Telling::Busy(seconds) => return page(status(503).header(RETRY_AFTER, seconds)),
            Telling::Page => return page(status(200)),
            Telling::Withheld => std::future::pending().await,
            Telling::Cut(bytes) => stream::iter([bytes.into()]).boxed(),
            Telling::Held(bytes) => stream::iter([bytes.into()])
                .chain(stream::pending())
                .boxed(),
            Telling::Endless(bytes) => stream::repeat(Bytes::from(bytes)).boxed(),
        };
        let body = Body::from_stream(pieces.map(Ok::<_, std::convert::Infallible>));
        let answer = status(200).header(CONTENT_TYPE, "text/event-stream");
        answer.body(body).unwrap()
    }
}
