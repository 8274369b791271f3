//! Writing: what is missing or has changed, in order, a list and a manifest after each [`LIST_CHUNKS`] chunks.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use bitcoin::Network;
use futures::{StreamExt, TryStreamExt, stream};

use super::error::ExportError;
use crate::BlockId;
use crate::exported::Place;
use crate::store::{Keep, Snapshot};
use crate::wire::native::column::{CHUNK_BLOCKS, Column, chunk_heights};
use crate::wire::native::manifest::{
    FileSum, LIST_CHUNKS, LISTS, List, ListName, ListedChunk, MANIFEST, Manifest, chunk_file,
};

/// How to export.
#[derive(Debug, Clone, Copy)]
pub struct ExportSettings {
    /// How many of the last blocks a reorganisation may reach at most: chunks with these are left for later.
    pub horizon: u32,
    /// Read what is there too, and write anew what is not as it was written.
    pub verify: bool,
    /// Chunks that are made and written at a time.
    pub in_flight: usize,
}

/// What an export did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exported {
    /// The first and the last chunk that are there now; `None` as long as no chunk lies deep enough.
    pub chunks: Option<(u32, u32)>,
    /// The last block of the last chunk.
    pub last_block: Option<BlockId>,
    /// The head of the chain of section hashes there.
    pub head: Option<[u8; 32]>,
    /// Files of chunks that were written.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Files of chunks that were there already.
    pub kept: u64,
}

/// Writes what the place lacks of the chunks that no reorganisation reaches. `on_chunk` hears how many chunks are done, and of how
/// many.
///
/// # Errors
/// See [`ExportError`].
pub async fn export(
    snapshot: &Snapshot,
    place: &Place,
    settings: ExportSettings,
    on_chunk: impl Fn(u64, u64),
) -> Result<Exported, ExportError> {
    let _lock = place.lock().await?;
    let mut job = Job {
        snapshot,
        place,
        settings,
        columns: match snapshot.keep() {
            Keep::Full => Column::ALL.to_vec(),
            Keep::Tweaks => vec![Column::Headers, Column::Tweaks],
        },
        grown: 0..0,
        lengths: BTreeMap::new(),
        files: AtomicU64::new(0),
        bytes: AtomicU64::new(0),
        kept: AtomicU64::new(0),
    };
    let there = job.there().await?;
    let reach = job.reach(there.as_ref());
    let Some((first, last)) = reach else {
        return Ok(job.done(there));
    };
    let mut lists = Lists::default();
    if let Some(there) = &there {
        lists = job.lists(there).await?;
        if let Some(height) = there.spenders_from {
            let still = snapshot.spenders_from();
            job.grown = still.unwrap_or(0)..height;
        }
    }
    job.lengths = place.lengths("chunk").await?;
    let mut manifest = there;
    let mut done = 0;
    let mut from = first;
    while from <= last {
        let to = last.min(from - from % LIST_CHUNKS + (LIST_CHUNKS - 1));
        let chunks = stream::iter(from..=to);
        let chunks = chunks.map(|chunk| job.chunk(chunk, lists.chunks.get(&chunk)));
        let mut chunks = chunks.buffered(job.settings.in_flight.max(1));
        let mut listed = Vec::new();
        while let Some(chunk) = chunks.try_next().await? {
            listed.push(chunk);
            done += 1;
            on_chunk(done, u64::from(last - first) + 1);
        }
        drop(chunks);
        manifest = Some(job.put_list(manifest, &lists, listed).await?);
        from = to + 1;
    }
    // Only now all of them have what has become known.
    if let Some(manifest) = &mut manifest
        && manifest.spenders_from != snapshot.spenders_from()
    {
        manifest.spenders_from = snapshot.spenders_from();
        job.put_manifest(manifest).await?;
    }
    Ok(job.done(manifest))
}

/// The lists that are there, and are what the manifest names.
#[derive(Default)]
struct Lists {
    names: Vec<ListName>,
    chunks: BTreeMap<u32, ListedChunk>,
}

/// A file that is to be made.
struct Wanted {
    /// Which of the columns.
    index: usize,
    column: Column,
    listed: Option<FileSum>,
    /// As it is listed.
    is_there: bool,
    /// It may have to say more than it did.
    has_grown: bool,
}

struct Job<'a> {
    snapshot: &'a Snapshot,
    place: &'a Place,
    settings: ExportSettings,
    columns: Vec<Column>,
    /// Blocks that were exported when it was not known who spends what in them, as it is now.
    grown: Range<u32>,
    /// Files of chunks that are there.
    lengths: BTreeMap<String, u64>,
    files: AtomicU64,
    bytes: AtomicU64,
    kept: AtomicU64,
}

impl Job<'_> {
    fn done(self, manifest: Option<Manifest>) -> Exported {
        let manifest = manifest.as_ref();
        Exported {
            chunks: manifest.map(|manifest| (manifest.first_chunk(), manifest.last_chunk())),
            last_block: manifest.map(|manifest| manifest.last_block),
            head: manifest.and_then(|manifest| manifest.head),
            files: self.files.into_inner(),
            bytes: self.bytes.into_inner(),
            kept: self.kept.into_inner(),
        }
    }

    /// The manifest that is there, if it can be gone on from.
    async fn there(&self) -> Result<Option<Manifest>, ExportError> {
        let place = || self.place.to_string();
        let Some(bytes) = self.place.read(MANIFEST).await? else {
            return Ok(None);
        };
        let manifest = Manifest::decode(&bytes).map_err(|reason| ExportError::Manifest {
            place: place(),
            reason,
        })?;
        let of = |network: Network, first: u32, columns: usize| {
            let kept = if columns == Column::ALL.len() {
                "all columns"
            } else {
                "some columns"
            };
            format!(
                "of {} from height {first} with {kept}",
                network.to_core_arg()
            )
        };
        let snapshot = self.snapshot;
        let there = of(
            manifest.network,
            manifest.first_height,
            manifest.columns.len(),
        );
        let here = of(
            snapshot.network(),
            snapshot.first_height(),
            self.columns.len(),
        );
        if there != here || manifest.columns != self.columns {
            let (place, here) = (place(), format!("is {here}"));
            return Err(ExportError::Other { place, there, here });
        }
        let last = manifest.last_block;
        let Some(block) = snapshot.block(last.height)? else {
            return Err(ExportError::Behind {
                place: place(),
                exported: last.height,
                tip: snapshot.tip().map_or(0, |tip| tip.height),
            });
        };
        if block.id() != last {
            return Err(ExportError::Reorganized {
                place: place(),
                block: last,
                horizon: self.settings.horizon,
            });
        }
        if block.sections()?.head != manifest.head {
            return Err(ExportError::Differs {
                place: place(),
                name: "head".to_owned(),
            });
        }
        Ok(Some(manifest))
    }

    /// The chunks to be there in the end: those that lie deep enough, and those that are there.
    fn reach(&self, there: Option<&Manifest>) -> Option<(u32, u32)> {
        let first = self.snapshot.first_height() / CHUNK_BLOCKS;
        let settled = self
            .snapshot
            .tip()?
            .height
            .checked_sub(self.settings.horizon);
        let settled = settled.and_then(|height| ((height + 1) / CHUNK_BLOCKS).checked_sub(1));
        let last = settled.max(there.map(Manifest::last_chunk))?;
        Some((first, last)).filter(|(first, last)| first <= last)
    }

    /// What the lists have that the manifest names. Lists that are missing or broken have nothing: their chunks are written anew.
    /// Lists that it does not name, but the one before it may have, go.
    async fn lists(&self, manifest: &Manifest) -> Result<Lists, ExportError> {
        let mut lists = Lists::default();
        let mut unnamed = self.place.lengths(LISTS).await?;
        for name in &manifest.lists {
            let file = name.file();
            unnamed.remove(&file);
            let list = match self.place.read(&file).await? {
                Some(bytes) => List::decode(&bytes, name, self.columns.len()),
                None => Err("it is missing".to_owned()),
            };
            match list {
                Ok(list) => {
                    lists.names.push(*name);
                    let chunks = list.chunks.into_iter();
                    lists
                        .chunks
                        .extend(chunks.map(|chunk| (chunk.chunk, chunk)));
                }
                Err(reason) => {
                    tracing::warn!(
                        "{} in {} cannot be read ({reason}): chunks {} to {} are written anew",
                        file,
                        self.place,
                        name.first,
                        name.last
                    );
                }
            }
        }
        for name in unnamed.keys() {
            self.place.remove(name).await?;
        }
        Ok(lists)
    }

    /// Writes what is missing of a chunk, or has changed.
    async fn chunk(
        &self,
        chunk: u32,
        listed: Option<&ListedChunk>,
    ) -> Result<ListedChunk, ExportError> {
        let too_high = || ExportError::Internal(format!("chunk {chunk} is beyond any chain"));
        let (from, to) = chunk_heights(chunk).ok_or_else(too_high)?;
        let from = from.max(self.snapshot.first_height());
        let mut sums: Vec<Option<FileSum>> = vec![None; self.columns.len()];
        let mut wanted: Vec<Wanted> = Vec::new();
        for (index, column) in self.columns.iter().enumerate() {
            let has_grown = from < self.grown.end
                && to >= self.grown.start
                && matches!(column, Column::Headers | Column::Spends);
            let sum = listed.and_then(|listed| listed.files.get(index));
            let is_there = match sum {
                Some(sum) => self.is_there(&chunk_file(chunk, *column), sum).await?,
                None => false,
            };
            match sum.filter(|_| is_there && !has_grown) {
                Some(sum) => sums[index] = Some(*sum),
                None => wanted.push(Wanted {
                    index,
                    column: *column,
                    listed: sum.copied(),
                    is_there,
                    has_grown,
                }),
            }
        }
        if let (true, Some(listed)) = (wanted.is_empty(), listed) {
            self.kept.fetch_add(sums.len() as u64, Ordering::Relaxed);
            return Ok(listed.clone());
        }
        let columns: Vec<Column> = wanted.iter().map(|wanted| wanted.column).collect();
        let snapshot = self.snapshot.clone();
        let made = tokio::task::spawn_blocking(move || make(&snapshot, &columns, from, to)).await;
        let made = made.map_err(|error| ExportError::Internal(error.to_string()))?;
        let (parts, mut made) = made?;
        made.chunk = chunk;
        let mut files = Vec::new();
        for (wanted, bytes) in wanted.into_iter().zip(parts) {
            let (name, sum) = (chunk_file(chunk, wanted.column), FileSum::of(&bytes));
            let is_same = wanted.listed.is_none_or(|listed| listed == sum);
            if !is_same && !wanted.has_grown {
                let place = self.place.to_string();
                return Err(ExportError::Differs { place, name });
            }
            sums[wanted.index] = Some(sum);
            if !(is_same && wanted.is_there) {
                files.push((name, bytes));
            }
        }
        let kept = sums.len() - files.len();
        self.kept.fetch_add(kept as u64, Ordering::Relaxed);
        let bytes: usize = files.iter().map(|(_, bytes)| bytes.len()).sum();
        self.files.fetch_add(files.len() as u64, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        // Headers last: they have the hashes of the others.
        files.reverse();
        self.place.write(files).await?;
        made.files = sums.into_iter().flatten().collect();
        Ok(made)
    }

    /// Whether a file is there, with the length that is listed, and if wanted with the bytes.
    async fn is_there(&self, name: &str, sum: &FileSum) -> Result<bool, ExportError> {
        if self.lengths.get(name) != Some(&sum.bytes) {
            return Ok(false);
        }
        if !self.settings.verify {
            return Ok(true);
        }
        let bytes = self.place.read(name).await?;
        Ok(bytes.is_some_and(|bytes| FileSum::of(&bytes) == *sum))
    }

    /// Writes a list in the place of those of its chunks, and a manifest that names it, unless they are there.
    async fn put_list(
        &self,
        manifest: Option<Manifest>,
        there: &Lists,
        chunks: Vec<ListedChunk>,
    ) -> Result<Manifest, ExportError> {
        let empty = || ExportError::Internal("a list without chunks".to_owned());
        let (first, last) = chunks.first().zip(chunks.last()).ok_or_else(empty)?;
        let (first, last_chunk) = (first.chunk, last.chunk);
        let (_, height) = chunk_heights(last_chunk).ok_or_else(empty)?;
        let reached = Manifest {
            network: self.snapshot.network(),
            first_height: self.snapshot.first_height(),
            columns: self.columns.clone(),
            spenders_from: self.snapshot.spenders_from(),
            last_block: BlockId {
                height,
                hash: last.block_hash,
            },
            head: last.head,
            lists: Vec::new(),
        };
        let bytes = List { chunks }.encode().map_err(ExportError::Internal)?;
        let name = ListName::of(first, last_chunk, &bytes);
        let mut manifest = manifest.unwrap_or_else(|| reached.clone());
        if there.names.contains(&name) {
            return Ok(manifest);
        }
        if manifest.last_block.height < height {
            manifest.last_block = reached.last_block;
            manifest.head = reached.head;
        }
        manifest.lists.retain(|list| list.first != first);
        manifest.lists.push(name);
        manifest.lists.sort_by_key(|list| list.first);
        self.place.write(vec![(name.file(), bytes)]).await?;
        self.put_manifest(&manifest).await?;
        Ok(manifest)
    }

    async fn put_manifest(&self, manifest: &Manifest) -> Result<(), ExportError> {
        let bytes = manifest.encode().map_err(ExportError::Internal)?;
        Ok(self.place.write(vec![(MANIFEST.to_owned(), bytes)]).await?)
    }
}

/// These columns of these blocks, and what is listed of them, without number and files.
fn make(
    snapshot: &Snapshot,
    columns: &[Column],
    from: u32,
    to: u32,
) -> Result<(Vec<Vec<u8>>, ListedChunk), ExportError> {
    let missing = || ExportError::Internal(format!("block {to} is not in the index any more"));
    let mut parts = Vec::new();
    for column in columns {
        let part = snapshot.part(*column, from, to)?;
        parts.push(part.ok_or_else(missing)?.bytes);
    }
    let block = snapshot.block(to)?.ok_or_else(missing)?;
    let listed = ListedChunk {
        chunk: 0,
        block_hash: block.id().hash,
        head: block.sections()?.head,
        files: Vec::new(),
    };
    Ok((parts, listed))
}
