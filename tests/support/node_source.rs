//! A node, by REST and by RPC.

use std::sync::Arc;
use std::time::Duration;

use spindex::BlockId;
use spindex::chain::Node;
use spindex::chain::rest::{RestSettings, RestSource};
use spindex::chain::rpc::{RpcAuth, RpcSettings};
use spindex::chain::rpc_source::RpcSource;
use zeroize::Zeroizing;

/// Longest silence of the node.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Rest,
    Rpc,
}

impl Kind {
    pub(crate) const ALL: [Self; 2] = [Self::Rest, Self::Rpc];

    pub(crate) fn source(self, url: &str) -> Arc<dyn Node> {
        match self {
            Self::Rest => rest(url, None),
            Self::Rpc => Arc::new(RpcSource::new(rpc_settings(url), TIMEOUT, 8).unwrap()),
        }
    }

    /// Paths that give a block, hashes of many blocks, and the tip.
    pub(crate) fn paths(self) -> [&'static str; 3] {
        match self {
            Self::Rest => ["/rest/block/", "/rest/headers/", "/rest/chaininfo"],
            Self::Rpc => [
                "/rpc/getblock/",
                "/rpc/getblockhash/batch",
                "/rpc/getblockchaininfo",
            ],
        }
    }

    pub(crate) fn block_path(self, id: BlockId) -> String {
        match self {
            Self::Rest => format!("/rest/block/{}.bin", id.hash),
            Self::Rpc => format!("/rpc/getblock/{}", id.hash),
        }
    }
}

/// Blocks by REST, with RPC beside it at this address.
pub(crate) fn rest(url: &str, rpc_url: Option<&str>) -> Arc<dyn Node> {
    let settings = RestSettings {
        timeout: TIMEOUT,
        rpc: rpc_url.map(rpc_settings),
        ..RestSettings::new(url)
    };
    Arc::new(RestSource::new(settings).unwrap())
}

/// For a node that looks at no credentials.
pub(crate) fn rpc_settings(url: &str) -> RpcSettings {
    RpcSettings {
        url: url.to_owned(),
        auth: RpcAuth::UserPassword {
            user: "alice".into(),
            password: Zeroizing::new("s3cret".into()),
        },
    }
}

/// Lets paused time go by in steps, each of which takes a moment of real time too, so that sockets get their turn before a
/// timeout does. (Yielding in place of sleeping lets every other program of a busy machine go first, thousands of times.)
pub(crate) fn step_time() {
    tokio::spawn(async {
        loop {
            tokio::time::sleep(Duration::from_millis(200)).await;
            std::thread::sleep(Duration::from_micros(50));
        }
    });
}
