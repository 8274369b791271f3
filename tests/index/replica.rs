//! An index made from another one, through reorgs and whatever a server can do. The judge is an index built fresh of the
//! chain.

use std::sync::Arc;

use bitcoin::Network;
use bitcoin::secp256k1::rand::rngs::StdRng;
use bitcoin::secp256k1::rand::{Rng, SeedableRng};
use spindex::chain::ChainError;
use spindex::chain::made::simulated::{Orphaned, SimulatedChain};
use spindex::client::native::NativeOracle;
use spindex::client::{HttpOracle, HttpSettings};
use spindex::curve::libsecp256k1::LibSecp256k1;
use spindex::index::IndexError;
use spindex::replica::Upstream;
use spindex::store::{Keep, Store, StoreOptions, TweakForm};

use crate::between::Between;
use crate::scene::{indexer, quick};
use crate::support::index::{content, fill, fresh_store_of, options};
use crate::support::served::{chain, serve};
use crate::support::{index, random_seed};

/// A server over an index of a chain, and what stands in front of it.
pub(crate) struct Served {
    pub(crate) chain: Arc<SimulatedChain>,
    pub(crate) store: Arc<Store>,
    between: Between,
    pub(crate) url: String,
}

impl Served {
    pub(crate) async fn new(seed: u64, blocks: u32, tweak_form: TweakForm) -> Self {
        let chain = chain(seed, blocks);
        let store = fresh_store_of(tweak_form, chain.clone()).await;
        let between = Between::default();
        let address = serve(&chain, store.clone(), |router| between.around(router)).await;
        Self {
            chain,
            store,
            between,
            url: format!("http://{address}"),
        }
    }

    /// Follows its chain.
    pub(crate) async fn catch_up(&self) {
        fill(self.store.clone(), self.chain.clone()).await;
    }

    fn upstream(&self, store: &Store) -> Arc<Upstream> {
        let settings = HttpSettings {
            attempts: 1,
            ..HttpSettings::default()
        };
        let http = HttpOracle::new(&self.url, settings).unwrap();
        let server = NativeOracle::new(Arc::new(http), Network::Regtest);
        Arc::new(Upstream::new(
            server,
            Arc::new(LibSecp256k1),
            store.keep(),
            store.tweak_form(),
        ))
    }

    /// What `spindex sync --source spindex` does, without patience.
    async fn replicate(&self, store: &Arc<Store>) -> Result<(), IndexError> {
        let upstream = self.upstream(store);
        let indexer = indexer(store, upstream.clone(), quick()).with_rows(upstream);
        indexer.check_source().await?;
        indexer.sync(None).await.map(|_| ())
    }
}

pub(crate) fn empty(keep: Keep, tweak_form: TweakForm) -> Arc<Store> {
    let options = StoreOptions {
        keep: Some(keep),
        tweak_form: Some(tweak_form),
        ..options()
    };
    let backend = redb::backends::InMemoryBackend::new();
    Arc::new(Store::open_with_backend(backend, &options).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_is_the_index_that_its_blocks_make() {
    for form in TweakForm::ALL {
        let served = Served::new(3, 200, form).await;
        for keep in [Keep::Full, Keep::Tweaks] {
            for own in TweakForm::ALL {
                let replica = empty(keep, own);
                served.replicate(&replica).await.unwrap();
                let fresh = fill(empty(keep, own), served.chain.clone()).await;
                assert_eq!(content(&replica), content(&fresh), "{keep:?} {own:?}");
                let snapshot = replica.snapshot().unwrap();
                let agrees = served.upstream(&replica).agrees(&snapshot).await.unwrap();
                let expected = snapshot.tip().filter(|_| keep == Keep::Full);
                assert_eq!(agrees, Ok(expected));
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_follows_reorgs_and_a_chain_that_became_shorter() {
    let served = Served::new(4, 150, TweakForm::Point).await;
    let replica = empty(Keep::Full, TweakForm::Point);
    served.replicate(&replica).await.unwrap();
    for (depth, blocks) in [(1, 2), (7, 8), (30, 90), (100, 101), (3, 70)] {
        served
            .chain
            .reorganize(depth, blocks, Orphaned::Resubmit)
            .unwrap();
        served.catch_up().await;
        served.replicate(&replica).await.unwrap();
        assert_eq!(content(&replica), content(&served.store), "{depth}");
    }
    // Heads that differ are seen, though both are of the same blocks.
    let other = index::memory_store();
    fill(other.clone(), served.chain.clone()).await;
    let snapshot = other.snapshot().unwrap();
    let upstream = served.upstream(&other);
    assert_eq!(
        upstream.agrees(&snapshot).await.unwrap(),
        Ok(snapshot.tip())
    );
}

/// One byte of one answer changed: it is an error that names the server, nothing that is wrong is kept, and the next
/// try goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_lie_is_named_and_never_kept() {
    let runs = match std::env::var("SPINDEX_REPLICA_LIES") {
        Ok(runs) => runs.parse().unwrap(),
        Err(_) => 60,
    };
    let served = Served::new(5, 140, TweakForm::Point).await;
    let fresh = content(&served.store);
    let mut rng = StdRng::seed_from_u64(random_seed());
    let (mut caught, mut harmless) = (0, 0);
    for run in 0..runs {
        let (place, bit) = (rng.r#gen::<f64>(), 1_u8 << rng.gen_range(0..8));
        let told = Arc::new(std::sync::Mutex::new(None));
        served.between.change({
            let told = told.clone();
            move |_, asked, mut body| {
                let mut told = told.lock().unwrap();
                if told.is_none() && asked.contains("/range/headers,tweaks") {
                    let at = (place * body.len() as f64) as usize;
                    body[at] ^= bit;
                    *told = Some((at, body.len()));
                }
                body
            }
        });
        let replica = empty(Keep::Full, TweakForm::Compressed);
        match served.replicate(&replica).await {
            Ok(()) => {
                // In the mark at the end, behind all that was asked for.
                let (at, length) = told.lock().unwrap().unwrap();
                assert!(length - at <= 60, "run {run}: byte {at} of {length}");
                harmless += 1;
            }
            Err(IndexError::Chain(error)) => {
                let text = error.to_string();
                assert!(text.contains(&served.url), "run {run}: {text}");
                caught += 1;
            }
            Err(error) => panic!("run {run}: {error:?}"),
        }
        served.between.change(|_, _, body| body);
        served.replicate(&replica).await.unwrap();
        let tip = |store: &Store| store.snapshot().unwrap().tip();
        assert_eq!(tip(&replica), tip(&served.store));
        if run % 10 == 0 {
            let own = empty(Keep::Full, TweakForm::Compressed);
            let expected = fill(own, served.chain.clone()).await;
            assert_eq!(content(&replica), content(&expected));
        }
    }
    assert_eq!(content(&served.store), fresh);
    assert!(
        caught > 10 * harmless,
        "{caught} caught, {harmless} harmless"
    );
}

/// An answer that ends early, at any byte, and one of another network.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_cut_off_goes_on_where_it_ended() {
    let served = Served::new(6, 180, TweakForm::Point).await;
    let mut rng = StdRng::seed_from_u64(random_seed());
    let replica = empty(Keep::Full, TweakForm::Point);
    let mut reached = Vec::new();
    while replica.snapshot().unwrap().tip() != served.store.snapshot().unwrap().tip() {
        // The later it is, the more is left.
        let place = rng.gen_range(0.0..1.1) + 0.1 * reached.len() as f64;
        served.between.change(move |_, asked, mut body| {
            if asked.contains("/range/headers,tweaks") {
                body.truncate((place * body.len() as f64) as usize);
            }
            body
        });
        let result = served.replicate(&replica).await;
        let height = replica.snapshot().unwrap().tip().map(|tip| tip.height);
        match result {
            Ok(()) => {}
            Err(IndexError::Chain(ChainError::Unreachable(text))) => {
                assert!(text.contains("broke off"), "{text}");
            }
            Err(error) => panic!("{error:?}"),
        }
        reached.push(height);
        assert!(reached.len() < 50, "{reached:?}");
    }
    assert!(reached.is_sorted(), "{reached:?}");
    assert_eq!(content(&replica), content(&served.store));

    served
        .between
        .change(|_, asked, body| match asked.contains("/info") {
            true => String::from_utf8(body)
                .unwrap()
                .replace("regtest", "signet")
                .into_bytes(),
            false => body,
        });
    let error = served.replicate(&replica).await.unwrap_err();
    assert!(
        matches!(&error, IndexError::Chain(ChainError::Setup(text)) if text.contains("--upstream")),
        "{error:?}"
    );
}
