//! Blocks of one index, taken over by another.

use crate::check::Finding;
use crate::runtime::Stop;
use crate::store::{BlockRecord, Store, StoreError, Update};

/// Bytes of rows that one update of the new file takes.
const BATCH_BYTES: usize = 96 << 20;

/// What was taken over.
#[derive(Debug, Clone, Copy)]
pub(super) struct Copied {
    /// Number of blocks.
    pub(super) blocks: u64,
    /// Why no more.
    pub(super) end: End,
}

/// Why no more blocks were taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// All were that were asked for.
    Complete,
    /// The next one is not the child of the new index's tip.
    Unlinked,
    /// The next one cannot be read, or does not fit; or a stop was requested.
    Broken,
}

/// Takes over the blocks from a height on, below another or all, as far as they can be read and fit.
pub(super) fn copy(
    old: &Store,
    new: &Store,
    from: u32,
    below: Option<u32>,
    stop: &Stop,
) -> Result<Copied, StoreError> {
    let old = old.snapshot()?;
    let mut batch = Batch::new(new);
    let tip = old.tip().map(|tip| tip.height);
    let heights = tip.map(|tip| from..=tip).into_iter().flatten();
    for height in heights.take_while(|height| below.is_none_or(|below| *height < below)) {
        if stop.is_requested() {
            return batch.ended(End::Broken);
        }
        let block = old.block(height);
        match block.and_then(|block| block.map(|block| block.record()).transpose()) {
            // A parent that is not the one before says nothing if the header is damaged.
            Ok(Some(record)) if record.header.block_hash() == record.id.hash => {
                batch.records.push(record);
            }
            Err(error) if Finding::of_error(&error).is_none() => return Err(error),
            Ok(_) | Err(_) => return batch.ended(End::Broken),
        }
        if let Some(end) = batch.commit_if_full()? {
            let blocks = batch.blocks;
            return Ok(Copied { blocks, end });
        }
    }
    batch.ended(End::Complete)
}

/// Records on their way into a new file.
struct Batch<'a> {
    new: &'a Store,
    records: Vec<BlockRecord>,
    bytes: usize,
    /// Blocks that were committed.
    blocks: u64,
}

impl<'a> Batch<'a> {
    fn new(new: &'a Store) -> Self {
        Self {
            new,
            records: Vec::new(),
            bytes: 0,
            blocks: 0,
        }
    }

    fn commit_if_full(&mut self) -> Result<Option<End>, StoreError> {
        self.bytes += self.records.last().map_or(0, BlockRecord::size_bytes);
        match self.bytes >= BATCH_BYTES {
            true => self.commit(),
            false => Ok(None),
        }
    }

    /// Commits what is gathered; gives why no more can follow, if some of it does not fit.
    fn commit(&mut self) -> Result<Option<End>, StoreError> {
        let mut records = std::mem::take(&mut self.records);
        self.bytes = 0;
        let mut end = None;
        loop {
            let disconnect = 0;
            let connect = &records;
            let misfit = match self.new.apply(Update {
                disconnect,
                connect,
            }) {
                Ok(_) => {
                    self.blocks += records.len() as u64;
                    return Ok(end);
                }
                Err(StoreError::NotAChild { block, .. }) => {
                    end = Some(End::Unlinked);
                    block
                }
                Err(
                    StoreError::InvalidRecord { block, .. } | StoreError::WrongStart { block, .. },
                ) => {
                    end = Some(End::Broken);
                    block
                }
                Err(error) => return Err(error),
            };
            // Those below it fit.
            let fit = records.iter().position(|record| record.id == misfit);
            records.truncate(fit.unwrap_or(0));
        }
    }

    fn ended(mut self, end: End) -> Result<Copied, StoreError> {
        let misfit = self.commit()?;
        Ok(Copied {
            blocks: self.blocks,
            end: misfit.unwrap_or(end),
        })
    }
}
