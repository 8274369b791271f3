//! Field elements in four full words, for any processor with a 64×64→128 bit multiplier.
//!
//! Every operation carries out fully: an element is any representative below 2^256, and there is no spare bit
//! to keep account of. A carry out of 2^256 is worth [`FOLD`] = 2^256 - p. (Five words of 52 bits, which need
//! fewer carries, took 1.7 times as long for a product where both were measured, on Zen 5.)

use super::field::{FOLD, P};

/// An element's words, least significant first.
pub(crate) type Words = [u64; 4];

/// The least representative.
#[inline(always)]
pub(crate) fn canonical(a: &Words) -> Words {
    // a + 2^256 - p carries exactly if a is at least p, and then is a - p.
    let (reduced, carry) = add_word(a, FOLD);
    if carry { reduced } else { *a }
}

/// a + b.
#[inline(always)]
pub(crate) fn add(a: &Words, b: &Words) -> Words {
    let (s0, carry) = a[0].overflowing_add(b[0]);
    let (s1, carry) = a[1].carrying_add(b[1], carry);
    let (s2, carry) = a[2].carrying_add(b[2], carry);
    let (s3, carry) = a[3].carrying_add(b[3], carry);
    fold_carry([s0, s1, s2, s3], carry)
}

/// a - b.
#[inline(always)]
pub(crate) fn sub(a: &Words, b: &Words) -> Words {
    let (d0, borrow) = a[0].overflowing_sub(b[0]);
    let (d1, borrow) = a[1].borrowing_sub(b[1], borrow);
    let (d2, borrow) = a[2].borrowing_sub(b[2], borrow);
    let (d3, borrow) = a[3].borrowing_sub(b[3], borrow);
    let (d0, borrow) = d0.overflowing_sub(FOLD & u64::from(borrow).wrapping_neg());
    let (d1, borrow) = d1.overflowing_sub(u64::from(borrow));
    let (d2, borrow) = d2.overflowing_sub(u64::from(borrow));
    let (d3, borrow) = d3.overflowing_sub(u64::from(borrow));
    // A second borrow leaves more than 2^256 - 2^34: word 0 can be reduced without a third.
    let d0 = d0.wrapping_sub(FOLD & u64::from(borrow).wrapping_neg());
    [d0, d1, d2, d3]
}

/// -(a + b).
#[inline(always)]
pub(crate) fn negated_sum(a: &Words, b: &Words) -> Words {
    sub(&sub(&P, a), b)
}

/// a + 2^256·carry, where a carry leaves a below 2^256 - 1.
#[inline(always)]
fn fold_carry(a: Words, carry: bool) -> Words {
    let (a, carry) = add_word(&a, FOLD & u64::from(carry).wrapping_neg());
    // A second carry leaves less than 2^34.
    let [a0, a1, a2, a3] = a;
    [
        a0.wrapping_add(FOLD & u64::from(carry).wrapping_neg()),
        a1,
        a2,
        a3,
    ]
}

/// a + word.
#[inline(always)]
fn add_word(a: &Words, word: u64) -> (Words, bool) {
    let (s0, carry) = a[0].overflowing_add(word);
    let (s1, carry) = a[1].overflowing_add(u64::from(carry));
    let (s2, carry) = a[2].overflowing_add(u64::from(carry));
    let (s3, carry) = a[3].overflowing_add(u64::from(carry));
    ([s0, s1, s2, s3], carry)
}

/// a·b.
#[inline(always)]
pub(crate) fn mul(a: &Words, b: &Words) -> Words {
    let (p0, c) = a[0].carrying_mul(b[0], 0);
    let (p1, c) = a[0].carrying_mul(b[1], c);
    let (p2, c) = a[0].carrying_mul(b[2], c);
    let (p3, p4) = a[0].carrying_mul(b[3], c);

    let (p1, c) = a[1].carrying_mul_add(b[0], p1, 0);
    let (p2, c) = a[1].carrying_mul_add(b[1], p2, c);
    let (p3, c) = a[1].carrying_mul_add(b[2], p3, c);
    let (p4, p5) = a[1].carrying_mul_add(b[3], p4, c);

    let (p2, c) = a[2].carrying_mul_add(b[0], p2, 0);
    let (p3, c) = a[2].carrying_mul_add(b[1], p3, c);
    let (p4, c) = a[2].carrying_mul_add(b[2], p4, c);
    let (p5, p6) = a[2].carrying_mul_add(b[3], p5, c);

    let (p3, c) = a[3].carrying_mul_add(b[0], p3, 0);
    let (p4, c) = a[3].carrying_mul_add(b[1], p4, c);
    let (p5, c) = a[3].carrying_mul_add(b[2], p5, c);
    let (p6, p7) = a[3].carrying_mul_add(b[3], p6, c);

    reduce([p0, p1, p2, p3], [p4, p5, p6, p7])
}

/// a².
#[inline(always)]
pub(crate) fn square(a: &Words) -> Words {
    // The products of different words, once.
    let (p1, c) = a[0].carrying_mul(a[1], 0);
    let (p2, c) = a[0].carrying_mul(a[2], c);
    let (p3, p4) = a[0].carrying_mul(a[3], c);
    let (p3, c) = a[1].carrying_mul_add(a[2], p3, 0);
    let (p4, p5) = a[1].carrying_mul_add(a[3], p4, c);
    let (p5, p6) = a[2].carrying_mul_add(a[3], p5, 0);

    // Twice these, and the squares.
    let double = |high: u64, low: u64| high << 1 | low >> 63;
    let (s0, p0) = wide_square(a[0]);
    let (s1, s2) = (wide_square(a[1]), wide_square(a[2]));
    let s3 = wide_square(a[3]);
    let (r1, carry) = (p1 << 1).overflowing_add(p0);
    let (r2, carry) = double(p2, p1).carrying_add(s1.0, carry);
    let (r3, carry) = double(p3, p2).carrying_add(s1.1, carry);
    let (r4, carry) = double(p4, p3).carrying_add(s2.0, carry);
    let (r5, carry) = double(p5, p4).carrying_add(s2.1, carry);
    let (r6, carry) = double(p6, p5).carrying_add(s3.0, carry);
    let (r7, _) = (p6 >> 63).carrying_add(s3.1, carry);
    reduce([s0, r1, r2, r3], [r4, r5, r6, r7])
}

/// The low and the high word of a².
#[inline(always)]
fn wide_square(a: u64) -> (u64, u64) {
    a.carrying_mul(a, 0)
}

/// low + 2^256·high.
#[inline(always)]
fn reduce(low: Words, high: Words) -> Words {
    let (r0, c) = high[0].carrying_mul_add(FOLD, low[0], 0);
    let (r1, c) = high[1].carrying_mul_add(FOLD, low[1], c);
    let (r2, c) = high[2].carrying_mul_add(FOLD, low[2], c);
    let (r3, c) = high[3].carrying_mul_add(FOLD, low[3], c);
    // c is below 2^34, its fold below 2^67.
    let (f0, f1) = c.carrying_mul(FOLD, 0);
    let (r0, carry) = r0.overflowing_add(f0);
    let (r1, carry) = r1.carrying_add(f1, carry);
    let (r2, carry) = r2.overflowing_add(u64::from(carry));
    let (r3, carry) = r3.overflowing_add(u64::from(carry));
    // A carry leaves less than 2^67, to which one fold more adds without a carry out of word 1.
    let (r0, carry) = r0.overflowing_add(FOLD & u64::from(carry).wrapping_neg());
    [r0, r1 + u64::from(carry), r2, r3]
}

#[cfg(test)]
mod tests;
