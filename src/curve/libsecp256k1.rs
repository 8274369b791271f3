//! The engine on libsecp256k1, through the `secp256k1` crate: exact, one point at a time.
//!
//! Products are variable time, also `b_scan·T`: the time a scan takes may tell about the scan key to
//! somebody who can measure single products on the machine that scans.

use std::ops::Range;

use secp256k1::hashes::{Hash, HashEngine, sha256t_hash_newtype};
use secp256k1::{PublicKey, SECP256K1, Scalar};

use super::engine::Engine;
use super::point::{Product, TweakPoint, pack, unpack};
use super::sampling::Sampled;
use super::scan::{
    Batch, CandidateChunk, CandidateScanner, InvalidTarget, ScanTarget, chunk_numbers,
};

/// Tweaks whose first outputs are held at the same time.
const CHUNK_TWEAKS: usize = 64;

sha256t_hash_newtype! {
    /// The tag with which output tweaks are hashed.
    struct OutputTweakTag = hash_str("BIP0352/SharedSecret");

    /// A tagged hash of a shared secret and a counter.
    #[hash_newtype(forward)]
    struct OutputTweakHash(_);
}

/// `t_k = H_"BIP0352/SharedSecret"(serP(S) || ser32(k))`; `None` if the hash is 0 or not below the group order.
pub(crate) fn output_tweak(shared_secret: &PublicKey, k: u32) -> Option<Scalar> {
    let mut hash = OutputTweakHash::engine();
    hash.input(&shared_secret.serialize());
    hash.input(&k.to_be_bytes());
    nonzero_scalar(OutputTweakHash::from_engine(hash).to_byte_array())
}

/// The scalar of 32 big-endian bytes in 1..n.
pub(crate) fn nonzero_scalar(bytes: [u8; 32]) -> Option<Scalar> {
    let scalar = Scalar::from_be_bytes(bytes).ok()?;
    (scalar != Scalar::ZERO).then_some(scalar)
}

/// The engine on libsecp256k1: exact, no tables of its own, one point at a time.
#[derive(Clone, Copy, Debug, Default)]
pub struct LibSecp256k1;

/// It is what the others are compared with.
impl Sampled for LibSecp256k1 {}

impl Engine for LibSecp256k1 {
    fn name(&self) -> &'static str {
        "libsecp256k1"
    }

    fn scanner(&self, targets: &[ScanTarget]) -> Result<Box<dyn CandidateScanner>, InvalidTarget> {
        Ok(Box::new(Scanner::new(targets)?))
    }

    fn multiply(&self, products: &[Product]) -> Vec<Option<TweakPoint>> {
        products
            .iter()
            .map(|product| {
                let scalar = nonzero_scalar(product.scalar)?;
                let point = unpack(&product.point)?.mul_tweak(SECP256K1, &scalar).ok()?;
                Some(pack(&point))
            })
            .collect()
    }

    fn decompress(&self, keys: &[[u8; 33]]) -> Vec<Option<TweakPoint>> {
        keys.iter().map(TweakPoint::from_compressed).collect()
    }

    fn sums(&self, points: &[TweakPoint], ends: &[usize]) -> Vec<Option<TweakPoint>> {
        let mut start = 0;
        let sum = |end: &usize| {
            let group = &points[start..*end];
            start = *end;
            let keys: Option<Vec<PublicKey>> = group.iter().map(unpack).collect();
            let keys = keys?;
            // Adds all at once in Jacobian coordinates, where infinity is a value like others.
            let sum = PublicKey::combine_keys(&keys.iter().collect::<Vec<_>>());
            sum.ok().as_ref().map(pack)
        };
        ends.iter().map(sum).collect()
    }
}

/// A scan for wallets one after the other.
pub(super) struct Scanner {
    wallets: Vec<Wallet>,
}

/// A target with its keys parsed.
pub(super) struct Wallet {
    /// Its place among the targets.
    number: usize,
    /// On the heap, so that moving it leaves no copy. Wiped on drop.
    scan_key: Box<Scalar>,
    spend_key: PublicKey,
    labels: Vec<PublicKey>,
}

impl Drop for Wallet {
    fn drop(&mut self) {
        self.scan_key.non_secure_erase();
    }
}

/// `P_0` of one tweak, which may be infinity: then the sums with labels are still points.
enum FirstOutput {
    Point(PublicKey),
    Infinity,
}

impl Wallet {
    /// See [`Engine::scanner`].
    fn new(number: usize, target: &ScanTarget) -> Result<Self, InvalidTarget> {
        let point =
            |bytes: &[u8; 33], name| PublicKey::from_slice(bytes).map_err(|_| InvalidTarget(name));
        let scan_key = nonzero_scalar(target.scan_key).ok_or(InvalidTarget("scan key"))?;
        Ok(Self {
            number,
            scan_key: Box::new(scan_key),
            spend_key: point(&target.spend_key, "spend key")?,
            labels: target
                .labels
                .iter()
                .map(|label| point(label, "label"))
                .collect::<Result<_, _>>()?,
        })
    }

    pub(super) fn candidates_per_tweak(&self) -> usize {
        1 + self.labels.len()
    }

    /// Hands over the candidates with these numbers of every tweak, as [`CandidateScanner::scan`] does with all.
    ///
    /// # Panics
    /// If there are none with these numbers.
    pub(super) fn scan(
        &self,
        tweaks: &[TweakPoint],
        numbers: Range<usize>,
        take: &mut dyn FnMut(CandidateChunk<'_>),
    ) {
        let mut keys = Vec::new();
        for (run, tweaks) in tweaks.chunks(CHUNK_TWEAKS).enumerate() {
            let outputs: Vec<_> = tweaks.iter().map(|t| self.first_output(t)).collect();
            for numbers in chunk_numbers(numbers.clone(), tweaks.len()) {
                keys.clear();
                for output in &outputs {
                    keys.extend(numbers.clone().map(|n| self.candidate(output.as_ref(), n)));
                }
                take(CandidateChunk {
                    wallet: self.number,
                    first_tweak: run * CHUNK_TWEAKS,
                    numbers,
                    keys: &keys,
                });
            }
        }
    }

    /// The candidates of a tweak with these numbers.
    ///
    /// # Panics
    /// If there are none with these numbers.
    pub(super) fn two_candidates(&self, tweak: &TweakPoint, numbers: [usize; 2]) -> [[u8; 32]; 2] {
        let output = self.first_output(tweak);
        numbers.map(|number| self.candidate(output.as_ref(), number))
    }

    /// `P_0 = B_spend + t_0·G`; `None` if the tweak is off the curve or `t_0` no valid scalar.
    fn first_output(&self, tweak: &TweakPoint) -> Option<FirstOutput> {
        let shared_secret = unpack(tweak)?.mul_tweak(SECP256K1, &self.scan_key).ok()?;
        let t_0 = output_tweak(&shared_secret, 0)?;
        // With a valid point and scalar, infinity is the one way this sum can fail.
        Some(match self.spend_key.add_exp_tweak(SECP256K1, &t_0) {
            Ok(point) => FirstOutput::Point(point),
            Err(_) => FirstOutput::Infinity,
        })
    }

    /// One candidate of the tweak with this first output, by its number.
    fn candidate(&self, output: Option<&FirstOutput>, number: usize) -> [u8; 32] {
        let label = number.checked_sub(1).map(|label| &self.labels[label]);
        match (output, label) {
            (None, _) | (Some(FirstOutput::Infinity), None) => [0; 32],
            (Some(FirstOutput::Infinity), Some(label)) => x_coordinate(label),
            (Some(FirstOutput::Point(first)), None) => x_coordinate(first),
            (Some(FirstOutput::Point(first)), Some(label)) => first
                .combine(label)
                .map_or([0; 32], |sum| x_coordinate(&sum)),
        }
    }
}

impl Scanner {
    /// See [`Engine::scanner`].
    pub(super) fn new(targets: &[ScanTarget]) -> Result<Self, InvalidTarget> {
        let wallets = targets.iter().enumerate();
        let wallets = wallets.map(|(number, target)| Wallet::new(number, target));
        Ok(Self {
            wallets: wallets.collect::<Result<_, _>>()?,
        })
    }

    /// In the order of their targets.
    pub(super) fn wallets(&self) -> &[Wallet] {
        &self.wallets
    }
}

impl Sampled for Scanner {}

impl CandidateScanner for Scanner {
    fn wallets(&self) -> usize {
        self.wallets.len()
    }

    fn candidates_per_tweak(&self, wallet: usize) -> usize {
        self.wallets[wallet].candidates_per_tweak()
    }

    fn scan(&self, batch: Batch<'_>, take: &mut dyn FnMut(CandidateChunk<'_>)) {
        for wallet in &self.wallets {
            wallet.scan(batch.tweaks, 0..wallet.candidates_per_tweak(), take);
        }
    }
}

fn x_coordinate(point: &PublicKey) -> [u8; 32] {
    point.x_only_public_key().0.serialize()
}

#[cfg(test)]
mod tests;
