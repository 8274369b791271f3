//! Results that are known, of every kind that an engine computes: what it is held against before and during its use.

use std::sync::OnceLock;

use secp256k1::hashes::{Hash, sha256};
use secp256k1::{SECP256K1, SecretKey};

use super::batch_sizes::MIN_POINTS;
use super::engine::Engine;
use super::libsecp256k1::LibSecp256k1;
use super::point::{Product, TweakPoint, pack};
use super::scan::{Batch, ScanTarget};

/// Inputs for a few batches that use every lane, with libsecp256k1's results.
pub(super) struct Known {
    pub(super) target: ScanTarget,
    pub(super) tweaks: Vec<TweakPoint>,
    pub(super) multiples: Vec<TweakPoint>,
    /// Of the tweaks, for the target.
    pub(super) candidates: Vec<[u8; 32]>,
    pub(super) products: Vec<Product>,
    pub(super) multiplied: Vec<Option<TweakPoint>>,
    pub(super) keys: Vec<[u8; 33]>,
    pub(super) points: Vec<Option<TweakPoint>>,
    /// Ends of groups of tweaks.
    pub(super) ends: Vec<usize>,
    pub(super) sums: Vec<Option<TweakPoint>>,
}

impl Known {
    /// Those of the process; `None` if a hash is no key, which none of these is.
    pub(super) fn shared() -> Option<&'static Self> {
        static KNOWN: OnceLock<Option<Known>> = OnceLock::new();
        KNOWN.get_or_init(Self::compute).as_ref()
    }

    fn compute() -> Option<Self> {
        let secret = |i: usize| {
            let hash = sha256::Hash::hash(format!("spindex self-check {i}").as_bytes());
            SecretKey::from_slice(hash.as_byte_array()).ok()
        };
        let public = |i: usize| Some(secret(i)?.public_key(SECP256K1));
        let target = ScanTarget {
            scan_key: secret(0)?.secret_bytes(),
            spend_key: public(1)?.serialize(),
            labels: vec![public(2)?.serialize()],
        };
        let mut keys = Vec::new();
        let mut products = Vec::new();
        for i in 3..3 + 2 * MIN_POINTS {
            let key = public(i)?;
            keys.push(key.serialize());
            products.push(Product {
                point: pack(&key),
                scalar: secret(i + 1)?.secret_bytes(),
            });
        }
        let exact = LibSecp256k1;
        let tweaks: Vec<TweakPoint> = products.iter().map(|product| product.point).collect();
        let ends: Vec<usize> = (1..=tweaks.len()).step_by(3).collect();
        let mut candidates = Vec::new();
        let scanner = exact.scanner(std::slice::from_ref(&target)).ok()?;
        scanner.candidates(Batch::of(&tweaks), &mut candidates);
        let multiples = exact.multiples(&tweaks);
        Some(Self {
            multiples: multiples.into_iter().collect::<Option<_>>()?,
            candidates: candidates.pop()?,
            multiplied: exact.multiply(&products),
            points: exact.decompress(&keys),
            sums: exact.sums(&tweaks, &ends),
            target,
            tweaks,
            products,
            keys,
            ends,
        })
    }
}
