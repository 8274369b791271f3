//! Several processes that open one index at once, while it is migrated or put in another's place.
//!
//! Threads stand for processes: the locks of a file belong to whoever has opened it.

use std::fs;
use std::path::Path;
use std::sync::Barrier;
use std::thread;

use spindex::store::{Store, StoreError, StoreOptions, Update};

use crate::support::{Model, SMALL, connect, content, options, place, released_chain};

const FORMAT_1: &[u8] = include_bytes!("../../fixtures/store/format-1-chain.redb.zst");
const FORMAT_4: &[u8] = include_bytes!("../../fixtures/store/format-4-chain.redb.zst");
/// Processes that race for a file.
const PROCESSES: usize = 3;

fn unsaid() -> StoreOptions {
    StoreOptions { ..options(3) }
}

/// Opens an index as soon as nobody else has it.
fn open_in_turn(path: &Path) -> Store {
    loop {
        match Store::open(path, &unsaid()) {
            Ok(store) => return store,
            Err(StoreError::InUse { .. }) => thread::yield_now(),
            Err(StoreError::MigrationFailed { source, .. })
                if matches!(*source, StoreError::InUse { .. }) =>
            {
                thread::yield_now();
            }
            Err(error) => panic!("{error:?}"),
        }
    }
}

/// Whatever process comes between the steps of another, each block that one has been told is committed is there.
#[test]
fn nothing_is_lost_when_processes_race_for_a_migration() {
    let mut grown = released_chain(false).without_spenders();
    let at = grown.chain.len();
    for seed in 0..PROCESSES as u64 {
        grown.grow(seed, SMALL);
    }
    let fresh = crate::support::memory_store(3);
    connect(&fresh, &grown.chain);
    for (round, packed) in [FORMAT_1, FORMAT_4].into_iter().cycle().take(8).enumerate() {
        let (_directory, path) = place();
        fs::write(&path, zstd::decode_all(packed).expect("zstd")).expect("write");
        let start = Barrier::new(PROCESSES);
        thread::scope(|scope| {
            for _ in 0..PROCESSES {
                scope.spawn(|| {
                    start.wait();
                    let store = open_in_turn(&path);
                    add_a_block(&store, &grown, at);
                });
            }
        });
        let store = Store::open_existing(&path, &unsaid()).expect("opens");
        let tip = store.snapshot().expect("snapshot").tip();
        assert_eq!(tip, grown.tip(), "round {round}");
        assert_eq!(content(&store), content(&fresh), "round {round}");
    }
}

/// Connects the next block of the chain.
fn add_a_block(store: &Store, chain: &Model, least: usize) {
    let tip = store.snapshot().expect("snapshot").tip().expect("blocks");
    let next = chain.chain.iter().position(|record| record.id == tip);
    let next = next.expect("a block of the chain") + 1;
    assert!(next >= least, "blocks are lost: the tip is {tip}");
    let update = Update {
        disconnect: 0,
        connect: &chain.chain[next..=next],
    };
    store.apply(update).expect("fits");
}
