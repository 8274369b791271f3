//! Texts of a peer, and errors that may quote them.

use serde::de::DeserializeOwned;

/// Longest part of a peer's text that goes into an error.
const EXCERPT_CHARS: usize = 200;

/// A text of the peer, fit for one line of a log: shortened, without control characters.
pub fn excerpt(text: &str) -> String {
    let mut excerpt: String = text
        .chars()
        .take(EXCERPT_CHARS)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    if text.chars().nth(EXCERPT_CHARS).is_some() {
        excerpt.push('…');
    }
    excerpt
}

/// Reads JSON; what is wrong with it is fit for a log.
pub(crate) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    serde_json::from_slice(body).map_err(|error| excerpt(&error.to_string()))
}
