//! Routes of our own beside version 1: who spent what, and the rolling digest.

use std::sync::Arc;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;

use super::{HeightPath, V1Error, encoded};
use crate::BlockId;
use crate::api::desk::{BlockReading, SpendDetails};
use crate::api::http::Context;
use crate::api::http::answers::Question;
use crate::wire::v1;

/// `GET /spends/:height`: every taproot outpoint spent in the block, with its spender.
pub(super) async fn spends(
    State(context): State<Context>,
    height: HeightPath,
    headers: HeaderMap,
) -> Response {
    let height = match super::height(height) {
        Ok(height) => height,
        Err(error) => return context.refuse(&headers, &error),
    };
    let desk = &context.desk;
    let find = async {
        let found = desk.read(move |reading| {
            let block = reading.block(height)?;
            Ok::<_, V1Error>((block.id(), block.spends()?))
        });
        let (block, spends) = found.await?;
        Ok((block, desk.spend_details(block, spends).await?))
    };
    let encode = |(block, details): (BlockId, Arc<SpendDetails>)| {
        let spends = details.rows.iter().map(|row| v1::Spend {
            outpoint: row.outpoint,
            spending_txid: row.spending_txid,
            input: row.input,
            op_return: row.op_return.clone(),
        });
        let spends = v1::Spends {
            block_hash: block.hash,
            spends: spends.collect(),
            data_once: details.data_once,
        };
        encoded(spends.encode(block.height))
    };
    context
        .answer_found(&headers, Question::Spends(height), find, encode)
        .await
}

/// `GET /digest/:height`: the rolling commitment over all tweaks up to the block.
pub(super) async fn digest(
    State(context): State<Context>,
    height: HeightPath,
    headers: HeaderMap,
) -> Response {
    let answer = |block: &BlockReading<'_>| {
        let digest = v1::Digest {
            block: block.id(),
            digest: block.digest()?,
        };
        encoded(digest.encode())
    };
    context
        .answer_of(&headers, height, Question::Digest, answer)
        .await
}
