//! The native protocol, `/spindex/v1`. A request is decoded here, asked of the desk, and answered in the bytes of
//! [`crate::wire::native`].

use std::time::Duration;

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use bitcoin::OutPoint;

use super::answers::Question;
use super::{Context, Refusal, Route, on_get};
use crate::api::desk::{DeskError, Reading};
use crate::wire::native::{self, Code, Commitments, Link, Links, Process, Step};

/// Most blocks of one answer: a day of them, as each is read and hashed.
const BLOCKS_MAX: u32 = 144;
/// Most steps of one answer.
const STEPS_MAX: usize = 1_000;

/// Path and handler of each route.
pub(super) fn routes() -> Vec<Route> {
    let get = |path, handler| Route::get(path, handler);
    vec![
        get("/commitments", on_get(commitments)),
        get("/process/{outpoint}", on_get(process)),
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

/// `from` and `to`, of which the other is taken if one is not given.
fn range(parameters: Parameters) -> Result<(u32, u32), NativeError> {
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
    let either = from
        .or(to)
        .ok_or_else(|| bad("give from and to".to_owned()))?;
    let (from, to): (u32, u32) = (from.unwrap_or(either), to.unwrap_or(either));
    match to.checked_sub(from) {
        Some(more) if more < BLOCKS_MAX => Ok((from, to)),
        Some(_) => Err(bad(format!("more than {BLOCKS_MAX} heights"))),
        None => Err(bad("from is above to".to_owned())),
    }
}

/// `GET /spindex/v1/commitments?from=&to=`.
async fn commitments(
    State(context): State<Context>,
    parameters: Parameters,
    headers: HeaderMap,
) -> Response {
    let (from, to) = match range(parameters) {
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
    let status = reading.status()?;
    if height > status.tip.height {
        let tip = status.tip.height;
        return Err(NativeError::AboveTip { height, tip });
    }
    let block = match reading.block(height) {
        Err(DeskError::UnknownHeight { .. }) => {
            let text = format!("height {height} is below the first one of this server");
            return Err(NativeError::Never(text));
        }
        block => block?,
    };
    let (commitments, heads) = block.commitments()?.ok_or_else(|| {
        NativeError::Never(format!(
            "the chains of this server do not reach to height {height}"
        ))
    })?;
    let link = |commitment, head| Link { commitment, head };
    Ok(Links {
        block: block.id(),
        v1: link(commitments.v1, heads.v1),
        v2: commitments
            .v2
            .zip(heads.v2)
            .map(|(commitment, head)| link(commitment, head)),
    })
}

/// `GET /spindex/v1/process/{txid}:{vout}`.
async fn process(
    State(context): State<Context>,
    path: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Response {
    let outpoint = path.ok().and_then(|Path(text)| text.parse().ok());
    let Some(start) = outpoint else {
        let text = "no outpoint: give txid and vout, as txid:vout".to_owned();
        return context.refuse(&headers, &NativeError::BadRequest(text));
    };
    let answer = move |reading: &Reading<'_>| {
        // Before there is a block, nothing can be said of any outpoint.
        reading.status()?;
        encoded(of_process(reading, start)?.encode())
    };
    context
        .answer(&headers, Question::Process(start), answer)
        .await
}

fn of_process(reading: &Reading<'_>, start: OutPoint) -> Result<Process, NativeError> {
    let process = reading.process(start, STEPS_MAX)?;
    let steps = process.steps.into_iter().map(|(spend, state)| Step {
        block: spend.block,
        txid: state.txid,
        transaction: state.transaction,
        input: spend.spend.spender.map_or(0, |spender| spender.input),
        vout: state.vout,
        state_id: state.state_id,
    });
    Ok(Process {
        start,
        steps: steps.collect(),
        tip: process.tip,
        more: process.more,
        known_from: process.known_from,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_strict() {
        let asked = |pairs: &[(&str, &str)]| {
            let pairs = pairs.iter();
            let pairs = pairs.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            range(Ok(Query(pairs.collect()))).ok()
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
