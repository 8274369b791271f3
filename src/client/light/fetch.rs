//! Blocks ahead of need, in order, with bounded concurrency.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::super::{BlockFilters, Oracle, TweakQuery};
use super::Interrupted;
use super::reorg::changed;
use crate::curve::TweakPoint;
use crate::filter;

/// A window that has not filled up after this long is worked on as it is, so that progress is stored on slow links.
const WINDOW_PATIENCE: Duration = Duration::from_secs(20);

/// What is fetched of every block.
#[derive(Debug)]
pub(super) struct FetchedBlock {
    pub(super) height: u32,
    pub(super) filters: BlockFilters,
    /// Empty if no tweaks are asked for.
    pub(super) tweaks: Vec<TweakPoint>,
}

/// Fetches blocks by their heights in a task of its own; stops when dropped.
pub(super) struct Fetcher {
    blocks: mpsc::Receiver<Result<FetchedBlock, Interrupted>>,
    /// Aborts the task when dropped.
    _task: JoinSet<()>,
}

/// The filters first: whatever is fetched after them can be checked against the block they name. The tweaks name none,
/// but each is of a transaction with a taproot output, and every such output is in the filter.
async fn fetch(
    oracle: Arc<dyn Oracle>,
    height: u32,
    query: Option<TweakQuery>,
) -> Result<FetchedBlock, Interrupted> {
    let filters = oracle.filters(height).await?;
    let tweaks = match query {
        Some(query) => oracle.tweaks(height, query).await?,
        None => Vec::new(),
    };
    // An unreadable count is an error of its own, where the filter is matched.
    let elements = filter::element_count(&filters.new_utxos);
    if let Ok(elements) = elements
        && elements < tweaks.len() as u64
    {
        let tweaks = tweaks.len();
        let what = format!("{tweaks} tweaks, but {elements} outputs in the new-utxos filter");
        return Err(changed(height, &what));
    }
    Ok(FetchedBlock {
        height,
        filters,
        tweaks,
    })
}

impl Fetcher {
    /// Begins to fetch, with tweaks if there is a query for them. Up to `concurrency` blocks are in flight, and as
    /// many more wait to be taken.
    pub(super) fn start(
        oracle: Arc<dyn Oracle>,
        heights: impl IntoIterator<Item = u32, IntoIter: Send + 'static>,
        query: Option<TweakQuery>,
        concurrency: usize,
    ) -> Self {
        let (sender, blocks) = mpsc::channel(concurrency);
        let heights = heights.into_iter();
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut fetched = futures::stream::iter(heights)
                .map(|height| fetch(oracle.clone(), height, query))
                .buffered(concurrency);
            while let Some(block) = fetched.next().await {
                let failed = block.is_err();
                if sender.send(block).await.is_err() || failed {
                    break;
                }
            }
        });
        Self {
            blocks,
            _task: task,
        }
    }

    /// The next blocks in order: at most `max_blocks`, and none more once they weigh `max_bytes`, filters by their bytes
    /// and each tweak by `tweak_weight`. None at the end. `fetched` is told each height.
    ///
    /// # Errors
    /// The first block that could not be fetched; blocks of the same window before it are lost.
    pub(super) async fn window(
        &mut self,
        max_blocks: usize,
        max_bytes: usize,
        tweak_weight: usize,
        fetched: &mut (dyn FnMut(u32) + Send),
    ) -> Result<Vec<FetchedBlock>, Interrupted> {
        let mut window = Vec::new();
        let mut bytes = 0;
        let mut deadline = Instant::now() + WINDOW_PATIENCE;
        while window.len() < max_blocks && bytes < max_bytes {
            let block = match timeout_at(deadline, self.blocks.recv()).await {
                Ok(Some(block)) => block?,
                Ok(None) => break,
                Err(_) if window.is_empty() => {
                    deadline = Instant::now() + WINDOW_PATIENCE;
                    continue;
                }
                Err(_) => break,
            };
            fetched(block.height);
            bytes += block.filters.new_utxos.len()
                + block.filters.spent.len()
                + block.tweaks.len() * tweak_weight;
            window.push(block);
        }
        Ok(window)
    }
}
