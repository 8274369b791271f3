//! An engine that computes rightly for a while, for tests of what is made of its results then.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::Engine;
use super::arch::{Backend, Portable, Task};
use super::field::{Difference, Element, FieldElement, NegatedSum, Sum, Tight};
use super::kernel::Kernel;

/// The batched engine, which passes its self-check and computes wrongly after it has stored `correct_stores` values more.
pub(crate) fn failing_after(correct_stores: usize) -> Arc<dyn Engine> {
    Arc::new(Kernel::unchecked(Faulty::new(
        Fault::Doubled,
        correct_stores,
    )))
}

/// An engine that never fails and counts the values it stores.
pub(crate) struct Counting(Faulty);

/// See [`Counting`].
pub(crate) fn counting() -> Counting {
    Counting(Faulty::new(Fault::Doubled, usize::MAX))
}

impl Counting {
    pub(crate) fn engine(&self) -> Arc<dyn Engine> {
        Arc::new(Kernel::unchecked(self.0))
    }

    /// Values stored so far.
    pub(crate) fn count(&self) -> usize {
        self.0.stored()
    }
}

/// What is wrong with the values that a failing backend stores.
#[derive(Clone, Copy)]
pub(super) enum Fault {
    /// They are doubled. A curve equation that holds is left alone, so that points are not taken for invalid ones.
    Doubled,
    /// Curve equations do not hold: points are taken for invalid ones.
    Denied,
}

/// The portable backend, until its results are wrong.
#[derive(Clone, Copy)]
pub(super) struct Faulty {
    fault: Fault,
    /// Values stored correctly from now on.
    correct_stores: &'static AtomicUsize,
}

impl Faulty {
    pub(super) fn new(fault: Fault, correct_stores: usize) -> Self {
        Self {
            fault,
            correct_stores: Box::leak(Box::new(AtomicUsize::new(correct_stores))),
        }
    }

    /// Values stored so far by one that never failed.
    pub(super) fn stored(self) -> usize {
        usize::MAX - self.correct_stores.load(Ordering::Relaxed)
    }

    /// Is wrong from now on.
    pub(super) fn fail(self) {
        self.correct_stores.store(0, Ordering::Relaxed);
    }
}

impl Backend for Faulty {
    const NAME: &'static str = "faulty";
    const LANES: usize = 1;
    type Limbs = <Portable as Backend>::Limbs;

    fn run<T: Task>(self, task: T) -> T::Output {
        task.run()
    }

    fn splat(self, value: &FieldElement) -> Tight<Self> {
        Portable.splat(value)
    }

    fn load<'a>(self, lane: impl Fn(usize) -> &'a FieldElement) -> Tight<Self> {
        Portable.load(lane)
    }

    fn store<const A: u32>(self, a: &Element<Self::Limbs, A>, out: &mut [FieldElement]) {
        Portable.store(a, out);
        let count = |left: usize| left.checked_sub(1);
        let counted = self
            .correct_stores
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, count);
        if counted.is_ok() {
            return;
        }
        match (self.fault, out[0].is_zero()) {
            (Fault::Doubled, false) => out[0] = out[0].times(&FieldElement::TWO),
            (Fault::Denied, true) => out[0] = FieldElement::ONE,
            _ => {}
        }
    }

    fn add(self, a: &Tight<Self>, b: &Tight<Self>) -> Sum<Self> {
        Portable.add(a, b)
    }

    fn sub(self, a: &Tight<Self>, b: &Tight<Self>) -> Difference<Self> {
        Portable.sub(a, b)
    }

    fn negated_sum(self, a: &Tight<Self>, b: &Tight<Self>) -> NegatedSum<Self> {
        Portable.negated_sum(a, b)
    }

    fn tighten<const A: u32>(self, a: &Element<Self::Limbs, A>) -> Tight<Self> {
        Portable.tighten(a)
    }

    fn mul<const A: u32, const B: u32>(
        self,
        a: &Element<Self::Limbs, A>,
        b: &Element<Self::Limbs, B>,
    ) -> Tight<Self> {
        Portable.mul(a, b)
    }

    fn square<const A: u32>(self, a: &Element<Self::Limbs, A>) -> Tight<Self> {
        Portable.square(a)
    }

    fn mul_sub<const A: u32, const B: u32>(
        self,
        a: &Element<Self::Limbs, A>,
        b: &Element<Self::Limbs, B>,
        c: &Tight<Self>,
    ) -> Tight<Self> {
        Portable.mul_sub(a, b, c)
    }

    fn square_sub2<const A: u32>(
        self,
        a: &Element<Self::Limbs, A>,
        b: &Tight<Self>,
        c: &Tight<Self>,
    ) -> Tight<Self> {
        Portable.square_sub2(a, b, c)
    }

    fn negate_lanes(self, a: &Tight<Self>, lanes: u32) -> Tight<Self> {
        Portable.negate_lanes(a, lanes)
    }
}
