//! What is watched comes through a repair of the index: nobody could tell it again.

use std::collections::BTreeSet;
use std::sync::Arc;

use spindex::check::{Damage, Repair, repair};
use spindex::curve::libsecp256k1::LibSecp256k1;
use spindex::index::IndexSettings;
use spindex::runtime::Stop;
use spindex::store::schema::DIGEST;
use spindex::store::watches::WATCHES;
use spindex::store::{Snapshot, Store};
use spindex::watch::Registry;

use crate::forest::Forest;
use crate::scene::{MANY, process, sync};
use crate::support::index::{engine, options};

fn watched(snapshot: &Snapshot) -> (Vec<String>, Vec<String>) {
    let watches = snapshot.watches(0, usize::MAX).unwrap();
    let events = snapshot.events_after(0, usize::MAX).unwrap();
    let watches = watches.iter().map(|row| format!("{row:?}"));
    let events = events.iter().map(|row| format!("{row:?}"));
    (watches.collect(), events.collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_and_events_come_through_a_repair() {
    let mut forest = Forest::new(5, 6);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("index.redb");
    let unspent = forest.unspent();
    let watches: Vec<_> = unspent
        .iter()
        .map(|coin| process(coin.outpoint, 2))
        .collect();
    let store = Arc::new(Store::open(&path, &options()).unwrap());
    let registry = Registry::attach(store.clone()).unwrap();
    registry.register(0, MANY, &watches, |_| ()).unwrap();
    forest.grow(6);
    sync(&forest, &store, 1).await.unwrap();
    forest.reorganize(2);
    sync(&forest, &store, 1).await.unwrap();
    let before = watched(&store.snapshot().unwrap());
    assert!(before.1.len() > 6);
    drop((registry, store));

    let wrong = forest.chain.tip_id().height - 2;
    let database = engine(&path);
    let write = database.begin_write().unwrap();
    {
        let mut table = write.open_table(DIGEST).unwrap();
        table.insert(wrong, &[7; 32]).unwrap();
        // Of a watch that has no row like this.
        let mut table = write.open_table(WATCHES).unwrap();
        table.insert(6, [1; 3].as_slice()).unwrap();
    }
    write.commit().unwrap();
    drop(database);

    let (old, _) = Store::open_to_check(&path, &options()).unwrap();
    let damage = Damage {
        old: Some(old),
        tip_height: Some(forest.chain.tip_id().height),
        wrong: BTreeSet::from([wrong]),
    };
    let with = Repair {
        path: &path,
        options: options(),
        source: Some(forest.chain.clone()),
        node: None,
        engine: Arc::new(LibSecp256k1),
        settings: IndexSettings::default(),
        stop: Stop::new(),
    };
    let repaired = repair(&with, damage, |_| ()).await.unwrap();
    assert_eq!(repaired.from_node, Some(wrong));

    let store = Arc::new(Store::open(&path, &options()).unwrap());
    let registry = Registry::attach(store.clone()).unwrap();
    let snapshot = store.snapshot().unwrap();
    assert_eq!(snapshot.audit(|_, _| {}).unwrap().wrong, []);
    let mut after = watched(&snapshot);
    drop(snapshot);
    assert_eq!(after.1, before.1);
    after.0.push(before.0[5].clone());
    assert_eq!(after.0, before.0);

    // And the log goes on.
    let last = *registry.last_event().borrow();
    forest.reorganize(3);
    sync(&forest, &store, 1).await.unwrap();
    let new = store.snapshot().unwrap().events_after(last, 1_000).unwrap();
    let taken_back = new.iter().filter_map(|(_, event)| event.of());
    assert!(taken_back.clone().any(|of| of <= last), "{new:?}");
}
