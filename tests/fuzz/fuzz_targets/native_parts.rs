//! See `checks/native_parts.rs`.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../checks/allocation.rs"]
mod allocation;
#[path = "../checks/native_parts.rs"]
mod native_parts;

fuzz_target!(|bytes: &[u8]| {
    native_parts::check(bytes);
});
