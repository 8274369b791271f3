//! `spindex check --against`: an index held against another server, by digests where it has them.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bitcoin::hex::DisplayHex;
use redb::ReadableTable;
use serde_json::Value;
use spindex::BlockId;
use spindex::api::desk::{Desk, DeskSettings};
use spindex::api::{self, Listener, ServeSettings};
use spindex::chain::made::simulated::Orphaned;
use spindex::runtime::Stop;
use spindex::store::schema::{BLOCKS, BlockRow, DIGEST, TWEAKS};
use spindex::store::{DIGEST_START, Store, StoreOptions, roll_digest};
use tokio::net::TcpListener;

use super::place::{Place, block_row, build, is_named, tamper, target};
use crate::support::index::options;

/// Serves an index file as spindex does.
pub(crate) async fn serve(path: &Path) -> (String, Stop) {
    let options = StoreOptions {
        first_height: None,
        ..options()
    };
    let store = Arc::new(Store::open_existing(path, &options).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let stop = Stop::new();
    let requested = stop.clone();
    let desk = Desk::new(store, None, None, DeskSettings::default());
    tokio::spawn(api::serve(
        vec![Listener::http(listener)],
        desk,
        async move { requested.requested().await },
        ServeSettings::default(),
    ));
    (url, stop)
}

/// Serves what a server serves, without digests, as version 1 servers do.
async fn serve_plain(upstream: String) -> String {
    async fn pass_on(State(upstream): State<String>, request: Request) -> Response {
        let url = format!("{upstream}{}", request.uri());
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let Ok(answer) = client.get(url).send().await else {
            return StatusCode::BAD_GATEWAY.into_response();
        };
        let status = answer.status();
        let body = Body::from(answer.bytes().await.unwrap());
        (status, body).into_response()
    }
    let _ = rustls::crypto::ring::default_provider().install_default();
    let router = Router::new()
        .route("/digest/{height}", get(|| async { StatusCode::NOT_FOUND }))
        .fallback(pass_on)
        .with_state(upstream);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    url
}

/// Puts another tweak (that of another block) in a block, with digests that fit it.
fn change_a_tweak(path: &Path, height: u32, tip: BlockId) {
    let (row, other) = (block_row(path, height), block_row(path, tip.height));
    assert!(other.transactions.count > 0, "the last block has tweaks");
    tamper(path, |write| {
        let mut tweaks = write.open_table(TWEAKS.definition()).unwrap();
        let chunks = tweaks.iter().unwrap();
        let mut bytes = chunks
            .flat_map(|chunk| chunk.unwrap().1.value().to_vec())
            .collect::<Vec<u8>>();
        let from = other.transactions.first as usize * 64;
        let to = row.transactions.first as usize * 64;
        bytes.copy_within(from..from + 64, to);
        for (chunk, bytes) in (0..).zip(bytes.chunks(TWEAKS.chunk_bytes())) {
            tweaks.insert(chunk, bytes).unwrap();
        }
        let blocks = write.open_table(BLOCKS).unwrap();
        let mut digests = write.open_table(DIGEST).unwrap();
        let mut digest = DIGEST_START;
        for at in 0..=tip.height {
            let row = BlockRow::decode(blocks.get(at).unwrap().unwrap().value()).unwrap();
            let range = row.transactions.range();
            let range = range.start as usize * 64..range.end as usize * 64;
            let points = bytes[range].chunks(64);
            let compressed = points.map(|point| {
                let point = spindex::curve::TweakPoint::from_bytes(point.try_into().unwrap());
                point.to_compressed()
            });
            digest = roll_digest(&digest, &row.hash, compressed);
            digests.insert(at, &digest).unwrap();
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn another_server_is_compared_with() {
    let place = Place::new().await;
    let tip = place.chain.tip_id();
    let against = |url: &str, more: &[&str]| {
        let url = format!("--against={url}");
        place.check_with_node(&[&[url.as_str()], more].concat())
    };

    let same = place.home.path().join("same.redb");
    fs::copy(place.file(), &same).unwrap();
    let (url, _same) = serve(&same).await;
    let plain = serve_plain(url.clone()).await;
    let (status, report, log) = against(&url, &[]);
    assert_eq!(status, 0, "{report} {log}");
    assert_eq!(report["against"]["digests_agree"], true);
    assert_eq!(report["against"]["common"], tip.height);
    let (status, report, log) = against(&plain, &["--blocks=1000"]);
    assert_eq!(status, 0, "{report} {log}");
    assert_eq!(report["against"]["digests_agree"], Value::Null);
    let lists = report["against"]["heights"].as_array().unwrap();
    assert_eq!(lists.len() as u32, tip.height + 1);
    assert!(
        report["against"]["notes"][0]
            .as_str()
            .unwrap()
            .contains("no digests")
    );

    // One tweak of one block is another: bisection finds it whatever blocks are drawn.
    let height = target(&place.file()).height;
    let changed = place.home.path().join("changed.redb");
    fs::copy(place.file(), &changed).unwrap();
    change_a_tweak(&changed, height, tip);
    let changed_copy = place.home.path().join("copy.redb");
    fs::copy(&changed, &changed_copy).unwrap();
    let (url, _changed) = serve(&changed).await;
    let plain = serve_plain(url.clone()).await;
    let (status, report, log) = against(&url, &["--blocks=0"]);
    assert_eq!(status, 1, "{report} {log}");
    assert_eq!(report["against"]["digests_agree"], false);
    let differs = &report["against"]["differences"][0];
    assert_eq!(differs["height"], height, "{report}");
    assert_eq!(differs["only_here"].as_array().unwrap().len(), 1);
    assert_eq!(differs["only_there"].as_array().unwrap().len(), 1);
    assert_eq!(report["wrong"].as_array().unwrap().len(), 0);
    assert!(log.contains(&format!("block {height}")), "{log}");
    // With a node at hand it is known who is right.
    let (_, _, log) = against(&url, &["--blocks=1"]);
    assert!(log.contains("the server is wrong"), "{log}");
    let (status, report, log) = against(&plain, &["--blocks=1000"]);
    assert_eq!(status, 1, "{report} {log}");
    let differs = report["against"]["differences"].as_array().unwrap();
    assert!(
        differs.iter().all(|differs| differs["height"] == height),
        "{report}"
    );

    // The same damage here, which only another server or the node can see; the repair compares again.
    let good = place.home.path().join("upstream.redb");
    fs::copy(place.home.path().join("good.redb"), &good).unwrap();
    let (url, _good) = serve(&good).await;
    fs::copy(&changed_copy, place.file()).unwrap();
    let (status, report, _) = against(&url, &["--blocks=1"]);
    assert_eq!(status, 1, "{report}");
    assert!(is_named(&report, "tweaks", Some(height)), "{report}");
    let (status, report, log) = against(&url, &["--blocks=1", "--repair"]);
    assert_eq!(status, 0, "{report} {log}");
    assert_eq!(report["repaired"]["from_node"], height, "{report}");
    assert_eq!(report["against"]["digests_agree"], true, "{report}");
    assert_eq!(place.content(), place.content);

    // Behind, and on another branch: said, and no difference.
    let behind = place.home.path().join("behind.redb");
    build(
        &behind,
        place.chain.clone(),
        &options(),
        Some(tip.height - 7),
    )
    .await;
    let (url, _behind) = serve(&behind).await;
    let (status, report, log) = against(&url, &[]);
    assert_eq!(status, 0, "{report} {log}");
    assert_eq!(report["against"]["common"], tip.height - 7);
    assert_eq!(report["against"]["digests_agree"], true);
    assert!(
        report["against"]["notes"][0]
            .as_str()
            .unwrap()
            .contains("tip")
    );
    place.chain.reorganize(3, 4, Orphaned::Drop).unwrap();
    let branch = place.home.path().join("branch.redb");
    build(&branch, place.chain.clone(), &options(), None).await;
    let (url, _branch) = serve(&branch).await;
    let (status, report, log) = against(&url, &[]);
    assert_eq!(status, 0, "{report} {log}");
    assert_eq!(report["against"]["common"], tip.height - 3);
    assert_eq!(report["against"]["digests_agree"], true);
    let notes = report["against"]["notes"].to_string();
    assert!(notes.contains("another branch"), "{notes}");

    // No oracle there: what else was found is told all the same.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, Router::new()).await });
    let (status, report, log) = against(&url, &["--blocks=0"]);
    assert_eq!(status, 1, "{report}");
    assert_eq!(report["ok"], false);
    assert_eq!(report["content_hash"], place.content.to_lower_hex_string());
    assert!(log.contains("base address"), "{log}");
    let (status, _, log) = place.check_with_node(&["--against=ftp://x"]);
    assert_eq!(status, 1);
    assert!(log.contains("http://"), "{log}");
}

/// A row that follows from others is missing, and the comparison goes on, so that the check comes to its repair.
#[tokio::test(flavor = "multi_thread")]
async fn a_missing_digest_agrees_with_no_server_and_is_repaired() {
    let place = Place::new().await;
    let same = place.home.path().join("same.redb");
    fs::copy(place.file(), &same).unwrap();
    let (url, _same) = serve(&same).await;
    let tip = place.chain.tip_id().height;
    tamper(&place.file(), |write| {
        let mut digests = write.open_table(DIGEST).unwrap();
        digests.remove(tip).unwrap().unwrap();
    });
    let against = format!("--against={url}");
    let (status, report, log) = place.check(&[&against]);
    assert_eq!(status, 1, "{report} {log}");
    assert!(is_named(&report, "digest", Some(tip)), "{report} {log}");
    assert_eq!(report["against"]["digests_agree"], false, "{report}");
    let (status, report, log) = place.check_with_node(&[&against, "--repair"]);
    assert_eq!(status, 0, "{report} {log}");
    assert_eq!(report["against"]["digests_agree"], true, "{report}");
    assert_eq!(place.content(), place.content);
}
