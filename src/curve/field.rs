//! Field elements: the packed form in memory, and elements with a magnitude inside computations.
//!
//! Two forms, on purpose:
//!
//! * [`FieldElement`] is one canonical value in 256 bits. Tables, tweaks and results are stored in it.
//! * [`Element`] is what a [backend](super::backend::Backend) computes with: one or several values side by side in
//!   limbs with spare bits, so that sums and differences need no carries. Its *magnitude* says how many
//!   spare bits are used up, is part of its type, and is checked when the program is compiled.

use std::fmt;

use zeroize::Zeroize;

/// The field's prime, p = 2^256 - 2^32 - 977, as words with the least significant first.
pub(crate) const P: [u64; 4] = [0xffff_fffe_ffff_fc2f, u64::MAX, u64::MAX, u64::MAX];

/// 2^256 - p: what a carry out of 256 bits is worth.
pub(crate) const FOLD: u64 = 0x1_0000_03d1;

/// A field element in canonical form: four words, least significant first, below [`P`].
#[derive(Clone, Copy, PartialEq, Eq, Zeroize)]
#[repr(C, align(32))]
pub(crate) struct FieldElement([u64; 4]);

impl FieldElement {
    pub(crate) const ZERO: Self = Self([0; 4]);
    pub(crate) const ONE: Self = Self([1, 0, 0, 0]);
    pub(crate) const TWO: Self = Self([2, 0, 0, 0]);
    /// The constant of the curve equation y² = x³ + 7.
    pub(crate) const SEVEN: Self = Self([7, 0, 0, 0]);
    /// 3/2, which turns 1/y into the 3/(2y) of a tangent's slope.
    pub(crate) const THREE_HALVES: Self = Self([
        0xffff_ffff_7fff_fe19,
        u64::MAX,
        u64::MAX,
        0x7fff_ffff_ffff_ffff,
    ]);
    /// β, a cube root of one: λ·(x, y) = (βx, y) for the λ of [`super::scalar`].
    pub(crate) const BETA: Self = Self([
        0xc139_6c28_7195_01ee,
        0x9cf0_4975_12f5_8995,
        0x6e64_479e_ac34_34e9,
        0x7ae9_6a2b_657c_0710,
    ]);

    /// The element with these words, least significant first; `None` from p upwards.
    pub(crate) fn from_words(words: [u64; 4]) -> Option<Self> {
        let is_canonical = words[1] & words[2] & words[3] != u64::MAX || words[0] < P[0];
        is_canonical.then_some(Self(words))
    }

    /// The element a backend has reduced to canonical words.
    pub(super) fn from_canonical_words(words: [u64; 4]) -> Self {
        debug_assert!(Self::from_words(words).is_some());
        Self(words)
    }

    /// Four words, least significant first.
    pub(crate) const fn words(&self) -> &[u64; 4] {
        &self.0
    }

    /// The element of 32 big-endian bytes; `None` from p upwards.
    pub(crate) fn from_be_bytes(bytes: &[u8; 32]) -> Option<Self> {
        Self::from_words(words_from_be_bytes(bytes))
    }

    /// 32 bytes, big-endian.
    pub(crate) fn to_be_bytes(self) -> [u8; 32] {
        words_to_be_bytes(&self.0)
    }

    pub(crate) const fn is_zero(&self) -> bool {
        self.0[0] | self.0[1] | self.0[2] | self.0[3] == 0
    }

    pub(crate) const fn is_odd(&self) -> bool {
        self.0[0] & 1 == 1
    }

    /// p - a; 0 for 0.
    pub(crate) fn negated(&self) -> Self {
        if self.is_zero() {
            return *self;
        }
        let mut borrow = false;
        let mut words = [0; 4];
        for (word, (p, a)) in words.iter_mut().zip(P.iter().zip(&self.0)) {
            (*word, borrow) = p.borrowing_sub(*a, borrow);
        }
        Self(words)
    }
}

impl fmt::Debug for FieldElement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d] = self.0;
        write!(f, "{d:016x}{c:016x}{b:016x}{a:016x}")
    }
}

/// Words, least significant first, of 32 big-endian bytes.
pub(crate) fn words_from_be_bytes(bytes: &[u8; 32]) -> [u64; 4] {
    let mut words = [0; 4];
    for (word, chunk) in words.iter_mut().rev().zip(bytes.as_chunks::<8>().0) {
        *word = u64::from_be_bytes(*chunk);
    }
    words
}

/// 32 big-endian bytes of words with the least significant first.
pub(crate) fn words_to_be_bytes(words: &[u64; 4]) -> [u8; 32] {
    let mut bytes = [0; 32];
    for (chunk, word) in bytes
        .as_chunks_mut::<8>()
        .0
        .iter_mut()
        .zip(words.iter().rev())
    {
        *chunk = word.to_be_bytes();
    }
    bytes
}

/// A backend's limbs. `MAGNITUDE` says how large they may be: about so many times as large as those of a product, and
/// exactly what the form's `largest_limbs` gives. Two elements can be multiplied if the product of their magnitudes is at
/// most [`MAX_PRODUCT`].
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Element<L, const MAGNITUDE: u32>(pub(super) L);

/// Largest product of two factors' magnitudes for which no backend overflows: `docs/kernel.md`, "Bounds".
pub(crate) const MAX_PRODUCT: u32 = 7;

#[cfg(test)]
mod tests;
