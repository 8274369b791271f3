//! See `checks/block_files.rs`.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../checks/block_files.rs"]
mod block_files;

fuzz_target!(|bytes: &[u8]| {
    block_files::check(bytes);
});
