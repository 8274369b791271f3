use super::*;
use crate::curve::arch::Portable;
use crate::curve::point::{TweakPoint, unpack};
use crate::curve::suite::{point, public, secret, unusual_scalars};
use secp256k1::{SECP256K1, Scalar as LibScalar};

#[test]
fn unusual_scalars_spoil_no_batch() {
    for (i, key) in unusual_scalars().iter().chain([&secret(1)]).enumerate() {
        let scalar = Scalar::from_be_bytes(&key.secret_bytes()).expect("a key is below n");
        let key_point = public(i as u64);
        let mut points = [point(&key_point)];
        let done = multiply(Portable, &mut points, &[scalar]);
        assert_eq!(done, Ok(()), "scalar {i}");
        let expected = key_point.mul_tweak(SECP256K1, &LibScalar::from(*key));
        let product = unpack(&TweakPoint::from(points[0]));
        assert_eq!(product, expected.ok(), "scalar {i}");
    }
}

#[test]
fn there_is_an_odd_multiple_for_each_digit_and_no_more() {
    assert_eq!(ODD_MULTIPLES, (1..1 << WINDOW_BITS).step_by(2).count());
}
