//! An index of a simulated chain, served until the standard input ends.
//!
//! The chain pays the wallet that the example `light_client` scans for. For a real chain a source of [`spindex::chain`] takes
//! its place.

#![expect(clippy::print_stdout, reason = "that is what it is for")]

use std::io::Read;
use std::sync::Arc;

use bitcoin::Network;
use spindex::api::desk::{Desk, DeskSettings};
use spindex::api::{Listener, ServeSettings, bind, serve};
use spindex::bip352::keys::{ReceiverKeys, ScanKey, SpendKey};
use spindex::chain::made::simulated::{SimulatedChain, SimulationSettings};
use spindex::curve::{self, EngineKind};
use spindex::index::{IndexSettings, Indexer};
use spindex::runtime::Stop;
use spindex::store::{Store, StoreOptions};

type Error = Box<dyn std::error::Error>;

#[tokio::main]
async fn main() -> Result<(), Error> {
    let scan_key = ScanKey::from_bytes([3; 32]).ok_or("no scan key")?;
    let spend_key = SpendKey::from_bytes([4; 32]).ok_or("no spend key")?;
    let wallet = ReceiverKeys::new(scan_key, spend_key.public_key(), [1]);
    let address = wallet.address(None, Network::Regtest).ok_or("no address")?;
    let chain = Arc::new(SimulatedChain::new(SimulationSettings {
        recipients: vec![address],
        payment_percent: 30,
        ..SimulationSettings::default()
    }));
    chain.mine(120);

    let options = StoreOptions {
        network: Network::Regtest,
        first_height: Some(0),
        keep: None,
        tweak_form: None,
        undo_depth: 288,
        cache_bytes: 16 << 20,
    };
    let store = Arc::new(Store::open_with_backend(
        redb::backends::InMemoryBackend::new(),
        &options,
    )?);
    let engine = curve::engine(EngineKind::Auto, |broken| eprintln!("{broken}"))?;
    let indexer = Indexer::new(
        store.clone(),
        chain.clone(),
        engine.clone(),
        IndexSettings::default(),
        Stop::new(),
        |batch| println!("indexed up to {:?}", batch.applied.tip),
    );
    indexer.sync(None).await?;

    let socket = bind(([127, 0, 0, 1], 0).into()).await?;
    println!("serving on http://{}", socket.local_addr()?);
    let settings = DeskSettings {
        engine,
        ..DeskSettings::default()
    };
    let desk = Desk::new(store, Some(chain.clone()), Some(chain), settings);
    let listener = Listener::http(socket);
    let end_of_input = async {
        // Whatever is typed is of no interest, nor is why there is no more.
        let input = || std::io::stdin().read_to_end(&mut Vec::new());
        let _ = tokio::task::spawn_blocking(input).await;
    };
    serve(vec![listener], desk, end_of_input, ServeSettings::default()).await?;
    Ok(())
}
