use super::*;
use bitcoin::secp256k1::rand::{Rng, SeedableRng, rngs::StdRng};
use redb::backends::InMemoryBackend;
use redb::{Database, ReadableDatabase};

type Item = [u8; 3];

/// Small enough that a few items make several chunks.
const COLUMN: Column = Column::new("items", 3, 5);

fn database() -> Database {
    let database = Database::builder()
        .create_with_backend(InMemoryBackend::new())
        .unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(COLUMN.definition()).unwrap();
    transaction.commit().unwrap();
    database
}

/// Replaces everything from `cut` on, in pieces of at most `piece` items.
fn replace(database: &Database, len: u64, cut: u64, items: &[Item], piece: usize) {
    let transaction = database.begin_write().unwrap();
    {
        let mut table = transaction.open_table(COLUMN.definition()).unwrap();
        let mut tail = COLUMN.truncate(&mut table, len, cut).unwrap();
        for items in items.chunks(piece) {
            tail.push(items.as_flattened()).unwrap();
        }
        tail.finish().unwrap();
    }
    transaction.commit().unwrap();
}

fn overwrite(database: &Database, chunk: u32, bytes: Option<&[u8]>) {
    let transaction = database.begin_write().unwrap();
    {
        let mut table = transaction.open_table(COLUMN.definition()).unwrap();
        match bytes {
            Some(bytes) => table.insert(chunk, bytes).unwrap(),
            None => table.remove(chunk).unwrap(),
        };
    }
    transaction.commit().unwrap();
}

fn table(database: &Database) -> ReadOnlyTable<u32, &'static [u8]> {
    let transaction = database.begin_read().unwrap();
    transaction.open_table(COLUMN.definition()).unwrap()
}

fn reason<T>(result: Result<T, Fault>) -> String {
    match result.map(|_| ()).unwrap_err() {
        Fault::Row { table, key, reason } => format!("{table} {key}: {reason}"),
        other => panic!("{other:?}"),
    }
}

/// Rows, ranges and single items are those of a plain vector.
fn compare(database: &Database, items: &[Item]) {
    let table = table(database);
    let len = items.len() as u64;
    let rows: Vec<(u32, Vec<u8>)> = table
        .range::<u32>(..)
        .unwrap()
        .map(|row| row.map(|(chunk, bytes)| (chunk.value(), bytes.value().to_vec())))
        .collect::<Result<_, _>>()
        .unwrap();
    let expected: Vec<(u32, Vec<u8>)> = (0..)
        .zip(items.chunks(5))
        .map(|(chunk, items)| (chunk, items.as_flattened().to_vec()))
        .collect();
    assert_eq!(rows, expected);
    COLUMN.check_end(&table, len).unwrap();
    for start in 0..=items.len() {
        for end in start..=items.len() {
            let read = COLUMN.read(&table, len, start as u64..end as u64).unwrap();
            assert_eq!(read, items[start..end].as_flattened(), "{start}..{end}");
        }
        if start < items.len() {
            let beyond = COLUMN.read(&table, len, start as u64..len + 1);
            let expected = format!("items {start}: range ends at {} of {len} items", len + 1);
            assert_eq!(reason(beyond), expected);
        }
    }
    let mut single = COLUMN.items(&table, len);
    for position in (0..items.len()).chain((0..items.len()).rev()) {
        assert_eq!(single.get(position as u64).unwrap(), items[position]);
    }
    assert!(single.get::<3>(len).is_err());
}

#[test]
fn changes_are_those_of_a_vector() {
    let mut rng = StdRng::seed_from_u64(1);
    let database = database();
    let mut items: Vec<Item> = Vec::new();
    compare(&database, &items);
    for _ in 0..200 {
        let cut = rng.gen_range(items.len().saturating_sub(12)..=items.len());
        let new: Vec<Item> = (0..rng.gen_range(0..13)).map(|_| rng.r#gen()).collect();
        replace(
            &database,
            items.len() as u64,
            cut as u64,
            &new,
            rng.gen_range(1..8),
        );
        items.truncate(cut);
        items.extend(new);
        if items.len() > 30 {
            replace(&database, items.len() as u64, 3, &[], 1);
            items.truncate(3);
        }
        compare(&database, &items);
    }
}

/// Puts items in the place of others.
fn put(database: &Database, len: u64, first: u64, items: &[Item]) -> Result<(), Fault> {
    let transaction = database.begin_write().unwrap();
    let done = {
        let mut table = transaction.open_table(COLUMN.definition()).unwrap();
        COLUMN.overwrite(&mut table, len, first, items.as_flattened())
    };
    transaction.commit().unwrap();
    done
}

#[test]
fn items_in_the_middle_are_put_in_the_place_of_others() {
    let mut rng = StdRng::seed_from_u64(2);
    for len in [1, 4, 5, 6, 14, 15, 17] {
        let database = database();
        let mut items: Vec<Item> = (0..len).map(|_| rng.r#gen()).collect();
        replace(&database, 0, 0, &items, items.len());
        for first in 0..len {
            for end in first..=len {
                let new: Vec<Item> = (first..end).map(|_| rng.r#gen()).collect();
                put(&database, len as u64, first as u64, &new).unwrap();
                items[first..end].copy_from_slice(&new);
            }
            compare(&database, &items);
        }
        // Nothing is appended.
        let beyond = put(&database, len as u64, len as u64 - 1, &[[1; 3]; 2]);
        let said = reason(beyond);
        let (missing, no_item) = ("chunk is missing", format!("no item {len}"));
        assert!(said.contains(missing) || said.contains(&no_item), "{said}");
    }
    let database = database();
    replace(&database, 0, 0, &[[7; 3]; 12], 12);
    overwrite(&database, 1, Some(&[7; 14]));
    let said = "items 1: 14 bytes where 15 were expected";
    assert_eq!(reason(put(&database, 12, 4, &[[8; 3]; 2])), said);
}

#[test]
fn sizes_and_numbers_of_chunks() {
    assert_eq!((COLUMN.name(), COLUMN.item_bytes()), ("items", 3));
    assert_eq!((COLUMN.chunk_items(), COLUMN.chunk_bytes()), (5, 15));
    for (len, chunks) in [(0, 0), (1, 1), (5, 1), (6, 2), (10, 2), (11, 3)] {
        assert_eq!(COLUMN.chunks(len).unwrap(), chunks);
    }
    for (position, chunk) in [(0, 0), (4, 0), (5, 1), (9, 1), (10, 2)] {
        assert_eq!(COLUMN.chunk_of(position).unwrap(), chunk);
    }
    let most = 5 << 32;
    assert_eq!(COLUMN.chunk_of(most - 1).unwrap(), u32::MAX);
    assert!(COLUMN.chunk_of(most).is_err());
    assert!(COLUMN.chunks(most).is_err());
    assert_eq!(COLUMN.chunks(most - 5).unwrap(), u32::MAX);
}

#[test]
fn a_table_that_ends_elsewhere_is_named() {
    let database = database();
    let check = |len| reason(COLUMN.check_end(&table(&database), len));
    let missing = "no chunk where the directory has some";
    assert_eq!(check(1), format!("items 0: {missing}"));
    assert_eq!(check(6), format!("items 1: {missing}"));
    replace(&database, 0, 0, &[[7; 3]; 7], 7);
    COLUMN.check_end(&table(&database), 7).unwrap();
    assert_eq!(check(0), "items 0: 1 is the last chunk");
    assert_eq!(check(5), "items 0: 1 is the last chunk");
    assert_eq!(check(11), "items 2: 1 is the last chunk");
    assert_eq!(check(6), "items 1: 6 bytes where 3 were expected");
    assert_eq!(check(8), "items 1: 6 bytes where 9 were expected");
}

#[test]
fn chunks_that_are_missing_or_of_odd_length_are_named() {
    let database = database();
    replace(&database, 0, 0, &[[7; 3]; 12], 12);
    let read = |range| reason(COLUMN.read(&table(&database), 12, range));
    let get = |position| {
        let table = table(&database);
        reason(COLUMN.items(&table, 12).get::<3>(position))
    };
    let cut = |cut| {
        let transaction = database.begin_write().unwrap();
        let mut table = transaction.open_table(COLUMN.definition()).unwrap();
        reason(COLUMN.truncate(&mut table, 12, cut).map(|_| ()))
    };
    for (bytes, said) in [
        (None, "items 1: chunk is missing"),
        (
            Some(&[7; 14][..]),
            "items 1: 14 bytes where 15 were expected",
        ),
        (
            Some(&[7; 16][..]),
            "items 1: 16 bytes where 15 were expected",
        ),
    ] {
        overwrite(&database, 1, bytes);
        for range in [0..12, 4..6, 5..6, 9..12] {
            assert_eq!(read(range), said);
        }
        assert_eq!(COLUMN.read(&table(&database), 12, 0..5).unwrap(), [7; 15]);
        assert_eq!(COLUMN.read(&table(&database), 12, 10..12).unwrap(), [7; 6]);
        assert_eq!(get(5), said);
        assert_eq!(cut(6), said);
    }
    // Nothing of a chunk is needed where it is replaced from its start on.
    replace(&database, 12, 5, &[[8; 3]; 3], 3);
    assert_eq!(
        COLUMN.read(&table(&database), 8, 4..6).unwrap(),
        [7, 7, 7, 8, 8, 8]
    );
}
