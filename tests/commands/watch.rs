//! `spindex watch add`, `import`, `list`, `remove` and `follow`, of a `spindex run` over a simulated chain.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use bitcoin::hex::DisplayHex;
use bitcoin::secp256k1::SecretKey;
use bitcoin::{Amount, OutPoint, TxOut};
use serde_json::{Value, json};
use spindex::chain::made::simulated::builder::{
    InputKind, SpendableOutput, build_transaction, op_return_output,
};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::forest::{Forest, Output as Made};
use crate::scan::fails;
use crate::support::fake_node::FakeNode;
use crate::support::spindex::{Spindex, command, stderr, stdout};

/// How long a line may take to come; only reached by a test that fails.
const PATIENCE: Duration = Duration::from_secs(120);

/// A chain with a process, its node, and where the server keeps its index.
struct Scene {
    forest: Forest,
    node: FakeNode,
    home: TempDir,
    /// Stays the same, as the log of another server is another log.
    port: u16,
    start: OutPoint,
    tip: SpendableOutput,
    _runtime: Runtime,
}

impl Scene {
    fn new(seed: u64) -> Self {
        let mut forest = Forest::new(seed, 12);
        let coins = forest.unspent();
        let taproot = coins.iter().find(|coin| coin.kind == InputKind::P2tr);
        let outputs = [Made::Coin(InputKind::P2tr), Made::Coin(InputKind::P2tr)];
        let made = forest.spend(&[taproot.unwrap().clone()], &outputs);
        forest.chain.mine(1);
        let start = OutPoint::new(made.unwrap(), 0);
        let runtime = Runtime::new().unwrap();
        let unused = TcpListener::bind("127.0.0.1:0").unwrap();
        Self {
            node: runtime.block_on(FakeNode::start(forest.chain.clone())),
            home: tempfile::tempdir().unwrap(),
            port: unused.local_addr().unwrap().port(),
            tip: forest.coins[&start].clone(),
            forest,
            start,
            _runtime: runtime,
        }
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The server, as soon as it answers.
    fn run(&self) -> Spindex {
        let args = [
            "run".to_owned(),
            "--network=regtest".to_owned(),
            "--first-height=0".to_owned(),
            "--source=rest".to_owned(),
            format!("--node-url={}", self.node.url()),
            format!("--http-bind=127.0.0.1:{}", self.port),
            "--poll-ms=50".to_owned(),
        ];
        let mut server = Spindex::start(command(self.home.path(), &args));
        server.wait_for(&["serving HTTP on "]);
        server
    }

    /// The server with an index of its own, in sync.
    fn run_anew(&self) -> Spindex {
        let mut server = self.run();
        server.wait_for_height(self.forest.chain.tip_id().height);
        server
    }

    /// A step of the process into the mempool, from where it is.
    fn step(&mut self, byte: u8) {
        let outputs = [Made::Coin(InputKind::P2tr), Made::State([byte; 32])];
        let txid = self
            .forest
            .spend(std::slice::from_ref(&self.tip), &outputs)
            .unwrap();
        self.tip = self.forest.coins[&OutPoint::new(txid, 0)].clone();
    }

    /// A step in the place of one that waits in the mempool, for a higher fee.
    fn replace(&mut self, byte: u8) {
        let secret = SecretKey::from_slice(&[byte; 32]).unwrap();
        let value = self.tip.txout.value.to_sat() / 2;
        let script_pubkey = InputKind::P2tr.script_pubkey(&secret);
        let carries = TxOut {
            value: Amount::from_sat(value),
            script_pubkey,
        };
        let outputs = vec![carries, op_return_output(&[byte; 32])];
        let tx = build_transaction(std::slice::from_ref(&self.tip), outputs).unwrap();
        let txid = self.forest.chain.replace(&tx).unwrap();
        let outpoint = OutPoint::new(txid, 0);
        self.tip = SpendableOutput::new(InputKind::P2tr, secret, outpoint, value);
        self.forest.coins.insert(outpoint, self.tip.clone());
    }

    /// State ids from the start on, with the heights of their blocks, as the chain has them.
    fn truth(&self) -> Vec<(u64, String)> {
        let mut steps = Vec::new();
        let mut tip = self.start;
        for block in self.forest.chain.active_blocks() {
            for tx in &block.block.txdata {
                if tx.input.iter().any(|input| input.previous_output == tip) {
                    let id = &tx.output[1].script_pubkey.as_bytes()[2..];
                    steps.push((block.id.height.into(), id.to_lower_hex_string()));
                    tip = OutPoint::new(tx.compute_txid(), 0);
                }
            }
        }
        steps
    }

    fn command(&self, more: &[&str]) -> Command {
        let mut command = command(self.home.path(), &["watch"]);
        command.args(more).args(["--oracle", &self.url()]);
        for name in ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"] {
            command.env_remove(name);
        }
        command
    }

    fn watch(&self, more: &[&str]) -> Output {
        self.command(more).output().unwrap()
    }

    /// What a call prints, a JSON object a line.
    fn lines(&self, more: &[&str]) -> Vec<Value> {
        let output = self.watch(&[more, &["--json"]].concat());
        assert!(output.status.success(), "{}", stderr(&output));
        let text = stdout(&output);
        let lines = text.lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

/// `spindex watch follow`, that runs.
struct Following {
    child: Child,
    events: Receiver<Value>,
}

impl Following {
    fn start(scene: &Scene, cursor: &Path) -> Self {
        let file = cursor.to_str().unwrap();
        let mut command = scene.command(&["follow", "--json", "--cursor", file]);
        command.arg("--follow-interval=3600");
        command.stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (sender, events) = channel();
        std::thread::spawn(move || {
            let mut lines = lines.map_while(Result::ok);
            lines.try_for_each(|line| sender.send(serde_json::from_str(&line).unwrap()))
        });
        Self { child, events }
    }

    /// Takes events until one of this name and state id has come.
    fn until(&self, name: &str, byte: u8) -> Vec<Value> {
        let id = json!([byte; 32].to_lower_hex_string());
        let mut taken = Vec::new();
        loop {
            let event = self.events.recv_timeout(PATIENCE).unwrap();
            let is_it = event["event"] == name && event["state_id"] == id;
            taken.push(event);
            if is_it {
                return taken;
            }
        }
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Adds what has come. Of a call that was killed the last events may come again, the same under the same cursors.
fn add(events: &mut Vec<Value>, came: Vec<Value>) {
    for event in came {
        let cursor = event["cursor"].as_u64().unwrap();
        let known = events
            .iter()
            .find(|known| known["cursor"] == event["cursor"]);
        match known {
            Some(known) => assert_eq!(*known, event),
            None => {
                assert_eq!(cursor, events.len() as u64 + 1, "{event}");
                events.push(event);
            }
        }
    }
}

/// Takes back what is said to be untrue; what is left.
fn left(events: &[Value]) -> Vec<(u64, String)> {
    let mut confirmed: Vec<&Value> = Vec::new();
    for event in events {
        match event["event"].as_str().unwrap() {
            "confirmed" => confirmed.push(event),
            "reorged" => {
                let last = confirmed.pop().unwrap();
                assert_eq!(last["cursor"], event["of"], "newest first");
            }
            _ => {}
        }
    }
    let steps = confirmed.iter().map(|event| {
        let id = event["state_id"].as_str().unwrap().to_owned();
        (event["height"].as_u64().unwrap(), id)
    });
    steps.collect()
}

#[test]
fn a_process_is_followed_through_reorganisations_and_restarts() {
    let mut scene = Scene::new(21);
    let server = scene.run_anew();
    // Two steps before anybody asks.
    for byte in [1, 2] {
        scene.step(byte);
        scene.forest.chain.mine(1);
    }
    let start = scene.start.to_string();
    let cursor = scene.home.path().join("cursor");
    let added = scene.lines(&["add", &start, "--tag", "a name"]);
    let number = added[0]["watch"].clone();
    let expected =
        |new: bool| json!({"outpoint": start, "tag": "a name", "watch": number, "new": new});
    assert_eq!(added, [expected(true)]);
    assert_eq!(
        scene.lines(&["add", &start, "--tag", "a name"]),
        [expected(false)]
    );

    let following = Following::start(&scene, &cursor);
    let mut events = following.until("confirmed", 2);
    assert_eq!(events[0]["tag"], json!("a name"));
    scene.step(3);
    scene.forest.chain.mine(1);
    add(&mut events, following.until("confirmed", 3));
    // Another branch, in which the third step is another one.
    scene.forest.chain.go_back(1).unwrap();
    let second = OutPoint::new(next_tip(&events, 2).txid, 0);
    scene.tip = scene.forest.coins[&second].clone();
    scene.replace(9);
    scene.forest.chain.mine(2);
    add(&mut events, following.until("confirmed", 9));
    assert_eq!(left(&events), scene.truth());

    // Killed in the middle; what comes then comes later.
    drop(following);
    let (status, _) = server.terminate();
    assert!(status.success());
    for byte in [4, 5] {
        scene.step(byte);
        scene.forest.chain.mine(1);
    }
    let server = scene.run();
    let following = Following::start(&scene, &cursor);
    add(&mut events, following.until("confirmed", 5));
    assert_eq!(left(&events), scene.truth());
    // Whoever reads all of it at the end reads the same.
    assert_eq!(scene.lines(&["follow", "--once"]), events);
    drop(following);
    let file = cursor.to_str().unwrap();
    let rest = scene.lines(&["follow", "--once", "--cursor", file]);
    assert!(events.ends_with(&rest), "{rest:#?}");
    let nothing = scene.lines(&["follow", "--once", "--cursor", file]);
    assert_eq!(nothing, [] as [Value; 0]);
    let of_another = [
        "follow",
        "--once",
        "--watch=77",
        "--cursor",
        cursor.to_str().unwrap(),
    ];
    fails(
        &scene.watch(&of_another),
        1,
        &["all watches of", "take another file"],
    );

    let verified = scene.lines(&["verify", &start]);
    let audited = verified.last().unwrap();
    assert_eq!(
        (&audited["ok"], &audited["proven"]),
        (&json!(true), &json!(5))
    );
    // The same by the log, with what it took back.
    let by_log = scene.lines(&["verify", &start, "--from-log"]);
    assert_eq!(by_log, verified);
    let other = OutPoint::new(scene.start.txid, 1).to_string();
    let unwatched = scene.lines(&["verify", &other, "--from-log"]);
    assert_eq!(unwatched[0]["event"], json!("unverified"));
    assert_eq!(
        unwatched[0]["what"],
        json!("there is no watch of this process, of this caller")
    );
    let listed = scene.lines(&["list"]);
    assert_eq!(listed.len(), 1);
    assert_eq!(
        (&listed[0]["watch"], &listed[0]["steps"]),
        (&number, &json!(5))
    );
    assert_eq!(listed[0]["outpoint"], json!(start));
    server.terminate();
}

/// What the step with this state id is said to leave.
fn next_tip(events: &[Value], byte: u8) -> OutPoint {
    let id = json!([byte; 32].to_lower_hex_string());
    let mut confirmed = events.iter().filter(|event| event["state_id"] == id);
    let tip = confirmed.next_back().unwrap()["next_tip"].as_str().unwrap();
    tip.parse().unwrap()
}

#[test]
fn lists_are_imported_as_a_whole_and_again() {
    let scene = Scene::new(22);
    let server = scene.run_anew();
    let file = scene.home.path().join("tips");
    let name = file.to_str().unwrap();
    let mut outpoints: Vec<OutPoint> = scene.forest.coins.keys().copied().collect();
    outpoints.sort_unstable();
    let good: Vec<String> = outpoints
        .iter()
        .map(|outpoint| format!("{outpoint} of {}", outpoint.vout))
        .collect();
    std::fs::write(&file, format!("{}\nno outpoint\n", good.join("\n"))).unwrap();
    let bad_line = format!("line {}: no outpoint", good.len() + 1);
    fails(
        &scene.watch(&["import", name]),
        1,
        &["nothing was registered", &bad_line],
    );
    assert_eq!(scene.lines(&["list"]), [] as [Value; 0]);

    std::fs::write(&file, format!("# all of them\n{}\n", good.join("\n"))).unwrap();
    for is_new in [true, false] {
        let lines = scene.lines(&["import", name]);
        let told: Vec<Value> = lines
            .iter()
            .map(|line| json!([line["outpoint"], line["tag"], line["new"]]))
            .collect();
        let expected = outpoints.iter().map(|outpoint| {
            json!([
                outpoint.to_string(),
                format!("of {}", outpoint.vout),
                is_new
            ])
        });
        assert_eq!(told, expected.collect::<Vec<_>>());
    }
    let listed = scene.lines(&["list"]);
    assert_eq!(listed.len(), outpoints.len());
    // In another way it is not the same watch: nothing of the batch is registered.
    fails(
        &scene.watch(&["import", name, "--single"]),
        1,
        &["nothing was registered", "in another way"],
    );
    assert_eq!(scene.lines(&["list"]), listed);

    let first = listed[0]["watch"].to_string();
    let removed = scene.lines(&["remove", &first]);
    assert_eq!(
        removed,
        [json!({"watch": listed[0]["watch"], "removed": true})]
    );
    fails(&scene.watch(&["remove", &first]), 1, &["there is no watch"]);
    assert_eq!(scene.lines(&["list"]), listed[1..]);

    // A token that the server does not know; it is shown nowhere.
    let secret = "ab".repeat(32);
    let mut command = scene.command(&["list"]);
    let output = command.env("SPINDEX_TOKEN", &secret).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(!stderr(&output).contains(&secret), "{}", stderr(&output));
    server.terminate();
}
