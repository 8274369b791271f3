//! What is in the file, table by table, and stays there over compaction and reopening.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use bitcoin::hashes::Hash;
use bitcoin::{Network, OutPoint, Txid};
use redb::{
    ReadTransaction, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition,
    TableError,
};
use spindex::store::column::Column;
use spindex::store::heads::{HEADS_V1, HEADS_V2};
use spindex::store::schema::{
    BLOCKS, BlockRow, DIGEST, FILTERS, FIRSTS, FOREIGN, HEIGHTS, LOCATOR, LocatorHasher,
    LocatorKey, MARKS, META, MULTIPLES, OUTPUTS, OutputItem, SPENDERS, SPENDS, SPENT, TWEAKS,
    TXIDS, height_key, split_locator_key,
};
use spindex::store::{
    OutputPosition, RowFilter, SpendRow, StateRow, Store, StoreError, StoreOptions, TweakForm,
    default_first_height,
};

use super::chunks::block;
use crate::by_height::ByHeight as _;
use crate::support::{
    FIRST_HEIGHT, Model, connect, content, engine, multiple_of, options, options_with, place,
    points, small_index, tamper,
};
use spindex::store::states::{STATE_LOCATOR, STATES};

#[test]
fn rows_in_the_file_are_what_the_schema_says() {
    for multiples in [false, true] {
        check_rows(multiples);
    }
}

fn check_rows(multiples: bool) {
    let (_directory, path) = place();
    let model = small_index(&path, multiples);
    let database = engine(&path);
    let read = database.begin_read().expect("read");

    let meta = read.open_table(META).expect("meta");
    let value = |name| meta.get(name).expect("meta").expect(name).value().to_vec();
    assert_eq!(value("schema"), 7_u32.to_le_bytes());
    assert!(meta.get("spenders_from").expect("meta").is_none());
    assert!(meta.get("located").expect("meta").is_none());
    for name in ["next_watch", "next_event", "next_token", "watched_to"] {
        assert!(meta.get(name).expect("meta").is_none(), "{name}");
    }
    assert_eq!(value("keep"), b"full");
    assert_eq!(value("tweak_form"), b"point");
    let power = meta.get("multiples").expect("meta");
    let power = power.map(|power| power.value().to_vec());
    assert_eq!(power, multiples.then(|| 64_u32.to_le_bytes().to_vec()));
    assert_eq!(value("network"), b"regtest");
    assert_eq!(value("first_height"), FIRST_HEIGHT.to_le_bytes());
    assert!(value("created_by").starts_with(b"spindex "));
    let hasher = LocatorHasher::new(value("locator_key").try_into().expect("16 bytes"));

    let blocks = read.open_table(BLOCKS).expect("blocks");
    let heights = read.open_table(HEIGHTS).expect("heights");
    let digests = read.open_table(DIGEST).expect("digest");
    let expected_digests = model.digests();
    let mut transactions = 0;
    let mut expected_heights = Vec::new();
    for (index, record) in model.chain.iter().enumerate() {
        let height = record.id.height;
        let row = blocks.get(height).expect("row").expect("block");
        let row = BlockRow::decode(row.value()).expect("row");
        assert_eq!(row.header, record.header);
        assert_eq!(row.transactions.first, transactions);
        transactions += record.transactions.len() as u64;
        expected_heights.push(height_key(&record.id.hash, height));
        let digest = digests.get(height).expect("row").expect("digest");
        assert_eq!(digest.value(), &expected_digests[index]);
    }
    expected_heights.sort_unstable();
    let found: Vec<_> = heights
        .iter()
        .expect("rows")
        .map(|row| *row.expect("row").0.value())
        .collect();
    assert_eq!(found, expected_heights);

    let column = |column: Column| {
        let table = read.open_table(column.definition()).expect("table");
        let chunk = table.get(0).expect("row").expect("chunk");
        chunk.value().to_vec()
    };
    let rows = model.chain.iter().flat_map(|record| &record.transactions);
    assert_eq!(
        column(TWEAKS),
        rows.clone().flat_map(|row| row.tweak).collect::<Vec<u8>>()
    );
    if multiples {
        assert_eq!(
            column(MULTIPLES),
            rows.clone()
                .flat_map(|row| multiple_of(&row.tweak))
                .collect::<Vec<u8>>()
        );
    } else {
        let table = read.open_table(MULTIPLES.definition());
        assert!(matches!(table, Err(TableError::TableDoesNotExist(_))));
    }
    assert_eq!(
        column(TXIDS),
        rows.flat_map(|row| row.txid.to_byte_array())
            .collect::<Vec<u8>>()
    );
    // Each first spend of an output is its position, all else is written out.
    let positions: HashMap<OutPoint, u64> = (0..)
        .zip(model.outputs())
        .map(|(position, (outpoint, _))| (outpoint, position))
        .collect();
    let mut seen = HashSet::new();
    let (mut spends, mut foreign) = (Vec::new(), Vec::new());
    for spend in model.chain.iter().flat_map(|record| &record.spends) {
        match positions.get(&spend.outpoint) {
            Some(position) if seen.insert(*position) => {
                spends.extend_from_slice(&position.to_be_bytes()[3..]);
            }
            _ => {
                spends.extend_from_slice(&[0xff; 5]);
                foreign.extend(spend.encode());
            }
        }
    }
    let (all, foreign_rows) = (spends.len() / 5, foreign.len() / 44);
    assert!(
        foreign_rows > 0 && all > foreign_rows + 2,
        "{foreign_rows} of {all}"
    );
    assert_eq!(column(SPENDS), spends);
    let all = model.chain.iter().flat_map(|record| &record.spends);
    let spenders = all.flat_map(|spend| {
        let spender = spend.spender.expect("known");
        let (transaction, input) = (u32::from(spender.transaction), u32::from(spender.input));
        (input << 16 | transaction).to_le_bytes()
    });
    assert_eq!(column(SPENDERS), spenders.collect::<Vec<u8>>());
    assert_eq!(column(FOREIGN), foreign);
    let mut firsts: Vec<u16> = Vec::new();
    for record in &model.chain {
        for index in 0..record.transactions.len() as u32 {
            let before = record.outputs.iter();
            let before = before.filter(|output| output.transaction < index);
            firsts.push(before.count() as u16);
        }
    }
    let firsts: Vec<u8> = firsts
        .iter()
        .flat_map(|first| first.to_le_bytes())
        .collect();
    assert_eq!(column(FIRSTS), firsts);
    let filters = model
        .chain
        .iter()
        .flat_map(|record| [&record.new_utxos_filter, &record.spent_filter]);
    assert_eq!(
        column(FILTERS),
        filters.flatten().copied().collect::<Vec<u8>>()
    );
    let outputs = model.outputs();
    let stored = column(OUTPUTS);
    assert_eq!(stored.len(), outputs.len() * OutputItem::BYTES);
    let spent = model.spent();
    let bits = column(SPENT);
    let mut locators = Vec::new();
    for (position, (outpoint, output)) in outputs.iter().enumerate() {
        let item = &stored[position * OutputItem::BYTES..][..OutputItem::BYTES];
        let item = OutputItem::decode(item).expect("item");
        assert_eq!(item.key, output.key);
        assert_eq!(item.value_sat, output.value_sat);
        assert_eq!(item.vout, output.vout);
        let bit = bits[position / 8] >> (position % 8) & 1 == 1;
        assert_eq!(bit, spent.contains(outpoint));
        if !bit {
            locators.push(hasher.locate(outpoint, OutputPosition(position as u64)));
        }
    }
    assert_eq!(bits.len(), 4_080);
    assert!(
        bits[outputs.len().div_ceil(8)..]
            .iter()
            .all(|&byte| byte == 0)
    );
    locators.sort_unstable();
    assert_eq!(keys_of(&read, LOCATOR), locators);
    check_states(&read, &model, hasher);
}

fn keys_of(
    read: &ReadTransaction,
    table: TableDefinition<'static, &'static LocatorKey, ()>,
) -> Vec<LocatorKey> {
    let table = read.open_table(table).expect("a table");
    let rows = table.iter().expect("rows");
    rows.map(|row| *row.expect("row").0.value()).collect()
}

/// State ids under height, transaction and vout, and where they are found by what their transactions spend.
fn check_states(read: &ReadTransaction, model: &Model, hasher: LocatorHasher) {
    let mut rows = Vec::new();
    let mut locators = Vec::new();
    let mut position = 0;
    for record in &model.chain {
        for state in &record.states {
            let mut key = record.id.height.to_be_bytes().to_vec();
            key.extend(state.transaction.to_be_bytes());
            key.extend(state.vout.to_be_bytes());
            let value = [state.txid.to_byte_array(), state.state_id].concat();
            rows.push((key, value));
        }
        for spend in &record.spends {
            let own = |state: &StateRow| {
                spend.spender.map(|spender| spender.transaction) == Some(state.transaction)
            };
            if record.states.iter().any(own) {
                locators.push(hasher.locate(&spend.outpoint, OutputPosition(position)));
            }
            position += 1;
        }
    }
    locators.sort_unstable();
    assert!(rows.len() > 2 && locators.len() > 2, "{}", rows.len());
    let table = read.open_table(STATES).expect("states");
    let found: Vec<_> = table
        .iter()
        .expect("rows")
        .map(|row| row.expect("row"))
        .map(|(key, value)| (key.value().to_vec(), value.value().to_vec()))
        .collect();
    assert_eq!(found, rows);
    assert_eq!(keys_of(read, STATE_LOCATOR), locators);
    let heads = model.heads();
    for (name, definition) in [("v1", HEADS_V1), ("v2", HEADS_V2)] {
        let table = read.open_table(definition).expect(name);
        let found: Vec<_> = table
            .iter()
            .expect("rows")
            .map(|row| row.expect("row"))
            .map(|(height, head)| (height.value(), *head.value()))
            .collect();
        let expected = (FIRST_HEIGHT..).zip(heads.iter().map(|heads| match name {
            "v1" => heads.v1,
            _ => heads.v2.expect("everything is kept"),
        }));
        assert_eq!(found, expected.collect::<Vec<_>>());
    }
}

/// While locators are left for later, `located` says which outputs have theirs.
#[test]
fn locators_go_as_far_as_meta_says() {
    let (_directory, path) = place();
    let mut model = Model::default();
    for _ in 0..2 {
        block(&mut model, 3, 6, 0, 0);
    }
    let store = Store::open(&path, &options(2)).expect("new index");
    connect(&store, &model.chain[..1]);
    store.extend(&model.with_heights(1)).expect("valid update");
    drop(store);
    let database = engine(&path);
    let read = database.begin_read().expect("read");
    let meta = read.open_table(META).expect("meta");
    let located = meta.get("located").expect("meta").expect("located");
    let six = 6_u64.to_le_bytes();
    assert_eq!(located.value(), [six, six].concat());
    let key = meta.get("locator_key").expect("meta").expect("key");
    let hasher = LocatorHasher::new(key.value().try_into().expect("16 bytes"));
    let outputs = model.outputs();
    let marks = outputs[6..].iter();
    let marks = marks.flat_map(|(outpoint, _)| hasher.mark(outpoint).to_le_bytes());
    let table = read.open_table(MARKS.definition()).expect("marks");
    let chunk = table.get(0).expect("marks").expect("a chunk");
    assert_eq!(chunk.value(), marks.collect::<Vec<u8>>());
    let table = read.open_table(LOCATOR).expect("locator");
    let rows = table.iter().expect("rows");
    let mut positions: Vec<u64> = rows
        .map(|row| split_locator_key(row.expect("row").0.value()).1.0)
        .collect();
    positions.sort_unstable();
    assert_eq!(positions, [0, 1, 2, 3, 4, 5]);
    drop((table, chunk, located, key, meta, read, database));

    // A mark that is not its output's is found, like any row.
    let flip = || {
        tamper(&path, |write| {
            let mut table = write.open_table(MARKS.definition()).expect("marks");
            let mut marks = table
                .get(0)
                .expect("marks")
                .expect("a chunk")
                .value()
                .to_vec();
            marks[17] ^= 1;
            table.insert(0, marks.as_slice()).expect("insert");
        });
    };
    flip();
    let store = Store::open(&path, &options(2)).expect("index");
    let snapshot = store.snapshot().expect("snapshot");
    match snapshot.content_hash() {
        Err(StoreError::Corrupt { table, key, .. }) => assert_eq!((table, &*key), ("marks", "8")),
        other => panic!("{other:?}"),
    }
    let found = snapshot.audit(|_, _| {}).expect("audit").wrong;
    assert_eq!((found.len(), found[0].table), (1, "marks"));
    drop(snapshot);
    drop(store);
    flip();

    let store = Store::open(&path, &options(2)).expect("index");
    store.locate_rest(|_| true).expect("locators");
    drop(store);
    let database = engine(&path);
    let read = database.begin_read().expect("read");
    let marks = read.open_table(MARKS.definition());
    assert!(matches!(marks, Err(TableError::TableDoesNotExist(_))));
    let meta = read.open_table(META).expect("meta");
    assert!(meta.get("located").expect("meta").is_none());
    let locators = read.open_table(LOCATOR).expect("locator");
    assert_eq!(locators.len().expect("rows"), 12);
}

/// Rows of other outpoints under the same hash, planted since nobody can find such outpoints.
#[test]
fn colliding_locators_are_told_apart() {
    let (_directory, path) = place();
    let mut model = Model::default();
    block(&mut model, 3, 6, 0, 0);
    let store = Store::open(&path, &options(2)).expect("new index");
    connect(&store, &model.chain);
    drop(store);
    let outpoint = |position: usize| model.outputs()[position].0;
    let foreign = OutPoint::new(Txid::from_byte_array([9; 32]), 0);
    tamper(&path, |write| {
        let meta = write.open_table(META).expect("meta");
        let key = meta.get("locator_key").expect("meta").expect("key");
        let hasher = LocatorHasher::new(key.value().try_into().expect("16 bytes"));
        let mut table = write.open_table(LOCATOR).expect("locator");
        for (outpoint, position) in [(outpoint(3), 1), (outpoint(3), 5), (foreign, 2)] {
            let key = hasher.locate(&outpoint, OutputPosition(position));
            table.insert(&key, ()).expect("insert");
        }
    });
    let store = Store::open(&path, &options(2)).expect("index");
    let snapshot = store.snapshot().expect("snapshot");
    assert!(snapshot.is_unspent(&outpoint(3)).expect("lookup"));
    assert!(!snapshot.is_unspent(&foreign).expect("lookup"));
    let third = outpoint(3);
    let third_key = model.outputs()[3].1.key;
    block(&mut model, 0, 0, 0, 0);
    model.chain[1].spends = [(third, third_key), (foreign, [0; 32])]
        .map(|(outpoint, key)| SpendRow {
            outpoint,
            key_prefix: key[..8].try_into().expect("8 bytes"),
            created: None,
            spender: None,
        })
        .to_vec();
    connect(&store, &model.chain[1..]);
    let snapshot = store.snapshot().expect("snapshot");
    assert_eq!(
        snapshot.spent_positions(FIRST_HEIGHT + 1).expect("spends"),
        Some(vec![OutputPosition(3)])
    );
    let spends = snapshot.spends(FIRST_HEIGHT + 1).expect("spends");
    assert_eq!(spends.as_ref(), Some(&model.chain[1].spends));
    let utxos = snapshot.utxos(FIRST_HEIGHT, RowFilter::default());
    let utxos = utxos.expect("utxos").expect("indexed");
    let spent: Vec<bool> = utxos.iter().map(|utxo| utxo.spent).collect();
    assert_eq!(spent, [false, false, false, true, false, false]);
}

#[test]
fn survives_reopening_compaction_and_a_page_check() {
    for multiples in [false, true] {
        check_reopening(multiples);
    }
}

fn check_reopening(multiples: bool) {
    let (_directory, path) = place();
    let model = small_index(&path, multiples);
    let mut store = Store::open_existing(&path, &options_with(3, multiples)).expect("index");
    crate::support::assert_equal(&store.snapshot().expect("snapshot"), &model);
    let before = content(&store);
    assert!(store.check_pages().expect("sound pages"));
    let held = store.snapshot().expect("snapshot");
    let refused = store.compact(Duration::ZERO);
    assert!(matches!(refused, Err(StoreError::Busy { .. })));
    drop(held);
    let size = |path: &std::path::Path| std::fs::metadata(path).expect("file").len();
    let before_bytes = size(&path);
    let freed = store.compact(Duration::ZERO).expect("nobody reads");
    assert_eq!(size(&path), before_bytes - freed);
    assert_eq!(content(&store), before);
    assert_eq!(store.path(), path);
    assert_eq!(store.undo_depth(), 3);
    drop(store);

    // The file knows network, first height, and how it stores tweaks.
    let unsaid = StoreOptions {
        first_height: None,
        tweak_form: None,
        ..options(9)
    };
    let store = Store::open(&path, &unsaid).expect("index");
    assert_eq!(store.tweak_form(), points(multiples));
    let snapshot = store.snapshot().expect("snapshot");
    assert_eq!(snapshot.tweak_form(), points(multiples));
    assert_eq!(snapshot.first_height(), FIRST_HEIGHT);
    assert_eq!(snapshot.network(), Network::Regtest);
    assert_eq!(snapshot.content_hash().expect("sound"), before);
}

/// Compaction waits for the snapshots that are alive, gives out no new ones meanwhile, and updates come after it.
#[test]
fn compaction_of_a_shared_store_waits_for_its_readers() {
    let (_directory, path) = place();
    let mut model = small_index(&path, false);
    let store = Store::open(&path, &options(3)).expect("index");
    let held = store.snapshot().expect("snapshot");
    std::thread::scope(|threads| {
        let compacting = threads.spawn(|| store.compact(Duration::from_secs(600)));
        let refused = loop {
            match store.snapshot() {
                Ok(_) => std::thread::yield_now(),
                Err(error) => break error,
            }
        };
        assert!(
            matches!(refused, StoreError::Compacting { .. }),
            "{refused:?}"
        );
        let text = refused.to_string();
        assert!(text.contains(&path.display().to_string()), "{text}");
        crate::support::assert_equal(&held, &model);
        drop(held);
        compacting.join().expect("no panic").expect("nobody reads");
    });
    let at = model.chain.len();
    model.grow(77, crate::support::MEDIUM);
    connect(&store, &model.chain[at..]);
    crate::support::assert_equal(&store.snapshot().expect("snapshot"), &model);
}

#[test]
fn defaults_of_a_new_file() {
    assert_eq!(default_first_height(Network::Bitcoin), 709_632);
    assert_eq!(default_first_height(Network::Testnet), 2_011_968);
    for network in [Network::Testnet4, Network::Signet, Network::Regtest] {
        assert_eq!(default_first_height(network), 1);
    }
    let (_directory, path) = place();
    let unsaid = StoreOptions {
        network: Network::Bitcoin,
        first_height: None,
        tweak_form: None,
        ..options(9)
    };
    let store = Store::open(&path, &unsaid).expect("new index");
    let first = store.snapshot().expect("snapshot").first_height();
    assert_eq!(first, 709_632);
    assert_eq!(store.tweak_form(), TweakForm::Point);
}
