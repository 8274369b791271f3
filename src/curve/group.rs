//! Affine formulas on y² = x³ + 7, for many points side by side that share one inversion.
//!
//! A [`Formula`] has two halves. Going up, every point contributes a denominator to a running product. Going down, it
//! is given the inverse of its denominator and does the rest. Formulas work on [`CHAINS`] vectors at a time, each
//! operation on all of them before the next: within a chain every product waits for the last one, and the
//! processor needs independent work to fill the gap.
//!
//! Costs are per point, with the 3M of the shared inversion, in multiplications and squarings.
//!
//! | formula | cost | impossible for |
//! |---|---|---|
//! | [`Double`] | 5M + 2S | nothing: no point of odd order has y = 0 |
//! | [`Add`] | 5M + 1S | P = ±Q |
//! | [`AddX`] (x only) | 4M + 1S | P = ±Q |
//! | [`DoubleAdd`], then [`DoubleAddEnd`] | 9M + 2S | P = ±Q, P + Q = ±P |

use zeroize::Zeroize;

use super::backend::{Backend, Sum, Tight};
use super::field::FieldElement;

/// Vectors that a formula works on at a time, and independent chains of products in a shared inversion.
pub(crate) const CHAINS: usize = 4;

/// One vector for each chain.
pub(crate) type Group<B> = [Tight<B>; CHAINS];

/// An affine point in packed form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Zeroize)]
#[repr(C, align(64))]
pub(crate) struct AffinePoint {
    pub(crate) x: FieldElement,
    pub(crate) y: FieldElement,
}

impl AffinePoint {
    /// G of SEC 2.
    pub(crate) fn generator() -> Self {
        let words = |words| FieldElement::from_canonical_words(words);
        Self {
            x: words([
                0x59f2_815b_16f8_1798,
                0x029b_fcdb_2dce_28d9,
                0x55a0_6295_ce87_0b07,
                0x79be_667e_f9dc_bbac,
            ]),
            y: words([
                0x9c47_d08f_fb10_d4b8,
                0xfd17_b448_a685_5419,
                0x5da4_fbfc_0e11_08a8,
                0x483a_da77_26a3_c465,
            ]),
        }
    }

    /// 2^64·G.
    pub(crate) fn generator_times_2_64() -> Self {
        let words = |words| FieldElement::from_canonical_words(words);
        Self {
            x: words([
                0x13b7_e0e7_42d0_e6bd,
                0xf774_d163_db0f_5e53,
                0x82a2_147c_104d_6ecb,
                0x3322_d401_243c_4e25,
            ]),
            y: words([
                0x24f3_a2e9_6c28_b2a0,
                0x2805_f63e_a287_3af6,
                0xbfb0_19bc_4dda_f9b7,
                0x56e7_0797_e966_4ef5,
            ]),
        }
    }

    /// -P.
    #[cfg(test)]
    pub(crate) fn negated(&self) -> Self {
        Self {
            x: self.x,
            y: self.y.negated(),
        }
    }
}

/// What is added to a batch: a point for each lane, or the same for all.
pub(crate) trait Operand<B: Backend>: Copy {
    /// x of the points of a group and chain.
    fn x(&self, group: usize, chain: usize) -> &Tight<B>;
    /// y of the points of a group and chain.
    fn y(&self, group: usize, chain: usize) -> &Tight<B>;
}

/// A point for each lane: x and y by groups.
pub(crate) struct Each<'a, B: Backend> {
    pub(crate) x: &'a [Group<B>],
    pub(crate) y: &'a [Group<B>],
}

impl<B: Backend> Clone for Each<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B: Backend> Copy for Each<'_, B> {}

impl<B: Backend> Operand<B> for Each<'_, B> {
    #[inline(always)]
    fn x(&self, group: usize, chain: usize) -> &Tight<B> {
        &self.x[group][chain]
    }

    #[inline(always)]
    fn y(&self, group: usize, chain: usize) -> &Tight<B> {
        &self.y[group][chain]
    }
}

/// The same point in each lane.
pub(crate) struct Constant<B: Backend> {
    x: Tight<B>,
    y: Tight<B>,
}

impl<B: Backend> Constant<B> {
    #[inline(always)]
    pub(crate) fn new(backend: B, point: &AffinePoint) -> Self {
        Self {
            x: backend.splat(&point.x),
            y: backend.splat(&point.y),
        }
    }
}

impl<B: Backend> Operand<B> for &Constant<B> {
    #[inline(always)]
    fn x(&self, _: usize, _: usize) -> &Tight<B> {
        &self.x
    }

    #[inline(always)]
    fn y(&self, _: usize, _: usize) -> &Tight<B> {
        &self.y
    }
}

/// A step of the lockstep computation, around a shared inversion.
pub(crate) trait Formula<B: Backend> {
    /// The denominator of a group and chain, times `factor`.
    fn times_denominator(
        &self,
        backend: B,
        group: usize,
        chain: usize,
        factor: &Tight<B>,
    ) -> Tight<B>;

    /// Completes the step for a group, given [`Formula::NUMERATOR`] over each denominator. May overwrite these: a
    /// group of its own would be a copy first.
    fn finish(&mut self, backend: B, group: usize, inverses: &mut Group<B>);

    /// What inverses are multiplied by, for the whole batch at once.
    const NUMERATOR: FieldElement;
}

/// 2P.
pub(crate) struct Double<'a, B: Backend> {
    pub(crate) x: &'a [Group<B>],
    /// Replaced by that of 2P.
    pub(crate) y: &'a mut [Group<B>],
    /// Becomes x of 2P.
    pub(crate) next_x: &'a mut [Group<B>],
}

impl<B: Backend> Formula<B> for Double<'_, B> {
    const NUMERATOR: FieldElement = FieldElement::THREE_HALVES;

    #[inline(always)]
    fn times_denominator(&self, b: B, group: usize, chain: usize, factor: &Tight<B>) -> Tight<B> {
        b.mul(&self.y[group][chain], factor)
    }

    /// m = 3x²/2y; x' = m² - 2x; y' = (x - x')·m - y.
    #[inline(always)]
    fn finish(&mut self, b: B, group: usize, inverses: &mut Group<B>) {
        let x = &self.x[group];
        let y = &mut self.y[group];
        let next_x = &mut self.next_x[group];
        for c in 0..CHAINS {
            next_x[c] = b.square(&x[c]);
        }
        let slope = inverses;
        for c in 0..CHAINS {
            slope[c] = b.mul(&next_x[c], &slope[c]);
        }
        for c in 0..CHAINS {
            next_x[c] = b.square_sub2(&slope[c], &x[c], &x[c]);
        }
        for c in 0..CHAINS {
            y[c] = b.mul_sub(&b.sub(&x[c], &next_x[c]), &slope[c], &y[c]);
        }
    }
}

/// (y_Q - y)/(x_Q - x) of P and Q, or of P and -Q, in place of 1/(x_Q - x).
#[inline(always)]
fn secant<B: Backend>(
    b: B,
    y: &Group<B>,
    q: impl Operand<B>,
    negate: bool,
    group: usize,
    slope: &mut Group<B>,
) {
    if negate {
        for c in 0..CHAINS {
            slope[c] = b.mul(&b.negated_sum(q.y(group, c), &y[c]), &slope[c]);
        }
    } else {
        for c in 0..CHAINS {
            slope[c] = b.mul(&b.sub(q.y(group, c), &y[c]), &slope[c]);
        }
    }
}

/// P + Q, or P - Q.
pub(crate) struct Add<'a, B: Backend, Q> {
    pub(crate) x: &'a [Group<B>],
    /// Replaced by that of the sum.
    pub(crate) y: &'a mut [Group<B>],
    /// Becomes x of the sum.
    pub(crate) next_x: &'a mut [Group<B>],
    pub(crate) q: Q,
    pub(crate) negate: bool,
}

impl<B: Backend, Q: Operand<B>> Formula<B> for Add<'_, B, Q> {
    const NUMERATOR: FieldElement = FieldElement::ONE;

    #[inline(always)]
    fn times_denominator(&self, b: B, group: usize, chain: usize, factor: &Tight<B>) -> Tight<B> {
        b.mul(
            &b.sub(self.q.x(group, chain), &self.x[group][chain]),
            factor,
        )
    }

    /// m = (y_Q - y)/(x_Q - x); x' = m² - x - x_Q; y' = (x - x')·m - y.
    #[inline(always)]
    fn finish(&mut self, b: B, group: usize, inverses: &mut Group<B>) {
        let x = &self.x[group];
        let y = &mut self.y[group];
        let next_x = &mut self.next_x[group];
        let slope = inverses;
        secant(b, y, self.q, self.negate, group, slope);
        for c in 0..CHAINS {
            next_x[c] = b.square_sub2(&slope[c], &x[c], self.q.x(group, c));
        }
        for c in 0..CHAINS {
            y[c] = b.mul_sub(&b.sub(&x[c], &next_x[c]), &slope[c], &y[c]);
        }
    }
}

/// x of P + Q; P stays.
pub(crate) struct AddX<'a, B: Backend, Q> {
    pub(crate) x: &'a [Group<B>],
    pub(crate) y: &'a [Group<B>],
    /// Becomes x of the sum.
    pub(crate) sum_x: &'a mut [Group<B>],
    pub(crate) q: Q,
}

impl<B: Backend, Q: Operand<B>> Formula<B> for AddX<'_, B, Q> {
    const NUMERATOR: FieldElement = FieldElement::ONE;

    #[inline(always)]
    fn times_denominator(&self, b: B, group: usize, chain: usize, factor: &Tight<B>) -> Tight<B> {
        b.mul(
            &b.sub(self.q.x(group, chain), &self.x[group][chain]),
            factor,
        )
    }

    /// m = (y_Q - y)/(x_Q - x); x' = m² - x - x_Q.
    #[inline(always)]
    fn finish(&mut self, b: B, group: usize, inverses: &mut Group<B>) {
        let x = &self.x[group];
        let slope = inverses;
        secant(b, &self.y[group], self.q, false, group, slope);
        let sum_x = &mut self.sum_x[group];
        for c in 0..CHAINS {
            sum_x[c] = b.square_sub2(&slope[c], &x[c], self.q.x(group, c));
        }
    }
}

/// The first half of 2P + Q or 2P - Q, as (P + Q) + P: x and the slope of P ± Q. Its y is never needed.
pub(crate) struct DoubleAdd<'a, B: Backend, Q> {
    pub(crate) x: &'a [Group<B>],
    pub(crate) y: &'a [Group<B>],
    /// Becomes x of P ± Q.
    pub(crate) middle_x: &'a mut [Group<B>],
    /// Becomes the slope of the line through P and ±Q.
    pub(crate) slope: &'a mut [Group<B>],
    pub(crate) q: Q,
    pub(crate) negate: bool,
}

impl<B: Backend, Q: Operand<B>> Formula<B> for DoubleAdd<'_, B, Q> {
    const NUMERATOR: FieldElement = FieldElement::ONE;

    #[inline(always)]
    fn times_denominator(&self, b: B, group: usize, chain: usize, factor: &Tight<B>) -> Tight<B> {
        b.mul(
            &b.sub(self.q.x(group, chain), &self.x[group][chain]),
            factor,
        )
    }

    /// m = (y_Q - y)/(x_Q - x); x_M = m² - x - x_Q.
    #[inline(always)]
    fn finish(&mut self, b: B, group: usize, inverses: &mut Group<B>) {
        let x = &self.x[group];
        let slope = inverses;
        secant(b, &self.y[group], self.q, self.negate, group, slope);
        let middle_x = &mut self.middle_x[group];
        for c in 0..CHAINS {
            middle_x[c] = b.square_sub2(&slope[c], &x[c], self.q.x(group, c));
            self.slope[group][c] = slope[c];
        }
    }
}

/// The second half: M + P, where M = P ± Q is known by x and the slope m of P ± Q.
///
/// The slope of M + P is -m - 2y/(x_M - x), because y_M = (x - x_M)·m - y.
pub(crate) struct DoubleAddEnd<'a, B: Backend> {
    pub(crate) x: &'a [Group<B>],
    /// Replaced by that of the result.
    pub(crate) y: &'a mut [Group<B>],
    /// x of M; becomes x of the result.
    pub(crate) middle_x: &'a mut [Group<B>],
    pub(crate) slope: &'a [Group<B>],
}

impl<B: Backend> Formula<B> for DoubleAddEnd<'_, B> {
    const NUMERATOR: FieldElement = FieldElement::TWO;

    #[inline(always)]
    fn times_denominator(&self, b: B, group: usize, chain: usize, factor: &Tight<B>) -> Tight<B> {
        b.mul(
            &b.sub(&self.middle_x[group][chain], &self.x[group][chain]),
            factor,
        )
    }

    /// s = m + 2y/(x_M - x), the negated slope; x' = s² - x - x_M; y' = (x' - x)·s - y.
    #[inline(always)]
    fn finish(&mut self, b: B, group: usize, inverses: &mut Group<B>) {
        let x = &self.x[group];
        let y = &mut self.y[group];
        let next_x = &mut self.middle_x[group];
        let tangent = inverses;
        for c in 0..CHAINS {
            tangent[c] = b.mul(&y[c], &tangent[c]);
        }
        let negated_slope: [Sum<B>; CHAINS] = [
            b.add(&self.slope[group][0], &tangent[0]),
            b.add(&self.slope[group][1], &tangent[1]),
            b.add(&self.slope[group][2], &tangent[2]),
            b.add(&self.slope[group][3], &tangent[3]),
        ];
        for c in 0..CHAINS {
            next_x[c] = b.square_sub2(&negated_slope[c], &x[c], &next_x[c]);
        }
        for c in 0..CHAINS {
            y[c] = b.mul_sub(&b.sub(&next_x[c], &x[c]), &negated_slope[c], &y[c]);
        }
    }
}

/// x³ + 7, the right side of the curve equation.
#[inline(always)]
pub(crate) fn curve_right_side<B: Backend>(b: B, x: &Tight<B>) -> Tight<B> {
    let seven = b.splat(&FieldElement::SEVEN);
    b.tighten(&b.add(&b.mul(&b.square(x), x), &seven))
}
