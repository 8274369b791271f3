//! Tweaks to candidate output keys, in batches over the cores.

use rayon::prelude::*;

use super::Candidate;
use crate::curve::{CandidateScanner, SCAN_BATCH, TweakPoint, batch_for_threads};

/// See [`super::Scanner::candidates`].
pub(super) fn candidates(engine: &dyn CandidateScanner, tweaks: &[TweakPoint]) -> Vec<Candidate> {
    let per_tweak = engine.candidates_per_tweak();
    let batch = batch_for_threads(tweaks.len(), rayon::current_num_threads(), SCAN_BATCH);
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
