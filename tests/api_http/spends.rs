//! `GET /spends/:height`: spenders from the node's block, matched with the index.

use std::sync::atomic::Ordering;

use bitcoin::consensus::encode::serialize_hex;
use bitcoin::{Network, OutPoint};
use serde_json::{Value, json};

use super::fixture::{
    Out, Plan, RecordingNode, Server, TestChain, TestStore, hex, json_of, pays, sample_chain,
    sweeps,
};

const NODE_FAILED: &str = "the node could not give the block, try again later";

/// One entry per spend, found by searching all inputs of the block for its outpoint.
fn expected(chain: &TestChain, height: u32) -> Value {
    let block = chain.at(height);
    let mut data = Vec::new();
    for spend in &block.record.spends {
        let found = block.block.txdata.iter().find_map(|transaction| {
            let mut inputs = transaction.input.iter();
            let input = inputs.position(|input| input.previous_output == spend.outpoint)?;
            Some((transaction, input))
        });
        let (transaction, input) = found.expect("the block has the spend");
        data.push(json!({
            "txid": spend.outpoint.txid.to_string(), "vout": spend.outpoint.vout,
            "spending_txid": transaction.compute_txid().to_string(), "input": input,
        }));
    }
    json!({"block_hash": block.id().hash.to_string(), "block_height": height, "data": data})
}

fn without_op_return(mut body: Value) -> Value {
    for entry in body["data"].as_array_mut().expect("a list") {
        entry
            .as_object_mut()
            .expect("an object")
            .remove("op_return");
    }
    body
}

#[tokio::test]
async fn spends_name_their_spender_and_its_data() {
    let chain = sample_chain();
    let store = TestStore::new(Network::Regtest, 1);
    store.connect(&chain.records());
    let server = Server::start(&store, Some(RecordingNode::new(&chain))).await;
    for height in 1..=6 {
        let body = server.ok(&format!("spends/{height}")).await;
        assert_eq!(without_op_return(body), expected(&chain, height));
    }
    let third = server.ok("spends/3").await;
    assert_eq!(third["data"].as_array().map(Vec::len), Some(2));
    assert_eq!(third["data"][1]["op_return"], json!([]));
    let fourth = server.ok("v1/spends/4").await;
    // Input 0 is of another kind; the two taproot outpoints are 1 and 2.
    assert_eq!(fourth["data"][0]["input"], 1);
    assert_eq!(fourth["data"][1]["input"], 2);
    let state = format!("{}{}", hex(b"state"), "ff".repeat(80));
    for entry in 0..2 {
        assert_eq!(fourth["data"][entry]["op_return"], json!([state, ""]));
    }
}

#[tokio::test]
async fn blocks_alone_tell_spenders_and_take_no_transaction() {
    let chain = sample_chain();
    let store = TestStore::new(Network::Regtest, 1);
    store.connect(&chain.records());
    let blocks = RecordingNode::new(&chain);
    let server = Server::start_with_blocks(&store, blocks.clone()).await;
    let body = server.ok("spends/3").await;
    assert_eq!(without_op_return(body), expected(&chain, 3));
    let transaction = &chain.at(2).block.txdata[1];
    let body = json!({"data": serialize_hex(transaction)}).to_string();
    let request = server.client.post(server.url("forward-tx")).body(body);
    let request = request.header("content-type", "application/json");
    let answer = json_of(request.send().await.expect("an answer")).await;
    let refusal = json!({"error": "this server has no node to ask"});
    assert_eq!(answer, (503, refusal));
    assert!(blocks.sent.lock().expect("not poisoned").is_empty());
}

#[tokio::test]
async fn a_block_is_fetched_once_for_many_clients_and_not_at_all_without_spends() {
    let chain = sample_chain();
    let store = TestStore::new(Network::Regtest, 1);
    store.connect(&chain.records());
    let node = RecordingNode::gated(&chain);
    let server = Server::start(&store, Some(node.clone())).await;
    server.ok("spends/1").await;
    assert_eq!(node.block_calls.load(Ordering::SeqCst), 0);
    let asked: Vec<_> = (0..20).map(|_| server.json("spends/4")).collect();
    let open_gate = async {
        node.entered.acquire().await.expect("never closed").forget();
        node.gate.add_permits(100);
    };
    let (answers, ()) = tokio::join!(futures::future::join_all(asked), open_gate);
    for (status, body) in answers {
        assert_eq!(status, 200);
        assert_eq!(without_op_return(body), expected(&chain, 4));
    }
    assert_eq!(node.block_calls.load(Ordering::SeqCst), 1);
    server.ok("spends/4").await;
    assert_eq!(node.block_calls.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_reorg_is_not_answered_from_what_was_kept() {
    let mut chain = TestChain::new(1);
    let made = chain.mine(&[pays(&[1000, 2000])]).clone();
    let mut other = chain.clone();
    chain.mine(&[sweeps(&[made.outpoint(0, 0)])]);
    other.salt(1);
    other.mine(&[sweeps(&[made.outpoint(0, 1)])]);
    let store = TestStore::new(Network::Regtest, 1);
    store.connect(&chain.records());
    let node = RecordingNode::new(&chain);
    let server = Server::start(&store, Some(node.clone())).await;
    let body = server.ok("spends/2").await;
    assert_eq!(without_op_return(body), expected(&chain, 2));
    store.reorganize(1, &other.records()[1..]);
    node.learn(other.tip().id().hash, other.tip().block.clone());
    let body = server.ok("spends/2").await;
    assert_eq!(without_op_return(body), expected(&other, 2));
}

#[tokio::test]
async fn faults_of_the_node_are_errors_that_do_not_last() {
    let chain = sample_chain();
    let store = TestStore::new(Network::Regtest, 1);
    store.connect(&chain.records());
    let node = RecordingNode::new(&TestChain::new(1));
    let server = Server::start(&store, Some(node.clone())).await;
    server.refused("spends/4", 502, NODE_FAILED).await;
    // Another block under the hash asked for.
    let hash = chain.at(4).id().hash;
    let insert = |height: u32| node.learn(hash, chain.at(height).block.clone());
    insert(3);
    let mismatch = "the node's block does not fit the index";
    server.refused("spends/4", 502, mismatch).await;
    // The right header with other transactions.
    let mut altered = chain.at(4).block.clone();
    altered.txdata[1].input[2].previous_output = OutPoint::null();
    node.learn(hash, altered);
    server.refused("spends/4", 502, mismatch).await;
    insert(4);
    let body = server.ok("spends/4").await;
    assert_eq!(without_op_return(body), expected(&chain, 4));
    let alone = Server::start(&store, None).await;
    for height in [1, 4] {
        let path = format!("spends/{height}");
        alone
            .refused(&path, 503, "this server has no node to ask")
            .await;
    }
}

#[tokio::test]
async fn data_of_one_spender_are_not_repeated_without_bound() {
    let mut chain = TestChain::new(1);
    let made = chain.mine(&[pays(&[1; 120])]).clone();
    let spends: Vec<OutPoint> = (0..120).map(|vout| made.outpoint(0, vout)).collect();
    let data = vec![0xab; 50_000];
    chain.mine(&[
        Plan {
            is_eligible: false,
            spends: spends[..100].to_vec(),
            outputs: vec![Out::OpReturn(vec![data.clone()])],
        },
        Plan {
            is_eligible: false,
            spends: spends[100..].to_vec(),
            outputs: vec![Out::OpReturn(vec![b"x".to_vec()])],
        },
    ]);
    let store = TestStore::new(Network::Regtest, 1);
    store.connect(&chain.records());
    let server = Server::start(&store, Some(RecordingNode::new(&chain))).await;
    let body = server.ok("spends/2").await;
    assert_eq!(body["op_return_once"], true);
    let mut rest = without_op_return(body.clone());
    rest.as_object_mut()
        .expect("an object")
        .remove("op_return_once");
    assert_eq!(rest, expected(&chain, 2));
    for (at, entry) in body["data"].as_array().expect("a list").iter().enumerate() {
        let expected = match at {
            0 => json!([hex(&data)]),
            100 => json!([hex(b"x")]),
            _ => json!([]),
        };
        assert_eq!(entry["op_return"], expected, "entry {at}");
    }
}
