//! Tokens: made, listed, revoked.

use axum::extract::{Request, State};
use axum::response::Response;

use super::watches::{admit, private, receive};
use super::{Named, NativeError, Parameters, encoded, in_path, named, number};
use crate::api::desk::Reading;
use crate::api::http::Context;
use crate::wire::native::{NewToken, Scope, TOKEN_BYTES_MAX, TokenEntry};

/// `POST /spindex/v1/tokens`.
pub(super) async fn make(State(context): State<Context>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let answer = async {
        admit(&context, &parts, Scope::Admin).await?;
        let body = receive(&context, &parts, body, TOKEN_BYTES_MAX).await?;
        let new = NewToken::decode(&body).map_err(NativeError::BadRequest)?;
        encoded(context.desk.make_token(&new).await?.encode())
    };
    private(&context, &parts.headers, answer.await)
}

/// `GET /spindex/v1/tokens`.
pub(super) async fn list(
    State(context): State<Context>,
    parameters: Parameters,
    request: Request,
) -> Response {
    let (parts, _) = request.into_parts();
    let answer = async {
        admit(&context, &parts, Scope::Admin).await?;
        named(parameters, [])?;
        let read = |reading: &Reading<'_>| encoded(TokenEntry::encode_all(reading.tokens()?));
        context.desk.read(read).await
    };
    private(&context, &parts.headers, answer.await)
}

/// `DELETE /spindex/v1/tokens/{number}`.
pub(super) async fn revoke(
    State(context): State<Context>,
    path: Named,
    request: Request,
) -> Response {
    let (parts, _) = request.into_parts();
    let answer = async {
        admit(&context, &parts, Scope::Admin).await?;
        let number = number("token", &in_path(path, "token")?)?;
        context.desk.revoke_token(number).await?;
        Ok(format!("{{\"revoked\":{number}}}").into_bytes())
    };
    private(&context, &parts.headers, answer.await)
}
