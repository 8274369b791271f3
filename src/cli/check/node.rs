//! Blocks of an index held against a node's, under a progress bar.

use std::collections::BTreeSet;

use secp256k1::rand;

use super::super::output::progress_bar;
use crate::chain::BlockSource;
use crate::check::{SourceCheck, check_against_source};
use crate::curve::Engine;
use crate::index::IndexError;
use crate::store::Snapshot;

/// Heights to compare beside the tip, drawn at random.
pub(in crate::cli) fn draw(snapshot: &Snapshot, blocks: u32) -> BTreeSet<u32> {
    let Some(tip) = snapshot.tip().filter(|_| blocks > 0) else {
        return BTreeSet::new();
    };
    let first = snapshot.first_height();
    let count = tip.height.saturating_sub(first).saturating_add(1);
    let drawn = blocks.min(count) as usize;
    let drawn = rand::seq::index::sample(&mut rand::thread_rng(), count as usize, drawn);
    let heights = drawn.into_iter().map(|offset| first + offset as u32);
    heights.chain([tip.height]).collect()
}

/// [`check_against_source`] with a node as the source.
pub(in crate::cli) async fn check_against_node(
    snapshot: &Snapshot,
    node: &dyn BlockSource,
    engine: &dyn Engine,
    undo_depth: u32,
    heights: &BTreeSet<u32>,
    suspects: &BTreeSet<u32>,
) -> Result<SourceCheck, IndexError> {
    let bar = progress_bar(0, "blocks");
    bar.set_message("node");
    let check = check_against_source(
        snapshot,
        node,
        engine,
        undo_depth,
        heights,
        suspects,
        |done, all| {
            bar.set_length(all as u64);
            bar.set_position(done as u64);
        },
    )
    .await;
    bar.finish_and_clear();
    check
}
