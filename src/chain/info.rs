//! What a node says about its chain: `getblockchaininfo`, which REST gives as `chaininfo.json`.

use std::sync::OnceLock;

use bitcoin::{BlockHash, Network, ScriptBuf};
use serde::Deserialize;

use super::ChainError;
use super::http::one_line;
use crate::BlockId;

/// The part of it that matters here.
#[derive(Debug, Deserialize)]
pub(super) struct ChainInfo {
    #[serde(flatten)]
    identity: Identity,
    blocks: u32,
    bestblockhash: BlockHash,
    #[serde(default)]
    initialblockdownload: bool,
    pruneheight: Option<u32>,
}

/// Which chain it is, as far as the node says.
#[derive(Debug, Clone, Deserialize)]
struct Identity {
    chain: String,
    /// The script that signs the blocks of a signet, in hex; older nodes do not say.
    signet_challenge: Option<String>,
}

impl ChainInfo {
    /// The active chain's tip.
    pub(super) fn tip(&self) -> BlockId {
        BlockId {
            height: self.blocks,
            hash: self.bestblockhash,
        }
    }

    /// Whether the node is still downloading the chain, as far as it knows.
    pub(super) fn is_downloading(&self) -> bool {
        self.initialblockdownload
    }

    /// The challenge of the signet that the node is on, if it is on one and says so.
    ///
    /// # Errors
    /// `Mismatch` for what is no script.
    pub(super) fn signet_challenge(&self, url: &str) -> Result<Option<ScriptBuf>, ChainError> {
        let hex = self.identity.signet_challenge.as_deref();
        let script = hex.map(ScriptBuf::from_hex).transpose();
        script.map_err(|e| {
            ChainError::Mismatch(format!("{url} names a signet challenge that is none ({e})"))
        })
    }

    /// The network as the node calls it, on one line.
    pub(super) fn chain(&self) -> String {
        one_line(&self.identity.chain)
    }

    /// What to say of a block that the node pruned; `None` if it did not.
    pub(super) fn pruned(&self, url: &str, id: BlockId) -> Option<ChainError> {
        let lowest = self.pruneheight.filter(|lowest| id.height < *lowest)?;
        Some(ChainError::Setup(format!(
            "{url}: the node has pruned block {id}, and the lowest height it can serve is {lowest}; start a new index there (--first-height {lowest}), or use an unpruned node (prune=0)"
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

/// The chain that an address served when it was checked. Whatever is there later has to serve the same one.
#[derive(Debug, Default)]
pub(super) struct KnownChain(OnceLock<Identity>);

impl KnownChain {
    /// Whether the address has been checked.
    pub(super) fn is_known(&self) -> bool {
        self.0.get().is_some()
    }

    /// Checks that an answer is of the chain that was checked, if one was.
    ///
    /// # Errors
    /// `Setup` for another network, or a signet of another challenge.
    pub(super) fn require(&self, info: &ChainInfo, url: &str) -> Result<(), ChainError> {
        let Some(known) = self.0.get() else {
            return Ok(());
        };
        let now = &info.identity;
        if known.chain != now.chain {
            return Err(ChainError::Setup(format!(
                "{url} serves the network \"{}\" now and not \"{}\" as before; it is another node, which is not followed: start the right one there again",
                one_line(&now.chain),
                one_line(&known.chain)
            )));
        }
        match (&known.signet_challenge, &now.signet_challenge) {
            (Some(known), Some(now)) if known != now => Err(ChainError::Setup(format!(
                "{url} serves a signet of another challenge now ({}) than before ({}); it is another node, which is not followed: start the right one there again",
                one_line(now),
                one_line(known)
            ))),
            _ => Ok(()),
        }
    }

    /// Checks that an answer is of `network`, and of the chain that was checked before.
    ///
    /// # Errors
    /// `Setup` for a node of another chain.
    pub(super) fn check(
        &self,
        info: &ChainInfo,
        network: Network,
        url: &str,
    ) -> Result<(), ChainError> {
        self.require(info, url)?;
        if Network::from_core_arg(&info.identity.chain) != Ok(network) {
            return Err(ChainError::Setup(format!(
                "{url} serves the network \"{}\" and not \"{}\"; check --network and the node's address (--node-url, --rpc-url)",
                info.chain(),
                network.to_core_arg()
            )));
        }
        Ok(())
    }

    /// Takes what an answer says for the chain to serve, the first time, when all was found right.
    pub(super) fn learn(&self, info: &ChainInfo) {
        self.0.get_or_init(|| info.identity.clone());
    }
}

/// Checks the first block of a node's chain.
///
/// # Errors
/// `Setup` where it is not the network's.
pub(super) fn check_genesis(
    hash: Option<BlockHash>,
    network: Network,
    url: &str,
) -> Result<(), ChainError> {
    let genesis = bitcoin::constants::genesis_block(network).block_hash();
    match hash {
        Some(hash) if hash == genesis => Ok(()),
        Some(hash) => Err(ChainError::Setup(format!(
            "{url} serves a chain that begins with block {hash} and not with \"{}\"'s {genesis}; check --network and the node's address (--node-url, --rpc-url)",
            network.to_core_arg()
        ))),
        None => Err(ChainError::Mismatch(format!(
            "{url} names no first block of its chain; is this a Bitcoin Core node?"
        ))),
    }
}

/// Whether the node's reason for not giving a block, or what it spends, is that it is pruned.
pub(super) fn is_pruned(reason: &str) -> bool {
    reason.contains("pruned") || reason.contains("undo not available")
}

/// What to do about a missing block, where the node says that it pruned it.
pub(super) fn prune_cure(reason: &str) -> &'static str {
    match is_pruned(reason) {
        true => "; index with an unpruned node (prune=0)",
        false => "",
    }
}
