//! Rows of watches, events and tokens, and what is read of them written again.

use spindex::store::watches::{Event, TokenRow, WatchRow};

/// Whether the bytes are a row. The input: which kind (1 byte), and the row.
pub(crate) fn check(input: &[u8]) -> bool {
    let Some((kind, bytes)) = input.split_first() else {
        return false;
    };
    let written = match kind % 3 {
        0 => Event::decode(bytes).map(|event| event.encode()),
        1 => WatchRow::decode(bytes).map(|row| row.encode()),
        _ => TokenRow::decode(bytes).map(|row| row.encode()),
    };
    match written {
        Ok(written) => {
            assert_eq!(written, bytes);
            true
        }
        Err(error) => {
            let text = error.to_string();
            assert!(text.len() < 200 && !text.contains('\n'), "{text}");
            false
        }
    }
}
