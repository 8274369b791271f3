//! `POST /forward-tx`: a transaction for the network, through the own node.

use axum::Form;
use axum::body::{Body, Bytes};
use axum::extract::{ConnectInfo, FromRequest, Multipart, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bitcoin::consensus::encode::deserialize_hex;
use bitcoin::{Transaction, Txid};
use serde::Deserialize;

use super::receive::MAX_BODY_BYTES;
use super::{Context, json, refuse};
use crate::api::connection::Traffic;
use crate::api::error::QueryError;
use crate::chain::{BroadcastError, ChainError};

/// Broadcasts that the node is asked for at the same time.
pub(super) const MAX_FORWARDING: usize = 16;

const MISSING: QueryError = QueryError::TransactionSyntax("field data is missing");
const MALFORMED_BODY: QueryError =
    QueryError::TransactionSyntax("could not parse the request body");
const TOO_LARGE: QueryError = QueryError::BodyTooLarge {
    limit_bytes: MAX_BODY_BYTES,
};
const MALFORMED_TRANSACTION: QueryError =
    QueryError::TransactionSyntax("field data is not a transaction in hex");

/// The handler.
pub(super) async fn forward(State(context): State<Context>, request: Request) -> Response {
    match broadcast(&context, request).await {
        Ok(txid) => json(StatusCode::OK, format!("\"{txid}\"")),
        Err(error) => refuse(&error),
    }
}

async fn broadcast(context: &Context, request: Request) -> Result<Txid, QueryError> {
    let node = context.api.node.as_deref().ok_or(QueryError::NoNode)?;
    // A length announced is judged before anything is read.
    if content_length(request.headers()).is_some_and(|length| length > MAX_BODY_BYTES as u64) {
        return Err(TOO_LARGE);
    }
    let peer = request.extensions().get::<ConnectInfo<Traffic>>();
    let peer = peer.map(|ConnectInfo(Traffic(activity))| activity.peer());
    let (parts, body) = request.into_parts();
    // Before anything that others wait for too is taken, so that a slow sender is in nobody's way.
    let received = context.receiver.receive(body, peer).await?;
    let body = Body::from(received.bytes.clone());
    let data = read_data(Request::from_parts(parts, body)).await?;
    if data.trim().is_empty() {
        return Err(MISSING);
    }
    let transaction: Transaction =
        deserialize_hex(data.trim()).map_err(|_| MALFORMED_TRANSACTION)?;
    let asked = async {
        let permit = context.forwarding.acquire().await;
        let _permit = permit.map_err(|error| QueryError::Internal(error.to_string()))?;
        match node.broadcast(&transaction).await {
            Ok(txid) => Ok(txid),
            Err(BroadcastError::Rejected(reason)) => Err(QueryError::Rejected(reason)),
            Err(BroadcastError::Chain(error)) => Err(QueryError::BroadcastFailed(error)),
        }
    };
    // With the time in line, as one that hangs would otherwise hold up each after those before it.
    match tokio::time::timeout(context.node_timeout, asked).await {
        Ok(answer) => answer,
        Err(_) => Err(QueryError::BroadcastFailed(ChainError::Unreachable(
            format!("no answer within {:?}", context.node_timeout),
        ))),
    }
}

#[derive(Deserialize)]
struct ForwardBody {
    data: String,
}

/// The field `data` of a JSON object, of a multipart form, or, for any other content type, of a URL-encoded form.
async fn read_data(mut request: Request) -> Result<String, QueryError> {
    match media_type(request.headers()).as_str() {
        "application/json" => {
            let body = Bytes::from_request(request, &())
                .await
                .map_err(unreadable)?;
            let body: ForwardBody = serde_json::from_slice(&body).map_err(|_| MALFORMED_BODY)?;
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
fn unreadable(rejection: impl IntoResponse) -> QueryError {
    if rejection.into_response().status() == StatusCode::PAYLOAD_TOO_LARGE {
        TOO_LARGE
    } else {
        MALFORMED_BODY
    }
}
