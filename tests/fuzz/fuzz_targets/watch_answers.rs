//! See `checks/watch_answers.rs`.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../checks/allocation.rs"]
mod allocation;
#[path = "../checks/answers.rs"]
mod answers;
#[path = "../checks/input.rs"]
mod input;
#[path = "../checks/watch_answers.rs"]
mod watch_answers;

fuzz_target!(|bytes: &[u8]| {
    watch_answers::check(bytes);
});
