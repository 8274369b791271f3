//! The curve engine of a command, and who is told if it finds itself wrong.

use std::str::FromStr;
use std::sync::Arc;

use crate::curve::{self, Engine, EngineKind, UnknownEngine, UnsupportedEngine};

/// An engine of the curve work by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EngineName(pub(super) EngineKind);

impl FromStr for EngineName {
    type Err = UnknownEngine;

    fn from_str(name: &str) -> Result<Self, UnknownEngine> {
        name.parse().map(Self)
    }
}

/// The engine of a kind, after its self-check. The log says so loudly if it finds itself wrong.
///
/// # Errors
/// This processor cannot run it.
pub(super) fn engine(kind: EngineKind) -> Result<Arc<dyn Engine>, UnsupportedEngine> {
    curve::engine(kind, |broken| tracing::error!("{broken}"))
}
