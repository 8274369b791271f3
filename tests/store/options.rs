//! Indexes that keep less, or keep it in another form.

use std::path::Path;

use crate::by_height::ByHeight as _;
use bitcoin::Network;
use proptest::prelude::*;
use redb::backends::InMemoryBackend;
use redb::{ReadableDatabase, TableHandle};
use spindex::curve::TweakPoint;
use spindex::store::{
    Heads, Keep, RowFilter, ScanColumns, Snapshot, Store, StoreError, StoreOptions, TweakForm,
    TxPosition, Update, remains,
};

use crate::support::{
    FIRST_HEIGHT, LARGE, MEDIUM, Model, SMALL, assert_equal, connect, content, engine, options,
    place, small_chain,
};

fn form(keep: Keep, tweak_form: TweakForm) -> StoreOptions {
    StoreOptions {
        keep: Some(keep),
        tweak_form: Some(tweak_form),
        ..options(5)
    }
}

fn has_multiples(options: &StoreOptions) -> bool {
    options.tweak_form.is_some_and(TweakForm::has_multiples)
}

fn memory(options: &StoreOptions) -> Store {
    Store::open_with_backend(InMemoryBackend::new(), options).expect("empty index")
}

/// Every kind of index there is, with its tables.
fn forms() -> Vec<(StoreOptions, Vec<&'static str>)> {
    let mut forms = Vec::new();
    for keep in [Keep::Full, Keep::Tweaks] {
        for tweak_form in TweakForm::ALL {
            let mut tables = vec![
                "blocks",
                "consumers",
                "deep_due",
                "digest",
                "event_blocks",
                "events",
                "heads_v1",
                "heights",
                "meta",
                "sections",
                "tokens",
                "watch_starts",
                "watches",
            ];
            tables.extend(match tweak_form {
                TweakForm::Compressed => &["compressed"][..],
                TweakForm::Point => &["tweaks"],
                TweakForm::PointAndMultiple => &["multiples", "tweaks"],
            });
            if keep == Keep::Full {
                tables.extend([
                    "filters",
                    "firsts",
                    "foreign",
                    "heads_v2",
                    "locator",
                    "outputs",
                    "spenders",
                    "spends",
                    "spent",
                    "state_locator",
                    "states",
                    "txids",
                ]);
            }
            tables.sort_unstable();
            forms.push((form(keep, tweak_form), tables));
        }
    }
    forms
}

/// Asserts that a snapshot says what the model does, as far as it keeps it, and refuses the rest.
fn assert_kept(snapshot: &Snapshot, model: &Model) {
    match snapshot.keep() {
        Keep::Full => assert_equal(snapshot, model),
        Keep::Tweaks => assert_tweaks_only(snapshot, model),
    }
}

fn assert_tweaks_only(snapshot: &Snapshot, model: &Model) {
    fn not_kept<T: std::fmt::Debug>(result: Result<T, StoreError>) {
        let error = result.expect_err("not kept");
        assert!(matches!(error, StoreError::NotKept { .. }), "{error:?}");
        let text = error.to_string();
        assert!(
            text.contains("--keep tweaks") && text.contains("--keep full"),
            "{text}"
        );
    }

    assert_eq!(snapshot.tip(), model.tip());
    let counts = snapshot.counts().expect("counts");
    let transactions: usize = model
        .chain
        .iter()
        .map(|record| record.transactions.len())
        .sum();
    assert_eq!(counts.blocks, model.chain.len() as u64);
    assert_eq!(counts.transactions, transactions as u64);
    assert_eq!(counts.outputs + counts.spends + counts.filter_bytes, 0);
    let (digests, heads) = (model.digests(), model.heads());
    let all = RowFilter::default();
    let mut tweaks: Vec<[u8; 33]> = Vec::new();
    for (index, record) in model.chain.iter().enumerate() {
        let height = record.id.height;
        let entry = snapshot.block(height).expect("row").expect("indexed");
        assert_eq!((entry.id(), *entry.header()), (record.id, record.header));
        assert_eq!(
            entry.transaction_count() as usize,
            record.transactions.len()
        );
        assert_eq!((entry.output_count(), entry.spend_count()), (0, 0));
        let found = snapshot.height_of(&record.id.hash).expect("row");
        assert_eq!(found, Some(height));
        assert_eq!(
            snapshot.digest(height).expect("digest"),
            Some(digests[index])
        );
        let rows = record.transactions.iter();
        let list: Vec<[u8; 33]> = rows
            .map(|row| TweakPoint::from_bytes(row.tweak).to_compressed())
            .collect();
        let found = snapshot.tweak_list(height, all).expect("tweaks");
        assert_eq!(found.as_ref(), Some(&list));
        tweaks.extend(list);

        for filter in crate::support::row_filters() {
            if filter != all {
                not_kept(snapshot.tweak_list(height, filter));
            }
            not_kept(snapshot.tweaks(height, filter));
            not_kept(snapshot.compressed_tweaks(height, filter));
            not_kept(snapshot.utxos(height, filter));
        }
        let v1 = heads[index].v1;
        assert_eq!(entry.heads().expect("heads"), Some(Heads { v1, v2: None }));
        not_kept(entry.states());
        not_kept(snapshot.spends(height));
        not_kept(snapshot.spent_positions(height));
        not_kept(snapshot.new_utxos_filter(height));
        not_kept(snapshot.spent_filter(height));
    }
    not_kept(snapshot.transaction(TxPosition(0)));
    not_kept(snapshot.is_unspent(&bitcoin::OutPoint::null()));
    not_kept(snapshot.state_spend(&bitcoin::OutPoint::null()));
    for hash in &model.orphan_hashes {
        assert_eq!(snapshot.height_of(hash).expect("no row"), None);
    }

    let Some(tip) = model.tip() else { return };
    let heights = FIRST_HEIGHT..=tip.height;
    let keys = ScanColumns {
        short_keys: true,
        compressed: true,
        multiples: false,
    };
    not_kept(snapshot.scan(heights.clone(), keys));
    let columns = ScanColumns {
        compressed: true,
        multiples: model.multiples,
        short_keys: false,
    };
    let scan = snapshot.scan(heights.clone(), columns).expect("scan");
    let mut found = Vec::new();
    let mut multiples = Vec::new();
    for batch in scan.expect("indexed") {
        let batch = batch.expect("batch");
        assert!(batch.tweaks.is_empty() && batch.keys.is_empty());
        found.extend(batch.compressed);
        multiples.extend(batch.multiples);
    }
    assert_eq!(found, tweaks);
    let expected = model.chain.iter().flat_map(|record| &record.multiples);
    assert!(expected.eq(multiples.iter().map(TweakPoint::as_bytes)));
    let points = snapshot.scan(heights, ScanColumns::default());
    match snapshot.tweak_form().has_points() {
        true => {
            let batches = points.expect("scan").expect("indexed");
            let points = batches.flat_map(|batch| batch.expect("batch").tweaks);
            assert!(points.map(|point| point.to_compressed()).eq(tweaks));
        }
        false => {
            assert!(matches!(points, Err(StoreError::NoPoints { .. })));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn every_kind_of_index_follows_every_history(
        kind in 0_usize..6,
        steps in proptest::collection::vec((0_usize..7, proptest::collection::vec(any::<u64>(), 0..5)), 1..8),
    ) {
        let (options, _) = &forms()[kind];
        let store = memory(options);
        let mut model = Model::new(has_multiples(options));
        for (disconnect, connect) in steps {
            let possible = disconnect <= 5 && disconnect <= model.chain.len();
            if !possible {
                let refused = store.apply(Update { disconnect: disconnect as u32, connect: &[] });
                let is_told = matches!(refused, Err(StoreError::UndoExhausted { .. }));
                prop_assert!(is_told);
                continue;
            }
            model.disconnect(disconnect);
            let at = model.chain.len();
            for seed in connect {
                model.grow(seed, SMALL);
            }
            let update = Update { disconnect: disconnect as u32, connect: &model.chain[at..] };
            store.apply(update).expect("valid update");
            assert_kept(&store.snapshot().expect("snapshot"), &model);
            let fresh = memory(options);
            connect_all(&fresh, &model);
            prop_assert_eq!(content(&store), content(&fresh));
        }
    }
}

fn connect_all(store: &Store, model: &Model) {
    for records in model.chain.chunks(2) {
        connect(store, records);
    }
}

#[test]
fn every_kind_of_index_in_many_chunks_over_a_restart() {
    for (options, tables) in forms() {
        let (_directory, path) = place();
        let mut model = Model::new(has_multiples(&options));
        let store = Store::open(&path, &options).expect("new index");
        for (seed, size) in [LARGE, SMALL, MEDIUM, LARGE].into_iter().enumerate() {
            let at = model.chain.len();
            model.grow(seed as u64, size);
            connect(&store, &model.chain[at..]);
        }
        let before = content(&store);
        drop(store);
        // The file says what it is.
        let unsaid = StoreOptions {
            keep: None,
            tweak_form: None,
            ..options.clone()
        };
        let store = Store::open(&path, &unsaid).expect("index");
        assert_eq!(content(&store), before);
        assert_eq!(Some(store.keep()), options.keep);
        assert_eq!(Some(store.tweak_form()), options.tweak_form);
        assert_kept(&store.snapshot().expect("snapshot"), &model);
        model.disconnect(2);
        let update = Update {
            disconnect: 2,
            connect: &[],
        };
        store.apply(update).expect("a reorg");
        assert_kept(&store.snapshot().expect("snapshot"), &model);

        // The tables are those, and what they take is told of each.
        let mut names: Vec<&str> = Vec::new();
        let space = store.space().expect("space");
        names.extend(space.tables.iter().map(|table| table.name));
        names.sort_unstable();
        assert_eq!(names, tables);
        drop(store);
        assert_eq!(tables_of(&path), tables);
    }
}

fn tables_of(path: &Path) -> Vec<String> {
    let database = engine(path);
    let read = database.begin_read().expect("read");
    let tables = read.list_tables().expect("tables");
    let mut names: Vec<String> = tables.map(|table| table.name().to_owned()).collect();
    names.sort_unstable();
    names
}

#[test]
fn kinds_have_the_names_of_the_command_line() {
    let keeps = [(Keep::Full, "full"), (Keep::Tweaks, "tweaks")];
    for (keep, name) in keeps {
        assert_eq!((keep.name(), Keep::from_name(name)), (name, Some(keep)));
    }
    let forms = ["compressed", "point", "point-and-multiple"];
    assert_eq!(TweakForm::ALL.map(TweakForm::name), forms);
    for (form, name) in TweakForm::ALL.into_iter().zip(forms) {
        assert_eq!(TweakForm::from_name(name), Some(form));
    }
    for name in ["", "Full", "points"] {
        assert_eq!(Keep::from_name(name), None);
        assert_eq!(TweakForm::from_name(name), None);
    }
}

/// A repair builds another one like it, whatever was asked for.
#[test]
fn what_remains_of_an_index_says_what_it_is() {
    for (options, _) in forms() {
        let (_directory, path) = place();
        let chain = small_chain(has_multiples(&options)).chain;
        let store = Store::open(&path, &options).expect("new index");
        connect(&store, &chain);
        let of_the_open_one = store.remains();
        drop(store);
        let like = StoreOptions {
            network: Network::Signet,
            first_height: None,
            keep: None,
            tweak_form: None,
            ..options.clone()
        };
        for remains in [of_the_open_one, remains(&path, &like)] {
            let said = remains.options.expect("its meta can be read");
            let kind = |options: &StoreOptions| (options.keep, options.tweak_form);
            assert_eq!(kind(&said), kind(&options));
            assert_eq!(said.network, options.network);
            assert_eq!(said.first_height, options.first_height);
            assert_eq!(said.undo_depth, options.undo_depth);
            assert_eq!(said.cache_bytes, options.cache_bytes);
            let tip = chain.last().map(|record| record.id.height);
            assert_eq!(remains.tip_height, tip);
        }
    }
}

/// What a file was built with is fixed; the refusal names both and what to pass.
#[test]
fn another_kind_is_refused() {
    let all = forms();
    for (found, _) in &all {
        let (_directory, path) = place();
        let store = Store::open(&path, found).expect("new index");
        connect(&store, &small_chain(has_multiples(found)).chain);
        let before = content(&store);
        drop(store);
        for (asked, _) in &all {
            let opened = Store::open(&path, asked);
            if (asked.keep, asked.tweak_form) == (found.keep, found.tweak_form) {
                assert_eq!(content(&opened.expect("index")), before);
                continue;
            }
            let error = opened.expect_err("another kind");
            let text = error.to_string();
            assert!(text.contains(&path.display().to_string()), "{text}");
            assert!(text.contains("--data-dir"), "{text}");
            match error {
                StoreError::WrongKeep {
                    found: is,
                    expected,
                    ..
                } => {
                    assert_eq!((Some(is), Some(expected)), (found.keep, asked.keep));
                    assert!(text.contains(&format!(
                        "--keep {}, not {}",
                        is.name(),
                        expected.name()
                    )));
                    assert!(
                        text.contains(&format!("pass --keep {}", is.name())),
                        "{text}"
                    );
                }
                StoreError::WrongTweakForm {
                    found: is,
                    expected,
                    ..
                } => {
                    let both = (Some(is), Some(expected));
                    assert_eq!(both, (found.tweak_form, asked.tweak_form));
                    let named = format!("--tweak-form {}, not {}", is.name(), expected.name());
                    assert!(text.contains(&named), "{text}");
                    assert!(
                        text.contains(&format!("pass --tweak-form {}", is.name())),
                        "{text}"
                    );
                }
                error => panic!("{error:?}"),
            }
        }
    }
}

/// What is known to be older than the index is not looked up, and is foreign.
#[test]
fn hints_of_older_outputs_change_nothing() {
    let model = {
        let mut model = Model::new(false);
        for seed in 0..8 {
            model.grow(seed, MEDIUM);
        }
        model
    };
    let plain = memory(&form(Keep::Full, TweakForm::Point));
    connect_all(&plain, &model);
    let held: std::collections::HashSet<bitcoin::OutPoint> = model
        .outputs()
        .into_iter()
        .map(|(outpoint, _)| outpoint)
        .collect();
    let mut hinted = model.clone();
    let mut older = 0;
    for record in &mut hinted.chain {
        for spend in &mut record.spends {
            let is_held = held.contains(&spend.outpoint);
            older += usize::from(!is_held);
            spend.created = Some(if is_held {
                FIRST_HEIGHT
            } else {
                FIRST_HEIGHT - 1
            });
        }
    }
    assert!(older > 10, "{older}");
    let store = memory(&form(Keep::Full, TweakForm::Point));
    connect_all(&store, &hinted);
    assert_eq!(content(&store), content(&plain));
    assert_equal(&store.snapshot().expect("snapshot"), &model);
}

/// What the space of a table is said to be is what the engine says, and the parts make up the file.
#[test]
fn space_is_that_of_the_tables() {
    let (_directory, path) = place();
    let mut model = Model::new(true);
    let store =
        Store::open(&path, &form(Keep::Full, TweakForm::PointAndMultiple)).expect("new index");
    for seed in 0..30 {
        model.grow(seed, LARGE);
    }
    connect_all(&store, &model);
    store
        .compact(std::time::Duration::ZERO)
        .expect("nobody reads");
    let space = store.space().expect("space");
    assert_eq!(
        space.file_bytes,
        std::fs::metadata(&path).expect("file").len()
    );
    assert!(space.disk_bytes > 0);
    drop(store);

    let database = engine(&path);
    let read = database.begin_read().expect("read");
    for table in &space.tables {
        use redb::ReadableTableMetadata;
        let definition = read
            .list_tables()
            .expect("tables")
            .find(|handle| handle.name() == table.name)
            .expect("table");
        let found = read.open_untyped_table(definition).expect("table");
        let stats = found.stats().expect("stats");
        assert_eq!(table.rows, found.len().expect("rows"), "{}", table.name);
        assert_eq!(table.stored_bytes, stats.stored_bytes(), "{}", table.name);
        // The inner pages of columns are estimated.
        let exact = stats.stored_bytes() + stats.metadata_bytes() + stats.fragmented_bytes();
        let told = table.allocated_bytes;
        assert!(
            told.abs_diff(exact) <= exact / 50 + 8192,
            "{}: {told} {exact}",
            table.name
        );
    }
    let (stored, allocated) = (space.stored_bytes(), space.allocated_bytes());
    assert!(stored < allocated, "{stored} {allocated}");
    assert!(
        allocated <= space.file_bytes,
        "{allocated} {}",
        space.file_bytes
    );
}
