//! Words of which is known between which numbers they lie, and what they are in terms of atoms.

use super::polynomial::Polynomial;
use super::run::{RUN, refuse};

/// Bits of the factors whose products have halves.
const FACTOR_BITS: u32 = 52;
/// What a word may be, read with or without a sign.
const WORD: std::ops::RangeInclusive<i128> = i64::MIN as i128..=u64::MAX as i128;

/// A word of the lane: the number of its facts in the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Word(u32);

/// What is known of a word, read as an integer that may have a sign.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    pub(super) least: i128,
    pub(super) largest: i128,
    pub(super) polynomial: Polynomial,
    pub(super) origin: Origin,
    /// The word for one choice of all inputs, by what the instructions do.
    pub(super) sample: u64,
}

/// How a word was made, where that tells more about its quotients or bits.
#[derive(Clone, Copy, Debug)]
pub(super) enum Origin {
    Other,
    /// The word, over 2^bits, rounded down.
    Quotient(Word, u32),
    /// The low bits of the word.
    LowBits(Word, u32),
    /// The word times 2^bits.
    Shifted(Word, u32),
    /// The second word times 2^bits, and the first, which is below 2^bits.
    Joined(Word, Word, u32),
    /// The bits in which two words differ.
    Difference(Word, Word),
    /// Where the mask, 0 or -1, is ones, the bits in which two words differ.
    Masked(Word, Word, Word),
}

impl Word {
    pub(super) fn facts(self) -> Facts {
        RUN.with_borrow(|run| run.facts[self.0 as usize].clone())
    }

    fn new(
        (least, largest): (i128, i128),
        polynomial: Polynomial,
        origin: Origin,
        sample: u64,
    ) -> Self {
        if least < *WORD.start() || largest > *WORD.end() {
            refuse("a word overflows");
        }
        RUN.with_borrow_mut(|run| {
            // The lane itself is tested here: instructions on numbers agree with what is said of all of them.
            let integer = polynomial.at(&run.atoms);
            assert!(integer as u64 == sample, "the polynomial is another number");
            assert!((least..=largest).contains(&integer), "beyond the interval");
            run.facts.push(Facts {
                least,
                largest,
                polynomial,
                origin,
                sample,
            });
            Self(run.facts.len() as u32 - 1)
        })
    }

    /// One word for each constant, so that halves of products with it are found again.
    pub(super) fn constant(number: i128) -> Self {
        if let Some(word) = RUN.with_borrow(|run| run.constants.get(&number).copied()) {
            return word;
        }
        let bounds = (number, number);
        let polynomial = Polynomial::constant(number);
        let word = Self::new(bounds, polynomial, Origin::Other, number as u64);
        RUN.with_borrow_mut(|run| run.constants.insert(number, word));
        word
    }

    /// A word that is an atom: `integer` for the sample.
    fn atom((least, largest): (i128, i128), origin: Origin, integer: i128) -> Self {
        if least == largest {
            return Self::constant(least);
        }
        let atom = RUN.with_borrow_mut(|run| {
            run.atoms.push(integer);
            run.atoms.len() as u32 - 1
        });
        let polynomial = Polynomial::atom(atom);
        Self::new((least, largest), polynomial, origin, integer as u64)
    }

    /// Any word up to the largest. Its sample is one of both ends, or between them.
    pub(crate) fn any_up_to(largest: u64) -> Self {
        let sample = RUN.with_borrow_mut(|run| {
            run.random = run.random.wrapping_mul(0x5851_f42d_4c95_7f2d);
            run.random = run.random.wrapping_add(0x1405_7b7e);
            match run.random >> 62 {
                0 => 0,
                1 => largest,
                _ => ((u128::from(run.random) * u128::from(largest)) >> 64) as u64,
            }
        });
        Self::atom((0, largest.into()), Origin::Other, sample.into())
    }

    /// Any word whose low bits are known to count alone.
    pub(crate) fn any_with_low_bits(bits: u32) -> Self {
        let low = Self::any_up_to((1 << bits) - 1);
        let high = Self::any_up_to(u64::MAX >> bits);
        low.plus(1, high.shifted_left(bits))
    }

    /// Any word of zeros or ones: 0 or -1.
    pub(crate) fn any_mask() -> Self {
        Self::constant(0).plus(-1, Self::any_up_to(1))
    }

    pub(crate) fn least(self) -> i128 {
        RUN.with_borrow(|run| run.facts[self.0 as usize].least)
    }

    pub(crate) fn largest(self) -> i128 {
        RUN.with_borrow(|run| run.facts[self.0 as usize].largest)
    }

    pub(crate) fn polynomial(self) -> Polynomial {
        self.facts().polynomial
    }

    /// Refuses a word that may be negative, or above the largest.
    pub(crate) fn assert_within(self, largest: u64) {
        if self.least() < 0 || self.largest() > largest.into() {
            refuse("a word is out of bounds");
        }
    }

    /// Whether it is 0 or -1.
    pub(crate) fn is_mask(self) -> bool {
        self.least() >= -1 && self.largest() <= 0
    }

    fn is_constant(self) -> bool {
        self.least() == self.largest()
    }

    /// a + factor·b, for a factor of 1 or -1.
    pub(super) fn plus(self, factor: i128, other: Self) -> Self {
        let (a, b) = (self.facts(), other.facts());
        let (low, high) = match factor {
            1 => (b.least, b.largest),
            _ => (-b.largest, -b.least),
        };
        let origin = match (a.origin, b.origin) {
            _ if factor != 1 => Origin::Other,
            (_, Origin::Shifted(word, bits)) if a.least >= 0 && a.largest < 1 << bits => {
                Origin::Joined(self, word, bits)
            }
            (Origin::Shifted(word, bits), _) if b.least >= 0 && b.largest < 1 << bits => {
                Origin::Joined(other, word, bits)
            }
            _ => Origin::Other,
        };
        let sample = a.sample.wrapping_add(b.sample.wrapping_mul(factor as u64));
        let polynomial = a.polynomial.plus(factor, &b.polynomial);
        Self::new(
            (a.least + low, a.largest + high),
            polynomial,
            origin,
            sample,
        )
    }

    /// The word over 2^bits, rounded down.
    fn quotient(self, bits: u32) -> Self {
        if let Some(word) = RUN.with_borrow(|run| run.quotients.get(&(self, bits)).copied()) {
            return word;
        }
        let facts = self.facts();
        let quotient = match facts.origin {
            _ if bits == 0 => self,
            Origin::Quotient(word, before) => word.quotient(before + bits),
            Origin::LowBits(_, width) if width <= bits => Self::constant(0),
            Origin::LowBits(word, width) => word.quotient(bits).low_bits(width - bits),
            Origin::Shifted(word, by) if by >= bits => word.shifted_left(by - bits),
            Origin::Shifted(word, by) | Origin::Joined(_, word, by) if by <= bits => {
                word.quotient(bits - by)
            }
            _ => {
                let integer = RUN.with_borrow(|run| facts.polynomial.at(&run.atoms));
                let bounds = (facts.least >> bits, facts.largest >> bits);
                Self::atom(bounds, Origin::Quotient(self, bits), integer >> bits)
            }
        };
        RUN.with_borrow_mut(|run| run.quotients.insert((self, bits), quotient));
        quotient
    }

    /// The word modulo 2^bits.
    pub(crate) fn low_bits(self, bits: u32) -> Self {
        if let Some(word) = RUN.with_borrow(|run| run.low_bits.get(&(self, bits)).copied()) {
            return word;
        }
        let facts = self.facts();
        let low = match facts.origin {
            _ if facts.least >= 0 && facts.largest < 1 << bits => self,
            Origin::LowBits(word, width) if width >= bits => word.low_bits(bits),
            Origin::Joined(low, _, width) if width >= bits => low.low_bits(bits),
            _ => {
                let quotient = self.quotient(bits).facts();
                let bounds = if quotient.least == quotient.largest {
                    let less = quotient.least << bits;
                    (facts.least - less, facts.largest - less)
                } else {
                    (0, (1 << bits) - 1)
                };
                let polynomial = facts.polynomial.plus(-(1 << bits), &quotient.polynomial);
                let sample = facts.sample & ((1 << bits) - 1);
                Self::new(bounds, polynomial, Origin::LowBits(self, bits), sample)
            }
        };
        RUN.with_borrow_mut(|run| run.low_bits.insert((self, bits), low));
        low
    }

    /// The word times 2^bits, less what leaves 64 bits.
    pub(super) fn shifted_left(self, bits: u32) -> Self {
        let facts = self.facts();
        if facts.least < 0 || facts.largest << bits > *WORD.end() {
            return self.low_bits(u64::BITS - bits).shifted_left(bits);
        }
        Self::new(
            (facts.least << bits, facts.largest << bits),
            Polynomial::default().plus(1 << bits, &facts.polynomial),
            Origin::Shifted(self, bits),
            facts.sample << bits,
        )
    }

    /// a·b of factors of 32 bits.
    pub(super) fn product32(self, other: Self) -> Self {
        let (a, b) = (self.facts(), other.facts());
        if a.least < 0 || b.least < 0 || a.largest >> 32 != 0 || b.largest >> 32 != 0 {
            refuse("a factor exceeds half a word");
        }
        let Some(polynomial) = a.polynomial.times(&b.polynomial) else {
            refuse("a product of three atoms");
        };
        let bounds = (a.least * b.least, a.largest * b.largest);
        Self::new(bounds, polynomial, Origin::Other, a.sample * b.sample)
    }

    /// The lower and the upper 52 bits of the product of the low 52 bits.
    pub(super) fn halves(self, other: Self) -> [Self; 2] {
        let factors = (self.min(other), self.max(other));
        if let Some(halves) = RUN.with_borrow(|run| run.halves.get(&factors).copied()) {
            return halves;
        }
        let (a, b) = (self.low_bits(FACTOR_BITS), other.low_bits(FACTOR_BITS));
        let (a, b) = (a.facts(), b.facts());
        let Some(product) = a.polynomial.times(&b.polynomial) else {
            refuse("a product of three atoms");
        };
        let largest = a.largest * b.largest;
        let sample = i128::from(a.sample) * i128::from(b.sample);
        let bounds = (0, largest >> FACTOR_BITS);
        let high = Self::atom(bounds, Origin::Other, sample >> FACTOR_BITS);
        let low_mask = (1 << FACTOR_BITS) - 1;
        let low = Self::new(
            (0, largest.min(low_mask)),
            product.plus(-(1 << FACTOR_BITS), &high.polynomial()),
            Origin::Other,
            (sample & low_mask) as u64,
        );
        RUN.with_borrow_mut(|run| run.halves.insert(factors, [low, high]));
        [low, high]
    }

    /// The bits that a mask takes: low ones, all or none, or those of a selection.
    pub(super) fn and(self, other: Self) -> Self {
        let (mask, word) = if other.is_constant() {
            (other, self)
        } else {
            (self, other)
        };
        match (mask.least(), mask.largest(), word.facts().origin) {
            (-1, -1, _) => word,
            (mask, largest, _) if mask == largest && (mask + 1) & mask == 0 => {
                word.low_bits(mask.count_ones())
            }
            (-1, 0, Origin::Difference(a, b)) => {
                let sample = mask.facts().sample & word.facts().sample;
                let origin = Origin::Masked(mask, a, b);
                Self::atom((0, *WORD.end()), origin, sample.into())
            }
            _ => refuse("a mask that is none"),
        }
    }

    /// The bits in which two words differ; with those taken by a mask, the end of a selection.
    pub(super) fn xor(self, other: Self) -> Self {
        match other.facts().origin {
            _ if other.is_constant() && other.least() == 0 => self,
            Origin::Difference(a, b) if a == self => b,
            Origin::Masked(mask, a, b) if a == self => {
                // a, and b - a where the mask is -1.
                let difference = b.polynomial().plus(-1, &a.polynomial());
                let Some(chosen) = mask.polynomial().times(&difference) else {
                    refuse("a product of three atoms");
                };
                Self::new(
                    (a.least().min(b.least()), a.largest().max(b.largest())),
                    a.polynomial().plus(-1, &chosen),
                    Origin::Other,
                    self.facts().sample ^ other.facts().sample,
                )
            }
            _ => {
                let sample = self.facts().sample ^ other.facts().sample;
                let origin = Origin::Difference(self, other);
                Self::atom((0, *WORD.end()), origin, sample.into())
            }
        }
    }

    /// The word over 2^bits, of a word without a sign.
    pub(super) fn shifted_right(self, bits: u32) -> Self {
        if self.least() < 0 {
            refuse("a negative word is shifted as one without a sign");
        }
        self.quotient(bits)
    }

    /// The word over 2^bits, rounded down, of a word with a sign.
    pub(super) fn shifted_right_signed(self, bits: u32) -> Self {
        if self.largest() > i64::MAX.into() {
            refuse("a large word is shifted as one with a sign");
        }
        self.quotient(bits)
    }
}
