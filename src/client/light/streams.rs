//! Columns ahead of need: ranges of some thousand blocks, several under way, checked as they come, in order of height.

use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use super::super::native::{
    Broken, HeaderChain, NativeBlock, NativeOracle, Next, Reached, read_blocks,
};
use super::super::{OracleError, off_worker};
use super::fetch::{Content, Fetched, FetchedBlock, Fetcher, Roomed};
use super::reorg::changed;
use super::{Interrupted, Member, WalletsClient};
use crate::wire::native::column::Column;

/// Blocks of a range, which ends at a multiple of this: one request for all of a month.
const RANGE_BLOCKS: u32 = 4096;

/// Ranges under way at the same time.
const RANGES: usize = 2;

/// Blocks that may wait to be taken, beside what their bytes allow.
const WAITING: usize = 2048;

/// What is fetched.
pub(super) struct Wanted {
    pub(super) heights: RangeInclusive<u32>,
    /// Blocks below this are fetched, checked and dropped.
    pub(super) from: u32,
    pub(super) columns: Vec<Column>,
    /// What is known of the chain below.
    pub(super) chain: HeaderChain,
    /// Bytes of blocks that wait, about.
    pub(super) room: usize,
}

impl Fetcher {
    /// Begins to fetch columns.
    pub(super) fn stream(server: Arc<NativeOracle>, wanted: Wanted) -> Self {
        Self::run(WAITING, move |sender| forward(server, wanted, sender))
    }
}

/// Sends the blocks of all ranges, in order, each on top of the one before it.
async fn forward(server: Arc<NativeOracle>, wanted: Wanted, sender: mpsc::Sender<Fetched>) {
    let Wanted {
        heights,
        from,
        columns,
        mut chain,
        room,
    } = wanted;
    let (mut next, last) = heights.into_inner();
    let columns: Arc<[Column]> = columns.into();
    let mut begin = Some(next);
    let mut open: VecDeque<mpsc::Receiver<Fetched>> = VecDeque::new();
    let mut tasks = JoinSet::new();
    loop {
        while let Some(first) = begin.filter(|first| *first <= last && open.len() < RANGES) {
            let end = last.min(first | (RANGE_BLOCKS - 1));
            begin = end.checked_add(1);
            let (blocks, receiver) = mpsc::channel(WAITING);
            open.push_back(receiver);
            let range = Range {
                server: server.clone(),
                columns: columns.clone(),
                room: Arc::new(Semaphore::new(kib(room / RANGES))),
                most: kib(room / RANGES) as u32,
            };
            tasks.spawn(range.fetch(first, end, blocks));
        }
        let Some(range) = open.front_mut() else {
            return;
        };
        let fetched = match range.recv().await {
            Some(fetched) => fetched,
            None => {
                open.pop_front();
                if open.is_empty() && begin.is_none_or(|begin| begin > last) && next <= last {
                    let _ = sender
                        .send(Err(changed(next, "a block that did not come")))
                        .await;
                    return;
                }
                continue;
            }
        };
        let fetched = fetched.and_then(|roomed| {
            take(&server, &mut chain, next, &roomed.block)?;
            Ok(roomed)
        });
        let failed = fetched.is_err();
        let is_wanted = next >= from;
        next = next.saturating_add(1);
        if failed || is_wanted {
            let is_taken = sender.send(fetched).await.is_ok();
            if failed || !is_taken {
                return;
            }
        }
    }
}

/// Whether a block is the next one of the chain.
fn take(
    server: &NativeOracle,
    chain: &mut HeaderChain,
    next: u32,
    block: &FetchedBlock,
) -> Result<(), Interrupted> {
    let Some(native) = block.native().filter(|block| block.height == next) else {
        return Err(changed(next, "a block that did not come"));
    };
    match chain.take(next, &native.header.header) {
        Ok(()) => Ok(()),
        Err(Broken::Link) => Err(changed(
            next,
            "a block that is not on top of the one before",
        )),
        Err(Broken::Rule(what)) => Err(OracleError::Untrue {
            url: server.describe(),
            height: next,
            column: Column::Headers,
            what,
        }
        .into()),
    }
}

/// Whole KiB, one at least.
fn kib(bytes: usize) -> usize {
    (bytes >> 10).clamp(1, (u32::MAX >> 4) as usize)
}

/// Blocks that are asked for with one request, or more if it breaks off.
struct Range {
    server: Arc<NativeOracle>,
    columns: Arc<[Column]>,
    /// In KiB.
    room: Arc<Semaphore>,
    most: u32,
}

impl Range {
    async fn fetch(self, first: u32, last: u32, sender: mpsc::Sender<Fetched>) {
        if let Err(interrupted) = self.try_fetch(first, last, &sender).await {
            let _ = sender.send(Err(interrupted)).await;
        }
    }

    async fn try_fetch(
        &self,
        first: u32,
        last: u32,
        sender: &mpsc::Sender<Fetched>,
    ) -> Result<(), Interrupted> {
        let (mut next, mut failed) = (first, 0);
        while next <= last {
            let mut parts = self.server.range(&self.columns, next, last).await?;
            let mut reached = Reached::default();
            loop {
                let group = match parts.next(&self.columns).await? {
                    Next::Group(group) => group,
                    Next::End(mark) => {
                        reached.end(&parts, mark)?;
                        // Below `last` if the chain was shortened meanwhile: asked again, the server says so.
                        break;
                    }
                    Next::Cut(reason) => {
                        failed += 1;
                        let Some(wait) = self.server.wait(failed) else {
                            return Err(parts.cut(failed, reason).into());
                        };
                        tracing::debug!(url = %parts.url(), "{reason}; going on at {next}");
                        tokio::time::sleep(wait).await;
                        break;
                    }
                };
                let (url, network) = (parts.url(), self.server.network());
                let columns = self.columns.clone();
                let blocks =
                    off_worker(move || read_blocks(&url, network, &columns, group, next)).await?;
                for block in blocks {
                    reached.take(&parts, &block, last)?;
                    failed = 0;
                    next = block.height.saturating_add(1);
                    self.send(block, sender).await;
                }
            }
        }
        Ok(())
    }

    /// Sends a block once there is room for it. That nobody takes it any more ends the task with its owner.
    async fn send(&self, block: NativeBlock, sender: &mpsc::Sender<Fetched>) {
        let room = (kib(block.bytes()) as u32).min(self.most);
        let room = self.room.clone().acquire_many_owned(room).await.ok();
        let block = FetchedBlock {
            height: block.height,
            hash: block.hash,
            content: Content::Native(Box::new(block)),
        };
        let _ = sender.send(Ok(Roomed { block, _room: room })).await;
    }
}

impl WalletsClient {
    /// What is known of the chain below a height: the block there that a state has, if the server has it too.
    pub(super) async fn chain_below(
        &self,
        server: &NativeOracle,
        height: u32,
    ) -> Result<HeaderChain, Interrupted> {
        let mut chain = HeaderChain::new(self.settings.network);
        let stored = |member: &Member| member.stored_below(height);
        let Some((below, hash)) = self.members.iter().find_map(stored) else {
            return Ok(chain);
        };
        match server.header(below).await? {
            Some(block) if block.hash == hash => {
                // Nothing is before it that it could contradict.
                let _ = chain.take(below, &block.header.header);
                Ok(chain)
            }
            _ => Err(changed(below, "block hash and stored block hash")),
        }
    }
}
