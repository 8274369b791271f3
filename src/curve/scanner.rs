//! Scans on the batched engine, for one wallet or many.

mod input;
mod judged;
mod pass;

use std::sync::{Arc, Mutex, PoisonError};

use super::arch::Backend;
use super::batch::{Degenerate, Lockstep, groups_for};
use super::batch_sizes::{BatchSizes, MIN_POINTS, batch_points};
use super::generator::GeneratorTable;
use super::health::Health;
use super::known::Known;
use super::libsecp256k1;
use super::outputs::OutputStage;
use super::point::unpack;
use super::sampling::{Sampled, scatter};
use super::scan::{
    Batch, CandidateChunk, CandidateScanner, InvalidTarget, ScanTarget, chunk_numbers,
};
use super::tagged_hash::TaggedHash;
use input::Input;
use judged::Judged;
use pass::{Pass, SecretStage};

/// What an engine shares with its scanners.
pub(super) struct Core {
    pub(super) sizes: BatchSizes,
    pub(super) table: Option<&'static GeneratorTable>,
    pub(super) output_tweak: TaggedHash,
    pub(super) health: Health,
}

/// A scan for wallets in passes.
pub(super) struct Scanner<B: Backend> {
    backend: B,
    core: Arc<Core>,
    passes: Vec<Pass>,
    /// Wallets that are in no pass.
    left_out: Vec<usize>,
    /// The same scan on libsecp256k1.
    exact: libsecp256k1::Scanner,
    /// Those that no call is using: as many as there were calls at the same time.
    rooms: Mutex<Vec<Room<B>>>,
}

/// Room for one batch.
struct Room<B: Backend> {
    input: Input,
    lockstep: Lockstep<B>,
    secrets: SecretStage<B>,
    outputs: OutputStage<B>,
    candidates: Vec<[u8; 32]>,
}

impl<B: Backend> Room<B> {
    fn new(backend: B) -> Self {
        Self {
            input: Input::default(),
            lockstep: Lockstep::new(backend, 0),
            secrets: SecretStage::new(backend),
            outputs: OutputStage::new(backend),
            candidates: Vec::new(),
        }
    }
}

impl<B: Backend> Drop for Room<B> {
    fn drop(&mut self) {
        self.lockstep.wipe();
    }
}

impl<B: Backend> Scanner<B> {
    pub(super) fn new(
        backend: B,
        core: &Arc<Core>,
        targets: &[ScanTarget],
    ) -> Result<Self, InvalidTarget> {
        let exact = libsecp256k1::Scanner::new(targets)?;
        let passes = Pass::all(core.table, &core.sizes, targets);
        let mut left_out: Vec<usize> = (0..targets.len()).collect();
        for member in passes.iter().flat_map(|pass| &pass.members) {
            left_out.retain(|wallet| *wallet != member.wallet);
        }
        Ok(Self {
            backend,
            core: Arc::clone(core),
            passes,
            left_out,
            exact,
            rooms: Mutex::default(),
        })
    }

    /// Whether a scan for so many wallets gives what is known of one, with the multiples that are known too.
    pub(super) fn agrees_with(known: &Known, backend: B, core: &Arc<Core>, wallets: usize) -> bool {
        let targets = vec![known.target.clone(); wallets];
        let Ok(scanner) = Self::new(backend, core, &targets) else {
            return false;
        };
        let agrees = |multiples| {
            let tweaks = &known.tweaks;
            let mut candidates = Vec::new();
            scanner.candidates(Batch { tweaks, multiples }, &mut candidates);
            candidates.iter().all(|wallet| *wallet == known.candidates)
        };
        agrees(None) && (wallets > 1 || agrees(Some(&known.multiples)))
    }

    /// Lends a room to `work`.
    fn with_room(&self, work: impl FnOnce(&mut Room<B>)) {
        let lock = || self.rooms.lock().unwrap_or_else(PoisonError::into_inner);
        let pooled = lock().pop();
        let mut room = pooled.unwrap_or_else(|| Room::new(self.backend));
        work(&mut room);
        lock().push(room);
    }

    /// Hands over the candidates for the wallets of a pass.
    fn scan_pass(
        &self,
        room: &mut Room<B>,
        pass: &Pass,
        batch: Batch<'_>,
        take: &mut dyn FnMut(CandidateChunk<'_>),
    ) {
        let most = pass.most_tweaks(&self.core.sizes);
        let size = batch_points(batch.tweaks.len(), most);
        let mut multiples = batch.multiples.map(|multiples| multiples.chunks(size));
        for (number, tweaks) in batch.tweaks.chunks(size).enumerate() {
            let multiples = multiples.as_mut().map(|m| m.next().unwrap_or_default());
            let kept = scatter(self.core.health.batches()) % pass.members.len();
            let batch = Batch { tweaks, multiples };
            self.scan_batch(room, pass, kept, batch, &mut |chunk| {
                take(chunk.behind(number * size));
            });
        }
    }

    /// Hands over the candidates of one batch, and keeps some to be compared later: those of the member with the place
    /// `kept`, if there are any.
    fn scan_batch(
        &self,
        room: &mut Room<B>,
        pass: &Pass,
        kept: usize,
        batch: Batch<'_>,
        take: &mut dyn FnMut(CandidateChunk<'_>),
    ) {
        let Core {
            table,
            output_tweak,
            health,
            ..
        } = &*self.core;
        let Room {
            input,
            lockstep,
            secrets,
            outputs,
            candidates,
        } = room;
        let Batch { tweaks, multiples } = batch;
        let groups = groups_for::<B>(tweaks.len());
        lockstep.resize(groups);
        outputs.resize(tweaks.len(), groups);
        input.load(self.backend, tweaks);
        health.judge_absent(input.is_valid.iter().copied(), |i| {
            unpack(&tweaks[i]).is_some()
        });
        let done = secrets.compute(pass, lockstep, input, multiples);
        for (at, member) in pass.members.iter().enumerate() {
            let exact = &self.exact.wallets()[member.wallet];
            let done = done.and_then(|()| {
                let table = table.ok_or(Degenerate)?;
                outputs.multiply(lockstep, table, output_tweak, secrets.of(pass, at))
            });
            let end = member.targets.per_tweak();
            for numbers in chunk_numbers(0..end, tweaks.len()) {
                let count = health.batches();
                let judged =
                    |keys: &[[u8; 32]], place| Judged::new(tweaks, &numbers, keys, place, count);
                let accepted = health.accept(
                    || {
                        done?;
                        candidates.resize(tweaks.len() * numbers.len(), [0; 32]);
                        let targets = &member.targets;
                        outputs.candidates(lockstep, targets, numbers.clone(), candidates)?;
                        input.blank_invalid(numbers.len(), candidates);
                        Ok(&candidates[..])
                    },
                    tweaks.len(),
                    |keys, place| judged(keys, place).agrees(exact),
                );
                let Some(keys) = accepted else {
                    exact.scan(tweaks, numbers.start..end, take);
                    break;
                };
                let sample = (at, judged(keys, scatter(count) % tweaks.len()));
                match at == kept {
                    true => pass.last.put(sample),
                    // That member's batch may be left to libsecp256k1, and this one is not.
                    false => pass.last.put_if_none(sample),
                }
                take(CandidateChunk {
                    wallet: member.wallet,
                    first_tweak: 0,
                    numbers,
                    keys,
                });
            }
        }
    }
}

impl<B: Backend> Sampled for Scanner<B> {
    fn is_broken(&self) -> bool {
        self.core.health.is_broken()
    }

    fn confirm(&self) -> bool {
        self.core.health.confirm(|| {
            let mut agree = true;
            let (mut alone, mut shared) = (false, false);
            for pass in &self.passes {
                // Each of them, also after one that is wrong.
                if let Some((at, judged)) = pass.last.take() {
                    let wallet = pass.members[at].wallet;
                    agree &= judged.agrees(&self.exact.wallets()[wallet]);
                    match pass.is_shared() {
                        true => shared = true,
                        false => alone = true,
                    }
                }
            }
            // Younger than all that was handed out, and so what covers it.
            let known = |wallets| {
                let known = Known::shared();
                known.is_some_and(|known| {
                    Self::agrees_with(known, self.backend, &self.core, wallets)
                })
            };
            agree && (!alone || known(1)) && (!shared || known(2))
        })
    }
}

impl<B: Backend> CandidateScanner for Scanner<B> {
    fn wallets(&self) -> usize {
        self.exact.wallets().len()
    }

    fn candidates_per_tweak(&self, wallet: usize) -> usize {
        self.exact.candidates_per_tweak(wallet)
    }

    fn scan(&self, batch: Batch<'_>, take: &mut dyn FnMut(CandidateChunk<'_>)) {
        if batch.tweaks.len() < MIN_POINTS || self.core.health.is_broken() {
            return self.exact.scan(batch, take);
        }
        for wallet in &self.left_out {
            let wallet = &self.exact.wallets()[*wallet];
            wallet.scan(batch.tweaks, 0..wallet.candidates_per_tweak(), take);
        }
        self.with_room(|room| {
            for pass in &self.passes {
                self.scan_pass(room, pass, batch, take);
            }
        });
    }
}

#[cfg(test)]
mod tests;
