//! A simulated chain and what indexes it, with settings that wait for nothing.

use std::sync::Arc;
use std::time::Duration;

use secp256k1::PublicKey;
use spindex::BlockId;
use spindex::chain::made::simulated::{SimulatedChain, SimulationSettings};
use spindex::chain::{BlockSource, Node};
use spindex::curve::libsecp256k1::LibSecp256k1;
use spindex::index::{BatchReport, IndexError, IndexSettings, Indexer};
use spindex::runtime::Stop;
use spindex::store::Store;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// Waits for nothing.
pub(crate) fn quick() -> IndexSettings {
    IndexSettings {
        poll_interval: Duration::from_millis(5),
        give_up_after: Some(Duration::ZERO),
        ..IndexSettings::default()
    }
}

/// An indexer that reports nothing.
pub(crate) fn indexer(
    store: &Arc<Store>,
    source: Arc<dyn BlockSource>,
    settings: IndexSettings,
) -> Indexer {
    Indexer::new(
        store.clone(),
        source,
        Arc::new(LibSecp256k1),
        settings,
        Stop::new(),
        |_| (),
    )
}

/// The first blocks of the chain of a seed.
pub(crate) fn chain(seed: u64, blocks: u32) -> Arc<SimulatedChain> {
    let chain = SimulatedChain::new(SimulationSettings {
        seed,
        ..SimulationSettings::default()
    });
    chain.mine(blocks);
    Arc::new(chain)
}

/// 2^64·T of a point T, x then y, in the plainest way.
pub(crate) fn doubled_64_times(point: &[u8; 64]) -> [u8; 64] {
    let sec1 = [&[4], &point[..]].concat();
    let mut point = PublicKey::from_slice(&sec1).unwrap();
    for _ in 0..64 {
        point = point.combine(&point).unwrap();
    }
    point.serialize_uncompressed()[1..].try_into().unwrap()
}

/// The first blocks of the chain of a seed, always the same; two transactions in each.
pub(crate) fn small_chain(seed: u64, blocks: u32) -> Arc<SimulatedChain> {
    let chain = SimulatedChain::new(SimulationSettings {
        seed,
        transactions_per_block: 2,
        ..SimulationSettings::default()
    });
    chain.mine(blocks);
    Arc::new(chain)
}

/// An indexer of a node's chain, and the tips of its commits.
pub(crate) fn reporting_indexer(
    store: &Arc<Store>,
    node: Arc<dyn Node>,
    settings: IndexSettings,
    stop: &Stop,
) -> (Indexer, UnboundedReceiver<Option<BlockId>>) {
    let (sender, tips) = unbounded_channel();
    let engine = Arc::new(LibSecp256k1);
    let on_batch = move |report: &BatchReport| {
        let _ = sender.send(report.applied.tip);
    };
    let indexer = Indexer::new(
        store.clone(),
        node.clone(),
        engine,
        settings,
        stop.clone(),
        on_batch,
    );
    (indexer.with_node(node), tips)
}

/// What `run` does.
pub(crate) async fn follow_from_the_start(indexer: Indexer) -> Result<(), IndexError> {
    indexer.check_source().await?;
    indexer.sync(None).await?;
    indexer.follow(None).await
}
