//! What many watches cost. Prints, and asserts nothing about time: a million with `SPINDEX_WATCHES=1000000`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bitcoin::hashes::Hash;
use bitcoin::{OutPoint, Txid};
use spindex::curve::libsecp256k1::LibSecp256k1;
use spindex::index::derive_records;
use spindex::process::State;
use spindex::store::watches::{BlockInputs, Happening, InputSpan, Inputs};
use spindex::store::{BlockRecord, Store, StoreOptions, Update};
use spindex::watch::{NewWatch, REGISTER_MAX, Registry};

use crate::forest::Forest;
use crate::scene::{MANY, process, sync};
use crate::support::index::options;

/// Inputs of the block that is matched.
const INPUTS: u32 = 10_000;

fn outpoint(number: u64) -> OutPoint {
    let hash = bitcoin::hashes::sha256d::Hash::hash(&number.to_le_bytes());
    OutPoint::new(Txid::from_raw_hash(hash), 0)
}

/// Memory of this process in bytes, where the system tells.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or_default() * 1024
}

/// The rows of an empty block on top of the chain.
fn next_block(forest: &Forest, store: &Store) -> Vec<BlockRecord> {
    let id = forest.chain.mine(1)[0];
    let block = forest.chain.stored_block(id.hash).unwrap();
    let block = block.with_prevouts().unwrap();
    derive_records(&LibSecp256k1, &[block], store.tweak_form())
}

/// Commits a block with these inputs, which are made up.
fn commit(forest: &Forest, store: &Store, inputs: BlockInputs) -> Duration {
    let records = next_block(forest, store);
    let update = Update {
        disconnect: 0,
        connect: &records,
    };
    let started = Instant::now();
    store.apply_with(update, Inputs::All(&[inputs])).unwrap();
    started.elapsed()
}

/// Two inputs for each transaction, every `watched`th of which somebody waits for.
fn inputs(watched: u64) -> BlockInputs {
    let mut inputs = BlockInputs::default();
    for number in 1..=INPUTS {
        let spent = match u64::from(number) % watched {
            0 => outpoint(u64::from(number)),
            _ => outpoint(u64::MAX - u64::from(number)),
        };
        inputs.spent.push(spent);
        if number % 2 == 0 {
            let vout = 1;
            let id = [number as u8; 32];
            inputs.states.push(State { vout, id });
            inputs.transactions.push(InputSpan {
                txid: outpoint(u64::MAX / 2 - u64::from(number)).txid,
                inputs_end: number,
                states_end: number / 2,
                outputs: 2,
            });
        }
    }
    inputs
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_is_matched_with_many_watches() {
    let asked = std::env::var("SPINDEX_WATCHES").ok();
    let count: u64 = asked.map_or(20_000, |count| count.parse().unwrap());
    let forest = Forest::new(1, 0);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("index.redb");
    let options = StoreOptions {
        cache_bytes: 64 << 20,
        ..options()
    };
    let store = Arc::new(Store::open(&path, &options).unwrap());
    let registry = Registry::attach(store.clone()).unwrap();
    sync(&forest, &store, 96 << 20).await.unwrap();
    let mut registering = Duration::ZERO;
    for from in (0..count).step_by(REGISTER_MAX) {
        let numbers = from..count.min(from + REGISTER_MAX as u64);
        let watches: Vec<NewWatch> = numbers.map(|number| process(outpoint(number), 6)).collect();
        let started = Instant::now();
        let registered = registry.register(0, 2 * MANY, &watches, |_| ());
        registering += started.elapsed();
        assert_eq!(registered.unwrap().len(), watches.len());
    }
    let rate = count as f64 / registering.as_secs_f64();
    eprintln!("{count} watches registered in {registering:?}, {rate:.0} a second");
    let space = store.space().unwrap();
    for table in space
        .tables
        .iter()
        .filter(|table| table.name.starts_with("watch"))
    {
        let bytes = table.allocated_bytes as f64 / count as f64;
        eprintln!("{}: {bytes:.0} bytes of disk each", table.name);
    }
    // What of it lasts: opened anew, nothing is left of the registration.
    drop((registry, store));
    let store = Arc::new(Store::open(&path, &options).unwrap());
    let (before, started) = (resident(), Instant::now());
    let registry = Registry::attach(store.clone()).unwrap();
    eprintln!(
        "read in {:?}, {} bytes more of memory for all of them and the pages they were read from",
        started.elapsed(),
        resident().saturating_sub(before)
    );
    assert_eq!(registry.waiting() as u64, count);

    for _ in 0..3 {
        let empty = commit(&forest, &store, BlockInputs::default());
        let strangers = commit(&forest, &store, inputs(u64::MAX));
        eprintln!(
            "a block without inputs in {empty:?}, of {INPUTS} that nobody waits for in {strangers:?}"
        );
    }
    let watched = commit(&forest, &store, inputs(100));
    eprintln!("of {INPUTS} of which one in a hundred is watched in {watched:?}");

    let snapshot = store.snapshot().unwrap();
    let events = snapshot.events_after(0, usize::MAX).unwrap();
    let confirmed = events
        .iter()
        .filter(|(_, event)| matches!(event.what, Happening::Confirmed(_)));
    assert_eq!(confirmed.count() as u32, INPUTS / 100);
    for number in (100..=u64::from(INPUTS)).step_by(100) {
        let watch = snapshot.watch_of(0, &outpoint(number)).unwrap().unwrap();
        let row = snapshot.watch(watch).unwrap().unwrap();
        assert_eq!(row.steps, 1, "{number}");
    }
}
