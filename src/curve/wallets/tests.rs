use super::*;
use crate::curve::suite::{secret, unusual_scalars};

fn scalar(key: &secp256k1::SecretKey) -> Scalar {
    Scalar::from_be_bytes(&key.secret_bytes()).expect("a key is below n")
}

#[test]
fn usual_keys_are_proven() {
    for i in 0..200 {
        assert!(BucketDigits::new(&scalar(&secret(i))).is_some(), "key {i}");
    }
}

#[test]
fn keys_that_leave_a_bucket_empty_are_refused() {
    for key in unusual_scalars().iter().map(scalar) {
        let digits = BucketDigits::unproven(&key);
        let used = |bucket: u8| {
            let mut all = digits.0.iter().flatten();
            all.any(|digit| *digit != 0 && digit.unsigned_abs() / 2 == bucket)
        };
        let uses_all = (0..4).all(used);
        assert_eq!(BucketDigits::new(&key).is_some(), uses_all);
    }
    let small = [Scalar::ONE, Scalar::LAMBDA, Scalar::power_of_two(64)];
    for key in small {
        assert!(BucketDigits::new(&key).is_none());
        assert!(BucketDigits::new(&key.negated()).is_none());
        assert!(BucketDigits::new(&key.plus(&key)).is_none());
    }
}

#[test]
fn digits_of_another_key_are_no_proof() {
    let key = scalar(&secret(1));
    assert!(BucketDigits::unproven(&key).prove(&key));
    assert!(!BucketDigits::unproven(&key).prove(&scalar(&secret(2))));
    let mut changed = 0;
    for half in 0..2 {
        for position in 0..WNAF_DIGITS {
            let mut digits = BucketDigits::unproven(&key);
            let digit = &mut digits.0[half][position];
            *digit = match *digit {
                0 if position % 8 == 0 => 1,
                7 => 5,
                digit if digit % 3 == 0 => -digit,
                digit => digit - 2 * digit.signum(),
            };
            if digits.0 != BucketDigits::unproven(&key).0 {
                changed += 1;
                assert!(!digits.prove(&key), "digit {position} of half {half}");
            }
        }
    }
    assert!(changed > 40, "{changed}");
}

#[test]
fn steps_that_affine_formulas_cannot_do_are_refused() {
    let new = || Integers {
        power: Scalar::ONE,
        registers: [const { None }; REGISTERS],
    };
    for negative in [false, true] {
        let mut integers = new();
        assert_eq!(integers.collect(0, false, false), Ok(()));
        assert_eq!(integers.collect(0, false, negative), Err(Degenerate));
        assert_eq!(integers.collect(1, false, negative), Ok(()));
        assert_eq!(integers.add(0, 1), Err(Degenerate));
        assert_eq!(integers.double_add(0, 1), Err(Degenerate));
        // λ times it is another one.
        assert_eq!(integers.collect(0, true, negative), Ok(()));
    }
    let mut integers = new();
    assert_eq!(integers.copy(RESULT, 3), Err(Degenerate));
    assert_eq!(integers.collect(0, false, false), Ok(()));
    assert_eq!(integers.add(0, 2), Err(Degenerate));
    assert_eq!(integers.add(2, 0), Err(Degenerate));
    assert_eq!(integers.double_add(0, 2), Err(Degenerate));
}

#[test]
fn a_wallet_has_a_register_for_each_bucket_and_the_result() {
    assert_eq!((BUCKETS, RESULT, REGISTERS), (4, 4, 5));
}
