//! What one commit did to the chain of the index, and who is told.

use std::sync::RwLock;

use super::plan::Plan;
use crate::BlockId;

/// A change of the index's chain: what went, then what came. Neither where nothing but more became known of the blocks
/// there are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// The last block that was there before and still is; `None` if there is none.
    pub fork: Option<BlockId>,
    /// Blocks that are no longer in the index, newest first.
    pub disconnected: Vec<BlockId>,
    /// Blocks that are now, oldest first.
    pub connected: Vec<BlockId>,
    /// The tip after it; `None` for an index without blocks.
    pub tip: Option<BlockId>,
}

impl Applied {
    /// Whether any block went or came.
    pub fn moves_the_chain(&self) -> bool {
        !(self.disconnected.is_empty() && self.connected.is_empty())
    }

    pub(super) fn by(plan: &Plan<'_>) -> Self {
        Self {
            fork: plan.fork,
            disconnected: plan.disconnect.clone(),
            connected: plan.connect.iter().map(|record| record.id).collect(),
            tip: plan.tip(),
        }
    }
}

type Listener = Box<dyn Fn(&Applied) + Send + Sync>;

/// Those who are told of each commit.
#[derive(Default)]
pub(super) struct Listeners(RwLock<Vec<Listener>>);

impl Listeners {
    pub(super) fn add(&self, listener: Listener) {
        let mut listeners = self.0.write().unwrap_or_else(|held| held.into_inner());
        listeners.push(listener);
    }

    pub(super) fn tell(&self, applied: &Applied) {
        let listeners = self.0.read().unwrap_or_else(|held| held.into_inner());
        for listener in listeners.iter() {
            listener(applied);
        }
    }
}
