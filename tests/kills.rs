//! `spindex sync` and `run` as processes that are killed at any moment, hundreds of times, and started again: the file
//! always holds some committed state, and in the end it equals an index built fresh by a process nobody disturbed.
//!
//! The node is played by a server over a simulated chain, so that a life of a process takes a fraction of a second. What
//! a kill hit is told by the file that it left: a copy of it is opened, so that the next process still finds it as it
//! was left.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot be set up has failed"
)]

mod support;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use bitcoin::secp256k1::rand::rngs::StdRng;
use bitcoin::secp256k1::rand::{Rng, SeedableRng};
use spindex::BlockId;
use spindex::chain::generated::{ChainLength, ChainParameters, Target, generate};
use spindex::chain::simulated::{Orphaned, SimulatedChain, SimulationSettings};
use spindex::curve::libsecp256k1::LibSecp256k1;
use spindex::store::{FILE_NAME, Store};
use support::fake_node::FakeNode;
use support::index::{Contents, fresh_store, options};
use support::random_seed;
use support::spindex::{Spindex, command, run, stderr};
use tempfile::TempDir;
use tokio::runtime::Runtime;

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

    /// Counts a kill and gives the tip that it left.
    fn count(&mut self) -> Option<BlockId> {
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
        tip
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

    /// A moment, in time from now.
    fn moment(&mut self, within: Duration) -> Duration {
        within.mul_f64(self.rng.gen_range(0.0..1.0))
    }

    /// The same of a life; more often than by chance at the very start, where the file is made and opened.
    fn moment_of(&mut self, life: Duration) -> Duration {
        let within = match self.rng.gen_ratio(1, 4) {
            true => life / 8,
            false => life,
        };
        self.moment(within)
    }

    #[track_caller]
    fn assert_hits(&self, kills: u32, least: &[(Hit, u32)]) {
        eprintln!("{kills} kills: {:?}", self.hits);
        assert_eq!(self.hits.values().sum::<u32>(), kills);
        for (hit, least) in least {
            let hits = self.hits.get(hit).copied().unwrap_or_default();
            assert!(hits >= *least, "{hit:?} only {hits} times: {:?}", self.hits);
        }
    }
}

/// Over the start, the creation of the file, and the commits of a sync, until it is at the tip; then once more from
/// nothing. All blocks are there from the start, for one large commit, or they come while the sync goes on, for many.
#[test]
fn a_sync_that_is_killed_at_any_moment_goes_on() {
    const KILLS: u32 = 80;
    const FIRST_HEIGHT: usize = 20;
    let mut scene = Scene::new(20, 180);
    let started = Instant::now();
    scene.finish();
    let whole = started.elapsed();
    let fresh = scene.fresh();
    let blocks = scene.chain.active_blocks();

    let mut kills = 0;
    for life in 0.. {
        if kills >= KILLS {
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
            let moment = Instant::now() + scene.moment_of(whole);
            let sync = scene.start("sync");
            while Instant::now() < moment {
                shown = (shown + scene.rng.gen_range(1..4)).min(blocks.len());
                scene.chain.activate(blocks[shown - 1].id.hash).unwrap();
                let pause = scene.moment(Duration::from_millis(20));
                sleep(pause.min(moment.saturating_duration_since(Instant::now())));
            }
            match sync.kill_or_end() {
                None => {
                    kills += 1;
                    let tip = scene.count().map(|tip| tip.height);
                    // What was committed stays.
                    assert!(tip >= last, "{tip:?} after {last:?}");
                    last = tip;
                }
                Some(lines) => {
                    assert!(lines.iter().any(|line| line.contains("in sync")));
                    if shown == blocks.len() && scene.tip() == Some(fresh.tip) {
                        break;
                    }
                }
            }
        }
        scene.compare(&fresh);
    }
    scene.assert_hits(kills, &[(Hit::Nothing, 8), (Hit::Behind, 8)]);
}

/// Over the start, block by block at the tip, and reorgs.
#[test]
fn a_run_that_is_killed_at_any_moment_goes_on() {
    const KILLS: u32 = 110;
    let mut scene = Scene::new(8, 120);
    let started = Instant::now();
    let mut first = scene.start("run");
    first.wait_for_height(120);
    first.kill();
    let life = 3 * started.elapsed();
    let mut other_branch = scene.chain.tip_id();
    let mut last = None;
    let mut kills_after_commits = 0;
    for _ in 0..KILLS {
        let moment = Instant::now() + scene.moment_of(life);
        let running = scene.start("run");
        while Instant::now() < moment {
            let tip = scene.chain.tip_id();
            let depth = scene.rng.gen_range(1..=12);
            match scene.rng.gen_range(0..10) {
                0 => drop(scene.chain.activate(other_branch.hash).unwrap()),
                1..=3 => {
                    let blocks = depth + scene.rng.gen_range(0..=2) - 1;
                    let orphaned = [Orphaned::Drop, Orphaned::Resubmit][scene.rng.gen_range(0..2)];
                    scene.chain.reorganize(depth, blocks, orphaned).unwrap();
                    other_branch = tip;
                }
                _ => drop(scene.chain.mine(scene.rng.gen_range(1..=2))),
            }
            let pause = scene.moment(Duration::from_millis(80));
            sleep(pause.min(moment.saturating_duration_since(Instant::now())));
        }
        let lines = running.kill_or_end();
        assert_eq!(lines, None, "it ends by itself");
        let tip = scene.count();
        kills_after_commits += u32::from(tip != last);
        last = tip;
    }
    scene.chain.mine(1);
    scene.finish();
    eprintln!("{kills_after_commits} of {KILLS} kills came after a commit");
    assert!((10..KILLS - 10).contains(&kills_after_commits));
    scene.assert_hits(
        KILLS,
        &[(Hit::Behind, 3), (Hit::OffChain, 5), (Hit::AtTip, 5)],
    );
}

/// From block files, whose undo data say which height created what is spent: locators are left for the end of the sync,
/// and may be when the next one starts.
#[test]
fn a_long_sync_that_is_killed_at_any_moment_goes_on() {
    const KILLS: u32 = 30;
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
    let started = Instant::now();
    let output = run(home.path(), &arguments(u32::MAX));
    let whole = started.elapsed();
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(!stderr(&output).contains("locating"), "{}", stderr(&output));
    let expected = Contents::of_file(&index.join(FILE_NAME));

    let (mut kills, mut unlocated) = (0, 0);
    while kills < KILLS {
        forget();
        loop {
            let arguments = arguments(1);
            let sync = Spindex::start(command(home.path(), &arguments));
            sleep(whole.mul_f64(rng.gen_range(0.0..1.0)));
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
    assert!((5..=kills).contains(&unlocated), "{unlocated} of {kills}");
}

/// At the end of a long sync, where the file is compacted.
#[test]
fn a_compaction_that_is_killed_at_any_moment_changes_nothing() {
    const KILLS: u32 = 10;
    const BLOCKS: u32 = 1_005;
    let mut scene = Scene::new(1, BLOCKS);
    let fresh = scene.fresh();
    let mut longest = Duration::ZERO;
    let mut kills = 0;
    while kills < KILLS {
        let mut sync = scene.start("sync");
        sync.wait_for_height(BLOCKS);
        let synced = Instant::now();
        // The first one is for finding out how long it takes.
        if longest.is_zero() {
            sync.wait_for(&["compacted the index"]);
            longest = synced.elapsed();
        } else {
            sleep(scene.moment(longest));
        }
        if sync.kill_or_end().is_none() {
            kills += 1;
            scene.count();
        }
        scene.compare(&fresh);
        scene.forget();
    }
    eprintln!("a compaction takes {longest:?}");
    scene.assert_hits(KILLS, &[(Hit::AtTip, KILLS)]);
}
