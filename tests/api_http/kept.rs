//! Answers that are kept: never of another state of the index, and named so that nobody takes one twice.

use std::sync::Arc;

use bitcoin::Network;
use reqwest::header::{
    CACHE_CONTROL, CONTENT_ENCODING, ETAG, HeaderMap, HeaderValue, IF_NONE_MATCH,
};
use spindex::api::desk::{Desk, DeskSettings};
use spindex::store::{Store, StoreOptions};

use super::fixture::{Server, TestChain, TestStore, pays, sweeps};

/// How many blocks the indexes of these tests can give up.
const UNDO_DEPTH: u32 = 100;

/// Every answer of every height, plain and by a client that takes it compressed.
async fn assert_serves(server: &Server, chain: &TestChain, what: &str) {
    let unzipping = reqwest::Client::builder().no_proxy().build();
    let unzipping = unzipping.expect("a client");
    for block in &chain.blocks {
        for (path, expected) in chain.expected(block.id().height) {
            assert_eq!(server.ok(&path).await, expected, "{what}: {path}");
            let answer = unzipping.get(server.url(&path)).send().await;
            let text = answer.expect("an answer").text().await.expect("a body");
            let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
            assert_eq!(value, expected, "{what}: {path} compressed");
        }
    }
}

#[tokio::test]
async fn every_answer_is_of_the_present_state_after_commits_and_reorganisations() {
    let mut chain = TestChain::new(1);
    let first = chain.mine(&[pays(&[1000, 2000]), pays(&[500])]).clone();
    chain.mine(&[pays(&[700, 800])]);
    let store = TestStore::new(Network::Regtest, 1);
    store.connect(&chain.records());
    let server = Server::start(&store, None).await;
    assert_serves(&server, &chain, "at first").await;

    // The next block changes what the blocks before have left.
    let mut longer = chain.clone();
    longer.mine(&[sweeps(&[first.outpoint(0, 1)]), pays(&[900])]);
    store.connect(&longer.records()[2..]);
    assert_serves(&server, &longer, "with a block more").await;

    // Another block in the place of two, and the outputs unspent again.
    let mut other = chain.clone();
    other.pop(1);
    other.salt(7);
    other.mine(&[sweeps(&[first.outpoint(1, 0)]), pays(&[321])]);
    store.reorganize(2, &other.records()[1..]);
    assert_serves(&server, &other, "after a reorganisation").await;
    let height = other.tip().id().height + 1;
    server
        .refused(&format!("tweaks/{height}"), 500, super::UNKNOWN)
        .await;

    // And back.
    store.reorganize(1, &longer.records()[1..]);
    assert_serves(&server, &longer, "back on the first branch").await;
}

async fn ask(
    server: &Server,
    path: &str,
    known: Option<&HeaderValue>,
    zipped: bool,
) -> (u16, HeaderMap, usize) {
    let mut request = server.client.get(server.url(path));
    if let Some(known) = known {
        request = request.header(IF_NONE_MATCH, known);
    }
    if zipped {
        request = request.header("accept-encoding", "gzip");
    }
    let answer = request.send().await.expect("an answer");
    let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
    (status, headers, answer.bytes().await.expect("a body").len())
}

#[tokio::test]
async fn who_has_an_answer_gets_no_second_one_until_it_changes() {
    let mut chain = TestChain::new(1);
    let first = chain.mine(&[pays(&[1000, 2000])]).clone();
    let store = TestStore::new(Network::Regtest, 1);
    store.connect(&chain.records());
    let server = Server::start(&store, None).await;
    let paths = [
        "utxos/1",
        "tweaks/1",
        "tweak-index/1",
        "filter/spent/1",
        "info",
    ];
    let mut names = Vec::new();
    for path in paths {
        let (status, plain, bytes) = ask(&server, path, None, false).await;
        assert_eq!((status, bytes > 0), (200, true), "{path}");
        let (_, zipped, _) = ask(&server, path, None, true).await;
        assert_eq!(zipped[CONTENT_ENCODING], "gzip");
        // Other bytes, another name.
        assert_ne!(plain[ETAG], zipped[ETAG], "{path}");
        for known in [&plain[ETAG], &zipped[ETAG]] {
            for is_zipped in [false, true] {
                let (status, headers, bytes) = ask(&server, path, Some(known), is_zipped).await;
                assert_eq!((status, bytes), (304, 0), "{path}");
                let own = if is_zipped { &zipped } else { &plain };
                assert_eq!(headers[ETAG], own[ETAG], "{path}");
                assert_eq!(headers["vary"], "Accept-Encoding, Origin");
            }
        }
        names.push(plain[ETAG].clone());
    }
    chain.mine(&[sweeps(&[first.outpoint(0, 0)])]);
    store.connect(&chain.records()[1..]);
    for (path, name) in paths.iter().zip(&names) {
        // The transaction has an unspent output left: the list of tweaks has the same bytes.
        let has_changed = ["utxos/1", "info"].contains(path);
        let (status, headers, _) = ask(&server, path, Some(name), false).await;
        assert_eq!(status, if has_changed { 200 } else { 304 }, "{path}");
        assert_eq!(headers[ETAG] != *name, has_changed, "{path}");
    }
    // An error has no name, and is nobody's answer.
    let (status, headers, bytes) = ask(&server, "tweaks/9", Some(&names[0]), false).await;
    assert_eq!((status, bytes > 0), (500, true));
    assert!(!headers.contains_key(ETAG) && !headers.contains_key(CACHE_CONTROL));
}

#[tokio::test]
async fn what_no_reorganisation_reaches_may_be_kept_for_good() {
    let mut chain = TestChain::new(1);
    for _ in 0..=UNDO_DEPTH {
        chain.mine(&[]);
    }
    let store = TestStore::new(Network::Regtest, 1);
    store.connect(&chain.records());
    let server = Server::start(&store, None).await;
    let immutable = "public, max-age=31536000, immutable";
    for (path, expected) in [
        ("tweak-index/1", immutable),
        ("block-hash/1", immutable),
        ("filter/new-utxos/1", immutable),
        ("spent-index/1", immutable),
        ("digest/1", immutable),
        ("tweaks/1", "no-cache"),
        ("utxos/1", "no-cache"),
        ("info", "no-cache"),
        // The lowest block that one update may disconnect.
        ("tweak-index/2", "no-cache"),
        ("digest/101", "no-cache"),
    ] {
        let (status, headers, _) = ask(&server, path, None, false).await;
        assert_eq!(status, 200, "{path}");
        assert_eq!(headers[CACHE_CONTROL], expected, "{path}");
    }
}

#[test]
fn what_a_larger_undo_depth_lets_a_reorganisation_reach_is_not_settled() {
    for (undo_depth, horizon) in [(0, 100), (99, 100), (100, 100), (288, 288)] {
        let options = StoreOptions {
            network: Network::Regtest,
            first_height: None,
            keep: None,
            tweak_form: None,
            undo_depth,
            cache_bytes: 0,
        };
        let backend = redb::backends::InMemoryBackend::new();
        let store = Store::open_with_backend(backend, &options).expect("opens");
        let desk = Desk::new(Arc::new(store), None, None, DeskSettings::default());
        assert_eq!(desk.horizon(), horizon, "{undo_depth}");
    }
}
