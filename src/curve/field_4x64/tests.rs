//! Carries, against integers of any size.
//!
//! Whether a word of a sum carries depends on three cases alone: the two words sum to less than 2^64 - 1, to that (a
//! carry from below is passed on), or to more; for differences likewise. With the words of [`EDGES`] at each place
//! of both operands, every chain of cases occurs. Word 0 also has those that a fold carries out of, or just not.

use super::*;
use crate::curve::proof::Integer;

const EDGES: [u64; 3] = [0, 1, u64::MAX];
const LOW_EDGES: [u64; 7] = [0, 1, FOLD - 1, FOLD, P[0], P[0] + 1, u64::MAX];

/// All representatives with these words, canonical or not: word 0, and the others.
fn elements(low: &[u64], others: &[u64]) -> Vec<Words> {
    let mut elements = Vec::new();
    for a in low {
        for b in others {
            for c in others {
                elements.extend(others.iter().map(|d| [*a, *b, *c, *d]));
            }
        }
    }
    elements
}

fn integer(words: &Words) -> Integer {
    Integer::from_words(words)
}

/// Whether the words are a representative of the integer.
fn stands_for(words: &Words, expected: &Integer) -> bool {
    expected.minus(&integer(words)).is_multiple_of_p()
}

#[test]
fn sums_carry_for_all_words() {
    let elements = elements(&LOW_EDGES, &EDGES);
    for a in &elements {
        for b in &elements {
            let (x, y) = (integer(a), integer(b));
            assert!(stands_for(&add(a, b), &x.plus(&y)), "{a:x?} + {b:x?}");
            assert!(stands_for(&sub(a, b), &x.minus(&y)), "{a:x?} - {b:x?}");
            let negated = x.plus(&y).negated();
            assert!(
                stands_for(&negated_sum(a, b), &negated),
                "-({a:x?} + {b:x?})"
            );
        }
    }
}

#[test]
fn canonical_words_are_the_least() {
    let mut elements = elements(&LOW_EDGES, &EDGES);
    elements.extend([P[0] - 1, P[0] + 2].map(|low| [low, P[1], P[2], P[3]]));
    for a in elements {
        let least = canonical(&a);
        assert!(stands_for(&least, &integer(&a)), "{a:x?}");
        assert!(integer(&least) < integer(&P), "{a:x?}");
    }
}

/// Each partial product fits two words: (2^64 - 1)² + 2·(2^64 - 1) = 2^128 - 1. So products are exact before they are reduced.
#[test]
fn products_are_exact_for_all_words() {
    let elements = elements(&EDGES, &EDGES);
    for a in &elements {
        for b in &elements {
            let product = integer(a).times(&integer(b));
            assert!(stands_for(&mul(a, b), &product), "{a:x?}·{b:x?}");
        }
    }
}

/// With 2^63 among the words, each sum of doubled products and squares carries, and does not.
#[test]
fn squares_carry_for_all_words() {
    let words = [0, 1, 1 << 63, u64::MAX];
    for a in elements(&words, &words) {
        let expected = integer(&a).times(&integer(&a));
        assert!(stands_for(&square(&a), &expected), "{a:x?}²");
    }
}

/// What is left when the upper half is folded goes through each chain of carries, for the least and the largest folds.
#[test]
fn the_end_of_a_reduction_carries_for_all_words() {
    for high in elements(&EDGES, &EDGES) {
        let folded = integer(&high).times(&Integer::from_words(&[FOLD]));
        // What leaves the four words is high[3]·FOLD / 2^64, or one more.
        let above = ((u128::from(high[3]) * u128::from(FOLD)) >> 64) as u64;
        assert!(above < FOLD);
        let mut low_edges = LOW_EDGES.to_vec();
        for above in [above, above + 1] {
            let crossing = above.wrapping_mul(FOLD).wrapping_neg();
            low_edges.extend([crossing.wrapping_sub(1), crossing]);
        }
        for left in elements(&low_edges, &EDGES) {
            // The lower half with which these words are left.
            let low = low_words(&integer(&left).minus(&folded));
            let expected = integer(&low).plus(&integer(&high).shifted(256));
            assert!(
                stands_for(&reduce(low, high), &expected),
                "{low:x?}, {high:x?}"
            );
        }
    }
}

/// a mod 2^256.
fn low_words(a: &Integer) -> Words {
    let words = a.words();
    [words[0], words[1], words[2], words[3]]
}
