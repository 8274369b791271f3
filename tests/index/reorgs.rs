//! Reorgs of any depth that can be undone, with transactions that are dropped, mined again in other blocks, or replaced
//! by others that spend the same coins. The judge is an index built fresh of the branch that is active in the end.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bitcoin::{BlockHash, OutPoint, Txid};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use spindex::BlockId;
use spindex::api::desk::{Desk, DeskSettings};
use spindex::api::{self, Listener, ServeSettings};
use spindex::chain::made::simulated::builder::InputKind;
use spindex::chain::made::simulated::{
    Orphaned, PaymentRequest, SimulatedChain, SimulationSettings,
};
use spindex::curve::libsecp256k1::LibSecp256k1;
use spindex::index::{IndexError, IndexSettings, Indexer};
use spindex::runtime::Stop;
use spindex::store::{RowFilter, Store, StoreOptions};
use tokio::net::TcpListener;

use crate::support::by_height::ByHeight as _;
use crate::support::index::{content, fresh_store, options};

/// As many blocks as an index can undo unless told otherwise.
const UNDO_DEPTH: u32 = 288;

/// Height at which the chains of these tests start to be reorganised.
const HEIGHT: u32 = 400;

/// Coins that every branch may spend in its own way.
const CONTESTED_COINS: usize = 6;

fn store(undo_depth: u32) -> Arc<Store> {
    let options = StoreOptions {
        undo_depth,
        ..options()
    };
    let backend = redb::backends::InMemoryBackend::new();
    Arc::new(Store::open_with_backend(backend, &options).unwrap())
}

fn indexer(store: &Arc<Store>, chain: &Arc<SimulatedChain>, batch_bytes: usize) -> Indexer {
    let settings = IndexSettings {
        batch_bytes,
        poll_interval: Duration::from_millis(5),
        give_up_after: Some(Duration::ZERO),
        ..IndexSettings::default()
    };
    Indexer::new(
        store.clone(),
        chain.clone(),
        Arc::new(LibSecp256k1),
        settings,
        Stop::new(),
        |_| (),
    )
    .with_node(chain.clone())
}

/// A chain, and coins made early on it that nothing spends but [`spend`].
fn contested_chain(seed: u64, blocks: u32) -> (Arc<SimulatedChain>, Vec<OutPoint>) {
    let chain = SimulatedChain::new(SimulationSettings {
        seed,
        transactions_per_block: 4,
        ..SimulationSettings::default()
    });
    chain.mine(101);
    let request = PaymentRequest {
        inputs: vec![InputKind::P2wpkh, InputKind::P2tr],
        keep: vec![(InputKind::P2tr, 50_000); CONTESTED_COINS],
        ..PaymentRequest::default()
    };
    let (_, paid) = chain.mine_with(&[request]).unwrap();
    chain.mine(blocks - chain.tip_id().height);
    let coins = paid[0].kept.iter().map(|coin| coin.outpoint).collect();
    (Arc::new(chain), coins)
}

/// Spends a coin by a transaction like no other, if the active branch has it unspent.
fn spend(chain: &SimulatedChain, coin: OutPoint, mark: u64) {
    let request = PaymentRequest {
        spend: vec![coin],
        keep: vec![(InputKind::P2tr, 10_000)],
        op_return: Some(mark.to_le_bytes().to_vec()),
        ..PaymentRequest::default()
    };
    // Another branch may have spent it, or not have it.
    let _ = chain.pay(&request);
}

/// What blocks of all branches had in them.
#[derive(Default)]
struct Seen {
    blocks: HashMap<Txid, HashSet<BlockHash>>,
    spenders: HashMap<OutPoint, HashSet<Txid>>,
}

impl Seen {
    fn look(&mut self, chain: &SimulatedChain) {
        for block in chain.active_blocks() {
            for (txid, tx) in block.txids.iter().zip(&block.block.txdata).skip(1) {
                self.blocks.entry(*txid).or_default().insert(block.id.hash);
                for input in &tx.input {
                    let spenders = self.spenders.entry(input.previous_output).or_default();
                    spenders.insert(*txid);
                }
            }
        }
    }

    /// Transactions that were in more than one block.
    fn moved(&self) -> usize {
        self.blocks
            .values()
            .filter(|blocks| blocks.len() > 1)
            .count()
    }

    /// Coins that more than one transaction spent.
    fn contested(&self) -> usize {
        let spenders = self.spenders.values();
        spenders.filter(|spenders| spenders.len() > 1).count()
    }

    /// Transactions that are on no block of the active branch.
    fn dropped(&self, chain: &SimulatedChain) -> usize {
        let active = chain.active_blocks();
        let active: HashSet<&Txid> = active.iter().flat_map(|block| &block.txids).collect();
        let gone = self.blocks.keys().filter(|txid| !active.contains(txid));
        gone.count()
    }
}

/// What happened in all cases together.
#[derive(Debug, Default)]
struct Sum {
    transactions_moved: usize,
    transactions_dropped: usize,
    coins_contested: usize,
    branches_of_same_height: u32,
    deepest: u32,
}

/// Compares all that the interfaces show of two indexes, then every row.
fn assert_same(left: &Arc<Store>, right: &Arc<Store>) {
    let (of_left, of_right) = (left.snapshot().unwrap(), right.snapshot().unwrap());
    let tip = of_right.tip().unwrap();
    assert_eq!(of_left.tip(), Some(tip));
    for height in 0..=tip.height {
        let [a, b] = [&of_left, &of_right].map(|snapshot| {
            let mut lists = Vec::new();
            for (dust_limit_sat, cut_through) in [(0, false), (0, true), (1_000, true)] {
                let filter = RowFilter {
                    dust_limit_sat,
                    cut_through,
                };
                let utxos = snapshot.utxos(height, filter).unwrap().unwrap();
                lists.push((snapshot.tweak_list(height, filter).unwrap(), utxos));
            }
            (
                snapshot.block(height).unwrap().map(|block| block.id()),
                snapshot.digest(height).unwrap(),
                snapshot.spends(height).unwrap(),
                snapshot.new_utxos_filter(height).unwrap(),
                snapshot.spent_filter(height).unwrap(),
                lists,
            )
        });
        assert_eq!(a, b, "height {height}");
    }
    assert_eq!(content(left), content(right));
}

/// Asks servers of two indexes for everything about the blocks at these heights.
async fn assert_serve_the_same(stores: [&Arc<Store>; 2], heights: &[u32]) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let stop = Stop::new();
    let mut servers = Vec::new();
    let mut urls = Vec::new();
    for store in stores {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        urls.push(format!("http://{}", listener.local_addr().unwrap()));
        let store = store.clone();
        let desk = Desk::new(store, None, None, DeskSettings::default());
        let listener = vec![Listener::http(listener)];
        let stop = stop.clone();
        let stopped = async move { stop.requested().await };
        let settings = ServeSettings::default();
        servers.push(tokio::spawn(api::serve(listener, desk, stopped, settings)));
    }
    for height in heights {
        for path in [
            format!("block-hash/{height}"),
            format!("tweaks/{height}"),
            format!("tweaks/{height}?dustLimit=1000"),
            format!("tweak-index/{height}"),
            format!("tweak-index/{height}?dustLimit=1000"),
            format!("utxos/{height}"),
            format!("filter/new-utxos/{height}"),
            format!("filter/spent/{height}"),
            format!("spent-index/{height}"),
            format!("digest/{height}"),
        ] {
            let mut answers = Vec::new();
            for url in &urls {
                let answer = client.get(format!("{url}/{path}")).send().await.unwrap();
                assert_eq!(answer.status(), 200, "{path}");
                answers.push(answer.bytes().await.unwrap());
            }
            assert_eq!(answers[0], answers[1], "{path}");
        }
    }
    stop.request();
    for server in servers {
        server.await.unwrap().unwrap();
    }
}

/// One thing that happens to a chain between two syncs.
#[derive(Debug, Clone)]
enum Event {
    Mine(u32),
    /// Depth, blocks more or less than that, whether the old transactions return.
    Reorganize(u32, i32, bool),
    /// The last blocks become invalid.
    Disconnect(u32),
    /// Back to the branch that was active before the last change, whatever its length.
    Return,
}

fn event() -> impl Strategy<Value = Event> {
    let depth = prop_oneof![
        3 => 1..8u32,
        3 => 8..UNDO_DEPTH,
        1 => Just(UNDO_DEPTH),
    ];
    let more = prop_oneof![Just(0), -3..4i32];
    prop_oneof![
        1 => (1..4u32).prop_map(Event::Mine),
        5 => (depth, more, any::<bool>())
            .prop_map(|(depth, more, back)| Event::Reorganize(depth, more, back)),
        1 => (1..10u32).prop_map(Event::Disconnect),
        2 => Just(Event::Return),
    ]
}

fn orphaned(back: bool) -> Orphaned {
    match back {
        true => Orphaned::Resubmit,
        false => Orphaned::Drop,
    }
}

/// Lets an event happen. A new branch spends some of the coins in its own way, early and late.
fn happen(chain: &SimulatedChain, coins: &[OutPoint], event: &Event, before: BlockId, mark: u64) {
    let coin = |at: u64| coins[(mark + at) as usize % coins.len()];
    match *event {
        Event::Mine(blocks) => {
            spend(chain, coin(0), mark);
            chain.mine(blocks);
        }
        Event::Reorganize(depth, more, back) => {
            let blocks = depth.saturating_add_signed(more).max(1);
            let reorg = chain.reorganize(depth, 1, orphaned(back)).unwrap();
            assert_eq!(reorg.disconnected.len(), depth as usize);
            spend(chain, coin(0), mark);
            spend(chain, coin(1), mark);
            if let Some(rest) = blocks.checked_sub(2) {
                chain.mine(rest);
                spend(chain, coin(2), mark);
                chain.mine(1);
            }
        }
        Event::Disconnect(depth) => drop(chain.disconnect(depth, Orphaned::Drop).unwrap()),
        Event::Return => {
            let tip = chain.tip_id();
            let is_active = chain.active_blocks().iter().any(|block| block.id == before);
            match tip.height.checked_sub(before.height) {
                // Only a step back.
                Some(depth) if is_active => drop(chain.disconnect(depth, Orphaned::Drop).unwrap()),
                _ => drop(chain.activate(before.hash).unwrap()),
            }
        }
    }
}

#[test]
fn after_reorgs_of_any_depth_the_index_equals_one_built_fresh() {
    let sum = Mutex::new(Sum::default());
    let config = ProptestConfig {
        cases: 20,
        failure_persistence: None,
        max_shrink_iters: 20,
        ..ProptestConfig::default()
    };
    let cases = (
        any::<u64>(),
        prop::collection::vec(event(), 2..7),
        prop_oneof![Just(20_000), Just(96usize << 20)],
    );
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let run = TestRunner::new(config).run(&cases, |(seed, events, batch_bytes)| {
        let (chain, coins) = contested_chain(seed, HEIGHT);
        let store = store(UNDO_DEPTH);
        let indexer = indexer(&store, &chain, batch_bytes);
        runtime.block_on(indexer.sync(None)).unwrap();
        let mut before = chain.tip_id();
        let mut sum = sum.lock().unwrap_or_else(PoisonError::into_inner);
        let mut seen = Seen::default();
        seen.look(&chain);
        for (mark, event) in (0..).zip(&events) {
            let tip = chain.tip_id();
            let old = chain.active_blocks();
            happen(&chain, &coins, event, before, mark);
            before = tip;
            seen.look(&chain);
            if let Event::Reorganize(depth, _, _) = event {
                sum.branches_of_same_height += u32::from(chain.tip_id().height == tip.height);
                sum.deepest = sum.deepest.max(*depth);
            }
            // The way back from a longer branch may be too deep.
            let new = chain.active_blocks();
            let common = old
                .iter()
                .zip(&new)
                .take_while(|(old, new)| old.id == new.id);
            let depth = old.len() - common.count();
            let synced = runtime.block_on(indexer.sync(None));
            if depth > UNDO_DEPTH as usize {
                let is_refused = matches!(synced, Err(IndexError::ReorgTooDeep { .. }));
                prop_assert!(is_refused, "{:?}", synced);
                chain.activate(tip.hash).unwrap();
            } else {
                prop_assert_eq!(synced.unwrap(), Some(chain.tip_id()));
            }
        }
        sum.transactions_moved += seen.moved();
        sum.transactions_dropped += seen.dropped(&chain);
        sum.coins_contested += seen.contested();
        let fresh = runtime.block_on(fresh_store(chain));
        assert_same(&store, &fresh);
        Ok(())
    });
    if let Err(error) = run {
        panic!("{error}");
    }
    let sum = sum.into_inner().unwrap();
    println!("{sum:?}");
    assert!(sum.transactions_moved > 20 && sum.transactions_dropped > 20);
    assert!(sum.coins_contested > 20 && sum.branches_of_same_height > 0);
    assert!(sum.deepest > 100);
}

/// The tip of one branch after the other: shorter, of the same height, longer, and back to the first.
#[tokio::test(flavor = "multi_thread")]
async fn the_deepest_reorg_that_can_be_undone() {
    let (chain, coins) = contested_chain(21, HEIGHT);
    let store = store(UNDO_DEPTH);
    let indexer = indexer(&store, &chain, 96 << 20);
    indexer.sync(None).await.unwrap();
    let first = chain.tip_id();
    let of_first = content(&store);
    for (mark, more) in [-1, 0, 1].into_iter().enumerate() {
        let event = Event::Reorganize(UNDO_DEPTH, more, mark == 1);
        happen(&chain, &coins, &event, first, mark as u64);
        assert_eq!(
            chain.tip_id().height,
            first.height.saturating_add_signed(more)
        );
        assert_eq!(indexer.sync(None).await.unwrap(), Some(chain.tip_id()));
        let fresh = fresh_store(chain.clone()).await;
        assert_same(&store, &fresh);
        // Around the fork, where coins are contested; below it, where they were made; at the tip.
        let (fork, tip) = (HEIGHT - UNDO_DEPTH, chain.tip_id().height);
        let heights = [102, fork, fork + 1, fork + 2, fork + 3, tip - 1, tip];
        assert_serve_the_same([&store, &fresh], &heights).await;

        // What is longer by one can be left again only a block deeper.
        if more <= 0 {
            chain.activate(first.hash).unwrap();
            assert_eq!(indexer.sync(None).await.unwrap(), Some(first));
            assert_eq!(content(&store), of_first);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reorg_one_block_deeper_is_refused_and_changes_nothing() {
    let (chain, coins) = contested_chain(22, HEIGHT);
    let store = store(UNDO_DEPTH);
    let indexer = indexer(&store, &chain, 96 << 20);
    indexer.sync(None).await.unwrap();
    let first = chain.tip_id();
    let before = content(&store);
    for (mark, (deeper, more)) in [(1, 0), (1, 5), (1, -1), (60, 0)].into_iter().enumerate() {
        let event = Event::Reorganize(UNDO_DEPTH + deeper, more, false);
        happen(&chain, &coins, &event, first, mark as u64);
        let error = indexer.sync(None).await.unwrap_err();
        match &error {
            IndexError::ReorgTooDeep { tip, lowest } => {
                assert_eq!((*tip, *lowest), (first, HEIGHT - UNDO_DEPTH + 1));
            }
            other => panic!("{other:?}"),
        }
        assert!(error.to_string().contains("spindex sync"), "{error}");
        assert_eq!(store.snapshot().unwrap().tip(), Some(first));
        assert_eq!(content(&store), before);
        chain.activate(first.hash).unwrap();
    }
    // The node has come back: nothing more is needed.
    chain.mine(2);
    indexer.sync(None).await.unwrap();
    assert_same(&store, &fresh_store(chain.clone()).await);

    // The branch that was refused is no trouble for an index that may undo as much.
    let deep = self::store(UNDO_DEPTH + 100);
    let indexer = self::indexer(&deep, &chain, 20_000);
    indexer.sync(None).await.unwrap();
    let event = Event::Reorganize(UNDO_DEPTH + 100, 1, true);
    happen(&chain, &coins, &event, first, 9);
    indexer.sync(None).await.unwrap();
    assert_same(&deep, &fresh_store(chain).await);
}
