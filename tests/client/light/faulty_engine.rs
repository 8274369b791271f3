//! A curve engine whose results belong to other tweaks: the scan must not go on as if nothing was found.

use std::sync::Arc;

use spindex::client::{ClientError, LightClient, State};
use spindex::curve::libsecp256k1::LibSecp256k1;
use spindex::curve::{
    Batch, CandidateChunk, CandidateScanner, Engine, InvalidTarget, Product, Sampled, ScanTarget,
    TweakPoint,
};
use spindex::scan::Scanner;

use super::scene::{Run, assert_report, identity, oracle, settings, world};
use super::server::{Served, Server};

/// The library, but every tweak gets the candidates of the next one.
struct Displaced;

struct DisplacedScanner(Box<dyn CandidateScanner>);

// No sample tells.
impl Sampled for Displaced {}

impl Sampled for DisplacedScanner {}

impl Engine for Displaced {
    fn name(&self) -> &'static str {
        "displaced"
    }

    fn scanner(&self, targets: &[ScanTarget]) -> Result<Box<dyn CandidateScanner>, InvalidTarget> {
        Ok(Box::new(DisplacedScanner(LibSecp256k1.scanner(targets)?)))
    }

    fn multiply(&self, products: &[Product]) -> Vec<Option<TweakPoint>> {
        LibSecp256k1.multiply(products)
    }

    fn decompress(&self, keys: &[[u8; 33]]) -> Vec<Option<TweakPoint>> {
        LibSecp256k1.decompress(keys)
    }

    fn sums(&self, points: &[TweakPoint], ends: &[usize]) -> Vec<Option<TweakPoint>> {
        LibSecp256k1.sums(points, ends)
    }
}

impl CandidateScanner for DisplacedScanner {
    fn wallets(&self) -> usize {
        self.0.wallets()
    }

    fn candidates_per_tweak(&self, wallet: usize) -> usize {
        self.0.candidates_per_tweak(wallet)
    }

    fn scan(&self, batch: Batch<'_>, take: &mut dyn FnMut(CandidateChunk<'_>)) {
        let mut displaced = batch.tweaks.to_vec();
        displaced.rotate_left(1);
        self.0.scan(Batch::of(&displaced), take);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_match_that_does_not_verify_stops_the_scan_at_its_block() {
    let world = world(50, 40);
    let server = Server::start(Served::new(world.clone())).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    let state = State::open(&path, identity(Some(&world.keys))).unwrap();
    let scanner = Scanner::new(Arc::new(Displaced), world.keys.clone()).unwrap();
    let one_by_one = spindex::client::LightSettings {
        window_blocks: 1,
        ..settings()
    };
    let mut client =
        LightClient::new(oracle(&server), Some(scanner), [], state, one_by_one).unwrap();
    let error = client.run(&mut |_| ()).await.unwrap_err();
    let ClientError::Unverified { height, .. } = &error else {
        panic!("{error}");
    };
    assert!(
        error.to_string().contains("--engine libsecp256k1"),
        "{error}"
    );
    let state = client.into_state();
    assert_eq!(state.scanned_to().unwrap_or(0) + 1, *height);
    drop(state);

    // With an engine that is right the scan goes on where it stopped, and what was stored before it is scanned again by
    // whoever doubts it.
    let run = Run::new(&world.keys);
    let report = run.run(&server).await.unwrap();
    assert_report(&report, &world, 1..=40, |_| true);
    let report = Run::new(&world.keys)
        .state(&path)
        .run(&server)
        .await
        .unwrap();
    assert_eq!(report.scanned_to, Some(40));
    let of_block = |found: &&spindex::client::Found| found.height == *height;
    let expected = super::scene::expected_found(&world, *height..=40, |_| true);
    let mut found: Vec<_> = report.found.iter().filter(of_block).cloned().collect();
    found.iter_mut().for_each(|found| found.spent = None);
    let mut expected: Vec<_> = expected
        .into_iter()
        .filter(|found| of_block(&found))
        .collect();
    expected.iter_mut().for_each(|found| found.spent = None);
    assert!(!expected.is_empty());
    assert_eq!(found, expected);
}
