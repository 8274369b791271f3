//! The native protocol, `/spindex/v1`. A request is decoded here, asked of the desk, and answered in the bytes of
//! [`crate::wire::native`].

mod block;
mod chunks;
mod commitments;
mod events;
mod info;
mod log;
mod lookup;
mod openapi;
mod process;
mod proof;
mod ranges;
mod selection;
mod tokens;
mod watches;

use std::str::FromStr;
use std::time::Duration;

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query};
use axum::http::StatusCode;
use bitcoin::{BlockHash, OutPoint};

use super::{Refusal, Route, on_delete, on_get};
use crate::api::desk::{BlockReading, DeskError, Reading, WatchingError};
use crate::chain::ChainError;
use crate::watch::WatchError;
use crate::wire::native::{self, Code};

/// Path and handler of each route.
pub(super) fn routes() -> Vec<Route> {
    let get = |path, handler| Route::get(path, handler);
    vec![
        get("/info", on_get(info::info)),
        get("/block/{block}", on_get(block::block)),
        get("/digest/{height}", on_get(block::digest)),
        get("/chunk/{n}/{columns}", on_get(chunks::chunk)),
        get("/range/{columns}", on_get(ranges::range)),
        get("/commitments", on_get(commitments::commitments)),
        get("/outpoint/{outpoint}", on_get(lookup::outpoint)),
        get("/tx/{txid}", on_get(lookup::transaction)),
        get("/height", on_get(lookup::height)),
        get("/process/{outpoint}", on_get(process::process)),
        get("/proof/{block}/{index}", on_get(proof::proof)),
        get("/events", on_get(events::events)),
        get(
            "/watches",
            on_get(watches::list)
                .post(watches::register)
                .delete(watches::remove),
        ),
        get("/watches/{watch}", on_get(watches::one)),
        get("/tokens", on_get(tokens::list).post(tokens::make)),
        get("/tokens/{token}", on_delete(tokens::revoke)),
        get("/openapi.json", on_get(openapi::document)),
    ]
}

/// Why a request is refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum NativeError {
    /// What cannot be understood, or is too much.
    #[error("{0}")]
    BadRequest(String),
    /// Above the tip.
    #[error("height {height} is above the tip, {tip}")]
    AboveTip { height: u32, tip: u32 },
    /// Below what is indexed, or where there is nothing of the kind.
    #[error("{0}")]
    Never(String),
    /// Not in the index.
    #[error("{0}")]
    Unknown(String),
    /// Not in the chain any more.
    #[error("block {0} was reorganised away")]
    ReorganisedAway(BlockHash),
    /// Not to be found with what this server keeps.
    #[error("{0}")]
    NotFindable(&'static str),
    /// As many streams of events as there may be.
    #[error("as many streams of events are open as there may be")]
    TooManyStreams,
    /// There is no room to put an answer.
    #[error("too many answers are waiting to be taken")]
    Crowded,
    /// Nothing is said of watches.
    #[error(transparent)]
    Watching(WatchingError),
    /// The desk has no answer.
    #[error(transparent)]
    Desk(#[from] DeskError),
}

impl Refusal for NativeError {
    fn status(&self) -> StatusCode {
        match self.code() {
            Code::BadRequest => StatusCode::BAD_REQUEST,
            Code::NotYetIndexed | Code::NeverIndexed | Code::Unknown | Code::ReorganisedAway => {
                StatusCode::NOT_FOUND
            }
            Code::Unauthorized => StatusCode::UNAUTHORIZED,
            Code::Forbidden | Code::Limit => StatusCode::FORBIDDEN,
            Code::Conflict => StatusCode::CONFLICT,
            Code::Cut => StatusCode::GONE,
            Code::NotKept => StatusCode::NOT_IMPLEMENTED,
            Code::Busy => StatusCode::SERVICE_UNAVAILABLE,
            Code::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Desk(error) => error.retry_after(),
            Self::TooManyStreams => Some(Duration::from_secs(30)),
            Self::Crowded => Some(Duration::from_secs(10)),
            _ => None,
        }
    }

    fn body(&self) -> Vec<u8> {
        let refusal = native::Refusal {
            code: self.code(),
            message: self.message(),
        };
        refusal.encode()
    }

    fn log(&self) {
        if let Self::Desk(error) = self {
            error.log();
        }
    }
}

impl NativeError {
    const fn code(&self) -> Code {
        match self {
            Self::BadRequest(_) => Code::BadRequest,
            Self::AboveTip { .. } => Code::NotYetIndexed,
            Self::Never(_) => Code::NeverIndexed,
            Self::Unknown(_) => Code::Unknown,
            Self::ReorganisedAway(_) => Code::ReorganisedAway,
            Self::NotFindable(_) => Code::NotKept,
            Self::TooManyStreams => Code::Busy,
            Self::Crowded => Code::Busy,
            Self::Watching(error) => watching_code(error),
            Self::Desk(error) => match error {
                DeskError::UnknownHeight { .. } => Code::NotYetIndexed,
                DeskError::NothingIndexed | DeskError::Compacting(_) | DeskError::NotLocated(_) => {
                    Code::Busy
                }
                DeskError::NotKept(_) | DeskError::NoNode => Code::NotKept,
                DeskError::BlockFailed { source, .. } => match source {
                    ChainError::Unreachable(_) => Code::Busy,
                    _ => Code::NotKept,
                },
                _ => Code::Internal,
            },
        }
    }

    /// Fixed words, or what the peer itself caused: no file, no address.
    fn message(&self) -> String {
        let Self::Desk(error) = self else {
            return self.to_string();
        };
        let text = match error {
            DeskError::UnknownHeight { height } => {
                return format!("height {height} is not indexed");
            }
            DeskError::NothingIndexed => "no block is indexed yet: the first sync is under way",
            DeskError::Compacting(_) => "the index is being compacted",
            DeskError::NotLocated(_) => {
                "outputs cannot be found by their outpoints yet: the first sync is under way"
            }
            DeskError::NotKept(_) => "this server keeps tweaks only",
            DeskError::NoNode => "this server has no node, and so no blocks",
            DeskError::BlockFailed { source, .. } => match source {
                ChainError::Unreachable(_) => "the node does not answer",
                _ => "the node does not give this block: it may have pruned it",
            },
            _ => "the index cannot be read: the server's log says more",
        };
        text.to_owned()
    }
}

impl From<WatchingError> for NativeError {
    fn from(error: WatchingError) -> Self {
        match error {
            WatchingError::Desk(error) => error.into(),
            WatchingError::Watch(WatchError::Store(error)) => DeskError::from(error).into(),
            WatchingError::Watch(error @ (WatchError::Attached | WatchError::Unread(_))) => {
                DeskError::Internal(error.to_string()).into()
            }
            error => Self::Watching(error),
        }
    }
}

/// The code of what is said to the peer as it is.
const fn watching_code(error: &WatchingError) -> Code {
    match error {
        WatchingError::NoWatches => Code::NotKept,
        WatchingError::Unauthorized(_) => Code::Unauthorized,
        WatchingError::Forbidden(_) => Code::Forbidden,
        WatchingError::NoToken(_) => Code::Unknown,
        WatchingError::Watch(error) => match error {
            WatchError::Limit { .. } | WatchError::TooManySteps => Code::Limit,
            WatchError::Otherwise { .. } => Code::Conflict,
            WatchError::Cut { .. } => Code::Cut,
            WatchError::Store(_) => Code::Internal,
            _ => Code::BadRequest,
        },
        WatchingError::Desk(_) => Code::Internal,
    }
}

/// A value that could not be written.
fn encoded(body: Result<Vec<u8>, String>) -> Result<Vec<u8>, NativeError> {
    body.map_err(|text| DeskError::Internal(text).into())
}

type Parameters = Result<Query<Vec<(String, String)>>, QueryRejection>;

/// The values of parameters with these names, each once at most, and no others.
fn named<const N: usize>(
    parameters: Parameters,
    names: [&str; N],
) -> Result<[Option<String>; N], NativeError> {
    let bad = |text: String| NativeError::BadRequest(text);
    let Query(parameters) = parameters.map_err(|error| bad(error.body_text()))?;
    let mut values = [const { None }; N];
    for (name, value) in parameters {
        let place = names.iter().zip(&mut values).find(|(own, _)| **own == name);
        let Some((_, place)) = place else {
            let known = match names.is_empty() {
                true => "there are none".to_owned(),
                false => format!("give {}", names.join(" and ")),
            };
            return Err(bad(format!("no parameter is called {name:?}; {known}")));
        };
        if place.replace(value).is_some() {
            return Err(bad(format!("{name} is given twice")));
        }
    }
    Ok(values)
}

/// A decimal number without a sign.
fn number(name: &str, value: &str) -> Result<u32, NativeError> {
    let text = || format!("{name}={value:?} is no number up to {}", u32::MAX);
    digits(value).ok_or_else(|| NativeError::BadRequest(text()))
}

/// The number of digits alone.
fn digits<T: FromStr>(value: &str) -> Option<T> {
    let are_digits = value.bytes().all(|byte| byte.is_ascii_digit());
    value.parse().ok().filter(|_| are_digits)
}

/// What stands in a path.
type Named = Result<Path<String>, PathRejection>;

/// The one of a path that is `what`, as text.
fn in_path(path: Named, what: &str) -> Result<String, NativeError> {
    let bad =
        |error: PathRejection| NativeError::BadRequest(format!("no {what}: {}", error.body_text()));
    path.map(|Path(text)| text).map_err(bad)
}

/// The outpoint of a path.
fn outpoint_in(path: Named) -> Result<OutPoint, NativeError> {
    let text = in_path(path, "outpoint")?;
    let bad =
        || NativeError::BadRequest("no outpoint: give txid and vout, as txid:vout".to_owned());
    text.parse().map_err(|_| bad())
}

/// Height of a path.
fn height(path: Named) -> Result<u32, NativeError> {
    number("height", &in_path(path, "height")?)
}

/// Values of `from` and `to`, as far as they are given.
type Bounds = (Option<u32>, Option<u32>);

fn bounds(from: Option<String>, to: Option<String>) -> Result<Bounds, NativeError> {
    let height = |name, value: Option<String>| value.map(|value| number(name, &value)).transpose();
    match (height("from", from)?, height("to", to)?) {
        (Some(from), Some(to)) if from > to => {
            Err(NativeError::BadRequest("from is above to".to_owned()))
        }
        bounds => Ok(bounds),
    }
}

/// `from` and `to`, of which the other is taken if one is not given, for so many heights at most.
fn range(parameters: Parameters, most: u32) -> Result<(u32, u32), NativeError> {
    let bad = |text: String| NativeError::BadRequest(text);
    let [from, to] = named(parameters, ["from", "to"])?;
    let (from, to) = bounds(from, to)?;
    let either = from
        .or(to)
        .ok_or_else(|| bad("give from and to".to_owned()))?;
    let (from, to): (u32, u32) = (from.unwrap_or(either), to.unwrap_or(either));
    match to - from < most {
        true => Ok((from, to)),
        false => Err(bad(format!("more than {most} heights"))),
    }
}

/// The block at a height, or which side of the index it is on.
fn block_at<'s>(reading: &Reading<'s>, height: u32) -> Result<BlockReading<'s>, NativeError> {
    let status = reading.status()?;
    if height > status.tip.height {
        let tip = status.tip.height;
        return Err(NativeError::AboveTip { height, tip });
    }
    match reading.block(height) {
        Err(DeskError::UnknownHeight { .. }) => {
            let text = format!("height {height} is below the first one of this server");
            Err(NativeError::Never(text))
        }
        block => Ok(block?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_strict() {
        let asked = |pairs: &[(&str, &str)]| {
            let pairs = pairs.iter();
            let pairs = pairs.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            range(Ok(Query(pairs.collect())), 144).ok()
        };
        assert_eq!(asked(&[("from", "5"), ("to", "7")]), Some((5, 7)));
        assert_eq!(asked(&[("to", "7")]), Some((7, 7)));
        assert_eq!(asked(&[("from", "7")]), Some((7, 7)));
        assert_eq!(asked(&[("from", "1"), ("to", "144")]), Some((1, 144)));
        for wrong in [
            &[][..],
            &[("from", "1"), ("to", "145")],
            &[("from", "8"), ("to", "7")],
            &[("from", "+5")],
            &[("from", "")],
            &[("from", "4294967296")],
            &[("from", "5"), ("from", "5")],
            &[("from", "5"), ("until", "6")],
        ] {
            assert_eq!(asked(wrong), None, "{wrong:?}");
        }
    }
}
