//! An index of format 5 learns who spends what in its old blocks, while it follows a chain that grows and changes.

use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bitcoin::Network;
use futures::FutureExt;
use futures::future::BoxFuture;
use redb::{ReadableTable, WriteTransaction};
use serde_json::json;
use spindex::BlockId;
use spindex::chain::files::{FilesSettings, FilesSource};
use spindex::chain::made::generated::{ChainLength, ChainParameters, Target, generate};
use spindex::chain::made::simulated::{Orphaned, SimulatedChain, SimulationSettings};
use spindex::chain::{BlockSource, BlockWithPrevouts, ChainError};
use spindex::curve::libsecp256k1::LibSecp256k1;
use spindex::index::{IndexError, IndexSettings, Indexer};
use spindex::runtime::Stop;
use spindex::store::column::Column;
use spindex::store::schema::{FOREIGN, SPENDS, SpendItem};
use spindex::store::{FILE_NAME, Store, StoreError};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::Notify;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::scene::{chain, indexer, quick};
use crate::support::fake_node::FakeNode;
use crate::support::index::{
    content, content_of_file, engine, fill, fresh_content, fresh_store, make_format_5, options,
};
use crate::support::log::Log;
use crate::support::node::TestNode;
use crate::support::node_source::Kind;
use crate::support::random_seed;
use crate::support::spindex::{Spindex, command, run, stderr};

/// An index of all that a source has, which was built before spenders were kept, with the directory it is in.
pub(super) async fn old_index(source: Arc<dyn BlockSource>) -> (TempDir, Arc<Store>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("index.redb");
    let store = Arc::new(Store::open(&path, &options()).unwrap());
    drop(fill(store, source).await);
    make_format_5(&path);
    let store = Store::open(&path, &options()).unwrap();
    let snapshot = store.snapshot().unwrap();
    let tip = snapshot.tip().unwrap();
    assert_eq!(snapshot.spenders_from(), Some(tip.height + 1));
    drop(snapshot);
    (folder, Arc::new(store))
}

pub(super) fn known_from(store: &Store) -> Option<u32> {
    store.snapshot().unwrap().spenders_from()
}

/// Whatever the blocks come from. The chain has state ids, and spends of what is in no index.
#[tokio::test(flavor = "multi_thread")]
async fn every_source_fills_in_what_a_new_index_has() {
    let chain = chain(51, 150);
    let fresh = fresh_store(chain.clone()).await;
    let snapshot = fresh.snapshot().unwrap();
    let (mut spends, mut states) = (0, 0);
    for height in 0..=150 {
        let block = snapshot.block(height).unwrap().unwrap();
        spends += block.spends().unwrap().len();
        states += block.states().unwrap().len();
    }
    let foreign = snapshot.counts().unwrap().foreign;
    assert!(spends > 200 && states > 10 && foreign > 10);
    let node = FakeNode::start(chain.clone()).await;
    let mut sources: Vec<Arc<dyn BlockSource>> = vec![chain.clone()];
    sources.extend(Kind::ALL.map(|kind| -> Arc<dyn BlockSource> { kind.source(&node.url()) }));
    for source in sources {
        let (_folder, store) = old_index(chain.clone()).await;
        let name = source.describe();
        let filled = indexer(&store, source, quick()).fill_spenders(None).await;
        assert_eq!(filled.unwrap(), Some(chain.tip_id()), "{name}");
        assert_eq!(known_from(&store), None, "{name}");
        assert_eq!(content(&store), content(&fresh), "{name}");
    }
}

/// Runs of blocks, of which the lowest is the first in a file.
#[tokio::test(flavor = "multi_thread")]
async fn block_files_fill_in_what_a_new_index_has() {
    let folder = tempfile::tempdir().unwrap();
    let target = Target {
        directory: folder.path().join("blocks"),
        xor: true,
        most_file_bytes: Some(1 << 20),
    };
    let parameters = ChainParameters {
        seed: random_seed(),
        transactions_per_block: 100,
        eligible: 0.9,
        ..ChainParameters::MAINNET
    };
    let length = ChainLength {
        blocks: Some(130),
        outputs: None,
    };
    generate(&parameters, length, &target, &LibSecp256k1, |_| ()).unwrap();
    let source: Arc<dyn BlockSource> = Arc::new(FilesSource::new(FilesSettings::new(
        target.directory,
        Network::Regtest,
    )));
    source.check(Network::Regtest).await.unwrap();
    let (_folder, store) = old_index(source.clone()).await;
    let indexer = indexer(&store, source.clone(), quick());
    indexer.fill_spenders(None).await.unwrap();
    assert_eq!(known_from(&store), None);
    assert_eq!(content(&store), fresh_content(source).await);
}

/// What happens to the chain, or to who follows it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Event {
    Mine(u32),
    /// As many blocks go and one more comes.
    Reorganize(u32),
    /// The process ends.
    Stop,
    /// The next answer does not come until the test says so.
    Stall,
}

/// A source at which something happens when it has been asked for so many blocks.
pub(super) struct Eventful {
    chain: Arc<SimulatedChain>,
    events: Mutex<VecDeque<(u32, Event)>>,
    asked: AtomicU32,
    /// Blocks below this height are gone.
    pub(super) pruned_below: AtomicU32,
    stop: Mutex<Stop>,
    is_stalled: AtomicBool,
    go_on: Notify,
}

impl Eventful {
    pub(super) fn new(chain: &Arc<SimulatedChain>, events: &[(u32, Event)]) -> Arc<Self> {
        Arc::new(Self {
            chain: chain.clone(),
            events: Mutex::new(events.iter().copied().collect()),
            asked: AtomicU32::new(0),
            pruned_below: AtomicU32::new(0),
            stop: Mutex::new(Stop::new()),
            is_stalled: AtomicBool::new(false),
            go_on: Notify::new(),
        })
    }

    fn due(&self) -> Option<Event> {
        let asked = self.asked.fetch_add(1, Ordering::SeqCst);
        let mut events = self.events.lock().unwrap();
        events
            .pop_front_if(|(at, _)| *at <= asked)
            .map(|(_, event)| event)
    }
}

impl BlockSource for Eventful {
    fn describe(&self) -> String {
        "an eventful source".to_owned()
    }

    fn check(&self, network: Network) -> BoxFuture<'_, Result<(), ChainError>> {
        self.chain.check(network)
    }

    fn tip(&self) -> BoxFuture<'_, Result<BlockId, ChainError>> {
        self.chain.tip()
    }

    fn block_at(&self, height: u32) -> BoxFuture<'_, Result<Option<BlockId>, ChainError>> {
        self.chain.block_at(height)
    }

    fn blocks_at(
        &self,
        heights: RangeInclusive<u32>,
    ) -> BoxFuture<'_, Result<Vec<BlockId>, ChainError>> {
        self.chain.blocks_at(heights)
    }

    fn block(&self, id: BlockId) -> BoxFuture<'_, Result<BlockWithPrevouts, ChainError>> {
        async move {
            match self.due() {
                Some(Event::Mine(blocks)) => drop(self.chain.mine(blocks)),
                Some(Event::Reorganize(depth)) => {
                    let orphaned = Orphaned::Resubmit;
                    self.chain.reorganize(depth, depth + 1, orphaned).unwrap();
                }
                Some(Event::Stop) => self.stop.lock().unwrap().request(),
                Some(Event::Stall) => {
                    self.is_stalled.store(true, Ordering::SeqCst);
                    self.chain.mine(3);
                    self.go_on.notified().await;
                }
                None => {}
            }
            if id.height < self.pruned_below.load(Ordering::SeqCst) {
                return Err(ChainError::NotAvailable(format!("block {id} is pruned")));
            }
            self.chain.block(id).await
        }
        .boxed()
    }
}

/// An indexer that ends when the source says so.
fn stoppable(store: &Arc<Store>, source: &Arc<Eventful>) -> (Indexer, Stop) {
    let stop = Stop::new();
    *source.stop.lock().unwrap() = stop.clone();
    let (engine, source) = (Arc::new(LibSecp256k1), source.clone());
    let settings = IndexSettings {
        give_up_after: None,
        ..quick()
    };
    let indexer = Indexer::new(
        store.clone(),
        source,
        engine,
        settings,
        stop.clone(),
        |_| (),
    );
    (indexer, stop)
}

/// A message for each commit.
pub(super) fn commits(store: &Store) -> UnboundedReceiver<()> {
    let (sender, receiver) = unbounded_channel();
    store.on_applied(move |_| {
        let _ = sender.send(());
    });
    receiver
}

/// Follows until all is known and the tip reached, over as many lives as the events ask for; how many lives that were.
async fn follow_to_the_end(store: &Arc<Store>, source: &Arc<Eventful>) -> u32 {
    let mut commits = commits(store);
    for life in 1.. {
        let (indexer, stop) = stoppable(store, source);
        let following = tokio::spawn(async move { indexer.follow(None).await });
        loop {
            let is_done = source.events.lock().unwrap().is_empty();
            let tip = store.snapshot().unwrap().tip();
            if is_done && known_from(store).is_none() && tip == Some(source.chain.tip_id()) {
                stop.request();
                following.await.unwrap().unwrap();
                return life;
            }
            if stop.is_requested() {
                following.await.unwrap().unwrap();
                break;
            }
            tokio::select! {
                _ = commits.recv() => {}
                () = stop.requested() => {}
            }
        }
    }
    0
}

/// Blocks come and go, above what is filled in and below it, and the process ends and starts again.
#[tokio::test(flavor = "multi_thread")]
async fn the_chain_is_followed_meanwhile_through_reorgs_and_restarts() {
    for events in [
        &[][..],
        &[
            (3, Event::Mine(2)),
            (20, Event::Mine(1)),
            (21, Event::Mine(5)),
        ],
        // One within what is known, one that takes away known and unknown blocks, one of unknown ones at once.
        &[(70, Event::Reorganize(10)), (75, Event::Mine(1))],
        &[(20, Event::Reorganize(60)), (90, Event::Reorganize(80))],
        &[(0, Event::Reorganize(30)), (3, Event::Reorganize(1))],
        &[
            (9, Event::Stop),
            (30, Event::Reorganize(100)),
            (31, Event::Stop),
        ],
        &[(40, Event::Stop), (41, Event::Stop), (100, Event::Mine(1))],
    ] {
        let chain = chain(52, 130);
        let (_folder, store) = old_index(chain.clone()).await;
        let source = Eventful::new(&chain, events);
        let lives = follow_to_the_end(&store, &source).await;
        // Two that come to the same batch are one.
        let mut happened = events.iter().map(|(_, event)| event);
        let has_stop = happened.any(|event| matches!(event, Event::Stop));
        assert_eq!(lives > 1, has_stop, "{events:?}");
        let fresh = fresh_content(chain.clone()).await;
        assert_eq!(content(&store), fresh, "{events:?}");
    }
}

/// A source that takes its time with an old block holds up nobody who follows the tip.
#[tokio::test(flavor = "multi_thread")]
async fn the_tip_comes_first() {
    let chain = chain(53, 120);
    let (_folder, store) = old_index(chain.clone()).await;
    let source = Eventful::new(&chain, &[(10, Event::Stall)]);
    let (indexer, stop) = stoppable(&store, &source);
    let mut commits = commits(&store);
    let following = tokio::spawn(async move { indexer.follow(None).await });
    while store.snapshot().unwrap().tip().unwrap().height < 123 {
        commits.recv().await.unwrap();
    }
    assert!(source.is_stalled.load(Ordering::SeqCst));
    let from = known_from(&store).unwrap();
    assert!((100..=120).contains(&from), "{from}");
    source.go_on.notify_one();
    while known_from(&store).is_some() {
        commits.recv().await.unwrap();
    }
    stop.request();
    following.await.unwrap().unwrap();
    assert_eq!(content(&store), fresh_content(chain).await);
}

/// What a pruned node still has is filled in, and the rest named once, however long it is followed.
#[tokio::test(start_paused = true)]
async fn a_pruned_source_is_named_once_and_followed() {
    let chain = chain(54, 130);
    let (_folder, store) = old_index(chain.clone()).await;
    let source = Eventful::new(&chain, &[]);
    source.pruned_below.store(110, Ordering::SeqCst);
    let log = Log::catch();

    // Once is enough for a sync, which is no failure.
    let syncing = indexer(&store, source.clone(), quick());
    let filled = syncing.fill_spenders(None).await.unwrap();
    assert_eq!(filled, Some(chain.tip_id()));
    assert_eq!(known_from(&store), Some(110));
    let lines = log.lines("stays unknown");
    assert_eq!(lines.len(), 1, "{lines:?}");
    for text in ["is pruned", "--node-url", "--blocks-dir", "block 109"] {
        assert!(lines[0].contains(text), "{text}: {lines:?}");
    }
    let lines = log.lines("filling in who spends what in blocks 130 down to 0");
    assert_eq!(lines.len(), 1, "{lines:?}");

    // Three hours of following.
    let before = source.asked.load(Ordering::SeqCst);
    let stop = Stop::new();
    let settings = IndexSettings {
        poll_interval: Duration::from_secs(10),
        ..quick()
    };
    let (engine, blocks) = (Arc::new(LibSecp256k1), source.clone());
    let indexer = Indexer::new(
        store.clone(),
        blocks,
        engine,
        settings,
        stop.clone(),
        |_| (),
    );
    let meanwhile = async {
        tokio::time::sleep(Duration::from_secs(5_400)).await;
        chain.mine(2);
        tokio::time::sleep(Duration::from_secs(5_400)).await;
        stop.request();
    };
    let (followed, ()) = tokio::join!(indexer.follow(None), meanwhile);
    followed.unwrap();
    assert_eq!(log.lines("stays unknown").len(), 2);
    let asked = source.asked.load(Ordering::SeqCst) - before;
    assert!((20..50).contains(&asked), "{asked}");
    assert_eq!(store.snapshot().unwrap().tip(), Some(chain.tip_id()));
    assert_eq!(known_from(&store), Some(110));

    // A source that has them, at last.
    source.pruned_below.store(0, Ordering::SeqCst);
    let indexer = super::scene::indexer(&store, source, quick());
    indexer.fill_spenders(None).await.unwrap();
    assert_eq!(known_from(&store), None);
    assert_eq!(log.lines("is known of all blocks").len(), 1);
    assert_eq!(content(&store), fresh_content(chain).await);
}

/// An old index of which something is changed behind the store's back.
async fn tampered(
    chain: &Arc<SimulatedChain>,
    change: impl FnOnce(&WriteTransaction),
) -> (TempDir, Arc<Store>) {
    let (folder, store) = old_index(chain.clone()).await;
    drop(store);
    let path = folder.path().join("index.redb");
    let database = engine(&path);
    let write = database.begin_write().unwrap();
    change(&write);
    write.commit().unwrap();
    drop(database);
    (folder, Arc::new(Store::open(&path, &options()).unwrap()))
}

/// Changes an item in the middle of the only chunk of a column.
fn change_an_item(write: &WriteTransaction, column: Column, change: impl Fn(&[u8]) -> Vec<u8>) {
    let mut table = write.open_table(column.definition()).unwrap();
    let items = table.get(0).unwrap().unwrap().value().to_vec();
    let length = column.item_bytes();
    let mut items: Vec<Vec<u8>> = items.chunks(length).map(<[u8]>::to_vec).collect();
    let middle = items.len() / 2;
    let other = |item: &Vec<u8>| change(item) != *item;
    let at = middle + items[middle..].iter().position(other).unwrap();
    items[at] = change(&items[at]);
    table.insert(0, items.concat().as_slice()).unwrap();
}

/// The index is followed as before, after one line that names what is wrong.
async fn follow_past_an_error(store: &Arc<Store>, chain: &Arc<SimulatedChain>) {
    let from = known_from(store);
    assert!(from.is_some());
    let log = Log::catch();
    let stop = Stop::new();
    let (engine, source) = (Arc::new(LibSecp256k1), chain.clone());
    let indexer = Indexer::new(store.clone(), source, engine, quick(), stop.clone(), {
        let stop = stop.clone();
        move |_| stop.request()
    });
    let mining = async {
        // After the error, which comes first.
        while log.lines("until then the index goes on").is_empty() {
            tokio::task::yield_now().await;
        }
        chain.mine(1);
    };
    let (followed, ()) = tokio::join!(indexer.follow(None), mining);
    followed.unwrap();
    let lines = log.lines("check --repair");
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("ERROR"), "{lines:?}");
    assert_eq!(store.snapshot().unwrap().tip(), Some(chain.tip_id()));
    assert_eq!(known_from(store), from);
}

/// A block of which the index has another spend than the node is named, the blocks above it are filled in, and the index
/// goes on as it is.
#[tokio::test]
async fn a_block_that_spends_something_else_ends_it() {
    let chain = chain(55, 130);
    let (_folder, store) = tampered(&chain, |write| {
        change_an_item(write, FOREIGN, |item| {
            let mut item = item.to_vec();
            item[3] ^= 1;
            item
        });
    })
    .await;
    let syncing = indexer(&store, chain.clone(), quick());
    let error = syncing.fill_spenders(None).await.unwrap_err();
    let IndexError::Store(StoreError::OtherSpends { block, .. }) = &error else {
        panic!("{error:?}");
    };
    assert_eq!(known_from(&store), Some(block.height + 1));
    let text = error.to_string();
    assert!(text.contains("check --repair"), "{text}");
    assert!(text.contains(&block.to_string()), "{text}");
    follow_past_an_error(&store, &chain).await;
}

/// So is an old block whose rows contradict each other.
#[tokio::test]
async fn an_old_block_that_is_damaged_ends_it() {
    let chain = chain(56, 130);
    let (_folder, store) = tampered(&chain, |write| {
        change_an_item(write, SPENDS, |_| SpendItem::Foreign.encode().to_vec());
    })
    .await;
    let syncing = indexer(&store, chain.clone(), quick());
    let error = syncing.fill_spenders(None).await.unwrap_err();
    let IndexError::Store(StoreError::Corrupt { table, .. }) = &error else {
        panic!("{error:?}");
    };
    assert_eq!(*table, "spends");
    follow_past_an_error(&store, &chain).await;
}

/// A real node that has pruned the old blocks, and one that has them and is reorganised meanwhile.
#[test]
fn real_nodes_fill_in_what_they_have() {
    let chain = SimulatedChain::new(SimulationSettings {
        seed: random_seed(),
        transactions_per_block: 3,
        ..SimulationSettings::default()
    });
    chain.mine(450);
    let chain = Arc::new(chain);
    let runtime = Runtime::new().unwrap();
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join(".spindex/regtest");
    std::fs::create_dir_all(&folder).unwrap();
    let (old, store) = runtime.block_on(old_index(chain.clone()));
    drop(store);
    let file = folder.join(FILE_NAME);
    std::fs::copy(old.path().join("index.redb"), &file).unwrap();
    let arguments = |command: &str, node: &TestNode| {
        [
            command.to_owned(),
            "--network=regtest".to_owned(),
            "--source=rest".to_owned(),
            "--poll-ms=20".to_owned(),
            format!("--node-url={}", node.url()),
        ]
    };
    let known_from = || {
        let store = Store::open_existing(&file, &options()).unwrap();
        known_from(&store)
    };

    let pruned = TestNode::start(&["-fastprune", "-prune=1"]);
    pruned.submit_above(&chain, 0);
    pruned.call("pruneblockchain", &[json!(150)]);
    let info = pruned.call("getblockchaininfo", &[]);
    let first = u32::try_from(info["pruneheight"].as_u64().unwrap()).unwrap();
    assert!((50..=151).contains(&first), "{first}");
    let output = run(home.path(), &arguments("sync", &pruned));
    let log = stderr(&output);
    assert!(output.status.success(), "{log}");
    assert_eq!(known_from(), Some(first), "{log}");
    assert_eq!(log.matches("stays unknown").count(), 1, "{log}");
    assert!(log.contains("pruned"), "{log}");
    drop(pruned);

    let node = TestNode::start(&[]);
    node.submit_above(&chain, 0);
    let mut args = arguments("run", &node).to_vec();
    args.push("--http-bind=127.0.0.1:0".to_owned());
    let mut running = Spindex::start(command(home.path(), &args));
    let began = format!(
        "filling in who spends what in blocks {} down to 0",
        first - 1
    );
    running.wait_for(&[&began]);
    // Below what is known by now, and not as deep as an update may go.
    let depth = 280;
    chain
        .reorganize(depth, depth + 1, Orphaned::Resubmit)
        .unwrap();
    node.submit_above(&chain, 450 - depth);
    running.wait_for(&["who spends what is known of all blocks"]);
    let tip = chain.mine(1)[0];
    node.submit_above(&chain, tip.height - 1);
    running.wait_for_height(tip.height);
    let (status, log) = running.terminate();
    assert!(status.success(), "{log:#?}");
    assert_eq!(known_from(), None);
    let fresh = runtime.block_on(fresh_content(chain));
    assert_eq!(content_of_file(&file), fresh);
}
