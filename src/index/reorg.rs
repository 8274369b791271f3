//! Where the index and the node's active chain part: what the rule ([`fork`](super::fork)) wants to know.

use super::IndexError;
use super::fork::{Held, Search, Seen, Step};
use crate::BlockId;
use crate::chain::{BlockSource, ChainError, Node};
use crate::store::Snapshot;

/// What has to happen to the index's tip before blocks can be connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fork {
    /// The tip is on the active chain (or the index is empty).
    None,
    /// This many blocks at the tip have others in their place on the active chain, or are invalid to the node.
    Disconnect(u32),
    /// The active chain ends below the index's tip and contradicts none of its blocks: the node is catching up (after a
    /// restart from an older state, say, or a reindex), or another one behind the same address has not come as far.
    NodeBehind,
}

/// Compares the index with the active chain, from the lower of both tips downwards.
///
/// # Errors
/// [`IndexError::ReorgTooDeep`] if the chains part below the last block that can be disconnected, and
/// [`IndexError::OtherChain`] if they share none but the genesis block and the node does not know the index's.
pub(super) async fn find_fork(
    snapshot: &Snapshot,
    source: &dyn BlockSource,
    node: Option<&dyn Node>,
    node_tip: BlockId,
) -> Result<Fork, IndexError> {
    let Some(tip) = snapshot.tip() else {
        return Ok(Fork::None);
    };
    let lowest = snapshot.undo_from()?.unwrap_or(tip.height + 1);
    let held = Held {
        first: snapshot.first_height(),
        tip: tip.height,
        lowest,
    };
    let (mut search, mut step) = Search::start(held, node_tip.height);
    loop {
        let height = match step {
            Step::Look(height) => height,
            Step::OnChain => return Ok(Fork::None),
            Step::NodeBehind => return Ok(Fork::NodeBehind),
            Step::AskIfInvalid(depth) => {
                return Ok(match is_rejected(node, tip).await {
                    true => Fork::Disconnect(depth),
                    false => Fork::NodeBehind,
                });
            }
            Step::Replaced {
                depth,
                is_within_reach,
                may_be_other_chain,
            } => {
                if may_be_other_chain {
                    require_same_chain(snapshot, source).await?;
                }
                return match is_within_reach {
                    true => Ok(Fork::Disconnect(depth)),
                    false => Err(IndexError::ReorgTooDeep { tip, lowest }),
                };
            }
        };
        let ours = snapshot.block(height)?.map(|block| block.id());
        let seen = match active_block(source, height, node_tip).await? {
            None => Seen::Nothing,
            Some(theirs) if Some(theirs) == ours => Seen::Same,
            Some(_) => Seen::Other,
        };
        step = search.seen(height, seen);
    }
}

/// Whether the node calls the index's tip invalid; one that does not say so has not said it.
async fn is_rejected(node: Option<&dyn Node>, tip: BlockId) -> bool {
    let Some(node) = node else {
        return false;
    };
    let rejected = node.rejects(tip).await.inspect_err(|error| {
        tracing::debug!("the node does not say whether block {tip} is valid to it: {error}");
    });
    rejected.unwrap_or(false)
}

/// Looks at the lowest block of the index above the genesis block, which chains of one network may share: a node that
/// has another one in its place and has never heard of ours is on another chain, however low the fork.
async fn require_same_chain(
    snapshot: &Snapshot,
    source: &dyn BlockSource,
) -> Result<(), IndexError> {
    let height = snapshot.first_height().max(1);
    let Some(ours) = snapshot.block(height)?.map(|block| block.id()) else {
        return Ok(());
    };
    match source.block_at(height).await? {
        Some(theirs) if theirs != ours => match source.block(ours).await {
            Ok(_) => Ok(()),
            Err(ChainError::NotAvailable(_)) => Err(IndexError::OtherChain { ours, theirs }),
            Err(error) => Err(error.into()),
        },
        _ => Ok(()),
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
