//! Tweaks to candidate output keys, in batches over the cores.

use rayon::prelude::*;

use super::Candidate;
use crate::curve::{CandidateScanner, TweakPoint};

/// Most tweaks an engine gets at once: batched engines gain nothing from more.
const BATCH_MAX: usize = 1024;

/// Fewest, unless there are fewer: below this a batch loses more than a further core gains.
const BATCH_MIN: usize = 64;

/// See [`super::Scanner::candidates`].
///
/// Every thread gets as many batches of the same size, and each batch is a task of its own: rayon would otherwise hand
/// out runs of them, which nobody can take over from a thread that is late.
pub(super) fn candidates(engine: &dyn CandidateScanner, tweaks: &[TweakPoint]) -> Vec<Candidate> {
    let per_tweak = engine.candidates_per_tweak();
    let threads = rayon::current_num_threads();
    let batches = threads * tweaks.len().div_ceil(threads * BATCH_MAX).max(1);
    let batch = tweaks.len().div_ceil(batches).max(BATCH_MIN);
    let batches: Vec<Vec<Candidate>> = tweaks
        .par_chunks(batch)
        .with_max_len(1)
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
