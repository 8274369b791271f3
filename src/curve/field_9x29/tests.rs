//! Bounds: the same code on a single lane whose operations panic where a word overflows.

use proptest::prelude::*;

use super::*;
use crate::curve::proof::Integer;
use crate::curve::reference::{self, Number, P};

/// One lane; sums, differences and shifts must not overflow, factors must fit 32 bits.
#[derive(Clone, Copy)]
struct Checked;

impl Simd for Checked {
    const NAME: &'static str = "checked";
    const LANES: usize = 1;
    type Words = u64;

    fn run<T: Task>(self, task: T) -> T::Output {
        task.run()
    }

    fn splat(self, word: u64) -> u64 {
        word
    }

    fn mask(self, lanes: u32) -> u64 {
        u64::from(lanes & 1).wrapping_neg()
    }

    fn add(self, a: u64, b: u64) -> u64 {
        a.checked_add(b).expect("a sum fits a word")
    }

    fn sub(self, a: u64, b: u64) -> u64 {
        // 0 - 1 makes the mask of `canonical`.
        if a == 0 && b == 1 {
            return u64::MAX;
        }
        a.checked_sub(b).expect("a difference is not negative")
    }

    fn mul32(self, a: u64, b: u64) -> u64 {
        assert!(a >> 32 == 0 && b >> 32 == 0, "a factor fits half a word");
        a * b
    }

    fn and(self, a: u64, b: u64) -> u64 {
        a & b
    }

    fn xor(self, a: u64, b: u64) -> u64 {
        a ^ b
    }

    fn shl<const N: u32>(self, a: u64) -> u64 {
        a << N
    }

    fn shr<const N: u32>(self, a: u64) -> u64 {
        a >> N
    }

    fn load_transposed<'a>(self, lane: impl Fn(usize) -> &'a [u64; 4]) -> [u64; 4] {
        *lane(0)
    }

    fn store_transposed(self, words: [u64; 4], mut lane: impl FnMut(usize, [u64; 4])) {
        lane(0, words);
    }
}

type Limbs = [u64; LIMBS];

const FIELD: Field9x29<Checked> = Field9x29(Checked);

fn value(limbs: &Limbs) -> Number {
    reference::from_limbs(limbs, 29, &P)
}

fn canonical_of<const A: u32>(a: &Element<Limbs, A>) -> Number {
    let mut out = [FieldElement::ZERO];
    FIELD.store(a, &mut out);
    *out[0].words()
}

/// Limbs with at most those of `largest`, with a liking for the largest and for zero.
fn limbs<const A: u32>() -> impl Strategy<Value = Limbs> {
    let limb = |limit: u64| {
        prop_oneof![
            2 => Just(limit),
            1 => Just(0),
            1 => limit - 3..=limit,
            3 => 0..=limit,
        ]
    };
    largest_limbs(A).map(limb)
}

/// a·b and a·b - c at the given bounds.
fn check_product<const A: u32, const B: u32>(
    a: &Element<Limbs, A>,
    b: &Element<Limbs, B>,
    c: &Element<Limbs, 1>,
) {
    let product = reference::mul(&value(&a.0), &value(&b.0), &P);
    assert_eq!(canonical_of(&FIELD.mul(a, b)), product);
    let difference = reference::sub(&product, &value(&c.0), &P);
    assert_eq!(canonical_of(&FIELD.mul_sub(a, b, c)), difference);
}

fn check_square<const A: u32>(a: &Element<Limbs, A>, b: &Element<Limbs, 1>, c: &Element<Limbs, 1>) {
    let square = reference::mul(&value(&a.0), &value(&a.0), &P);
    assert_eq!(canonical_of(&FIELD.square(a)), square);
    let difference = reference::sub(&square, &value(&b.0), &P);
    let difference = reference::sub(&difference, &value(&c.0), &P);
    assert_eq!(canonical_of(&FIELD.square_sub2(a, b, c)), difference);
}

fn check_carries<const A: u32>(a: &Element<Limbs, A>) {
    assert_eq!(canonical_of(a), value(&a.0));
    let tight = FIELD.tighten(a);
    assert_eq!(value(&tight.0), value(&a.0));
}

#[test]
fn no_word_overflows_at_the_bounds() {
    let one = Element::<_, 1>(largest_limbs(1));
    let two = Element::<_, 2>(largest_limbs(2));
    let three = Element::<_, 3>(largest_limbs(3));
    let four = Element::<_, 4>(largest_limbs(4));
    let zero = Element::<_, 1>([0; LIMBS]);
    for c in [one, zero] {
        check_product(&one, &one, &c);
        check_product(&two, &one, &c);
        check_product(&three, &one, &c);
        check_product(&four, &one, &c);
        check_product(&two, &two, &c);
        check_product(&three, &two, &c);
        check_square(&one, &c, &c);
        check_square(&two, &c, &c);
    }
    check_carries(&one);
    check_carries(&two);
    check_carries(&three);
    check_carries(&four);
}

/// In debug builds, whatever operation gave them.
#[cfg(debug_assertions)]
#[test]
fn limbs_above_their_magnitude_are_noticed() {
    fn check<const A: u32>() {
        let largest = largest_limbs(A);
        FIELD.check::<A>(largest);
        for (i, limb) in largest.into_iter().enumerate() {
            let mut limbs = largest;
            // A word that may be anything has nothing above it.
            let Some(above) = limb.checked_add(1) else {
                continue;
            };
            limbs[i] = above;
            let checked = std::panic::catch_unwind(|| FIELD.check::<A>(limbs));
            assert!(checked.is_err(), "limb {i} of magnitude {A}");
        }
    }
    check::<1>();
    check::<2>();
    check::<3>();
    check::<4>();
}

#[test]
fn masks_and_folds_are_those_of_the_limbs() {
    assert_eq!((LIMB_MASK, TOP_MASK), (0x1fff_ffff, 0xff_ffff));
    let sum = |low: u64, shift: u32| {
        Integer::from(i128::from(low)).plus(&Integer::power_of_two(LIMB_BITS + shift))
    };
    let above = Integer::power_of_two(9 * LIMB_BITS);
    let fold = sum(FOLD_LOW, FOLD_HIGH_SHIFT);
    assert!(above.minus(&fold).is_multiple_of_p() && fold < Integer::power_of_two(38));
    let carry = sum(CARRY_LOW, CARRY_HIGH_SHIFT);
    let above = Integer::power_of_two(256);
    assert!(above.minus(&carry).is_multiple_of_p() && carry < Integer::power_of_two(33));
}

#[test]
fn biases_are_multiples_of_p_and_large_enough() {
    assert_eq!(value(&BIAS), [0; 4]);
    assert_eq!(value(&WIDE_BIAS), [0; 4]);
    for (i, tight) in largest_limbs(1).into_iter().enumerate() {
        assert!(BIAS[i] >= tight && WIDE_BIAS[i] >= 2 * tight, "limb {i}");
    }
}

proptest! {
    #[test]
    fn limbs_within_bounds_give_right_products(
        one in limbs::<1>(), two in limbs::<2>(), three in limbs::<3>(), four in limbs::<4>(),
        b in limbs::<1>(), c in limbs::<1>(),
    ) {
        let (one, b, c) = (Element::<_, 1>(one), Element::<_, 1>(b), Element::<_, 1>(c));
        let (two, three, four) = (Element::<_, 2>(two), Element::<_, 3>(three), Element::<_, 4>(four));
        check_product(&one, &b, &c);
        check_product(&four, &b, &c);
        check_product(&three, &two, &c);
        check_square(&one, &b, &c);
        check_square(&two, &b, &c);
        check_carries(&one);
        check_carries(&two);
        check_carries(&three);
        check_carries(&four);
        let sums = [
            (canonical_of(&FIELD.add(&one, &b)), reference::add(&value(&one.0), &value(&b.0), &P)),
            (canonical_of(&FIELD.sub(&one, &b)), reference::sub(&value(&one.0), &value(&b.0), &P)),
        ];
        for (sum, expected) in sums {
            prop_assert_eq!(sum, expected);
        }
    }
}
