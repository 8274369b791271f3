//! Scans on the batched engine: for one wallet, and for many in one pass.

use std::sync::{Arc, Mutex, PoisonError};

use secp256k1::PublicKey;
use zeroize::Zeroizing;

use super::arch::Backend;
use super::batch::{Degenerate, Lockstep, full_batch, groups_for};
use super::generator::GeneratorTable;
use super::group::AffinePoint;
use super::kernel::{Core, MIN_POINTS, batch_points};
use super::libsecp256k1::LibSecp256k1;
use super::outputs::{OutputStage, OutputTargets};
use super::points::are_on_curve;
use super::products::ProductStage;
use super::scalar::Scalar;
use super::schedule::{Bases, Schedule};
use super::wallets::{BucketDigits, WalletsStage};
use super::{
    CandidateScanner, EachWallet, Engine, InvalidTarget, ScanTarget, TweakPoint, WalletsScanner,
};

/// What part of a full batch the batches of a pass for many wallets are: each wallet holds five batches of points.
const WALLETS_SHARE: usize = 2;

/// Wallets in one pass: more would fall out of the cache, and what they share is little by then.
const WALLETS_PER_PASS: usize = 16;

/// A scan for one wallet; on libsecp256k1 if a step of its key can fail.
pub(super) fn one_wallet<B: Backend>(
    backend: B,
    core: &Arc<Core>,
    target: &ScanTarget,
) -> Result<Box<dyn CandidateScanner>, InvalidTarget> {
    let exact = LibSecp256k1.scanner(target)?;
    let Some((table, key, targets)) = prepare(backend, core, target) else {
        return Ok(exact);
    };
    let schedules = (
        Schedule::new(&key, Bases::One),
        Schedule::new(&key, Bases::Two),
    );
    let (Some(schedule), Some(schedule_of_two)) = schedules else {
        return Ok(exact);
    };
    Ok(Box::new(WalletScanner {
        backend,
        core: Arc::clone(core),
        table,
        schedule,
        schedule_of_two,
        targets,
        exact,
        rooms: Mutex::default(),
    }))
}

/// A scan for many wallets; those of which a step can fail are scanned for by themselves.
pub(super) fn many_wallets<B: Backend>(
    backend: B,
    core: &Arc<Core>,
    targets: &[ScanTarget],
) -> Result<Box<dyn WalletsScanner>, InvalidTarget> {
    let mut scanners = Vec::with_capacity(targets.len());
    let mut shared = Vec::new();
    for (wallet, target) in targets.iter().enumerate() {
        scanners.push(one_wallet(backend, core, target)?);
        if let Some((_, key, targets)) = prepare(backend, core, target)
            && let Some(digits) = BucketDigits::new(&key)
        {
            shared.push((wallet, digits, targets));
        }
    }
    let Some(table) = core.table.filter(|_| shared.len() > 1) else {
        return Ok(Box::new(EachWallet(scanners)));
    };
    let mut passes = Vec::new();
    let size = batch_points(shared.len(), WALLETS_PER_PASS);
    let mut shared = shared.into_iter().peekable();
    while shared.peek().is_some() {
        let mut pass = Pass::default();
        for (wallet, digits, targets) in shared.by_ref().take(size) {
            pass.wallets.push(wallet);
            pass.digits.push(digits);
            pass.targets.push(targets);
        }
        passes.push(pass);
    }
    Ok(Box::new(SharedScanner {
        backend,
        core: Arc::clone(core),
        table,
        passes,
        scanners,
        rooms: Mutex::default(),
    }))
}

type Prepared<B> = (&'static GeneratorTable, Zeroizing<Scalar>, OutputTargets<B>);

/// `None` if there is no table, or a sum of the wallet's points is infinity.
fn prepare<B: Backend>(backend: B, core: &Core, target: &ScanTarget) -> Option<Prepared<B>> {
    let table = core.table?;
    let key = Zeroizing::new(Scalar::from_be_bytes(&target.scan_key)?);
    let point = |bytes: &[u8; 33]| PublicKey::from_slice(bytes).ok();
    let labels: Option<Vec<PublicKey>> = target.labels.iter().map(point).collect();
    let targets = OutputTargets::new(backend, table, &point(&target.spend_key)?, &labels?)?;
    Some((table, key, targets))
}

/// Rooms that no call is using: as many as there were calls at the same time.
type Rooms<R> = Mutex<Vec<R>>;

/// Lends a room to `work`.
fn with_room<R, T>(rooms: &Rooms<R>, new: impl FnOnce() -> R, work: impl FnOnce(&mut R) -> T) -> T {
    let lock = || rooms.lock().unwrap_or_else(PoisonError::into_inner);
    let pooled = lock().pop();
    let mut room = pooled.unwrap_or_else(new);
    let result = work(&mut room);
    lock().push(room);
    result
}

/// The tweaks of a batch as points.
#[derive(Default)]
struct Input {
    points: Vec<AffinePoint>,
    multiples: Vec<AffinePoint>,
    /// Whether each tweak is a point.
    is_valid: Vec<bool>,
    /// Whether each multiple is one.
    are_multiples: Vec<bool>,
}

impl Input {
    /// Takes over tweaks, G in place of those that are no points.
    fn load<B: Backend>(&mut self, backend: B, tweaks: &[TweakPoint]) {
        let stand_in = AffinePoint::generator();
        self.points.clear();
        self.points.extend(
            tweaks
                .iter()
                .map(|tweak| tweak.to_affine().unwrap_or(stand_in)),
        );
        self.is_valid.clear();
        self.is_valid.resize(tweaks.len(), false);
        are_on_curve(backend, &self.points, &mut self.is_valid);
        for ((point, is_valid), tweak) in self.points.iter_mut().zip(&mut self.is_valid).zip(tweaks)
        {
            *is_valid &= tweak.to_affine().is_some();
            if !*is_valid {
                *point = stand_in;
            }
        }
    }

    /// Takes over their multiples by 2^64, that of G in place of those whose tweak is no point.
    ///
    /// # Errors
    /// [`Degenerate`] if there is not one on the curve for each tweak that is.
    fn load_multiples<B: Backend>(
        &mut self,
        backend: B,
        multiples: &[TweakPoint],
    ) -> Result<(), Degenerate> {
        let stand_in = AffinePoint::generator_times_2_64();
        self.multiples.clear();
        for (multiple, is_valid) in multiples.iter().zip(&self.is_valid) {
            self.multiples.push(match is_valid {
                true => multiple.to_affine().ok_or(Degenerate)?,
                false => stand_in,
            });
        }
        self.are_multiples.clear();
        self.are_multiples.resize(self.multiples.len(), false);
        are_on_curve(backend, &self.multiples, &mut self.are_multiples);
        let all = self.multiples.len() == self.points.len() && !self.are_multiples.contains(&false);
        all.then_some(()).ok_or(Degenerate)
    }

    /// Zeros for the candidates of what was no point.
    fn blank_invalid(&self, per_tweak: usize, candidates: &mut [[u8; 32]]) {
        for (is_valid, candidates) in self.is_valid.iter().zip(candidates.chunks_mut(per_tweak)) {
            if !is_valid {
                candidates.fill([0; 32]);
            }
        }
    }
}

/// Whether an exact scan of one tweak of a batch gives the same candidates.
fn agrees(
    exact: &dyn CandidateScanner,
    tweaks: &[TweakPoint],
    candidates: &[[u8; 32]],
    sample: usize,
) -> bool {
    let per_tweak = exact.candidates_per_tweak();
    let mut expected = Vec::new();
    exact.candidates(&tweaks[sample..=sample], &mut expected);
    candidates[sample * per_tweak..][..per_tweak] == expected[..]
}

/// A scan for one wallet.
struct WalletScanner<B: Backend> {
    backend: B,
    core: Arc<Core>,
    table: &'static GeneratorTable,
    schedule: Schedule,
    schedule_of_two: Schedule,
    targets: OutputTargets<B>,
    /// The same scan on libsecp256k1.
    exact: Box<dyn CandidateScanner>,
    rooms: Rooms<WalletRoom<B>>,
}

struct WalletRoom<B: Backend> {
    input: Input,
    lockstep: Lockstep<B>,
    products: ProductStage<B>,
    outputs: OutputStage<B>,
}

impl<B: Backend> WalletRoom<B> {
    fn new(backend: B) -> Self {
        Self {
            input: Input::default(),
            lockstep: Lockstep::new(backend, 0),
            products: ProductStage::new(backend),
            outputs: OutputStage::new(backend),
        }
    }
}

impl<B: Backend> Drop for WalletRoom<B> {
    fn drop(&mut self) {
        self.lockstep.wipe();
    }
}

impl<B: Backend> WalletScanner<B> {
    fn scan(
        &self,
        tweaks: &[TweakPoint],
        multiples: Option<&[TweakPoint]>,
        candidates: &mut Vec<[u8; 32]>,
    ) {
        if tweaks.len() < MIN_POINTS || self.core.health.is_broken() {
            return self.exact.candidates(tweaks, candidates);
        }
        let per_tweak = self.candidates_per_tweak();
        candidates.clear();
        candidates.resize(tweaks.len() * per_tweak, [0; 32]);
        let size = batch_points(tweaks.len(), full_batch::<B>());
        let mut multiples = multiples.map(|multiples| multiples.chunks(size));
        with_room(
            &self.rooms,
            || WalletRoom::new(self.backend),
            |room| {
                for (tweaks, out) in tweaks
                    .chunks(size)
                    .zip(candidates.chunks_mut(size * per_tweak))
                {
                    let multiples = multiples.as_mut().map(|m| m.next().unwrap_or_default());
                    let done = self.scan_batch(room, tweaks, multiples, out);
                    let agrees = |sample| agrees(&*self.exact, tweaks, out, sample);
                    if !self.core.health.accept(done, tweaks.len(), agrees) {
                        let mut exact = Vec::new();
                        self.exact.candidates(tweaks, &mut exact);
                        out.copy_from_slice(&exact);
                    }
                }
            },
        );
    }

    fn scan_batch(
        &self,
        room: &mut WalletRoom<B>,
        tweaks: &[TweakPoint],
        multiples: Option<&[TweakPoint]>,
        out: &mut [[u8; 32]],
    ) -> Result<(), Degenerate> {
        let WalletRoom {
            input,
            lockstep,
            products,
            outputs,
        } = room;
        let groups = groups_for::<B>(tweaks.len());
        lockstep.resize(groups);
        outputs.resize(tweaks.len(), groups);
        input.load(self.backend, tweaks);
        if let Some(multiples) = multiples {
            input.load_multiples(self.backend, multiples)?;
            products.resize(groups, Bases::Two);
            let bases: [&[AffinePoint]; 2] = [&input.points, &input.multiples];
            products.multiply(lockstep, &self.schedule_of_two, &bases)?;
        } else {
            products.resize(groups, Bases::One);
            products.multiply(lockstep, &self.schedule, &[&input.points])?;
        }
        let hash = &self.core.output_tweak;
        let shared_secrets = &products.value;
        outputs.candidates(
            lockstep,
            self.table,
            hash,
            &self.targets,
            shared_secrets,
            out,
        )?;
        input.blank_invalid(self.targets.per_tweak(), out);
        Ok(())
    }
}

impl<B: Backend> CandidateScanner for WalletScanner<B> {
    fn candidates_per_tweak(&self) -> usize {
        self.targets.per_tweak()
    }

    fn candidates(&self, tweaks: &[TweakPoint], candidates: &mut Vec<[u8; 32]>) {
        self.scan(tweaks, None, candidates);
    }

    fn candidates_with_multiples(
        &self,
        tweaks: &[TweakPoint],
        multiples: &[TweakPoint],
        candidates: &mut Vec<[u8; 32]>,
    ) {
        self.scan(tweaks, Some(multiples), candidates);
    }
}

/// A scan for many wallets that share the multiples of each tweak.
struct SharedScanner<B: Backend> {
    backend: B,
    core: Arc<Core>,
    table: &'static GeneratorTable,
    passes: Vec<Pass<B>>,
    /// Each wallet by itself.
    scanners: Vec<Box<dyn CandidateScanner>>,
    rooms: Rooms<SharedRoom<B>>,
}

/// Wallets that are scanned for at the same time.
struct Pass<B: Backend> {
    /// Their places among all.
    wallets: Vec<usize>,
    digits: Vec<BucketDigits>,
    targets: Vec<OutputTargets<B>>,
}

impl<B: Backend> Default for Pass<B> {
    fn default() -> Self {
        Self {
            wallets: Vec::new(),
            digits: Vec::new(),
            targets: Vec::new(),
        }
    }
}

struct SharedRoom<B: Backend> {
    input: Input,
    lockstep: Lockstep<B>,
    products: WalletsStage<B>,
    outputs: OutputStage<B>,
}

impl<B: Backend> SharedRoom<B> {
    fn new(backend: B) -> Self {
        Self {
            input: Input::default(),
            lockstep: Lockstep::new(backend, 0),
            products: WalletsStage::new(backend),
            outputs: OutputStage::new(backend),
        }
    }
}

impl<B: Backend> Drop for SharedRoom<B> {
    fn drop(&mut self) {
        self.lockstep.wipe();
    }
}

impl<B: Backend> SharedScanner<B> {
    /// Scans a batch for the wallets of a pass, from tweak `start` on.
    fn scan_batch(
        &self,
        room: &mut SharedRoom<B>,
        pass: &Pass<B>,
        tweaks: &[TweakPoint],
        start: usize,
        candidates: &mut [Vec<[u8; 32]>],
    ) -> Result<(), Degenerate> {
        let SharedRoom {
            input,
            lockstep,
            products,
            outputs,
        } = room;
        let groups = groups_for::<B>(tweaks.len());
        lockstep.resize(groups);
        products.resize(groups, pass.wallets.len());
        outputs.resize(tweaks.len(), groups);
        input.load(self.backend, tweaks);
        products.multiply(lockstep, &pass.digits, &input.points)?;
        for (i, (wallet, targets)) in pass.wallets.iter().zip(&pass.targets).enumerate() {
            let per_tweak = targets.per_tweak();
            let out = &mut candidates[*wallet][start * per_tweak..][..tweaks.len() * per_tweak];
            let hash = &self.core.output_tweak;
            outputs.candidates(
                lockstep,
                self.table,
                hash,
                targets,
                products.product(i),
                out,
            )?;
            input.blank_invalid(per_tweak, out);
        }
        Ok(())
    }
}

impl<B: Backend> WalletsScanner for SharedScanner<B> {
    fn wallets(&self) -> usize {
        self.scanners.len()
    }

    fn candidates_per_tweak(&self, wallet: usize) -> usize {
        self.scanners[wallet].candidates_per_tweak()
    }

    fn candidates(&self, tweaks: &[TweakPoint], candidates: &mut Vec<Vec<[u8; 32]>>) {
        candidates.resize_with(self.scanners.len(), Vec::new);
        let is_small = tweaks.len() < MIN_POINTS || self.core.health.is_broken();
        let mut is_alone = vec![true; self.scanners.len()];
        let passes = if is_small { &[][..] } else { &self.passes[..] };
        for pass in passes {
            for wallet in &pass.wallets {
                is_alone[*wallet] = false;
                let count = tweaks.len() * self.candidates_per_tweak(*wallet);
                candidates[*wallet].clear();
                candidates[*wallet].resize(count, [0; 32]);
            }
        }
        for (wallet, scanner) in self
            .scanners
            .iter()
            .enumerate()
            .filter(|(i, _)| is_alone[*i])
        {
            scanner.candidates(tweaks, &mut candidates[wallet]);
        }
        let size = batch_points(tweaks.len(), full_batch::<B>() / WALLETS_SHARE);
        with_room(
            &self.rooms,
            || SharedRoom::new(self.backend),
            |room| {
                for (batch, tweaks) in tweaks.chunks(size).enumerate() {
                    let start = batch * size;
                    for pass in passes {
                        let done = self.scan_batch(room, pass, tweaks, start, candidates);
                        let agrees = |sample: usize| {
                            let wallet = pass.wallets[sample % pass.wallets.len()];
                            let scanner = &*self.scanners[wallet];
                            let out = &candidates[wallet][start * scanner.candidates_per_tweak()..];
                            agrees(scanner, tweaks, out, sample)
                        };
                        if self.core.health.accept(done, tweaks.len(), agrees) {
                            continue;
                        }
                        for wallet in &pass.wallets {
                            let scanner = &self.scanners[*wallet];
                            let mut own = Vec::new();
                            scanner.candidates(tweaks, &mut own);
                            let first = start * scanner.candidates_per_tweak();
                            candidates[*wallet][first..][..own.len()].copy_from_slice(&own);
                        }
                    }
                }
            },
        );
    }
}
