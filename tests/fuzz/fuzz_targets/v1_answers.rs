//! See `checks/v1_answers.rs`.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../checks/allocation.rs"]
mod allocation;
#[path = "../checks/answers.rs"]
mod answers;
#[path = "../checks/input.rs"]
mod input;
#[path = "../checks/v1_answers.rs"]
mod v1_answers;

fuzz_target!(|bytes: &[u8]| {
    v1_answers::check(bytes);
});
