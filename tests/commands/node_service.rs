//! Trouble with a node that has served well, and trouble that has a name: what passes is waited out while the server
//! goes on, and what does not is told with its cure.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use bitcoin::ScriptBuf;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;
use spindex::BlockId;
use spindex::chain::ChainError;
use spindex::chain::made::simulated::{SimulatedChain, SimulationSettings};
use spindex::curve::libsecp256k1::LibSecp256k1;
use spindex::index::{BatchReport, IndexError, IndexSettings, Indexer};
use spindex::runtime::Stop;
use spindex::store::FILE_NAME;
use tokio::sync::mpsc;

use crate::support::fake_node::{FakeNode, Reply};
use crate::support::index::{content, content_of_file, fresh_content, memory_store};
use crate::support::log::Log;
use crate::support::node::TestNode;
use crate::support::node_source::{Kind, step_time};
use crate::support::spindex::{Spindex, command, run, stderr};

/// So long a trouble lasts.
const LONG: Duration = Duration::from_secs(700);

fn chain(transactions_per_block: u32, blocks: u32) -> Arc<SimulatedChain> {
    let chain = SimulatedChain::new(SimulationSettings {
        seed: 31,
        transactions_per_block,
        ..SimulationSettings::default()
    });
    chain.mine(blocks);
    Arc::new(chain)
}

fn settings(give_up_after: Option<Duration>) -> IndexSettings {
    IndexSettings {
        give_up_after,
        ..IndexSettings::default()
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_has_served_well_may_say_anything() {
    step_time();
    for kind in Kind::ALL {
        let chain = chain(3, 40);
        let node = FakeNode::start(chain.clone()).await;
        let log = Log::catch();
        let store = memory_store();
        let stop = Stop::new();
        let (sender, mut tips) = mpsc::unbounded_channel();
        let indexer = Indexer::new(
            store.clone(),
            kind.source(&node.url()),
            Arc::new(LibSecp256k1),
            settings(None),
            stop.clone(),
            move |report: &BatchReport| {
                let _ = sender.send(report.applied.tip);
            },
        );
        let following = tokio::spawn(async move {
            indexer.check_source().await?;
            indexer.follow(None).await
        });
        while tips.recv().await.unwrap() != Some(chain.tip_id()) {}

        for status in [
            400, 401, 403, 404, 405, 408, 429, 302, 204, 500, 501, 502, 503, 504,
        ] {
            let before = content(&store);
            let warned = log.lines("WARN").len();
            node.on("/", Reply::Full(status, Vec::new()));
            let mined = chain.mine(1);
            tokio::time::sleep(LONG).await;
            assert_eq!(content(&store), before, "{status}");
            let warned = &log.lines("WARN")[warned..];
            assert_eq!(warned.len(), 1, "{status}: {warned:#?}");
            assert!(warned[0].contains("trying again"), "{warned:#?}");

            node.behave();
            while tips.recv().await.unwrap() != mined.last().copied() {}
        }
        // Answers that cannot be right.
        for body in ["<html>", "{}", r#"{"chain":"regtest"}"#, ""] {
            node.on("/", Reply::Full(200, body.as_bytes().to_vec()));
            let mined = chain.mine(1);
            tokio::time::sleep(LONG).await;
            node.behave();
            while tips.recv().await.unwrap() != mined.last().copied() {}
        }
        stop.request();
        following.await.unwrap().unwrap();
        assert_eq!(content(&store), fresh_content(chain).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_goes_on_while_the_node_refuses() {
    let home = tempfile::tempdir().unwrap();
    let chain = chain(3, 30);
    let node = FakeNode::start(chain.clone()).await;
    let args = [
        "run".to_owned(),
        "--network=regtest".to_owned(),
        "--first-height=0".to_owned(),
        "--poll-ms=20".to_owned(),
        "--http-bind=127.0.0.1:0".to_owned(),
        format!("--node-url={}", node.url()),
    ];
    let mut server = Spindex::start(command(home.path(), &args));
    let url = server.url();
    let mut height = 30;
    server.wait_for_height(height);
    for status in [403, 404] {
        node.on("/", Reply::Full(status, Vec::new()));
        chain.mine(1);
        server.wait_for(&["WARN", &node.url(), "trying again"]);
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let answer = client.get(format!("{url}/block-hash/{height}"));
        let answer: serde_json::Value = answer.send().await.unwrap().json().await.unwrap();
        let hash = chain.active_blocks()[height as usize].id.hash;
        assert_eq!(answer["block_hash"], json!(hash));
        node.behave();
        height += 1;
        server.wait_for_height(height);
    }
    let (status, lines) = server.terminate();
    assert!(status.success(), "{lines:#?}");
}

/// A byte now and then is no answer: a request has one deadline, and the wait for the node an end.
#[tokio::test(start_paused = true)]
async fn a_node_that_drips_is_waited_for_only_as_long_as_it_may() {
    step_time();
    let chain = chain(3, 110);
    let fresh = fresh_content(chain.clone()).await;
    for kind in Kind::ALL {
        let [block, hashes, tip] = kind.paths();
        for part in [block, hashes, tip] {
            let node = FakeNode::start(chain.clone()).await;
            node.on(part, Reply::Drip(Duration::from_secs(5)));
            let store = memory_store();
            let indexer = Indexer::new(
                store.clone(),
                kind.source(&node.url()),
                Arc::new(LibSecp256k1),
                settings(Some(Duration::from_secs(60))),
                Stop::new(),
                |_| (),
            );
            let started = tokio::time::Instant::now();
            let error = indexer.sync(None).await.unwrap_err();
            assert!(
                matches!(&error, IndexError::Chain(ChainError::Unreachable(text)) if text.contains("in time")),
                "{kind:?} {part}: {error:?}"
            );
            let waited = started.elapsed();
            assert!(
                waited < Duration::from_secs(60 + 40),
                "{kind:?} {part}: {waited:?}"
            );
            // Slow, but in time.
            node.behave();
            node.on(part, Reply::Late(Duration::from_secs(29)));
            indexer.sync(Some(20)).await.unwrap();
            node.behave();
            indexer.sync(None).await.unwrap();
            assert_eq!(content(&store), fresh);
        }
    }
}

#[test]
fn a_small_work_queue_slows_a_sync_down_and_breaks_nothing() {
    let chain = chain(6, 160);
    let node = TestNode::start(&["-rpcworkqueue=1", "-rpcthreads=1"]);
    node.submit_above(&chain, 0);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let fresh = runtime.block_on(fresh_content(chain));
    for source in ["--source=rest", "--source=rpc"] {
        let home = tempfile::tempdir().unwrap();
        let args = [
            "sync".to_owned(),
            "--network=regtest".to_owned(),
            "--first-height=0".to_owned(),
            "--wait=0".to_owned(),
            "--in-flight=32".to_owned(),
            "--log=spindex=debug".to_owned(),
            source.to_owned(),
            format!("--node-url={}", node.url()),
            format!("--rpc-cookie={}", node.cookie_path().display()),
        ];
        let output = run(home.path(), &args);
        let log = stderr(&output);
        assert_eq!(output.status.code(), Some(0), "{log}");
        // Otherwise there was nothing to show.
        assert!(
            log.contains("requests at a time from now on"),
            "{source}: {log}"
        );
        assert!(!log.contains("WARN"), "{source}: {log}");
        assert_eq!(content_of_file(&index_file(home.path())), fresh, "{source}");
    }
}

fn index_file(home: &Path) -> PathBuf {
    home.join(".spindex/regtest").join(FILE_NAME)
}

#[tokio::test(start_paused = true)]
async fn a_work_queue_that_stays_full_names_both_options() {
    step_time();
    for kind in Kind::ALL {
        let node = FakeNode::start(chain(3, 5)).await;
        let source = kind.source(&node.url());
        node.on("/", Reply::Full(503, b"Work queue depth exceeded".to_vec()));
        let error = source.tip().await.unwrap_err();
        assert!(matches!(error, ChainError::Unreachable(_)), "{error:?}");
        let text = error.to_string();
        for part in [&node.url(), "-rpcworkqueue", "--in-flight"] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
    }
}

#[test]
fn a_pruned_node_is_told_with_the_first_height_it_can_serve() {
    let node = TestNode::start(&["-prune=1", "-fastprune"]);
    node.mine(700, &ScriptBuf::new_op_return([0; 60]));
    node.call("pruneblockchain", &[json!(400)]);
    let info = node.call("getblockchaininfo", &[]);
    let lowest = u32::try_from(info["pruneheight"].as_u64().unwrap()).unwrap();
    assert!(lowest > 1, "{info}");
    let cookie = format!("--rpc-cookie={}", node.cookie_path().display());
    let url = format!("--node-url={}", node.url());
    for source in ["--source=rest", "--source=rpc"] {
        for name in ["sync", "run"] {
            let home = tempfile::tempdir().unwrap();
            let fixed = [name, "--network=regtest", "--http-bind=127.0.0.1:0"];
            let args = [&fixed[..], &[source, &cookie, &url]].concat();
            let output = run(home.path(), &args);
            let log = stderr(&output);
            assert_eq!(output.status.code(), Some(1), "{log}");
            let error = log
                .lines()
                .find(|line| line.starts_with("error: "))
                .unwrap();
            for said in [&format!("--first-height {lowest}"), "prune"] {
                assert!(error.contains(said), "{said} is not in {error}");
            }
        }
        // And that it can.
        let home = tempfile::tempdir().unwrap();
        let first = format!("--first-height={lowest}");
        let args = [
            "sync",
            "--network=regtest",
            "--wait=0",
            &first,
            source,
            &cookie,
            &url,
        ];
        let output = run(home.path(), &args);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    }
}

#[test]
fn an_address_that_is_none_is_told_by_the_flag_that_gave_it() {
    let home = tempfile::tempdir().unwrap();
    for (given, other) in [("--node-url", "--rpc-url"), ("--rpc-url", "--node-url")] {
        for source in ["--source=auto", "--source=rpc", "--source=rest"] {
            let address = format!("{given}=127.0.0.1:1");
            let args = [
                "sync",
                "--network=regtest",
                "--rpc-cookie=/nowhere/.cookie",
                source,
                &address,
            ];
            let output = run(home.path(), &args);
            let log = stderr(&output);
            assert_eq!(output.status.code(), Some(2), "{log}");
            assert!(log.contains(&format!("{given} is no ")), "{log}");
            assert!(!log.contains(other), "{log}");
        }
    }
}

/// `ulimit -f` counts in blocks of 512 or 1024 bytes, by shell.
#[test]
fn a_limit_of_the_file_size_is_told_and_kills_nothing() {
    let home = tempfile::tempdir().unwrap();
    let chain = chain(20, 130);
    let node = TestNode::start(&[]);
    node.submit_above(&chain, 0);
    let args = [
        "sync".to_owned(),
        "--network=regtest".to_owned(),
        "--first-height=0".to_owned(),
        format!("--node-url={}", node.url()),
    ];
    let spindex = command(home.path(), &args);
    let mut limited = Command::new("sh");
    limited
        .env("HOME", home.path())
        .args(["-c", "ulimit -f 600 && exec \"$0\" \"$@\""])
        .arg(spindex.get_program())
        .args(spindex.get_args());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("SPINDEX_") {
            limited.env_remove(name);
        }
    }
    let output = limited.output().unwrap();
    let log = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{:?} {log}", output.status);
    for said in ["error: ", "ulimit -f", FILE_NAME] {
        assert!(log.contains(said), "{said} is not in {log}");
    }
    // Without it, all is well.
    let output = run(home.path(), &args);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let fresh = runtime.block_on(fresh_content(chain));
    assert_eq!(content_of_file(&index_file(home.path())), fresh);
}

fn fixture(name: &str) -> String {
    format!("{}/fixtures/tls/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// Answers every request on every TLS connection by HTTP 404, until the process ends. Its URL, with how many connections
/// there were.
fn tls_server() -> (String, Arc<std::sync::atomic::AtomicU32>) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let certificates = CertificateDer::pem_file_iter(fixture("node.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(fixture("node.key")).unwrap();
    let config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(certificates.map(Result::unwrap).collect(), key)
        .unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let connections = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let counted = connections.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            let connection = rustls::ServerConnection::new(config.clone()).unwrap();
            let mut stream = rustls::StreamOwned::new(connection, stream.unwrap());
            let mut request = [0; 4096];
            if stream.read(&mut request).is_ok() {
                let answer =
                    b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
                let _ = stream.write_all(answer);
                stream.conn.send_close_notify();
                let _ = stream.flush();
            }
        }
    });
    (url, connections)
}

#[test]
fn a_certificate_that_is_not_trusted_is_no_trouble_that_passes() {
    let home = tempfile::tempdir().unwrap();
    let (url, connections) = tls_server();
    let args = [
        "sync",
        "--network=regtest",
        "--source=rest",
        "--wait=60",
        "--node-url",
        &url,
    ];
    let output = run(home.path(), &args);
    let log = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{log}");
    for said in ["certificate", "SSL_CERT_FILE", &url] {
        assert!(log.contains(said), "{said} is not in {log}");
    }
    assert!(!log.contains("trying again"), "{log}");
    assert_eq!(connections.load(std::sync::atomic::Ordering::SeqCst), 1);

    // With that of the authority, the server is reached.
    let mut trusting = command(home.path(), &args);
    let output = trusting
        .env("SSL_CERT_FILE", fixture("authority.pem"))
        .output()
        .unwrap();
    let log = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{log}");
    assert!(log.contains("start bitcoind with -rest"), "{log}");
}

#[tokio::test]
async fn the_answer_to_another_call_is_refused() {
    let chain = chain(3, 12);
    let node = FakeNode::start(chain.clone()).await;
    let source = Kind::Rpc.source(&node.url());
    let tip: BlockId = source.tip().await.unwrap();
    assert_eq!(tip, chain.tip_id());
    for change in [
        |body: Vec<u8>| {
            String::from_utf8(body)
                .unwrap()
                .replace(r#""id":"#, r#""id":7"#)
        },
        |body: Vec<u8>| {
            String::from_utf8(body)
                .unwrap()
                .replace(r#""id":"#, r#""di":"#)
        },
        |body: Vec<u8>| {
            String::from_utf8(body)
                .unwrap()
                .replace(r#""id":"#, r#""id":null,"x":"#)
        },
    ] {
        let body = change(br#"{"jsonrpc":"2.0","result":{"chain":"regtest","blocks":3,"bestblockhash":"0f9188f13cb7b2c71f2a335e3a4fc328bf5beb436012afca590b1a11466e2206"},"id":1}"#.to_vec());
        node.on("getblockchaininfo", Reply::Full(200, body.into_bytes()));
        let error = source.tip().await.unwrap_err();
        assert!(matches!(error, ChainError::Mismatch(_)), "{error:?}");
        assert!(error.to_string().contains("another call"), "{error}");
        node.behave();
    }
    assert_eq!(source.tip().await.unwrap(), chain.tip_id());

    // A refusal is an answer too, and has no id only if the call was not understood.
    for (id, is_ours) in [("777", false), ("null", true)] {
        let refusal = format!(
            r#"{{"result":null,"error":{{"code":-5,"message":"Block not found"}},"id":{id}}}"#
        );
        node.on("getblock", Reply::Full(500, refusal.into_bytes()));
        let error = source.block(tip).await.unwrap_err();
        match is_ours {
            true => assert!(matches!(error, ChainError::NotAvailable(_)), "{error:?}"),
            false => assert!(error.to_string().contains("another call"), "{error}"),
        }
        node.behave();
    }
}
