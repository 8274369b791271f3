use super::*;
use bitcoin::secp256k1::rand::seq::SliceRandom;
use bitcoin::secp256k1::rand::{Rng, SeedableRng, rngs::StdRng};
use redb::backends::InMemoryBackend;
use redb::{Database, ReadableDatabase};

const CHUNK: u64 = SPENT_CHUNK_BITS;

fn positions(numbers: &[u64]) -> Vec<OutputPosition> {
    numbers.iter().copied().map(OutputPosition).collect()
}

fn database() -> Database {
    let database = Database::builder()
        .create_with_backend(InMemoryBackend::new())
        .unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(SPENT.definition()).unwrap();
    transaction.commit().unwrap();
    database
}

fn change(database: &Database, change: &Change<'_>) -> Result<(), Fault> {
    let transaction = database.begin_write().unwrap();
    let result = write(
        &mut transaction.open_table(SPENT.definition()).unwrap(),
        change,
    );
    if result.is_ok() {
        transaction.commit().unwrap();
    }
    result
}

fn table(database: &Database) -> redb::ReadOnlyTable<u32, &'static [u8]> {
    let transaction = database.begin_read().unwrap();
    transaction.open_table(SPENT.definition()).unwrap()
}

/// The whole table as bits, chunk after chunk.
fn bits_of(table: &redb::ReadOnlyTable<u32, &'static [u8]>) -> Vec<bool> {
    let mut bits = Vec::new();
    for (number, row) in table.range::<u32>(..).unwrap().enumerate() {
        let (chunk, bytes) = row.unwrap();
        assert_eq!(chunk.value() as usize, number);
        assert_eq!(bytes.value().len(), 4080);
        for byte in bytes.value() {
            bits.extend((0..8).map(|bit| byte >> bit & 1 == 1));
        }
    }
    bits
}

fn compare(database: &Database, expected: &[bool], rng: &mut StdRng) {
    let table = table(database);
    let outputs = expected.len() as u64;
    let mut padded = expected.to_vec();
    padded.resize(outputs.next_multiple_of(CHUNK) as usize, false);
    assert!(bits_of(&table) == padded);
    assert_eq!(len_bytes(outputs) * 8, padded.len() as u64);
    check_end(&table, outputs).unwrap();
    let places = [
        0,
        1,
        7,
        8,
        9,
        CHUNK - 1,
        CHUNK,
        CHUNK + 1,
        2 * CHUNK,
        outputs,
    ];
    for _ in 0..20 {
        let mut place = || match rng.r#gen() {
            true => rng.gen_range(0..=outputs),
            false => places.choose(rng).copied().unwrap().min(outputs),
        };
        let (one, other) = (place(), place());
        let range = one.min(other)..one.max(other);
        let expected = &expected[range.start as usize..range.end as usize];
        assert!(read(&table, outputs, range.clone()).unwrap() == expected);
        let spent = expected.iter().filter(|bit| **bit).count() as u64;
        assert_eq!(count(&table, outputs, range).unwrap(), spent);
    }
}

#[test]
fn changes_are_those_of_a_vector() {
    let mut rng = StdRng::seed_from_u64(2);
    let database = database();
    let mut bits: Vec<bool> = Vec::new();
    let sizes = [
        0,
        1,
        8,
        13,
        CHUNK - 1,
        CHUNK,
        CHUNK + 1,
        CHUNK + 12,
        2 * CHUNK,
        2 * CHUNK + 5,
    ];
    for _ in 0..60 {
        let old = bits.len() as u64;
        let (cut, new) = match rng.gen_range(0..3) {
            0 => (old, old + rng.gen_range(0..20)),
            _ => {
                let new = *sizes.choose(&mut rng).unwrap();
                (rng.gen_range(0..=old.min(new)), new)
            }
        };
        let clear: Vec<u64> = (0..cut)
            .filter(|at| bits[*at as usize] && rng.gen_ratio(1, 3))
            .collect();
        for at in &clear {
            bits[*at as usize] = false;
        }
        bits.truncate(cut as usize);
        bits.resize(new as usize, false);
        // Few, with the first and the last of what is new.
        let mut set: Vec<u64> = (0..20).map(|_| rng.gen_range(0..new.max(1))).collect();
        set.extend([cut, new.saturating_sub(1)]);
        set.sort_unstable();
        set.dedup();
        set.retain(|at| *at < new && !bits[*at as usize]);
        for at in &set {
            bits[*at as usize] = true;
        }
        let (clear, set) = (&positions(&clear), &positions(&set));
        change(
            &database,
            &Change {
                old,
                cut,
                new,
                clear,
                set,
            },
        )
        .unwrap();
        compare(&database, &bits, &mut rng);
    }
}

fn reason<T>(result: Result<T, Fault>) -> String {
    match result.map(|_| ()).unwrap_err() {
        Fault::Row { table, key, reason } => format!("{table} {key}: {reason}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn contradictions_are_named() {
    let database = database();
    let (old, cut, new) = (0, 0, CHUNK + 9);
    let set = &positions(&[3, CHUNK + 8]);
    change(
        &database,
        &Change {
            old,
            cut,
            new,
            clear: &[],
            set,
        },
    )
    .unwrap();
    let (old, cut) = (new, new);
    let twice = |clear: &[u64], set: &[u64]| {
        let (clear, set) = (&positions(clear), &positions(set));
        reason(change(
            &database,
            &Change {
                old,
                cut,
                new,
                clear,
                set,
            },
        ))
    };
    assert_eq!(twice(&[], &[3]), "spent 0: output 3 is spent already");
    assert_eq!(twice(&[4], &[]), "spent 0: output 4 is unspent already");
    let last = CHUNK + 8;
    assert_eq!(
        twice(&[], &[last]),
        format!("spent 1: output {last} is spent already")
    );

    let behind = |outputs| reason(check_end(&table(&database), outputs));
    let said = "a bit behind the last output";
    assert_eq!(behind(CHUNK + 8), format!("spent {}: {said}", CHUNK + 8));
    check_end(&table(&database), CHUNK + 9).unwrap();
    assert_eq!(behind(CHUNK), "spent 0: 1 is the last chunk");
    assert_eq!(behind(2 * CHUNK + 1), "spent 2: 1 is the last chunk");

    let transaction = database.begin_write().unwrap();
    {
        let mut table = transaction.open_table(SPENT.definition()).unwrap();
        table.insert(1, &[0; 4079][..]).unwrap();
    }
    transaction.commit().unwrap();
    assert_eq!(twice(&[], &[CHUNK]), "spent 1: chunk of odd length");
    let transaction = database.begin_write().unwrap();
    transaction
        .open_table(SPENT.definition())
        .unwrap()
        .remove(1)
        .unwrap();
    transaction.commit().unwrap();
    assert_eq!(twice(&[], &[CHUNK]), "spent 1: chunk is missing");
    assert!(read(&table(&database), new, 0..new).is_err());
}
