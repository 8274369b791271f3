//! The index follows a chain while the node restarts, changes its mind, and falls behind.

use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bitcoin::Network;
use futures::FutureExt;
use futures::future::BoxFuture;
use spindex::BlockId;
use spindex::chain::made::simulated::{Orphaned, SimulatedChain};
use spindex::chain::{BlockSource, BlockWithPrevouts, ChainError};
use spindex::curve::libsecp256k1::LibSecp256k1;
use spindex::index::{BatchReport, IndexSettings, Indexer};
use spindex::runtime::Stop;
use spindex::store::{Store, StoreOptions};

use super::scene::{chain, indexer, quick};
use crate::support::index::{content, fresh_content, memory_store, options};
use crate::support::log::Log;

/// A source that may be away, and gives the blocks of many heights at once.
struct Follow {
    chain: Arc<SimulatedChain>,
    is_away: AtomicBool,
    /// Once, when the block at this height is asked for, the chain is reorganised this deep.
    reorg: Mutex<Option<(u32, u32)>>,
}

impl Follow {
    fn new(chain: &Arc<SimulatedChain>) -> Arc<Self> {
        Arc::new(Self {
            chain: chain.clone(),
            is_away: AtomicBool::new(false),
            reorg: Mutex::new(None),
        })
    }

    fn answers(&self) -> Result<(), ChainError> {
        match self.is_away.load(Ordering::SeqCst) {
            true => Err(ChainError::Unreachable("nobody there".to_owned())),
            false => Ok(()),
        }
    }
}

impl BlockSource for Follow {
    fn describe(&self) -> String {
        "a source to follow".to_owned()
    }

    fn check(&self, network: Network) -> BoxFuture<'_, Result<(), ChainError>> {
        self.chain.check(network)
    }

    fn tip(&self) -> BoxFuture<'_, Result<BlockId, ChainError>> {
        async {
            self.answers()?;
            self.chain.tip().await
        }
        .boxed()
    }

    fn block_at(&self, height: u32) -> BoxFuture<'_, Result<Option<BlockId>, ChainError>> {
        async move {
            self.answers()?;
            self.chain.block_at(height).await
        }
        .boxed()
    }

    fn blocks_at(
        &self,
        heights: RangeInclusive<u32>,
    ) -> BoxFuture<'_, Result<Vec<BlockId>, ChainError>> {
        async move {
            self.answers()?;
            let blocks = self.chain.active_blocks();
            let ids = blocks.iter().map(|block| block.id);
            let page = ids.filter(|id| heights.contains(&id.height)).take(50);
            Ok(page.collect())
        }
        .boxed()
    }

    fn block(&self, id: BlockId) -> BoxFuture<'_, Result<BlockWithPrevouts, ChainError>> {
        async move {
            self.answers()?;
            let due = self
                .reorg
                .lock()
                .unwrap()
                .take_if(|(at, _)| *at == id.height);
            if let Some((_, depth)) = due {
                self.chain
                    .reorganize(depth, depth + 1, Orphaned::Drop)
                    .unwrap();
            }
            self.chain.block(id).await
        }
        .boxed()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reorg_in_the_middle_of_a_sync_is_noticed() {
    // Forks before, in, and after the page of hashes in use, and at the tip.
    for (at, depth) in [(60, 90), (60, 70), (60, 40), (100, 30), (140, 2), (40, 139)] {
        let chain = chain(13, 140);
        let source = Follow::new(&chain);
        *source.reorg.lock().unwrap() = Some((at, depth));
        for batch_bytes in [3_000, 96 << 20] {
            let settings = IndexSettings {
                batch_bytes,
                give_up_after: None,
                ..quick()
            };
            let store = memory_store();
            let tip = indexer(&store, source.clone(), settings).sync(None).await;
            assert_eq!(tip.unwrap(), Some(chain.tip_id()), "{at} {depth}");
            assert_eq!(content(&store), fresh_content(chain.clone()).await);
            assert_eq!(chain.tip_id().height, 141);
        }
    }
}

/// Whatever a node does that undo rows can follow, no person is needed; nor for a node that is away, or far behind and
/// catches up.
#[tokio::test(start_paused = true)]
async fn a_node_is_followed_through_restarts_and_changes_of_mind() {
    let chain = chain(14, 140);
    let source = Follow::new(&chain);
    let log = Log::catch();
    let shallow = StoreOptions {
        undo_depth: 12,
        ..options()
    };
    let store = Arc::new(
        Store::open_with_backend(redb::backends::InMemoryBackend::new(), &shallow).unwrap(),
    );
    let stop = Stop::new();
    let (sender, mut tips) = tokio::sync::mpsc::unbounded_channel();
    let settings = IndexSettings {
        poll_interval: Duration::from_secs(2),
        ..IndexSettings::default()
    };
    let indexer = Indexer::new(
        store.clone(),
        source.clone(),
        Arc::new(LibSecp256k1),
        settings,
        stop.clone(),
        move |report: &BatchReport| {
            let _ = sender.send(report.applied.tip);
        },
    );
    let indexer = indexer.with_node(chain.clone());
    let following = tokio::spawn(async move { indexer.follow(None).await });
    let mut reached = async |what: &str| {
        let tip = Some(chain.tip_id());
        while tips.recv().await.unwrap() != tip {}
        assert_eq!(store.snapshot().unwrap().tip(), tip, "{what}");
        let fresh = fresh_content(chain.clone()).await;
        assert_eq!(content(&store), fresh, "{what}");
    };
    reached("the first sync").await;
    let first = chain.tip_id();

    for round in 0..3 {
        chain.reorganize(3, 3, Orphaned::Resubmit).unwrap();
        reached("a branch of the same height").await;
        let second = chain.tip_id();
        chain.activate(first.hash).unwrap();
        reached("back to the older branch").await;
        chain.disconnect(5, Orphaned::Drop).unwrap();
        reached("the tip moves back").await;
        chain.activate(second.hash).unwrap();
        reached("and forth, to the other branch").await;
        chain.reorganize(4, 2, Orphaned::Drop).unwrap();
        reached("a shorter branch").await;

        let warned = log.lines("WARN").len();
        source.is_away.store(true, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_secs(600)).await;
        chain.activate(first.hash).unwrap();
        source.is_away.store(false, Ordering::SeqCst);
        reached("a restart, and a reorg meanwhile").await;
        // Until the next look.
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(log.lines("WARN").len(), warned + 1);
        assert_eq!(log.lines("answers again").len(), 2 * round + 1);

        // Far below what can be undone, without a block that contradicts the index.
        let warned = log.lines("WARN").len();
        chain.disconnect(40, Orphaned::Drop).unwrap();
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert_eq!(store.snapshot().unwrap().tip(), Some(first));
        assert_eq!(log.lines("WARN").len(), warned + 1);
        chain.activate(first.hash).unwrap();
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(log.lines("answers again").len(), 2 * round + 2);
        assert_eq!(store.snapshot().unwrap().tip(), Some(first));
    }
    chain.mine(1);
    reached("a new block").await;
    stop.request();
    following.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_sync_waits_for_a_node_that_is_far_behind_only_as_long_as_it_may() {
    let chain = chain(15, 120);
    let shallow = StoreOptions {
        undo_depth: 5,
        ..options()
    };
    let store = Arc::new(
        Store::open_with_backend(redb::backends::InMemoryBackend::new(), &shallow).unwrap(),
    );
    let settings = IndexSettings {
        give_up_after: Some(Duration::from_secs(60)),
        ..quick()
    };
    let indexer = indexer(&store, chain.clone(), settings).with_node(chain.clone());
    indexer.sync(None).await.unwrap();
    let before = content(&store);
    chain.disconnect(30, Orphaned::Drop).unwrap();
    let started = tokio::time::Instant::now();
    let error = indexer.sync(None).await.unwrap_err();
    assert!(error.to_string().contains("ends below"), "{error}");
    assert!(started.elapsed() >= Duration::from_secs(60));
    assert_eq!(content(&store), before);
}
