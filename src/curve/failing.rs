//! An engine that computes rightly for a while, for tests of what is made of its results then.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::arch::{Backend, Portable, Task};
use super::backend::{Difference, NegatedSum, Sum, Tight};
use super::engine::Engine;
use super::field::{Element, FieldElement};
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

/// The portable backend, some of whose results are wrong.
#[derive(Clone, Copy)]
pub(super) struct Faulty {
    fault: Fault,
    stores: &'static Stores,
}

/// Values stored so far, and which of them are wrong.
struct Stores {
    count: AtomicUsize,
    wrong_from: AtomicUsize,
    wrong_before: AtomicUsize,
}

impl Faulty {
    /// Is wrong from a value on.
    pub(super) fn new(fault: Fault, correct_stores: usize) -> Self {
        Self::within(fault, correct_stores..usize::MAX)
    }

    /// Is wrong in these values, and in no other.
    pub(super) fn within(fault: Fault, wrong: Range<usize>) -> Self {
        let stores = Stores {
            count: AtomicUsize::new(0),
            wrong_from: AtomicUsize::new(wrong.start),
            wrong_before: AtomicUsize::new(wrong.end),
        };
        Self {
            fault,
            stores: Box::leak(Box::new(stores)),
        }
    }

    /// Values stored so far.
    pub(super) fn stored(self) -> usize {
        self.stores.count.load(Ordering::Relaxed)
    }

    /// Is wrong from now on in these values, and in no other.
    pub(super) fn fail_within(self, wrong: Range<usize>) {
        let Stores {
            wrong_from,
            wrong_before,
            ..
        } = self.stores;
        wrong_from.store(wrong.start, Ordering::Relaxed);
        wrong_before.store(wrong.end, Ordering::Relaxed);
    }

    /// Is wrong from now on.
    pub(super) fn fail(self) {
        self.fail_within(0..usize::MAX);
    }

    /// Is right from now on.
    pub(super) fn recover(self) {
        self.fail_within(0..0);
    }

    /// Counts a value that is stored, and tells whether it is to be wrong.
    fn is_wrong(self) -> bool {
        let number = self.stores.count.fetch_add(1, Ordering::Relaxed);
        let wrong_from = self.stores.wrong_from.load(Ordering::Relaxed);
        let wrong_before = self.stores.wrong_before.load(Ordering::Relaxed);
        (wrong_from..wrong_before).contains(&number)
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
        if !self.is_wrong() {
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
