//! See `checks/stored_rows.rs`.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../checks/stored_rows.rs"]
mod stored_rows;

fuzz_target!(|bytes: &[u8]| {
    stored_rows::check(bytes);
});
