//! Blocks that come and go.

use std::sync::Arc;

use bitcoin::BlockHash;
use tokio::task;

use super::Follower;
use crate::BlockId;
use crate::chain::{BlockWithPrevouts, ChainError};
use crate::mempool::view::BlockSpends;

impl Follower {
    /// A block that the node says it has connected.
    pub(super) async fn connect_next(&mut self, hash: BlockHash) -> Result<(), ChainError> {
        let Some(tip) = self.chain.tip() else {
            self.lose();
            return Ok(());
        };
        let id = BlockId {
            height: tip.height + 1,
            hash,
        };
        if self.shared.state().view.len() == 0 {
            // A list finds out if it is none that follows.
            self.chain.push(id);
            return Ok(());
        }
        match self.reader.node.block(id).await {
            Ok(block) if block.block.header().prev_blockhash == tip.hash => {
                self.connect(block).await
            }
            Err(error @ ChainError::Unreachable(_)) => Err(error),
            // The list's way finds out what became of it.
            _ => {
                self.lose();
                Ok(())
            }
        }
    }

    /// Follows the node's chain to a tip; false where not all blocks on the way could be looked at.
    pub(super) async fn walk_to(&mut self, tip: BlockId) -> Result<bool, ChainError> {
        if self.chain.tip() == Some(tip) {
            return Ok(true);
        }
        if self.shared.state().view.len() == 0 {
            self.chain.restart(tip);
            return Ok(true);
        }
        let node = Arc::clone(&self.reader.node);
        let mut fork = None;
        for id in self.chain.newest_first() {
            if node.block_at(id.height).await? == Some(id) {
                fork = Some(id.height);
                break;
            }
        }
        let Some(fork) = fork else {
            self.chain.restart(tip);
            return Ok(false);
        };
        self.chain.cut_above(fork);
        let mut is_seen = true;
        for height in fork + 1..=tip.height {
            let moved = || ChainError::NotAvailable("the node's chain changes".to_owned());
            let id = node.block_at(height).await?.ok_or_else(moved)?;
            match node.block(id).await {
                Ok(block) => self.connect(block).await?,
                Err(error @ ChainError::Unreachable(_)) => return Err(error),
                Err(error) => {
                    tracing::debug!("mempool: block {id} is not looked at: {error}");
                    self.chain.push(id);
                    is_seen = false;
                }
            }
        }
        match self.chain.tip() == Some(tip) {
            true => Ok(is_seen),
            false => {
                let text = "the node's chain has changed while it was followed";
                Err(ChainError::NotAvailable(text.to_owned()))
            }
        }
    }

    async fn connect(&mut self, block: BlockWithPrevouts) -> Result<(), ChainError> {
        let id = block.id;
        let spends = task::spawn_blocking(move || spends_of(&block));
        let Ok(spends) = spends.await else {
            return Err(ChainError::Unreachable(format!(
                "block {id} was not read: the program is stopping"
            )));
        };
        self.chain.push(id);
        for (txid, _) in &spends.transactions {
            self.backlog.remove(txid);
        }
        let mut state = self.shared.state();
        let steps = state.view.connect(&spends);
        state.tell(steps, &Arc::default());
        self.changed.send_replace(state.news.next());
        Ok(())
    }
}

fn spends_of(block: &BlockWithPrevouts) -> BlockSpends {
    let transactions = block.block.transactions().filter(|tx| !tx.is_coinbase());
    let transactions = transactions.map(|tx| {
        let spends = tx.inputs().map(|input| input.previous_output());
        (tx.txid(), spends.collect())
    });
    BlockSpends {
        id: block.id,
        transactions: transactions.collect(),
    }
}
