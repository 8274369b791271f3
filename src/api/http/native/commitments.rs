//! What chains of hashes commit to of each block, and their heads.

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;

use super::{NativeError, Parameters, block_at, encoded, range};
use crate::api::desk::{BlockReading, Reading};
use crate::api::http::Context;
use crate::api::http::answers::Question;
use crate::wire::native::{Commitments, Link, Links};

/// Most blocks of one answer: a day of them, as each is read and hashed.
const BLOCKS_MAX: u32 = 144;

/// `GET /spindex/v1/commitments?from=&to=`.
pub(super) async fn commitments(
    State(context): State<Context>,
    parameters: Parameters,
    headers: HeaderMap,
) -> Response {
    let (from, to) = match range(parameters, BLOCKS_MAX) {
        Ok(range) => range,
        Err(error) => return context.refuse(&headers, &error),
    };
    let answer = move |reading: &Reading<'_>| {
        let blocks = (from..=to).map(|height| links(reading, height));
        let blocks = blocks.collect::<Result<_, NativeError>>()?;
        encoded(Commitments { blocks }.encode())
    };
    context
        .answer(&headers, Question::Commitments { from, to }, answer)
        .await
}

fn links(reading: &Reading<'_>, height: u32) -> Result<Links, NativeError> {
    let block = block_at(reading, height)?;
    of_block(&block)?.ok_or_else(|| {
        NativeError::Never(format!(
            "the chains of this server do not reach to height {height}"
        ))
    })
}

/// The links of all chains at a block; `None` where they do not reach.
pub(super) fn of_block(block: &BlockReading<'_>) -> Result<Option<Links>, NativeError> {
    let Some((commitments, heads)) = block.commitments()? else {
        return Ok(None);
    };
    let link = |commitment, head| Link { commitment, head };
    let v2 = commitments.v2.zip(heads.v2);
    Ok(Some(Links {
        block: block.id(),
        v1: link(commitments.v1, heads.v1),
        v2: v2.map(|(commitment, head)| link(commitment, head)),
        columns_head: block.sections()?.head,
    }))
}
