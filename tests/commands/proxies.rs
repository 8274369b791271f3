//! Proxy settings of the environment: not for servers on this machine, and named where they are in the way.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

use serde_json::Value;
use spindex::store::{FILE_NAME, Store};

use crate::support::fake_node::FakeNode;
use crate::support::index::options;
use crate::support::served::{chain, index, serve};
use crate::support::spindex::{command, stderr};

const BLOCKS: u32 = 112;

/// A proxy that refuses everything; the first line of each request is written down.
struct Proxy {
    address: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let written = asked.clone();
        std::thread::spawn(move || {
            for peer in listener.incoming().map_while(Result::ok) {
                let mut lines = BufReader::new(&peer).lines().map_while(Result::ok);
                written.lock().unwrap().extend(lines.next());
                lines.find(String::is_empty);
                let refusal = "HTTP/1.1 403 Forbidden\r\nConnection: close\r\nContent-Length: 13\r\n\r\nnot from here";
                let _ = (&peer).write_all(refusal.as_bytes());
            }
        });
        Self { address, asked }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    /// The command, with this proxy set for everything, by one of the ways there are.
    fn command(&self, home: &Path, way: &str, args: &[&str]) -> Command {
        let mut command = command(home, args);
        for name in ["http_proxy", "https_proxy", "all_proxy", "no_proxy"] {
            command.env_remove(name).env_remove(name.to_uppercase());
        }
        command.env(way, format!("http://bob:hunter2@{}", self.address));
        command
    }
}

async fn output(mut command: Command) -> Output {
    let run = tokio::task::spawn_blocking(move || command.output().unwrap());
    run.await.unwrap()
}

const OUTPOINT: &str =
    "--outpoint=0000000000000000000000000000000000000000000000000000000000000001:0";

#[tokio::test(flavor = "multi_thread")]
async fn this_machine_is_never_asked_through_the_environments_proxy() {
    let proxy = Proxy::start();
    let home = tempfile::tempdir().unwrap();
    let chain = chain(3, BLOCKS);
    let node = FakeNode::start(chain.clone()).await;
    let address = serve(&chain, index(&chain, 0).await, |router| router).await;
    let (url, by_name) = (
        format!("http://{address}"),
        format!("http://localhost:{}", address.port()),
    );
    let data = home.path().join("data");
    let data = data.to_str().unwrap();
    let node_url = node.url();
    let scan = [
        "scan",
        "--network=regtest",
        OUTPOINT,
        "--from=100",
        "--oracle",
    ];
    let sync = [
        "sync",
        "--network=regtest",
        "--source=rest",
        "--data-dir",
        data,
        "--node-url",
        &node_url,
    ];
    let check = [
        "check",
        "--network=regtest",
        "--data-dir",
        data,
        "--blocks=3",
        "--node-url",
        &node_url,
        "--against",
        &url,
    ];
    for way in ["http_proxy", "ALL_PROXY"] {
        for args in [
            &[&scan[..], &[&url]].concat()[..],
            &[&scan[..], &[&by_name]].concat(),
            &sync,
            &check,
        ] {
            let output = output(proxy.command(home.path(), way, args)).await;
            assert!(
                output.status.success(),
                "{way} {args:?}: {}",
                stderr(&output)
            );
        }
    }
    let demo = ["demo", "--once", "--json", "--blocks=112"];
    let output = output(proxy.command(home.path(), "http_proxy", &demo)).await;
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["spends"].as_array().unwrap().len(), 1);
    assert_eq!(proxy.asked(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_that_came_through_a_proxy_names_it() {
    let proxy = Proxy::start();
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("regtest");
    std::fs::create_dir(&folder).unwrap();
    drop(Store::open(&folder.join(FILE_NAME), &options()).unwrap());
    let data = home.path().to_str().unwrap();
    let server = "http://index.invalid:8000";
    let scan = ["scan", "--network=regtest", OUTPOINT, "--oracle", server];
    let check = [
        "check",
        "--network=regtest",
        "--data-dir",
        data,
        "--blocks=0",
        "--against",
        server,
    ];
    let mut asked = 0;
    // Who is refused what a server says of itself looks whether there are files.
    for (args, requests) in [(&scan[..], 2), (&check, 1)] {
        for way in ["http_proxy", "SPINDEX_PROXY"] {
            let output = output(proxy.command(home.path(), way, args)).await;
            let text = stderr(&output);
            assert_eq!(output.status.code(), Some(1), "{text}");
            let error = text
                .lines()
                .find(|line| line.starts_with("error: "))
                .unwrap();
            for part in [
                server,
                "through the proxy",
                &proxy.address,
                "not from here",
                "403",
            ] {
                assert!(error.contains(part), "no {part:?} in {text}");
            }
            assert_eq!(error.contains("environment"), way == "http_proxy", "{text}");
            assert!(!text.contains("hunter2") && !text.contains("bob"), "{text}");
            let before = asked;
            asked += requests;
            let seen = proxy.asked();
            assert_eq!(seen.len(), asked, "{seen:?}");
            let asks_what_it_is = ["info", "spindex/v1/info"].map(|route| {
                let line = format!("GET {server}/{route} ");
                seen[before].starts_with(&line)
            });
            assert!(asks_what_it_is.contains(&true), "{seen:?}");
            // That somebody else sees what is asked is said beforehand.
            assert_eq!(
                text.contains("sees what is asked"),
                way == "http_proxy",
                "{text}"
            );
        }
    }
}
