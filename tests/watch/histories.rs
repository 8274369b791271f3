//! Random histories: processes, reorganisations to other successors, registrations of the past and the present, restarts.

use secp256k1::rand::Rng;
use spindex::store::watches::{Event, Happening};
use spindex::watch::WatchError;

use crate::forest::Forest;
use crate::runs;
use crate::scene::{Scene, sync, sync_rows};
use crate::support::random_seed;
use crate::twin::Knowing;

/// How often what matters has happened.
#[derive(Debug, Default)]
struct Sum {
    confirmed: u64,
    ended: u64,
    deep: u64,
    reorged: u64,
    unknown: usize,
    two_in_a_block: u64,
}

impl Sum {
    fn add(&mut self, scene: &Scene) {
        let mut last = None;
        for Event { watch, what, .. } in &scene.twin.log {
            match what {
                Happening::Confirmed(confirmed) => {
                    self.confirmed += 1;
                    let this = (*watch, confirmed.block);
                    self.two_in_a_block += u64::from(last.replace(this) == Some(this));
                }
                Happening::Ended { .. } => self.ended += 1,
                Happening::Deep { .. } => self.deep += 1,
                Happening::Reorged { .. } => self.reorged += 1,
                _ => {}
            }
        }
        let watches = scene.twin.watches.values();
        self.unknown += watches.filter(|row| row.unknown_below > 0).count();
    }
}

async fn history(seed: u64, knowing: Knowing) -> Scene {
    let mut scene = Scene::new(Forest::new(seed, 12), knowing);
    for round in 0..16 {
        let what = format!("seed {seed}, {knowing:?}, round {round}");
        let waiting = scene.twin.watches.values().filter(|row| !row.is_over);
        scene.forest.favoured = waiting.map(|row| row.tip).collect();
        match scene.forest.rng.gen_range(0..12) {
            0..5 => {
                let blocks = scene.forest.rng.gen_range(1..4);
                scene.forest.grow(blocks);
            }
            5..8 => {
                let depth = scene.forest.rng.gen_range(1..5);
                scene.forest.reorganize(depth);
            }
            8 => {
                let ways = scene.forest.rng.gen_range(0..3);
                let sync_between = scene.forest.rng.gen_bool(0.5);
                scene.tell();
                let depth = scene.forest.rng.gen_range(1..5);
                scene.reopen(|forest, store| {
                    // Updates that nobody follows.
                    if ways > 0 {
                        forest.reorganize(depth);
                    }
                    if ways > 1 && sync_between {
                        sync_rows(forest, store).unwrap();
                    }
                });
            }
            9 => {
                let known: Vec<u64> = scene.twin.watches.keys().copied().collect();
                if !known.is_empty() {
                    let at = scene.forest.rng.gen_range(0..known.len());
                    scene.remove(known[at]);
                }
            }
            _ => {}
        }
        let batch_bytes = [1, 2_000, 96 << 20][scene.forest.rng.gen_range(0..3)];
        scene.sync(batch_bytes).await.unwrap();
        let count = scene.forest.rng.gen_range(0..5);
        let watches: Vec<_> = (0..count).map(|_| scene.any_watch()).collect();
        let owner = scene.forest.rng.gen_range(0..3);
        match scene.register(owner, &watches) {
            Ok(registered) => assert_eq!(registered.len(), watches.len()),
            Err(WatchError::Otherwise { .. } | WatchError::Twice { .. }) => {}
            Err(error) => panic!("{what}: {error}"),
        }
        scene.compare(&what);
    }
    scene
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_is_the_truth_of_the_chain() {
    let seed = random_seed();
    let mut sum = Sum::default();
    let runs = runs(6);
    for run in 0..runs {
        let knowing = match run % 3 {
            2 => Knowing::Rows,
            _ => Knowing::Blocks,
        };
        sum.add(&history(seed.wrapping_add(run), knowing).await);
    }
    eprintln!("{runs} runs: {sum:?}");
    let Sum {
        confirmed,
        ended,
        deep,
        reorged,
        unknown,
        two_in_a_block,
    } = sum;
    for (what, count) in [
        ("confirmed", confirmed),
        ("ended", ended),
        ("deep", deep),
        ("reorged", reorged),
        ("unknown", unknown as u64),
        ("two in a block", two_in_a_block),
    ] {
        assert!(count > 0, "nothing was {what}");
    }
}

/// Two registries that come to the same chain by other ways, and watch the same from the beginning, have the same log, but
/// for what a shorter way does not see.
#[tokio::test(flavor = "multi_thread")]
async fn batches_do_not_matter() {
    let seed = random_seed();
    let mut logs = Vec::new();
    for batch_bytes in [1, 96 << 20] {
        let mut scene = Scene::new(Forest::new(seed, 8), Knowing::Blocks);
        let starts = scene.forest.unspent();
        let watches: Vec<_> = starts
            .iter()
            .map(|coin| crate::scene::process(coin.outpoint, 3))
            .collect();
        scene.register(0, &watches).unwrap();
        scene.forest.grow(12);
        sync(&scene.forest, &scene.store, batch_bytes)
            .await
            .unwrap();
        scene.forest.reorganize(6);
        sync(&scene.forest, &scene.store, batch_bytes)
            .await
            .unwrap();
        scene.compare(&format!("seed {seed}, batches of {batch_bytes} bytes"));
        logs.push(scene.twin.log);
    }
    assert!(logs[0].len() > 20, "{}", logs[0].len());
    assert_eq!(logs[0], logs[1]);
}
