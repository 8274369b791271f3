//! From shared secrets S to candidate output keys: `t_0 = hash(S)`, `P_0 = B + t_0·G`, `P_0 + L` for each label.

use std::ops::Range;

use secp256k1::PublicKey;
use zeroize::Zeroize;

use super::arch::Backend;
use super::batch::{Degenerate, Lockstep, Points, StoreColumn};
use super::field::FieldElement;
use super::generator::{Gather, GeneratorTable, WINDOWS};
use super::group::{AffinePoint, Constant};
use super::point::pack;
use super::scalar::Scalar;
use super::sha256::State;
use super::tagged_hash::TaggedHash;

/// Bytes of a compressed point and of the counter k = 0 after it.
const MESSAGE_BYTES: usize = 33 + 4;

/// The points of a wallet to which t_0·G is added, less the excess of the generator table.
pub(crate) struct OutputTargets {
    /// B, then B + L for each label.
    sums: Vec<AffinePoint>,
}

impl OutputTargets {
    /// `None` if B, or its sum with a label, is the excess itself, so that nothing is left.
    pub(crate) fn new(
        table: &GeneratorTable,
        spend_key: &PublicKey,
        labels: &[PublicKey],
    ) -> Option<Self> {
        let excess = table.excess.negate(secp256k1::SECP256K1);
        let start = spend_key.combine(&excess).ok()?;
        let affine = |point: &PublicKey| pack(point).to_affine();
        let mut sums = Vec::with_capacity(1 + labels.len());
        sums.push(affine(&start)?);
        for label in labels {
            sums.push(affine(&start.combine(label).ok()?)?);
        }
        Some(Self { sums })
    }

    /// Candidates for each tweak.
    pub(crate) fn per_tweak(&self) -> usize {
        self.sums.len()
    }
}

/// Room for one batch.
pub(crate) struct OutputStage<B: Backend> {
    backend: B,
    multiples: Points<B>,
    entries: Points<B>,
    secrets: Vec<AffinePoint>,
    coordinates: Vec<FieldElement>,
    scalars: Vec<[u64; 4]>,
    is_scalar: Vec<bool>,
}

impl<B: Backend> OutputStage<B> {
    pub(crate) fn new(backend: B) -> Self {
        Self {
            backend,
            multiples: Points::new(backend, 0),
            entries: Points::new(backend, 0),
            secrets: Vec::new(),
            coordinates: Vec::new(),
            scalars: Vec::new(),
            is_scalar: Vec::new(),
        }
    }

    /// Makes room for a batch of `points` in `groups` groups.
    pub(crate) fn resize(&mut self, points: usize, groups: usize) {
        self.multiples.resize(self.backend, groups);
        self.entries.resize(self.backend, groups);
        resize_secrets(&mut self.secrets, points, AffinePoint::generator());
        resize_secrets(&mut self.coordinates, points, FieldElement::ZERO);
        resize_secrets(&mut self.scalars, points, [0; 4]);
        self.is_scalar.resize(points, false);
    }

    /// Computes t_0·G of each shared secret, plus the table's excess, for [`Self::candidates`].
    ///
    /// # Errors
    /// [`Degenerate`] if a sum on the way has no slope.
    pub(crate) fn multiply(
        &mut self,
        lockstep: &mut Lockstep<B>,
        table: &GeneratorTable,
        hash: &TaggedHash,
        shared_secrets: &Points<B>,
    ) -> Result<(), Degenerate> {
        shared_secrets.store(self.backend, &mut self.secrets);
        self.hash_secrets(hash);
        self.multiply_generator(lockstep, table)
    }

    /// G times each scalar, whether it is below n or not, plus the table's excess.
    fn multiply_generator(
        &mut self,
        lockstep: &mut Lockstep<B>,
        table: &GeneratorTable,
    ) -> Result<(), Degenerate> {
        let backend = self.backend;
        for window in 0..WINDOWS {
            let first = window == 0;
            backend.run(Gather {
                backend,
                table,
                window,
                scalars: &self.scalars,
                points: if first {
                    &mut self.multiples
                } else {
                    &mut self.entries
                },
            });
            if !first {
                lockstep.add(&mut self.multiples, self.entries.operand(), false)?;
            }
        }
        Ok(())
    }

    /// Writes the candidates with these numbers to `out`, those of each shared secret in turn; zeros where t_0 is no
    /// scalar in 1..n.
    ///
    /// # Errors
    /// [`Degenerate`] if a candidate is infinity, or a sum has no slope.
    pub(crate) fn candidates(
        &mut self,
        lockstep: &mut Lockstep<B>,
        targets: &OutputTargets,
        numbers: Range<usize>,
        out: &mut [[u8; 32]],
    ) -> Result<(), Degenerate> {
        let backend = self.backend;
        let per_tweak = numbers.len();
        for (i, sum) in targets.sums[numbers].iter().enumerate() {
            let column = lockstep.add_x(&self.multiples, &Constant::new(backend, sum))?;
            backend.run(StoreColumn {
                backend,
                column,
                out: &mut self.coordinates,
            });
            let candidates = out.iter_mut().skip(i).step_by(per_tweak);
            for ((candidate, x), is_scalar) in
                candidates.zip(&self.coordinates).zip(&self.is_scalar)
            {
                *candidate = if *is_scalar { x.to_be_bytes() } else { [0; 32] };
            }
        }
        Ok(())
    }

    /// t_0 of each shared secret. Not a task: see [`super::arch::Sha256Instructions`].
    #[inline(never)]
    fn hash_secrets(&mut self, hash: &TaggedHash) {
        let results = self.scalars.iter_mut().zip(&mut self.is_scalar);
        let mut message = [0; MESSAGE_BYTES];
        for (secret, (scalar, is_scalar)) in self.secrets.iter().zip(results) {
            message[0] = 2 + u8::from(secret.y.is_odd());
            message[1..33].copy_from_slice(&secret.x.to_be_bytes());
            (*scalar, *is_scalar) = output_scalar(&hash.hash(&message));
        }
        message.zeroize();
    }
}

/// The words of t_0, least significant first, and whether it is in 1..n.
#[inline]
fn output_scalar(hash: &State) -> ([u64; 4], bool) {
    let word = |i: usize| u64::from(hash[i]) << 32 | u64::from(hash[i + 1]);
    let words = [word(6), word(4), word(2), word(0)];
    let is_scalar = Scalar::from_words(words).is_some_and(|scalar| !scalar.is_zero());
    (words, is_scalar)
}

/// Changes the length of a list of secrets; those that go are wiped, which are all where the list has to move.
fn resize_secrets<T: Zeroize + Clone>(secrets: &mut Vec<T>, len: usize, blank: T) {
    if len > secrets.capacity() {
        secrets.zeroize();
    }
    secrets.iter_mut().skip(len).for_each(Zeroize::zeroize);
    secrets.resize(len, blank);
}

impl<B: Backend> Drop for OutputStage<B> {
    fn drop(&mut self) {
        self.multiples.wipe(self.backend);
        self.entries.wipe(self.backend);
        self.coordinates.zeroize();
        self.scalars.zeroize();
        self.secrets.zeroize();
    }
}

#[cfg(test)]
mod tests;
