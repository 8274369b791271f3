//! One chain through every source of blocks: `spindex sync` as a process, from a real node's files, its REST and its RPC
//! interface, against an index of the simulated chain that the node was given.

use std::path::Path;
use std::sync::Arc;

use bitcoin::Network;
use spindex::bip352::keys::{ReceiverKeys, ScanKey, SpendKey};
use spindex::chain::made::simulated::builder::InputKind;
use spindex::chain::made::simulated::{
    Orphaned, PaymentRequest, SimulatedChain, SimulationSettings,
};
use spindex::store::FILE_NAME;

use crate::support::index::{Contents, fresh_store};
use crate::support::node::TestNode;
use crate::support::spindex::{Spindex, command, run, stderr};

/// Payments from inputs of every kind, and background traffic.
fn chain() -> SimulatedChain {
    let scan_key = ScanKey::from_bytes([0x61; 32]).unwrap();
    let spend_key = SpendKey::from_bytes([0x62; 32]).unwrap();
    let keys = ReceiverKeys::new(scan_key, spend_key.public_key(), [1]);
    let address = |label| keys.address(label, Network::Regtest).unwrap();
    let chain = SimulatedChain::new(SimulationSettings {
        seed: 17,
        transactions_per_block: 8,
        recipients: vec![address(None), address(Some(1))],
        payment_percent: 30,
    });
    chain.mine(104);
    for kinds in InputKind::ALL.chunks(3) {
        let requests: Vec<PaymentRequest> = kinds
            .iter()
            .map(|kind| PaymentRequest {
                inputs: vec![*kind, InputKind::P2wpkh],
                keep: vec![(InputKind::P2tr, 5_000)],
                ..PaymentRequest::default()
            })
            .collect();
        chain.mine_with(&requests).unwrap();
    }
    chain.mine(60);
    chain
}

/// What `spindex sync` makes of a source; its log says that it is this one.
fn synced(home: &Path, source: &[String], name: &str) -> Contents {
    let mut args = [
        "sync",
        "--network=regtest",
        "--first-height=0",
        "--wait=0",
        "--engine=auto",
    ]
    .map(str::to_owned)
    .to_vec();
    args.extend_from_slice(source);
    let output = run(home, &args);
    assert!(output.status.success(), "{source:?}: {}", stderr(&output));
    let log = stderr(&output);
    let mut lines = log.lines();
    let said = lines.any(|line| line.contains(&format!("node: Bitcoin Core{name}")));
    assert!(said, "{source:?}: {log}");
    let is_first = !log.contains("reorg");
    let knows_heights = !name.contains("REST") && source.iter().any(|arg| arg.contains("long"));
    let was_left = log.contains("locating unspent outputs");
    assert_eq!(was_left, is_first && knows_heights, "{source:?}: {log}");
    Contents::of_file(&home.join(".spindex/regtest").join(FILE_NAME))
}

#[test]
fn every_source_gives_the_same_index() {
    let chain = Arc::new(chain());
    let mut node = TestNode::start(&[]);
    node.submit_above(&chain, 0);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let fresh = |chain: &Arc<SimulatedChain>| {
        let store = runtime.block_on(fresh_store(chain.clone()));
        Contents::of(&store)
    };

    let url = format!("--node-url={}", node.url());
    let cookie = format!("--rpc-cookie={}", node.cookie_path().display());
    let blocks = node.cookie_path().parent().unwrap().join("blocks");
    let blocks = format!("--blocks-dir={}", blocks.display());
    let arguments = |kind: &str, more: &[&String]| {
        let mut arguments = vec![format!("--source={kind}")];
        arguments.extend(more.iter().map(|more| (*more).clone()));
        arguments
    };
    // Where the source knows heights, locators are left for the end of a sync.
    let long = "--long-sync-blocks=1".to_owned();
    let sources = [
        (arguments("rest", &[&url, &long]), " REST at "),
        (arguments("rpc", &[&url, &cookie, &long]), " RPC at "),
        (
            arguments("files", &[&url, &blocks, &long]),
            "'s block files in ",
        ),
    ];
    let without_node = (arguments("files", &[&blocks]), "'s block files in ");
    let homes: Vec<_> = sources
        .iter()
        .map(|_| tempfile::tempdir().unwrap())
        .collect();
    let assert_all = |expected: &Contents| {
        for ((source, name), home) in sources.iter().zip(&homes) {
            assert_eq!(synced(home.path(), source, name), *expected, "{source:?}");
        }
    };
    let first = fresh(&chain);
    assert_eq!(first.tip, chain.tip_id());
    assert_all(&first);

    // The other branch has some of the old transactions in other blocks; the node's files have both.
    let reorg = chain.reorganize(9, 11, Orphaned::Resubmit).unwrap();
    node.submit_above(&chain, reorg.fork.height);
    let second = fresh(&chain);
    assert_ne!(first, second);
    assert_all(&second);

    // From nothing, and with nobody beside the files.
    node.stop();
    let home = tempfile::tempdir().unwrap();
    let (source, name) = without_node;
    assert_eq!(synced(home.path(), &source, name), second);
}

/// Clients that hold their connections leave room for the files of the node: with 256 open files at most, `run` follows.
#[test]
fn idle_clients_leave_room_for_block_files() {
    let node = TestNode::start(&[]);
    let script = bitcoin::ScriptBuf::new_op_return([]);
    node.mine(3, &script);
    let home = tempfile::tempdir().unwrap();
    let blocks = node.cookie_path().parent().unwrap().join("blocks");
    let args = [
        "run".to_owned(),
        "--network=regtest".to_owned(),
        "--first-height=0".to_owned(),
        "--http-bind=127.0.0.1:0".to_owned(),
        "--source=files".to_owned(),
        "--poll-ms=50".to_owned(),
        format!("--node-url={}", node.url()),
        format!("--blocks-dir={}", blocks.display()),
    ];
    let spindex = command(home.path(), &args);
    let mut limited = std::process::Command::new("sh");
    limited.args(["-c", "ulimit -n 256; exec \"$0\" \"$@\""]);
    limited.arg(spindex.get_program()).args(spindex.get_args());
    for (name, value) in spindex.get_envs() {
        match value {
            Some(value) => limited.env(name, value),
            None => limited.env_remove(name),
        };
    }
    let mut server = Spindex::start(limited);
    let url = server.url();
    let address = url.trim_start_matches("http://");
    server.wait_for_height(3);
    let mut idle = Vec::new();
    for _ in 0..260 {
        idle.push(std::net::TcpStream::connect(address).unwrap());
    }
    for height in 4..8 {
        node.mine(1, &script);
        server.wait_for_height(height);
    }
    let (status, lines) = server.terminate();
    assert!(status.success(), "{lines:#?}");
    let troubles = lines.iter().filter(|line| line.contains("open files"));
    assert_eq!(troubles.count(), 0, "{lines:#?}");
    drop(idle);
}
