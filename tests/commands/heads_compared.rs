//! `spindex check --against` a server that has another tweak, output key or spent key in one block: heads say which, and where.

use std::fs;
use std::path::Path;

use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use bitcoin::hex::DisplayHex;
use serde_json::{Value, json};
use spindex::filter::new_utxos_filter;
use spindex::store::{BlockRecord, Keep, Store, StoreOptions, Update};
use tokio::net::TcpListener;

use super::comparison::serve;
use super::place::{NO_NODE, Place};
use crate::support::index::options;
use crate::support::spcommit::{Link, links};
use crate::support::spindex::{run, stdout};

/// What the blocks of an index were made of.
fn records(path: &Path, options: &StoreOptions) -> Vec<BlockRecord> {
    let store = Store::open_existing(path, options).unwrap();
    let snapshot = store.snapshot().unwrap();
    let (first, tip) = (snapshot.first_height(), snapshot.tip().unwrap().height);
    let blocks = (first..=tip).map(|height| snapshot.block(height).unwrap().unwrap());
    blocks.map(|block| block.record().unwrap()).collect()
}

/// An index of these blocks, consistent in itself.
fn index_of(path: &Path, records: &[BlockRecord], options: &StoreOptions) {
    let store = Store::open(path, options).unwrap();
    let update = Update {
        disconnect: 0,
        connect: records,
    };
    store.apply(update).unwrap();
}

fn hex(bytes: &[u8; 32]) -> String {
    bytes.to_lower_hex_string()
}

/// What a report has to say of a version.
fn pair(version: u8, here: &Link, there: &Link) -> Value {
    json!({
        "version": version,
        "commitment_here": hex(&here.commitment),
        "commitment_there": hex(&there.commitment),
        "head_here": hex(&here.head),
        "head_there": hex(&there.head),
        "follows": true,
    })
}

/// Changes one thing of one block, and gives its height.
type Lie = fn(&mut [BlockRecord]) -> u32;

/// Another tweak, that of another block.
fn a_tweak(records: &mut [BlockRecord]) -> u32 {
    let numbered = records.iter().enumerate();
    let with_tweaks = numbered.filter(|(_, record)| !record.transactions.is_empty());
    let with_tweaks: Vec<usize> = with_tweaks.map(|(index, _)| index).collect();
    let (other, at) = (with_tweaks[0], with_tweaks[with_tweaks.len() * 2 / 3]);
    records[at].transactions[0].tweak = records[other].transactions[0].tweak;
    records[at].id.height
}

/// Another key of an output that nobody spends.
fn an_output_key(records: &mut [BlockRecord]) -> u32 {
    let spends = records.iter().flat_map(|record| &record.spends);
    let spent: Vec<_> = spends.map(|spend| spend.outpoint).collect();
    for record in records {
        let txids: Vec<_> = record.transactions.iter().map(|row| row.txid).collect();
        for output in &mut record.outputs {
            let txid = txids[output.transaction as usize];
            let vout = output.vout;
            if !spent.contains(&bitcoin::OutPoint { txid, vout }) {
                output.key[0] ^= 1;
                return record.id.height;
            }
        }
    }
    panic!("all outputs are spent");
}

/// Another key of an output that is of no eligible transaction.
fn a_spent_key(records: &mut [BlockRecord]) -> u32 {
    let rows = records.iter().flat_map(|record| &record.transactions);
    let eligible: Vec<_> = rows.map(|row| row.txid).collect();
    let spends = records.iter_mut().flat_map(|record| {
        let height = record.id.height;
        record.spends.iter_mut().map(move |spend| (height, spend))
    });
    let mut foreign = spends.filter(|(_, spend)| !eligible.contains(&spend.outpoint.txid));
    let (height, spend) = foreign.nth(3).unwrap();
    spend.key_prefix[7] ^= 1;
    height
}

/// What a check prints for people.
fn text(place: &Place, url: &str) -> String {
    let args = [
        "check".to_owned(),
        "--network=regtest".to_owned(),
        "--source=rest".to_owned(),
        format!("--node-url={NO_NODE}"),
        format!("--against={url}"),
        "--blocks=0".to_owned(),
    ];
    stdout(&run(place.home.path(), &args))
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_say_which_list_differs_in_which_block() {
    let place = Place::new().await;
    let honest = records(&place.file(), &options());
    let here = links(&honest);
    let same = place.home.path().join("same.redb");
    index_of(&same, &honest, &options());
    let (url, _same) = serve(&same).await;
    let (status, report, log) = place.check(&[&format!("--against={url}")]);
    assert_eq!(status, 0, "{report} {log}");
    let agree = json!({"versions": [1, 2], "agree": true, "parted": []});
    assert_eq!(report["against"]["heads"], agree);
    let columns = &report["against"]["columns"];
    assert_eq!(columns["agree"], true);
    assert_eq!(columns["parted"], json!([]));
    assert!(!columns["heights"].as_array().unwrap().is_empty());

    // That of `spends` is outside the head over the columns.
    let lies: [(&str, Lie, &[&str]); 3] = [
        ("tweaks", a_tweak, &["tweaks"]),
        (
            "outputs and spends",
            an_output_key,
            &["prefixes", "outputs"],
        ),
        ("outputs and spends", a_spent_key, &["spends"]),
    ];
    let mut all = honest.clone();
    let mut heights = Vec::new();
    for (number, (lists, lie, columns)) in lies.into_iter().enumerate() {
        let mut lying = honest.clone();
        let height = lie(&mut lying);
        assert_eq!(lie(&mut all), height);
        heights.push(height);
        let path = place.home.path().join(format!("lying{number}.redb"));
        index_of(&path, &lying, &options());
        let (url, _serving) = serve(&path).await;
        let there = links(&lying);
        let (status, report, log) = place.check(&[&format!("--against={url}"), "--blocks=1"]);
        assert_eq!(status, 1, "{report} {log}");
        assert!(log.contains(&format!("first in block {height}")), "{log}");
        let at = height as usize;
        let both = here[at].iter().zip(&there[at]);
        let pairs = (1..).zip(both);
        let pairs: Vec<Value> = pairs
            .map(|(version, (here, there))| pair(version, here, there))
            .collect();
        let parted = json!([{"height": height, "lists": lists, "links": pairs}]);
        let against = &report["against"];
        let expected = json!({"versions": [1, 2], "agree": false, "parted": parted});
        assert_eq!(against["heads"], expected);
        let parted = json!([{"height": height, "columns": columns, "follows": true}]);
        assert_eq!(against["columns"]["parted"], parted);
        assert_eq!(against["columns"]["agree"], columns == ["spends"]);
        let of_tweaks = here[at][0].commitment != there[at][0].commitment;
        assert_eq!(of_tweaks, lists == "tweaks");
        assert_ne!(here[at][1].commitment, there[at][1].commitment);
        assert_eq!(against["digests_agree"], json!(lists != "tweaks"));
        let differences = against["differences"].as_array().unwrap();
        assert!(!differences.is_empty());
        let mut differ = differences.iter().map(|differs| &differs["height"]);
        assert!(differ.all(|at| *at == height), "{against}");
        // Without a document, what both commit to is told too.
        let text = text(&place, &url);
        for link in [here[at][1], there[at][1]] {
            assert!(text.contains(&hex(&link.commitment)), "{text}");
        }
        assert!(text.contains("heads of version 1 and 2 differ"), "{text}");
        let named = format!("block {height}: {}", columns.join(", "));
        assert!(text.contains(&named), "{text}");
    }

    // All of them at once: the first block of either chain.
    let path = place.home.path().join("lying.redb");
    index_of(&path, &all, &options());
    let (url, _serving) = serve(&path).await;
    let (status, report, _) = place.check(&[&format!("--against={url}")]);
    assert_eq!(status, 1, "{report}");
    let parted = report["against"]["heads"]["parted"].as_array().unwrap();
    let found: Vec<u64> = parted.iter().filter_map(|p| p["height"].as_u64()).collect();
    let first = heights[1].min(heights[2]);
    assert!(first < heights[0], "{heights:?}");
    assert_eq!(found, [u64::from(first), u64::from(heights[0])]);
    assert_eq!(parted[0]["lists"], "outputs and spends");
    assert_eq!(parted[1]["lists"], "tweaks");

    // A server that keeps tweaks only has one chain, in which the other lies do not show.
    let tweaks = StoreOptions {
        keep: Some(Keep::Tweaks),
        ..options()
    };
    let path = place.home.path().join("tweaks.redb");
    index_of(&path, &all, &tweaks);
    let (url, _serving) = serve(&path).await;
    let (status, report, _) = place.check(&[&format!("--against={url}")]);
    assert_eq!(status, 1, "{report}");
    let heads = &report["against"]["heads"];
    assert_eq!(heads["versions"], json!([1]));
    assert_eq!(heads["parted"][0]["height"], heights[0]);
    assert_eq!(heads["parted"].as_array().unwrap().len(), 1, "{heads}");
}

/// The head over the columns alone has the filter over new outputs.
#[tokio::test(flavor = "multi_thread")]
async fn a_filter_that_differs_is_found_by_the_head_over_the_columns() {
    let place = Place::new().await;
    let mut records = records(&place.file(), &options());
    for height in [97, 120] {
        let record = &mut records[height];
        let keys = record.outputs.iter().map(|output| output.key);
        let keys: Vec<[u8; 32]> = keys.chain([[7; 32]]).collect();
        record.new_utxos_filter = new_utxos_filter(&record.id.hash, &keys);
    }
    let path = place.home.path().join("lying.redb");
    index_of(&path, &records, &options());
    let (url, _serving) = serve(&path).await;
    let (status, report, log) = place.check(&[&format!("--against={url}"), "--blocks=1"]);
    assert_eq!(status, 1, "{report} {log}");
    assert!(log.contains("first in block 97"), "{log}");
    let against = &report["against"];
    assert_eq!(against["digests_agree"], true);
    assert_eq!(against["heads"]["agree"], true);
    assert_eq!(against["columns"]["agree"], false);
    let first = &against["columns"]["parted"][0];
    let expected = json!({"height": 97, "columns": ["new-utxos"], "follows": true});
    assert_eq!(*first, expected);
}

/// Chains that begin elsewhere have other heads; what they commit to is compared at the chosen heights.
#[tokio::test(flavor = "multi_thread")]
async fn chains_that_begin_elsewhere_are_compared_by_commitments() {
    let place = Place::new().await;
    let mut records = records(&place.file(), &options());
    let later = StoreOptions {
        first_height: Some(20),
        ..options()
    };
    // What is older than the first height is foreign to a later index, with the same keys.
    let path = place.home.path().join("later.redb");
    index_of(&path, &records[20..], &later);
    let (url, _serving) = serve(&path).await;
    let args = [format!("--against={url}"), "--blocks=1000".to_owned()];
    let args = [args[0].as_str(), args[1].as_str()];
    let (status, report, log) = place.check(&args);
    assert_eq!(status, 0, "{report} {log}");
    let heads = &report["against"]["heads"];
    let undecided = json!({"versions": [1, 2], "agree": null, "parted": []});
    assert_eq!(*heads, undecided);
    let columns = &report["against"]["columns"];
    assert_eq!(columns["agree"], Value::Null);
    assert_eq!(columns["parted"], json!([]), "{columns}");
    assert!(columns["heights"].as_array().unwrap().len() > 100);
    let notes = report["against"]["notes"].to_string();
    assert!(notes.contains("heads do not begin at height 0"), "{notes}");

    let height = a_spent_key(&mut records);
    assert!(height > 20);
    let path = place.home.path().join("lying.redb");
    index_of(&path, &records[20..], &later);
    let (url, _serving) = serve(&path).await;
    let against = format!("--against={url}");
    let (status, report, log) = place.check(&[&against, "--blocks=1000"]);
    assert_eq!(status, 1, "{report} {log}");
    let parted = report["against"]["heads"]["parted"].as_array().unwrap();
    assert_eq!(parted.len(), 1, "{parted:?}");
    assert_eq!(parted[0]["height"], height);
    assert_eq!(parted[0]["lists"], "outputs and spends");
    assert_eq!(parted[0]["links"][1]["follows"], true);
    let parted = json!([{"height": height, "columns": ["spends"], "follows": true}]);
    assert_eq!(report["against"]["columns"]["parted"], parted);
}

/// A server of an index whose commitments, for a path, are changed.
async fn serve_with(path: &Path, native: fn(&str, Value) -> (StatusCode, Value)) -> String {
    let (upstream, stop) = serve(path).await;
    let pass_on = move |request: Request| {
        let (upstream, stop) = (upstream.clone(), stop.clone());
        async move {
            let path = request.uri().to_string();
            let client = reqwest::Client::builder().no_proxy().build().unwrap();
            let answer = client.get(format!("{upstream}{path}")).send().await;
            let answer = answer.unwrap();
            // It ends when nobody holds this any more.
            drop(stop);
            match path.starts_with("/spindex/v1/commitments") {
                true => {
                    let (status, body) = native(&path, answer.json().await.unwrap());
                    (status, body.to_string().into_bytes())
                }
                false => (answer.status(), answer.bytes().await.unwrap().to_vec()),
            }
        }
    };
    let _ = rustls::crypto::ring::default_provider().install_default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new().fallback(pass_on);
    tokio::spawn(async move { axum::serve(listener, router).await });
    url
}

/// Servers without native routes, whose chains begin above, or whose head is made up.
#[tokio::test(flavor = "multi_thread")]
async fn servers_without_heads_are_compared_by_what_they_have() {
    let place = Place::new().await;
    let honest = records(&place.file(), &options());
    let path = place.home.path().join("honest.redb");
    index_of(&path, &honest, &options());

    let no_routes = |_: &str, _| (StatusCode::NOT_FOUND, Value::Null);
    let begins_above = |_: &str, _| {
        let error = json!({"code": "never_indexed", "message": "not so low"});
        (StatusCode::NOT_FOUND, json!({ "error": error }))
    };
    type Change = fn(&str, Value) -> (StatusCode, Value);
    let changes: [(Change, &str); 2] = [
        (no_routes, "no native routes"),
        (begins_above, "(not so low)"),
    ];
    for (number, (change, said)) in changes.into_iter().enumerate() {
        let copy = place.home.path().join(format!("copy{number}.redb"));
        fs::copy(&path, &copy).unwrap();
        let url = serve_with(&copy, change).await;
        let (status, report, log) = place.check(&[&format!("--against={url}")]);
        assert_eq!(status, 0, "{report} {log}");
        let against = &report["against"];
        assert_eq!(against["heads"], Value::Null);
        assert_eq!(against["digests_agree"], true);
        let notes = against["notes"].to_string();
        assert!(notes.contains(said), "{notes}");
    }

    // From one block on its heads are others, though it commits to the same.
    let made_up = |path: &str, mut answer: Value| {
        let (_, height) = path.rsplit_once('=').unwrap();
        if height.parse::<u32>().unwrap() >= 140 {
            answer["blocks"][0]["v1"]["head"] = json!("07".repeat(32));
        }
        (StatusCode::OK, answer)
    };
    let url = serve_with(&path, made_up).await;
    let (status, report, log) = place.check(&[&format!("--against={url}")]);
    assert_eq!(status, 1, "{report} {log}");
    let against = &report["against"];
    let parted = &against["heads"]["parted"];
    assert_eq!(parted.as_array().unwrap().len(), 1, "{parted}");
    assert_eq!(
        (&parted[0]["height"], &parted[0]["lists"]),
        (&json!(140), &Value::Null)
    );
    let links = &parted[0]["links"];
    assert_eq!(links[0]["follows"], false);
    assert_eq!(links[0]["head_there"], "07".repeat(32));
    assert_eq!(links[1]["follows"], true);
    assert_eq!(against["differences"][0]["height"], 140);
    let what = against["differences"][0]["what"].to_string();
    assert!(what.contains("does not follow"), "{what}");
    assert_eq!(against["columns"]["agree"], true);

    // The same of the head over the columns, of which nothing else tells.
    let made_up = |path: &str, mut answer: Value| {
        let (_, height) = path.rsplit_once('=').unwrap();
        if height.parse::<u32>().unwrap() >= 140 {
            answer["blocks"][0]["columns_head"] = json!("07".repeat(32));
        }
        (StatusCode::OK, answer)
    };
    let copy = place.home.path().join("other.redb");
    fs::copy(&path, &copy).unwrap();
    let url = serve_with(&copy, made_up).await;
    let (status, report, log) = place.check(&[&format!("--against={url}")]);
    assert_eq!(status, 1, "{report} {log}");
    let against = &report["against"];
    assert_eq!(against["heads"]["agree"], true);
    let parted = json!([{"height": 140, "columns": [], "follows": false}]);
    assert_eq!(against["columns"]["parted"], parted);
    let what = against["differences"][0]["what"].to_string();
    assert!(what.contains("does not follow from their hashes"), "{what}");
}
