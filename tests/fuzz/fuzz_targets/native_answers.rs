//! See `checks/native_answers.rs`.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../checks/allocation.rs"]
mod allocation;
#[path = "../checks/answers.rs"]
mod answers;
#[path = "../checks/input.rs"]
mod input;
#[path = "../checks/native_answers.rs"]
mod native_answers;

fuzz_target!(|bytes: &[u8]| {
    native_answers::check(bytes);
});
