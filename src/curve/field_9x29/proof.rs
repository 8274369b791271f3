//! The proof for nine limbs: see [`crate::curve::proof`].

use super::*;
use crate::curve::field::{FOLD, P};
use crate::curve::proof::{
    Alteration, Claim, Fault, Form, Integer, Kind, Lane, Value, Word, assert_faults_refused,
    assert_proven, refuse, value_of_words,
};

const FORM: Form<Field9x29<Lane>, LIMBS> = with_limits(largest_limbs);

/// The largest limbs without spare bits.
const FULL_LIMBS: [u64; LIMBS] = {
    let mut limbs = [LIMB_MASK; LIMBS];
    limbs[8] = TOP_MASK;
    limbs
};

/// The form, with limits of its limbs.
const fn with_limits(largest_limbs: fn(u32) -> [u64; LIMBS]) -> Form<Field9x29<Lane>, LIMBS> {
    Form {
        backend: Field9x29(Lane),
        limb_bits: LIMB_BITS,
        largest_limbs,
        ignores_carried_bits: false,
    }
}

/// The largest limbs when this is carried out of 256 bits, and folded.
fn folded_limbs(carry: u64) -> [i128; LIMBS] {
    let mut limbs = FULL_LIMBS;
    limbs[0] += CARRY_LOW * carry;
    limbs[1] += carry << CARRY_HIGH_SHIFT;
    limbs.map(i128::from)
}

#[test]
fn products_are_right_for_all_limbs() {
    // The carry that `reduce` and docs/kernel.md speak of.
    assert_eq!(assert_proven(&FORM.products()), folded_limbs(19_550));
}

#[test]
fn sums_are_right_for_all_limbs() {
    let sums = [FORM.sum(), FORM.difference(), FORM.negated_sum()];
    for (magnitude, sum) in (2..).zip(sums) {
        let largest = largest_limbs(magnitude).map(i128::from);
        assert_eq!(assert_proven(&[sum]), largest);
    }
    let tops = [1, 2, 3, 4].map(|magnitude| largest_limbs(magnitude)[8] >> TOP_BITS);
    assert_eq!(tops, [0, 1, 4, 7]);
}

#[test]
fn carries_are_right_for_all_limbs() {
    assert_eq!(assert_proven(&FORM.carries()), folded_limbs(7));
}

/// a less p times what is above 256 bits, for limbs up to these: one of the two rounds of `folded`.
fn fold(largest: [u64; LIMBS]) -> [i128; LIMBS] {
    let limbs = largest.map(Word::any_up_to);
    let mut folded = limbs;
    carry_up(Lane, &mut folded);
    let carry = Lane.shr::<TOP_BITS>(folded[8]).polynomial();
    fold_top(Lane, &mut folded);
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
        let first = assert_proven(&[Claim::new("first fold", || fold(largest_limbs(magnitude)))]);
        let first = first.map(|limb| limb as u64);
        let second = assert_proven(&[Claim::new("second fold", || fold(first))]);
        assert!(second == folded_limbs(0) || second == folded_limbs(1));
        // Where the second carry is 0, the limbs are full ones. Where it is 1, the value is less by p.
        let value = Integer::from_limbs(&first, LIMB_BITS).minus(&Integer::from_words(&P));
        assert!(value < Integer::power_of_two(256));
    }
}

/// What makes limbs canonical: each for all limbs of the magnitude, or all full ones.
fn canonical_claims() -> [Claim<'static, LIMBS>; 4] {
    fn folded_claim<const A: u32>() -> [i128; LIMBS] {
        let limbs = FORM.any::<A>().0;
        let folded = folded(Lane, &limbs);
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
    // Twice the top limb is in no column of a square.
    let unused = [
        "a² - b - c: Sum 8, First",
        "a² - b - c: Sum 8, Second",
        "a² - b - c: Sum 8, WrongSign",
    ];
    let products = assert_faults_refused(&FORM.fullest_products(), &unused);
    let sums = [FORM.sum(), FORM.difference(), FORM.negated_sum()];
    let sums = assert_faults_refused(&sums, &[]);
    let carries = assert_faults_refused(&FORM.carries(), &[]);
    let canonical = assert_faults_refused(&canonical_claims(), &[]);
    assert_eq!((products, sums, carries, canonical), (1435, 207, 365, 414));
}

/// A bias in place of another.
const fn in_place_of(bias: [u64; LIMBS], other: [u64; LIMBS]) -> [(u64, u64); LIMBS] {
    let mut pairs = [(0, 0); LIMBS];
    let mut i = 0;
    while i < LIMBS {
        pairs[i] = (other[i], bias[i]);
        i += 1;
    }
    pairs
}

#[test]
fn named_faults_are_refused() {
    let claims: Vec<_> = FORM
        .fullest_products()
        .into_iter()
        .chain(FORM.carries())
        .collect();
    for (name, fault) in [
        (
            "2^261 folded with 976",
            Fault::Constants(&[(FOLD_LOW, 976 << 5)]),
        ),
        (
            "2^256 folded with 976",
            Fault::Constants(&[(CARRY_LOW, 976)]),
        ),
        (
            "limb 17 folded a bit lower",
            Fault::Constants(&[(FOLD_LOW << 8, FOLD_LOW << 7)]),
        ),
        ("carries shifted by 28", Fault::Shift(LIMB_BITS, 28)),
        ("carries shifted by 30", Fault::Shift(LIMB_BITS, 30)),
        ("the top carry shifted by 23", Fault::Shift(TOP_BITS, 23)),
        (
            "a mask of 30 bits",
            Fault::Constants(&[(LIMB_MASK, (1 << 30) - 1)]),
        ),
        (
            "a mask of 28 bits",
            Fault::Constants(&[(LIMB_MASK, (1 << 28) - 1)]),
        ),
        (
            "a top mask of 25 bits",
            Fault::Constants(&[(TOP_MASK, (1 << 25) - 1)]),
        ),
        (
            "a bias of 4p + 1",
            Fault::Constants(&[(BIAS[0], BIAS[0] + 1)]),
        ),
        (
            "a bias of p",
            Fault::Constants(&const { in_place_of(bias(1, 1), BIAS) }),
        ),
        (
            "a bias without units",
            Fault::Constants(&const { in_place_of(bias(4, 0), BIAS) }),
        ),
        (
            "a wide bias of one unit",
            Fault::Constants(&const { in_place_of(bias(8, 1), WIDE_BIAS) }),
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
        ("a0·a0 for a0·b8", Kind::Product, 0, Alteration::FirstTwice),
        (
            "a product left out of column 8",
            Kind::Sum,
            0,
            Alteration::First,
        ),
        (
            "no carry from column 8 to 9",
            Kind::Sum,
            15,
            Alteration::First,
        ),
        (
            "c0 added, not subtracted",
            Kind::Difference,
            0,
            Alteration::WrongSign,
        ),
        (
            "limb 0 without 977 times the last carry",
            Kind::Sum,
            -2,
            Alteration::First,
        ),
        (
            "limb 1 without 8 times the last carry",
            Kind::Sum,
            -1,
            Alteration::First,
        ),
        (
            "the last carry not shifted",
            Kind::Shift,
            -1,
            Alteration::First,
        ),
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
    let limb_0 = with_limits(|magnitude| match magnitude {
        1 => {
            let mut limbs = largest_limbs(1);
            limbs[0] = LIMB_MASK + (1 << 24);
            limbs
        }
        _ => largest_limbs(magnitude),
    });
    let limb_1 = with_limits(|magnitude| match magnitude {
        1 => {
            let mut limbs = largest_limbs(1);
            limbs[1] = LIMB_MASK + (1 << 17);
            limbs
        }
        _ => largest_limbs(magnitude),
    });
    for form in [limb_0, limb_1] {
        let mut products = form.products().into_iter();
        assert!(products.any(|product| product.is_refused(Fault::Constants(&[]))));
    }
}

/// The multiples of p are larger than they have to be, by no use or harm: 2p and 3p with two units would do.
#[test]
fn smaller_biases_would_do() {
    let [product, square] = FORM.fullest_products();
    let [_, negated, _] = FORM.carries();
    let bias = Fault::Constants(&const { in_place_of(bias(2, 1), BIAS) });
    assert!(!product.is_refused(bias) && !negated.is_refused(bias));
    let wide = Fault::Constants(&const { in_place_of(super::bias(3, 2), WIDE_BIAS) });
    assert!(!square.is_refused(wide));
}
