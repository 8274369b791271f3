//! Scanning tweaks for one wallet: candidates in bulk, then the full rules for what a candidate points to.
//!
//! A hit for `k = 0`, plain or labelled, is necessary for every payment, so [`Scanner::candidates`] gives only
//! those; [`Scanner::confirm`] then applies BIP352 to all outputs of the transaction.

mod candidates;
mod confirm;
#[cfg(test)]
mod failing_engine;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bitcoin::OutPoint;
use zeroize::Zeroize;

use crate::bip352::keys::ReceiverKeys;
use crate::curve::{CandidateScanner, Engine, EngineStatus, InvalidTarget, TweakPoint, covered};

/// A candidate output key: `k = 0` of one tweak for the plain address or a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Index of the tweak in the slice scanned.
    pub tweak: usize,
    /// x-only output key.
    pub key: [u8; 32],
}

impl AsRef<[u8]> for Candidate {
    /// The key, as a filter is asked for it.
    fn as_ref(&self) -> &[u8] {
        &self.key
    }
}

/// An output of a transaction that is checked in full.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaprootOutput {
    /// Where it is.
    pub outpoint: OutPoint,
    /// x-only output key, maybe no point.
    pub key: [u8; 32],
    /// Satoshi.
    pub value_sat: u64,
}

/// An output that belongs to the wallet, confirmed by the full rules. `Debug` masks the secret tweak, dropping wipes it.
#[derive(Clone, PartialEq, Eq)]
pub struct FoundOutput {
    /// Where it is.
    pub outpoint: OutPoint,
    /// Satoshi.
    pub value_sat: u64,
    /// x-only output key.
    pub key: [u8; 32],
    /// Index k of the payment within its transaction.
    pub k: u32,
    /// Label m, `None` for the plain address.
    pub label: Option<u32>,
    /// `t_k (+ label_m)` mod n, 32 bytes big-endian: added to b_spend it spends the output. Secret.
    pub tweak: [u8; 32],
}

impl fmt::Debug for FoundOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FoundOutput")
            .field("outpoint", &self.outpoint)
            .field("value_sat", &self.value_sat)
            .field("k", &self.k)
            .field("label", &self.label)
            .finish_non_exhaustive()
    }
}

impl Drop for FoundOutput {
    fn drop(&mut self) {
        self.tweak.zeroize();
    }
}

/// Scans for one wallet.
pub struct Scanner {
    keys: ReceiverKeys,
    engine: Arc<dyn Engine>,
    /// Whether it was said that the engine found itself wrong.
    engine_reported: AtomicBool,
    scanner: Box<dyn CandidateScanner>,
}

impl fmt::Debug for Scanner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scanner")
            .field("labels", &self.keys.labels.len())
            .finish_non_exhaustive()
    }
}

impl Scanner {
    /// Prepares a scan: what an engine can work out once per wallet is done here.
    ///
    /// # Errors
    /// [`InvalidTarget`] if the engine refuses a key, which keys from [`ReceiverKeys`] never cause.
    pub fn new(engine: Arc<dyn Engine>, keys: ReceiverKeys) -> Result<Self, InvalidTarget> {
        Ok(Self {
            scanner: engine.scanner(&keys.scan_target())?,
            engine,
            engine_reported: AtomicBool::new(false),
            keys,
        })
    }

    /// What is scanned for.
    pub fn keys(&self) -> &ReceiverKeys {
        &self.keys
    }

    /// How many candidates a tweak has: one for the plain address and one for each label.
    pub fn candidates_per_tweak(&self) -> usize {
        self.scanner.candidates_per_tweak()
    }

    /// Candidates of every tweak, in the order of the tweaks; of one tweak the plain one, then by ascending label.
    ///
    /// A candidate that does not exist (a tweak off the curve) is left out. Runs in parallel on rayon and blocks the
    /// calling thread: not for an async worker.
    pub fn candidates(&self, tweaks: &[TweakPoint]) -> Vec<Candidate> {
        let scanner = self.scanner.as_ref();
        let candidates = covered(scanner, || candidates::candidates(scanner, tweaks));
        if self.engine.status().is_news(&self.engine_reported) {
            tracing::error!("{}", EngineStatus::BROKEN);
        }
        candidates
    }

    /// The full rule for one transaction (BIP352, "Scanning"): k from 0, labels, K_MAX.
    ///
    /// `tweak` is the transaction's; `outputs` are all its taproot outputs, spent or not, in the order of the
    /// transaction. Finds come in ascending k. An output key that is no point is no output of the wallet.
    pub fn confirm(&self, tweak: &TweakPoint, outputs: &[TaprootOutput]) -> Vec<FoundOutput> {
        confirm::confirm(&self.keys, tweak, outputs)
    }
}
