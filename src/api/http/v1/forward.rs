//! `POST /forward-tx`: a transaction for the network, through the own node.

use axum::Form;
use axum::body::{Body, Bytes};
use axum::extract::{ConnectInfo, FromRequest, Multipart, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bitcoin::consensus::encode::deserialize_hex;
use bitcoin::{Transaction, Txid};

use super::V1Error;
use super::receive::MAX_BODY_BYTES;
use crate::api::connection::Traffic;
use crate::api::http::Context;
use crate::wire::v1;

const MISSING: V1Error = V1Error::TransactionSyntax("field data is missing");
const MALFORMED_BODY: V1Error = V1Error::TransactionSyntax("could not parse the request body");
const TOO_LARGE: V1Error = V1Error::BodyTooLarge {
    limit_bytes: MAX_BODY_BYTES,
};
const MALFORMED_TRANSACTION: V1Error =
    V1Error::TransactionSyntax("field data is not a transaction in hex");

/// The handler.
pub(super) async fn forward(State(context): State<Context>, request: Request) -> Response {
    let headers = request.headers().clone();
    match broadcast(&context, request).await {
        Ok(txid) => context.json(&headers, StatusCode::OK, v1::encode_forwarded(txid)),
        Err(error) => context.refuse(&headers, &error),
    }
}

async fn broadcast(context: &Context, request: Request) -> Result<Txid, V1Error> {
    context.desk.require_node()?;
    // A length announced is judged before anything is read.
    if content_length(request.headers()).is_some_and(|length| length > MAX_BODY_BYTES as u64) {
        return Err(TOO_LARGE);
    }
    let peer = request.extensions().get::<ConnectInfo<Traffic>>();
    let peer = peer.map(|ConnectInfo(Traffic(activity))| activity.peer());
    let (parts, body) = request.into_parts();
    // Before anything that others wait for too is taken, so that a slow sender is in nobody's way.
    let received = context.receiver.receive(body, peer, MAX_BODY_BYTES).await?;
    let body = Body::from(received.bytes.clone());
    let data = read_data(Request::from_parts(parts, body)).await?;
    if data.trim().is_empty() {
        return Err(MISSING);
    }
    let transaction: Transaction =
        deserialize_hex(data.trim()).map_err(|_| MALFORMED_TRANSACTION)?;
    Ok(context.desk.broadcast(&transaction).await?)
}

/// The field `data` of a JSON object, of a multipart form, or, for any other content type, of a URL-encoded form.
async fn read_data(mut request: Request) -> Result<String, V1Error> {
    match media_type(request.headers()).as_str() {
        "application/json" => {
            let body = Bytes::from_request(request, &())
                .await
                .map_err(unreadable)?;
            let body = v1::ForwardTx::decode(&body).map_err(|_| MALFORMED_BODY)?;
            Ok(body.data)
        }
        "multipart/form-data" => {
            let mut form = Multipart::from_request(request, &())
                .await
                .map_err(unreadable)?;
            while let Some(field) = form.next_field().await.map_err(unreadable)? {
                if field.name() == Some("data") {
                    return field.text().await.map_err(unreadable);
                }
            }
            Err(MISSING)
        }
        _ => {
            request.headers_mut().insert(
                header::CONTENT_TYPE,
                HeaderValue::from_static("application/x-www-form-urlencoded"),
            );
            let Form(fields) = Form::<Vec<(String, String)>>::from_request(request, &())
                .await
                .map_err(unreadable)?;
            let data = fields.into_iter().find(|(name, _)| name == "data");
            data.map(|(_, value)| value).ok_or(MISSING)
        }
    }
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    let value = headers.get(header::CONTENT_LENGTH)?;
    value.to_str().ok()?.parse().ok()
}

/// The content type without parameters, lower case; empty if there is none.
fn media_type(headers: &HeaderMap) -> String {
    let value = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let media_type = value
        .split_once(';')
        .map_or(value, |(media_type, _)| media_type);
    media_type.trim().to_ascii_lowercase()
}

/// A rejected body: too large, or not what its content type says.
fn unreadable(rejection: impl IntoResponse) -> V1Error {
    if rejection.into_response().status() == StatusCode::PAYLOAD_TOO_LARGE {
        TOO_LARGE
    } else {
        MALFORMED_BODY
    }
}
