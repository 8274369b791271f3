//! The parts of a backend, for benchmarks to run by themselves.

#![expect(
    clippy::needless_range_loop,
    reason = "chains and limbs are counted through several arrays at once"
)]

use super::arch::{Backend, Task};
use super::batch::{Lockstep, Points, groups_for};
use super::batch_sizes::full_batch;
use super::group::{AffinePoint, CHAINS, Constant, Group};

/// Something to be timed.
pub struct Operation {
    /// What it is.
    pub name: &'static str,
    /// How often it is done, or on how many points, in one run.
    pub count: usize,
    /// Does it.
    pub run: Box<dyn FnMut()>,
}

/// Each vector replaced by its power: products or squares, [`CHAINS`] independent ones at a time.
struct Powers<'a, B: Backend> {
    backend: B,
    column: &'a mut [Group<B>],
    squares: bool,
}

impl<B: Backend> Task for Powers<'_, B> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let b = self.backend;
        if self.squares {
            for group in self.column {
                for c in 0..CHAINS {
                    group[c] = b.square(&group[c]);
                }
            }
        } else {
            for group in self.column {
                for c in 0..CHAINS {
                    group[c] = b.mul(&group[c], &group[c]);
                }
            }
        }
    }
}

/// The field operations and the steps of a backend.
pub(super) fn operations<B: Backend>(backend: B) -> Vec<Operation> {
    let groups = groups_for::<B>(full_batch::<B>());
    let generator = AffinePoint::generator();
    // 2G everywhere, so that G can be added.
    let points = move || {
        let mut points = Points::new(backend, groups);
        points.load(backend, |_| &generator);
        // G has a double.
        let _ = Lockstep::new(backend, groups).double(&mut points);
        points
    };
    let mut q = Points::new(backend, groups);
    q.load(backend, |_| &generator);

    let operation = |name, run: Box<dyn FnMut()>| Operation {
        name,
        count: full_batch::<B>(),
        run,
    };
    let powers = |squares| {
        let mut column = points().x;
        Box::new(move || {
            backend.run(Powers {
                backend,
                column: &mut column,
                squares,
            });
        })
    };
    let step = |step: fn(&mut Lockstep<B>, &mut Points<B>, &Points<B>)| {
        let (mut lockstep, mut points, q) = (Lockstep::new(backend, groups), points(), q.clone());
        Box::new(move || step(&mut lockstep, &mut points, &q))
    };
    let constant = Constant::new(backend, &generator);
    let (mut lockstep, p) = (Lockstep::new(backend, groups), points());
    // No multiple of 2G that a benchmark gets to is ±G: all steps succeed.
    vec![
        operation("multiply", powers(false)),
        operation("square", powers(true)),
        operation(
            "2P",
            step(|lockstep, p, _| {
                let _ = lockstep.double(p);
            }),
        ),
        operation(
            "P + Q",
            step(|lockstep, p, q| {
                let _ = lockstep.add(p, q.operand(), false);
            }),
        ),
        operation(
            "2P + Q",
            step(|lockstep, p, q| {
                let _ = lockstep.double_add(p, q.operand(), false);
            }),
        ),
        operation(
            "x of P + Q",
            Box::new(move || {
                let _ = lockstep.add_x(&p, &constant);
            }),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use crate::curve::{ENGINES, EngineKind};

    #[test]
    fn each_backend_that_runs_here_can_be_measured() {
        for entry in &ENGINES {
            let names: Vec<_> = entry.operations().iter().map(|o| o.name).collect();
            let is_batched = entry.kind != EngineKind::LibSecp256k1;
            let expected: &[&str] = match is_batched && entry.is_available() {
                true => &["multiply", "square", "2P", "P + Q", "2P + Q", "x of P + Q"],
                false => &[],
            };
            assert_eq!(names, expected, "{}", entry.name);
        }
    }
}
