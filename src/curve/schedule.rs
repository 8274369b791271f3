//! The steps that multiply points by one secret scalar, and the proof that none of them can fail.
//!
//! b = k1 + k2·λ, each half in width-4 non-adjacent form, both read from the top at the same time: where neither has a
//! digit the step is a doubling, where one has it is a doubling and an addition, and a second digit costs an
//! addition more. The digits are the same for all points, so the steps are, too.
//!
//! # Why no step can fail
//! An affine step is impossible for a few relations of its operands (see [`super::group`]), and one
//! impossible lane spoils its batch. But operands are known multiples of T, whatever T is: a relation between them is
//! one between integers modulo n, because every point but infinity has the order n. So the steps are run
//! once with integers in place of points. If none fails and the last one leaves b, none fails for any T.

use zeroize::{Zeroize, ZeroizeOnDrop};

use super::batch::Degenerate;
use super::scalar::{Half, Scalar, WNAF_DIGITS};

/// Odd multiples of a base that digits of the non-adjacent form ask for: 1, 3, 5, 7.
pub(crate) const ODD_MULTIPLES: usize = 4;

/// The bits between T and the second base 2^64·T.
pub(crate) const SECOND_BASE_BITS: u32 = 64;

/// Which multiples of a tweak are known beforehand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bases {
    /// T.
    One,
    /// T and 2^64·T: half the doublings.
    Two,
}

impl Bases {
    pub(crate) const fn count(self) -> usize {
        match self {
            Self::One => 1,
            Self::Two => 2,
        }
    }
}

/// ± an odd multiple of a base, or of λ times it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Term {
    /// `4·base + (multiple - 1)/2`.
    pub(crate) entry: usize,
    /// Times λ.
    pub(crate) endomorphism: bool,
    /// Times -1.
    pub(crate) negative: bool,
}

/// What runs a schedule: points, or integers.
pub(crate) trait Machine {
    /// Sets the value to a term.
    fn start(&mut self, term: Term);
    /// Doubles the value.
    fn double(&mut self) -> Result<(), Degenerate>;
    /// Adds a term.
    fn add(&mut self, term: Term) -> Result<(), Degenerate>;
    /// Doubles the value and adds a term, by way of (P + Q) + P.
    fn double_add(&mut self, term: Term) -> Result<(), Degenerate>;
}

/// One step in a byte: it is as secret as the key, and a plain number is easily wiped.
#[derive(Clone, Copy, Zeroize)]
struct Step(u8);

const ENTRY_BITS: u8 = 0b0000_0111;
const ENDOMORPHISM: u8 = 0b0000_1000;
const NEGATIVE: u8 = 0b0001_0000;
const KIND_BITS: u8 = 0b0110_0000;
const START: u8 = 0b0000_0000;
const DOUBLE: u8 = 0b0010_0000;
const ADD: u8 = 0b0100_0000;
const DOUBLE_ADD: u8 = 0b0110_0000;

impl Step {
    fn new(kind: u8, term: Term) -> Self {
        let flag = |set: bool, bit| if set { bit } else { 0 };
        Self(
            kind | term.entry as u8
                | flag(term.endomorphism, ENDOMORPHISM)
                | flag(term.negative, NEGATIVE),
        )
    }

    fn term(self) -> Term {
        Term {
            entry: usize::from(self.0 & ENTRY_BITS),
            endomorphism: self.0 & ENDOMORPHISM != 0,
            negative: self.0 & NEGATIVE != 0,
        }
    }
}

/// The steps of one key. Wiped on drop.
#[derive(Zeroize, ZeroizeOnDrop)]
pub(crate) struct Schedule {
    steps: Vec<Step>,
}

impl Schedule {
    /// The steps for a key; `None` if one of them can fail, which is so for no key that is known but 0.
    pub(crate) fn new(key: &Scalar, bases: Bases) -> Option<Self> {
        let schedule = Self::unproven(key, bases);
        schedule.proves(key, bases).then_some(schedule)
    }

    fn unproven(key: &Scalar, bases: Bases) -> Self {
        let mut halves = key.split();
        let mut digits = halves.map(|half| Digits::new(&half, bases));
        // Never reallocated: no copy is left behind.
        let mut steps = Vec::with_capacity(digits.len() * bases.count() * WNAF_DIGITS);
        for position in (0..WNAF_DIGITS).rev() {
            let mut doubled = steps.is_empty();
            for (half, digits) in digits.iter().enumerate() {
                for base in 0..bases.count() {
                    let digit = digits.0[base][position];
                    if digit == 0 {
                        continue;
                    }
                    let term = Term {
                        entry: ODD_MULTIPLES * base + usize::from(digit.unsigned_abs()) / 2,
                        endomorphism: half == 1,
                        negative: digit < 0,
                    };
                    let kind = match (steps.is_empty(), doubled) {
                        (true, _) => START,
                        (false, false) => DOUBLE_ADD,
                        (false, true) => ADD,
                    };
                    steps.push(Step::new(kind, term));
                    doubled = true;
                }
            }
            if !doubled {
                steps.push(Step(DOUBLE));
            }
        }
        halves.zeroize();
        digits.iter_mut().for_each(Zeroize::zeroize);
        Self { steps }
    }

    /// Whether the steps, on integers, end in the key without failing.
    fn proves(&self, key: &Scalar, bases: Bases) -> bool {
        let mut integers = Integers::new(bases);
        self.run(&mut integers).is_ok() && !self.steps.is_empty() && integers.value == *key
    }

    /// Runs the steps in order, up to the first that fails.
    pub(crate) fn run(&self, machine: &mut impl Machine) -> Result<(), Degenerate> {
        for step in &self.steps {
            match step.0 & KIND_BITS {
                START => machine.start(step.term()),
                DOUBLE => machine.double()?,
                ADD => machine.add(step.term())?,
                _ => machine.double_add(step.term())?,
            }
        }
        Ok(())
    }
}

/// The digits of a half, for each base: those from bit 64 up belong to the second base if there is one.
#[derive(Zeroize)]
struct Digits([[i8; WNAF_DIGITS]; 2]);

impl Digits {
    fn new(half: &Half, bases: Bases) -> Self {
        match bases {
            Bases::One => Self([half.wnaf(), [0; WNAF_DIGITS]]),
            Bases::Two => {
                let mut parts = half.at_bit_64();
                let digits = Self(parts.map(|part| part.wnaf()));
                parts.zeroize();
                digits
            }
        }
    }
}

/// Integers modulo n in place of points: the coefficient of T in each.
#[derive(Zeroize, ZeroizeOnDrop)]
struct Integers {
    value: Scalar,
    #[zeroize(skip)]
    entries: Vec<[Scalar; 2]>,
}

impl Integers {
    fn new(bases: Bases) -> Self {
        let mut entries = Vec::with_capacity(bases.count() * ODD_MULTIPLES);
        for base in 0..bases.count() {
            let base = Scalar::power_of_two(SECOND_BASE_BITS * base as u32);
            let twice = base.plus(&base);
            let mut multiple = base;
            for _ in 0..ODD_MULTIPLES {
                entries.push([multiple, multiple.times(&Scalar::LAMBDA)]);
                multiple = multiple.plus(&twice);
            }
        }
        Self {
            value: Scalar::ZERO,
            entries,
        }
    }

    fn term(&self, term: Term) -> Scalar {
        let entry = self.entries[term.entry][usize::from(term.endomorphism)];
        if term.negative {
            entry.negated()
        } else {
            entry
        }
    }
}

impl Machine for Integers {
    fn start(&mut self, term: Term) {
        self.value = self.term(term);
    }

    fn double(&mut self) -> Result<(), Degenerate> {
        if self.value.is_zero() {
            return Err(Degenerate);
        }
        self.value = self.value.plus(&self.value);
        Ok(())
    }

    fn add(&mut self, term: Term) -> Result<(), Degenerate> {
        let sum = self.value.plus_affine(&self.term(term));
        self.value = sum.ok_or(Degenerate)?;
        Ok(())
    }

    fn double_add(&mut self, term: Term) -> Result<(), Degenerate> {
        let middle = self.value.plus_affine(&self.term(term)).ok_or(Degenerate)?;
        self.value = middle.plus_affine(&self.value).ok_or(Degenerate)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
