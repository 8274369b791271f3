//! Outpoints in a state: those of a call are followed and reported, those of other calls wait where they are.

use std::collections::BTreeMap;

use bitcoin::OutPoint;
use secp256k1::rand::rngs::StdRng;
use secp256k1::rand::{Rng, SeedableRng};
use spindex::client::{ClientError, ScanReport, Spend};

use super::scene::{Run, expected_spend, world};
use super::server::{Served, Server};
use super::world::World;

fn spends(report: &ScanReport) -> BTreeMap<OutPoint, Option<Spend>> {
    report
        .watched
        .iter()
        .map(|watched| (watched.outpoint, watched.spend.clone()))
        .collect()
}

fn expected(world: &World, outpoints: &[OutPoint]) -> BTreeMap<OutPoint, Option<Spend>> {
    outpoints
        .iter()
        .map(|outpoint| (*outpoint, expected_spend(world, outpoint, world.tip())))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_reports_what_it_names_and_later_calls_miss_nothing() {
    let mut world = world(40, 30);
    let outpoints = world.unspent.clone();
    let server = Server::start(Served::new(world.clone())).await;
    let folder = tempfile::tempdir().unwrap();
    for with_wallet in [false, true] {
        let path = folder.path().join(format!("{with_wallet}.redb"));
        let keys = world.keys.clone();
        let run = |outpoints: &[OutPoint]| {
            let run = match with_wallet {
                true => Run::new(&keys).watch(outpoints),
                false => Run::watching(outpoints),
            };
            run.state(&path)
        };
        let (many, few) = outpoints.split_at(outpoints.len() - 3);
        let report = run(many).run(&server).await.unwrap();
        assert_eq!(spends(&report), expected(&world, many));

        // While the many wait, the chain goes on without them being looked at.
        for _ in 0..3 {
            world.grow(10);
            server.switch(world.clone());
            let report = run(few).run(&server).await.unwrap();
            assert_eq!(spends(&report), expected(&world, few));
        }
        let report = run(many).run(&server).await.unwrap();
        assert_eq!(spends(&report), expected(&world, many));
        assert!(spends(&report).values().any(Option::is_some));
        // All of them together, and again with nothing new: nothing is asked for.
        let report = run(&outpoints).run(&server).await.unwrap();
        assert_eq!(spends(&report), expected(&world, &outpoints));
        server.with(|served| served.log.clear());
        let again = run(&outpoints).run(&server).await.unwrap();
        assert_eq!(spends(&again), spends(&report));
        assert_eq!(server.with(|served| served.count("filter/")), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn outpoints_that_wait_follow_a_reorganisation_and_a_scan_made_again() {
    let before = world(41, 30);
    let outpoints = before.unspent.clone();
    let (first, second) = outpoints.split_at(outpoints.len() / 2);
    let folder = tempfile::tempdir().unwrap();
    for rescan in [false, true] {
        let mut world = before.clone();
        world.grow(12);
        let server = Server::start(Served::new(world.clone())).await;
        let path = folder.path().join(format!("{rescan}.redb"));
        let run = |outpoints: &[OutPoint]| Run::watching(outpoints).state(&path);
        let report = run(first).run(&server).await.unwrap();
        assert!(spends(&report).values().any(Option::is_some));
        run(second).run(&server).await.unwrap();
        if rescan {
            let run = run(second).set(|s| (s.rescan, s.from) = (true, Some(20)));
            run.run(&server).await.unwrap();
        } else {
            world = before.fork(77);
            world.grow(15);
            server.switch(world.clone());
            run(second).run(&server).await.unwrap();
        }
        for some in [first, second, &outpoints] {
            let report = run(some).run(&server).await.unwrap();
            assert_eq!(spends(&report), expected(&world, some));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_other_outpoints_were_begun_says_nothing_about_a_new_one() {
    let world = world(42, 40);
    let early = world.spent.iter().find(|(_, spend)| spend.height < 15);
    let early = *early.unwrap().0;
    let late = *world.unspent.last().unwrap();
    let server = Server::start(Served::new(world.clone())).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    let run = Run::watching(&[late])
        .state(&path)
        .set(|s| s.from = Some(30));
    run.run(&server).await.unwrap();
    let report = Run::watching(&[early])
        .state(&path)
        .run(&server)
        .await
        .unwrap();
    assert_eq!(spends(&report), expected(&world, &[early]));
    assert_eq!(report.watched[0].from, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_named_is_nothing_to_do() {
    let world = world(43, 45);
    let server = Server::start(Served::new(world.clone())).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    let watched = [*world.unspent.last().unwrap()];
    Run::watching(&watched)
        .state(&path)
        .run(&server)
        .await
        .unwrap();
    let error = Run::watching(&[])
        .state(&path)
        .run(&server)
        .await
        .unwrap_err();
    assert!(matches!(error, ClientError::NothingToDo), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_calls_name_in_whatever_order_each_gets_the_truth() {
    let rounds = std::env::var("SPINDEX_OUTPOINT_ROUNDS").map_or(25, |n| n.parse().unwrap());
    let mut rng = StdRng::seed_from_u64(44);
    let mut base = World::new(44, 1);
    base.grow(45);
    let outpoints = base.unspent.clone();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    let server = Server::start(Served::new(base.clone())).await;
    // The chain at several heights, so that it can leave off there.
    let mut worlds = vec![base];
    let mut checked = 0;
    for round in 0..rounds {
        if rng.gen_bool(0.2) {
            worlds.truncate(worlds.len().saturating_sub(rng.gen_range(0..3)).max(1));
        }
        let mut world = worlds.last().unwrap().fork(1000 + round);
        world.grow(rng.gen_range(0..6));
        worlds.push(world.clone());
        server.switch(world.clone());

        let named: Vec<OutPoint> = outpoints
            .iter()
            .filter(|_| rng.gen_bool(0.3))
            .copied()
            .collect();
        if named.is_empty() {
            continue;
        }
        let mut run = Run::watching(&named).state(&path);
        run.settings.window_blocks = rng.gen_range(1..9);
        run.settings.rescan = rng.gen_bool(0.1);
        if rng.gen_bool(0.1) {
            run.settings.from = Some(rng.gen_range(1..45));
        }
        if rng.gen_bool(0.3) {
            // Some calls stop halfway.
            run.settings.to = Some(rng.gen_range(45..=world.tip()));
        }
        let report = run.run(&server).await.unwrap();
        assert_eq!(spends(&report).len(), named.len());
        if run.settings.to.is_none() {
            assert_eq!(spends(&report), expected(&world, &named), "round {round}");
            checked += 1;
        }
    }
    assert!(checked > rounds / 3, "too few rounds end at the tip");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outpoint_is_said_to_be_looked_for_where_it_was() {
    let world = world(47, 30);
    let outpoints = world.unspent.clone();
    let server = Server::start(Served::new(world.clone())).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    let run = |outpoints: &[OutPoint]| Run::watching(outpoints).state(&path);
    let ranges = |report: &ScanReport| -> Vec<(u32, Option<u32>)> {
        let watched = report.watched.iter();
        watched.map(|watched| (watched.from, watched.to)).collect()
    };
    let report = run(&outpoints[..1]).run(&server).await.unwrap();
    assert_eq!(ranges(&report), [(1, Some(30))]);
    // The state has been further than this outpoint.
    let to_9 = run(&outpoints[1..2]).set(|s| s.to = Some(9));
    let report = to_9.run(&server).await.unwrap();
    assert_eq!(ranges(&report), [(1, Some(9))]);
    assert_eq!(report.scanned_to, Some(30));
    // So has it than the server.
    server.with(|served| served.height = 12);
    let report = run(&outpoints[1..2]).run(&server).await.unwrap();
    assert_eq!(ranges(&report), [(1, Some(12))]);
    server.with(|served| served.height = 30);
    let report = run(&outpoints[1..2]).run(&server).await.unwrap();
    assert_eq!(ranges(&report), [(1, Some(30))]);
}
