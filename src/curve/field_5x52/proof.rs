//! The proof for five limbs: see [`crate::curve::proof`].

use super::*;
use crate::curve::field::P;
use crate::curve::proof::{
    Alteration, Claim, Fault, Form, Integer, Kind, Lane, Value, Word, assert_faults_refused,
    assert_proven, refuse, value_of_words,
};

const FORM: Form<Field5x52<Lane>, LIMBS> = with_limits(largest_limbs);

/// The largest limbs without spare bits.
const FULL_LIMBS: [u64; LIMBS] = {
    let mut limbs = [LIMB_MASK; LIMBS];
    limbs[4] = TOP_MASK;
    limbs
};

/// The form, with limits of its limbs.
const fn with_limits(largest_limbs: fn(u32) -> [u64; LIMBS]) -> Form<Field5x52<Lane>, LIMBS> {
    Form {
        backend: Field5x52(Lane),
        limb_bits: LIMB_BITS,
        largest_limbs,
        ignores_carried_bits: true,
    }
}

#[test]
fn products_are_right_for_all_limbs() {
    let mut largest = FULL_LIMBS;
    // Column 3 carries 11 at most into the top limb.
    largest[4] += 11;
    assert_eq!(assert_proven(&FORM.products()), largest.map(i128::from));
}

#[test]
fn sums_are_right_for_all_limbs() {
    let sums = [FORM.sum(), FORM.difference(), FORM.negated_sum()];
    for (magnitude, sum) in (2..).zip(sums) {
        let [.., top] = assert_proven(&[sum]);
        assert_eq!(top, largest_limbs(magnitude)[4].into());
    }
}

#[test]
fn carries_are_right_for_all_limbs() {
    let mut largest = FULL_LIMBS;
    largest[4] += 1;
    assert_eq!(assert_proven(&FORM.carries()), largest.map(i128::from));
}

/// a less p times what is above 256 bits, for a top limb up to this: one of the two rounds of `canonical`.
fn fold(top: u64) -> [i128; LIMBS] {
    let mut limbs = [0; LIMBS].map(|_| Word::any_with_low_bits(LIMB_BITS));
    limbs[4] = Word::any_up_to(top);
    let folded = tightened(Lane, &limbs);
    let carry = Lane.shr::<TOP_BITS>(limbs[4]).polynomial();
    let p = Value::constant(Integer::from_words(&P));
    let folds = Value::default().plus_word(0, &carry).times(&p);
    let difference = FORM.value(&limbs).minus(&folds);
    if !FORM.value(&folded).minus(&difference).is_zero() {
        refuse("another value");
    }
    folded.map(Word::largest)
}

#[test]
fn two_folds_leave_less_than_256_bits() {
    for magnitude in 1..=4 {
        let [.., top] = largest_limbs(magnitude);
        let first = assert_proven(&[Claim::new("first fold", || fold(top))]);
        let first = first.map(|limb| limb as u64);
        assert!(first[4] < 2 << TOP_BITS);
        assert_proven(&[Claim::new("second fold", || fold(first[4]))]);
        // Where the second carry is 0, the limbs stay as they are. Where it is 1, the value is less by p.
        let value = Integer::from_limbs(&first, LIMB_BITS).minus(&Integer::from_words(&P));
        assert!(value < Integer::power_of_two(256));
    }
}

/// What makes limbs canonical: each for all limbs of the magnitude, or all full ones.
fn canonical_claims() -> [Claim<'static, LIMBS>; 4] {
    fn folded_claim<const A: u32>() -> [i128; LIMBS] {
        let limbs = FORM.any::<A>().0;
        let folded = tightened(Lane, &tightened(Lane, &limbs));
        for limb in &folded[..LIMBS - 1] {
            limb.assert_within(LIMB_MASK);
        }
        let value = FORM.value(&folded).minus(&FORM.value(&limbs));
        if !value.is_multiple_of_p() {
            refuse("another value");
        }
        folded.map(Word::largest)
    }
    // With a mask of -1, the limbs are a - p, and not negative: a is at least p. With 0 they are a + 2^256 - p, and
    // below 2^256: a is below p.
    let less_p = Claim::new("a - p", || {
        let limbs = FULL_LIMBS.map(Word::any_up_to);
        let (reduced, at_least_p) = less_p(Lane, &limbs);
        let (reduced_value, value) = (FORM.value(&reduced), FORM.value(&limbs));
        let value = value.plus(&Value::constant(Integer::from_words(&[FOLD])));
        let value = value.plus_word(256, &at_least_p.polynomial());
        if !reduced_value.minus(&value).is_zero() || !at_least_p.is_mask() {
            refuse("another value");
        }
        for (limb, largest) in reduced.iter().zip(FULL_LIMBS) {
            limb.assert_within(largest);
        }
        reduced.map(Word::largest)
    });
    let select = Claim::new("a or b", || {
        let [a, b] = [u64::MAX; 2].map(Word::any_up_to);
        let mask = Word::any_mask();
        let value = |word: Word| Value::default().plus_word(0, &word.polynomial());
        let chosen = select(Lane, mask, a, b);
        // a + mask·(a - b).
        let expected = value(a).plus(&value(mask).times(&value(a).minus(&value(b))));
        if !value(chosen).minus(&expected).is_zero() {
            refuse("another value");
        }
        [chosen.largest(); LIMBS]
    });
    let join = Claim::new("a, joined", || {
        let limbs = FULL_LIMBS.map(Word::any_up_to);
        let words = join(Lane, limbs);
        for word in words {
            word.assert_within(u64::MAX);
        }
        if !value_of_words(&words).minus(&FORM.value(&limbs)).is_zero() {
            refuse("another value");
        }
        limbs.map(Word::largest)
    });
    let folded = Claim::new("a, folded", folded_claim::<4>)
        .or(folded_claim::<1>)
        .or(folded_claim::<2>)
        .or(folded_claim::<3>);
    [folded, less_p, select, join]
}

#[test]
fn canonical_limbs_are_right_for_all_limbs() {
    assert_proven(&canonical_claims());
}

#[test]
fn each_fault_in_an_instruction_is_refused() {
    let products = assert_faults_refused(&FORM.fullest_products(), &[]);
    let sums = [FORM.sum(), FORM.difference(), FORM.negated_sum()];
    let sums = assert_faults_refused(&sums, &[]);
    let carries = assert_faults_refused(&FORM.carries(), &[]);
    // Between the two folds, limbs are masked twice.
    let spare = [
        "a, folded: Constant 18, Doubled",
        "a, folded: Bits 19, First",
        "a, folded: Bits 20, First",
        "a, folded: Bits 21, First",
        "a, folded: Bits 22, First",
        "a, folded: Constant 23, Doubled",
    ];
    let canonical = assert_faults_refused(&canonical_claims(), &spare);
    assert_eq!((products, sums, carries, canonical), (737, 163, 258, 217));
}

/// A bias in place of another.
const fn in_place_of(bias: [i64; LIMBS], other: [i64; LIMBS]) -> [(u64, u64); LIMBS] {
    let mut pairs = [(0, 0); LIMBS];
    let mut i = 0;
    while i < LIMBS {
        pairs[i] = (other[i].cast_unsigned(), bias[i].cast_unsigned());
        i += 1;
    }
    // The limbs that are 0 stay 0.
    pairs[1] = pairs[0];
    pairs[2] = pairs[0];
    pairs
}

#[test]
fn named_faults_are_refused() {
    let mut claims = vec![FORM.difference(), FORM.negated_sum()];
    claims.extend(FORM.fullest_products());
    claims.extend(FORM.carries());
    for (name, fault) in [
        (
            "2^260 folded with 976",
            Fault::Constants(&[(COLUMN_FOLD, (FOLD - 1) << 4)]),
        ),
        (
            "2^260 folded a bit lower",
            Fault::Constants(&[(COLUMN_FOLD, FOLD << 3)]),
        ),
        (
            "2^256 folded with 976",
            Fault::Constants(&[(FOLD, FOLD - 1)]),
        ),
        ("carries shifted by 51", Fault::Shift(LIMB_BITS, 51)),
        ("carries shifted by 53", Fault::Shift(LIMB_BITS, 53)),
        ("the top carry shifted by 47", Fault::Shift(TOP_BITS, 47)),
        (
            "a mask of 53 bits",
            Fault::Constants(&[(LIMB_MASK, (1 << 53) - 1)]),
        ),
        (
            "a mask of 51 bits",
            Fault::Constants(&[(LIMB_MASK, (1 << 51) - 1)]),
        ),
        (
            "a top mask of 49 bits",
            Fault::Constants(&[(TOP_MASK, (1 << 49) - 1)]),
        ),
        (
            "a bias of p",
            Fault::Constants(&const { in_place_of(bias(1, 0), BIAS) }),
        ),
        (
            "a wide bias of 2p",
            Fault::Constants(&const { in_place_of(bias(2, 0), WIDE_BIAS) }),
        ),
        (
            "a column bias of one unit",
            Fault::Constants(&const { in_place_of(bias(2, 1), COLUMN_BIAS) }),
        ),
        (
            "a column bias of p",
            Fault::Constants(&const { in_place_of(bias(1, 3), COLUMN_BIAS) }),
        ),
        (
            "a wide column bias of two units",
            Fault::Constants(&const { in_place_of(bias(4, 2), WIDE_COLUMN_BIAS) }),
        ),
    ] {
        let is_refused = claims.iter().any(|claim| claim.is_refused(fault));
        assert!(is_refused, "{name} is not noticed");
    }
}

#[test]
fn named_faults_of_one_instruction_are_refused() {
    let [product, _] = FORM.fullest_products();
    for (name, kind, number, how) in [
        (
            "the halves of a0·b4 swapped",
            Kind::HalfProduct,
            0,
            Alteration::OtherHalf,
        ),
        (
            "the lower half of a0·b4 left out",
            Kind::HalfProduct,
            0,
            Alteration::First,
        ),
        (
            "a0·a0 for a0·b4",
            Kind::HalfProduct,
            1,
            Alteration::FirstTwice,
        ),
        (
            "no carry from column 5 to 6",
            Kind::Sum,
            9,
            Alteration::First,
        ),
        (
            "c0 added, not subtracted",
            Kind::Difference,
            0,
            Alteration::WrongSign,
        ),
        (
            "limb 0 without what is above bit 256",
            Kind::HalfProduct,
            -2,
            Alteration::First,
        ),
        ("no carry into limb 4", Kind::Sum, -1, Alteration::First),
        ("the last mask left out", Kind::Bits, -1, Alteration::First),
    ] {
        assert!(
            product.is_refused(product.fault(kind, number, how)),
            "{name} is not noticed"
        );
    }
}

#[test]
fn limits_a_bit_smaller_are_refused() {
    let form = with_limits(|magnitude| {
        let mut limbs = largest_limbs(magnitude);
        if magnitude == 1 {
            limbs[4] = TOP_MASK + (1 << 3);
        }
        limbs
    });
    let mut products = form.products().into_iter();
    assert!(products.any(|product| product.is_refused(Fault::Constants(&[]))));
}

/// Some biases are larger than they have to be, by no use or harm.
#[test]
fn smaller_biases_would_do() {
    let [product, square] = FORM.fullest_products();
    let two_units = Fault::Constants(&const { in_place_of(bias(2, 2), COLUMN_BIAS) });
    assert!(!product.is_refused(two_units));
    let three_p = Fault::Constants(&const { in_place_of(bias(3, 3), WIDE_COLUMN_BIAS) });
    assert!(!square.is_refused(three_p));
    let three_p = Fault::Constants(&const { in_place_of(bias(3, 0), WIDE_BIAS) });
    assert!(!FORM.negated_sum().is_refused(three_p));
}
