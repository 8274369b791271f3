//! The native protocol: commitments, and processes followed from the index alone; other routes in files of their own.

mod blocks;
mod columns;
mod events;
mod lookups;
mod openapi;
mod proofs;
mod selections;
mod slow_readers;
mod watch_log;
mod watches;

use bitcoin::{Network, OutPoint};
use serde_json::{Value, json};
use spindex::store::{BlockSpends, Keep, TweakForm};

use super::fixture::{Out, Plan, Server, TestBlock, TestChain, TestStore, hex, pays};
use super::{sample_chain, serve_chain, spcommit};

/// The next step of a process: a new tip in front, then the state id.
fn step(tip: OutPoint, state_id: [u8; 32]) -> Plan {
    Plan {
        is_eligible: true,
        spends: vec![tip],
        outputs: vec![Out::Taproot(546), Out::OpReturn(vec![state_id.to_vec()])],
    }
}

/// What the server says of the step in a block.
fn said(block: &TestBlock, transaction: usize, state_id: [u8; 32]) -> Value {
    json!({
        "height": block.id().height,
        "block_hash": block.id().hash.to_string(),
        "txid": block.outpoint(transaction, 0).txid.to_string(),
        "transaction": transaction + 1,
        "input": 1,
        "vout": 1,
        "state_id": hex(&state_id),
    })
}

async fn process(server: &Server, start: OutPoint) -> Value {
    server.ok(&format!("spindex/v1/process/{start}")).await
}

#[tokio::test]
async fn a_process_is_followed_to_its_tip_through_blocks_and_reorgs() {
    let mut chain = TestChain::new(7);
    let start = chain.mine(&[pays(&[546, 546])]).outpoint(0, 0);
    let mut tip = start;
    let mut steps = Vec::new();
    for number in 1..=3 {
        let block = chain.mine(&[pays(&[1]), step(tip, [number; 32])]).clone();
        tip = block.outpoint(1, 0);
        steps.push(said(&block, 1, [number; 32]));
    }
    let store = TestStore::new(Network::Regtest, 7);
    store.connect(&chain.records());
    let server = Server::start(&store, None).await;
    let expected = |steps: &[Value], tip: Option<OutPoint>| {
        json!({
            "start": start.to_string(),
            "steps": steps,
            "tip": tip.map(|tip| tip.to_string()),
            "more": false,
            "known_from": null,
        })
    };
    assert_eq!(process(&server, start).await, expected(&steps, Some(tip)));

    // Another branch from the second step on, in which the process ends.
    chain.pop(2);
    chain.salt(1);
    let second = chain.blocks[1].outpoint(1, 0);
    let ends = chain.mine(&[step(second, [0; 32])]).clone();
    store.reorganize(2, std::slice::from_ref(&ends.record));
    let steps = [steps[0].clone(), said(&ends, 0, [0; 32])];
    assert_eq!(process(&server, start).await, expected(&steps, None));

    // An output that nobody spent, one that was spent without a state id, one that never was.
    let unspent = chain.blocks[0].outpoint(0, 1);
    for other in [unspent, ends.outpoint(0, 0), OutPoint::null()] {
        let found = process(&server, other).await;
        assert_eq!(found["steps"], json!([]));
        assert_eq!(found["tip"], json!(other.to_string()));
    }
    let swept = chain.mine(&[super::sweeps(&[unspent])]).clone();
    store.connect(std::slice::from_ref(&swept.record));
    assert_eq!(process(&server, unspent).await["steps"], json!([]));
}

/// What is filled in of old blocks is answered at once, though the tip is the same.
#[tokio::test]
async fn a_process_is_followed_as_far_as_spenders_are_known() {
    let mut chain = TestChain::new(7);
    let start = chain.mine(&[pays(&[546])]).outpoint(0, 0);
    let first = chain.mine(&[step(start, [1; 32])]).clone();
    let second = chain.mine(&[step(first.outpoint(0, 0), [2; 32])]).clone();
    let store = TestStore::new(Network::Regtest, 7);
    let mut unknown = chain.records();
    for record in &mut unknown {
        record.states.clear();
        for spend in &mut record.spends {
            spend.spender = None;
        }
    }
    store.connect(&unknown);
    let server = Server::start(&store, None).await;
    let known = |block: &TestBlock| BlockSpends {
        id: block.id(),
        spends: block.record.spends.clone(),
        states: block.record.states.clone(),
    };
    let fill = |blocks: &[&TestBlock]| {
        let blocks = blocks.iter().map(|block| known(block)).collect();
        let snapshot = store.store.snapshot().expect("snapshot");
        let agreed = snapshot.agree_on_spends(blocks).expect("comparison");
        store.store.fill_spenders(&agreed).expect("written")
    };
    let found = process(&server, start).await;
    assert_eq!(
        (&found["steps"], &found["known_from"]),
        (&json!([]), &json!(10))
    );
    assert_eq!(fill(&[&second]), Some(9));
    let found = process(&server, start).await;
    assert_eq!(
        (&found["steps"], &found["known_from"]),
        (&json!([]), &json!(9))
    );
    let [zeroth, ..] = chain.blocks.as_slice() else {
        panic!("three blocks");
    };
    assert_eq!(fill(&[zeroth, &first]), None);
    let found = process(&server, start).await;
    assert_eq!(found["known_from"], Value::Null);
    let steps = [said(&first, 0, [1; 32]), said(&second, 0, [2; 32])];
    assert_eq!(found["steps"], json!(steps));
}

/// Of two state ids of a transaction the first counts; data of other lengths is none.
#[tokio::test]
async fn the_first_state_id_of_a_transaction_counts() {
    let mut chain = TestChain::new(7);
    let start = chain.mine(&[pays(&[546])]).outpoint(0, 0);
    let data = |length: usize, byte: u8| Out::OpReturn(vec![vec![byte; length]]);
    let plan = Plan {
        is_eligible: false,
        spends: vec![start],
        outputs: vec![
            Out::Taproot(546),
            data(31, 1),
            data(33, 2),
            data(32, 3),
            data(32, 4),
        ],
    };
    let block = chain.mine(&[plan]).clone();
    let (_store, server) = serve_chain(&chain).await;
    let found = process(&server, start).await;
    assert_eq!(found["steps"].as_array().map(Vec::len), Some(1));
    assert_eq!(found["steps"][0]["vout"], json!(3));
    assert_eq!(found["steps"][0]["state_id"], json!(hex(&[3; 32])));
    assert_eq!(found["tip"], json!(block.outpoint(0, 0).to_string()));
}

#[tokio::test]
async fn long_processes_come_in_parts() {
    let mut chain = TestChain::new(1);
    let start = chain.mine(&[pays(&[546])]).outpoint(0, 0);
    let mut tip = start;
    for _ in 0..1_001 {
        tip = chain.mine(&[step(tip, [5; 32])]).outpoint(0, 0);
    }
    let (_store, server) = serve_chain(&chain).await;
    let first = process(&server, start).await;
    assert_eq!(first["steps"].as_array().map(Vec::len), Some(1_000));
    assert_eq!(first["more"], json!(true));
    let next: OutPoint = first["tip"]
        .as_str()
        .expect("a tip")
        .parse()
        .expect("an outpoint");
    let rest = process(&server, next).await;
    assert_eq!(rest["steps"].as_array().map(Vec::len), Some(1));
    assert_eq!(rest["more"], json!(false));
    assert_eq!(rest["tip"], json!(tip.to_string()));
}

#[tokio::test]
async fn commitments_are_those_of_spcommit() {
    let chain = sample_chain();
    let (_store, server) = serve_chain(&chain).await;
    let links = spcommit::links(&chain.records());
    let link = |link: &spcommit::Link| json!({"commitment": hex(&link.commitment), "head": hex(&link.head)});
    let heads = super::sections::heads(&chain.records());
    let links = links.iter().zip(heads);
    let blocks = chain
        .blocks
        .iter()
        .zip(links)
        .map(|(block, ([v1, v2], head))| {
            json!({
                "height": block.id().height,
                "block_hash": block.id().hash.to_string(),
                "v1": link(v1),
                "v2": link(v2),
                "columns_head": hex(&head),
            })
        });
    let blocks: Vec<Value> = blocks.collect();
    let (first, tip) = (chain.blocks[0].id().height, chain.tip().id().height);
    let path = |from: u32, to: u32| format!("spindex/v1/commitments?from={from}&to={to}");
    assert_eq!(
        server.ok(&path(first, tip)).await,
        json!({"blocks": blocks})
    );
    let one = server.ok(&path(tip, tip)).await;
    assert_eq!(one["blocks"], json!([blocks[blocks.len() - 1]]));
}

#[tokio::test]
async fn an_index_of_tweaks_alone_commits_to_these() {
    let chain = sample_chain();
    let first = chain.blocks[0].id().height;
    let store = TestStore::keeping(Network::Regtest, first, Keep::Tweaks, TweakForm::Point);
    store.connect(&chain.records());
    let server = Server::start(&store, None).await;
    let found = server
        .ok(&format!("spindex/v1/commitments?from={first}"))
        .await;
    let [v1, _] = spcommit::links(&chain.records())[0];
    assert_eq!(found["blocks"][0]["v1"]["head"], json!(hex(&v1.head)));
    assert_eq!(found["blocks"][0]["v2"], Value::Null);
    assert_eq!(found["blocks"][0]["columns_head"], Value::Null);
    let start = OutPoint::null();
    refused(&server, &format!("process/{start}"), 501, "not_kept").await;
}

async fn refused(server: &Server, path: &str, status: u16, code: &str) -> String {
    let url = format!("http://{}/spindex/v1/{path}", server.address);
    let response = server.client.get(&url).send().await.expect("an answer");
    assert_eq!(response.status().as_u16(), status, "{path}");
    let has_wait = response.headers().contains_key("retry-after");
    assert_eq!(has_wait, code == "busy", "{path}");
    let body: Value = response.json().await.expect("JSON");
    assert_eq!(body["error"]["code"], json!(code), "{path}");
    let message = body["error"]["message"].as_str().expect("a message");
    assert!(!message.is_empty());
    message.to_owned()
}

#[tokio::test]
async fn refusals_have_a_code_for_programs() {
    let chain = sample_chain();
    let (first, tip) = (chain.blocks[0].id().height, chain.tip().id().height);
    let (_store, server) = serve_chain(&chain).await;
    let above = format!("commitments?from={tip}&to={}", tip + 1);
    let message = refused(&server, &above, 404, "not_yet_indexed").await;
    assert!(message.contains(&format!("{}", tip + 1)), "{message}");
    let below = format!("commitments?from={}&to={tip}", first - 1);
    refused(&server, &below, 404, "never_indexed").await;
    for path in [
        "commitments",
        "commitments?from=x",
        "commitments?from=1&to=145",
        "commitments?from=2&to=1",
        "commitments?height=5",
        "process/tip",
        "process/00:1",
        "process/%ff",
    ] {
        refused(&server, path, 400, "bad_request").await;
    }
    let empty = TestStore::new(Network::Regtest, 7);
    let server = Server::start(&empty, None).await;
    refused(&server, "commitments?from=7", 503, "busy").await;
    let start = OutPoint::null();
    refused(&server, &format!("process/{start}"), 503, "busy").await;
}
