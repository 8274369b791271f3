//! What is compared of a scan.

use std::ops::Range;

use crate::curve::libsecp256k1;
use crate::curve::point::TweakPoint;

/// What was handed out for a tweak: two of its candidates, or twice the same.
pub(super) struct Judged {
    pub(super) tweak: TweakPoint,
    pub(super) numbers: [usize; 2],
    pub(super) candidates: [[u8; 32]; 2],
}

impl Judged {
    /// Of tweak `place` of a batch whose candidates with these numbers these are: the first, and another one for each
    /// `count`.
    pub(super) fn new(
        tweaks: &[TweakPoint],
        numbers: &Range<usize>,
        candidates: &[[u8; 32]],
        place: usize,
        count: u64,
    ) -> Self {
        let own = &candidates[place * numbers.len()..][..numbers.len()];
        let others = numbers.len() as u64 - 1;
        let other = (count + place as u64).checked_rem(others);
        let other = other.map_or(0, |other| 1 + other as usize);
        Self {
            tweak: tweaks[place],
            numbers: [numbers.start, numbers.start + other],
            candidates: [own[0], own[other]],
        }
    }

    pub(super) fn agrees(&self, exact: &libsecp256k1::Wallet) -> bool {
        self.candidates == exact.two_candidates(&self.tweak, self.numbers)
    }
}
