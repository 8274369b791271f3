//! What is refused, what is the same, and what is known of the past.

use std::sync::atomic::{AtomicU64, Ordering};

use bitcoin::OutPoint;
use bitcoin::Txid;
use bitcoin::hashes::Hash;
use spindex::chain::made::simulated::builder::InputKind;
use spindex::curve::libsecp256k1::LibSecp256k1;
use spindex::index::derive_records;
use spindex::process::{End, Rule};
use spindex::store::Update;
use spindex::store::watches::{Happening, Subject};
use spindex::watch::{NewWatch, Registered, Registry, WatchError};

use crate::forest::{Forest, Output};
use crate::scene::{MANY, Scene, process};
use crate::twin::Knowing;

async fn scene() -> Scene {
    let mut scene = Scene::new(Forest::new(7, 6), Knowing::Blocks);
    scene.forest.chain.mine(1);
    scene.sync(96 << 20).await.unwrap();
    scene.compare("at first");
    scene
}

fn starts(scene: &Scene) -> Vec<OutPoint> {
    let unspent = scene.forest.unspent();
    unspent.iter().map(|coin| coin.outpoint).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn all_of_a_registration_or_none() {
    let mut scene = scene().await;
    let starts = starts(&scene);
    let all: Vec<NewWatch> = starts.iter().map(|start| process(*start, 1)).collect();
    let nothing = |scene: &Scene| {
        let snapshot = scene.store.snapshot().unwrap();
        assert_eq!(snapshot.watches(0, 10).unwrap(), []);
        assert_eq!(scene.registry.watch_count(3), 0);
    };
    let limit = scene.registry.register(3, 5, &all, |_| ());
    assert!(
        matches!(limit, Err(WatchError::Limit { found: 6, most: 5 })),
        "{limit:?}"
    );
    nothing(&scene);
    let mut long = all.clone();
    long[5].tag = vec![0; 65];
    let long = scene.registry.register(3, MANY, &long, |_| ());
    assert!(
        matches!(long, Err(WatchError::Tag { bytes: 65, .. })),
        "{long:?}"
    );
    nothing(&scene);
    let mut twice = all.clone();
    twice.push(process(starts[0], 2));
    let twice = scene.registry.register(3, MANY, &twice, |_| ());
    assert!(matches!(twice, Err(WatchError::Twice { .. })), "{twice:?}");
    nothing(&scene);

    let first = scene.register(3, &all).unwrap();
    assert!(first.iter().all(|registered| registered.is_new));
    assert_eq!(scene.registry.watch_count(3), 6);
    // Asked again, with one twice and one that is new, as somebody else's is.
    let mut again = all.clone();
    again.push(all[0].clone());
    let known = scene.registry.register(3, 6, &again, |_| ()).unwrap();
    assert_eq!(known.len(), 7);
    for (known, first) in known.iter().zip(first.iter().chain(&first[..1])) {
        let watch = first.watch;
        let is_new = false;
        assert_eq!(*known, Registered { watch, is_new });
    }
    let mut otherwise = all[0].clone();
    otherwise.subject = Subject::Process(Rule { state: 1, carry: 0 });
    let refused = scene
        .registry
        .register(3, MANY, &[otherwise.clone()], |_| ());
    match refused {
        Err(WatchError::Otherwise { outpoint, watch }) => {
            assert_eq!((outpoint, watch), (starts[0], first[0].watch));
        }
        other => panic!("{other:?}"),
    }
    let others = scene.register(4, &[otherwise]).unwrap();
    assert!(others[0].is_new);
    scene.compare("registered");

    // Only one's own can be removed, and then it can be registered otherwise.
    let [mine, theirs] = [first[0].watch, others[0].watch];
    let removed = scene.registry.remove(Some(4), &[mine]).unwrap();
    assert_eq!(removed, [false]);
    scene.remove(mine);
    scene.remove(theirs);
    assert_eq!(scene.registry.watch_count(4), 0);
    let new = scene.register(3, &[process(starts[0], 4)]).unwrap();
    assert!(new[0].is_new && new[0].watch > theirs);
    scene.compare("removed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_has_one_registry() {
    let scene = scene().await;
    let second = Registry::attach(scene.store.clone());
    assert!(matches!(second, Err(WatchError::Attached)), "{second:?}");
}

/// A lineage of the past, by state ids, up to each of its ends.
#[tokio::test(flavor = "multi_thread")]
async fn the_past_is_followed_as_far_as_it_is_known() {
    let mut scene = Scene::new(Forest::new(9, 0), Knowing::Blocks);
    let request = spindex::chain::made::simulated::PaymentRequest {
        inputs: vec![InputKind::P2wpkh],
        keep: vec![
            (InputKind::P2tr, 10_000_000),
            (InputKind::P2wpkh, 10_000_000),
        ],
        ..Default::default()
    };
    let (id, paid) = scene.forest.chain.mine_with(&[request]).unwrap();
    let [start, other] = [paid[0].kept[0].clone(), paid[0].kept[1].clone()];
    let tr = Output::Coin(InputKind::P2tr);
    let mut tip = start.clone();
    for number in 1..=30 {
        let outputs = [tr, Output::State([number; 32])];
        let txid = scene.forest.spend(&[tip], &outputs).unwrap();
        if number % 3 == 0 {
            scene.forest.chain.mine(1);
        }
        tip = scene.forest.coins[&OutPoint::new(txid, 0)].clone();
    }
    let live = tip.outpoint;
    // And a script that the index knows nothing of.
    scene
        .forest
        .spend(std::slice::from_ref(&other), &[tr, Output::State([1; 32])])
        .unwrap();
    scene.forest.chain.mine(1);
    scene.sync(96 << 20).await.unwrap();
    let above = scene.forest.chain.tip_id().height + 1;

    let steps = AtomicU64::new(0);
    let never = OutPoint::new(Txid::all_zeros(), 3);
    let watches = [
        process(start.outpoint, 6),
        process(other.outpoint, 0),
        process(never, 0),
    ];
    scene.tell();
    let progress = |looked: spindex::watch::Looked| {
        assert_eq!(looked.of, 3);
        steps.fetch_max(looked.steps, Ordering::Relaxed);
    };
    let registered = scene
        .registry
        .register(1, MANY, &watches, progress)
        .unwrap();
    assert_eq!(steps.into_inner(), 30);
    let snapshot = scene.store.snapshot().unwrap();
    let row = |index: usize| snapshot.watch(registered[index].watch).unwrap().unwrap();
    assert_eq!(
        (row(0).tip, row(0).steps, row(0).unknown_below),
        (live, 30, 0)
    );
    assert_eq!((row(1).tip, row(1).steps), (other.outpoint, 0));
    assert_eq!((row(1).unknown_below, row(2).unknown_below), (above, above));
    let events = snapshot.events_after(0, 1_000).unwrap();
    let states = events.iter().filter_map(|(_, event)| match &event.what {
        Happening::Confirmed(confirmed) => confirmed.state.map(|state| state.id[0]),
        _ => None,
    });
    assert_eq!(states.collect::<Vec<_>>(), (1..=30).collect::<Vec<_>>());
    // Ten blocks with three steps each, of which all but the last five have six confirmations with the one above.
    let deep = |(_, event): &&(u64, spindex::store::watches::Event)| {
        matches!(event.what, Happening::Deep { .. })
    };
    assert_eq!(events.iter().filter(deep).count(), 18);

    // Spent by somebody without a state id: known where the block is known that created it.
    let txid = scene.forest.spend(&[tip], &[tr]).unwrap();
    scene.forest.chain.mine(1);
    scene.sync(96 << 20).await.unwrap();
    let last = scene.store.snapshot().unwrap().last_event().unwrap();
    let snapshot = scene.store.snapshot().unwrap();
    let row = snapshot.watch(registered[0].watch).unwrap().unwrap();
    assert!(row.is_over && row.steps == 31);
    let events = snapshot.events_after(0, 1_000).unwrap();
    let end = events
        .iter()
        .rev()
        .find_map(|(_, event)| match &event.what {
            Happening::Ended { end, .. } => Some(*end),
            _ => None,
        });
    assert_eq!(end, Some(End::NoState));
    let mut late = process(live, 0);
    let without = scene
        .registry
        .register(2, MANY, &[late.clone()], |_| ())
        .unwrap();
    late.created = Some(above - 2);
    let with = scene.registry.register(3, MANY, &[late], |_| ()).unwrap();
    let from_start = scene
        .registry
        .register(4, MANY, &[process(start.outpoint, 0)], |_| ())
        .unwrap();
    let snapshot = scene.store.snapshot().unwrap();
    let row = |registered: &[Registered]| snapshot.watch(registered[0].watch).unwrap().unwrap();
    assert_eq!(
        (row(&without).is_over, row(&without).unknown_below),
        (false, above + 1)
    );
    assert!(row(&with).is_over && row(&from_start).is_over);
    assert_eq!(row(&from_start).steps, 31);
    let events = snapshot.events_after(last, 1_000).unwrap();
    let ended = events
        .iter()
        .filter(|(_, event)| matches!(event.what, Happening::Ended { .. }));
    assert_eq!(ended.count(), 2);
    let _ = (id, txid);
}

/// A replica whose upstream does not know who spends: the tip is gone, and where to nobody can say.
#[tokio::test(flavor = "multi_thread")]
async fn a_spend_by_nobody_known_is_not_followed() {
    let mut scene = Scene::new(Forest::new(13, 8), Knowing::Rows);
    scene.sync(1).await.unwrap();
    let unspent = scene.forest.unspent();
    let tip = unspent
        .iter()
        .find(|coin| coin.txout.script_pubkey.is_p2tr())
        .unwrap();
    let registered = scene.register(0, &[process(tip.outpoint, 1)]).unwrap();
    let tr = Output::Coin(InputKind::P2tr);
    let outputs = [tr, Output::State([5; 32])];
    scene
        .forest
        .spend(std::slice::from_ref(tip), &outputs)
        .unwrap();
    let id = scene.forest.chain.mine(1)[0];
    let block = scene.forest.chain.stored_block(id.hash).unwrap();
    let block = block.with_prevouts().unwrap();
    let mut records = derive_records(&LibSecp256k1, &[block], scene.store.tweak_form());
    records[0].states.clear();
    for spend in &mut records[0].spends {
        spend.spender = None;
    }
    let update = Update {
        disconnect: 0,
        connect: &records,
    };
    scene.store.apply(update).unwrap();
    let snapshot = scene.store.snapshot().unwrap();
    assert_eq!(snapshot.last_event().unwrap(), 0);
    let row = snapshot.watch(registered[0].watch).unwrap().unwrap();
    assert_eq!((row.tip, row.is_over), (tip.outpoint, false));
    assert_eq!(row.unknown_below, id.height + 1);
}
