//! Output keys that are no points of the curve, and filters that are damaged.

use bitcoin::Network;
use secp256k1::XOnlyPublicKey;
use serde_json::Value;
use spindex::api::ServeSettings;
use spindex::api::desk::DeskSettings;
use spindex::curve;

use super::DATABASE;
use super::fixture::{Server, TestChain, TestStore, from_hex, pays, sweeps};

fn is_point(utxo: &Value) -> bool {
    let script = from_hex(utxo["scriptpubkey"].as_str().expect("a script"));
    XOnlyPublicKey::from_slice(&script[2..]).is_ok()
}

#[tokio::test]
async fn outputs_whose_key_is_no_point_are_left_out_of_utxos_alone() {
    let mut chain = TestChain::new(1);
    // Keys are hashes, of which every other one is no x of a point.
    let plans = vec![pays(&[1000, 2000, 3000]); 40];
    chain.keys_as_they_come();
    let made = chain.mine(&plans).clone();
    chain.mine(&[sweeps(&[made.outpoint(0, 0), made.outpoint(1, 1)])]);
    let store = TestStore::new(Network::Regtest, 1);
    store.connect(&chain.records());
    let all = chain.utxos(1);
    let all = all.as_array().expect("a list");
    let expected: Vec<Value> = all.iter().filter(|utxo| is_point(utxo)).cloned().collect();
    assert!(expected.len() > 20 && all.len() - expected.len() > 20);

    let mut engines = vec![DeskSettings::default()];
    for entry in curve::testable() {
        engines.push(DeskSettings {
            engine: curve::engine(entry.kind, |broken| panic!("{broken}")).unwrap(),
            ..DeskSettings::default()
        });
    }
    for desk in engines {
        let engine = format!("{:?}", desk.engine);
        let settings = ServeSettings::default();
        let server = Server::start_over(&store, None, desk, settings).await;
        let served = server.ok("utxos/1").await;
        assert_eq!(served, Value::from(expected.clone()), "{engine}");
        // Everything else has them.
        for (path, answer) in chain.expected(1) {
            if !path.starts_with("utxos/") {
                assert_eq!(server.ok(&path).await, answer, "{engine} {path}");
            }
        }
    }
}

#[tokio::test]
async fn a_transaction_paid_to_no_point_keeps_its_tweak_and_its_place_in_the_filter() {
    let mut chain = TestChain::new(1);
    chain.keys_as_they_come();
    // Until one has no output whose key is a point.
    let block = loop {
        let block = chain.mine(&[pays(&[700])]).clone();
        let utxos = chain.utxos(block.id().height);
        if !is_point(&utxos[0]) {
            break block;
        }
    };
    let store = TestStore::new(Network::Regtest, 1);
    store.connect(&chain.records());
    let server = Server::start(&store, None).await;
    let height = block.id().height;
    assert_eq!(
        server.ok(&format!("utxos/{height}")).await,
        Value::Array(vec![])
    );
    let tweaks = server.ok(&format!("tweaks/{height}")).await;
    assert_eq!(tweaks.as_array().map(Vec::len), Some(1));
    assert_eq!(tweaks, chain.tweaks(height, 700));
}

#[tokio::test]
async fn a_filter_without_a_count_is_an_error_and_not_a_filter_of_nothing() {
    let mut chain = TestChain::new(1);
    chain.mine(&[pays(&[1000])]);
    let mut records = chain.records();
    records[0].new_utxos_filter.clear();
    let store = TestStore::new(Network::Regtest, 1);
    store.connect(&records);
    let server = Server::start(&store, None).await;
    server.refused("filter/new-utxos/1", 500, DATABASE).await;
    server.ok("filter/spent/1").await;
}
