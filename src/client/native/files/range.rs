//! Consecutive blocks of files: some chunks under way, bounded in bytes, given out in order; and behind their end whatever
//! somebody else has.

use std::collections::VecDeque;
use std::sync::Arc;

use futures::future::{BoxFuture, FutureExt};
use tokio::task::JoinHandle;

use super::super::super::OracleError;
use super::super::chunk::Came;
use super::super::group::{Group, Raw};
use super::super::parts::{Next, Parts};
use super::Exported;
use crate::BlockId;
use crate::wire::native::column::{CHUNK_BLOCKS, Column};

/// Chunks that are fetched ahead at most, and their bytes, about. One is always fetched, however long it is.
const CHUNKS_AHEAD: usize = 4;
const BYTES_AHEAD: u64 = 32 << 20;

/// A chunk on its way.
struct Fetching {
    task: JoinHandle<Result<Option<Came>, OracleError>>,
    bytes: u64,
}

impl Drop for Fetching {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Blocks between two heights.
pub(in crate::client::native) struct FileRange {
    exported: Arc<Exported>,
    columns: Arc<[Column]>,
    /// The next height to be asked for.
    next: u32,
    last: u32,
    /// The last height of the files; `None` if they have nothing.
    end: Option<u32>,
    fetching: VecDeque<Fetching>,
    /// The answer of somebody else for what lies behind the end.
    beyond: Option<Parts>,
    /// The last block that was given out.
    reached: Option<BlockId>,
    /// Where the last parts were taken from.
    url: String,
}

impl FileRange {
    /// Blocks from a height on. What lies behind the end of the files has been asked for where it begins there.
    pub(super) fn new(
        exported: Arc<Exported>,
        columns: &[Column],
        from: u32,
        to: u32,
        end: Option<u32>,
        beyond: Option<Parts>,
    ) -> Self {
        let url = exported.describe();
        Self {
            exported,
            columns: columns.into(),
            next: from,
            last: to,
            end,
            fetching: VecDeque::new(),
            beyond,
            reached: None,
            url,
        }
    }

    /// What comes next, and where it was taken from.
    pub(in crate::client::native) fn next(
        &mut self,
    ) -> BoxFuture<'_, Result<(String, Next), OracleError>> {
        async move {
            self.fetch_ahead().await;
            if let Some(mut fetching) = self.fetching.pop_front() {
                let came = match (&mut fetching.task).await {
                    Ok(came) => came?,
                    Err(error) => match error.try_into_panic() {
                        Ok(panic) => std::panic::resume_unwind(panic),
                        // The runtime is shutting down, and this task with it.
                        Err(_) => futures::future::pending().await,
                    },
                };
                // The files have become fewer, and nobody else has these.
                let Some(Came { url, blocks }) = came else {
                    return Ok((self.url.clone(), self.over()));
                };
                self.reached = blocks.last().map(Raw::id);
                self.url.clone_from(&url);
                return Ok((url, Next::Group(Group::Checked(blocks))));
            }
            if self.next > self.last {
                return Ok((self.url.clone(), self.over()));
            }
            if self.beyond.is_none() {
                let (next, last) = (self.next, self.last);
                self.beyond = self.exported.beyond(&self.columns, next, last).await?;
            }
            match &mut self.beyond {
                Some(parts) => {
                    let next = parts.next(&self.columns).await?;
                    Ok((parts.url(), next))
                }
                None => Ok((self.url.clone(), self.over())),
            }
        }
        .boxed()
    }

    /// The end, as an answer of a server has one.
    fn over(&self) -> Next {
        match self.reached {
            Some(reached) => Next::End(reached),
            None => Next::Cut("there are no files of these blocks any more".to_owned()),
        }
    }

    /// Begins to fetch chunks, as long as there is room for them.
    async fn fetch_ahead(&mut self) {
        let Some(last) = self.end.map(|end| end.min(self.last)) else {
            return;
        };
        while self.next <= last && self.fetching.len() < CHUNKS_AHEAD {
            let (first, chunk) = (self.next, self.next / CHUNK_BLOCKS);
            let end = last.min(chunk * CHUNK_BLOCKS + (CHUNK_BLOCKS - 1));
            let bytes = self.exported.bytes_of(chunk, &self.columns).await;
            let ahead: u64 = self.fetching.iter().map(|fetching| fetching.bytes).sum();
            if !self.fetching.is_empty() && ahead + bytes > BYTES_AHEAD {
                return;
            }
            let (exported, columns) = (self.exported.clone(), self.columns.clone());
            let task = tokio::spawn(async move { exported.blocks(&columns, first, end).await });
            self.fetching.push_back(Fetching { task, bytes });
            self.next = end + 1;
        }
    }
}
