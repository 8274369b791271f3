//! Rows whose bytes cannot be right: each is an error that names it, never a panic.

use std::fs;

use bitcoin::secp256k1::rand::{Rng, SeedableRng, rngs::StdRng, seq::SliceRandom};
use redb::ReadableTable;
use spindex::store::column::Column;
use spindex::store::heads::{HEADS_V1, HEADS_V2};
use spindex::store::schema::{
    BLOCKS, DIGEST, FILTERS, FIRSTS, FOREIGN, HEIGHTS, LOCATOR, META, MULTIPLES, OUTPUTS, SPENDERS,
    SPENDS, SPENT, SpendItem, TWEAKS, TXIDS, split_locator_key,
};
use spindex::store::sections::SECTIONS;
use spindex::store::{
    OutputPosition, ScanColumns, Snapshot, Store, StoreError, TxPosition, Update,
};

use spindex::store::states::{STATE_LOCATOR, STATES};

use super::refusals::refused;
use crate::by_height::ByHeight as _;
use crate::support::{FIRST_HEIGHT, Model, options, options_with, place, small_index, tamper};

/// Chunks of odd length, missing chunks and surplus ones.
#[test]
fn odd_chunks_are_refused_when_opening() {
    for column in [
        TWEAKS, MULTIPLES, TXIDS, FIRSTS, OUTPUTS, SPENDS, FOREIGN, SPENDERS, FILTERS, SPENT,
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
    let changes: [(&str, Change); 29] = [
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
        ("heads_v1", |write| {
            let mut table = write.open_table(HEADS_V1).expect("table");
            drop(table.pop_first().expect("pop"));
        }),
        ("sections", |write| {
            let mut table = write.open_table(SECTIONS).expect("table");
            drop(table.pop_first().expect("pop"));
        }),
        ("heads_v2", |write| {
            let mut table = write.open_table(HEADS_V2).expect("table");
            table.insert(1_000, &[1; 32]).expect("insert");
        }),
        // A spender behind the next one, one that is missing, all that are.
        ("spenders", |write| {
            change_items(write, SPENDERS, |items| {
                items[..4].copy_from_slice(&[0xf0; 4])
            });
        }),
        ("spenders", |write| {
            change_items(write, SPENDERS, |items| items[..4].fill(0xff));
        }),
        ("spenders", |write| {
            change_items(write, SPENDERS, |items| items.fill(0xff));
        }),
        ("states", |write| {
            let mut table = write.open_table(STATES).expect("table");
            let popped = table.pop_first().expect("pop").expect("a row");
            let (mut key, value) = (*popped.0.value(), *popped.1.value());
            drop(popped);
            // Of a transaction that spends nothing.
            key[4] ^= 0x80;
            table.insert(&key, &value).expect("insert");
        }),
        ("states", |write| {
            let mut table = write.open_table(STATES).expect("table");
            table.insert(&[0; 10], &[0; 64]).expect("insert");
        }),
        // Where no spender can be missing.
        ("meta", |write| lack_spenders_below(write, FIRST_HEIGHT)),
        ("meta", |write| lack_spenders_below(write, FIRST_HEIGHT + 7)),
        ("meta", |write| lack_spenders_below(write, 0)),
        ("state_locator", |write| {
            let mut table = write.open_table(STATE_LOCATOR).expect("table");
            drop(table.pop_first().expect("pop"));
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
        // Unspent by its bit, but a block spends it.
        ("spent", |write| {
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
            let (_, OutputPosition(position)) = split_locator_key(key.value());
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
            let unspent = unspent.expect("something is unspent") as u64;
            let unspent = SpendItem::Held(OutputPosition(unspent));
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
            for filter in crate::support::row_filters() {
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

fn lack_spenders_below(write: &redb::WriteTransaction, height: u32) {
    let mut meta = write.open_table(META).expect("table");
    let height = height.to_le_bytes();
    let value = height.as_slice();
    meta.insert("spenders_from", value).expect("insert");
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
    for position in (0..30).chain([1 << 31, u64::MAX]).map(TxPosition) {
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
