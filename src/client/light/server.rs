//! The server of a scan, whichever protocol it speaks: what both can be asked alike.

use std::sync::Arc;

use bitcoin::BlockHash;

use super::super::native::NativeOracle;
use super::super::{Oracle, OracleError};
use super::{ClientError, LightSettings};

/// A server, and how it is spoken to.
#[derive(Clone)]
pub(super) enum Server {
    /// Three requests a block.
    V1(Arc<dyn Oracle>),
    /// Columns.
    Native {
        server: Arc<NativeOracle>,
        /// Who is asked for what a match needs.
        follow_ups: Arc<NativeOracle>,
        /// Its first height, once it has told.
        first: u32,
    },
}

impl Server {
    /// One of the native protocol, that is asked for what matches need if nobody else is.
    pub(super) fn native(server: Arc<NativeOracle>, follow_ups: Option<Arc<NativeOracle>>) -> Self {
        Self::Native {
            follow_ups: follow_ups.unwrap_or_else(|| server.clone()),
            server,
            first: 0,
        }
    }

    /// Its name.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::V1(oracle) => oracle.describe(),
            Self::Native { server, .. } => server.describe(),
        }
    }

    /// Whether a scan of the wallet asks it in the native protocol.
    pub(super) fn is_native(&self) -> bool {
        matches!(self, Self::Native { .. })
    }

    /// Asks it what it has, and whether that is what the settings need.
    pub(super) async fn check(
        &mut self,
        settings: &LightSettings,
        for_wallet: bool,
    ) -> Result<(), ClientError> {
        let oracle = self.describe();
        let (network, tweaks_only) = match self {
            Self::V1(server) => {
                let info = server.info().await?;
                if info.network == settings.network && !info.tweaks_only && for_wallet {
                    has_list(&oracle, &info, settings)?;
                }
                (info.network, info.tweaks_only)
            }
            Self::Native { server, first, .. } => {
                let info = server.info().await?;
                *first = info.first_height;
                (info.network, info.tweaks_only)
            }
        };
        if network != settings.network {
            return Err(ClientError::WrongNetwork {
                oracle,
                expected: settings.network,
                actual: network,
            });
        }
        if tweaks_only {
            return Err(ClientError::Unsupported {
                oracle,
                what: "no filters and no outputs",
                cure: "use another server",
            });
        }
        if !self.is_native() && settings.private {
            return Err(ClientError::Unsupported {
                oracle,
                what: "outputs and spends by block alone, whose requests name the block of a match",
                cure: "scan without --private, or use a server of the native protocol",
            });
        }
        let is_partial = settings.cut_through || settings.dust_limit_sat > 0;
        if self.is_native() && is_partial {
            return Err(ClientError::Unsupported {
                oracle,
                what: "full lists alone in the native protocol",
                cure: "scan without cut-through and dust limit, or by version 1",
            });
        }
        Ok(())
    }

    /// Height of its last block.
    pub(super) async fn tip(&self) -> Result<u32, OracleError> {
        match self {
            Self::V1(oracle) => oracle.tip().await,
            Self::Native { server, .. } => Ok(server.info().await?.tip.height),
        }
    }

    /// Hash of the block at a height on its chain, `None` if it knows none.
    pub(super) async fn block_hash(&self, height: u32) -> Result<Option<BlockHash>, OracleError> {
        match self {
            Self::V1(oracle) => oracle.block_hash(height).await,
            Self::Native { server, .. } => server.block_hash(height).await,
        }
    }

    /// Asks for a block at or below its tip, which it must have.
    ///
    /// # Errors
    /// [`OracleError::UnknownHeight`] where it says that it does not.
    pub(super) async fn require(&self, height: u32) -> Result<(), OracleError> {
        match self {
            Self::V1(oracle) => oracle.filters(height).await.map(drop),
            Self::Native { server, first, .. } if height < *first => {
                Err(OracleError::UnknownHeight {
                    url: server.describe(),
                    height,
                    message: format!("the first block is {first}"),
                })
            }
            Self::Native { .. } => Ok(()),
        }
    }
}

/// Whether a server of version 1 has the list that is asked for. Asked for one that it does not keep, it answers that every
/// block is empty.
fn has_list(
    oracle: &str,
    info: &super::super::OracleInfo,
    settings: &LightSettings,
) -> Result<(), ClientError> {
    let lacks = |what, cure| {
        Err(ClientError::Unsupported {
            oracle: oracle.to_owned(),
            what,
            cure,
        })
    };
    let full = info.full_list || info.full_list_with_dust_limit;
    match (settings.cut_through, settings.dust_limit_sat > 0) {
        (true, _) if !info.cut_through => lacks(
            "no list of tweaks with cut-through",
            "scan without cut-through, or use another server",
        ),
        (false, _) if !full => lacks(
            "no full list of tweaks",
            "scan with cut-through, or use another server",
        ),
        (false, true) if !info.full_list_with_dust_limit => lacks(
            "no full list of tweaks with a dust limit",
            "scan without a dust limit or with cut-through, or use another server",
        ),
        _ => Ok(()),
    }
}
