//! See `checks/proofs.rs`.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../checks/allocation.rs"]
mod allocation;
#[path = "../checks/answers.rs"]
mod answers;
#[path = "../checks/proofs.rs"]
mod proofs;

fuzz_target!(|bytes: &[u8]| {
    proofs::check(bytes);
});
