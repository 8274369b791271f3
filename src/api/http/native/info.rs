//! What this server says of itself.

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use bitcoin::constants::genesis_block;

use super::{NativeError, Parameters, block_at, encoded, named};
use crate::api::desk::Reading;
use crate::api::http::Context;
use crate::api::http::answers::Question;
use crate::store::Keep;
use crate::wire::native::column::{CHUNK_BLOCKS, Column};
use crate::wire::native::{Heads, Info, Server};

/// What an index has that keeps tweaks only.
const OF_TWEAKS: [Column; 2] = [Column::Headers, Column::Tweaks];

/// `GET /spindex/v1/info`.
pub(super) async fn info(
    State(context): State<Context>,
    parameters: Parameters,
    headers: HeaderMap,
) -> Response {
    if let Err(error) = named(parameters, []) {
        return context.refuse(&headers, &error);
    }
    let horizon = context.desk.horizon();
    let answer = move |reading: &Reading<'_>| encoded(of_index(reading, horizon)?.encode());
    context.answer(&headers, Question::NativeInfo, answer).await
}

fn of_index(reading: &Reading<'_>, horizon: u32) -> Result<Info, NativeError> {
    let status = reading.status()?;
    let tip = block_at(reading, status.tip.height)?;
    let tweaks_only = status.keep == Keep::Tweaks;
    let columns = match tweaks_only {
        true => OF_TWEAKS.to_vec(),
        false => [&Column::ALL[..], &[Column::Selected]].concat(),
    };
    Ok(Info {
        network: status.network,
        genesis_hash: genesis_block(status.network).block_hash(),
        first_height: status.first_height,
        tip: status.tip,
        tweaks_only,
        columns,
        chunk_blocks: CHUNK_BLOCKS,
        horizon,
        spenders_from: status.spenders_from,
        digest: tip.digest()?,
        heads: match tip.heads()? {
            Some(heads) => Some(Heads {
                v1: heads.v1,
                v2: heads.v2,
                columns: tip.sections()?.head,
            }),
            None => None,
        },
        server: Server {
            name: env!("CARGO_PKG_NAME").to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        },
    })
}
