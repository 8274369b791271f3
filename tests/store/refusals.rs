//! Files and updates that must be refused, each with a text that names the cure.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use bitcoin::hashes::Hash;
use bitcoin::{BlockHash, Network, OutPoint, Txid};
use redb::Database;
use spindex::store::schema::{DIGEST, META, SCHEMA_OLDEST, SCHEMA_VERSION, VALUE_MAX, VOUT_MAX};
use spindex::store::{
    Applied, BlockRecord, OutputRow, ScanColumns, Spender, StateRow, Store, StoreError,
    StoreOptions, Summed, Update,
};

use crate::support::{
    FIRST_HEIGHT, connect, content, memory_store, memory_store_with, options, options_with, place,
    points, small_chain, small_index, tamper,
};

/// The error, whose text must name the file and a cure.
pub(crate) fn refused(result: Result<Store, StoreError>, path: &Path, cure: &str) -> StoreError {
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
        let cure = format!("pass --tweak-form {},", points(found).name());
        let error = refused(other, &path, &cure);
        assert!(
            matches!(error, StoreError::WrongTweakForm { found: text, .. } if text == points(found))
        );
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
        assert!(text.contains("--tweak-form point-and-multiple"), "{text}");
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
            .content_hash()
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

/// Two records say how tweaks are stored, and one of them excludes the other.
#[test]
fn multiples_of_compressed_tweaks() {
    let (_directory, path) = place();
    small_index(&path, true);
    set_meta(&path, "tweak_form", Some(b"compressed"));
    match refused(
        Store::open(&path, &options_with(3, true)),
        &path,
        "`spindex sync`",
    ) {
        StoreError::Corrupt {
            table, key, reason, ..
        } => {
            assert_eq!((table, key.as_str()), ("meta", "multiples"));
            assert!(reason.contains("compressed"), "{reason}");
        }
        error => panic!("{error:?}"),
    }
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
        (false, "tweak_form", Some(b"point-and-multiple")),
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
    fn state(transaction: u16, vout: u32) -> StateRow {
        StateRow {
            transaction,
            vout,
            txid: Txid::all_zeros(),
            state_id: [1; 32],
        }
    }
    fn spender(record: &BlockRecord) -> u16 {
        record.spends[0].spender.expect("known").transaction
    }
    let not_a_child = |error: &StoreError| matches!(error, StoreError::NotAChild { .. });
    let wrong_start = |error: &StoreError| matches!(error, StoreError::WrongStart { .. });
    let invalid = |error: &StoreError| matches!(error, StoreError::InvalidRecord { .. });

    assert_eq!(
        store.apply(update(&[])).expect("nothing to do"),
        Applied::default()
    );
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

    let changes: [fn(&mut BlockRecord); 15] = [
        |record| record.spends[0].spender = None,
        |record| record.spends.reverse(),
        |record| {
            let last = record.spends.last_mut().expect("a spend");
            last.spender = Some(Spender {
                transaction: u16::MAX,
                input: 0,
            });
        },
        |record| record.states.push(state(59_999, 0)),
        |record| {
            let transaction = spender(record);
            record.states = vec![state(transaction, 2), state(transaction, 2)];
        },
        |record| record.states = vec![state(spender(record), VOUT_MAX + 1)],
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
    let next = (2..model.chain.len()).find(|&index| {
        let record = &model.chain[index];
        record.outputs.len() > 1 && record.spends.len() > 1
    });
    let next = next.expect("the generator gives one block some outputs and spends");
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

/// Whether the output was there before or comes with the same update.
#[test]
fn spends_with_another_key_are_refused() {
    let model = small_chain(false);
    let held: BTreeSet<OutPoint> = (model.outputs().into_iter())
        .map(|(outpoint, _)| outpoint)
        .collect();
    fn update(connect: &[BlockRecord]) -> Update<'_> {
        Update {
            disconnect: 0,
            connect,
        }
    }
    let invalid = |error: &StoreError| {
        let text = error.to_string();
        matches!(error, StoreError::InvalidRecord { .. }) && text.contains("the key begins with")
    };
    let (at_once, one_by_one) = (memory_store(2), memory_store(2));
    let mut refused = 0;
    for (at, record) in model.chain.iter().enumerate() {
        for (spend, row) in record.spends.iter().enumerate() {
            if !held.contains(&row.outpoint) {
                continue;
            }
            let mut chain = model.chain.clone();
            chain[at].spends[spend].key_prefix[7] ^= 1;
            assert_refused(&at_once, update(&chain), invalid);
            assert_refused(&one_by_one, update(&chain[at..=at]), invalid);
            refused += 1;
        }
        connect(&one_by_one, std::slice::from_ref(record));
    }
    assert!(refused > 5, "{refused}");
    connect(&at_once, &model.chain);
}

/// Handles and errors go to other threads.
#[test]
fn handles_are_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Store>();
    shared::<spindex::store::Snapshot>();
    shared::<StoreError>();
}
