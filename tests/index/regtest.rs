//! Everything together against a real Bitcoin Core in regtest mode: `spindex run` and `sync` as processes, real sockets, and
//! `spindex scan` as the light client.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bitcoin::consensus::encode::serialize_hex;
use bitcoin::secp256k1::rand::rngs::StdRng;
use bitcoin::secp256k1::rand::{Rng, SeedableRng};
use bitcoin::{BlockHash, Network, OutPoint, ScriptBuf, Transaction, Txid};
use secp256k1::{Scalar, SecretKey};
use serde_json::{Value, json};
use spindex::bip352::descriptor::DescriptorKey;
use spindex::bip352::keys::{ReceiverKeys, ScanKey, SpendKey};
use spindex::chain::made::simulated::builder::{
    InputKind, SpendableOutput, build_transaction, op_return_output,
};
use spindex::chain::made::simulated::{
    Orphaned, PaymentRequest, SimulatedChain, SimulationSettings,
};
use spindex::chain::rest::{RestSettings, RestSource};
use spindex::curve::libsecp256k1::LibSecp256k1;
use spindex::curve::{TweakPoint, testable};
use spindex::scan::{Scanner, TaprootOutput};
use spindex::store::FILE_NAME;

use crate::support::index::{content_of_file, fresh_content};
use crate::support::node::TestNode;
use crate::support::random_seed;
use crate::support::spindex::{Spindex, command, run, stderr};

/// A wallet whose keys the test knows, in a folder that is the home of every command.
struct Wallet {
    scan_key: ScanKey,
    spend_key: SpendKey,
}

impl Wallet {
    fn new() -> Self {
        Self {
            scan_key: ScanKey::from_bytes([0x51; 32]).unwrap(),
            spend_key: SpendKey::from_bytes([0x52; 32]).unwrap(),
        }
    }

    fn keys(&self) -> ReceiverKeys {
        ReceiverKeys::new(self.scan_key.clone(), self.spend_key.public_key(), [1, 2])
    }

    /// `spscan1…`: all that a light client may have.
    fn scan_descriptor(&self) -> String {
        let key = DescriptorKey::Scan {
            scan_key: self.scan_key.clone(),
            spend_pubkey: self.spend_key.public_key(),
            test_network: true,
        };
        key.to_secret_string().to_string()
    }
}

fn chain(transactions_per_block: u32, blocks: u32) -> SimulatedChain {
    let chain = SimulatedChain::new(SimulationSettings {
        seed: 11,
        transactions_per_block,
        ..SimulationSettings::default()
    });
    chain.mine(blocks);
    chain
}

fn server_args(command: &str, node: &TestNode) -> Vec<String> {
    let cookie = node.cookie_path();
    [
        command,
        "--network=regtest",
        "--first-height=0",
        "--poll-ms=20",
        &format!("--node-url={}", node.url()),
        &format!("--rpc-cookie={}", cookie.display()),
    ]
    .map(str::to_owned)
    .to_vec()
}

fn start_run(home: &Path, node: &TestNode) -> Spindex {
    let mut args = server_args("run", node);
    args.extend(["--http-bind=127.0.0.1:0", "--engine=auto"].map(str::to_owned));
    Spindex::start(command(home, &args))
}

fn scan(home: &Path, wallet: &Wallet, url: &str, more: &[&str]) -> Value {
    let args = [
        &[
            "scan",
            "--json",
            "--network=regtest",
            "--labels=2",
            "--oracle",
            url,
        ],
        more,
    ]
    .concat();
    let output = command(home, &args)
        .env("SPINDEX_DESCRIPTOR", wallet.scan_descriptor())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Outpoint to amount and label of what a scan found.
fn found(report: &Value) -> BTreeMap<OutPoint, (u64, Option<u64>)> {
    let outputs = report["found"].as_array().unwrap().iter();
    outputs
        .map(|output| {
            let outpoint = output["outpoint"].as_str().unwrap().parse().unwrap();
            (
                outpoint,
                (
                    output["value_sat"].as_u64().unwrap(),
                    output["label"].as_u64(),
                ),
            )
        })
        .collect()
}

fn index_file(home: &Path) -> PathBuf {
    home.join(".spindex/regtest").join(FILE_NAME)
}

/// What an index says that is built fresh from the node, in this process.
fn content_from(node: &TestNode) -> [u8; 32] {
    let source = Arc::new(RestSource::new(RestSettings::new(node.url())).unwrap());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(fresh_content(source))
}

#[test]
fn payments_from_every_input_type_are_found_and_their_spends_seen() {
    let home = tempfile::tempdir().unwrap();
    let wallet = Wallet::new();
    let keys = wallet.keys();
    let address = |label| keys.address(label, Network::Regtest).unwrap();
    let labels = [None, Some(1), Some(2), Some(0)];

    // Every kind of input alone or, where it yields no key, beside one that does; plain and labelled addresses in turn.
    let chain = chain(8, 105);
    let mut requests = Vec::new();
    for (kind, label) in InputKind::ALL.into_iter().zip(labels.iter().cycle()) {
        let inputs = if kind.yields_key() {
            vec![kind]
        } else {
            vec![kind, InputKind::P2wpkh]
        };
        if kind.disqualifies() {
            continue;
        }
        requests.push(
            PaymentRequest::to(address(*label), 10_000 + requests.len() as u64)
                .from_inputs(&inputs),
        );
    }
    // One transaction with k up to 3, and one address twice.
    let several = [None, Some(1), None, Some(2)]
        .map(|label| (address(label), 77_000))
        .to_vec();
    requests.push(PaymentRequest {
        recipients: several,
        inputs: vec![InputKind::P2tr, InputKind::P2pkh, InputKind::P2shP2wpkh],
        ..PaymentRequest::default()
    });
    for requests in requests.chunks(3) {
        chain.mine_with(requests).unwrap();
    }
    chain.mine(2);
    let expected: BTreeMap<OutPoint, (u64, Option<u64>)> = chain
        .paid_outputs()
        .into_iter()
        .map(|paid| {
            let label = labels
                .into_iter()
                .find(|label| address(*label).spend_pubkey == paid.address.spend_pubkey);
            (
                paid.outpoint,
                (paid.value_sat, label.unwrap().map(u64::from)),
            )
        })
        .collect();
    assert_eq!(expected.len(), requests.len() + 3);

    let node = TestNode::start(&[]);
    node.submit_above(&chain, 0);
    let mut server = start_run(home.path(), &node);
    let url = server.url();
    server.wait_for_height(chain.tip_id().height);
    // The same whatever engine computes it, each with a fresh state.
    for engine in testable().map(|entry| entry.name) {
        let state = home.path().join(engine);
        let state = format!("--state={}", state.display());
        let arguments = ["--from=0", "--engine", engine, &state];
        let report = scan(home.path(), &wallet, &url, &arguments);
        assert_eq!(found(&report), expected, "{engine}");
    }
    let report = scan(home.path(), &wallet, &url, &["--from=0"]);
    assert_eq!(found(&report), expected);
    assert_eq!(
        report["unspent_sat"].as_u64().unwrap(),
        expected.values().map(|(value, _)| value).sum::<u64>()
    );

    // Spend one of them as its owner would, with a state id, through the server and the node's own mempool.
    let paid = chain
        .paid_outputs()
        .into_iter()
        .find(|paid| paid.address == address(Some(1)))
        .unwrap();
    let block = chain.stored_block(paid.block.unwrap().hash).unwrap();
    let position = block
        .txids
        .iter()
        .position(|txid| *txid == paid.outpoint.txid)
        .unwrap();
    let tx = &block.block.txdata[position];
    let spend = spend(
        &wallet,
        tx,
        &block.prevouts[position],
        paid.outpoint,
        b"state 42",
    );
    let txid = spend.compute_txid();
    let answer = post_tx(&url, &spend);
    assert_eq!(answer, serde_json::json!(txid));
    assert_eq!(node.call("getrawmempool", &[]), serde_json::json!([txid]));
    node.mine(1, &ScriptBuf::new_op_return([]));
    let height = node.tip().height;
    server.wait_for_height(height);

    let outpoint = paid.outpoint.to_string();
    let more = ["--outpoint", &outpoint, "--ask-spenders"];
    let report = scan(home.path(), &wallet, &url, &more);
    let outputs = report["found"].as_array().unwrap();
    assert_eq!(outputs.len(), expected.len());
    for output in outputs {
        let spent = &output["spent"];
        if output["outpoint"] == outpoint.as_str() {
            assert_eq!(spent["height"], height);
            assert_eq!(spent["block_hash"], node.tip().hash.to_string());
            assert_eq!(spent["spending_txid"], txid.to_string());
            assert_eq!(spent["op_return"], serde_json::json!(["7374617465203432"]));
        } else {
            assert!(spent.is_null(), "{output}");
        }
    }
    let watched = report["watched"].as_array().unwrap();
    assert_eq!(watched.len(), 1);
    assert_eq!(watched[0]["outpoint"], outpoint.as_str());

    let (status, lines) = server.terminate();
    assert!(status.success(), "{lines:#?}");
    let secret = wallet.scan_descriptor();
    assert!(!lines.iter().any(|line| line.contains(&secret)));
}

/// A transaction of the wallet that spends one of its outputs; the secret is worked out from the paying transaction.
fn spend(
    wallet: &Wallet,
    tx: &Transaction,
    prevouts: &[bitcoin::TxOut],
    outpoint: OutPoint,
    state_id: &[u8],
) -> Transaction {
    let tweak: TweakPoint =
        spindex::bip352::tweak::transaction_tweak(&LibSecp256k1, tx, prevouts).unwrap();
    let outputs: Vec<TaprootOutput> = (0..)
        .zip(&tx.output)
        .filter_map(|(vout, output)| {
            Some(TaprootOutput {
                outpoint: OutPoint::new(outpoint.txid, vout),
                key: spindex::bip352::inputs::taproot_output_key(&output.script_pubkey)?,
                value_sat: output.value.to_sat(),
            })
        })
        .collect();
    let scanner = Scanner::new(Arc::new(LibSecp256k1), wallet.keys()).unwrap();
    let finds = scanner.confirm(&tweak, &outputs).unwrap();
    let find = finds.iter().find(|find| find.outpoint == outpoint).unwrap();
    let secret: SecretKey = wallet
        .spend_key
        .secret()
        .add_tweak(&Scalar::from_be_bytes(find.tweak).unwrap())
        .unwrap();
    let input = SpendableOutput::new(InputKind::P2tr, secret, outpoint, find.value_sat);
    assert_eq!(
        input.txout, tx.output[outpoint.vout as usize],
        "the secret is not that of the output"
    );
    let change = bitcoin::TxOut {
        value: bitcoin::Amount::from_sat(find.value_sat - 2_000),
        script_pubkey: InputKind::P2wpkh.script_pubkey(wallet.spend_key.secret()),
    };
    build_transaction(&[input], vec![change, op_return_output(state_id)]).unwrap()
}

fn post_tx(url: &str, tx: &Transaction) -> Value {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let body = serde_json::json!({"data": serialize_hex(tx)});
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let request = client.post(format!("{url}/forward-tx")).json(&body);
        request.send().await.unwrap().json().await.unwrap()
    })
}

#[test]
fn after_a_reorg_of_6_blocks_the_index_equals_one_built_fresh() {
    let home = tempfile::tempdir().unwrap();
    let chain = chain(10, 130);
    let node = TestNode::start(&[]);
    node.submit_above(&chain, 0);
    let mut server = start_run(home.path(), &node);
    server.wait_for_height(130);
    let old_tip = node.tip();

    // The other branch is longer by one, so that the node follows by itself.
    let reorg = chain.reorganize(6, 7, Orphaned::Resubmit).unwrap();
    assert_eq!(reorg.fork.height, 124);
    node.submit_above(&chain, 124);
    server.wait_for_height(131);

    // And one by hand: the tip moves back 6 blocks, then the first branch returns and is given one more block.
    node.invalidate_block(reorg.connected[0].hash);
    assert_eq!(node.tip(), old_tip);
    server.wait_for_height(130);
    node.mine(1, &ScriptBuf::new_op_return([]));
    server.wait_for_height(131);

    let (status, lines) = server.terminate();
    assert!(status.success(), "{lines:#?}");
    assert!(
        lines.iter().filter(|line| line.contains("reorg")).count() >= 2,
        "{lines:#?}"
    );
    assert_eq!(
        content_of_file(&index_file(home.path())),
        content_from(&node)
    );
}

#[test]
fn a_sync_that_was_killed_or_stopped_goes_on_where_it_was() {
    let home = tempfile::tempdir().unwrap();
    // Some 4 MB, so that batches of 1 MiB leave several commits to be interrupted between.
    let chain = chain(60, 260);
    let node = TestNode::start(&[]);
    node.submit_above(&chain, 0);
    let mut args = server_args("sync", &node);
    args.extend(["--batch-mib=1".to_owned(), "--threads=1".to_owned()]);

    let mut first_commits = Vec::new();
    for stop in [Spindex::kill as fn(Spindex), |sync| {
        let (status, lines) = sync.terminate();
        let says = |text: &str| lines.iter().any(|line| line.contains(text));
        // Where it was done before the signal came, it says that.
        match status.code() {
            Some(0) => assert!(says("in sync"), "{lines:#?}"),
            code => assert!(
                code == Some(1) && says("error: stopped at height"),
                "{lines:#?}"
            ),
        }
    }] {
        let mut sync = Spindex::start(command(home.path(), &args));
        first_commits.push(sync.wait_for(&["indexed"]));
        stop(sync);
    }
    // Otherwise nothing was interrupted.
    assert!(
        !first_commits[0].contains(" height=260 "),
        "{first_commits:?}"
    );
    let output = run(home.path(), &args);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stderr(&output).contains("in sync"));
    assert_eq!(
        content_of_file(&index_file(home.path())),
        content_from(&node)
    );
}

/// Hash of the block at a height, as the server says.
fn block_hash(url: &str, height: u32) -> Option<Value> {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let answer = client.get(format!("{url}/block-hash/{height}")).send();
        let answer: Value = answer.await.unwrap().json().await.ok()?;
        Some(answer.get("block_hash")?.clone())
    })
}

/// Waits until the index has the node's tip.
fn wait_for_tip(server: &mut Spindex, url: &str, node: &TestNode) {
    let tip = node.tip();
    while block_hash(url, tip.height) != Some(json!(tip.hash))
        || block_hash(url, tip.height + 1).is_some()
    {
        server.wait_for(&["indexed"]);
    }
}

/// Which transactions are in which blocks of the last ones, coinbases aside.
fn note_transactions(node: &TestNode, blocks: &mut BTreeMap<Txid, BTreeSet<BlockHash>>) {
    let tip = node.tip().height;
    for height in tip - 20..=tip {
        let hash = node.call("getblockhash", &[json!(height)]);
        let block = node.call("getblock", std::slice::from_ref(&hash));
        let hash = hash.as_str().unwrap().parse().unwrap();
        for txid in block["tx"].as_array().unwrap().iter().skip(1) {
            let txid = txid.as_str().unwrap().parse().unwrap();
            blocks.entry(txid).or_default().insert(hash);
        }
    }
}

/// As an operator can make them by hand: blocks become invalid, their transactions return to the mempool and are mined in
/// other blocks, old branches become valid again. In between a branch comes whose transactions spend the same coins in
/// other ways.
#[test]
fn ten_random_reorgs_of_a_real_node_are_followed() {
    let seed = random_seed();
    let mut rng = StdRng::seed_from_u64(seed);
    let home = tempfile::tempdir().unwrap();
    let chain = chain(8, 130);
    // A check of its own that regtest nodes make ends the node when a branch comes after blocks were declared invalid.
    let node = TestNode::start(&["-acceptnonstdtxn=1", "-checkblockindex=0"]);
    node.submit_above(&chain, 0);
    let mut server = start_run(home.path(), &node);
    let url = server.url();
    let mut blocks = BTreeMap::new();
    let mut invalid: Vec<BlockHash> = Vec::new();
    note_transactions(&node, &mut blocks);
    wait_for_tip(&mut server, &url, &node);
    for round in 0..10u8 {
        let tip = node.tip().height;
        // The first one is deep, where most transactions are.
        let depth = if round == 0 { 9 } else { rng.gen_range(3..=9) };
        let hash = node.call("getblockhash", &[json!(tip - depth + 1)]);
        let hash: BlockHash = hash.as_str().unwrap().parse().unwrap();
        node.invalidate_block(hash);
        if rng.gen_bool(0.3) {
            wait_for_tip(&mut server, &url, &node);
        }
        // An empty block of an earlier round would come out the same, and may be invalid now.
        let script = ScriptBuf::new_op_return([round]);
        // Empty ones first, so that transactions move to other heights too.
        let empty = rng.gen_range(0..=2);
        for _ in 0..empty {
            node.generate_block(&script, &[]).unwrap();
        }
        node.mine(depth - 1 + rng.gen_range(0..=3) - empty, &script);
        note_transactions(&node, &mut blocks);
        wait_for_tip(&mut server, &url, &node);

        // The branch left behind, or an older one, may have more work than the new one.
        invalid.push(hash);
        if rng.gen_bool(0.5) {
            let old = invalid.swap_remove(rng.gen_range(0..invalid.len()));
            node.reconsider_block(old);
            wait_for_tip(&mut server, &url, &node);
        }
        if round == 4 {
            let depth = 25;
            let more = node.tip().height + 2 - chain.tip_id().height;
            chain
                .reorganize(depth, depth + more, Orphaned::Drop)
                .unwrap();
            node.submit_above(&chain, 130 - depth);
            note_transactions(&node, &mut blocks);
            wait_for_tip(&mut server, &url, &node);
        }
    }
    for hash in invalid {
        node.reconsider_block(hash);
    }
    node.mine(1, &ScriptBuf::new_op_return([u8::MAX]));
    wait_for_tip(&mut server, &url, &node);

    let moved = blocks.values().filter(|blocks| blocks.len() > 1).count();
    println!("{moved} of {} transactions moved", blocks.len());
    assert!(moved > 20, "{moved}");
    let (status, lines) = server.terminate();
    assert!(status.success(), "{lines:#?}");
    let reorgs = lines.iter().filter(|line| line.contains(" reorg "));
    assert!(reorgs.count() >= 10, "{lines:#?}");
    assert_eq!(
        content_of_file(&index_file(home.path())),
        content_from(&node)
    );
}
