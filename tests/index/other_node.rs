//! Which chain a node serves: two addresses of two nodes, a node that becomes another one, goes back, or calls a branch
//! invalid. The index follows no other chain, and gives up no block that nothing contradicts. All waiting is in paused
//! time, but for real nodes.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bitcoin::{Network, ScriptBuf};
use serde_json::json;
use spindex::BlockId;
use spindex::chain::first_working::FirstWorking;
use spindex::chain::made::simulated::{Orphaned, SimulatedChain};
use spindex::chain::{BlockSource, ChainError, Node};
use spindex::index::{IndexError, IndexSettings, Indexer};
use spindex::runtime::Stop;
use spindex::store::{FILE_NAME, Store, StoreOptions};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::scene::{follow_from_the_start, reporting_indexer, small_chain as chain};
use crate::support::fake_node::{FakeNode, Reply, replaced};
use crate::support::index::{content, content_of_file, fresh_content, memory_store, options};
use crate::support::log::Log;
use crate::support::node::TestNode;
use crate::support::node_source::{Kind, rest, step_time};
use crate::support::spindex::{command, run, stderr};

/// So long a trouble lasts.
const LONG: Duration = Duration::from_secs(700);

fn indexer(
    store: &Arc<Store>,
    source: Arc<dyn Node>,
    give_up_after: Option<Duration>,
    stop: &Stop,
) -> (Indexer, mpsc::UnboundedReceiver<Option<BlockId>>) {
    let settings = IndexSettings {
        give_up_after,
        ..IndexSettings::default()
    };
    reporting_indexer(store, source, settings, stop)
}

/// An index that follows a node as `run` does.
struct Following {
    store: Arc<Store>,
    tips: mpsc::UnboundedReceiver<Option<BlockId>>,
    task: JoinHandle<Result<(), IndexError>>,
    stop: Stop,
}

impl Following {
    async fn start(store: Arc<Store>, source: Arc<dyn Node>) -> Self {
        let stop = Stop::new();
        let (indexer, tips) = indexer(&store, source, None, &stop);
        let task = tokio::spawn(follow_from_the_start(indexer));
        Self {
            store,
            tips,
            task,
            stop,
        }
    }

    async fn reached(&mut self, chain: &SimulatedChain) {
        while self.tips.recv().await.unwrap() != Some(chain.tip_id()) {}
    }

    async fn assert_ends_as(self, chain: Arc<SimulatedChain>) {
        self.stop.request();
        self.task.await.unwrap().unwrap();
        assert_eq!(content(&self.store), fresh_content(chain).await);
    }
}

#[tokio::test]
async fn two_addresses_of_two_chains_are_refused() {
    let (by_rest, by_rpc) = (chain(1, 40), chain(2, 45));
    let rest_node = FakeNode::start(by_rest.clone()).await;
    let rpc_node = FakeNode::start(by_rpc.clone()).await;
    let (rest_url, rpc_url) = (rest_node.url(), rpc_node.url());
    let both = || rest(&rest_url, Some(&rpc_url));
    let error = both().check(Network::Regtest).await.unwrap_err();
    assert!(matches!(error, ChainError::Conflict(_)), "{error:?}");
    let text = error.to_string();
    for part in [&rest_url, &rpc_url, "height 34", "--rpc-url"] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    // That RPC alone would work is no way out.
    let sources = vec![both(), Kind::Rpc.source(&rpc_url)];
    let first = FirstWorking::new(sources, Network::Regtest);
    let error = first.check(Network::Regtest).await.unwrap_err();
    assert!(matches!(error, ChainError::Conflict(_)), "{error:?}");
    assert!(matches!(first.tip().await, Err(ChainError::Conflict(_))));

    // One chain of which one node has less, or another end at the moment.
    rpc_node.serve(&chain(1, 33));
    both().check(Network::Regtest).await.unwrap();
    let parted = chain(1, 40);
    parted.reorganize(2, 4, Orphaned::Drop).unwrap();
    rpc_node.serve(&parted);
    both().check(Network::Regtest).await.unwrap();
    parted.reorganize(12, 12, Orphaned::Drop).unwrap();
    let error = both().check(Network::Regtest).await.unwrap_err();
    assert!(matches!(error, ChainError::Conflict(_)), "{error:?}");
}

async fn sync_in(home: &Path, args: Vec<String>) -> (Option<i32>, String) {
    let home = home.to_owned();
    let output = tokio::task::spawn_blocking(move || {
        let fixed = ["sync", "--network=regtest", "--first-height=0", "--wait=0"];
        let args: Vec<String> = fixed.map(str::to_owned).into_iter().chain(args).collect();
        let mut command = command(&home, &args);
        command.env("SPINDEX_RPC_PASSWORD", "s3cret");
        command.output().unwrap()
    });
    let output = output.await.unwrap();
    (output.status.code(), stderr(&output))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rpc_address_is_that_of_rest_too_and_the_log_says_what_was_checked_where() {
    let home = tempfile::tempdir().unwrap();
    let ours = chain(1, 20);
    let node = FakeNode::start(ours.clone()).await;
    let other = FakeNode::start(chain(2, 20)).await;
    let rpc = format!("--rpc-url={}", node.url());
    let user = "--rpc-user=alice".to_owned();

    let both = vec![
        rpc.clone(),
        user.clone(),
        format!("--node-url={}", other.url()),
    ];
    let (status, log) = sync_in(home.path(), both).await;
    assert_eq!(status, Some(1), "{log}");
    let error = log
        .lines()
        .find(|line| line.starts_with("error: "))
        .unwrap();
    for part in [&node.url(), &other.url(), "different chains"] {
        assert!(error.contains(part), "{part} is not in {error}");
    }

    let (status, log) = sync_in(home.path(), vec![rpc, user]).await;
    assert_eq!(status, Some(0), "{log}");
    let url = node.url();
    for said in [
        format!("REST at {url}: network \"regtest\", first block and spent outputs are right"),
        format!("RPC at {url}: version 300000, credentials are right"),
        "height=20".to_owned(),
    ] {
        assert!(log.contains(&said), "{said} is not in {log}");
    }

    let mirror = FakeNode::start(ours).await;
    let both = vec![
        format!("--rpc-url={}", mirror.url()),
        "--rpc-user=alice".to_owned(),
        format!("--node-url={url}"),
    ];
    let (status, log) = sync_in(home.path(), both).await;
    assert_eq!(status, Some(0), "{log}");
    let said = format!(
        "RPC at {}: version 300000, credentials are right, the same chain",
        mirror.url()
    );
    assert!(log.contains(&said), "{log}");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_becomes_one_of_another_network_is_waited_out() {
    step_time();
    const REGTEST: &str = r#""chain":"regtest""#;
    let changes: [(Option<Reply>, Reply, &str); 2] = [
        (
            None,
            Reply::Changed(|body| replaced(body, REGTEST, r#""chain":"main""#)),
            "\"main\"",
        ),
        (
            Some(Reply::Changed(|body| {
                replaced(
                    body,
                    REGTEST,
                    r#""chain":"regtest","signet_challenge":"51aa""#,
                )
            })),
            Reply::Changed(|body| {
                replaced(
                    body,
                    REGTEST,
                    r#""chain":"regtest","signet_challenge":"51bb""#,
                )
            }),
            "51bb",
        ),
    ];
    for kind in Kind::ALL {
        for (first, then, said) in changes.clone() {
            let chain = chain(3, 30);
            let node = FakeNode::start(chain.clone()).await;
            let [_, _, tip] = kind.paths();
            let log = Log::catch();
            if let Some(first) = first {
                node.on(tip, first);
            }
            let source = kind.source(&node.url());
            let mut following = Following::start(memory_store(), source).await;
            following.reached(&chain).await;
            let before = content(&following.store);

            node.on(tip, then);
            chain.mine(1);
            tokio::time::sleep(LONG).await;
            assert_eq!(content(&following.store), before);
            let warned = log.lines("WARN");
            assert_eq!(warned.len(), 1, "{warned:#?}");
            assert!(warned[0].contains(said), "{warned:#?}");

            node.behave();
            following.reached(&chain).await;
            following.assert_ends_as(chain).await;
        }
    }
}

/// Regtest chains have their genesis block in common, as signets do whatever their challenge.
#[tokio::test(start_paused = true)]
async fn a_node_of_another_chain_of_the_network_is_never_followed() {
    step_time();
    for (kind, first_height) in [(Kind::Rest, 0), (Kind::Rpc, 1)] {
        // All of the index could be undone.
        let options = StoreOptions {
            first_height: Some(first_height),
            ..options()
        };
        let backend = redb::backends::InMemoryBackend::new();
        let store = Arc::new(Store::open_with_backend(backend, &options).unwrap());
        let (ours, other) = (chain(4, 60), chain(5, 80));
        let node = FakeNode::start(ours.clone()).await;
        let log = Log::catch();
        let mut following = Following::start(store.clone(), kind.source(&node.url())).await;
        following.reached(&ours).await;
        let before = content(&store);

        node.serve(&other);
        tokio::time::sleep(LONG).await;
        assert_eq!(content(&store), before);
        let warned = log.lines("WARN");
        assert_eq!(warned.len(), 1, "{warned:#?}");
        assert!(warned[0].contains("another chain"), "{warned:#?}");

        // A start with such a node fails at once.
        let (newcomer, _) = indexer(&store, kind.source(&node.url()), None, &Stop::new());
        let error = newcomer.sync(None).await.unwrap_err();
        assert!(matches!(error, IndexError::OtherChain { .. }), "{error:?}");
        assert!(error.to_string().contains("--node-url"), "{error}");
        assert_eq!(content(&store), before);

        // The right one again, which itself left every block but the first: it knows the old ones.
        ours.reorganize(59, 61, Orphaned::Drop).unwrap();
        node.serve(&ours);
        following.reached(&ours).await;
        ours.reorganize(62, 63, Orphaned::Drop).unwrap();
        following.reached(&ours).await;
        following.stop.request();
        following.task.await.unwrap().unwrap();
        let tip = store.snapshot().unwrap().tip();
        assert_eq!(tip, Some(ours.tip_id()));
        if first_height == 0 {
            assert_eq!(content(&store), fresh_content(ours).await);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_goes_back_takes_no_block_from_the_index() {
    step_time();
    for kind in Kind::ALL {
        let chain = chain(6, 120);
        let node = FakeNode::start(chain.clone()).await;
        let log = Log::catch();
        let source = kind.source(&node.url());
        let mut following = Following::start(memory_store(), source).await;
        following.reached(&chain).await;
        let tip = chain.tip_id();
        let before = content(&following.store);

        // As deep as could be undone, and almost to the start, and on the way up again.
        for depth in [1, 100, 119] {
            let warned = log.lines("WARN").len();
            chain.go_back(depth).unwrap();
            tokio::time::sleep(LONG).await;
            assert_eq!(content(&following.store), before, "{depth}");
            let warned = &log.lines("WARN")[warned..];
            assert_eq!(warned.len(), 1, "{warned:#?}");
            let said = format!("below the index's tip {tip}");
            assert!(warned[0].contains(&said), "{warned:#?}");
            chain.activate(tip.hash).unwrap();
            tokio::time::sleep(Duration::from_secs(60)).await;
        }
        assert_eq!(log.lines("answers again").len(), 3);
        chain.mine(2);
        following.reached(&chain).await;

        // The way back leads to another branch: that is followed, though it is the shorter one.
        chain.go_back(30).unwrap();
        tokio::time::sleep(LONG).await;
        chain.mine(1);
        following.reached(&chain).await;
        following.assert_ends_as(chain).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_sync_waits_for_a_node_that_went_back_only_as_long_as_it_may() {
    step_time();
    for kind in Kind::ALL {
        let chain = chain(7, 60);
        let node = FakeNode::start(chain.clone()).await;
        let store = memory_store();
        let limit = Some(Duration::from_secs(60));
        let (indexer, _) = indexer(&store, kind.source(&node.url()), limit, &Stop::new());
        indexer.sync(None).await.unwrap();
        let before = content(&store);
        chain.go_back(5).unwrap();
        let started = tokio::time::Instant::now();
        let error = indexer.sync(None).await.unwrap_err();
        assert!(error.to_string().contains("ends below"), "{error}");
        let waited = started.elapsed();
        assert!(waited >= Duration::from_secs(60) && waited < Duration::from_secs(95));
        assert_eq!(content(&store), before);
        // What was asked for is there.
        indexer.sync(Some(50)).await.unwrap();
        assert_eq!(content(&store), before);
    }
}

#[tokio::test(start_paused = true)]
async fn blocks_that_the_node_calls_invalid_are_given_up_where_it_can_be_asked() {
    step_time();
    for (by, can_ask) in [("rest", false), ("rest and rpc", true), ("rpc", true)] {
        let chain = chain(8, 70);
        let node = FakeNode::start(chain.clone()).await;
        let url = node.url();
        let source = match by {
            "rest" => rest(&url, None),
            "rpc" => Kind::Rpc.source(&url),
            _ => rest(&url, Some(&url)),
        };
        let mut following = Following::start(memory_store(), source.clone()).await;
        following.reached(&chain).await;
        let before = content(&following.store);
        chain.disconnect(10, Orphaned::Drop).unwrap();
        match can_ask {
            true => following.reached(&chain).await,
            false => {
                tokio::time::sleep(LONG).await;
                assert_eq!(content(&following.store), before, "{by}");
                chain.mine(1);
                following.reached(&chain).await;
            }
        }
        following.assert_ends_as(chain.clone()).await;

        // An index that ends below the end of the invalid branch.
        let store = memory_store();
        let (indexer, _) = indexer(&store, source, Some(Duration::ZERO), &Stop::new());
        chain.mine(5);
        let tip = chain.tip_id();
        indexer.sync(Some(tip.height - 2)).await.unwrap();
        chain.disconnect(9, Orphaned::Drop).unwrap();
        let synced = indexer.sync(None).await;
        match can_ask {
            true => assert_eq!(synced.unwrap(), Some(chain.tip_id()), "{by}"),
            false => assert!(synced.unwrap_err().to_string().contains("ends below")),
        }
    }
}

/// A node that cannot say which blocks are invalid has not said so.
#[tokio::test(start_paused = true)]
async fn a_node_that_does_not_answer_whether_a_branch_is_invalid_is_waited_for() {
    step_time();
    let chain = chain(9, 50);
    let node = FakeNode::start(chain.clone()).await;
    let store = memory_store();
    let source = Kind::Rpc.source(&node.url());
    let (indexer, _) = indexer(&store, source, Some(Duration::ZERO), &Stop::new());
    indexer.sync(None).await.unwrap();
    let before = content(&store);
    chain.disconnect(10, Orphaned::Drop).unwrap();
    for reply in [
        Reply::Full(403, Vec::new()),
        Reply::Hangup,
        Reply::Full(200, br#"{"result":[{"status":"invalid"}],"id":7}"#.to_vec()),
        Reply::Changed(|body| replaced(body, "invalid", "headers-only")),
    ] {
        node.on("getchaintips", reply);
        let error = indexer.sync(None).await.unwrap_err();
        assert!(error.to_string().contains("ends below"), "{error}");
        assert_eq!(content(&store), before);
        node.behave();
    }
    assert_eq!(indexer.sync(None).await.unwrap(), Some(chain.tip_id()));
}

/// One wrong answer about the chain is no reason to give blocks up, not even for a moment.
#[tokio::test(start_paused = true)]
async fn a_fork_counts_only_if_the_node_says_so_twice() {
    step_time();
    for kind in Kind::ALL {
        let chain = chain(10, 80);
        let node = FakeNode::start(chain.clone()).await;
        let [_, _, tip] = kind.paths();
        let store = memory_store();
        let limit = Some(Duration::from_secs(60));
        let (indexer, mut tips) = indexer(&store, kind.source(&node.url()), limit, &Stop::new());
        indexer.sync(None).await.unwrap();
        while tips.try_recv().is_ok() {}
        // A lower tip of another branch.
        let wrong = Reply::Changed(|body| {
            let mut text = String::from_utf8(body).unwrap();
            text = text.replace(r#""blocks":80"#, r#""blocks":60"#);
            let at = text.find(r#""bestblockhash":""#).unwrap() + 17;
            text.replace_range(at + 60..at + 64, "0123");
            text.into_bytes()
        });
        node.on_times(tip, wrong, 1);
        assert_eq!(indexer.sync(None).await.unwrap(), Some(chain.tip_id()));
        assert!(node.is_worn_out());
        assert!(tips.try_recv().is_err(), "nothing was to be written");
    }
}

#[test]
fn real_nodes_that_lag_or_call_blocks_invalid() {
    let home = tempfile::tempdir().unwrap();
    let chain = chain(11, 110);
    let ahead = TestNode::start(&[]);
    ahead.submit_above(&chain, 0);
    let lagging = TestNode::start(&[]);
    for block in &chain.active_blocks()[1..=70] {
        lagging.submit_block(&block.block).unwrap();
    }
    let index = home.path().join(".spindex/regtest").join(FILE_NAME);
    let sync = |node: &TestNode, more: &[&str]| {
        let url = format!("--node-url={}", node.url());
        let fixed = [
            "sync",
            "--network=regtest",
            "--first-height=0",
            "--wait=1",
            &url,
        ];
        let output = run(home.path(), &[&fixed[..], more].concat());
        (output.status.code(), stderr(&output))
    };
    let (status, log) = sync(&ahead, &[]);
    assert_eq!(status, Some(0), "{log}");
    let before = content_of_file(&index);

    let cookie = |node: &TestNode| format!("--rpc-cookie={}", node.cookie_path().display());
    for source in ["--source=rest", "--source=rpc"] {
        let (status, log) = sync(&lagging, &[source, &cookie(&lagging)]);
        assert_eq!(status, Some(1), "{log}");
        assert!(log.contains("ends below the index's tip"), "{log}");
        assert_eq!(content_of_file(&index), before);
    }

    // It catches up, calls the last blocks invalid, and goes on from there.
    lagging.submit_above(&chain, 70);
    let (status, log) = sync(&lagging, &[]);
    assert_eq!(status, Some(0), "{log}");
    lagging.invalidate_block(chain.active_blocks()[101].id.hash);
    assert_eq!(lagging.tip().height, 100);
    let (status, log) = sync(&lagging, &["--source=rest"]);
    assert_eq!(status, Some(1), "{log}");
    assert_eq!(content_of_file(&index), before);
    let (status, log) = sync(&lagging, &["--source=rest", &cookie(&lagging)]);
    assert_eq!(status, Some(0), "{log}");
    assert!(log.contains("height=100"), "{log}");
    let (status, log) = sync(&ahead, &[]);
    assert_eq!(status, Some(0), "{log}");
    assert_eq!(content_of_file(&index), before);
    let (status, log) = sync(&lagging, &["--source=rpc", &cookie(&lagging)]);
    assert_eq!(status, Some(0), "{log}");
    assert!(log.contains("height=100"), "{log}");

    // Nobody has to be asked where another branch comes.
    let (status, log) = sync(&ahead, &[]);
    assert_eq!(status, Some(0), "{log}");
    lagging.mine(1, &ScriptBuf::new_op_return([]));
    let (status, log) = sync(&lagging, &["--source=rest"]);
    assert_eq!(status, Some(0), "{log}");
    assert!(log.contains("height=101"), "{log}");
    assert_eq!(lagging.call("getblockcount", &[]), json!(101));
}
