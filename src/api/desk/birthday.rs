//! From which height on a wallet of some age has to look.
//!
//! Header times neither ascend nor are they the times at which blocks were made; what ascends is the median of eleven
//! (BIP113). From the first block on that was made at some time or later, all have header times that are at most
//! [`BEHIND_SECONDS`] behind that time. The median at the fifth block after it is of eleven times of which six are of such
//! blocks. So that first block is no more than five below the first one whose median is no further behind.

use super::{DeskError, Reading};
use crate::BlockId;

/// How far the time in a header may be behind the moment at which its block was made.
pub const BEHIND_SECONDS: u32 = 7_200;

/// Headers that a median is of.
const MEDIAN_OF: u32 = 11;

/// Blocks that the median is behind at most.
const MEDIAN_BEHIND: u32 = MEDIAN_OF / 2;

impl Reading<'_> {
    /// A block below which every block was made before `time` (Unix seconds), if no header's time is more than
    /// [`BEHIND_SECONDS`] behind the moment at which its block was made; with the time in its header. It is the first of the
    /// index if that may be too young.
    ///
    /// # Errors
    /// [`DeskError::NothingIndexed`]; the index cannot be read.
    pub fn birthday(&self, time: u32) -> Result<(BlockId, u32), DeskError> {
        let status = self.status()?;
        let header_time = |height| Ok::<_, DeskError>(self.block(height)?.time());
        let height = birthday(status.first_height, status.tip.height, time, header_time)?;
        let block = self.block(height)?;
        Ok((block.id(), block.time()))
    }
}

fn birthday<E>(
    first: u32,
    tip: u32,
    time: u32,
    header_time: impl Fn(u32) -> Result<u32, E>,
) -> Result<u32, E> {
    let is_reached = |height: u32| {
        let times = (height - (MEDIAN_OF - 1)..=height).map(&header_time);
        let mut times = times.collect::<Result<Vec<u32>, E>>()?;
        times.sort_unstable();
        let median = times
            .get(MEDIAN_BEHIND as usize)
            .copied()
            .unwrap_or_default();
        Ok(median >= time.saturating_sub(BEHIND_SECONDS))
    };
    // The first one that has as many headers behind it.
    let lowest = first.saturating_add(MEDIAN_OF - 1);
    // All below `low` do not reach the time, those from `high` on do.
    let (mut low, mut high) = (lowest, tip.saturating_add(1));
    while low < high {
        let middle = low + (high - low) / 2;
        match is_reached(middle)? {
            true => high = middle,
            false => low = middle + 1,
        }
    }
    Ok(match low == lowest {
        // Perhaps an earlier one did.
        true => first,
        false => low - MEDIAN_BEHIND,
    })
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::*;

    /// A chain by the rules: the moments at which blocks are made ascend, header times are at most two hours off, and
    /// above the median before.
    fn chain(steps: &[(u32, i32)]) -> Vec<(u32, u32)> {
        let mut blocks: Vec<(u32, u32)> = Vec::new();
        let mut now = 1_500_000_000;
        for &(step, off) in steps {
            now += step;
            let before = blocks.iter().rev().take(11).map(|(_, time)| *time);
            let mut before: Vec<u32> = before.collect();
            before.sort_unstable();
            let least = before.get(before.len() / 2).map_or(0, |median| median + 1);
            // Whoever is above two hours off by that rule makes the block later.
            now = now.max(least.saturating_sub(BEHIND_SECONDS));
            blocks.push((now, now.saturating_add_signed(off).max(least)));
        }
        blocks
    }

    /// The same, looking at every block.
    fn slowly(first: u32, times: &[u32], time: u32) -> u32 {
        let since = time.saturating_sub(7_200);
        for last in 10..times.len() {
            let mut eleven = times[last - 10..=last].to_vec();
            eleven.sort_unstable();
            if eleven[5] >= since {
                return if last == 10 {
                    first
                } else {
                    first + last as u32 - 5
                };
            }
        }
        if times.len() <= 10 {
            first
        } else {
            first + times.len() as u32 - 5
        }
    }

    proptest! {
        #[test]
        fn no_block_below_was_made_since(
            first in prop_oneof![Just(0_u32), Just(709_632), Just(u32::MAX - 400)],
            steps in prop::collection::vec((0_u32..4_000, -7_200..=7_200_i32), 1..300),
            at in 0.0_f64..1.1,
        ) {
            let blocks = chain(&steps);
            let (begin, end) = (blocks[0].0, blocks[blocks.len() - 1].0);
            let time = begin + (f64::from(end - begin) * at) as u32;
            let tip = first + blocks.len() as u32 - 1;
            let times: Vec<u32> = blocks.iter().map(|(_, time)| *time).collect();
            let read = |height: u32| Ok::<_, Infallible>(times[(height - first) as usize]);
            let Ok(height) = birthday(first, tip, time, read);
            prop_assert_eq!(height, slowly(first, &times, time));
            prop_assert!((first..=tip).contains(&height));
            let below = &blocks[..(height - first) as usize];
            prop_assert!(below.iter().all(|(made, _)| *made < time), "at {}", height);
        }
    }

    /// Blocks every ten minutes, as their headers say: two hours and a block at most are looked at for nothing.
    #[test]
    fn the_height_is_no_lower_than_it_must_be() {
        let time = |height: u32| Ok::<_, Infallible>(1_600_000_000 + 600 * height);
        for (asked, expected) in [
            (0, 0),
            (1_600_000_000 + 600 * 500, 488),
            (1_600_000_000 + 600 * 500 + 1, 489),
            (u32::MAX, 996),
        ] {
            assert_eq!(birthday(0, 1_000, asked, time), Ok(expected), "{asked}");
        }
    }

    #[test]
    fn a_million_blocks_take_a_look_at_few() {
        let looked = std::cell::Cell::new(0);
        let time = |height: u32| {
            looked.set(looked.get() + 1);
            Ok::<_, Infallible>(1_300_000_000 + height)
        };
        let found = birthday(0, 1_000_000, 1_300_700_000, time);
        assert_eq!(found, Ok(700_000 - 7_200));
        assert!(looked.get() <= 11 * 20);
    }
}
