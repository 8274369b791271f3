//! The batched engine: batches, validation, the way back to libsecp256k1, and the self-check.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::arch::Backend;
use super::batch::Degenerate;
use super::batch_sizes::{BatchSizes, batch_points};
use super::generator::GeneratorTable;
use super::group::AffinePoint;
use super::known::Known;
use super::libsecp256k1::{self, LibSecp256k1};
use super::multiply;
use super::points;
use super::sampling::{Last, scatter};
use super::scalar::Scalar;
use super::scanner;
use super::sha256::TaggedHash;
use super::{
    CandidateScanner, Engine, EngineStatus, InvalidTarget, Product, Sampled, ScanTarget,
    TweakPoint, WalletsScanner,
};

/// Fewer points than this are left to libsecp256k1: their share of the inversions would cost more than it saves.
pub(super) const MIN_POINTS: usize = 16;

/// One batch in so many has a result recomputed by libsecp256k1 at once. A prime, so that each kind has its turn whatever
/// the order in which a caller asks for kinds.
const CHECK_INTERVAL: u64 = 17;

/// The batched engine on a backend.
pub(crate) struct Kernel<B: Backend> {
    backend: B,
    core: Arc<Core>,
}

/// What the scanners of an engine share with it.
pub(super) struct Core {
    pub(super) sizes: BatchSizes,
    pub(super) table: Option<&'static GeneratorTable>,
    pub(super) output_tweak: TaggedHash,
    pub(super) health: Health,
    products: Last<(Product, Option<TweakPoint>)>,
    keys: Last<([u8; 33], Option<TweakPoint>)>,
    sums: Last<(Vec<TweakPoint>, Option<TweakPoint>)>,
}

/// What happened so far.
#[derive(Default)]
pub(super) struct Health {
    batches: AtomicU64,
    fallback_batches: AtomicU64,
    is_broken: AtomicBool,
    confirming: Mutex<()>,
}

impl Health {
    /// Whether a result was wrong: nothing is to be computed here any more.
    pub(super) fn is_broken(&self) -> bool {
        self.is_broken.load(Ordering::Relaxed)
    }

    /// A result was wrong.
    pub(super) fn distrust(&self) {
        self.is_broken.store(true, Ordering::Relaxed);
    }

    /// Distrusts the engine if it takes a point of the curve for one that is none: of its results, nobody would miss
    /// what it lacks.
    pub(super) fn judge_invalid(&self, is_valid: &[bool], points: &[TweakPoint]) {
        let mut judged = is_valid.iter().zip(points);
        if judged.any(|(is_valid, point)| !is_valid && libsecp256k1::unpack(point).is_some()) {
            self.distrust();
        }
    }

    /// Batches so far.
    pub(super) fn batches(&self) -> u64 {
        self.batches.load(Ordering::Relaxed)
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
            if !agrees(scatter(number / CHECK_INTERVAL) % count) {
                self.distrust();
            }
        }
        !self.is_broken()
    }
}

impl<B: Backend> Kernel<B> {
    /// The engine. It checks itself first; should that fail, it goes on with libsecp256k1, and
    /// [`Engine::status`] says so.
    pub(crate) fn new(backend: B) -> Self {
        let kernel = Self::unchecked(backend);
        if kernel.self_check() != Some(true) {
            kernel.core.health.distrust();
        }
        kernel
    }

    /// Without that check.
    pub(super) fn unchecked(backend: B) -> Self {
        Self::with_sizes(backend, BatchSizes::full::<B>())
    }

    /// Without that check, in batches of these sizes.
    pub(super) fn with_sizes(backend: B, sizes: BatchSizes) -> Self {
        Self {
            backend,
            core: Arc::new(Core {
                sizes,
                table: GeneratorTable::shared().ok(),
                output_tweak: TaggedHash::new("BIP0352/SharedSecret"),
                health: Health::default(),
                products: Last::default(),
                keys: Last::default(),
                sums: Last::default(),
            }),
        }
    }

    /// Every kind of result on a few dozen points, compared with libsecp256k1; `None` if there is nothing to compare.
    fn self_check(&self) -> Option<bool> {
        let known = Known::shared()?;
        Some(
            self.core.table.is_some()
                && known.one_wallet_agrees(self.backend, &self.core)?
                && known.many_wallets_agree(self.backend, &self.core)?
                && self.known_agree(known)
                && self.confirm(),
        )
    }

    fn known_agree(&self, known: &Known) -> bool {
        self.products(&known.products) == known.multiplied
            && self.points(&known.keys) == known.points
            && self.groups(&known.tweaks, &known.ends) == known.sums
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
        let agrees = |i: usize| exact_product(products[i]) == Some(TweakPoint::from(points[i]));
        if !self.core.health.accept(done, products.len(), agrees) {
            return exact(products);
        }
        points.into_iter().map(|point| Some(point.into())).collect()
    }
}

impl<B: Backend> Kernel<B> {
    /// Which of `count` results is to be compared later.
    fn place(&self, count: usize) -> Option<usize> {
        scatter(self.core.health.batches()).checked_rem(count)
    }

    /// Whether `results` may be used: of what is absent libsecp256k1 says so too. A result that is wrongly taken for
    /// absent would be missed by nobody, and few are absent, so all of them are compared.
    fn absent_agree<T>(&self, results: &[Option<T>], is_absent: impl Fn(usize) -> bool) -> bool {
        let absent = (0..results.len()).filter(|i| results[*i].is_none());
        for i in absent {
            if !is_absent(i) {
                self.core.health.distrust();
                return false;
            }
        }
        true
    }
}

/// One product by libsecp256k1.
fn exact_product(product: &Product) -> Option<TweakPoint> {
    LibSecp256k1.multiply(&[*product]).pop().flatten()
}

/// One sum by libsecp256k1.
fn exact_sum(group: &[TweakPoint]) -> Option<TweakPoint> {
    LibSecp256k1.sums(group, &[group.len()]).pop().flatten()
}

impl<B: Backend> Sampled for Kernel<B> {
    fn is_broken(&self) -> bool {
        self.core.health.is_broken()
    }

    fn confirm(&self) -> bool {
        let core = &self.core;
        core.health.confirm(|| {
            let waiting = (core.products.take(), core.keys.take(), core.sums.take());
            if matches!(waiting, (None, None, None)) {
                return true;
            }
            let (products, keys, sums) = waiting;
            products.is_none_or(|(product, result)| result == exact_product(&product))
                && keys.is_none_or(|(key, result)| result == libsecp256k1::decompress(&key))
                && sums.is_none_or(|(group, result)| result == exact_sum(&group))
                // Younger than all that was handed out, and so the one that covers it.
                && Known::shared().is_some_and(|known| self.known_agree(known))
        })
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
        let results = self.products(products);
        if let Some(i) = self.place(products.len()) {
            self.core.products.put((products[i], results[i]));
        }
        results
    }

    fn decompress(&self, keys: &[[u8; 33]]) -> Vec<Option<TweakPoint>> {
        let points = self.points(keys);
        if let Some(i) = self.place(keys.len()) {
            self.core.keys.put((keys[i], points[i]));
        }
        points
    }

    fn sums(&self, points: &[TweakPoint], ends: &[usize]) -> Vec<Option<TweakPoint>> {
        let sums = self.groups(points, ends);
        if let Some(i) = self.place(ends.len()) {
            let start = if i == 0 { 0 } else { ends[i - 1] };
            let group = points[start..ends[i]].to_vec();
            self.core.sums.put((group, sums[i]));
        }
        sums
    }
}

/// What is computed, before it is handed out.
impl<B: Backend> Kernel<B> {
    /// See [`Engine::multiply`].
    fn products(&self, products: &[Product]) -> Vec<Option<TweakPoint>> {
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
        for batch in valid.chunks(batch_points(valid.len(), self.core.sizes.products)) {
            let products: Vec<&Product> = batch.iter().map(|(_, product)| *product).collect();
            for ((i, _), result) in batch.iter().zip(self.multiply_batch(&products)) {
                results[*i] = result;
            }
        }
        if !self.absent_agree(&results, |i| exact_product(&products[i]).is_none()) {
            return LibSecp256k1.multiply(products);
        }
        results
    }

    /// See [`Engine::decompress`].
    fn points(&self, keys: &[[u8; 33]]) -> Vec<Option<TweakPoint>> {
        if self.core.health.is_broken() {
            return LibSecp256k1.decompress(keys);
        }
        let points = points::decompress(self.backend, keys);
        let points: Vec<_> = points
            .into_iter()
            .map(|p| p.map(TweakPoint::from))
            .collect();
        let agrees = |i: usize| points[i] == libsecp256k1::decompress(&keys[i]);
        if !self.core.health.accept(Ok(()), keys.len(), agrees)
            || !self.absent_agree(&points, |i| libsecp256k1::decompress(&keys[i]).is_none())
        {
            return LibSecp256k1.decompress(keys);
        }
        points
    }

    /// See [`Engine::sums`].
    fn groups(&self, points: &[TweakPoint], ends: &[usize]) -> Vec<Option<TweakPoint>> {
        if self.core.health.is_broken() {
            return LibSecp256k1.sums(points, ends);
        }
        let is_valid = self.validate(points);
        if is_valid.contains(&false) {
            self.core.health.judge_invalid(&is_valid, points);
            return LibSecp256k1.sums(points, ends);
        }
        let affine: Vec<AffinePoint> = points.iter().filter_map(|p| p.to_affine()).collect();
        let sums = points::sums(self.backend, self.core.sizes.pairs, &affine, ends);
        let done = sums.as_ref().map(|_| ()).map_err(|error| *error);
        let sums: Vec<_> = (sums.unwrap_or_default().into_iter())
            .map(|sum| sum.map(TweakPoint::from))
            .collect();
        let group = |i: usize| {
            let start = if i == 0 { 0 } else { ends[i - 1] };
            &points[start..ends[i]]
        };
        let agrees = |i: usize| sums[i] == exact_sum(group(i));
        if !self.core.health.accept(done, ends.len(), agrees)
            || !self.absent_agree(&sums, |i| exact_sum(group(i)).is_none())
        {
            return LibSecp256k1.sums(points, ends);
        }
        sums
    }

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
