//! Which engine: by name, or the fastest that this processor can run.

use std::fmt;
use std::num::NonZeroUsize;
use std::str::FromStr;
use std::sync::Arc;

use super::Engine;
use super::arch::{Backend, Portable};
#[cfg(target_arch = "x86_64")]
use super::arch::{avx2::Avx2Words, avx512::Avx512Words, ifma::IfmaWords};
use super::batch_sizes::BatchSizes;
#[cfg(target_arch = "x86_64")]
use super::field_5x52::Field5x52;
#[cfg(target_arch = "x86_64")]
use super::field_9x29::Field9x29;
use super::kernel::Kernel;
use super::libsecp256k1::LibSecp256k1;

/// An engine, as a setting names it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum EngineKind {
    /// The fastest that the processor can run.
    #[default]
    Auto,
    /// The library, one point at a time.
    LibSecp256k1,
    /// Batches on any 64-bit processor.
    Portable,
    /// Batches with AVX2.
    Avx2,
    /// Batches with AVX-512.
    Avx512,
    /// Batches with AVX-512 and its products of 52 bits.
    Ifma,
}

impl EngineKind {
    /// All of them, with their names.
    pub const NAMES: [(Self, &'static str); 6] = [
        (Self::Auto, "auto"),
        (Self::LibSecp256k1, "libsecp256k1"),
        (Self::Portable, "portable"),
        (Self::Avx2, "avx2"),
        (Self::Avx512, "avx512"),
        (Self::Ifma, "ifma"),
    ];
}

impl fmt::Display for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::NAMES.iter().find(|(kind, _)| kind == self);
        f.write_str(name.map_or("", |(_, name)| name))
    }
}

impl FromStr for EngineKind {
    type Err = UnknownEngine;

    fn from_str(name: &str) -> Result<Self, UnknownEngine> {
        let kind = Self::NAMES.iter().find(|(_, known)| *known == name);
        kind.map(|(kind, _)| *kind)
            .ok_or_else(|| UnknownEngine(name.to_owned()))
    }
}

/// A name that is no engine's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no engine {0:?}: use auto, libsecp256k1, portable, avx2, avx512 or ifma")]
pub struct UnknownEngine(pub String);

/// An engine whose instructions this processor lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this processor lacks the instructions of the engine {0}: use auto")]
pub struct UnsupportedEngine(pub EngineKind);

/// The engine of a kind, after its self-check (some 30 ms at first). To be kept and shared; [`Engine::name`] says
/// which one it is, [`Engine::status`] whether it passed.
///
/// # Errors
/// [`UnsupportedEngine`] if the processor cannot run it; never for `Auto`, `LibSecp256k1` and `Portable`.
pub fn engine(kind: EngineKind) -> Result<Arc<dyn Engine>, UnsupportedEngine> {
    in_batches(kind, None)
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
    in_batches(kind, Some(points))
}

fn in_batches(
    kind: EngineKind,
    points: Option<NonZeroUsize>,
) -> Result<Arc<dyn Engine>, UnsupportedEngine> {
    let engine = match kind {
        EngineKind::Auto => Some(
            ifma(points)
                .or_else(|| avx512(points))
                .or_else(|| avx2(points))
                .unwrap_or_else(|| kernel(Portable, points)),
        ),
        EngineKind::LibSecp256k1 => Some(Arc::new(LibSecp256k1) as Arc<dyn Engine>),
        EngineKind::Portable => Some(kernel(Portable, points)),
        EngineKind::Avx2 => avx2(points),
        EngineKind::Avx512 => avx512(points),
        EngineKind::Ifma => ifma(points),
    };
    engine.ok_or(UnsupportedEngine(kind))
}

fn kernel<B: Backend>(backend: B, points: Option<NonZeroUsize>) -> Arc<dyn Engine> {
    Arc::new(match points {
        None => Kernel::new(backend),
        Some(points) => Kernel::with_sizes(backend, BatchSizes::small(points.get())),
    })
}

#[cfg(target_arch = "x86_64")]
fn avx2(points: Option<NonZeroUsize>) -> Option<Arc<dyn Engine>> {
    Some(kernel(Field9x29(Avx2Words::new()?), points))
}

#[cfg(target_arch = "x86_64")]
fn avx512(points: Option<NonZeroUsize>) -> Option<Arc<dyn Engine>> {
    Some(kernel(Field9x29(Avx512Words::new()?), points))
}

#[cfg(target_arch = "x86_64")]
fn ifma(points: Option<NonZeroUsize>) -> Option<Arc<dyn Engine>> {
    Some(kernel(Field5x52(IfmaWords::new()?), points))
}

#[cfg(not(target_arch = "x86_64"))]
fn avx2(_: Option<NonZeroUsize>) -> Option<Arc<dyn Engine>> {
    None
}

#[cfg(not(target_arch = "x86_64"))]
fn avx512(_: Option<NonZeroUsize>) -> Option<Arc<dyn Engine>> {
    None
}

#[cfg(not(target_arch = "x86_64"))]
fn ifma(_: Option<NonZeroUsize>) -> Option<Arc<dyn Engine>> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for (kind, name) in EngineKind::NAMES {
            assert_eq!(name.parse(), Ok(kind));
            assert_eq!(kind.to_string(), name);
        }
        let unknown = "AVX2".parse::<EngineKind>();
        assert_eq!(unknown, Err(UnknownEngine("AVX2".to_owned())));
    }

    #[test]
    fn every_engine_that_runs_here_passes_its_self_check() {
        for (kind, name) in EngineKind::NAMES {
            if kind == EngineKind::Auto {
                continue;
            }
            let engine = engine(kind);
            assert_eq!(engine.is_ok(), is_supported(kind), "{name}");
            let Ok(engine) = engine else {
                continue;
            };
            assert_eq!(engine.name(), name);
            assert!(!engine.status().is_broken, "{name}");
        }
    }

    /// Whether this processor has the instructions.
    fn is_supported(kind: EngineKind) -> bool {
        #[cfg(target_arch = "x86_64")]
        {
            let has_avx512 = is_x86_feature_detected!("avx512f");
            match kind {
                EngineKind::Avx2 => is_x86_feature_detected!("avx2"),
                EngineKind::Avx512 => has_avx512,
                EngineKind::Ifma => has_avx512 && is_x86_feature_detected!("avx512ifma"),
                _ => true,
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            matches!(
                kind,
                EngineKind::Auto | EngineKind::LibSecp256k1 | EngineKind::Portable
            )
        }
    }

    #[test]
    fn the_fastest_engine_that_runs_here_is_chosen() {
        let by_speed = [EngineKind::Ifma, EngineKind::Avx512, EngineKind::Avx2];
        let fastest = by_speed.into_iter().find(|kind| is_supported(*kind));
        let fastest = fastest.unwrap_or(EngineKind::Portable).to_string();
        let chosen = engine(EngineKind::Auto).expect("one for any processor");
        assert_eq!(chosen.name(), fastest);
    }
}
