//! The native protocol, `/spindex/v1`: JSON of answers and refusals.

mod block;
pub mod column;
mod commitments;
mod event_stream;
mod events;
mod info;
mod lookup;
pub mod manifest;
mod process;
mod proof;
pub mod section;
pub mod selection;
mod tokens;
mod watch_events;
mod watches;

use std::fmt;

use serde::{Deserialize, Serialize};

use super::text::parse;

pub use block::{Block, Counts, Digest};
pub use commitments::{Commitments, Link, Links};
pub use event_stream::{EVENT_BYTES_MAX, EventReader, Told};
pub use events::{Event, read_cursor, write_cursor};
pub use info::{Heads, Info, Server};
pub use lookup::{
    Birthday, CarriedState, Created, Outpoint, OutpointState, Output, Spend, Spender, Transaction,
};
pub use process::{Process, Step};
pub use proof::{PROOF_BYTES_MAX, read_proof, write_proof};
pub use tokens::{MadeToken, NewToken, Scope, TOKEN_BYTES_MAX, TOKEN_NAME_BYTES_MAX, TokenEntry};
pub use watch_events::{
    ConfirmedSpend, EVENTS_PAGE_MAX, EventPage, GoneWhy, LogCut, SeenSpend, WatchEvent,
    WatchHappening,
};
pub use watches::{
    Follow, REGISTRATION_BYTES_MAX, REGISTRATIONS_MAX, REMOVAL_BYTES_MAX, Registered, Registration,
    Removal, TAG_BYTES_MAX, WATCHES_PAGE_MAX, Watch, WatchPage,
};

/// Where its routes stand.
pub const PREFIX: &str = "/spindex/v1";

/// Why a request is refused, for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// The request cannot be understood or asks for too much.
    BadRequest,
    /// The height is above the tip, or nothing is indexed at all.
    NotYetIndexed,
    /// The height is below the first one of this server.
    NeverIndexed,
    /// There is no such thing in the index, and it could tell.
    Unknown,
    /// The block was in the chain, and is not any more.
    ReorganisedAway,
    /// No token, or one that is not known.
    Unauthorized,
    /// The token does not allow it.
    Forbidden,
    /// More than this token may have, or one request may find.
    Limit,
    /// The outpoint is watched already in another way.
    Conflict,
    /// Events behind the cursor were cut off the log.
    Cut,
    /// This server does not keep what is asked for, or what it takes to find it.
    NotKept,
    /// Not now; `Retry-After` says when.
    Busy,
    /// A fault of this server or of its node.
    Internal,
}

/// A request that is refused: `{"error":{"code":"…","message":"…"}}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// For programs.
    pub code: Code,
    /// For people.
    pub message: String,
}

#[derive(Serialize, Deserialize)]
struct Refused {
    error: Refusal,
}

impl Refusal {
    /// Writes it.
    pub fn encode(&self) -> Vec<u8> {
        let refused = Refused {
            error: self.clone(),
        };
        // Of texts alone, which can be written.
        serde_json::to_vec(&refused).unwrap_or_default()
    }

    /// Reads it.
    ///
    /// # Errors
    /// What is wrong with the body.
    pub fn decode(body: &[u8]) -> Result<Self, String> {
        let refused: Refused = parse(body)?;
        Ok(refused.error)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod vectors;
