//! Tokens: who may do what.

use std::fmt;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::wire::text::parse;

/// Longest name of a token in bytes of UTF-8.
pub const TOKEN_NAME_BYTES_MAX: usize = 64;
/// Longest body of a request for a token.
pub const TOKEN_BYTES_MAX: usize = 4 << 10;

/// Something that a token allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// To register and to remove watches.
    Watch,
    /// To list watches, and to read what happened to them.
    Read,
    /// To make tokens, to list them and to revoke them.
    Admin,
}

impl Scope {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Watch, Self::Read, Self::Admin];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Watch => "watch",
            Self::Read => "read",
            Self::Admin => "admin",
        }
    }

    /// The scope of a name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.name() == name)
    }
}

/// A token to be made: body of `POST /spindex/v1/tokens`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewToken {
    /// For people, [`TOKEN_NAME_BYTES_MAX`] at most.
    pub name: String,
    /// What it allows.
    pub scopes: Vec<Scope>,
    /// How many watches its owner may have.
    pub watches_max: u64,
    /// How many streams it may have open at a time.
    pub streams_max: u32,
    /// Whose watches it is about, by number; `None` for its own.
    pub owner: Option<u32>,
}

impl NewToken {
    /// Writes it.
    ///
    /// # Errors
    /// None at present.
    pub fn encode(&self) -> Result<Vec<u8>, String> {
        serde_json::to_vec(self).map_err(|error| error.to_string())
    }

    /// Reads it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(body: &[u8]) -> Result<Self, String> {
        let new: Self = parse(body)?;
        new.check()?;
        Ok(new)
    }

    /// Whether there can be such a token.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self) -> Result<(), String> {
        if self.name.len() > TOKEN_NAME_BYTES_MAX || self.name.chars().any(char::is_control) {
            return Err(format!(
                "the name of a token has {TOKEN_NAME_BYTES_MAX} bytes at most, and no control characters"
            ));
        }
        if self.scopes.is_empty() {
            return Err("a token without a scope allows nothing".to_owned());
        }
        if self.owner == Some(u32::MAX) {
            return Err(format!("there is no owner {}", u32::MAX));
        }
        Ok(())
    }
}

/// A token that was made; its text is said this once.
#[derive(Clone, PartialEq, Eq)]
pub struct MadeToken {
    /// Its number.
    pub number: u32,
    /// What its bearer gives as `Authorization: Bearer`.
    pub token: Zeroizing<String>,
}

impl fmt::Debug for MadeToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = f.debug_struct("MadeToken");
        text.field("number", &self.number).finish_non_exhaustive()
    }
}

#[derive(Serialize)]
struct MadeBody<'a> {
    number: u32,
    token: &'a str,
}

#[derive(Deserialize)]
struct MadeRead {
    number: u32,
    token: String,
}

impl MadeToken {
    /// Writes it.
    ///
    /// # Errors
    /// None at present.
    pub fn encode(&self) -> Result<Vec<u8>, String> {
        let body = MadeBody {
            number: self.number,
            token: &self.token,
        };
        serde_json::to_vec(&body).map_err(|error| error.to_string())
    }

    /// Reads it.
    ///
    /// # Errors
    /// That it is none; nothing of it is said.
    pub fn decode(body: &[u8]) -> Result<Self, String> {
        let read = serde_json::from_slice::<MadeRead>(body);
        let MadeRead { number, token } = read.map_err(|_| "no token was made".to_owned())?;
        Ok(Self {
            number,
            token: token.into(),
        })
    }
}

/// A token without its text, which nobody keeps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenEntry {
    /// Its number.
    pub number: u32,
    /// Whose watches it is about.
    pub owner: u32,
    /// For people.
    pub name: String,
    /// What it allows.
    pub scopes: Vec<Scope>,
    /// How many watches its owner may have.
    pub watches_max: u64,
    /// How many streams it may have open at a time.
    pub streams_max: u32,
}

#[derive(Serialize, Deserialize)]
struct ListBody {
    tokens: Vec<TokenEntry>,
}

impl TokenEntry {
    /// Writes the answer of `GET /spindex/v1/tokens`.
    ///
    /// # Errors
    /// None at present.
    pub fn encode_all(tokens: Vec<Self>) -> Result<Vec<u8>, String> {
        serde_json::to_vec(&ListBody { tokens }).map_err(|error| error.to_string())
    }

    /// Reads it.
    ///
    /// # Errors
    /// What is wrong with the body.
    pub fn decode_all(body: &[u8]) -> Result<Vec<Self>, String> {
        Ok(parse::<ListBody>(body)?.tokens)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies() {
        let new = NewToken {
            name: "a relay".to_owned(),
            scopes: vec![Scope::Watch, Scope::Read],
            watches_max: 10_000,
            streams_max: 16,
            owner: None,
        };
        let text = r#"{"name":"a relay","scopes":["watch","read"],"watches_max":10000,"streams_max":16,"owner":null}"#;
        assert_eq!(String::from_utf8(new.encode().unwrap()).unwrap(), text);
        assert_eq!(NewToken::decode(text.as_bytes()), Ok(new.clone()));
        for wrong in [
            text.replace(r#""watch","read""#, ""),
            text.replace("read", "write"),
            text.replace("a relay", &"x".repeat(65)),
            text.replace("a relay", "\\u0007"),
            text.replace("null", "4294967295"),
            text.replace("null", r#"null,"more":1"#),
        ] {
            assert!(NewToken::decode(wrong.as_bytes()).is_err(), "{wrong}");
        }
        let made = MadeToken {
            number: 3,
            token: "spx_secret".to_owned().into(),
        };
        let text = r#"{"number":3,"token":"spx_secret"}"#;
        assert_eq!(String::from_utf8(made.encode().unwrap()).unwrap(), text);
        assert_eq!(MadeToken::decode(text.as_bytes()), Ok(made.clone()));
        assert!(!format!("{made:?}").contains("secret"));
        let error = MadeToken::decode(br#"{"number":"spx_secret"}"#).unwrap_err();
        assert!(!error.contains("secret"));
        let entry = TokenEntry {
            number: 3,
            owner: 3,
            name: new.name,
            scopes: new.scopes,
            watches_max: 10_000,
            streams_max: 16,
        };
        let text = r#"{"tokens":[{"number":3,"owner":3,"name":"a relay","scopes":["watch","read"],"watches_max":10000,"streams_max":16}]}"#;
        let encoded = TokenEntry::encode_all(vec![entry.clone()]).unwrap();
        assert_eq!(String::from_utf8(encoded).unwrap(), text);
        assert_eq!(TokenEntry::decode_all(text.as_bytes()), Ok(vec![entry]));
    }
}
