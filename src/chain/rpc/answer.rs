//! What a node answers to a call: a result, a refusal, or what is no JSON-RPC.

use serde::Deserialize;

use crate::chain::ChainError;
use crate::chain::http::{Reply, one_line};
use crate::chain::in_flight::Place;

/// RPC_IN_WARMUP: the node is still starting.
const IN_WARMUP: i64 = -28;

/// Why a call has no result.
#[derive(Debug)]
pub(in crate::chain) enum CallError {
    /// The node executed the call and refused.
    Refused { code: i64, message: String },
    /// The node could not be asked.
    Chain(ChainError),
}

impl CallError {
    /// For calls that no sound node refuses.
    pub(in crate::chain) fn unexpected(self, url: &str, method: &str) -> ChainError {
        match self {
            Self::Chain(error) => error,
            Self::Refused { code, message } => {
                ChainError::Mismatch(format!("{url} refuses {method}: {message} (code {code})"))
            }
        }
    }
}

impl From<ChainError> for CallError {
    fn from(error: ChainError) -> Self {
        Self::Chain(error)
    }
}

/// An answer to one call. `result` is missing or null where there is an error.
#[derive(Deserialize)]
pub(super) struct Answer<T> {
    result: Option<T>,
    error: Option<AnswerError>,
}

/// The answer to a call that is no part of a batch. The id comes with errors too, unless the call was not understood.
#[derive(Deserialize)]
struct SingleAnswer<T> {
    id: Option<u64>,
    result: Option<T>,
    error: Option<AnswerError>,
}

#[derive(Deserialize)]
struct AnswerError {
    code: i64,
    message: String,
}

/// One answer of a batch, which may be in any order.
#[derive(Deserialize)]
pub(super) struct BatchAnswer<T> {
    pub(super) id: usize,
    #[serde(flatten)]
    pub(super) answer: Answer<T>,
}

/// The bytes of an answer, not looked at yet.
pub(in crate::chain) struct RawAnswer {
    pub(super) reply: Reply,
    pub(super) url: String,
    pub(super) method: &'static str,
    pub(super) id: u64,
    /// Given back with the bytes.
    pub(super) _place: Place,
}

impl RawAnswer {
    /// The result, which may borrow from the bytes.
    pub(in crate::chain) fn result<'a, T: Deserialize<'a>>(&'a self) -> Result<T, CallError> {
        let (url, method, reply) = (&self.url, self.method, &self.reply);
        let SingleAnswer { id, result, error } =
            serde_json::from_slice(&reply.body).map_err(|e| not_json(url, method, reply, &e))?;
        let is_answer = id == Some(self.id) || id.is_none() && result.is_none();
        match is_answer {
            true => Answer { result, error }.into_result(url, method),
            false => Err(ChainError::Mismatch(format!(
                "{url} answers another call than this {method}; is --rpc-url a Bitcoin Core node?"
            ))
            .into()),
        }
    }
}

impl<T> Answer<T> {
    /// The result of a call that may answer with nothing.
    pub(super) fn into_nullable(self, url: &str, method: &str) -> Result<Option<T>, CallError> {
        match (&self.error, &self.result) {
            (None, None) => Ok(None),
            _ => self.into_result(url, method).map(Some),
        }
    }

    pub(super) fn into_result(self, url: &str, method: &str) -> Result<T, CallError> {
        match (self.error, self.result) {
            (None, Some(result)) => Ok(result),
            (None, None) => Err(ChainError::Mismatch(format!(
                "{url} answers {method} without a result; is --rpc-url a Bitcoin Core node?"
            ))
            .into()),
            (
                Some(AnswerError {
                    code: IN_WARMUP,
                    message,
                }),
                _,
            ) => Err(ChainError::Unreachable(format!(
                "{url}: the node is starting: {}",
                one_line(&message)
            ))
            .into()),
            (Some(AnswerError { code, message }), _) => Err(CallError::Refused {
                code,
                message: one_line(&message),
            }),
        }
    }
}

/// What an answer means that does not parse.
pub(super) fn not_json(
    url: &str,
    method: &str,
    reply: &Reply,
    error: &serde_json::Error,
) -> ChainError {
    let status = reply.status.as_u16();
    match reply.status {
        status if status.is_success() => ChainError::Mismatch(format!(
            "{url} answers {method} with what no Bitcoin Core node says ({}); check --rpc-url",
            one_line(&error.to_string())
        )),
        _ if reply.is_passing() => ChainError::Unreachable(format!(
            "{url}: the node is starting, stopping or busy (HTTP {status}: {})",
            reply.reason()
        )),
        _ => ChainError::Mismatch(format!(
            "{url} answers {method} with HTTP {status} and no JSON-RPC; is --rpc-url a Bitcoin Core node?"
        )),
    }
}
