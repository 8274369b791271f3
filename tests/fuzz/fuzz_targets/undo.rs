//! See `checks/undo.rs`.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../checks/undo.rs"]
mod undo;

fuzz_target!(|bytes: &[u8]| {
    undo::check(bytes);
});
