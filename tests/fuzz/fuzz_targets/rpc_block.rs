//! See `checks/rpc_block.rs`.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../checks/rpc_block.rs"]
mod rpc_block;

fuzz_target!(|bytes: &[u8]| {
    rpc_block::check(bytes);
});
