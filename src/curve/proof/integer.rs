//! Integers of a fixed size that no proof exceeds.

use crate::curve::field::{FOLD, P};

/// Words of an [`Integer`]: products of two elements, with any quotients, are far below 2^639.
const WORDS: usize = 10;

/// A signed integer of 640 bits, in two's complement, least significant word first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Integer([u64; WORDS]);

impl Integer {
    pub(crate) const ZERO: Self = Self([0; WORDS]);

    /// The number of words with the least significant first.
    pub(crate) fn from_words(words: &[u64]) -> Self {
        let mut integer = Self::ZERO;
        integer.0[..words.len()].copy_from_slice(words);
        integer
    }

    /// `sum of limb[i]·2^(bits·i)`.
    pub(crate) fn from_limbs(limbs: &[u64], bits: u32) -> Self {
        let places = (0..).step_by(bits as usize);
        limbs
            .iter()
            .zip(places)
            .fold(Self::ZERO, |sum, (limb, at)| {
                sum.plus(&Self::from(i128::from(*limb)).shifted(at))
            })
    }

    /// 2^exponent.
    pub(crate) fn power_of_two(exponent: u32) -> Self {
        Self::from(1).shifted(exponent)
    }

    /// Least significant first, in two's complement.
    pub(crate) fn words(&self) -> &[u64] {
        &self.0
    }

    pub(crate) fn is_negative(&self) -> bool {
        self.0[WORDS - 1].cast_signed() < 0
    }

    pub(crate) fn plus(&self, other: &Self) -> Self {
        let mut sum = *self;
        let mut carry = false;
        for (word, other) in sum.0.iter_mut().zip(&other.0) {
            (*word, carry) = word.carrying_add(*other, carry);
        }
        sum
    }

    pub(crate) fn negated(&self) -> Self {
        Self(self.0.map(|word| !word)).plus(&Self::from(1))
    }

    pub(crate) fn minus(&self, other: &Self) -> Self {
        self.plus(&other.negated())
    }

    /// a·2^bits.
    pub(crate) fn shifted(&self, bits: u32) -> Self {
        let (words, bits) = (bits as usize / 64, bits % 64);
        Self(std::array::from_fn(|i| {
            let word = |i: Option<usize>| i.map_or(0, |i| self.0[i]);
            let (high, low) = (word(i.checked_sub(words)), word(i.checked_sub(words + 1)));
            (high << bits) | (low >> 1 >> (63 - bits))
        }))
    }

    pub(crate) fn times(&self, other: &Self) -> Self {
        let mut product = Self::ZERO;
        for (i, factor) in other.0.iter().enumerate() {
            if *factor == 0 {
                continue;
            }
            let mut carry = 0;
            for j in 0..WORDS - i {
                let word = &mut product.0[i + j];
                (*word, carry) = self.0[j].carrying_mul_add(*factor, *word, carry);
            }
        }
        product
    }

    /// Whether p divides it.
    pub(crate) fn is_multiple_of_p(&self) -> bool {
        let mut rest = if self.is_negative() {
            self.negated()
        } else {
            *self
        };
        // 2^256 = FOLD mod p, until nothing is left above.
        while rest.0[4..] != [0; WORDS - 4] {
            let (low, high) = rest.0.split_at(4);
            let folded = Self::from_words(high).times(&Self::from_words(&[FOLD]));
            rest = folded.plus(&Self::from_words(low));
        }
        rest == Self::ZERO || rest == Self::from_words(&P)
    }
}

impl From<i128> for Integer {
    fn from(number: i128) -> Self {
        let sign = (number >> 127) as u64;
        let mut words = [sign; WORDS];
        words[0] = number as u64;
        words[1] = (number >> 64) as u64;
        Self(words)
    }
}

impl PartialOrd for Integer {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Integer {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        match self.minus(other) {
            Self::ZERO => std::cmp::Ordering::Equal,
            difference if difference.is_negative() => std::cmp::Ordering::Less,
            _ => std::cmp::Ordering::Greater,
        }
    }
}

#[test]
fn integers_are_those_of_i128_where_these_suffice() {
    let numbers = [
        0,
        1,
        -1,
        977,
        -(1 << 62),
        (1 << 63) - 1,
        1 << 63,
        -(1 << 60) + 5,
    ];
    for a in numbers {
        for b in numbers {
            let (x, y) = (Integer::from(a), Integer::from(b));
            assert_eq!(x.plus(&y), Integer::from(a + b));
            assert_eq!(x.minus(&y), Integer::from(a - b));
            assert_eq!(x.times(&y), Integer::from(a * b));
            assert_eq!(x.cmp(&y), a.cmp(&b));
        }
        assert_eq!(Integer::from(a).shifted(50), Integer::from(a << 50));
        let far = Integer::from(a).shifted(300);
        assert_eq!(far, Integer::from(a).times(&Integer::power_of_two(300)));
    }
    let p = Integer::from_words(&P);
    for multiple in numbers {
        let multiple = p.times(&Integer::from(multiple)).times(&p);
        assert!(multiple.is_multiple_of_p());
        assert!(!multiple.plus(&Integer::from(1)).is_multiple_of_p());
        assert!(
            !multiple
                .minus(&Integer::power_of_two(256))
                .is_multiple_of_p()
        );
    }
}
