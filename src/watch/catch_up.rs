//! What is to be said where an index was brought forward by somebody who did not follow.

use super::error::WatchError;
use super::follower::Follower;
use super::lineage::Lineage;
use super::pass::{Move, Pass};
use crate::BlockId;
use crate::store::watches::WatchLog;
use crate::store::{Snapshot, StoreError};

/// Watches that are followed in one pass.
const PASS_ROWS: usize = 1_024;

/// Brings the log to the snapshot's tip, where updates have gone by that nobody followed: what blocks said that are no longer in
/// the chain is taken back, and everybody who waits is followed from there.
pub(super) fn catch_up(
    follower: &Follower,
    snapshot: &Snapshot,
    log: &mut WatchLog<'_>,
) -> Result<Vec<Move>, WatchError> {
    let watched = follower.watched();
    let is_there = snapshot.watched_to()? == snapshot.tip();
    if is_there || (watched.owners.is_empty() && log.next_cursor() == 1) {
        return Ok(Vec::new());
    }
    let mut moves = Vec::new();
    while let Some(block) = log.last_block()? {
        if is_in_chain(snapshot, Some(block))? {
            break;
        }
        let mut pass = Pass::new(&watched.tips, log);
        pass.disconnect(block.height)?;
        moves.extend(pass.finish()?);
    }
    let mut from = 0;
    loop {
        let rows = log.watches(from, PASS_ROWS)?;
        let Some((last, _)) = rows.last() else { break };
        from = last.saturating_add(1);
        let mut pass = Pass::new(&watched.tips, log);
        for (watch, row) in rows {
            if row.is_over {
                continue;
            }
            let mut lineage = Lineage::new(row, None);
            lineage.follow(snapshot)?;
            pass.follow(watch, lineage.steps, lineage.row)?;
        }
        moves.extend(pass.finish()?);
    }
    let mut pass = Pass::new(&watched.tips, log);
    if let Some(tip) = snapshot.tip() {
        pass.deepen(tip)?;
    }
    moves.extend(pass.finish()?);
    Ok(moves)
}

/// Whether a block is one of the snapshot's; the place before the first one always is.
pub(super) fn is_in_chain(snapshot: &Snapshot, block: Option<BlockId>) -> Result<bool, StoreError> {
    let Some(block) = block else {
        return Ok(true);
    };
    let own = snapshot.block(block.height)?;
    Ok(own.is_some_and(|own| own.id() == block))
}
