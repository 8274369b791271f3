//! What holds of every decoder of texts, whatever the protocol.

use std::fmt::Debug;

use super::allocation::bounded;

/// Longest text of an error, in characters: one line of a log.
const ERROR_CHARS: usize = 300;

/// Whether a body is read. What is read is written, and read again as the same value, which is written to the same bytes;
/// reading takes memory for the body and no more; and an error is a short line, whatever the body says.
pub(crate) fn comes_back<T: PartialEq + Debug>(
    body: &[u8],
    decode: impl Fn(&[u8]) -> Result<T, String>,
    encode: impl Fn(&T) -> Result<Vec<u8>, String>,
) -> bool {
    let value = match bounded(body.len(), || decode(body)) {
        Ok(value) => value,
        Err(error) => {
            assert!(!error.chars().any(char::is_control), "{error:?}");
            assert!(error.chars().count() <= ERROR_CHARS, "{error}");
            return false;
        }
    };
    let written = encode(&value).expect("what was read can be written");
    let again = decode(&written).expect("what was written can be read");
    assert_eq!(again, value);
    assert_eq!(encode(&again).as_deref(), Ok(&written[..]));
    true
}
