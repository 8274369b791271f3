//! Random histories of an index against a naive one in memory.

use std::collections::HashSet;
use std::ops::RangeInclusive;

use crate::by_height::ByHeight as _;
use bitcoin::hashes::Hash;
use bitcoin::{OutPoint, Txid};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use spindex::store::{
    BlockRecord, ScanColumns, Snapshot, SpendRow, Spender, StateRow, Store, StoreError,
    StoreOptions, Update,
};

use crate::support::{
    FIRST_HEIGHT, LARGE, MEDIUM, Model, SMALL, Size, assert_equal, assert_scan, connect,
    memory_store, memory_store_with, options_with,
};

/// One update: blocks away, blocks new.
#[derive(Debug, Clone)]
struct Step {
    disconnect: usize,
    connect: Vec<u64>,
    /// Leaves the locators for later, if nothing goes away.
    defer: bool,
}

fn step(depth: usize) -> impl Strategy<Value = Step> {
    (
        prop_oneof![3 => Just(0), 2 => 0..=depth, 1 => 0..=depth + 3],
        vec(any::<u64>(), 0..6),
        any::<bool>(),
    )
        .prop_map(|(disconnect, connect, defer)| Step {
            disconnect,
            connect,
            defer,
        })
}

fn history() -> impl Strategy<Value = (usize, Vec<Step>)> {
    (0_usize..7).prop_flat_map(|depth| (Just(depth), vec(step(depth), 1..12)))
}

fn hash(snapshot: &Snapshot) -> [u8; 32] {
    snapshot.content_hash().expect("sound index")
}

/// A store built from the chain alone, in batches of a size.
fn fresh(model: &Model, batch: usize, undo_depth: u32) -> Store {
    let store = memory_store_with(undo_depth, model.multiples);
    for records in model.chain.chunks(batch.max(1)) {
        connect(&store, records);
    }
    store
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn every_history_is_the_naive_one((depth, steps) in history(), multiples in any::<bool>()) {
        let store = memory_store_with(depth as u32, multiples);
        let mut model = Model::new(multiples);
        for Step { disconnect, connect, defer } in steps {
            let undoable = depth.min(model.chain.len());
            if disconnect > undoable {
                let before = hash(&store.snapshot().expect("snapshot"));
                let refused = store.apply(Update { disconnect: disconnect as u32, connect: &[] });
                match refused {
                    Err(StoreError::UndoExhausted { available, .. }) => {
                        prop_assert_eq!(available as usize, undoable);
                    }
                    other => prop_assert!(false, "{:?}", other),
                }
                prop_assert_eq!(hash(&store.snapshot().expect("snapshot")), before);
                continue;
            }
            let old = store.snapshot().expect("snapshot");
            let old_model = model.clone();

            model.disconnect(disconnect);
            let at = model.chain.len();
            for seed in connect {
                model.grow(seed, SMALL);
            }
            let tip = match defer && disconnect == 0 {
                true => store.extend(&model.with_heights(at)),
                false => {
                    let connect = &model.chain[at..];
                    store.apply(Update { disconnect: disconnect as u32, connect })
                }
            };
            prop_assert_eq!(tip.expect("valid update").tip, model.tip());
            let snapshot = store.snapshot().expect("snapshot");
            assert_equal(&snapshot, &model);
            let lowest = model.chain.len().saturating_sub(depth);
            let lowest = model.chain.get(lowest).map(|record| record.id.height);
            prop_assert_eq!(snapshot.undo_from().expect("undo"), lowest);
            hash(&snapshot);
            // A snapshot stands still.
            prop_assert_eq!(old.tip(), old_model.tip());
            if let Some(last) = old_model.chain.len().checked_sub(1) {
                let height = old_model.chain[last].id.height;
                let filter = crate::support::row_filters()[6];
                prop_assert_eq!(
                    old.utxos(height, filter).expect("utxos"),
                    Some(old_model.utxos(last, filter))
                );
            }
        }
        let expected = hash(&store.snapshot().expect("snapshot"));
        store.locate_rest(|_| true).expect("locators");
        let snapshot = store.snapshot().expect("snapshot");
        prop_assert_eq!(snapshot.locating(), None);
        assert_equal(&snapshot, &model);
        prop_assert_eq!(hash(&snapshot), expected);
        for batch in [1, 3, 1000] {
            let other = fresh(&model, batch, 2);
            prop_assert_eq!(hash(&other.snapshot().expect("snapshot")), expected);
        }
    }
}

/// Blocks that fill many chunks of every column, and reorgs that cut within and at their ends.
#[test]
fn large_blocks_and_reorgs() {
    let multiples = true;
    let store = memory_store_with(10, multiples);
    let mut model = Model::new(multiples);
    let mut seed = 0;
    for (disconnect, grow) in [(0, 3), (2, 1), (0, 2), (3, 3), (1, 0), (3, 4), (0, 1)] {
        model.disconnect(disconnect);
        let at = model.chain.len();
        for _ in 0..grow {
            seed += 1;
            model.grow(seed, LARGE);
        }
        store
            .apply(Update {
                disconnect: disconnect as u32,
                connect: &model.chain[at..],
            })
            .expect("valid update");
        assert_equal(&store.snapshot().expect("snapshot"), &model);
        let other = fresh(&model, 2, 10);
        assert_eq!(
            hash(&store.snapshot().expect("snapshot")),
            hash(&other.snapshot().expect("snapshot"))
        );
    }
    assert!(
        model.outputs().len() > 1_000,
        "the generator makes large blocks"
    );
}

/// Locators left for later, over more blocks than one commit takes of them: they come bit by bit, in whatever lives the
/// store has, and by themselves before an update that needs them.
#[test]
fn locators_that_were_left_come_later() {
    const BLOCKS: usize = 50;
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("index.redb");
    let options = StoreOptions {
        // So little that one commit takes the locators of no more outputs than a chunk has.
        cache_bytes: 0,
        ..options_with(3, false)
    };
    let open = || Store::open(&path, &options).expect("index");
    let mut model = Model::new(false);
    for seed in 0..BLOCKS as u64 {
        model.grow(seed, MEDIUM);
    }
    let records = model.with_heights(0);
    let store = open();
    connect(&store, &records[..9]);
    assert_eq!(store.snapshot().expect("snapshot").locating(), None);
    for records in records[9..].chunks(12) {
        store.extend(records).expect("valid update");
    }
    let expected = hash(&fresh(&model, 1000, 3).snapshot().expect("snapshot"));
    assert_equal(&store.snapshot().expect("snapshot"), &model);
    assert_eq!(hash(&store.snapshot().expect("snapshot")), expected);

    // One commit of them, then the store is closed.
    let first = store.snapshot().expect("snapshot").locating();
    let first = first.expect("not all are located");
    assert_eq!(first.of, model.outputs().len() as u64);
    let mut heard = Vec::new();
    let stopped = store.locate_rest(|locating| {
        heard.push(locating);
        heard.len() < 2
    });
    stopped.expect("locators");
    let (one, other) = (heard[0], heard[1]);
    assert_eq!(one, first);
    assert!(one.outputs < other.outputs && other.outputs < other.of);
    drop(store);
    let store = open();
    let snapshot = store.snapshot().expect("snapshot");
    assert_eq!(snapshot.locating(), Some(other));
    assert_equal(&snapshot, &model);
    assert_eq!(hash(&snapshot), expected);
    assert_eq!(snapshot.audit(|_, _| {}).expect("audit").wrong, []);
    drop(snapshot);

    // More can be left meanwhile; what disconnects needs them all.
    let at = model.chain.len();
    model.grow(BLOCKS as u64, SMALL);
    store.extend(&model.with_heights(at)).expect("valid update");
    assert!(store.snapshot().expect("snapshot").locating().is_some());
    model.disconnect(3);
    let at = model.chain.len();
    for seed in 1..4 {
        model.grow((BLOCKS + seed) as u64, SMALL);
    }
    let update = Update {
        disconnect: 3,
        connect: &model.chain[at..],
    };
    store.apply(update).expect("valid update");
    let snapshot = store.snapshot().expect("snapshot");
    assert_eq!(snapshot.locating(), None);
    assert_equal(&snapshot, &model);
    assert_eq!(
        hash(&snapshot),
        hash(&fresh(&model, 1000, 3).snapshot().expect("snapshot"))
    );
    assert_eq!(snapshot.audit(|_, _| {}).expect("audit").wrong, []);
}

/// A spend that does not say which height created what it spends is looked up in the locator, which is there then.
#[test]
fn spends_without_heights_leave_nothing_for_later() {
    let store = memory_store(3);
    let mut model = Model::new(false);
    for seed in 0..8 {
        model.grow(seed, MEDIUM);
    }
    let mut records = model.with_heights(0);
    store.extend(&records[..4]).expect("valid update");
    assert!(store.snapshot().expect("snapshot").locating().is_some());
    let spend = records[4..]
        .iter_mut()
        .find_map(|record| record.spends.last_mut());
    spend.expect("the generator makes spends").created = None;
    store.extend(&records[4..]).expect("valid update");
    let snapshot = store.snapshot().expect("snapshot");
    assert_eq!(snapshot.locating(), None);
    assert_equal(&snapshot, &model);
}

/// A source that names another height than the one that created an output makes its spend a foreign one. That cannot be
/// seen at once, but as soon as the outputs are located.
#[test]
fn a_wrong_height_is_found_by_verifying() {
    let store = memory_store(3);
    let mut model = Model::new(false);
    for seed in 0..12 {
        model.grow(seed, MEDIUM);
    }
    let mut records = model.with_heights(0);
    let (first, second) = records.split_at_mut(6);
    let created = |spend: &SpendRow| {
        let rows = first.iter().flat_map(|record| &record.transactions);
        let mut rows = rows.filter(|row| row.txid == spend.outpoint.txid);
        rows.next().is_some()
    };
    let spent_before: HashSet<OutPoint> = first
        .iter()
        .flat_map(|record| record.spends.iter().map(|spend| spend.outpoint))
        .collect();
    let spends = second.iter_mut().flat_map(|record| &mut record.spends);
    let mut wrong = spends.filter(|spend| {
        created(spend) && spend.outpoint.vout < 100 && !spent_before.contains(&spend.outpoint)
    });
    let wrong = wrong.next().expect("a spend of an older output");
    wrong.created = wrong.created.map(|height| height + 1);
    let outpoint = wrong.outpoint;
    store.extend(first).expect("valid update");
    store.extend(second).expect("valid update");
    hash(&store.snapshot().expect("snapshot"));
    store.locate_rest(|_| true).expect("locators");
    let snapshot = store.snapshot().expect("snapshot");
    match snapshot.content_hash() {
        Err(StoreError::Corrupt { table, reason, .. }) => {
            assert_eq!(table, "foreign");
            assert_eq!(reason, format!("{outpoint} is unspent in the index"));
        }
        other => panic!("{other:?}"),
    }
    let found = snapshot.audit(|_, _| {}).expect("audit").wrong;
    assert!(
        found
            .iter()
            .any(|row| row.table == "foreign" && !row.follows)
    );
}

/// Contents that differ in any kind of row have other hashes.
#[test]
fn content_hash_sees_every_kind_of_row() {
    let mut model = Model::new(true);
    while model.chain.last().is_none_or(|last| {
        last.transactions.is_empty() || last.outputs.is_empty() || last.spends.is_empty()
    }) {
        model.grow(model.chain.len() as u64, SMALL);
    }
    let last = model.chain.len() - 1;
    // Whatever the generator drew: one more spend, of what no block created.
    model.chain[last].spends.push(SpendRow {
        outpoint: OutPoint::new(Txid::all_zeros(), 7),
        key_prefix: [1; 8],
        created: None,
        spender: Some(Spender {
            transaction: 60_000,
            input: 3,
        }),
    });
    let content = |model: &Model| hash(&fresh(model, 10, 5).snapshot().expect("snapshot"));
    let plain = content(&model);
    fn state_of(record: &mut BlockRecord) -> &mut StateRow {
        record.states.last_mut().expect("the last spender has one")
    }
    fn foreign(record: &mut BlockRecord) -> &mut SpendRow {
        let spend = record.spends.last_mut();
        spend.expect("the last block ends with a foreign spend")
    }
    let state = |transaction, vout| StateRow {
        transaction,
        vout,
        txid: Txid::all_zeros(),
        state_id: [7; 32],
    };
    model.chain[last].states.push(state(60_000, 5));
    let plain_with_state = content(&model);
    assert_ne!(plain, plain_with_state);
    let changes: [fn(&mut BlockRecord); 17] = [
        |record| {
            foreign(record).spender = Some(Spender {
                transaction: 60_000,
                input: 4,
            })
        },
        |record| state_of(record).vout ^= 1,
        |record| state_of(record).state_id[31] ^= 1,
        |record| state_of(record).txid = Txid::from_byte_array([1; 32]),
        |record| {
            foreign(record).spender = Some(Spender {
                transaction: 60_001,
                input: 3,
            });
            state_of(record).transaction += 1;
        },
        |record| record.transactions[0].tweak[40] ^= 1,
        |record| record.multiples[0][40] ^= 1,
        |record| record.transactions[0].txid = Txid::all_zeros(),
        |record| record.outputs[0].key[31] ^= 1,
        |record| record.outputs[0].value_sat ^= 1,
        |record| record.outputs.last_mut().expect("outputs").vout += 1 << 20,
        |record| foreign(record).key_prefix[7] ^= 1,
        |record| foreign(record).outpoint.vout ^= 1,
        |record| {
            let (first, second) = record.spends.split_at_mut(1);
            std::mem::swap(&mut first[0].outpoint, &mut second[0].outpoint);
            std::mem::swap(&mut first[0].key_prefix, &mut second[0].key_prefix);
        },
        |record| {
            record.spends.truncate(record.spends.len() - 1);
            record.states.truncate(record.states.len() - 1);
        },
        |record| record.new_utxos_filter.push(0),
        |record| record.spent_filter.push(0),
    ];
    let mut seen = vec![plain, plain_with_state];
    for change in changes {
        let mut model = model.clone();
        change(&mut model.chain[last]);
        seen.push(content(&model));
    }
    // The same chain without multiples.
    model.multiples = false;
    for record in &mut model.chain {
        record.multiples.clear();
    }
    seen.push(content(&model));
    let all = seen.len();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), all);
    // And the empty index has one too.
    hash(&memory_store(1).snapshot().expect("snapshot"));
}

/// A chain of blocks of all sizes, several batches long, that scans start and end anywhere in.
fn long_chain() -> (Store, Model) {
    let mut model = Model::new(true);
    for seed in 0..40 {
        let size = match seed % 4 {
            0 => LARGE,
            1 | 2 => SMALL,
            _ => Size {
                transactions: 0,
                ..SMALL
            },
        };
        model.grow(seed, size);
    }
    (fresh(&model, 7, 3), model)
}

#[test]
fn scans_give_what_the_queries_for_each_block_do() {
    let (store, model) = long_chain();
    let snapshot = store.snapshot().expect("snapshot");
    let transactions = snapshot.counts().expect("counts").transactions;
    assert!(transactions > 4080, "more than one batch: {transactions}");
    let heights = 0..model.chain.len() as u32;
    let runner = &mut TestRunner::new(ProptestConfig::with_cases(40));
    let ranges = (
        heights.clone(),
        heights,
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
    );
    let result = runner.run(
        &ranges,
        |(one, other, compressed, multiples, short_keys)| {
            let from = FIRST_HEIGHT + one.min(other);
            let to = FIRST_HEIGHT + one.max(other);
            let columns = ScanColumns {
                compressed,
                multiples,
                short_keys,
            };
            assert_scan(&snapshot, &model, from..=to, columns);
            // The other way round there is nothing, indexed or not.
            if from < to {
                let scan = snapshot.scan(RangeInclusive::new(to, from), columns);
                prop_assert_eq!(scan.expect("scan").expect("no blocks").count(), 0);
            }
            // Not beyond either end.
            for heights in [from..=u32::MAX, 0..=to] {
                prop_assert!(snapshot.scan(heights, columns).expect("scan").is_none());
            }
            Ok(())
        },
    );
    result.unwrap();
}
