//! Version 1: the routes and bodies that deployed clients speak. `docs/wire.md` has samples of each.

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::response::Response;
use bitcoin::{BlockHash, Txid};
use serde::Serialize;

use super::Context;
use super::body::{Hex, HexList, encode};
use crate::api::error::QueryError;
use crate::api::query::{self, FilterKind, TweakList};
use crate::store::snapshot::BlockEntry;
use crate::store::{Keep, Snapshot};

/// The only filter type there is, for both filters.
const FILTER_TYPE: u8 = 4;

#[derive(Serialize)]
struct InfoBody {
    network: &'static str,
    height: u32,
    tweaks_only: bool,
    tweaks_full_basic: bool,
    tweaks_full_with_dust_filter: bool,
    tweaks_cut_through_with_dust_filter: bool,
}

/// `GET /info`. Networks have the names of Bitcoin Core's `-chain`: `main`, `test`, `testnet4`, `signet`, `regtest`,
/// which is what the clients that ask know.
pub(super) async fn info(State(context): State<Context>) -> Response {
    context
        .answer(|snapshot| {
            let info = query::info(snapshot)?;
            let is_full = info.keep == Keep::Full;
            encode(&InfoBody {
                network: info.network.to_core_arg(),
                height: info.tip.height,
                tweaks_only: !is_full,
                tweaks_full_basic: true,
                tweaks_full_with_dust_filter: is_full,
                tweaks_cut_through_with_dust_filter: is_full,
            })
        })
        .await
}

/// One client reads `height`, all others `block_height`.
#[derive(Serialize)]
struct BlockHeightBody {
    block_height: u32,
    height: u32,
}

/// `GET /block-height`.
pub(super) async fn block_height(State(context): State<Context>) -> Response {
    context
        .answer(|snapshot| {
            let height = query::info(snapshot)?.tip.height;
            encode(&BlockHeightBody {
                block_height: height,
                height,
            })
        })
        .await
}

#[derive(Serialize)]
struct BlockHashBody {
    block_hash: BlockHash,
}

/// `GET /block-hash/:height`.
pub(super) async fn block_hash(State(context): State<Context>, height: HeightPath) -> Response {
    context
        .answer(move |snapshot| {
            let block = look_up(snapshot, height)?;
            encode(&BlockHashBody {
                block_hash: block.id.hash,
            })
        })
        .await
}

/// `GET /tweaks/:height?dustLimit=N`: with cut-through.
pub(super) async fn tweaks(
    State(context): State<Context>,
    height: HeightPath,
    parameters: Parameters,
) -> Response {
    tweak_list(context, height, parameters, TweakList::CutThrough).await
}

/// `GET /tweak-index/:height?dustLimit=N`: all, in block order.
pub(super) async fn tweak_index(
    State(context): State<Context>,
    height: HeightPath,
    parameters: Parameters,
) -> Response {
    tweak_list(context, height, parameters, TweakList::Full).await
}

async fn tweak_list(
    context: Context,
    height: HeightPath,
    parameters: Parameters,
    list: TweakList,
) -> Response {
    context
        .answer(move |snapshot| {
            // The height is judged before the dust limit.
            let block = look_up(snapshot, height)?;
            let dust_limit_sat = dust_limit(parameters)?;
            let tweaks = query::tweaks(snapshot, &block, list, dust_limit_sat)?;
            encode(&HexList(&tweaks))
        })
        .await
}

#[derive(Serialize)]
struct UtxoBody<'a> {
    txid: Txid,
    vout: u32,
    value: u64,
    scriptpubkey: Hex<'a>,
    block_height: u32,
    block_hash: BlockHash,
    timestamp: u32,
    spent: bool,
}

/// `GET /utxos/:height`.
pub(super) async fn utxos(State(context): State<Context>, height: HeightPath) -> Response {
    let engine = context.engine.clone();
    context
        .answer(move |snapshot| {
            let block = look_up(snapshot, height)?;
            let utxos = query::utxos(snapshot, &block, engine.as_ref())?;
            // OP_1, then a push of 32 bytes.
            let scripts: Vec<Vec<u8>> = utxos
                .iter()
                .map(|utxo| [&[0x51, 0x20], &utxo.key[..]].concat())
                .collect();
            let body: Vec<UtxoBody<'_>> = utxos
                .iter()
                .zip(&scripts)
                .map(|(utxo, script)| UtxoBody {
                    txid: utxo.txid,
                    vout: utxo.vout,
                    value: utxo.value_sat,
                    scriptpubkey: Hex(script),
                    block_height: block.id.height,
                    block_hash: block.id.hash,
                    timestamp: block.header.time,
                    spent: utxo.spent,
                })
                .collect();
            encode(&body)
        })
        .await
}

#[derive(Serialize)]
struct FilterBody<'a> {
    block_hash: BlockHash,
    block_height: u32,
    data: Hex<'a>,
    filter_type: u8,
}

/// `GET /filter/:kind/:height`, kind `new-utxos` or `spent`.
pub(super) async fn filter(
    State(context): State<Context>,
    path: Result<Path<(String, String)>, PathRejection>,
) -> Response {
    context
        .answer(move |snapshot| {
            let Path((kind, height)) = path.map_err(|_| QueryError::HeightSyntax)?;
            let block = query::block(snapshot, query::parse_height(&height)?)?;
            // The height is judged before the kind.
            let kind = match kind.as_str() {
                "new-utxos" => FilterKind::NewUtxos,
                "spent" => FilterKind::Spent,
                _ => return Err(QueryError::FilterKindSyntax),
            };
            let filter = query::filter(snapshot, &block, kind)?;
            encode(&FilterBody {
                block_hash: block.id.hash,
                block_height: block.id.height,
                data: Hex(&filter),
                filter_type: FILTER_TYPE,
            })
        })
        .await
}

#[derive(Serialize)]
struct SpentIndexBody<'a> {
    block_hash: BlockHash,
    data: HexList<'a, [u8; 8]>,
}

/// `GET /spent-index/:height`: an object also for an empty index.
pub(super) async fn spent_index(State(context): State<Context>, height: HeightPath) -> Response {
    context
        .answer(move |snapshot| {
            let block = look_up(snapshot, height)?;
            let items = query::spent_index(snapshot, &block)?;
            encode(&SpentIndexBody {
                block_hash: block.id.hash,
                data: HexList(&items),
            })
        })
        .await
}

/// The height as it stands in the path; not decodable (no UTF-8) is the same as not a number.
pub(super) type HeightPath = Result<Path<String>, PathRejection>;

/// All parameters, in order.
type Parameters = Result<Query<Vec<(String, String)>>, QueryRejection>;

/// The lookup that all routes with a height run first.
pub(super) fn look_up(snapshot: &Snapshot, height: HeightPath) -> Result<BlockEntry, QueryError> {
    let Path(height) = height.map_err(|_| QueryError::HeightSyntax)?;
    query::block(snapshot, query::parse_height(&height)?)
}

/// The first `dustLimit` counts; other parameters are ignored.
fn dust_limit(parameters: Parameters) -> Result<u64, QueryError> {
    let Query(parameters) = parameters.map_err(|_| QueryError::DustLimitSyntax)?;
    let first = parameters.iter().find(|(name, _)| name == "dustLimit");
    query::parse_dust_limit(first.map(|(_, value)| value.as_str()))
}
