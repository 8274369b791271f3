//! Batched secp256k1 arithmetic for scanning and indexing. Knows nothing of Bitcoin.
//!
//! Everything works on plain slices; callers split work over threads. [`Engine`] is the one interface:
//! [`libsecp256k1`] implements it on the library of that name, point by point, and the batched engines
//! implement it on a backend each, with libsecp256k1 as their judge and last resort. [`engine`] chooses from
//! [`ENGINES`].
//!
//! Each of these modules uses some of those above it, and none below it.
//!
//! | module | |
//! |---|---|
//! | `field` | field elements: packed, and in the limbs of a backend |
//! | `backend` | what a backend is: field operations on vectors |
//! | `field_4x64`, `field_5x52`, `field_9x29` | those operations in three kinds of limbs |
//! | `sha256` | its compression function |
//! | `arch` | instructions of processors: all `unsafe` code of the library |
//! | `inverse`, `square_root` | of field elements |
//! | `scalar` | integers modulo the group order, the endomorphism split, digits |
//! | `group` | the formulas, by name, with their costs and exceptions |
//! | `point` | a point as callers have it |
//! | `batch` | many points in lockstep with one inversion: the hot loop |
//! | `batch_sizes` | how many of them at a time |
//! | `points` | decompression and sums of many points |
//! | `multiply` | many points, each times a scalar of its own |
//! | `schedule`, `products` | one secret scalar times many points, proven never to fail |
//! | `wallets` | many secret scalars times the same points |
//! | `generator`, `tagged_hash`, `outputs` | from shared secrets to candidate output keys |
//! | `sampling` | what is handed out, and covered by a sample afterwards |
//! | `scan` | what a scan is asked, and what it hands over |
//! | `engine` | what an engine is |
//! | `libsecp256k1` | the engine on that library |
//! | `health` | whether a batched engine may be relied on, and what of it is left to libsecp256k1 |
//! | `known` | results that are known, for its self-check |
//! | `scanner` | its scans, for one wallet or many |
//! | `kernel` | the engine: products, points and sums, the self-check |
//! | `measure` | the parts of a backend, to be timed |
//! | `engines`, `selection` | all engines in a table, and the choice |
//!
#![doc = include_str!("../../docs/kernel.md")]

mod arch;
mod backend;
mod batch;
mod batch_sizes;
mod engine;
mod engines;
#[cfg(test)]
pub(crate) mod failing;
mod field;
mod field_4x64;
#[cfg(test)]
mod field_4x64_carries;
#[cfg(any(target_arch = "x86_64", test))]
mod field_5x52;
#[cfg(any(target_arch = "x86_64", test))]
mod field_9x29;
mod generator;
mod group;
mod health;
mod inverse;
mod kernel;
mod known;
pub mod libsecp256k1;
#[doc(hidden)]
pub mod measure;
mod multiply;
mod outputs;
pub(crate) mod point;
mod points;
mod products;
#[cfg(test)]
mod proof;
#[cfg(test)]
mod reference;
mod sampling;
mod scalar;
mod scan;
mod scanner;
mod schedule;
mod selection;
mod sha256;
mod square_root;
#[cfg(test)]
mod suite;
mod tagged_hash;
mod wallets;

pub use batch_sizes::{LEAST_BATCH, SCAN_BATCH, TWEAK_BATCH, batch_for_threads};
pub use engine::{BrokenEngine, Engine, EngineStatus};
pub use engines::{ENGINES, EngineEntry, EngineKind};
pub use point::{Product, TweakPoint};
pub use sampling::{Sampled, covered};
pub use scan::{
    Batch, CandidateChunk, CandidateScanner, InvalidTarget, Match, ScanTarget, ShortKeys,
};
pub use selection::{UnknownEngine, UnsupportedEngine, available, engine};
#[doc(hidden)]
pub use selection::{engine_in_batches, testable};
