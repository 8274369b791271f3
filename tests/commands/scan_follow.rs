//! `spindex scan --follow` where the server tells of new blocks, or says that it does.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use serde_json::Value;
use spindex::chain::made::simulated::{Orphaned, SimulatedChain};
use spindex::store::Store;
use spindex::wire::native::{Event, Told};
use tempfile::TempDir;

use crate::scan::scan_command;
use crate::support::index::fill;
use crate::support::served::{chain, index, serve};
use crate::support::teller::{Teller, Telling};

/// How long a line may take to come; only reached by a test that fails.
const PATIENCE: Duration = Duration::from_secs(120);

/// Nothing but word of the server explains what is found with it.
const HOUR: &str = "--follow-interval=3600";

/// A chain, an index that follows it when it is told to, and who stands in front of its events.
struct Scene {
    chain: Arc<SimulatedChain>,
    store: Arc<Store>,
}

impl Scene {
    async fn new(seed: u64) -> Self {
        let chain = chain(seed, 120);
        let store = index(&chain, 0).await;
        Self { chain, store }
    }

    async fn url(&self, teller: &Teller) -> String {
        let around = |router| teller.around(router);
        let address = serve(&self.chain, self.store.clone(), around).await;
        format!("http://{address}")
    }

    async fn mine(&self, blocks: u32) -> u32 {
        self.chain.mine(blocks);
        self.catch_up().await
    }

    async fn catch_up(&self) -> u32 {
        fill(self.store.clone(), self.chain.clone()).await;
        self.chain.tip_id().height
    }

    /// The wallet's outputs, by the chain's own books.
    fn paid(&self) -> BTreeMap<String, String> {
        let paid = self.chain.paid_outputs().into_iter();
        paid.filter_map(|paid| Some((paid.outpoint.to_string(), paid.block?.hash.to_string())))
            .collect()
    }
}

/// A scan that follows.
struct Following {
    child: Child,
    events: Receiver<Value>,
    log: Receiver<String>,
    _home: TempDir,
    /// What it has, of all that it told, with the hash of its block.
    found: BTreeMap<String, String>,
}

impl Following {
    fn start(url: &str, more: &[&str]) -> Self {
        let home = tempfile::tempdir().unwrap();
        let all = ["--follow", "--json", "--from=0", "--labels=1"];
        let mut command = scan_command(home.path(), url, true, &[&all[..], more].concat());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (sender, events) = channel();
        std::thread::spawn(move || {
            let mut lines = lines.map_while(Result::ok);
            lines.try_for_each(|line| sender.send(serde_json::from_str(&line).unwrap()))
        });
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let (sender, log) = channel();
        std::thread::spawn(move || {
            let mut lines = lines.map_while(Result::ok);
            lines.try_for_each(|line| sender.send(line))
        });
        Self {
            child,
            events,
            log,
            _home: home,
            found: BTreeMap::new(),
        }
    }

    /// Takes what is told until everything up to a height has been scanned. Nothing may be told twice.
    fn take_up_to(&mut self, height: u32) {
        loop {
            let event = self.events.recv_timeout(PATIENCE);
            let event = event.unwrap_or_else(|_| panic!("nothing; {:#?}", self.said()));
            let outpoint = || event["outpoint"].as_str().unwrap().to_owned();
            match event["event"].as_str().unwrap() {
                "found" => {
                    let block = event["block_hash"].as_str().unwrap().to_owned();
                    let before = self.found.insert(outpoint(), block.clone());
                    assert_ne!(before, Some(block), "{event}");
                }
                "gone" => assert!(self.found.remove(&outpoint()).is_some(), "{event}"),
                "scanned" if event["to"] == height => return,
                _ => {}
            }
        }
    }

    fn said(&self) -> Vec<String> {
        self.log.try_iter().collect()
    }

    /// Waits for a line of the log.
    fn wait_for(&self, text: &str) {
        loop {
            let line = self.log.recv_timeout(PATIENCE);
            if line.unwrap_or_else(|_| panic!("no {text}")).contains(text) {
                return;
            }
        }
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn off_worker<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

async fn taken(mut following: Following, height: u32) -> Following {
    off_worker(move || {
        following.take_up_to(height);
        following
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_block_is_scanned_when_the_server_tells_of_it() {
    let scene = Scene::new(31).await;
    let teller = Teller::new([Telling::Busy(1), Telling::Own]);
    let url = scene.url(&teller).await;
    let following = Following::start(&url, &[HOUR]);
    let following = taken(following, 120).await;
    assert_eq!(following.found, scene.paid());
    // The first word is the tip as it is, whatever happened since the scan.
    let height = scene.mine(8).await;
    let following = taken(following, height).await;
    assert_eq!(following.found, scene.paid());
    let following = off_worker(move || {
        following.wait_for("events: listening to");
        following
    })
    .await;
    let height = scene.mine(8).await;
    let mut following = taken(following, height).await;
    assert_eq!(following.found, scene.paid());

    // Through reorganisations, and streams that are cut off meanwhile.
    for depth in [1, 5] {
        let asked = teller.asked(2).await.len();
        scene
            .chain
            .reorganize(depth, depth + 3, Orphaned::Drop)
            .unwrap();
        teller.cut();
        let height = scene.catch_up().await;
        following = taken(following, height).await;
        assert_eq!(following.found, scene.paid(), "{depth}");
        teller.asked(asked + 1).await;
    }
}

/// Made-up tips and reorganisations, of the server's own blocks and of others.
fn lies(chain: &SimulatedChain) -> Vec<u8> {
    let own: Vec<_> = chain.active_blocks().iter().map(|block| block.id).collect();
    let mut other = own[90];
    other.height = 5_000_000;
    let events = [
        Event::Tip {
            block: other,
            skipped: u32::MAX,
        },
        Event::Reorg {
            fork: Some(own[2]),
            disconnected: own[3..100].iter().rev().copied().collect(),
            connected: vec![other; 3],
        },
        Event::Reset {
            cursor: own[5],
            tip: own[6],
        },
        Event::Lagged { missed: u64::MAX },
    ];
    let told = events.into_iter().map(|event| Told {
        cursor: event.cursor().unwrap_or(other),
        event,
    });
    let told = told.map(|told| told.encode().unwrap());
    told.collect::<String>().into_bytes()
}

/// Whatever a stream says or does not: blocks are found by looking at each interval, and nothing is found twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_lies_or_is_none_loses_nothing() {
    let scene = Scene::new(32).await;
    let lies = lies(&scene.chain);
    let mut all = Vec::new();
    for (telling, said) in [
        (Telling::Absent, "events: none from"),
        (Telling::Busy(3600), "events: none from"),
        (Telling::Page, "text/html"),
        (Telling::Withheld, ""),
        (Telling::Held(Vec::new()), ""),
        (Telling::Held(lies.clone()), "events: listening to"),
        (Telling::Endless(lies), "events: listening to"),
        (Telling::Cut(vec![0xff; 5000]), "events: listening to"),
        (Telling::Endless(vec![b'a'; 5000]), "an event of more than"),
    ] {
        let teller = Teller::new([telling]);
        let url = scene.url(&teller).await;
        let following = Following::start(&url, &["--follow-interval=1"]);
        all.push((following, said, teller));
    }
    let (mut height, mut next) = (120, Vec::new());
    for round in 0..3 {
        for (following, said, teller) in all {
            let following = taken(following, height).await;
            assert_eq!(following.found, scene.paid(), "{said}");
            next.push((following, said, teller));
        }
        all = std::mem::take(&mut next);
        if round == 1 {
            scene.chain.reorganize(4, 6, Orphaned::Resubmit).unwrap();
        }
        height = scene.mine(6).await;
    }
    for (following, said, teller) in all {
        teller.asked(1).await;
        if !said.is_empty() {
            off_worker(move || following.wait_for(said)).await;
        }
    }
}
