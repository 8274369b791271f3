//! What is found, and when it was spent, whatever the height at which a scan begins.

use std::collections::BTreeSet;

use bitcoin::OutPoint;
use spindex::client::ScanHead;

use crate::reorgs::Dialect;
use crate::reorgs::scene::{FIRST, Scene, state};

/// The head at a height, by the index.
fn head(scene: &Scene, from: u32, to: u32) -> ScanHead {
    let snapshot = scene.store.snapshot().unwrap();
    let block = snapshot.block(to).unwrap().unwrap();
    let head = block.sections().unwrap().head.unwrap();
    ScanHead { from, to, head }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_scan_at_any_height_finds_what_was_paid_from_there_on() {
    let scene = Scene::new(1000).await;
    let tip = scene.chain.tip_id().height;
    let paid = scene.chain.paid_outputs();
    let spent_before_the_scan = paid.iter().filter(|paid| paid.spent_by.is_some()).count();
    assert!(spent_before_the_scan > 10, "too few to be a test");
    for from in [FIRST, FIRST + 1, 127, 128, 129, 191, 192, 200, tip] {
        let mut client = scene.client_from(from, Dialect::Native, state(), None, false);
        let report = client.run(&mut |_| ()).await.unwrap();
        let found: BTreeSet<OutPoint> = report.found.iter().map(|f| f.outpoint).collect();
        let expected = paid
            .iter()
            .filter(|paid| paid.block.unwrap().height >= from);
        let expected: BTreeSet<OutPoint> = expected.map(|paid| paid.outpoint).collect();
        assert_eq!(found, expected, "from {from}");
        for found in &report.found {
            let mut paid = paid.iter();
            let paid = paid.find(|paid| paid.outpoint == found.outpoint).unwrap();
            let spent_at = paid.spent_by.map(|(_, block)| block.height);
            assert_eq!(found.spent.as_ref().map(|spent| spent.height), spent_at);
        }
        assert_eq!(report.unresolved, vec![]);
        assert_eq!(report.head, Some(head(&scene, from, tip)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_in_parts_ends_like_one_in_whole() {
    let scene = Scene::new(1001).await;
    let tip = scene.chain.tip_id().height;
    let mut whole = scene.client(Dialect::Native, state(), None, false);
    let whole = whole.run(&mut |_| ()).await.unwrap();
    let mut kept = state();
    for to in [FIRST, 127, 128, 150, 150, 191] {
        let mut client = scene.client(Dialect::Native, kept, Some(to), false);
        let report = client.run(&mut |_| ()).await.unwrap();
        assert_eq!(report.scanned_to, Some(to));
        assert_eq!(report.head, Some(head(&scene, FIRST, to)));
        kept = client.into_state();
    }
    // Once by version 1: what natively was known of the chain of hashes ends there, and begins anew.
    let mut client = scene.client(Dialect::V1, kept, Some(192), false);
    assert_eq!(client.run(&mut |_| ()).await.unwrap().head, None);
    let mut client = scene.client(Dialect::Native, client.into_state(), None, false);
    let report = client.run(&mut |_| ()).await.unwrap();
    assert_eq!(report.head, Some(head(&scene, 193, tip)));
    let outpoints = |found: &[spindex::client::Found]| -> Vec<_> {
        let spent = |f: &spindex::client::Found| f.spent.as_ref().map(|spent| spent.height);
        found.iter().map(|f| (f.outpoint, spent(f))).collect()
    };
    assert_eq!(outpoints(&report.found), outpoints(&whole.found));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_version_1_left_unresolved_is_found() {
    let scene = Scene::new(1002).await;
    let mut client = scene.client(Dialect::V1, state(), None, false);
    let report = client.run(&mut |_| ()).await.unwrap();
    assert!(report.unresolved.len() > 2, "too few to be a test");
    scene.assert_true(Dialect::V1, &report, "by version 1");
    let mut client = scene.client(Dialect::Native, client.into_state(), None, false);
    let report = client.run(&mut |_| ()).await.unwrap();
    scene.assert_true(Dialect::Native, &report, "natively");
    assert_eq!(report.unresolved, vec![]);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_spent_is_told_where_it_may_be_asked() {
    let scene = Scene::new(1003).await;
    let mut client = scene.client_with(state(), |settings| settings.ask_spenders = true);
    let report = client.run(&mut |_| ()).await.unwrap();
    let spends = report.found.iter().filter_map(|found| found.spent.as_ref());
    let told: Vec<bool> = spends.map(|spend| spend.spending_txid.is_some()).collect();
    assert!(told.len() > 10 && told.iter().all(|told| *told), "{told:?}");
    scene.assert_true(Dialect::Native, &report, "with spenders");
}
