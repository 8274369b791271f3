//! `spindex sync` and `run` as processes that are killed at any moment, hundreds of times, and started again: the file
//! always holds some committed state, and in the end it equals an index built fresh by a process nobody disturbed.
//!
//! The node is played by a server over a simulated chain, so that a life of a process takes a fraction of a second. When
//! a process is killed is decided by what it has done: requests to the node, lines of its log, changes of its file. So
//! every moment comes, however fast the machine is. What a kill hit is told by the file that it left: a copy of it is
//! opened, so that the next process still finds it as it was left.
//!
//! `SPINDEX_KILLS` says how many kills there are at least, in all tests of this file together.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread::{sleep, yield_now};
use std::time::Duration;

use bitcoin::secp256k1::rand::rngs::StdRng;
use bitcoin::secp256k1::rand::{Rng, SeedableRng};
use spindex::BlockId;
use spindex::chain::made::generated::{ChainLength, ChainParameters, Target, generate};
use spindex::chain::made::simulated::{Orphaned, SimulatedChain, SimulationSettings};
use spindex::curve::libsecp256k1::LibSecp256k1;
use spindex::store::{FILE_NAME, Store};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::support::by_height::ByHeight as _;
use crate::support::fake_node::{FakeNode, Reply};
use crate::support::index::{Contents, fresh_store, options};
use crate::support::random_seed;
use crate::support::spindex::{Spindex, command, run, stderr};

/// Kills where nobody asks for more.
const FEW_KILLS: u32 = 115;

/// So many twenty-thirds of the kills.
pub(crate) fn share_of_kills(share: u32) -> u32 {
    let kills = std::env::var("SPINDEX_KILLS").map_or(FEW_KILLS, |kills| kills.parse().unwrap());
    (kills * share).div_ceil(23)
}

/// What a kill hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Hit {
    /// There was no file yet, or no block in it.
    Nothing,
    /// The index had not reached the tip yet.
    Behind,
    /// The index's tip was no longer on the node's chain.
    OffChain,
    /// The index had all there was.
    AtTip,
}

/// A chain, a node that serves it, and the data directory of the processes that index it.
struct Scene {
    rng: StdRng,
    runtime: Runtime,
    chain: Arc<SimulatedChain>,
    node: FakeNode,
    home: TempDir,
    hits: BTreeMap<Hit, u32>,
}

impl Scene {
    fn new(transactions_per_block: u32, blocks: u32) -> Self {
        let seed = random_seed();
        let chain = Arc::new(SimulatedChain::new(SimulationSettings {
            seed,
            transactions_per_block,
            ..SimulationSettings::default()
        }));
        chain.mine(blocks);
        let runtime = Runtime::new().unwrap();
        Self {
            rng: StdRng::seed_from_u64(seed),
            node: runtime.block_on(FakeNode::start(chain.clone())),
            runtime,
            chain,
            home: tempfile::tempdir().unwrap(),
            hits: BTreeMap::new(),
        }
    }

    fn arguments(&mut self, name: &str) -> Vec<String> {
        // The others check themselves first, which takes longer than all the rest of a short life.
        let engine = if self.rng.gen_ratio(1, 20) {
            "auto"
        } else {
            "libsecp256k1"
        };
        let mut arguments = vec![
            name.to_owned(),
            "--network=regtest".to_owned(),
            "--first-height=0".to_owned(),
            "--source=rest".to_owned(),
            "--batch-mib=1".to_owned(),
            "--poll-ms=5".to_owned(),
            format!("--engine={engine}"),
            format!("--node-url={}", self.node.url()),
        ];
        if name == "run" {
            arguments.push("--http-bind=127.0.0.1:0".to_owned());
        }
        arguments
    }

    fn start(&mut self, name: &str) -> Spindex {
        let arguments = self.arguments(name);
        Spindex::start(command(self.home.path(), &arguments))
    }

    fn index_file(&self) -> PathBuf {
        self.home.path().join(".spindex/regtest").join(FILE_NAME)
    }

    /// The index's tip, read from a copy of its file.
    fn tip(&self) -> Option<BlockId> {
        let file = self.index_file();
        if !file.exists() {
            return None;
        }
        let copy = self.home.path().join("copy.redb");
        std::fs::copy(file, &copy).unwrap();
        let store = Store::open(&copy, &options()).unwrap();
        let snapshot = store.snapshot().unwrap();
        let tip = snapshot.tip()?;
        // The block and its digest are whole, and of some branch of this chain.
        assert!(self.chain.stored_block(tip.hash).is_some(), "{tip}");
        assert!(snapshot.digest(tip.height).unwrap().is_some(), "{tip}");
        Some(tip)
    }

    /// Counts a kill, and gives what it hit and the tip that it left.
    fn count(&mut self) -> (Hit, Option<BlockId>) {
        let tip = self.tip();
        let active = self.chain.active_blocks();
        let hit = match tip {
            None => Hit::Nothing,
            Some(tip) if tip == self.chain.tip_id() => Hit::AtTip,
            Some(tip) => match active.get(tip.height as usize) {
                Some(block) if block.id == tip => Hit::Behind,
                _ => Hit::OffChain,
            },
        };
        *self.hits.entry(hit).or_default() += 1;
        (hit, tip)
    }

    /// Lets a process finish, and holds what is in the file against an index built fresh.
    fn finish(&mut self) {
        let arguments = self.arguments("sync");
        let output = run(self.home.path(), &arguments);
        assert!(output.status.success(), "{}", stderr(&output));
        self.compare(&self.fresh());
    }

    /// What an index of the chain as it is says that nobody disturbs.
    fn fresh(&self) -> Contents {
        let fresh = self.runtime.block_on(fresh_store(self.chain.clone()));
        Contents::of(&fresh)
    }

    fn compare(&self, fresh: &Contents) {
        assert_eq!(fresh.tip, self.chain.tip_id());
        assert_eq!(Contents::of_file(&self.index_file()), *fresh);
    }

    /// Away with the index: the next process starts from nothing.
    fn forget(&self) {
        std::fs::remove_dir_all(self.home.path().join(".spindex")).unwrap();
    }

    /// Waits for so many more requests to the node, doing something at each, and a little longer; not beyond the end of
    /// the process.
    fn wait_for_requests(
        &mut self,
        process: &mut Spindex,
        requests: &Receiver<String>,
        count: usize,
        mut at_each: impl FnMut(&mut Self),
    ) {
        let mut left = count;
        while left > 0 {
            match requests.recv_timeout(LOOK_EVERY) {
                Ok(_) => {
                    left -= 1;
                    at_each(self);
                }
                Err(RecvTimeoutError::Timeout) if !process.is_over() => {}
                Err(_) => return,
            }
        }
        self.pause();
    }

    /// What a process does between two requests takes a few milliseconds; what comes of it is left to chance.
    fn pause(&mut self) {
        if self.rng.gen_ratio(2, 3) {
            sleep(Duration::from_micros(self.rng.gen_range(0..10_000)));
        }
    }

    /// The node answers nobody any more, until it behaves again.
    fn hold(&self) {
        self.node.on("/", Reply::Stall);
    }

    /// Reorganises the chain, or lets it grow. `other_branch` is where it may return to.
    fn move_chain(&mut self, other_branch: &mut BlockId) {
        let tip = self.chain.tip_id();
        let depth = self.rng.gen_range(1..=12);
        match self.rng.gen_range(0..10) {
            0 => drop(self.chain.activate(other_branch.hash).unwrap()),
            1..=3 => {
                let blocks = depth + self.rng.gen_range(0..=2) - 1;
                let orphaned = [Orphaned::Drop, Orphaned::Resubmit][self.rng.gen_range(0..2)];
                self.chain.reorganize(depth, blocks, orphaned).unwrap();
                *other_branch = tip;
            }
            _ => drop(self.chain.mine(self.rng.gen_range(1..=2))),
        }
    }

    fn hits(&self, hit: Hit) -> u32 {
        self.hits.get(&hit).copied().unwrap_or_default()
    }
}

/// Between two looks at whether a process has ended by itself.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Over the start, the creation of the file, and the commits of a sync, until it is at the tip; then once more from
/// nothing. All blocks are there from the start, for one large commit, or they come while the sync goes on, for many.
#[test]
fn a_sync_that_is_killed_at_any_moment_goes_on() {
    const OF_EACH: u32 = 8;
    const FIRST_HEIGHT: usize = 20;
    let least_kills = share_of_kills(8);
    let mut scene = Scene::new(20, 180);
    scene.finish();
    let whole = scene.node.requests().len();
    let fresh = scene.fresh();
    let blocks = scene.chain.active_blocks();

    let mut kills = 0;
    for life in 0.. {
        let (nothing, behind) = (scene.hits(Hit::Nothing), scene.hits(Hit::Behind));
        if kills >= least_kills && nothing >= OF_EACH && behind >= OF_EACH {
            break;
        }
        scene.forget();
        let mut shown = match life % 3 {
            0 => blocks.len(),
            _ => FIRST_HEIGHT,
        };
        scene.chain.activate(blocks[shown - 1].id.hash).unwrap();
        let mut last = None;
        loop {
            let requests = scene.node.watch();
            let is_held = scene.rng.gen_ratio(1, 6);
            if is_held {
                scene.hold();
            }
            let mut sync = scene.start("sync");
            if is_held {
                scene.wait_for_requests(&mut sync, &requests, 1, |_| ());
            } else if shown < blocks.len() && scene.rng.gen_ratio(1, 3) {
                // The last commit for now: when the node has more, the index is behind.
                while sync
                    .next_line()
                    .is_some_and(|line| !line.contains("indexed"))
                {}
                scene.hold();
                shown += 1;
                scene.chain.activate(blocks[shown - 1].id.hash).unwrap();
            } else {
                // More often than by chance at the very start, where the file is made and opened.
                let most = match scene.rng.gen_ratio(1, 4) {
                    true => whole / 8,
                    false => whole,
                };
                let count = scene.rng.gen_range(1..=most);
                scene.wait_for_requests(&mut sync, &requests, count, |scene| {
                    if scene.rng.gen_ratio(1, 4) && shown < blocks.len() {
                        shown += 1;
                        scene.chain.activate(blocks[shown - 1].id.hash).unwrap();
                    }
                });
            }
            let ended = sync.kill_or_end();
            scene.node.behave();
            match ended {
                None => {
                    kills += 1;
                    let (_, tip) = scene.count();
                    let tip = tip.map(|tip| tip.height);
                    // What was committed stays, and without a node nothing comes.
                    assert!(tip >= last, "{tip:?} after {last:?}");
                    assert!(!is_held || tip == last, "{tip:?} after {last:?}");
                    last = tip;
                }
                Some(lines) => {
                    assert!(!is_held, "{lines:#?}");
                    assert!(lines.iter().any(|line| line.contains("in sync")));
                    let tip = scene.tip();
                    if shown == blocks.len() && tip == Some(fresh.tip) {
                        break;
                    }
                    last = tip.map(|tip| tip.height);
                }
            }
        }
        scene.compare(&fresh);
    }
    eprintln!("{kills} kills: {:?}", scene.hits);
}

/// Over the start, block by block at the tip, and reorgs.
#[test]
fn a_run_that_is_killed_at_any_moment_goes_on() {
    let least_kills = share_of_kills(11);
    let mut scene = Scene::new(8, 120);
    let mut first = scene.start("run");
    first.wait_for_height(120);
    first.kill();
    let mut other_branch = scene.chain.tip_id();
    for kill in 0..least_kills {
        let requests = scene.node.watch();
        if kill % 3 > 0 {
            // It asks for little more than for what is new, and then again and again for the tip.
            let count = scene.rng.gen_range(1..=60);
            let mut running = scene.start("run");
            scene.wait_for_requests(&mut running, &requests, count, |scene| {
                if scene.rng.gen_ratio(1, 8) {
                    scene.move_chain(&mut other_branch);
                }
            });
            assert_eq!(running.kill_or_end(), None, "it ends by itself");
            scene.count();
            continue;
        }
        // After the commit of a block that no index has yet.
        let tip = scene.chain.mine(1)[0];
        let mut running = scene.start("run");
        running.wait_for_height(tip.height);
        scene.hold();
        let expected = match kill / 3 % 3 {
            0 => Hit::AtTip,
            1 => {
                scene.chain.mine(1);
                Hit::Behind
            }
            _ => {
                let depth = scene.rng.gen_range(1..=12);
                other_branch = tip;
                scene
                    .chain
                    .reorganize(depth, depth + 1, Orphaned::Resubmit)
                    .unwrap();
                Hit::OffChain
            }
        };
        scene.pause();
        assert_eq!(running.kill_or_end(), None, "it ends by itself");
        scene.node.behave();
        assert_eq!(scene.count(), (expected, Some(tip)));
    }
    scene.chain.mine(1);
    scene.finish();
    eprintln!("{least_kills} kills: {:?}", scene.hits);
}

/// From block files, whose undo data say which height created what is spent: locators are left for the end of the sync,
/// and may be when the next one starts.
#[test]
fn a_long_sync_that_is_killed_at_any_moment_goes_on() {
    const UNLOCATED: u32 = 5;
    let least_kills = share_of_kills(3);
    let seed = random_seed();
    let mut rng = StdRng::seed_from_u64(seed);
    let home = tempfile::tempdir().unwrap();
    let target = Target {
        directory: home.path().join("blocks"),
        xor: true,
        most_file_bytes: Some(4 << 20),
    };
    let parameters = ChainParameters {
        seed,
        transactions_per_block: 300,
        eligible: 0.9,
        ..ChainParameters::MAINNET
    };
    let length = ChainLength {
        blocks: Some(200),
        outputs: None,
    };
    generate(&parameters, length, &target, &LibSecp256k1, |_| ()).unwrap();
    let arguments = |long_sync_blocks: u32| {
        [
            "sync".to_owned(),
            "--network=regtest".to_owned(),
            "--first-height=0".to_owned(),
            "--source=files".to_owned(),
            format!("--blocks-dir={}", home.path().join("blocks").display()),
            "--batch-mib=1".to_owned(),
            "--engine=libsecp256k1".to_owned(),
            format!("--long-sync-blocks={long_sync_blocks}"),
        ]
    };
    let index = home.path().join(".spindex/regtest");
    let forget = || std::fs::remove_dir_all(&index).unwrap();
    let output = run(home.path(), &arguments(u32::MAX));
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(!stderr(&output).contains("locating"), "{}", stderr(&output));
    let expected = Contents::of_file(&index.join(FILE_NAME));
    // The lines of a long sync are as many, and some for locating.
    let whole = stderr(&output).lines().count() + 2;

    let (mut kills, mut unlocated) = (0, 0);
    while kills < least_kills || unlocated < UNLOCATED {
        forget();
        loop {
            let arguments = arguments(1);
            let mut sync = Spindex::start(command(home.path(), &arguments));
            let mut lines = rng.gen_range(1..=whole);
            while lines > 0 && sync.next_line().is_some() {
                lines -= 1;
            }
            sleep(Duration::from_micros(rng.gen_range(0..10_000)));
            match sync.kill_or_end() {
                Some(lines) => {
                    assert!(lines.iter().any(|line| line.contains("in sync")));
                    break;
                }
                None => kills += 1,
            }
            if index.join(FILE_NAME).exists() {
                let copy = home.path().join("copy.redb");
                std::fs::copy(index.join(FILE_NAME), &copy).unwrap();
                let store = Store::open(&copy, &options()).unwrap();
                let snapshot = store.snapshot().unwrap();
                snapshot.content_hash().unwrap();
                unlocated += u32::from(snapshot.locating().is_some());
            }
        }
        assert_eq!(Contents::of_file(&index.join(FILE_NAME)), expected);
    }
    eprintln!("{unlocated} of {kills} kills left locators to be written");
}

/// At the end of a long sync, where the file is compacted.
#[test]
fn a_compaction_that_is_killed_at_any_moment_changes_nothing() {
    const BLOCKS: u32 = 1_005;
    let least_kills = share_of_kills(1);
    let mut scene = Scene::new(1, BLOCKS);
    let fresh = scene.fresh();
    // How often the file is seen to change while it is compacted; the first life is for finding that out.
    let mut changes = None;
    let mut kills = 0;
    while kills < least_kills {
        let mut sync = scene.start("sync");
        sync.wait_for_height(BLOCKS);
        let most = changes.map_or(u32::MAX, |changes| scene.rng.gen_range(0..=changes));
        let seen = wait_for_changes(&mut sync, &scene.index_file(), most);
        changes.get_or_insert(seen);
        match sync.kill_or_end() {
            None => {
                kills += 1;
                assert_eq!(scene.count().0, Hit::AtTip);
            }
            Some(lines) => {
                let compacted = |line: &String| line.contains("compacted the index");
                assert!(lines.iter().any(compacted), "{lines:#?}");
            }
        }
        scene.compare(&fresh);
        scene.forget();
    }
    eprintln!("{changes:?} changes of the file are seen in a compaction");
}

/// Waits until a file has changed so many times, or its process has ended; how often it was seen to change.
fn wait_for_changes(process: &mut Spindex, file: &Path, most: u32) -> u32 {
    let look = || {
        let metadata = std::fs::metadata(file).unwrap();
        (metadata.len(), metadata.modified().unwrap())
    };
    let mut before = look();
    let mut changes = 0;
    while changes < most && !process.is_over() {
        let now = look();
        if now == before {
            yield_now();
        } else {
            before = now;
            changes += 1;
        }
    }
    changes
}
