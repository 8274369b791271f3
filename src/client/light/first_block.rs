//! Where a scan begins if nobody says it.

use bitcoin::Network;

use super::super::OracleError;
use super::reorg::changed;
use super::{Interrupted, LightClient};

impl LightClient {
    /// The first height since taproot that the server can answer for. Logs what it takes for granted.
    pub(super) async fn first_height(&self, tip: u32) -> Result<u32, Interrupted> {
        let taproot = match self.settings.network {
            Network::Bitcoin => 709_632,
            Network::Testnet => 2_011_968,
            _ => 1,
        };
        if tip <= taproot || self.has_block(taproot).await? {
            tracing::info!(
                "no first height is given: beginning at block {taproot}, the first that taproot rules hold for"
            );
            return Ok(taproot);
        }
        // The server began later. It has its tip, or there is nothing to scan and the error says so.
        self.oracle.filters(tip).await?;
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
        tracing::warn!(
            "no first height is given, and {} says that it does not have block {lacking}: beginning at block {having}; \
             payments before it are not looked for (--from with a server that has more blocks finds them)",
            self.oracle.describe()
        );
        Ok(having)
    }

    /// Whether the server has the block. Nothing but its own words for a block it does not have counts as a no.
    async fn has_block(&self, height: u32) -> Result<bool, Interrupted> {
        match self.oracle.filters(height).await {
            Ok(_) => Ok(true),
            Err(OracleError::UnknownHeight { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}
