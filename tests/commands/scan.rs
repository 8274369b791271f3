//! `spindex scan` as people use it, against a server over a simulated chain: ranges, outpoints, what is said.

use std::path::Path;
use std::process::{Command, Output};

use bitcoin::hex::DisplayHex;
use bitcoin::{OutPoint, Txid};
use serde_json::Value;

use crate::support::served::{chain, index, keys, serve};
use crate::support::spindex::{command, stderr, stdout};

const BLOCKS: u32 = 130;
const FIRST: u32 = 110;

/// The scan, with the wallet's keys in the environment, or without.
pub(crate) fn scan_command(home: &Path, url: &str, with_wallet: bool, more: &[&str]) -> Command {
    let mut command = command(home, &["scan", "--network=regtest", "--oracle", url]);
    command.args(more);
    for name in ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"] {
        command.env_remove(name);
    }
    if with_wallet {
        let keys = keys();
        let spend_pubkey = keys.spend_pubkey.serialize();
        command
            .env("SPINDEX_SCAN_KEY", [3; 32].to_lower_hex_string())
            .env("SPINDEX_SPEND_PUBKEY", spend_pubkey.to_lower_hex_string());
    }
    command
}

/// Runs the scan with the wallet's keys in the environment, or without.
pub(crate) async fn scan(home: &Path, url: &str, with_wallet: bool, more: &[&str]) -> Output {
    let mut command = scan_command(home, url, with_wallet, more);
    tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap()
}

pub(crate) fn fails(output: &Output, status: i32, parts: &[&str]) {
    let text = stderr(output);
    assert_eq!(output.status.code(), Some(status), "{text}");
    for part in parts {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
}

async fn server(first: u32) -> String {
    let chain = chain(5, BLOCKS);
    let store = index(&chain, first).await;
    format!("http://{}", serve(&chain, store, |router| router).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_beginning_above_the_tip_is_told_and_forgotten() {
    let url = server(FIRST).await;
    let home = tempfile::tempdir().unwrap();
    let output = scan(home.path(), &url, true, &["--from=9000000"]).await;
    fails(&output, 1, &["9000000", "height 130", "--from", &url]);
    // Without --from the scan begins where the server does, and says what it took for granted.
    let output = scan(home.path(), &url, true, &[]).await;
    assert!(
        stdout(&output).contains("scanned 110 to 130 (regtest)"),
        "{}",
        stdout(&output)
    );
    let log = stderr(&output);
    for part in [
        "does not have block 109",
        "beginning at block 110",
        "--from",
    ] {
        assert!(log.contains(part), "no {part:?} in {log}");
    }
    // A lower beginning than the server's is the server's to refuse, and takes nothing back.
    let output = scan(home.path(), &url, true, &["--from=50"]).await;
    fails(&output, 1, &["block 50", "the first block is 110"]);
    let by_v1 = ["--from=50", "--dialect=v1"];
    let output = scan(home.path(), &url, true, &by_v1).await;
    fails(&output, 1, &["block 50", "could not fetch header inv"]);
    let output = scan(home.path(), &url, true, &["--rescan", "--from=50"]).await;
    fails(&output, 1, &["block 50"]);
    let output = scan(home.path(), &url, true, &[]).await;
    assert!(stdout(&output).contains("scanned 110 to 130 (regtest)"));

    // Nor is it kept where there is nothing yet.
    let home = tempfile::tempdir().unwrap();
    let output = scan(home.path(), &url, true, &["--from=50"]).await;
    fails(&output, 1, &["block 50"]);
    let output = scan(home.path(), &url, true, &["--from=112"]).await;
    assert!(stdout(&output).contains("scanned 112 to 130 (regtest)"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lower_beginning_and_a_scan_made_again_find_the_same() {
    let url = server(0).await;
    let home = tempfile::tempdir().unwrap();
    let document = async |more: &[&str]| -> Value {
        let more = [more, &["--json"]].concat();
        let output = scan(home.path(), &url, true, &more).await;
        serde_json::from_str(&stdout(&output)).unwrap()
    };
    let late = document(&["--from=120"]).await;
    assert_eq!(
        (&late["from"], &late["scanned_to"]),
        (&120.into(), &130.into())
    );
    let whole = document(&["--from=0"]).await;
    assert_eq!(
        (&whole["from"], &whole["scanned_to"]),
        (&0.into(), &130.into())
    );
    let count = |report: &Value| report["found"].as_array().unwrap().len();
    assert!(count(&whole) > count(&late), "too few payments");
    for again in [&["--rescan"][..], &["--rescan", "--from=125"]] {
        assert_eq!(document(again).await, whole);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_out_of_range_are_wrong_usage() {
    let home = tempfile::tempdir().unwrap();
    for (flag, value) in [
        ("--concurrency", "18446744073709551615"),
        ("--concurrency", "1001"),
        ("--concurrency", "0"),
        ("--timeout", "18446744073709551615"),
        ("--timeout", "0"),
        ("--from", "4294967296"),
        ("--to", "-1"),
    ] {
        let setting = format!("{flag}={value}");
        let output = scan(home.path(), "http://127.0.0.1:1", true, &[&setting]).await;
        fails(&output, 2, &[flag, value]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_prints_the_outpoints_it_names_and_no_others() {
    let url = server(FIRST).await;
    let home = tempfile::tempdir().unwrap();
    let outpoint = |number: u8| -> OutPoint {
        let txid: Txid = [number; 32].to_lower_hex_string().parse().unwrap();
        OutPoint::new(txid, 7)
    };
    let many: String = (1..=100).map(|n| format!("{}\n", outpoint(n))).collect();
    let file = home.path().join("tips");
    std::fs::write(&file, many).unwrap();
    let output = scan(
        home.path(),
        &url,
        false,
        &["--outpoints", file.to_str().unwrap()],
    )
    .await;
    assert_eq!(stdout(&output).lines().count(), 101);
    // Nobody made this outpoint, and nobody says that it is unspent.
    let one = outpoint(200).to_string();
    let output = scan(home.path(), &url, false, &["--outpoint", &one]).await;
    let lines: Vec<String> = stdout(&output).lines().map(str::to_owned).collect();
    let unknown = format!("{one}  unknown, no spend in blocks 110 to 130");
    assert_eq!(lines[0], unknown);
    assert_eq!(lines.len(), 2, "{lines:?}");
    let output = scan(home.path(), &url, false, &["--outpoint", &one, "--json"]).await;
    let report: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(report["watched"].as_array().unwrap().len(), 1);
    // All that were named can be followed, until they are taken out.
    let watched = |output: &Output| -> Vec<String> {
        let report: Value = serde_json::from_str(&stdout(output)).unwrap();
        let watched = report["watched"].as_array().unwrap().iter();
        let outpoints = watched.map(|watched| watched["outpoint"].as_str().unwrap().to_owned());
        outpoints.collect()
    };
    let output = scan(home.path(), &url, false, &["--watched", "--json"]).await;
    assert_eq!(watched(&output).len(), 101);
    let first = outpoint(1).to_string();
    let more = ["--unwatch", &first, "--unwatch", &one];
    let output = scan(home.path(), &url, false, &more).await;
    assert!(output.status.success() && stdout(&output).is_empty());
    let output = scan(home.path(), &url, false, &["--watched", "--json"]).await;
    let left = watched(&output);
    assert_eq!(left.len(), 99);
    assert!(!left.contains(&first) && !left.contains(&one));
}
