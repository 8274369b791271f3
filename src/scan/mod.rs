//! Scanning tweaks for one wallet or several: candidates in bulk, then the full rules for what a candidate points to.
//!
//! A hit for `k = 0`, plain or labelled, is necessary for every payment, so [`Scanner::scan`] computes only those keys;
//! [`Scanner::confirm`] then applies BIP352 to all outputs of the transaction.

mod candidates;
mod confirm;
#[cfg(test)]
mod failing_engine;
mod shared;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use bitcoin::OutPoint;
use zeroize::Zeroize;

use crate::bip352::keys::ReceiverKeys;
use crate::curve::{CandidateChunk, Engine, InvalidTarget, TweakPoint};

pub use shared::SharedScanner;

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

/// Two ways to compute the key of an output do not agree, so that one of them is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the key of {0} was computed in two ways with two results: nothing can be said of this block. Check this machine's \
     processor and memory, scan again with --engine libsecp256k1, and report it if that fails too"
)]
pub struct Unverified(
    /// The output.
    pub OutPoint,
);

/// Scans for one wallet.
pub struct Scanner {
    keys: Arc<ReceiverKeys>,
    /// Of this wallet alone.
    scanner: SharedScanner,
}

impl fmt::Debug for Scanner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scanner")
            .field("labels", &self.keys.labels.len())
            .finish_non_exhaustive()
    }
}

impl From<Scanner> for SharedScanner {
    fn from(scanner: Scanner) -> Self {
        scanner.scanner
    }
}

impl Scanner {
    /// Prepares a scan: what an engine can work out once per wallet is done here.
    ///
    /// # Errors
    /// [`InvalidTarget`] if the engine refuses a key, which keys from [`ReceiverKeys`] never cause.
    pub fn new(engine: Arc<dyn Engine>, keys: ReceiverKeys) -> Result<Self, InvalidTarget> {
        let keys = Arc::new(keys);
        Ok(Self {
            scanner: SharedScanner::new(engine, vec![keys.clone()])?,
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

    /// The point of each compressed tweak, in order; `None` where the bytes are none. In batches on rayon; blocks the calling
    /// thread.
    pub fn decompress(&self, tweaks: &[[u8; 33]]) -> Vec<Option<TweakPoint>> {
        self.scanner.decompress(tweaks)
    }

    /// Computes the candidates of every tweak, in batches of tweaks on rayon, and hands them over chunk by chunk, so that
    /// memory does not grow with labels times tweaks. `begin` is called for each batch, `take` with what it made and each
    /// chunk of the batch; what became of all batches is given back in the order of the tweaks. If the engine finds
    /// itself wrong all of it begins anew, so neither may keep or report anything elsewhere.
    ///
    /// Candidate 0 of a tweak is the plain one, the others are those of the labels by ascending m; one that does not exist
    /// (a tweak off the curve) is all zeros. Blocks the calling thread: not for an async worker.
    pub fn scan<T: Send>(
        &self,
        tweaks: &[TweakPoint],
        begin: impl Fn(Range<usize>) -> T + Sync,
        take: impl Fn(&mut T, CandidateChunk<'_>) + Sync,
    ) -> Vec<T> {
        self.scanner.scan(tweaks, begin, take)
    }

    /// The full rule for one transaction (BIP352, "Scanning"): k from 0, labels, K_MAX.
    ///
    /// `tweak` is the transaction's; `outputs` are all its taproot outputs, spent or not, in the order of the
    /// transaction. BIP352 takes one output for each k, the first. Others that the wallet can spend are its own too: those
    /// with a key that was found, and those that are `P_k` or a label's sum for a k that was found. They do not decide
    /// whether k + 1 is looked for. Finds come in ascending k, of one k the output that BIP352 takes first. An output key
    /// that is no point is no output of the wallet.
    ///
    /// # Errors
    /// [`Unverified`] if a find's key is not what its tweak makes, which takes a fault of the machine or of this code.
    pub fn confirm(
        &self,
        tweak: &TweakPoint,
        outputs: &[TaprootOutput],
    ) -> Result<Vec<FoundOutput>, Unverified> {
        confirm::confirm(&self.keys, tweak, outputs)
    }
}
