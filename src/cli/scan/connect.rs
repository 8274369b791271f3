//! Which protocol a server is asked in.

use std::sync::Arc;

use anyhow::{Result, bail};
use bitcoin::Network;
use clap::ValueEnum;

use super::witnesses::Witnesses;
use crate::cli::config::usage;
use crate::cli::oracle::{Named, one_behind_the_other};
use crate::client::native::Speaks;
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

/// An oracle, and what it has been found to be.
pub(super) struct Found {
    /// Where it is a server.
    http: Option<Arc<HttpOracle>>,
    /// Where it speaks the native protocol, or is exported files.
    pub(super) native: Option<Arc<NativeOracle>>,
}

impl Found {
    /// Finds out what speaks at an address. `None` for one of several that has nothing, not even files.
    pub(super) async fn at(
        name: &str,
        is_one_of_several: bool,
        dialect: Dialect,
        settings: &HttpSettings,
        network: Network,
    ) -> Result<Option<Self>> {
        let http = match Named::new("--oracle", name, settings)? {
            Named::Files(place) => {
                return Ok(Some(Self {
                    http: None,
                    native: Some(Arc::new(NativeOracle::files(place, network))),
                }));
            }
            Named::Http(http) => http,
        };
        if dialect == Dialect::V1 && !is_one_of_several {
            return Ok(Some(Self {
                http: Some(http),
                native: None,
            }));
        }
        let speaks = NativeOracle::spoken_by(&http).await?;
        if speaks == Speaks::Neither && is_one_of_several {
            let name = http.describe();
            if Oracle::info(http.as_ref()).await.is_ok() {
                bail!(
                    "{name} does not speak the native protocol, which it takes to compare several servers"
                );
            }
            tracing::warn!(
                "{name} is left out: it does not speak the native protocol, and has no exported files, as their manifest.json is missing"
            );
            return Ok(None);
        }
        Ok(Some(match speaks {
            Speaks::Neither => Self {
                http: Some(http),
                native: None,
            },
            Speaks::Native => Self {
                native: Some(Arc::new(NativeOracle::new(http.clone(), network))),
                http: Some(http),
            },
            Speaks::Files => Self {
                native: Some(Arc::new(NativeOracle::at(http, network))),
                http: None,
            },
        }))
    }

    /// Whether it is files and nothing else.
    pub(super) fn is_files(&self) -> bool {
        self.http.is_none()
    }
}

/// A server, and the protocol that it is asked in.
pub(super) enum Connected {
    V1(Arc<HttpOracle>),
    Native {
        server: Arc<NativeOracle>,
        follow_ups: Option<Arc<NativeOracle>>,
    },
}

/// What of a scan decides what is asked of whom.
pub(super) struct Asked<'a> {
    pub(super) dialect: Dialect,
    /// Whether it takes lists that only version 1 has.
    pub(super) partial: bool,
    pub(super) ask_spenders: bool,
    pub(super) fetch_from: &'a [String],
}

/// Decides in which protocol the oracle is asked that is scanned, and says so in the log.
pub(super) async fn connect(
    asked: Asked<'_>,
    witnesses: &Witnesses,
    settings: HttpSettings,
    network: Network,
) -> Result<Connected> {
    let dialect = match asked.dialect {
        Dialect::Auto if asked.partial => Dialect::V1,
        dialect => dialect,
    };
    let Some(scanned) = witnesses.scanned() else {
        bail!("none of the servers and files that --oracle names can be scanned");
    };
    let (http, native) = match (&scanned.http, &scanned.native) {
        (Some(http), native) => (http, native),
        (None, Some(files)) => {
            let name = files.describe();
            if dialect == Dialect::V1 {
                bail!(
                    "{name} has exported files, of the native protocol and with full lists alone: scan without --dialect v1, --cut-through and --dust-limit, or name a server"
                );
            }
            let server = with_others_behind(files, witnesses).await?;
            if asked.ask_spenders && !witnesses.ends_with_a_server() {
                bail!(
                    "--ask-spenders is not for exported files, which say who spent something by its place in the block alone: scan without, or name a server behind {name} (--oracle, given again)"
                );
            }
            let follow_ups = follow_ups(asked.fetch_from, &settings, network).await?;
            return Ok(Connected::Native { server, follow_ups });
        }
        (None, None) => bail!("nothing that could be asked"),
    };
    let name = http.describe();
    let native = native.as_ref().filter(|_| dialect != Dialect::V1);
    let Some(server) = native else {
        if dialect == Dialect::Native {
            bail!("{name} does not speak the native protocol: use --dialect v1, or another server");
        }
        if !asked.fetch_from.is_empty() {
            bail!("--fetch-from is for the native protocol, which {name} is not asked in");
        }
        tracing::info!("{name} is asked in version 1 of the HTTP interface");
        return Ok(Connected::V1(http.clone()));
    };
    tracing::info!("{name} is asked in the native protocol");
    Ok(Connected::Native {
        server: server.clone(),
        follow_ups: follow_ups(asked.fetch_from, &settings, network).await?,
    })
}

/// The files that are scanned, with the other oracles behind them.
async fn with_others_behind(
    files: &Arc<NativeOracle>,
    witnesses: &Witnesses,
) -> Result<Arc<NativeOracle>> {
    let name = files.describe();
    let behind = one_behind_the_other(witnesses.others());
    match (files.info().await, &behind) {
        (Ok(extent), None) => tracing::info!(
            "{name} has exported files up to block {}, where the scan ends",
            extent.tip
        ),
        (Ok(extent), Some(behind)) => tracing::info!(
            "{name} has exported files up to block {}; what they lack, and what comes after, is taken from {}",
            extent.tip,
            behind.describe()
        ),
        // Whoever asks the one behind them says what is wrong.
        (Err(_), Some(_)) => {}
        (Err(error), None) => return Err(error.into()),
    }
    Ok(match behind {
        Some(behind) => Arc::new(files.before(behind)),
        None => files.clone(),
    })
}

/// Who is asked for what matches need, if that is somebody else.
async fn follow_ups(
    names: &[String],
    settings: &HttpSettings,
    network: Network,
) -> Result<Option<Arc<NativeOracle>>> {
    let oracles: Vec<Arc<NativeOracle>> = names
        .iter()
        .map(|name| Ok(Named::new("--fetch-from", name, settings)?.native(network)))
        .collect::<Result<_>>()?;
    let first = one_behind_the_other(oracles.into_iter());
    if let Some(first) = &first
        && names.len() > 1
        && first.shadows().await?
    {
        return Err(usage!(
            "{} is a server, which nobody is asked behind: name exported files first in --fetch-from",
            first.describe()
        ));
    }
    Ok(first)
}

impl Connected {
    /// Who tells of new blocks, if anybody does.
    pub(super) fn teller(&self) -> Option<Arc<NativeOracle>> {
        match self {
            Self::V1(_) => None,
            Self::Native { server, .. } => Some(server.clone()),
        }
    }

    /// Who is told the names of outpoints, if that is asked for.
    pub(super) fn knows_outpoints(&self) -> Option<Arc<NativeOracle>> {
        match self {
            Self::V1(_) => None,
            Self::Native { server, follow_ups } => {
                Some(follow_ups.as_ref().unwrap_or(server).clone())
            }
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
