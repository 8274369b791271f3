//! The native protocol, `/spindex/v1`. A request is decoded here, asked of the desk, and answered in the bytes of
//! [`crate::wire::native`].

mod chunks;
mod commitments;
mod process;

use std::time::Duration;

use axum::extract::Query;
use axum::extract::rejection::QueryRejection;
use axum::http::StatusCode;

pub(super) use chunks::Outgoing;

use super::{Refusal, Route, on_get};
use crate::api::desk::DeskError;
use crate::wire::native::{self, Code};

/// Path and handler of each route.
pub(super) fn routes() -> Vec<Route> {
    let get = |path, handler| Route::get(path, handler);
    vec![
        get("/chunk/{n}/{columns}", on_get(chunks::chunk)),
        get("/range/{columns}", on_get(chunks::range)),
        get("/commitments", on_get(commitments::commitments)),
        get("/process/{outpoint}", on_get(process::process)),
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
    /// There is no room to put an answer.
    #[error("too many answers are waiting to be taken")]
    Crowded,
    /// The desk has no answer.
    #[error(transparent)]
    Desk(#[from] DeskError),
}

impl Refusal for NativeError {
    fn status(&self) -> StatusCode {
        match self.code() {
            Code::BadRequest => StatusCode::BAD_REQUEST,
            Code::NotYetIndexed | Code::NeverIndexed => StatusCode::NOT_FOUND,
            Code::NotKept => StatusCode::NOT_IMPLEMENTED,
            Code::Busy => StatusCode::SERVICE_UNAVAILABLE,
            Code::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Desk(error) => error.retry_after(),
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
            Self::Crowded => Code::Busy,
            Self::Desk(error) => match error {
                DeskError::UnknownHeight { .. } => Code::NotYetIndexed,
                DeskError::NothingIndexed | DeskError::Compacting(_) => Code::Busy,
                DeskError::NotKept(_) => Code::NotKept,
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
            DeskError::NotKept(_) => "this server keeps tweaks only",
            _ => "the index cannot be read: the server's log says more",
        };
        text.to_owned()
    }
}

/// A value that could not be written.
fn encoded(body: Result<Vec<u8>, String>) -> Result<Vec<u8>, NativeError> {
    body.map_err(|text| DeskError::Internal(text).into())
}

type Parameters = Result<Query<Vec<(String, String)>>, QueryRejection>;

/// `from` and `to`, as far as they are given.
fn bounds(parameters: Parameters) -> Result<(Option<u32>, Option<u32>), NativeError> {
    let bad = |text: String| NativeError::BadRequest(text);
    let Query(parameters) = parameters.map_err(|error| bad(error.body_text()))?;
    let (mut from, mut to) = (None, None);
    for (name, value) in parameters {
        let place = match name.as_str() {
            "from" => &mut from,
            "to" => &mut to,
            _ => {
                return Err(bad(format!(
                    "no parameter is called {name:?}; give from and to"
                )));
            }
        };
        let digits = value.bytes().all(|byte| byte.is_ascii_digit());
        let height = value.parse().ok().filter(|_| digits);
        let height = height.ok_or_else(|| bad(format!("{name}={value:?} is no height")))?;
        if place.replace(height).is_some() {
            return Err(bad(format!("{name} is given twice")));
        }
    }
    match (from, to) {
        (Some(from), Some(to)) if from > to => Err(bad("from is above to".to_owned())),
        bounds => Ok(bounds),
    }
}

/// `from` and `to`, of which the other is taken if one is not given, for so many heights at most.
fn range(parameters: Parameters, most: u32) -> Result<(u32, u32), NativeError> {
    let bad = |text: String| NativeError::BadRequest(text);
    let (from, to) = bounds(parameters)?;
    let either = from
        .or(to)
        .ok_or_else(|| bad("give from and to".to_owned()))?;
    let (from, to): (u32, u32) = (from.unwrap_or(either), to.unwrap_or(either));
    match to - from < most {
        true => Ok((from, to)),
        false => Err(bad(format!("more than {most} heights"))),
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
