//! Modular inverse in the field, by the division steps of Bernstein and Yang ("Fast constant-time gcd computation and
//! modular inversion", 2019), in variable time.
//!
//! A division step replaces (f, g), f odd, by (g, (g - f)/2), (f, (g + f)/2) or (f, g/2). From f = p and g = x it
//! ends in f = ±1, g = 0; running the same linear steps on d = 0, e = 1 with divisions modulo p keeps
//! f = d·x and g = e·x mod p, so ±d is the inverse at the end. 62 steps depend on the lowest 62 bits of f and g
//! alone: they are found on single words as a matrix, which is then applied to all four numbers at once.

use super::field::{FieldElement, P};

/// Division steps that are applied at once.
const STEPS: u32 = 62;
/// Limbs of [`STEPS`] bits of f, g, d and e.
const LIMBS: usize = 5;
const LIMB_MASK: u64 = u64::MAX >> (64 - STEPS);
/// Bits of g that one word operation clears.
const CLEARED_BITS: u32 = 6;
/// 1/p mod 2^62.
const P_INVERSE: u64 = 0x27c7_f6e2_2dda_cacf;

/// A signed number in limbs of 62 bits, of which only the top one is signed.
type Signed = [i64; LIMBS];

/// `2^62·(f', g') = ((u, v), (q, r))·(f, g)`; entries are at most 2^62 in absolute value, and so is each row's sum.
struct Matrix {
    u: i64,
    v: i64,
    q: i64,
    r: i64,
}

impl FieldElement {
    /// 1/x; `None` for 0. Variable time.
    pub(crate) fn inverse_vartime(&self) -> Option<Self> {
        if self.is_zero() {
            return None;
        }
        let modulus = split(&P);
        let mut f = modulus;
        let mut g = split(self.words());
        let mut d = [0; LIMBS];
        let mut e = [1, 0, 0, 0, 0];
        let mut delta = 1;
        while g != [0; LIMBS] {
            let matrix = division_steps(&mut delta, f[0].cast_unsigned(), g[0].cast_unsigned());
            (d, e) = apply_mod_p(&matrix, &d, &e, &modulus);
            (f, g) = apply(&matrix, &f, &g);
        }
        // f is ±1 now, and d in (-2p, p): the inverse is in (-2p, 2p).
        let mut inverse = d;
        if f[LIMBS - 1] < 0 {
            for limb in &mut inverse {
                *limb = -*limb;
            }
            carry_up(&mut inverse);
        }
        for _ in 0..2 {
            if inverse[LIMBS - 1] < 0 {
                inverse = plus_multiple(&inverse, &modulus, 1);
            }
        }
        let reduced = plus_multiple(&inverse, &modulus, -1);
        if reduced[LIMBS - 1] >= 0 {
            inverse = reduced;
        }
        Some(Self::from_canonical_words(join(&inverse)))
    }
}

/// a + multiple·p, for a multiple of a few bits.
fn plus_multiple(a: &Signed, modulus: &Signed, multiple: i64) -> Signed {
    let mut sum = *a;
    for (limb, p) in sum.iter_mut().zip(modulus) {
        *limb += multiple * p;
    }
    carry_up(&mut sum);
    sum
}

fn split(words: &[u64; 4]) -> Signed {
    let [a, b, c, d] = *words;
    [
        a & LIMB_MASK,
        (a >> 62 | b << 2) & LIMB_MASK,
        (b >> 60 | c << 4) & LIMB_MASK,
        (c >> 58 | d << 6) & LIMB_MASK,
        d >> 56,
    ]
    .map(u64::cast_signed)
}

/// The words of a number in 0..2^256.
fn join(limbs: &Signed) -> [u64; 4] {
    let [a, b, c, d, e] = limbs.map(i64::cast_unsigned);
    [
        a | b << 62,
        b >> 2 | c << 60,
        c >> 4 | d << 58,
        d >> 6 | e << 56,
    ]
}

fn carry_up(limbs: &mut Signed) {
    for i in 0..LIMBS - 1 {
        limbs[i + 1] += limbs[i] >> STEPS;
        limbs[i] &= LIMB_MASK.cast_signed();
    }
}

/// 62 division steps on the low bits of f and g. Runs of zeros in g are skipped at once, and several bits of g are
/// cleared at once as long as no swap can come between.
fn division_steps(delta: &mut i64, mut f: u64, mut g: u64) -> Matrix {
    let (mut u, mut v, mut q, mut r) = (1u64, 0u64, 0u64, 1u64);
    let mut left = STEPS;
    loop {
        // A bit set at the end of what is left stops the count there.
        let zeros = (g | u64::MAX << left).trailing_zeros();
        g >>= zeros;
        u <<= zeros;
        v <<= zeros;
        *delta += i64::from(zeros);
        left -= zeros;
        if left == 0 {
            break;
        }
        if *delta > 0 {
            *delta = -*delta;
            (f, g) = (g, f.wrapping_neg());
            (u, q) = (q, u.wrapping_neg());
            (v, r) = (r, v.wrapping_neg());
        }
        // delta is at most 0, and grows by 1 with each step: until it is positive nothing is swapped, and all that
        // these steps do is to add multiples of f to g so that its low bits vanish.
        let until_swap = u32::try_from(1 - *delta).unwrap_or(CLEARED_BITS);
        let bits = until_swap.min(left).min(CLEARED_BITS);
        // f·(f² - 2) = -1/f modulo 2^6 for odd f: Newton's iteration from f, which is its own inverse modulo 2^3.
        let negative_inverse = f.wrapping_mul(f.wrapping_mul(f).wrapping_sub(2));
        let factor = g.wrapping_mul(negative_inverse) & ((1 << bits) - 1);
        g = g.wrapping_add(f.wrapping_mul(factor));
        q = q.wrapping_add(u.wrapping_mul(factor));
        r = r.wrapping_add(v.wrapping_mul(factor));
    }
    Matrix {
        u: u.cast_signed(),
        v: v.cast_signed(),
        q: q.cast_signed(),
        r: r.cast_signed(),
    }
}

/// `a·x + b·y`, as a 128-bit number.
fn combine(a: i64, x: i64, b: i64, y: i64) -> i128 {
    i128::from(a) * i128::from(x) + i128::from(b) * i128::from(y)
}

/// The matrix applied to f and g, over 2^62, which divides exactly.
fn apply(m: &Matrix, f: &Signed, g: &Signed) -> (Signed, Signed) {
    let (mut new_f, mut new_g) = ([0; LIMBS], [0; LIMBS]);
    let mut carry_f = combine(m.u, f[0], m.v, g[0]) >> STEPS;
    let mut carry_g = combine(m.q, f[0], m.r, g[0]) >> STEPS;
    for i in 1..LIMBS {
        carry_f += combine(m.u, f[i], m.v, g[i]);
        carry_g += combine(m.q, f[i], m.r, g[i]);
        new_f[i - 1] = carry_f as i64 & LIMB_MASK.cast_signed();
        new_g[i - 1] = carry_g as i64 & LIMB_MASK.cast_signed();
        carry_f >>= STEPS;
        carry_g >>= STEPS;
    }
    new_f[LIMBS - 1] = carry_f as i64;
    new_g[LIMBS - 1] = carry_g as i64;
    (new_f, new_g)
}

/// The matrix applied to d and e in (-2p, p), over 2^62 modulo p, giving values in (-2p, p).
fn apply_mod_p(m: &Matrix, d: &Signed, e: &Signed, modulus: &Signed) -> (Signed, Signed) {
    // Adding p to negative d and e first keeps the results in range ...
    let (negative_d, negative_e) = (d[LIMBS - 1] >> 63, e[LIMBS - 1] >> 63);
    let mut multiple_d = (m.u & negative_d) + (m.v & negative_e);
    let mut multiple_e = (m.q & negative_d) + (m.r & negative_e);
    // ... and a multiple of p that clears the low 62 bits makes the division exact.
    let mut carry_d = combine(m.u, d[0], m.v, e[0]);
    let mut carry_e = combine(m.q, d[0], m.r, e[0]);
    let clearing = |carry: i128, multiple: i64| {
        let low = P_INVERSE
            .wrapping_mul(carry as u64)
            .wrapping_add(multiple.cast_unsigned());
        multiple - (low & LIMB_MASK).cast_signed()
    };
    multiple_d = clearing(carry_d, multiple_d);
    multiple_e = clearing(carry_e, multiple_e);
    let times = |limb: i64, multiple: i64| i128::from(limb) * i128::from(multiple);
    carry_d = (carry_d + times(modulus[0], multiple_d)) >> STEPS;
    carry_e = (carry_e + times(modulus[0], multiple_e)) >> STEPS;
    let (mut new_d, mut new_e) = ([0; LIMBS], [0; LIMBS]);
    for i in 1..LIMBS {
        carry_d += combine(m.u, d[i], m.v, e[i]) + times(modulus[i], multiple_d);
        carry_e += combine(m.q, d[i], m.r, e[i]) + times(modulus[i], multiple_e);
        new_d[i - 1] = carry_d as i64 & LIMB_MASK.cast_signed();
        new_e[i - 1] = carry_e as i64 & LIMB_MASK.cast_signed();
        carry_d >>= STEPS;
        carry_e >>= STEPS;
    }
    new_d[LIMBS - 1] = carry_d as i64;
    new_e[LIMBS - 1] = carry_e as i64;
    (new_d, new_e)
}

#[cfg(test)]
mod tests;
