//! See `checks/engines.rs`.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../checks/engines.rs"]
mod engines;
#[path = "../checks/input.rs"]
mod input;
#[path = "../checks/scans.rs"]
mod scans;
#[path = "../checks/wallets.rs"]
mod wallets;

fuzz_target!(|bytes: &[u8]| {
    engines::check(bytes);
});
