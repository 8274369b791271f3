//! Scans on the batched engine: for one wallet, and for many in one pass.

mod input;

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use secp256k1::PublicKey;
use zeroize::Zeroizing;

use super::arch::Backend;
use super::batch::{Degenerate, Lockstep, Points, groups_for};
use super::batch_sizes::batch_points;
use super::group::AffinePoint;
use super::kernel::{Core, MIN_POINTS};
use super::known::Known;
use super::libsecp256k1;
use super::outputs::{OutputStage, OutputTargets};
use super::products::ProductStage;
use super::sampling::{Last, scatter};
use super::scalar::Scalar;
use super::schedule::{Bases, Schedule};
use super::wallets::{BucketDigits, WalletsStage};
use super::{
    CandidateChunk, CandidateScanner, EachWallet, InvalidTarget, Sampled, ScanTarget, TweakPoint,
    WalletsScanner, chunk_numbers,
};
use input::Input;

/// A scan for one wallet; on libsecp256k1 if a step of its key can fail.
pub(super) fn one_wallet<B: Backend>(
    backend: B,
    core: &Arc<Core>,
    target: &ScanTarget,
) -> Result<Box<dyn CandidateScanner>, InvalidTarget> {
    let exact = libsecp256k1::Scanner::new(target)?;
    let Some((key, targets)) = prepare(core, target) else {
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
    let scanner = SharedScanner::new(backend, core, targets)?;
    Ok(match scanner.passes.is_empty() {
        true => Box::new(EachWallet(scanner.scanners)),
        false => Box::new(scanner),
    })
}

/// `None` if there is no table, or a sum of the wallet's points is infinity.
fn prepare(core: &Core, target: &ScanTarget) -> Option<(Zeroizing<Scalar>, OutputTargets)> {
    let table = core.table?;
    let key = Zeroizing::new(Scalar::from_be_bytes(&target.scan_key)?);
    let point = |bytes: &[u8; 33]| PublicKey::from_slice(bytes).ok();
    let labels: Option<Vec<PublicKey>> = target.labels.iter().map(point).collect();
    let targets = OutputTargets::new(table, &point(&target.spend_key)?, &labels?)?;
    Some((key, targets))
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

/// What was handed out for a tweak: two of its candidates, or twice the same.
struct Judged {
    tweak: TweakPoint,
    numbers: [usize; 2],
    candidates: [[u8; 32]; 2],
}

impl Judged {
    /// Of tweak `place` of a batch whose candidates with these numbers these are: the first, and another one for each
    /// `count`.
    fn new(
        tweaks: &[TweakPoint],
        numbers: &Range<usize>,
        candidates: &[[u8; 32]],
        place: usize,
        count: u64,
    ) -> Self {
        let own = &candidates[place * numbers.len()..][..numbers.len()];
        let others = numbers.len() as u64 - 1;
        let other = (count + place as u64).checked_rem(others);
        let other = other.map_or(0, |other| 1 + other as usize);
        Self {
            tweak: tweaks[place],
            numbers: [numbers.start, numbers.start + other],
            candidates: [own[0], own[other]],
        }
    }

    fn agrees(&self, exact: &libsecp256k1::Scanner) -> bool {
        self.candidates == exact.two_candidates(&self.tweak, self.numbers)
    }
}

/// What the candidates of a batch are computed with, once its shared secrets are known.
struct OutputRoom<'a, B: Backend> {
    core: &'a Core,
    /// The same scan on libsecp256k1.
    exact: &'a libsecp256k1::Scanner,
    /// What a batch is left to that is not accepted.
    fallback: &'a dyn CandidateScanner,
    targets: &'a OutputTargets,
    input: &'a Input,
    lockstep: &'a mut Lockstep<B>,
    outputs: &'a mut OutputStage<B>,
    candidates: &'a mut Vec<[u8; 32]>,
}

impl<B: Backend> OutputRoom<'_, B> {
    /// Hands over the candidates of a batch of tweaks, `done` telling whether its shared secrets could be computed, and
    /// to `keep` what is to be compared later. A chunk that is not accepted, and all of the batch after it, is left to the
    /// fallback.
    fn chunks(
        self,
        done: Result<&Points<B>, Degenerate>,
        tweaks: &[TweakPoint],
        numbers: Range<usize>,
        keep: &dyn Fn(Judged),
        take: &mut dyn FnMut(CandidateChunk<'_>),
    ) {
        let Self {
            core,
            exact,
            fallback,
            targets,
            input,
            lockstep,
            outputs,
            candidates,
        } = self;
        let hash = &core.output_tweak;
        let mut done = done.and_then(|shared_secrets| {
            let table = core.table.ok_or(Degenerate)?;
            outputs.multiply(lockstep, table, hash, shared_secrets)
        });
        core.health.judge_invalid(&input.is_valid, tweaks);
        let end = numbers.end;
        for numbers in chunk_numbers(numbers, tweaks.len()) {
            candidates.resize(tweaks.len() * numbers.len(), [0; 32]);
            if done.is_ok() {
                done = outputs.candidates(lockstep, targets, numbers.clone(), candidates);
                input.blank_invalid(numbers.len(), candidates);
            }
            let count = core.health.batches();
            let judged = |place| Judged::new(tweaks, &numbers, candidates, place, count);
            let agrees = |place| judged(place).agrees(exact);
            if !core.health.accept(done, tweaks.len(), agrees) {
                return fallback.chunks(tweaks, None, numbers.start..end, take);
            }
            keep(judged(scatter(count) % tweaks.len()));
            take(CandidateChunk {
                first_tweak: 0,
                numbers,
                keys: candidates,
            });
        }
    }
}

/// A scan for one wallet.
struct WalletScanner<B: Backend> {
    backend: B,
    core: Arc<Core>,
    schedule: Schedule,
    schedule_of_two: Schedule,
    targets: OutputTargets,
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
    candidates: Vec<[u8; 32]>,
}

impl<B: Backend> WalletRoom<B> {
    fn new(backend: B) -> Self {
        Self {
            input: Input::default(),
            lockstep: Lockstep::new(backend, 0),
            products: ProductStage::new(backend),
            outputs: OutputStage::new(backend),
            candidates: Vec::new(),
        }
    }
}

impl<B: Backend> Drop for WalletRoom<B> {
    fn drop(&mut self) {
        self.lockstep.wipe();
    }
}

impl<B: Backend> WalletScanner<B> {
    /// Hands over the candidates of a batch.
    fn scan_batch(
        &self,
        room: &mut WalletRoom<B>,
        tweaks: &[TweakPoint],
        multiples: Option<&[TweakPoint]>,
        numbers: Range<usize>,
        take: &mut dyn FnMut(CandidateChunk<'_>),
    ) {
        let done = self.multiply_batch(room, tweaks, multiples);
        let output_room = OutputRoom {
            core: &self.core,
            exact: &self.exact,
            fallback: &self.exact,
            targets: &self.targets,
            input: &room.input,
            lockstep: &mut room.lockstep,
            outputs: &mut room.outputs,
            candidates: &mut room.candidates,
        };
        let shared_secrets = done.map(|()| &room.products.value);
        let keep = |judged| self.last.put(judged);
        output_room.chunks(shared_secrets, tweaks, numbers, &keep, take);
    }

    /// Computes the shared secrets of a batch.
    fn multiply_batch(
        &self,
        room: &mut WalletRoom<B>,
        tweaks: &[TweakPoint],
        multiples: Option<&[TweakPoint]>,
    ) -> Result<(), Degenerate> {
        let WalletRoom {
            input,
            lockstep,
            products,
            outputs,
            ..
        } = room;
        let groups = groups_for::<B>(tweaks.len());
        lockstep.resize(groups);
        outputs.resize(tweaks.len(), groups);
        input.load(self.backend, tweaks);
        if let Some(multiples) = multiples {
            input.load_multiples(self.backend, multiples)?;
            products.resize(groups, Bases::Two);
            let bases: [&[AffinePoint]; 2] = [&input.points, &input.multiples];
            products.multiply(lockstep, &self.schedule_of_two, &bases)
        } else {
            products.resize(groups, Bases::One);
            products.multiply(lockstep, &self.schedule, &[&input.points])
        }
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

    fn chunks(
        &self,
        tweaks: &[TweakPoint],
        multiples: Option<&[TweakPoint]>,
        numbers: Range<usize>,
        take: &mut dyn FnMut(CandidateChunk<'_>),
    ) {
        if tweaks.len() < MIN_POINTS || self.core.health.is_broken() {
            return self.exact.chunks(tweaks, None, numbers, take);
        }
        let size = batch_points(tweaks.len(), self.core.sizes.scan);
        let mut multiples = multiples.map(|multiples| multiples.chunks(size));
        with_room(
            &self.rooms,
            || WalletRoom::new(self.backend),
            |room| {
                for (batch, tweaks) in tweaks.chunks(size).enumerate() {
                    let multiples = multiples.as_mut().map(|m| m.next().unwrap_or_default());
                    let mut take = |chunk: CandidateChunk<'_>| take(chunk.behind(batch * size));
                    self.scan_batch(room, tweaks, multiples, numbers.clone(), &mut take);
                }
            },
        );
    }
}

/// A scan for many wallets that share the multiples of each tweak.
struct SharedScanner<B: Backend> {
    backend: B,
    core: Arc<Core>,
    passes: Vec<Pass>,
    /// Each wallet by itself.
    scanners: Vec<Box<dyn CandidateScanner>>,
    /// With pass and place in it of the wallet.
    last: Last<(usize, usize, Judged)>,
    rooms: Rooms<SharedRoom<B>>,
}

/// Wallets that are scanned for at the same time.
#[derive(Default)]
struct Pass {
    /// Their places among all.
    wallets: Vec<usize>,
    digits: Vec<BucketDigits>,
    targets: Vec<OutputTargets>,
    /// Their scans on libsecp256k1.
    exact: Vec<libsecp256k1::Scanner>,
}

struct SharedRoom<B: Backend> {
    input: Input,
    lockstep: Lockstep<B>,
    products: WalletsStage<B>,
    outputs: OutputStage<B>,
    candidates: Vec<[u8; 32]>,
}

impl<B: Backend> SharedRoom<B> {
    fn new(backend: B) -> Self {
        Self {
            input: Input::default(),
            lockstep: Lockstep::new(backend, 0),
            products: WalletsStage::new(backend),
            outputs: OutputStage::new(backend),
            candidates: Vec::new(),
        }
    }
}

impl<B: Backend> Drop for SharedRoom<B> {
    fn drop(&mut self) {
        self.lockstep.wipe();
    }
}

impl<B: Backend> SharedScanner<B> {
    /// Has no passes if there are no two wallets that can share one.
    fn new(backend: B, core: &Arc<Core>, targets: &[ScanTarget]) -> Result<Self, InvalidTarget> {
        let mut scanners = Vec::with_capacity(targets.len());
        let mut shared = Vec::new();
        for (wallet, target) in targets.iter().enumerate() {
            scanners.push(one_wallet(backend, core, target)?);
            if let Some((key, targets)) = prepare(core, target)
                && let Some(digits) = BucketDigits::new(&key)
            {
                let exact = libsecp256k1::Scanner::new(target)?;
                shared.push((wallet, digits, targets, exact));
            }
        }
        if shared.len() < 2 {
            shared.clear();
        }
        let mut passes = Vec::new();
        let size = batch_points(shared.len(), core.sizes.wallets);
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
        Ok(Self {
            backend,
            core: Arc::clone(core),
            passes,
            scanners,
            last: Last::default(),
            rooms: Mutex::default(),
        })
    }

    /// Hands over the candidates of a batch for the wallets of a pass, and keeps some to be compared later: those of the
    /// wallet with that place among all that share passes, if there are any.
    fn scan_batch(
        &self,
        room: &mut SharedRoom<B>,
        (pass_number, pass): (usize, &Pass),
        kept: usize,
        tweaks: &[TweakPoint],
        take: &mut dyn FnMut(usize, CandidateChunk<'_>),
    ) {
        let SharedRoom {
            input,
            lockstep,
            products,
            outputs,
            candidates,
        } = room;
        let groups = groups_for::<B>(tweaks.len());
        lockstep.resize(groups);
        products.resize(groups, pass.wallets.len());
        outputs.resize(tweaks.len(), groups);
        input.load(self.backend, tweaks);
        let done = products.multiply(lockstep, &pass.digits, &input.points);
        let before = pass_number * self.passes[0].wallets.len();
        for (i, wallet) in pass.wallets.iter().enumerate() {
            let targets = &pass.targets[i];
            let output_room = OutputRoom {
                core: &self.core,
                exact: &pass.exact[i],
                fallback: &*self.scanners[*wallet],
                targets,
                input,
                lockstep,
                outputs,
                candidates,
            };
            let shared_secrets = done.map(|()| products.product(i));
            let numbers = 0..targets.per_tweak();
            let keep = |judged| {
                let sample = (pass_number, i, judged);
                match before + i == kept {
                    true => self.last.put(sample),
                    // That wallet's batch may be left to libsecp256k1, and this one is not.
                    false => self.last.put_if_none(sample),
                }
            };
            output_room.chunks(shared_secrets, tweaks, numbers, &keep, &mut |chunk| {
                take(*wallet, chunk);
            });
        }
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

    fn chunks(&self, tweaks: &[TweakPoint], take: &mut dyn FnMut(usize, CandidateChunk<'_>)) {
        let is_small = tweaks.len() < MIN_POINTS || self.core.health.is_broken();
        let passes = if is_small { &[][..] } else { &self.passes[..] };
        let mut is_alone = vec![true; self.scanners.len()];
        for wallet in passes.iter().flat_map(|pass| &pass.wallets) {
            is_alone[*wallet] = false;
        }
        let alone = self.scanners.iter().enumerate();
        for (wallet, scanner) in alone.filter(|(wallet, _)| is_alone[*wallet]) {
            let numbers = 0..scanner.candidates_per_tweak();
            scanner.chunks(tweaks, None, numbers, &mut |chunk| take(wallet, chunk));
        }
        let size = batch_points(tweaks.len(), self.core.sizes.shared_scan);
        with_room(
            &self.rooms,
            || SharedRoom::new(self.backend),
            |room| {
                for (batch, tweaks) in tweaks.chunks(size).enumerate() {
                    let wallets: usize = passes.iter().map(|pass| pass.wallets.len()).sum();
                    let kept = scatter(self.core.health.batches()) % wallets.max(1);
                    for pass in passes.iter().enumerate() {
                        self.scan_batch(room, pass, kept, tweaks, &mut |wallet, chunk| {
                            take(wallet, chunk.behind(batch * size));
                        });
                    }
                }
            },
        );
    }
}

#[cfg(test)]
mod tests;
