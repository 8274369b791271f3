//! Bodies in JSON about watches, their events and tokens, both of requests and of answers: what is read is written, and read
//! again as the same.

use spindex::wire::native::{
    EventPage, LogCut, MadeToken, NewToken, Registered, Registration, Removal, TokenEntry, Watch,
    WatchEvent, WatchPage,
};

use super::answers::comes_back;
use super::input::Input;

/// Decoders to choose from.
pub(crate) const REGISTRATIONS: u8 = 0;
pub(crate) const REGISTERED: u8 = 1;
pub(crate) const WATCH: u8 = 2;
pub(crate) const WATCH_PAGE: u8 = 3;
pub(crate) const REMOVAL: u8 = 4;
pub(crate) const EVENT: u8 = 5;
pub(crate) const EVENT_PAGE: u8 = 6;
pub(crate) const CUT: u8 = 7;
pub(crate) const NEW_TOKEN: u8 = 8;
pub(crate) const MADE_TOKEN: u8 = 9;
pub(crate) const TOKENS: u8 = 10;
const DECODERS: u8 = 11;

/// Whether a body is read. The input: which decoder (1 byte), what was asked for, and the body. Asked for are: of what was
/// registered how many (1 byte), of a page of events the cursor (8 bytes, little-endian).
pub(crate) fn check(input: &[u8]) -> bool {
    let mut input = Input(input);
    read(&mut input).unwrap_or(false)
}

fn read(input: &mut Input<'_>) -> Option<bool> {
    let decoder = input.byte()? % DECODERS;
    Some(match decoder {
        REGISTRATIONS => {
            let encode = |all: &Vec<Registration>| Registration::encode_all(all);
            comes_back(input.0, Registration::decode_all, encode)
        }
        REGISTERED => {
            let asked = input.byte()?.into();
            let decode = |body: &[u8]| Registered::decode_all(body, asked);
            comes_back(input.0, decode, |all| Registered::encode_all(all))
        }
        WATCH => comes_back(input.0, Watch::decode, Watch::encode),
        WATCH_PAGE => comes_back(input.0, WatchPage::decode, WatchPage::encode),
        REMOVAL => comes_back(input.0, Removal::decode, Removal::encode),
        EVENT => event(input.0),
        EVENT_PAGE => {
            let after = u64::from_le_bytes(input.array()?);
            let decode = |body: &[u8]| EventPage::decode(body, after);
            comes_back(input.0, decode, EventPage::encode)
        }
        CUT => comes_back(input.0, LogCut::decode, |cut: &LogCut| {
            cut.encode().map(String::into_bytes)
        }),
        NEW_TOKEN => comes_back(input.0, NewToken::decode, NewToken::encode),
        MADE_TOKEN => comes_back(input.0, MadeToken::decode, MadeToken::encode),
        _ => {
            let encode = |all: &Vec<TokenEntry>| TokenEntry::encode_all(all.clone());
            comes_back(input.0, TokenEntry::decode_all, encode)
        }
    })
}

/// One of a name that is not known is passed over.
fn event(body: &[u8]) -> bool {
    let decode = |body: &[u8]| {
        let event = WatchEvent::decode(body)?;
        event.ok_or_else(|| "an event of a later program".to_owned())
    };
    let encode = |event: &WatchEvent| {
        let text = event.encode()?;
        assert!(!text.contains(['\n', '\r']), "an event is one line");
        Ok(text.into_bytes())
    };
    comes_back(body, decode, encode)
}
