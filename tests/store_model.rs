//! Random histories of an index against a naive one in memory.

mod store_support;

use proptest::collection::vec;
use proptest::prelude::*;
use spindex::store::{BlockRecord, Snapshot, Store, StoreError, Update};
use store_support::{LARGE, Model, SMALL, assert_equal, connect, memory_store};

/// One update: blocks away, blocks new.
#[derive(Debug, Clone)]
struct Step {
    disconnect: usize,
    connect: Vec<u64>,
}

fn step(depth: usize) -> impl Strategy<Value = Step> {
    (
        prop_oneof![3 => Just(0), 2 => 0..=depth, 1 => 0..=depth + 3],
        vec(any::<u64>(), 0..6),
    )
        .prop_map(|(disconnect, connect)| Step {
            disconnect,
            connect,
        })
}

fn history() -> impl Strategy<Value = (usize, Vec<Step>)> {
    (0_usize..7).prop_flat_map(|depth| (Just(depth), vec(step(depth), 1..12)))
}

fn hash(snapshot: &Snapshot) -> [u8; 32] {
    snapshot.content_hash().expect("sound index")
}

/// A store built from the chain alone, in batches of a size.
fn fresh(chain: &[BlockRecord], batch: usize, undo_depth: u32) -> Store {
    let store = memory_store(undo_depth);
    for records in chain.chunks(batch.max(1)) {
        connect(&store, records);
    }
    store
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn every_history_is_the_naive_one((depth, steps) in history()) {
        let store = memory_store(depth as u32);
        let mut model = Model::default();
        // Heights that can be disconnected, oldest first.
        let mut undo: Vec<u32> = Vec::new();
        for Step { disconnect, connect } in steps {
            if disconnect > undo.len() {
                let before = hash(&store.snapshot().expect("snapshot"));
                let refused = store.apply(Update { disconnect: disconnect as u32, connect: &[] });
                match refused {
                    Err(StoreError::UndoExhausted { available, .. }) => {
                        prop_assert_eq!(available as usize, undo.len());
                    }
                    other => prop_assert!(false, "{:?}", other),
                }
                prop_assert_eq!(hash(&store.snapshot().expect("snapshot")), before);
                continue;
            }
            let old = store.snapshot().expect("snapshot");
            let old_model = model.clone();

            model.disconnect(disconnect);
            undo.truncate(undo.len() - disconnect);
            let at = model.chain.len();
            for seed in connect {
                let height = model.grow(seed, SMALL).id.height;
                undo.push(height);
            }
            let tip = store
                .apply(Update { disconnect: disconnect as u32, connect: &model.chain[at..] })
                .expect("valid update");
            prop_assert_eq!(tip, model.tip());
            if let Some(tip) = tip {
                undo.retain(|height| height + depth as u32 > tip.height);
            }

            let snapshot = store.snapshot().expect("snapshot");
            assert_equal(&snapshot, &model);
            prop_assert_eq!(snapshot.undo_from().expect("undo"), undo.first().copied());
            let rows = model.undo();
            for record in &model.chain {
                let height = record.id.height;
                let index = (height - store_support::FIRST_HEIGHT) as usize;
                let expected = undo.contains(&height).then(|| rows[index].clone());
                prop_assert_eq!(snapshot.undo(height).expect("undo"), expected);
            }
            hash(&snapshot);
            // A snapshot stands still.
            prop_assert_eq!(old.tip(), old_model.tip());
            if let Some(last) = old_model.chain.len().checked_sub(1) {
                let height = old_model.chain[last].id.height;
                let filter = store_support::row_filters()[6];
                prop_assert_eq!(
                    old.utxos(height, filter).expect("utxos"),
                    Some(old_model.utxos(last, filter))
                );
            }
        }
        let expected = hash(&store.snapshot().expect("snapshot"));
        for batch in [1, 3, 1000] {
            let other = fresh(&model.chain, batch, 2);
            prop_assert_eq!(hash(&other.snapshot().expect("snapshot")), expected);
        }
    }
}

/// Blocks that fill many chunks of every column, and reorgs that cut within and at their ends.
#[test]
fn large_blocks_and_reorgs() {
    let store = memory_store(10);
    let mut model = Model::default();
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
        let other = fresh(&model.chain, 2, 10);
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

/// Contents that differ in any kind of row have other hashes.
#[test]
fn content_hash_sees_every_kind_of_row() {
    let mut model = Model::default();
    while model.chain.last().is_none_or(|last| {
        last.transactions.is_empty() || last.outputs.is_empty() || last.spends.is_empty()
    }) {
        model.grow(model.chain.len() as u64, SMALL);
    }
    let last = model.chain.len() - 1;
    let plain = hash(&fresh(&model.chain, 10, 5).snapshot().expect("snapshot"));
    let changes: [fn(&mut BlockRecord); 8] = [
        |record| record.transactions[0].tweak[40] ^= 1,
        |record| record.transactions[0].txid = bitcoin::hashes::Hash::all_zeros(),
        |record| record.outputs[0].key[31] ^= 1,
        |record| record.outputs[0].value_sat ^= 1,
        |record| record.spends[0].key_prefix[7] ^= 1,
        |record| record.spends.truncate(record.spends.len() - 1),
        |record| record.new_utxos_filter.push(0),
        |record| record.spent_filter.push(0),
    ];
    let mut seen = vec![plain];
    for change in changes {
        let mut chain = model.chain.clone();
        change(&mut chain[last]);
        seen.push(hash(&fresh(&chain, 10, 5).snapshot().expect("snapshot")));
    }
    let all = seen.len();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), all);
    // And the empty index has one too.
    hash(&memory_store(1).snapshot().expect("snapshot"));
}
