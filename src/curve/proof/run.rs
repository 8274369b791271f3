//! A run of the proof: what is known of its words, and how it ends.

use std::cell::RefCell;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use super::fault::{Fault, Kind};
use super::word::{Facts, Word};

/// All that a run knows.
#[derive(Default)]
pub(super) struct Run {
    pub(super) facts: Vec<Facts>,
    /// A number for each atom; atom 0 is the number one.
    pub(super) atoms: Vec<i128>,
    pub(super) constants: HashMap<i128, Word>,
    pub(super) quotients: HashMap<(Word, u32), Word>,
    pub(super) low_bits: HashMap<(Word, u32), Word>,
    pub(super) halves: HashMap<(Word, Word), [Word; 2]>,
    pub(super) loaded: Option<[Word; 4]>,
    /// The kinds of the instructions so far.
    pub(super) instructions: Vec<Kind>,
    pub(super) fault: Option<Fault>,
    /// Whether the fault made a difference so far.
    pub(super) is_faulty: bool,
    pub(super) random: u64,
}

thread_local! {
    pub(super) static RUN: RefCell<Run> = RefCell::default();
}

/// Why a claim is not proven.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refusal(pub(crate) &'static str);

/// A claim that was proven.
pub(crate) struct Proven<T> {
    /// What the claim gave.
    pub(crate) result: T,
    /// The kinds of its instructions, in order.
    pub(crate) instructions: Vec<Kind>,
    /// Whether the fault made any difference to any word.
    pub(crate) is_faulty: bool,
}

/// Ends the proof of a claim.
pub(crate) fn refuse(why: &'static str) -> ! {
    // Not by `panic!`, which would print each of thousands.
    resume_unwind(Box::new(Refusal(why)))
}

/// Runs a claim on the lane, with a fault or without. `seed` chooses the samples.
pub(crate) fn prove<T>(
    claim: impl FnOnce() -> T,
    fault: Option<Fault>,
    seed: u64,
) -> Result<Proven<T>, Refusal> {
    RUN.set(Run {
        atoms: vec![1],
        fault,
        random: seed,
        ..Run::default()
    });
    let result = catch_unwind(AssertUnwindSafe(claim));
    let run = RUN.take();
    match result {
        Ok(result) => Ok(Proven {
            result,
            instructions: run.instructions,
            is_faulty: run.is_faulty,
        }),
        Err(panic) => match panic.downcast() {
            Ok(refusal) => Err(*refusal),
            Err(panic) => resume_unwind(panic),
        },
    }
}

/// The four words that were loaded last.
pub(crate) fn loaded() -> [Word; 4] {
    RUN.with_borrow(|run| run.loaded.expect("loaded before"))
}
