//! Bodies of the native protocol in JSON, its events, and what a folder of exported files says of itself: what is read is written, and read again as the same.

use bitcoin::{OutPoint, Txid, hashes::Hash};
use spindex::wire::native::manifest::{List, ListName, Manifest};
use spindex::wire::native::{
    Birthday, Block, Commitments, Digest, Event, Info, Outpoint, Process, Refusal, Transaction,
    read_cursor, write_cursor,
};
use spindex::wire::v1::decode_error;

use super::answers::comes_back;
use super::input::Input;

/// Decoders to choose from.
pub(crate) const INFO: u8 = 0;
pub(crate) const BLOCK: u8 = 1;
pub(crate) const DIGEST: u8 = 2;
pub(crate) const COMMITMENTS: u8 = 3;
pub(crate) const PROCESS: u8 = 4;
pub(crate) const OUTPOINT: u8 = 5;
pub(crate) const TRANSACTION: u8 = 6;
pub(crate) const BIRTHDAY: u8 = 7;
pub(crate) const REFUSAL: u8 = 8;
pub(crate) const CURSOR: u8 = 9;
pub(crate) const EVENT: u8 = 10;
pub(crate) const MANIFEST: u8 = 11;
pub(crate) const LIST: u8 = 12;
const DECODERS: u8 = 13;

/// Names of events, of which the last one is not known.
pub(crate) const EVENTS: [&str; 5] = ["tip", "reorg", "reset", "lagged", "more"];

/// Whether a body is read. The input: which decoder (1 byte), what was asked for, and the body. Asked for are: of `digest` and
/// `height?time=` a number (4 bytes), of `commitments` the first height (4 bytes) and how many more (1 byte), of a process and
/// an outpoint a txid and a vout (32 and 4 bytes), of a transaction a txid (32 bytes); of an event its name (1 byte); of a list of exported
/// files the first chunk (4 bytes), how many more (1 byte) and the number of columns (1 byte). Numbers are little-endian, txids in internal order.
pub(crate) fn check(input: &[u8]) -> bool {
    let mut input = Input(input);
    read(&mut input).unwrap_or(false)
}

fn read(input: &mut Input<'_>) -> Option<bool> {
    let decoder = input.byte()? % DECODERS;
    Some(match decoder {
        INFO => info(input.0),
        BLOCK => comes_back(input.0, Block::decode, Block::encode),
        DIGEST => {
            let height = number(input)?;
            let decode = |body: &[u8]| Digest::decode(body, height);
            comes_back(input.0, decode, Digest::encode)
        }
        COMMITMENTS => {
            let from = number(input)?;
            let to = from.saturating_add(input.byte()?.into());
            let decode = |body: &[u8]| Commitments::decode(body, from, to);
            comes_back(input.0, decode, Commitments::encode)
        }
        PROCESS => {
            let start = outpoint(input)?;
            let decode = |body: &[u8]| Process::decode(body, start);
            comes_back(input.0, decode, Process::encode)
        }
        OUTPOINT => {
            let outpoint = outpoint(input)?;
            let decode = |body: &[u8]| Outpoint::decode(body, outpoint);
            comes_back(input.0, decode, Outpoint::encode)
        }
        TRANSACTION => {
            let txid = Txid::from_byte_array(input.array()?);
            let decode = |body: &[u8]| Transaction::decode(body, txid);
            comes_back(input.0, decode, Transaction::encode)
        }
        BIRTHDAY => {
            let time = number(input)?;
            let decode = |body: &[u8]| Birthday::decode(body, time);
            comes_back(input.0, decode, Birthday::encode)
        }
        REFUSAL => refusal(input.0),
        CURSOR => cursor(input.0),
        MANIFEST => comes_back(input.0, Manifest::decode, Manifest::encode),
        LIST => {
            let first = number(input)?;
            let last = first.saturating_add(input.byte()?.into());
            let columns = input.byte()?.into();
            // A list is named after its bytes.
            let decode =
                |body: &[u8]| List::decode(body, &ListName::of(first, last, body), columns);
            comes_back(input.0, decode, List::encode)
        }
        _ => {
            let name = EVENTS[usize::from(input.byte()?) % EVENTS.len()];
            event(name, std::str::from_utf8(input.0).ok()?)
        }
    })
}

fn number(input: &mut Input<'_>) -> Option<u32> {
    Some(u32::from_le_bytes(input.array()?))
}

fn outpoint(input: &mut Input<'_>) -> Option<OutPoint> {
    let txid = Txid::from_byte_array(input.array()?);
    Some(OutPoint::new(txid, number(input)?))
}

fn info(body: &[u8]) -> bool {
    comes_back(body, Info::decode, Info::encode)
}

/// Whoever knows version 1 alone reads the message too.
fn refusal(body: &[u8]) -> bool {
    let encode = |refusal: &Refusal| {
        let written = refusal.encode();
        let message = decode_error(&written).expect("a refusal");
        assert!(!message.chars().any(char::is_control), "{message:?}");
        let is_short = refusal.message.chars().count() <= 200;
        let is_plain = !refusal.message.chars().any(char::is_control);
        assert_eq!(message == refusal.message, is_short && is_plain);
        Ok(written)
    };
    comes_back(body, Refusal::decode, encode)
}

fn cursor(text: &[u8]) -> bool {
    let decode = |text: &[u8]| {
        let text = std::str::from_utf8(text).map_err(|error| error.to_string())?;
        read_cursor(text).ok_or_else(|| "no cursor".to_owned())
    };
    comes_back(text, decode, |block| Ok(write_cursor(block).into_bytes()))
}

/// The name is that of what is read, and one that is not known is passed over.
fn event(name: &str, data: &str) -> bool {
    let decode = |data: &[u8]| {
        let data = std::str::from_utf8(data).expect("it was, and is written so");
        let event = Event::decode(name, data)?;
        assert_eq!(event.is_some(), name != "more");
        event.ok_or_else(|| "an event of a later program".to_owned())
    };
    let encode = |event: &Event| {
        assert_eq!(event.name(), name);
        let data = event.encode()?;
        assert!(!data.contains(['\n', '\r']), "an event's data is one line");
        Ok(data.into_bytes())
    };
    comes_back(data.as_bytes(), decode, encode)
}
