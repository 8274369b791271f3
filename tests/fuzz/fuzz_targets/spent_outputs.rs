//! See `checks/spent_outputs.rs`.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../checks/spent_outputs.rs"]
mod spent_outputs;

fuzz_target!(|bytes: &[u8]| {
    spent_outputs::check(bytes);
});
