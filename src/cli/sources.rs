//! The node and its files as the settings describe them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use bitcoin::Network;

use super::config::{CommonSettings, ServerSettings, SourceKind, usage};
use crate::chain::files::{FilesSettings, FilesSource};
use crate::chain::first_working::FirstWorking;
use crate::chain::rest::{RestSettings, RestSource};
use crate::chain::rpc::{RpcAuth, RpcClient, RpcSettings, ZmqNotification};
use crate::chain::rpc_source::RpcSource;
use crate::chain::zmq::ZmqAddress;
use crate::chain::{self, BlockSource, ChainError, MempoolSignal, Node, TipSignal};
use crate::index::IndexSettings;

/// Longest silence of the node before a request fails.
const NODE_TIMEOUT: Duration = Duration::from_secs(30);

/// Pause before a node that does not answer is asked again what it publishes.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// Where blocks come from as the settings describe it.
pub(super) struct Sources {
    pub(super) blocks: Arc<dyn BlockSource>,
    /// `None` for files alone.
    pub(super) node: Option<Arc<dyn Node>>,
    /// The node's RPC, where there are credentials.
    pub(super) rpc: Option<RpcSettings>,
}

/// Reads the settings of the node and its files; nothing is asked of them yet.
pub(super) fn sources(common: &CommonSettings, server: &ServerSettings) -> Result<Sources> {
    let network = common.network();
    for (url, flag) in [
        (&server.node_url, "--node-url"),
        (&server.rpc_url, "--rpc-url"),
    ] {
        if let Some(url) = url {
            chain::check_address(url, flag).map_err(|error| usage!("{error}"))?;
        }
    }
    // One node has one address for both, unless it is told otherwise.
    let usual_url = format!("http://127.0.0.1:{}", default_port(network));
    let (url, rpc_url) = match (&server.node_url, &server.rpc_url) {
        (Some(url), Some(rpc_url)) => (url.clone(), rpc_url.clone()),
        (Some(url), None) | (None, Some(url)) => (url.clone(), url.clone()),
        (None, None) => (usual_url.clone(), usual_url),
    };
    let with_rpc = |auth| RpcSettings { url: rpc_url, auth };
    let usual_cookie = default_cookie(network);
    let (auth, is_guessed) = match (&server.rpc_user, &server.rpc_password, &server.rpc_cookie) {
        (Some(user), Some(password), _) => {
            let user = user.clone();
            let password = password.expose().to_owned().into();
            (Some(RpcAuth::UserPassword { user, password }), false)
        }
        (Some(_), None, _) => {
            return Err(usage!(
                "--rpc-user needs a password in SPINDEX_RPC_PASSWORD or the configuration file"
            ));
        }
        (None, _, Some(cookie)) => (Some(RpcAuth::CookieFile(cookie.clone())), false),
        (None, _, None) => (usual_cookie.clone().map(RpcAuth::CookieFile), true),
    };
    // A cookie at the usual place may be another node's, or come later: REST works without.
    let is_there = !is_guessed || usual_cookie.is_some_and(|path| path.exists());
    // And a node elsewhere is not to see what opens the one on this machine.
    let is_meant = |rpc: &RpcSettings| !is_guessed || rpc.is_local();
    let rpc = auth.map(with_rpc).filter(is_meant);
    let for_broadcasting = rpc.clone().filter(|_| is_there);

    let kind = match server.source.unwrap_or_default() {
        // A node beside another server is for what rows cannot give.
        SourceKind::Spindex => SourceKind::Auto,
        kind => kind,
    };
    let in_flight = server
        .in_flight
        .unwrap_or(IndexSettings::default().in_flight);
    let mut nodes: Vec<Arc<dyn Node>> = Vec::new();
    if kind != SourceKind::Rpc {
        if for_broadcasting.is_none() {
            tracing::info!(
                "no RPC credentials: transactions cannot be broadcast (see --rpc-cookie)"
            );
        }
        nodes.push(Arc::new(RestSource::new(RestSettings {
            url,
            timeout: NODE_TIMEOUT,
            rpc: for_broadcasting,
            max_in_flight: in_flight,
        })?));
    }
    if let (true, Some(rpc)) = (kind != SourceKind::Rest, &rpc) {
        nodes.push(Arc::new(RpcSource::new(
            rpc.clone(),
            NODE_TIMEOUT,
            in_flight,
        )?));
    }
    if nodes.is_empty() {
        return Err(usage!(
            "--source rpc needs credentials: give --rpc-cookie, or --rpc-user and SPINDEX_RPC_PASSWORD"
        ));
    }
    let folder = match &server.blocks_dir {
        Some(folder) => Some(folder.clone()),
        None => default_dir(network).map(|dir| dir.join("blocks")),
    };
    let signet_challenge = server.signet_challenge.as_ref();
    if signet_challenge.is_some() && network != Network::Signet {
        return Err(usage!("--signet-challenge needs --network signet"));
    }
    let files = |folder, node| {
        Arc::new(FilesSource::new(FilesSettings {
            node,
            signet_challenge: signet_challenge.map(|challenge| challenge.0.clone()),
            ..FilesSettings::new(folder, network)
        }))
    };
    // In their order, for blocks that come from no file.
    let each: Vec<Arc<dyn BlockSource>> = nodes.iter().map(|node| Arc::clone(node) as _).collect();
    let node: Arc<dyn Node> = match <[_; 1]>::try_from(nodes) {
        Ok([node]) => node,
        Err(nodes) => Arc::new(FirstWorking::new(nodes, network)),
    };
    let (blocks, node): (Arc<dyn BlockSource>, _) = match (kind, folder) {
        (SourceKind::Files, None) => {
            return Err(usage!("--source files needs --blocks-dir"));
        }
        (SourceKind::Files, Some(folder)) => {
            // Without a word about a node there need not be one.
            let has_node = server.node_url.is_some() || server.rpc_url.is_some() || !is_guessed;
            let node = has_node.then_some(node);
            (files(folder, node.clone()), node)
        }
        (SourceKind::Auto, Some(folder)) if server.blocks_dir.is_some() || folder.exists() => {
            let mut sources = each;
            sources.insert(0, files(folder, Some(node.clone())));
            (Arc::new(FirstWorking::new(sources, network)), Some(node))
        }
        _ => (node.clone(), Some(node)),
    };
    tracing::info!("node: {}", blocks.describe());
    Ok(Sources { blocks, node, rpc })
}

/// Listens to the node's ZMQ where the settings name an address, or the node one on this machine.
pub(super) async fn tip_signal(
    server: &ServerSettings,
    rpc: Option<RpcSettings>,
) -> Option<TipSignal> {
    let address = match &server.zmq {
        Some(address) => Ok(Some(address.clone())),
        None => zmq_address(rpc, ZmqAddress::local).await,
    };
    match address {
        Ok(address) => Some(TipSignal::listen(address?)),
        Err(error) => {
            tracing::debug!("the node does not say whether it publishes by ZMQ: {error}");
            None
        }
    }
}

/// The same for its mempool. A node that does not answer is asked again until it does.
pub(super) fn mempool_signal(server: &ServerSettings, rpc: RpcSettings) -> MempoolSignal {
    if let Some(address) = &server.zmq {
        return MempoolSignal::listen(address.clone());
    }
    MempoolSignal::new(async move |teller| {
        let address = loop {
            match zmq_address(Some(rpc.clone()), ZmqAddress::local_mempool).await {
                Ok(address) => break address,
                Err(error) => tracing::debug!("what the node publishes by ZMQ: {error}"),
            }
            tokio::time::sleep(ASK_AGAIN).await;
        };
        let Some(address) = address else {
            tracing::info!(
                "the node does not tell of its mempool (-zmqpubsequence, -zmqpubrawtx): it is asked every few seconds"
            );
            return;
        };
        let mut signal = MempoolSignal::listen(address);
        while let Some(word) = signal.next().await {
            if !teller.tell(word).await {
                break;
            }
        }
    })
}

/// The address on this machine that a node here names.
async fn zmq_address(
    rpc: Option<RpcSettings>,
    choose: fn(&[ZmqNotification]) -> Option<ZmqAddress>,
) -> Result<Option<ZmqAddress>, ChainError> {
    let Some(rpc) = rpc.filter(RpcSettings::is_local) else {
        return Ok(None);
    };
    let rpc = RpcClient::new(rpc, NODE_TIMEOUT)?;
    Ok(choose(&rpc.zmq_notifications().await?))
}

/// The port Bitcoin Core's REST and RPC share, by network.
fn default_port(network: Network) -> u16 {
    match network {
        Network::Bitcoin => 8332,
        Network::Testnet => 18332,
        Network::Testnet4 => 48332,
        Network::Signet => 38332,
        Network::Regtest => 18443,
    }
}

/// Where Bitcoin Core keeps its cookie unless told otherwise.
fn default_cookie(network: Network) -> Option<PathBuf> {
    Some(default_dir(network)?.join(".cookie"))
}

/// Bitcoin Core's folder of a network unless it is told otherwise.
fn default_dir(network: Network) -> Option<PathBuf> {
    let dir = std::env::home_dir()?.join(".bitcoin");
    Some(match network {
        Network::Bitcoin => dir,
        Network::Testnet => dir.join("testnet3"),
        Network::Testnet4 => dir.join("testnet4"),
        Network::Signet => dir.join("signet"),
        Network::Regtest => dir.join("regtest"),
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_usual_cookie_is_for_a_node_on_this_machine() {
        let with = |url: &str, cookie: Option<&str>| {
            let server = ServerSettings {
                node_url: Some(url.to_owned()),
                rpc_cookie: cookie.map(PathBuf::from),
                ..ServerSettings::default()
            };
            sources(&CommonSettings::default(), &server).unwrap().rpc
        };
        let file = |rpc: Option<RpcSettings>| match rpc.unwrap().auth {
            RpcAuth::CookieFile(path) => path,
            RpcAuth::UserPassword { .. } => panic!("nobody gave a password"),
        };
        for url in ["http://127.0.0.1:1", "http://[::1]:1", "http://localhost:1"] {
            assert!(file(with(url, None)).ends_with(".bitcoin/.cookie"), "{url}");
        }
        for url in ["http://192.0.2.1:1", "http://127.0.0.1.example:1"] {
            assert!(with(url, None).is_none(), "{url}");
            assert_eq!(file(with(url, Some("here"))), Path::new("here"));
        }
    }

    #[test]
    fn files_have_a_node_where_one_is_named() {
        let with = |source: SourceKind, url: Option<&str>| {
            let server = ServerSettings {
                source: Some(source),
                blocks_dir: Some("here".into()),
                node_url: url.map(str::to_owned),
                ..ServerSettings::default()
            };
            let sources = sources(&CommonSettings::default(), &server).unwrap();
            (sources.blocks.describe(), sources.node)
        };
        let (blocks, node) = with(SourceKind::Files, None);
        assert_eq!(blocks, "Bitcoin Core's block files in here");
        assert!(node.is_none());
        let (blocks, node) = with(SourceKind::Files, Some("http://127.0.0.1:1"));
        let node = node.unwrap().describe();
        assert!(blocks.starts_with("Bitcoin Core's block files in here, with "));
        assert!(node.contains("REST at http://127.0.0.1:1"), "{node}");
        assert!(blocks.ends_with(&node), "{blocks}");
        let (blocks, node) = with(SourceKind::Rest, Some("http://127.0.0.1:1"));
        assert_eq!(blocks, node.unwrap().describe());
    }
}
