//! See `checks/mempool_answers.rs`.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../checks/allocation.rs"]
mod allocation;
#[path = "../checks/answers.rs"]
mod answers;
#[path = "../checks/mempool_answers.rs"]
mod mempool_answers;

fuzz_target!(|bytes: &[u8]| {
    mempool_answers::check(bytes);
});
