//! What a signal leaves of a command: its exit status, its words, and a file that was closed.

use std::path::Path;
use std::sync::Arc;

use bitcoin::secp256k1::rand::rngs::StdRng;
use bitcoin::secp256k1::rand::{Rng, SeedableRng};
use spindex::chain::made::simulated::{SimulatedChain, SimulationSettings};
use spindex::store::FILE_NAME;
use tokio::runtime::Runtime;

use crate::support::fake_node::{FakeNode, Reply};
use crate::support::index::Contents;
use crate::support::random_seed;
use crate::support::spindex::{Spindex, command, run, stderr};

const BLOCKS: u32 = 130;

struct Scene {
    chain: Arc<SimulatedChain>,
    node: FakeNode,
    /// The node's threads.
    _runtime: Runtime,
}

impl Scene {
    fn new() -> Self {
        let chain = Arc::new(SimulatedChain::new(SimulationSettings::default()));
        chain.mine(BLOCKS);
        let runtime = Runtime::new().unwrap();
        Self {
            node: runtime.block_on(FakeNode::start(chain.clone())),
            chain,
            _runtime: runtime,
        }
    }

    fn sync(&self) -> Vec<String> {
        vec![
            "sync".to_owned(),
            "--network=regtest".to_owned(),
            "--first-height=0".to_owned(),
            "--source=rest".to_owned(),
            "--engine=libsecp256k1".to_owned(),
            format!("--node-url={}", self.node.url()),
        ]
    }

    /// A sync to its end, over a file that was closed.
    fn finish(&self, home: &Path) {
        let output = run(home, &self.sync());
        let text = stderr(&output);
        assert!(output.status.success(), "{text}");
        assert!(text.contains("in sync"), "{text}");
        assert!(!text.contains("not closed cleanly"), "{text}");
        let file = home.join(".spindex/regtest").join(FILE_NAME);
        assert_eq!(Contents::of_file(&file).tip, self.chain.tip_id());
    }
}

#[test]
fn a_sync_that_is_stopped_has_failed_and_says_where() {
    let scene = Scene::new();
    let home = tempfile::tempdir().unwrap();
    // Before there is a block.
    let requests = scene.node.watch();
    scene.node.on("/", Reply::Stall);
    let sync = Spindex::start(command(home.path(), &scene.sync()));
    requests.recv().unwrap();
    let (status, lines) = sync.terminate();
    assert_eq!(status.code(), Some(1), "{lines:#?}");
    let last = lines.last().unwrap();
    assert!(
        last.contains("error: stopped before the first block by a signal"),
        "{last}"
    );
    scene.node.behave();
    scene.finish(home.path());

    // With more to come than the node gives.
    scene.chain.mine(1);
    let requests = scene.node.watch();
    scene.node.on("/rest/block/", Reply::Stall);
    let sync = Spindex::start(command(home.path(), &scene.sync()));
    assert!(requests.iter().any(|path| path.contains("/rest/block/")));
    let (status, lines) = sync.terminate();
    assert_eq!(status.code(), Some(1), "{lines:#?}");
    let last = lines.last().unwrap();
    assert!(
        last.contains(&format!("error: stopped at height {BLOCKS} by a signal")),
        "{last}"
    );
    assert!(
        !lines.iter().any(|line| line.contains("in sync")),
        "{lines:#?}"
    );
    scene.node.behave();
    scene.finish(home.path());
}

/// A second signal, or what else ends a process at once.
#[test]
fn a_sync_that_is_killed_before_the_first_block_leaves_nothing_to_be_checked() {
    let scene = Scene::new();
    let home = tempfile::tempdir().unwrap();
    let requests = scene.node.watch();
    scene.node.on("/", Reply::Stall);
    let sync = Spindex::start(command(home.path(), &scene.sync()));
    requests.recv().unwrap();
    sync.kill();
    scene.node.behave();
    scene.finish(home.path());
}

/// More of them with the environment variable SPINDEX_TEST_STOPS.
#[test]
fn a_file_is_closed_whenever_a_sync_is_stopped() {
    let stops = std::env::var("SPINDEX_TEST_STOPS").map_or(12, |stops| stops.parse().unwrap());
    let mut rng = StdRng::seed_from_u64(random_seed());
    let scene = Scene::new();
    let whole = {
        let home = tempfile::tempdir().unwrap();
        scene.finish(home.path());
        scene.node.requests().len()
    };
    for _ in 0..stops {
        let home = tempfile::tempdir().unwrap();
        let requests = scene.node.watch();
        let mut sync = Spindex::start(command(home.path(), &scene.sync()));
        let count = rng.gen_range(1..=whole);
        // The last ones may not come: then the log ends.
        if count < whole {
            requests.iter().take(count).count();
        } else {
            while sync
                .next_line()
                .is_some_and(|line| !line.contains("indexed"))
            {}
        }
        let (status, lines) = sync.terminate();
        let says = |text: &str| lines.iter().any(|line| line.contains(text));
        match status.code() {
            Some(0) => assert!(says("in sync"), "{lines:#?}"),
            code => assert!(code == Some(1) && says("error: stopped "), "{lines:#?}"),
        }
        scene.finish(home.path());
    }
}
