//! `spindex watch verify` against servers that tell the truth, and servers that lie about one thing.

use std::collections::HashMap;
use std::process::Output;
use std::sync::Arc;

use bitcoin::hex::DisplayHex;
use bitcoin::{OutPoint, Txid};
use serde_json::{Value, json};
use spindex::chain::made::simulated::builder::{InputKind, SpendableOutput};
use spindex::store::Store;

use crate::between::Between;
use crate::forest::{Forest, Output as Made};
use crate::scan::fails;
use crate::support::index::fresh_store_from;
use crate::support::served::serve;
use crate::support::spindex::{command, stderr, stdout};

/// A process with some steps, and an index of its chain.
struct Scene {
    forest: Forest,
    start: OutPoint,
    /// Txids and state ids, oldest first.
    steps: Vec<(Txid, [u8; 32])>,
    tip: SpendableOutput,
}

impl Scene {
    fn new(seed: u64) -> Self {
        let mut forest = Forest::new(seed, 12);
        // An output that taproot spends made, so that the index knows its transaction.
        let coins = forest.unspent();
        let taproot = coins.iter().find(|coin| coin.kind == InputKind::P2tr);
        let outputs = [Made::Coin(InputKind::P2tr), Made::Coin(InputKind::P2tr)];
        let made = forest.spend(&[taproot.unwrap().clone()], &outputs).unwrap();
        forest.chain.mine(1);
        let start = OutPoint::new(made, 0);
        let tip = forest.coins[&start].clone();
        Self {
            forest,
            start,
            steps: Vec::new(),
            tip,
        }
    }

    /// A step into the mempool.
    fn step(&mut self, id: [u8; 32]) {
        let outputs = [Made::Coin(InputKind::P2tr), Made::State(id)];
        let txid = self
            .forest
            .spend(std::slice::from_ref(&self.tip), &outputs)
            .unwrap();
        self.steps.push((txid, id));
        self.tip = self.forest.coins[&OutPoint::new(txid, 0)].clone();
    }

    async fn index(&self) -> Arc<Store> {
        fresh_store_from(self.forest.chain.clone(), 0).await
    }

    async fn url(&self, store: &Arc<Store>, between: &Between) -> String {
        let around = |router| between.around(router);
        let address = serve(&self.forest.chain, store.clone(), around).await;
        format!("http://{address}")
    }
}

async fn verify(start: OutPoint, urls: &[&str], more: &[&str]) -> Output {
    let home = tempfile::tempdir().unwrap();
    let mut command = command(home.path(), &["watch", "verify", &start.to_string()]);
    for url in urls {
        command.args(["--oracle", url]);
    }
    command.args(more);
    for name in ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"] {
        command.env_remove(name);
    }
    let run = move || command.output().unwrap();
    tokio::task::spawn_blocking(run).await.unwrap()
}

fn lines(output: &Output) -> Vec<Value> {
    let text = stdout(output);
    let lines = text.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Steps in several blocks, two of them in one.
async fn scene() -> Scene {
    let mut scene = Scene::new(11);
    for byte in 1..=2 {
        scene.step([byte; 32]);
        scene.forest.chain.mine(1);
    }
    scene.step([3; 32]);
    scene.step([4; 32]);
    scene.forest.chain.mine(3);
    scene
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_is_proven_step_by_step() {
    let mut scene = scene().await;
    let between = Between::default();
    let store = scene.index().await;
    let url = scene.url(&store, &between).await;
    let output = verify(scene.start, &[&url], &["--json"]).await;
    assert!(
        output.status.success(),
        "{}{}",
        stdout(&output),
        stderr(&output)
    );
    // By the blocks of the chain itself.
    let mut places = HashMap::new();
    for block in scene.forest.chain.active_blocks() {
        for (index, txid) in block.txids.iter().enumerate() {
            places.insert(*txid, (block.id, index));
        }
    }
    let mut expected = Vec::new();
    let mut spent = scene.start;
    for (number, (txid, id)) in (1..).zip(&scene.steps) {
        let (block, transaction) = places[txid];
        let next = OutPoint::new(*txid, 0);
        expected.push(json!({
            "event": "step", "server": format!("{url}/"), "number": number, "height": block.height,
            "block_hash": block.hash.to_string(), "transaction": transaction, "input": 0,
            "spent": spent.to_string(), "txid": txid.to_string(), "vout": 1,
            "state_id": id.to_lower_hex_string(), "next_tip": next.to_string(), "end": null, "proven": true,
        }));
        spent = next;
    }
    let said = lines(&output);
    let (steps, rest) = said.split_at(expected.len());
    assert_eq!(steps, expected);
    // The one thing that a server cannot prove.
    assert_eq!(rest.len(), 2, "{rest:#?}");
    assert_eq!(rest[0]["event"], "unverified");
    assert!(rest[0]["what"].as_str().unwrap().contains("is unspent"));
    assert_eq!(rest[1]["event"], "audited");
    assert_eq!(
        (&rest[1]["ok"], &rest[1]["proven"]),
        (&json!(true), &json!(4))
    );
    assert_eq!(rest[1]["tip"], json!(spent.to_string()));
    let first = places[&scene.steps[0].0].0.height;
    let tip = scene.forest.chain.tip_id().height;
    assert_eq!(rest[1]["headers"], json!(tip - first + 1));

    // Whoever spends the tip without a state id ends the process, by proof.
    scene
        .forest
        .spend(&[scene.tip.clone()], &[Made::Coin(InputKind::P2tr)])
        .unwrap();
    scene.forest.chain.mine(1);
    let ended = scene.url(&scene.index().await, &between).await;
    let output = verify(scene.start, &[&ended], &[]).await;
    let text = stdout(&output);
    assert!(output.status.success(), "{text}");
    let says_end = text.contains("5 of 5 steps proven")
        && text.contains("no_state")
        && text.contains("tip: none");
    let says_unknown = text.contains("4 of 4 steps proven") && text.contains("not verified: ");
    assert!(says_end || says_unknown, "{text}");
}

/// Changes one thing of the answer to whatever has `route` in it.
fn lie(between: &Between, route: &'static str, change: impl Fn(&mut Value) + Send + 'static) {
    between.change(move |_, asked, body| {
        if !asked.contains(route) {
            return body;
        }
        let mut value: Value = serde_json::from_slice(&body).unwrap();
        change(&mut value);
        value.to_string().into_bytes()
    });
}

/// Another digit at the end.
fn other(text: &Value) -> Value {
    let text = text.as_str().unwrap();
    let (rest, last) = text.split_at(text.len() - 1);
    let last = if last == "0" { "1" } else { "0" };
    json!(format!("{rest}{last}"))
}

/// What a lie changes, and what is said of it.
type Lie = (&'static str, &'static str, fn(&mut Value), &'static str);

const LIES: [Lie; 20] = [
    (
        "height",
        "/proof/",
        |proof| proof["height"] = json!(7),
        "the proof is for height 7",
    ),
    (
        "block hash",
        "/proof/",
        |proof| proof["block_hash"] = other(&proof["block_hash"]),
        "a proof of block",
    ),
    (
        "header",
        "/proof/",
        |proof| proof["header"] = other(&proof["header"]),
        "its header is that of block",
    ),
    (
        "index",
        "/proof/",
        |proof| proof["index"] = json!(9),
        "a proof of transaction 9",
    ),
    (
        "transaction",
        "/proof/",
        |proof| proof["transaction"] = proof["coinbase"]["transaction"].clone(),
        "the branch of the transaction",
    ),
    (
        "lock time",
        "/proof/",
        |proof| proof["transaction"] = other(&proof["transaction"]),
        "the branch of the transaction",
    ),
    (
        "no transaction",
        "/proof/",
        |proof| proof["transaction"] = json!("00"),
        "transaction: ",
    ),
    (
        "branch",
        "/proof/",
        |proof| proof["branch"][0] = other(&proof["branch"][0]),
        "the branch of the transaction",
    ),
    (
        "short branch",
        "/proof/",
        |proof| drop(proof["branch"].as_array_mut().unwrap().pop()),
        "hashes, and one of",
    ),
    (
        "long branch",
        "/proof/",
        |proof| proof["branch"] = json!(vec![proof["block_hash"].clone(); 17]),
        "a branch of 17 hashes",
    ),
    (
        "coinbase",
        "/proof/",
        |proof| proof["coinbase"]["transaction"] = other(&proof["coinbase"]["transaction"]),
        "the branch of the coinbase",
    ),
    (
        "its branch",
        "/proof/",
        |proof| proof["coinbase"]["branch"][0] = other(&proof["coinbase"]["branch"][0]),
        "the branch of the coinbase",
    ),
    (
        "a step's height",
        "/process/",
        |process| process["steps"][1]["height"] = json!(109),
        "the proof is for height",
    ),
    (
        "a step's block",
        "/process/",
        |process| process["steps"][1]["block_hash"] = other(&process["steps"][1]["block_hash"]),
        "no indexed block has hash",
    ),
    (
        "a step's place",
        "/process/",
        |process| process["steps"][1]["transaction"] = json!(900),
        "has no transaction 900",
    ),
    (
        "a step's input",
        "/process/",
        |process| process["steps"][1]["input"] = json!(1),
        "the input that spends is said to be 1",
    ),
    (
        "a step's txid",
        "/process/",
        |process| process["steps"][1]["txid"] = other(&process["steps"][1]["txid"]),
        "the spender is said to be",
    ),
    (
        "a state id",
        "/process/",
        |process| process["steps"][1]["state_id"] = other(&process["steps"][1]["state_id"]),
        "the state id is said to be",
    ),
    (
        "its output",
        "/process/",
        |process| process["steps"][1]["vout"] = json!(2),
        "the output with the state id is said to be 2",
    ),
    (
        "the tip",
        "/process/",
        |process| process["tip"] = Value::Null,
        "the next tip is said to be none",
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn each_lie_is_named() {
    let scene = scene().await;
    let between = Between::default();
    let store = scene.index().await;
    let url = scene.url(&store, &between).await;
    for (what, route, change, said) in LIES {
        lie(&between, route, change);
        let output = verify(scene.start, &[&url], &[]).await;
        fails(&output, 1, &["is not what it is said to be"]);
        let text = stdout(&output);
        let mut wrong = text.lines().filter(|line| line.starts_with("wrong: "));
        assert!(wrong.any(|line| line.contains(said)), "{what}: {text}");
    }
    // A step that is left out in the middle: the next one spends something else.
    lie(&between, "/process/", |process| {
        drop(process["steps"].as_array_mut().unwrap().remove(1))
    });
    let output = verify(scene.start, &[&url], &[]).await;
    fails(&output, 1, &["is not what it is said to be"]);
    assert!(
        stdout(&output).contains("does not spend"),
        "{}",
        stdout(&output)
    );
    // Headers that do not have the work they claim.
    between.change(|_, asked, mut body| {
        if asked.contains("/range/headers") {
            // Behind head and length; the nonce is at the end of a header.
            let at = 60 + 4 * body[16] as usize + 79;
            body[at] ^= 0x80;
        }
        body
    });
    let output = verify(scene.start, &[&url], &[]).await;
    fails(&output, 1, &["is not what it is said to be"]);
    assert!(
        stdout(&output).contains("wrong: the headers: "),
        "{}",
        stdout(&output)
    );
    // What it does not prove is said, and is no lie.
    between.change(|_, asked, body| match asked.contains("/proof/") {
        true => br#"{"error":{"code":"not_kept","message":"no"}}"#.to_vec(),
        false => body,
    });
    let output = verify(scene.start, &[&url], &[]).await;
    let text = stdout(&output);
    assert!(output.status.success(), "{text}");
    assert!(
        text.contains("0 of 4 steps proven") && text.contains("not verified: step 1"),
        "{text}"
    );
}

/// What a server leaves out at the end, another one proves.
#[tokio::test(flavor = "multi_thread")]
async fn what_one_server_hides_another_one_shows() {
    let scene = scene().await;
    let (honest, hiding) = (Between::default(), Between::default());
    let store = scene.index().await;
    let (good, bad) = (
        scene.url(&store, &honest).await,
        scene.url(&store, &hiding).await,
    );
    let both = verify(scene.start, &[&good, &bad], &[]).await;
    assert!(both.status.success(), "{}{}", stdout(&both), stderr(&both));
    let cut = scene.steps[1].0;
    hiding.change(move |_, asked, body| {
        let mut value: Value = match serde_json::from_slice(&body) {
            Ok(value) => value,
            Err(_) => return body,
        };
        if asked.contains("/process/") {
            value["steps"].as_array_mut().unwrap().truncate(2);
            value["tip"] = json!(format!("{cut}:0"));
        } else if asked.contains("/outpoint/") {
            value["state"] = json!("spent_or_unknown");
            value["created"] = Value::Null;
            value["spent"] = Value::Null;
        }
        value.to_string().into_bytes()
    });
    // Alone it is believed, as far as it goes.
    let alone = verify(scene.start, &[&bad], &[]).await;
    assert!(alone.status.success(), "{}", stdout(&alone));
    let text = stdout(&alone);
    assert!(
        text.contains("2 of 2 steps proven") && text.contains("not verified: whether"),
        "{text}"
    );
    for servers in [[&*good, &*bad], [&*bad, &*good]] {
        let output = verify(scene.start, &servers, &[]).await;
        fails(&output, 1, &["one thing is wrong"]);
        let text = stdout(&output);
        assert!(
            text.contains("wrong: step 3 is another one or left out"),
            "{text}"
        );
    }
    let output = verify(
        scene.start,
        &[&good, "http://127.0.0.1:1"],
        &["--timeout=5"],
    )
    .await;
    fails(&output, 1, &["127.0.0.1:1"]);
}
