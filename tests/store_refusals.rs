//! Files and updates that must be refused, each with a text that names the cure.

mod store_support;

use std::fs;
use std::path::Path;

use bitcoin::hashes::Hash;
use bitcoin::secp256k1::rand::{Rng, SeedableRng, rngs::StdRng, seq::SliceRandom};
use bitcoin::{BlockHash, Network};
use redb::{Database, ReadableTable};
use spindex::store::column::Column;
use spindex::store::schema::{
    BLOCKS, DIGEST, FILTERS, FIRSTS, FOREIGN, HEIGHTS, LOCATOR, META, MULTIPLES, OUTPUTS,
    SCHEMA_OLDEST, SCHEMA_VERSION, SPENDS, SPENT, SpendItem, TWEAKS, TXIDS, VALUE_MAX, VOUT_MAX,
    split_locator_key,
};
use spindex::store::{
    BlockRecord, OutputRow, ScanColumns, Snapshot, Store, StoreError, StoreOptions, Summed, Update,
};
use store_support::{
    FIRST_HEIGHT, Model, connect, content, memory_store, memory_store_with, options, options_with,
    place, small_chain, small_index, tamper,
};

/// The error, whose text must name the file and a cure.
fn refused(result: Result<Store, StoreError>, path: &Path, cure: &str) -> StoreError {
    let error = result.map(drop).expect_err("must be refused");
    let text = error.to_string();
    assert!(text.contains(&path.display().to_string()), "{text}");
    assert!(text.contains(cure), "{text}");
    assert!(!text.contains('\n'), "{text}");
    error
}

#[test]
fn second_opening() {
    let (_directory, path) = place();
    let store = Store::open(&path, &options(3)).expect("new index");
    let again = Store::open(&path, &options(3));
    let error = refused(again, &path, "stop the other spindex");
    assert!(matches!(error, StoreError::InUse { .. }));
    drop(store);
    Store::open(&path, &options(3)).expect("free again");
}

#[test]
fn missing_file_and_directory() {
    let (directory, path) = place();
    let error = refused(
        Store::open_existing(&path, &options(3)),
        &path,
        "`spindex sync`",
    );
    assert!(matches!(error, StoreError::Missing { .. }));
    assert!(!path.exists());

    let nested = directory.path().join("new/data/index.redb");
    Store::open(&nested, &options(3)).expect("creates the directories");
    assert!(nested.exists());

    // A file where the directory should be.
    let blocked = nested.join("index.redb");
    let error = Store::open(&blocked, &options(3)).expect_err("no directory");
    assert!(matches!(error, StoreError::Io { .. }), "{error:?}");
    assert!(
        error.to_string().contains("create the directory"),
        "{error}"
    );
    // A directory where the file should be.
    let error = refused(
        Store::open(directory.path(), &options(3)),
        directory.path(),
        "check the disk",
    );
    assert!(matches!(error, StoreError::Io { .. }), "{error:?}");
}

#[cfg(unix)]
#[test]
fn forbidden_file() {
    use std::os::unix::fs::PermissionsExt;
    let (_directory, path) = place();
    small_index(&path, false);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).expect("own file");
    if fs::File::open(&path).is_ok() {
        println!("skipped: this user may read every file");
        return;
    }
    let error = refused(
        Store::open(&path, &options(3)),
        &path,
        "read and write access",
    );
    assert!(matches!(error, StoreError::PermissionDenied { .. }));
}

#[test]
fn another_network_or_first_height() {
    let (_directory, path) = place();
    small_index(&path, false);
    let signet = StoreOptions {
        network: Network::Signet,
        ..options(3)
    };
    let error = refused(Store::open(&path, &signet), &path, "--network regtest");
    assert!(matches!(error, StoreError::WrongNetwork { .. }));
    let later = StoreOptions {
        first_height: Some(FIRST_HEIGHT + 1),
        ..options(3)
    };
    let error = refused(Store::open(&path, &later), &path, "--first-height 7");
    assert!(matches!(
        error,
        StoreError::WrongFirstHeight {
            found: FIRST_HEIGHT,
            expected: 8,
            ..
        }
    ));
}

#[test]
fn with_multiples_or_without() {
    for found in [false, true] {
        let (_directory, path) = place();
        small_index(&path, found);
        let other = Store::open(&path, &options_with(3, !found));
        let error = refused(other, &path, &format!("--multiples={found}"));
        assert!(matches!(error, StoreError::WrongMultiples { found: text, .. } if text == found));
        assert!(error.to_string().contains("--data-dir"), "{error}");
        // Nothing was changed by the attempt.
        Store::open(&path, &options_with(3, found)).expect("index");
    }
}

#[test]
fn multiples_of_an_index_without() {
    let (_directory, path) = place();
    small_index(&path, false);
    let store = Store::open(&path, &options(3)).expect("index");
    let snapshot = store.snapshot().expect("snapshot");
    let multiples = ScanColumns {
        multiples: true,
        ..ScanColumns::default()
    };
    // Whether or not the heights are there.
    for heights in [FIRST_HEIGHT..=FIRST_HEIGHT, 0..=u32::MAX] {
        let error = snapshot.scan(heights, multiples).expect_err("has none");
        assert!(matches!(error, StoreError::NoMultiples { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains(&path.display().to_string()), "{text}");
        assert!(text.contains("--multiples"), "{text}");
    }
}

#[test]
fn files_that_are_no_index() {
    let (_directory, path) = place();
    for garbage in [b"[spindex]\n".repeat(1000), vec![7; 3], vec![0; 5000]] {
        fs::write(&path, &garbage).expect("write");
        let error = refused(Store::open(&path, &options(3)), &path, "move it away");
        assert!(matches!(error, StoreError::NotAnIndex { .. }), "{error:?}");
        assert_eq!(fs::read(&path).expect("read"), garbage, "left alone");
    }

    // A database of something else.
    fs::remove_file(&path).expect("remove");
    let database = Database::create(&path).expect("create");
    let write = database.begin_write().expect("write");
    write.open_table(DIGEST).expect("table");
    write.commit().expect("commit");
    drop(database);
    let error = refused(Store::open(&path, &options(3)), &path, "move it away");
    assert!(matches!(error, StoreError::NotAnIndex { .. }));
}

#[test]
fn creation_cut_short_is_taken_up() {
    let (_directory, path) = place();
    // The engine's file exists, our first commit does not.
    let file = Summed::file(&path).expect("a file");
    drop(
        redb::Builder::new()
            .create_with_backend(file)
            .expect("create"),
    );
    let store = Store::open(&path, &options(3)).expect("initialised");
    connect(&store, &small_chain(false).chain);
    drop(store);
    // Nothing at all was written; a length; a length and a part of the head.
    let whole = fs::read(&path).expect("read");
    let mut header = vec![0; 1 << 20];
    header[..300].copy_from_slice(&whole[..300]);
    for left in [vec![], vec![0; 1 << 20], header.clone()] {
        fs::write(&path, left).expect("write");
        let store = Store::open(&path, &options(3)).expect("initialised");
        assert_eq!(store.snapshot().expect("snapshot").tip(), None);
    }
    // There is more in it than a new file has: the start of an index was overwritten, or the numbers alone.
    let (mut no_start, mut no_number) = (whole.clone(), whole.clone());
    no_start[..8192].fill(0);
    no_number[..9].fill(0);
    no_number[4096..4105].fill(0);
    for left in [no_start, no_number] {
        fs::write(&path, &left).expect("write");
        let error = refused(Store::open(&path, &options(3)), &path, "move it away");
        assert!(matches!(error, StoreError::NotAnIndex { .. }), "{error:?}");
        assert_eq!(fs::read(&path).expect("read"), left, "left alone");
    }
    // The same, but that it was an index can be seen.
    header[512] = 1;
    fs::write(&path, &header).expect("write");
    let error = refused(Store::open(&path, &options(3)), &path, "`spindex sync`");
    assert!(matches!(error, StoreError::Damaged { .. }), "{error:?}");
    assert_eq!(fs::read(&path).expect("read"), header, "left alone");
    // One copy of the head is enough.
    for page in [0, 4096] {
        let mut one = whole.clone();
        one[page..page + 4096].fill(0);
        fs::write(&path, one).expect("write");
        let store = Store::open(&path, &options(3)).expect("opens");
        store
            .snapshot()
            .expect("snapshot")
            .verify(|_| {})
            .expect("sound");
    }
}

#[test]
fn truncated_file() {
    let (_directory, path) = place();
    small_index(&path, false);
    let whole = fs::read(&path).expect("read");
    for len in [9, 100, 320, 4096, 5000, whole.len() / 2, whole.len() - 1] {
        fs::write(&path, &whole[..len]).expect("write");
        let error = refused(Store::open(&path, &options(3)), &path, "`spindex sync`");
        assert!(
            matches!(error, StoreError::Damaged { .. }),
            "{len}: {error:?}"
        );
    }
}

fn set_meta(path: &Path, name: &str, value: Option<&[u8]>) {
    tamper(path, |write| {
        let mut meta = write.open_table(META).expect("meta");
        match value {
            Some(value) => drop(meta.insert(name, value).expect("insert")),
            None => drop(meta.remove(name).expect("remove")),
        }
    });
}

#[test]
fn other_formats() {
    let (_directory, path) = place();
    small_index(&path, false);
    let version = |version: u32| version.to_le_bytes();
    set_meta(&path, "schema", Some(&version(SCHEMA_VERSION + 1)));
    let error = refused(Store::open(&path, &options(3)), &path, "newer spindex");
    assert!(matches!(error, StoreError::NewerSchema { found, .. } if found == SCHEMA_VERSION + 1));
    set_meta(&path, "schema", Some(&version(SCHEMA_OLDEST - 1)));
    let error = refused(Store::open(&path, &options(3)), &path, "`spindex sync`");
    assert!(matches!(error, StoreError::OlderSchema { found: 0, .. }));
    set_meta(&path, "schema", None);
    let error = refused(Store::open(&path, &options(3)), &path, "move it away");
    assert!(matches!(error, StoreError::NotAnIndex { .. }));
}

#[test]
fn odd_meta() {
    for (multiples, name, value) in [
        (false, "schema", Some(&b"1"[..])),
        (false, "network", Some(b"litecoin")),
        (false, "network", Some(b"\xff\xfe")),
        (false, "network", None),
        (false, "first_height", Some(b"123")),
        (false, "first_height", None),
        (false, "locator_key", Some(b"short")),
        (false, "locator_key", None),
        (false, "keep", Some(b"all")),
        (false, "keep", None),
        (false, "tweak_form", Some(b"\xff")),
        (false, "tweak_form", None),
        (false, "located", Some(b"\x01")),
        (false, "located", Some(&[0xff; 16])),
        (
            false,
            "located",
            Some(b"\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"),
        ),
        (true, "multiples", Some(b"\x20\0\0\0")),
        (true, "multiples", Some(b"\x40")),
    ] {
        let (_directory, path) = place();
        small_index(&path, multiples);
        set_meta(&path, name, value);
        let opened = Store::open(&path, &options_with(3, multiples));
        match refused(opened, &path, "`spindex sync`") {
            StoreError::Corrupt { table, key, .. } => {
                assert_eq!((table, key.as_str()), ("meta", name));
            }
            error => panic!("{name}: {error:?}"),
        }
    }
}

/// Chunks of odd length, missing chunks and surplus ones.
#[test]
fn odd_chunks_are_refused_when_opening() {
    for column in [
        TWEAKS, MULTIPLES, TXIDS, FIRSTS, OUTPUTS, SPENDS, FOREIGN, FILTERS, SPENT,
    ] {
        for change in ["shorter", "longer", "gone", "surplus"] {
            let (_directory, path) = place();
            small_index(&path, true);
            tamper(&path, |write| {
                let mut table = write.open_table(column.definition()).expect("table");
                let chunk = table.get(0).expect("row").expect("chunk").value().to_vec();
                match change {
                    "shorter" => drop(table.insert(0, &chunk[1..]).expect("insert")),
                    "longer" => {
                        drop(table.insert(0, [&chunk[..], &[0]].concat().as_slice()));
                    }
                    "gone" => drop(table.remove(0).expect("remove")),
                    _ => drop(table.insert(1, chunk.as_slice()).expect("insert")),
                }
            });
            let opened = Store::open(&path, &options_with(3, true));
            match refused(opened, &path, "`spindex sync`") {
                StoreError::Corrupt { table, .. } => assert_eq!(table, column.name()),
                error => panic!("{change}: {error:?}"),
            }
        }
    }
}

/// Rows in the middle that are odd are errors of the query that meets them, and of the check of everything.
#[test]
fn odd_rows_are_errors_not_panics() {
    type Change = fn(&redb::WriteTransaction);
    let changes: [(&str, Change); 17] = [
        ("blocks", |write| {
            let mut table = write.open_table(BLOCKS).expect("table");
            let mut row = *table.get(9).expect("row").expect("block").value();
            row[120..124].fill(0xff);
            table.insert(9, &row).expect("insert");
        }),
        ("blocks", |write| {
            let mut table = write.open_table(BLOCKS).expect("table");
            let mut row = *table.get(9).expect("row").expect("block").value();
            row[112] ^= 1;
            table.insert(9, &row).expect("insert");
        }),
        ("blocks", |write| {
            drop(write.open_table(BLOCKS).expect("table").remove(9));
        }),
        ("heights", |write| {
            let mut table = write.open_table(HEIGHTS).expect("table");
            drop(table.pop_first().expect("pop"));
        }),
        ("heights", |write| {
            let mut table = write.open_table(HEIGHTS).expect("table");
            table.insert(&[7; 12], ()).expect("insert");
        }),
        ("digest", |write| {
            let mut table = write.open_table(DIGEST).expect("table");
            table.insert(9, &[1; 32]).expect("insert");
        }),
        ("locator", |write| {
            let mut table = write.open_table(LOCATOR).expect("table");
            drop(table.pop_first().expect("pop"));
        }),
        ("locator", |write| {
            let mut table = write.open_table(LOCATOR).expect("table");
            table.insert(&[7; 10], ()).expect("insert");
        }),
        // A transaction whose outputs start behind those of the next one, or behind the block's.
        ("firsts", |write| {
            change_items(write, FIRSTS, |firsts| firsts[2..4].fill(0xff))
        }),
        ("firsts", |write| {
            change_items(write, FIRSTS, |firsts| firsts[0] = 1)
        }),
        // Outputs out of order.
        ("outputs", |write| {
            change_items(write, OUTPUTS, |items| {
                for item in items.as_chunks_mut::<41>().0 {
                    item[38..].fill(0);
                }
            });
        }),
        // A spend of an output that is not there, of one twice, of another one than the bits say.
        ("spends", |write| {
            change_items(write, SPENDS, |items| {
                held(items, 0).copy_from_slice(&[0xff, 0xff, 0xff, 0xff, 0xfe]);
            });
        }),
        ("spends", |write| {
            change_items(write, SPENDS, |items| {
                let first = *held(items, 0);
                *held(items, 1) = first;
            });
        }),
        ("spends", |write| {
            change_items(write, SPENDS, |items| held(items, 0).fill(0xff));
        }),
        // Unspent by its bit, but not to be found.
        ("locator", |write| {
            change_items(write, SPENT, |bits| {
                let set = bits.iter_mut().find(|bits| **bits != 0);
                let set = set.expect("something is spent");
                *set &= *set - 1;
            });
        }),
        // Spent by its bit and not to be found, but no block spends it.
        ("spent", |write| {
            let mut table = write.open_table(LOCATOR).expect("table");
            let (key, _) = table.pop_first().expect("pop").expect("a row");
            let (_, position) = split_locator_key(key.value());
            let mut table = write.open_table(SPENT.definition()).expect("table");
            let mut bits = table.get(0).expect("row").expect("chunk").value().to_vec();
            bits[position as usize / 8] |= 1 << (position % 8);
            table.insert(0, bits.as_slice()).expect("insert");
        }),
        // The last spend is of another output than the bits say.
        ("spent", |write| {
            let table = write.open_table(SPENT.definition()).expect("table");
            let bits = table.get(0).expect("row").expect("chunk").value().to_vec();
            let unspent = (0..).find(|position| bits[position / 8] >> (position % 8) & 1 == 0);
            let unspent = SpendItem::Held(unspent.expect("something is unspent") as u64);
            let mut table = write.open_table(SPENDS.definition()).expect("table");
            let mut items = table.get(0).expect("row").expect("chunk").value().to_vec();
            let last = items.as_chunks_mut::<5>().0.iter_mut();
            let last = last.rev().find(|item| **item != [0xff; 5]);
            *last.expect("the generator spends outputs") = unspent.encode();
            table.insert(0, items.as_slice()).expect("insert");
        }),
    ];
    for (index, (expected, change)) in changes.into_iter().enumerate() {
        let (_directory, path) = place();
        let model = small_index(&path, false);
        tamper(&path, change);
        // What is seen without reading everything is refused.
        match Store::open(&path, &options(3)) {
            Ok(_) => {}
            Err(StoreError::Corrupt { table, .. }) => {
                assert_eq!((table, expected), ("blocks", "blocks"));
            }
            Err(error) => panic!("{index}: {error}"),
        }
        let (store, _) = Store::open_to_check(&path, &options(3)).expect("readable");
        let snapshot = store.snapshot().expect("snapshot");
        match snapshot.content_hash() {
            Err(StoreError::Corrupt { table, file, .. }) => {
                assert_eq!(table, expected, "{index}");
                assert_eq!(file, path);
            }
            other => panic!("{index}: {other:?}"),
        }
        // Every query gives an answer or an error.
        for record in &model.chain {
            let height = record.id.height;
            for filter in store_support::row_filters() {
                let _ = snapshot.tweaks(height, filter);
                let _ = snapshot.tweak_list(height, filter);
                let _ = snapshot.utxos(height, filter);
            }
            let _ = (snapshot.spends(height), snapshot.spent_positions(height));
            let _ = (snapshot.spent_filter(height), snapshot.block(height));
        }
        let refused = scan_everything(&snapshot, &model);
        if expected == "outputs" || expected == "firsts" {
            assert!(matches!(
                refused,
                Some(StoreError::Corrupt { table, .. }) if table == expected
            ));
        }
        // And an update over it is refused or leaves the rest as it was, but never goes on with half of it.
        let _ = store.apply(Update {
            disconnect: 3,
            connect: &[],
        });
    }
}

fn change_items(write: &redb::WriteTransaction, column: Column, change: fn(&mut [u8])) {
    let mut table = write.open_table(column.definition()).expect("table");
    let mut chunk = table.get(0).expect("row").expect("chunk").value().to_vec();
    change(&mut chunk);
    table.insert(0, chunk.as_slice()).expect("insert");
}

/// The item of `spends` that is the n-th position.
fn held(items: &mut [u8], n: usize) -> &mut [u8; 5] {
    let items = items.as_chunks_mut::<5>().0.iter_mut();
    let mut held = items.filter(|item| **item != [0xff; 5]);
    held.nth(n).expect("the generator spends outputs")
}

/// Scans every range of heights and looks every position up; returns an error that occurred, if any did. What is given
/// out fits together.
fn scan_everything(snapshot: &Snapshot, model: &Model) -> Option<StoreError> {
    let columns = ScanColumns {
        multiples: model.multiples,
        short_keys: true,
        ..ScanColumns::default()
    };
    let mut refused = None;
    let end = FIRST_HEIGHT + model.chain.len() as u32;
    for from in FIRST_HEIGHT..end {
        for to in from..end {
            match snapshot.scan(from..=to, columns) {
                Ok(None) => {}
                Ok(Some(mut scan)) => {
                    while let Some(batch) = scan.next() {
                        match batch {
                            Ok(batch) => {
                                assert!((1..=4080).contains(&batch.tweaks.len()));
                                assert_eq!(batch.tweaks.len(), batch.ends.len());
                                assert!(batch.ends.is_sorted());
                                assert_eq!(
                                    batch.ends.last().copied(),
                                    Some(batch.keys.len() as u32)
                                );
                            }
                            Err(error) => {
                                assert!(scan.next().is_none(), "an error ends it");
                                refused = Some(error);
                            }
                        }
                    }
                }
                Err(error) => refused = Some(error),
            }
        }
    }
    for position in (0..30).chain([1 << 31, u64::MAX]) {
        refused = snapshot.block_of(position).err().or(refused);
        refused = snapshot.transaction(position).err().or(refused);
    }
    refused
}

/// Directory rows and outputs with any byte changed, singly and several at once.
#[test]
fn scans_over_odd_bytes_are_errors_not_panics() {
    let (_directory, path) = place();
    let model = small_index(&path, true);
    let sound = fs::read(&path).expect("read");
    let mut refusals = 0;
    for seed in 0..150 {
        let mut rng = StdRng::seed_from_u64(seed);
        fs::write(&path, &sound).expect("write");
        tamper(&path, |write| {
            let mut blocks = write.open_table(BLOCKS).expect("table");
            for _ in 0..rng.gen_range(0..4) {
                // Not the last row, which opening checks.
                let height = rng.gen_range(FIRST_HEIGHT..FIRST_HEIGHT + 5);
                let mut row = *blocks.get(height).expect("row").expect("block").value();
                // Spans that are a little off, and wildly off.
                let at = *[112, 113, 116, 120, 121, 124, 125, 128, 132, 133, 134]
                    .choose(&mut rng)
                    .expect("one");
                row[at] ^= rng.gen_range(1..=255_u8) >> rng.gen_range(0..8);
                blocks.insert(height, &row).expect("insert");
            }
            let mut firsts = write.open_table(FIRSTS.definition()).expect("table");
            let mut chunk = firsts.get(0).expect("row").expect("chunk").value().to_vec();
            for _ in 0..rng.gen_range(0..3) {
                let at = rng.gen_range(0..chunk.len());
                chunk[at] = rng.gen_range(0..20);
            }
            firsts.insert(0, chunk.as_slice()).expect("insert");
        });
        let store = Store::open(&path, &options_with(3, true)).expect("the ends are sound");
        let snapshot = store.snapshot().expect("snapshot");
        refusals += usize::from(scan_everything(&snapshot, &model).is_some());
    }
    assert!(refusals > 100, "{refusals}");
}

fn assert_refused(store: &Store, update: Update<'_>, expected: fn(&StoreError) -> bool) {
    let before = content(store);
    let error = store.apply(update).expect_err("must be refused");
    assert!(expected(&error), "{error:?}");
    assert_eq!(content(store), before, "nothing was written");
}

#[test]
fn updates_that_do_not_fit() {
    let model = small_chain(false);
    let store = memory_store(2);
    fn update(connect: &[BlockRecord]) -> Update<'_> {
        Update {
            disconnect: 0,
            connect,
        }
    }
    let not_a_child = |error: &StoreError| matches!(error, StoreError::NotAChild { .. });
    let wrong_start = |error: &StoreError| matches!(error, StoreError::WrongStart { .. });
    let invalid = |error: &StoreError| matches!(error, StoreError::InvalidRecord { .. });

    assert_eq!(store.apply(update(&[])).expect("nothing to do"), None);
    assert_refused(&store, update(&model.chain[1..]), wrong_start);
    let gap = [model.chain[0].clone(), model.chain[2].clone()];
    assert_refused(&store, update(&gap), not_a_child);
    connect(&store, &model.chain[..2]);
    assert_refused(&store, update(&model.chain[..1]), not_a_child);
    assert_refused(&store, update(&model.chain[1..2]), not_a_child);
    assert_refused(&store, update(&model.chain[3..]), not_a_child);
    assert_refused(
        &store,
        Update {
            disconnect: 3,
            connect: &[],
        },
        |error| matches!(error, StoreError::UndoExhausted { available: 2, .. }),
    );

    let changes: [fn(&mut BlockRecord); 9] = [
        |record| record.outputs[0].value_sat = VALUE_MAX + 1,
        |record| record.outputs[0].vout = VOUT_MAX + 1,
        |record| {
            // More outputs than `firsts` can count.
            record.outputs = (0..=u32::from(u16::MAX))
                .map(|vout| OutputRow {
                    vout,
                    transaction: 0,
                    ..record.outputs[0]
                })
                .collect();
        },
        |record| record.multiples.push([1; 64]),
        |record| record.id.hash = BlockHash::all_zeros(),
        |record| {
            let output = record.outputs[0].clone();
            record.outputs.push(OutputRow {
                transaction: record.transactions.len() as u32,
                ..output
            });
        },
        |record| record.outputs.push(record.outputs[0].clone()),
        |record| record.outputs.reverse(),
        |record| {
            // Two transactions of one txid, with one outpoint twice.
            let (row, output) = (record.transactions[0].clone(), record.outputs[0].clone());
            record.transactions = vec![row.clone(), row];
            let second = OutputRow {
                transaction: 1,
                ..output.clone()
            };
            record.outputs = vec![
                OutputRow {
                    transaction: 0,
                    ..output
                },
                second,
            ];
        },
    ];
    let next = (2..model.chain.len()).find(|&index| model.chain[index].outputs.len() > 1);
    let next = next.expect("the generator gives one block some outputs");
    connect(&store, &model.chain[2..next]);
    let rest = &model.chain[next..];
    let next = rest[0].clone();
    for change in changes {
        let mut record = next.clone();
        change(&mut record);
        assert_refused(&store, update(std::slice::from_ref(&record)), invalid);
    }
    // None of this stops the store.
    connect(&store, rest);
    assert_eq!(store.snapshot().expect("snapshot").tip(), model.tip());

    // As many multiples as transactions, or none at all.
    let with = small_chain(true);
    let store = memory_store_with(2, true);
    assert_refused(&store, update(&model.chain), invalid);
    for change in [
        |multiples: &mut Vec<[u8; 64]>| multiples.truncate(multiples.len() - 1),
        |multiples: &mut Vec<[u8; 64]>| multiples.push([1; 64]),
    ] {
        let mut chain = with.chain.clone();
        let record = chain
            .iter_mut()
            .rfind(|record| !record.multiples.is_empty());
        change(&mut record.expect("some transaction").multiples);
        assert_refused(&store, update(&chain), invalid);
    }
    connect(&store, &with.chain);
    let store = memory_store(2);
    assert_refused(&store, update(&with.chain), invalid);
}

/// Handles and errors go to other threads.
#[test]
fn handles_are_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Store>();
    shared::<spindex::store::Snapshot>();
    shared::<StoreError>();
}
