//! The file byte by byte, and chunk ends.

mod store_support;

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use bitcoin::block::{Header, Version};
use bitcoin::hashes::Hash;
use bitcoin::{BlockHash, CompactTarget, Network, OutPoint, TxMerkleNode, Txid};
use redb::{ReadableDatabase, ReadableTable, ReadableTableMetadata, TableError};
use spindex::BlockId;
use spindex::store::column::Column;
use spindex::store::schema::{
    BLOCKS, BlockRow, COMPRESSED, DIGEST, FILTERS, FIRSTS, FOREIGN, HEIGHTS, LOCATOR,
    LocatorHasher, MARKS, META, MULTIPLES, OUTPUTS, OUTPUTS_MAX, OutputItem, RowError, SPENDS,
    SPENT, SPENT_CHUNK_BITS, Span, SpendItem, TWEAKS, TXIDS, VALUE_MAX, VOUT_MAX, height_key,
    height_of_key, locator_key, split_locator_key,
};
use spindex::store::{
    BlockRecord, OutputRow, RowFilter, ScanColumns, SpendRow, Store, StoreError, StoreOptions,
    TransactionRow, Update, default_first_height,
};
use store_support::{
    FIRST_HEIGHT, Model, assert_scan, connect, content, engine, memory_store_with, multiple_of,
    options, options_with, place, small_index, tamper,
};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes<const N: usize>(first: u8) -> [u8; N] {
    std::array::from_fn(|index| first.wrapping_add(index as u8))
}

// ---- Rows ----

/// The genesis block's header, as everybody knows it.
fn genesis() -> Header {
    bitcoin::constants::genesis_block(Network::Bitcoin).header
}

#[test]
fn block_row() {
    let row = BlockRow {
        header: genesis(),
        hash: genesis().block_hash(),
        transactions: Span {
            first: 0x0102_0304,
            count: 5,
        },
        outputs: Span {
            first: 0x01_0203_0405,
            count: 6,
        },
        spends: Span {
            first: 0x0a,
            count: 0x0b0c,
        },
        foreign: Span {
            first: 0x0e0f,
            count: 0x0b0c,
        },
        new_utxos_filter: Span {
            first: 0x0d0e,
            count: 0x10,
        },
        spent_filter: Span {
            first: 0x0d1e,
            count: 0x11,
        },
    };
    let encoded = row.encode();
    let expected = [
        "0100000000000000000000000000000000000000000000000000000000000000",
        "000000003ba3edfd7a7b12b27ac72c3e67768f617fc81bc3888a51323a9fb8aa",
        "4b1e5e4a29ab5f49ffff001d1dac2b7c",
        "6fe28c0ab6f1b372c1a6a246ae63f74f931e8365e15a089c68d6190000000000",
        "0403020100000000",
        "05000000",
        "0504030201000000",
        "06000000",
        "0a00000000000000",
        "0c0b0000",
        "0f0e000000000000",
        "0c0b0000",
        "0e0d000000000000",
        "10000000",
        "11000000",
    ];
    assert_eq!(hex(&encoded), expected.concat());
    assert_eq!(BlockRow::decode(&encoded), Ok(row.clone()));
    assert_eq!(row.ends().filter_bytes, 0x0d2f);
    assert_eq!(row.starts().filter_bytes, 0x0d0e);

    for len in [0, 1, encoded.len() - 1] {
        assert_eq!(
            BlockRow::decode(&encoded[..len]),
            Err(RowError::Length {
                found: len,
                expected: 176
            })
        );
    }
    // Counts and positions that no index has: bytes 112.. are the four spans, 160.. the filters. Nor are there more
    // foreign spends than spends.
    for (at, value) in [
        (120, u32::MAX),
        (132, 1 << 16),
        (144, 1 << 21),
        (156, 0x0b0d),
        (168, 1 << 25),
        (172, 1 << 25),
        (116, 0x100),
        (128, 0x100),
        (140, u32::MAX),
        (152, u32::MAX),
        (164, u32::MAX),
    ] {
        let mut odd = encoded;
        odd[at..at + 4].copy_from_slice(&value.to_le_bytes());
        let refused = BlockRow::decode(&odd);
        assert!(
            matches!(refused, Err(RowError::Value(_))),
            "{at}: {refused:?}"
        );
    }
}

#[test]
fn output_item() {
    let item = OutputItem {
        key: bytes(0x40),
        value_sat: 0x0003_0405_0607_0809,
        vout: 0x1b_0c0d,
    };
    // 0x1b0c0d << 51 | 0x3040506070809 = 0xd8606b040506070809... in 72 bits, low byte first.
    let packed: u128 = 0x1b_0c0d << 51 | 0x0003_0405_0607_0809;
    let expected = concat!(
        "404142434445464748494a4b4c4d4e4f505152535455565758595a5b5c5d5e5f",
        "0908070605046b60d8"
    );
    assert_eq!(hex(&item.encode()), expected);
    assert_eq!(packed, 0xd8_606b_0405_0607_0809);
    assert_eq!(OutputItem::decode(&item.encode()), Ok(item));
    for (value_sat, vout) in [(0, 0), (VALUE_MAX, 0), (0, VOUT_MAX), (VALUE_MAX, VOUT_MAX)] {
        let item = OutputItem {
            key: bytes(1),
            value_sat,
            vout,
        };
        assert_eq!(OutputItem::decode(&item.encode()), Ok(item));
    }
    // All the bitcoin there will ever be, and more outputs than 4 million weight units hold.
    const { assert!(VALUE_MAX > 21_000_000 * 100_000_000 && VOUT_MAX > 4_000_000 / 4 / 9) };
    assert!(OutputItem::decode(&[0; 40]).is_err());
}

#[test]
fn spend_item() {
    for (item, expected) in [
        (SpendItem::Held(0), "0000000000"),
        (SpendItem::Held(0x0a_0b0c_0d0e), "0a0b0c0d0e"),
        (SpendItem::Held(OUTPUTS_MAX - 1), "fffffffffe"),
        (SpendItem::Foreign, "ffffffffff"),
    ] {
        assert_eq!(hex(&item.encode()), expected);
        assert_eq!(SpendItem::decode(item.encode()), item);
    }
}

#[test]
fn height_row() {
    let hash = BlockHash::from_byte_array(bytes(0x40));
    let key = height_key(&hash, 0x0102_0304);
    assert_eq!(hex(&key), "404142434445464701020304");
    assert_eq!(height_of_key(&key), 0x0102_0304);
}

#[test]
fn spend_row() {
    let row = SpendRow {
        outpoint: OutPoint::new(Txid::from_byte_array(bytes(0x40)), 0x0a0b_0c0d),
        key_prefix: bytes(0x80),
        created: None,
    };
    let expected = concat!(
        "404142434445464748494a4b4c4d4e4f505152535455565758595a5b5c5d5e5f",
        "0d0c0b0a",
        "8081828384858687"
    );
    assert_eq!(hex(&row.encode()), expected);
    assert_eq!(SpendRow::decode(&row.encode()), Ok(row));
    assert!(SpendRow::decode(&[0; 45]).is_err());
}

#[test]
fn locator_row() {
    let key = locator_key(0x04_0506_0708, 0x0a_0b0c_0d0e);
    assert_eq!(hex(&key), "04050607080a0b0c0d0e");
    let (hash, position) = split_locator_key(&key);
    assert_eq!((hash, position), (0x04_0506_0708, 0x0a_0b0c_0d0e));

    // SipHash-2-4 of the bytes 00 01 02 .. 23 under the key 00 01 .. 0f, as in the test vectors of its authors; the
    // low 40 bits of it.
    let hasher = LocatorHasher::new(bytes(0));
    let outpoint = OutPoint::new(Txid::from_byte_array(bytes(0)), 0x2322_2120);
    let hash = SIPHASH_OF_36_BYTES & 0xff_ffff_ffff;
    assert_eq!(hasher.hash(&outpoint), hash);
    assert_eq!(hasher.locate(&outpoint, 7), locator_key(hash, 7));
    assert_ne!(LocatorHasher::new(bytes(1)).hash(&outpoint), hash);
}

const SIPHASH_OF_36_BYTES: u64 = 0x314d_ffbe_0815_a3b4;

#[test]
fn chunks_fill_a_page_of_the_engine() {
    for (column, item_bytes, chunk_items) in [
        (TWEAKS, 64, 255),
        (MULTIPLES, 64, 255),
        (COMPRESSED, 33, 496),
        (TXIDS, 32, 511),
        (FIRSTS, 2, 8_186),
        (OUTPUTS, 41, 399),
        (SPENDS, 5, 3_274),
        (FOREIGN, 44, 372),
        (FILTERS, 1, 16_372),
    ] {
        assert_eq!(column.item_bytes(), item_bytes);
        assert_eq!(column.chunk_items(), chunk_items);
        assert!(column.chunk_bytes() <= 16_372);
        // As many items as go in.
        assert!(column.chunk_bytes() + item_bytes > 16_372);
    }
    assert_eq!(SPENT.chunk_bytes(), 4_080);
    assert_eq!(SPENT_CHUNK_BITS, 32_640);
}

// ---- Chunk ends ----

/// A block with so many rows of each kind.
fn block(model: &mut Model, transactions: u32, outputs: u32, spends: u32, filter_bytes: usize) {
    let height = FIRST_HEIGHT + model.chain.len() as u32;
    let seed = (height as u64) << 32 | u64::from(transactions ^ outputs << 8 ^ spends << 16);
    let id = |kind: u8, index: u32| {
        let mut bytes = [kind; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        bytes[8..12].copy_from_slice(&index.to_le_bytes());
        bytes
    };
    let header = Header {
        version: Version::TWO,
        prev_blockhash: model
            .tip()
            .map_or_else(BlockHash::all_zeros, |tip| tip.hash),
        merkle_root: TxMerkleNode::from_byte_array(id(0, 0)),
        time: 0,
        bits: CompactTarget::from_consensus(0),
        nonce: 0,
    };
    let outputs_before = model.outputs();
    let spent = model.spent();
    let mut live = outputs_before
        .iter()
        .filter(|(outpoint, _)| !spent.contains(outpoint));
    let spends = (0..spends)
        .map(|index| match live.next() {
            Some((outpoint, output)) => SpendRow {
                outpoint: *outpoint,
                key_prefix: output.key[..8].try_into().expect("8 bytes"),
                created: None,
            },
            None => SpendRow {
                outpoint: OutPoint::new(Txid::from_byte_array(id(9, index)), 0),
                key_prefix: seed.to_be_bytes(),
                created: None,
            },
        })
        .collect();
    drop(live);
    let rows: Vec<TransactionRow> = (0..transactions)
        .map(|index| TransactionRow {
            txid: Txid::from_byte_array(id(1, index)),
            tweak: bytes(index as u8),
        })
        .collect();
    let record = BlockRecord {
        id: BlockId {
            height,
            hash: header.block_hash(),
        },
        header,
        multiples: model.multiples(&rows),
        transactions: rows,
        // Spread over the transactions as evenly as goes, in order.
        outputs: (0..outputs)
            .map(|index| OutputRow {
                key: id(2, index),
                value_sat: u64::from(index),
                vout: index,
                transaction: (u64::from(index) * u64::from(transactions) / u64::from(outputs))
                    as u32,
            })
            .collect(),
        spends,
        new_utxos_filter: vec![height as u8; filter_bytes / 2],
        spent_filter: vec![!(height as u8); filter_bytes - filter_bytes / 2],
    };
    model.chain.push(record);
}

/// Connects two blocks one by one, disconnects both one by one, and compares each state with a fresh index.
fn across(first: (u32, u32, u32, usize), second: (u32, u32, u32, usize)) {
    let mut model = Model::new(true);
    block(&mut model, first.0, first.1, first.2, first.3);
    block(&mut model, second.0, second.1, second.2, second.3);
    let states: Vec<[u8; 32]> = (0..=2)
        .map(|count| {
            let store = memory_store_with(3, true);
            connect(&store, &model.chain[..count]);
            content(&store)
        })
        .collect();
    let store = memory_store_with(3, true);
    for (record, state) in model.chain.iter().zip(&states) {
        assert_eq!(content(&store), *state);
        connect(&store, std::slice::from_ref(record));
    }
    let snapshot = store.snapshot().expect("snapshot");
    for record in &model.chain {
        let height = record.id.height;
        let filter = RowFilter::default();
        let utxos = snapshot.utxos(height, filter).expect("utxos");
        let keys = utxos.into_iter().flatten().map(|utxo| utxo.key);
        assert!(keys.eq(record.outputs.iter().map(|output| output.key)));
        let tweaks = snapshot.tweaks(height, filter).expect("tweaks");
        let txids = tweaks.into_iter().flatten().map(|(txid, _)| txid);
        assert!(txids.eq(record.transactions.iter().map(|row| row.txid)));
        let spends = snapshot.spends(height).expect("spends");
        assert_eq!(spends.as_ref(), Some(&record.spends));
        let filter = snapshot.spent_filter(height).expect("filter");
        assert_eq!(filter.as_ref(), Some(&record.spent_filter));
    }
    let columns = ScanColumns {
        multiples: true,
        short_keys: true,
        ..ScanColumns::default()
    };
    assert_scan(&snapshot, &model, FIRST_HEIGHT..=FIRST_HEIGHT + 1, columns);
    drop(snapshot);
    for count in (0..2).rev() {
        let disconnect = Update {
            disconnect: 1,
            connect: &[],
        };
        store.apply(disconnect).expect("undo rows are there");
        assert_eq!(content(&store), states[count], "{first:?} {second:?}");
    }
}

#[test]
fn columns_grow_and_shrink_across_chunk_ends() {
    for end in [255_u32, 372, 399, 511] {
        for first in [end - 1, end, end + 1] {
            for second in [0, 1, end - 1, end + 1] {
                across(
                    (first, first, first, first as usize),
                    (second, second, second, second as usize),
                );
            }
        }
    }
}

#[test]
fn small_items_grow_and_shrink_across_chunk_ends() {
    let end = 3_274;
    for first in [end - 1, end, end + 1] {
        for second in [0, 1, end] {
            across((1, 2, first, 0), (1, 2, second, 0));
        }
    }
    let end = 8_186;
    for first in [end - 1, end + 1] {
        for second in [1, end] {
            across((first, 5, 0, 0), (second, 1, 3, 0));
        }
    }
}

#[test]
fn filters_grow_and_shrink_across_chunk_ends() {
    for first in [0, 1, 16_371, 16_372, 16_373, 32_744] {
        for second in [0, 1, 16_371, 16_372, 16_373, 50_000] {
            across((1, 1, 0, first), (1, 1, 1, second));
        }
    }
}

#[test]
fn spent_bits_grow_and_shrink_across_chunk_ends() {
    let end = SPENT_CHUNK_BITS as u32;
    for first in [end - 1, end, end + 1] {
        for second in [0, 1, 9] {
            across((3, first, 0, 0), (2, second, first.min(40), 0));
        }
    }
    across((3, 7, 0, 0), (3, 2 * end, 7, 0));
    across((3, end + 9, 0, 0), (3, 8, end + 9, 0));
}

/// Batches of transactions with very many outputs end early, and one transaction goes alone.
#[test]
fn scans_of_many_outputs_stay_small() {
    let mut model = Model::new(false);
    block(&mut model, 300, 0, 0, 0);
    for _ in 0..3 {
        block(&mut model, 7, 60_000, 0, 0);
    }
    block(&mut model, 1, 65_535, 0, 0);
    block(&mut model, 1, 1, 0, 0);
    block(&mut model, 300, 600, 0, 0);
    let store = memory_store_with(1, false);
    connect(&store, &model.chain);
    let snapshot = store.snapshot().expect("snapshot");
    let short_keys = ScanColumns {
        short_keys: true,
        ..ScanColumns::default()
    };
    let heights = FIRST_HEIGHT..=FIRST_HEIGHT + 6;
    let batches = assert_scan(&snapshot, &model, heights.clone(), short_keys);
    let keys: Vec<usize> = batches.iter().map(|batch| batch.keys.len()).collect();
    assert_eq!(keys.iter().sum::<usize>(), 246_136);
    assert!(keys.iter().all(|keys| *keys <= 1 << 16), "{keys:?}");
    // The full block and the one output behind it.
    assert!(keys.contains(&65_536), "{keys:?}");
    // Without keys there is no reason to stop.
    let batches = assert_scan(&snapshot, &model, heights, ScanColumns::default());
    assert_eq!(batches.len(), 1);
}

/// Every chunk in the file is full but the last, and the last holds the rest.
#[test]
fn chunks_in_the_file_have_their_lengths() {
    let (_directory, path) = place();
    let mut model = Model::new(true);
    block(&mut model, 600, 700, 0, 20_000);
    block(&mut model, 423, 322, 745, 12_744);
    let store = Store::open(&path, &options_with(2, true)).expect("new index");
    connect(&store, &model.chain);
    drop(store);
    let database = engine(&path);
    let read = database.begin_read().expect("read");
    for (column, items) in [
        (TWEAKS, 1023_u64),
        (MULTIPLES, 1023),
        (TXIDS, 1023),
        (FIRSTS, 1023),
        (OUTPUTS, 1022),
        (SPENDS, 745),
        (FOREIGN, 45),
        (FILTERS, 32_744),
    ] {
        let table = read.open_table(column.definition()).expect("table");
        let found: Vec<(u32, usize)> = table
            .iter()
            .expect("rows")
            .map(|row| row.expect("row"))
            .map(|(chunk, bytes)| (chunk.value(), bytes.value().len()))
            .collect();
        let mut expected = Vec::new();
        let mut left = items as usize;
        while left > 0 {
            let now = left.min(column.chunk_items() as usize);
            expected.push((expected.len() as u32, now * column.item_bytes()));
            left -= now;
        }
        assert_eq!(found, expected, "{}", column.name());
    }
}

// ---- The file as a whole ----

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
    assert_eq!(value("schema"), 5_u32.to_le_bytes());
    assert!(meta.get("located").expect("meta").is_none());
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
            locators.push(hasher.locate(outpoint, position as u64));
        }
    }
    assert_eq!(bits.len(), 4_080);
    assert!(
        bits[outputs.len().div_ceil(8)..]
            .iter()
            .all(|&byte| byte == 0)
    );
    locators.sort_unstable();
    let table = read.open_table(LOCATOR).expect("locator");
    let found: Vec<_> = table
        .iter()
        .expect("rows")
        .map(|row| *row.expect("row").0.value())
        .collect();
    assert_eq!(found, locators);
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
        .map(|row| split_locator_key(row.expect("row").0.value()).1)
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
    let found = snapshot.audit(|_| {}).expect("audit");
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
            let key = hasher.locate(&outpoint, position);
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
        })
        .to_vec();
    connect(&store, &model.chain[1..]);
    let snapshot = store.snapshot().expect("snapshot");
    assert_eq!(
        snapshot.spent_positions(FIRST_HEIGHT + 1).expect("spends"),
        Some(vec![3])
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
    store_support::assert_equal(&store.snapshot().expect("snapshot"), &model);
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

    // The file knows network, first height, and whether it has multiples.
    let unsaid = StoreOptions {
        first_height: None,
        multiples: None,
        ..options(9)
    };
    let store = Store::open(&path, &unsaid).expect("index");
    assert_eq!(store.has_multiples(), multiples);
    let snapshot = store.snapshot().expect("snapshot");
    assert_eq!(snapshot.has_multiples(), multiples);
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
        store_support::assert_equal(&held, &model);
        drop(held);
        compacting.join().expect("no panic").expect("nobody reads");
    });
    let at = model.chain.len();
    model.grow(77, store_support::MEDIUM);
    connect(&store, &model.chain[at..]);
    store_support::assert_equal(&store.snapshot().expect("snapshot"), &model);
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
        multiples: None,
        ..options(9)
    };
    let store = Store::open(&path, &unsaid).expect("new index");
    let first = store.snapshot().expect("snapshot").first_height();
    assert_eq!(first, 709_632);
    assert!(!store.has_multiples());
}
