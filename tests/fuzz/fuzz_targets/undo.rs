//! An undo record of Bitcoin Core: read or refused, and the number of its transactions told alike.
#![no_main]

use libfuzzer_sys::fuzz_target;
use spindex::chain::files::undo::{parse_undo, undo_transactions};

fuzz_target!(|payload: &[u8]| {
    if let Ok(prevouts) = parse_undo(payload) {
        // Of which the first is the coinbase, which spends nothing.
        assert_eq!(
            undo_transactions(payload).ok(),
            prevouts.transactions().checked_sub(1)
        );
        assert_eq!(prevouts.of_transaction(0).len(), 0);
        let outputs: usize = (0..prevouts.transactions())
            .map(|index| prevouts.of_transaction(index).len())
            .sum();
        assert_eq!(outputs, prevouts.outputs());
        for outputs in prevouts.decode() {
            for output in outputs {
                assert!(output.value <= bitcoin::Amount::MAX_MONEY);
            }
        }
    }
});
