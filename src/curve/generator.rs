//! Multiples of G by many scalars, from a table in which no entry is infinity and no digit needs a branch.
//!
//! Window j holds `(v·2^(12j) + r_j)·G` for each 12-bit v, with a fixed r_j that nobody chose. A multiple is one
//! entry from each window, added up, which is too much by `(sum of r_j)·G`: the caller takes that off in the
//! point it adds anyway.

use std::sync::OnceLock;

use secp256k1::hashes::{Hash, sha256};
use secp256k1::{PublicKey, SECP256K1, SecretKey};

use super::arch::{Backend, Portable, Task};
use super::batch::{Degenerate, Lockstep, MAX_LANES, Points, groups_for};
use super::group::{AffinePoint, Constant};
use super::point::pack;

/// Bits of a window: 12 bits are 22 windows and 5.5 MB, which a processor's outer cache holds.
const WINDOW_BITS: usize = 12;
/// Windows that cover a scalar.
pub(crate) const WINDOWS: usize = SCALAR_BITS.div_ceil(WINDOW_BITS);
const SCALAR_BITS: usize = 256;

/// See the module.
pub(crate) struct GeneratorTable {
    /// By window, then by digit.
    entries: Vec<Vec<AffinePoint>>,
    /// `(sum of r_j)·G`.
    pub(crate) excess: PublicKey,
}

impl GeneratorTable {
    /// The table of this process, built when it is first asked for (some 20 ms).
    ///
    /// # Errors
    /// [`Degenerate`] never, as a test shows: r_j are fixed.
    pub(crate) fn shared() -> Result<&'static Self, Degenerate> {
        static TABLE: OnceLock<Result<GeneratorTable, Degenerate>> = OnceLock::new();
        TABLE.get_or_init(Self::build).as_ref().map_err(|e| *e)
    }

    fn build() -> Result<Self, Degenerate> {
        let mut entries = Vec::with_capacity(WINDOWS);
        let mut excess: Option<PublicKey> = None;
        for window in 0..WINDOWS {
            let offset = offset(window)?;
            excess = Some(match excess {
                None => offset,
                Some(excess) => excess.combine(&offset).map_err(|_| Degenerate)?,
            });
            entries.push(build_window(window, &offset)?);
        }
        Ok(Self {
            entries,
            excess: excess.ok_or(Degenerate)?,
        })
    }

    /// The entry for a window of a scalar.
    #[inline(always)]
    fn entry(&self, window: usize, scalar: &[u64; 4]) -> &AffinePoint {
        let entries = &self.entries[window];
        // The top window is narrower, and its digits with it.
        &entries[digit(window, scalar) & (entries.len() - 1)]
    }
}

/// Bits `12·window..` of a scalar.
#[inline(always)]
fn digit(window: usize, scalar: &[u64; 4]) -> usize {
    let bit = window * WINDOW_BITS;
    let (word, shift) = (bit / 64, bit % 64);
    let low = scalar[word] >> shift;
    let high = if shift + WINDOW_BITS > 64 && word < 3 {
        scalar[word + 1] << (64 - shift)
    } else {
        0
    };
    (low | high) as usize & ((1 << WINDOW_BITS) - 1)
}

/// `r_j·G`, r_j the hash of a text with j.
fn offset(window: usize) -> Result<PublicKey, Degenerate> {
    let hash = sha256::Hash::hash(format!("spindex generator table, window {window}").as_bytes());
    let scalar = SecretKey::from_slice(hash.as_byte_array()).map_err(|_| Degenerate)?;
    Ok(scalar.public_key(SECP256K1))
}

/// `2^bit·G`.
fn power(bit: usize) -> Result<AffinePoint, Degenerate> {
    let mut bytes = [0; 32];
    bytes[31 - bit / 8] = 1 << (bit % 8);
    let scalar = SecretKey::from_slice(&bytes).map_err(|_| Degenerate)?;
    affine(&scalar.public_key(SECP256K1))
}

fn affine(point: &PublicKey) -> Result<AffinePoint, Degenerate> {
    pack(point).to_affine().ok_or(Degenerate)
}

/// The entries of a window: those with bit l set are those without it, plus `2^(12j + l)·G`.
fn build_window(window: usize, offset: &PublicKey) -> Result<Vec<AffinePoint>, Degenerate> {
    let first_bit = window * WINDOW_BITS;
    let bits = WINDOW_BITS.min(SCALAR_BITS - first_bit);
    let mut entries = Vec::with_capacity(1 << bits);
    entries.push(affine(offset)?);
    for bit in 0..bits {
        let groups = groups_for::<Portable>(entries.len());
        let mut lockstep = Lockstep::new(Portable, groups);
        let mut points = Points::new(Portable, groups);
        let last = entries.len() - 1;
        points.load(Portable, |i| &entries[i.min(last)]);
        let power = Constant::new(Portable, &power(first_bit + bit)?);
        lockstep.add(&mut points, &power, false)?;
        let mut sums = entries.clone();
        points.store(Portable, &mut sums);
        entries.append(&mut sums);
    }
    Ok(entries)
}

/// Sets the point of each lane to the entry for a window of its scalar.
pub(crate) struct Gather<'a, B: Backend> {
    pub(crate) backend: B,
    pub(crate) table: &'a GeneratorTable,
    pub(crate) window: usize,
    /// Of the points, as words, least significant first; lanes past the last take the last.
    pub(crate) scalars: &'a [[u64; 4]],
    pub(crate) points: &'a mut Points<B>,
}

impl<B: Backend> Task for Gather<'_, B> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Points { x, y } = self.points;
        let last = self.scalars.len().saturating_sub(1);
        for (vector, (x, y)) in x
            .iter_mut()
            .flatten()
            .zip(y.iter_mut().flatten())
            .enumerate()
        {
            let mut entries = [self.table.entry(self.window, &[0; 4]); MAX_LANES];
            for (lane, entry) in entries[..B::LANES].iter_mut().enumerate() {
                let scalar = (vector * B::LANES + lane).min(last);
                *entry = self.table.entry(self.window, &self.scalars[scalar]);
            }
            *x = self.backend.load(|lane| &entries[lane].x);
            *y = self.backend.load(|lane| &entries[lane].y);
        }
    }
}

#[cfg(test)]
mod tests;
