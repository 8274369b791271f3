//! Batched secp256k1 arithmetic for scanning and indexing. Knows nothing of Bitcoin.
//!
//! Everything works on plain slices; callers split work over threads. [`Engine`] is the one interface:
//! [`libsecp256k1`] implements it on the library of that name, point by point, and the batched engines
//! implement it on a backend each, with libsecp256k1 as their judge and last resort. [`engine`] chooses.
//!
//! | module | |
//! |---|---|
//! | `field`, `field_4x64`, `field_5x52`, `field_9x29`, `inverse` | field elements: packed, and in the limbs of a backend |
//! | `scalar` | integers modulo the group order, the endomorphism split, digits |
//! | `group` | the formulas, by name, with their costs and exceptions |
//! | `batch` | many points in lockstep with one inversion: the hot loop |
//! | `batch_sizes` | how many of them at a time |
//! | `schedule`, `products` | one secret scalar times many points, proven never to fail |
//! | `wallets` | many secret scalars times the same points |
//! | `multiply` | many points, each times a scalar of its own |
//! | `generator`, `sha256`, `outputs` | from shared secrets to candidate output keys |
//! | `points` | decompression and sums of many points |
//! | `kernel`, `scanner` | the engines: batches, validation, fallback |
//! | `known`, `sampling` | their self-check: results that are known, results that were handed out |
//! | `arch` | backends: all `unsafe` code of the crate |
//!
#![doc = include_str!("../../docs/kernel.md")]

mod arch;
mod batch;
mod batch_sizes;
#[cfg(test)]
pub(crate) mod failing;
mod field;
mod field_4x64;
#[cfg(test)]
mod field_4x64_carries;
#[cfg(any(target_arch = "x86_64", test))]
mod field_5x52;
#[cfg(any(target_arch = "x86_64", test))]
mod field_9x29;
mod generator;
mod group;
mod inverse;
mod kernel;
mod known;
pub mod libsecp256k1;
#[doc(hidden)]
pub mod measure;
mod multiply;
mod outputs;
mod points;
mod products;
#[cfg(test)]
mod proof;
#[cfg(test)]
mod reference;
mod sampling;
mod scalar;
mod scanner;
mod schedule;
mod selection;
mod sha256;
#[cfg(test)]
mod suite;
mod wallets;

use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

pub use sampling::{Sampled, covered};
#[doc(hidden)]
pub use selection::engine_in_batches;
pub use selection::{EngineKind, UnknownEngine, UnsupportedEngine, engine};

use field::FieldElement;
use group::AffinePoint;

use zeroize::{Zeroize, ZeroizeOnDrop};

/// A point of the curve in affine coordinates, never infinity: x then y, 32 bytes each, big-endian.
///
/// Values built by [`TweakPoint::from_compressed`] or an engine are on the curve. Bytes taken from a
/// disk through [`TweakPoint::from_bytes`] are not checked; engines treat a value off the curve as
/// "no result", never as a panic.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TweakPoint([u8; 64]);

impl TweakPoint {
    /// Wraps stored coordinates without checking the curve equation.
    pub const fn from_bytes(bytes: [u8; 64]) -> Self {
        Self(bytes)
    }

    /// x then y, 32 bytes each, big-endian.
    pub const fn as_bytes(&self) -> &[u8; 64] {
        &self.0
    }

    /// SEC1 compressed form: `02` or `03` by the parity of y, then x. Costs no arithmetic.
    pub fn to_compressed(&self) -> [u8; 33] {
        let mut bytes = [0; 33];
        bytes[0] = 2 + (self.0[63] & 1);
        bytes[1..].copy_from_slice(&self.0[..32]);
        bytes
    }

    /// Decompresses a SEC1 compressed point; `None` if the bytes are not one.
    pub fn from_compressed(bytes: &[u8; 33]) -> Option<Self> {
        libsecp256k1::decompress(bytes)
    }
}

impl TweakPoint {
    /// The coordinates; `None` if one is not below p. Says nothing about the curve.
    fn to_affine(self) -> Option<AffinePoint> {
        let (coordinates, _) = self.0.as_chunks::<32>();
        Some(AffinePoint {
            x: FieldElement::from_be_bytes(&coordinates[0])?,
            y: FieldElement::from_be_bytes(&coordinates[1])?,
        })
    }
}

impl From<AffinePoint> for TweakPoint {
    fn from(point: AffinePoint) -> Self {
        let mut bytes = [0; 64];
        bytes[..32].copy_from_slice(&point.x.to_be_bytes());
        bytes[32..].copy_from_slice(&point.y.to_be_bytes());
        Self(bytes)
    }
}

impl fmt::Debug for TweakPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TweakPoint(")?;
        for byte in self.to_compressed() {
            write!(f, "{byte:02x}")?;
        }
        write!(f, ")")
    }
}

/// What one wallet is scanned for: the scan key and the points whose sums with `t_0·G` are candidates.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct ScanTarget {
    /// b_scan, 32 bytes big-endian, in 1..n. Secret.
    pub scan_key: [u8; 32],
    /// B_spend, SEC1 compressed.
    pub spend_key: [u8; 33],
    /// Label points `label_m·G`, SEC1 compressed, in the order of the caller's labels.
    pub labels: Vec<[u8; 33]>,
}

impl fmt::Debug for ScanTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScanTarget")
            .field("labels", &self.labels.len())
            .finish_non_exhaustive()
    }
}

/// The point A of a transaction and the scalar it is multiplied by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Product {
    /// SEC1 uncompressed coordinates of the point.
    pub point: TweakPoint,
    /// The factor, 32 bytes big-endian.
    pub scalar: [u8; 32],
}

/// An implementation of the curve work that scanning and indexing are bound by.
///
/// All results are exact, whatever the implementation: `docs/kernel.md` says how the batched ones make sure of it. Against
/// faults of the machine they compare samples, so take what is to be stored, sent or reported from [`covered`].
pub trait Engine: Sampled + Send + Sync {
    /// Short name for logs, settings and tables.
    fn name(&self) -> &'static str;

    /// What happened so far, for the caller to log.
    fn status(&self) -> EngineStatus {
        EngineStatus::default()
    }

    /// Prepares a scan of many tweaks for one wallet.
    ///
    /// # Errors
    /// [`InvalidTarget`] if the scan key is not in 1..n or a point is not on the curve.
    fn scanner(&self, target: &ScanTarget) -> Result<Box<dyn CandidateScanner>, InvalidTarget>;

    /// Prepares a scan of many tweaks for several wallets in one pass.
    ///
    /// # Errors
    /// [`InvalidTarget`] if a scan key is not in 1..n or a point is not on the curve.
    fn wallets_scanner(
        &self,
        targets: &[ScanTarget],
    ) -> Result<Box<dyn WalletsScanner>, InvalidTarget> {
        let scanners = targets.iter().map(|target| self.scanner(target));
        Ok(Box::new(EachWallet(scanners.collect::<Result<_, _>>()?)))
    }

    /// `scalar·point` for each product, in order; `None` where the scalar is 0 or not below the group
    /// order, or the point is off the curve. Variable time: public data only.
    fn multiply(&self, products: &[Product]) -> Vec<Option<TweakPoint>>;

    /// 2^64·T for each tweak, in order, for [`CandidateScanner::candidates_with_multiples`]; `None` where it is
    /// off the curve.
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

impl EngineStatus {
    /// What to say of an engine that [`is_broken`](Self::is_broken).
    pub const BROKEN: &str = "the curve engine computed a wrong result, found by its self-check; what it had handed out since \
        the last good one is computed again by libsecp256k1, which has taken over and is slower. Force it with --engine libsecp256k1, check this machine's processor and memory, and report it";

    /// Whether the engine has found itself wrong, which callers are to report, once per process.
    ///
    /// `reported` remembers that it was said; true is returned only the first time.
    pub fn is_news(&self, reported: &AtomicBool) -> bool {
        self.is_broken && !reported.swap(true, Ordering::Relaxed)
    }
}

/// The multiple of a tweak that may be stored with it is 2 to this power.
const MULTIPLE_BITS: usize = 64;

/// What happened to an engine so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EngineStatus {
    /// Batches computed.
    pub batches: u64,
    /// Of these, left to libsecp256k1 because points met in them. More than a few are a sign of crafted input.
    pub fallback_batches: u64,
    /// A self-check found a wrong result: since then everything is left to libsecp256k1. Report the processor.
    pub is_broken: bool,
}

/// Tweaks that a scanner gains from getting at once: a full batch of the backend with the smallest elements.
pub const SCAN_BATCH: usize = 2048;

/// Transactions that tweak computation gains from getting at once.
pub const TWEAK_BATCH: usize = 512;

/// Fewest items worth a batch: below this it loses more than a further core gains.
pub const LEAST_BATCH: usize = 64;

/// How many items to hand an engine at a time where `threads` share `items`: as many batches of the same size for each
/// thread, of `most` items at most and, unless there are fewer, [`LEAST_BATCH`] at least.
///
/// Make each batch a task of its own: rayon would otherwise hand out runs of them, which nobody can take over from a
/// thread that is late.
pub fn batch_for_threads(items: usize, threads: usize, most: usize) -> usize {
    let threads = threads.max(1);
    let batches = threads * items.div_ceil(threads * most).max(1);
    items.div_ceil(batches).max(LEAST_BATCH)
}

/// Candidates of one chunk at most, unless it has more tweaks: 2 MB of keys. In unit tests so few that they are split.
const CHUNK_CANDIDATES: usize = if cfg!(test) { 1 << 6 } else { 1 << 16 };

/// Splits the numbers of candidates so that those of so many tweaks make no more than a chunk.
fn chunk_numbers(numbers: Range<usize>, tweaks: usize) -> impl Iterator<Item = Range<usize>> {
    let most = (CHUNK_CANDIDATES / tweaks.max(1)).max(1);
    let end = numbers.end;
    let starts = numbers.step_by(most);
    starts.map(move |start| start..end.min(start + most))
}

/// Some candidates of some tweaks that follow one another.
#[derive(Debug, Clone)]
pub struct CandidateChunk<'a> {
    /// Index of the first of the tweaks in the slice scanned.
    pub first_tweak: usize,
    /// Which candidates of each of them: 0 for the plain address, 1 + i for label i of the target.
    pub numbers: Range<usize>,
    /// Those of each tweak in turn: x-only output keys, zeros where there is no candidate.
    pub keys: &'a [[u8; 32]],
}

impl<'a> CandidateChunk<'a> {
    /// The index of each tweak with its candidates.
    pub fn by_tweak(&self) -> impl Iterator<Item = (usize, &'a [[u8; 32]])> {
        (self.first_tweak..).zip(self.keys.chunks(self.numbers.len().max(1)))
    }

    /// The same chunk of a slice with so many tweaks in front.
    fn behind(self, tweaks: usize) -> Self {
        Self {
            first_tweak: tweaks + self.first_tweak,
            ..self
        }
    }

    /// Writes the keys to their places among all candidates of all tweaks.
    fn copy_to(&self, candidates: &mut [[u8; 32]], per_tweak: usize) {
        if self.numbers.len() == per_tweak {
            let start = self.first_tweak * per_tweak;
            candidates[start..][..self.keys.len()].copy_from_slice(self.keys);
            return;
        }
        for (tweak, keys) in self.by_tweak() {
            let start = tweak * per_tweak + self.numbers.start;
            candidates[start..][..keys.len()].copy_from_slice(keys);
        }
    }
}

/// A scan prepared for one wallet: tweaks in, candidate output keys out. What is to be relied on goes through [`covered`].
pub trait CandidateScanner: Sampled + Send + Sync {
    /// Candidates per tweak: 1 for the plain address and 1 for each label.
    fn candidates_per_tweak(&self) -> usize;

    /// Hands the candidates with these numbers of every tweak to `take`, each once: for every run of tweaks chunk by
    /// chunk in the order of the numbers. Memory does not grow with the number of tweaks, nor with that of labels beyond
    /// what their points take.
    ///
    /// A candidate is the x coordinate of `P_0 = B_spend + t_0·G` (number 0) or of `P_0 + L` for a label of the target,
    /// 32 bytes big-endian. One that does not exist (tweak off the curve, sum at infinity, invalid `t_0`) is all zeros,
    /// which is the x coordinate of no point.
    ///
    /// With `multiples`, the multiples 2^64·T of the tweaks T in the same order, it is faster. They are
    /// [`Engine::multiples`] of the tweaks; with other points, the candidates are wrong.
    ///
    /// # Panics
    /// If there are no candidates with these numbers.
    fn chunks(
        &self,
        tweaks: &[TweakPoint],
        multiples: Option<&[TweakPoint]>,
        numbers: Range<usize>,
        take: &mut dyn FnMut(CandidateChunk<'_>),
    );

    /// Writes all candidates of each tweak in order: that of the plain address, then those of the labels in the target's
    /// order. Clears `candidates` first. The memory for all of them at once is the caller's to bound.
    fn candidates(&self, tweaks: &[TweakPoint], candidates: &mut Vec<[u8; 32]>) {
        collect(self, tweaks, None, candidates);
    }

    /// The same candidates, faster, for tweaks whose multiples are stored with them, in the same order.
    fn candidates_with_multiples(
        &self,
        tweaks: &[TweakPoint],
        multiples: &[TweakPoint],
        candidates: &mut Vec<[u8; 32]>,
    ) {
        debug_assert_eq!(tweaks.len(), multiples.len());
        collect(self, tweaks, Some(multiples), candidates);
    }

    /// Writes the candidates that start with a short output key of their tweak's transaction, in order of tweaks, then
    /// of candidates. Clears `matches` first.
    fn matches(&self, tweaks: &[TweakPoint], outputs: &ShortKeys, matches: &mut Vec<Match>) {
        matches.clear();
        let numbers = 0..self.candidates_per_tweak();
        self.chunks(tweaks, None, numbers, &mut |chunk| {
            for (tweak, keys) in chunk.by_tweak() {
                let numbered = chunk.numbers.clone().zip(keys);
                let found = numbered.filter(|(_, key)| outputs.contains(tweak, key));
                matches.extend(found.map(|(candidate, key)| Match {
                    tweak,
                    candidate,
                    key: *key,
                }));
            }
        });
        matches.sort_unstable_by_key(|found| (found.tweak, found.candidate));
    }
}

fn collect(
    scanner: &(impl CandidateScanner + ?Sized),
    tweaks: &[TweakPoint],
    multiples: Option<&[TweakPoint]>,
    candidates: &mut Vec<[u8; 32]>,
) {
    let per_tweak = scanner.candidates_per_tweak();
    candidates.clear();
    candidates.resize(tweaks.len() * per_tweak, [0; 32]);
    scanner.chunks(tweaks, multiples, 0..per_tweak, &mut |chunk| {
        chunk.copy_to(candidates, per_tweak);
    });
}

/// The first 8 bytes of the output keys of each tweak's transaction.
#[derive(Debug, Clone, Copy)]
pub struct ShortKeys<'a> {
    /// As big-endian numbers.
    pub keys: &'a [u64],
    /// Those of tweak i are `keys[ends[i - 1]..ends[i]]`, the first ones begin at 0.
    pub ends: &'a [u32],
}

impl ShortKeys<'_> {
    fn contains(&self, tweak: usize, key: &[u8; 32]) -> bool {
        let end = |tweak: usize| {
            self.ends
                .get(tweak)
                .map_or(self.keys.len(), |end| *end as usize)
        };
        let start = tweak.checked_sub(1).map_or(0, end);
        let (short, _) = key.as_chunks::<8>();
        let short = u64::from_be_bytes(short[0]);
        let keys = self.keys.get(start..end(tweak)).unwrap_or_default();
        *key != [0; 32] && keys.contains(&short)
    }
}

/// A candidate that starts like an output of its transaction: to be confirmed, since 8 bytes may collide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Match {
    /// Index of the tweak in the slice scanned.
    pub tweak: usize,
    /// 0 for the plain address, 1 + i for label i of the target.
    pub candidate: usize,
    /// The candidate: an x-only output key.
    pub key: [u8; 32],
}

/// A scan prepared for several wallets. What is to be relied on goes through [`covered`].
pub trait WalletsScanner: Sampled + Send + Sync {
    /// How many.
    fn wallets(&self) -> usize;

    /// Candidates per tweak of a wallet.
    ///
    /// # Panics
    /// If there is no such wallet.
    fn candidates_per_tweak(&self, wallet: usize) -> usize;

    /// Hands every candidate of every tweak to `take`, with the wallet it is of: as [`CandidateScanner::chunks`] does,
    /// wallets in any order.
    fn chunks(&self, tweaks: &[TweakPoint], take: &mut dyn FnMut(usize, CandidateChunk<'_>));

    /// Writes the candidates of each wallet as [`CandidateScanner::candidates`] does, wallets in the order of their
    /// targets. Reuses the vectors. The memory for all of them at once is the caller's to bound.
    fn candidates(&self, tweaks: &[TweakPoint], candidates: &mut Vec<Vec<[u8; 32]>>) {
        candidates.resize_with(self.wallets(), Vec::new);
        for (wallet, candidates) in candidates.iter_mut().enumerate() {
            candidates.clear();
            candidates.resize(tweaks.len() * self.candidates_per_tweak(wallet), [0; 32]);
        }
        self.chunks(tweaks, &mut |wallet, chunk| {
            chunk.copy_to(&mut candidates[wallet], self.candidates_per_tweak(wallet));
        });
    }
}

/// Several wallets, one after the other.
struct EachWallet(Vec<Box<dyn CandidateScanner>>);

impl Sampled for EachWallet {
    fn is_broken(&self) -> bool {
        self.0.iter().any(|scanner| scanner.is_broken())
    }

    fn confirm(&self) -> bool {
        // Each of them, also after one that is wrong.
        self.0
            .iter()
            .fold(true, |right, scanner| scanner.confirm() & right)
    }
}

impl WalletsScanner for EachWallet {
    fn wallets(&self) -> usize {
        self.0.len()
    }

    fn candidates_per_tweak(&self, wallet: usize) -> usize {
        self.0[wallet].candidates_per_tweak()
    }

    fn chunks(&self, tweaks: &[TweakPoint], take: &mut dyn FnMut(usize, CandidateChunk<'_>)) {
        for (wallet, scanner) in self.0.iter().enumerate() {
            let numbers = 0..scanner.candidates_per_tweak();
            scanner.chunks(tweaks, None, numbers, &mut |chunk| take(wallet, chunk));
        }
    }
}

/// A scan target with a key that is out of range or not on the curve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the {0} is not a valid key")]
pub struct InvalidTarget(
    /// Which key: "scan key", "spend key" or "label".
    pub &'static str,
);
