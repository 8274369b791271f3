//! Indexes to compare with: built fresh from a source, or left behind by a process.

use std::path::Path;
use std::sync::Arc;

use bitcoin::Network;
use redb::TableHandle;
use spindex::BlockId;
use spindex::chain::BlockSource;
use spindex::curve::libsecp256k1::LibSecp256k1;
use spindex::index::{IndexSettings, Indexer};
use spindex::runtime::Stop;
use spindex::store::schema::META;
use spindex::store::{Store, StoreOptions, Summed, TweakForm};

/// Regtest, from the genesis block on.
pub(crate) fn options() -> StoreOptions {
    StoreOptions {
        network: Network::Regtest,
        first_height: Some(0),
        keep: None,
        tweak_form: None,
        undo_depth: 288,
        cache_bytes: 8 << 20,
    }
}

/// The storage engine on an index file, to change rows behind the store's back.
pub(crate) fn engine(path: &Path) -> redb::Database {
    let file = Summed::file(path).unwrap();
    redb::Database::builder().create_with_backend(file).unwrap()
}

/// Tables that format 5 does not have.
const AFTER_FORMAT_5: [&str; 13] = [
    "heads_v1",
    "heads_v2",
    "spenders",
    "states",
    "state_locator",
    "sections",
    "watches",
    "watch_starts",
    "events",
    "event_blocks",
    "deep_due",
    "consumers",
    "tokens",
];

/// Makes an index file one of format 5, as spindex wrote it before it kept who spends what.
pub(crate) fn make_format_5(path: &Path) {
    let database = engine(path);
    let write = database.begin_write().unwrap();
    let tables: Vec<_> = write.list_tables().unwrap().collect();
    for table in tables {
        if AFTER_FORMAT_5.contains(&table.name()) {
            assert!(write.delete_table(table).unwrap());
        }
    }
    let mut meta = write.open_table(META).unwrap();
    let format = 5_u32.to_le_bytes();
    meta.insert("schema", format.as_slice()).unwrap();
    drop(meta);
    write.commit().unwrap();
}

/// An empty index in memory, of points.
pub(crate) fn memory_store() -> Arc<Store> {
    memory_store_of(TweakForm::Point)
}

/// An empty index in memory.
pub(crate) fn memory_store_of(tweak_form: TweakForm) -> Arc<Store> {
    let backend = redb::backends::InMemoryBackend::new();
    let options = StoreOptions {
        tweak_form: Some(tweak_form),
        ..options()
    };
    Arc::new(Store::open_with_backend(backend, &options).unwrap())
}

/// An index of all the source has now, of points.
pub(crate) async fn fresh_store(source: Arc<dyn BlockSource>) -> Arc<Store> {
    fresh_store_of(TweakForm::Point, source).await
}

/// An index of all the source has now from a height on.
pub(crate) async fn fresh_store_from(
    source: Arc<dyn BlockSource>,
    first_height: u32,
) -> Arc<Store> {
    let options = StoreOptions {
        first_height: Some(first_height),
        ..options()
    };
    let backend = redb::backends::InMemoryBackend::new();
    let store = Arc::new(Store::open_with_backend(backend, &options).unwrap());
    fill(store, source).await
}

/// An index of all the source has now.
pub(crate) async fn fresh_store_of(
    tweak_form: TweakForm,
    source: Arc<dyn BlockSource>,
) -> Arc<Store> {
    fill(memory_store_of(tweak_form), source).await
}

/// Indexes all the source has now.
pub(crate) async fn fill(store: Arc<Store>, source: Arc<dyn BlockSource>) -> Arc<Store> {
    let engine = Arc::new(LibSecp256k1);
    let settings = IndexSettings::default();
    let indexer = Indexer::new(
        store.clone(),
        source.clone(),
        engine,
        settings,
        Stop::new(),
        |_| (),
    );
    let tip = indexer.sync(None).await.unwrap();
    assert_eq!(tip, Some(source.tip().await.unwrap()));
    store
}

/// One hash over every row of an index of all the source has now.
pub(crate) async fn fresh_content(source: Arc<dyn BlockSource>) -> [u8; 32] {
    let store = fresh_store(source).await;
    content(&store)
}

/// One hash over every row.
pub(crate) fn content(store: &Store) -> [u8; 32] {
    store.snapshot().unwrap().content_hash().unwrap()
}

/// The same of an index file that no process has open.
pub(crate) fn content_of_file(path: &Path) -> [u8; 32] {
    content(&Store::open_existing(path, &options()).unwrap())
}

/// What an index says, to be compared as a whole.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Contents {
    pub(crate) tip: BlockId,
    digest: [u8; 32],
    /// Over every row.
    hash: [u8; 32],
}

impl Contents {
    /// Of an index that has a block.
    pub(crate) fn of(store: &Store) -> Self {
        let snapshot = store.snapshot().unwrap();
        let tip = snapshot.tip().unwrap();
        assert_eq!(snapshot.locating(), None, "no sync ended");
        Self {
            tip,
            digest: snapshot
                .block(tip.height)
                .unwrap()
                .unwrap()
                .digest()
                .unwrap(),
            hash: content(store),
        }
    }

    /// The same of an index file that no process has open.
    pub(crate) fn of_file(path: &Path) -> Self {
        Self::of(&Store::open_existing(path, &options()).unwrap())
    }
}
