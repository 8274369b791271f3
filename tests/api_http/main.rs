//! The HTTP interface over real sockets: every route, every error, against answers made from the records alone.

mod crowds;
mod faults;
mod fixture;
mod flips;
mod forward;
mod framing;
mod kept;
mod lifetime;
mod load;
mod native;
mod points;
#[path = "../support/proxy.rs"]
mod proxy;
#[path = "../support/sections.rs"]
mod sections;
#[cfg(target_os = "linux")]
#[path = "../support/spcommit.rs"]
mod spcommit;
mod spends;

use bitcoin::{BlockHash, Network, OutPoint};
use serde_json::{Value, json};
use spindex::store::{Keep, TweakForm};

use fixture::{Server, TestChain, TestStore, pays, sample_chain, spent_item, sweeps};

/// All routes with a height, the height left open.
const HEIGHT_ROUTES: [&str; 9] = [
    "block-hash/",
    "tweaks/",
    "tweak-index/",
    "utxos/",
    "filter/new-utxos/",
    "filter/spent/",
    "spent-index/",
    "spends/",
    "digest/",
];
const PARSE: &str = "could not parse block height";
const UNKNOWN: &str = "could not fetch header inv";
const TWEAKS_ONLY: &str =
    "this server keeps tweaks only, see /info; ask for /tweak-index without a dust limit";
const NO_BLOCK: &str =
    "no block is indexed yet: while the first sync of this server is under way, try again later";
const DATABASE: &str = "could could not retrieve data from database";

async fn serve_chain(chain: &TestChain) -> (TestStore, Server) {
    let store = TestStore::new(Network::Regtest, chain.blocks[0].id().height);
    store.connect(&chain.records());
    let server = Server::start(&store, None).await;
    (store, server)
}

async fn assert_serves(server: &Server, chain: &TestChain) {
    for block in &chain.blocks {
        for (path, expected) in chain.expected(block.id().height) {
            assert_eq!(server.ok(&path).await, expected, "/{path}");
            assert_eq!(
                server.ok(&format!("v1/{path}")).await,
                expected,
                "/v1/{path}"
            );
        }
    }
}

#[tokio::test]
async fn an_index_of_compressed_tweaks_serves_all_the_same() {
    let chain = sample_chain();
    let first_height = chain.blocks[0].id().height;
    let store = TestStore::keeping(
        Network::Regtest,
        first_height,
        Keep::Full,
        TweakForm::Compressed,
    );
    store.connect(&chain.records());
    let server = Server::start(&store, None).await;
    assert_serves(&server, &chain).await;
}

#[tokio::test]
async fn an_index_of_tweaks_alone_serves_these_and_refuses_the_rest() {
    let chain = sample_chain();
    let first_height = chain.blocks[0].id().height;
    for tweak_form in [TweakForm::Point, TweakForm::Compressed] {
        let store = TestStore::keeping(Network::Regtest, first_height, Keep::Tweaks, tweak_form);
        store.connect(&chain.records());
        let server = Server::start(&store, None).await;
        let info = server.ok("info").await;
        for (mode, is_on) in [
            ("tweaks_only", true),
            ("tweaks_full_basic", true),
            ("tweaks_full_with_dust_filter", false),
            ("tweaks_cut_through_with_dust_filter", false),
        ] {
            assert_eq!(info[mode], json!(is_on), "{mode}");
        }
        for block in &chain.blocks {
            let height = block.id().height;
            for path in [
                format!("tweak-index/{height}"),
                format!("tweak-index/{height}?dustLimit=0"),
            ] {
                assert_eq!(
                    server.ok(&path).await,
                    chain.tweak_index(height, 0),
                    "{path}"
                );
            }
            for (path, expected) in chain.expected(height) {
                if path.starts_with("digest/") || path.starts_with("block-hash/") {
                    assert_eq!(server.ok(&path).await, expected, "{path}");
                }
            }
            for path in [
                format!("tweak-index/{height}?dustLimit=1"),
                format!("tweaks/{height}"),
                format!("tweaks/{height}?dustLimit=600"),
                format!("utxos/{height}"),
                format!("filter/new-utxos/{height}"),
                format!("filter/spent/{height}"),
                format!("spent-index/{height}"),
                format!("spends/{height}"),
            ] {
                server.refused(&path, 501, TWEAKS_ONLY).await;
            }
        }
        // Heights are judged first, as everywhere.
        server.refused("tweaks/x", 400, PARSE).await;
        server.refused("tweaks/4000000", 500, UNKNOWN).await;
    }
}

#[test]
fn the_expected_item_is_the_one_seen_in_the_wild() {
    let outpoint: OutPoint = "93a9b81f81244f8e6be29d8d6b0a9dbe6d6de6d2d4b018001ebf855bc870be88:0"
        .parse()
        .expect("an outpoint");
    let block: BlockHash = "0000000c8d1fbf0125b3f479fd4457a018d46d6deeed2a1640f6094958836e7b"
        .parse()
        .expect("a hash");
    assert_eq!(spent_item(&outpoint, &block), "543b16061250e565");
}

#[tokio::test]
async fn every_route_answers_from_the_records() {
    let chain = sample_chain();
    let (_store, server) = serve_chain(&chain).await;
    assert_serves(&server, &chain).await;

    // The oracle itself is not empty where it matters.
    assert_eq!(chain.tweak_index(2, 0).as_array().map(Vec::len), Some(5));
    assert_eq!(chain.tweaks(2, 0).as_array().map(Vec::len), Some(4));
    assert_eq!(chain.tweaks(5, 0).as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn info_and_tip_have_all_fields() {
    let chain = sample_chain();
    let (_store, server) = serve_chain(&chain).await;
    let info = json!({
        "network": "regtest", "height": 6, "tweaks_only": false, "tweaks_full_basic": true,
        "tweaks_full_with_dust_filter": true, "tweaks_cut_through_with_dust_filter": true,
    });
    let height = json!({"block_height": 6, "height": 6});
    for prefix in ["", "v1/"] {
        assert_eq!(server.ok(&format!("{prefix}info")).await, info);
        assert_eq!(server.ok(&format!("{prefix}block-height")).await, height);
    }
}

#[tokio::test]
async fn networks_have_the_names_of_the_nodes_chain_option() {
    for (network, name) in [
        (Network::Bitcoin, "main"),
        (Network::Testnet, "test"),
        (Network::Testnet4, "testnet4"),
        (Network::Signet, "signet"),
        (Network::Regtest, "regtest"),
    ] {
        let mut chain = TestChain::new(900_000);
        chain.mine(&[]);
        let store = TestStore::new(network, 900_000);
        store.connect(&chain.records());
        let server = Server::start(&store, None).await;
        assert_eq!(server.ok("info").await["network"], name);
    }
}

#[tokio::test]
async fn before_the_first_block_every_route_says_that_there_is_none_yet() {
    let store = TestStore::new(Network::Regtest, 1);
    let server = Server::start(&store, None).await;
    for route in ["info", "block-height", "v1/info", "v1/block-height"] {
        server.refused(route, 503, NO_BLOCK).await;
        // So that a client knows that waiting helps.
        let headers = server.get(route).await.headers().clone();
        assert_eq!(headers["retry-after"], "30", "{route}");
    }
    for route in HEIGHT_ROUTES {
        server.refused(&format!("{route}1"), 503, NO_BLOCK).await;
        server.refused(&format!("{route}x"), 400, PARSE).await;
    }
    // The first block, and nothing is left of that.
    let mut chain = TestChain::new(1);
    chain.mine(&[pays(&[1000])]);
    store.connect(&chain.records());
    server.ok("info").await;
    assert_serves(&server, &chain).await;
    server.refused("tweaks/2", 500, UNKNOWN).await;
    let headers = server.get("tweaks/2").await.headers().clone();
    assert!(!headers.contains_key("retry-after"));
}

#[tokio::test]
async fn heights_that_are_not_indexed_are_errors_on_every_route() {
    let mut chain = TestChain::new(100);
    chain.mine(&[]);
    chain.mine(&[pays(&[1000])]);
    let (_store, server) = serve_chain(&chain).await;
    for route in HEIGHT_ROUTES {
        for height in ["0", "1", "99", "102", "4294967295", "00099"] {
            server
                .refused(&format!("{route}{height}"), 500, UNKNOWN)
                .await;
        }
        for height in [
            "-1",
            "+100",
            "%2B100",
            "%20100",
            "100%20",
            "100.0",
            "0x64",
            "1e2",
            "4294967296",
            "99999999999999999999999",
            "tip",
            "%D9%A1%D9%A0%D9%A0",
            "%FF",
            "null",
            "%00",
        ] {
            server
                .refused(&format!("{route}{height}"), 400, PARSE)
                .await;
        }
    }
    let expected = json!({"block_hash": chain.at(101).id().hash.to_string()});
    for height in ["101", "0101", "%3101"] {
        assert_eq!(server.ok(&format!("block-hash/{height}")).await, expected);
    }
}

#[tokio::test]
async fn dust_limits_are_parsed_strictly_after_the_height() {
    const INVALID: &str = "Invalid dustLimit parameter";
    let chain = sample_chain();
    let (_store, server) = serve_chain(&chain).await;
    for route in ["tweaks", "tweak-index"] {
        for limit in [
            "",
            "-1",
            "+1",
            "%2B1",
            "1.5",
            "abc",
            "18446744073709551616",
            "%201",
        ] {
            let path = format!("{route}/2?dustLimit={limit}");
            server.refused(&path, 400, INVALID).await;
            let path = format!("{route}/77?dustLimit={limit}");
            server.refused(&path, 500, UNKNOWN).await;
            let path = format!("{route}/x?dustLimit={limit}");
            server.refused(&path, 400, PARSE).await;
        }
        server
            .refused(&format!("{route}/2?dustLimit"), 400, INVALID)
            .await;
        let all = server.ok(&format!("{route}/2")).await;
        for query in [
            "dustLimit=0",
            "dustLimit=000",
            "other=-1",
            "dustlimit=x",
            "",
        ] {
            assert_eq!(server.ok(&format!("{route}/2?{query}")).await, all);
        }
        // The first one counts.
        let none = server
            .ok(&format!(
                "{route}/2?dustLimit=18446744073709551615&dustLimit=0"
            ))
            .await;
        assert_eq!(none, json!([]));
    }
}

#[tokio::test]
async fn a_dust_limit_keeps_what_reaches_it() {
    let chain = sample_chain();
    let (_store, server) = serve_chain(&chain).await;
    for height in [2, 3, 5] {
        for limit in [
            0,
            1,
            545,
            546,
            547,
            599,
            600,
            601,
            602,
            1000,
            1001,
            2_100_000_000_000_000,
        ] {
            let tweaks = server
                .ok(&format!("tweaks/{height}?dustLimit={limit}"))
                .await;
            assert_eq!(tweaks, chain.tweaks(height, limit), "{height} {limit}");
            let index = server
                .ok(&format!("tweak-index/{height}?dustLimit={limit}"))
                .await;
            assert_eq!(index, chain.tweak_index(height, limit), "{height} {limit}");
        }
    }
    // Five were made: 1000 and 600 together, 599, 600, 601 and less, all the coins. Of the first the 1000 is spent,
    // so 600 is what counts with cut-through; the single 600 is spent.
    let count = |value: Value| value.as_array().map(Vec::len);
    let index = |limit| count(chain.tweak_index(2, limit));
    let tweaks = |limit| count(chain.tweaks(2, limit));
    assert_eq!(
        [index(599), index(600), index(601)],
        [Some(5), Some(4), Some(3)]
    );
    assert_eq!(
        [tweaks(599), tweaks(600), tweaks(601)],
        [Some(4), Some(3), Some(2)]
    );
}

#[tokio::test]
async fn filters_have_two_kinds() {
    const INVALID: &str = "invalid filter type";
    let chain = sample_chain();
    let (_store, server) = serve_chain(&chain).await;
    for kind in ["taproot", "Spent", "new_utxos", "new-utxos%20", "4", "%FF"] {
        let path = format!("filter/{kind}/2");
        if kind == "%FF" {
            // The path cannot be decoded as a whole.
            server.refused(&path, 400, PARSE).await;
            continue;
        }
        server.refused(&path, 400, INVALID).await;
        let path = format!("filter/{kind}/77");
        server.refused(&path, 500, UNKNOWN).await;
        let path = format!("filter/{kind}/x");
        server.refused(&path, 400, PARSE).await;
    }
    let empty = server.ok("filter/spent/1").await;
    assert_eq!(empty["data"], "00");
}

#[tokio::test]
async fn an_empty_block_has_empty_lists_of_the_right_shape() {
    let chain = sample_chain();
    let (_store, server) = serve_chain(&chain).await;
    let hash = chain.at(1).id().hash.to_string();
    for route in ["tweaks/1", "tweak-index/1", "utxos/1"] {
        let text = server.get(route).await.text().await.expect("a body");
        assert_eq!(text, "[]", "{route}");
    }
    let index = server.ok("spent-index/1").await;
    assert_eq!(index, json!({"block_hash": hash, "data": []}));
}

#[tokio::test]
async fn spends_reach_back_into_old_blocks() {
    let mut chain = TestChain::new(1);
    let made = chain.mine(&[pays(&[1000, 700]), pays(&[400])]).clone();
    let (store, server) = serve_chain(&chain).await;
    assert_serves(&server, &chain).await;
    let full = server.ok("tweak-index/1").await;
    let digest = server.ok("digest/1").await;

    chain.mine(&[sweeps(&[made.outpoint(0, 0)])]);
    store.connect(&chain.records()[1..]);
    assert_serves(&server, &chain).await;
    let utxos = server.ok("utxos/1").await;
    let flags: Vec<(u64, bool, u64)> = utxos
        .as_array()
        .expect("a list")
        .iter()
        .map(|utxo| {
            let number = |name: &str| utxo[name].as_u64().expect("a number");
            assert_eq!(number("block_height"), 1);
            (number("value"), utxo["spent"] == true, number("timestamp"))
        })
        .collect();
    let time = u64::from(made.record.header.time);
    assert_eq!(flags.len(), 3);
    for expected in [(1000, true, time), (700, false, time), (400, false, time)] {
        assert!(flags.contains(&expected), "{expected:?} in {flags:?}");
    }

    chain.mine(&[sweeps(&[made.outpoint(0, 1)])]);
    store.connect(&chain.records()[2..]);
    assert_serves(&server, &chain).await;
    assert_eq!(chain.tweaks(1, 0).as_array().map(Vec::len), Some(1));
    assert_eq!(server.ok("tweak-index/1").await, full);
    assert_eq!(server.ok("digest/1").await, digest);
}

#[tokio::test]
async fn a_reorg_is_visible_and_brings_spent_outputs_back() {
    let mut chain = TestChain::new(1);
    let made = chain.mine(&[pays(&[1000]), pays(&[800])]).clone();
    chain.mine(&[pays(&[5000])]);
    let mut other = chain.clone();
    chain.mine(&[sweeps(&[made.outpoint(0, 0)])]);
    let (store, server) = serve_chain(&chain).await;
    assert_serves(&server, &chain).await;

    other.salt(1);
    other.pop(1);
    other.mine(&[sweeps(&[made.outpoint(1, 0)])]);
    other.mine(&[pays(&[7000, 10])]);
    other.mine(&[]);
    assert_ne!(chain.at(2).id(), other.at(2).id());
    store.reorganize(2, &other.records()[1..]);
    assert_serves(&server, &other).await;
    assert_eq!(server.ok("block-height").await["block_height"], 4);

    // To a lower tip: the height goes down, and what is gone is an error again.
    store.reorganize(2, &[]);
    assert_eq!(server.ok("block-height").await["block_height"], 2);
    server.refused("tweaks/3", 500, UNKNOWN).await;
    other.pop(2);
    assert_serves(&server, &other).await;
}

#[tokio::test]
async fn bodies_have_the_fields_of_the_recorded_ones() {
    let folder = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../shared/data/blindbit-v1-signet/200000"
    );
    if !std::path::Path::new(folder).exists() {
        println!("skipped: ../shared/data is missing");
        return;
    }
    let chain = sample_chain();
    let (_store, server) = serve_chain(&chain).await;
    for (name, path) in [
        ("filter-new-utxos", "filter/new-utxos/4"),
        ("filter-spent", "filter/spent/4"),
        ("spent-index", "spent-index/4"),
        ("tweaks", "tweaks/2"),
        ("utxos", "utxos/2"),
    ] {
        let recorded = std::fs::read(format!("{folder}/{name}.json")).expect("readable");
        let recorded: Value = serde_json::from_slice(&recorded).expect("JSON");
        assert_eq!(shape(&server.ok(path).await), shape(&recorded), "{path}");
    }
}

/// A value with strings and numbers replaced by their kind (and the length of short hex), lists by their first
/// element.
fn shape(value: &Value) -> Value {
    match value {
        Value::Array(items) => items.iter().take(1).map(shape).collect(),
        Value::Object(fields) => fields
            .iter()
            .map(|(name, field)| {
                let kind = if name == "data" && field.is_string() {
                    Value::from("hex of any length")
                } else {
                    shape(field)
                };
                (name.clone(), kind)
            })
            .collect(),
        Value::String(text) => Value::from(format!("text of {}", text.len())),
        Value::Number(_) => Value::from("number"),
        Value::Bool(_) => Value::from("bool"),
        Value::Null => Value::from("null"),
    }
}

#[tokio::test]
async fn an_announced_tip_can_be_served_at_once() {
    let mut chain = TestChain::new(1);
    chain.mine(&[]);
    let mut made = chain.mine(&[pays(&[1000, 2000])]).outpoint(0, 0);
    for _ in 0..60 {
        let block = chain.mine(&[pays(&[1000, 2000]), sweeps(&[made])]);
        made = block.outpoint(0, 0);
    }
    let store = TestStore::new(Network::Regtest, 1);
    store.connect(&chain.records()[..1]);
    let server = Server::start(&store, None).await;
    let records = chain.records();
    let writer = tokio::task::spawn_blocking(move || {
        for record in &records[1..] {
            store.connect(std::slice::from_ref(record));
        }
        store
    });
    let last = chain.tip().id().height;
    let mut seen = 0;
    while seen < last {
        let tip = server.ok("block-height").await["block_height"]
            .as_u64()
            .expect("a number") as u32;
        assert!(tip >= seen, "the tip went from {seen} to {tip}");
        seen = tip;
        let hash = chain.at(tip).id().hash.to_string();
        for route in &HEIGHT_ROUTES[..7] {
            let body = server.ok(&format!("{route}{tip}")).await;
            if body.is_object() {
                assert_eq!(body["block_hash"], *hash);
            }
        }
        let full = server.ok(&format!("tweak-index/{tip}")).await;
        assert_eq!(full, chain.tweak_index(tip, 0));
    }
    let _store = writer.await.expect("the writer is done");
    assert_serves(&server, &chain).await;
}
