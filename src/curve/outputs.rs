//! From shared secrets S to candidate output keys: `t_0 = hash(S)`, `P_0 = B + t_0·G`, `P_0 + L` for each label.

use std::ops::Range;

use secp256k1::PublicKey;
use zeroize::Zeroize;

use super::arch::Backend;
use super::batch::{Degenerate, Lockstep, Points, StoreColumn};
use super::field::FieldElement;
use super::generator::{Gather, GeneratorTable, WINDOWS};
use super::group::{AffinePoint, Constant};
use super::libsecp256k1;
use super::scalar::Scalar;
use super::sha256::TaggedHash;

/// Bytes of a compressed point and of the counter k = 0 after it.
const MESSAGE_BYTES: usize = 33 + 4;

/// The points of a wallet to which t_0·G is added, less the excess of the generator table.
pub(crate) struct OutputTargets {
    /// B, then B + L for each label.
    sums: Vec<AffinePoint>,
}

impl OutputTargets {
    /// `None` if one of the points is the excess itself or a label is -B, so that a sum is infinity.
    pub(crate) fn new(
        table: &GeneratorTable,
        spend_key: &PublicKey,
        labels: &[PublicKey],
    ) -> Option<Self> {
        let excess = table.excess.negate(secp256k1::SECP256K1);
        let start = spend_key.combine(&excess).ok()?;
        let affine = |point: &PublicKey| libsecp256k1::pack(point).to_affine();
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
        self.secrets.resize(points, AffinePoint::generator());
        self.coordinates.resize(points, FieldElement::ZERO);
        self.scalars.resize(points, [0; 4]);
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
        let backend = self.backend;
        shared_secrets.store(backend, &mut self.secrets);
        self.hash_secrets(hash);
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
        for (secret, (scalar, is_scalar)) in self.secrets.iter().zip(results) {
            let mut message = [0; MESSAGE_BYTES];
            message[0] = 2 + u8::from(secret.y.is_odd());
            message[1..33].copy_from_slice(&secret.x.to_be_bytes());
            let state = hash.hash(&message);
            let word = |i: usize| u64::from(state[i]) << 32 | u64::from(state[i + 1]);
            *scalar = [word(6), word(4), word(2), word(0)];
            *is_scalar = Scalar::from_words(*scalar).is_some_and(|scalar| !scalar.is_zero());
        }
    }
}

impl<B: Backend> Drop for OutputStage<B> {
    fn drop(&mut self) {
        self.multiples.wipe(self.backend);
        self.entries.wipe(self.backend);
        self.coordinates.zeroize();
        self.scalars.zeroize();
        for secret in &mut self.secrets {
            secret.x.zeroize();
            secret.y.zeroize();
        }
    }
}
