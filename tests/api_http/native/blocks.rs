//! What the server is and what its blocks are.

use std::collections::HashSet;

use bitcoin::consensus::encode::serialize_hex;
use bitcoin::hashes::Hash;
use bitcoin::{BlockHash, Network, OutPoint};
use serde_json::{Value, json};
use spindex::store::{BlockRecord, Keep, TweakForm};

use super::super::fixture::{Server, TestChain, TestStore, hex, pays, sample_chain, sweeps};
use super::super::{sections, serve_chain, spcommit};
use super::{refused, step};

/// The outpoints that a record creates.
fn created(record: &BlockRecord) -> Vec<OutPoint> {
    let outputs = record.outputs.iter();
    let outpoint = outputs.map(|output| {
        let transaction = &record.transactions[output.transaction as usize];
        OutPoint::new(transaction.txid, output.vout)
    });
    outpoint.collect()
}

/// Every block, from the records alone.
fn expected(chain: &TestChain, horizon: u32) -> Vec<Value> {
    let links = spcommit::links(&chain.records());
    let link = |link: &spcommit::Link| json!({"commitment": hex(&link.commitment), "head": hex(&link.head)});
    let (spent, tip): (HashSet<OutPoint>, u32) = (chain.spent(), chain.tip().id().height);
    let heads = sections::heads(&chain.records());
    let links = links.iter().zip(&heads);
    let blocks = chain
        .blocks
        .iter()
        .zip(links)
        .map(|(block, ([v1, v2], head))| {
            let record = &block.record;
            let created = created(record);
            let unspent = created.iter().filter(|output| !spent.contains(output));
            json!({
                "height": record.id.height,
                "block_hash": record.id.hash.to_string(),
                "header": serialize_hex(&block.block.header),
                "previous_hash": block.block.header.prev_blockhash.to_string(),
                "time": block.block.header.time,
                "transactions": record.transactions.len(),
                "outputs": created.len(),
                "unspent": unspent.count(),
                "spends": record.spends.len(),
                "states": record.states.len(),
                "digest": chain.digest(record.id.height),
                "commitments": {"v1": link(v1), "v2": link(v2), "columns_head": hex(head)},
                "settled": record.id.height + horizon <= tip,
            })
        });
    blocks.collect()
}

#[tokio::test]
async fn blocks_are_found_by_height_and_by_hash() {
    let mut chain = sample_chain();
    let tip = chain.mine(&[pays(&[546])]).outpoint(0, 0);
    chain.mine(&[step(tip, [7; 32])]);
    // Until the first blocks are settled: the server gives up 100 at most.
    for _ in 0..96 {
        chain.mine(&[]);
    }
    let (_store, server) = serve_chain(&chain).await;
    let blocks = expected(&chain, 100);
    assert!(blocks.iter().any(|block| block["settled"] == json!(true)));
    assert!(blocks.iter().any(|block| block["states"] == json!(1)));
    for block in &blocks {
        for name in [
            block["height"].to_string(),
            block["block_hash"].as_str().expect("hex").to_owned(),
        ] {
            let found = server.ok(&format!("spindex/v1/block/{name}")).await;
            assert_eq!(&found, block, "{name}");
        }
        let path = format!("spindex/v1/digest/{}", block["height"]);
        let digest = json!({
            "height": block["height"], "block_hash": block["block_hash"], "digest": block["digest"],
        });
        assert_eq!(server.ok(&path).await, digest);
    }
}

#[tokio::test]
async fn what_a_block_has_left_is_of_the_present_tip() {
    let mut chain = TestChain::new(5);
    let paid = chain.mine(&[pays(&[1000, 2000])]).outpoint(0, 0);
    let store = TestStore::new(Network::Regtest, 5);
    store.connect(&chain.records());
    let server = Server::start(&store, None).await;
    assert_eq!(server.ok("spindex/v1/block/5").await["unspent"], json!(2));
    let spending = chain.mine(&[sweeps(&[paid])]).clone();
    store.connect(std::slice::from_ref(&spending.record));
    assert_eq!(server.ok("spindex/v1/block/5").await["unspent"], json!(1));
    // Its hash is known as one that was there.
    store.reorganize(1, &[]);
    assert_eq!(server.ok("spindex/v1/block/5").await["unspent"], json!(2));
    let gone = format!("block/{}", spending.id().hash);
    refused(&server, &gone, 404, "reorganised_away").await;
    refused(&server, "block/6", 404, "not_yet_indexed").await;
    store.connect(&[spending.record]);
    assert_eq!(
        server.ok(&format!("spindex/v1/{gone}")).await["height"],
        json!(6)
    );
}

#[tokio::test]
async fn infos_say_what_there_is() {
    let chain = sample_chain();
    let first = chain.blocks[0].id().height;
    for keep in [Keep::Full, Keep::Tweaks] {
        let store = TestStore::keeping(Network::Regtest, first, keep, TweakForm::Point);
        store.connect(&chain.records());
        let server = Server::start(&store, None).await;
        let tip = chain.tip().id();
        let links = spcommit::links(&chain.records());
        let [v1, v2] = links.last().expect("there are blocks");
        let heads = sections::heads(&chain.records());
        let head = heads[heads.len() - 1];
        let is_full = keep == Keep::Full;
        let columns = match is_full {
            true => json!([
                "headers",
                "tweaks",
                "prefixes",
                "outputs",
                "spent",
                "spends",
                "new-utxos",
                "selected"
            ]),
            false => json!(["headers", "tweaks"]),
        };
        let expected = json!({
            "network": "regtest",
            "genesis_hash": "0f9188f13cb7b2c71f2a335e3a4fc328bf5beb436012afca590b1a11466e2206",
            "first_height": first,
            "tip": {"height": tip.height, "block_hash": tip.hash.to_string()},
            "keeps": if is_full { "full" } else { "tweaks" },
            "columns": columns,
            "chunk_blocks": 64,
            "horizon": 100,
            "spenders_from": null,
            "digest": chain.digest(tip.height),
            "heads": {
                "v1": hex(&v1.head), "v2": is_full.then(|| hex(&v2.head)),
                "columns": is_full.then(|| hex(&head)),
            },
            "server": {"name": "spindex", "version": env!("CARGO_PKG_VERSION")},
        });
        assert_eq!(server.ok("spindex/v1/info").await, expected);
        let block = server.ok("spindex/v1/block/2").await;
        assert_eq!(block["transactions"], json!(5));
        assert_eq!(
            block["outputs"],
            if is_full { json!(8) } else { Value::Null }
        );
    }
}

#[tokio::test]
async fn on_mainnet_there_are_no_heads_below_the_start_of_the_chains() {
    let mut chain = TestChain::new(709_650);
    for _ in 0..7 {
        chain.mine(&[pays(&[600])]);
    }
    let store = TestStore::new(Network::Bitcoin, 709_650);
    store.connect(&chain.records());
    let server = Server::start(&store, None).await;
    let below = server.ok("spindex/v1/block/709655").await;
    assert_eq!(below["commitments"], Value::Null);
    let first = server.ok("spindex/v1/block/709656").await;
    let [v1, _] = spcommit::links(&chain.records()[6..])[0];
    assert_eq!(first["commitments"]["v1"]["head"], json!(hex(&v1.head)));
    let info = server.ok("spindex/v1/info").await;
    assert_eq!(info["network"], json!("main"));
    assert_eq!(info["heads"]["v1"], json!(hex(&v1.head)));
    store.reorganize(1, &[]);
    assert_eq!(server.ok("spindex/v1/info").await["heads"], Value::Null);
}

#[tokio::test]
async fn blocks_that_there_are_not_are_told_apart() {
    let chain = sample_chain();
    let (first, tip) = (chain.blocks[0].id().height, chain.tip().id().height);
    let (_store, server) = serve_chain(&chain).await;
    for route in ["block", "digest"] {
        refused(
            &server,
            &format!("{route}/{}", tip + 1),
            404,
            "not_yet_indexed",
        )
        .await;
        refused(
            &server,
            &format!("{route}/{}", first - 1),
            404,
            "never_indexed",
        )
        .await;
        for wrong in [
            "tip",
            "-1",
            "%2b5",
            "4294967296",
            "%ff",
            "5?x=1",
            &"zz".repeat(32),
        ] {
            refused(&server, &format!("{route}/{wrong}"), 400, "bad_request").await;
        }
    }
    let hash = BlockHash::from_byte_array([3; 32]);
    refused(&server, &format!("block/{hash}"), 404, "unknown").await;
    refused(&server, "info?x=1", 400, "bad_request").await;
    let empty = TestStore::new(Network::Regtest, 7);
    let server = Server::start(&empty, None).await;
    for path in [
        "info",
        "block/7",
        "digest/7",
        &format!("block/{hash}"),
        "height?time=5",
    ] {
        refused(&server, path, 503, "busy").await;
    }
}
