//! The batched engine: products, points and sums in batches, the way back to libsecp256k1, and the self-check.

use std::sync::Arc;

use super::arch::Backend;
use super::batch::Degenerate;
use super::batch_sizes::{BatchSizes, MIN_POINTS, batch_points};
use super::engine::{Engine, EngineStatus};
use super::generator::GeneratorTable;
use super::group::AffinePoint;
use super::health::Health;
use super::known::Known;
use super::libsecp256k1::LibSecp256k1;
use super::multiply;
use super::point::{Product, TweakPoint, unpack};
use super::points;
use super::sampling::{Last, Sampled, scatter};
use super::scalar::Scalar;
use super::scan::{CandidateScanner, InvalidTarget, ScanTarget};
use super::scanner::{Core, Scanner};
use super::tagged_hash::TaggedHash;

/// The batched engine on a backend.
pub(crate) struct Kernel<B: Backend> {
    backend: B,
    core: Arc<Core>,
    products: Last<(Product, Option<TweakPoint>)>,
    keys: Last<([u8; 33], Option<TweakPoint>)>,
    sums: Last<(Vec<TweakPoint>, Option<TweakPoint>)>,
}

impl<B: Backend> Kernel<B> {
    /// The engine in batches of these sizes, before its self-check. Should it find itself wrong, it tells `report`, with
    /// the number of batches so far, and goes on with libsecp256k1.
    pub(super) fn new(
        backend: B,
        sizes: BatchSizes,
        report: impl Fn(u64) + Send + Sync + 'static,
    ) -> Self {
        Self {
            backend,
            core: Arc::new(Core {
                sizes,
                table: GeneratorTable::shared().ok(),
                output_tweak: TaggedHash::new("BIP0352/SharedSecret"),
                health: Health::new(report),
            }),
            products: Last::default(),
            keys: Last::default(),
            sums: Last::default(),
        }
    }

    /// Has it compute every kind of result on a few dozen points, and distrusts it unless all are libsecp256k1's.
    pub(super) fn check_itself(&self) {
        let agrees = |known| {
            let scans = |wallets| Scanner::agrees_with(known, self.backend, &self.core, wallets);
            self.core.table.is_some() && scans(1) && scans(2) && self.agrees_with(known)
        };
        if !Known::shared().is_some_and(agrees) {
            self.core.health.distrust();
        }
    }

    /// Whether it computes what is known, but for scans.
    fn agrees_with(&self, known: &Known) -> bool {
        self.products(&known.products) == known.multiplied
            && self.points(&known.keys) == known.points
            && self.groups(&known.tweaks, &known.ends) == known.sums
    }

    /// Which of `count` results is to be compared later.
    fn place(&self, count: usize) -> Option<usize> {
        scatter(self.core.health.batches()).checked_rem(count)
    }
}

/// Results of one kind that are asked for, as libsecp256k1 has them.
trait Exact {
    /// How many there are.
    fn count(&self) -> usize;
    /// One of them.
    fn exact(&self, i: usize) -> Option<TweakPoint>;
    /// All of them.
    fn all_exact(&self) -> Vec<Option<TweakPoint>>;
}

impl Exact for [Product] {
    fn count(&self) -> usize {
        self.len()
    }

    fn exact(&self, i: usize) -> Option<TweakPoint> {
        LibSecp256k1.multiply(&self[i..=i]).pop().flatten()
    }

    fn all_exact(&self) -> Vec<Option<TweakPoint>> {
        LibSecp256k1.multiply(self)
    }
}

impl Exact for [[u8; 33]] {
    fn count(&self) -> usize {
        self.len()
    }

    fn exact(&self, i: usize) -> Option<TweakPoint> {
        TweakPoint::from_compressed(&self[i])
    }

    fn all_exact(&self) -> Vec<Option<TweakPoint>> {
        LibSecp256k1.decompress(self)
    }
}

/// Points to be summed in groups, as [`Engine::sums`] has them.
#[derive(Clone, Copy)]
struct Groups<'a> {
    points: &'a [TweakPoint],
    ends: &'a [usize],
}

impl<'a> Groups<'a> {
    fn group(&self, i: usize) -> &'a [TweakPoint] {
        let start = i.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.points[start..self.ends[i]]
    }
}

impl Exact for Groups<'_> {
    fn count(&self) -> usize {
        self.ends.len()
    }

    fn exact(&self, i: usize) -> Option<TweakPoint> {
        let group = self.group(i);
        LibSecp256k1.sums(group, &[group.len()]).pop().flatten()
    }

    fn all_exact(&self) -> Vec<Option<TweakPoint>> {
        LibSecp256k1.sums(self.points, self.ends)
    }
}

/// What is computed, before it is handed out.
impl<B: Backend> Kernel<B> {
    /// The results of a batch that are accepted, or else libsecp256k1's.
    fn accept_or_fall_back(
        &self,
        asked: &(impl Exact + ?Sized),
        batched: impl FnOnce() -> Result<Vec<Option<AffinePoint>>, Degenerate>,
    ) -> Vec<Option<TweakPoint>> {
        let health = &self.core.health;
        let batched = || {
            let results: Vec<Option<TweakPoint>> = batched()?
                .into_iter()
                .map(|point| point.map(TweakPoint::from))
                .collect();
            let present = results.iter().map(Option::is_some);
            health.judge_absent(present, |i| asked.exact(i).is_some());
            Ok(results)
        };
        let agrees = |results: &Vec<_>, i| results[i] == asked.exact(i);
        let accepted = health.accept(batched, asked.count(), agrees);
        accepted.unwrap_or_else(|| asked.all_exact())
    }

    /// See [`Engine::multiply`].
    fn products(&self, products: &[Product]) -> Vec<Option<TweakPoint>> {
        let health = &self.core.health;
        if products.len() < MIN_POINTS || health.is_broken() {
            return products.all_exact();
        }
        let points: Vec<TweakPoint> = products.iter().map(|product| product.point).collect();
        let mut is_valid = self.validate(&points);
        for (is_valid, product) in is_valid.iter_mut().zip(products) {
            let scalar = Scalar::from_be_bytes(&product.scalar);
            *is_valid &= scalar.is_some_and(|scalar| !scalar.is_zero());
        }
        health.judge_absent(is_valid.iter().copied(), |i| products.exact(i).is_some());
        if health.is_broken() {
            return products.all_exact();
        }
        let valid: Vec<usize> = (0..products.len()).filter(|i| is_valid[*i]).collect();
        let mut results = vec![None; products.len()];
        for batch in valid.chunks(batch_points(valid.len(), self.core.sizes.products)) {
            let products: Vec<Product> = batch.iter().map(|i| products[*i]).collect();
            let batched = || self.multiply_batch(&products);
            let made = self.accept_or_fall_back(&products[..], batched);
            for (i, result) in batch.iter().zip(made) {
                results[*i] = result;
            }
        }
        results
    }

    /// The products of a batch, all of whose scalars are in 1..n and all of whose points are on the curve.
    fn multiply_batch(&self, products: &[Product]) -> Result<Vec<Option<AffinePoint>>, Degenerate> {
        let parsed = |product: &Product| {
            let scalar = Scalar::from_be_bytes(&product.scalar)?;
            Some((product.point.to_affine()?, scalar))
        };
        let parsed: Option<(Vec<AffinePoint>, Vec<Scalar>)> = products.iter().map(parsed).collect();
        let (mut points, scalars) = parsed.ok_or(Degenerate)?;
        multiply::multiply(self.backend, &mut points, &scalars)?;
        Ok(points.into_iter().map(Some).collect())
    }

    /// See [`Engine::decompress`].
    fn points(&self, keys: &[[u8; 33]]) -> Vec<Option<TweakPoint>> {
        self.accept_or_fall_back(keys, || Ok(points::decompress(self.backend, keys)))
    }

    /// See [`Engine::sums`].
    fn groups(&self, points: &[TweakPoint], ends: &[usize]) -> Vec<Option<TweakPoint>> {
        let groups = Groups { points, ends };
        if self.core.health.is_broken() {
            return groups.all_exact();
        }
        let is_valid = self.validate(points);
        if is_valid.contains(&false) {
            let health = &self.core.health;
            health.judge_absent(is_valid, |i| unpack(&points[i]).is_some());
            return groups.all_exact();
        }
        self.accept_or_fall_back(&groups, || {
            let affine: Vec<AffinePoint> = points.iter().filter_map(|p| p.to_affine()).collect();
            points::sums(self.backend, self.core.sizes.pairs, &affine, ends)
        })
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

impl<B: Backend> Sampled for Kernel<B> {
    fn is_broken(&self) -> bool {
        self.core.health.is_broken()
    }

    fn confirm(&self) -> bool {
        self.core.health.confirm(|| {
            let waiting = (self.products.take(), self.keys.take(), self.sums.take());
            if matches!(waiting, (None, None, None)) {
                return true;
            }
            let (products, keys, sums) = waiting;
            products.is_none_or(|(product, result)| result == [product].exact(0))
                && keys.is_none_or(|(key, result)| result == [key].exact(0))
                && sums.is_none_or(|(points, result)| {
                    let ends = &[points.len()];
                    result == Groups { points: &points, ends }.exact(0)
                })
                // Younger than all that was handed out, and so the one that covers it.
                && Known::shared().is_some_and(|known| self.agrees_with(known))
        })
    }
}

impl<B: Backend> Engine for Kernel<B> {
    fn name(&self) -> &'static str {
        B::NAME
    }

    fn status(&self) -> EngineStatus {
        self.core.health.status()
    }

    fn scanner(&self, targets: &[ScanTarget]) -> Result<Box<dyn CandidateScanner>, InvalidTarget> {
        Ok(Box::new(Scanner::new(self.backend, &self.core, targets)?))
    }

    fn multiply(&self, products: &[Product]) -> Vec<Option<TweakPoint>> {
        let results = self.products(products);
        if let Some(i) = self.place(products.len()) {
            self.products.put((products[i], results[i]));
        }
        results
    }

    fn decompress(&self, keys: &[[u8; 33]]) -> Vec<Option<TweakPoint>> {
        let points = self.points(keys);
        if let Some(i) = self.place(keys.len()) {
            self.keys.put((keys[i], points[i]));
        }
        points
    }

    fn sums(&self, points: &[TweakPoint], ends: &[usize]) -> Vec<Option<TweakPoint>> {
        let sums = self.groups(points, ends);
        if let Some(i) = self.place(ends.len()) {
            let group = Groups { points, ends }.group(i).to_vec();
            self.sums.put((group, sums[i]));
        }
        sums
    }
}

#[cfg(test)]
mod tests;
