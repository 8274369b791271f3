//! What is derived and committed while the engine begins to compute wrongly.

use std::sync::Arc;
use std::time::Duration;

use bitcoin::Network;

use super::*;
use crate::chain::BlockSource;
use crate::chain::made::simulated::{SimulatedChain, SimulationSettings};
use crate::curve::failing::{counting, failing_after};
use crate::curve::libsecp256k1::LibSecp256k1;
use crate::index::{IndexSettings, Indexer};
use crate::runtime::Stop;
use crate::store::{Store, StoreOptions};

fn chain() -> Arc<SimulatedChain> {
    let chain = SimulatedChain::new(SimulationSettings {
        seed: 31,
        ..SimulationSettings::default()
    });
    chain.mine(150);
    Arc::new(chain)
}

/// What an index holds that was built with this engine, in many commits.
async fn content(chain: &Arc<SimulatedChain>, engine: Arc<dyn Engine>) -> [u8; 32] {
    let options = StoreOptions {
        network: Network::Regtest,
        first_height: Some(1),
        keep: None,
        tweak_form: Some(TweakForm::PointAndMultiple),
        undo_depth: 100,
        cache_bytes: 16 << 20,
    };
    let backend = redb::backends::InMemoryBackend::new();
    let store = Arc::new(Store::open_with_backend(backend, &options).expect("opens"));
    let settings = IndexSettings {
        // Some ten commits, each of enough blocks for batches.
        batch_bytes: 20_000,
        give_up_after: Some(Duration::ZERO),
        ..IndexSettings::default()
    };
    let source: Arc<dyn BlockSource> = chain.clone();
    let indexer = Indexer::new(store.clone(), source, engine, settings, Stop::new(), |_| ());
    let tip = indexer.sync(None).await.expect("syncs");
    assert_eq!(tip, Some(chain.tip_id()));
    let snapshot = store.snapshot().expect("opens");
    snapshot.content_hash().expect("holds together")
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_committed_that_a_failing_engine_computed() {
    let chain = chain();
    let exact = content(&chain, Arc::new(LibSecp256k1)).await;
    let used = counting();
    assert_eq!(content(&chain, used.engine()).await, exact);
    let used = used.count();
    assert!(used > 5_000, "{used}");
    for tenth in [0, 3, 5, 8] {
        // Somewhere within a commit.
        let correct = used / 10 * tenth + used / 37;
        let engine = failing_after(correct);
        let holds = content(&chain, engine.clone()).await;
        assert_eq!(holds, exact, "wrong from value {correct} of {used} on");
        assert!(engine.status().is_broken, "{correct} of {used}");
    }
}
