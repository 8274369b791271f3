use super::*;
use crate::curve::proof::Integer;

/// Every comparison that a word can decide, against integers of any size.
#[test]
fn words_below_p_are_elements_and_no_others() {
    let low = [0, 1, P[0] - 1, P[0], P[0] + 1, u64::MAX];
    let high = [0, 1, u64::MAX - 1, u64::MAX];
    for a in low {
        for b in high {
            for c in high {
                for d in high {
                    let words = [a, b, c, d];
                    let is_below = Integer::from_words(&words) < Integer::from_words(&P);
                    let element = FieldElement::from_words(words);
                    assert_eq!(element.is_some(), is_below, "{words:x?}");
                    let Some(element) = element else {
                        continue;
                    };
                    assert_eq!(*element.words(), words);
                    assert_eq!(element.is_zero(), words == [0; 4], "{words:x?}");
                    assert_eq!(element.is_odd(), a % 2 == 1, "{words:x?}");
                }
            }
        }
    }
}

#[test]
fn negated_elements_sum_to_p() {
    let top = [0, 1, u64::MAX - 1, u64::MAX];
    for a in [0, 1, P[0] - 1, P[0], u64::MAX] {
        for b in top {
            for c in top {
                let Some(element) = FieldElement::from_words([a, b, c, b]) else {
                    continue;
                };
                let negated = element.negated();
                let sum = Integer::from_words(element.words())
                    .plus(&Integer::from_words(negated.words()));
                let expected = match element.is_zero() {
                    true => Integer::ZERO,
                    false => Integer::from_words(&P),
                };
                assert!(sum == expected, "{element:?}");
            }
        }
    }
}

#[test]
fn debug_is_the_number_in_hex() {
    let element = FieldElement::from_words([0x12, 0x34, 0x56, 0x78]).expect("below p");
    let text = "0000000000000078000000000000005600000000000000340000000000000012";
    assert_eq!(format!("{element:?}"), text);
}
