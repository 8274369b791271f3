//! Where a scan begins if nobody says it.

use bitcoin::Network;

use super::super::OracleError;
use super::reorg::changed;
use super::server::Server;
use super::{Interrupted, WalletsClient};

impl WalletsClient {
    /// The first height since taproot that the server can answer for. Logs what it takes for granted.
    pub(super) async fn first_height(&self, tip: u32) -> Result<u32, Interrupted> {
        let taproot = match self.settings.network {
            Network::Bitcoin => 709_632,
            Network::Testnet => 2_011_968,
            _ => 1,
        };
        let first = match &self.server {
            Server::V1(_) => None,
            Server::Native { first, .. } => Some((*first).max(taproot)),
        };
        if let Some(first) = first.filter(|first| *first > taproot) {
            self.tell_late(first);
            return Ok(first);
        }
        if tip <= taproot || first.is_some() || self.has_block(taproot).await? {
            tracing::info!(
                "no first height is given: beginning at block {taproot}, the first that taproot rules hold for"
            );
            return Ok(taproot);
        }
        // The server began later. It has its tip, or there is nothing to scan and the error says so.
        self.server.require(tip).await?;
        let (mut lacking, mut having) = (taproot, tip);
        while having - lacking > 1 {
            let middle = lacking + (having - lacking) / 2;
            if self.has_block(middle).await? {
                having = middle;
            } else {
                lacking = middle;
            }
        }
        // One wrong answer on the way ends right above the block it was for, and below that there are others.
        for height in lacking.saturating_sub(1).max(taproot)..=lacking {
            if self.has_block(height).await? {
                return Err(changed(
                    height,
                    "a block that is there, and one above it that is not",
                ));
            }
        }
        self.tell_late(having);
        Ok(having)
    }

    fn tell_late(&self, first: u32) {
        tracing::warn!(
            "no first height is given, and {} says that it does not have block {}: beginning at block {first}; \
             payments before it are not looked for (--from with a server that has more blocks finds them)",
            self.server.describe(),
            first - 1
        );
    }

    /// Whether the server has the block. Nothing but its own words for a block it does not have counts as a no.
    async fn has_block(&self, height: u32) -> Result<bool, Interrupted> {
        match self.server.require(height).await {
            Ok(()) => Ok(true),
            Err(OracleError::UnknownHeight { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}
