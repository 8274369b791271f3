//! How a server is asked.

use std::sync::Arc;

use anyhow::{Result, bail};
use bitcoin::Network;
use clap::Args;
use zeroize::Zeroizing;

use crate::cli::config::usage;
use crate::cli::token_source::TokenSource;
use crate::cli::transport::Transport;
use crate::client::watching::WatchServer;
use crate::client::{HttpOracle, HttpSettings, NativeOracle};

/// The servers at these addresses, all of one network.
///
/// # Errors
/// An address that is none, a server that does not answer in the native protocol, servers of two networks.
pub(super) async fn servers(
    transport: &Transport,
    addresses: &[String],
    token: Option<Zeroizing<String>>,
) -> Result<Vec<(Arc<HttpOracle>, Arc<NativeOracle>)>> {
    let mut servers = Vec::new();
    let mut network: Option<Network> = None;
    for address in addresses {
        let settings = HttpSettings {
            token: token.clone(),
            ..transport.settings()
        };
        let http =
            HttpOracle::new(address, settings).map_err(|error| usage!("--oracle: {error}"))?;
        let http = Arc::new(http);
        let theirs = NativeOracle::new(http.clone(), Network::Bitcoin)
            .info()
            .await?
            .network;
        let server = NativeOracle::new(http.clone(), theirs);
        match network.replace(theirs) {
            Some(other) if other != theirs => bail!(
                "{} is of {}, and the server before it of {}: name servers of one network",
                server.describe(),
                theirs.to_core_arg(),
                other.to_core_arg()
            ),
            _ => servers.push((http, Arc::new(server))),
        }
    }
    Ok(servers)
}

/// A server that watches, asked for somebody.
#[derive(Args)]
pub(super) struct OneServer {
    /// Base address of the server
    #[arg(
        long,
        env = "SPINDEX_ORACLE",
        value_name = "URL",
        default_value = "http://127.0.0.1:8000"
    )]
    oracle: String,
    #[command(flatten)]
    transport: Transport,
    #[command(flatten)]
    token: TokenSource,
}

impl OneServer {
    /// The server; nothing has been asked of it yet.
    ///
    /// # Errors
    /// An address that is none, a token that cannot be read.
    pub(super) fn connect(&self) -> Result<WatchServer> {
        let settings = HttpSettings {
            token: self.token.token()?,
            ..self.transport.settings()
        };
        let http =
            HttpOracle::new(&self.oracle, settings).map_err(|error| usage!("--oracle: {error}"))?;
        Ok(WatchServer::new(Arc::new(http)))
    }
}
