//! Who spends what in the old blocks of an index of format 5: `spindex sync` and `run` fill it in, killed at any moment and
//! started again, and a block that differs is found and mended.
//!
//! `SPINDEX_KILLS` says how many kills there are at least, as for the other tests that kill.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bitcoin::secp256k1::rand::rngs::StdRng;
use bitcoin::secp256k1::rand::{Rng, SeedableRng};
use redb::ReadableTable;
use spindex::chain::made::simulated::{Orphaned, SimulatedChain, SimulationSettings};
use spindex::store::schema::FOREIGN;
use spindex::store::{FILE_NAME, Store};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::kills::share_of_kills;
use super::place::{Place, build, is_named, tamper};
use crate::support::fake_node::FakeNode;
use crate::support::index::{Contents, fresh_store, make_format_5, options};
use crate::support::random_seed;
use crate::support::spindex::{Spindex, command};

/// What is known is kept, whatever comes, and in the end it is what a new index has.
#[test]
fn filling_in_that_is_killed_at_any_moment_goes_on() {
    const IN_THE_MIDDLE: u32 = 5;
    const BLOCKS: u32 = 160;
    let least_kills = share_of_kills(3);
    let (mut kills, mut in_the_middle) = (0, 0);
    while kills < least_kills || in_the_middle < IN_THE_MIDDLE {
        let mut scene = Scene::new(BLOCKS);
        let mut known = BLOCKS + 1;
        loop {
            let requests = scene.node.watch();
            let count = scene.rng.gen_range(1..=2 * BLOCKS);
            let name = ["sync", "sync", "run"][scene.rng.gen_range(0..3)];
            let mut process = scene.start(name);
            let mut left = count;
            let mut fork = None;
            while left > 0 && !process.is_over() {
                if requests.recv_timeout(Duration::from_millis(10)).is_err() {
                    // A `run` that has all there is asks for nothing but the tip.
                    continue;
                }
                left -= 1;
                if scene.rng.gen_ratio(1, 150) {
                    let depth = scene.rng.gen_range(1..=60);
                    let orphaned = Orphaned::Resubmit;
                    let reorganization = scene.chain.reorganize(depth, depth + 1, orphaned);
                    let height = reorganization.unwrap().fork.height;
                    fork = Some(fork.map_or(height, |lowest: u32| lowest.min(height)));
                }
            }
            if let Some(lines) = process.kill_or_end() {
                assert_eq!(name, "sync");
                assert!(lines.iter().any(|line| line.contains("in sync")));
                break;
            }
            kills += 1;
            let Some(from) = scene.known_from() else {
                // All is known, and the tip may not be reached.
                known = 0;
                continue;
            };
            assert!(from <= known, "{from} after {known}");
            in_the_middle += u32::from(from > 0 && from <= BLOCKS);
            known = from;
        }
        let fresh = scene.runtime.block_on(fresh_store(scene.chain.clone()));
        assert_eq!(Contents::of_file(&scene.index_file()), Contents::of(&fresh));
        assert_eq!(scene.known_from(), None);
    }
    eprintln!("{in_the_middle} of {kills} kills left some blocks unknown and others not");
}

/// An index of format 5, the chain it is of, and the node.
struct Scene {
    rng: StdRng,
    runtime: Runtime,
    chain: Arc<SimulatedChain>,
    node: FakeNode,
    home: TempDir,
}

impl Scene {
    fn new(blocks: u32) -> Self {
        let seed = random_seed();
        let chain = Arc::new(SimulatedChain::new(SimulationSettings {
            seed,
            ..SimulationSettings::default()
        }));
        chain.mine(blocks);
        let runtime = Runtime::new().unwrap();
        let scene = Self {
            rng: StdRng::seed_from_u64(seed),
            node: runtime.block_on(FakeNode::start(chain.clone())),
            runtime,
            chain,
            home: tempfile::tempdir().unwrap(),
        };
        let file = scene.index_file();
        let options = options();
        let building = build(&file, scene.chain.clone(), &options, None);
        scene.runtime.block_on(building);
        make_format_5(&file);
        scene
    }

    fn index_file(&self) -> PathBuf {
        self.home.path().join(".spindex/regtest").join(FILE_NAME)
    }

    fn start(&self, name: &str) -> Spindex {
        let mut arguments = vec![
            name.to_owned(),
            "--network=regtest".to_owned(),
            "--source=rest".to_owned(),
            "--poll-ms=5".to_owned(),
            format!("--node-url={}", self.node.url()),
        ];
        if name == "run" {
            arguments.push("--http-bind=127.0.0.1:0".to_owned());
        }
        Spindex::start(command(self.home.path(), &arguments))
    }

    /// From where on spenders are known, by a copy of the file, which contradicts nothing.
    fn known_from(&self) -> Option<u32> {
        let copy = self.home.path().join("copy.redb");
        fs::copy(self.index_file(), &copy).unwrap();
        let store = Store::open(&copy, &options()).unwrap();
        let snapshot = store.snapshot().unwrap();
        snapshot.content_hash().unwrap();
        snapshot.spenders_from()
    }
}

/// A key that only the node's block says to be another: nothing of the index contradicts it.
#[tokio::test(flavor = "multi_thread")]
async fn a_block_that_differs_is_named_found_and_mended() {
    let place = Place::new().await;
    let (status, _, log) = place.command("sync", &place.node.url(), &[]);
    assert_eq!(status, 0, "{log}");
    assert!(!log.contains("who spends what"), "{log}");
    make_format_5(&place.file());
    let whole = fs::read(place.file()).unwrap();
    tamper(&place.file(), |write| {
        let mut foreign = write.open_table(FOREIGN.definition()).unwrap();
        let mut items = foreign.get(0).unwrap().unwrap().value().to_vec();
        let middle = items.len() / 44 / 2 * 44;
        items[middle + 40] ^= 1;
        foreign.insert(0, items.as_slice()).unwrap();
    });
    let (status, report, log) = place.check(&[]);
    assert_eq!(status, 0, "{report} {log}");
    let notes = report["notes"].to_string();
    assert!(notes.contains("below height 151 is not known"), "{notes}");

    let (status, _, log) = place.command("sync", &place.node.url(), &[]);
    assert_eq!(status, 1, "{log}");
    assert!(log.contains("spindex check --repair"), "{log}");
    let (_, rest) = log.split_once("error: ").unwrap();
    let (_, rest) = rest.split_once("the source's block ").unwrap();
    let height: u32 = rest.split(' ').next().unwrap().parse().unwrap();
    let (status, report, log) = place.check_with_node(&["--blocks=1"]);
    assert_eq!(status, 1, "{report} {log}");
    assert!(is_named(&report, "spends", Some(height)), "{report}");
    let notes = report["notes"].to_string();
    let said = format!("below height {} is not known", height + 1);
    assert!(notes.contains(&said), "{notes}");

    let (status, report, log) = place.check_with_node(&["--blocks=1", "--repair"]);
    assert_eq!(status, 0, "{report} {log}");
    assert_eq!(report["repaired"]["from_node"], height, "{report}");
    let (status, _, log) = place.command("sync", &place.node.url(), &[]);
    assert_eq!(status, 0, "{log}");
    let began = format!(
        "filling in who spends what in blocks {} down to 0",
        height - 1
    );
    assert!(log.contains(&began), "{log}");
    assert!(
        log.contains("who spends what is known of all blocks"),
        "{log}"
    );
    assert_eq!(place.content(), place.content);

    // The same without a difference.
    fs::write(place.file(), whole).unwrap();
    let (status, _, log) = place.command("sync", &place.node.url(), &[]);
    assert_eq!(status, 0, "{log}");
    assert!(log.contains("in blocks 150 down to 0"), "{log}");
    assert_eq!(place.content(), place.content);
    let (status, report, log) = place.check_with_node(&["--blocks=1000"]);
    assert_eq!(status, 0, "{report} {log}");
    assert_eq!(report["notes"], serde_json::json!([]));
}
