//! How a refusal looks in version 1: a status and a text.

use std::borrow::Cow;
use std::time::Duration;

use axum::http::StatusCode;

use crate::api::desk::DeskError;
use crate::api::http::Refusal;
use crate::wire::v1::{self, words};

/// The text of every fault of the index; the doubled word is what deployed clients have always been sent.
const DATABASE_FAULT: &str = "could could not retrieve data from database";

/// Why a request of version 1 is refused.
#[derive(Debug, thiserror::Error)]
pub(in crate::api::http) enum V1Error {
    /// The height is not a decimal u32.
    #[error("the height is not a decimal number up to {}", u32::MAX)]
    HeightSyntax,
    /// The dust limit is not a decimal u64.
    #[error("the dust limit is not a decimal number up to {}", u64::MAX)]
    DustLimitSyntax,
    /// Neither `spent` nor `new-utxos`.
    #[error("no such filter type")]
    FilterKindSyntax,
    /// The body of a broadcast request has no transaction in it.
    #[error("no transaction in the request: {0}")]
    TransactionSyntax(&'static str),
    /// The body of a broadcast request is larger than any transaction a node relays.
    #[error("the request is larger than {limit_bytes} bytes")]
    BodyTooLarge {
        /// The largest body taken.
        limit_bytes: usize,
    },
    /// The body of a broadcast request did not arrive in time.
    #[error("the request did not arrive in time")]
    BodyTooSlow,
    /// The body of a broadcast request ended early.
    #[error("the request was cut off")]
    BodyLost,
    /// Other large bodies are being received.
    #[error("too many large requests at the same time")]
    TooManyBodies,
    /// A filter could not be had.
    #[error("filter: {0}")]
    Filter(#[source] DeskError),
    /// The desk has no answer.
    #[error(transparent)]
    Desk(#[from] DeskError),
}

impl Refusal for V1Error {
    fn status(&self) -> StatusCode {
        match self {
            Self::HeightSyntax
            | Self::DustLimitSyntax
            | Self::FilterKindSyntax
            | Self::TransactionSyntax(_)
            | Self::BodyLost => StatusCode::BAD_REQUEST,
            Self::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodyTooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::TooManyBodies => StatusCode::SERVICE_UNAVAILABLE,
            Self::Filter(error) | Self::Desk(error) => match error {
                DeskError::Rejected(_) => StatusCode::BAD_REQUEST,
                DeskError::NotKept(_) => StatusCode::NOT_IMPLEMENTED,
                DeskError::NothingIndexed
                | DeskError::NoNode
                | DeskError::Compacting(_)
                | DeskError::NotLocated(_) => StatusCode::SERVICE_UNAVAILABLE,
                DeskError::BlockFailed { .. } | DeskError::SpendsMismatch { .. } => {
                    StatusCode::BAD_GATEWAY
                }
                DeskError::UnknownHeight { .. }
                | DeskError::Store(_)
                | DeskError::Incomplete { .. }
                | DeskError::BroadcastFailed(_)
                | DeskError::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
            },
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::TooManyBodies => Some(Duration::from_secs(5)),
            Self::Filter(error) | Self::Desk(error) => error.retry_after(),
            _ => None,
        }
    }

    fn body(&self) -> Vec<u8> {
        v1::encode_error(&self.text())
    }

    fn log(&self) {
        if let Self::Filter(error) | Self::Desk(error) = self {
            error.log();
        }
    }
}

impl V1Error {
    /// The text for the peer: fixed words, or what the peer itself caused.
    fn text(&self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::HeightSyntax => "could not parse block height",
            Self::DustLimitSyntax => "Invalid dustLimit parameter",
            Self::FilterKindSyntax => "invalid filter type",
            Self::TransactionSyntax(what) => what,
            Self::BodyTooLarge { .. } => "the request is too large for a transaction",
            Self::BodyTooSlow => "the request did not arrive in time",
            Self::BodyLost => "the request was cut off",
            Self::TooManyBodies => "too many large requests at the same time, try again later",
            Self::Filter(DeskError::Store(_)) => words::NO_FILTER,
            Self::Filter(error) | Self::Desk(error) => return desk_text(error),
        })
    }
}

fn desk_text(error: &DeskError) -> Cow<'static, str> {
    Cow::Borrowed(match error {
        DeskError::UnknownHeight { .. } => words::UNKNOWN_HEADER,
        DeskError::NothingIndexed => {
            "no block is indexed yet: while the first sync of this server is under way, try again later"
        }
        DeskError::Store(_) | DeskError::Incomplete { .. } => DATABASE_FAULT,
        DeskError::NotKept(_) => {
            "this server keeps tweaks only, see /info; ask for /tweak-index without a dust limit"
        }
        DeskError::Compacting(_) => "the index is being compacted, try again in a few minutes",
        DeskError::NotLocated(_) => "the first sync of this server is under way, try again later",
        DeskError::Rejected(reason) => return Cow::Owned(reason.clone()),
        DeskError::NoNode => words::NO_NODE,
        DeskError::BroadcastFailed(_) => "the node could not be reached, try again later",
        DeskError::BlockFailed { .. } => words::NO_BLOCK,
        DeskError::SpendsMismatch { .. } => words::OTHER_BLOCK,
        DeskError::Internal(_) => "internal fault",
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::ChainError;

    #[test]
    fn faults_of_the_node_keep_its_address_off_the_wire() {
        let secret = "http://user:password@10.0.0.1:8332";
        let failed = DeskError::BroadcastFailed(ChainError::Unreachable(secret.into()));
        let error = V1Error::from(failed);
        assert!(error.to_string().contains(secret));
        assert!(!error.text().contains("10.0.0.1"));
    }
}
