//! The backends: instructions of processors, each behind a token that only a processor with them gives out. All `unsafe`
//! code lives below here.

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
#[cfg(target_arch = "x86_64")]
pub(crate) mod ifma;
#[cfg(not(target_arch = "x86_64"))]
mod no_sha;
pub(crate) mod portable;
#[cfg(target_arch = "x86_64")]
mod sha_ni;

#[cfg(not(target_arch = "x86_64"))]
pub(crate) use no_sha::Sha256Instructions;
pub(crate) use portable::Portable;
#[cfg(target_arch = "x86_64")]
pub(crate) use sha_ni::Sha256Instructions;

pub(crate) use super::backend::{Backend, Task};
