//! Listeners beside a slow twin: a list of all events, from which each takes its own.

use bitcoin::hashes::Hash;
use bitcoin::{Network, OutPoint, Txid};
use secp256k1::rand::rngs::StdRng;
use secp256k1::rand::seq::SliceRandom;
use secp256k1::rand::{Rng, SeedableRng};

use super::*;
use crate::process::Rule;
use crate::store::StoreOptions;
use crate::store::watches::{Happening, Subject};
use crate::watch::NewWatch;

struct Scene {
    registry: Registry,
    /// All that was ever appended; cursors begin at 1.
    all: Vec<Event>,
    first: u64,
    rng: StdRng,
    _directory: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let options = StoreOptions {
            network: Network::Regtest,
            first_height: Some(1),
            keep: None,
            tweak_form: None,
            undo_depth: 100,
            cache_bytes: 0,
        };
        let store = Store::open(&directory.path().join("index"), &options).expect("opens");
        Self {
            registry: Registry::attach(Arc::new(store)).expect("attaches"),
            all: Vec::new(),
            first: 1,
            rng: StdRng::seed_from_u64(5),
            _directory: directory,
        }
    }

    fn append(&mut self, count: usize) {
        let next = self.all.len() as u64;
        let events: Vec<Event> = (0..count as u64)
            .map(|more| Event {
                watch: self.rng.gen_range(1..5),
                owner: self.rng.gen_range(0..3),
                what: Happening::Reorged { of: next + more },
            })
            .collect();
        self.all.extend(events.iter().cloned());
        self.registry.append(|_| Ok(events)).expect("appends");
    }

    fn cut(&mut self, before: u64) {
        self.first = self.registry.cut(before).expect("cuts");
    }

    fn selection(&mut self) -> Selection {
        let watches = (1..5).filter(|_| self.rng.r#gen());
        let watches = watches.collect();
        Selection {
            owner: self.rng.r#gen::<bool>().then(|| self.rng.gen_range(0..3)),
            watches: self.rng.r#gen::<bool>().then_some(watches),
        }
    }

    /// What a listener should hear behind a cursor: cursor, watch, owner.
    fn behind(&self, after: u64, selection: &Selection) -> Vec<(u64, u64, u32)> {
        let all = (1..).zip(&self.all);
        let wanted = all.filter(|(cursor, event)| {
            let watches = selection.watches.as_ref();
            *cursor > after
                && selection.owner.is_none_or(|owner| owner == event.owner)
                && watches.is_none_or(|watches| watches.contains(&event.watch))
        });
        wanted
            .map(|(cursor, event)| (cursor, event.watch, event.owner))
            .collect()
    }
}

/// All that a listener hears by now, or why it hears no more.
async fn heard(listener: &mut Listener) -> (Vec<(u64, u64, u32)>, Option<WatchError>) {
    let mut heard = Vec::new();
    loop {
        match listener.ready().await {
            Ok(Some(entry)) => heard.push((entry.cursor(), entry.event.watch, entry.owner)),
            Ok(None) => return (heard, None),
            Err(error) => return (heard, Some(error)),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn listeners_hear_what_the_twin_says() {
    let mut scene = Scene::new();
    // So few that most of the listeners are behind at times.
    let feed = Feed::keeping(&scene.registry, 20);
    let mut listeners: Vec<(Listener, Selection)> = Vec::new();
    let (mut cut, mut far) = (0, 0);
    for _ in 0..300 {
        let count = *[0, 1, 3, 30, 700].choose(&mut scene.rng).expect("one");
        scene.append(count);
        let last = scene.all.len() as u64;
        assert_eq!(feed.last(), last);
        if scene.rng.gen_bool(0.2) {
            let before = scene.rng.gen_range(scene.first..=last + 1);
            scene.cut(before);
        }
        let after = scene.rng.gen_range(scene.first.saturating_sub(2)..=last);
        let selection = scene.selection();
        let listener = feed.listen(after, selection.clone()).expect("listens");
        listeners.push((listener, selection));
        let mut left = Vec::new();
        for (mut listener, selection) in listeners {
            // Some sleep.
            if scene.rng.gen_bool(0.7) {
                left.push((listener, selection));
                continue;
            }
            let after = listener.cursor();
            far += u64::from(last - after > 20);
            let (heard, error) = heard(&mut listener).await;
            let expected = scene.behind(after, &selection);
            match error {
                None => {
                    assert_eq!(heard, expected);
                    assert_eq!(listener.cursor(), last);
                    left.push((listener, selection));
                }
                Some(WatchError::Cut { first, .. }) => {
                    cut += 1;
                    // Nothing was left out before that; what it had in hand already is good.
                    assert_eq!(heard, expected[..heard.len()]);
                    assert!(listener.cursor() + 1 < scene.first);
                    assert_eq!(first, scene.first);
                }
                Some(other) => panic!("{other}"),
            }
        }
        listeners = left;
        listeners.truncate(30);
    }
    assert!(cut > 5 && far > 5, "{cut} {far}");
}

#[tokio::test(flavor = "multi_thread")]
async fn those_at_the_end_read_the_store_once() {
    let mut scene = Scene::new();
    scene.append(10);
    let feed = Feed::new(&scene.registry);
    let listeners: Vec<_> = (0..5_000)
        .map(|_| {
            let mut listener = feed.listen(10, Selection::default()).expect("listens");
            tokio::spawn(async move {
                let mut cursors = Vec::new();
                for _ in 0..60 {
                    cursors.push(listener.next().await.expect("an event").cursor());
                }
                cursors
            })
        })
        .collect();
    for _ in 0..30 {
        scene.append(2);
        tokio::task::yield_now().await;
    }
    for listener in listeners {
        let cursors = listener.await.expect("listened");
        assert!(cursors.into_iter().eq(11..=70));
    }
    // Once for each commit at most.
    assert!(feed.reads() <= 30, "{}", feed.reads());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_says_how_far_it_goes() {
    let mut scene = Scene::new();
    let feed = Feed::new(&scene.registry);
    let nothing = feed.page(0, Selection::default(), 5).await.expect("a page");
    assert_eq!((nothing.cursor, nothing.first, nothing.last), (0, None, 0));
    scene.append(12);
    let page = feed.page(3, Selection::default(), 5).await.expect("a page");
    let cursors = page.entries.iter().map(|entry| entry.cursor());
    assert!(cursors.eq(4..=8));
    assert_eq!((page.cursor, page.first, page.last), (8, Some(1), 12));
    scene.cut(6);
    let page = feed.page(4, Selection::default(), 5).await;
    assert!(
        matches!(page, Err(WatchError::Cut { after: 4, first: 6 })),
        "{page:?}"
    );
    let beyond = feed.page(13, Selection::default(), 5).await;
    assert!(matches!(
        beyond,
        Err(WatchError::NoEvent {
            cursor: 13,
            last: 12
        })
    ));
    assert!(feed.listen(13, Selection::default()).is_err());
    scene.cut(13);
    let page = feed
        .page(12, Selection::default(), 5)
        .await
        .expect("a page");
    assert_eq!((page.cursor, page.first, page.last), (12, None, 12));
    let page = feed.page(11, Selection::default(), 5).await;
    assert!(matches!(
        page,
        Err(WatchError::Cut {
            after: 11,
            first: 13
        })
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_stops_waiting_loses_nothing() {
    let mut scene = Scene::new();
    let feed = Feed::keeping(&scene.registry, 3);
    let mut listener = feed.listen(0, Selection::default()).expect("listens");
    let mut cursors = Vec::new();
    while cursors.len() < 200 {
        let count = scene.rng.gen_range(0..8);
        if scene.all.len() < 200 {
            scene.append(count.min(200 - scene.all.len()));
        }
        tokio::select! {
            biased;
            entry = listener.next() => cursors.push(entry.expect("an event").cursor()),
            () = tokio::task::yield_now() => {}
        }
    }
    assert!(cursors.into_iter().eq(1..=200));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_has_the_tag_of_its_watch_as_long_as_that_is_there() {
    let mut scene = Scene::new();
    let new = NewWatch {
        subject: Subject::Process(Rule::default()),
        outpoint: OutPoint::new(Txid::all_zeros(), 3),
        created: None,
        confirmations: 0,
        tag: b"ours".to_vec(),
    };
    let registered = scene.registry.register(1, 5, &[new], |_| ()).expect("new");
    let watch = registered[0].watch;
    let event = Event {
        watch,
        owner: 1,
        what: Happening::Reorged { of: 0 },
    };
    scene
        .registry
        .append(|_| Ok(vec![event.clone()]))
        .expect("appends");
    let feed = Feed::new(&scene.registry);
    let entry = |feed: &Feed| {
        let mut listener = feed.listen(0, Selection::default()).expect("listens");
        async move { listener.next().await.expect("an event") }
    };
    let before = entry(&feed).await;
    assert_eq!(before.event.tag.as_deref(), Some("ours"));
    let text = format!(r#"{{"cursor":1,"watch":{watch},"tag":"ours","event":"reorged","of":0}}"#);
    assert_eq!(&*before.text().expect("a text"), text);
    scene.registry.remove(None, &[watch]).expect("removes");
    let after = entry(&feed).await;
    assert_eq!((after.event.tag.as_deref(), after.owner), (None, 1));
    scene.append(1);
    assert_eq!(entry(&feed).await.event.tag, None);
}
