//! What is claimed of each operation, for both forms alike.

use super::fault::{Alteration, Fault, Kind};
use super::polynomial::Value;
use super::run::{Refusal, loaded, prove, refuse};
use super::word::Word;
use crate::curve::arch::Backend;
use crate::curve::field::{Element, FieldElement};

/// Samples of a claim's inputs that are run through the instructions beside the proof.
const SAMPLES: u64 = 8;

/// A form of field elements: limbs, and the operations on them.
pub(crate) struct Form<B, const LIMBS: usize> {
    pub(crate) backend: B,
    pub(crate) limb_bits: u32,
    /// The largest limbs of a magnitude.
    pub(crate) largest_limbs: fn(u32) -> [u64; LIMBS],
    /// Whether limbs but the top one count with their low bits alone, in all magnitudes but the first.
    pub(crate) ignores_carried_bits: bool,
}

/// Something to be proven. Each case is a run of the same instructions, and gives the largest limbs of its result.
pub(crate) struct Claim<'a, const LIMBS: usize> {
    name: &'static str,
    cases: Vec<Box<dyn Fn() -> [i128; LIMBS] + 'a>>,
}

impl<'a, const LIMBS: usize> Claim<'a, LIMBS> {
    pub(crate) fn new(name: &'static str, case: impl Fn() -> [i128; LIMBS] + 'a) -> Self {
        let cases = vec![Box::new(case) as _];
        Self { name, cases }
    }

    /// With one case more.
    pub(crate) fn or(mut self, case: impl Fn() -> [i128; LIMBS] + 'a) -> Self {
        self.cases.push(Box::new(case));
        self
    }

    /// The fault in an instruction of a kind: its number among those, from the end if it is negative.
    pub(crate) fn fault(&self, kind: Kind, number: isize, how: Alteration) -> Fault {
        let instructions = prove(&self.cases[0], None, 0).map(|proven| proven.instructions);
        let instructions = instructions.unwrap_or_default();
        let of_kind: Vec<usize> = (0..instructions.len())
            .filter(|at| instructions[*at] == kind)
            .collect();
        let number = number.rem_euclid(of_kind.len() as isize) as usize;
        Fault::Instruction(of_kind[number], how)
    }

    /// Whether the fault is noticed in one of the cases.
    pub(crate) fn is_refused(&self, fault: Fault) -> bool {
        let mut cases = self.cases.iter();
        cases.any(|case| prove(case, Some(fault), 0).is_err())
    }

    /// Whether a fault that is not refused makes any difference to any word.
    fn is_changed(&self, fault: Fault) -> bool {
        let mut cases = self.cases.iter();
        cases.any(|case| prove(case, Some(fault), 0).is_ok_and(|proven| proven.is_faulty))
    }
}

impl<B: Backend<Limbs = [Word; LIMBS]>, const LIMBS: usize> Form<B, LIMBS> {
    /// Any element of a magnitude.
    pub(crate) fn any<const A: u32>(&self) -> Element<B::Limbs, A> {
        let mut limbs = (self.largest_limbs)(A).map(Word::any_up_to);
        if self.ignores_carried_bits && A > 1 {
            limbs[..LIMBS - 1].fill_with(|| Word::any_with_low_bits(self.limb_bits));
        }
        Element(limbs)
    }

    /// What limbs stand for.
    pub(crate) fn value(&self, limbs: &[Word; LIMBS]) -> Value {
        let mut value = Value::default();
        let places = (0..).step_by(self.limb_bits as usize);
        for ((i, limb), place) in limbs.iter().enumerate().zip(places) {
            let counts = match self.ignores_carried_bits && i < LIMBS - 1 {
                true => limb.low_bits(self.limb_bits),
                false => *limb,
            };
            value = value.plus_word(place, &counts.polynomial());
        }
        value
    }

    /// Claims that a result has the limbs of its magnitude and, modulo p, the value. Gives its largest limbs.
    pub(crate) fn claim<const A: u32>(
        &self,
        result: &Element<B::Limbs, A>,
        expected: &Value,
    ) -> [i128; LIMBS] {
        let largest = (self.largest_limbs)(A);
        for (i, limb) in result.0.iter().enumerate() {
            let has_carried_bits = self.ignores_carried_bits && A > 1 && i < LIMBS - 1;
            if !has_carried_bits {
                limb.assert_within(largest[i]);
            }
        }
        if !self.value(&result.0).minus(expected).is_multiple_of_p() {
            refuse("another value");
        }
        result.0.map(Word::largest)
    }

    fn mul<const A: u32, const C: u32>(&self) -> [i128; LIMBS] {
        let (a, b) = (self.any::<A>(), self.any::<C>());
        let expected = self.value(&a.0).times(&self.value(&b.0));
        self.claim(&self.backend.mul(&a, &b), &expected)
    }

    fn mul_sub<const A: u32, const C: u32>(&self) -> [i128; LIMBS] {
        let (a, b, c) = (self.any::<A>(), self.any::<C>(), self.any::<1>());
        let product = self.value(&a.0).times(&self.value(&b.0));
        let expected = product.minus(&self.value(&c.0));
        self.claim(&self.backend.mul_sub(&a, &b, &c), &expected)
    }

    fn square<const A: u32>(&self) -> [i128; LIMBS] {
        let a = self.any::<A>();
        let expected = self.value(&a.0).times(&self.value(&a.0));
        self.claim(&self.backend.square(&a), &expected)
    }

    fn square_sub2<const A: u32>(&self) -> [i128; LIMBS] {
        let (a, b, c) = (self.any::<A>(), self.any::<1>(), self.any::<1>());
        let square = self.value(&a.0).times(&self.value(&a.0));
        let expected = square.minus(&self.value(&b.0)).minus(&self.value(&c.0));
        self.claim(&self.backend.square_sub2(&a, &b, &c), &expected)
    }

    fn tighten<const A: u32>(&self) -> [i128; LIMBS] {
        let a = self.any::<A>();
        let expected = self.value(&a.0);
        self.claim(&self.backend.tighten(&a), &expected)
    }

    fn negate_lanes(&self, lanes: u32) -> [i128; LIMBS] {
        let a = self.any::<1>();
        let value = self.value(&a.0);
        let expected = match lanes {
            0 => value,
            _ => Value::default().minus(&value),
        };
        self.claim(&self.backend.negate_lanes(&a, lanes), &expected)
    }

    /// Products and squares, of all magnitudes for which they compile.
    pub(crate) fn products(&self) -> Vec<Claim<'_, LIMBS>> {
        macro_rules! of_magnitudes {
            ($($a:literal $b:literal),*) => { vec![
                $(Claim::new(concat!("a·b of magnitudes ", $a, ", ", $b), || self.mul::<$a, $b>()),
                Claim::new(concat!("a·b - c of magnitudes ", $a, ", ", $b), || self.mul_sub::<$a, $b>()),)*
                Claim::new("a² of magnitude 1", || self.square::<1>()),
                Claim::new("a² of magnitude 2", || self.square::<2>()),
                Claim::new("a² - b - c of magnitude 1", || self.square_sub2::<1>()),
                Claim::new("a² - b - c of magnitude 2", || self.square_sub2::<2>()),
            ] };
        }
        of_magnitudes!(1 1, 1 2, 1 3, 1 4, 2 1, 2 2, 2 3, 3 1, 3 2, 4 1)
    }

    /// Those of the largest magnitudes that have all instructions of the others.
    pub(crate) fn fullest_products(&self) -> [Claim<'_, LIMBS>; 2] {
        [
            Claim::new("a·b - c", || self.mul_sub::<3, 2>()),
            Claim::new("a² - b - c", || self.square_sub2::<2>()),
        ]
    }

    /// a + b.
    pub(crate) fn sum(&self) -> Claim<'_, LIMBS> {
        Claim::new("a + b", || {
            let (a, b) = (self.any::<1>(), self.any::<1>());
            let expected = self.value(&a.0).plus(&self.value(&b.0));
            self.claim(&self.backend.add(&a, &b), &expected)
        })
    }

    /// a - b.
    pub(crate) fn difference(&self) -> Claim<'_, LIMBS> {
        Claim::new("a - b", || {
            let (a, b) = (self.any::<1>(), self.any::<1>());
            let expected = self.value(&a.0).minus(&self.value(&b.0));
            self.claim(&self.backend.sub(&a, &b), &expected)
        })
    }

    /// -(a + b).
    pub(crate) fn negated_sum(&self) -> Claim<'_, LIMBS> {
        Claim::new("-(a + b)", || {
            let (a, b) = (self.any::<1>(), self.any::<1>());
            let sum = self.value(&a.0).plus(&self.value(&b.0));
            let expected = Value::default().minus(&sum);
            self.claim(&self.backend.negated_sum(&a, &b), &expected)
        })
    }

    /// The operations that make tight elements by carries.
    pub(crate) fn carries(&self) -> [Claim<'_, LIMBS>; 3] {
        [
            Claim::new("a, tightened", || self.tighten::<4>())
                .or(|| self.tighten::<1>())
                .or(|| self.tighten::<2>())
                .or(|| self.tighten::<3>()),
            Claim::new("a or -a", || self.negate_lanes(0)).or(|| self.negate_lanes(1)),
            Claim::new("a, loaded", || {
                let limbs = self.backend.load(|_| &FieldElement::ZERO);
                self.claim(&limbs, &value_of_words(&loaded()))
            }),
        ]
    }
}

/// What four words in memory stand for.
pub(crate) fn value_of_words(words: &[Word; 4]) -> Value {
    let places = (0..).step_by(64).zip(words);
    places.fold(Value::default(), |value, (place, word)| {
        value.plus_word(place, &word.polynomial())
    })
}

/// The largest limbs that any of the claims gives, each of which must be proven.
pub(crate) fn assert_proven<const LIMBS: usize>(claims: &[Claim<'_, LIMBS>]) -> [i128; LIMBS] {
    let mut largest = [0; LIMBS];
    for Claim { name, cases } in claims {
        for (case, seed) in cases
            .iter()
            .flat_map(|case| (0..SAMPLES).map(move |seed| (case, seed)))
        {
            let proven = prove(case, None, seed);
            let proven = proven.unwrap_or_else(|Refusal(why)| panic!("{name}: {why}"));
            for (largest, limb) in largest.iter_mut().zip(proven.result) {
                *largest = limb.max(*largest);
            }
        }
    }
    largest
}

/// Alters each instruction of each claim in every way. Whatever changes a word must be refused, but for `harmless` faults.
/// Gives the number of those refused.
pub(crate) fn assert_faults_refused<const LIMBS: usize>(
    claims: &[Claim<'_, LIMBS>],
    harmless: &[&str],
) -> usize {
    let mut refused = 0;
    let mut accepted = Vec::new();
    for claim in claims {
        let Ok(proven) = prove(&claim.cases[0], None, 0) else {
            panic!("{} is not proven even without a fault", claim.name);
        };
        for (at, kind) in proven.instructions.iter().enumerate() {
            for how in kind.alterations() {
                let fault = Fault::Instruction(at, *how);
                if claim.is_refused(fault) {
                    refused += 1;
                } else if claim.is_changed(fault) {
                    accepted.push(format!("{}: {kind:?} {at}, {how:?}", claim.name));
                }
            }
        }
    }
    assert_eq!(accepted, harmless, "{refused} were refused");
    refused
}
