//! What goes wrong around the program: each fault gives one clear line that names the cure, exit status 1 where it cannot go
//! on, and never a wrong or half-written index.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use spindex::chain::made::simulated::{SimulatedChain, SimulationSettings};
use spindex::store::FILE_NAME;

use crate::support::fake_node::{FakeNode, Reply};
use crate::support::index::{content_of_file, fresh_content};
use crate::support::node::TestNode;
use crate::support::spindex::{Spindex, command, run, stderr};

fn chain(transactions_per_block: u32, blocks: u32) -> Arc<SimulatedChain> {
    let chain = SimulatedChain::new(SimulationSettings {
        seed: 21,
        transactions_per_block,
        ..SimulationSettings::default()
    });
    chain.mine(blocks);
    Arc::new(chain)
}

fn node_with(chain: &SimulatedChain) -> TestNode {
    let node = TestNode::start(&[]);
    for block in chain.active_blocks().iter().skip(1) {
        node.submit_block(&block.block).unwrap();
    }
    node
}

fn args(command: &str, url: &str, more: &[&str]) -> Vec<String> {
    let node = format!("--node-url={url}");
    [
        &[
            command,
            "--network=regtest",
            "--first-height=0",
            "--poll-ms=20",
            &node,
        ],
        more,
    ]
    .concat()
    .into_iter()
    .map(str::to_owned)
    .collect()
}

/// Runs a command that fails with status 1; its one line of error.
fn failure(home: &Path, args: &[String]) -> String {
    let output = run(home, args);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    let errors: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with("error: "))
        .collect();
    assert_eq!(errors.len(), 1, "{text}");
    assert!(!text.contains("panicked"), "{text}");
    errors[0].to_owned()
}

fn assert_says(error: &str, words: &[&str]) {
    for word in words {
        assert!(error.contains(word), "{word:?} is missing in {error:?}");
    }
}

fn index_file(home: &Path) -> PathBuf {
    home.join(".spindex/regtest").join(FILE_NAME)
}

/// Runs a command to its end without holding up the fake node of this test.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

#[test]
fn no_node_ends_a_sync_and_makes_a_run_wait() {
    let home = tempfile::tempdir().unwrap();
    let chain = chain(4, 105);
    let mut node = node_with(&chain);
    let url = node.url();
    node.stop();

    let error = failure(home.path(), &args("sync", &url, &["--wait=0"]));
    assert_says(&error, &[&url, "start the node", "--node-url"]);

    let mut server = Spindex::start(command(
        home.path(),
        &args("run", &url, &["--http-bind=127.0.0.1:0"]),
    ));
    server.wait_for(&["WARN", &url, "trying again"]);
    node.start_again(&["-rest"]);
    server.wait_for_height(105);
    let (status, lines) = server.terminate();
    assert!(status.success());
    // Said once, however often it was tried; a node that starts may say other things in between.
    let refused = lines.iter().filter(|line| line.contains("cannot connect"));
    assert!(refused.count() <= 2, "{lines:#?}");
}

#[test]
fn a_node_that_restarts_is_followed_again() {
    let home = tempfile::tempdir().unwrap();
    let chain = chain(4, 105);
    let mut node = node_with(&chain);
    let url = node.url();
    let mut server = Spindex::start(command(
        home.path(),
        &args("run", &url, &["--http-bind=127.0.0.1:0"]),
    ));
    server.wait_for_height(105);
    node.stop();
    server.wait_for(&["WARN", &url]);
    node.start_again(&["-rest"]);
    chain.mine(2);
    for block in chain.active_blocks().iter().skip(106) {
        node.submit_block(&block.block).unwrap();
    }
    server.wait_for_height(107);
    assert!(server.terminate().0.success());
    let fresh = tokio::runtime::Runtime::new()
        .unwrap()
        .block_on(fresh_content(chain.clone()));
    assert_eq!(content_of_file(&index_file(home.path())), fresh);
}

#[test]
fn a_node_of_another_network_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let node = TestNode::start(&[]);
    let url = format!("--node-url={}", node.url());
    for command in ["sync", "run"] {
        let args =
            [command, "--network=signet", "--http-bind=127.0.0.1:0", &url].map(str::to_owned);
        assert_says(
            &failure(home.path(), &args),
            &["regtest", "signet", "--network"],
        );
    }
}

#[test]
fn wrong_credentials_and_a_missing_cookie_are_named() {
    let home = tempfile::tempdir().unwrap();
    let node = TestNode::start(&[]);
    let arguments = args("sync", &node.url(), &["--rpc-user=alice"]);

    let mut wrong = command(home.path(), &arguments);
    let output = wrong
        .env("SPINDEX_RPC_PASSWORD", "wrong horse")
        .output()
        .unwrap();
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert_says(&text, &["error: ", "credentials", "--rpc-"]);
    assert!(!text.contains("horse"), "{text}");

    // Half of the credentials is wrong usage.
    let output = run(home.path(), &arguments);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert_says(&stderr(&output), &["SPINDEX_RPC_PASSWORD"]);

    let missing = home.path().join("no-cookie");
    let cookie = format!("--rpc-cookie={}", missing.display());
    let error = failure(
        home.path(),
        &args("sync", &node.url(), &[&cookie, "--wait=0"]),
    );
    assert_says(&error, &["no-cookie"]);
}

#[test]
fn a_node_without_rest_is_told_how_to_serve_it() {
    let home = tempfile::tempdir().unwrap();
    let node = TestNode::start_without_rest(&[]);
    assert_says(
        &failure(home.path(), &args("sync", &node.url(), &[])),
        &["-rest"],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_too_old_for_spent_outputs_is_told_the_version() {
    let home = tempfile::tempdir().unwrap();
    let node = FakeNode::start(chain(4, 105)).await;
    // What a server that does not know the path says.
    node.on("/rest/spenttxouts/", Reply::Full(404, Vec::new()));
    let url = node.url();
    let args = args("sync", &url, &["--source=rest"]);
    let error = blocking(move || failure(home.path(), &args)).await;
    assert_says(&error, &["spenttxouts", "30"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_answers_end_the_sync_and_leave_a_good_index() {
    let chain = chain(6, 120);
    let other = chain
        .stored_block(chain.active_blocks()[60].id.hash)
        .unwrap();
    let at = chain.active_blocks()[115].id.hash;
    let fresh = fresh_content(chain.clone()).await;
    let other_block = bitcoin::consensus::serialize(&other.block);
    let faults = [
        (
            format!("/rest/block/{at}"),
            Reply::Full(200, other_block),
            "hash",
        ),
        (
            format!("/rest/block/{at}"),
            Reply::Full(200, vec![0xee; 300]),
            "block",
        ),
        (
            format!("/rest/block/{at}"),
            Reply::Truncated(100),
            "rest/block",
        ),
        (format!("/rest/block/{at}"), Reply::Longer(vec![0]), "block"),
        (
            format!("/rest/spenttxouts/{at}"),
            Reply::Full(200, vec![1, 0]),
            "spent",
        ),
        (
            format!("/rest/spenttxouts/{at}"),
            Reply::Full(200, vec![0xff; 9]),
            "spent",
        ),
        (
            format!("/rest/spenttxouts/{at}"),
            Reply::Hangup,
            "rest/spenttxouts",
        ),
        (
            format!("/rest/block/{at}"),
            Reply::Announced(u64::MAX),
            "rest/block",
        ),
    ];
    for (path, reply, word) in faults {
        let home = Arc::new(tempfile::tempdir().unwrap());
        let node = FakeNode::start(chain.clone()).await;
        let what = format!("{path}: {reply:?}");
        println!("{what:.200}");
        node.on(&path, reply);
        let (url, folder) = (node.url(), home.clone());
        let error =
            blocking(move || failure(folder.path(), &args("sync", &url, &["--wait=0"]))).await;
        assert!(
            error.contains(word),
            "{word:?} is missing in {error:?} for {what}"
        );

        node.behave();
        let (url, folder) = (node.url(), home.clone());
        let output = blocking(move || run(folder.path(), &args("sync", &url, &[]))).await;
        assert!(output.status.success(), "{}", stderr(&output));
        assert_eq!(
            content_of_file(&index_file(home.path())),
            fresh,
            "after {what}"
        );
    }
}

#[test]
fn a_second_instance_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let node = node_with(&chain(4, 105));
    let mut first = Spindex::start(command(
        home.path(),
        &args("run", &node.url(), &["--http-bind=127.0.0.1:0"]),
    ));
    first.wait_for_height(105);
    for second in [
        args("run", &node.url(), &["--http-bind=127.0.0.1:0"]),
        args("sync", &node.url(), &[]),
    ] {
        assert_says(&failure(home.path(), &second), &[FILE_NAME, "--data-dir"]);
    }
    assert!(first.terminate().0.success());
}

#[test]
fn an_address_in_use_is_named() {
    let home = tempfile::tempdir().unwrap();
    let node = TestNode::start(&[]);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let error = failure(
        home.path(),
        &args("run", &node.url(), &[&format!("--http-bind={address}")]),
    );
    assert_says(&error, &[&address, "--http-bind"]);
}

/// A file system in memory, unmounted when dropped.
struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    /// `None` where this user may not mount one.
    fn mount(path: &Path, bytes: u64) -> Option<Self> {
        std::fs::create_dir(path).unwrap();
        let disk = Self {
            path: path.to_owned(),
        };
        disk.run_mount(&format!("size={bytes}")).then_some(disk)
    }

    fn resize(&self, bytes: u64) {
        assert!(self.run_mount(&format!("remount,size={bytes}")));
    }

    fn run_mount(&self, options: &str) -> bool {
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", options, "tmpfs"])
            .arg(&self.path);
        mount.status().is_ok_and(|status| status.success())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount")
            .arg(&self.path)
            .stderr(std::process::Stdio::null())
            .status();
    }
}

#[test]
fn a_full_disk_ends_the_sync_and_room_lets_it_go_on() {
    let home = tempfile::tempdir().unwrap();
    let chain = chain(40, 200);
    let node = node_with(&chain);
    // How much it wants, on a disk with room.
    let arguments = args("sync", &node.url(), &["--batch-mib=1"]);
    assert!(run(home.path(), &arguments).status.success());
    let metadata = std::fs::metadata(index_file(home.path())).unwrap();
    // Not its length: the engine leaves holes.
    let wanted_bytes = std::os::unix::fs::MetadataExt::blocks(&metadata) * 512;

    let Some(disk) = SmallDisk::mount(&home.path().join("disk"), wanted_bytes * 3 / 4) else {
        println!("skipped: this user may not mount a file system in memory");
        return;
    };
    let data_dir = format!("--data-dir={}", disk.path.display());
    let arguments = [arguments, vec![data_dir]].concat();
    let error = failure(home.path(), &arguments);
    assert_says(&error, &["free some space", disk.path.to_str().unwrap()]);

    disk.resize(64 << 20);
    let output = run(home.path(), &arguments);
    assert!(output.status.success(), "{}", stderr(&output));
    let fresh = tokio::runtime::Runtime::new()
        .unwrap()
        .block_on(fresh_content(chain.clone()));
    assert_eq!(
        content_of_file(&disk.path.join("regtest").join(FILE_NAME)),
        fresh
    );
}
