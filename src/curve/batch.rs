//! Points in lockstep: the same step for all of them at once, with one inversion between them. The hot loop.

#![expect(
    clippy::needless_range_loop,
    reason = "chains and limbs are counted through several arrays at once"
)]

use super::arch::{Backend, Portable, Task};
use super::backend::Tight;
use super::field::FieldElement;
use super::group::{
    Add, AddX, AffinePoint, CHAINS, Double, DoubleAdd, DoubleAddEnd, Each, Formula, Group, Operand,
};

/// Lanes of the widest backend.
pub(crate) const MAX_LANES: usize = 8;

/// Some denominator of a step was zero: nothing of the batch is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Degenerate;

/// One coordinate of the points of a batch: point i is in lane `i % LANES` of vector `i / LANES`, vectors are counted
/// through chains first.
pub(crate) type Column<B> = Vec<Group<B>>;

/// Groups of vectors that hold this many points.
pub(crate) const fn groups_for<B: Backend>(points: usize) -> usize {
    points.div_ceil(B::LANES * CHAINS)
}

/// A column of zeros.
pub(crate) fn column<B: Backend>(backend: B, groups: usize) -> Column<B> {
    vec![[backend.splat(&FieldElement::ZERO); CHAINS]; groups]
}

/// Points of a batch, all different from infinity.
#[derive(Clone)]
pub(crate) struct Points<B: Backend> {
    pub(crate) x: Column<B>,
    pub(crate) y: Column<B>,
}

impl<B: Backend> Points<B> {
    /// Room for `groups` groups of points, to be loaded.
    pub(crate) fn new(backend: B, groups: usize) -> Self {
        Self {
            x: column(backend, groups),
            y: column(backend, groups),
        }
    }

    /// Sets each lane to `point(i)`, also those past the last point in use.
    pub(crate) fn load<'a>(&mut self, backend: B, point: impl Fn(usize) -> &'a AffinePoint) {
        backend.run(LoadPoints {
            backend,
            points: self,
            point,
        });
    }

    /// Changes the number of groups.
    pub(crate) fn resize(&mut self, backend: B, groups: usize) {
        for column in [&mut self.x, &mut self.y] {
            resize(backend, column, groups);
        }
    }

    /// Takes over all points of a batch of the same size.
    pub(crate) fn copy_from(&mut self, other: &Self) {
        self.x.copy_from_slice(&other.x);
        self.y.copy_from_slice(&other.y);
    }

    /// Writes point i to `out[i]`.
    pub(crate) fn store(&self, backend: B, out: &mut [AffinePoint]) {
        backend.run(StorePoints {
            backend,
            points: self,
            out,
        });
    }

    /// Forgets the points.
    pub(crate) fn wipe(&mut self, backend: B) {
        wipe(backend, &mut self.x);
        wipe(backend, &mut self.y);
    }

    /// As what is added.
    pub(crate) fn operand(&self) -> Each<'_, B> {
        Each {
            x: &self.x,
            y: &self.y,
        }
    }
}

/// Changes the number of groups of a column that may hold secrets. What goes is overwritten, be it the end of a column
/// that shrinks or all of one that has to move to grow, whose values are then zeros.
pub(crate) fn resize<B: Backend>(backend: B, column: &mut Column<B>, groups: usize) {
    let zeros = [backend.splat(&FieldElement::ZERO); CHAINS];
    let kept = match groups > column.capacity() {
        true => 0,
        false => groups.min(column.len()),
    };
    let gone = &mut column[kept..];
    if !gone.is_empty() {
        gone.fill(zeros);
        std::hint::black_box(&*gone);
    }
    column.resize(groups, zeros);
}

/// Overwrites a column that held secrets.
pub(crate) fn wipe<B: Backend>(backend: B, column: &mut Column<B>) {
    column.fill([backend.splat(&FieldElement::ZERO); CHAINS]);
    // So that the compiler takes the zeros for used.
    std::hint::black_box(column.as_slice());
}

/// The steps, and the room they need.
pub(crate) struct Lockstep<B: Backend> {
    pub(crate) backend: B,
    /// x of the next step.
    next_x: Column<B>,
    slope: Column<B>,
    /// Running products of denominators: one group more than there are points.
    products: Column<B>,
}

impl<B: Backend> Lockstep<B> {
    /// Room for batches of exactly `groups` groups.
    pub(crate) fn new(backend: B, groups: usize) -> Self {
        Self {
            backend,
            next_x: column(backend, groups),
            slope: column(backend, groups),
            products: column(backend, groups + 1),
        }
    }

    /// Changes the number of groups.
    pub(crate) fn resize(&mut self, groups: usize) {
        resize(self.backend, &mut self.next_x, groups);
        resize(self.backend, &mut self.slope, groups);
        resize(self.backend, &mut self.products, groups + 1);
    }

    /// Forgets what the steps left behind.
    pub(crate) fn wipe(&mut self) {
        for column in [&mut self.next_x, &mut self.slope, &mut self.products] {
            wipe(self.backend, column);
        }
    }

    /// P = 2P.
    ///
    /// # Errors
    /// [`Degenerate`] if a lane holds no point of the curve.
    pub(crate) fn double(&mut self, p: &mut Points<B>) -> Result<(), Degenerate> {
        let formula = Double {
            x: &p.x,
            y: &mut p.y,
            next_x: &mut self.next_x,
        };
        step(self.backend, &mut self.products, formula)?;
        std::mem::swap(&mut p.x, &mut self.next_x);
        Ok(())
    }

    /// P = P + Q, or P - Q.
    ///
    /// # Errors
    /// [`Degenerate`] if P = ±Q in a lane.
    pub(crate) fn add(
        &mut self,
        p: &mut Points<B>,
        q: impl Operand<B>,
        negate: bool,
    ) -> Result<(), Degenerate> {
        let formula = Add {
            x: &p.x,
            y: &mut p.y,
            next_x: &mut self.next_x,
            q,
            negate,
        };
        step(self.backend, &mut self.products, formula)?;
        std::mem::swap(&mut p.x, &mut self.next_x);
        Ok(())
    }

    /// x of P + Q. P stays.
    ///
    /// # Errors
    /// [`Degenerate`] if P = ±Q in a lane.
    pub(crate) fn add_x(
        &mut self,
        p: &Points<B>,
        q: impl Operand<B>,
    ) -> Result<&Column<B>, Degenerate> {
        let formula = AddX {
            x: &p.x,
            y: &p.y,
            sum_x: &mut self.next_x,
            q,
        };
        step(self.backend, &mut self.products, formula)?;
        Ok(&self.next_x)
    }

    /// P = 2P + Q, or 2P - Q.
    ///
    /// # Errors
    /// [`Degenerate`] if P = ±Q or 2P ± Q = infinity in a lane.
    pub(crate) fn double_add(
        &mut self,
        p: &mut Points<B>,
        q: impl Operand<B>,
        negate: bool,
    ) -> Result<(), Degenerate> {
        let first = DoubleAdd {
            x: &p.x,
            y: &p.y,
            middle_x: &mut self.next_x,
            slope: &mut self.slope,
            q,
            negate,
        };
        step(self.backend, &mut self.products, first)?;
        let second = DoubleAddEnd {
            x: &p.x,
            y: &mut p.y,
            middle_x: &mut self.next_x,
            slope: &self.slope,
        };
        step(self.backend, &mut self.products, second)?;
        std::mem::swap(&mut p.x, &mut self.next_x);
        Ok(())
    }
}

/// Sets each lane of x and y from a point.
pub(crate) struct LoadPoints<'a, B: Backend, F> {
    pub(crate) backend: B,
    pub(crate) points: &'a mut Points<B>,
    pub(crate) point: F,
}

impl<'p, B: Backend, F: Fn(usize) -> &'p AffinePoint> Task for LoadPoints<'_, B, F> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let b = self.backend;
        let Points { x, y } = self.points;
        let vectors = x.iter_mut().flatten().zip(y.iter_mut().flatten());
        for (vector, (x, y)) in vectors.enumerate() {
            *x = b.load(|lane| &(self.point)(vector * B::LANES + lane).x);
            *y = b.load(|lane| &(self.point)(vector * B::LANES + lane).y);
        }
    }
}

/// Writes point i, in canonical form, to `out[i]`.
struct StorePoints<'a, B: Backend> {
    backend: B,
    points: &'a Points<B>,
    out: &'a mut [AffinePoint],
}

impl<B: Backend> Task for StorePoints<'_, B> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Points { x, y } = self.points;
        let vectors = x.iter().flatten().zip(y.iter().flatten());
        for ((x, y), out) in vectors.zip(self.out.chunks_mut(B::LANES)) {
            let mut lanes = [[FieldElement::ZERO; MAX_LANES]; 2];
            self.backend.store(x, &mut lanes[0][..B::LANES]);
            self.backend.store(y, &mut lanes[1][..B::LANES]);
            for (lane, out) in out.iter_mut().enumerate() {
                *out = AffinePoint {
                    x: lanes[0][lane],
                    y: lanes[1][lane],
                };
            }
        }
    }
}

/// Writes the canonical value of point i's coordinate to `out[i]`.
pub(crate) struct StoreColumn<'a, B: Backend> {
    pub(crate) backend: B,
    pub(crate) column: &'a [Group<B>],
    pub(crate) out: &'a mut [FieldElement],
}

impl<B: Backend> Task for StoreColumn<'_, B> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let vectors = self.column.iter().flatten();
        for (vector, out) in vectors.zip(self.out.chunks_mut(B::LANES)) {
            self.backend.store(vector, out);
        }
    }
}

/// Each vector times the same one.
pub(crate) struct Scale<'a, B: Backend> {
    pub(crate) backend: B,
    pub(crate) column: &'a [Group<B>],
    pub(crate) factor: &'a FieldElement,
    pub(crate) out: &'a mut [Group<B>],
}

impl<B: Backend> Task for Scale<'_, B> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let factor = self.backend.splat(self.factor);
        for (out, group) in self.out.iter_mut().zip(self.column) {
            for c in 0..CHAINS {
                out[c] = self.backend.mul(&group[c], &factor);
            }
        }
    }
}

/// -y in every lane.
pub(crate) struct Negate<'a, B: Backend> {
    pub(crate) backend: B,
    pub(crate) column: &'a mut [Group<B>],
}

impl<B: Backend> Task for Negate<'_, B> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for vector in self.column.iter_mut().flatten() {
            *vector = self.backend.negate_lanes(vector, u32::MAX);
        }
    }
}

fn step<B: Backend>(
    backend: B,
    products: &mut [Group<B>],
    formula: impl Formula<B>,
) -> Result<(), Degenerate> {
    backend.run(Step {
        backend,
        products,
        formula,
    })
}

/// A formula applied to all points of a batch.
struct Step<'a, B: Backend, F> {
    backend: B,
    products: &'a mut [Group<B>],
    formula: F,
}

impl<B: Backend, F: Formula<B>> Task for Step<'_, B, F> {
    type Output = Result<(), Degenerate>;

    /// Montgomery's trick, once for each chain: products of all denominators before a point, one inversion,
    /// and back, each inverse being the total one times the product before it.
    #[inline(always)]
    fn run(self) -> Result<(), Degenerate> {
        let Self {
            backend: b,
            products,
            mut formula,
        } = self;
        let groups = products.len() - 1;
        products[0] = [b.splat(&FieldElement::ONE); CHAINS];
        for group in 0..groups {
            for c in 0..CHAINS {
                products[group + 1][c] =
                    formula.times_denominator(b, group, c, &products[group][c]);
            }
        }
        let mut inverses = invert(b, &products[groups])?;
        // Once here, the numerator comes out in every inverse.
        let numerator = b.splat(&F::NUMERATOR);
        for inverse in &mut inverses {
            *inverse = b.mul(inverse, &numerator);
        }
        // Outside of the loop, since to make a copy is a call of memcpy.
        let mut own = inverses;
        for group in (0..groups).rev() {
            for c in 0..CHAINS {
                own[c] = b.mul(&inverses[c], &products[group][c]);
            }
            for c in 0..CHAINS {
                inverses[c] = formula.times_denominator(b, group, c, &inverses[c]);
            }
            formula.finish(b, group, &mut own);
        }
        Ok(())
    }
}

/// The inverse of every lane of every chain.
#[inline(always)]
fn invert<B: Backend>(b: B, totals: &Group<B>) -> Result<Group<B>, Degenerate> {
    let mut products = *totals;
    for c in 1..CHAINS {
        products[c] = b.mul(&products[c - 1], &totals[c]);
    }
    let mut inverse = invert_lanes(b, &products[CHAINS - 1])?;
    let mut inverses = *totals;
    for c in (1..CHAINS).rev() {
        inverses[c] = b.mul(&inverse, &products[c - 1]);
        inverse = b.mul(&inverse, &totals[c]);
    }
    inverses[0] = inverse;
    Ok(inverses)
}

/// The inverse of every lane.
#[inline(always)]
fn invert_lanes<B: Backend>(b: B, vector: &Tight<B>) -> Result<Tight<B>, Degenerate> {
    let mut lanes = [FieldElement::ZERO; MAX_LANES];
    b.store(vector, &mut lanes[..B::LANES]);
    invert_each(&mut lanes[..B::LANES])?;
    Ok(b.load(|lane| &lanes[lane]))
}

/// Replaces each value by its inverse: the same trick on single elements.
#[inline(never)]
fn invert_each(values: &mut [FieldElement]) -> Result<(), Degenerate> {
    let p = Portable;
    let mut products = [p.splat(&FieldElement::ONE); MAX_LANES + 1];
    for (i, value) in values.iter().enumerate() {
        products[i + 1] = p.mul(&products[i], &p.splat(value));
    }
    let mut total = [FieldElement::ZERO];
    p.store(&products[values.len()], &mut total);
    let mut inverse = p.splat(&total[0].inverse_vartime().ok_or(Degenerate)?);
    for (i, value) in values.iter_mut().enumerate().rev() {
        let own = p.mul(&inverse, &products[i]);
        inverse = p.mul(&inverse, &p.splat(value));
        p.store(&own, std::slice::from_mut(value));
    }
    Ok(())
}
