//! Blocks from a node's JSON-RPC beside those from REST and from the simulated chain, and which of the sources is used.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bitcoin::hashes::Hash;
use bitcoin::{BlockHash, Network, ScriptBuf, Txid};
use spindex::BlockId;
use spindex::chain::first_working::FirstWorking;
use spindex::chain::made::simulated::{Orphaned, SimulatedChain, SimulationSettings};
use spindex::chain::rest::{RestSettings, RestSource};
use spindex::chain::rpc::{RpcAuth, RpcSettings};
use spindex::chain::rpc_source::RpcSource;
use spindex::chain::{BlockSource, ChainError};
use zeroize::Zeroizing;

use crate::support::by_height::ByHeight as _;
use crate::support::fake_node::{FakeNode, Reply, replaced};
use crate::support::index::{content, fresh_store};
use crate::support::node::{TestNode, rpcauth_argument};
use crate::support::spindex::{run, stderr};

/// Long enough for a busy machine.
const TIMEOUT: Duration = Duration::from_secs(60);

fn chain(transactions_per_block: u32, blocks: u32) -> Arc<SimulatedChain> {
    let chain = SimulatedChain::new(SimulationSettings {
        seed: 77,
        transactions_per_block,
        ..SimulationSettings::default()
    });
    chain.mine(blocks);
    Arc::new(chain)
}

fn rest(url: &str) -> Arc<RestSource> {
    let settings = RestSettings {
        timeout: TIMEOUT,
        ..RestSettings::new(url)
    };
    Arc::new(RestSource::new(settings).unwrap())
}

fn rpc_with(url: &str, auth: RpcAuth) -> Arc<RpcSource> {
    let url = url.to_owned();
    Arc::new(RpcSource::new(RpcSettings { url, auth }, TIMEOUT, 4).unwrap())
}

fn rpc(node: &TestNode) -> Arc<RpcSource> {
    rpc_with(&node.url(), RpcAuth::CookieFile(node.cookie_path()))
}

fn password(user: &str, password: &str) -> RpcAuth {
    RpcAuth::UserPassword {
        user: user.into(),
        password: Zeroizing::new(password.into()),
    }
}

async fn fake() -> (FakeNode, Arc<SimulatedChain>, Arc<RpcSource>) {
    let chain = chain(6, 120);
    let node = FakeNode::start(chain.clone()).await;
    let source = rpc_with(&node.url(), password("alice", "s3cret"));
    (node, chain, source)
}

fn setup_text(result: Result<(), ChainError>) -> String {
    match result {
        Err(ChainError::Setup(text)) => text,
        other => panic!("{other:?}"),
    }
}

/// All pages of `blocks_at` from a height on.
async fn all_from(source: &dyn BlockSource, mut first: u32) -> Vec<BlockId> {
    let mut ids = Vec::new();
    loop {
        let page = source.blocks_at(first..=u32::MAX).await.unwrap();
        let Some(last) = page.last() else {
            return ids;
        };
        first = last.height + 1;
        ids.extend(page);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_sources_of_one_chain_give_the_same_blocks_and_the_same_index() {
    let chain = chain(10, 150);
    let node = TestNode::start(&[]);
    node.submit_above(&chain, 0);
    // A branch that was active once, so that the node holds blocks beside the chain.
    let fork = chain.reorganize(4, 6, Orphaned::Resubmit).unwrap();
    for id in &fork.connected {
        let block = chain.stored_block(id.hash).unwrap();
        let _ = node.submit_block(&block.block);
    }
    assert_eq!(node.tip(), chain.tip_id());

    let (rest, rpc) = (rest(&node.url()), rpc(&node));
    rpc.check(Network::Regtest).await.unwrap();
    assert_eq!(
        rpc.describe(),
        format!("Bitcoin Core RPC at {}", node.url())
    );
    assert_eq!(rpc.tip().await.unwrap(), chain.tip_id());
    let wanted: Vec<BlockId> = chain.active_blocks().iter().map(|block| block.id).collect();
    for source in [&*rest as &dyn BlockSource, &*rpc, &*chain] {
        assert_eq!(all_from(source, 0).await, wanted, "{}", source.describe());
        assert_eq!(
            source.blocks_at(7..=9).await.unwrap()[0],
            wanted[7],
            "{}",
            source.describe()
        );
        let past = [
            source.blocks_at(153..=153).await,
            source.blocks_at(u32::MAX..=u32::MAX).await,
            #[allow(clippy::reversed_empty_ranges, reason = "an empty range is the case")]
            source.blocks_at(9..=8).await,
        ];
        assert_eq!(past, [Ok(vec![]), Ok(vec![]), Ok(vec![])]);
        assert_eq!(source.block_at(152).await.unwrap(), Some(chain.tip_id()));
        assert_eq!(source.block_at(153).await.unwrap(), None);
    }

    let mut created: HashMap<Txid, u32> = HashMap::new();
    let mut spent = 0;
    for block in chain.active_blocks() {
        let by_rpc = rpc.block(block.id).await.unwrap();
        let wanted = block.with_prevouts().unwrap();
        assert_eq!(by_rpc.block, wanted.block, "{}", block.id);
        assert_eq!(by_rpc.prevouts.decode(), block.prevouts, "{}", block.id);
        created.extend(block.txids.iter().map(|txid| (*txid, block.id.height)));
        for (tx, inputs) in by_rpc.spending_transactions() {
            for (input, prevout) in inputs {
                let height = created[&input.previous_output().txid];
                assert_eq!(prevout.created, Some(height), "{}", tx.txid());
                spent += 1;
            }
        }
    }
    assert!(spent > 500, "the chain is too poor a test: {spent}");
    // Of another branch, the node still has the blocks and what they spent.
    let old = fork.disconnected[0];
    assert_eq!(
        rpc.block(old).await.unwrap().prevouts.decode(),
        chain.stored_block(old.hash).unwrap().prevouts
    );

    let mut indexes = Vec::new();
    for source in [rest as Arc<dyn BlockSource>, rpc, chain.clone()] {
        let store = fresh_store(source).await;
        let digest = store.snapshot().unwrap().digest(152).unwrap().unwrap();
        indexes.push((digest, content(&store)));
    }
    assert_eq!(indexes[0], indexes[1]);
    assert_eq!(indexes[0], indexes[2]);
}

#[tokio::test]
async fn a_node_that_stops_and_returns_is_transient_trouble() {
    let mut node = TestNode::start_without_rest(&[]);
    let script = ScriptBuf::new_op_return([]);
    let tip = *node.mine(5, &script).last().unwrap();
    let id = BlockId {
        height: 5,
        hash: tip,
    };
    let source = rpc(&node);
    source.check(Network::Regtest).await.unwrap();

    // Stopped, it has taken its cookie along, which is no fault of the settings.
    node.stop();
    assert!(!node.cookie_path().exists());
    let errors = [
        source.check(Network::Regtest).await.unwrap_err(),
        source.tip().await.unwrap_err(),
        source.block(id).await.unwrap_err(),
        source.blocks_at(0..=9).await.unwrap_err(),
    ];
    for error in errors {
        assert!(matches!(error, ChainError::Unreachable(_)), "{error:?}");
        assert!(error.to_string().contains(&node.url()), "{error}");
    }

    node.start_again(&[]);
    assert_eq!(source.tip().await.unwrap(), id);
    assert_eq!(source.block(id).await.unwrap().id, id);

    let missing = RpcAuth::CookieFile("/nowhere/.cookie".into());
    let error = setup_text(rpc_with(&node.url(), missing).check(Network::Regtest).await);
    assert!(error.contains("/nowhere/.cookie"), "{error}");
    let error = setup_text(source.check(Network::Signet).await);
    assert!(error.contains("--rpc-url"), "{error}");
}

#[tokio::test]
async fn blocks_that_a_real_node_does_not_have_are_not_available() {
    let chain = chain(4, 110);
    let node = TestNode::start(&[]);
    node.submit_above(&chain, 0);
    let side = chain.reorganize(2, 1, Orphaned::Drop).unwrap().connected[0];
    let block = chain.stored_block(side.hash).unwrap();
    assert!(block.block.txdata.len() > 1);
    assert_eq!(node.submit_block(&block.block), Err("inconclusive".into()));
    let source = rpc(&node);
    let error = source.block(side).await.unwrap_err();
    assert!(matches!(error, ChainError::NotAvailable(_)), "{error:?}");
    assert!(error.to_string().contains("never connected"), "{error}");

    let unknown = BlockId {
        height: 1,
        hash: BlockHash::all_zeros(),
    };
    let error = source.block(unknown).await.unwrap_err();
    assert!(matches!(error, ChainError::NotAvailable(_)), "{error:?}");
    assert!(error.to_string().contains("not found"), "{error}");
}

#[tokio::test]
async fn answers_that_cannot_be_right_are_refused() {
    let (node, chain, source) = fake().await;
    let id = chain.tip_id();
    let path = format!("/rpc/getblock/{}", id.hash);
    let other = chain.active_blocks()[119].id.hash;
    for (reply, said) in [
        (Reply::Full(200, b"<html>".to_vec()), "check --rpc-url"),
        (Reply::Full(200, b"{}".to_vec()), "without a result"),
        (Reply::Full(200, br#"{"result": 7}"#.to_vec()), "--rpc-url"),
        (Reply::Full(302, Vec::new()), "HTTP 302"),
        (Reply::Longer(b"x".to_vec()), "--rpc-url"),
        (
            Reply::Changed(|b| replaced(b, r#""id":"#, r#""id":99"#)),
            "another call",
        ),
        (
            Reply::Changed(|b| replaced(b, r#","id":"#, r#","no":"#)),
            "another call",
        ),
        (Reply::Of(format!("/rpc/getblock/{other}")), "has hash"),
        (Reply::Announced(1 << 40), "more than 536870912 bytes"),
        (
            Reply::Changed(|b| replaced(b, r#""nonce":"#, r#""nonce":1"#)),
            "has hash",
        ),
        (
            Reply::Changed(|b| replaced(b, r#""bits":"2"#, r#""bits":"x"#)),
            "bits",
        ),
        (
            Reply::Changed(|b| replaced(b, r#"{"hex":"0"#, r#"{"hex":"g"#)),
            "hex",
        ),
        (
            Reply::Changed(|b| replaced(b, r#"{"hex":"0"#, r#"{"hex":""#)),
            "odd",
        ),
        (
            Reply::Changed(|b| replaced(b, r#"{"hex":"02"#, r#"{"hex":"03"#)),
            "merkle root",
        ),
        (
            Reply::Changed(|b| replaced(b, r#""vout":"#, r#""vout":7"#)),
            "not those of its bytes",
        ),
        (
            Reply::Changed(|b| replaced(b, r#""height":"#, r#""height":99"#)),
            "spends an output of height",
        ),
        (
            Reply::Changed(|b| replaced(b, r#""value":"#, r#""value":-"#)),
            "no amount",
        ),
        (
            Reply::Changed(|b| replaced(b, r#""value":"#, r#""value":99999999"#)),
            "no amount",
        ),
        (
            Reply::Changed(|b| replaced(b, r#","scriptPubKey""#, r#"1,"scriptPubKey""#)),
            "no amount",
        ),
        (
            Reply::Changed(|b| replaced(b, r#""vin":[{"txid""#, r#""vin":[],"x":[{"txid""#)),
            "spent outputs for transaction 1",
        ),
    ] {
        let what = format!("{reply:?}");
        node.on(&path, reply);
        let error = source.block(id).await.unwrap_err();
        assert!(
            matches!(error, ChainError::Mismatch(_)),
            "{what}: {error:?}"
        );
        let text = error.to_string();
        assert!(text.contains(&node.url()), "{text}");
        assert!(text.contains(said), "{said:?} is not in: {text} for {what}");
        assert!(!text.contains('\n'), "{text}");
        node.behave();
    }
    assert_eq!(
        source.block(id).await.unwrap().prevouts.decode(),
        chain.stored_block(id.hash).unwrap().prevouts
    );
}

#[tokio::test]
async fn answers_of_a_batch_go_by_their_ids() {
    let (node, chain, source) = fake().await;
    let wanted: Vec<BlockId> = chain.active_blocks().iter().map(|block| block.id).collect();
    let batch = "/rpc/getblockhash/batch";

    // In any order.
    let reverse = |body: Vec<u8>| {
        let mut answers: Vec<serde_json::Value> = serde_json::from_slice(&body).unwrap();
        answers.reverse();
        serde_json::to_vec(&answers).unwrap()
    };
    node.on(batch, Reply::Changed(reverse));
    assert_eq!(source.blocks_at(0..=500).await.unwrap(), wanted);
    node.behave();

    for change in [
        // One is missing, one comes twice, one has an id that nobody asked for.
        |answers: &mut Vec<serde_json::Value>| drop(answers.pop()),
        |answers: &mut Vec<serde_json::Value>| answers.push(answers[0].clone()),
        |answers: &mut Vec<serde_json::Value>| answers[3]["id"] = 4.into(),
        |answers: &mut Vec<serde_json::Value>| answers[3]["id"] = 9999.into(),
        |answers: &mut Vec<serde_json::Value>| answers[3]["id"] = serde_json::Value::Null,
        |answers: &mut Vec<serde_json::Value>| answers[3]["result"] = "00".into(),
    ] {
        let ids: Vec<_> = (0..20).map(|id| json_answer(id, &wanted)).collect();
        let mut answers = ids;
        change(&mut answers);
        let body = serde_json::to_vec(&answers).unwrap();
        node.on(batch, Reply::Full(200, body));
        let error = source.blocks_at(0..=19).await.unwrap_err();
        assert!(matches!(error, ChainError::Mismatch(_)), "{error:?}");
        node.behave();
    }

    // A node that is starting refuses each, or all at once.
    let warmup = br#"{"result":null,"error":{"code":-28,"message":"Loading\nwallet"},"id":0}"#;
    for body in [warmup.to_vec(), [b"[", &warmup[..], b"]"].concat()] {
        node.on(batch, Reply::Full(200, body));
        let error = source.blocks_at(5..=5).await.unwrap_err();
        assert!(matches!(error, ChainError::Unreachable(_)), "{error:?}");
        assert!(error.to_string().contains("Loading wallet"), "{error}");
        node.behave();
    }
    assert_eq!(source.blocks_at(0..=500).await.unwrap(), wanted);
}

fn json_answer(id: usize, ids: &[BlockId]) -> serde_json::Value {
    serde_json::json!({"jsonrpc": "2.0", "id": id, "result": ids[id].hash})
}

#[tokio::test]
async fn nodes_that_cannot_serve_say_why() {
    let (node, _, source) = fake().await;
    node.on(
        "getnetworkinfo",
        Reply::Changed(|b| replaced(b, "300000", "220100")),
    );
    let error = setup_text(source.check(Network::Regtest).await);
    assert!(
        error.contains("220100") && error.contains("Bitcoin Core 23"),
        "{error}"
    );
    node.behave();
    node.on("/rpc/", Reply::Full(200, b"<html>a web site".to_vec()));
    let error = setup_text(source.check(Network::Regtest).await);
    assert!(error.contains("--rpc-url"), "{error}");
    node.on("/rpc/", Reply::Full(401, Vec::new()));
    let error = setup_text(source.check(Network::Regtest).await);
    assert!(error.contains("--rpc-user"), "{error}");
    for status in [500, 502, 503] {
        node.on("/rpc/", Reply::Full(status, b"<html>oops".to_vec()));
        let error = source.check(Network::Regtest).await.unwrap_err();
        assert!(matches!(error, ChainError::Unreachable(_)), "{error:?}");
    }
}

/// Long syncs ask for hashes in bulk.
#[tokio::test]
async fn hashes_of_many_blocks_are_a_few_requests() {
    let (node, chain, by_rpc) = fake().await;
    let by_rest = rest(&node.url());
    let wanted: Vec<BlockId> = chain.active_blocks().iter().map(|block| block.id).collect();
    node.requests();
    assert_eq!(by_rest.blocks_at(0..=u32::MAX).await.unwrap(), wanted);
    assert_eq!(node.requests().len(), 2);
    assert_eq!(by_rest.blocks_at(20..=29).await.unwrap(), wanted[20..30]);
    assert_eq!(by_rpc.blocks_at(20..=29).await.unwrap(), wanted[20..30]);
    node.requests();
    fresh_store(by_rest).await;
    let asked = node.requests();
    let hashes = asked
        .iter()
        .filter(|path| path.contains("blockhashbyheight") || path.contains("headers"));
    assert_eq!(hashes.count(), 2, "{asked:?}");
    assert!(asked.len() >= 2 * wanted.len(), "{asked:?}");
}

#[tokio::test]
async fn headers_that_do_not_fit_are_refused() {
    let (node, chain, _) = fake().await;
    let source = rest(&node.url());
    let swap = |mut body: Vec<u8>| {
        let (first, second) = body.split_at_mut(160);
        first[80..160].swap_with_slice(&mut second[..80]);
        body
    };
    let other = chain.active_blocks()[50].id.hash;
    for (reply, said) in [
        (Reply::Changed(swap), "does not follow"),
        (
            Reply::Of(format!("/rest/headers/{other}.bin?count=50")),
            "begin with",
        ),
        (
            Reply::Of(format!(
                "/rest/headers/{}.bin?count=51",
                chain.active_blocks()[10].id.hash
            )),
            "at most 50 headers",
        ),
        (Reply::Longer(vec![0]), "at most 50 headers"),
        (
            Reply::Changed(|mut body| {
                body[159] ^= 1;
                body
            }),
            "does not follow",
        ),
        (Reply::Announced(1 << 40), "more than"),
    ] {
        let what = format!("{reply:?}");
        node.on("/rest/headers/", reply);
        let error = source.blocks_at(10..=59).await.unwrap_err();
        assert!(
            matches!(error, ChainError::Mismatch(_)),
            "{what}: {error:?}"
        );
        assert!(error.to_string().contains(said), "{what}: {error}");
        node.behave();
    }
    // The block went away between the two requests.
    node.on("/rest/headers/", Reply::Full(200, Vec::new()));
    let error = source.blocks_at(10..=59).await.unwrap_err();
    assert!(matches!(error, ChainError::NotAvailable(_)), "{error:?}");
}

fn auto(node: &FakeNode, rpc_url: &str) -> FirstWorking<dyn BlockSource> {
    let sources: Vec<Arc<dyn BlockSource>> = vec![
        rest(&node.url()),
        rpc_with(rpc_url, password("alice", "s3cret")),
    ];
    FirstWorking::new(sources, Network::Regtest)
}

#[tokio::test]
async fn the_first_source_that_works_is_used() {
    let (node, chain, _) = fake().await;
    let url = node.url();
    let by = |name: &str| format!("Bitcoin Core {name} at {url}");

    // The best one, where all work.
    let source = auto(&node, &url);
    assert_eq!(
        source.describe(),
        format!("{}, or {}", by("REST"), by("RPC"))
    );
    source.check(Network::Regtest).await.unwrap();
    assert_eq!(source.describe(), by("REST"));
    let error = setup_text(source.check(Network::Signet).await);
    assert!(error.contains("signet"), "{error}");

    // Any call chooses; the choice stays.
    node.on("/rest/spenttxouts", Reply::Full(404, Vec::new()));
    let source = auto(&node, &url);
    assert_eq!(source.tip().await.unwrap(), chain.tip_id());
    assert_eq!(source.describe(), by("RPC"));
    node.behave();
    assert_eq!(source.blocks_at(0..=5).await.unwrap().len(), 6);
    assert_eq!(source.describe(), by("RPC"));

    // A node that was still starting when REST was asked serves it when RPC is answered.
    node.on_times(
        "/rest/",
        Reply::Full(503, b"Loading block index".to_vec()),
        1,
    );
    let source = auto(&node, &url);
    source.check(Network::Regtest).await.unwrap();
    assert_eq!(source.describe(), by("REST"));

    // While any may come back, that is waited for.
    node.on("/rest/", Reply::Full(404, Vec::new()));
    node.on("/rpc/", Reply::Hangup);
    let source = auto(&node, &url);
    let error = source.check(Network::Regtest).await.unwrap_err();
    assert!(matches!(error, ChainError::Unreachable(_)), "{error:?}");
    node.behave();
    source.check(Network::Regtest).await.unwrap();
    assert_eq!(source.describe(), by("REST"));

    // An RPC that works is used though REST at another address is away.
    let (_, away) = {
        let (gone, _, _) = fake().await;
        ((), gone.url())
    };
    let sources: Vec<Arc<dyn BlockSource>> =
        vec![rest(&away), rpc_with(&url, password("alice", "s3cret"))];
    let source = FirstWorking::new(sources, Network::Regtest);
    source.check(Network::Regtest).await.unwrap();
    assert_eq!(source.describe(), by("RPC"));

    // Where none can work, all reasons are given, each once.
    node.on("/rest/", Reply::Full(404, Vec::new()));
    node.on("/rpc/", Reply::Full(401, Vec::new()));
    let error = setup_text(auto(&node, &url).check(Network::Regtest).await);
    assert!(
        error.contains("-rest") && error.contains("--rpc-user"),
        "{error}"
    );
}

fn sync_args(node: &TestNode, more: &[&str]) -> Vec<String> {
    let fixed = [
        "sync".to_owned(),
        "--network=regtest".to_owned(),
        "--first-height=0".to_owned(),
        format!("--node-url={}", node.url()),
    ];
    let more = more.iter().map(|arg| (*arg).to_owned());
    fixed.into_iter().chain(more).collect()
}

#[test]
fn the_command_takes_the_source_that_works_or_says_why_not() {
    let node = TestNode::start_without_rest(&[&rpcauth_argument("bob", "x")]);
    node.mine(3, &ScriptBuf::new_op_return([]));
    let home = tempfile::tempdir().unwrap();
    let cookie = format!("--rpc-cookie={}", node.cookie_path().display());

    let sync = |more: &[&str]| {
        let output = run(home.path(), &sync_args(&node, more));
        (output.status.code(), stderr(&output))
    };
    let (status, text) = sync(&["--source=rest", &cookie]);
    assert_eq!(status, Some(1), "{text}");
    assert!(text.contains("rest=1"), "{text}");
    let (status, text) = sync(&["--source=auto"]);
    assert_eq!(status, Some(1), "{text}");
    assert!(
        text.contains("rest=1") && text.contains("--rpc-cookie"),
        "{text}"
    );
    let (status, text) = sync(&["--source=rpc", "--rpc-user=bob"]);
    assert_eq!(status, Some(2), "{text}");
    let (status, text) = sync(&["--zmq=ipc:///tmp/node"]);
    assert_eq!(status, Some(2), "{text}");
    assert!(text.contains("tcp://127.0.0.1:28332"), "{text}");
    let (status, text) = sync(&["--source=carrier-pigeon"]);
    assert_eq!(status, Some(2), "{text}");

    let (status, text) = sync(&[&cookie]);
    assert_eq!(status, Some(0), "{text}");
    let rpc = format!("blocks come from Bitcoin Core RPC at {}", node.url());
    let why = format!("not from Bitcoin Core REST at {}", node.url());
    for said in [&rpc, &why, "rest=1", "in sync"] {
        assert!(text.contains(said), "{said:?} is not in {text}");
    }
    node.mine(2, &ScriptBuf::new_op_return([]));
    let (status, text) = sync(&["--source=rpc", &cookie]);
    assert_eq!(status, Some(0), "{text}");
    assert!(text.contains("height=5"), "{text}");
}
