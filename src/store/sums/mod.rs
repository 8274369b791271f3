//! The file as the engine sees it, with a sum for every page.
//!
//! The engine checks its own checksums only when it repairs a file. [`Summed`] lies between it and the file: what is
//! written is summed, what is read is summed again and compared. So no row, no inner page of a tree and no page that was
//! written elsewhere reaches anybody in another state than it was written in, and looking for a row that is not there
//! is as safe as reading one that is.
//!
//! A page that differs is *refused*. While the engine writes, that is an error of the disk, after which it touches the
//! file no more. While it only reads, it gets a page instead that leads nowhere: whoever needs the page gets an error,
//! everybody else goes on. An index that has refused a page takes no more updates, since the engine keeps that page.
//!
//! [`docs/schema.md`](super::schema) has the layout.

mod head;
mod table;

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::ops::Bound;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use redb::backends::FileBackend;
use redb::{BackendError, StorageBackend};

use head::{ENGINE_BYTES, Heads};
pub(super) use head::{ENGINE_MAGIC, HEAD_BYTES, has_engine, is_head};
use table::SumTable;

/// Bytes of a page of the engine: what one sum covers.
pub(super) const PAGE_BYTES: usize = 4096;
const PAGE: u64 = PAGE_BYTES as u64;
/// Copies of the head, a page each, at the start of the file.
const HEAD_PAGES: u64 = 2;
/// Pages whose sums fill a page.
const GROUP_PAGES: u64 = 1024;

/// What is wrong with the file below the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unsound {
    /// A page is not what was written to it.
    #[error("page {0} is not what was written to it, its sum differs")]
    Page(u64),
    /// Neither copy of the head can be read.
    #[error("both copies of its head are damaged")]
    Head,
}

impl From<Unsound> for io::Error {
    fn from(unsound: Unsound) -> Self {
        Self::new(io::ErrorKind::InvalidData, unsound)
    }
}

impl Unsound {
    /// What an error of the disk says of the file.
    pub(super) fn of(error: &io::Error) -> Option<Self> {
        error.get_ref()?.downcast_ref().copied()
    }
}

/// Pages that were refused, and how the next one is.
#[derive(Debug)]
pub(super) struct Watch {
    state: Mutex<WatchState>,
}

#[derive(Debug)]
struct WatchState {
    /// A page that differs is an error of the disk.
    is_strict: bool,
    /// The first page that was refused without one.
    refused: Option<u64>,
    /// Pages that were named in the log.
    logged: BTreeSet<u64>,
}

/// Most pages that are named in the log: a file with more is known well enough.
const LOGGED_MAX: usize = 100;

impl Watch {
    fn new() -> Self {
        Self {
            state: Mutex::new(WatchState {
                is_strict: true,
                refused: None,
                logged: BTreeSet::new(),
            }),
        }
    }

    /// Nothing is left half done in it, whoever panicked meanwhile.
    fn state(&self) -> std::sync::MutexGuard<'_, WatchState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refused pages lead nowhere from now on. None has been met before.
    pub(super) fn start_reading(&self) {
        let mut state = self.state();
        state.is_strict = false;
        state.refused = None;
    }

    /// Refused pages are errors of the disk from now on.
    pub(super) fn stop_reading(&self) {
        self.state().is_strict = true;
    }

    /// The same until the guard is dropped, for the engine to write.
    ///
    /// # Errors
    /// A page was refused before: the engine may still hold what it got in its place.
    pub(super) fn start_writing(&self) -> Result<Writing<'_>, Unsound> {
        let mut state = self.state();
        match state.refused {
            Some(page) => Err(Unsound::Page(page)),
            None => {
                state.is_strict = true;
                Ok(Writing(self))
            }
        }
    }

    /// Notes a page that differs. An error if the engine must not go on with another in its place.
    fn refuse(&self, page: u64, name: &str) -> Result<(), Unsound> {
        let mut state = self.state();
        if state.logged.len() < LOGGED_MAX && state.logged.insert(page) {
            tracing::error!(
                "page {page} of {name} (from byte {} on) is not what was written to it: what needs it is answered with an \
                 error, and nothing more is written; run `spindex check`",
                PAGE.saturating_mul(place_of(page.saturating_sub(1)))
            );
        }
        if state.is_strict {
            return Err(Unsound::Page(page));
        }
        state.refused.get_or_insert(page);
        Ok(())
    }
}

/// While it lives, refused pages are errors of the disk.
#[derive(Debug)]
pub(super) struct Writing<'a>(&'a Watch);

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        self.0.state().is_strict = false;
    }
}

/// An inner page of a tree of the engine with one key and two children, whose number no page can have: the engine says so
/// as soon as it follows one. Byte 0 is the kind of the page, 2 to 4 the number of keys LE, 8 to 40 the children's
/// checksums, 40 to 56 their numbers; then, where keys have no fixed length, where the key ends, LE, and the key, which is
/// zeros, as all behind this is.
const DEAD_END: [u8; 60] = {
    let mut page = [0; 60];
    page[0] = 2;
    page[2] = 1;
    let mut at = 40;
    while at < 56 {
        page[at] = 0xff;
        at += 1;
    }
    page[57] = 1;
    page
};

/// How the engine names the child of [`DEAD_END`].
const DEAD_CHILD: &str = "r1048575.0/31";

/// Whether the engine's text says that it needed a refused page.
pub(super) fn is_refusal(reason: &str) -> bool {
    reason.contains(DEAD_CHILD)
}

/// Page of the file in which data page `data` lies, the engine's page `data + 1`.
const fn place_of(data: u64) -> u64 {
    HEAD_PAGES + data / GROUP_PAGES * (GROUP_PAGES + 1) + 1 + data % GROUP_PAGES
}

/// Page of the file in which the sums of a group lie.
const fn place_of_sums(group: u64) -> u64 {
    HEAD_PAGES + group * (GROUP_PAGES + 1)
}

/// Pages of the file for so many data pages.
const fn pages_with(data: u64) -> u64 {
    HEAD_PAGES + data + data.div_ceil(GROUP_PAGES)
}

/// Data pages in so many pages of the file.
const fn data_in(pages: u64) -> u64 {
    let behind = pages.saturating_sub(HEAD_PAGES);
    behind - behind.div_ceil(GROUP_PAGES + 1)
}

/// Opens a file to read and to write, or creates it.
pub(super) fn open_file(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.read(true).write(true).create(true);
    options.truncate(false).open(path)
}

/// A storage backend of the engine that keeps a sum for every page in another backend: a file, as a rule.
#[derive(Debug)]
pub struct Summed<B> {
    inner: B,
    /// For the log.
    name: String,
    heads: Mutex<Heads>,
    sums: SumTable,
    watch: Arc<Watch>,
    /// Nothing is refused and nothing is written.
    is_salvage: bool,
}

impl Summed<FileBackend> {
    /// An index file, for the engine to open or to create.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn file(path: &Path) -> Result<Self, redb::DatabaseError> {
        let file = open_file(path).map_err(redb::StorageError::from)?;
        Ok(Self::new(
            FileBackend::new(file)?,
            path.display().to_string(),
        ))
    }
}

impl<B: StorageBackend> Summed<B> {
    /// An index on any backend. The name is for the log.
    pub fn new(inner: B, name: impl Into<String>) -> Self {
        Self {
            inner,
            name: name.into(),
            heads: Mutex::default(),
            sums: SumTable::default(),
            watch: Arc::new(Watch::new()),
            is_salvage: false,
        }
    }

    /// The same for what can still be read of a damaged file: whatever its pages are, they are not refused, so the engine
    /// may panic. The file stays as it is.
    pub(super) fn salvage(self) -> Self {
        Self {
            is_salvage: true,
            ..self
        }
    }

    /// Which pages are refused, and how.
    pub(super) fn watch(&self) -> Arc<Watch> {
        Arc::clone(&self.watch)
    }

    fn heads(&self) -> std::sync::MutexGuard<'_, Heads> {
        self.heads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes data pages from `data` on in a file that has nothing but zeros there: those that are zero stay holes.
    pub(super) fn fill(&self, data: u64, bytes: &[u8]) -> io::Result<()> {
        for (data, page) in (data..).zip(bytes.chunks_exact(PAGE_BYTES)) {
            if page.iter().any(|byte| *byte != 0) {
                self.inner.write(place_of(data) * PAGE, page)?;
            }
            self.sums.set(&self.inner, data, page)?;
        }
        Ok(())
    }

    /// Writes the engine's header, given its first page.
    pub(super) fn write_head(&self, page: &[u8; PAGE_BYTES]) -> io::Result<()> {
        self.write(0, page.get(..ENGINE_BYTES).unwrap_or_default())
    }

    /// The runs of pages within a group: first data page, and the range of the bytes.
    fn runs(
        offset: u64,
        len: usize,
    ) -> io::Result<impl Iterator<Item = (u64, std::ops::Range<usize>)>> {
        if offset < PAGE || !offset.is_multiple_of(PAGE) || !len.is_multiple_of(PAGE_BYTES) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut data = offset / PAGE - 1;
        let mut from = 0;
        Ok(std::iter::from_fn(move || {
            if from == len {
                return None;
            }
            let in_group = (GROUP_PAGES - data % GROUP_PAGES) as usize * PAGE_BYTES;
            let run = (data, from..len.min(from + in_group));
            data += (run.1.len() / PAGE_BYTES) as u64;
            from = run.1.end;
            Some(run)
        }))
    }
}

impl<B: StorageBackend> StorageBackend for Summed<B> {
    fn len(&self) -> io::Result<u64> {
        Ok(match self.inner.len()? {
            0 => 0,
            len => (1 + data_in(len / PAGE)) * PAGE,
        })
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if offset < PAGE {
            return self.heads().read(&self.inner, offset, out);
        }
        let mut wrong = None;
        for (data, range) in Self::runs(offset, out.len())? {
            let Some(run) = out.get_mut(range) else {
                return Err(io::ErrorKind::InvalidInput.into());
            };
            self.inner.read(place_of(data) * PAGE, run)?;
            let found = self.sums.first_wrong(&self.inner, data, run)?;
            wrong = wrong.or(found);
        }
        if let Some(data) = wrong.filter(|_| !self.is_salvage) {
            self.watch.refuse(data + 1, &self.name)?;
            out.fill(0);
            if let Some(start) = out.first_chunk_mut() {
                *start = DEAD_END;
            }
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        if self.is_salvage {
            return Ok(());
        }
        if !len.is_multiple_of(PAGE) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let Some(data) = (len / PAGE).checked_sub(1) else {
            self.sums.truncate(0);
            return self.inner.set_len(0);
        };
        self.sums.truncate(data);
        self.inner.set_len(pages_with(data) * PAGE)
    }

    fn sync_data(&self) -> io::Result<()> {
        if self.is_salvage {
            return Ok(());
        }
        self.sums.flush(&self.inner)?;
        self.inner.sync_data()?;
        self.heads().synced(&self.inner)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        if self.is_salvage {
            return Ok(());
        }
        if offset < PAGE {
            return self.heads().write(&self.inner, offset, data);
        }
        for (first, range) in Self::runs(offset, data.len())? {
            let run = data.get(range).ok_or(io::ErrorKind::InvalidInput)?;
            self.inner.write(place_of(first) * PAGE, run)?;
            self.sums.set(&self.inner, first, run)?;
        }
        Ok(())
    }

    fn close(&self) -> io::Result<()> {
        let flushed = self.sums.flush(&self.inner);
        self.inner.close().and(flushed)
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.try_lock_range(start, end)
    }

    fn try_lock_shared_range(
        &self,
        start: Bound<u64>,
        end: Bound<u64>,
    ) -> Result<bool, BackendError> {
        self.inner.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.query_lock_range(start, end)
    }
}

#[cfg(test)]
mod tests;
