//! Many points at once: compressed ones expanded, and sums of many small groups.

use super::arch::{Backend, Task};
use super::batch::{Degenerate, Lockstep, MAX_LANES, Points, groups_for};
use super::field::FieldElement;
use super::group::{AffinePoint, CHAINS, curve_right_side};
use super::square_root::square_root;

/// Expands SEC1 compressed points; `None` for bytes that are not one.
pub(crate) fn decompress<B: Backend>(backend: B, keys: &[[u8; 33]]) -> Vec<Option<AffinePoint>> {
    let width = B::LANES * CHAINS;
    let mut points = Vec::with_capacity(keys.len());
    // 1 is an x like any other: it stands in where there is none.
    let mut x = vec![FieldElement::ONE; width];
    let mut y = vec![FieldElement::ZERO; width];
    let mut error = vec![FieldElement::ZERO; width];
    for keys in keys.chunks(width) {
        for (x, key) in x.iter_mut().zip(keys) {
            *x = coordinate(key).unwrap_or(FieldElement::ONE);
        }
        backend.run(SolveForY {
            backend,
            x: &x,
            y: &mut y,
            error: &mut error,
        });
        for (i, key) in keys.iter().enumerate() {
            let is_point = coordinate(key).is_some() && error[i].is_zero();
            let y_is_odd = key[0] == 3;
            let y = if y[i].is_odd() == y_is_odd {
                y[i]
            } else {
                y[i].negated()
            };
            points.push(is_point.then_some(AffinePoint { x: x[i], y }));
        }
    }
    points
}

/// x of a compressed point, which need not be on the curve.
fn coordinate(key: &[u8; 33]) -> Option<FieldElement> {
    let (prefix, x) = key.split_first_chunk::<1>()?;
    matches!(prefix, [2 | 3]).then(|| FieldElement::from_be_bytes(x.try_into().ok()?))?
}

/// A y for each x, and what y² differs from x³ + 7 by, for `LANES·CHAINS` at once.
struct SolveForY<'a, B: Backend> {
    backend: B,
    x: &'a [FieldElement],
    y: &'a mut [FieldElement],
    error: &'a mut [FieldElement],
}

impl<B: Backend> Task for SolveForY<'_, B> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let b = self.backend;
        let mut squares = [b.splat(&FieldElement::ONE); CHAINS];
        for (c, square) in squares.iter_mut().enumerate() {
            let x = b.load(|lane| &self.x[c * B::LANES + lane]);
            *square = curve_right_side(b, &x);
        }
        let roots = square_root(b, &squares);
        for (c, root) in roots.iter().enumerate() {
            let lanes = c * B::LANES..(c + 1) * B::LANES;
            b.store(root, &mut self.y[lanes.clone()]);
            let error = b.sub(&b.square(root), &squares[c]);
            b.store(&error, &mut self.error[lanes]);
        }
    }
}

/// Whether each point satisfies the curve equation.
pub(crate) fn are_on_curve<B: Backend>(backend: B, points: &[AffinePoint], valid: &mut [bool]) {
    backend.run(AreOnCurve {
        backend,
        points,
        valid,
    });
}

struct AreOnCurve<'a, B: Backend> {
    backend: B,
    points: &'a [AffinePoint],
    valid: &'a mut [bool],
}

impl<B: Backend> Task for AreOnCurve<'_, B> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let b = self.backend;
        let vectors = self.points.chunks(B::LANES);
        for (points, valid) in vectors.zip(self.valid.chunks_mut(B::LANES)) {
            let last = points.len() - 1;
            let x = b.load(|lane| &points[lane.min(last)].x);
            let y = b.load(|lane| &points[lane.min(last)].y);
            let mut error = [FieldElement::ZERO; MAX_LANES];
            b.store(
                &b.sub(&b.square(&y), &curve_right_side(b, &x)),
                &mut error[..B::LANES],
            );
            for (valid, error) in valid.iter_mut().zip(&error) {
                *valid = error.is_zero();
            }
        }
    }
}

/// The sum of each group of points on the curve; `None` for infinity. Group g ends before `ends[g]`, the next begins there.
///
/// Each round halves every group by adding neighbours, all groups at once. Equal neighbours are doubled, opposite
/// ones vanish. At most `batch` pairs are added at a time.
///
/// # Errors
/// [`Degenerate`] only if a point is off the curve.
pub(crate) fn sums<B: Backend>(
    backend: B,
    batch: usize,
    points: &[AffinePoint],
    ends: &[usize],
) -> Result<Vec<Option<AffinePoint>>, Degenerate> {
    let mut points = points.to_vec();
    let mut ends = ends.to_vec();
    let (mut next, mut next_ends) = (Vec::new(), Vec::new());
    let mut pairs = Pairs::default();
    loop {
        let mut start = 0;
        for &end in &ends {
            for pair in points[start..end].chunks(2) {
                match pair {
                    [a, b] if a.x != b.x => {
                        pairs.different.push((next.len(), *a, *b));
                        next.push(*a);
                    }
                    [a, b] if a.y == b.y => {
                        pairs.equal.push((next.len(), *a));
                        next.push(*a);
                    }
                    [single] => next.push(*single),
                    _ => {}
                }
            }
            next_ends.push(next.len());
            start = end;
        }
        if pairs.different.is_empty() && pairs.equal.is_empty() {
            break;
        }
        pairs.resolve(backend, batch, &mut next)?;
        std::mem::swap(&mut points, &mut next);
        std::mem::swap(&mut ends, &mut next_ends);
        next.clear();
        next_ends.clear();
    }
    let mut start = 0;
    let sum = |end: &usize| {
        let sum = next[start..*end].first().copied();
        start = *end;
        sum
    };
    Ok(next_ends.iter().map(sum).collect())
}

/// Pairs of a round, with the place of each sum.
#[derive(Default)]
struct Pairs {
    different: Vec<(usize, AffinePoint, AffinePoint)>,
    equal: Vec<(usize, AffinePoint)>,
}

impl Pairs {
    /// Writes each sum to its place, and forgets the pairs.
    fn resolve<B: Backend>(
        &mut self,
        backend: B,
        batch: usize,
        sums: &mut [AffinePoint],
    ) -> Result<(), Degenerate> {
        let mut lockstep = Lockstep::new(backend, 0);
        let mut p = Points::new(backend, 0);
        let mut q = Points::new(backend, 0);
        let mut out = Vec::new();
        for pairs in self.different.chunks(batch) {
            let groups = groups_for::<B>(pairs.len());
            lockstep.resize(groups);
            p.resize(backend, groups);
            q.resize(backend, groups);
            p.load(backend, |i| &pairs[i.min(pairs.len() - 1)].1);
            q.load(backend, |i| &pairs[i.min(pairs.len() - 1)].2);
            lockstep.add(&mut p, q.operand(), false)?;
            out.resize(pairs.len(), AffinePoint::generator());
            p.store(backend, &mut out);
            for ((place, ..), sum) in pairs.iter().zip(&out) {
                sums[*place] = *sum;
            }
        }
        for points in self.equal.chunks(batch) {
            let groups = groups_for::<B>(points.len());
            lockstep.resize(groups);
            p.resize(backend, groups);
            p.load(backend, |i| &points[i.min(points.len() - 1)].1);
            lockstep.double(&mut p)?;
            out.resize(points.len(), AffinePoint::generator());
            p.store(backend, &mut out);
            for ((place, _), sum) in points.iter().zip(&out) {
                sums[*place] = *sum;
            }
        }
        self.different.clear();
        self.equal.clear();
        Ok(())
    }
}
