//! A node that answers one random request in twenty wrongly, slowly or not at all, and between its answers restarts, goes
//! back, is reorganised, or becomes another node: whatever comes in whatever order, `sync` and `run` end with the index
//! that is built fresh from the right chain, or with an error that names the cause.
//!
//! `SPINDEX_RANDOM_NODE_RUNS` says how many runs there are; the outcomes are counted and printed. Time is paused.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bitcoin::secp256k1::rand::rngs::StdRng;
use bitcoin::secp256k1::rand::seq::SliceRandom;
use bitcoin::secp256k1::rand::{Rng, SeedableRng};
use spindex::BlockId;
use spindex::chain::made::simulated::{Orphaned, SimulatedChain};
use spindex::chain::{ChainError, Node};
use spindex::index::{IndexError, IndexSettings, Indexer};
use spindex::runtime::Stop;
use spindex::store::{Store, StoreOptions};
use tokio::sync::mpsc;

use super::scene::{follow_from_the_start, reporting_indexer, small_chain};
use crate::support::by_height::ByHeight as _;
use crate::support::fake_node::{FakeNode, Reply};
use crate::support::index::{content, fresh_store_from, options};
use crate::support::log::Log;
use crate::support::node_source::{Kind, rest, step_time};
use crate::support::random_seed;

/// Runs where nobody asks for more.
const FEW_RUNS: u32 = 6;

/// One request in so many is answered by a fault.
const ONE_IN: u32 = 20;

/// Longest time, paused, that a node which behaves again may need until the index has its tip.
const RECOVERY: Duration = Duration::from_secs(3 * 3600);

fn faults() -> Vec<(&'static str, Reply)> {
    let status = |status, body: &str| Reply::Full(status, body.as_bytes().to_vec());
    vec![
        ("400", status(400, "Invalid hash")),
        ("401", status(401, "")),
        ("403", status(403, "")),
        ("404", status(404, "")),
        ("404 with a reason", status(404, "not found\r\n")),
        ("408", status(408, "")),
        ("429", status(429, "slow down")),
        ("500", status(500, "<html>oops")),
        ("502", status(502, "Bad Gateway")),
        ("503 queue", status(503, "Work queue depth exceeded")),
        (
            "503 start",
            status(503, "Service temporarily unavailable: Loading"),
        ),
        ("302", status(302, "")),
        ("empty", status(200, "")),
        ("a web site", status(200, "<html>hello</html>")),
        (
            "another answer",
            status(200, r#"{"result":null,"error":null,"id":0}"#),
        ),
        (
            "warming up",
            status(
                200,
                r#"{"result":null,"error":{"code":-28,"message":"Loading"},"id":0}"#,
            ),
        ),
        (
            "refused",
            status(
                200,
                r#"{"result":null,"error":{"code":-1,"message":"no"},"id":0}"#,
            ),
        ),
        ("hangup", Reply::Hangup),
        ("reset", Reply::Reset),
        ("stall", Reply::Stall),
        ("late", Reply::Late(Duration::from_secs(20))),
        ("too late", Reply::Late(Duration::from_secs(40))),
        ("drip", Reply::Drip(Duration::from_secs(2))),
        ("cut at once", Reply::Truncated(0)),
        ("cut", Reply::Truncated(60)),
        ("longer", Reply::Longer(vec![b'7'; 3])),
        ("announced", Reply::Announced(1 << 40)),
        (
            "flipped at the start",
            Reply::Changed(|body| flipped(body, 3)),
        ),
        (
            "flipped in the middle",
            Reply::Changed(|body| {
                let at = body.len() / 2;
                flipped(body, at)
            }),
        ),
        (
            "flipped at the end",
            Reply::Changed(|body| {
                let at = body.len().saturating_sub(4);
                flipped(body, at)
            }),
        ),
        (
            "another network",
            Reply::Changed(|body| replaced(body, r#""regtest""#, r#""signet""#)),
        ),
        (
            "a higher tip",
            Reply::Changed(|body| replaced(body, r#""blocks":"#, r#""blocks":1"#)),
        ),
        (
            "a lower tip",
            Reply::Changed(|body| replaced(body, r#""blocks":1"#, r#""blocks":"#)),
        ),
        (
            "another hash",
            Reply::Changed(|body| replaced(body, r#""bestblockhash":"0"#, r#""bestblockhash":"1"#)),
        ),
    ]
}

/// No hash covers what a block spends: an amount or a script of it is the node's word, and a flipped bit that leaves it
/// readable is nothing that anybody could see.
fn is_taken_on_trust(fault: &str, path: &str) -> bool {
    fault.starts_with("flipped")
        && ["/rest/spenttxouts/", "/rpc/getblock/"]
            .iter()
            .any(|part| path.starts_with(part))
}

fn flipped(mut body: Vec<u8>, at: usize) -> Vec<u8> {
    if let Some(byte) = body.get_mut(at) {
        *byte ^= 1;
    }
    body
}

fn replaced(body: Vec<u8>, from: &str, to: &str) -> Vec<u8> {
    match String::from_utf8(body) {
        Ok(text) => text.replacen(from, to, 1).into_bytes(),
        Err(bytes) => bytes.into_bytes(),
    }
}

/// What happens to a node between two answers.
#[derive(Debug, Clone, Copy)]
enum Event {
    Mines,
    IsReorganized,
    CallsBlocksInvalid,
    GoesBack,
    Restarts,
    IsAnotherOfTheNetwork,
    IsBehind,
}

const EVENTS: [Event; 7] = [
    Event::Mines,
    Event::IsReorganized,
    Event::CallsBlocksInvalid,
    Event::GoesBack,
    Event::Restarts,
    Event::IsAnotherOfTheNetwork,
    Event::IsBehind,
];

/// One run: a node, the chain that it should have, and an index of it.
struct World {
    seed: u64,
    rng: StdRng,
    chain: Arc<SimulatedChain>,
    node: FakeNode,
    source: Arc<dyn Node>,
    store: Arc<Store>,
    settings: IndexSettings,
    counts: Counts,
}

type Counts = BTreeMap<String, u32>;

impl World {
    async fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let blocks = rng.gen_range(20..130);
        let chain = small_chain(seed, blocks);
        let node = FakeNode::start(chain.clone()).await;
        let url = node.url();
        let (name, source) = match rng.gen_range(0..3) {
            0 => ("rest", Kind::Rest.source(&url)),
            1 => ("rest with rpc", rest(&url, Some(&url))),
            _ => ("rpc", Kind::Rpc.source(&url)),
        };
        let options = StoreOptions {
            first_height: Some(rng.gen_range(0..2)),
            undo_depth: *[30, 288].choose(&mut rng).unwrap(),
            ..options()
        };
        let backend = redb::backends::InMemoryBackend::new();
        let store = Arc::new(Store::open_with_backend(backend, &options).unwrap());
        let settings = IndexSettings {
            in_flight: rng.gen_range(1..9),
            batch_bytes: *[2_000, 20_000, 96 << 20].choose(&mut rng).unwrap(),
            long_sync_blocks: *[10, 2_000].choose(&mut rng).unwrap(),
            ..IndexSettings::default()
        };
        Self {
            seed,
            rng,
            chain,
            node,
            source,
            store,
            settings,
            counts: Counts::from([(format!("by {name}"), 1)]),
        }
    }

    fn count(&mut self, what: impl Into<String>) {
        *self.counts.entry(what.into()).or_default() += 1;
    }

    fn misbehave(&mut self) {
        let seed = self.rng.gen_range(0..u64::MAX);
        self.node
            .leave_to_chance(seed, ONE_IN, faults(), is_taken_on_trust);
    }

    fn indexer(
        &self,
        give_up_after: Option<Duration>,
        stop: &Stop,
    ) -> (Indexer, mpsc::UnboundedReceiver<Option<BlockId>>) {
        let settings = IndexSettings {
            give_up_after,
            ..self.settings.clone()
        };
        reporting_indexer(&self.store, self.source.clone(), settings, stop)
    }

    /// Something happens to the node, and is over or has come to stay some time later.
    async fn happen(&mut self) {
        let event = *EVENTS.choose(&mut self.rng).unwrap();
        self.count(format!("node {event:?}"));
        let height = self.chain.tip_id().height;
        let pause = Duration::from_secs(self.rng.gen_range(1..200));
        let depth = self.rng.gen_range(1..12).min(height - 1);
        match event {
            Event::Mines => drop(self.chain.mine(self.rng.gen_range(1..4))),
            Event::IsReorganized => {
                let blocks = self.rng.gen_range(1..depth + 3);
                self.chain
                    .reorganize(depth, blocks, Orphaned::Drop)
                    .unwrap();
            }
            Event::CallsBlocksInvalid => {
                self.chain.disconnect(depth, Orphaned::Drop).unwrap();
                tokio::time::sleep(pause).await;
                self.chain.mine(1);
            }
            Event::GoesBack => {
                let tip = self.chain.tip_id();
                self.chain.go_back(depth).unwrap();
                tokio::time::sleep(pause).await;
                self.chain.activate(tip.hash).unwrap();
            }
            Event::Restarts => {
                self.node.on("/", Reply::Reset);
                tokio::time::sleep(pause).await;
                self.node.behave();
                self.misbehave();
            }
            Event::IsAnotherOfTheNetwork | Event::IsBehind => {
                let other = match event {
                    Event::IsBehind => small_chain(self.seed, self.rng.gen_range(1..20)),
                    _ => small_chain(self.seed ^ 1, self.rng.gen_range(1..150)),
                };
                self.node.serve(&other);
                tokio::time::sleep(pause).await;
                self.node.serve(&self.chain.clone());
            }
        }
        tokio::time::sleep(Duration::from_secs(self.rng.gen_range(0..30))).await;
    }

    /// What an error says must lead to its cause.
    fn note_error(&mut self, error: &IndexError, during: &str) {
        let text = error.to_string();
        let kind = match error {
            IndexError::Chain(ChainError::Unreachable(_)) => "unreachable",
            IndexError::Chain(ChainError::NotAvailable(_)) => "not available",
            IndexError::Chain(ChainError::Mismatch(_)) => "mismatch",
            IndexError::Chain(ChainError::Setup(_)) => "setup",
            IndexError::Chain(ChainError::Conflict(_)) => "conflict",
            IndexError::ReorgTooDeep { .. } => "reorg too deep",
            IndexError::OtherChain { .. } => "other chain",
            _ => panic!("seed {}: {error:?}", self.seed),
        };
        let names_it = text.contains(&self.node.url()) || text.contains("the node");
        assert!(
            names_it && !text.contains('\n'),
            "seed {}: {text}",
            self.seed
        );
        self.count(format!("{during}: {kind}"));
    }

    /// Every block of the index is one of the right node's, of whatever branch.
    fn assert_of_the_chain(&self) {
        let snapshot = self.store.snapshot().unwrap();
        let Some(tip) = snapshot.tip() else {
            return;
        };
        for height in snapshot.first_height()..=tip.height {
            let id = snapshot.block(height).unwrap().unwrap().id();
            assert!(
                self.chain.stored_block(id.hash).is_some(),
                "seed {}: {id}",
                self.seed
            );
        }
    }

    async fn assert_fresh(&self) {
        let snapshot = self.store.snapshot().unwrap();
        assert_eq!(
            snapshot.tip(),
            Some(self.chain.tip_id()),
            "seed {}",
            self.seed
        );
        let fresh = fresh_store_from(self.chain.clone(), snapshot.first_height()).await;
        let wrong = (snapshot.first_height()..=self.chain.tip_id().height).find_map(|height| {
            let [ours, theirs] = [&self.store, &fresh].map(|store| {
                let snapshot = store.snapshot().unwrap();
                let all = spindex::store::RowFilter {
                    dust_limit_sat: 0,
                    cut_through: false,
                };
                (
                    snapshot.tweak_list(height, all).unwrap(),
                    snapshot.spends(height).unwrap(),
                    snapshot.new_utxos_filter(height).unwrap(),
                )
            });
            (ours != theirs).then(|| format!("height {height}: {ours:?} {theirs:?}"))
        });
        assert_eq!(wrong, None, "seed {}", self.seed);
        assert_eq!(content(&self.store), content(&fresh), "seed {}", self.seed);
    }

    /// The first commit, on which all else stands: what a node of the right network says then is taken for the chain.
    async fn start(&mut self) {
        let (indexer, _) = self.indexer(Some(Duration::from_secs(60)), &Stop::new());
        let until = self.rng.gen_range(1..self.chain.tip_id().height);
        self.misbehave();
        loop {
            let synced = async {
                indexer.check_source().await?;
                indexer.sync(Some(until)).await
            };
            match synced.await {
                Ok(_) => break,
                Err(error) => self.note_error(&error, "first sync"),
            }
            self.assert_of_the_chain();
        }
        self.count("first sync: done");
    }

    /// `sync` now and then, as a timer would start it.
    async fn syncs(&mut self) {
        for _ in 0..self.rng.gen_range(2..6) {
            let limit = Duration::from_secs(self.rng.gen_range(0..120));
            let (indexer, _) = self.indexer(Some(limit), &Stop::new());
            let sync = tokio::spawn(async move {
                indexer.check_source().await?;
                indexer.sync(None).await
            });
            self.happen().await;
            match sync.await.unwrap() {
                Ok(_) => self.count("sync: done"),
                Err(error) => self.note_error(&error, "sync"),
            }
            self.assert_of_the_chain();
        }
        self.node.behave();
        let (indexer, _) = self.indexer(Some(Duration::from_secs(600)), &Stop::new());
        indexer
            .sync(None)
            .await
            .unwrap_or_else(|error| panic!("seed {}: {error}", self.seed));
    }

    /// `run` all the time, started again where it ends.
    async fn runs(&mut self) {
        let stop = Stop::new();
        let mut events = self.rng.gen_range(2..8);
        loop {
            let (indexer, mut tips) = self.indexer(None, &stop);
            let mut run = tokio::spawn(follow_from_the_start(indexer));
            while events > 0 && !run.is_finished() {
                events -= 1;
                self.happen().await;
                self.assert_of_the_chain();
            }
            if run.is_finished() {
                let error = run.await.unwrap().unwrap_err();
                self.note_error(&error, "run");
                continue;
            }
            self.node.behave();
            let tip = Some(self.chain.tip_id());
            let reached = async {
                while self.store.snapshot().unwrap().tip() != tip {
                    tips.recv().await;
                }
            };
            tokio::select! {
                reached = tokio::time::timeout(RECOVERY, reached) => {
                    assert!(reached.is_ok(), "seed {}: no way back to {tip:?}", self.seed);
                }
                // Before it had served once, what it said then was taken for a matter of the settings.
                ended = &mut run => {
                    let error = ended.unwrap().unwrap_err();
                    self.note_error(&error, "run");
                    continue;
                }
            }
            stop.request();
            run.await
                .unwrap()
                .unwrap_or_else(|error| panic!("seed {}: {error}", self.seed));
            self.count("run: survived");
            return;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn whatever_the_node_does_the_index_is_right_or_the_error_says_why_not() {
    step_time();
    let runs = match std::env::var("SPINDEX_RANDOM_NODE_RUNS") {
        Ok(runs) => runs.parse().unwrap(),
        Err(_) => FEW_RUNS,
    };
    let first = random_seed();
    let mut counts = Counts::new();
    for run in 0..runs {
        let mut world = World::new(first.wrapping_add(run.into())).await;
        let _log = Log::catch();
        world.start().await;
        match world.seed % 2 {
            0 => world.syncs().await,
            _ => world.runs().await,
        }
        world.assert_fresh().await;
        for (what, times) in world.counts {
            *counts.entry(what).or_default() += times;
        }
        for (what, times) in world.node.struck() {
            *counts.entry(format!("fault {what}")).or_default() += times;
        }
    }
    println!("{runs} runs: {counts:#?}");
}
