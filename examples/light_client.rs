//! A light client: finds a wallet's outputs through a tweak server.
//!
//! Usage: `light_client URL`, for example of the example `serve`, whose chain pays this wallet.

#![expect(clippy::print_stdout, reason = "that is what it is for")]

use std::sync::Arc;

use bitcoin::Network;
use spindex::bip352::keys::{ReceiverKeys, ScanKey, SpendKey};
use spindex::client::{
    HttpOracle, HttpSettings, Identity, LightClient, LightSettings, State, WalletId,
};
use spindex::curve::{self, EngineKind};
use spindex::scan::Scanner;

type Error = Box<dyn std::error::Error>;

#[tokio::main]
async fn main() -> Result<(), Error> {
    let url = std::env::args().nth(1).ok_or("usage: light_client URL")?;
    let scan_key = ScanKey::from_bytes([3; 32]).ok_or("no scan key")?;
    let spend_key = SpendKey::from_bytes([4; 32]).ok_or("no spend key")?;
    let wallet = ReceiverKeys::new(scan_key, spend_key.public_key(), [1]);

    let oracle = Arc::new(HttpOracle::new(&url, HttpSettings::default())?);
    // Progress and finds; `State::open` keeps them in a file.
    let state = State::in_memory(Identity {
        network: Network::Regtest,
        wallet: Some(WalletId::of(&wallet)),
    })?;
    let scanner = Scanner::new(
        curve::engine(EngineKind::Auto, |broken| eprintln!("{broken}"))?,
        wallet,
    )?;
    let settings = LightSettings {
        from: Some(0),
        ..LightSettings::new(Network::Regtest)
    };
    let mut client = LightClient::new(oracle, Some(scanner), [], state, settings)?;
    let report = client.run(&mut |_| ()).await?;
    let mut total_sat = 0;
    for found in &report.found {
        total_sat += found.value_sat;
        println!("{} {} sat", found.outpoint, found.value_sat);
    }
    println!("{} outputs, {total_sat} sat", report.found.len());
    Ok(())
}
