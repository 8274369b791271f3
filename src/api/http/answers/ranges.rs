//! Ranges of bytes (RFC 9110, 14), so that what was cut off can be resumed.

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use http_range_header::parse_range_header;

/// A body, or the range of it that is asked for. Of several ranges at once, all of it is sent.
pub(super) fn response(body: Bytes, etag: &HeaderValue, headers: &HeaderMap) -> Response {
    let length = body.len() as u64;
    // A range of other bytes than the client has the beginning of is of no use to it.
    let is_same = headers.get(header::IF_RANGE).is_none_or(|of| of == etag);
    let asked = headers.get(header::RANGE).filter(|_| is_same);
    let asked = asked.and_then(|range| range.to_str().ok());
    // What cannot be read is ignored.
    let asked = asked.and_then(|range| parse_range_header(range).ok());
    let mut response = match asked.map(|ranges| ranges.validate(length)) {
        Some(Ok(ranges)) if ranges.len() == 1 => {
            let range = ranges.into_iter().next().unwrap_or(0..=0);
            let (first, last) = (*range.start(), *range.end());
            // Within the body, so they fit.
            let part = body.slice(first as usize..=last as usize);
            partial(part, format!("bytes {first}-{last}/{length}"))
        }
        Some(Err(_)) => {
            let mut response = partial(Bytes::new(), format!("bytes */{length}"));
            *response.status_mut() = StatusCode::RANGE_NOT_SATISFIABLE;
            response
        }
        _ => Response::new(Body::from(body)),
    };
    let headers = response.headers_mut();
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    response
}

fn partial(part: Bytes, range: String) -> Response {
    let mut response = Response::new(Body::from(part));
    *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    if let Ok(range) = HeaderValue::try_from(range) {
        response.headers_mut().insert(header::CONTENT_RANGE, range);
    }
    response
}
