//! Files of formats 5 and 6, whose pages have sums already: what is new is added to a copy.

use redb::TableHandle;
use spindex::store::schema::SCHEMA_VERSION;
use spindex::store::{Keep, Store, StoreOptions, TweakForm, Update};

use super::migration::{check_migrated, format_of, fresh, left, set_format, unpack, unsaid};
use crate::support::{assert_equal, connect, content, options, place, released_chain, tamper};

/// Multiples, the packed file of [`released_chain`] in format 5.
const WITH_SUMS: [(bool, &[u8]); 2] = [
    (
        false,
        include_bytes!("../../fixtures/store/format-5-chain.redb.zst"),
    ),
    (
        true,
        include_bytes!("../../fixtures/store/format-5-chain-multiples.redb.zst"),
    ),
];

/// Multiples, the packed file of [`released_chain`] in format 6.
const WITH_HEADS: [(bool, &[u8]); 2] = [
    (
        false,
        include_bytes!("../../fixtures/store/format-6-chain.redb.zst"),
    ),
    (
        true,
        include_bytes!("../../fixtures/store/format-6-chain-multiples.redb.zst"),
    ),
];

/// The same in the middle of a long sync.
const WITH_HEADS_UNLOCATED: &[u8] =
    include_bytes!("../../fixtures/store/format-6-unlocated.redb.zst");

/// Nothing is watched in them, and nothing else is lacking.
#[test]
fn files_with_heads_get_tables_for_what_is_watched() {
    for (multiples, packed) in WITH_HEADS {
        let (_directory, path) = place();
        unpack(packed, &path);
        assert_eq!(format_of(&path), 6);
        let mut model = released_chain(multiples);
        let store = Store::open_existing(&path, &unsaid()).expect("migrated");
        assert_eq!(left(&path), ["index.redb", "index.redb.format6"]);
        let snapshot = store.snapshot().expect("snapshot");
        assert_eq!(snapshot.spenders_from(), None);
        assert_equal(&snapshot, &model);
        assert_eq!(snapshot.watches(0, 10).expect("watches"), []);
        assert_eq!(snapshot.last_event().expect("events"), 0);
        assert_eq!(snapshot.audit(|_, _| {}).expect("audit").wrong, []);
        drop(snapshot);
        assert_eq!(content(&store), content(&fresh(&model)));
        drop(store);
        assert_eq!(format_of(&path), SCHEMA_VERSION);
        let store = Store::open_existing(&path, &unsaid()).expect("index");
        assert_eq!(left(&path), ["index.redb"]);
        model.disconnect(2);
        let at = model.chain.len();
        for seed in 0..3 {
            model.grow(seed, crate::support::MEDIUM);
        }
        let update = Update {
            disconnect: 2,
            connect: &model.chain[at..],
        };
        store.apply(update).expect("a reorg");
        assert_equal(&store.snapshot().expect("snapshot"), &model);
    }
}

#[test]
fn a_long_sync_of_format_6_goes_on() {
    let (_directory, path) = place();
    unpack(WITH_HEADS_UNLOCATED, &path);
    let store = Store::open_existing(&path, &unsaid()).expect("migrated");
    let locating = store.snapshot().expect("snapshot").locating();
    assert!(locating.is_some_and(|locating| locating.outputs < locating.of));
    store.locate_rest(|_| true).expect("locators");
    let model = released_chain(false);
    assert_equal(&store.snapshot().expect("snapshot"), &model);
    assert_eq!(content(&store), content(&fresh(&model)));
}

/// What follows from the rows is there at once, and the rest is said to be missing until a reorg takes the blocks away.
#[test]
fn files_with_sums_get_what_is_new() {
    for (multiples, packed) in WITH_SUMS {
        let (_directory, path) = place();
        unpack(packed, &path);
        assert_eq!(format_of(&path), 5);
        let mut model = released_chain(multiples);
        check_migrated(&path, &model);
        assert_eq!(format_of(&path), SCHEMA_VERSION);
        assert_eq!(left(&path), ["index.redb", "index.redb.format5"]);
        let options = StoreOptions {
            undo_depth: 8,
            ..unsaid()
        };
        let store = Store::open(&path, &options).expect("index");
        assert_eq!(left(&path), ["index.redb"]);
        let all = model.chain.len();
        model.disconnect(all);
        for seed in 0..3 {
            model.grow(seed, crate::support::MEDIUM);
        }
        let update = Update {
            disconnect: all as u32,
            connect: &model.chain,
        };
        store.apply(update).expect("a reorg of all there is");
        let snapshot = store.snapshot().expect("snapshot");
        assert_eq!(snapshot.spenders_from(), None);
        assert_equal(&snapshot, &model);
        drop(snapshot);
        assert_eq!(content(&store), content(&fresh(&model)));
    }
}

/// An index of any form, made one of format 5 by taking away what that does not have.
#[test]
fn every_kind_of_index_gets_what_is_new() {
    for keep in [Keep::Full, Keep::Tweaks] {
        for tweak_form in TweakForm::ALL {
            let (_directory, path) = place();
            let options = StoreOptions {
                keep: Some(keep),
                tweak_form: Some(tweak_form),
                ..options(3)
            };
            let model = released_chain(tweak_form.has_multiples());
            let store = Store::open(&path, &options).expect("new index");
            connect(&store, &model.chain);
            drop(store);
            tamper(&path, |write| {
                let new = [
                    "heads_v1",
                    "heads_v2",
                    "sections",
                    "spenders",
                    "states",
                    "state_locator",
                    "watches",
                    "watch_starts",
                    "events",
                    "event_blocks",
                    "deep_due",
                    "consumers",
                    "tokens",
                ];
                let tables: Vec<_> = write.list_tables().expect("tables").collect();
                for table in tables {
                    if new.contains(&table.name()) {
                        assert!(write.delete_table(table).expect("delete"));
                    }
                }
            });
            set_format(&path, 5);
            let store = Store::open_existing(&path, &unsaid()).expect("migrated");
            assert_eq!((store.keep(), store.tweak_form()), (keep, tweak_form));
            let model = match keep {
                Keep::Full => model.without_spenders(),
                Keep::Tweaks => model,
            };
            let backend = redb::backends::InMemoryBackend::new();
            let fresh = Store::open_with_backend(backend, &options).expect("new index");
            connect(&fresh, &model.chain);
            assert_eq!(content(&store), content(&fresh));
            let spenders_from = model.tip().filter(|_| keep == Keep::Full);
            let snapshot = store.snapshot().expect("snapshot");
            assert_eq!(
                snapshot.spenders_from(),
                spenders_from.map(|tip| tip.height + 1)
            );
        }
    }
}
