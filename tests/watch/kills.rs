//! Disks that fail or lose power at any call: whatever is found afterwards, chain and log are those of one commit, and go on
//! from there to the truth.

use secp256k1::rand::rngs::StdRng;
use secp256k1::rand::{Rng, SeedableRng};

use crate::faulty_disk::{Accident, Backend, Fate};
use crate::forest::Forest;
use crate::runs;
use crate::scene::{MANY, Scene, process};
use crate::support::random_seed;
use crate::twin::Knowing;

/// What an accident has left.
#[derive(Debug, Default)]
struct Left {
    whole: u32,
    before: u32,
    after: u32,
}

async fn killed(seed: u64, left: &mut Left) {
    let mut scene = Scene::new(Forest::new(seed, 10), Knowing::Blocks);
    scene.sync(96 << 20).await.unwrap();
    let starts = scene.forest.unspent();
    let watches: Vec<_> = starts
        .iter()
        .map(|coin| process(coin.outpoint, 2))
        .collect();
    scene.register(0, &watches[..5]).unwrap();
    let mut rng = StdRng::seed_from_u64(!seed);
    for round in 0..4 {
        let what = format!("seed {seed}, round {round}");
        match round % 2 {
            0 => scene.forest.grow(3),
            _ => scene.forest.reorganize(2),
        }
        scene.compare(&what);
        // In the middle of some commit, of blocks or of a registration.
        let calls = scene.disk.disk().calls;
        let accident = match rng.gen_range(0..3) {
            0 => Accident::Hiccup,
            1 => Accident::PowerLoss,
            _ => Accident::TornWrites,
        };
        let call = calls + rng.gen_range(0..60);
        scene.disk.fail_at(call, accident);
        let mut failed = scene.sync(1).await.is_err();
        if !failed {
            scene.tell();
            let more = &watches[5 + round..6 + round];
            failed = scene.registry.register(0, MANY, more, |_| ()).is_err();
            let known = scene.store.snapshot().ok();
            if !failed && let Some(snapshot) = known {
                note_registered(&mut scene, &snapshot, more);
            }
        }
        scene.tell();
        let disk = {
            let disk = scene.disk.disk();
            let fates = match accident {
                Accident::PowerLoss => Fate::of_whole_writes(disk.pending.len(), &mut rng),
                Accident::TornWrites => Fate::of_torn_writes(disk.pending.len(), &mut rng),
                Accident::Full(_) | Accident::Hiccup => vec![Fate::Whole; disk.pending.len()],
            };
            Backend::holding(disk.after_power_loss(&fates, &mut rng))
        };
        let (events, chain) = (scene.twin.log.len(), scene.twin.active.clone());
        scene.disk = disk;
        scene.found_again(&watches);
        match (
            failed,
            scene.twin.log.len() == events && scene.twin.active == chain,
        ) {
            (false, _) => left.whole += 1,
            (true, true) => left.before += 1,
            (true, false) => left.after += 1,
        }
        scene.compare(&what);
        scene.sync(96 << 20).await.unwrap();
        scene.compare(&what);
    }
}

fn note_registered(
    scene: &mut Scene,
    snapshot: &spindex::store::Snapshot,
    watches: &[spindex::watch::NewWatch],
) {
    for new in watches {
        let watch = snapshot.watch_of(0, &new.outpoint).unwrap().unwrap();
        if !scene.twin.watches.contains_key(&watch) {
            let chain = &scene.forest.chain;
            scene.twin.register(chain, snapshot, 0, watch, new);
        }
    }
    scene.twin.registered();
}

impl Scene {
    /// Opens what an accident has left. The update that it hit is there as a whole or not at all, and so is the registration.
    fn found_again(&mut self, watches: &[spindex::watch::NewWatch]) {
        self.open_again();
        let snapshot = self.store.snapshot().unwrap();
        let chain = self.forest.chain.clone();
        let now = crate::twin::chain_of(&snapshot);
        let ours = self.twin.active.clone();
        let same = ours.iter().zip(&now).take_while(|(a, b)| a == b).count();
        self.twin.apply(
            &chain,
            &spindex::store::Applied {
                disconnected: ours[same..].iter().rev().copied().collect(),
                connected: now[same..].to_vec(),
                ..Default::default()
            },
        );
        let mut new = watches.to_vec();
        new.retain(|new| {
            let watch = snapshot.watch_of(0, &new.outpoint).unwrap();
            watch.is_some_and(|watch| !self.twin.watches.contains_key(&watch))
        });
        note_registered(self, &snapshot, &new);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_is_there_as_a_whole_or_not_at_all() {
    let seed = random_seed();
    let mut left = Left::default();
    let runs = runs(6);
    for run in 0..runs {
        killed(seed.wrapping_add(run), &mut left).await;
    }
    eprintln!("{runs} runs: {left:?}");
    assert!(left.before > 0, "{left:?}");
}
