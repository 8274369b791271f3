//! See `checks/event_stream.rs`.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../checks/allocation.rs"]
mod allocation;
#[path = "../checks/event_stream.rs"]
mod event_stream;

fuzz_target!(|bytes: &[u8]| {
    event_stream::check(bytes);
});
