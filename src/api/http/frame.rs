//! What stands around every answer: CORS, `Vary`, and word to the connection of what it is doing.

use axum::extract::{ConnectInfo, Request};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::api::connection::Traffic;

/// What answers to the same path hang on. Of the origin because a cache could otherwise give what a page of the own origin
/// got to one of another, which may not look at it.
const VARY: HeaderValue = HeaderValue::from_static("Accept-Encoding, Origin");

/// The outermost layer.
pub(super) async fn frame(request: Request, next: Next) -> Response {
    let is_foreign = has_foreign_origin(request.headers());
    let traffic = request.extensions().get::<ConnectInfo<Traffic>>().cloned();
    if let Some(ConnectInfo(Traffic(activity))) = &traffic {
        activity.request_begins();
    }
    let mut response = match *request.method() {
        // Browsers ask before a request that is not a simple one; any path is answered.
        Method::OPTIONS if is_foreign => preflight(),
        _ => next.run(request).await,
    };
    let headers = response.headers_mut();
    headers.insert(header::VARY, VARY);
    if is_foreign {
        headers.insert(
            header::ACCESS_CONTROL_ALLOW_ORIGIN,
            HeaderValue::from_static("*"),
        );
        headers.insert(
            header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
            HeaderValue::from_static("true"),
        );
    }
    if let Some(ConnectInfo(Traffic(activity))) = &traffic {
        activity.answer_begins();
    }
    response
}

fn preflight() -> Response {
    let headers = [
        (header::ACCESS_CONTROL_ALLOW_METHODS, "GET,POST,PUT"),
        (
            header::ACCESS_CONTROL_ALLOW_HEADERS,
            "Content-Type,Authorization",
        ),
        (header::ACCESS_CONTROL_MAX_AGE, "43200"),
    ];
    (StatusCode::NO_CONTENT, headers).into_response()
}

/// Whether a page of another origin asks: there is an `Origin`, and it is not `http(s)://` plus the own `Host`.
fn has_foreign_origin(headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(header::ORIGIN).map(HeaderValue::as_bytes) else {
        return false;
    };
    let Some(host) = headers.get(header::HOST).map(HeaderValue::as_bytes) else {
        return !origin.is_empty();
    };
    let own = [&b"http://"[..], b"https://"]
        .iter()
        .any(|scheme| origin.strip_prefix(*scheme) == Some(host));
    !origin.is_empty() && !own
}
