//! Integers modulo the group order n: the endomorphism split, and digits to multiply by.
//!
//! Nothing here is constant time.

use zeroize::Zeroize;

use super::field::words_from_be_bytes;
#[cfg(test)]
use super::field::words_to_be_bytes;

/// The group order, least significant word first.
const N: [u64; 4] = [
    0xbfd2_5e8c_d036_4141,
    0xbaae_dce6_af48_a03b,
    0xffff_ffff_ffff_fffe,
    u64::MAX,
];

/// An integer below n, least significant word first.
#[derive(Clone, Copy, PartialEq, Eq, Zeroize)]
pub(crate) struct Scalar([u64; 4]);

impl Scalar {
    pub(crate) const ZERO: Self = Self([0; 4]);
    pub(crate) const ONE: Self = Self([1, 0, 0, 0]);
    /// λ, a cube root of one: λ·(x, y) = (βx, y).
    pub(crate) const LAMBDA: Self = Self([
        0xdf02_967c_1b23_bd72,
        0x122e_22ea_2081_6678,
        0xa526_1c02_8812_645a,
        0x5363_ad4c_c05c_30e0,
    ]);

    /// The scalar of 32 big-endian bytes; `None` from n upwards.
    pub(crate) fn from_be_bytes(bytes: &[u8; 32]) -> Option<Self> {
        Self::from_words(words_from_be_bytes(bytes))
    }

    /// The scalar with these words, least significant first; `None` from n upwards.
    pub(crate) fn from_words(words: [u64; 4]) -> Option<Self> {
        is_below_n(&words).then_some(Self(words))
    }

    /// 32 bytes, big-endian.
    #[cfg(test)]
    pub(crate) fn to_be_bytes(self) -> [u8; 32] {
        words_to_be_bytes(&self.0)
    }

    /// Least significant first.
    #[cfg(test)]
    pub(crate) fn words(&self) -> &[u64; 4] {
        &self.0
    }

    pub(crate) fn is_zero(&self) -> bool {
        *self == Self::ZERO
    }

    /// a + b mod n.
    pub(crate) fn plus(&self, other: &Self) -> Self {
        let (sum, carry) = add(&self.0, &other.0);
        if carry || !is_below_n(&sum) {
            // Wraps around 2^256 exactly if the sum did.
            Self(subtract(&sum, &N))
        } else {
            Self(sum)
        }
    }

    /// a + b where an affine addition of a·T and b·T is possible: neither is 0, and a is not ±b.
    pub(crate) fn plus_affine(&self, other: &Self) -> Option<Self> {
        let possible =
            !self.is_zero() && !other.is_zero() && self != other && *self != other.negated();
        possible.then(|| self.plus(other))
    }

    /// -a mod n.
    pub(crate) fn negated(&self) -> Self {
        if self.is_zero() {
            return *self;
        }
        Self(subtract(&N, &self.0))
    }

    /// a·b mod n, bit by bit: for tests and for what happens once for each key.
    pub(crate) fn times(&self, other: &Self) -> Self {
        let mut product = Self::ZERO;
        for word in other.0.iter().rev() {
            for bit in (0..u64::BITS).rev() {
                product = product.plus(&product);
                if word >> bit & 1 == 1 {
                    product = product.plus(self);
                }
            }
        }
        product
    }

    /// 2^exponent mod n.
    pub(crate) fn power_of_two(exponent: u32) -> Self {
        (0..exponent).fold(Self::ONE, |power, _| power.plus(&power))
    }

    /// k1 and k2 of at most 128 bits with `k1 + k2·λ = k` mod n.
    ///
    /// (Gallant, Lambert, Vanstone 2001.) k less the nearest vector of the lattice of all (x, y) with
    /// x + y·λ = 0, whose short basis is (A1, -B1), (A2, A1). The quotients are found with constants of 384
    /// fractional bits, so that they err by one at most in halfway cases: |k1| < 0.64·2^128 and |k2| < 0.55·2^128.
    pub(crate) fn split(&self) -> [Half; 2] {
        let c1 = scaled_quotient(&self.0, &G1);
        let c2 = scaled_quotient(&self.0, &G2);
        let k = [self.0[0], self.0[1], self.0[2]];
        let k1 = sub3(&sub3(&k, &mul3(&c1, &A1)), &mul3(&c2, &A2));
        let k2 = sub3(&mul3(&c1, &B1), &mul3(&c2, &A1));
        [Half(k1), Half(k2)]
    }

    /// Like [`Scalar::split`], with both halves odd and of at most 130 bits.
    ///
    /// Vectors of the lattice are added: (A1, -B1) is odd in both coordinates, (A2, A1) in the second alone.
    pub(crate) fn split_odd(&self) -> [Half; 2] {
        let [Half(mut k1), Half(mut k2)] = self.split();
        if k1[0] & 1 == 0 {
            k1 = add3(&k1, &A1);
            k2 = sub3(&k2, &B1);
        }
        if k2[0] & 1 == 0 {
            if Half(k1).is_negative() {
                k1 = add3(&k1, &A2);
                k2 = add3(&k2, &A1);
            } else {
                k1 = sub3(&k1, &A2);
                k2 = sub3(&k2, &A1);
            }
        }
        [Half(k1), Half(k2)]
    }
}

const A1: [u64; 3] = [0xe86c_90e4_9284_eb15, 0x3086_d221_a7d4_6bcd, 0];
const B1: [u64; 3] = [0x6f54_7fa9_0abf_e4c3, 0xe443_7ed6_010e_8828, 0];
const A2: [u64; 3] = [0x57c1_108d_9d44_cfd8, 0x14ca_50f7_a8e2_f3f6, 1];
/// round(2^384·A1/n).
const G1: [u64; 4] = [
    0xe893_209a_45db_b031,
    0x3daa_8a14_71e8_ca7f,
    0xe86c_90e4_9284_eb15,
    0x3086_d221_a7d4_6bcd,
];
/// round(2^384·B1/n).
const G2: [u64; 4] = [
    0x1571_b4ae_8ac4_7f71,
    0x2212_08ac_9df5_06c6,
    0x6f54_7fa9_0abf_e4c4,
    0xe443_7ed6_010e_8828,
];

/// Digits of a half in width-4 non-adjacent form: 128 bits, and one of carry.
pub(crate) const WNAF_DIGITS: usize = 129;
/// Window of the non-adjacent form: digits are odd and at most 7 in absolute value, any four in a row have
/// one that is not zero at most.
pub(crate) const WNAF_WIDTH: u32 = 4;

/// Bits of an odd signed window: digits are odd and at most 31 in absolute value.
pub(crate) const WINDOW_BITS: u32 = 5;
/// Digits of an odd half of 130 bits.
pub(crate) const WINDOW_DIGITS: usize = 26;

/// A signed integer of at most 130 bits, in two's complement, least significant word first.
#[derive(Clone, Copy, PartialEq, Eq, Zeroize)]
pub(crate) struct Half([u64; 3]);

impl Half {
    pub(crate) fn is_negative(&self) -> bool {
        self.0[2] >> 63 == 1
    }

    /// The absolute value.
    pub(crate) fn magnitude(&self) -> [u64; 3] {
        if self.is_negative() {
            sub3(&[0; 3], &self.0)
        } else {
            self.0
        }
    }

    /// l and h with `l + 2^64·h = k`, of the same sign as k and at most 64 bits each, for a k of at most 128 bits.
    pub(crate) fn at_bit_64(&self) -> [Self; 2] {
        let [low, high, _] = self.magnitude();
        [low, high].map(|word| {
            let part = [word, 0, 0];
            Self(if self.is_negative() {
                sub3(&[0; 3], &part)
            } else {
                part
            })
        })
    }

    /// Digits d with `sum of d[i]·2^i = k`, for at most 128 bits.
    pub(crate) fn wnaf(&self) -> [i8; WNAF_DIGITS] {
        let mut digits = [0; WNAF_DIGITS];
        let mut rest = self.magnitude();
        for digit in &mut digits {
            if rest[0] & 1 == 1 {
                let low = (rest[0] & ((1 << WNAF_WIDTH) - 1)) as i8;
                let value = if low >> (WNAF_WIDTH - 1) == 1 {
                    low - (1 << WNAF_WIDTH)
                } else {
                    low
                };
                rest = sub3(&rest, &sign_extend(value));
                *digit = if self.is_negative() { -value } else { value };
            }
            rest = shift_right(&rest, 1);
        }
        debug_assert_eq!(rest, [0; 3]);
        rest.zeroize();
        digits
    }

    /// Odd digits d with `sum of d[i]·2^(5i) = k`, for an odd k of at most 130 bits.
    ///
    /// (Joye, Tunstall 2009.) Each digit takes the lowest 6 bits less 32, an odd number; the rest is then odd again.
    pub(crate) fn odd_windows(&self) -> [i8; WINDOW_DIGITS] {
        debug_assert_eq!(self.0[0] & 1, 1);
        let mut digits = [0; WINDOW_DIGITS];
        let mut rest = self.magnitude();
        for (i, digit) in digits.iter_mut().enumerate() {
            let value = if i == WINDOW_DIGITS - 1 {
                rest[0] as i8
            } else {
                (rest[0] & ((2 << WINDOW_BITS) - 1)) as i8 - (1 << WINDOW_BITS)
            };
            rest = shift_right(&sub3(&rest, &sign_extend(value)), WINDOW_BITS);
            *digit = if self.is_negative() { -value } else { value };
        }
        debug_assert_eq!(rest, [0; 3]);
        digits
    }
}

fn is_below_n(words: &[u64; 4]) -> bool {
    words.iter().rev().lt(N.iter().rev())
}

fn add<const W: usize>(a: &[u64; W], b: &[u64; W]) -> ([u64; W], bool) {
    let mut sum = [0; W];
    let mut carry = false;
    for i in 0..W {
        (sum[i], carry) = a[i].carrying_add(b[i], carry);
    }
    (sum, carry)
}

fn subtract<const W: usize>(a: &[u64; W], b: &[u64; W]) -> [u64; W] {
    let mut difference = [0; W];
    let mut borrow = false;
    for i in 0..W {
        (difference[i], borrow) = a[i].borrowing_sub(b[i], borrow);
    }
    difference
}

/// a + b mod 2^192.
fn add3(a: &[u64; 3], b: &[u64; 3]) -> [u64; 3] {
    add(a, b).0
}

/// a - b mod 2^192.
fn sub3(a: &[u64; 3], b: &[u64; 3]) -> [u64; 3] {
    subtract(a, b)
}

/// a·b mod 2^192.
fn mul3(a: &[u64; 3], b: &[u64; 3]) -> [u64; 3] {
    let mut product = [0; 3];
    for i in 0..3 {
        let mut carry = 0;
        for j in 0..3 - i {
            (product[i + j], carry) = a[i].carrying_mul_add(b[j], product[i + j], carry);
        }
    }
    product
}

fn sign_extend(digit: i8) -> [u64; 3] {
    let high = i64::from(digit >> 7).cast_unsigned();
    [i64::from(digit).cast_unsigned(), high, high]
}

/// a / 2^bits of a number that is not negative, for 0 < bits < 64.
fn shift_right(a: &[u64; 3], bits: u32) -> [u64; 3] {
    let up = u64::BITS - bits;
    [
        a[0] >> bits | a[1] << up,
        a[1] >> bits | a[2] << up,
        a[2] >> bits,
    ]
}

/// a·b / 2^384, rounded to the nearest.
fn scaled_quotient(a: &[u64; 4], b: &[u64; 4]) -> [u64; 3] {
    let mut product = [0; 8];
    for i in 0..4 {
        let mut carry = 0;
        for j in 0..4 {
            (product[i + j], carry) = a[i].carrying_mul_add(b[j], product[i + j], carry);
        }
        product[i + 4] = carry;
    }
    let quotient = [product[6], product[7], 0];
    add3(&quotient, &[product[5] >> 63, 0, 0])
}

#[cfg(test)]
mod tests;
