//! What goes with watches beside the index, as the settings describe it: the node's mempool, and how much of the log stays.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;

use super::config::{ServerSettings, usage};
use super::sources::mempool_signal;
use crate::chain::Node;
use crate::chain::rpc::RpcSettings;
use crate::curve::Engine;
use crate::mempool::{Mempool, MempoolSettings};
use crate::runtime::Stop;
use crate::store::Store;
use crate::watch::{MempoolWatch, Registry};

/// Pause between two looks at how long the log is.
const CUT_EVERY: Duration = Duration::from_secs(600);

/// Follows the node's mempool, if the settings want that.
///
/// # Errors
/// They name no node, or none that answers by RPC.
pub(super) fn mempool(
    server: &ServerSettings,
    node: Option<&Arc<dyn Node>>,
    rpc: Option<&RpcSettings>,
    engine: &Arc<dyn Engine>,
    store: &Arc<Store>,
) -> Result<Option<Arc<Mempool>>> {
    if !server.mempool.unwrap_or_default() {
        return Ok(None);
    }
    let (Some(node), Some(rpc)) = (node, rpc) else {
        return Err(usage!(
            "--mempool needs a node that answers by RPC: give --node-url, and --rpc-cookie, or --rpc-user and SPINDEX_RPC_PASSWORD"
        ));
    };
    let mempool = Mempool::follow(
        Arc::clone(node),
        Some(mempool_signal(server, rpc.clone())),
        Arc::clone(engine),
        Some(Arc::clone(store)),
        MempoolSettings::default(),
    );
    Ok(Some(Arc::new(mempool)))
}

/// What says, until the stop, which spends of what is watched the mempool has; nothing without one.
///
/// # Errors
/// The log cannot be read.
pub(super) fn see_spends(
    registry: &Registry,
    mempool: Option<&Arc<Mempool>>,
    node: Option<&Arc<dyn Node>>,
    stop: &Stop,
) -> Result<impl Future<Output = ()> + use<>> {
    let watch = match (mempool, node) {
        (Some(mempool), Some(node)) => {
            let (mempool, node) = (Arc::clone(mempool), Arc::clone(node));
            Some(MempoolWatch::new(registry.clone(), mempool, node)?)
        }
        _ => None,
    };
    let stop = stop.clone();
    Ok(async move {
        let Some(watch) = watch else { return };
        // The index fails by itself if the file does.
        if let Some(Err(error)) = stop.unless(watch.run()).await {
            tracing::error!("spends are not seen in the mempool any more: {error}");
        }
    })
}

/// Cuts off the log, until the stop, what the settings do not want to be kept.
pub(super) async fn keep_log_short(server: &ServerSettings, registry: &Registry, stop: &Stop) {
    let Some(most) = server.keep_events else {
        return;
    };
    loop {
        let registry = registry.clone();
        let cut = tokio::task::spawn_blocking(move || registry.keep_last(most)).await;
        match cut {
            Ok(Ok(0)) => {}
            Ok(Ok(events)) => tracing::info!("{events} old events were cut off the log"),
            // The index fails by itself if the file does.
            Ok(Err(error)) => tracing::warn!("old events stay in the log: {error}"),
            Err(error) => tracing::warn!("old events stay in the log: {error}"),
        }
        if !stop.sleep(CUT_EVERY).await {
            return;
        }
    }
}
