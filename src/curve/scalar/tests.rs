use proptest::prelude::*;

use super::*;
use crate::curve::proof::Integer;
use crate::curve::reference::{self, N as ORDER, Number};

fn scalar(number: &Number) -> Scalar {
    Scalar::from_words(reference::reduce(number, &ORDER)).expect("below n")
}

/// k mod n.
fn value(half: &Half) -> Number {
    let [a, b, c] = half.magnitude();
    let value = [a, b, c, 0];
    if half.is_negative() {
        reference::negate(&value, &ORDER)
    } else {
        value
    }
}

fn bits(half: &Half) -> u32 {
    let [a, b, c] = half.magnitude();
    let words = [a, b, c];
    let top = (0..3).rev().find(|i| words[*i] != 0);
    top.map_or(0, |i| 64 * i as u32 + 64 - words[i].leading_zeros())
}

/// `sum of digit[i]·2^(bits·i)` mod n.
fn from_digits(digits: &[i8], bits: u32) -> Number {
    digits.iter().rev().fold([0; 4], |value, digit| {
        let value = (0..bits).fold(value, |value, _| reference::add(&value, &value, &ORDER));
        let magnitude = [u64::from(digit.unsigned_abs()), 0, 0, 0];
        if *digit < 0 {
            reference::sub(&value, &magnitude, &ORDER)
        } else {
            reference::add(&value, &magnitude, &ORDER)
        }
    })
}

fn check(number: &Number) {
    let k = scalar(number);
    let whole = |[k1, k2]: &[Half; 2]| {
        let lambda_part = reference::mul(&value(k2), Scalar::LAMBDA.words(), &ORDER);
        reference::add(&value(k1), &lambda_part, &ORDER)
    };
    let halves = k.split();
    assert_eq!(whole(&halves), *k.words());
    for half in &halves {
        assert!(bits(half) <= 128, "{number:x?}");
        let digits = half.wnaf();
        assert_eq!(from_digits(&digits, 1), value(half));
        for window in digits.windows(4) {
            assert!(window.iter().filter(|digit| **digit != 0).count() <= 1);
        }
        assert!(
            digits
                .iter()
                .all(|digit| *digit == 0 || digit % 2 != 0 && digit.abs() <= 7)
        );
        let [low, high] = half.at_bit_64();
        let shifted = reference::mul(&value(&high), &[0, 1, 0, 0], &ORDER);
        assert_eq!(reference::add(&value(&low), &shifted, &ORDER), value(half));
        assert!(bits(&low) <= 64 && bits(&high) <= 64);
    }
    let halves = k.split_odd();
    assert_eq!(whole(&halves), *k.words());
    for half in &halves {
        assert!(half.magnitude()[0] % 2 == 1 && bits(half) <= 130);
        let digits = half.odd_windows();
        assert_eq!(from_digits(&digits, WINDOW_BITS), value(half));
        assert!(
            digits
                .iter()
                .all(|digit| digit % 2 != 0 && digit.abs() <= 31)
        );
    }
}

fn check_pair(a: &Number, b: &Number) {
    let (x, y) = (scalar(a), scalar(b));
    assert_eq!(
        *x.plus(&y).words(),
        reference::add(x.words(), y.words(), &ORDER)
    );
    assert_eq!(*x.negated().words(), reference::negate(x.words(), &ORDER));
    assert_eq!(
        *x.times(&y).words(),
        reference::mul(x.words(), y.words(), &ORDER)
    );
    let possible = !x.is_zero() && !y.is_zero() && x != y && !x.plus(&y).is_zero();
    assert!(x.plus_affine(&y) == possible.then(|| x.plus(&y)));
}

#[test]
fn edges() {
    let mut edges = reference::edges(&ORDER);
    let lambda = *Scalar::LAMBDA.words();
    for k in 0..9 {
        let multiple = reference::mul(&lambda, &[k, 0, 0, 0], &ORDER);
        edges.extend([multiple, reference::negate(&multiple, &ORDER)]);
        // Where the quotients of the split are halfway between two integers.
        edges.push(reference::add(
            &[ORDER[0] / 2 + k, ORDER[1] / 2, ORDER[2] / 2, 0],
            &multiple,
            &ORDER,
        ));
    }
    for (i, a) in edges.iter().enumerate() {
        check(a);
        check_pair(a, a);
        check_pair(a, &reference::negate(a, &ORDER));
        check_pair(a, &edges[(7 * i) % edges.len()]);
    }
}

#[test]
fn scalars_are_below_the_order() {
    assert!(Scalar::from_words(ORDER).is_none());
    assert!(Scalar::from_be_bytes(&[0xff; 32]).is_none());
    let below = reference::sub(&[0; 4], &[1, 0, 0, 0], &ORDER);
    assert!(Scalar::from_words(below).is_some());
    let half = Scalar::power_of_two(255);
    assert!(half.plus(&half) == Scalar::power_of_two(256));
}

/// Why the halves are short, with the numbers of [`Scalar::split`] and [`Scalar::split_odd`].
#[test]
fn the_lattice_makes_halves_short() {
    let [a1, b1, a2] = [A1, B1, A2].map(|words| Integer::from_words(&words));
    let n = Integer::from_words(&ORDER);
    // (A1, -B1) and (A2, A1) are in the lattice, and span it.
    let number = |words: [u64; 3]| [words[0], words[1], words[2], 0];
    let times_lambda = |words| reference::mul(&number(words), Scalar::LAMBDA.words(), &ORDER);
    assert_eq!(times_lambda(B1), number(A1));
    assert_eq!(times_lambda(A1), reference::negate(&number(A2), &ORDER));
    assert_eq!(a1.times(&a1).plus(&a2.times(&b1)), n);
    // G1/2^384 and G2/2^384 err by half of 2^-384 at most, and so k·G1 and k·G2 by 2^-129 of what is rounded to c1 and c2.
    for (constant, numerator) in [(G1, a1), (G2, b1)] {
        let error = Integer::from_words(&constant)
            .times(&n)
            .minus(&numerator.shifted(384));
        let twice = error.plus(&error);
        assert!(twice <= n && twice.negated() <= n);
    }
    // k1 is at most (1/2 + 2^-129)·(A1 + A2), k2 at most (1/2 + 2^-129)·(B1 + A1).
    let rounding = Integer::power_of_two(128).plus(&Integer::from(1));
    let hundredths = |hundredths, bits| Integer::from(hundredths).shifted(bits);
    for (sum, bound) in [(a1.plus(&a2), 64), (b1.plus(&a1), 55)] {
        let largest = sum.times(&rounding).times(&Integer::from(100));
        assert!(largest < hundredths(bound, 128 + 129));
    }
    // To be odd, k1 may have A1 more, and then A2 less in absolute value or the other sign; k2 may have B1 and A1 more.
    let two_to_130 = hundredths(100, 130);
    for (before, more) in [(64, a1), (64, a2), (55, b1.plus(&a1))] {
        let largest = hundredths(before, 128).plus(&more.times(&Integer::from(100)));
        assert!(largest < two_to_130);
    }
}

#[test]
fn quotients_are_rounded_to_the_nearest() {
    for k in reference::edges(&ORDER) {
        for constant in [G1, G2] {
            let quotient = Integer::from_words(&scaled_quotient(&k, &constant));
            let exact = Integer::from_words(&k).times(&Integer::from_words(&constant));
            let error = quotient.shifted(384).minus(&exact);
            let half = Integer::power_of_two(383);
            assert!(error <= half && error.negated() <= half, "{k:x?}");
        }
    }
}

/// Each pattern of ten bits at both ends and across words, the others all zeros or all ones, with both signs.
fn for_patterns(bits: u32, check: impl Fn(&Half, &Integer)) {
    for at in [0, 59, bits - 10] {
        for pattern in 0..1 << 10 {
            let window = Integer::from(1023).shifted(at);
            let zeros = Integer::from(pattern).shifted(at);
            let ones = Integer::power_of_two(bits).minus(&Integer::from(1));
            for magnitude in [zeros, ones.minus(&window).plus(&zeros)] {
                for value in [magnitude, magnitude.negated()] {
                    let words = value.words();
                    check(&Half([words[0], words[1], words[2]]), &value);
                }
            }
        }
    }
}

fn sum_of_digits(digits: &[i8], bits: u32) -> Integer {
    let places = digits.iter().zip((0..).step_by(bits as usize));
    places.fold(Integer::ZERO, |sum, (digit, place)| match digit {
        0 => sum,
        digit => sum.plus(&Integer::from(i128::from(*digit)).shifted(place)),
    })
}

#[test]
fn digits_sum_to_all_patterns_of_bits() {
    for_patterns(128, |half, value| {
        assert_eq!(sum_of_digits(&half.wnaf(), 1), *value);
        let [low, high] = half.at_bit_64().map(|part| sum_of_digits(&part.wnaf(), 1));
        assert_eq!(low.plus(&high.shifted(64)), *value);
    });
    for_patterns(130, |half, value| {
        if half.0[0] & 1 == 1 {
            let digits = half.odd_windows();
            assert_eq!(sum_of_digits(&digits, WINDOW_BITS), *value);
            assert!(
                digits
                    .iter()
                    .all(|digit| digit % 2 != 0 && digit.abs() <= 31)
            );
        }
    });
}

proptest! {
    #[test]
    fn random_scalars_split_and_recode(a in any::<[u64; 4]>(), b in any::<[u64; 4]>()) {
        check(&a);
        check_pair(&a, &b);
    }
}
