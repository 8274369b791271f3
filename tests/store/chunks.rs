//! Columns that grow and shrink across the ends of their chunks.

use bitcoin::block::{Header, Version};
use bitcoin::hashes::Hash;
use bitcoin::{BlockHash, CompactTarget, OutPoint, TxMerkleNode, Txid};
use redb::{ReadableDatabase, ReadableTable};
use spindex::BlockId;
use spindex::store::schema::{
    COMPRESSED, FILTERS, FIRSTS, FOREIGN, MULTIPLES, OUTPUTS, SPENDS, SPENT, SPENT_CHUNK_BITS,
    TWEAKS, TXIDS,
};
use spindex::store::{
    BlockRecord, OutputRow, RowFilter, ScanColumns, SpendRow, Spender, Store, TransactionRow,
    Update,
};

use super::rows::bytes;
use crate::by_height::ByHeight as _;
use crate::support::{
    FIRST_HEIGHT, Model, assert_scan, connect, content, engine, memory_store_with, options_with,
    place,
};

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

/// A block with so many rows of each kind.
pub(crate) fn block(
    model: &mut Model,
    transactions: u32,
    outputs: u32,
    spends: u32,
    filter_bytes: usize,
) {
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
                spender: spender(index),
            },
            None => SpendRow {
                outpoint: OutPoint::new(Txid::from_byte_array(id(9, index)), 0),
                key_prefix: seed.to_be_bytes(),
                created: None,
                spender: spender(index),
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
        states: Vec::new(),
        new_utxos_filter: vec![height as u8; filter_bytes / 2],
        spent_filter: vec![!(height as u8); filter_bytes - filter_bytes / 2],
    };
    model.chain.push(record);
}

/// Three spends a transaction.
fn spender(index: u32) -> Option<Spender> {
    Some(Spender {
        transaction: 1 + (index / 3) as u16,
        input: (index % 3) as u16,
    })
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
