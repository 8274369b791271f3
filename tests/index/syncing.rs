//! Syncs in steps, over restarts, stops and reorgs: the judge is an index built fresh.

use std::sync::Arc;

use proptest::prelude::*;
use spindex::BlockId;
use spindex::chain::made::simulated::{Orphaned, SimulatedChain};
use spindex::curve::libsecp256k1::LibSecp256k1;
use spindex::index::{BatchReport, IndexError, IndexSettings, Indexer};
use spindex::runtime::Stop;
use spindex::store::{ScanColumns, Store, StoreOptions, TweakForm};

use super::scene::{chain, doubled_64_times, indexer, quick};
use crate::support::index::{
    content, fresh_content, fresh_store_of, memory_store, memory_store_of, options,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_sync_in_small_steps_and_over_restarts_gives_the_same_index() {
    for form in TweakForm::ALL {
        sync_in_small_steps(chain(3, 140), form).await;
    }
}

async fn sync_in_small_steps(chain: Arc<SimulatedChain>, form: TweakForm) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("index.redb");
    let created = StoreOptions {
        tweak_form: Some(form),
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
    let fresh = fresh_store_of(form, chain).await;
    assert_eq!(content(&store), content(&fresh));

    let columns = ScanColumns {
        compressed: !form.has_points(),
        multiples: form.has_multiples(),
        short_keys: true,
    };
    let batches = snapshot.scan(0..=140, columns).unwrap().unwrap();
    let mut tweaks = 0;
    for batch in batches {
        let batch = batch.unwrap();
        tweaks += batch.len();
        for (tweak, multiple) in batch.tweaks.iter().zip(&batch.multiples) {
            assert_eq!(doubled_64_times(tweak.as_bytes()), *multiple.as_bytes());
        }
        let expected = if form.has_multiples() { batch.len() } else { 0 };
        assert_eq!(batch.multiples.len(), expected);
    }
    assert_eq!(tweaks as u64, snapshot.counts().unwrap().transactions);
    assert!(tweaks > 100, "{tweaks}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_in_the_middle_keeps_what_is_committed() {
    let chain = chain(4, 120);
    let store = memory_store();
    let stop = Stop::new();
    let on_batch = {
        let stop = stop.clone();
        move |report: &BatchReport| {
            if report.applied.tip.is_some_and(|tip| tip.height >= 40) {
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
        form in prop::sample::select(&TweakForm::ALL[..]),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let chain = chain(seed, 130);
            let store = memory_store_of(form);
            let indexer = indexer(&store, chain.clone(), quick()).with_node(chain.clone());
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
            let fresh = fresh_store_of(form, chain).await;
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
