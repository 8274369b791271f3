//! What many watches cost. Prints, and asserts nothing about time: a million with `SPINDEX_WATCHES=1000000`.

use std::time::{Duration, Instant};

use bitcoin::hashes::Hash;
use bitcoin::{OutPoint, Txid};
use spindex::process::State;
use spindex::store::Update;
use spindex::store::watches::{BlockInputs, Happening, InputSpan, Inputs};
use spindex::watch::NewWatch;

use crate::forest::Forest;
use crate::scene::{MANY, Scene, process};
use crate::twin::Knowing;

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

#[tokio::test(flavor = "multi_thread")]
async fn a_block_is_matched_with_many_watches() {
    let asked = std::env::var("SPINDEX_WATCHES").ok();
    let count: u64 = asked.map_or(20_000, |count| count.parse().unwrap());
    let scene = Scene::new(Forest::new(1, 0), Knowing::Blocks);
    scene.sync(96 << 20).await.unwrap();
    let before = resident();
    let started = Instant::now();
    let mut registering = Duration::ZERO;
    for from in (0..count).step_by(100_000) {
        let numbers = from..count.min(from + 100_000);
        let watches: Vec<NewWatch> = numbers.map(|number| process(outpoint(number), 6)).collect();
        let started = Instant::now();
        let registered = scene.registry.register(0, 2 * MANY, &watches, |_| ());
        registering += started.elapsed();
        assert_eq!(registered.unwrap().len(), watches.len());
    }
    eprintln!(
        "{count} watches registered in {registering:?} (with making them {:?}), {:.0} bytes more of memory each",
        started.elapsed(),
        (resident().saturating_sub(before)) as f64 / count as f64
    );
    let space = scene.store.space().unwrap();
    for table in space
        .tables
        .iter()
        .filter(|table| table.name.starts_with("watch"))
    {
        let bytes = table.allocated_bytes as f64 / count as f64;
        eprintln!("{}: {bytes:.0} bytes of disk each", table.name);
    }

    // An empty block, which the inputs are made up for: one in a hundred is watched.
    let id = scene.forest.chain.mine(1)[0];
    let block = scene.forest.chain.stored_block(id.hash).unwrap();
    let block = block.with_prevouts().unwrap();
    let engine = spindex::curve::libsecp256k1::LibSecp256k1;
    let records = spindex::index::derive_records(&engine, &[block], scene.store.tweak_form());
    let mut inputs = BlockInputs::default();
    for number in 1..=INPUTS {
        let spent = match number % 100 {
            0 => outpoint(u64::from(number)),
            _ => outpoint(u64::MAX - u64::from(number)),
        };
        inputs.spent.push(spent);
        if number % 2 == 0 {
            inputs.states.push(State {
                vout: 1,
                id: [number as u8; 32],
            });
            inputs.transactions.push(InputSpan {
                txid: outpoint(u64::MAX / 2 - u64::from(number)).txid,
                inputs_end: number,
                states_end: number / 2,
                outputs: 2,
            });
        }
    }
    let update = Update {
        disconnect: 0,
        connect: &records,
    };
    let started = Instant::now();
    let all = std::slice::from_ref(&inputs);
    scene.store.apply_with(update, Inputs::All(all)).unwrap();
    eprintln!(
        "a block of {INPUTS} inputs committed in {:?}",
        started.elapsed()
    );
    let snapshot = scene.store.snapshot().unwrap();
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

    // The same, of which nobody watches anything: what remains is the commit.
    let id = scene.forest.chain.mine(1)[0];
    let block = scene.forest.chain.stored_block(id.hash).unwrap();
    let block = block.with_prevouts().unwrap();
    let records = spindex::index::derive_records(&engine, &[block], scene.store.tweak_form());
    let update = Update {
        disconnect: 0,
        connect: &records,
    };
    let started = Instant::now();
    let none = [BlockInputs::default()];
    scene.store.apply_with(update, Inputs::All(&none)).unwrap();
    eprintln!(
        "a block without inputs committed in {:?}",
        started.elapsed()
    );
}
