//! Which engine: by name, or the fastest that this processor can run.

use std::fmt;
use std::io::Write;
use std::num::NonZeroUsize;
use std::str::FromStr;
use std::sync::Arc;

use super::engine::{BrokenEngine, Engine};
use super::engines::{ENGINES, EngineEntry, EngineKind};

/// The setting that names no engine.
const AUTO: &str = "auto";

impl EngineKind {
    /// Its row of the table: that of the fastest engine which this processor can run for `Auto`.
    fn entry(self) -> Option<&'static EngineEntry> {
        match self {
            Self::Auto => available().last(),
            _ => ENGINES.iter().find(|entry| entry.kind == self),
        }
    }
}

impl fmt::Display for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entry = ENGINES.iter().find(|entry| entry.kind == *self);
        f.write_str(entry.map_or(AUTO, |entry| entry.name))
    }
}

impl FromStr for EngineKind {
    type Err = UnknownEngine;

    fn from_str(name: &str) -> Result<Self, UnknownEngine> {
        if name == AUTO {
            return Ok(Self::Auto);
        }
        let entry = ENGINES.iter().find(|entry| entry.name == name);
        entry
            .map(|entry| entry.kind)
            .ok_or_else(|| UnknownEngine(name.to_owned()))
    }
}

/// A name that is no engine's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no engine {0:?}: use {names}", names = names())]
pub struct UnknownEngine(pub String);

/// All that a setting may say.
fn names() -> String {
    let mut names = vec![AUTO];
    names.extend(ENGINES.iter().map(|entry| entry.name));
    listed(&names, "or")
}

/// An engine whose instructions this processor lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the engine {0} needs a processor with {needs}: use {AUTO}", needs = needs(*.0))]
pub struct UnsupportedEngine(pub EngineKind);

fn needs(kind: EngineKind) -> String {
    listed(kind.entry().map_or(&[], |entry| entry.needs), "and")
}

/// With commas, and `word` before the last.
fn listed(items: &[&str], word: &str) -> String {
    match items {
        [first @ .., last] if !first.is_empty() => format!("{} {word} {last}", first.join(", ")),
        _ => items.concat(),
    }
}

/// The engines that this processor can run, the slowest first.
pub fn available() -> impl Iterator<Item = &'static EngineEntry> {
    ENGINES.iter().filter(|entry| entry.is_available())
}

/// The engine of a kind, after its self-check (some 30 ms at first). To be kept and shared; [`Engine::name`] says
/// which one it is.
///
/// `report` is called if it finds itself wrong, in the self-check or whenever later, and no more than once. What it hands
/// out is right all the same (see [`covered`](super::covered)), only slower. `report` must not use the engine.
///
/// # Errors
/// [`UnsupportedEngine`] if the processor cannot run it; never for `Auto`, `LibSecp256k1` and `Portable`.
pub fn engine(
    kind: EngineKind,
    report: impl Fn(BrokenEngine) + Send + Sync + 'static,
) -> Result<Arc<dyn Engine>, UnsupportedEngine> {
    make(kind, None, report)
}

/// The engine of a kind in batches of at most so many points and two wallets, without the self-check: for tests, which
/// so have many batches of few points.
///
/// # Errors
/// See [`engine`].
#[doc(hidden)]
pub fn engine_in_batches(
    kind: EngineKind,
    points: NonZeroUsize,
) -> Result<Arc<dyn Engine>, UnsupportedEngine> {
    make(kind, Some(points), |broken| panic!("{broken}"))
}

fn make(
    kind: EngineKind,
    points: Option<NonZeroUsize>,
    report: impl Fn(BrokenEngine) + Send + Sync + 'static,
) -> Result<Arc<dyn Engine>, UnsupportedEngine> {
    let made = kind.entry().and_then(|entry| {
        let engine = entry.name;
        entry.make(
            points,
            Box::new(move |batches| report(BrokenEngine { engine, batches })),
        )
    });
    made.ok_or(UnsupportedEngine(kind))
}

/// The engines that tests can be run on here. Each test names those that it has to leave out, with what they need, on its
/// standard error, where they are seen though the test passes.
#[doc(hidden)]
pub fn testable() -> impl Iterator<Item = &'static EngineEntry> {
    ENGINES.iter().filter(|entry| is_testable(entry))
}

/// Whether tests can be run on this engine here; says so if they cannot. What decides that for all tests.
pub(super) fn is_testable(entry: &EngineEntry) -> bool {
    let is_available = entry.is_available();
    if !is_available {
        // Not by `eprintln!`, which shows nothing of a test that passes.
        let _ = writeln!(std::io::stderr(), "{}", skipped(entry));
    }
    is_available
}

fn skipped(entry: &EngineEntry) -> String {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    format!("SKIPPED in {test}: {}", UnsupportedEngine(entry.kind))
}

#[cfg(test)]
mod tests;
