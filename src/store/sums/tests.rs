//! Where pages and sums lie, and what is done with pages that differ.

use redb::backends::InMemoryBackend;

use super::table::sum_of;
use super::*;

fn page(number: u64) -> Vec<u8> {
    let seed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (0..PAGE)
        .map(|at| (seed.rotate_left((at % 61) as u32) ^ at) as u8)
        .collect()
}

/// Made with Python's `zlib.crc32` over the number as 8 bytes, little-endian, and the page.
#[test]
fn sums_are_those_of_zlib() {
    let page: Vec<u8> = (0..4096_u32).map(|at| (at * 7 + 3) as u8).collect();
    assert_eq!(sum_of(0, &page), 0x6340_0173);
    assert_eq!(sum_of(1025, &page), 0x3f8b_8bbf);
    assert_eq!(sum_of(5, &[0; 4096]), 0x7c46_1ec9);
}

#[test]
fn a_head_is_within_a_sector() {
    // Magic, layout, number, the engine's header, sum.
    assert_eq!(HEAD_BYTES, 8 + 4 + 8 + 320 + 4);
    const { assert!(HEAD_BYTES <= 512) };
}

#[test]
fn every_page_has_a_place_of_its_own() {
    let mut next = HEAD_PAGES;
    for data in 0..5000 {
        if data % GROUP_PAGES == 0 {
            assert_eq!(place_of_sums(data / GROUP_PAGES), next);
            next += 1;
        }
        assert_eq!(place_of(data), next);
        next += 1;
        assert_eq!(pages_with(data + 1), next);
        assert_eq!(data_in(next), data + 1);
    }
    assert_eq!(data_in(pages_with(0)), 0);
}

#[test]
fn lengths_are_those_the_engine_set() {
    let file = Summed::new(InMemoryBackend::new(), "a file");
    assert_eq!(file.len().expect("a length"), 0);
    for pages in [1, 2, 1024, 1025, 1026, 2048, 2049, 2050, 5000, 3, 0, 1] {
        file.set_len(pages * PAGE).expect("set");
        assert_eq!(file.len().expect("a length"), pages * PAGE);
    }
}

/// The bytes of the file below.
fn bytes_of(file: &Summed<InMemoryBackend>) -> Vec<u8> {
    let mut bytes = vec![0; file.inner.len().expect("a length") as usize];
    file.inner.read(0, &mut bytes).expect("read");
    bytes
}

fn holding(bytes: &[u8]) -> Summed<InMemoryBackend> {
    let inner = InMemoryBackend::new();
    inner.set_len(bytes.len() as u64).expect("set");
    inner.write(0, bytes).expect("write");
    Summed::new(inner, "a file")
}

/// A file of some groups, with pages around their ends.
fn written() -> (Vec<u64>, Vec<u8>) {
    let file = Summed::new(InMemoryBackend::new(), "a file");
    file.set_len(3000 * PAGE).expect("set");
    let numbers: Vec<u64> = [1, 2, 1020].into_iter().chain(1022..1030).collect();
    for number in &numbers {
        file.write(number * PAGE, &page(*number)).expect("write");
    }
    // Over the end of a group in one piece.
    let run: Vec<u8> = (2046..2052).flat_map(page).collect();
    file.write(2046 * PAGE, &run).expect("write");
    file.write(0, &ENGINE_MAGIC).expect("write");
    file.sync_data().expect("sync");
    let numbers = numbers.into_iter().chain(2046..2052).collect();
    (numbers, bytes_of(&file))
}

#[test]
fn what_was_written_is_read_by_the_next_one() {
    let (numbers, bytes) = written();
    let file = holding(&bytes);
    for number in numbers {
        let mut read = vec![0; PAGE_BYTES];
        file.read(number * PAGE, &mut read).expect("read");
        assert!(read == page(number), "{number}");
    }
    let mut run = vec![0; 4 * PAGE_BYTES];
    file.read(2047 * PAGE, &mut run).expect("read");
    assert!(run == (2047..2051).flat_map(page).collect::<Vec<u8>>());
    let mut start = ENGINE_MAGIC.map(|_| 0);
    file.read(0, &mut start).expect("read");
    assert_eq!(start, ENGINE_MAGIC);
}

#[test]
fn a_page_that_differs_is_refused() {
    let (_, bytes) = written();
    let at = (place_of(1022) * PAGE) as usize;
    let sum = (place_of_sums(0) * PAGE) as usize + 4 * 1022;
    let swap = |bytes: &mut Vec<u8>| {
        let other = (place_of(1023) * PAGE) as usize;
        let page = bytes[other..other + PAGE_BYTES].to_vec();
        bytes[at..at + PAGE_BYTES].copy_from_slice(&page);
    };
    type Damage<'a> = &'a dyn Fn(&mut Vec<u8>);
    let damages: [Damage<'_>; 5] = [
        &|bytes| bytes[at] ^= 1,
        &|bytes| bytes[at + PAGE_BYTES - 1] ^= 0x80,
        &|bytes| bytes[sum + 2] ^= 4,
        &|bytes| bytes[at..at + PAGE_BYTES].fill(0),
        &swap,
    ];
    for damage in damages {
        let mut damaged = bytes.clone();
        damage(&mut damaged);
        // The engine's pages are one ahead of the data pages.
        let from = 1022 * PAGE;
        let mut read = vec![1; 2 * PAGE_BYTES];
        let strict = holding(&damaged);
        let error = strict.read(from, &mut read).expect_err("refused");
        assert_eq!(Unsound::of(&error), Some(Unsound::Page(1023)));

        let file = holding(&damaged);
        let watch = file.watch();
        watch.start_reading();
        drop(watch.start_writing().expect("nothing was refused"));
        file.read(from, &mut read).expect("something else");
        assert!(read.starts_with(&DEAD_END));
        assert!(read[DEAD_END.len()..].iter().all(|byte| *byte == 0));
        assert_eq!(
            watch.start_writing().expect_err("refused"),
            Unsound::Page(1023)
        );
        // Its neighbours are as they were.
        file.read(from, &mut read[..PAGE_BYTES]).expect("read");
        assert!(read[..PAGE_BYTES] == page(1022));
        watch.stop_reading();
        assert!(file.read(from + PAGE, &mut read[..PAGE_BYTES]).is_err());
    }
}

#[test]
fn one_copy_of_the_head_is_enough_and_the_newer_one_counts() {
    let (_, bytes) = written();
    let header = |bytes: &[u8]| {
        let mut header = [0; ENGINE_BYTES];
        holding(bytes).read(0, &mut header).map(|()| header)
    };
    let right = header(&bytes).expect("a head");
    for copy in [0, PAGE_BYTES] {
        for at in 0..HEAD_BYTES {
            let mut damaged = bytes.clone();
            damaged[copy + at] ^= 1 << (at % 8);
            assert_eq!(
                header(&damaged).expect("the other copy"),
                right,
                "{copy} {at}"
            );
        }
    }
    let mut none = bytes.clone();
    none[100] ^= 1;
    none[PAGE_BYTES + 100] ^= 1;
    let error = header(&none).expect_err("both damaged");
    assert_eq!(Unsound::of(&error), Some(Unsound::Head));

    // A new header without a sync leaves one copy alone.
    let file = holding(&bytes);
    for byte in [1, 2] {
        file.write(9, &[byte]).expect("write");
        let now = bytes_of(&file);
        let same = [0, PAGE_BYTES].map(|at| now[at..][..HEAD_BYTES] == bytes[at..][..HEAD_BYTES]);
        assert!(same[0] ^ same[1], "{same:?}");
        assert_eq!(header(&now).expect("a head")[9], byte);
    }
    file.sync_data().expect("sync");
    let now = bytes_of(&file);
    assert_eq!(now[..HEAD_BYTES], now[PAGE_BYTES..][..HEAD_BYTES]);
}

/// The sum is right, but what it covers is no head of this layout.
#[test]
fn another_magic_or_layout_is_no_head() {
    let (_, bytes) = written();
    for (at, error) in [(3, None), (8, Some(Unsound::Head))] {
        let mut other = bytes.clone();
        for copy in [0, PAGE_BYTES] {
            let head = &mut other[copy..][..HEAD_BYTES];
            head[at] ^= 1;
            let (summed, sum) = head.split_at_mut(HEAD_BYTES - 4);
            sum.copy_from_slice(&crc32fast::hash(summed).to_le_bytes());
            assert!(!has_engine(head));
        }
        let mut header = [0; ENGINE_BYTES];
        let refused = holding(&other).read(0, &mut header).expect_err("refused");
        assert_eq!(Unsound::of(&refused), error);
        // The other copy is as good as ever.
        other[..PAGE_BYTES].copy_from_slice(&bytes[..PAGE_BYTES]);
        holding(&other).read(0, &mut header).expect("a head");
        assert!(header.starts_with(&ENGINE_MAGIC));
    }
}

#[test]
fn what_lies_behind_a_new_end_is_forgotten() {
    let sum_at = |bytes: &[u8], page: u64| {
        let data = page - 1;
        let at = place_of_sums(data / GROUP_PAGES) * PAGE + 4 * (data % GROUP_PAGES);
        bytes[at as usize..][..4].to_vec()
    };
    let file = Summed::new(InMemoryBackend::new(), "a file");
    file.set_len(3000 * PAGE).expect("set");
    for number in [7, 1500, 2500] {
        file.write(number * PAGE, &page(number)).expect("write");
    }
    file.set_len(2000 * PAGE).expect("set");
    file.write(0, &ENGINE_MAGIC).expect("write");
    file.sync_data().expect("sync");
    let bytes = bytes_of(&file);
    assert_eq!(bytes.len() as u64, pages_with(1999) * PAGE);
    for number in [7, 1500] {
        let sum = sum_of(number - 1, &page(number));
        assert_eq!(sum_at(&bytes, number), sum.to_le_bytes());
    }

    // What is there when the file grows again are zeros, and only what is written then has a sum.
    file.set_len(3000 * PAGE).expect("set");
    file.write(2501 * PAGE, &page(2501)).expect("write");
    file.sync_data().expect("sync");
    let bytes = bytes_of(&file);
    assert_eq!(sum_at(&bytes, 2500), [0; 4]);
    let sum = sum_of(2500, &page(2501));
    assert_eq!(sum_at(&bytes, 2501), sum.to_le_bytes());
}

/// A disk with what reads see and what a sync has made durable.
#[derive(Debug, Clone, Default)]
struct Disk(Arc<Mutex<[Vec<u8>; 2]>>);

impl Disk {
    fn bytes(&self) -> std::sync::MutexGuard<'_, [Vec<u8>; 2]> {
        self.0.lock().expect("no panic while it is held")
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.bytes()[0].len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        out.copy_from_slice(&self.bytes()[0][offset as usize..][..out.len()]);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.bytes()[0].resize(len as usize, 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let [live, durable] = &mut *self.bytes();
        durable.clone_from(live);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.bytes()[0][offset as usize..][..data.len()].copy_from_slice(data);
        Ok(())
    }
}

#[test]
fn power_may_fail_after_a_kill_that_left_both_copies_alike() {
    let disk = Disk::default();
    let file = Summed::new(disk.clone(), "a file");
    file.set_len(3 * PAGE).expect("set");
    file.write(0, &ENGINE_MAGIC).expect("write");
    for byte in 1..4 {
        file.sync_data().expect("sync");
        file.write(9, &[byte]).expect("write");
        file.sync_data().expect("sync");

        // Killed, and another one writes, whose head gets to the disk in part.
        let next = Summed::new(disk.clone(), "a file");
        next.write(9, &[100]).expect("write");
        let [live, durable] = disk.bytes().clone();
        for copy in [0, PAGE_BYTES] {
            let mut torn = durable.clone();
            torn[copy..][..30].copy_from_slice(&live[copy..][..30]);
            let mut header = [0; ENGINE_BYTES];
            holding(&torn).read(0, &mut header).expect("a head");
            assert_eq!(header[9], byte);
        }
        next.write(9, &[byte]).expect("write");
    }
}

/// The engine's text for the page that it gets in place of a refused one.
#[test]
fn the_engine_follows_no_dead_end() {
    let inner = InMemoryBackend::new();
    let definition = redb::TableDefinition::<u32, &[u8]>::new("a table");
    let filled = Summed::new(inner, "a file");
    let watch = filled.watch();
    let shared = Shared(Arc::new(filled));
    let database = redb::Builder::new()
        .set_cache_size(0)
        .create_with_backend(shared.clone());
    let database = database.expect("a database");
    let write = database.begin_write().expect("write");
    {
        let mut table = write.open_table(definition).expect("a table");
        for key in 0..500 {
            table.insert(key, [7; 300].as_slice()).expect("insert");
        }
    }
    write.commit().expect("commit");
    watch.start_reading();
    // All pages but the head.
    let inner = &shared.0.inner;
    for place in 3..inner.len().expect("a length") / PAGE {
        let mut byte = [0];
        inner.read(place * PAGE + 77, &mut byte).expect("read");
        inner
            .write(place * PAGE + 77, &[byte[0] ^ 1])
            .expect("write");
    }
    use redb::{ReadableDatabase, ReadableTableMetadata};
    let read = database.begin_read().expect("read");
    let error = match read.open_table(definition) {
        Err(redb::TableError::Storage(error)) => error,
        Err(error) => panic!("{error}"),
        Ok(table) => {
            table.stats().map(drop).expect_err("refused");
            let found = table
                .range(3..)
                .and_then(|mut rows| rows.next().transpose());
            found.map(drop).expect_err("refused")
        }
    };
    assert!(is_refusal(&error.to_string()), "{error}");
}

/// A backend that the test can look at.
#[derive(Debug, Clone)]
struct Shared(Arc<Summed<InMemoryBackend>>);

impl StorageBackend for Shared {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write(offset, data)
    }
}
