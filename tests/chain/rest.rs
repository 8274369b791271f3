//! Blocks from a node's REST interface: a real node in all its moods, and a fake one with worse manners.

use std::sync::Arc;
use std::time::Duration;

use bitcoin::consensus::serialize;
use bitcoin::hashes::Hash;
use bitcoin::{Amount, BlockHash, Network, OutPoint, ScriptBuf, Transaction, TxOut};
use secp256k1::SecretKey;
use spindex::BlockId;
use spindex::chain::made::simulated::builder::{InputKind, SpendableOutput, build_transaction};
use spindex::chain::made::simulated::{Orphaned, SimulatedChain, SimulationSettings};
use spindex::chain::rest::{RestSettings, RestSource};
use spindex::chain::rpc::{RpcAuth, RpcSettings};
use spindex::chain::{BlockSource, BroadcastError, ChainError, Node};
use zeroize::Zeroizing;

use crate::support::fake_node::{FakeNode, Reply, spent_bytes};
use crate::support::node::{TestNode, rpcauth_argument};

/// Long enough for a busy machine, except where the test is about silence.
const TIMEOUT: Duration = Duration::from_secs(60);

fn source(url: &str, auth: Option<RpcAuth>) -> RestSource {
    let rpc = auth.map(|auth| RpcSettings {
        url: url.to_owned(),
        auth,
    });
    RestSource::new(RestSettings {
        timeout: TIMEOUT,
        rpc,
        ..RestSettings::new(url)
    })
    .unwrap()
}

fn cookie(node: &TestNode) -> Option<RpcAuth> {
    Some(RpcAuth::CookieFile(node.cookie_path()))
}

/// The text of an error, after the checks that hold for every one.
fn text(error: &ChainError, url: &str) -> String {
    let text = error.to_string();
    assert!(!text.contains('\n'), "more than one line: {text}");
    assert!(text.contains(url), "no URL: {text}");
    text
}

#[track_caller]
fn assert_setup(result: Result<(), ChainError>, url: &str, parts: &[&str]) {
    let error = result.unwrap_err();
    assert!(matches!(error, ChainError::Setup(_)), "{error:?}");
    assert!(!error.is_transient());
    let text = text(&error, url);
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
}

fn p2wpkh(byte: u8) -> (SecretKey, ScriptBuf) {
    let secret = SecretKey::from_slice(&[byte; 32]).unwrap();
    (secret, InputKind::P2wpkh.script_pubkey(&secret))
}

/// Spends the coinbase of the node's first block.
fn spend_first_coinbase(node: &TestNode, secret: SecretKey, value_sat: u64) -> Transaction {
    let hash = node.call("getblockhash", &[1.into()]);
    let block = node.call("getblock", &[hash]);
    let txid = block["tx"][0].as_str().unwrap().parse().unwrap();
    let reward = SpendableOutput::new(
        InputKind::P2wpkh,
        secret,
        OutPoint { txid, vout: 0 },
        5_000_000_000,
    );
    let output = TxOut {
        value: Amount::from_sat(value_sat),
        script_pubkey: p2wpkh(9).1,
    };
    build_transaction(&[reward], vec![output]).unwrap()
}

#[tokio::test]
async fn a_real_node_is_checked_and_broadcasts() {
    let node = TestNode::start(&[&rpcauth_argument("alice", "s3cret")]);
    let url = node.url();
    let password = |password: &str| {
        Some(RpcAuth::UserPassword {
            user: "alice".into(),
            password: Zeroizing::new(password.into()),
        })
    };
    source(&url, None).check(Network::Regtest).await.unwrap();
    let good = source(&url, password("s3cret"));
    good.check(Network::Regtest).await.unwrap();
    assert_eq!(good.describe(), format!("Bitcoin Core REST at {url}"));
    assert!(!format!("{good:?}").contains("s3cret"));

    assert_setup(
        good.check(Network::Signet).await,
        &url,
        &["\"regtest\"", "\"signet\"", "--network"],
    );
    assert_setup(
        source(&url, password("wr0ng"))
            .check(Network::Regtest)
            .await,
        &url,
        &["rejected the RPC credentials", "--rpc-cookie", "--rpc-user"],
    );

    let (secret, script) = p2wpkh(5);
    node.mine(101, &script);
    assert_eq!(good.tip().await.unwrap(), node.tip());
    let tx = spend_first_coinbase(&node, secret, 4_999_990_000);

    let error = source(&url, None).broadcast(&tx).await.unwrap_err();
    assert!(
        matches!(&error, BroadcastError::Chain(ChainError::Setup(text))
            if text.contains("no RPC credentials configured")),
        "{error:?}"
    );
    let mut forged = tx.clone();
    forged.output[0].value = Amount::from_sat(4_999_980_000);
    match good.broadcast(&forged).await {
        Err(BroadcastError::Rejected(reason)) => {
            assert!(reason.contains("script-verify-flag"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(good.broadcast(&tx).await.unwrap(), tx.compute_txid());
    // Known already, which is no reason to complain.
    assert_eq!(good.broadcast(&tx).await.unwrap(), tx.compute_txid());
    let mempool = node.call("getrawmempool", &[]);
    assert_eq!(mempool[0].as_str().unwrap(), tx.compute_txid().to_string());

    let hash = node
        .generate_block(&script, std::slice::from_ref(&tx))
        .unwrap();
    let block = good.block(BlockId { height: 102, hash }).await.unwrap();
    assert_eq!(
        block.block.transaction(1).unwrap().txid(),
        tx.compute_txid()
    );
    let prevouts = block.prevouts.decode();
    assert_eq!(prevouts[1][0].script_pubkey, script);
    assert_eq!(prevouts[1][0].value.to_sat(), 5_000_000_000);
}

#[tokio::test]
async fn a_node_that_stops_and_returns_is_transient_trouble() {
    let mut node = TestNode::start(&[]);
    let url = node.url();
    let (secret, script) = p2wpkh(5);
    let hashes = node.mine(101, &script);
    let source = source(&url, cookie(&node));
    source.check(Network::Regtest).await.unwrap();
    let tx = spend_first_coinbase(&node, secret, 4_999_990_000);

    node.stop();
    let error = source.tip().await.unwrap_err();
    assert!(matches!(error, ChainError::Unreachable(_)), "{error:?}");
    // A connection from before may be tried first; after it there is none to be had.
    assert!(text(&error, &url).contains("the node"), "{error}");
    let error = source.tip().await.unwrap_err();
    assert!(text(&error, &url).contains("start the node"), "{error}");
    let id = BlockId {
        height: 101,
        hash: hashes[100],
    };
    assert!(source.block(id).await.unwrap_err().is_transient());
    // Stopped, it has taken its cookie along, which is no fault of the settings.
    assert!(!node.cookie_path().exists());
    match source.broadcast(&tx).await.unwrap_err() {
        BroadcastError::Chain(error) => assert!(error.is_transient(), "{error:?}"),
        other => panic!("{other:?}"),
    }

    // It returns with a new cookie.
    node.start_again(&["-rest"]);
    assert_eq!(source.tip().await.unwrap(), id);
    assert_eq!(source.block(id).await.unwrap().id, id);
    assert_eq!(source.broadcast(&tx).await.unwrap(), tx.compute_txid());

    // And again without REST.
    node.stop();
    node.start_again(&[]);
    // Connections of the stopped node are found dead one at a time, as they are tried.
    let mut result = source.check(Network::Regtest).await;
    for _ in 0..8 {
        if result.as_ref().is_err_and(ChainError::is_transient) {
            result = source.check(Network::Regtest).await;
        }
    }
    assert_setup(result, &url, &["start bitcoind with -rest (rest=1)"]);
    let error = source.block_at(5).await.unwrap_err();
    assert!(matches!(error, ChainError::Setup(_)), "{error:?}");
    let error = source.block(id).await.unwrap_err();
    assert!(matches!(error, ChainError::Setup(_)), "{error:?}");
}

#[tokio::test]
async fn missing_credentials_and_blocks_are_named() {
    let node = TestNode::start(&[
        &rpcauth_argument("bob", "x"),
        "-rpcwhitelist=bob:getblockcount",
        "-rpcwhitelistdefault=0",
    ]);
    let url = node.url();
    let missing = RpcAuth::CookieFile("/nowhere/.cookie".into());
    let error = source(&url, Some(missing)).check(Network::Regtest).await;
    let error = error.unwrap_err();
    assert!(matches!(error, ChainError::Setup(_)), "{error:?}");
    assert!(error.to_string().contains("/nowhere/.cookie"), "{error}");

    let forbidden = RpcAuth::UserPassword {
        user: "bob".into(),
        password: Zeroizing::new("x".into()),
    };
    assert_setup(
        source(&url, Some(forbidden)).check(Network::Regtest).await,
        &url,
        &["rpcwhitelist"],
    );

    let source = source(&url, None);
    assert_eq!(source.block_at(1).await.unwrap(), None);
    assert_eq!(source.block_at(u32::MAX).await.unwrap(), None);
    let genesis = source.block_at(0).await.unwrap().unwrap();
    assert_eq!(source.block(genesis).await.unwrap().prevouts.decode(), [[]]);
    let unknown = BlockId {
        height: 1,
        hash: BlockHash::all_zeros(),
    };
    let error = source.block(unknown).await.unwrap_err();
    assert!(matches!(error, ChainError::NotAvailable(_)), "{error:?}");
    assert!(text(&error, &url).contains("not found"));
}

/// A block that was never part of the active chain has no spent outputs, as its inputs were never looked up.
#[tokio::test]
async fn blocks_that_were_never_connected_are_not_available() {
    let chain = SimulatedChain::new(SimulationSettings::default());
    chain.mine(5);
    let node = TestNode::start(&[]);
    for block in &chain.active_blocks()[1..] {
        node.submit_block(&block.block).unwrap();
    }
    let side = chain.reorganize(2, 1, Orphaned::Drop).unwrap().connected[0];
    let block = chain.stored_block(side.hash).unwrap();
    assert_eq!(node.submit_block(&block.block), Err("inconclusive".into()));
    let error = source(&node.url(), None).block(side).await.unwrap_err();
    assert!(matches!(error, ChainError::NotAvailable(_)), "{error:?}");
    let text = text(&error, &node.url());
    assert!(text.contains("never connected"), "{text}");
}

/// A fake node over a chain with some traffic, and the block to ask for.
async fn fake() -> (FakeNode, Arc<SimulatedChain>, BlockId) {
    let chain = Arc::new(SimulatedChain::new(SimulationSettings::default()));
    let id = *chain.mine(120).last().unwrap();
    (FakeNode::start(Arc::clone(&chain)).await, chain, id)
}

#[tokio::test]
async fn faults_on_the_way_are_transient() {
    let (node, chain, id) = fake().await;
    let url = node.url();
    let source = source(&url, None);
    let impatient = RestSource::new(RestSettings {
        timeout: Duration::from_millis(200),
        ..RestSettings::new(&url)
    })
    .unwrap();
    for part in ["/rest/block/", "/rest/spenttxouts/"] {
        for (reply, said) in [
            (Reply::Truncated(100), "the connection broke"),
            (Reply::Truncated(0), "the connection broke"),
            (Reply::Hangup, "the connection broke"),
            (Reply::Stall, "no answer"),
            (
                Reply::Full(503, b"Work queue depth exceeded".to_vec()),
                "Work queue depth exceeded",
            ),
            (Reply::Full(500, b"<html>\noops</html>".to_vec()), "oops"),
        ] {
            node.on(part, reply.clone());
            let result = match reply {
                Reply::Stall => impatient.block(id).await,
                _ => source.block(id).await,
            };
            let error = result.unwrap_err();
            assert!(
                matches!(error, ChainError::Unreachable(_)),
                "{reply:?}: {error:?}"
            );
            let text = text(&error, &format!("{url}/rest/"));
            assert!(text.contains(said), "{reply:?}: {text}");
            assert!(text.contains(&id.hash.to_string()), "{text}");
        }
        node.behave();
    }
    node.on(
        "chaininfo",
        Reply::Full(
            503,
            b"Service temporarily unavailable: Loading block index\r\n".to_vec(),
        ),
    );
    let error = source.check(Network::Regtest).await.unwrap_err();
    assert!(error.is_transient(), "{error:?}");
    assert!(text(&error, &url).contains("Loading block index"));

    node.behave();
    source.check(Network::Regtest).await.unwrap();
    assert_eq!(source.tip().await.unwrap(), id);
    assert_eq!(
        source.block(id).await,
        chain.stored_block(id.hash).unwrap().with_prevouts()
    );
}

#[tokio::test]
async fn answers_that_cannot_be_right_are_refused() {
    let (node, chain, id) = fake().await;
    let source = source(&node.url(), None);
    let other = chain.active_blocks()[119].clone();
    let right = chain.stored_block(id.hash).unwrap();
    let mut miscounted = spent_bytes(&right);
    miscounted[0] -= 1;
    let block = serialize(&right.block);
    let mut changed = block.clone();
    *changed.last_mut().unwrap() ^= 1;
    for (part, reply, said) in [
        (
            "/rest/block/",
            Reply::Full(200, b"<html>hello</html>".to_vec()),
            "cut short: 80 bytes wanted, 18 left",
        ),
        (
            "/rest/block/",
            Reply::Full(200, Vec::new()),
            "80 bytes wanted, 0 left",
        ),
        (
            "/rest/block/",
            Reply::Full(200, block[..block.len() - 1].to_vec()),
            "4 bytes wanted, 3 left",
        ),
        ("/rest/block/", Reply::Longer(vec![0]), "left over"),
        (
            "/rest/block/",
            Reply::Full(200, serialize(&other.block)),
            "has hash",
        ),
        ("/rest/block/", Reply::Full(200, changed), "merkle root"),
        ("/rest/block/", Reply::Endless, "more than 4000000 bytes"),
        (
            "/rest/block/",
            Reply::Announced(1 << 40),
            "more than 4000000 bytes",
        ),
        ("/rest/block/", Reply::Full(302, Vec::new()), "HTTP 302"),
        (
            "/rest/spenttxouts/",
            Reply::Full(200, b"\xff\xff\xff\xff\xff\xff\xff\xff\xff".to_vec()),
            "announced",
        ),
        ("/rest/spenttxouts/", Reply::Longer(vec![0]), "left over"),
        (
            "/rest/spenttxouts/",
            Reply::Full(200, spent_bytes(&other)),
            "spent outputs",
        ),
        (
            "/rest/spenttxouts/",
            Reply::Full(200, miscounted),
            "left over",
        ),
        (
            "/rest/spenttxouts/",
            Reply::Full(200, vec![1, 0]),
            "spent outputs of 1 transactions",
        ),
        ("/rest/spenttxouts/", Reply::Announced(1 << 40), "more than"),
    ] {
        node.on(part, reply);
        let error = source.block(id).await.unwrap_err();
        assert!(matches!(error, ChainError::Mismatch(_)), "{error:?}");
        let text = text(&error, &node.url());
        assert!(text.contains(said), "{said:?} is not in: {text}");
        assert!(text.contains(&id.hash.to_string()), "{text}");
        node.behave();
    }
    node.on("blockhashbyheight", Reply::Full(200, vec![0; 31]));
    assert!(matches!(
        source.block_at(3).await,
        Err(ChainError::Mismatch(_))
    ));
    node.on("chaininfo", Reply::Full(200, b"{\"chain\": 7}".to_vec()));
    assert!(matches!(source.tip().await, Err(ChainError::Mismatch(_))));
    node.behave();
    assert_eq!(source.block(id).await, right.with_prevouts());
}

#[tokio::test]
async fn servers_that_are_no_fit_node_are_told_apart() {
    let (node, _, id) = fake().await;
    let url = node.url();
    let source = source(&url, None);

    // Before version 30 the path is unknown; the server says nothing of it.
    node.on("/rest/spenttxouts/", Reply::Full(404, Vec::new()));
    assert_setup(
        source.check(Network::Regtest).await,
        &url,
        &["too old", "Bitcoin Core 30 or newer"],
    );
    assert_setup(source.block(id).await.map(drop), &url, &["too old"]);

    node.on(
        "/rest/spenttxouts/",
        Reply::Full(
            404,
            format!("{} undo not available\r\n", id.hash).into_bytes(),
        ),
    );
    let error = source.block(id).await.unwrap_err();
    assert!(matches!(error, ChainError::NotAvailable(_)), "{error:?}");
    assert!(text(&error, &url).contains("prune=0"));

    node.on(
        "/rest/block/",
        Reply::Full(
            404,
            format!("{} not available (pruned data)\r\n", id.hash).into_bytes(),
        ),
    );
    let error = source.block(id).await.unwrap_err();
    assert!(matches!(error, ChainError::NotAvailable(_)), "{error:?}");
    assert!(
        text(&error, &url).contains("not available (pruned data); index with an unpruned node")
    );

    node.on("/", Reply::Full(404, Vec::new()));
    assert_setup(source.check(Network::Regtest).await, &url, &["rest=1"]);
    node.on("/", Reply::Full(403, Vec::new()));
    assert_setup(
        source.check(Network::Regtest).await,
        &url,
        &["rest=1", "rpcallowip"],
    );
    node.on("/", Reply::Full(200, b"<html>a web site</html>".to_vec()));
    assert_setup(source.check(Network::Regtest).await, &url, &["--node-url"]);
    node.on("chaininfo", Reply::Full(200, br#"{"chain":"main","blocks":0,"bestblockhash":"000000000019d6689c085ae165831e934ff763ae46a2a6c172b3f1b60a8ce26f"}"#.to_vec()));
    assert_setup(
        source.check(Network::Regtest).await,
        &url,
        &["\"main\"", "\"regtest\""],
    );
}
