//! Scans on the batched engine: for one wallet, and for many in one pass.

use std::sync::{Arc, Mutex, PoisonError};

use secp256k1::PublicKey;
use zeroize::Zeroizing;

use super::arch::Backend;
use super::batch::{Degenerate, Lockstep, full_batch, groups_for};
use super::generator::GeneratorTable;
use super::group::AffinePoint;
use super::kernel::{Core, Health, MIN_POINTS, batch_points};
use super::known::Known;
use super::libsecp256k1;
use super::outputs::{OutputStage, OutputTargets};
use super::points::are_on_curve;
use super::products::ProductStage;
use super::sampling::{Last, scatter};
use super::scalar::Scalar;
use super::schedule::{Bases, Schedule};
use super::wallets::{BucketDigits, WalletsStage};
use super::{
    CandidateScanner, EachWallet, InvalidTarget, Sampled, ScanTarget, TweakPoint, WalletsScanner,
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
    let exact = libsecp256k1::Scanner::new(target)?;
    let Some((table, key, targets)) = prepare(backend, core, target) else {
        return Ok(Box::new(exact));
    };
    let schedules = (
        Schedule::new(&key, Bases::One),
        Schedule::new(&key, Bases::Two),
    );
    let (Some(schedule), Some(schedule_of_two)) = schedules else {
        return Ok(Box::new(exact));
    };
    Ok(Box::new(WalletScanner {
        backend,
        core: Arc::clone(core),
        table,
        schedule,
        schedule_of_two,
        targets,
        exact,
        last: Last::default(),
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
            let exact = libsecp256k1::Scanner::new(target)?;
            shared.push((wallet, digits, targets, exact));
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
        for (wallet, digits, targets, exact) in shared.by_ref().take(size) {
            pass.wallets.push(wallet);
            pass.exact.push(exact);
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
        last: Last::default(),
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

    /// Distrusts the engine if it takes a tweak of the curve for one that is none, whose payment nobody would miss.
    fn judge_invalid(&self, health: &Health, tweaks: &[TweakPoint]) {
        let mut judged = self.is_valid.iter().zip(tweaks);
        if judged.any(|(is_valid, tweak)| !is_valid && libsecp256k1::unpack(tweak).is_some()) {
            health.distrust();
        }
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

/// What was handed out for a tweak: the plain candidate and that of a label, where there are labels.
struct Judged {
    tweak: TweakPoint,
    label: Option<usize>,
    candidates: [[u8; 32]; 2],
}

impl Judged {
    /// Tweak `place` of a batch, with another label for each `number`.
    fn new(
        tweaks: &[TweakPoint],
        candidates: &[[u8; 32]],
        per_tweak: usize,
        place: usize,
        number: u64,
    ) -> Self {
        let own = &candidates[place * per_tweak..][..per_tweak];
        let labels = per_tweak as u64 - 1;
        let label = (number + place as u64).checked_rem(labels);
        let label = label.map(|label| label as usize);
        Self {
            tweak: tweaks[place],
            label,
            candidates: [own[0], label.map_or([0; 32], |label| own[1 + label])],
        }
    }

    fn agrees(&self, exact: &libsecp256k1::Scanner) -> bool {
        self.candidates == exact.two_candidates(&self.tweak, self.label)
    }
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
    exact: libsecp256k1::Scanner,
    last: Last<Judged>,
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
                    room.input.judge_invalid(&self.core.health, tweaks);
                    let number = self.core.health.batches();
                    let judged = |place| Judged::new(tweaks, out, per_tweak, place, number);
                    let agrees = |place| judged(place).agrees(&self.exact);
                    if self.core.health.accept(done, tweaks.len(), agrees) {
                        self.last.put(judged(scatter(number) % tweaks.len()));
                        continue;
                    }
                    let mut exact = Vec::new();
                    self.exact.candidates(tweaks, &mut exact);
                    out.copy_from_slice(&exact);
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

impl<B: Backend> Sampled for WalletScanner<B> {
    fn is_broken(&self) -> bool {
        self.core.health.is_broken()
    }

    fn confirm(&self) -> bool {
        let (backend, core) = (self.backend, &self.core);
        core.health.confirm(|| {
            let Some(last) = self.last.take() else {
                return true;
            };
            let known = Known::shared().and_then(|known| known.one_wallet_agrees(backend, core));
            last.agrees(&self.exact) && known == Some(true)
        })
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
    /// With pass and place in it of the wallet.
    last: Last<(usize, usize, Judged)>,
    rooms: Rooms<SharedRoom<B>>,
}

/// Wallets that are scanned for at the same time.
struct Pass<B: Backend> {
    /// Their places among all.
    wallets: Vec<usize>,
    digits: Vec<BucketDigits>,
    targets: Vec<OutputTargets<B>>,
    /// Their scans on libsecp256k1.
    exact: Vec<libsecp256k1::Scanner>,
}

impl<B: Backend> Default for Pass<B> {
    fn default() -> Self {
        Self {
            wallets: Vec::new(),
            digits: Vec::new(),
            targets: Vec::new(),
            exact: Vec::new(),
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

impl<B: Backend> Sampled for SharedScanner<B> {
    fn is_broken(&self) -> bool {
        self.core.health.is_broken()
    }

    fn confirm(&self) -> bool {
        let (backend, core) = (self.backend, &self.core);
        let together = core.health.confirm(|| {
            let Some((pass, at, last)) = self.last.take() else {
                return true;
            };
            let known = Known::shared().and_then(|known| known.many_wallets_agree(backend, core));
            last.agrees(&self.passes[pass].exact[at]) && known == Some(true)
        });
        self.scanners
            .iter()
            .fold(together, |right, scanner| scanner.confirm() & right)
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
                    for (pass_number, pass) in passes.iter().enumerate() {
                        let done = self.scan_batch(room, pass, tweaks, start, candidates);
                        room.input.judge_invalid(&self.core.health, tweaks);
                        let number = self.core.health.batches();
                        let judged = |place: usize| {
                            let at = (number as usize).wrapping_add(place) % pass.wallets.len();
                            let wallet = pass.wallets[at];
                            let per_tweak = self.candidates_per_tweak(wallet);
                            let out = &candidates[wallet][start * per_tweak..];
                            let judged = Judged::new(tweaks, out, per_tweak, place, number);
                            (pass_number, at, judged)
                        };
                        let agrees = |place| {
                            let (_, at, judged) = judged(place);
                            judged.agrees(&pass.exact[at])
                        };
                        if self.core.health.accept(done, tweaks.len(), agrees) {
                            self.last.put(judged(scatter(number) % tweaks.len()));
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
