//! Who spends what in blocks that were indexed before that was kept, filled in from above.

use std::sync::{Arc, Mutex};

use bitcoin::hashes::Hash;
use bitcoin::secp256k1::rand::{Rng, SeedableRng, rngs::StdRng};
use bitcoin::{OutPoint, Txid};
use spindex::store::{
    BlockRecord, BlockSpends, Spender, StateRow, Store, StoreError, StoreOptions, Update,
};

use super::migration::{fresh, unpack, unsaid};
use crate::support::{
    FIRST_HEIGHT, MEDIUM, Model, SMALL, assert_equal, connect, content, memory_store, place,
    released_chain,
};

/// Whether with multiples, and whether the last blocks have no locators, of [`released_chain`] in format 5.
const OLD: [(bool, bool, &[u8]); 3] = [
    (
        false,
        false,
        include_bytes!("../../fixtures/store/format-5-chain.redb.zst"),
    ),
    (
        true,
        false,
        include_bytes!("../../fixtures/store/format-5-chain-multiples.redb.zst"),
    ),
    (
        false,
        true,
        include_bytes!("../../fixtures/store/format-5-unlocated.redb.zst"),
    ),
];

/// What a source says of blocks that have these records.
pub(crate) fn spends(records: &[BlockRecord]) -> Vec<BlockSpends> {
    let spends = records.iter().map(|record| BlockSpends {
        id: record.id,
        spends: record.spends.clone(),
        states: record.states.clone(),
    });
    spends.collect()
}

/// Compares and fills in; gives where spenders are known from then, and what differs below that.
fn fill(store: &Store, blocks: Vec<BlockSpends>) -> (Option<u32>, Option<StoreError>) {
    let snapshot = store.snapshot().expect("snapshot");
    let mut agreed = snapshot.agree_on_spends(blocks).expect("comparison");
    drop(snapshot);
    let difference = agreed.difference.take();
    (store.fill_spenders(&agreed).expect("written"), difference)
}

fn known_from(store: &Store) -> Option<u32> {
    store.snapshot().expect("snapshot").spenders_from()
}

/// The chain as an index has it that knows spenders from a height on.
fn known_to(model: &Model, from: Option<u32>) -> Model {
    let mut model = model.clone();
    for record in &mut model.chain {
        if from.is_some_and(|from| record.id.height < from) {
            crate::support::forget_spenders(record);
        }
    }
    model
}

/// In batches of any size, with locators that come at any time, over restarts.
#[test]
fn old_files_get_what_a_new_index_has() {
    let seeds: u64 = std::env::var("SPINDEX_FILLS").map_or(2, |seeds| seeds.parse().expect("n"));
    for seed in 0..seeds {
        for (multiples, has_unlocated, packed) in OLD {
            let mut rng = StdRng::seed_from_u64(seed);
            let (_directory, path) = place();
            unpack(packed, &path);
            let model = released_chain(multiples);
            let states = model.chain.iter().map(|record| record.states.len());
            assert!(states.sum::<usize>() > 50);
            let end = FIRST_HEIGHT + model.chain.len() as u32;
            let mut store = Store::open(&path, &unsaid()).expect("migrated");
            let mut from = Some(end);
            while let Some(height) = from {
                assert_eq!(known_from(&store), from);
                let snapshot = store.snapshot().expect("snapshot");
                let lacking = snapshot.lacking_spenders(2).expect("blocks");
                let ids = model.chain.iter().map(|record| record.id);
                let below: Vec<_> = ids.filter(|id| id.height < height).collect();
                assert_eq!(lacking, below[below.len().saturating_sub(2)..]);
                drop(snapshot);
                if has_unlocated && rng.gen_bool(0.3) {
                    store.locate_rest(|_| true).expect("locators");
                }
                if rng.gen_bool(0.3) {
                    drop(store);
                    store = Store::open(&path, &unsaid()).expect("index");
                }
                let blocks = (height - FIRST_HEIGHT) as usize;
                let low = rng.gen_range(0..blocks);
                let (now, difference) = fill(&store, spends(&model.chain[low..blocks]));
                assert!(difference.is_none(), "{difference:?}");
                from = Some(FIRST_HEIGHT + low as u32).filter(|_| low > 0);
                assert_eq!(now, from);
                let partly = known_to(&model, from);
                assert_eq!(content(&store), content(&fresh(&partly)));
                let snapshot = store.snapshot().expect("snapshot");
                if snapshot.locating().is_none() {
                    assert_equal(&snapshot, &partly);
                }
            }
            store.locate_rest(|_| true).expect("locators");
            assert_equal(&store.snapshot().expect("snapshot"), &model);
            assert_eq!(content(&store), content(&fresh(&model)));
            assert_eq!(fill(&store, spends(&model.chain)).0, None);
        }
    }
}

/// An index of a chain that knows no spenders at all.
fn old_index(model: &Model, undo_depth: u32) -> Store {
    let store = memory_store(undo_depth);
    connect(&store, &model.clone().without_spenders().chain);
    store
}

/// Reorganisations above and below what is filled in, and batches that were fetched before them.
#[test]
fn reorganisations_go_on_meanwhile() {
    for (depth, lowest_filled) in [
        (1, 5),
        (3, 5),
        (4, 5),
        (6, 5),
        (8, 5),
        (8, 1),
        (2, 7),
        (5, 8),
    ] {
        let mut model = released_chain(false);
        let store = old_index(&model, 8);
        let end = FIRST_HEIGHT + model.chain.len() as u32;
        let stale = spends(&model.chain);
        if lowest_filled < model.chain.len() {
            fill(&store, stale[lowest_filled..].to_vec());
        }
        model.disconnect(depth);
        let fork = model.chain.len();
        for seed in 0..3 {
            model.grow(500 + seed, MEDIUM);
        }
        let update = Update {
            disconnect: depth as u32,
            connect: &model.chain[fork..],
        };
        store.apply(update).expect("a reorg");
        let expected = FIRST_HEIGHT + lowest_filled.min(fork) as u32;
        let expected = Some(expected).filter(|from| *from > FIRST_HEIGHT);
        assert_eq!(known_from(&store), expected, "{depth} {lowest_filled}");
        let partly = known_to(&model, expected);
        assert_eq!(content(&store), content(&fresh(&partly)));
        assert_equal(&store.snapshot().expect("snapshot"), &partly);
        // Of what was fetched before, what is still there is taken, and the rest passed over.
        let (now, difference) = fill(&store, stale[1..].to_vec());
        assert!(difference.is_none(), "{difference:?}");
        let least = expected.map(|from| from.min(FIRST_HEIGHT + 1));
        assert_eq!(now, least, "{depth} {lowest_filled} {end}");
        assert_eq!(fill(&store, stale[..1].to_vec()).0, None);
        assert_eq!(content(&store), content(&fresh(&model)));
        assert_equal(&store.snapshot().expect("snapshot"), &model);
    }
}

/// A batch that was compared before a reorganisation and comes to be written after it.
#[test]
fn what_has_left_the_chain_is_not_written() {
    let mut model = released_chain(false);
    let store = old_index(&model, 8);
    let snapshot = store.snapshot().expect("snapshot");
    let agreed = snapshot.agree_on_spends(spends(&model.chain[2..]));
    let agreed = agreed.expect("comparison");
    drop(snapshot);
    model.disconnect(5);
    model.grow(77, SMALL);
    let update = Update {
        disconnect: 5,
        connect: &model.chain[3..],
    };
    store.apply(update).expect("a reorg");
    assert_eq!(known_from(&store), Some(FIRST_HEIGHT + 3));
    let now = store.fill_spenders(&agreed).expect("written");
    assert_eq!(now, Some(FIRST_HEIGHT + 2));
    let partly = known_to(&model, now);
    assert_eq!(content(&store), content(&fresh(&partly)));
}

/// Nothing is written of blocks that have unknown ones above them, and listeners are told of what is.
#[test]
fn only_the_end_of_what_is_missing_is_filled_in() {
    let model = released_chain(false);
    let store = old_index(&model, 3);
    let told = Arc::new(Mutex::new(Vec::new()));
    let listening = told.clone();
    store.on_applied(move |applied| {
        listening
            .lock()
            .expect("no panic")
            .push((applied.moves_the_chain(), applied.tip));
    });
    let before = content(&store);
    let all = model.chain.len();
    let end = FIRST_HEIGHT + all as u32;
    for blocks in [Vec::new(), spends(&model.chain[..all - 1])] {
        assert_eq!(fill(&store, blocks).0, Some(end));
        assert_eq!(content(&store), before);
    }
    assert!(told.lock().expect("no panic").is_empty());
    // A block is missing among them.
    let mut gap = spends(&model.chain[all - 4..]);
    gap.remove(1);
    assert_eq!(fill(&store, gap).0, Some(end - 2));
    assert_eq!(*told.lock().expect("no panic"), [(false, model.tip())]);
}

/// An index that took over blocks of one that lacks spenders has known ones below unknown ones.
#[test]
fn known_blocks_among_unknown_ones_stay_as_they_are() {
    let model = released_chain(false);
    let unknown = model.clone().without_spenders();
    let store = memory_store(3);
    for (at, record) in model.chain.iter().enumerate() {
        let record = if at % 3 == 1 {
            record
        } else {
            &unknown.chain[at]
        };
        connect(&store, std::slice::from_ref(record));
    }
    let known = &model.chain[4];
    assert!(!known.states.is_empty());
    // The node has another word on what is known already.
    let other = |change: &dyn Fn(&mut BlockSpends)| {
        let mut blocks = spends(&model.chain);
        change(&mut blocks[4]);
        fill(&store, blocks)
    };
    let (now, difference) = other(&|block| {
        for spend in &mut block.spends {
            let spender = spend.spender.as_mut().expect("known");
            spender.input += 1;
        }
    });
    assert_eq!(now, Some(known.id.height + 1));
    assert_differs(difference, known, "another input");
    let (now, difference) = other(&|block| block.states[0].state_id[5] ^= 1);
    assert_eq!(now, Some(known.id.height + 1));
    assert_differs(difference, known, "state ids");
    assert_eq!(fill(&store, spends(&model.chain)).0, None);
    assert_eq!(content(&store), content(&fresh(&model)));
}

fn assert_differs(difference: Option<StoreError>, record: &BlockRecord, what: &str) {
    let Some(StoreError::OtherSpends { block, reason, .. }) = &difference else {
        panic!("{difference:?}");
    };
    assert_eq!(*block, record.id);
    assert!(reason.contains(what), "{reason}");
    let text = difference
        .map(|error| error.to_string())
        .unwrap_or_default();
    assert!(text.contains(&record.id.to_string()), "{text}");
    assert!(text.contains("spindex check --repair"), "{text}");
}

/// A block that spends something else, by the word of its source, and all below it stay unknown.
#[test]
fn other_spends_are_named_and_not_written() {
    let model = released_chain(false);
    let at = 4;
    let record = &model.chain[at];
    let [first, second] = [0, 1].map(|index| record.spends[index].outpoint.to_string());
    type Change = fn(&mut BlockSpends);
    let changes: [(&str, Change); 4] = [
        ("taproot outpoints where it has", |block| {
            block.spends.truncate(block.spends.len() - 1);
            let last = block.spends[block.spends.len() - 1].spender;
            let transaction = last.expect("known").transaction;
            block
                .states
                .retain(|state| state.transaction <= transaction);
        }),
        (&first, |block| block.spends[0].outpoint.vout ^= 1),
        (&second, |block| {
            block.spends[1].outpoint = OutPoint::new(Txid::all_zeros(), 3);
        }),
        (&second, |block| block.spends[1].key_prefix[7] ^= 1),
    ];
    for (what, change) in changes {
        let store = old_index(&model, 3);
        let mut blocks = spends(&model.chain);
        change(&mut blocks[at]);
        let (now, difference) = fill(&store, blocks);
        assert_differs(difference, record, what);
        let above = Some(record.id.height + 1);
        assert_eq!(now, above);
        let partly = known_to(&model, above);
        assert_eq!(content(&store), content(&fresh(&partly)));
        // Right ones are taken afterwards.
        assert_eq!(fill(&store, spends(&model.chain[..=at])).0, None);
        assert_eq!(content(&store), content(&fresh(&model)));
    }
}

/// What a source cannot say of any block.
#[test]
fn spends_that_contradict_each_other_are_refused() {
    let model = released_chain(false);
    let store = old_index(&model, 3);
    let before = content(&store);
    type Change = fn(&mut BlockSpends);
    let changes: [(&str, Change); 6] = [
        ("who spends", |block| {
            for spend in &mut block.spends {
                spend.spender = None;
            }
            block.states.clear();
        }),
        ("some spends", |block| block.spends[3].spender = None),
        ("block order", |block| block.spends.swap(0, 1)),
        ("more transactions", |block| {
            let last = block.spends.last_mut().expect("spends");
            let (transaction, input) = (u16::MAX, 0);
            last.spender = Some(Spender { transaction, input });
        }),
        ("spends nothing", |block| {
            let mut state: StateRow = block.states[0].clone();
            state.transaction = 0;
            block.states.insert(0, state);
        }),
        ("no block can hold", |block| block.states[0].vout = 1 << 21),
    ];
    for (what, change) in changes {
        let mut blocks = spends(&model.chain);
        change(&mut blocks[4]);
        let snapshot = store.snapshot().expect("snapshot");
        match snapshot.agree_on_spends(blocks) {
            Err(StoreError::InvalidRecord { block, reason }) => {
                assert_eq!(block, model.chain[4].id);
                assert!(reason.contains(what), "{reason}");
            }
            other => panic!("{what}: {other:?}"),
        }
    }
    assert_eq!(content(&store), before);
    let options = StoreOptions {
        keep: Some(spindex::store::Keep::Tweaks),
        ..crate::support::options(3)
    };
    let backend = redb::backends::InMemoryBackend::new();
    let tweaks = Store::open_with_backend(backend, &options).expect("new index");
    connect(&tweaks, &model.chain);
    let snapshot = tweaks.snapshot().expect("snapshot");
    assert_eq!(snapshot.lacking_spenders(9).expect("none"), []);
    let refused = snapshot.agree_on_spends(spends(&model.chain));
    assert!(matches!(refused, Err(StoreError::NotKept { .. })));
}
