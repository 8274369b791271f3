//! Proofs that a transaction stands in a block.

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::Response;

use super::block::{Which, find, which};
use super::{NativeError, Parameters, encoded, named, number};
use crate::api::desk::Reading;
use crate::api::http::Context;
use crate::api::http::answers::Question;
use crate::wire::native::write_proof;

/// Block and position.
pub(super) type ProofPath = Result<Path<(String, String)>, PathRejection>;

fn asked(path: ProofPath, parameters: Parameters) -> Result<(Which, u32), NativeError> {
    let Path((block, index)) = path.map_err(|error| {
        NativeError::BadRequest(format!("no place in a block: {}", error.body_text()))
    })?;
    let [] = named(parameters, [])?;
    Ok((which(Ok(Path(block)))?, number("index", &index)?))
}

/// `GET /spindex/v1/proof/{height|hash}/{index}`.
pub(super) async fn proof(
    State(context): State<Context>,
    path: ProofPath,
    parameters: Parameters,
    headers: HeaderMap,
) -> Response {
    let (which, index) = match asked(path, parameters) {
        Ok(asked) => asked,
        Err(error) => return context.refuse(&headers, &error),
    };
    let desk = context.desk.clone();
    let block = context.desk.read(move |reading: &Reading<'_>| {
        let block = find(reading, &desk, which)?;
        Ok::<_, NativeError>(block.id())
    });
    let block = match block.await {
        Ok(block) => block,
        Err(error) => return context.refuse(&headers, &error),
    };
    let found = async {
        let proof = context.desk.proof(block, index).await?;
        proof.ok_or_else(|| {
            NativeError::Unknown(format!("block {} has no transaction {index}", block.height))
        })
    };
    let question = Question::Proof(block, index);
    let encode = |proof| encoded(write_proof(&proof));
    context
        .answer_found(&headers, question, found, encode)
        .await
}
