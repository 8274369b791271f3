//! A node that misbehaves by a script, as a source by REST and by RPC: nothing wrong is ever committed, the index recovers
//! when the node does, and the log stays short. All waiting is in paused time.

use std::sync::Arc;
use std::time::Duration;

use spindex::BlockId;
use spindex::chain::made::simulated::{Orphaned, SimulatedChain, SimulationSettings};
use spindex::chain::{ChainError, Node};
use spindex::curve::libsecp256k1::LibSecp256k1;
use spindex::index::{IndexError, IndexSettings, Indexer};
use spindex::runtime::Stop;
use spindex::store::Store;
use tokio::sync::mpsc;

use crate::support::fake_node::{FakeNode, Reply};
use crate::support::index::{content, fresh_content, memory_store};
use crate::support::log::Log;
use crate::support::node_source::{Kind, step_time};

const HOUR: Duration = Duration::from_secs(3600);

fn chain() -> Arc<SimulatedChain> {
    let chain = SimulatedChain::new(SimulationSettings {
        seed: 99,
        ..SimulationSettings::default()
    });
    chain.mine(120);
    Arc::new(chain)
}

fn indexer(
    store: &Arc<Store>,
    node: Arc<dyn Node>,
    stop: &Stop,
) -> (Indexer, mpsc::UnboundedReceiver<Option<BlockId>>) {
    indexer_with(store, node, stop, None)
}

fn indexer_with(
    store: &Arc<Store>,
    node: Arc<dyn Node>,
    stop: &Stop,
    give_up_after: Option<Duration>,
) -> (Indexer, mpsc::UnboundedReceiver<Option<BlockId>>) {
    let (sender, tips) = mpsc::unbounded_channel();
    let settings = IndexSettings {
        // Several commits.
        batch_bytes: 20_000,
        give_up_after,
        ..IndexSettings::default()
    };
    let indexer = Indexer::new(
        store.clone(),
        node.clone(),
        Arc::new(LibSecp256k1),
        settings,
        stop.clone(),
        move |report| {
            let _ = sender.send(report.applied.tip);
        },
    );
    (indexer.with_node(node), tips)
}

/// Every block of the index is one of the chain.
fn assert_on_chain(store: &Store, chain: &SimulatedChain) {
    let snapshot = store.snapshot().unwrap();
    if let Some(tip) = snapshot.tip() {
        assert_eq!(chain.active_blocks()[tip.height as usize].id, tip);
    }
}

#[tokio::test(start_paused = true)]
async fn faults_that_pass_are_waited_out() {
    step_time();
    let chain = chain();
    let fresh = fresh_content(chain.clone()).await;
    for kind in Kind::ALL {
        let [block, hashes, tip] = kind.paths();
        let deep = &kind.block_path(chain.active_blocks()[70].id);
        let unavailable = || Reply::Full(503, b"Work queue depth exceeded".to_vec());
        for (part, reply, times) in [
            (block, Reply::Stall, 3),
            (deep, Reply::Stall, 3),
            (hashes, Reply::Stall, 2),
            (tip, Reply::Stall, 2),
            (block, Reply::Hangup, 20),
            (deep, Reply::Hangup, 9),
            (hashes, Reply::Hangup, 9),
            (tip, Reply::Hangup, 9),
            (block, Reply::Reset, 20),
            (tip, Reply::Reset, 9),
            (block, Reply::Truncated(100), 20),
            (deep, Reply::Truncated(0), 9),
            (hashes, Reply::Truncated(100), 9),
            (tip, Reply::Truncated(10), 9),
            (block, unavailable(), 20),
            (deep, unavailable(), 9),
            (hashes, unavailable(), 9),
            (tip, unavailable(), 9),
        ] {
            let what = format!("{kind:?} {part} {reply:?}");
            let node = FakeNode::start(chain.clone()).await;
            let log = Log::catch();
            node.on_times(part, reply.clone(), times);
            let store = memory_store();
            let (indexer, _) = indexer(&store, kind.source(&node.url()), &Stop::new());
            let synced = indexer.sync(None).await;
            assert_eq!(synced.unwrap(), Some(chain.tip_id()), "{what}");
            assert!(node.is_worn_out(), "{what}");
            assert_eq!(content(&store), fresh, "{what}");
            let warned = log.lines("WARN");
            // As many as there are blocks among the first of those asked for; none where only the one request is repeated.
            let is_overload = matches!(reply, Reply::Full(503, _));
            let least = usize::from(!is_overload);
            assert!((least..=8).contains(&warned.len()), "{what}: {warned:#?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn wrong_answers_that_pass_leave_no_trace() {
    step_time();
    let chain = chain();
    let fresh = fresh_content(chain.clone()).await;
    let blocks = chain.active_blocks();
    let (at, other) = (blocks[110].id, blocks[111].id);
    let (at, other) = (&at, &other);
    for kind in Kind::ALL {
        let [_, hashes, tip] = kind.paths();
        let mut faults = vec![
            (kind.block_path(*at), Reply::Of(kind.block_path(*other))),
            (kind.block_path(*at), Reply::Full(200, vec![0xee; 300])),
            (kind.block_path(*at), Reply::Longer(vec![b'0'])),
            (kind.block_path(*at), Reply::Announced(u64::MAX)),
            (hashes.to_owned(), Reply::Full(200, vec![0xee; 300])),
            (hashes.to_owned(), Reply::Announced(u64::MAX)),
            // A tip higher than the chain.
            (
                tip.to_owned(),
                Reply::Changed(|body| {
                    let text = String::from_utf8(body).unwrap();
                    assert!(text.contains(r#""blocks":120"#), "{text}");
                    text.replace(r#""blocks":120"#, r#""blocks":130"#)
                        .into_bytes()
                }),
            ),
        ];
        let other_faults = match kind {
            Kind::Rest => vec![
                // Two headers in each other's place.
                (
                    hashes.to_owned(),
                    Reply::Changed(|mut body| {
                        let (first, second) = body.split_at_mut(80 * 60);
                        first[..80].swap_with_slice(&mut second[..80]);
                        body
                    }),
                ),
                (
                    format!("/rest/spenttxouts/{}", at.hash),
                    Reply::Of(format!("/rest/spenttxouts/{}.bin", other.hash)),
                ),
            ],
            Kind::Rpc => vec![
                // Two hashes in each other's place: blocks that do not link.
                (
                    hashes.to_owned(),
                    Reply::Changed(|body| {
                        let mut answers: Vec<serde_json::Value> =
                            serde_json::from_slice(&body).unwrap();
                        let result = answers[50]["result"].take();
                        answers[50]["result"] = answers[60]["result"].take();
                        answers[60]["result"] = result;
                        serde_json::to_vec(&answers).unwrap()
                    }),
                ),
                (
                    kind.block_path(*at),
                    Reply::Changed(|body| {
                        let text = String::from_utf8(body).unwrap();
                        text.replacen(r#""vout":"#, r#""vout":1"#, 1).into_bytes()
                    }),
                ),
            ],
        };
        faults.extend(other_faults);
        for (part, reply) in faults {
            let what = format!("{kind:?} {part} {reply:.60?}");
            let node = FakeNode::start(chain.clone()).await;
            let log = Log::catch();
            node.on_times(&part, reply.clone(), 3);
            let store = memory_store();
            let stop = Stop::new();
            let (indexer, _) = indexer(&store, kind.source(&node.url()), &stop);
            let synced = indexer.sync(None).await;
            assert_eq!(synced.unwrap(), Some(chain.tip_id()), "{what}");
            assert!(node.is_worn_out(), "{what}");
            assert_eq!(content(&store), fresh, "{what}");
            let warned = log.lines("WARN");
            assert!(warned.len() <= 2, "{what}: {warned:#?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn wrong_answers_that_stay_end_the_sync_with_a_good_index() {
    step_time();
    let chain = chain();
    let fresh = fresh_content(chain.clone()).await;
    let blocks = chain.active_blocks();
    for kind in Kind::ALL {
        let node = FakeNode::start(chain.clone()).await;
        let other = kind.block_path(blocks[90].id);
        node.on(&kind.block_path(blocks[100].id), Reply::Of(other));
        let store = memory_store();
        let source = kind.source(&node.url());
        let limit = Some(Duration::from_secs(60));
        let (indexer, _) = indexer_with(&store, source, &Stop::new(), limit);
        let error = indexer.sync(None).await.unwrap_err();
        assert!(
            matches!(&error, IndexError::Chain(ChainError::Mismatch(text)) if text.contains("has hash")),
            "{error:?}"
        );
        assert_on_chain(&store, &chain);
        assert_eq!(store.snapshot().unwrap().tip(), Some(blocks[99].id));
        node.behave();
        assert_eq!(indexer.sync(None).await.unwrap(), Some(chain.tip_id()));
        assert_eq!(content(&store), fresh);
    }
}

/// Answers in any order are no fault.
#[tokio::test(start_paused = true)]
async fn answers_out_of_order_are_put_in_order() {
    step_time();
    let chain = chain();
    let node = FakeNode::start(chain.clone()).await;
    let log = Log::catch();
    node.on(
        "/batch",
        Reply::Changed(|body| {
            let mut answers: Vec<serde_json::Value> = serde_json::from_slice(&body).unwrap();
            answers.reverse();
            answers.rotate_left(7);
            serde_json::to_vec(&answers).unwrap()
        }),
    );
    let store = memory_store();
    let (indexer, _) = indexer(&store, Kind::Rpc.source(&node.url()), &Stop::new());
    assert_eq!(indexer.sync(None).await.unwrap(), Some(chain.tip_id()));
    assert_eq!(content(&store), fresh_content(chain).await);
    assert_eq!(log.lines("WARN"), [] as [String; 0]);
}

/// The follower over two hours: an hour of errors 500, blocks and a reorg meanwhile, and then a node that fails every
/// other request.
#[tokio::test(start_paused = true)]
async fn an_hour_of_errors_is_two_lines_of_log() {
    step_time();
    for kind in Kind::ALL {
        let chain = chain();
        let node = FakeNode::start(chain.clone()).await;
        let log = Log::catch();
        let store = memory_store();
        let stop = Stop::new();
        let (indexer, mut tips) = indexer(&store, kind.source(&node.url()), &stop);
        let following = tokio::spawn(async move { indexer.follow(None).await });
        while tips.recv().await.unwrap() != Some(chain.tip_id()) {}

        node.requests();
        node.on("/", Reply::Full(500, b"<html>\noops".to_vec()));
        chain.reorganize(5, 7, Orphaned::Resubmit).unwrap();
        tokio::time::sleep(HOUR).await;
        assert!(tips.try_recv().is_err());
        // Every 30 seconds at last.
        let asked = node.requests().len();
        assert!((120..140).contains(&asked), "{asked}");
        assert_eq!(log.lines("WARN").len(), 1, "{:#?}", log.lines("WARN"));
        assert!(log.lines("WARN")[0].contains("500"));
        assert_eq!(log.lines("again").len(), 1);

        node.behave();
        while tips.recv().await.unwrap() != Some(chain.tip_id()) {}
        // The next look finds nothing new, and says that all is well.
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(log.lines("the node answers again").len(), 1);

        for _ in 0..300 {
            node.on_times("/", Reply::Hangup, 1);
            tokio::time::sleep(Duration::from_secs(12)).await;
        }
        let lines = log.lines("");
        assert!(lines.len() < 110, "{}: {lines:#?}", lines.len());
        chain.mine(1);
        while tips.recv().await.unwrap() != Some(chain.tip_id()) {}
        stop.request();
        following.await.unwrap().unwrap();
        assert_eq!(content(&store), fresh_content(chain).await);
    }
}
