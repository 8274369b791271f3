//! The backend of any 64-bit processor: one element at a time, in safe Rust.
//!
//! Its elements have no spare bits, so that magnitudes mean nothing here; they are checked all the same, since the code
//! above is written for all backends.

use super::{Backend, Task};
use crate::curve::backend::{Difference, NegatedSum, Sum, Tight};
use crate::curve::field::{Element, FieldElement, MAX_PRODUCT, P};
use crate::curve::field_4x64::{self as words, Words};

/// The token of this backend; it needs nothing of the processor.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Portable;

impl Backend for Portable {
    const NAME: &'static str = "portable";
    const LANES: usize = 1;
    type Limbs = Words;

    #[inline(never)]
    fn run<T: Task>(self, task: T) -> T::Output {
        task.run()
    }

    #[inline(always)]
    fn splat(self, value: &FieldElement) -> Tight<Self> {
        Element(*value.words())
    }

    #[inline(always)]
    fn load<'a>(self, lane: impl Fn(usize) -> &'a FieldElement) -> Tight<Self> {
        Element(*lane(0).words())
    }

    #[inline(always)]
    fn store<const A: u32>(self, a: &Element<Words, A>, out: &mut [FieldElement]) {
        if let Some(out) = out.first_mut() {
            *out = FieldElement::from_canonical_words(words::canonical(&a.0));
        }
    }

    #[inline(always)]
    fn add(self, a: &Tight<Self>, b: &Tight<Self>) -> Sum<Self> {
        Element(words::add(&a.0, &b.0))
    }

    #[inline(always)]
    fn sub(self, a: &Tight<Self>, b: &Tight<Self>) -> Difference<Self> {
        Element(words::sub(&a.0, &b.0))
    }

    #[inline(always)]
    fn negated_sum(self, a: &Tight<Self>, b: &Tight<Self>) -> NegatedSum<Self> {
        Element(words::negated_sum(&a.0, &b.0))
    }

    #[inline(always)]
    fn tighten<const A: u32>(self, a: &Element<Words, A>) -> Tight<Self> {
        Element(a.0)
    }

    #[inline(always)]
    fn mul<const A: u32, const B: u32>(
        self,
        a: &Element<Words, A>,
        b: &Element<Words, B>,
    ) -> Tight<Self> {
        const { assert!(A * B <= MAX_PRODUCT) }
        Element(words::mul(&a.0, &b.0))
    }

    #[inline(always)]
    fn square<const A: u32>(self, a: &Element<Words, A>) -> Tight<Self> {
        const { assert!(A * A <= MAX_PRODUCT) }
        Element(words::square(&a.0))
    }

    #[inline(always)]
    fn mul_sub<const A: u32, const B: u32>(
        self,
        a: &Element<Words, A>,
        b: &Element<Words, B>,
        c: &Tight<Self>,
    ) -> Tight<Self> {
        const { assert!(A * B <= MAX_PRODUCT) }
        Element(words::sub(&words::mul(&a.0, &b.0), &c.0))
    }

    #[inline(always)]
    fn square_sub2<const A: u32>(
        self,
        a: &Element<Words, A>,
        b: &Tight<Self>,
        c: &Tight<Self>,
    ) -> Tight<Self> {
        const { assert!(A * A <= MAX_PRODUCT) }
        let square = words::square(&a.0);
        Element(words::sub(&words::sub(&square, &b.0), &c.0))
    }

    #[inline(always)]
    fn negate_lanes(self, a: &Tight<Self>, lanes: u32) -> Tight<Self> {
        match lanes & 1 {
            0 => *a,
            _ => Element(words::sub(&P, &a.0)),
        }
    }
}

#[cfg(test)]
impl FieldElement {
    /// a·b.
    pub(crate) fn times(&self, other: &Self) -> Self {
        let product = Portable.mul(&Portable.splat(self), &Portable.splat(other));
        let mut out = [Self::ZERO];
        Portable.store(&product, &mut out);
        out[0]
    }
}

#[cfg(test)]
crate::curve::suite::backend_suite!(super::Portable);
