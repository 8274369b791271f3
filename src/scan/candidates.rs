//! Tweaks to candidate output keys, in batches over the cores.

use rayon::prelude::*;

use super::Candidate;
use crate::curve::{CandidateScanner, TweakPoint};

/// Most tweaks an engine gets at once: batched engines gain nothing from more.
const BATCH_MAX: usize = 1024;

/// Fewest, unless there are fewer: below this a batch loses more than a further core gains.
const BATCH_MIN: usize = 64;

/// See [`super::Scanner::candidates`].
pub(super) fn candidates(engine: &dyn CandidateScanner, tweaks: &[TweakPoint]) -> Vec<Candidate> {
    let per_tweak = engine.candidates_per_tweak();
    let batch = tweaks
        .len()
        .div_ceil(rayon::current_num_threads())
        .clamp(BATCH_MIN, BATCH_MAX);
    let batches: Vec<Vec<Candidate>> = tweaks
        .par_chunks(batch)
        .enumerate()
        .map_with(Vec::new(), |keys, (number, chunk)| {
            engine.candidates(chunk, keys);
            debug_assert_eq!(keys.len(), chunk.len() * per_tweak);
            keys.iter()
                .enumerate()
                .filter(|(_, key)| **key != [0; 32])
                .map(|(position, key)| Candidate {
                    tweak: number * batch + position / per_tweak,
                    key: *key,
                })
                .collect()
        })
        .collect();
    batches.concat()
}
