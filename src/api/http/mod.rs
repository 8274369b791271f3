//! HTTP: the router, what all routes share (frame, compression, limits), and a file per group of routes.

mod body;
mod forward;
mod frame;
mod native;
mod receive;
mod v1;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::handler::Handler;
use axum::http::{HeaderValue, StatusCode, Uri, header};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, any};
use tokio::sync::Semaphore;
use tower_http::CompressionLevel;
use tower_http::compression::{CompressionLayer, predicate::SizeAbove};

use receive::Receiver;

use super::error::QueryError;
use super::spends::SpendAnswers;
use super::{ApiState, ServeSettings};
use crate::curve::Engine;
use crate::store::Snapshot;

/// The version 1 routes at the root and under `/v1`, beside them the native ones, with default bounds.
pub fn router(state: ApiState) -> Router {
    router_with(state, &ServeSettings::default())
}

/// [`router`] with other bounds.
pub fn router_with(state: ApiState, settings: &ServeSettings) -> Router {
    let context = Context {
        api: state,
        working: Arc::new(Semaphore::new(
            settings.max_working.clamp(1, Semaphore::MAX_PERMITS),
        )),
        receiver: Arc::new(Receiver::new(settings.body_timeout)),
        forwarding: Arc::new(Semaphore::new(forward::MAX_FORWARDING)),
        spends: Arc::new(SpendAnswers::new()),
        node_timeout: settings.node_timeout,
        engine: settings.engine.clone(),
    };
    let mut router = Router::new();
    for prefix in ["", "/v1"] {
        for (path, handler, redirects) in routes() {
            let path = format!("{prefix}{path}");
            let with_slash = format!("{path}/");
            router = router.route(&path, handler).route(&with_slash, redirects);
        }
    }
    // Slow levels gain two percent on hex and cost three times the work.
    let compression = CompressionLayer::new()
        .quality(CompressionLevel::Fastest)
        .compress_when(SizeAbove::new(1));
    router
        .fallback(not_found)
        .with_state(context)
        .layer(compression)
        .layer(middleware::from_fn(frame::frame))
}

/// Path, handler, and handler of the path with a slash at its end.
fn routes() -> Vec<(&'static str, MethodRouter<Context>, MethodRouter<Context>)> {
    let get = |path, handler| (path, handler, on_get(redirect_get));
    let post = |path, handler| (path, handler, on_post(redirect_post));
    vec![
        get("/info", on_get(v1::info)),
        get("/block-height", on_get(v1::block_height)),
        get("/block-hash/{height}", on_get(v1::block_hash)),
        get("/tweaks/{height}", on_get(v1::tweaks)),
        get("/tweak-index/{height}", on_get(v1::tweak_index)),
        get("/utxos/{height}", on_get(v1::utxos)),
        get("/filter/{kind}/{height}", on_get(v1::filter)),
        get("/spent-index/{height}", on_get(v1::spent_index)),
        post("/forward-tx", on_post(forward::forward)),
        get("/spends/{height}", on_get(native::spends)),
        get("/digest/{height}", on_get(native::digest)),
    ]
}

/// GET alone; the router by itself would answer HEAD too and other methods with 405.
fn on_get<T: 'static>(handler: impl Handler<T, Context>) -> MethodRouter<Context> {
    any(not_found).get(handler).head(not_found)
}

/// POST alone.
fn on_post<T: 'static>(handler: impl Handler<T, Context>) -> MethodRouter<Context> {
    any(not_found).post(handler)
}

/// What handlers answer from.
#[derive(Clone)]
struct Context {
    api: ApiState,
    /// A permit per request that reads the index.
    working: Arc<Semaphore>,
    receiver: Arc<Receiver>,
    /// A permit per broadcast that the node is asked for.
    forwarding: Arc<Semaphore>,
    spends: Arc<SpendAnswers>,
    node_timeout: Duration,
    engine: Arc<dyn Engine>,
}

impl Context {
    /// Runs `compute` on a blocking thread over one snapshot, when its turn comes.
    async fn compute<T: Send + 'static>(
        &self,
        compute: impl FnOnce(&Snapshot) -> Result<T, QueryError> + Send + 'static,
    ) -> Result<T, QueryError> {
        let permit = self.working.clone().acquire_owned().await;
        let permit = permit.map_err(|error| QueryError::Internal(error.to_string()))?;
        let store = self.api.store.clone();
        tokio::task::spawn_blocking(move || {
            // Kept until the work is over, also if the client has gone meanwhile.
            let _permit = permit;
            compute(&store.snapshot()?)
        })
        .await
        .map_err(|error| QueryError::Internal(error.to_string()))?
    }

    /// The JSON answer that `compute` encodes, or the error's.
    async fn answer(
        &self,
        compute: impl FnOnce(&Snapshot) -> Result<Vec<u8>, QueryError> + Send + 'static,
    ) -> Response {
        match self.compute(compute).await {
            Ok(body) => json(StatusCode::OK, body),
            Err(error) => refuse(&error),
        }
    }
}

/// A JSON answer from encoded bytes.
fn json(status: StatusCode, body: impl Into<Bytes>) -> Response {
    let mut response = Response::new(Body::from(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json; charset=utf-8"),
    );
    response
}

/// An error as an object, which parses as none of the answers.
fn refuse(error: &QueryError) -> Response {
    error.log();
    let body = serde_json::json!({ "error": error.wire_text() });
    let mut response = json(error.status(), body.to_string());
    if let Some(seconds) = error.retry_after_s() {
        let headers = response.headers_mut();
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
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
