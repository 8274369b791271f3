//! An index made from exported files. The judge is an index built fresh of the chain.

use std::sync::Arc;

use bitcoin::Network;
use spindex::chain::ChainError;
use spindex::client::native::NativeOracle;
use spindex::client::{HttpOracle, HttpSettings};
use spindex::curve::libsecp256k1::LibSecp256k1;
use spindex::index::IndexError;
use spindex::replica::Upstream;
use spindex::store::{Keep, Store, TweakForm};
use spindex::wire::native::column::Column;
use spindex::wire::native::manifest::{MANIFEST, chunk_file};

use crate::replica::{Served, empty};
use crate::scene::{indexer, quick};
use crate::support::files::{FileServer, Files};
use crate::support::index::content;

/// The last block of the files of a chain of 200 blocks.
const END: u32 = 191;

fn folder(files: &Files) -> Arc<NativeOracle> {
    Arc::new(NativeOracle::files(files.place(), Network::Regtest))
}

fn at(url: &str) -> Arc<NativeOracle> {
    let settings = HttpSettings {
        attempts: 1,
        ..HttpSettings::default()
    };
    let http = Arc::new(HttpOracle::new(url, settings).unwrap());
    Arc::new(NativeOracle::at(http, Network::Regtest))
}

/// What `spindex sync --source spindex` does, without patience.
async fn replicate(oracle: &Arc<NativeOracle>, store: &Arc<Store>) -> Result<(), IndexError> {
    let engine = Arc::new(LibSecp256k1);
    let upstream = Upstream::new(oracle.clone(), engine, store.keep(), store.tweak_form());
    let upstream = Arc::new(upstream);
    let indexer = indexer(store, upstream.clone(), quick()).with_rows(upstream);
    indexer.check_source().await?;
    indexer.sync(None).await.map(|_| ())
}

/// Of an index of the blocks up to a height.
async fn content_up_to(served: &Served, keep: Keep, height: u32) -> [u8; 32] {
    let fresh = empty(keep, TweakForm::Point);
    let indexer = indexer(&fresh, served.chain.clone(), quick());
    let tip = indexer.sync(Some(height)).await.unwrap();
    assert_eq!(tip.map(|tip| tip.height), Some(height));
    content(&fresh)
}

fn tip(store: &Store) -> Option<u32> {
    store.snapshot().unwrap().tip().map(|tip| tip.height)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_of_files_is_that_of_their_blocks_and_grows_with_them() {
    let served = Served::new(20, 200, TweakForm::Point).await;
    let files = Files::of(&served.store, 0).await;
    let server = files.serve().await;
    let mut end = END;
    let oracles = [folder(&files), at(&server.url)];
    let replicas = [Keep::Full, Keep::Tweaks].map(|keep| (keep, empty(keep, TweakForm::Point)));
    for _ in 0..2 {
        for ((keep, replica), oracle) in replicas.iter().zip(&oracles) {
            replicate(oracle, replica).await.unwrap();
            assert_eq!(content(replica), content_up_to(&served, *keep, end).await);
            // Nothing more is there yet.
            replicate(oracle, replica).await.unwrap();
            assert_eq!(tip(replica), Some(end));
        }
        served.chain.mine(70);
        served.catch_up().await;
        files.export(&served.store, 0).await;
        end = files.manifest().last_block.height;
        assert!(end > END);
    }
    // The files are those of an index that keeps everything, but for an index of tweaks they are enough.
    for ((keep, replica), oracle) in replicas.iter().zip(&oracles) {
        replicate(oracle, replica).await.unwrap();
        assert_eq!(content(replica), content_up_to(&served, *keep, end).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_after_the_files_is_taken_from_the_server_behind_them() {
    let served = Served::new(21, 200, TweakForm::Point).await;
    let files = Files::of(&served.store, 0).await;
    let both = Arc::new(folder(&files).before(at(&served.url)));
    let replica = empty(Keep::Full, TweakForm::Point);
    replicate(&both, &replica).await.unwrap();
    assert_eq!(content(&replica), content(&served.store));
    served.chain.mine(3);
    served.catch_up().await;
    replicate(&both, &replica).await.unwrap();
    assert_eq!(content(&replica), content(&served.store));
    // Nobody is asked behind a server.
    let shadowed = Arc::new(at(&served.url).before(folder(&files)));
    match replicate(&shadowed, &replica).await {
        Err(IndexError::Chain(ChainError::Setup(text))) => {
            assert!(text.contains("--upstream"), "{text}");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_file_is_named_and_nothing_of_it_kept() {
    let served = Served::new(22, 200, TweakForm::Point).await;
    let files = Files::of(&served.store, 0).await;
    let expected = content_up_to(&served, Keep::Full, END).await;
    let taken = [
        Column::Headers,
        Column::Tweaks,
        Column::Outputs,
        Column::Spends,
        Column::NewUtxos,
    ];
    let mut names = taken.map(|column| chunk_file(1, column)).to_vec();
    names.push(MANIFEST.to_owned());
    names.push(files.manifest().lists[0].file());
    for (number, name) in names.into_iter().enumerate() {
        let was = files.read(&name);
        // Every kind of damage is tried with scans.
        match number % 2 {
            0 => files.remove(&name),
            _ => {
                let mut bytes = was.clone();
                let at = bytes.len() / 2;
                bytes[at] ^= 4;
                files.write(&name, &bytes);
            }
        }
        let replica = empty(Keep::Full, TweakForm::Point);
        match replicate(&folder(&files), &replica).await {
            Err(IndexError::Chain(ChainError::Mismatch(text))) => {
                assert!(text.contains(&name), "{text}");
            }
            other => panic!("{name}: {other:?}"),
        }
        assert!(tip(&replica).is_none_or(|tip| tip < 64), "{name}");
        let both = Arc::new(folder(&files).before(at(&served.url)));
        let mended = empty(Keep::Full, TweakForm::Point);
        replicate(&both, &mended).await.unwrap();
        assert_eq!(content(&mended), content(&served.store), "{name}");
        files.write(&name, &was);
        replicate(&folder(&files), &replica).await.unwrap();
        assert_eq!(content(&replica), expected, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sync_that_is_broken_off_goes_on() {
    let served = Served::new(23, 200, TweakForm::Point).await;
    let files = Files::of(&served.store, 0).await;
    let server: FileServer = files.serve().await;
    let replica = empty(Keep::Full, TweakForm::Point);
    for chunk in [0, 1, 2] {
        server.stall_at(&chunk_file(chunk, Column::Spends));
        let oracle = at(&server.url);
        tokio::select! {
            result = replicate(&oracle, &replica) => panic!("{result:?}"),
            () = server.stalled() => {}
        }
    }
    replicate(&at(&server.url), &replica).await.unwrap();
    let expected = content_up_to(&served, Keep::Full, END).await;
    assert_eq!(content(&replica), expected);
}
