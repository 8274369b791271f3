use proptest::prelude::*;

use super::*;
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

proptest! {
    #[test]
    fn random_scalars_split_and_recode(a in any::<[u64; 4]>(), b in any::<[u64; 4]>()) {
        check(&a);
        check_pair(&a, &b);
    }
}
