//! Tweaks to candidate output keys, in batches over the cores.

use std::ops::Range;

use rayon::prelude::*;

use crate::curve::{
    Batch, CandidateChunk, CandidateScanner, Engine, SCAN_BATCH, TWEAK_BATCH, TweakPoint,
    batch_for_threads,
};

/// See [`super::Scanner::decompress`].
pub(super) fn decompress(engine: &dyn Engine, tweaks: &[[u8; 33]]) -> Vec<Option<TweakPoint>> {
    let batch = batch_for_threads(tweaks.len(), rayon::current_num_threads(), TWEAK_BATCH);
    let batches = tweaks.par_chunks(batch).with_max_len(1);
    batches
        .flat_map_iter(|tweaks| engine.decompress(tweaks))
        .collect()
}

/// See [`super::Scanner::scan`].
pub(super) fn scan<T: Send>(
    engine: &dyn CandidateScanner,
    tweaks: &[TweakPoint],
    begin: &(impl Fn(Range<usize>) -> T + Sync),
    take: &(impl Fn(&mut T, CandidateChunk<'_>) + Sync),
) -> Vec<T> {
    let batch = batch_for_threads(tweaks.len(), rayon::current_num_threads(), SCAN_BATCH);
    tweaks
        .par_chunks(batch)
        .with_max_len(1)
        .enumerate()
        .map(|(number, tweaks)| {
            let start = number * batch;
            let mut batch = begin(start..start + tweaks.len());
            engine.scan(Batch::of(tweaks), &mut |chunk| {
                take(&mut batch, chunk.behind(start));
            });
            batch
        })
        .collect()
}
