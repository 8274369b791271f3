//! See `checks/block.rs`.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../checks/block.rs"]
mod block;

fuzz_target!(|bytes: &[u8]| {
    block::check(bytes);
});
