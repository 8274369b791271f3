//! Which protocol a server is asked in.

use std::sync::Arc;

use anyhow::{Result, bail};
use bitcoin::Network;
use clap::ValueEnum;

use crate::client::{
    HttpOracle, HttpSettings, LightSettings, NativeOracle, Oracle, WalletScan, WalletsClient,
};
use crate::curve::Engine;

/// What a server is asked in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(super) enum Dialect {
    /// Native if the server speaks it.
    #[default]
    Auto,
    Native,
    V1,
}

/// A server, and the protocol that it is asked in.
pub(super) enum Connected {
    V1(Arc<HttpOracle>),
    Native {
        server: Arc<NativeOracle>,
        follow_ups: Option<Arc<NativeOracle>>,
    },
}

/// Finds out what a server speaks, and says in the log what it is asked in.
pub(super) async fn connect(
    dialect: Dialect,
    server: &str,
    follow_ups: Option<&str>,
    settings: HttpSettings,
    network: Network,
) -> Result<Connected> {
    let http = Arc::new(HttpOracle::new(server, settings.clone())?);
    let is_native = match dialect {
        Dialect::V1 => false,
        Dialect::Auto | Dialect::Native => NativeOracle::is_spoken_by(&http).await?,
    };
    let name = http.describe();
    if !is_native {
        if dialect == Dialect::Native {
            bail!("{name} does not speak the native protocol: use --dialect v1, or another server");
        }
        if follow_ups.is_some() {
            bail!("--fetch-from is for the native protocol, which {name} is not asked in");
        }
        tracing::info!("{name} is asked in version 1 of the HTTP interface");
        return Ok(Connected::V1(http));
    }
    tracing::info!("{name} is asked in the native protocol");
    let follow_ups = match follow_ups {
        Some(url) => {
            let http = Arc::new(HttpOracle::new(url, settings)?);
            Some(Arc::new(NativeOracle::new(http, network)))
        }
        None => None,
    };
    Ok(Connected::Native {
        server: Arc::new(NativeOracle::new(http, network)),
        follow_ups,
    })
}

impl Connected {
    /// Who tells of new blocks, if anybody does.
    pub(super) fn teller(&self) -> Option<Arc<NativeOracle>> {
        match self {
            Self::V1(_) => None,
            Self::Native { server, .. } => Some(server.clone()),
        }
    }

    /// A client over it.
    pub(super) fn client(
        self,
        engine: Arc<dyn Engine>,
        wallets: Vec<WalletScan>,
        settings: LightSettings,
    ) -> Result<WalletsClient> {
        Ok(match self {
            Self::V1(oracle) => WalletsClient::new(oracle, engine, wallets, settings)?,
            Self::Native { server, follow_ups } => {
                WalletsClient::native(server, follow_ups, engine, wallets, settings)?
            }
        })
    }
}
