//! See `checks/watch_rows.rs`.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../checks/watch_rows.rs"]
mod watch_rows;

fuzz_target!(|bytes: &[u8]| {
    watch_rows::check(bytes);
});
