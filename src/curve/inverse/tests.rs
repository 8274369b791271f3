use proptest::prelude::*;

use super::*;
use crate::curve::proof::Integer;

fn check(words: [u64; 4]) {
    let Some(x) = FieldElement::from_words(words) else {
        return;
    };
    match x.inverse_vartime() {
        None => assert!(x.is_zero()),
        Some(inverse) => {
            assert!(!x.is_zero());
            assert_eq!(x.times(&inverse), FieldElement::ONE, "{x:?}");
        }
    }
}

#[test]
fn edges_have_inverses() {
    assert_eq!(FieldElement::ZERO.inverse_vartime(), None);
    for shift in 0..256 {
        let mut power = [0u64; 4];
        power[shift / 64] = 1 << (shift % 64);
        for offset in [0u64, 1, u64::MAX] {
            let mut words = power;
            words[0] = words[0].wrapping_add(offset);
            check(words);
            if let Some(x) = FieldElement::from_words(words) {
                check(*x.negated().words());
            }
        }
    }
    // Where d ends between 2^256 and 2p, once in some 30,000 inversions.
    for beyond in [
        "addf603c442e1d45eee3c7c36f1a8e19d443c6eeda3fdaacf6709dd0875cf04c",
        "491a679ef1fc1c6ae4723d9245b62cf3632c672f898d4ceae97825afcc54b5c1",
        "365e76abbf4cfa2f0befea02af983ed2abf1ee3e60067b2492ede0278520a260",
        "16376a59f3ee1bab0fbef3ccf1f6887b202a66b5774167b468fb282e18fe1b02",
    ] {
        let word = |i: usize| u64::from_str_radix(&beyond[16 * i..][..16], 16).expect("hex");
        check([word(3), word(2), word(1), word(0)]);
    }
    for below in 1..100 {
        let mut words = P;
        words[0] -= below;
        check(words);
    }
}

/// A chain of 30,000 in a debug build, a million in a release build: rare cases of the last reduction are
/// among them.
#[test]
fn a_long_chain_of_inverses_is_right() {
    let steps = if cfg!(debug_assertions) {
        30_000
    } else {
        1_000_000
    };
    let mut x = FieldElement::BETA;
    for _ in 0..steps {
        let inverse = x.inverse_vartime().expect("not zero");
        assert_eq!(x.times(&inverse), FieldElement::ONE, "{x:?}");
        x = inverse.times(&FieldElement::SEVEN).times(&inverse);
    }
}

proptest! {
    #[test]
    fn any_element_times_its_inverse_is_one(words in any::<[u64; 4]>()) {
        check(words);
    }
}

#[test]
fn constants_are_inverses() {
    assert_eq!(LIMB_MASK, (1 << 62) - 1);
    assert_eq!(P_INVERSE.wrapping_mul(P[0]) & LIMB_MASK, 1);
    for f in (1..1u64 << CLEARED_BITS).step_by(2) {
        let negative_inverse = f.wrapping_mul(f.wrapping_mul(f).wrapping_sub(2));
        let product = f.wrapping_mul(negative_inverse);
        assert_eq!(product.wrapping_add(1) % (1 << CLEARED_BITS), 0);
    }
}

/// The steps one by one, as they are defined; entries of the matrix double with each.
fn slow_division_steps(delta: &mut i64, mut f: u64, mut g: u64) -> [i64; 4] {
    let [mut u, mut v, mut q, mut r] = [1i64, 0, 0, 1];
    for _ in 0..STEPS {
        if g & 1 == 0 {
            (u, v) = (2 * u, 2 * v);
            *delta += 1;
        } else if *delta > 0 {
            (u, v, q, r) = (2 * q, 2 * r, q - u, r - v);
            (f, g) = (g, g.wrapping_sub(f));
            *delta = 1 - *delta;
        } else {
            (u, v, q, r) = (2 * u, 2 * v, q + u, r + v);
            g = g.wrapping_add(f);
            *delta += 1;
        }
        g >>= 1;
    }
    [u, v, q, r]
}

/// All low bits that one word operation looks at, and more, with any bits above.
#[test]
fn division_steps_are_those_of_the_definition() {
    let mut above = 1u64;
    for delta in -8..=8 {
        for f in (1..1u64 << CLEARED_BITS).step_by(2) {
            for g in 0..1u64 << CLEARED_BITS {
                above = above.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
                let (f, g) = (above << 40 | f, above >> 40 << CLEARED_BITS | g);
                let (mut fast, mut slow) = (delta, delta);
                let matrix = division_steps(&mut fast, f, g);
                let [u, v, q, r] = slow_division_steps(&mut slow, f, g);
                let found = [matrix.u, matrix.v, matrix.q, matrix.r, fast];
                assert_eq!(found, [u, v, q, r, slow], "{f:x}, {g:x}, {delta}");
                for [a, b] in [[u, v], [q, r]] {
                    assert!(a.unsigned_abs() + b.unsigned_abs() <= 1 << STEPS);
                }
            }
        }
    }
}

fn integer(limbs: &Signed) -> Integer {
    let limbs = limbs.iter().zip((0..).step_by(STEPS as usize));
    limbs.fold(Integer::ZERO, |sum, (limb, place)| {
        sum.plus(&Integer::from(i128::from(*limb)).shifted(place))
    })
}

/// a·x + b·y.
fn combined(a: i64, x: &Signed, b: i64, y: &Signed) -> Integer {
    let times = |a: i64, x| Integer::from(i128::from(a)).times(&integer(x));
    times(a, x).plus(&times(b, y))
}

/// Both ends of each range, with rows of the largest entries: results are exact, modulo p, and within the range again.
#[test]
fn matrices_apply_at_the_bounds() {
    let modulus = split(&P);
    let p = integer(&modulus);
    let edge = |(multiple, offset)| {
        let mut limbs = modulus.map(|limb| limb * multiple);
        limbs[0] += offset;
        carry_up(&mut limbs);
        limbs
    };
    let edges = [
        (-2, 1),
        (-1, -1),
        (-1, 0),
        (-1, 1),
        (0, -1),
        (0, 0),
        (0, 1),
        (1, -1),
    ]
    .map(edge);
    let (whole, half) = (1i64 << STEPS, 1i64 << (STEPS - 1));
    let rows = [
        (whole, 0),
        (-whole, 0),
        (0, whole),
        (0, -whole),
        (half, half),
        (half, -half),
        (-half, half),
        (-half, -half),
        (whole - 1, -1),
        (1 - whole, 1),
        (0, 0),
        (1, 0),
    ];
    for (u, v) in rows {
        for (q, r) in rows {
            let matrix = Matrix { u, v, q, r };
            for d in &edges {
                for e in &edges {
                    let (new_d, new_e) = apply_mod_p(&matrix, d, e, &modulus);
                    for (new, a, b) in [(new_d, u, v), (new_e, q, r)] {
                        let new = integer(&new);
                        let exact = combined(a, d, b, e);
                        assert!(new.shifted(STEPS).minus(&exact).is_multiple_of_p());
                        assert!(new < p && new.plus(&p).plus(&p) > Integer::ZERO);
                    }
                }
            }
        }
    }
}

/// From p and x to ±1 and 0, without a rest in any division.
#[test]
fn matrices_divide_exactly() {
    let edges = [
        [1, 0, 0, 0],
        [2, 0, 0, 0],
        [0, 0, 0, 1 << 63],
        [P[0] - 1, P[1], P[2], P[3]],
    ];
    for x in edges {
        let (mut f, mut g, mut delta) = (split(&P), split(&x), 1);
        while g != [0; LIMBS] {
            let m = division_steps(&mut delta, f[0].cast_unsigned(), g[0].cast_unsigned());
            let (new_f, new_g) = apply(&m, &f, &g);
            assert_eq!(integer(&new_f).shifted(STEPS), combined(m.u, &f, m.v, &g));
            assert_eq!(integer(&new_g).shifted(STEPS), combined(m.q, &f, m.r, &g));
            (f, g) = (new_f, new_g);
        }
        let f = integer(&f);
        assert!(f == Integer::from(1) || f == Integer::from(-1));
    }
}
