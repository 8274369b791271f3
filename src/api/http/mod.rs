//! HTTP: the router, and what all dialects over it share: frame, compression, kept answers, refusals.

mod access;
mod answers;
mod encoding;
mod frame;
mod native;
mod outgoing;
mod streams;
mod v1;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::handler::Handler;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, any};
use tokio::sync::watch;

use super::ServeSettings;
use super::desk::{BlockReading, Desk, DeskError, Reading};
use answers::{Answers, Encoded, Question};
use outgoing::Outgoing;
use streams::Streams;
use v1::{HeightPath, Receiver, V1Error};

const JSON: HeaderValue = HeaderValue::from_static("application/json; charset=utf-8");
const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");
const GZIP: HeaderValue = HeaderValue::from_static("gzip");

/// The version 1 routes at the root and under `/v1`, beside them the native ones, with default bounds. Answers that are streams
/// go on when what came of them has been dropped.
pub fn router(desk: Arc<Desk>) -> Router {
    router_with(desk, &ServeSettings::default())
}

/// [`router`] with other bounds.
pub fn router_with(desk: Arc<Desk>, settings: &ServeSettings) -> Router {
    router_until(desk, settings, None)
}

/// [`router_with`] that ends what goes on for ever when `is_stopping` turns true.
pub(super) fn router_until(
    desk: Arc<Desk>,
    settings: &ServeSettings,
    is_stopping: Option<watch::Receiver<bool>>,
) -> Router {
    let context = Context {
        streams: Arc::new(Streams::new(settings, is_stopping)),
        receiver: Arc::new(Receiver::new(settings.body_timeout)),
        answers: Arc::new(Answers::new(settings.kept_answer_bytes, desk.horizon())),
        chunk_room: Outgoing::for_chunks(settings),
        range_room: Outgoing::for_ranges(settings),
        desk,
    };
    let mut router = Router::new();
    for prefix in ["", "/v1"] {
        for route in v1::routes() {
            let path = format!("{prefix}{}", route.path);
            let with_slash = format!("{path}/");
            router = router
                .route(&path, route.handler)
                .route(&with_slash, route.redirects);
        }
    }
    for route in native::routes() {
        let path = format!("{}{}", crate::wire::native::PREFIX, route.path);
        let with_slash = format!("{path}/");
        router = router
            .route(&path, route.handler)
            .route(&with_slash, route.redirects);
    }
    router
        .fallback(not_found)
        .with_state(context)
        .layer(middleware::from_fn(frame::frame))
}

/// A path, its handler, and the handler of the path with a slash at its end.
struct Route {
    path: &'static str,
    handler: MethodRouter<Context>,
    redirects: MethodRouter<Context>,
}

impl Route {
    fn get(path: &'static str, handler: MethodRouter<Context>) -> Self {
        Self {
            path,
            handler,
            redirects: on_get(redirect_get),
        }
    }

    fn post(path: &'static str, handler: MethodRouter<Context>) -> Self {
        Self {
            path,
            handler,
            redirects: on_post(redirect_post),
        }
    }
}

/// GET alone; the router by itself would answer HEAD too and other methods with 405.
fn on_get<T: 'static>(handler: impl Handler<T, Context>) -> MethodRouter<Context> {
    any(not_found).get(handler).head(not_found)
}

/// DELETE alone.
fn on_delete<T: 'static>(handler: impl Handler<T, Context>) -> MethodRouter<Context> {
    any(not_found).delete(handler)
}

/// POST alone.
fn on_post<T: 'static>(handler: impl Handler<T, Context>) -> MethodRouter<Context> {
    any(not_found).post(handler)
}

/// How a dialect says no.
trait Refusal: From<DeskError> + Send + 'static {
    /// The HTTP status.
    fn status(&self) -> StatusCode;

    /// When it may be different, where that is a matter of time alone.
    fn retry_after(&self) -> Option<Duration>;

    /// JSON for the peer.
    fn body(&self) -> Vec<u8>;

    /// Logs what is no peer's fault, with its detail.
    fn log(&self);
}

/// What handlers answer from.
#[derive(Clone)]
struct Context {
    desk: Arc<Desk>,
    receiver: Arc<Receiver>,
    answers: Arc<Answers>,
    streams: Arc<Streams>,
    chunk_room: Outgoing,
    range_room: Outgoing,
}

impl Context {
    /// The JSON that `encode` makes of one commit, kept for the next one who asks; or the refusal.
    async fn answer<E: Refusal>(
        &self,
        headers: &HeaderMap,
        question: Question,
        encode: impl FnOnce(&Reading<'_>) -> Result<Vec<u8>, E> + Send + 'static,
    ) -> Response {
        let is_gzip = encoding::wants_gzip(headers);
        let stamp = self.desk.stamp();
        // Compression too is work for another thread.
        let encoded = self.desk.read(move |reading| {
            let body = encode(reading)?;
            Ok(Encoded::new(body, is_gzip)?)
        });
        let answer = self
            .answers
            .get(question, stamp, headers, is_gzip, encoded)
            .await;
        answer.unwrap_or_else(|error: E| self.refuse(headers, &error))
    }

    /// As [`answer`](Self::answer), of the block at the height in a path.
    async fn answer_of(
        &self,
        headers: &HeaderMap,
        height: HeightPath,
        question: impl FnOnce(u32) -> Question,
        encode: impl FnOnce(&BlockReading<'_>) -> Result<Vec<u8>, V1Error> + Send + 'static,
    ) -> Response {
        match v1::height(height) {
            Ok(height) => {
                let encode = move |reading: &Reading<'_>| encode(&reading.block(height)?);
                self.answer(headers, question(height), encode).await
            }
            Err(error) => self.refuse(headers, &error),
        }
    }

    /// As [`answer`](Self::answer), of what `find` gets from elsewhere. That is never waited for in line: if it fails after a
    /// long time, each in line would otherwise wait for all before it, one after the other.
    async fn answer_found<T: Send + 'static, E: Refusal>(
        &self,
        headers: &HeaderMap,
        question: Question,
        find: impl Future<Output = Result<T, E>>,
        encode: impl FnOnce(T) -> Result<Vec<u8>, E> + Send + 'static,
    ) -> Response {
        let is_gzip = encoding::wants_gzip(headers);
        let stamp = self.desk.stamp();
        if let Some(answer) = self.answers.kept(question, stamp, headers, is_gzip) {
            return answer;
        }
        let answer = async {
            let found = find.await?;
            let encoded = async {
                let work = move || Ok(Encoded::new(encode(found)?, is_gzip)?);
                let encoded = tokio::task::spawn_blocking(work).await;
                encoded.map_err(|error| E::from(DeskError::Internal(error.to_string())))?
            };
            self.answers
                .get(question, stamp, headers, is_gzip, encoded)
                .await
        };
        let answer = answer.await;
        answer.unwrap_or_else(|error: E| self.refuse(headers, &error))
    }

    /// An error, unless the height before it has a worse one.
    async fn refuse_at(&self, headers: &HeaderMap, height: HeightPath, error: V1Error) -> Response {
        let looked_up = match v1::height(height) {
            Ok(height) => {
                self.desk
                    .read(move |reading| {
                        reading.block(height)?;
                        Ok::<_, V1Error>(())
                    })
                    .await
            }
            Err(error) => Err(error),
        };
        self.refuse(headers, &looked_up.err().unwrap_or(error))
    }

    /// A JSON answer from encoded bytes that nobody else will ask for. They are few.
    fn json(&self, headers: &HeaderMap, status: StatusCode, body: Vec<u8>) -> Response {
        let zipped = match encoding::wants_gzip(headers) {
            true => encoding::gzip(&body).ok(),
            false => None,
        };
        let is_gzip = zipped.is_some();
        let mut response = Response::new(Body::from(Bytes::from(zipped.unwrap_or(body))));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, JSON);
        if is_gzip {
            headers.insert(header::CONTENT_ENCODING, GZIP);
        }
        response
    }

    /// An error as an object, which parses as none of the answers.
    fn refuse(&self, headers: &HeaderMap, error: &impl Refusal) -> Response {
        error.log();
        let mut response = self.json(headers, error.status(), error.body());
        if error.status() == StatusCode::UNAUTHORIZED {
            let headers = response.headers_mut();
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(wait) = error.retry_after() {
            let headers = response.headers_mut();
            headers.insert(header::RETRY_AFTER, HeaderValue::from(wait.as_secs()));
        }
        response
    }
}

/// For unknown paths, and for known paths with another method.
async fn not_found() -> Response {
    (StatusCode::NOT_FOUND, "404 page not found").into_response()
}

async fn redirect_get(uri: Uri) -> Response {
    redirect(StatusCode::MOVED_PERMANENTLY, &uri)
}

/// 308 would be kept for ever by browsers, 301 turns a POST into a GET.
async fn redirect_post(uri: Uri) -> Response {
    redirect(StatusCode::TEMPORARY_REDIRECT, &uri)
}

/// To the same path without its slash at the end, query kept.
fn redirect(status: StatusCode, uri: &Uri) -> Response {
    let path = uri.path();
    let mut target = path.strip_suffix('/').unwrap_or(path).to_owned();
    if let Some(query) = uri.query() {
        target.push('?');
        target.push_str(query);
    }
    (status, [(header::LOCATION, target)]).into_response()
}

#[cfg(test)]
mod hanging_find;
