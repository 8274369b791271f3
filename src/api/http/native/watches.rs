//! Watches: registered, listed, removed.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;

use super::{Named, NativeError, Parameters, digits, encoded, in_path, named};
use crate::api::desk::{Bearer, DeskError, Reading};
use crate::api::http::access::{credential, traffic};
use crate::api::http::{Context, v1};
use crate::watch::NewWatch;
use crate::wire::native::{
    REGISTRATION_BYTES_MAX, REMOVAL_BYTES_MAX, Registered, Registration, Removal, Scope,
    WATCHES_PAGE_MAX,
};

/// `POST /spindex/v1/watches`.
pub(super) async fn register(State(context): State<Context>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let answer = async {
        let bearer = admit(&context, &parts, Scope::Watch).await?;
        let body = receive(&context, &parts, body, REGISTRATION_BYTES_MAX).await?;
        let read = tokio::task::spawn_blocking(move || registrations(&body));
        let internal = |error: tokio::task::JoinError| DeskError::Internal(error.to_string());
        let new = read.await.map_err(internal)??;
        let registered = context.desk.register(&bearer, new).await?;
        let registered = registered.into_iter().map(|registered| Registered {
            watch: registered.watch,
            is_new: registered.is_new,
        });
        encoded(Registered::encode_all(&registered.collect::<Vec<_>>()))
    };
    private(&context, &parts.headers, answer.await)
}

fn registrations(body: &[u8]) -> Result<Vec<NewWatch>, NativeError> {
    let registrations = Registration::decode_all(body).map_err(NativeError::BadRequest)?;
    Ok(registrations.into_iter().map(NewWatch::from).collect())
}

/// `GET /spindex/v1/watches?from=&limit=`.
pub(super) async fn list(
    State(context): State<Context>,
    parameters: Parameters,
    request: Request,
) -> Response {
    let (parts, _) = request.into_parts();
    let answer = async {
        let bearer = admit(&context, &parts, Scope::Read).await?;
        let [from, limit] = named(parameters, ["from", "limit"])?;
        let from = from.map_or(Ok(0), |from| long("from", &from))?;
        let most = page_limit(limit, WATCHES_PAGE_MAX)?;
        let read = move |reading: &Reading<'_>| {
            encoded(reading.watches(bearer.owner, from, most)?.encode())
        };
        context.desk.read(read).await
    };
    private(&context, &parts.headers, answer.await)
}

/// `DELETE /spindex/v1/watches`.
pub(super) async fn remove(State(context): State<Context>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let answer = async {
        let bearer = admit(&context, &parts, Scope::Watch).await?;
        let body = receive(&context, &parts, body, REMOVAL_BYTES_MAX).await?;
        let Removal { watches } = Removal::decode(&body).map_err(NativeError::BadRequest)?;
        let removed = context.desk.remove(&bearer, watches.clone()).await?;
        let removed = watches.into_iter().zip(removed);
        let removed = removed.filter_map(|(watch, was_there)| was_there.then_some(watch));
        let answer = Removal {
            watches: removed.collect(),
        };
        encoded(answer.encode())
    };
    private(&context, &parts.headers, answer.await)
}

/// `GET /spindex/v1/watches/{watch}`.
pub(super) async fn one(
    State(context): State<Context>,
    path: Named,
    parameters: Parameters,
    request: Request,
) -> Response {
    let (parts, _) = request.into_parts();
    let answer = async {
        let bearer = admit(&context, &parts, Scope::Read).await?;
        named(parameters, [])?;
        let number = long("watch", &in_path(path, "watch")?)?;
        let read = move |reading: &Reading<'_>| {
            let watch = reading.watch(bearer.owner, number)?;
            let unknown = || NativeError::Unknown(format!("there is no watch {number} of yours"));
            encoded(watch.ok_or_else(unknown)?.encode())
        };
        context.desk.read(read).await
    };
    private(&context, &parts.headers, answer.await)
}

/// Lets somebody in who wants to do something.
pub(super) async fn admit(
    context: &Context,
    parts: &Parts,
    scope: Scope,
) -> Result<Bearer, NativeError> {
    Ok(context.desk.admit(credential(parts), scope).await?)
}

/// Takes a body in.
pub(super) async fn receive(
    context: &Context,
    parts: &Parts,
    body: Body,
    most: usize,
) -> Result<Vec<u8>, NativeError> {
    let peer = traffic(parts).map(|traffic| traffic.0.peer());
    let received = context.receiver.receive(body, peer, most).await;
    let received = received.map_err(|error| match error {
        v1::V1Error::TooManyBodies => NativeError::Crowded,
        v1::V1Error::Desk(error) => error.into(),
        error => NativeError::BadRequest(error.to_string()),
    });
    Ok(received?.bytes.into())
}

/// An answer that is for nobody else.
pub(super) fn private(
    context: &Context,
    headers: &HeaderMap,
    answer: Result<Vec<u8>, NativeError>,
) -> Response {
    let mut response = match answer {
        Ok(body) => context.json(headers, StatusCode::OK, body),
        Err(error) => context.refuse(headers, &error),
    };
    let no_store = HeaderValue::from_static("private, no-store");
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, no_store);
    response
}

/// A number of watches or events: decimal, without a sign.
pub(super) fn long(name: &str, value: &str) -> Result<u64, NativeError> {
    let text = || format!("{name}={value:?} is no number up to {}", u64::MAX);
    digits(value).ok_or_else(|| NativeError::BadRequest(text()))
}

/// `limit`, from 1 to the most of a page.
pub(super) fn page_limit(limit: Option<String>, most: usize) -> Result<usize, NativeError> {
    let Some(value) = limit else {
        return Ok(most);
    };
    let bad = || NativeError::BadRequest(format!("limit={value:?} is no number from 1 to {most}"));
    let limit = digits(&value).filter(|limit| (1..=most).contains(limit));
    limit.ok_or_else(bad)
}
