//! Bounds: the same code on a single lane whose operations panic where a word overflows.

use proptest::prelude::*;

use super::*;
use crate::curve::proof::Integer;
use crate::curve::reference::{self, Number, P};

/// One lane; sums and differences of signed words must not overflow.
#[derive(Clone, Copy)]
struct Checked;

/// The product of the low 52 bits.
fn product_of_low_bits(a: u64, b: u64) -> u128 {
    u128::from(a & LIMB_MASK) * u128::from(b & LIMB_MASK)
}

impl Simd52 for Checked {
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
        let sum = a.cast_signed().checked_add(b.cast_signed());
        sum.expect("a sum fits a signed word").cast_unsigned()
    }

    fn sub(self, a: u64, b: u64) -> u64 {
        let difference = a.cast_signed().checked_sub(b.cast_signed());
        let difference = difference.expect("a difference fits a signed word");
        difference.cast_unsigned()
    }

    fn add_product_low(self, sum: u64, a: u64, b: u64) -> u64 {
        let low = product_of_low_bits(a, b) as u64 & LIMB_MASK;
        self.add(sum, low)
    }

    fn add_product_high(self, sum: u64, a: u64, b: u64) -> u64 {
        let high = (product_of_low_bits(a, b) >> LIMB_BITS) as u64;
        self.add(sum, high)
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

    fn shr_signed<const N: u32>(self, a: u64) -> u64 {
        (a.cast_signed() >> N).cast_unsigned()
    }

    fn load_transposed<'a>(self, lane: impl Fn(usize) -> &'a [u64; 4]) -> [u64; 4] {
        *lane(0)
    }

    fn store_transposed(self, words: [u64; 4], mut lane: impl FnMut(usize, [u64; 4])) {
        lane(0, words);
    }
}

type Limbs = [u64; LIMBS];

const FIELD: Field5x52<Checked> = Field5x52(Checked);

/// The low 52 bits of each limb.
fn value(limbs: &Limbs) -> Number {
    reference::from_limbs(&limbs.map(|limb| limb & LIMB_MASK), 52, &P)
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

/// Each choice of limbs that are the largest, the others being 0.
fn extreme_tight() -> impl Iterator<Item = Element<Limbs, 1>> {
    (0..1 << LIMBS).map(|choice: u32| {
        let largest = largest_limbs(1);
        Element(std::array::from_fn(|i| {
            largest[i] * u64::from(choice >> i & 1)
        }))
    })
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

/// a + b, a - b, -(a + b) and -a.
fn check_sums(a: &Element<Limbs, 1>, b: &Element<Limbs, 1>) {
    let (x, y) = (value(&a.0), value(&b.0));
    let sum = reference::add(&x, &y, &P);
    let negated = reference::negate(&sum, &P);
    assert_eq!(value(&FIELD.add(a, b).0), sum);
    assert_eq!(value(&FIELD.sub(a, b).0), reference::sub(&x, &y, &P));
    assert_eq!(value(&FIELD.negated_sum(a, b).0), negated);
    let negated = reference::negate(&x, &P);
    assert_eq!(value(&FIELD.negate_lanes(a, 1).0), negated);
    assert_eq!(value(&FIELD.negate_lanes(a, 0).0), x);
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

/// Where the product is zero, nothing but the bias keeps the columns positive.
#[test]
fn nothing_becomes_negative_at_the_bounds() {
    let zero = Element::<_, 1>([0; LIMBS]);
    for b in extreme_tight() {
        check_product(&zero, &zero, &b);
        for c in extreme_tight() {
            check_square(&zero, &b, &c);
            check_sums(&b, &c);
        }
    }
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
    assert_eq!(
        (COLUMNS, LIMB_MASK, TOP_MASK),
        (10, 0xf_ffff_ffff_ffff, 0xffff_ffff_ffff)
    );
    let fold = Integer::from(i128::from(COLUMN_FOLD));
    assert!(Integer::power_of_two(260).minus(&fold).is_multiple_of_p());
    assert_eq!(COLUMN_FOLD.ilog2(), 36);
}

#[test]
fn biases_are_multiples_of_p() {
    for bias in [BIAS, WIDE_BIAS, COLUMN_BIAS, WIDE_COLUMN_BIAS] {
        let mut limbs = bias.map(i64::cast_unsigned);
        carry_up(Checked, &mut limbs);
        assert_eq!(value(&limbs), [0; 4]);
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
        check_sums(&one, &b);
    }
}
