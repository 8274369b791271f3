//! What a source may do while the index follows it: go on mining while a fork is looked at, have its old blocks pruned, lose
//! its RPC, say nothing, panic.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bitcoin::Network;
use futures::future::BoxFuture;
use spindex::BlockId;
use spindex::chain::made::simulated::{Orphaned, SimulatedChain, SimulationSettings};
use spindex::chain::{BlockSource, BlockWithPrevouts, ChainError};
use spindex::curve::libsecp256k1::LibSecp256k1;
use spindex::index::{IndexError, IndexSettings, Indexer};
use spindex::runtime::Stop;
use spindex::store::Store;
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::support::fake_node::{FakeNode, Reply};
use crate::support::index::{content, fresh_content, memory_store};
use crate::support::node_source::rest;

/// A node with a simulated chain.
#[derive(Default)]
struct Node {
    chain: Option<Arc<SimulatedChain>>,
    /// Whether it finds a block whenever it is asked for its tip.
    is_mining: AtomicBool,
    /// Lowest height that it answers for.
    lowest: u32,
    /// Whether what reads its blocks has a bug.
    is_broken: AtomicBool,
    /// Whether it answers no more.
    is_silent: AtomicBool,
    /// That it did not answer.
    asked: Notify,
}

impl Node {
    fn new(blocks: u32) -> Self {
        let chain = SimulatedChain::new(SimulationSettings {
            transactions_per_block: 2,
            ..SimulationSettings::default()
        });
        chain.mine(blocks);
        Self {
            chain: Some(Arc::new(chain)),
            ..Self::default()
        }
    }

    fn chain(&self) -> &Arc<SimulatedChain> {
        self.chain.as_ref().unwrap()
    }

    async fn think(&self) {
        if self.is_silent.load(Ordering::Relaxed) {
            self.asked.notify_one();
            pending::<()>().await;
        }
    }
}

impl BlockSource for Node {
    fn describe(&self) -> String {
        "a node".into()
    }

    fn check(&self, network: Network) -> BoxFuture<'_, Result<(), ChainError>> {
        Box::pin(async move {
            self.think().await;
            self.chain().check(network).await
        })
    }

    fn tip(&self) -> BoxFuture<'_, Result<BlockId, ChainError>> {
        Box::pin(async {
            self.think().await;
            if self.is_mining.load(Ordering::Relaxed) {
                self.chain().mine(1);
            }
            Ok(self.chain().tip_id())
        })
    }

    fn block_at(&self, height: u32) -> BoxFuture<'_, Result<Option<BlockId>, ChainError>> {
        Box::pin(async move {
            match height < self.lowest {
                true => Err(ChainError::Setup(format!("height {height} is pruned"))),
                false => self.chain().block_at(height).await,
            }
        })
    }

    fn block(&self, id: BlockId) -> BoxFuture<'_, Result<BlockWithPrevouts, ChainError>> {
        Box::pin(async move {
            assert!(!self.is_broken.load(Ordering::Relaxed), "a bug");
            self.chain().block(id).await
        })
    }
}

fn indexer(store: &Arc<Store>, node: Arc<dyn BlockSource>, stop: &Stop) -> Indexer {
    let settings = IndexSettings {
        give_up_after: Some(Duration::ZERO),
        ..IndexSettings::default()
    };
    let engine = Arc::new(LibSecp256k1);
    Indexer::new(store.clone(), node, engine, settings, stop.clone(), |_| ())
}

#[tokio::test]
async fn a_fork_is_followed_while_the_node_goes_on() {
    let node = Arc::new(Node::new(60));
    let store = memory_store();
    let indexer = indexer(&store, node.clone(), &Stop::new());
    indexer.sync(None).await.unwrap();
    node.chain().reorganize(3, 4, Orphaned::Drop).unwrap();
    node.is_mining.store(true, Ordering::Relaxed);
    // There is always another block.
    let tip = indexer.sync(Some(64)).await.unwrap();
    assert_eq!(tip, node.chain().block_at(64).await.unwrap());
    node.is_mining.store(false, Ordering::Relaxed);
    indexer.sync(None).await.unwrap();
    assert_eq!(content(&store), fresh_content(node.chain().clone()).await);
}

#[tokio::test]
async fn a_reorg_is_followed_without_what_the_node_has_pruned() {
    let mut node = Node::new(60);
    let chain = node.chain().clone();
    let store = memory_store();
    indexer(&store, Arc::new(Node::new(60)), &Stop::new())
        .sync(None)
        .await
        .unwrap();
    node.lowest = 40;
    let node = Arc::new(node);
    chain.reorganize(3, 4, Orphaned::Drop).unwrap();
    indexer(&store, node, &Stop::new())
        .sync(None)
        .await
        .unwrap();
    assert_eq!(content(&store), fresh_content(chain).await);
}

#[tokio::test]
async fn a_bug_in_a_source_is_told_and_not_tried_for_ever() {
    let node = Arc::new(Node::new(20));
    let store = memory_store();
    let indexer = indexer(&store, node.clone(), &Stop::new());
    indexer.sync(Some(10)).await.unwrap();
    node.is_broken.store(true, Ordering::Relaxed);
    let error = indexer.sync(None).await.unwrap_err();
    assert!(matches!(error, IndexError::Worker(_)), "{error:?}");
}

#[tokio::test]
async fn a_reorg_is_followed_by_rest_though_rpc_fails_meanwhile() {
    let chain = Node::new(60).chain().clone();
    let (by_rest, by_rpc) = (
        FakeNode::start(chain.clone()).await,
        FakeNode::start(chain.clone()).await,
    );
    for failing in [Reply::Full(401, Vec::new()), Reply::Hangup] {
        let store = memory_store();
        let source = rest(&by_rest.url(), Some(&by_rpc.url()));
        let indexer = indexer(&store, source, &Stop::new());
        indexer.check_source().await.unwrap();
        indexer.sync(None).await.unwrap();
        by_rpc.on("", failing.clone());
        chain.reorganize(3, 4, Orphaned::Drop).unwrap();
        indexer.sync(None).await.unwrap();
        assert_eq!(content(&store), fresh_content(chain.clone()).await);

        // At a start it has to be right.
        let source = rest(&by_rest.url(), Some(&by_rpc.url()));
        source.check(Network::Regtest).await.unwrap_err();
        by_rpc.behave();
    }
}

#[tokio::test(start_paused = true)]
async fn a_stop_is_heard_while_the_node_is_silent() {
    let node = Arc::new(Node::new(20));
    let store = memory_store();
    let stop = Stop::new();
    let indexer = Arc::new(indexer(&store, node.clone(), &stop));
    let tip = indexer.sync(None).await.unwrap();
    node.is_silent.store(true, Ordering::Relaxed);
    let waiting = indexer.clone();
    let checking = tokio::spawn(async move { waiting.check_source().await });
    node.asked.notified().await;
    let waiting = indexer.clone();
    let syncing = tokio::spawn(async move { waiting.sync(None).await });
    node.asked.notified().await;
    assert!(!checking.is_finished() && !syncing.is_finished());
    stop.request();
    let checked = timeout(Duration::from_secs(3600), checking).await;
    checked.unwrap().unwrap().unwrap();
    let synced = timeout(Duration::from_secs(3600), syncing).await;
    assert_eq!(synced.unwrap().unwrap().unwrap(), tip);
}
