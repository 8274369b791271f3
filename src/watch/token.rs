//! Tokens: 32 random bytes, of which the index keeps no more than the hash.

use std::fmt;

use bitcoin::hashes::{Hash, sha256};
use bitcoin::hex::{DisplayHex, FromHex};
use secp256k1::rand::{RngCore, thread_rng};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::store::watches::TokenRow;
use crate::wire::native::{NewToken, Scope, TokenEntry};

/// What the text of every token begins with, so that it is known for one where it is not meant to be.
const MARK: &str = "spx_";

/// A token. Neither shown nor logged.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct Token([u8; 32]);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

impl Token {
    /// A new one.
    pub fn random() -> Self {
        let mut bytes = [0; 32];
        thread_rng().fill_bytes(&mut bytes);
        let token = Self(bytes);
        bytes.zeroize();
        token
    }

    /// The token of a text, with nothing around it; `None` for any other text.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix(MARK)?;
        <[u8; 32]>::from_hex(digits).ok().map(Self)
    }

    /// Its text: `spx_` and 64 hex digits.
    pub fn text(&self) -> Zeroizing<String> {
        Zeroizing::new(format!("{MARK}{}", self.0.as_hex()))
    }

    /// Its SHA-256, under which it is looked up: how long that takes tells nothing of the token.
    pub fn hash(&self) -> [u8; 32] {
        sha256::Hash::hash(&self.0).to_byte_array()
    }
}

const fn bit(scope: Scope) -> u64 {
    match scope {
        Scope::Watch => 1,
        Scope::Read => 2,
        Scope::Admin => 4,
    }
}

/// Whether a token allows something.
pub const fn allows(row: &TokenRow, scope: Scope) -> bool {
    row.scopes & bit(scope) != 0
}

/// The row of a token that is to be made; its number is given when it is written.
pub fn token_row(new: &NewToken) -> TokenRow {
    TokenRow {
        number: 0,
        owner: new.owner,
        scopes: new
            .scopes
            .iter()
            .fold(0, |scopes, scope| scopes | bit(*scope)),
        watches_max: new.watches_max,
        streams_max: new.streams_max,
        name: new.name.clone(),
    }
}

/// What is said of a token.
pub fn token_entry(row: &TokenRow) -> TokenEntry {
    let scopes = Scope::ALL.into_iter().filter(|scope| allows(row, *scope));
    TokenEntry {
        number: row.number,
        owner: row.owner(),
        name: row.name.clone(),
        scopes: scopes.collect(),
        watches_max: row.watches_max,
        streams_max: row.streams_max,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_its_text_and_shows_nothing() {
        let token = Token::random();
        assert_ne!(token, Token::random());
        let text = token.text();
        assert_eq!(text.len(), 68);
        assert_eq!(Token::parse(&text), Some(token.clone()));
        let digits = text.strip_prefix(MARK).unwrap();
        assert!(!format!("{token:?}").contains(digits));
        for wrong in [digits, &text[..67], &format!("{}0", &*text), "spx_", ""] {
            assert_eq!(Token::parse(wrong), None);
        }
        // As `printf` and `sha256sum` have it.
        let zeros = Token::parse(&format!("{MARK}{}", "00".repeat(32))).unwrap();
        assert_eq!(
            zeros.hash().to_lower_hex_string(),
            "66687aadf862bd776c8fc18b8e9f8e20089714856ee233b3902a591d0d5f2925"
        );
    }

    #[test]
    fn a_row_allows_what_was_asked_for() {
        let new = NewToken {
            name: "a relay".to_owned(),
            scopes: vec![Scope::Read, Scope::Admin, Scope::Read],
            watches_max: 7,
            streams_max: 2,
            owner: Some(4),
        };
        let row = TokenRow {
            number: 9,
            ..token_row(&new)
        };
        assert!(allows(&row, Scope::Read) && allows(&row, Scope::Admin));
        assert!(!allows(&row, Scope::Watch));
        let entry = token_entry(&row);
        assert_eq!((entry.number, entry.owner), (9, 4));
        assert_eq!(entry.scopes, [Scope::Read, Scope::Admin]);
        let own = TokenRow { owner: None, ..row };
        assert_eq!(token_entry(&own).owner, 9);
    }
}
