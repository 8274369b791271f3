//! What a backend is: the field operations of a kind of processor, several values at once.
//!
//! A backend is a token: whoever has a value of its type knows that this processor can run it, because the
//! only way to get one is a check at run time. All operations are methods of the token, so they need no check of
//! their own. [`Backend::run`] enters code that is compiled for the backend's instructions; generic code
//! called from there is compiled into it, as everything in these modules is `#[inline(always)]` down to
//! single instructions.

use super::field::{Element, FieldElement};

/// Work to be compiled once for each backend.
pub(crate) trait Task {
    /// What it gives.
    type Output;

    /// Does it. Implementations are `#[inline(always)]`.
    fn run(self) -> Self::Output;
}

/// Vectors of field elements and the operations of the curve formulas on them.
///
/// Each operation works on all lanes alike and in constant time. What it makes has a magnitude of its own:
///
/// | magnitude | made by | value |
/// |---|---|---|
/// | 1 ([`Tight`]) | products, loads, [`Backend::tighten`] | a |
/// | 2 ([`Sum`]) | [`Backend::add`] | a + b |
/// | 3 ([`Difference`]) | [`Backend::sub`] | a - b, plus a multiple of p |
/// | 4 ([`NegatedSum`]) | [`Backend::negated_sum`] | -(a + b), plus a multiple of p |
///
/// None of these forms is canonical; only [`Backend::store`] reduces fully.
pub(crate) trait Backend: Copy + Send + Sync + 'static {
    /// Short name for logs, settings and tables.
    const NAME: &'static str;
    /// Field elements in a vector.
    const LANES: usize;
    /// One element per lane, in whatever limbs suit.
    type Limbs: Copy + Send + Sync + 'static;

    /// Runs a task compiled for this backend's instructions.
    fn run<T: Task>(self, task: T) -> T::Output;

    /// The same value in each lane.
    fn splat(self, value: &FieldElement) -> Tight<Self>;

    /// The value `lane(i)` in lane i.
    fn load<'a>(self, lane: impl Fn(usize) -> &'a FieldElement) -> Tight<Self>;

    /// Writes the canonical value of lane i to `out[i]`, for i below the length of `out`.
    fn store<const A: u32>(self, a: &Element<Self::Limbs, A>, out: &mut [FieldElement]);

    /// a + b.
    fn add(self, a: &Tight<Self>, b: &Tight<Self>) -> Sum<Self>;

    /// a - b.
    fn sub(self, a: &Tight<Self>, b: &Tight<Self>) -> Difference<Self>;

    /// -(a + b).
    fn negated_sum(self, a: &Tight<Self>, b: &Tight<Self>) -> NegatedSum<Self>;

    /// The same value with magnitude 1, by carries alone.
    fn tighten<const A: u32>(self, a: &Element<Self::Limbs, A>) -> Tight<Self>;

    /// a·b. Does not compile if the magnitudes are too large.
    fn mul<const A: u32, const B: u32>(
        self,
        a: &Element<Self::Limbs, A>,
        b: &Element<Self::Limbs, B>,
    ) -> Tight<Self>;

    /// a².
    fn square<const A: u32>(self, a: &Element<Self::Limbs, A>) -> Tight<Self>;

    /// a·b - c.
    fn mul_sub<const A: u32, const B: u32>(
        self,
        a: &Element<Self::Limbs, A>,
        b: &Element<Self::Limbs, B>,
        c: &Tight<Self>,
    ) -> Tight<Self>;

    /// a² - b - c.
    fn square_sub2<const A: u32>(
        self,
        a: &Element<Self::Limbs, A>,
        b: &Tight<Self>,
        c: &Tight<Self>,
    ) -> Tight<Self>;

    /// -a in the lanes whose bit is set in `lanes`, a in the others.
    fn negate_lanes(self, a: &Tight<Self>, lanes: u32) -> Tight<Self>;
}

/// What products are.
pub(crate) type Tight<B> = Element<<B as Backend>::Limbs, 1>;
/// a + b of tight elements.
pub(crate) type Sum<B> = Element<<B as Backend>::Limbs, 2>;
/// a - b of tight elements.
pub(crate) type Difference<B> = Element<<B as Backend>::Limbs, 3>;
/// -(a + b) of tight elements.
pub(crate) type NegatedSum<B> = Element<<B as Backend>::Limbs, 4>;
