//! A scan for several wallets that go over the same tweaks.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use super::{FoundOutput, TaprootOutput, Unverified, candidates, confirm};
use crate::bip352::keys::ReceiverKeys;
use crate::curve::{
    CandidateChunk, CandidateScanner, Engine, InvalidTarget, ScanTarget, TweakPoint, covered,
};

/// Scans for several wallets at once, which share what is computed of a tweak whoever it is for (`docs/kernel.md`).
pub struct SharedScanner {
    wallets: Vec<Arc<ReceiverKeys>>,
    engine: Arc<dyn Engine>,
    scanner: Box<dyn CandidateScanner>,
}

impl fmt::Debug for SharedScanner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedScanner")
            .field("wallets", &self.wallets.len())
            .finish_non_exhaustive()
    }
}

impl SharedScanner {
    /// Prepares a scan for these wallets, which are counted in their order.
    ///
    /// # Errors
    /// As [`Scanner::new`](super::Scanner::new).
    pub fn new(
        engine: Arc<dyn Engine>,
        wallets: Vec<Arc<ReceiverKeys>>,
    ) -> Result<Self, InvalidTarget> {
        let targets: Vec<ScanTarget> = wallets.iter().map(|keys| keys.scan_target()).collect();
        Ok(Self {
            scanner: engine.scanner(&targets)?,
            engine,
            wallets,
        })
    }

    /// What is scanned for.
    pub fn wallets(&self) -> &[Arc<ReceiverKeys>] {
        &self.wallets
    }

    /// What computes.
    pub fn engine(&self) -> &Arc<dyn Engine> {
        &self.engine
    }

    /// How many candidates a tweak has, of all wallets together.
    pub fn candidates_per_tweak(&self) -> usize {
        let wallets = 0..self.scanner.wallets();
        wallets
            .map(|wallet| self.scanner.candidates_per_tweak(wallet))
            .sum()
    }

    /// As [`Scanner::decompress`](super::Scanner::decompress).
    pub fn decompress(&self, tweaks: &[[u8; 33]]) -> Vec<Option<TweakPoint>> {
        let engine = self.engine.as_ref();
        covered(engine, || candidates::decompress(engine, tweaks))
    }

    /// As [`Scanner::scan`](super::Scanner::scan), for all wallets: a chunk says whose candidates it has. Those of a batch
    /// come wallet by wallet, in any order, so that memory does not grow with wallets times labels times tweaks either.
    pub fn scan<T: Send>(
        &self,
        tweaks: &[TweakPoint],
        begin: impl Fn(Range<usize>) -> T + Sync,
        take: impl Fn(&mut T, CandidateChunk<'_>) + Sync,
    ) -> Vec<T> {
        let scanner = self.scanner.as_ref();
        covered(scanner, || candidates::scan(scanner, tweaks, &begin, &take))
    }

    /// As [`Scanner::confirm`](super::Scanner::confirm), for one of the wallets.
    ///
    /// # Errors
    /// [`Unverified`].
    ///
    /// # Panics
    /// If there is no such wallet.
    pub fn confirm(
        &self,
        wallet: usize,
        tweak: &TweakPoint,
        outputs: &[TaprootOutput],
    ) -> Result<Vec<FoundOutput>, Unverified> {
        confirm::confirm(&self.wallets[wallet], tweak, outputs)
    }
}
