//! A simulated chain that pays a wallet, an index of it from some height on, and the server over that index.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use bitcoin::Network;
use spindex::api::desk::{Desk, DeskSettings};
use spindex::api::http::router;
use spindex::bip352::keys::{ReceiverKeys, ScanKey, SpendKey};
use spindex::chain::made::simulated::{SimulatedChain, SimulationSettings};
use spindex::store::Store;

use super::index::fresh_store_from;

/// The wallet that is paid.
pub(crate) fn keys() -> ReceiverKeys {
    let spend_key = SpendKey::from_bytes([4; 32]).unwrap();
    let scan_key = ScanKey::from_bytes([3; 32]).unwrap();
    ReceiverKeys::new(scan_key, spend_key.public_key(), [1])
}

/// A chain whose traffic pays the wallet's plain, labelled and change addresses.
pub(crate) fn chain(seed: u64, blocks: u32) -> Arc<SimulatedChain> {
    let recipients = [None, Some(1), Some(0)];
    let chain = SimulatedChain::new(SimulationSettings {
        seed,
        recipients: recipients
            .map(|label| keys().address(label, Network::Regtest).unwrap())
            .to_vec(),
        payment_percent: 25,
        ..SimulationSettings::default()
    });
    chain.mine(blocks);
    Arc::new(chain)
}

/// An index in memory of the chain from a height on.
pub(crate) async fn index(chain: &Arc<SimulatedChain>, first_height: u32) -> Arc<Store> {
    fresh_store_from(chain.clone(), first_height).await
}

/// Serves an index, with something of the test's in between; the address.
pub(crate) async fn serve(
    chain: &Arc<SimulatedChain>,
    store: Arc<Store>,
    between: impl FnOnce(Router) -> Router,
) -> SocketAddr {
    let desk = Desk::new(
        store,
        Some(chain.clone()),
        Some(chain.clone()),
        DeskSettings::default(),
    );
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = between(router(desk));
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}
