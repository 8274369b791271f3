//! Version 1: the routes that deployed clients speak, and beside them two of our own in the same style. A request is decoded
//! here, asked of the desk, and answered in the bytes of [`crate::wire::v1`].

mod forward;
mod native;
mod receive;
mod words;

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use axum::response::Response;
use bitcoin::OutPoint;

use super::answers::Question;
use super::{Context, on_get, on_post};
use crate::BlockId;
use crate::api::desk::{BlockReading, DeskError, Reading, TweakList};
use crate::filter::FilterKind;
use crate::store::Keep;
use crate::wire::v1;
pub(super) use receive::Receiver;
pub(super) use words::V1Error;

/// Path and handler of each route, POST apart.
pub(super) fn routes() -> Vec<super::Route> {
    let get = |path, handler| super::Route::get(path, handler);
    vec![
        get("/info", on_get(info)),
        get("/block-height", on_get(block_height)),
        get("/block-hash/{height}", on_get(block_hash)),
        get("/tweaks/{height}", on_get(tweaks)),
        get("/tweak-index/{height}", on_get(tweak_index)),
        get("/utxos/{height}", on_get(utxos)),
        get("/filter/{kind}/{height}", on_get(filter)),
        get("/spent-index/{height}", on_get(spent_index)),
        super::Route::post("/forward-tx", on_post(forward::forward)),
        get("/spends/{height}", on_get(native::spends)),
        get("/digest/{height}", on_get(native::digest)),
    ]
}

/// A value that could not be written.
fn encoded(body: Result<Vec<u8>, String>) -> Result<Vec<u8>, V1Error> {
    body.map_err(|text| DeskError::Internal(text).into())
}

/// `GET /info`.
async fn info(State(context): State<Context>, headers: HeaderMap) -> Response {
    let answer = |reading: &Reading<'_>| {
        let status = reading.status()?;
        let is_full = status.keep == Keep::Full;
        let info = v1::Info {
            network: status.network,
            height: status.tip.height,
            tweaks_only: !is_full,
            full_list: true,
            full_list_with_dust_limit: is_full,
            cut_through: is_full,
        };
        encoded(info.encode())
    };
    context.answer(&headers, Question::Info, answer).await
}

/// `GET /block-height`.
async fn block_height(State(context): State<Context>, headers: HeaderMap) -> Response {
    let answer =
        |reading: &Reading<'_>| encoded(v1::BlockHeight(reading.status()?.tip.height).encode());
    context
        .answer(&headers, Question::BlockHeight, answer)
        .await
}

/// `GET /block-hash/:height`.
async fn block_hash(
    State(context): State<Context>,
    height: HeightPath,
    headers: HeaderMap,
) -> Response {
    let answer = |block: &BlockReading<'_>| encoded(v1::encode_block_hash(block.id().hash));
    context
        .answer_of(&headers, height, Question::BlockHash, answer)
        .await
}

/// `GET /tweaks/:height?dustLimit=N`: with cut-through.
async fn tweaks(
    State(context): State<Context>,
    height: HeightPath,
    parameters: Parameters,
    headers: HeaderMap,
) -> Response {
    tweak_list(context, height, parameters, headers, TweakList::CutThrough).await
}

/// `GET /tweak-index/:height?dustLimit=N`: all, in block order.
async fn tweak_index(
    State(context): State<Context>,
    height: HeightPath,
    parameters: Parameters,
    headers: HeaderMap,
) -> Response {
    tweak_list(context, height, parameters, headers, TweakList::Full).await
}

async fn tweak_list(
    context: Context,
    height: HeightPath,
    parameters: Parameters,
    headers: HeaderMap,
    list: TweakList,
) -> Response {
    let dust_limit_sat = match dust_limit(parameters) {
        Ok(dust_limit_sat) => dust_limit_sat,
        // The height is judged before the dust limit.
        Err(error) => return context.refuse_at(&headers, height, error).await,
    };
    let question = |height| Question::Tweaks {
        height,
        list,
        dust_limit_sat,
    };
    let answer = move |block: &BlockReading<'_>| {
        encoded(v1::Tweaks(block.tweaks(list, dust_limit_sat)?).encode())
    };
    context.answer_of(&headers, height, question, answer).await
}

/// `GET /utxos/:height`.
async fn utxos(State(context): State<Context>, height: HeightPath, headers: HeaderMap) -> Response {
    let answer = |block: &BlockReading<'_>| {
        let block_hash = block.id().hash;
        let utxos = block.utxos()?;
        let utxos = utxos.iter().map(|utxo| v1::Utxo {
            outpoint: OutPoint::new(utxo.txid, utxo.vout),
            value_sat: utxo.value_sat,
            key: utxo.key,
            block_hash,
            spent: utxo.spent,
        });
        let utxos: Vec<v1::Utxo> = utxos.collect();
        encoded(v1::Utxo::encode_all(
            &utxos,
            block.id().height,
            block.time(),
        ))
    };
    context
        .answer_of(&headers, height, Question::Utxos, answer)
        .await
}

/// `GET /filter/:kind/:height`, kind `new-utxos` or `spent`.
async fn filter(
    State(context): State<Context>,
    path: Result<Path<(String, String)>, PathRejection>,
    headers: HeaderMap,
) -> Response {
    let (kind, height) = match path {
        Ok(Path((kind, height))) => (kind, Ok(Path(height))),
        Err(rejection) => (String::new(), Err(rejection)),
    };
    let kind = match kind.as_str() {
        "new-utxos" => FilterKind::NewUtxos,
        "spent" => FilterKind::Spent,
        // The height is judged before the kind.
        _ => {
            let error = V1Error::FilterKindSyntax;
            return context.refuse_at(&headers, height, error).await;
        }
    };
    let question = move |height| Question::Filter(height, kind);
    let answer = move |block: &BlockReading<'_>| {
        let BlockId { height, hash } = block.id();
        let filter = v1::Filter {
            block_hash: hash,
            data: block.filter(kind).map_err(V1Error::Filter)?,
        };
        encoded(filter.encode(height))
    };
    context.answer_of(&headers, height, question, answer).await
}

/// `GET /spent-index/:height`: an object also for an empty index.
async fn spent_index(
    State(context): State<Context>,
    height: HeightPath,
    headers: HeaderMap,
) -> Response {
    let answer = |block: &BlockReading<'_>| {
        let index = v1::SpentIndex {
            block_hash: Some(block.id().hash),
            items: block.spent_index()?,
        };
        encoded(index.encode())
    };
    context
        .answer_of(&headers, height, Question::SpentIndex, answer)
        .await
}

/// The height as it stands in the path; not decodable (no UTF-8) is the same as not a number.
pub(super) type HeightPath = Result<Path<String>, PathRejection>;

/// All parameters, in order.
type Parameters = Result<Query<Vec<(String, String)>>, QueryRejection>;

/// Reads a height the strict way: ASCII decimal digits only, `0..=u32::MAX`; leading zeros are fine.
pub(super) fn height(path: HeightPath) -> Result<u32, V1Error> {
    let Path(text) = path.map_err(|_| V1Error::HeightSyntax)?;
    decimal(&text).ok_or(V1Error::HeightSyntax)
}

/// The first `dustLimit` counts, in satoshi, by the rules of [`height`] up to `u64::MAX`; absent is 0. Other parameters are
/// ignored.
fn dust_limit(parameters: Parameters) -> Result<u64, V1Error> {
    let Query(parameters) = parameters.map_err(|_| V1Error::DustLimitSyntax)?;
    let first = parameters.iter().find(|(name, _)| name == "dustLimit");
    first.map_or(Ok(0), |(_, value)| {
        decimal(value).ok_or(V1Error::DustLimitSyntax)
    })
}

/// Rust's own integer parser takes a leading `+`, which no other decimal parser of this protocol does.
fn decimal<T: std::str::FromStr>(text: &str) -> Option<T> {
    text.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then_some(())?;
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heights_are_strict_decimals() {
        for (text, expected) in [
            ("0", 0),
            ("5", 5),
            ("05", 5),
            ("00000000000000000000005", 5),
            ("4294967295", u32::MAX),
        ] {
            assert_eq!(
                height(Ok(Path(text.to_owned()))).ok(),
                Some(expected),
                "{text:?}"
            );
        }
        for text in [
            "",
            "+5",
            "-1",
            "-0",
            " 5",
            "5 ",
            "5.0",
            "1e3",
            "0x5",
            "1_000",
            "4294967296",
            "٥",
            "５",
            "\u{0}5",
            "tip",
        ] {
            assert!(
                matches!(
                    height(Ok(Path(text.to_owned()))),
                    Err(V1Error::HeightSyntax)
                ),
                "{text:?}"
            );
        }
    }

    #[test]
    fn dust_limits_are_strict_decimals_or_absent() {
        let parameters = |texts: &[&str]| {
            let pairs = texts.iter();
            Ok(Query(
                pairs
                    .map(|text| ("dustLimit".to_owned(), (*text).to_owned()))
                    .collect::<Vec<_>>(),
            ))
        };
        for (texts, limit) in [
            (&[][..], 0),
            (&["0"], 0),
            (&["0600"], 600),
            (&["7", "x"], 7),
            (&["18446744073709551615"], u64::MAX),
        ] {
            assert_eq!(dust_limit(parameters(texts)).ok(), Some(limit), "{texts:?}");
        }
        for text in ["", "+1", "-1", " 1", "1.5", "18446744073709551616", "null"] {
            assert!(
                matches!(
                    dust_limit(parameters(&[text])),
                    Err(V1Error::DustLimitSyntax)
                ),
                "{text:?}"
            );
        }
    }
}
