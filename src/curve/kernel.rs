//! The batched engine: batches, validation, the way back to libsecp256k1, and the self-check.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use secp256k1::hashes::{Hash, sha256};
use secp256k1::{SECP256K1, SecretKey};

use super::arch::Backend;
use super::batch::Degenerate;
use super::generator::GeneratorTable;
use super::group::AffinePoint;
use super::libsecp256k1::{self, LibSecp256k1};
use super::multiply::{self, MULTIPLY_POINTS};
use super::points;
use super::scalar::Scalar;
use super::scanner;
use super::sha256::TaggedHash;
use super::{
    CandidateScanner, Engine, EngineStatus, InvalidTarget, Product, ScanTarget, TweakPoint,
    WalletsScanner,
};

/// Fewer points than this are left to libsecp256k1: their share of the inversions would cost more than it saves.
pub(super) const MIN_POINTS: usize = 16;

/// One batch in so many has a result recomputed by libsecp256k1.
const CHECK_INTERVAL: u64 = 256;

/// The batched engine on a backend.
pub(crate) struct Kernel<B: Backend> {
    backend: B,
    core: Arc<Core>,
}

/// What the scanners of an engine share with it.
pub(super) struct Core {
    pub(super) table: Option<&'static GeneratorTable>,
    pub(super) output_tweak: TaggedHash,
    pub(super) health: Health,
}

/// What happened so far.
#[derive(Default)]
pub(super) struct Health {
    batches: AtomicU64,
    fallback_batches: AtomicU64,
    is_broken: AtomicBool,
}

impl Health {
    /// Whether a result was wrong: nothing is to be computed here any more.
    pub(super) fn is_broken(&self) -> bool {
        self.is_broken.load(Ordering::Relaxed)
    }

    /// Judges a batch of `count` results, which may be [`Degenerate`] as a whole: whether they may be used. Now and
    /// then, asks `agrees` about one of them.
    pub(super) fn accept(
        &self,
        batch: Result<(), Degenerate>,
        count: usize,
        agrees: impl FnOnce(usize) -> bool,
    ) -> bool {
        let number = self.batches.fetch_add(1, Ordering::Relaxed);
        if batch.is_err() {
            self.fallback_batches.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        if number.is_multiple_of(CHECK_INTERVAL) && count > 0 {
            // A different place each time.
            let sample = (number / CHECK_INTERVAL).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
            if !agrees(sample as usize % count) {
                self.is_broken.store(true, Ordering::Relaxed);
            }
        }
        !self.is_broken()
    }
}

/// The size of batches that divides `count` points evenly, with at most `max` in each.
pub(super) fn batch_points(count: usize, max: usize) -> usize {
    count.div_ceil(count.div_ceil(max).max(1)).max(1)
}

impl<B: Backend> Kernel<B> {
    /// The engine. It checks itself first; should that fail, it goes on with libsecp256k1, and
    /// [`Engine::status`] says so.
    pub(crate) fn new(backend: B) -> Self {
        let kernel = Self::unchecked(backend);
        if kernel.self_check() != Some(true) {
            kernel.core.health.is_broken.store(true, Ordering::Relaxed);
        }
        kernel
    }

    fn unchecked(backend: B) -> Self {
        Self {
            backend,
            core: Arc::new(Core {
                table: GeneratorTable::shared().ok(),
                output_tweak: TaggedHash::new("BIP0352/SharedSecret"),
                health: Health::default(),
            }),
        }
    }

    /// Every kind of result on a few dozen points, compared with libsecp256k1; `None` if there is nothing to compare.
    fn self_check(&self) -> Option<bool> {
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
                point: libsecp256k1::pack(&key),
                scalar: secret(i + 1)?.secret_bytes(),
            });
        }
        let exact = LibSecp256k1;
        let points: Vec<TweakPoint> = products.iter().map(|product| product.point).collect();
        let ends: Vec<usize> = (1..=points.len()).step_by(3).collect();
        let candidates = |engine: &dyn Engine| {
            let mut candidates = Vec::new();
            let scanner = engine.scanner(&target).ok()?;
            scanner.candidates(&points, &mut candidates);
            Some(candidates)
        };
        let with_multiples = |engine: &dyn Engine| {
            let mut candidates = Vec::new();
            let multiples = exact.multiples(&points);
            let multiples: Vec<TweakPoint> = multiples.into_iter().flatten().collect();
            let scanner = engine.scanner(&target).ok()?;
            scanner.candidates_with_multiples(&points, &multiples, &mut candidates);
            Some(candidates)
        };
        let by_wallet = |engine: &dyn Engine| {
            let mut candidates = Vec::new();
            let targets = [target.clone(), target.clone()];
            let scanner = engine.wallets_scanner(&targets).ok()?;
            scanner.candidates(&points, &mut candidates);
            Some(candidates)
        };
        Some(
            self.core.table.is_some()
                && candidates(self)? == candidates(&exact)?
                && with_multiples(self)? == candidates(&exact)?
                && by_wallet(self)? == [candidates(&exact)?, candidates(&exact)?]
                && self.multiply(&products) == exact.multiply(&products)
                && self.decompress(&keys) == exact.decompress(&keys)
                && self.sums(&points, &ends) == exact.sums(&points, &ends)
                && !self.core.health.is_broken(),
        )
    }

    /// The products of a batch, all of whose scalars are in 1..n and all of whose points are on the curve.
    fn multiply_batch(&self, products: &[&Product]) -> Vec<Option<TweakPoint>> {
        let exact = |products: &[&Product]| {
            let products: Vec<Product> = products.iter().map(|product| **product).collect();
            LibSecp256k1.multiply(&products)
        };
        let parsed = |product: &&Product| {
            let scalar = Scalar::from_be_bytes(&product.scalar)?;
            Some((product.point.to_affine()?, scalar))
        };
        let parsed: Option<(Vec<AffinePoint>, Vec<Scalar>)> = products.iter().map(parsed).collect();
        let Some((mut points, scalars)) = parsed else {
            return exact(products);
        };
        let done = multiply::multiply(self.backend, &mut points, &scalars);
        let agrees = |i: usize| {
            let sample = LibSecp256k1.multiply(&[*products[i]]);
            sample == [Some(TweakPoint::from(points[i]))]
        };
        if !self.core.health.accept(done, products.len(), agrees) {
            return exact(products);
        }
        points.into_iter().map(|point| Some(point.into())).collect()
    }
}

impl<B: Backend> Engine for Kernel<B> {
    fn name(&self) -> &'static str {
        B::NAME
    }

    fn status(&self) -> EngineStatus {
        let health = &self.core.health;
        EngineStatus {
            batches: health.batches.load(Ordering::Relaxed),
            fallback_batches: health.fallback_batches.load(Ordering::Relaxed),
            is_broken: health.is_broken(),
        }
    }

    fn scanner(&self, target: &ScanTarget) -> Result<Box<dyn CandidateScanner>, InvalidTarget> {
        scanner::one_wallet(self.backend, &self.core, target)
    }

    fn wallets_scanner(
        &self,
        targets: &[ScanTarget],
    ) -> Result<Box<dyn WalletsScanner>, InvalidTarget> {
        scanner::many_wallets(self.backend, &self.core, targets)
    }

    fn multiply(&self, products: &[Product]) -> Vec<Option<TweakPoint>> {
        if products.len() < MIN_POINTS || self.core.health.is_broken() {
            return LibSecp256k1.multiply(products);
        }
        let points: Vec<TweakPoint> = products.iter().map(|product| product.point).collect();
        let mut is_valid = self.validate(&points);
        for (is_valid, product) in is_valid.iter_mut().zip(products) {
            let scalar = Scalar::from_be_bytes(&product.scalar);
            *is_valid &= scalar.is_some_and(|scalar| !scalar.is_zero());
        }
        let valid: Vec<(usize, &Product)> = (products.iter().enumerate())
            .filter(|(i, _)| is_valid[*i])
            .collect();
        let mut results = vec![None; products.len()];
        for batch in valid.chunks(batch_points(valid.len(), MULTIPLY_POINTS)) {
            let products: Vec<&Product> = batch.iter().map(|(_, product)| *product).collect();
            for ((i, _), result) in batch.iter().zip(self.multiply_batch(&products)) {
                results[*i] = result;
            }
        }
        results
    }

    fn decompress(&self, keys: &[[u8; 33]]) -> Vec<Option<TweakPoint>> {
        if self.core.health.is_broken() {
            return LibSecp256k1.decompress(keys);
        }
        let points = points::decompress(self.backend, keys);
        let points: Vec<_> = points
            .into_iter()
            .map(|p| p.map(TweakPoint::from))
            .collect();
        let agrees = |i: usize| points[i] == libsecp256k1::decompress(&keys[i]);
        if !self.core.health.accept(Ok(()), keys.len(), agrees) {
            return LibSecp256k1.decompress(keys);
        }
        points
    }

    fn sums(&self, points: &[TweakPoint], ends: &[usize]) -> Vec<Option<TweakPoint>> {
        let is_valid = self.validate(points);
        if self.core.health.is_broken() || is_valid.contains(&false) {
            return LibSecp256k1.sums(points, ends);
        }
        let affine: Vec<AffinePoint> = points.iter().filter_map(|p| p.to_affine()).collect();
        let sums = points::sums(self.backend, &affine, ends);
        let done = sums.as_ref().map(|_| ()).map_err(|error| *error);
        let sums: Vec<_> = (sums.unwrap_or_default().into_iter())
            .map(|sum| sum.map(TweakPoint::from))
            .collect();
        let agrees = |i: usize| {
            let start = if i == 0 { 0 } else { ends[i - 1] };
            let group = &points[start..ends[i]];
            [sums[i]] == LibSecp256k1.sums(group, &[group.len()])[..]
        };
        if !self.core.health.accept(done, ends.len(), agrees) {
            return LibSecp256k1.sums(points, ends);
        }
        sums
    }
}

impl<B: Backend> Kernel<B> {
    /// Whether each point is on the curve.
    fn validate(&self, points: &[TweakPoint]) -> Vec<bool> {
        let affine = |point: &TweakPoint| point.to_affine();
        let coordinates: Vec<AffinePoint> = points
            .iter()
            .map(|point| affine(point).unwrap_or(AffinePoint::generator()))
            .collect();
        let mut is_valid = vec![false; points.len()];
        points::are_on_curve(self.backend, &coordinates, &mut is_valid);
        for (is_valid, point) in is_valid.iter_mut().zip(points) {
            *is_valid &= affine(point).is_some();
        }
        is_valid
    }
}

#[cfg(test)]
mod tests;
