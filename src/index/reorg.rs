//! Where the index and the node's active chain part.

use super::IndexError;
use crate::BlockId;
use crate::chain::BlockSource;
use crate::store::Snapshot;

/// What has to happen to the index's tip before blocks can be connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fork {
    /// The tip is on the active chain (or the index is empty).
    None,
    /// This many blocks at the tip are not on the active chain.
    Disconnect(u32),
    /// The active chain ends below the index's tip, deeper than may be disconnected, without contradicting it: the
    /// node is still catching up (for example after a reindex).
    NodeBehind,
}

/// Compares the index with the active chain, from the index's tip downwards.
///
/// # Errors
/// [`IndexError::ReorgTooDeep`] if the chains part below the last block that can be disconnected.
pub(super) async fn find_fork(
    snapshot: &Snapshot,
    source: &dyn BlockSource,
    node_tip: BlockId,
) -> Result<Fork, IndexError> {
    let Some(tip) = snapshot.tip() else {
        return Ok(Fork::None);
    };
    let lowest = snapshot.undo_from()?.unwrap_or(tip.height + 1);
    let mut height = tip.height;
    loop {
        let ours = snapshot.block(height)?.map(|block| block.id);
        let theirs = active_block(source, height, node_tip).await?;
        if ours.is_some() && ours == theirs {
            return Ok(match tip.height - height {
                0 => Fork::None,
                depth => Fork::Disconnect(depth),
            });
        }
        if height < lowest {
            return match theirs {
                None => Ok(Fork::NodeBehind),
                Some(_) => Err(IndexError::ReorgTooDeep { tip, lowest }),
            };
        }
        if height == snapshot.first_height() {
            // Not even the first block is on the active chain: all of it goes.
            return Ok(match theirs {
                None => Fork::NodeBehind,
                Some(_) => Fork::Disconnect(tip.height - height + 1),
            });
        }
        height -= 1;
    }
}

/// The active block at a height, without a request where the tip already tells.
async fn active_block(
    source: &dyn BlockSource,
    height: u32,
    node_tip: BlockId,
) -> Result<Option<BlockId>, IndexError> {
    if height == node_tip.height {
        return Ok(Some(node_tip));
    }
    if height > node_tip.height {
        return Ok(None);
    }
    Ok(source.block_at(height).await?)
}
