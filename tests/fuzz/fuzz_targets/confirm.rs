//! See `checks/confirm.rs`.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../checks/confirm.rs"]
mod confirm;
#[allow(dead_code, reason = "the target `engines` reads more")]
#[path = "../checks/input.rs"]
mod input;

fuzz_target!(|bytes: &[u8]| {
    confirm::check(bytes);
});
