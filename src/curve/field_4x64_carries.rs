//! Carries in four words: operands of any value below 2^256, canonical or not, against the slow twin.

use super::arch::{Backend, Portable};
use super::field::{FOLD, FieldElement};
use super::field_4x64::{self as words, Words};
use super::reference::{self, P};
use super::square_root::square_root;

/// Words at which carries begin and end.
fn words_at_carries() -> Vec<Words> {
    let low = [
        0,
        1,
        FOLD - 1,
        FOLD,
        FOLD + 1,
        P[0] - 1,
        P[0],
        P[0] + 1,
        u64::MAX - 1,
        u64::MAX,
    ];
    let high = [
        [0, 0, 0],
        [1, 0, 0],
        [u64::MAX - 1, u64::MAX, u64::MAX],
        [u64::MAX, 0, 0],
        [0, u64::MAX, 0],
        [0, 0, u64::MAX],
        [u64::MAX, u64::MAX, 0],
        [0, u64::MAX, u64::MAX],
        [u64::MAX, 0, u64::MAX],
        [u64::MAX, u64::MAX, u64::MAX - 1],
        [u64::MAX, u64::MAX, u64::MAX],
        [u64::MAX, u64::MAX, 1 << 63],
    ];
    let all = |h: [u64; 3]| low.map(|l| [l, h[0], h[1], h[2]]);
    high.into_iter().flat_map(all).collect()
}

fn value(a: &Words) -> Words {
    reference::reduce(a, &P)
}

fn assert_value(result: &Words, expected: &Words, what: &str, operands: &[&Words]) {
    assert_eq!(value(result), *expected, "{what} of {operands:x?}");
    assert_eq!(
        words::canonical(result),
        *expected,
        "{what} of {operands:x?}"
    );
}

#[test]
fn any_words_are_added_subtracted_and_multiplied() {
    let all = words_at_carries();
    for a in &all {
        assert_eq!(words::canonical(a), value(a), "{a:x?}");
        let square = reference::mul(&value(a), &value(a), &P);
        assert_value(&words::square(a), &square, "square", &[a]);
        for b in &all {
            let (x, y) = (value(a), value(b));
            let sum = reference::add(&x, &y, &P);
            assert_value(&words::add(a, b), &sum, "sum", &[a, b]);
            let difference = reference::sub(&x, &y, &P);
            assert_value(&words::sub(a, b), &difference, "difference", &[a, b]);
            let negated = reference::negate(&sum, &P);
            assert_value(&words::negated_sum(a, b), &negated, "negated sum", &[a, b]);
            let product = reference::mul(&x, &y, &P);
            assert_value(&words::mul(a, b), &product, "product", &[a, b]);
        }
    }
}

/// Small numbers: reduced once, a product that is one of them modulo p is one of p + s - c·(2^256 - p) with the carry c
/// out of the reduction, so that the second fold carries out of 256 bits if s is at least 2^256 - p, and the last one
/// out of word 0 for s from 2^64 on.
fn small_values() -> Vec<Words> {
    let mut values: Vec<Words> = [1, 2, FOLD - 1, FOLD, FOLD + 1, u64::MAX - 1, u64::MAX]
        .into_iter()
        .map(|low| [low, 0, 0, 0])
        .collect();
    for low in [0, 1, 5, FOLD - 1, FOLD, FOLD + 1, u64::MAX - FOLD, u64::MAX] {
        values.extend([[low, 1, 0, 0], [low, 3, 0, 0]]);
    }
    values
}

#[test]
fn products_carry_out_of_every_fold() {
    let factors = (1..40).map(|i: u64| {
        let word = |j: u64| (i * 4 + j).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        value(&[word(0), word(1), word(2), word(3)])
    });
    for a in factors {
        let inverse = FieldElement::from_words(a)
            .and_then(|a| a.inverse_vartime())
            .expect("not zero");
        for small in small_values() {
            let b = reference::mul(inverse.words(), &small, &P);
            assert_value(&words::mul(&a, &b), &small, "product", &[&a, &b]);
        }
    }
}

#[test]
fn squares_carry_out_of_every_fold() {
    let mut squares = 0;
    for small in small_values() {
        for more in 0..40 {
            let small = reference::add(&small, &[more, 0, 0, 0], &P);
            let element = FieldElement::from_words(small).expect("below p");
            let [root] = square_root(Portable, &[Portable.splat(&element)]);
            if reference::mul(&value(&root.0), &value(&root.0), &P) != small {
                continue;
            }
            squares += 1;
            for root in [value(&root.0), reference::negate(&value(&root.0), &P)] {
                assert_value(&words::square(&root), &small, "square", &[&root]);
            }
        }
    }
    assert!(squares > 300, "{squares}");
}
