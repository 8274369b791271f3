//! Who reads the log, what is cut off it, tokens, and events that come of no block.

use bitcoin::Txid;
use bitcoin::hashes::Hash;
use spindex::store::watches::{Event, Gone, Happening, Seen, TokenRow};
use spindex::watch::WatchError;

use crate::faulty_disk::Backend;
use crate::forest::Forest;
use crate::scene::{Scene, open, process};
use crate::twin::Knowing;

/// A log of some length: the first blocks of it are deeper than reorganisations reach.
async fn scene() -> Scene {
    let mut scene = Scene::new(Forest::new(11, 10), Knowing::Blocks);
    let unspent = scene.forest.unspent();
    let watches: Vec<_> = unspent
        .iter()
        .map(|coin| process(coin.outpoint, 2))
        .collect();
    scene.register(0, &watches).unwrap();
    for _ in 0..3 {
        scene.forest.grow(4);
        scene.forest.reorganize(2);
        scene.sync(2_000).await.unwrap();
    }
    scene.forest.chain.mine(scene.store.horizon() + 2);
    scene.forest.grow(3);
    scene.sync(96 << 20).await.unwrap();
    scene.compare("at first");
    scene
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_cut_that_somebody_needs() {
    let scene = scene().await;
    let registry = &scene.registry;
    let last = *registry.last_event().borrow();
    let first = |scene: &Scene| scene.store.snapshot().unwrap().first_event().unwrap();
    assert_eq!(first(&scene), Some(1));
    registry.take("slow", 4).unwrap();
    registry.take("fast", last).unwrap();
    let too_far = registry.take("fast", last + 1);
    assert!(
        matches!(too_far, Err(WatchError::NoEvent { .. })),
        "{too_far:?}"
    );
    assert_eq!(registry.cut(u64::MAX).unwrap(), 5);
    assert_eq!(first(&scene), Some(5));
    registry.take("slow", 7).unwrap();
    assert_eq!(registry.cut(6).unwrap(), 6);
    assert_eq!(registry.cut(u64::MAX).unwrap(), 8);
    assert!(registry.forget("slow").unwrap());
    assert!(!registry.forget("slow").unwrap());

    // What a reorganisation may make untrue stays.
    let left = registry.cut(u64::MAX).unwrap();
    let tip = scene.forest.chain.tip_id().height;
    let recent = |event: &Event| {
        let block = event.block();
        block.is_some_and(|block| block.height >= tip - scene.store.horizon())
    };
    let expected = (1..).zip(&scene.twin.log).find(|(_, event)| recent(event));
    let expected = expected.map(|(cursor, _)| cursor);
    assert_eq!(Some(left), expected);
    assert!(left > 8 && left <= last, "{left} of {last}");
    let snapshot = scene.store.snapshot().unwrap();
    let events = snapshot.events_after(0, usize::MAX).unwrap();
    let kept = (1..).zip(scene.twin.log.clone()).skip(left as usize - 1);
    assert_eq!(events, kept.collect::<Vec<_>>());
    assert_eq!(snapshot.audit(|_, _| {}).unwrap().wrong, []);
    assert_eq!(snapshot.consumers().unwrap(), [("fast".to_owned(), last)]);
}

/// As many of the last events stay as are asked for, and a consumer is waited for all the same.
#[tokio::test(flavor = "multi_thread")]
async fn as_many_events_stay_as_are_asked_for() {
    let scene = scene().await;
    scene.forest.chain.mine(scene.store.horizon() + 10);
    scene.sync(96 << 20).await.unwrap();
    let registry = &scene.registry;
    let last = *registry.last_event().borrow();
    assert!(last > 8, "{last}");
    registry.take("slow", 2).unwrap();
    for most in [u64::MAX, last + 1, last] {
        assert_eq!(registry.keep_last(most).unwrap(), 0);
    }
    assert_eq!(registry.keep_last(3).unwrap(), 2);
    assert!(registry.forget("slow").unwrap());
    assert_eq!(registry.keep_last(3).unwrap(), last - 5);
    assert_eq!(registry.keep_last(3).unwrap(), 0);
    let snapshot = scene.store.snapshot().unwrap();
    assert_eq!(snapshot.first_event().unwrap(), Some(last - 2));
    assert_eq!(registry.keep_last(0).unwrap(), 3);
    assert_eq!(registry.keep_last(0).unwrap(), 0);
}

/// Cursors go on where they were, though all events are gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_is_never_given_twice() {
    let mut scene = scene().await;
    let last = *scene.registry.last_event().borrow();
    scene.forest.chain.mine(scene.store.horizon() + 10);
    scene.sync(96 << 20).await.unwrap();
    let after = scene.registry.cut(u64::MAX).unwrap();
    assert_eq!(scene.store.snapshot().unwrap().first_event().unwrap(), None);
    let all = *scene.registry.last_event().borrow();
    assert_eq!(after, all + 1);
    assert!(all >= last);
    scene.tell();
    scene.reopen(|_, _| ());
    let watch = *scene.twin.watches.keys().next().unwrap();
    let seen = Event {
        watch,
        owner: 0,
        what: Happening::Seen(Seen {
            txid: Txid::all_zeros(),
            spent: scene.twin.watches[&watch].tip,
            state: None,
            next: None,
        }),
    };
    let gone = Event {
        watch,
        owner: 0,
        what: Happening::Evicted {
            of: after,
            why: Gone::Expired,
        },
    };
    let events = vec![seen, gone];
    let cursors = scene.registry.append(|_| Ok(events.clone())).unwrap();
    assert_eq!(cursors, [after, after + 1]);
    assert_eq!(*scene.registry.last_event().borrow(), after + 1);
    let found = scene
        .store
        .snapshot()
        .unwrap()
        .events_after(all, 10)
        .unwrap();
    assert_eq!(found, cursors.into_iter().zip(events).collect::<Vec<_>>());
    assert_eq!(
        scene
            .store
            .snapshot()
            .unwrap()
            .audit(|_, _| {})
            .unwrap()
            .wrong,
        []
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_have_numbers_of_their_own() {
    let scene = Scene::new(Forest::new(2, 0), Knowing::Blocks);
    let row = TokenRow {
        number: 1,
        scopes: 3,
        watches_max: 100,
        owner: Some(2),
        streams_max: 3,
        name: "a relay".to_owned(),
    };
    let registry = &scene.registry;
    let numbers = [[1; 32], [2; 32], [1; 32]].map(|hash| registry.put_token(&hash, &row).unwrap());
    assert_eq!(numbers, [1, 2, 1]);
    assert!(registry.revoke_token(&[2; 32]).unwrap());
    assert!(!registry.revoke_token(&[2; 32]).unwrap());
    assert_eq!(registry.put_token(&[3; 32], &row).unwrap(), 3);
    let disk = Backend::holding(scene.disk.disk().live.clone());
    let store = open(&disk).unwrap();
    let snapshot = store.snapshot().unwrap();
    let tokens = snapshot.tokens().unwrap();
    let tokens = tokens.iter().map(|(hash, row)| (hash[0], row.number));
    assert_eq!(tokens.collect::<Vec<_>>(), [(1, 1), (3, 3)]);
    assert_eq!(snapshot.token(&[3; 32]).unwrap().unwrap().watches_max, 100);
    assert_eq!(snapshot.token(&[4; 32]).unwrap(), None);
}
