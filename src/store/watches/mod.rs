//! What is watched, and the log of what happened to it, in the file of the index.
//!
//! Both change in the transaction that changes the chain: a [`Watcher`] is handed each update of it together with a
//! [`WatchLog`] that writes to that transaction. What it makes of the update is its own business; here are rows, and what
//! holds between them. None of it is part of the [content hash](super::Snapshot::content_hash): it is of this file alone, and
//! two indexes of one chain may watch different things.

mod change;
mod check;
mod event;
mod log;
mod read;
mod row;
mod take_over;
#[cfg(test)]
mod tests;
mod writing;

use redb::{TableDefinition, WriteTransaction};

pub use change::{BlockInputs, ChainChange, Committed, InputSpan, Inputs, Spending, Watcher};
pub(super) use check::check;
pub use event::{Confirmed, Event, Gone, Happening, Seen};
pub use log::WatchLog;
pub use row::{
    StartKey, Subject, TAG_BYTES_MAX, TOKEN_NAME_BYTES_MAX, TokenRow, WatchRow, start_key,
};
pub use take_over::TakenOver;

use super::error::Fault;

/// Number of a watch to [`WatchRow`].
pub const WATCHES: TableDefinition<'static, u64, &[u8]> = TableDefinition::new("watches");
/// [`StartKey`] to the number of the watch.
pub const WATCH_STARTS: TableDefinition<'static, &StartKey, u64> =
    TableDefinition::new("watch_starts");
/// Cursor to [`Event`].
pub const EVENTS: TableDefinition<'static, u64, &[u8]> = TableDefinition::new("events");
/// [`EventKey`] by the height of the block of an event that is still true, to nothing.
pub const EVENT_BLOCKS: TableDefinition<'static, &EventKey, ()> =
    TableDefinition::new("event_blocks");
/// [`EventKey`] by the height of the tip at which a confirmed event will be deep, to nothing.
pub const DEEP_DUE: TableDefinition<'static, &EventKey, ()> = TableDefinition::new("deep_due");
/// Name of a consumer to the cursor of the last event that it has taken.
pub const CONSUMERS: TableDefinition<'static, &str, u64> = TableDefinition::new("consumers");
/// SHA-256 of a token to [`TokenRow`].
pub const TOKENS: TableDefinition<'static, &[u8; 32], &[u8]> = TableDefinition::new("tokens");

/// Record of `meta`: number of the next watch, u64 LE. Not there before the first one.
pub(super) const NEXT_WATCH: &str = "next_watch";
/// Cursor of the next event, u64 LE.
pub(super) const NEXT_EVENT: &str = "next_event";
/// Number of the next token, u64 LE.
pub(super) const NEXT_TOKEN: &str = "next_token";
/// The block up to which the log goes: height u32 LE, hash 32 (internal order).
pub(super) const WATCHED_TO: &str = "watched_to";

/// Key of `event_blocks` and `deep_due`, 12 bytes big-endian: height 4, cursor 8.
pub type EventKey = [u8; 12];

/// The key of an event.
pub fn event_key(height: u32, cursor: u64) -> EventKey {
    let mut key = [0; 12];
    key[..4].copy_from_slice(&height.to_be_bytes());
    key[4..].copy_from_slice(&cursor.to_be_bytes());
    key
}

/// Height and cursor of a key.
pub fn split_event_key(key: &EventKey) -> (u32, u64) {
    let [h0, h1, h2, h3, cursor @ ..] = *key;
    (
        u32::from_be_bytes([h0, h1, h2, h3]),
        u64::from_be_bytes(cursor),
    )
}

/// Creates the tables in a file that has none of them.
pub(super) fn create(write: &WriteTransaction) -> Result<(), Fault> {
    write.open_table(WATCHES)?;
    write.open_table(WATCH_STARTS)?;
    write.open_table(EVENTS)?;
    write.open_table(EVENT_BLOCKS)?;
    write.open_table(DEEP_DUE)?;
    write.open_table(CONSUMERS)?;
    write.open_table(TOKENS)?;
    Ok(())
}
