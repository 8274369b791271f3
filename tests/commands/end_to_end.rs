//! A simulated chain, its index, the server, and clients over real sockets, in one process.

use std::collections::BTreeMap;
use std::sync::Arc;

use bitcoin::{Network, OutPoint};
use futures::StreamExt;
use serde_json::Value;
use spindex::api::desk::{Desk, DeskSettings};
use spindex::api::{self, Listener, ServeSettings};
use spindex::bip352::keys::{ReceiverKeys, ScanKey, SpendKey};
use spindex::chain::BlockSource;
use spindex::chain::made::simulated::{SimulatedChain, SimulationSettings};
use spindex::client::{
    HttpOracle, HttpSettings, Identity, LightClient, LightSettings, State, WalletId,
};
use spindex::curve::libsecp256k1::LibSecp256k1;
use spindex::filter;
use spindex::scan::Scanner;

use crate::support::index::fresh_store;
use crate::support::proxy::start_proxy;

const BLOCKS: u32 = 260;

fn keys() -> ReceiverKeys {
    let spend_key = SpendKey::from_bytes([4; 32]).unwrap();
    ReceiverKeys::new(
        ScanKey::from_bytes([3; 32]).unwrap(),
        spend_key.public_key(),
        [1],
    )
}

/// A chain that pays the wallet's plain, labelled and change addresses.
fn chain() -> Arc<SimulatedChain> {
    let recipients = [None, Some(1), Some(0)];
    let chain = SimulatedChain::new(SimulationSettings {
        seed: 9,
        recipients: recipients
            .map(|label| keys().address(label, Network::Regtest).unwrap())
            .to_vec(),
        ..SimulationSettings::default()
    });
    chain.mine(BLOCKS);
    Arc::new(chain)
}

/// Serves an index of the chain; the base address behind a proxy with a path in front.
async fn serve(chain: &Arc<SimulatedChain>) -> String {
    let store = fresh_store(chain.clone()).await;
    let desk = Desk::new(
        store,
        Some(chain.clone()),
        Some(chain.clone()),
        DeskSettings::default(),
    );
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let never = std::future::pending();
    let listener = vec![Listener::http(listener)];
    tokio::spawn(api::serve(listener, desk, never, ServeSettings::default()));
    start_proxy(address).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wallet_with_200_blocks_in_flight_gets_every_answer_right() {
    let chain = chain();
    let base = serve(&chain).await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let get = async |path: String| -> Value {
        let response = client.get(format!("{base}/{path}")).send().await.unwrap();
        assert_eq!(response.status(), 200, "{path}");
        response.json().await.unwrap()
    };
    let mut tweaks = 0;
    for list in ["tweaks", "tweak-index"] {
        let answers: Vec<(u32, [Value; 3])> = futures::stream::iter(0..=BLOCKS)
            .map(|height| {
                let get = &get;
                async move {
                    let list = get(format!("{list}/{height}?dustLimit=0")).await;
                    let new_utxos = get(format!("filter/new-utxos/{height}")).await;
                    let spent = get(format!("filter/spent/{height}")).await;
                    (height, [list, new_utxos, spent])
                }
            })
            .buffer_unordered(200)
            .collect()
            .await;
        assert_eq!(answers.len(), BLOCKS as usize + 1);
        for (height, [list, new_utxos, spent]) in answers {
            let id = chain.block_at(height).await.unwrap().unwrap();
            let block = chain.stored_block(id.hash).unwrap();
            tweaks += list.as_array().unwrap().len();
            assert_eq!(new_utxos["block_hash"], id.hash.to_string());
            // The filters hold what the block says, by the block's own scripts.
            let outputs = block.block.txdata.iter().flat_map(|tx| &tx.output);
            let created: Vec<[u8; 32]> = outputs
                .filter(|output| output.script_pubkey.is_p2tr())
                .map(|output| output.script_pubkey.as_bytes()[2..].try_into().unwrap())
                .collect();
            let inputs = block.block.txdata.iter().zip(&block.prevouts);
            let items: Vec<[u8; 8]> = inputs
                .flat_map(|(tx, prevouts)| tx.input.iter().zip(prevouts))
                .filter(|(_, prevout)| prevout.script_pubkey.is_p2tr())
                .map(|(input, _)| filter::spent_item(&input.previous_output, &id.hash))
                .collect();
            for (answer, elements) in [(&new_utxos, created.len()), (&spent, items.len())] {
                let data = data(answer);
                assert_eq!(usize::from(data[0]), elements, "block {height}");
            }
            assert_eq!(
                filter::matches(&data(&new_utxos), &id.hash, &created)
                    .unwrap()
                    .len(),
                created.len()
            );
            assert_eq!(
                filter::matches(&data(&spent), &id.hash, &items)
                    .unwrap()
                    .len(),
                items.len()
            );
        }
    }
    assert!(
        tweaks > 1_000,
        "the chain is too poor a test: {tweaks} tweaks"
    );
}

fn data(filter: &Value) -> Vec<u8> {
    use bitcoin::hex::FromHex;
    Vec::from_hex(filter["data"].as_str().unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_light_client_finds_exactly_what_was_paid() {
    let chain = chain();
    let base = serve(&chain).await;
    let paid: BTreeMap<OutPoint, u64> = chain
        .paid_outputs()
        .iter()
        .map(|paid| (paid.outpoint, paid.value_sat))
        .collect();
    assert!(
        paid.len() > 50,
        "the chain is too poor a test: {} payments",
        paid.len()
    );
    for cut_through in [false, true] {
        let identity = Identity {
            network: Network::Regtest,
            wallet: Some(WalletId::of(&keys())),
        };
        let settings = LightSettings {
            from: Some(0),
            cut_through,
            concurrency: 200,
            ..LightSettings::new(Network::Regtest)
        };
        let oracle = Arc::new(HttpOracle::new(&base, HttpSettings::default()).unwrap());
        let scanner = Scanner::new(Arc::new(LibSecp256k1), keys()).unwrap();
        let state = State::in_memory(identity).unwrap();
        let mut client = LightClient::new(oracle, Some(scanner), [], state, settings).unwrap();
        let report = client.run(&mut |_| ()).await.unwrap();
        let found: BTreeMap<OutPoint, u64> = report
            .found
            .iter()
            .map(|found| (found.outpoint, found.value_sat))
            .collect();
        assert_eq!(found, paid);
        assert_eq!(report.scanned_to, Some(BLOCKS));
    }
}
