//! Where a scan begins if nobody says it: at the server's first block, whatever goes wrong while that is looked for.

use bitcoin::OutPoint;
use spindex::client::{ClientError, OracleError};

use super::scene::{Run, assert_report, world};
use super::server::{Fault, Served, Server};
use super::world::{Pay, World};

/// A server whose first block is `first`, and whose answers for single blocks fail as `fault` says, n counted from 0
/// over those of each route and height.
async fn server(
    world: &World,
    first: u32,
    mut fault: impl FnMut(&str, usize) -> Option<Fault> + Send + 'static,
) -> Server {
    let mut served = Served::new(world.clone());
    served.first = first;
    served.hook = Some(Box::new(move |served, path| {
        let before = served.log.iter().filter(|asked| *asked == path).count() - 1;
        path.contains('/').then(|| fault(path, before)).flatten()
    }));
    Server::start(served).await
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_height_the_scan_begins_where_the_server_does() {
    let world = world(22, 50);
    for first in [1, 2, 23, 50] {
        let server = server(&world, first, |_, _| None).await;
        let report = Run::new(&world.keys).run(&server).await.unwrap();
        assert_report(&report, &world, first..=50, |_| true);
    }
    // A height the server has not is an error, not an empty block.
    let server = server(&world, 20, |_, _| None).await;
    let run = Run::new(&world.keys).set(|s| s.from = Some(10));
    let error = run.run(&server).await.unwrap_err();
    assert!(
        matches!(
            error,
            ClientError::Oracle(OracleError::UnknownHeight { height: 10, .. })
        ),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn passing_faults_do_not_move_the_first_block() {
    let world = world(25, 50);
    let database = r#"{"error":"could could not retrieve data from database"}"#;
    for (status, body) in [
        (
            503,
            r#"{"error":"the index is being compacted, try again in a few minutes"}"#,
        ),
        (500, database),
        (429, r#"{"error":"slow down"}"#),
        (502, "<html>"),
        (500, ""),
        (200, ""),
    ] {
        for first in [1, 23] {
            // Each block's first answer fails, on every route.
            let fault = move |_: &str, before| (before == 0).then_some(Fault::Answer(status, body));
            let server = server(&world, first, fault).await;
            let report = Run::new(&world.keys).run(&server).await.unwrap();
            assert_report(&report, &world, first..=50, |_| true);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lasting_faults_and_refusals_are_errors_and_leave_nothing_behind() {
    let world = world(26, 50);
    for (status, body) in [
        (
            503,
            r#"{"error":"the index is being compacted, try again in a few minutes"}"#,
        ),
        (
            500,
            r#"{"error":"could could not retrieve data from database"}"#,
        ),
        (403, "go away"),
        (404, "404 page not found"),
        (200, r#"{"error":"no"}"#),
        (501, r#"{"error":"this server keeps tweaks only"}"#),
        (429, ""),
    ] {
        let fault = move |path: &str, _| {
            (path == "filter/new-utxos/1").then_some(Fault::Answer(status, body))
        };
        let server = server(&world, 1, fault).await;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.redb");
        let run = Run::new(&world.keys).state(&path);
        let error = run.run(&server).await.unwrap_err().to_string();
        assert!(error.contains("filter/new-utxos/1"), "{error}");
        // The same state, once the server is well: from the first block.
        server.with(|served| served.hook = None);
        let report = run.run(&server).await.unwrap();
        assert_report(&report, &world, 1..=50, |_| true);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn words_for_a_missing_filter_count_only_for_a_block_that_was_never_indexed() {
    // Of a block that spends something, or that pays somebody, version 1 has more to tell than of one never indexed.
    let mut spending = World::new(27, 1);
    spending.begin_block();
    let txid = spending.pay(&[Pay::Stranger], &[], &[]);
    let mut paying = spending.clone();
    spending.pay(&[], &[OutPoint::new(txid, 0)], &[]);
    spending.blocks[0].txs[0].tweak = None;
    paying.grow(49);
    spending.grow(49);
    for world in [spending, paying] {
        for words in ["could not get filter from db", "could not fetch header inv"] {
            for passing in [true, false] {
                let body: &'static str = format!(r#"{{"error":"{words}"}}"#).leak();
                let fault = move |path: &str, before| {
                    let fails = path == "filter/spent/1" && (before < 2 || !passing);
                    fails.then_some(Fault::Answer(500, body))
                };
                let server = server(&world, 1, fault).await;
                let report = Run::new(&world.keys).run(&server).await;
                if passing {
                    assert_report(&report.unwrap(), &world, 1..=50, |_| true);
                } else {
                    let error = report.unwrap_err().to_string();
                    assert!(error.contains(words), "{error}");
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_wrong_no_on_the_way_does_not_lead_astray() {
    let world = world(28, 64);
    // Heights that halving asks for, and answers for each, once, like those of a block never indexed.
    for (first, height) in [(1, 1), (20, 32), (20, 24), (20, 20)] {
        let mut served = Served::new(world.clone());
        served.first = first;
        let mut told = false;
        served.hook = Some(Box::new(move |_, path| {
            let (route, at) = path.rsplit_once('/')?;
            if told || at != height.to_string() {
                return None;
            }
            told = route == "tweak-index";
            Some(match route {
                "spent-index" | "tweak-index" => Fault::Answer(200, "[]"),
                _ => Fault::Answer(500, r#"{"error":"could not get filter from db"}"#),
            })
        }));
        let server = Server::start(served).await;
        let report = Run::new(&world.keys).run(&server).await.unwrap();
        assert_report(&report, &world, first..=64, |_| true);
    }
}
