//! From where to where: beginnings that make no sense are told and not kept, and a scan can be made again.

use bitcoin::OutPoint;
use spindex::client::{ClientError, Found};

use super::scene::{Run, assert_report, expected_found, expected_spend, world};
use super::server::{Fault, Served, Server};
use super::world::Pay;

#[tokio::test(flavor = "multi_thread")]
async fn a_beginning_above_the_tip_is_an_error_and_is_not_kept() {
    let world = world(24, 30);
    let server = Server::start(Served::new(world.clone())).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    for from in [31, 9_000_000, u32::MAX] {
        let run = Run::new(&world.keys)
            .state(&path)
            .set(|s| s.from = Some(from));
        let error = run.run(&server).await.unwrap_err();
        assert!(
            matches!(error, ClientError::BeyondTip { from: told, tip: 30, .. } if told == from),
            "{error}"
        );
        assert!(error.to_string().contains("--from"), "{error}");
    }
    // The end is the server's, whatever is asked for; a range below the server's first block is none.
    let run = Run::new(&world.keys).state(&path);
    let report = run.run(&server).await.unwrap();
    assert_report(&report, &world, 1..=30, |_| true);
    // Nor does it help once something was scanned.
    let run = Run::new(&world.keys)
        .state(&path)
        .set(|s| s.from = Some(31));
    assert!(run.run(&server).await.is_err());

    server.with(|served| served.first = 20);
    let path = folder.path().join("below.redb");
    let run = Run::new(&world.keys).state(&path).set(|s| s.to = Some(10));
    let error = run.run(&server).await.unwrap_err();
    assert!(
        matches!(error, ClientError::EmptyRange { from: 20, to: 10 }),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_that_was_told_to_begin_above_the_tip_says_so_until_it_begins_lower() {
    let world = world(33, 30);
    let mut longer = world.clone();
    longer.grow(10);
    let server = Server::start(Served::new(longer.clone())).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    let run = Run::new(&world.keys)
        .state(&path)
        .set(|s| s.from = Some(35));
    let report = run.run(&server).await.unwrap();
    assert_report(&report, &longer, 35..=40, |_| true);
    // A chain replaced by one that does not reach the beginning.
    server.switch(world.clone());
    for _ in 0..2 {
        // Blocks that are merely missing are not taken back.
        let report = Run::new(&world.keys)
            .state(&path)
            .run(&server)
            .await
            .unwrap();
        assert_eq!((report.scanned_to, report.oracle_height), (Some(40), 30));
    }
    let run = Run::new(&world.keys).state(&path).set(|s| s.from = Some(5));
    let report = run.run(&server).await.unwrap();
    assert_eq!((report.from, report.scanned_to), (5, Some(30)));
    let below: Vec<&Found> = report.found.iter().filter(|f| f.height <= 30).collect();
    let expected = expected_found(&world, 5..=30, |_| true);
    assert_eq!(below, expected.iter().collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lower_beginning_finds_what_is_there() {
    let world = world(34, 50);
    let server = Server::start(Served::new(world.clone())).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    for from in [50, 30, 31, 2, 1] {
        let run = Run::new(&world.keys)
            .state(&path)
            .set(|s| s.from = Some(from));
        let report = run.run(&server).await.unwrap();
        let lowest = if from == 31 { 30 } else { from };
        assert_report(&report, &world, lowest..=50, |_| true);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_made_again_finds_what_was_missed_and_keeps_what_is_forgotten() {
    let mut world = world(35, 30);
    let unspent = world.unspent.clone();
    let mut served = Served::new(world.clone());
    // A server that lacks the tweaks of a third of the blocks, and does not say so.
    served.hook = Some(Box::new(|_, path| {
        let height: u32 = path.strip_prefix("tweak-index/")?.parse().unwrap();
        height.is_multiple_of(3).then_some(Fault::Answer(200, "[]"))
    }));
    served.forgets = true;
    let server = Server::start(served).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    let run = Run::new(&world.keys).state(&path).watch(&unspent[..3]);
    let missed = run.run(&server).await.unwrap();
    let visible = expected_found(&world, 1..=30, |txid| !world.is_gone(txid));
    assert!(missed.found.len() < visible.len());
    server.with(|served| served.hook = None);
    // Without being told to, the scan does not look back.
    let again = run.run(&server).await.unwrap();
    assert_eq!(again.found, missed.found);

    // Meanwhile everything known is spent, so that the server forgets it.
    world.begin_block();
    let known: Vec<OutPoint> = missed.found.iter().map(|found| found.outpoint).collect();
    let spent: Vec<OutPoint> = known
        .iter()
        .filter(|outpoint| !world.spent.contains_key(outpoint))
        .copied()
        .collect();
    assert!(spent.len() > 1);
    world.pay(&[Pay::Stranger], &spent, &[]);
    server.switch(world.clone());
    let run = Run::new(&world.keys)
        .state(&path)
        .watch(&unspent[..3])
        .set(|s| s.rescan = true);
    let mut client = run.client(&server).unwrap();
    let report = client.run(&mut |_| ()).await.unwrap();
    let expected = expected_found(&world, 1..=31, |txid| {
        !world.is_gone(txid) || known.iter().any(|outpoint| outpoint.txid == *txid)
    });
    assert_eq!(report.found, expected);
    for watched in &report.watched {
        let spend = expected_spend(&world, &watched.outpoint, 31);
        assert_eq!(watched.spend, spend);
    }
    // Once per client, not at every call.
    server.with(|served| served.log.clear());
    assert_eq!(client.run(&mut |_| ()).await.unwrap(), report);
    assert_eq!(server.with(|served| served.count("filter/")), 0);
    drop(client);

    // From a height on, only the blocks from there.
    let run = Run::new(&world.keys)
        .state(&path)
        .set(|s| (s.rescan, s.from) = (true, Some(22)));
    let report = run.run(&server).await.unwrap();
    assert_eq!(report.found, expected);
    assert_eq!(report.from, 1);
    assert_eq!(server.with(|served| served.count("tweak-index/")), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn any_number_of_blocks_at_once_is_no_fault() {
    let world = world(36, 45);
    let server = Server::start(Served::new(world.clone())).await;
    for concurrency in [0, 1, usize::MAX] {
        let run = Run::new(&world.keys).set(|s| s.concurrency = concurrency);
        let report = run.run(&server).await.unwrap();
        assert_report(&report, &world, 1..=45, |_| true);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reorganisation_while_a_scan_is_made_again_takes_back_what_it_should() {
    let mut common = world(37, 20);
    let mut before = common.fork(1);
    before.begin_block();
    before.pay(&[Pay::Wallet(None)], &[], &[]);
    before.grow(9);
    common.grow(1);
    let mut after = common.fork(2);
    after.grow(11);
    let gone = expected_found(&before, 21..=30, |_| true);
    assert!(!gone.is_empty());
    for first in [None, Some(3)] {
        let server = Server::start(Served::new(before.clone())).await;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.redb");
        let run = Run::new(&before.keys).state(&path);
        let report = run.run(&server).await.unwrap();
        assert_report(&report, &before, 1..=30, |_| true);
        // It ends before it comes to the blocks that are replaced then.
        let again = Run::new(&before.keys)
            .state(&path)
            .set(|s| (s.rescan, s.from, s.to) = (true, first, Some(9)));
        let report = again.run(&server).await.unwrap();
        assert_eq!(report.scanned_to, Some(9));
        server.switch(after.clone());
        let report = run.run(&server).await.unwrap();
        assert_report(&report, &after, 1..=after.tip(), |_| true);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_that_becomes_shorter_meanwhile_is_scanned_to_its_end() {
    let common = world(38, 20);
    let (mut before, mut after) = (common.fork(1), common.fork(2));
    before.grow(10);
    after.grow(4);
    for route in ["filter/spent/29", "tweak-index/27", "block-hash/30"] {
        let mut served = Served::new(before.clone());
        let shorter = after.clone();
        served.hook = Some(Box::new(move |served, path| {
            if path == route {
                served.height = shorter.tip();
                served.world = shorter.clone();
            }
            None
        }));
        let server = Server::start(served).await;
        let report = Run::new(&common.keys).run(&server).await.unwrap();
        assert_report(&report, &after, 1..=24, |_| true);
    }
}
