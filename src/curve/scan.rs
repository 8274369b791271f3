//! What a scan is asked and what it hands over: wallets and tweaks in, candidate output keys out.

use std::fmt;
use std::ops::Range;

use zeroize::{Zeroize, ZeroizeOnDrop};

use super::point::TweakPoint;
use super::sampling::Sampled;

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

/// A scan target with a key that is out of range or not on the curve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the {0} is not a valid key")]
pub struct InvalidTarget(
    /// Which key: "scan key", "spend key" or "label".
    pub &'static str,
);

/// Tweaks to be scanned.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    /// The tweaks T, each of which may be off the curve.
    pub tweaks: &'a [TweakPoint],
    /// Their multiples 2^64·T in the same order, where they are stored with them: [`Engine::multiples`] of the tweaks. With
    /// other points the candidates are wrong. A scan for one wallet is faster with them; wallets that are scanned for
    /// together share the work that they would save.
    ///
    /// [`Engine::multiples`]: super::Engine::multiples
    pub multiples: Option<&'a [TweakPoint]>,
}

impl<'a> Batch<'a> {
    /// Tweaks without their multiples.
    pub const fn of(tweaks: &'a [TweakPoint]) -> Self {
        Self {
            tweaks,
            multiples: None,
        }
    }
}

/// A scan prepared for one wallet or many: tweaks in, candidate output keys out. What is to be relied on goes through
/// [`covered`](super::covered).
pub trait CandidateScanner: Sampled + Send + Sync {
    /// How many wallets it is for, which are counted in the order of their targets.
    fn wallets(&self) -> usize;

    /// Candidates of a wallet per tweak: 1 for the plain address and 1 for each label.
    ///
    /// # Panics
    /// If there is no such wallet.
    fn candidates_per_tweak(&self, wallet: usize) -> usize;

    /// Hands all candidates of every tweak to `take`, each once: wallets in any order, and for every run of tweaks chunk by
    /// chunk in the order of the candidates' numbers. Memory does not grow with the number of tweaks, nor with that of
    /// labels beyond what their points take.
    ///
    /// A candidate is the x coordinate of `P_0 = B_spend + t_0·G` (number 0) or of `P_0 + L` for a label of the target,
    /// 32 bytes big-endian. One that does not exist (tweak off the curve, sum at infinity, invalid `t_0`) is all zeros,
    /// which is the x coordinate of no point.
    fn scan(&self, batch: Batch<'_>, take: &mut dyn FnMut(CandidateChunk<'_>));

    /// Writes all candidates of each wallet by tweak: that of the plain address, then those of the labels in the target's
    /// order. Reuses the vectors. The memory for all of them at once is the caller's to bound.
    fn candidates(&self, batch: Batch<'_>, candidates: &mut Vec<Vec<[u8; 32]>>) {
        candidates.resize_with(self.wallets(), Vec::new);
        for (wallet, candidates) in candidates.iter_mut().enumerate() {
            candidates.clear();
            candidates.resize(
                batch.tweaks.len() * self.candidates_per_tweak(wallet),
                [0; 32],
            );
        }
        self.scan(batch, &mut |chunk| {
            let per_tweak = self.candidates_per_tweak(chunk.wallet);
            chunk.copy_to(&mut candidates[chunk.wallet], per_tweak);
        });
    }

    /// Writes the candidates that start with a short output key of their tweak's transaction, in order of tweaks, then of
    /// wallets, then of candidates. Clears `matches` first.
    fn matches(&self, batch: Batch<'_>, outputs: &ShortKeys, matches: &mut Vec<Match>) {
        matches.clear();
        self.scan(batch, &mut |chunk| {
            for (tweak, keys) in chunk.by_tweak() {
                let numbered = chunk.numbers.clone().zip(keys);
                let found = numbered.filter(|(_, key)| outputs.contains(tweak, key));
                matches.extend(found.map(|(candidate, key)| Match {
                    tweak,
                    wallet: chunk.wallet,
                    candidate,
                    key: *key,
                }));
            }
        });
        matches.sort_unstable_by_key(|found| (found.tweak, found.wallet, found.candidate));
    }
}

/// Candidates of one chunk at most, unless it has more tweaks: 2 MB of keys. In unit tests so few that they are split.
pub(super) const CHUNK_CANDIDATES: usize = if cfg!(test) { 1 << 6 } else { 1 << 16 };

/// Splits the numbers of candidates so that those of so many tweaks make no more than a chunk.
pub(super) fn chunk_numbers(
    numbers: Range<usize>,
    tweaks: usize,
) -> impl Iterator<Item = Range<usize>> {
    let most = (CHUNK_CANDIDATES / tweaks.max(1)).max(1);
    let end = numbers.end;
    let starts = numbers.step_by(most);
    starts.map(move |start| start..end.min(start + most))
}

/// Some candidates of one wallet, of some tweaks that follow one another.
#[derive(Debug, Clone)]
pub struct CandidateChunk<'a> {
    /// Whose they are.
    pub wallet: usize,
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
    pub fn behind(self, tweaks: usize) -> Self {
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
    /// Whose it is.
    pub wallet: usize,
    /// 0 for the plain address, 1 + i for label i of the target.
    pub candidate: usize,
    /// The candidate: an x-only output key.
    pub key: [u8; 32],
}
