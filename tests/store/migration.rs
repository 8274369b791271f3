//! Files of older formats: what they become, and what is left when that fails.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use bitcoin::Network;
use redb::{ReadableDatabase, ReadableTable, TableDefinition, TableHandle};
use spindex::store::schema::{DIGEST, META, SCHEMA_VERSION};
use spindex::store::{Keep, Store, StoreError, StoreOptions, TweakForm, Update};

use crate::support::{
    FIRST_HEIGHT, Model, assert_equal, connect, content, engine, memory_store_with, options,
    options_with, place, points, released_chain, tamper,
};

/// Format, multiples, the packed file of [`released_chain`].
const RELEASED: [(u32, bool, &[u8]); 2] = [
    (
        1,
        false,
        include_bytes!("../../fixtures/store/format-1-chain.redb.zst"),
    ),
    (
        2,
        true,
        include_bytes!("../../fixtures/store/format-2-chain.redb.zst"),
    ),
];

/// Files of rows that no chain has: amounts and keys that contradict each other.
const IMPOSSIBLE: [(u32, bool, &[u8]); 2] = [
    (
        1,
        false,
        include_bytes!("../../fixtures/store/format-1.redb.zst"),
    ),
    (
        2,
        true,
        include_bytes!("../../fixtures/store/format-2.redb.zst"),
    ),
];

/// Multiples, the packed file of [`released_chain`] in format 4.
const WITHOUT_SUMS: [(bool, &[u8]); 2] = [
    (
        false,
        include_bytes!("../../fixtures/store/format-4-chain.redb.zst"),
    ),
    (
        true,
        include_bytes!("../../fixtures/store/format-4-chain-multiples.redb.zst"),
    ),
];

/// [`released_chain`] in format 4 and in format 5, the last four blocks of which have no locators yet.
const UNLOCATED: [&[u8]; 2] = [
    include_bytes!("../../fixtures/store/format-4-unlocated.redb.zst"),
    include_bytes!("../../fixtures/store/format-5-unlocated.redb.zst"),
];

pub(crate) fn unpack(packed: &[u8], path: &Path) {
    let file = zstd::decode_all(packed).expect("zstd");
    fs::write(path, file).expect("write");
}

/// What the file does not say is taken from it.
pub(crate) fn unsaid() -> StoreOptions {
    StoreOptions {
        first_height: None,
        tweak_form: None,
        ..options(3)
    }
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    path.with_file_name(format!("index.redb.{ending}"))
}

pub(crate) fn left(path: &Path) -> Vec<String> {
    let directory = fs::read_dir(path.parent().expect("a directory")).expect("directory");
    let names = directory.map(|entry| entry.expect("entry").file_name());
    let mut names: Vec<String> = names
        .map(|name| name.into_string().expect("text"))
        .collect();
    names.sort_unstable();
    names
}

pub(crate) fn format_of(path: &Path) -> u32 {
    let database = engine(path);
    let read = database.begin_read().expect("read");
    let meta = read.open_table(META).expect("meta");
    let schema = meta.get("schema").expect("meta").expect("schema");
    u32::from_le_bytes(schema.value().try_into().expect("4 bytes"))
}

pub(crate) fn set_format(path: &Path, format: u32) {
    tamper(path, |write| {
        let mut meta = write.open_table(META).expect("meta");
        let number = format.to_le_bytes();
        meta.insert("schema", number.as_slice()).expect("schema");
    });
}

/// An index of the chain that was never anything else.
pub(crate) fn fresh(model: &Model) -> Store {
    let store = memory_store_with(3, model.multiples);
    connect(&store, &model.chain);
    store
}

/// Opening migrates; the result is what a sync would have built, row by row.
pub(crate) fn check_migrated(path: &Path, model: &Model) {
    check_migrated_with(&unsaid(), path, model);
}

fn check_migrated_with(options: &StoreOptions, path: &Path, model: &Model) {
    let store = Store::open_existing(path, options).expect("migrated");
    assert_eq!(store.keep(), Keep::Full);
    assert_eq!(store.tweak_form(), points(model.multiples));
    // Who spends what follows from none of the old rows.
    let model = &model.clone().without_spenders();
    let snapshot = store.snapshot().expect("snapshot");
    let spenders_from = model.tip().map(|tip| tip.height + 1);
    assert_eq!(snapshot.spenders_from(), spenders_from);
    assert_equal(&snapshot, model);
    assert_eq!(content(&store), content(&fresh(model)));
}

#[test]
fn older_files_become_what_a_sync_would_have_built() {
    for (format, multiples, packed) in RELEASED {
        let (_directory, path) = place();
        unpack(packed, &path);
        assert_eq!(format_of(&path), format);
        let mut model = released_chain(multiples).without_spenders();
        check_migrated(&path, &model);
        assert_eq!(format_of(&path), SCHEMA_VERSION);

        // The old one stays until the new one is opened again.
        let kept = beside(&path, &format!("format{format}"));
        assert_eq!(
            left(&path),
            ["index.redb", &format!("index.redb.format{format}")]
        );
        assert_eq!(format_of(&kept), format);
        let store = Store::open(&path, &options_with(5, multiples)).expect("index");
        assert_eq!(left(&path), ["index.redb"]);

        // It goes on, and goes back further than the old file could.
        model.disconnect(5);
        let at = model.chain.len();
        for seed in 0..3 {
            model.grow(seed, crate::support::MEDIUM);
        }
        let update = Update {
            disconnect: 5,
            connect: &model.chain[at..],
        };
        store.apply(update).expect("a reorg");
        let snapshot = store.snapshot().expect("snapshot");
        assert_equal(&snapshot, &model);
        // From the first new block on they are known.
        let first_new = model.chain[at].id.height;
        assert_eq!(snapshot.spenders_from(), Some(first_new));
        drop(snapshot);
        assert_eq!(content(&store), content(&fresh(&model)));
    }
}

/// Files of format 4, whose tables are those of this one, and of format 3, which is the same when nothing is left to be
/// located.
#[test]
fn files_without_sums_are_copied_page_by_page() {
    for (multiples, packed) in WITHOUT_SUMS {
        for format in [3, 4] {
            let (_directory, path) = place();
            unpack(packed, &path);
            if format == 3 {
                set_format(&path, 3);
            }
            assert_eq!(format_of(&path), format);
            let model = released_chain(multiples);
            check_migrated(&path, &model);
            assert_eq!(format_of(&path), SCHEMA_VERSION);
            let bytes = fs::read(&path).expect("file");
            assert!(bytes.starts_with(b"spindex\n") && bytes.len().is_multiple_of(4096));
            let old = format!("index.redb.format{format}");
            assert_eq!(left(&path), ["index.redb", &old]);
            drop(Store::open(&path, &unsaid()).expect("index"));
            assert_eq!(left(&path), ["index.redb"]);
        }
    }
}

/// What a long sync has left of the locator goes with the pages.
#[test]
fn a_file_in_the_middle_of_a_long_sync_is_copied_as_it_is() {
    for packed in UNLOCATED {
        let (_directory, path) = place();
        unpack(packed, &path);
        let store = Store::open_existing(&path, &unsaid()).expect("migrated");
        let locating = store.snapshot().expect("snapshot").locating();
        assert!(locating.is_some_and(|locating| locating.outputs < locating.of));
        store.locate_rest(|_| true).expect("locators");
        drop(store);
        check_migrated(&path, &released_chain(false));
    }
}

/// A bit that has flipped in a file without sums does not become what its sum vouches for.
#[test]
fn a_flipped_bit_is_not_copied() {
    let (_directory, path) = place();
    let (_, packed) = WITHOUT_SUMS[0];
    unpack(packed, &path);
    let whole = fs::read(&path).expect("file");
    let model = released_chain(false);
    let txid = model.chain[4].transactions[0].txid;
    let txid: &[u8] = txid.as_ref();
    let at = whole.windows(32).position(|bytes| bytes == txid);
    let mut flipped = whole;
    flipped[at.expect("its txid is in the file") + 5] ^= 4;
    fs::write(&path, &flipped).expect("write");
    match Store::open_existing(&path, &unsaid()) {
        Err(StoreError::MigrationFailed { found, source, .. }) => {
            assert_eq!(found, 4);
            assert!(matches!(*source, StoreError::Damaged { .. }), "{source:?}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(format_of(&path), 4);
}

/// Whatever an earlier attempt has left of a copy.
#[test]
fn a_copy_that_was_cut_short_starts_again() {
    let (_directory, path) = place();
    let (multiples, packed) = WITHOUT_SUMS[1];
    unpack(packed, &path);
    let model = released_chain(multiples);
    drop(Store::open_existing(&path, &unsaid()).expect("migrated"));
    let whole = fs::read(&path).expect("file");
    let mut no_head = whole.clone();
    no_head[..8192].fill(0);
    for left in [vec![], whole[..50_000].to_vec(), no_head, whole] {
        unpack(packed, &path);
        fs::write(beside(&path, "migrating"), left).expect("write");
        check_migrated(&path, &model);
    }
}

#[test]
fn an_empty_older_file() {
    for (format, multiples, packed) in RELEASED {
        let (_directory, path) = place();
        unpack(packed, &path);
        tamper(&path, |write| {
            for name in ["blocks", "heights", "digest", "undo", "locator"] {
                empty(write, name);
            }
            for name in ["tweaks", "txids", "outputs", "spends", "filters", "spent"] {
                empty(write, name);
            }
            if multiples {
                empty(write, "multiples");
            }
        });
        assert_eq!(format_of(&path), format);
        // Without a block it is bound to nothing that it was created with.
        check_migrated_with(&options(3), &path, &Model::new(false));
    }
}

/// Every row of a file of an older format. The engine's own pages may differ: opening a file writes there.
fn rows(path: &Path) -> Vec<(String, Vec<u8>, Vec<u8>)> {
    let database = engine(path);
    let read = database.begin_read().expect("read");
    let mut rows = Vec::new();
    for handle in read.list_tables().expect("tables") {
        let name = handle.name();
        match name {
            "meta" => collect(&read, META, &mut rows),
            "blocks" => collect(&read, OLD_BLOCKS, &mut rows),
            "digest" => collect(&read, DIGEST, &mut rows),
            "heights" => collect(&read, OLD_HEIGHTS, &mut rows),
            "locator" => collect(&read, OLD_LOCATOR, &mut rows),
            _ => collect(&read, TableDefinition::<u32, &[u8]>::new(name), &mut rows),
        }
    }
    assert!(rows.len() > 20, "{}", rows.len());
    rows
}

fn collect<K: redb::Key + 'static, V: redb::Value + 'static>(
    read: &redb::ReadTransaction,
    definition: TableDefinition<'_, K, V>,
    rows: &mut Vec<(String, Vec<u8>, Vec<u8>)>,
) {
    let table = read.open_table(definition).expect("table");
    for row in table.iter().expect("rows") {
        let (key, value) = row.expect("row");
        rows.push((
            definition.name().to_owned(),
            K::as_bytes(&key.value()).as_ref().to_vec(),
            V::as_bytes(&value.value()).as_ref().to_vec(),
        ));
    }
}

const OLD_BLOCKS: TableDefinition<'_, u32, &[u8; 164]> = TableDefinition::new("blocks");
const OLD_HEIGHTS: TableDefinition<'_, &[u8; 32], u32> = TableDefinition::new("heights");
const OLD_LOCATOR: TableDefinition<'_, &[u8; 13], ()> = TableDefinition::new("locator");

/// Deletes a table's rows, whatever their types.
fn empty(write: &redb::WriteTransaction, name: &str) {
    match name {
        "blocks" => retain_none(write, OLD_BLOCKS),
        "digest" => retain_none(write, DIGEST),
        "heights" => retain_none(write, OLD_HEIGHTS),
        "locator" => retain_none(write, OLD_LOCATOR),
        _ => retain_none(write, TableDefinition::<u32, &[u8]>::new(name)),
    }
}

fn retain_none<K: redb::Key + 'static, V: redb::Value + 'static>(
    write: &redb::WriteTransaction,
    table: TableDefinition<'_, K, V>,
) {
    let mut table = write.open_table(table).expect("table");
    table.retain(|_, _| false).expect("rows");
}

#[test]
fn wrong_options_are_refused_before_anything_is_written() {
    let (format, multiples, packed) = RELEASED[0];
    let (_directory, path) = place();
    unpack(packed, &path);
    let before = rows(&path);
    let wrong = [
        StoreOptions {
            network: Network::Signet,
            ..unsaid()
        },
        StoreOptions {
            first_height: Some(FIRST_HEIGHT + 1),
            ..unsaid()
        },
        options_with(3, !multiples),
        StoreOptions {
            keep: Some(Keep::Tweaks),
            ..unsaid()
        },
        StoreOptions {
            tweak_form: Some(TweakForm::Compressed),
            ..unsaid()
        },
    ];
    for options in wrong {
        let error = Store::open(&path, &options).expect_err("refused");
        assert!(
            matches!(
                error,
                StoreError::WrongNetwork { .. }
                    | StoreError::WrongFirstHeight { .. }
                    | StoreError::WrongKeep { .. }
                    | StoreError::WrongTweakForm { .. }
            ),
            "{error:?}"
        );
        assert_eq!(left(&path), ["index.redb"]);
    }
    assert_eq!(format_of(&path), format);
    assert!(rows(&path) == before, "the old file changed");
}

/// The error of opening a file that cannot be migrated, which is left as it was.
fn refused(path: &Path, format: u32) -> StoreError {
    let before = rows(path);
    let error = Store::open(path, &unsaid()).expect_err("must be refused");
    let text = error.to_string();
    assert!(text.contains(&path.display().to_string()), "{text}");
    assert!(text.contains("left as it was"), "{text}");
    let StoreError::MigrationFailed { found, source, .. } = error else {
        panic!("{error:?}");
    };
    assert_eq!(found, format);
    assert!(text.contains(&source.to_string()), "{text}");
    assert!(rows(path) == before, "the old file changed");
    assert_eq!(left(path), ["index.redb"]);
    *source
}

#[test]
fn rows_that_no_chain_has_are_refused() {
    for (format, _, packed) in IMPOSSIBLE {
        let (_directory, path) = place();
        unpack(packed, &path);
        for _ in 0..2 {
            let source = refused(&path, format);
            assert!(
                matches!(source, StoreError::InvalidRecord { .. }),
                "{source:?}"
            );
        }
    }
}

#[test]
fn damaged_older_files_are_refused_and_left_as_they_are() {
    type Change = fn(&redb::WriteTransaction);
    const UNDO: TableDefinition<'_, u32, &[u8]> = TableDefinition::new("undo");
    const OUTPUTS: TableDefinition<'_, u32, &[u8]> = TableDefinition::new("outputs");
    let tip = FIRST_HEIGHT + 7;
    assert_eq!(released_chain(false).tip().map(|tip| tip.height), Some(tip));
    let changes: [(&str, Change); 6] = [
        ("digest", |write| {
            let mut table = write.open_table(DIGEST).expect("table");
            table.insert(FIRST_HEIGHT + 7, &[1; 32]).expect("insert");
        }),
        ("undo", |write| {
            let mut table = write.open_table(UNDO).expect("table");
            table
                .insert(FIRST_HEIGHT + 6, [0; 5].as_slice())
                .expect("insert");
        }),
        ("locator", |write| {
            let mut table = write.open_table(OLD_LOCATOR).expect("table");
            table.insert(&[7; 13], ()).expect("insert");
        }),
        ("blocks", |write| {
            let mut table = write.open_table(OLD_BLOCKS).expect("table");
            drop(table.remove(FIRST_HEIGHT + 3));
        }),
        ("blocks", |write| {
            let mut table = write.open_table(OLD_BLOCKS).expect("table");
            let row = *table
                .get(FIRST_HEIGHT + 3)
                .expect("row")
                .expect("block")
                .value();
            let mut odd = row;
            odd[120..124].fill(0xff);
            table.insert(FIRST_HEIGHT + 3, &odd).expect("insert");
        }),
        ("outputs", |write| {
            let mut table = write.open_table(OUTPUTS).expect("table");
            let mut chunk = table.get(0).expect("row").expect("chunk").value().to_vec();
            chunk[44..48].fill(0xff);
            table.insert(0, chunk.as_slice()).expect("insert");
        }),
    ];
    for (format, _, packed) in RELEASED {
        for (expected, change) in changes {
            let (_directory, path) = place();
            unpack(packed, &path);
            tamper(&path, change);
            match refused(&path, format) {
                StoreError::Corrupt { table, file, .. } => {
                    assert_eq!((table, file), (expected, path));
                }
                error => panic!("{expected}: {error:?}"),
            }
        }
    }
}

/// Whatever an earlier attempt has left.
#[test]
fn an_interrupted_migration_goes_on_or_starts_again() {
    for (_, multiples, packed) in RELEASED {
        let model = released_chain(multiples).without_spenders();
        let mut other = model.clone();
        other.disconnect(4);
        for seed in 0..4 {
            other.grow(seed, crate::support::SMALL);
        }
        let build = |path: &Path, model: &Model, blocks: usize| {
            let store = Store::open(path, &options_with(3, model.multiples)).expect("new index");
            connect(&store, &model.chain[..blocks]);
        };
        type Leave<'a> = Box<dyn Fn(&Path) + 'a>;
        let leaves: Vec<Leave<'_>> = vec![
            Box::new(|path| build(path, &model, 0)),
            Box::new(|path| build(path, &model, 5)),
            Box::new(|path| build(path, &model, model.chain.len())),
            Box::new(|path| build(path, &other, 6)),
            Box::new(|path| build(path, &other, other.chain.len())),
            Box::new(|path| build(path, &Model::new(!multiples), 0)),
            Box::new(|path| fs::write(path, []).expect("write")),
            Box::new(|path| fs::write(path, [0; 5000]).expect("write")),
            Box::new(|path| fs::write(path, [7; 5000]).expect("write")),
            Box::new(|path| unpack(packed, path)),
        ];
        for leave in leaves {
            let (_directory, path) = place();
            unpack(packed, &path);
            leave(&beside(&path, "migrating"));
            check_migrated(&path, &model);
        }
    }
}

/// The machine stops between the two renames.
#[test]
fn a_swap_cut_short_is_ended() {
    for (format, multiples, packed) in RELEASED {
        let (_directory, path) = place();
        unpack(packed, &path);
        drop(Store::open(&path, &unsaid()).expect("migrated"));
        fs::rename(&path, beside(&path, "migrating")).expect("rename");
        assert!(beside(&path, &format!("format{format}")).exists());
        // The new file may be unfinished, so the old one is migrated to the end.
        check_migrated(&path, &released_chain(multiples));
        assert!(!beside(&path, "migrating").exists());
        check_migrated(&path, &released_chain(multiples));
        assert_eq!(left(&path), ["index.redb"]);
        // Without an old file beside it, it is not known to be complete.
        fs::rename(&path, beside(&path, "migrating")).expect("rename");
        let missing = Store::open_existing(&path, &unsaid());
        assert!(matches!(missing, Err(StoreError::Missing { .. })));
    }
}

/// Files can grow to so many KiB only: the process is told so, or killed.
#[cfg(unix)]
#[test]
fn a_full_disk_or_a_kill_leaves_the_old_file() {
    for (format, multiples, packed) in RELEASED {
        let mut outcomes = Vec::new();
        for limit_kib in [1, 200, 600, 1_100, 1_500, 2_200, 100_000] {
            for killed in [false, true] {
                let directory = tempfile::tempdir().expect("temporary directory");
                let folder = directory.path().join("regtest");
                fs::create_dir(&folder).expect("directory");
                let path = folder.join("index.redb");
                unpack(packed, &path);
                let before = rows(&path);
                let trap = if killed { "" } else { "trap '' XFSZ; " };
                // The shell counts in blocks of 512 bytes. No machine has this address, so the server ends once the
                // index is open.
                let script = format!(
                    "{trap}ulimit -c 0; ulimit -f {}; exec \"$@\"",
                    2 * limit_kib
                );
                let output = Command::new("sh")
                    .args(["-c", &script, "sh", env!("CARGO_BIN_EXE_spindex")])
                    .args([
                        "serve",
                        "--network",
                        "regtest",
                        "--http-bind",
                        "192.0.2.1:9",
                    ])
                    .arg("--data-dir")
                    .arg(directory.path())
                    .output()
                    .expect("a shell");
                let text = String::from_utf8_lossy(&output.stderr).into_owned();
                let is_migrated = text.contains("cannot listen on");
                assert!(!output.status.success());
                if is_migrated {
                    assert_eq!(format_of(&path), SCHEMA_VERSION, "{text}");
                } else {
                    assert_eq!(format_of(&path), format, "{limit_kib}: {text}");
                    assert!(rows(&path) == before, "{limit_kib}");
                    if !killed {
                        assert!(text.contains("free some space"), "{limit_kib}: {text}");
                        // With less than this not even the old file can be opened.
                        if limit_kib > 300 {
                            assert!(text.contains("left as it was"), "{limit_kib}: {text}");
                        }
                    }
                }
                outcomes.push((killed, is_migrated));
                check_migrated(&path, &released_chain(multiples));
            }
        }
        for outcome in [(false, false), (false, true), (true, false), (true, true)] {
            assert!(outcomes.contains(&outcome), "{outcome:?} never happened");
        }
    }
}
