//! The answer of `/rest/spenttxouts`: whatever is taken is written back to the same bytes.
#![no_main]

use bitcoin::VarInt;
use bitcoin::consensus::serialize;
use libfuzzer_sys::fuzz_target;
use spindex::chain::parse::parse_spent_outputs;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(prevouts) = parse_spent_outputs(bytes) {
        let decoded = prevouts.decode();
        let mut again = serialize(&VarInt::from(decoded.len()));
        for outputs in &decoded {
            again.extend(serialize(outputs));
        }
        assert_eq!(again, bytes);
    }
});
