//! Transactions and outpoints by their names, heights by times.

use std::collections::HashMap;

use bitcoin::hashes::Hash;
use bitcoin::{Network, OutPoint, Txid};
use serde_json::{Value, json};
use spindex::store::{BlockRecord, Keep, TweakForm};

use super::super::fixture::{
    Out, Plan, Server, TestBlock, TestChain, TestStore, compressed, hex, outputs_of, pays,
    sample_chain, sweeps,
};
use super::super::serve_chain;
use super::{refused, step};

/// What the records say of each spend by a transaction with a state id: the first one counts.
fn state_spends(chain: &TestChain) -> HashMap<OutPoint, Value> {
    let mut spends = HashMap::new();
    for TestBlock { record, block } in &chain.blocks {
        for spend in &record.spends {
            let spender = spend.spender.expect("the chain knows all of them");
            let states = record.states.iter();
            let mut own = states.filter(|state| state.transaction == spender.transaction);
            let Some(state) = own.next() else { continue };
            let txid = block.txdata[usize::from(spender.transaction)].compute_txid();
            let value = json!({
                "height": record.id.height, "block_hash": record.id.hash.to_string(),
                "txid": txid.to_string(), "transaction": spender.transaction, "input": spender.input,
                "vout": state.vout, "state_id": hex(&state.state_id),
            });
            spends.insert(spend.outpoint, value);
        }
    }
    spends
}

/// Whatever a process, a sweep and payments leave behind.
fn chain_with_states() -> TestChain {
    let mut chain = sample_chain();
    let paid = chain
        .mine(&[pays(&[1, 2, 3]), pays(&[4]), pays(&[5])])
        .clone();
    // An output that is not eligible, which somebody with a state id spends too.
    let plain = Plan {
        is_eligible: false,
        spends: Vec::new(),
        outputs: vec![Out::Other(1), Out::Taproot(9)],
    };
    let other = chain.mine(&[plain]).outpoint(0, 1);
    let mut both = step(paid.outpoint(0, 1), [8; 32]);
    both.spends.push(other);
    both.outputs.push(Out::OpReturn(vec![vec![9; 32]]));
    let first = chain.mine(&[sweeps(&[paid.outpoint(2, 0)]), both]).clone();
    chain.mine(&[step(first.outpoint(1, 0), [3; 32])]);
    chain
}

/// What a record says of an output.
fn created(record: &BlockRecord, outpoint: &OutPoint) -> Option<Value> {
    let rows = record.transactions.iter();
    let index = rows.clone().position(|row| row.txid == outpoint.txid)?;
    let output = outputs_of(record, index).find(|output| output.vout == outpoint.vout)?;
    Some(json!({
        "height": record.id.height, "block_hash": record.id.hash.to_string(),
        "value": output.value_sat, "key": hex(&output.key),
    }))
}

fn state(
    outpoint: &OutPoint,
    state: &str,
    created: Option<&Value>,
    spent: Option<&Value>,
) -> Value {
    json!({
        "outpoint": outpoint.to_string(), "state": state, "created": created, "spent": spent,
        "known_from": null,
    })
}

#[tokio::test]
async fn outpoints_are_what_the_chain_says_and_nothing_more() {
    let chain = chain_with_states();
    let (spent, state_spends) = (chain.spent(), state_spends(&chain));
    assert_eq!(state_spends.len(), 3);
    let (_store, server) = serve_chain(&chain).await;
    let ask = async |outpoint: &OutPoint, height: Option<u32>| {
        let height = height.map_or_else(String::new, |height| format!("?height={height}"));
        server
            .ok(&format!("spindex/v1/outpoint/{outpoint}{height}"))
            .await
    };
    let mut seen: HashMap<String, u32> = HashMap::new();
    for block in &chain.blocks {
        let height = block.id().height;
        for transaction in &block.block.txdata {
            let txid = transaction.compute_txid();
            // The last one does not exist.
            for vout in 0..=transaction.output.len() as u32 {
                let outpoint = OutPoint { txid, vout };
                let created = created(&block.record, &outpoint);
                let spend = state_spends.get(&outpoint);
                let name = match (&created, spent.contains(&outpoint)) {
                    (Some(_), false) => "unspent",
                    (Some(_), true) => "spent",
                    // Its spend is there, and it has a state id.
                    (None, _) if spend.is_some() => "spent",
                    (None, _) => "unknown",
                };
                let expected = state(&outpoint, name, created.as_ref(), spend);
                assert_eq!(ask(&outpoint, Some(height)).await, expected);
                // Of another block it is as if it were not there, unless it has gone with a state id.
                let other = ask(&outpoint, Some(1)).await;
                match spend {
                    Some(_) => assert_eq!(other, expected),
                    None => assert_eq!(other, state(&outpoint, "unknown", None, None)),
                }
                // Without a height what left no trace cannot be told from what never was.
                let (name, expected) = match name {
                    "spent" | "unknown" if spend.is_none() => {
                        let name = "spent_or_unknown";
                        (name, state(&outpoint, name, None, None))
                    }
                    name => (name, expected),
                };
                assert_eq!(ask(&outpoint, None).await, expected);
                *seen.entry(name.to_owned()).or_default() += 1;
            }
        }
    }
    assert_eq!(seen["spent"], 3);
    assert!(
        seen["unspent"] > 5 && seen["spent_or_unknown"] > 5,
        "{seen:?}"
    );
    let nobody = OutPoint::new(Txid::from_byte_array([1; 32]), 0);
    let name = "spent_or_unknown";
    assert_eq!(ask(&nobody, None).await, state(&nobody, name, None, None));
    assert_eq!(
        ask(&nobody, Some(3)).await,
        state(&nobody, "unknown", None, None)
    );
}

#[tokio::test]
async fn an_output_that_a_reorganisation_revives_is_unspent_again() {
    let mut chain = TestChain::new(7);
    let paid = chain.mine(&[pays(&[1000, 2000])]).outpoint(0, 0);
    let spending = chain.mine(&[step(paid, [1; 32])]).clone();
    let (store, server) = serve_chain(&chain).await;
    let path = format!("spindex/v1/outpoint/{paid}");
    let found = server.ok(&path).await;
    assert_eq!(found["state"], json!("spent"));
    assert_eq!(found["spent"]["height"], json!(8));
    store.reorganize(1, &[]);
    for path in [path.clone(), format!("{path}?height=7")] {
        let found = server.ok(&path).await;
        assert_eq!(
            (&found["state"], &found["spent"]),
            (&json!("unspent"), &Value::Null)
        );
    }
    store.connect(&[spending.record]);
    assert_eq!(server.ok(&path).await["state"], json!("spent"));
}

#[tokio::test]
async fn transactions_are_found_by_their_block_and_while_an_output_leaves_a_trace() {
    let chain = chain_with_states();
    let (spent, state_spends) = (chain.spent(), state_spends(&chain));
    let (_store, server) = serve_chain(&chain).await;
    let (mut found, mut hidden) = (0, 0);
    for TestBlock { record, block } in &chain.blocks {
        let height = record.id.height;
        for (index, row) in record.transactions.iter().enumerate() {
            let outpoint = |vout| OutPoint::new(row.txid, vout);
            let outputs = outputs_of(record, index).map(|output| {
                json!({
                    "vout": output.vout, "value": output.value_sat, "key": hex(&output.key),
                    "is_spent": spent.contains(&outpoint(output.vout)),
                    "spent": state_spends.get(&outpoint(output.vout)),
                })
            });
            let expected = json!({
                "txid": row.txid.to_string(), "height": height, "block_hash": record.id.hash.to_string(),
                "tweak": compressed(row), "outputs": outputs.collect::<Vec<Value>>(), "known_from": null,
            });
            let path = format!("tx/{}", row.txid);
            let by_height = format!("spindex/v1/{path}?height={height}");
            assert_eq!(server.ok(&by_height).await, expected);
            let has_trace = outputs_of(record, index).any(|output| {
                let outpoint = outpoint(output.vout);
                !spent.contains(&outpoint) || state_spends.contains_key(&outpoint)
            });
            match has_trace {
                true => assert_eq!(server.ok(&format!("spindex/v1/{path}")).await, expected),
                false => drop(refused(&server, &path, 501, "not_kept").await),
            }
            found += u32::from(has_trace);
            hidden += u32::from(!has_trace);
            let wrong = format!("{path}?height={}", height - 1);
            let code = if height > 1 {
                "unknown"
            } else {
                "never_indexed"
            };
            refused(&server, &wrong, 404, code).await;
        }
        // What is not eligible is not there.
        let coinbase = block.txdata[0].compute_txid();
        refused(
            &server,
            &format!("tx/{coinbase}?height={height}"),
            404,
            "unknown",
        )
        .await;
    }
    assert!(found > 5 && hidden > 2, "{found} found, {hidden} not");
}

#[tokio::test]
async fn requests_that_make_no_sense_are_refused() {
    let chain = sample_chain();
    let tip = chain.tip().id().height;
    let (_store, server) = serve_chain(&chain).await;
    let txid = Txid::from_byte_array([4; 32]);
    for path in [
        "outpoint/5",
        &format!("outpoint/{txid}"),
        &format!("outpoint/{txid}:x"),
        &format!("outpoint/{txid}:1?height=x"),
        &format!("outpoint/{txid}:1?at=5"),
        "tx/5",
        "tx/%ff",
        &format!("tx/{txid}?height="),
        "height",
        "height?time=-1",
        "height?time=4294967296",
        "height?time=5&time=6",
        "height?from=5",
    ] {
        refused(&server, path, 400, "bad_request").await;
    }
    for route in [format!("outpoint/{txid}:0"), format!("tx/{txid}")] {
        refused(
            &server,
            &format!("{route}?height={}", tip + 1),
            404,
            "not_yet_indexed",
        )
        .await;
        refused(&server, &format!("{route}?height=0"), 404, "never_indexed").await;
    }
    let store = TestStore::keeping(Network::Regtest, 1, Keep::Tweaks, TweakForm::Point);
    store.connect(&chain.records());
    let server = Server::start(&store, None).await;
    for route in [format!("outpoint/{txid}:0"), format!("tx/{txid}")] {
        refused(&server, &route, 501, "not_kept").await;
        refused(&server, &format!("{route}?height=3"), 501, "not_kept").await;
    }
}

/// During a long sync what finds outputs by outpoints is left for its end; a block is found as ever.
#[tokio::test]
async fn during_a_long_sync_whoever_gives_no_height_has_to_wait() {
    let mut chain = TestChain::new(7);
    let paid = chain.mine(&[pays(&[1000])]).outpoint(0, 0);
    let store = TestStore::new(Network::Regtest, 7);
    store.store.extend(&chain.records()).expect("extends");
    let server = Server::start(&store, None).await;
    for route in [format!("outpoint/{paid}"), format!("tx/{}", paid.txid)] {
        refused(&server, &route, 503, "busy").await;
        server.ok(&format!("spindex/v1/{route}?height=7")).await;
    }
    store.store.locate_rest(|_| true).expect("locates");
    // What is kept of answers is of another state only after the next block.
    let found = server.ok(&format!("spindex/v1/outpoint/{paid}")).await;
    assert_eq!(found["state"], json!("unspent"));
}

/// The blocks of this chain are ten minutes apart, as their headers say.
#[tokio::test]
async fn a_wallet_begins_two_hours_before_its_time() {
    let mut chain = TestChain::new(100);
    for _ in 0..40 {
        chain.mine(&[]);
    }
    let (_store, server) = serve_chain(&chain).await;
    let time = |height: u32| chain.at(height).block.header.time;
    let begins = async |time: u32| {
        let found = server.ok(&format!("spindex/v1/height?time={time}")).await;
        let block = chain.at(found["height"].as_u64().expect("a height") as u32);
        let expected = json!({
            "time": time, "height": block.id().height, "block_hash": block.id().hash.to_string(),
            "block_time": block.block.header.time,
        });
        assert_eq!(found, expected);
        block.id().height
    };
    assert_eq!(begins(time(135)).await, 123);
    assert_eq!(begins(time(135) + 1).await, 124);
    // Below the first height that has ten headers below it, and in the future.
    assert_eq!(begins(0).await, 100);
    assert_eq!(begins(time(117)).await, 100);
    assert_eq!(begins(u32::MAX).await, 135);
}
