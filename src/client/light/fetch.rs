//! Blocks ahead of need, in order, with bounded concurrency.

use std::sync::Arc;
use std::time::Duration;

use bitcoin::BlockHash;
use futures::StreamExt;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::super::native::NativeBlock;
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
    pub(super) hash: BlockHash,
    pub(super) content: Content,
}

/// By what outputs and spends are found in it.
#[derive(Debug)]
pub(super) enum Content {
    /// Of version 1: both filters and, if they are asked for, the tweaks.
    V1 {
        filters: BlockFilters,
        tweaks: Vec<TweakPoint>,
    },
    /// Columns.
    Native(Box<NativeBlock>),
}

impl FetchedBlock {
    /// Its spent filter.
    pub(super) fn spent(&self) -> &[u8] {
        match &self.content {
            Content::V1 { filters, .. } => &filters.spent,
            Content::Native(block) => &block.spent,
        }
    }

    /// The columns of a native block.
    pub(super) fn native(&self) -> Option<&NativeBlock> {
        match &self.content {
            Content::V1 { .. } => None,
            Content::Native(block) => Some(block),
        }
    }

    /// What it counts for in the size of a window, if a tweak weighs so much.
    fn weight(&self, tweak_weight: usize) -> usize {
        match &self.content {
            Content::V1 { filters, tweaks } => {
                filters.new_utxos.len() + filters.spent.len() + tweaks.len() * tweak_weight
            }
            Content::Native(block) => block.bytes() + block.tweaks.len() * tweak_weight,
        }
    }
}

/// Fetches blocks by their heights in a task of its own; stops when dropped.
pub(super) struct Fetcher {
    blocks: mpsc::Receiver<Fetched>,
    /// Aborts the task when dropped.
    _task: JoinSet<()>,
}

/// A block, and the room that it takes until it is worked on.
pub(super) struct Roomed {
    pub(super) block: FetchedBlock,
    pub(super) _room: Option<OwnedSemaphorePermit>,
}

/// What comes of a block.
pub(super) type Fetched = Result<Roomed, Interrupted>;

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
        hash: filters.block_hash,
        content: Content::V1 { filters, tweaks },
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
        let heights = heights.into_iter();
        Self::run(concurrency, async move |sender| {
            let mut fetched = futures::stream::iter(heights)
                .map(|height| fetch(oracle.clone(), height, query))
                .buffered(concurrency);
            while let Some(block) = fetched.next().await {
                let failed = block.is_err();
                let block = block.map(|block| Roomed { block, _room: None });
                if sender.send(block).await.is_err() || failed {
                    break;
                }
            }
        })
    }

    /// Has `fetch` send blocks in order, of which so many may wait to be taken.
    pub(super) fn run<F>(waiting: usize, fetch: impl FnOnce(mpsc::Sender<Fetched>) -> F) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (sender, blocks) = mpsc::channel(waiting);
        let mut task = JoinSet::new();
        task.spawn(fetch(sender));
        Self {
            blocks,
            _task: task,
        }
    }

    /// The next blocks in order: at most `max_blocks`, none above the height `last`, and none more once they weigh
    /// `max_bytes`, by their bytes and for each tweak `tweak_weight`. None at the end. `fetched` is told each height.
    ///
    /// # Errors
    /// The first block that could not be fetched; blocks of the same window before it are lost.
    pub(super) async fn window(
        &mut self,
        max_blocks: usize,
        max_bytes: usize,
        tweak_weight: usize,
        last: u32,
        fetched: &mut (dyn FnMut(u32) + Send),
    ) -> Result<Vec<FetchedBlock>, Interrupted> {
        let mut window = Vec::new();
        let mut bytes = 0;
        let mut deadline = Instant::now() + WINDOW_PATIENCE;
        while window.len() < max_blocks && bytes < max_bytes {
            let block = match timeout_at(deadline, self.blocks.recv()).await {
                Ok(Some(fetched)) => fetched?.block,
                Ok(None) => break,
                Err(_) if window.is_empty() => {
                    deadline = Instant::now() + WINDOW_PATIENCE;
                    continue;
                }
                Err(_) => break,
            };
            fetched(block.height);
            bytes += block.weight(tweak_weight);
            let is_last = block.height >= last;
            window.push(block);
            if is_last {
                break;
            }
        }
        Ok(window)
    }
}
