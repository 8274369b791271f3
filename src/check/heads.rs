//! An index held against a head that somebody else has published.

use std::str::FromStr;

use bitcoin::hex::{DisplayHex, FromHex};
use serde::Serialize;

use crate::store::{Snapshot, StoreError};

/// A head at a height, as `HEIGHT:HEX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublishedHead {
    /// The height.
    pub height: u32,
    /// The head, of whichever version.
    pub head: [u8; 32],
}

impl FromStr for PublishedHead {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no head: give it as HEIGHT:HEX, with 64 hex digits");
        let (height, head) = text.split_once(':').ok_or_else(wrong)?;
        let digits = height.bytes().all(|byte| byte.is_ascii_digit());
        Ok(Self {
            height: height.parse().ok().filter(|_| digits).ok_or_else(wrong)?,
            head: <[u8; 32]>::from_hex(head).map_err(|_| wrong())?,
        })
    }
}

/// What an index says of a published head.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HeadCheck {
    /// The height.
    pub height: u32,
    /// The published head, as hex.
    pub head: String,
    /// The version of which the index has this very head there; `None` if it has it of none.
    pub version: Option<u8>,
    /// The index's own heads of versions 1 and 2, as hex; `None` where it has none.
    pub own: [Option<String>; 2],
}

/// Holds an index against a published head.
///
/// # Errors
/// The index cannot be read.
pub fn check_head(snapshot: &Snapshot, published: PublishedHead) -> Result<HeadCheck, StoreError> {
    let block = snapshot.block(published.height)?;
    let heads = match block {
        Some(block) => block.heads()?,
        None => None,
    };
    let own = [
        heads.map(|heads| heads.v1),
        heads.and_then(|heads| heads.v2),
    ];
    let version = match own.map(|own| own == Some(published.head)) {
        [true, _] => Some(1),
        [_, true] => Some(2),
        _ => None,
    };
    Ok(HeadCheck {
        height: published.height,
        head: published.head.to_lower_hex_string(),
        version,
        own: own.map(|own| own.map(|own| own.to_lower_hex_string())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_read_strictly() {
        let digits = "0a".repeat(32);
        let read: PublishedHead = format!("750000:{digits}").parse().unwrap();
        assert_eq!((read.height, read.head), (750_000, [10; 32]));
        for wrong in [
            digits.clone(),
            format!("+7:{digits}"),
            format!(":{digits}"),
            format!("7:{digits}0a"),
            format!("4294967296:{digits}"),
            "7:".to_owned(),
        ] {
            assert!(wrong.parse::<PublishedHead>().is_err(), "{wrong}");
        }
    }
}
