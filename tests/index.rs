//! The index follows a simulated chain: sync, resume, reorgs, faults of the source. The judge is an index built fresh
//! and a slow twin of the derivation.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot be set up has failed"
)]

mod support;

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bitcoin::hashes::{Hash, HashEngine, sha256};
use bitcoin::{Network, OutPoint, Transaction, Txid};
use futures::FutureExt;
use futures::future::BoxFuture;
use proptest::prelude::*;
use secp256k1::PublicKey;
use spindex::BlockId;
use spindex::bip352::inputs::taproot_output_key;
use spindex::bip352::tweak::transaction_tweak;
use spindex::chain::parse::block_from_rest_bytes;
use spindex::chain::simulated::{Orphaned, SimulatedBlock, SimulatedChain, SimulationSettings};
use spindex::chain::{BlockSource, BlockWithPrevouts, BroadcastError, ChainError};
use spindex::curve::libsecp256k1::LibSecp256k1;
use spindex::curve::{
    CandidateScanner, Engine, InvalidTarget, Product, Sampled, ScanTarget, TweakPoint,
};
use spindex::index::{BatchReport, IndexError, IndexSettings, Indexer, derive_records};
use spindex::runtime::Stop;
use spindex::store::{RowFilter, ScanColumns, Store, StoreError, StoreOptions};
use support::index::{
    content, fresh_content, fresh_store, fresh_store_with, memory_store, options, runnable_engines,
};
use support::log::Log;

fn quick() -> IndexSettings {
    IndexSettings {
        poll_interval: Duration::from_millis(5),
        give_up_after: Some(Duration::ZERO),
        ..IndexSettings::default()
    }
}

fn indexer(store: &Arc<Store>, source: Arc<dyn BlockSource>, settings: IndexSettings) -> Indexer {
    Indexer::new(
        store.clone(),
        source,
        Arc::new(LibSecp256k1),
        settings,
        Stop::new(),
        |_| (),
    )
}

fn chain(seed: u64, blocks: u32) -> Arc<SimulatedChain> {
    let chain = SimulatedChain::new(SimulationSettings {
        seed,
        ..SimulationSettings::default()
    });
    chain.mine(blocks);
    Arc::new(chain)
}

/// What the index must say about each block, read off the blocks in the plainest way.
struct Expected {
    tweaks: Vec<(Txid, [u8; 33])>,
    /// vout, amount and key of each taproot output of the eligible transactions.
    outputs: Vec<(OutPoint, u64, [u8; 32])>,
    spends: Vec<OutPoint>,
}

fn expected(block: &SimulatedBlock) -> Expected {
    let mut expected = Expected {
        tweaks: Vec::new(),
        outputs: Vec::new(),
        spends: Vec::new(),
    };
    for (tx, prevouts) in block.block.txdata.iter().zip(&block.prevouts) {
        let txid = tx.compute_txid();
        for (input, prevout) in tx.input.iter().zip(prevouts) {
            if prevout.script_pubkey.is_p2tr() {
                expected.spends.push(input.previous_output);
            }
        }
        let Some(tweak) = transaction_tweak(&LibSecp256k1, tx, prevouts) else {
            continue;
        };
        expected.tweaks.push((txid, tweak.to_compressed()));
        for (vout, output) in (0..).zip(&tx.output) {
            if let Some(key) = taproot_output_key(&output.script_pubkey) {
                expected
                    .outputs
                    .push((OutPoint { txid, vout }, output.value.to_sat(), key));
            }
        }
    }
    expected
}

#[tokio::test(flavor = "multi_thread")]
async fn every_row_of_a_synced_index_is_what_the_blocks_say() {
    let chain = chain(1, 160);
    let store = fresh_store(chain.clone()).await;
    let snapshot = store.snapshot().unwrap();
    assert_eq!(snapshot.tip(), Some(chain.tip_id()));

    let blocks = chain.active_blocks();
    let spent: HashMap<OutPoint, BlockId> = blocks
        .iter()
        .flat_map(|block| {
            expected(block)
                .spends
                .into_iter()
                .map(|outpoint| (outpoint, block.id))
        })
        .collect();
    let mut tweaks = 0;
    let mut spends = 0;
    let mut digest = [0; 32];
    for block in &blocks {
        let height = block.id.height;
        let expected = expected(block);
        let entry = snapshot.block(height).unwrap().unwrap();
        assert_eq!(entry.id, block.id);
        assert_eq!(entry.header, block.block.header);
        assert_eq!(snapshot.height_of(&block.id.hash).unwrap(), Some(height));

        let rows = snapshot
            .tweaks(height, RowFilter::default())
            .unwrap()
            .unwrap();
        let rows: Vec<_> = rows
            .into_iter()
            .map(|(txid, tweak)| (txid, tweak.to_compressed()))
            .collect();
        assert_eq!(rows, expected.tweaks, "tweaks of block {height}");

        let utxos = snapshot
            .utxos(height, RowFilter::default())
            .unwrap()
            .unwrap();
        let rows: Vec<_> = utxos
            .iter()
            .map(|utxo| {
                (
                    OutPoint::new(utxo.txid, utxo.vout),
                    utxo.value_sat,
                    utxo.key,
                )
            })
            .collect();
        assert_eq!(rows, expected.outputs, "outputs of block {height}");
        for utxo in &utxos {
            let outpoint = OutPoint::new(utxo.txid, utxo.vout);
            assert_eq!(
                utxo.spent,
                spent.contains_key(&outpoint),
                "spent flag of {outpoint}"
            );
        }
        let rows = snapshot.spends(height).unwrap().unwrap();
        let rows: Vec<_> = rows.iter().map(|spend| spend.outpoint).collect();
        assert_eq!(rows, expected.spends, "spends of block {height}");

        let mut list = sha256::Hash::engine();
        expected
            .tweaks
            .iter()
            .for_each(|(_, tweak)| list.input(tweak));
        let mut rolling = sha256::Hash::engine();
        rolling.input(&digest);
        rolling.input(&block.id.hash.to_byte_array());
        rolling.input(&sha256::Hash::from_engine(list).to_byte_array());
        digest = sha256::Hash::from_engine(rolling).to_byte_array();
        assert_eq!(
            snapshot.digest(height).unwrap(),
            Some(digest),
            "digest of block {height}"
        );
        tweaks += expected.tweaks.len();
        spends += expected.spends.len();
    }
    assert!(
        tweaks > 100 && spends > 50,
        "the chain is too poor a test: {tweaks} tweaks, {spends} spends"
    );
}

#[test]
fn a_batch_derives_what_single_blocks_do() {
    let chain = chain(2, 130);
    let blocks: Vec<_> = chain
        .active_blocks()
        .iter()
        .map(|block| block.with_prevouts().unwrap())
        .collect();
    let mut derived = [false, true].map(|with_multiples| {
        let derive = |blocks: &[_]| derive_records(&LibSecp256k1, blocks, with_multiples);
        let together = derive(&blocks);
        let apart: Vec<_> = blocks
            .iter()
            .flat_map(|block| derive(std::slice::from_ref(block)))
            .collect();
        assert_eq!(together, apart);
        together
    });
    assert!(
        derived[0]
            .iter()
            .any(|record| record.transactions.len() > 1)
    );
    // They differ in the multiples alone, which are so many doublings of the tweaks.
    for record in &mut derived[0] {
        assert!(record.multiples.is_empty());
        let rows = record.transactions.iter();
        record.multiples = rows.map(|row| doubled_64_times(&row.tweak)).collect();
    }
    assert_eq!(derived[0], derived[1]);
}

/// 2^64·T of a point T, x then y, in the plainest way.
fn doubled_64_times(point: &[u8; 64]) -> [u8; 64] {
    let sec1 = [&[4], &point[..]].concat();
    let mut point = PublicKey::from_slice(&sec1).unwrap();
    for _ in 0..64 {
        point = point.combine(&point).unwrap();
    }
    point.serialize_uncompressed()[1..].try_into().unwrap()
}

/// The tweaks of a real block, where nobody has chosen the keys.
#[test]
fn multiples_of_a_real_block() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/mainnet-866342");
    if !folder.exists() {
        println!("skipped: ../shared/data is missing");
        return;
    }
    let unpack = |name: &str| {
        let packed = std::fs::File::open(folder.join(name)).unwrap();
        zstd::decode_all(packed).unwrap()
    };
    let (block, spent) = (unpack("block.bin.zst"), unpack("spenttxouts.bin.zst"));
    let block = block_from_rest_bytes(Some(866_342), &block, &spent).unwrap();
    let records = derive_records(&LibSecp256k1, std::slice::from_ref(&block), true);
    let (rows, multiples) = (&records[0].transactions, &records[0].multiples);
    assert_eq!(rows.len(), multiples.len());
    assert!(rows.len() > 1000, "{}", rows.len());
    for (row, multiple) in rows.iter().zip(multiples).step_by(20) {
        assert_eq!(doubled_64_times(&row.tweak), *multiple, "{}", row.txid);
    }
}

#[test]
fn every_engine_derives_the_same_rows() {
    let chain = chain(12, 150);
    let blocks = chain.active_blocks();
    let blocks: Vec<_> = blocks
        .iter()
        .map(|block| block.with_prevouts().unwrap())
        .collect();
    let expected = derive_records(&LibSecp256k1, &blocks, false);
    let engines = runnable_engines();
    assert!(
        engines.len() >= 3,
        "auto, libsecp256k1 and portable run everywhere: {engines:?}"
    );
    for (kind, name) in engines {
        let engine = spindex::curve::engine(kind).unwrap();
        assert!(
            derive_records(engine.as_ref(), &blocks, false) == expected,
            "{name}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sync_in_small_steps_and_over_restarts_gives_the_same_index() {
    for multiples in [false, true] {
        sync_in_small_steps(chain(3, 140), multiples).await;
    }
}

async fn sync_in_small_steps(chain: Arc<SimulatedChain>, multiples: bool) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("index.redb");
    let created = StoreOptions {
        multiples: Some(multiples),
        ..options()
    };
    let small_batches = IndexSettings {
        batch_bytes: 5_000,
        ..quick()
    };
    for until in [0, 1, 57, 58, 139] {
        // Later ones take what the first block was indexed with.
        let given = match until {
            0 => created.clone(),
            _ => options(),
        };
        let store = Arc::new(Store::open(&path, &given).unwrap());
        let tip = indexer(&store, chain.clone(), small_batches.clone())
            .sync(Some(until))
            .await
            .unwrap();
        assert_eq!(tip.map(|tip| tip.height), Some(until));
    }
    let store = Arc::new(Store::open(&path, &options()).unwrap());
    indexer(&store, chain.clone(), small_batches)
        .sync(None)
        .await
        .unwrap();
    let snapshot = store.snapshot().unwrap();
    assert_eq!(snapshot.tip(), Some(chain.tip_id()));
    let fresh = fresh_store_with(chain, multiples).await;
    assert_eq!(content(&store), content(&fresh));

    let columns = ScanColumns {
        multiples,
        short_keys: true,
        ..ScanColumns::default()
    };
    let batches = snapshot.scan(0..=140, columns).unwrap().unwrap();
    let mut tweaks = 0;
    for batch in batches {
        let batch = batch.unwrap();
        tweaks += batch.tweaks.len();
        for (tweak, multiple) in batch.tweaks.iter().zip(&batch.multiples) {
            assert_eq!(doubled_64_times(tweak.as_bytes()), *multiple.as_bytes());
        }
        let expected = if multiples { batch.tweaks.len() } else { 0 };
        assert_eq!(batch.multiples.len(), expected);
    }
    assert_eq!(tweaks as u64, snapshot.counts().unwrap().transactions);
    assert!(tweaks > 100, "{tweaks}");
}

#[test]
fn a_broken_engine_is_reported_once() {
    use std::sync::atomic::AtomicBool;
    let reported = AtomicBool::new(false);
    let fine = spindex::curve::EngineStatus::default();
    let broken = spindex::curve::EngineStatus {
        is_broken: true,
        ..fine
    };
    assert!(!fine.is_news(&reported));
    assert!(broken.is_news(&reported));
    assert!(!broken.is_news(&reported));
}

/// An engine that finds no multiple of some tweaks.
struct Forgetful;

impl Sampled for Forgetful {}

impl Engine for Forgetful {
    fn name(&self) -> &'static str {
        "forgetful"
    }

    fn scanner(&self, target: &ScanTarget) -> Result<Box<dyn CandidateScanner>, InvalidTarget> {
        LibSecp256k1.scanner(target)
    }

    fn multiply(&self, products: &[Product]) -> Vec<Option<TweakPoint>> {
        LibSecp256k1.multiply(products)
    }

    fn multiples(&self, tweaks: &[TweakPoint]) -> Vec<Option<TweakPoint>> {
        let mut multiples = LibSecp256k1.multiples(tweaks);
        if let Some(last) = multiples.last_mut() {
            *last = None;
        }
        multiples
    }

    fn decompress(&self, keys: &[[u8; 33]]) -> Vec<Option<TweakPoint>> {
        LibSecp256k1.decompress(keys)
    }

    fn sums(&self, points: &[TweakPoint], ends: &[usize]) -> Vec<Option<TweakPoint>> {
        LibSecp256k1.sums(points, ends)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_multiple_that_is_missing_is_an_error_and_nothing_is_written() {
    let chain = chain(3, 110);
    let store = memory_store(true);
    let indexer = Indexer::new(
        store.clone(),
        chain,
        Arc::new(Forgetful),
        quick(),
        Stop::new(),
        |_| (),
    );
    let error = indexer.sync(None).await.unwrap_err();
    assert!(
        matches!(error, IndexError::Store(StoreError::InvalidRecord { .. })),
        "{error}"
    );
    assert!(error.to_string().contains("multiples"), "{error}");
    assert_eq!(store.snapshot().unwrap().tip(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_in_the_middle_keeps_what_is_committed() {
    let chain = chain(4, 120);
    let store = memory_store(false);
    let stop = Stop::new();
    let on_batch = {
        let stop = stop.clone();
        move |report: &BatchReport| {
            if report.tip.is_some_and(|tip| tip.height >= 40) {
                stop.request();
            }
        }
    };
    let settings = IndexSettings {
        batch_bytes: 3_000,
        ..quick()
    };
    let tip = Indexer::new(
        store.clone(),
        chain.clone(),
        Arc::new(LibSecp256k1),
        settings,
        stop,
        on_batch,
    )
    .sync(None)
    .await
    .unwrap()
    .unwrap();
    assert!((40..120).contains(&tip.height), "stopped at {tip}");
    assert_eq!(store.snapshot().unwrap().tip(), Some(tip));
    indexer(&store, chain.clone(), quick())
        .sync(None)
        .await
        .unwrap();
    let hash = content(&store);
    assert_eq!(hash, fresh_content(chain).await);
}

/// One thing that happens to a chain between two syncs.
#[derive(Debug, Clone)]
enum Event {
    Mine(u32),
    /// Depth, new blocks, whether the old transactions return.
    Reorganize(u32, u32, bool),
    /// The last blocks become invalid.
    Disconnect(u32),
    /// Back to the branch that was active before the last change, whatever its length.
    Return,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        (1..4u32).prop_map(Event::Mine),
        (1..25u32, 1..27u32, any::<bool>())
            .prop_map(|(depth, new, back)| Event::Reorganize(depth, new, back)),
        (1..6u32).prop_map(Event::Disconnect),
        Just(Event::Return),
    ]
}

/// Makes an older tip the active one; where that is only a step back, the blocks above it become invalid.
fn return_to(chain: &SimulatedChain, tip: BlockId) {
    let is_active = chain.active_blocks().iter().any(|block| block.id == tip);
    match chain.tip_id().height.checked_sub(tip.height) {
        Some(depth) if is_active => drop(chain.disconnect(depth, Orphaned::Drop).unwrap()),
        _ => drop(chain.activate(tip.hash).unwrap()),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn after_any_reorgs_the_index_equals_one_built_fresh(
        seed in any::<u64>(),
        events in prop::collection::vec(event(), 1..10),
        multiples in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let chain = chain(seed, 130);
            let store = memory_store(multiples);
            let indexer = indexer(&store, chain.clone(), quick());
            indexer.sync(None).await.unwrap();
            let mut before = chain.tip_id();
            for event in events {
                let tip = chain.tip_id();
                let orphaned = |back| if back { Orphaned::Resubmit } else { Orphaned::Drop };
                match event {
                    Event::Mine(blocks) => drop(chain.mine(blocks)),
                    Event::Reorganize(depth, blocks, back) => {
                        chain.reorganize(depth, blocks, orphaned(back)).unwrap();
                    }
                    Event::Disconnect(depth) => drop(chain.disconnect(depth, Orphaned::Drop).unwrap()),
                    Event::Return => return_to(&chain, before),
                }
                before = tip;
                let synced = indexer.sync(None).await.unwrap();
                assert_eq!(synced, Some(chain.tip_id()));
            }
            let fresh = fresh_store_with(chain, multiples).await;
            assert_eq!(content(&store), content(&fresh));
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reorg_below_the_undo_rows_is_an_error_that_changes_nothing() {
    let chain = chain(5, 120);
    let shallow = StoreOptions {
        undo_depth: 5,
        ..options()
    };
    let store = Arc::new(
        Store::open_with_backend(redb::backends::InMemoryBackend::new(), &shallow).unwrap(),
    );
    let indexer = indexer(&store, chain.clone(), quick());
    indexer.sync(None).await.unwrap();
    let before = content(&store);

    chain.reorganize(6, 8, Orphaned::Drop).unwrap();
    let error = indexer.sync(None).await.unwrap_err();
    assert!(
        matches!(error, IndexError::ReorgTooDeep { lowest: 116, .. }),
        "{error}"
    );
    assert!(error.to_string().contains("spindex sync"), "{error}");
    assert_eq!(content(&store), before);
}

/// A source that fails or lies, by request.
struct Faulty {
    chain: Arc<SimulatedChain>,
    fault: Fault,
    /// How often the fault strikes before the source is honest.
    strikes: AtomicU32,
}

#[derive(Clone, Copy)]
enum Fault {
    /// The node goes away at this height.
    Away(u32),
    /// At this height another branch's block comes.
    Unlinked(u32, BlockId),
}

impl Faulty {
    fn strikes(&self) -> bool {
        self.strikes
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
                left.checked_sub(1)
            })
            .is_ok()
    }
}

impl BlockSource for Faulty {
    fn describe(&self) -> String {
        "a faulty source".to_owned()
    }

    fn check(&self, network: Network) -> BoxFuture<'_, Result<(), ChainError>> {
        self.chain.check(network)
    }

    fn tip(&self) -> BoxFuture<'_, Result<BlockId, ChainError>> {
        self.chain.tip()
    }

    fn block_at(&self, height: u32) -> BoxFuture<'_, Result<Option<BlockId>, ChainError>> {
        match self.fault {
            Fault::Unlinked(at, other) if at == height && self.strikes() => {
                async move { Ok(Some(other)) }.boxed()
            }
            _ => self.chain.block_at(height),
        }
    }

    fn block(&self, id: BlockId) -> BoxFuture<'_, Result<BlockWithPrevouts, ChainError>> {
        match self.fault {
            Fault::Away(at) if at == id.height && self.strikes() => {
                async { Err(ChainError::Unreachable("connection reset".to_owned())) }.boxed()
            }
            _ => self.chain.block(id),
        }
    }

    fn broadcast<'a>(&'a self, tx: &'a Transaction) -> BoxFuture<'a, Result<Txid, BroadcastError>> {
        self.chain.broadcast(tx)
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_goes_away_is_waited_for() {
    let chain = chain(6, 110);
    let source = Arc::new(Faulty {
        chain: chain.clone(),
        fault: Fault::Away(60),
        strikes: AtomicU32::new(2),
    });
    let patient = IndexSettings {
        give_up_after: None,
        batch_bytes: 3_000,
        ..quick()
    };
    let store = memory_store(false);
    let tip = indexer(&store, source, patient).sync(None).await.unwrap();
    assert_eq!(tip, Some(chain.tip_id()));
    let hash = content(&store);
    assert_eq!(hash, fresh_content(chain).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stays_away_ends_the_sync_with_what_is_committed() {
    let chain = chain(7, 110);
    let source = Arc::new(Faulty {
        chain: chain.clone(),
        fault: Fault::Away(60),
        strikes: AtomicU32::new(u32::MAX),
    });
    let store = memory_store(false);
    let error = indexer(&store, source, quick())
        .sync(None)
        .await
        .unwrap_err();
    assert_eq!(error.to_string(), "connection reset");
    assert_eq!(
        store.snapshot().unwrap().tip(),
        chain.block_at(59).await.unwrap()
    );
}

#[tokio::test(start_paused = true)]
async fn blocks_that_do_not_link_are_never_committed() {
    let chain = chain(8, 110);
    let orphan = chain.block_at(100).await.unwrap().unwrap();
    chain.reorganize(20, 20, Orphaned::Drop).unwrap();
    for (strikes, recovers) in [(1, true), (u32::MAX, false)] {
        let source = Arc::new(Faulty {
            chain: chain.clone(),
            fault: Fault::Unlinked(100, orphan),
            strikes: AtomicU32::new(strikes),
        });
        let patient = IndexSettings {
            give_up_after: Some(Duration::from_secs(60)),
            ..quick()
        };
        let store = memory_store(false);
        let result = indexer(&store, source, patient).sync(None).await;
        let snapshot = store.snapshot().unwrap();
        if recovers {
            assert_eq!(result.unwrap(), Some(chain.tip_id()));
            assert_eq!(content(&store), fresh_content(chain.clone()).await);
        } else {
            let error = result.unwrap_err().to_string();
            assert!(error.contains(&orphan.to_string()), "{error}");
            assert_eq!(snapshot.tip(), chain.block_at(99).await.unwrap());
        }
    }
}

/// A source that may be away, and gives the blocks of many heights at once.
struct Follow {
    chain: Arc<SimulatedChain>,
    is_away: AtomicBool,
    /// Once, when the block at this height is asked for, the chain is reorganised this deep.
    reorg: Mutex<Option<(u32, u32)>>,
}

impl Follow {
    fn new(chain: &Arc<SimulatedChain>) -> Arc<Self> {
        Arc::new(Self {
            chain: chain.clone(),
            is_away: AtomicBool::new(false),
            reorg: Mutex::new(None),
        })
    }

    fn answers(&self) -> Result<(), ChainError> {
        match self.is_away.load(Ordering::SeqCst) {
            true => Err(ChainError::Unreachable("nobody there".to_owned())),
            false => Ok(()),
        }
    }
}

impl BlockSource for Follow {
    fn describe(&self) -> String {
        "a source to follow".to_owned()
    }

    fn check(&self, network: Network) -> BoxFuture<'_, Result<(), ChainError>> {
        self.chain.check(network)
    }

    fn tip(&self) -> BoxFuture<'_, Result<BlockId, ChainError>> {
        async {
            self.answers()?;
            self.chain.tip().await
        }
        .boxed()
    }

    fn block_at(&self, height: u32) -> BoxFuture<'_, Result<Option<BlockId>, ChainError>> {
        async move {
            self.answers()?;
            self.chain.block_at(height).await
        }
        .boxed()
    }

    fn blocks_at(
        &self,
        heights: RangeInclusive<u32>,
    ) -> BoxFuture<'_, Result<Vec<BlockId>, ChainError>> {
        async move {
            self.answers()?;
            let blocks = self.chain.active_blocks();
            let ids = blocks.iter().map(|block| block.id);
            let page = ids.filter(|id| heights.contains(&id.height)).take(50);
            Ok(page.collect())
        }
        .boxed()
    }

    fn rejects(&self, id: BlockId) -> BoxFuture<'_, Result<bool, ChainError>> {
        self.chain.rejects(id)
    }

    fn block(&self, id: BlockId) -> BoxFuture<'_, Result<BlockWithPrevouts, ChainError>> {
        async move {
            self.answers()?;
            let due = self
                .reorg
                .lock()
                .unwrap()
                .take_if(|(at, _)| *at == id.height);
            if let Some((_, depth)) = due {
                self.chain
                    .reorganize(depth, depth + 1, Orphaned::Drop)
                    .unwrap();
            }
            self.chain.block(id).await
        }
        .boxed()
    }

    fn broadcast<'a>(&'a self, tx: &'a Transaction) -> BoxFuture<'a, Result<Txid, BroadcastError>> {
        self.chain.broadcast(tx)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reorg_in_the_middle_of_a_sync_is_noticed() {
    // Forks before, in, and after the page of hashes in use, and at the tip.
    for (at, depth) in [(60, 90), (60, 70), (60, 40), (100, 30), (140, 2), (40, 139)] {
        let chain = chain(13, 140);
        let source = Follow::new(&chain);
        *source.reorg.lock().unwrap() = Some((at, depth));
        for batch_bytes in [3_000, 96 << 20] {
            let settings = IndexSettings {
                batch_bytes,
                give_up_after: None,
                ..quick()
            };
            let store = memory_store(false);
            let tip = indexer(&store, source.clone(), settings).sync(None).await;
            assert_eq!(tip.unwrap(), Some(chain.tip_id()), "{at} {depth}");
            assert_eq!(content(&store), fresh_content(chain.clone()).await);
            assert_eq!(chain.tip_id().height, 141);
        }
    }
}

/// Whatever a node does that undo rows can follow, no person is needed; nor for a node that is away, or far behind and
/// catches up.
#[tokio::test(start_paused = true)]
async fn a_node_is_followed_through_restarts_and_changes_of_mind() {
    let chain = chain(14, 140);
    let source = Follow::new(&chain);
    let log = Log::catch();
    let shallow = StoreOptions {
        undo_depth: 12,
        ..options()
    };
    let store = Arc::new(
        Store::open_with_backend(redb::backends::InMemoryBackend::new(), &shallow).unwrap(),
    );
    let stop = Stop::new();
    let (sender, mut tips) = tokio::sync::mpsc::unbounded_channel();
    let settings = IndexSettings {
        poll_interval: Duration::from_secs(2),
        ..IndexSettings::default()
    };
    let indexer = Indexer::new(
        store.clone(),
        source.clone(),
        Arc::new(LibSecp256k1),
        settings,
        stop.clone(),
        move |report: &BatchReport| {
            let _ = sender.send(report.tip);
        },
    );
    let following = tokio::spawn(async move { indexer.follow(None).await });
    let mut reached = async |what: &str| {
        let tip = Some(chain.tip_id());
        while tips.recv().await.unwrap() != tip {}
        assert_eq!(store.snapshot().unwrap().tip(), tip, "{what}");
        let fresh = fresh_content(chain.clone()).await;
        assert_eq!(content(&store), fresh, "{what}");
    };
    reached("the first sync").await;
    let first = chain.tip_id();

    for round in 0..3 {
        chain.reorganize(3, 3, Orphaned::Resubmit).unwrap();
        reached("a branch of the same height").await;
        let second = chain.tip_id();
        chain.activate(first.hash).unwrap();
        reached("back to the older branch").await;
        chain.disconnect(5, Orphaned::Drop).unwrap();
        reached("the tip moves back").await;
        chain.activate(second.hash).unwrap();
        reached("and forth, to the other branch").await;
        chain.reorganize(4, 2, Orphaned::Drop).unwrap();
        reached("a shorter branch").await;

        let warned = log.lines("WARN").len();
        source.is_away.store(true, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_secs(600)).await;
        chain.activate(first.hash).unwrap();
        source.is_away.store(false, Ordering::SeqCst);
        reached("a restart, and a reorg meanwhile").await;
        // Until the next look.
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(log.lines("WARN").len(), warned + 1);
        assert_eq!(log.lines("answers again").len(), 2 * round + 1);

        // Far below what can be undone, without a block that contradicts the index.
        let warned = log.lines("WARN").len();
        chain.disconnect(40, Orphaned::Drop).unwrap();
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert_eq!(store.snapshot().unwrap().tip(), Some(first));
        assert_eq!(log.lines("WARN").len(), warned + 1);
        chain.activate(first.hash).unwrap();
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(log.lines("answers again").len(), 2 * round + 2);
        assert_eq!(store.snapshot().unwrap().tip(), Some(first));
    }
    chain.mine(1);
    reached("a new block").await;
    stop.request();
    following.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_sync_waits_for_a_node_that_is_far_behind_only_as_long_as_it_may() {
    let chain = chain(15, 120);
    let shallow = StoreOptions {
        undo_depth: 5,
        ..options()
    };
    let store = Arc::new(
        Store::open_with_backend(redb::backends::InMemoryBackend::new(), &shallow).unwrap(),
    );
    let settings = IndexSettings {
        give_up_after: Some(Duration::from_secs(60)),
        ..quick()
    };
    let indexer = indexer(&store, chain.clone(), settings);
    indexer.sync(None).await.unwrap();
    let before = content(&store);
    chain.disconnect(30, Orphaned::Drop).unwrap();
    let started = tokio::time::Instant::now();
    let error = indexer.sync(None).await.unwrap_err();
    assert!(error.to_string().contains("ends below"), "{error}");
    assert!(started.elapsed() >= Duration::from_secs(60));
    assert_eq!(content(&store), before);
}
