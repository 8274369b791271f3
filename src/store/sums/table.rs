//! The sums of the data pages: pages of the file, read when the first page of their group is, kept in memory, and written
//! before each sync.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::{Mutex, PoisonError, RwLock};

use redb::StorageBackend;

use super::{GROUP_PAGES, PAGE, PAGE_BYTES, place_of_sums};

const SUM_BYTES: usize = size_of::<u32>();

/// The sums of a group of pages, in order.
type Group = [u32; GROUP_PAGES as usize];

/// Four bytes a page, a page of them for 4 MiB of data.
#[derive(Debug, Default)]
pub(super) struct SumTable {
    groups: RwLock<Vec<Option<Box<Group>>>>,
    /// By group, which of its sums are not in the file yet.
    dirty: Mutex<BTreeMap<u64, Range<usize>>>,
}

/// CRC-32 (the one of zlib and Ethernet) of the page's number among the data pages (8 bytes LE) and its bytes. Up to three
/// flipped bits of a page and its sum are always found, and so is whatever lies within 32 bits; anything else but once in
/// 2^32.
pub(super) fn sum_of(data: u64, page: &[u8]) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    sum.update(&data.to_le_bytes());
    sum.update(page);
    sum.finalize()
}

const fn split(data: u64) -> (u64, usize) {
    (data / GROUP_PAGES, (data % GROUP_PAGES) as usize)
}

impl SumTable {
    /// The first of some data pages of one group that is not what its sum says.
    pub(super) fn first_wrong(
        &self,
        file: &impl StorageBackend,
        data: u64,
        pages: &[u8],
    ) -> io::Result<Option<u64>> {
        self.with_group(file, data, |sums| {
            let found = (data..).zip(pages.chunks_exact(PAGE_BYTES));
            let mut pairs = found.zip(sums);
            pairs
                .find(|((data, page), sum)| sum_of(*data, page) != **sum)
                .map(|((data, _), _)| data)
        })
    }

    /// Takes the sums of some data pages of one group.
    pub(super) fn set(
        &self,
        file: &impl StorageBackend,
        data: u64,
        pages: &[u8],
    ) -> io::Result<()> {
        let (group, first) = split(data);
        let mut end = first;
        self.with_group_mut(file, data, |sums| {
            let pages = (data..).zip(pages.chunks_exact(PAGE_BYTES));
            for (sum, (data, page)) in sums.iter_mut().zip(pages) {
                *sum = sum_of(data, page);
                end += 1;
            }
        })?;
        let mut dirty = self.dirty.lock().unwrap_or_else(PoisonError::into_inner);
        let range = dirty.entry(group).or_insert(first..end);
        *range = range.start.min(first)..range.end.max(end);
        Ok(())
    }

    /// Writes what is not in the file yet. Sums of pages that were not written are written over with what they are, so that
    /// this may be cut short anywhere.
    pub(super) fn flush(&self, file: &impl StorageBackend) -> io::Result<()> {
        let mut dirty = self.dirty.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(entry) = dirty.first_entry() {
            let (group, range) = (*entry.key(), entry.get().clone());
            let groups = self.groups.read().unwrap_or_else(PoisonError::into_inner);
            let sums = groups.get(group as usize).and_then(Option::as_ref);
            if let Some(sums) = sums.and_then(|sums| sums.get(range.clone())) {
                let bytes: Vec<u8> = sums.iter().flat_map(|sum| sum.to_le_bytes()).collect();
                let at = place_of_sums(group) * PAGE + (range.start * SUM_BYTES) as u64;
                file.write(at, &bytes)?;
            }
            entry.remove();
        }
        Ok(())
    }

    /// Forgets what lies behind so many data pages.
    pub(super) fn truncate(&self, data: u64) {
        let groups = data.div_ceil(GROUP_PAGES);
        self.groups
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .truncate(usize::try_from(groups).unwrap_or(usize::MAX));
        self.dirty
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .split_off(&groups);
    }

    /// Calls `look` with the sums of a data page and those behind it in its group.
    fn with_group<T>(
        &self,
        file: &impl StorageBackend,
        data: u64,
        look: impl FnOnce(&[u32]) -> T,
    ) -> io::Result<T> {
        let (group, first) = split(data);
        {
            let groups = self.groups.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(Some(sums)) = groups.get(group as usize) {
                return Ok(look(sums.get(first..).unwrap_or_default()));
            }
        }
        self.with_group_mut(file, data, |sums| look(sums))
    }

    fn with_group_mut<T>(
        &self,
        file: &impl StorageBackend,
        data: u64,
        look: impl FnOnce(&mut [u32]) -> T,
    ) -> io::Result<T> {
        let (group, first) = split(data);
        let index = usize::try_from(group).map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut groups = self.groups.write().unwrap_or_else(PoisonError::into_inner);
        if groups.len() <= index {
            groups.resize_with(index + 1, || None);
        }
        let Some(place) = groups.get_mut(index) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let sums = match place {
            Some(sums) => sums,
            None => place.insert(load(file, group)?),
        };
        Ok(look(sums.get_mut(first..).unwrap_or_default()))
    }
}

/// The sums of a group as they are in the file.
fn load(file: &impl StorageBackend, group: u64) -> io::Result<Box<Group>> {
    let mut bytes = [0; PAGE_BYTES];
    file.read(place_of_sums(group) * PAGE, &mut bytes)?;
    let mut sums = Box::new([0; GROUP_PAGES as usize]);
    for (sum, bytes) in sums.iter_mut().zip(bytes.as_chunks().0) {
        *sum = u32::from_le_bytes(*bytes);
    }
    Ok(sums)
}
