//! Whether an engine may be relied on: which of its batches are accepted and which are left to libsecp256k1, whether a
//! result was found wrong, and who is told.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::batch::Degenerate;
use super::engine::EngineStatus;
use super::sampling::scatter;

/// One batch in so many has a result recomputed by libsecp256k1 at once. A prime, so that each kind has its turn whatever
/// the order in which a caller asks for kinds.
pub(super) const CHECK_INTERVAL: u64 = 17;

/// What happened to an engine so far.
pub(super) struct Health {
    batches: AtomicU64,
    fallback_batches: AtomicU64,
    is_broken: AtomicBool,
    confirming: Mutex<()>,
    report: Box<dyn Fn(u64) + Send + Sync>,
}

impl Health {
    /// `report` is called once, with the number of batches so far, when a result was found wrong. It must not use the engine.
    pub(super) fn new(report: impl Fn(u64) + Send + Sync + 'static) -> Self {
        Self {
            batches: AtomicU64::new(0),
            fallback_batches: AtomicU64::new(0),
            is_broken: AtomicBool::new(false),
            confirming: Mutex::new(()),
            report: Box::new(report),
        }
    }

    pub(super) fn status(&self) -> EngineStatus {
        EngineStatus {
            batches: self.batches(),
            fallback_batches: self.fallback_batches.load(Ordering::Relaxed),
            is_broken: self.is_broken(),
        }
    }

    /// Whether a result was wrong: nothing is to be computed here any more.
    pub(super) fn is_broken(&self) -> bool {
        self.is_broken.load(Ordering::Relaxed)
    }

    /// Batches so far.
    pub(super) fn batches(&self) -> u64 {
        self.batches.load(Ordering::Relaxed)
    }

    /// A result was wrong.
    pub(super) fn distrust(&self) {
        if !self.is_broken.swap(true, Ordering::Relaxed) {
            (self.report)(self.batches());
        }
    }

    /// Distrusts the engine if it takes something for absent that `exists`, by libsecp256k1: of its results, nobody would
    /// miss what they lack. Few are absent, so all of them are asked about.
    pub(super) fn judge_absent(
        &self,
        present: impl IntoIterator<Item = bool>,
        exists: impl Fn(usize) -> bool,
    ) {
        let mut judged = present.into_iter().enumerate();
        if judged.any(|(i, is_present)| !is_present && exists(i)) {
            self.distrust();
        }
    }

    /// What `batched` makes of a batch of `count` results, if they may be used; `None` if they are to come from libsecp256k1,
    /// because points met in the batch or the engine is distrusted.
    ///
    /// Now and then, `agrees` is asked whether one of the results is libsecp256k1's too.
    pub(super) fn accept<T>(
        &self,
        batched: impl FnOnce() -> Result<T, Degenerate>,
        count: usize,
        agrees: impl FnOnce(&T, usize) -> bool,
    ) -> Option<T> {
        if self.is_broken() {
            return None;
        }
        let made = batched();
        let number = self.batches.fetch_add(1, Ordering::Relaxed);
        let Ok(made) = made else {
            self.fallback_batches.fetch_add(1, Ordering::Relaxed);
            return None;
        };
        if number.is_multiple_of(CHECK_INTERVAL) && count > 0 {
            // A different place each time.
            if !agrees(&made, scatter(number / CHECK_INTERVAL) % count) {
                self.distrust();
            }
        }
        (!self.is_broken()).then_some(made)
    }

    /// Whether all that was handed out so far may be relied on, after `agree` has compared what waits for that. One call at
    /// a time: what another one is comparing is not confirmed yet.
    pub(super) fn confirm(&self, agree: impl FnOnce() -> bool) -> bool {
        let _turn = self
            .confirming
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if !agree() {
            self.distrust();
        }
        !self.is_broken()
    }
}

#[cfg(test)]
mod tests;
