//! A server that learns who spends what after a replica has taken its rows.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bitcoin::Network;
use bitcoin::secp256k1::rand::rngs::StdRng;
use bitcoin::secp256k1::rand::{Rng, SeedableRng};
use spindex::BlockId;
use spindex::chain::made::simulated::{Orphaned, SimulatedChain};
use spindex::client::native::NativeOracle;
use spindex::client::{HttpOracle, HttpSettings};
use spindex::curve::libsecp256k1::LibSecp256k1;
use spindex::index::{Indexer, RowSource};
use spindex::replica::Upstream;
use spindex::runtime::Stop;
use spindex::store::{BlockSpends, Keep, Store, TweakForm};

use super::scene::{indexer, quick};
use super::spenders::{Eventful, commits, known_from, old_index};
use crate::between::Between;
use crate::support::index::{content, fill, fresh_content, memory_store};
use crate::support::random_seed;
use crate::support::served::{chain, serve};

fn upstream(url: &str) -> Arc<Upstream> {
    let settings = HttpSettings {
        attempts: 1,
        ..HttpSettings::default()
    };
    let http = Arc::new(HttpOracle::new(url, settings).unwrap());
    let server = Arc::new(NativeOracle::new(http, Network::Regtest));
    let (engine, form) = (Arc::new(LibSecp256k1), TweakForm::Point);
    Arc::new(Upstream::new(server, engine, Keep::Full, form))
}

async fn replicate(replica: &Arc<Store>, upstream: &Arc<Upstream>) {
    let indexer = indexer(replica, upstream.clone(), quick()).with_rows(upstream.clone());
    indexer.sync(None).await.unwrap();
}

/// Has a server's index learn what its node says down to a height.
async fn learn(store: &Arc<Store>, chain: &Arc<SimulatedChain>, down_to: u32) {
    let source = Eventful::new(chain, &[]);
    source.pruned_below.store(down_to, Ordering::SeqCst);
    let learning = indexer(store, source, quick());
    learning.fill_spenders(None).await.unwrap();
    assert_eq!(known_from(store), Some(down_to).filter(|from| *from > 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_learns_who_spends_what_once_its_server_has() {
    let chain = chain(61, 150);
    let (_folder, store) = old_index(chain.clone()).await;
    let address = serve(&chain, store.clone(), |router| router).await;
    let upstream = upstream(&format!("http://{address}"));
    let replica = memory_store();
    replicate(&replica, &upstream).await;
    assert!(known_from(&replica).is_some_and(|from| from > 140));
    assert_ne!(content(&replica), fresh_content(chain.clone()).await);

    let stop = Stop::new();
    let (engine, settings) = (Arc::new(LibSecp256k1), quick());
    let (own, source) = (replica.clone(), upstream.clone());
    let following = Indexer::new(own, source, engine, settings, stop.clone(), |_| ());
    let following = following.with_rows(upstream);
    let following = tokio::spawn(async move { following.follow(None).await });
    let mut commits = commits(&replica);
    // A part of it first; a reorganisation takes some of that away again.
    learn(&store, &chain, 90).await;
    while known_from(&replica).is_none_or(|from| from > 90) {
        commits.recv().await.unwrap();
    }
    chain.reorganize(70, 75, Orphaned::Resubmit).unwrap();
    fill(store.clone(), chain.clone()).await;
    learn(&store, &chain, 0).await;
    let is_done = |replica: &Store| {
        let tip = replica.snapshot().unwrap().tip();
        known_from(replica).is_none() && tip == Some(chain.tip_id())
    };
    while !is_done(&replica) {
        commits.recv().await.unwrap();
    }
    stop.request();
    following.await.unwrap().unwrap();
    assert_eq!(content(&replica), content(&store));
    assert_eq!(content(&replica), fresh_content(chain).await);
}

/// What a server says, block by block: it is right, or an error that names the server.
#[tokio::test(flavor = "multi_thread")]
async fn a_lie_about_who_spends_is_named_where_it_can_be() {
    let runs = match std::env::var("SPINDEX_REPLICA_LIES") {
        Ok(runs) => runs.parse().unwrap(),
        Err(_) => 150,
    };
    let chain = chain(62, 140);
    let (_folder, store) = old_index(chain.clone()).await;
    let between = Between::default();
    let address = serve(&chain, store.clone(), |router| between.around(router)).await;
    let url = format!("http://{address}");
    let upstream = upstream(&url);
    let blocks = chain.active_blocks();
    let ids: Vec<BlockId> = blocks.iter().map(|block| block.id).collect();
    let asked = ids[20..=100].to_vec();

    // As long as it does not know, it says so; what it knows is what the blocks say.
    learn(&store, &chain, 60).await;
    let said = upstream.clone().spends(asked.clone()).await;
    for (id, said) in asked.iter().zip(&said) {
        assert_eq!(said.is_ok(), id.height >= 60, "{said:?}");
    }
    learn(&store, &chain, 0).await;
    let said = upstream.clone().spends(asked.clone()).await;
    let truth: Vec<BlockSpends> = said.into_iter().map(Result::unwrap).collect();
    let of_blocks: Vec<_> = blocks[20..=100]
        .iter()
        .map(|block| block.with_prevouts().unwrap())
        .collect();
    let without_creation = |mut of: BlockSpends| {
        of.spends.iter_mut().for_each(|spend| spend.created = None);
        of
    };
    let derived = spindex::index::derive_spends(&of_blocks).into_iter();
    let derived: Vec<BlockSpends> = derived.map(without_creation).collect();
    assert_eq!(truth, derived);

    let mut rng = StdRng::seed_from_u64(random_seed());
    let (mut caught, mut harmless) = (0, 0);
    for run in 0..runs {
        let (place, bit) = (rng.r#gen::<f64>(), 1_u8 << rng.gen_range(0..8));
        let is_cut = rng.gen_ratio(1, 5);
        between.change(move |_, asked, mut body| {
            if asked.contains("/range/headers,spends") {
                let at = (place * body.len() as f64) as usize;
                match is_cut {
                    true => body.truncate(at),
                    false => body[at] ^= bit,
                }
            }
            body
        });
        let said = upstream.clone().spends(asked.clone()).await;
        assert!(said.len() <= asked.len(), "run {run}");
        if let Some(error) = said.iter().find_map(|said| said.as_ref().err()) {
            assert!(error.to_string().contains(&url), "run {run}: {error}");
            caught += 1;
        } else {
            harmless += 1;
        }
        let right = said.into_iter().zip(&truth);
        let right = right.filter_map(|(said, truth)| Some((said.ok()?, truth)));
        for (said, truth) in right {
            assert_eq!(said, *truth, "run {run}");
        }
    }
    // In the mark at the end, behind all that was asked for, in counts or in hashes of other columns.
    assert!(caught > harmless, "{caught} caught, {harmless} harmless");
}
