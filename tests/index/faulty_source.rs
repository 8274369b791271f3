//! A source that goes away or lies.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bitcoin::Network;
use futures::FutureExt;
use futures::future::BoxFuture;
use spindex::BlockId;
use spindex::chain::made::simulated::{Orphaned, SimulatedChain};
use spindex::chain::{BlockSource, BlockWithPrevouts, ChainError};
use spindex::index::IndexSettings;

use super::scene::{chain, indexer, quick};
use crate::support::index::{content, fresh_content, memory_store};

/// A source that fails or lies, by request.
struct Faulty {
    chain: Arc<SimulatedChain>,
    fault: Fault,
    /// How often the fault strikes before the source is honest.
    strikes: AtomicU32,
    /// How many blocks it gives together.
    together: usize,
}

/// Blocks one by one, and in runs of which one has a fault in its middle, and one is larger than the chain.
const TOGETHER: [usize; 3] = [1, 7, 1_000];

#[derive(Clone, Copy)]
enum Fault {
    /// The node goes away at this height.
    Away(u32),
    /// At this height another branch's block comes.
    Unlinked(u32, BlockId),
}

impl Faulty {
    fn strikes(&self) -> bool {
        self.strikes
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
                left.checked_sub(1)
            })
            .is_ok()
    }
}

impl BlockSource for Faulty {
    fn describe(&self) -> String {
        "a faulty source".to_owned()
    }

    fn check(&self, network: Network) -> BoxFuture<'_, Result<(), ChainError>> {
        self.chain.check(network)
    }

    fn tip(&self) -> BoxFuture<'_, Result<BlockId, ChainError>> {
        self.chain.tip()
    }

    fn block_at(&self, height: u32) -> BoxFuture<'_, Result<Option<BlockId>, ChainError>> {
        match self.fault {
            Fault::Unlinked(at, other) if at == height && self.strikes() => {
                async move { Ok(Some(other)) }.boxed()
            }
            _ => self.chain.block_at(height),
        }
    }

    fn blocks_at(
        &self,
        heights: RangeInclusive<u32>,
    ) -> BoxFuture<'_, Result<Vec<BlockId>, ChainError>> {
        async move {
            let mut ids = Vec::new();
            for height in heights {
                ids.extend(self.block_at(height).await?);
            }
            Ok(ids)
        }
        .boxed()
    }

    fn run_length(&self, _: &[BlockId]) -> usize {
        self.together
    }

    fn block(&self, id: BlockId) -> BoxFuture<'_, Result<BlockWithPrevouts, ChainError>> {
        match self.fault {
            Fault::Away(at) if at == id.height && self.strikes() => {
                async { Err(ChainError::Unreachable("connection reset".to_owned())) }.boxed()
            }
            _ => self.chain.block(id),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_goes_away_is_waited_for() {
    let chain = chain(6, 110);
    let fresh = fresh_content(chain.clone()).await;
    for together in TOGETHER {
        let source = Arc::new(Faulty {
            chain: chain.clone(),
            fault: Fault::Away(60),
            strikes: AtomicU32::new(2),
            together,
        });
        let patient = IndexSettings {
            give_up_after: None,
            batch_bytes: 3_000,
            ..quick()
        };
        let store = memory_store();
        let tip = indexer(&store, source, patient).sync(None).await.unwrap();
        assert_eq!(tip, Some(chain.tip_id()));
        assert_eq!(content(&store), fresh, "{together}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stays_away_ends_the_sync_with_what_is_committed() {
    let chain = chain(7, 110);
    for together in TOGETHER {
        let source = Arc::new(Faulty {
            chain: chain.clone(),
            fault: Fault::Away(60),
            strikes: AtomicU32::new(u32::MAX),
            together,
        });
        let store = memory_store();
        let error = indexer(&store, source, quick())
            .sync(None)
            .await
            .unwrap_err();
        assert_eq!(error.to_string(), "connection reset");
        assert_eq!(
            store.snapshot().unwrap().tip(),
            chain.block_at(59).await.unwrap(),
            "{together}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn blocks_that_do_not_link_are_never_committed() {
    let chain = chain(8, 110);
    let orphan = chain.block_at(100).await.unwrap().unwrap();
    chain.reorganize(20, 20, Orphaned::Drop).unwrap();
    let fresh = fresh_content(chain.clone()).await;
    let cases = TOGETHER.map(|together| [(together, 1, true), (together, u32::MAX, false)]);
    for (together, strikes, recovers) in cases.into_iter().flatten() {
        let source = Arc::new(Faulty {
            chain: chain.clone(),
            fault: Fault::Unlinked(100, orphan),
            strikes: AtomicU32::new(strikes),
            together,
        });
        let patient = IndexSettings {
            give_up_after: Some(Duration::from_secs(60)),
            ..quick()
        };
        let store = memory_store();
        let result = indexer(&store, source, patient).sync(None).await;
        let snapshot = store.snapshot().unwrap();
        if recovers {
            assert_eq!(result.unwrap(), Some(chain.tip_id()));
            assert_eq!(content(&store), fresh, "{together}");
        } else {
            let error = result.unwrap_err().to_string();
            assert!(error.contains(&orphan.to_string()), "{error}");
            let last = chain.block_at(99).await.unwrap();
            assert_eq!(snapshot.tip(), last, "{together}");
        }
    }
}
