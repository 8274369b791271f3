//! The table of engines: what each is called, what it needs, and how it is made.

use std::marker::PhantomData;
use std::num::NonZeroUsize;
use std::sync::Arc;

use super::arch::{Backend, Portable};
#[cfg(target_arch = "x86_64")]
use super::arch::{avx2::Avx2Words, avx512::Avx512Words, ifma::IfmaWords};
use super::batch_sizes::BatchSizes;
use super::engine::Engine;
#[cfg(target_arch = "x86_64")]
use super::field_5x52::Field5x52;
#[cfg(target_arch = "x86_64")]
use super::field_9x29::Field9x29;
use super::kernel::Kernel;
use super::libsecp256k1::LibSecp256k1;
use super::measure::{self, Operation};

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

/// The batched engine on a backend that only this architecture has.
macro_rules! on_x86_64 {
    ($backend:ty) => {{
        #[cfg(target_arch = "x86_64")]
        {
            &On::<$backend>(PhantomData)
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            &Nowhere
        }
    }};
}

/// All engines, the slowest first.
pub static ENGINES: [EngineEntry; 5] = [
    EngineEntry {
        kind: EngineKind::LibSecp256k1,
        name: "libsecp256k1",
        needs: &[],
        made: &Library,
    },
    EngineEntry {
        kind: EngineKind::Portable,
        name: "portable",
        needs: &[],
        made: &On::<Portable>(PhantomData),
    },
    EngineEntry {
        kind: EngineKind::Avx2,
        name: "avx2",
        needs: &["avx2"],
        made: on_x86_64!(Field9x29<Avx2Words>),
    },
    EngineEntry {
        kind: EngineKind::Avx512,
        name: "avx512",
        needs: &["avx512f"],
        made: on_x86_64!(Field9x29<Avx512Words>),
    },
    EngineEntry {
        kind: EngineKind::Ifma,
        name: "ifma",
        needs: &["avx512f", "avx512ifma"],
        made: on_x86_64!(Field5x52<IfmaWords>),
    },
];

/// A row of the table.
pub struct EngineEntry {
    /// Which engine; never [`EngineKind::Auto`].
    pub kind: EngineKind,
    /// As settings, logs and tables have it.
    pub name: &'static str,
    /// The features that it needs of a processor, as Rust and Linux name them.
    pub needs: &'static [&'static str],
    made: &'static dyn Make,
}

impl EngineEntry {
    /// Whether this processor can run it.
    pub fn is_available(&self) -> bool {
        self.made.is_available()
    }

    /// The engine after its self-check, or without it in batches of at most so many points and two wallets; `None` if
    /// the processor cannot run it.
    pub(super) fn make(
        &self,
        points: Option<NonZeroUsize>,
        report: Report,
    ) -> Option<Arc<dyn Engine>> {
        self.made.make(points, report)
    }

    /// Its field operations and steps, to be timed; none of what is not batched, or cannot run.
    #[doc(hidden)]
    pub fn operations(&self) -> Vec<Operation> {
        self.made.operations()
    }
}

/// Is told that an engine found itself wrong, and after how many batches.
pub(super) type Report = Box<dyn Fn(u64) + Send + Sync>;

/// See [`EngineEntry`].
trait Make: Sync {
    fn is_available(&self) -> bool;
    fn make(&self, points: Option<NonZeroUsize>, report: Report) -> Option<Arc<dyn Engine>>;
    fn operations(&self) -> Vec<Operation>;
}

/// The library, which is always right.
struct Library;

impl Make for Library {
    fn is_available(&self) -> bool {
        true
    }

    fn make(&self, _: Option<NonZeroUsize>, _: Report) -> Option<Arc<dyn Engine>> {
        Some(Arc::new(LibSecp256k1))
    }

    fn operations(&self) -> Vec<Operation> {
        Vec::new()
    }
}

/// The batched engine on a backend.
struct On<B>(PhantomData<fn() -> B>);

impl<B: Detect> Make for On<B> {
    fn is_available(&self) -> bool {
        B::detect().is_some()
    }

    fn make(&self, points: Option<NonZeroUsize>, report: Report) -> Option<Arc<dyn Engine>> {
        let backend = B::detect()?;
        Some(Arc::new(match points {
            None => {
                let kernel = Kernel::new(backend, BatchSizes::full::<B>(), report);
                kernel.check_itself();
                kernel
            }
            Some(points) => Kernel::new(backend, BatchSizes::small(points.get()), report),
        }))
    }

    fn operations(&self) -> Vec<Operation> {
        B::detect().map_or_else(Vec::new, measure::operations)
    }
}

/// The batched engine on a backend of another architecture.
#[cfg(not(target_arch = "x86_64"))]
struct Nowhere;

#[cfg(not(target_arch = "x86_64"))]
impl Make for Nowhere {
    fn is_available(&self) -> bool {
        false
    }

    fn make(&self, _: Option<NonZeroUsize>, _: Report) -> Option<Arc<dyn Engine>> {
        None
    }

    fn operations(&self) -> Vec<Operation> {
        Vec::new()
    }
}

/// A backend to look for.
pub(super) trait Detect: Backend {
    /// Its token, if this processor can run it.
    fn detect() -> Option<Self>;
}

impl Detect for Portable {
    fn detect() -> Option<Self> {
        Some(Self)
    }
}

#[cfg(target_arch = "x86_64")]
impl Detect for Field9x29<Avx2Words> {
    fn detect() -> Option<Self> {
        Avx2Words::new().map(Self)
    }
}

#[cfg(target_arch = "x86_64")]
impl Detect for Field9x29<Avx512Words> {
    fn detect() -> Option<Self> {
        Avx512Words::new().map(Self)
    }
}

#[cfg(target_arch = "x86_64")]
impl Detect for Field5x52<IfmaWords> {
    fn detect() -> Option<Self> {
        IfmaWords::new().map(Self)
    }
}
