//! One secret scalar times many points: tables of odd multiples, and the machine that runs a [`Schedule`].

use super::arch::Backend;
use super::batch::{Column, Degenerate, Lockstep, Negate, Points, Scale, column, resize, wipe};
use super::field::FieldElement;
use super::group::{AffinePoint, Each};
use super::schedule::{Bases, Machine, ODD_MULTIPLES, Schedule, Term};

/// Room for one batch.
pub(crate) struct ProductStage<B: Backend> {
    backend: B,
    /// The products, when a schedule has run.
    pub(crate) value: Points<B>,
    /// Odd multiples of each base: 1, 3, 5, 7.
    entries: Vec<Points<B>>,
    /// β times x of each entry: that of λ times the point.
    beta_x: Vec<Column<B>>,
    twice: Points<B>,
}

impl<B: Backend> ProductStage<B> {
    pub(crate) fn new(backend: B) -> Self {
        Self {
            backend,
            value: Points::new(backend, 0),
            entries: Vec::new(),
            beta_x: Vec::new(),
            twice: Points::new(backend, 0),
        }
    }

    /// Makes room for a batch in `groups` groups.
    pub(crate) fn resize(&mut self, groups: usize, bases: Bases) {
        let backend = self.backend;
        let entries = bases.count() * ODD_MULTIPLES;
        self.entries
            .resize_with(entries, || Points::new(backend, 0));
        self.beta_x.resize_with(entries, || column(backend, 0));
        for points in self
            .entries
            .iter_mut()
            .chain([&mut self.value, &mut self.twice])
        {
            points.resize(backend, groups);
        }
        for beta_x in &mut self.beta_x {
            resize(backend, beta_x, groups);
        }
    }

    /// Sets [`Self::value`] to the schedule's scalar times each point; `bases` are the points and, if the schedule is
    /// for two bases, their multiples by 2^64. Lanes past the last point repeat it.
    ///
    /// # Errors
    /// [`Degenerate`] if a point is off the curve in a way that makes a denominator zero.
    pub(crate) fn multiply(
        &mut self,
        lockstep: &mut Lockstep<B>,
        schedule: &Schedule,
        bases: &[&[AffinePoint]],
    ) -> Result<(), Degenerate> {
        for (base, points) in bases.iter().enumerate() {
            self.tabulate(lockstep, base * ODD_MULTIPLES, points)?;
        }
        schedule.run(&mut PointMachine {
            lockstep,
            stage: self,
        })
    }

    fn tabulate(
        &mut self,
        lockstep: &mut Lockstep<B>,
        first: usize,
        points: &[AffinePoint],
    ) -> Result<(), Degenerate> {
        let backend = self.backend;
        let last = points.len().saturating_sub(1);
        self.entries[first].load(backend, |i| &points[i.min(last)]);
        self.twice.copy_from(&self.entries[first]);
        lockstep.double(&mut self.twice)?;
        for entry in first + 1..first + ODD_MULTIPLES {
            let (before, after) = self.entries.split_at_mut(entry);
            after[0].copy_from(&before[entry - 1]);
            lockstep.add(&mut after[0], self.twice.operand(), false)?;
        }
        let beta_x = &mut self.beta_x[first..first + ODD_MULTIPLES];
        for (points, beta_x) in self.entries[first..].iter().zip(beta_x) {
            backend.run(Scale {
                backend,
                column: &points.x,
                factor: &FieldElement::BETA,
                out: beta_x,
            });
        }
        Ok(())
    }
}

impl<B: Backend> Drop for ProductStage<B> {
    fn drop(&mut self) {
        self.value.wipe(self.backend);
        for points in &mut self.entries {
            points.wipe(self.backend);
        }
        for beta_x in &mut self.beta_x {
            wipe(self.backend, beta_x);
        }
    }
}

/// Runs a schedule on the points of a stage.
struct PointMachine<'a, B: Backend> {
    lockstep: &'a mut Lockstep<B>,
    stage: &'a mut ProductStage<B>,
}

/// The points of a term, but for its sign.
fn term_points<'a, B: Backend>(
    entries: &'a [Points<B>],
    beta_x: &'a [Column<B>],
    term: Term,
) -> Each<'a, B> {
    let points = entries[term.entry].operand();
    match term.endomorphism {
        false => points,
        true => Each {
            x: &beta_x[term.entry],
            y: points.y,
        },
    }
}

impl<B: Backend> Machine for PointMachine<'_, B> {
    fn start(&mut self, term: Term) {
        let stage = &mut *self.stage;
        let points = term_points(&stage.entries, &stage.beta_x, term);
        stage.value.x.copy_from_slice(points.x);
        stage.value.y.copy_from_slice(points.y);
        if term.negative {
            stage.backend.run(Negate {
                backend: stage.backend,
                column: &mut stage.value.y,
            });
        }
    }

    fn double(&mut self) -> Result<(), Degenerate> {
        self.lockstep.double(&mut self.stage.value)
    }

    fn add(&mut self, term: Term) -> Result<(), Degenerate> {
        let stage = &mut *self.stage;
        let points = term_points(&stage.entries, &stage.beta_x, term);
        self.lockstep.add(&mut stage.value, points, term.negative)
    }

    fn double_add(&mut self, term: Term) -> Result<(), Degenerate> {
        let stage = &mut *self.stage;
        let points = term_points(&stage.entries, &stage.beta_x, term);
        self.lockstep
            .double_add(&mut stage.value, points, term.negative)
    }
}
