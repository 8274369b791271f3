//! Many points, each times a scalar of its own. Public scalars only: tables are looked up by their digits.
//!
//! Both halves of each scalar are made odd and cut into 26 odd signed digits of 5 bits, so that each lane has the same
//! steps: 16 odd multiples per point, then 25 times four doublings, one of them with the digit of the first
//! half, and an addition for the second. With scalars chosen for it a step may fail: that batch then is
//! left to libsecp256k1.

use super::arch::{Backend, Task};
use super::batch::{Degenerate, LoadPoints, Lockstep, MAX_LANES, Points, groups_for};
use super::field::FieldElement;
use super::group::AffinePoint;
use super::scalar::{Scalar, WINDOW_BITS, WINDOW_DIGITS};

/// Odd multiples that a digit can ask for: 1, 3, .. 31.
const ODD_MULTIPLES: usize = 1 << (WINDOW_BITS - 1);

/// The digits of a scalar's halves.
type Digits = [[i8; WINDOW_DIGITS]; 2];

/// Replaces each point by its scalar times it. Scalars are in 1..n, points on the curve.
///
/// # Errors
/// [`Degenerate`] if a step fails for one of them.
pub(crate) fn multiply<B: Backend>(
    backend: B,
    points: &mut [AffinePoint],
    scalars: &[Scalar],
) -> Result<(), Degenerate> {
    let digits: Vec<Digits> = scalars
        .iter()
        .map(|scalar| scalar.split_odd().map(|half| half.odd_windows()))
        .collect();
    let groups = groups_for::<B>(points.len());
    let mut lockstep = Lockstep::new(backend, groups);
    let table = tabulate(&mut lockstep, points)?;

    let mut value = Points::new(backend, groups);
    let mut term = Points::new(backend, groups);
    let lookup = |position, half, points: &mut Points<B>| {
        backend.run(LookUp {
            backend,
            table: &table,
            digits: &digits,
            position,
            half,
            points,
        });
    };
    lookup(WINDOW_DIGITS - 1, 0, &mut value);
    lookup(WINDOW_DIGITS - 1, 1, &mut term);
    lockstep.add(&mut value, term.operand(), false)?;
    for position in (0..WINDOW_DIGITS - 1).rev() {
        for _ in 1..WINDOW_BITS {
            lockstep.double(&mut value)?;
        }
        lookup(position, 0, &mut term);
        lockstep.double_add(&mut value, term.operand(), false)?;
        lookup(position, 1, &mut term);
        lockstep.add(&mut value, term.operand(), false)?;
    }
    value.store(backend, points);
    Ok(())
}

/// The odd multiples of each point: entry e of point i, (2e + 1) times it, is at `e·points + i`.
fn tabulate<B: Backend>(
    lockstep: &mut Lockstep<B>,
    points: &[AffinePoint],
) -> Result<Vec<AffinePoint>, Degenerate> {
    let backend = lockstep.backend;
    let groups = groups_for::<B>(points.len());
    let last = points.len().saturating_sub(1);
    let mut table = Vec::with_capacity(ODD_MULTIPLES * points.len());
    table.extend_from_slice(points);
    let mut multiple = Points::new(backend, groups);
    backend.run(LoadPoints {
        backend,
        points: &mut multiple,
        point: |i: usize| &points[i.min(last)],
    });
    let mut twice = multiple.clone();
    lockstep.double(&mut twice)?;
    for _ in 1..ODD_MULTIPLES {
        lockstep.add(&mut multiple, twice.operand(), false)?;
        let start = table.len();
        table.resize(start + points.len(), AffinePoint::generator());
        multiple.store(backend, &mut table[start..]);
    }
    Ok(table)
}

/// Sets the point of each lane to its own digit times the lane's point, or λ times that for the second half.
struct LookUp<'a, B: Backend> {
    backend: B,
    table: &'a [AffinePoint],
    digits: &'a [Digits],
    position: usize,
    half: usize,
    points: &'a mut Points<B>,
}

impl<B: Backend> Task for LookUp<'_, B> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let b = self.backend;
        let beta = b.splat(&FieldElement::BETA);
        let count = self.digits.len();
        let Points { x, y } = self.points;
        let vectors = x.iter_mut().flatten().zip(y.iter_mut().flatten());
        for (vector, (x, y)) in vectors.enumerate() {
            let mut entries = [&self.table[0]; MAX_LANES];
            let mut negative = 0;
            for (lane, entry) in entries[..B::LANES].iter_mut().enumerate() {
                let point = (vector * B::LANES + lane).min(count - 1);
                let digit = self.digits[point][self.half][self.position];
                *entry = &self.table[usize::from(digit.unsigned_abs() / 2) * count + point];
                negative |= u32::from(digit < 0) << lane;
            }
            *x = b.load(|lane| &entries[lane].x);
            if self.half == 1 {
                *x = b.mul(x, &beta);
            }
            *y = b.negate_lanes(&b.load(|lane| &entries[lane].y), negative);
        }
    }
}

#[cfg(test)]
mod tests;
