//! Scans that were stopped, and scans for more than the last one.

use bitcoin::OutPoint;
use spindex::client::{Spend, State};

use super::scene::{Run, assert_report, expected_spend, identity, world};
use super::server::{Fault, Served, Server};
use super::world::wallet;

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_resumes_and_ends_like_one_without_a_stop() {
    let world = world(6, 70);
    let server = Server::start(Served::new(world.clone())).await;
    let whole = Run::new(&world.keys).run(&server).await.unwrap();
    assert_report(&whole, &world, 1..=70, |_| true);

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    for to in [1, 2, 23, 23, 50] {
        let run = Run::new(&world.keys).state(&path).set(|s| s.to = Some(to));
        let report = run.run(&server).await.unwrap();
        assert_report(&report, &world, 1..=to, |_| true);
    }
    server.with(|served| served.log.clear());
    let report = Run::new(&world.keys)
        .state(&path)
        .run(&server)
        .await
        .unwrap();
    assert_eq!(report, whole);
    // Only what was new has been fetched.
    assert_eq!(server.with(|served| served.count("filter/spent/")), 20);

    // Nothing new: nothing fetched, the same report.
    server.with(|served| served.log.clear());
    let report = Run::new(&world.keys)
        .state(&path)
        .run(&server)
        .await
        .unwrap();
    assert_eq!(report, whole);
    assert_eq!(server.with(|served| served.count("filter/")), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_that_is_dropped_keeps_its_windows() {
    let world = world(7, 60);
    let server = Server::start(Served::new(world.clone())).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    let mut client = Run::new(&world.keys).state(&path).client(&server).unwrap();
    let (sender, stored) = tokio::sync::oneshot::channel();
    let mut sender = Some(sender);
    let mut progress = move |progress: spindex::client::Progress| {
        assert_eq!((progress.first, progress.last), (1, 60));
        if progress.done.is_some_and(|done| done >= 21)
            && let Some(sender) = sender.take()
        {
            sender.send(()).unwrap();
        }
    };
    tokio::select! {
        _ = client.run(&mut progress) => panic!("the scan was to be dropped"),
        _ = stored => (),
    }
    drop(client);
    let state = State::open(&path, identity(Some(&world.keys))).unwrap();
    assert!(
        state
            .scanned_to()
            .is_some_and(|height| (21..60).contains(&height))
    );
    drop(state);
    let report = Run::new(&world.keys)
        .state(&path)
        .run(&server)
        .await
        .unwrap();
    assert_report(&report, &world, 1..=60, |_| true);
}

#[tokio::test(flavor = "multi_thread")]
async fn details_a_server_cannot_give_are_added_once_one_can() {
    let world = world(19, 40);
    let mut served = Served::new(world.clone());
    served.details = false;
    let server = Server::start(served).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    let run = Run::new(&world.keys).state(&path);
    let report = run.run(&server).await.unwrap();
    let spends: Vec<&Spend> = report
        .found
        .iter()
        .filter_map(|f| f.spent.as_ref())
        .collect();
    assert!(!spends.is_empty());
    for spend in spends {
        assert_eq!((spend.spending_txid, spend.input), (None, None));
        assert!(spend.op_return.is_empty());
    }
    // A spindex server without a node refuses by an object.
    server.with(|served| {
        served.details = true;
        served.hook = Some(Box::new(|_, path| {
            let fault = Fault::Answer(503, r#"{"error":"this server has no node to ask"}"#);
            path.starts_with("spends/").then_some(fault)
        }));
    });
    let report = run.run(&server).await.unwrap();
    assert!(
        report
            .found
            .iter()
            .all(|f| f.spent.as_ref().is_none_or(|s| s.input.is_none()))
    );
    server.with(|served| served.hook = None);
    let report = run.run(&server).await.unwrap();
    assert_report(&report, &world, 1..=40, |_| true);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outpoint_watched_later_is_looked_for_from_the_beginning() {
    let world = world(20, 50);
    let server = Server::start(Served::new(world.clone())).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    let strangers: Vec<OutPoint> = world
        .spent
        .keys()
        .filter(|outpoint| !world.expected.contains_key(outpoint))
        .copied()
        .collect();
    let early = &strangers[..strangers.len() / 2];
    let run = Run::new(&world.keys).state(&path);
    run.run(&server).await.unwrap();
    // In two further scans, the first of them stopped on its way, while the wallet's own goes on.
    let mut longer = world.clone();
    longer.grow(15);
    server.switch(longer.clone());
    let run = run.watch(early).set(|s| s.to = Some(30));
    run.run(&server).await.unwrap();
    let run = run.watch(&strangers).set(|s| s.to = None);
    server.with(|served| served.log.clear());
    let report = run.run(&server).await.unwrap();
    assert_report(&report, &longer, 1..=65, |_| true);
    assert_eq!(report.watched.len(), strangers.len());
    for watched in &report.watched {
        let expected = expected_spend(&longer, &watched.outpoint, 65);
        assert!(expected.is_some());
        assert_eq!(watched.spend, expected, "{}", watched.outpoint);
    }
    // The blocks the wallet was scanned for already needed no tweaks again.
    assert_eq!(server.with(|served| served.count("tweak-index/")), 15);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_for_more_than_before_begins_again() {
    let world = world(21, 50);
    let server = Server::start(Served::new(world.clone())).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    // Fewer labels, then a dust limit, then a late beginning: each leaves something out.
    let unlabelled = wallet(1, []);
    let report = Run::new(&unlabelled)
        .state(&path)
        .run(&server)
        .await
        .unwrap();
    assert!(report.found.len() < world.expected.len());
    let run = Run::new(&world.keys)
        .state(&path)
        .set(|s| s.dust_limit_sat = 990_000);
    let with_labels = run.run(&server).await.unwrap();
    assert!(with_labels.found.len() < world.expected.len());
    let report = Run::new(&world.keys)
        .state(&path)
        .run(&server)
        .await
        .unwrap();
    assert_report(&report, &world, 1..=50, |_| true);

    let path = folder.path().join("late.redb");
    let run = Run::new(&world.keys)
        .state(&path)
        .set(|s| s.from = Some(30));
    let report = run.run(&server).await.unwrap();
    assert_report(&report, &world, 30..=50, |_| true);
    server.with(|served| served.log.clear());
    // Where it began is remembered, a later beginning changes nothing, an earlier one does.
    for from in [None, Some(40)] {
        let run = Run::new(&world.keys).state(&path).set(|s| s.from = from);
        run.run(&server).await.unwrap();
    }
    assert_eq!(server.with(|served| served.count("filter/")), 0);
    let run = Run::new(&world.keys).state(&path).set(|s| s.from = Some(1));
    let report = run.run(&server).await.unwrap();
    assert_report(&report, &world, 1..=50, |_| true);
}
