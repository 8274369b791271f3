//! Tweaks as points, checked.

use crate::curve::arch::Backend;
use crate::curve::batch::Degenerate;
use crate::curve::group::AffinePoint;
use crate::curve::point::TweakPoint;
use crate::curve::points::are_on_curve;

/// The tweaks of a batch as points.
#[derive(Default)]
pub(super) struct Input {
    pub(super) points: Vec<AffinePoint>,
    pub(super) multiples: Vec<AffinePoint>,
    /// Whether each tweak is a point.
    pub(super) is_valid: Vec<bool>,
    /// Whether each multiple is one.
    are_multiples: Vec<bool>,
}

impl Input {
    /// Takes over tweaks, G in place of those that are no points.
    pub(super) fn load<B: Backend>(&mut self, backend: B, tweaks: &[TweakPoint]) {
        let stand_in = AffinePoint::generator();
        self.points.clear();
        self.points.extend(
            tweaks
                .iter()
                .map(|tweak| tweak.to_affine().unwrap_or(stand_in)),
        );
        self.is_valid.clear();
        self.is_valid.resize(tweaks.len(), false);
        are_on_curve(backend, &self.points, &mut self.is_valid);
        for ((point, is_valid), tweak) in self.points.iter_mut().zip(&mut self.is_valid).zip(tweaks)
        {
            *is_valid &= tweak.to_affine().is_some();
            if !*is_valid {
                *point = stand_in;
            }
        }
    }

    /// Takes over their multiples by 2^64, that of G in place of those whose tweak is no point.
    ///
    /// # Errors
    /// [`Degenerate`] if there is not one on the curve for each tweak that is.
    pub(super) fn load_multiples<B: Backend>(
        &mut self,
        backend: B,
        multiples: &[TweakPoint],
    ) -> Result<(), Degenerate> {
        let stand_in = AffinePoint::generator_times_2_64();
        self.multiples.clear();
        for (multiple, is_valid) in multiples.iter().zip(&self.is_valid) {
            self.multiples.push(match is_valid {
                true => multiple.to_affine().ok_or(Degenerate)?,
                false => stand_in,
            });
        }
        self.are_multiples.clear();
        self.are_multiples.resize(self.multiples.len(), false);
        are_on_curve(backend, &self.multiples, &mut self.are_multiples);
        let all = self.multiples.len() == self.points.len() && !self.are_multiples.contains(&false);
        all.then_some(()).ok_or(Degenerate)
    }

    /// Zeros for the candidates of what was no point.
    pub(super) fn blank_invalid(&self, per_tweak: usize, candidates: &mut [[u8; 32]]) {
        for (is_valid, candidates) in self.is_valid.iter().zip(candidates.chunks_mut(per_tweak)) {
            if !is_valid {
                candidates.fill([0; 32]);
            }
        }
    }
}
