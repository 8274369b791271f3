//! The protocol: which transactions count, their tweaks, the receiver's keys, and a sender for tests.
//!
//! | Step of BIP352 | Here |
//! |---|---|
//! | eligible transactions, input keys, `outpoint_L` | [`inputs::tweak_inputs`] |
//! | `A`, the sum of the input keys | [`tweak::key_sums`] |
//! | `input_hash` | [`hash::input_hash`] |
//! | `input_hash·A`, the tweak | [`tweak::tweaks`], [`tweak::transaction_tweak`] |
//! | `S = b_scan·T` | [`keys::ScanKey::shared_secret`] |
//! | `t_k` | [`hash::output_tweak`] |
//! | `label_m` | [`hash::label_scalar`], [`label::LabelSet`] |
//! | addresses; scan and spend keys as text (BIP392) | [`address::Address`], [`descriptor::DescriptorKey`] |
//! | creating outputs | [`send::output_keys`] |
//!
//! Pure functions over values: no clock, no I/O, no threads.

pub mod address;
pub mod descriptor;
pub mod hash;
pub mod inputs;
pub mod keys;
pub mod label;
pub mod send;
pub mod tweak;

/// Most outputs a sender may pay to one scan key in one transaction, and most a receiver looks for (BIP352, K_max).
pub const K_MAX: u32 = 2323;

/// x coordinate of the point H of BIP341, whose discrete logarithm nobody knows. Script path spends with this
/// internal key contribute no key.
pub const NUMS_POINT: [u8; 32] = [
    0x50, 0x92, 0x9b, 0x74, 0xc1, 0xa0, 0x49, 0x54, 0xb7, 0x8b, 0x4b, 0x60, 0x35, 0xe9, 0x7a, 0x5e,
    0x07, 0x8a, 0x5a, 0x0f, 0x28, 0xec, 0x96, 0xd5, 0x47, 0xbf, 0xee, 0x9a, 0xce, 0x80, 0x3a, 0xc0,
];
