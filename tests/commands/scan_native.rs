//! `spindex scan` over servers of the native protocol: which is spoken, who is asked, what is new.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::sync::Arc;

use serde_json::Value;
use spindex::chain::made::simulated::SimulatedChain;
use spindex::store::Store;

use crate::scan::{fails, scan, scan_command};
use crate::support::index::fill;
use crate::support::served::{chain, index, serve};
use crate::support::spindex::{stderr, stdout};

const BLOCKS: u32 = 130;

struct Server {
    chain: Arc<SimulatedChain>,
    store: Arc<Store>,
    url: String,
}

async fn server(seed: u64) -> Server {
    let chain = chain(seed, BLOCKS);
    let store = index(&chain, 0).await;
    let url = format!(
        "http://{}",
        serve(&chain, store.clone(), |router| router).await
    );
    Server { chain, store, url }
}

/// What the document says was found, without what only one protocol tells.
fn found(document: &str) -> Vec<Value> {
    let document: Value = serde_json::from_str(document).unwrap();
    let mut found = document["found"].as_array().unwrap().clone();
    assert!(found.len() > 10, "too few payments");
    for found in &mut found {
        if let Some(spent) = found["spent"].as_object_mut() {
            spent.remove("spending_txid");
            spent.remove("op_return");
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_asked_in_what_it_speaks_or_as_it_is_told() {
    let (server, other) = (server(5).await, server(5).await);
    let native = "is asked in the native protocol";
    let v1 = "is asked in version 1";
    let fetch_from = format!("--fetch-from={}", other.url);
    let mut documents = Vec::new();
    for (more, said) in [
        (&[][..], native),
        (&["--dialect=native"], native),
        (&["--private"], native),
        (&[&fetch_from], native),
        (&["--dialect=v1"], v1),
        (&["--cut-through"], v1),
        (&["--dust-limit=1"], v1),
    ] {
        let home = tempfile::tempdir().unwrap();
        let all = [&["--json", "--from=0"], more].concat();
        let output = scan(home.path(), &server.url, true, &all).await;
        let log = stderr(&output);
        assert!(log.contains(said), "{more:?}: {log}");
        documents.push(found(&stdout(&output)));
    }
    let first = &documents[0];
    assert!(documents.iter().all(|other| other == first));
    for (more, status, why) in [
        (
            &["--dialect=native", "--cut-through"][..],
            1,
            "full lists alone",
        ),
        (&["--dialect=v1", "--private"], 1, "--private"),
        (&["--dialect=v1", &fetch_from], 2, "--fetch-from"),
    ] {
        let home = tempfile::tempdir().unwrap();
        let output = scan(home.path(), &server.url, true, more).await;
        fails(&output, status, &[why]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_disagree_end_the_scan_or_the_majority_is_scanned() {
    let (server, other) = (server(5).await, server(6).await);
    let home = tempfile::tempdir().unwrap();
    let oracle = |url: &str| format!("--oracle={url}");
    let same = oracle(&server.url);
    let agreed = scan(home.path(), &server.url, true, &[&same]).await;
    assert!(stdout(&agreed).contains("found"), "{}", stderr(&agreed));

    let home = tempfile::tempdir().unwrap();
    let more = [&same[..]];
    let output = scan(home.path(), &other.url, true, &more).await;
    // Their chains have the first block in common.
    let text = ["disagree from block 1 on", &server.url, &other.url];
    fails(&output, 1, &text);
    let more = [&same[..], "--on-disagreement=majority"];
    let output = scan(home.path(), &other.url, true, &more).await;
    fails(&output, 1, &["no majority"]);
    let more = [&same[..], &same, "--on-disagreement=majority"];
    let output = scan(home.path(), &other.url, true, &more).await;
    assert_eq!(stdout(&output), stdout(&agreed), "{}", stderr(&output));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_new_is_told_once_and_as_it_comes() {
    let server = server(7).await;
    let home = tempfile::tempdir().unwrap();
    let more = ["--changes", "--json", "--from=0", "--labels=1"];
    let events = |text: &str| -> Vec<Value> {
        let lines = text.lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    };
    let output = scan(home.path(), &server.url, true, &more).await;
    let first = events(&stdout(&output));
    let of = |events: &[Value], kind: &str| -> usize {
        let events = events.iter();
        events.filter(|event| event["event"] == kind).count()
    };
    assert!(of(&first, "found") > 10, "{}", stderr(&output));
    assert_eq!(first.last().unwrap()["to"], BLOCKS);
    let output = scan(home.path(), &server.url, true, &more).await;
    assert_eq!(stdout(&output), "");

    let more = ["--follow", "--json", "--follow-interval=1", "--labels=1"];
    let mut command = scan_command(home.path(), &server.url, true, &more);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    server.chain.mine(8);
    fill(server.store.clone(), server.chain.clone()).await;
    let read = tokio::task::spawn_blocking(move || {
        let mut events: Vec<Value> = Vec::new();
        for line in lines {
            events.push(serde_json::from_str(&line.unwrap()).unwrap());
            if events.last().unwrap()["to"] == BLOCKS + 8 {
                break;
            }
        }
        events
    });
    let events = read.await.unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let paid = server.chain.paid_outputs().into_iter();
    let paid = paid.filter(|paid| paid.block.is_some_and(|block| block.height > BLOCKS));
    let paid = paid.count();
    assert!(paid > 0, "too few payments");
    assert_eq!(of(&events, "found"), paid);
}
