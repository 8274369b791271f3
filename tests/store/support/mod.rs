//! Indexes to be tested, with a naive one to compare them with.

mod comparison;
mod model;

use std::path::{Path, PathBuf};

use bitcoin::Network;
use redb::Database;
use redb::backends::InMemoryBackend;
use spindex::store::{BlockRecord, Store, StoreOptions, Summed, TweakForm, Update};

pub(crate) use comparison::{assert_equal, assert_scan, row_filters};
pub(crate) use model::{LARGE, MEDIUM, Model, SMALL, Size, forget_spenders};

/// Height of the first block in these tests.
pub(crate) const FIRST_HEIGHT: u32 = 7;

/// Options of these tests: an index without multiples.
pub(crate) fn options(undo_depth: u32) -> StoreOptions {
    options_with(undo_depth, false)
}

/// The form of tweaks as points, with or without multiples.
pub(crate) const fn points(multiples: bool) -> TweakForm {
    match multiples {
        false => TweakForm::Point,
        true => TweakForm::PointAndMultiple,
    }
}

/// Options of an index of points, with or without multiples.
pub(crate) fn options_with(undo_depth: u32, multiples: bool) -> StoreOptions {
    StoreOptions {
        network: Network::Regtest,
        first_height: Some(FIRST_HEIGHT),
        keep: None,
        tweak_form: Some(points(multiples)),
        undo_depth,
        cache_bytes: 8 << 20,
    }
}

/// An empty index in memory, without multiples.
pub(crate) fn memory_store(undo_depth: u32) -> Store {
    memory_store_with(undo_depth, false)
}

/// An empty index in memory.
pub(crate) fn memory_store_with(undo_depth: u32, multiples: bool) -> Store {
    let options = options_with(undo_depth, multiples);
    Store::open_with_backend(InMemoryBackend::new(), &options).expect("empty index")
}

/// What stands for the multiple of a tweak here, where tweaks are no points: the store does no arithmetic.
pub(crate) fn multiple_of(tweak: &[u8; 64]) -> [u8; 64] {
    tweak.map(|byte| byte.wrapping_mul(3) ^ 0x5a)
}

/// Connects blocks in one update.
pub(crate) fn connect(store: &Store, connect: &[BlockRecord]) {
    let disconnect = 0;
    store
        .apply(Update {
            disconnect,
            connect,
        })
        .expect("valid update");
}

/// What the store holds, hashed; fails if it contradicts itself.
pub(crate) fn content(store: &Store) -> [u8; 32] {
    let snapshot = store.snapshot().expect("snapshot");
    snapshot.content_hash().expect("sound index")
}

/// A place for an index file, gone with the directory.
pub(crate) fn place() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = directory.path().join("index.redb");
    (directory, path)
}

/// A short chain in which everything occurs.
pub(crate) fn small_chain(multiples: bool) -> Model {
    let mut model = Model::new(multiples);
    for seed in 0..6 {
        model.grow(seed, SMALL);
    }
    model
}

/// The chain that the files of older formats in `fixtures/store` hold: blocks of both sizes, several chunks.
pub(crate) fn released_chain(multiples: bool) -> Model {
    let mut model = Model::new(multiples);
    for (seed, size) in [SMALL, SMALL, MEDIUM, SMALL, MEDIUM, SMALL, SMALL, SMALL]
        .into_iter()
        .enumerate()
    {
        model.grow(100 + seed as u64, size);
    }
    model
}

/// A file that holds [`small_chain`].
pub(crate) fn small_index(path: &Path, multiples: bool) -> Model {
    let model = small_chain(multiples);
    let store = Store::open(path, &options_with(3, multiples)).expect("new index");
    connect(&store, &model.chain);
    model
}

/// The engine on an index file: one with sums, or one of an older format.
pub(crate) fn engine(path: &Path) -> Database {
    let start = std::fs::read(path).expect("a file");
    let opened = match start.starts_with(b"redb") {
        true => Database::open(path),
        false => {
            Database::builder().create_with_backend(Summed::file(path).expect("an index file"))
        }
    };
    opened.expect("a database")
}

/// Changes a file behind the store's back.
pub(crate) fn tamper(path: &Path, change: impl FnOnce(&redb::WriteTransaction)) {
    let database = engine(path);
    let write = database.begin_write().expect("write");
    change(&write);
    write.commit().expect("commit");
}
