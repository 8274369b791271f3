//! Registrations while blocks come: no block falls between what was looked back on and what is followed.

use std::collections::BTreeMap;

use bitcoin::Txid;
use secp256k1::rand::Rng;
use spindex::chain::made::simulated::builder::{InputKind, SpendableOutput};
use spindex::store::watches::{Event, Happening, WatchRow};

use crate::forest::{Forest, Output};
use crate::runs;
use crate::scene::{MANY, Scene, process, sync};
use crate::support::random_seed;
use crate::twin::Knowing;

/// Moves every process on, several times in some blocks; gives who has spent its tips.
fn advance(forest: &mut Forest, tips: &mut [SpendableOutput], lineages: &mut [Vec<Txid>]) {
    for (tip, lineage) in tips.iter_mut().zip(lineages) {
        for _ in 0..forest.rng.gen_range(0..3) {
            let state = Output::State(forest.rng.r#gen());
            let outputs = [Output::Coin(InputKind::P2tr), state];
            let txid = forest.spend(std::slice::from_ref(tip), &outputs).unwrap();
            lineage.push(txid);
            *tip = forest.coins[&bitcoin::OutPoint::new(txid, 0)].clone();
        }
    }
}

fn confirmed(events: &[(u64, Event)]) -> BTreeMap<u64, Vec<Txid>> {
    let mut found: BTreeMap<u64, Vec<Txid>> = BTreeMap::new();
    for (_, event) in events {
        if let Happening::Confirmed(confirmed) = &event.what {
            let lineage = found.entry(event.watch).or_default();
            lineage.push(confirmed.txid.unwrap());
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_missed_or_said_twice_by_whoever_registers_meanwhile() {
    let seed = random_seed();
    for run in 0..runs(4) {
        let mut forest = Forest::new(seed.wrapping_add(run), 0);
        let made = [Output::Coin(InputKind::P2tr); 6];
        let request = spindex::chain::made::simulated::PaymentRequest {
            keep: vec![(InputKind::P2tr, 20_000_000)],
            ..Default::default()
        };
        let (_, paid) = forest.chain.mine_with(&[request]).unwrap();
        let txid = forest.spend(&paid[0].kept, &made).unwrap();
        forest.chain.mine(1);
        let outpoint = |vout| bitcoin::OutPoint::new(txid, vout);
        let mut tips: Vec<_> = (0..6)
            .map(|vout| forest.coins[&outpoint(vout)].clone())
            .collect();
        let watches: Vec<_> = tips.iter().map(|coin| process(coin.outpoint, 0)).collect();
        let mut lineages = vec![Vec::new(); tips.len()];
        for _ in 0..20 {
            advance(&mut forest, &mut tips, &mut lineages);
            forest.chain.mine(1);
        }
        let scene = Scene::new(forest, Knowing::Blocks);
        // One at a time, beside a sync in commits of a block each.
        let registry = scene.registry.clone();
        let registering = tokio::task::spawn_blocking(move || {
            let mut numbers = Vec::new();
            for new in watches {
                let registered = registry.register(0, MANY, &[new], |_| ()).unwrap();
                numbers.push(registered[0].watch);
                std::thread::yield_now();
            }
            numbers
        });
        sync(&scene.forest, &scene.store, 1).await.unwrap();
        let numbers = registering.await.unwrap();
        let snapshot = scene.store.snapshot().unwrap();
        let events = snapshot.events_after(0, usize::MAX).unwrap();
        let found = confirmed(&events);
        for ((watch, lineage), tip) in numbers.iter().zip(&lineages).zip(&tips) {
            let own = found.get(watch).cloned().unwrap_or_default();
            assert_eq!(own, *lineage, "seed {seed}, run {run}, watch {watch}");
            let row: WatchRow = snapshot.watch(*watch).unwrap().unwrap();
            assert_eq!((row.tip, row.is_over), (tip.outpoint, false));
            assert_eq!(row.steps, lineage.len() as u64);
        }
        assert_eq!(snapshot.audit(|_, _| {}).unwrap().wrong, []);
    }
}
