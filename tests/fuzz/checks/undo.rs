//! An undo record of Bitcoin Core: read or refused, and the number of its transactions told alike.

use bitcoin::Amount;
use spindex::chain::files::undo::{parse_undo, undo_transactions};

/// Whether the bytes are an undo record.
pub(crate) fn check(payload: &[u8]) -> bool {
    let Ok(prevouts) = parse_undo(payload) else {
        return false;
    };
    // Of which the first is the coinbase, which is not in the record.
    assert_eq!(
        undo_transactions(payload).ok(),
        prevouts.transactions().checked_sub(1)
    );
    assert_eq!(prevouts.of_transaction(0).len(), 0);
    let outputs: usize = (0..prevouts.transactions())
        .map(|index| prevouts.of_transaction(index).len())
        .sum();
    assert_eq!(outputs, prevouts.outputs());
    for output in prevouts.decode().into_iter().flatten() {
        assert!(output.value <= Amount::MAX_MONEY);
    }
    true
}
