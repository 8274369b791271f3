//! The commands as people and scripts use them: exit status, stdout, secrets.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;
use spindex::chain::made::simulated::{SimulatedChain, SimulationSettings};
use spindex::chain::parse::block_from_rest_bytes;
use spindex::curve::libsecp256k1::LibSecp256k1;
use spindex::curve::testable;
use spindex::store::{Store, StoreOptions, TweakForm};

use crate::support::index::{fill, options};
use crate::support::spindex::{command, run, stderr, stdout};

fn succeed(home: &Path, args: &[&str]) -> String {
    let output = run(home, args);
    assert!(output.status.success(), "{args:?}: {}", stderr(&output));
    stdout(&output)
}

#[test]
fn the_demo_finds_every_payment_and_the_spend() {
    let home = tempfile::tempdir().unwrap();
    let args = ["demo", "--once", "--json", "--blocks=130", "--seed=5"];
    let report: Value = serde_json::from_str(&succeed(home.path(), &args)).unwrap();
    assert_eq!(report["blocks"], 130);
    let found = report["found"].as_array().unwrap();
    assert!(!found.is_empty());
    assert_eq!(found.len() as u64, report["payments"].as_u64().unwrap());
    assert!(report["transactions"].as_u64().unwrap() > report["tweaks"].as_u64().unwrap());
    let sum: u64 = found
        .iter()
        .map(|found| found["value_sat"].as_u64().unwrap())
        .sum();
    assert_eq!(report["found_sat"], sum);
    let spends = report["spends"].as_array().unwrap();
    assert_eq!(spends.len(), 1);
    assert_eq!(spends[0]["spend"]["height"], 131);
    let stages: Vec<&String> = report["seconds"].as_object().unwrap().keys().collect();
    assert_eq!(stages, ["index", "scan", "simulate", "spend"]);
    // The same seed, the same chain; and the same finds, whatever engine computes them.
    for engine in testable().map(|entry| entry.name) {
        let args = [&args[..], &["--engine", engine]].concat();
        let again: Value = serde_json::from_str(&succeed(home.path(), &args)).unwrap();
        assert_eq!(again["found"], report["found"], "{engine}");
        assert_eq!(again["spends"], report["spends"], "{engine}");
    }
}

#[test]
fn the_tweaks_of_a_real_block_are_printed_in_block_order() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/mainnet-866342");
    if !folder.exists() {
        println!("skipped: ../shared/data is missing");
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let unpack = |name: &str| {
        let packed = std::fs::File::open(folder.join(format!("{name}.zst"))).unwrap();
        let bytes = zstd::decode_all(packed).unwrap();
        let path = home.path().join(name);
        std::fs::write(&path, &bytes).unwrap();
        (path.to_str().unwrap().to_owned(), bytes)
    };
    let (block_path, block_bytes) = unpack("block.bin");
    let (spent_path, spent_bytes) = unpack("spenttxouts.bin");
    let packed = |name: &str| folder.join(name).to_str().unwrap().to_owned();

    let lines = succeed(
        home.path(),
        &["tweaks", "--block", &block_path, "--spent", &spent_path],
    );
    let from_packed = succeed(
        home.path(),
        &[
            "tweaks",
            "--block",
            &packed("block.bin.zst"),
            "--spent",
            &packed("spenttxouts.bin.zst"),
        ],
    );
    assert_eq!(lines, from_packed);
    assert_eq!(lines.lines().count(), 2241);

    // One transaction at a time, in the order of the block; `tests/bip352_rules` compares the values with another library.
    let block = block_from_rest_bytes(None, &block_bytes, &spent_bytes).unwrap();
    let expected: Vec<String> = block
        .block
        .decode()
        .unwrap()
        .txdata
        .iter()
        .zip(&block.prevouts.decode())
        .filter_map(|(tx, prevouts)| {
            use bitcoin::hex::DisplayHex;
            let tweak = spindex::bip352::tweak::transaction_tweak(&LibSecp256k1, tx, prevouts)?;
            Some(format!(
                "{} {}",
                tx.compute_txid(),
                tweak.to_compressed().as_hex()
            ))
        })
        .collect();
    assert_eq!(lines.lines().collect::<Vec<_>>(), expected);

    let json = succeed(
        home.path(),
        &[
            "tweaks",
            "--json",
            "--block",
            &block_path,
            "--spent",
            &spent_path,
        ],
    );
    let first: Value = serde_json::from_str(json.lines().next().unwrap()).unwrap();
    assert_eq!(
        format!(
            "{} {}",
            first["txid"].as_str().unwrap(),
            first["tweak"].as_str().unwrap()
        ),
        expected[0]
    );

    // The two files of different blocks, a cut file, a missing one.
    let cut = home.path().join("cut");
    std::fs::write(&cut, &block_bytes[..block_bytes.len() / 2]).unwrap();
    let cut = cut.to_str().unwrap();
    for (block, spent, word) in [
        (cut, spent_path.as_str(), "cut"),
        (block_path.as_str(), block_path.as_str(), "block"),
        ("/nowhere", "/nowhere", "/nowhere"),
    ] {
        let output = run(home.path(), &["tweaks", "--block", block, "--spent", spent]);
        assert_eq!(output.status.code(), Some(1));
        assert!(output.stdout.is_empty());
        assert!(stderr(&output).contains(word), "{}", stderr(&output));
    }
}

#[test]
fn wrong_usage_has_status_2() {
    let home = tempfile::tempdir().unwrap();
    let config = home.path().join("bad.toml");
    std::fs::write(&config, "rpc_pasword = 'hunter2'").unwrap();
    let config = config.to_str().unwrap();
    for (args, word) in [
        (vec!["frobnicate"], "frobnicate"),
        (vec!["sync", "--network=mainet"], "mainet"),
        (vec!["scan", "--network=regtest"], "--wallet"),
        (vec!["scan", "--outpoint=xyz:1"], "xyz:1"),
        (vec!["scan", "--labels=4294967295"], "1000000"),
        (vec!["scan", "--labels=1000001"], "1000000"),
        (vec!["demo", "--once", "--engine=abacus"], "abacus"),
        (
            vec!["sync", "--config=/nowhere/spindex.toml"],
            "/nowhere/spindex.toml",
        ),
        (vec!["sync", "--config", config], "rpc_pasword"),
        (vec!["wallet", "new", "w", "--network=main"], "import"),
    ] {
        let output = run(home.path(), &args);
        assert_eq!(
            output.status.code(),
            Some(2),
            "{args:?}: {}",
            stderr(&output)
        );
        assert!(
            stderr(&output).contains(word),
            "{args:?}: {}",
            stderr(&output)
        );
        assert!(!stderr(&output).contains("hunter2"));
    }
    assert_eq!(run(home.path(), &["--help"]).status.code(), Some(0));
    assert_eq!(
        run(home.path(), &["serve", "--network=regtest"])
            .status
            .code(),
        Some(1)
    );
}

#[test]
fn a_wallet_file_keeps_keys_and_labels_and_shows_no_secret() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("my.wallet");
    let file = path.to_str().unwrap();
    let made = succeed(home.path(), &["wallet", "new", file]);
    assert!(made.starts_with("address  sprt1q"), "{made}");
    let text = std::fs::read_to_string(&path).unwrap();
    let key = text
        .lines()
        .find_map(|line| line.strip_prefix("key = \""))
        .unwrap()
        .trim_end_matches('"');
    assert!(key.starts_with("tspspend1q"));
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
    }
    // Never overwritten.
    assert_eq!(
        run(home.path(), &["wallet", "new", file]).status.code(),
        Some(1)
    );
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text);

    let labelled = succeed(
        home.path(),
        &["wallet", "address", file, "--label=7", "--label=3"],
    );
    assert_eq!(labelled.lines().count(), 3, "{labelled}");
    assert!(!labelled.contains(key));
    // The labels are remembered, and change is never handed out.
    let json: Value = serde_json::from_str(&succeed(
        home.path(),
        &["wallet", "address", file, "--json"],
    ))
    .unwrap();
    let labels: BTreeMap<u64, &str> = json["labels"]
        .as_array()
        .unwrap()
        .iter()
        .map(|label| {
            (
                label["label"].as_u64().unwrap(),
                label["address"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(labels.keys().copied().collect::<Vec<_>>(), [3, 7]);
    assert_eq!(
        run(home.path(), &["wallet", "address", file, "--label=0"])
            .status
            .code(),
        Some(2)
    );

    // The descriptor makes the same wallet elsewhere; a broken one is not shown.
    let copy = home.path().join("copy.wallet");
    let import = |text: &str| {
        use std::io::Write;
        use std::process::Stdio;
        let mut command = command(
            home.path(),
            &[
                "wallet",
                "import",
                copy.to_str().unwrap(),
                "--network=regtest",
            ],
        );
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(text.as_bytes())
            .unwrap();
        child.wait_with_output().unwrap()
    };
    let broken = import(&key[..key.len() - 1]);
    assert_eq!(broken.status.code(), Some(1));
    assert!(
        !stderr(&broken).contains(&key[10..40]),
        "{}",
        stderr(&broken)
    );
    let imported = import(key);
    assert!(imported.status.success(), "{}", stderr(&imported));
    assert_eq!(stdout(&imported), made);
}

#[test]
fn a_bench_reports_every_engine_beside_the_library() {
    let home = tempfile::tempdir().unwrap();
    for job in ["scan", "tweak"] {
        let few = ["--rounds=1", "--tweaks=128", "--threads=2", "--json"];
        let args = [&["bench", job], &few[..]].concat();
        let report: Value = serde_json::from_str(&succeed(home.path(), &args)).unwrap();
        let rows = report["rows"].as_array().unwrap();
        for engine in testable().map(|entry| entry.name) {
            let rows: Vec<&Value> = rows.iter().filter(|row| row["backend"] == engine).collect();
            assert!(!rows.is_empty(), "{job}: no row for {engine}");
            for row in rows {
                assert!(row["us_per_tweak"].as_f64().unwrap() > 0.0, "{row}");
                assert!(row["ratio"].as_f64().unwrap() > 0.0, "{row}");
                let speedup = row["speedup"].as_f64().unwrap();
                match row["threads"].as_u64() {
                    Some(1) => assert_eq!(speedup, 1.0, "{row}"),
                    _ => assert!(speedup > 0.0, "{row}"),
                }
            }
        }
        let baseline = &rows[0];
        assert_eq!(baseline["engine"], "libsecp256k1");
        assert_eq!(baseline["ratio"], 1.0);
    }
}

#[test]
fn the_path_from_bytes_to_rows_is_measured_stage_by_stage() {
    let home = tempfile::tempdir().unwrap();
    let chain = SimulatedChain::new(SimulationSettings::default());
    let id = *chain.mine(140).last().unwrap();
    let block = chain.stored_block(id.hash).unwrap();
    let write = |name: &str, bytes: Vec<u8>| {
        let path = home.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path.into_os_string().into_string().unwrap()
    };
    let mut spent = bitcoin::consensus::serialize(&bitcoin::VarInt::from(block.prevouts.len()));
    for outputs in &block.prevouts {
        spent.extend(bitcoin::consensus::serialize(outputs));
    }
    let block = write("block.bin", bitcoin::consensus::serialize(&block.block));
    let spent = write("spent.bin", spent);
    let job = ["bench", "index", "--rounds=1", "--threads=2", "--blocks=3"];
    let files = ["--json", "--block", &block, "--spent", &spent];
    let report = succeed(home.path(), &[&job[..], &files].concat());
    let report: Value = serde_json::from_str(&report).unwrap();
    assert_eq!(report["block"]["is_made_up"], false);
    let rows = report["rows"].as_array().unwrap();
    let engines = testable().count();
    assert_eq!(
        rows.len(),
        2 * engines,
        "each engine on one thread and on two"
    );
    assert_eq!(rows[0]["engine"], "libsecp256k1");
    for (row, threads) in rows.iter().zip([1, 2].iter().cycle()) {
        assert_eq!(row["threads"], *threads);
        for key in ["blocks_per_s", "tweaks_per_s", "ratio"] {
            assert!(row[key].as_f64().unwrap() > 0.0, "{key} of {row}");
        }
        let Some(stages) = row["stages"].as_object() else {
            assert_eq!(*threads, 2, "{row}");
            continue;
        };
        let names: Vec<&str> = stages.keys().map(String::as_str).collect();
        assert_eq!(names, ["commit", "keys", "parse", "rows", "tweaks"]);
        let shares: Vec<f64> = stages
            .values()
            .filter_map(serde_json::Value::as_f64)
            .collect();
        assert!(shares.iter().all(|share| *share >= 0.0), "{row}");
        assert!((shares.iter().sum::<f64>() - 1.0).abs() < 1e-9, "{row}");
    }
}

#[test]
fn the_path_from_bytes_to_rows_is_measured_without_any_file() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("temporary");
    std::fs::create_dir(&folder).unwrap();
    let args = "bench index --rounds=1 --threads=1 --blocks=2 --transactions=40 --json --dir";
    let args: Vec<&str> = args.split(' ').chain(folder.to_str()).collect();
    let report: Value = serde_json::from_str(&succeed(home.path(), &args)).unwrap();
    let block = &report["block"];
    assert_eq!(block["is_made_up"], true);
    // Half to one and a half times as many, and the coinbase.
    assert!(
        (21..=61).contains(&block["transactions"].as_u64().unwrap()),
        "{block}"
    );
    assert!(block["eligible"].as_u64().unwrap() > 0, "{block}");
    let rows = report["rows"].as_array().unwrap();
    assert_eq!(rows.len(), testable().count());
    for row in rows {
        assert!(row["tweaks_per_s"].as_f64().unwrap() > 0.0, "{row}");
    }
    // Nothing is left.
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
    let one_file = run(home.path(), &["bench", "index", "--block", "block.bin"]);
    assert_eq!(one_file.status.code(), Some(2));
}

#[tokio::test]
async fn an_index_keeps_the_form_of_tweaks_it_was_built_with() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join(".spindex/regtest/index.redb");
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    let built = StoreOptions {
        tweak_form: Some(TweakForm::PointAndMultiple),
        ..options()
    };
    let chain = SimulatedChain::new(SimulationSettings::default());
    chain.mine(1);
    fill(
        Arc::new(Store::open(&file, &built).unwrap()),
        Arc::new(chain),
    )
    .await;
    let fail = |args: &[&str]| {
        let output = run(home.path(), &[args, &["--network=regtest"]].concat());
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        stderr(&output)
    };
    // Nothing listens there: the index is opened, and stays as it is.
    let node = ["--node-url=http://127.0.0.1:1", "--wait=0"];
    let sync = |more: &[&'static str]| fail(&[&["sync"], more, &node].concat());
    let same = "--tweak-form=point-and-multiple";
    assert!(sync(&[same]).contains("(regtest, with multiples)"));
    assert!(sync(&[]).contains("(regtest, with multiples)"));
    for refused in [
        sync(&["--tweak-form=point"]),
        fail(&["serve", "--tweak-form=compressed"]),
    ] {
        let cure = "pass --tweak-form point-and-multiple";
        assert!(refused.contains(cure), "{refused}");
        assert!(refused.contains("--data-dir"), "{refused}");
    }
    // From the file, and a flag over it.
    let config = home.path().join(".spindex/spindex.toml");
    std::fs::write(config, "tweak_form = 'point'").unwrap();
    assert!(sync(&[]).contains("pass --tweak-form point-and-multiple"));
    assert!(sync(&[same]).contains("(regtest, with multiples)"));
}
