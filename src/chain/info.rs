//! What a node says about its chain: `getblockchaininfo`, which REST gives as `chaininfo.json`.

use bitcoin::{BlockHash, Network};
use serde::Deserialize;

use super::ChainError;
use super::http::one_line;
use crate::BlockId;

/// The part of it that matters here.
#[derive(Debug, Deserialize)]
pub(super) struct ChainInfo {
    chain: String,
    blocks: u32,
    bestblockhash: BlockHash,
    #[serde(default)]
    initialblockdownload: bool,
    pruneheight: Option<u32>,
}

impl ChainInfo {
    /// The active chain's tip.
    pub(super) fn tip(&self) -> BlockId {
        BlockId {
            height: self.blocks,
            hash: self.bestblockhash,
        }
    }

    /// Checks the network; `flag` names the setting that holds the node's `url`.
    ///
    /// # Errors
    /// `Setup` for a node of another network.
    pub(super) fn require(
        &self,
        network: Network,
        url: &str,
        flag: &str,
    ) -> Result<(), ChainError> {
        if Network::from_core_arg(&self.chain) == Ok(network) {
            return Ok(());
        }
        Err(ChainError::Setup(format!(
            "{url} serves the network \"{}\" and not \"{}\"; check --network and {flag}",
            one_line(&self.chain),
            network.to_core_arg()
        )))
    }

    /// Logs what is worth knowing of a node that serves no whole chain.
    pub(super) fn log(&self) {
        if self.initialblockdownload {
            tracing::info!(
                height = self.blocks,
                "the node is still downloading the chain; the index follows it"
            );
        }
        if let Some(height) = self.pruneheight {
            tracing::warn!(
                height,
                "the node is pruned: it has no blocks below this height"
            );
        }
    }
}

/// What to do about a missing block, where the node says that it pruned it.
pub(super) fn prune_cure(reason: &str) -> &'static str {
    match reason.contains("pruned") || reason.contains("undo not available") {
        true => "; index with an unpruned node (prune=0)",
        false => "",
    }
}
