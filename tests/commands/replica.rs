//! An index built from another server by the program itself: killed in the middle, followed through a reorg and while the
//! server is away, and held against a node.

use std::path::Path;
use std::sync::Arc;

use spindex::chain::made::simulated::{Orphaned, SimulatedChain, SimulationSettings};
use spindex::store::FILE_NAME;
use tokio::runtime::Runtime;

use crate::support::fake_node::FakeNode;
use crate::support::index::content_of_file;
use crate::support::spindex::{Spindex, command, run, stderr};

const COMMON: [&str; 3] = [
    "--network=regtest",
    "--first-height=0",
    "--engine=libsecp256k1",
];

fn with<'a>(first: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&[first], &COMMON[..], more].concat()
}

fn content(home: &Path) -> [u8; 32] {
    content_of_file(&home.join(".spindex/regtest").join(FILE_NAME))
}

#[test]
fn an_index_is_built_from_another_server_and_follows_it() {
    let runtime = Runtime::new().unwrap();
    let chain = Arc::new(SimulatedChain::new(SimulationSettings::default()));
    chain.mine(150);
    let node = runtime.block_on(FakeNode::start(chain.clone()));
    let node_url = format!("--node-url={}", node.url());
    let (source, replica) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let from_node = ["--source=rest", &node_url, "--poll-ms=5"];
    let serve = |bind: &str| {
        let bind = format!("--http-bind={bind}");
        let args = with("run", &[&from_node[..], &[bind.as_str()]].concat());
        let mut server = Spindex::start(command(source.path(), &args));
        let url = server.url();
        server.wait_for_height(chain.tip_id().height);
        (server, url)
    };
    let (server, url) = serve("127.0.0.1:0");
    let upstream = format!("--upstream={url}");
    let of_server = ["--source=spindex", &upstream];

    // Killed once it has begun.
    let args = with(
        "run",
        &[&of_server[..], &["--http-bind=127.0.0.1:0"]].concat(),
    );
    let mut cut = Spindex::start(command(replica.path(), &args));
    cut.url();
    cut.kill();
    let output = run(replica.path(), &with("sync", &of_server));
    let text = stderr(&output);
    assert!(output.status.success(), "{text}");
    assert!(
        text.contains("the head over all columns is that of the upstream server"),
        "{text}"
    );

    // It follows, through a reorg, and while the server is away for some time and comes back with another branch: by looking
    // often, and where the server's events are all that it can hear of it.
    let address = url.trim_start_matches("http://").to_owned();
    let mut server = Some(server);
    for (poll, away) in [
        ("--poll-ms=5", "no answer"),
        ("--poll-ms=3600000", "events: none from"),
    ] {
        let args = [&args[..], &[poll]].concat();
        let mut follower = Spindex::start(command(replica.path(), &args));
        follower.url();
        follower.wait_for(&["events: listening to", &url]);
        chain.reorganize(5, 9, Orphaned::Resubmit).unwrap();
        follower.wait_for_height(chain.tip_id().height);
        if let Some(server) = server.take() {
            server.terminate();
        }
        follower.wait_for(&[away, &url]);
        chain.reorganize(20, 22, Orphaned::Drop).unwrap();
        server = Some(serve(&address).0);
        follower.wait_for_height(chain.tip_id().height);
        let (status, _) = follower.terminate();
        assert!(status.success());
    }
    let verified = run(
        replica.path(),
        &with(
            "sync",
            &[&of_server[..], &["--verify-blocks=20", &node_url]].concat(),
        ),
    );
    let text = stderr(&verified);
    assert!(verified.status.success(), "{text}");
    assert!(text.contains("blocks are what the node's make"), "{text}");
    server.unwrap().terminate();
    assert_eq!(content(replica.path()), content(source.path()));
}

#[test]
fn what_a_replica_needs_is_asked_for_by_name() {
    let home = tempfile::tempdir().unwrap();
    for (more, names) in [
        (&["--source=spindex"][..], "--upstream"),
        (&["--upstream=http://127.0.0.1:1"], "--source spindex"),
        (
            &["--source=spindex", "--upstream=ftp://127.0.0.1:1"],
            "--upstream",
        ),
        (
            &[
                "--source=spindex",
                "--upstream=http://127.0.0.1:1",
                "--verify-blocks=1",
            ],
            "--node-url",
        ),
        (
            &["--verify-blocks=1", "--node-url=http://127.0.0.1:1"],
            "--source spindex",
        ),
    ] {
        let output = run(home.path(), &with("sync", more));
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{more:?}: {text}");
        assert!(text.contains(names), "{more:?}: {text}");
    }
    let away = [
        "--source=spindex",
        "--upstream=http://127.0.0.1:1",
        "--wait=0",
    ];
    let output = run(home.path(), &with("sync", &away));
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("http://127.0.0.1:1"), "{text}");
}
