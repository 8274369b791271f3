//! Routes of our own beside version 1: who spent what, and the rolling digest.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use bitcoin::{BlockHash, Txid};
use serde::Serialize;

use super::body::{Hex, HexList, encode};
use super::v1::{HeightPath, look_up};
use super::{Context, json, refuse};
use crate::BlockId;
use crate::api::error::QueryError;
use crate::api::query;
use crate::api::spends::SpendDetails;

#[derive(Serialize)]
struct SpendsBody<'a> {
    block_hash: BlockHash,
    block_height: u32,
    data: Vec<SpendBody<'a>>,
    /// Says that an empty `op_return` may mean: see the first entry of that spender.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    op_return_once: bool,
}

#[derive(Serialize)]
struct SpendBody<'a> {
    txid: Txid,
    vout: u32,
    spending_txid: Txid,
    input: u32,
    op_return: HexList<'a, Vec<u8>>,
}

/// `GET /spends/:height`: every taproot outpoint spent in the block, with its spender.
pub(super) async fn spends(State(context): State<Context>, height: HeightPath) -> Response {
    match spends_body(&context, height).await {
        Ok(body) => json(StatusCode::OK, body),
        Err(error) => refuse(&error),
    }
}

async fn spends_body(
    context: &Context,
    height: HeightPath,
) -> Result<axum::body::Bytes, QueryError> {
    let (block, rows) = context
        .compute(move |snapshot| {
            let block = look_up(snapshot, height)?;
            Ok((block.id, query::spends(snapshot, &block)?))
        })
        .await?;
    let node = context.api.node.as_deref().ok_or(QueryError::NoNode)?;
    context
        .spends
        .get(node, context.node_timeout, block, rows, encode_spends)
        .await
}

fn encode_spends(block: BlockId, details: &SpendDetails) -> Result<Vec<u8>, QueryError> {
    encode(&SpendsBody {
        block_hash: block.hash,
        block_height: block.height,
        op_return_once: details.data_once,
        data: details
            .rows
            .iter()
            .map(|detail| SpendBody {
                txid: detail.outpoint.txid,
                vout: detail.outpoint.vout,
                spending_txid: detail.spending_txid,
                input: detail.input,
                op_return: HexList(&detail.op_return),
            })
            .collect(),
    })
}

#[derive(Serialize)]
struct DigestBody<'a> {
    block_height: u32,
    block_hash: BlockHash,
    digest: Hex<'a>,
}

/// `GET /digest/:height`: the rolling commitment over all tweaks up to the block.
pub(super) async fn digest(State(context): State<Context>, height: HeightPath) -> Response {
    context
        .answer(move |snapshot| {
            let block = look_up(snapshot, height)?;
            let digest = query::digest(snapshot, &block)?;
            encode(&DigestBody {
                block_height: block.id.height,
                block_hash: block.id.hash,
                digest: Hex(&digest),
            })
        })
        .await
}
