//! A node that takes a question and never answers it.

use bitcoin::BlockHash;
use futures::FutureExt;
use futures::future::{BoxFuture, join_all};
use tokio::time::Instant;

use super::spends::SpendAnswers;
use super::*;
use crate::chain::BlockWithPrevouts;

struct Hanging;

impl BlockSource for Hanging {
    fn describe(&self) -> String {
        "hanging node".into()
    }

    fn check(&self, _: Network) -> BoxFuture<'_, Result<(), ChainError>> {
        std::future::pending().boxed()
    }

    fn tip(&self) -> BoxFuture<'_, Result<BlockId, ChainError>> {
        std::future::pending().boxed()
    }

    fn block_at(&self, _: u32) -> BoxFuture<'_, Result<Option<BlockId>, ChainError>> {
        std::future::pending().boxed()
    }

    fn block(&self, _: BlockId) -> BoxFuture<'_, Result<BlockWithPrevouts, ChainError>> {
        std::future::pending().boxed()
    }
}

/// The clock is tokio's own and moves only when nothing else is to be done.
#[tokio::test(start_paused = true)]
async fn whoever_waits_for_a_node_that_hangs_waits_as_long_as_one_and_no_longer() {
    let timeout = Duration::from_secs(60);
    let (answers, node) = (SpendAnswers::new(), Hanging);
    let spend = || SpendRow {
        spender: None,
        outpoint: OutPoint::null(),
        key_prefix: [0; 8],
        created: None,
    };
    let ask = async |height: u32| {
        let block = BlockId {
            height,
            hash: BlockHash::from_byte_array([height as u8; 32]),
        };
        answers.get(&node, timeout, block, vec![spend()]).await
    };
    let start = Instant::now();
    // Many for one block, and more blocks than are fetched at a time.
    let heights = (0..20).map(|_| 1).chain(2..40);
    let results = join_all(heights.map(ask)).await;
    assert!(results.iter().all(|result| matches!(
        result,
        Err(DeskError::BlockFailed {
            source: ChainError::Unreachable(_),
            ..
        })
    )));
    assert_eq!(start.elapsed(), timeout);
    // Nobody is left in the way of those that come later.
    ask(50).await.expect_err("the node hangs");
    assert_eq!(start.elapsed(), 2 * timeout);
}
