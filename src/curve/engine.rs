//! The one interface of all engines, and what is said of them.

use std::fmt;

use super::point::{Product, TweakPoint};
use super::sampling::Sampled;
use super::scan::{CandidateScanner, InvalidTarget, ScanTarget};

/// The multiple of a tweak that may be stored with it is 2 to this power.
const MULTIPLE_BITS: usize = 64;

/// An implementation of the curve work that scanning and indexing are bound by.
///
/// All results are exact, whatever the implementation: `docs/kernel.md` says how the batched ones make sure of it. Against
/// faults of the machine they compare samples, so take what is to be stored, sent or reported from
/// [`covered`](super::covered).
pub trait Engine: Sampled + Send + Sync {
    /// Short name for logs, settings and tables.
    fn name(&self) -> &'static str;

    /// What happened so far, for the caller to log.
    fn status(&self) -> EngineStatus {
        EngineStatus::default()
    }

    /// Prepares a scan of many tweaks, for one wallet or for several in one pass.
    ///
    /// # Errors
    /// [`InvalidTarget`] if a scan key is not in 1..n or a point is not on the curve.
    fn scanner(&self, targets: &[ScanTarget]) -> Result<Box<dyn CandidateScanner>, InvalidTarget>;

    /// `scalar·point` for each product, in order; `None` where the scalar is 0 or not below the group
    /// order, or the point is off the curve. Variable time: public data only.
    fn multiply(&self, products: &[Product]) -> Vec<Option<TweakPoint>>;

    /// 2^64·T for each tweak, in order, for [`Batch::multiples`](super::Batch); `None` where it is off the curve.
    fn multiples(&self, tweaks: &[TweakPoint]) -> Vec<Option<TweakPoint>> {
        let mut scalar = [0; 32];
        scalar[31 - MULTIPLE_BITS / 8] = 1 << (MULTIPLE_BITS % 8);
        let product = |point: &TweakPoint| Product {
            point: *point,
            scalar,
        };
        self.multiply(&tweaks.iter().map(product).collect::<Vec<_>>())
    }

    /// The point of each SEC1 compressed key, in order; `None` where the bytes are not one.
    fn decompress(&self, keys: &[[u8; 33]]) -> Vec<Option<TweakPoint>>;

    /// The sum of each group of points: group g is `points[ends[g - 1]..ends[g]]`, the first one begins at 0. `None`
    /// for infinity, and so for an empty group, and for a group with a point off the curve.
    ///
    /// # Panics
    /// If `ends` decrease somewhere or exceed the number of points.
    fn sums(&self, points: &[TweakPoint], ends: &[usize]) -> Vec<Option<TweakPoint>>;
}

impl fmt::Debug for dyn Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Engine({})", self.name())
    }
}

/// What happened to an engine so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EngineStatus {
    /// Batches computed.
    pub batches: u64,
    /// Of these, left to libsecp256k1 because points met in them. More than a few are a sign of crafted input.
    pub fallback_batches: u64,
    /// A self-check found a wrong result: since then everything is left to libsecp256k1.
    pub is_broken: bool,
}

/// An engine that found itself wrong, in words for whoever runs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the curve engine {engine} computed a wrong result, found by its self-check after {batches} batches; what it had handed \
     out since the last good one is computed again by libsecp256k1, which has taken over and is slower. Force it with \
     --engine libsecp256k1, check this machine's processor and memory, and report it"
)]
pub struct BrokenEngine {
    /// Its name.
    pub engine: &'static str,
    /// Batches that it had computed.
    pub batches: u64,
}
