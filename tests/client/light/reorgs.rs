//! Chains that are replaced between two scans and during one.

use bitcoin::OutPoint;
use spindex::client::ClientError;

use super::scene::{Run, assert_report, expected_found, expected_spend, world};
use super::server::{Served, Server};
use super::world::{Pay, World};

#[tokio::test(flavor = "multi_thread")]
async fn a_reorganisation_between_two_scans_is_taken_back() {
    let mut before = world(8, 30);
    let common = before.clone();
    before.grow(20);
    let folder = tempfile::tempdir().unwrap();
    // Longer, equal and shorter than the chain it replaces.
    for (number, length) in [30, 20, 5].into_iter().enumerate() {
        let path = folder.path().join(format!("{number}.redb"));
        let server = Server::start(Served::new(before.clone())).await;
        let watched: Vec<OutPoint> = before.unspent.iter().rev().take(40).copied().collect();
        let run = Run::new(&before.keys).watch(&watched).state(&path);
        let report = run.run(&server).await.unwrap();
        assert_report(&report, &before, 1..=50, |_| true);
        assert!(report.found.iter().any(|f| f.height > 30));
        assert!(
            report
                .found
                .iter()
                .any(|f| f.spent.as_ref().is_some_and(|s| s.height > 30))
        );

        let mut after = common.fork(100 + number as u64);
        after.grow(length);
        server.switch(after.clone());
        let report = run.run(&server).await.unwrap();
        assert_report(&report, &after, 1..=30 + length as u32, |_| true);
        assert_eq!(report.reorganised_above, Some(30));
        for watched in &report.watched {
            let expected = expected_spend(&after, &watched.outpoint, after.tip());
            assert_eq!(watched.spend, expected);
        }
        // And it is the state that was mended, not only the report.
        let again = run.run(&server).await.unwrap();
        assert_eq!((again.reorganised_above, again.found), (None, report.found));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_replaced_altogether_is_scanned_anew() {
    let before = world(9, 20);
    let after = world(10, 25);
    let server = Server::start(Served::new(before.clone())).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    let run = Run::new(&before.keys).state(&path);
    run.run(&server).await.unwrap();
    server.switch(after.clone());
    let report = run.run(&server).await.unwrap();
    assert_report(&report, &after, 1..=25, |_| true);
    assert_eq!(report.reorganised_above, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_that_parts_below_all_known_blocks_is_refused() {
    let mut before = World::new(11, 1);
    let common = before.clone();
    before.grow(300);
    let mut after = common.fork(5);
    after.grow(310);
    let server = Server::start(Served::new(before.clone())).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    let run = Run::new(&before.keys)
        .state(&path)
        .set(|s| s.window_blocks = 100);
    let found = run.run(&server).await.unwrap().found;
    server.switch(after);
    let error = run.run(&server).await.unwrap_err();
    assert!(
        matches!(error, ClientError::DeepReorganisation { lowest: 13, .. }),
        "{error}"
    );
    // Nothing was taken back.
    server.switch(before.clone());
    assert_eq!(run.run(&server).await.unwrap().found, found);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reorganisation_during_a_scan_leaves_no_trace() {
    let common = world(32, 30);
    let branch = |seed, blocks: usize| {
        let mut world = common.fork(seed);
        world.begin_block();
        world.pay(&[Pay::Wallet(None), Pay::Stranger], &[], &[]);
        world.grow(blocks - 1);
        world
    };
    let (before, after) = (branch(1, 15), branch(2, 17));
    // The chain changes right after each kind of answer for each of the blocks that differ.
    let routes = [
        "filter/new-utxos",
        "filter/spent",
        "tweak-index",
        "utxos",
        "spent-index",
        "spends",
        "block-hash",
    ];
    let mut mended = 0;
    for (height, concurrency) in [(31, 1), (31, 5), (32, 1), (36, 5), (41, 1), (45, 1)] {
        for route in routes {
            let mut served = Served::new(before.clone());
            let (mut asked, mut replacement) = (false, Some(after.clone()));
            served.hook = Some(Box::new(move |served, path| {
                if asked && let Some(replacement) = replacement.take() {
                    served.height = replacement.tip();
                    served.world = replacement;
                }
                asked |= path == format!("{route}/{height}");
                None
            }));
            let server = Server::start(served).await;
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("state.redb");
            let run = Run::new(&before.keys)
                .state(&path)
                .set(|s| s.concurrency = concurrency);
            let first = run.run(&server).await.unwrap();
            let what = format!("a change after {route}/{height}");
            let to = first.scanned_to.unwrap();
            // Of one chain, whichever, and of no mixture of both.
            let of = |chain: &World| first.found == expected_found(chain, 1..=to, |_| true);
            assert!(of(&after) || (to == 45 && of(&before)), "{what}");
            mended += usize::from(first.reorganised_above.is_some());
            // With the other chain from now on, if it had not come to that yet.
            server.switch(after.clone());
            let report = run.run(&server).await.unwrap();
            assert_eq!(
                report.found,
                expected_found(&after, 1..=47, |_| true),
                "{what}"
            );
            assert_eq!(report.scanned_to, Some(47));
        }
    }
    assert!(
        mended > 10,
        "only {mended} scans had to take something back"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_right_after_the_stored_blocks_were_checked_is_seen() {
    let common = world(32, 30);
    let (mut before, mut after) = (common.fork(1), common.fork(2));
    before.grow(15);
    after.grow(15);
    let mut served = Served::new(before.clone());
    let (mut asked, mut replacement) = (false, Some(after.clone()));
    served.hook = Some(Box::new(move |served, path| {
        // Once for the blocks themselves, the second time when the next scan begins.
        if asked
            && path.starts_with("filter/")
            && let Some(replacement) = replacement.take()
        {
            served.world = replacement;
        }
        asked |= path == "block-hash/35" && served.count("block-hash/35") == 2;
        None
    }));
    let server = Server::start(served).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    let run = Run::new(&before.keys).state(&path).set(|s| s.to = Some(35));
    let report = run.run(&server).await.unwrap();
    assert_report(&report, &before, 1..=35, |_| true);
    let report = Run::new(&before.keys)
        .state(&path)
        .run(&server)
        .await
        .unwrap();
    assert_report(&report, &after, 1..=45, |_| true);
    assert_eq!(report.reorganised_above, Some(30));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_behind_takes_nothing_back() {
    let world = world(13, 40);
    let server = Server::start(Served::new(world.clone())).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    let run = Run::new(&world.keys).state(&path);
    let whole = run.run(&server).await.unwrap();
    server.with(|served| served.height = 25);
    let report = run.run(&server).await.unwrap();
    assert_eq!(report.found, whole.found);
    assert_eq!((report.scanned_to, report.oracle_height), (Some(40), 25));
    assert_eq!(report.reorganised_above, None);
    server.with(|served| served.height = 40);
    assert_eq!(run.run(&server).await.unwrap(), whole);
}
