//! Sections of single blocks, taken from the whole chunk that holds them: which of its blocks is meant, the server does not
//! learn.

use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};

use futures::future::{BoxFuture, FutureExt};

use super::super::{HttpOracle, OracleError, off_worker};
use super::group::{Group, Raw, hash_of, read_group, untrue};
use super::{Kind, NativeBlock, NativeOracle, Next, Parts, names, route};
use crate::wire::native::Code;
use crate::wire::native::column::{CHUNK_BLOCKS, Column};

/// Chunks that are kept for further matches in them, at most, and their bytes.
const KEPT: usize = 16;
const KEPT_BYTES: usize = 64 << 20;

/// Columns of chunks, the one that was used last in front.
#[derive(Default)]
pub(super) struct Cache(Mutex<VecDeque<(Column, Arc<Vec<Raw>>)>>);

impl Cache {
    fn get(&self, column: Column, height: u32) -> Option<Arc<Vec<Raw>>> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let holds = |blocks: &[Raw]| blocks.iter().any(|block| block.height == height);
        let at = kept
            .iter()
            .position(|(of, blocks)| *of == column && holds(blocks))?;
        let entry = kept.remove(at)?;
        let blocks = entry.1.clone();
        kept.push_front(entry);
        Some(blocks)
    }

    fn put(&self, column: Column, blocks: Arc<Vec<Raw>>) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let first = |blocks: &[Raw]| blocks.first().map(|block| block.height);
        kept.retain(|(of, other)| *of != column || first(other) != first(&blocks));
        kept.push_front((column, blocks));
        let size = |blocks: &[Raw]| -> usize {
            let sections = blocks.iter().flat_map(|block| &block.sections);
            sections.map(Vec::len).sum()
        };
        let mut bytes = 0;
        kept.retain(|(_, blocks)| {
            bytes += size(blocks);
            bytes <= KEPT_BYTES
        });
        kept.truncate(KEPT);
    }
}

/// A section, and who gave it.
pub(crate) struct Section {
    pub(crate) url: String,
    /// State ids that the header counts beside it.
    pub(crate) states: u32,
    pub(crate) bytes: Vec<u8>,
}

impl NativeOracle {
    /// A column of the chunk that holds a block that was scanned, perhaps of another server, whose last block was at
    /// `tip`, and whose first one at `first`. `None` where the chain has another block there by now.
    ///
    /// # Errors
    /// As all of [`Oracle`](super::super::Oracle); a section that is not the one that the block's header has the hash of.
    pub(crate) fn section<'a>(
        &'a self,
        block: &'a NativeBlock,
        column: Column,
        first: u32,
        tip: u32,
    ) -> BoxFuture<'a, Result<Option<Section>, OracleError>> {
        async move {
            let url = format!("{} ({column})", self.describe());
            if let Some(blocks) = self.chunks.get(column, block.height)
                && let Ok(Some(section)) = section_of(&url, &blocks, block, column)
            {
                return Ok(Some(section));
            }
            match self.kind().await? {
                Kind::Server(http) => {
                    let columns = [Column::Headers, column];
                    let chunk = Chunk::around(block.height, first, tip);
                    let chunk = self.ask(http, &columns, chunk).await?;
                    self.keep(block, column, chunk)
                }
                Kind::Files(files) => {
                    let own = match files.chunk_around(block.height, column).await {
                        Ok(chunk) => self.keep(block, column, chunk),
                        Err(error) => Err(error),
                    };
                    let Some(behind) = files.behind() else {
                        return match own {
                            Ok(None) => files.has(block.height).await.map(|()| None),
                            own => own,
                        };
                    };
                    match own {
                        Ok(Some(section)) => return Ok(Some(section)),
                        Ok(None) => {}
                        Err(error) => files.tell(&error, behind),
                    }
                    behind.section(block, column, first, tip).await
                }
            }
        }
        .boxed()
    }

    /// Keeps a chunk that has come, and takes the section of a block from it.
    fn keep(
        &self,
        block: &NativeBlock,
        column: Column,
        chunk: Option<Came>,
    ) -> Result<Option<Section>, OracleError> {
        let Some(Came { url, blocks }) = chunk else {
            return Ok(None);
        };
        let blocks = Arc::new(blocks);
        self.chunks.put(column, blocks.clone());
        section_of(&url, &blocks, block, column)
    }

    /// Columns of blocks of one chunk that a server is asked for; `None` where its chain ends below them.
    pub(super) async fn ask(
        &self,
        http: &HttpOracle,
        columns: &[Column],
        chunk: Chunk,
    ) -> Result<Option<Came>, OracleError> {
        let Chunk {
            first,
            last,
            is_whole,
        } = chunk;
        let mut failed = 0;
        loop {
            let names = names(columns);
            let route = match is_whole {
                true => route(&format!("chunk/{}/{names}", first / CHUNK_BLOCKS)),
                // A chunk that is not whole is no resource of its own.
                false => route(&format!("range/{names}?from={first}&to={last}")),
            };
            let mut parts = match http.open(&route).await.map(Parts::new) {
                Ok(parts) => parts,
                Err(OracleError::Declined {
                    code: Code::NotYetIndexed,
                    ..
                }) => return Ok(None),
                Err(error) => return Err(error),
            };
            let came = |parts: &Parts, blocks| {
                let url = parts.url();
                Ok(Some(Came { url, blocks }))
            };
            let reason = match is_whole {
                true => match parts.next(columns).await? {
                    Next::Group(group) => {
                        let blocks = self.read(&parts, columns, group, first).await?;
                        // The route for whole chunks has no mark: their end is known.
                        match parts.finish(columns, None).await? {
                            None => return came(&parts, blocks),
                            Some(reason) => reason,
                        }
                    }
                    Next::End(_) => return Err(parts.malformed("an answer without blocks")),
                    Next::Cut(reason) => reason,
                },
                false => match self.groups(&mut parts, columns, first..=last).await? {
                    Ok(blocks) => return came(&parts, blocks),
                    Err(reason) => reason,
                },
            };
            failed += 1;
            match self.wait(failed) {
                Some(wait) => tokio::time::sleep(wait).await,
                None => return Err(parts.cut(failed, reason)),
            }
        }
    }
}

impl NativeOracle {
    async fn read(
        &self,
        parts: &Parts,
        columns: &[Column],
        group: Group,
        first: u32,
    ) -> Result<Vec<Raw>, OracleError> {
        let (url, network, columns) = (parts.url(), self.network, columns.to_vec());
        off_worker(move || read_group(&url, network, &columns, group, first)).await
    }

    /// All groups of an answer for these heights, up to its mark; or why it broke off.
    async fn groups(
        &self,
        parts: &mut Parts,
        columns: &[Column],
        heights: RangeInclusive<u32>,
    ) -> Result<Result<Vec<Raw>, String>, OracleError> {
        let (mut next, last) = heights.into_inner();
        let mut blocks: Vec<Raw> = Vec::new();
        loop {
            let group = match parts.next(columns).await? {
                Next::Group(group) => group,
                Next::End(mark) if blocks.last().map(Raw::id) == Some(mark) => {
                    return Ok(Ok(blocks));
                }
                Next::End(_) => {
                    return Err(parts.malformed("an end mark of another block than its last"));
                }
                Next::Cut(reason) => return Ok(Err(reason)),
            };
            let more = self.read(parts, columns, group, next).await?;
            for block in more {
                let before = blocks.last().map(|block| block.hash);
                if before.is_some_and(|before| before != block.header.header.prev_blockhash) {
                    let what = "a header that is not on top of the one before it";
                    return Err(untrue(&parts.url(), block.height, Column::Headers, what));
                }
                if block.height > last {
                    return Err(parts.malformed("more blocks than were asked for"));
                }
                next = block.height.saturating_add(1);
                blocks.push(block);
            }
        }
    }
}

/// Blocks of one chunk.
pub(super) struct Chunk {
    pub(super) first: u32,
    pub(super) last: u32,
    /// Whether these are all that there are, and are asked for as such.
    pub(super) is_whole: bool,
}

impl Chunk {
    /// The chunk of a height, on a server that begins at `first` and ends at `tip`.
    fn around(height: u32, first: u32, tip: u32) -> Self {
        let begin = height / CHUNK_BLOCKS * CHUNK_BLOCKS;
        let last = begin + (CHUNK_BLOCKS - 1);
        let first = begin.max(first);
        Self {
            first,
            last,
            is_whole: first.is_multiple_of(CHUNK_BLOCKS) && last <= tip,
        }
    }
}

/// Blocks that were asked for.
pub(super) struct Came {
    /// What was asked.
    pub(super) url: String,
    pub(super) blocks: Vec<Raw>,
}

/// The section of a block among those of its chunk.
fn section_of(
    url: &str,
    blocks: &[Raw],
    block: &NativeBlock,
    column: Column,
) -> Result<Option<Section>, OracleError> {
    let Some(raw) = blocks.iter().find(|raw| raw.height == block.height) else {
        return Ok(None);
    };
    if raw.hash != block.hash {
        return Ok(None);
    }
    // Who spent what an index may learn later, and this hash stands outside the head.
    if column != Column::Spends
        && hash_of(&raw.header.hashes, column) != hash_of(&block.header.hashes, column)
    {
        let what = "another hash of it than the headers column had when the block was scanned";
        return Err(untrue(url, block.height, column, what));
    }
    let bytes = raw.sections.first().cloned().unwrap_or_default();
    Ok(Some(Section {
        url: url.to_owned(),
        states: raw.header.states,
        bytes,
    }))
}
