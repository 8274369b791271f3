//! What `spindex scan --outpoint` says of outputs whose making it has not seen, and who is asked for them.

use std::collections::BTreeMap;
use std::ops::Range;

use bitcoin::OutPoint;
use bitcoin::hex::DisplayHex;
use serde_json::Value;
use spindex::chain::made::simulated::PaidOutput;

use crate::between::Between;
use crate::scan::{fails, scan};
use crate::support::served::{chain, index, serve};
use crate::support::spindex::{stderr, stdout};

const BLOCKS: u32 = 150;
const FIRST: u32 = 125;

#[tokio::test(flavor = "multi_thread")]
async fn an_output_that_nobody_has_seen_is_unknown() {
    let chain = chain(5, BLOCKS);
    let store = index(&chain, 0).await;
    let snapshot = store.snapshot().unwrap();
    let between = Between::default();
    let around = |router| between.around(router);
    let url = format!("http://{}", serve(&chain, store.clone(), around).await);
    let other = Between::default();
    let around = |router| other.around(router);
    let other_url = format!("http://{}", serve(&chain, store, around).await);

    let paid = chain.paid_outputs();
    let paid_at = |heights: Range<u32>| {
        let mut paid = paid.iter();
        let of_block =
            |paid: &&PaidOutput| paid.block.is_some_and(|at| heights.contains(&at.height));
        let paid = paid.find(of_block).expect("too few payments");
        assert_eq!(paid.spent_by, None, "the wallet spends nothing");
        paid.outpoint
    };
    let spent_at = |heights: Range<u32>| {
        let mut spends = heights.flat_map(|height| {
            let block = snapshot.block(height).unwrap().unwrap();
            block.spends().unwrap()
        });
        spends.next().expect("too few spends").outpoint
    };
    let (unspent, own) = (paid_at(0..FIRST), paid_at(FIRST..BLOCKS + 1));
    let (spent_before, spent) = (spent_at(0..FIRST), spent_at(FIRST..BLOCKS + 1));
    let made_up = OutPoint::new([9; 32].to_lower_hex_string().parse().unwrap(), 3);
    let all = [unspent, own, spent, spent_before, made_up];
    let outpoints: Vec<String> = all.iter().map(OutPoint::to_string).collect();

    let from = format!("--from={FIRST}");
    let told = async |with_wallet, more: &[&str]| {
        let home = tempfile::tempdir().unwrap();
        let named = outpoints
            .iter()
            .flat_map(|outpoint| ["--outpoint", outpoint]);
        let of_wallet = ["--labels=1"].into_iter().filter(|_| with_wallet);
        let settings = [&from[..], "--json"].into_iter().chain(of_wallet);
        let all: Vec<&str> = settings.chain(more.iter().copied()).chain(named).collect();
        let output = scan(home.path(), &url, with_wallet, &all).await;
        assert!(output.status.success(), "{}", stderr(&output));
        let report: Value = serde_json::from_str(&stdout(&output)).unwrap();
        let watched = report["watched"].as_array().unwrap().iter();
        let states = watched.map(|watched| {
            let text = |name: &str| watched[name].as_str().unwrap().to_owned();
            (text("outpoint"), text("state"))
        });
        states.collect::<BTreeMap<String, String>>()
    };
    let expected = |states: [&str; 5]| -> BTreeMap<String, String> {
        let states = states.map(str::to_owned);
        outpoints.iter().cloned().zip(states).collect()
    };
    let names = |log: Vec<String>| -> Vec<String> {
        let asked = log.into_iter();
        let asked = asked.filter_map(|asked| {
            let (_, name) = asked.split_once("/outpoint/")?;
            Some(name.to_owned())
        });
        asked.collect()
    };

    let seen = expected(["unknown", "unknown", "spent", "unknown", "unknown"]);
    assert_eq!(told(false, &[]).await, seen);
    assert_eq!(told(false, &["--dialect=v1"]).await, seen);
    // The wallet has seen its own.
    let seen = expected(["unknown", "unspent", "spent", "unknown", "unknown"]);
    assert_eq!(told(true, &[]).await, seen);
    assert_eq!(names(between.take_log()), Vec::<String>::new());

    // By the word of a server, which is asked for what is not known alone. Of what was spent before it finds only what carries
    // a state id.
    let mut said = expected(["unspent", "unspent", "spent", "unknown", "unknown"]);
    let by_word = told(true, &["--ask-outpoints"]).await;
    let before = by_word[&outpoints[3]].clone();
    assert!(["spent", "unknown"].contains(&&*before), "{before}");
    said.insert(outpoints[3].clone(), before);
    assert_eq!(by_word, said);
    let mut asked = names(between.take_log());
    asked.sort_unstable();
    let mut unknown = [unspent, spent_before, made_up].map(|outpoint| outpoint.to_string());
    unknown.sort_unstable();
    assert_eq!(asked, unknown);
    let fetch_from = format!("--fetch-from={other_url}");
    let more = ["--ask-outpoints", fetch_from.as_str()];
    assert_eq!(told(true, &more).await, said);
    assert_eq!(names(between.take_log()), Vec::<String>::new());
    assert_eq!(names(other.take_log()).len(), 3);
    // One that answers nonsense leaves it unknown.
    between.change(|_, asked, body| match asked.contains("/outpoint/") {
        true => b"{}".to_vec(),
        false => body,
    });
    assert_eq!(told(true, &["--ask-outpoints"]).await, seen);

    let home = tempfile::tempdir().unwrap();
    let name = format!("--outpoint={made_up}");
    let more = [&name[..], "--ask-outpoints", "--dialect=v1"];
    let output = scan(home.path(), &url, false, &more).await;
    fails(&output, 2, &["--ask-outpoints", "native protocol"]);
    let more = [&name[..], "--ask-outpoints", "--private"];
    let output = scan(home.path(), &url, false, &more).await;
    fails(&output, 2, &["--ask-outpoints", "--private"]);
    let output = scan(home.path(), &url, false, &[&name, &from]).await;
    let expected = format!("{made_up}  unknown, no spend in blocks {FIRST} to {BLOCKS}");
    assert!(
        stdout(&output).starts_with(&expected),
        "{}",
        stdout(&output)
    );
}
