//! An index that follows a forest, with its registry, and the twin that says what its log should be.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bitcoin::OutPoint;
use secp256k1::rand::Rng;
use secp256k1::rand::seq::SliceRandom;
use spindex::curve::libsecp256k1::LibSecp256k1;
use spindex::index::{IndexError, IndexSettings, Indexer, derive_records};
use spindex::process::Rule;
use spindex::runtime::Stop;
use spindex::store::watches::Subject;
use spindex::store::{Applied, Store, StoreError, StoreOptions, TweakForm, Update};
use spindex::watch::{NewWatch, Registered, Registry, WatchError};

use crate::faulty_disk::Backend;
use crate::forest::Forest;
use crate::support::index::options;
use crate::twin::{Knowing, Twin, chain_of};

/// More than any of these tests registers.
pub(crate) const MANY: u64 = 1_000_000;

pub(crate) struct Scene {
    pub(crate) forest: Forest,
    pub(crate) disk: Backend,
    pub(crate) store: Arc<Store>,
    pub(crate) registry: Registry,
    pub(crate) twin: Twin,
    knowing: Knowing,
    /// Changes of the chain that the twin has not heard of yet.
    applied: Arc<Mutex<Vec<Applied>>>,
    /// Events that were compared already.
    compared: u64,
}

fn store_options() -> StoreOptions {
    StoreOptions {
        // So small that pages are also written in the middle of a transaction.
        cache_bytes: 512 << 10,
        // The least horizon.
        undo_depth: 20,
        ..options()
    }
}

pub(crate) fn open(disk: &Backend) -> Result<Arc<Store>, StoreError> {
    Ok(Arc::new(Store::open_with_backend(
        disk.clone(),
        &store_options(),
    )?))
}

fn listen(store: &Store, applied: &Arc<Mutex<Vec<Applied>>>) {
    let applied = Arc::clone(applied);
    store.on_applied(move |change| applied.lock().unwrap().push(change.clone()));
}

/// A process by the plain rule, called deep after some confirmations.
pub(crate) fn process(outpoint: OutPoint, confirmations: u32) -> NewWatch {
    NewWatch {
        subject: Subject::Process(Rule::default()),
        outpoint,
        created: None,
        confirmations,
        tag: Vec::new(),
    }
}

impl Scene {
    pub(crate) fn new(forest: Forest, knowing: Knowing) -> Self {
        let disk = Backend::default();
        let store = open(&disk).unwrap();
        let applied = Arc::default();
        listen(&store, &applied);
        Self {
            forest,
            registry: Registry::attach(store.clone()).unwrap(),
            store,
            disk,
            twin: Twin::new(knowing),
            knowing,
            applied,
            compared: 0,
        }
    }

    /// Closes the index and opens it again. Updates that come in between are nobody's who watches.
    pub(crate) fn reopen(&mut self, between: impl FnOnce(&mut Forest, &Arc<Store>)) {
        let empty = Backend::default();
        let store = open(&empty).unwrap();
        self.registry = Registry::attach(store.clone()).unwrap();
        drop(std::mem::replace(&mut self.store, store));
        let store = open(&self.disk).unwrap();
        between(&mut self.forest, &store);
        self.registry = Registry::attach(store.clone()).unwrap();
        listen(&store, &self.applied);
        self.store = store;
        self.twin
            .catch_up(&self.forest.chain, &self.store.snapshot().unwrap());
    }

    /// Opens the index from its disk, of which nothing is open.
    pub(crate) fn open_again(&mut self) {
        self.store = open(&self.disk).unwrap();
        self.registry = Registry::attach(self.store.clone()).unwrap();
        listen(&self.store, &self.applied);
    }

    /// Brings the index to the chain's tip.
    pub(crate) async fn sync(&self, batch_bytes: usize) -> Result<(), IndexError> {
        match self.knowing {
            Knowing::Blocks => sync(&self.forest, &self.store, batch_bytes).await,
            Knowing::Rows => Ok(sync_rows(&self.forest, &self.store)?),
        }
    }

    /// Lets the twin hear of what the index has done.
    pub(crate) fn tell(&mut self) {
        for applied in std::mem::take(&mut *self.applied.lock().unwrap()) {
            self.twin.apply(&self.forest.chain, &applied);
        }
    }

    /// Registers in the index and with the twin.
    pub(crate) fn register(
        &mut self,
        owner: u32,
        watches: &[NewWatch],
    ) -> Result<Vec<Registered>, WatchError> {
        self.tell();
        let registered = self.registry.register(owner, MANY, watches, |_| ())?;
        let snapshot = self.store.snapshot().unwrap();
        for (new, registered) in watches.iter().zip(&registered) {
            let is_known = self.twin.watches.contains_key(&registered.watch);
            assert_eq!(registered.is_new, !is_known);
            if registered.is_new {
                let chain = &self.forest.chain;
                self.twin
                    .register(chain, &snapshot, owner, registered.watch, new);
            }
        }
        self.twin.registered();
        Ok(registered)
    }

    pub(crate) fn remove(&mut self, watch: u64) {
        self.tell();
        let is_there = self.twin.watches.remove(&watch).is_some();
        let removed = self.registry.remove(None, &[watch]).unwrap();
        assert_eq!(removed, [is_there]);
    }

    /// Some outpoint of the past or present, to be watched in some way.
    pub(crate) fn any_watch(&mut self) -> NewWatch {
        let mut all: Vec<OutPoint> = self.forest.coins.keys().copied().collect();
        all.sort_unstable();
        let rng = &mut self.forest.rng;
        let outpoint = *all.choose(rng).unwrap();
        let subject = match rng.gen_range(0..8) {
            0 => Subject::Outpoint,
            1 => Subject::Process(Rule { state: 1, carry: 0 }),
            2 => Subject::Process(Rule { state: 0, carry: 1 }),
            3 => Subject::Process(Rule { state: 0, carry: 3 }),
            _ => Subject::Process(Rule::default()),
        };
        let confirmations = rng.gen_range(0..6);
        let asks = rng.gen_bool(0.5);
        let tag = outpoint.vout.to_le_bytes().to_vec();
        NewWatch {
            subject,
            outpoint,
            created: self.created(&outpoint).filter(|_| asks),
            confirmations,
            tag,
        }
    }

    fn created(&self, outpoint: &OutPoint) -> Option<u32> {
        let blocks = self.forest.chain.active_blocks();
        let block = blocks
            .iter()
            .find(|block| block.txids.contains(&outpoint.txid));
        block.map(|block| block.id.height)
    }

    /// The index's log and watches are those of the twin, and nothing in the file contradicts itself.
    pub(crate) fn compare(&mut self, what: &str) {
        self.tell();
        let snapshot = self.store.snapshot().unwrap();
        assert_eq!(self.twin.active, chain_of(&snapshot), "{what}");
        let last = snapshot.last_event().unwrap();
        let events = snapshot.events_after(self.compared, usize::MAX).unwrap();
        for (cursor, event) in events {
            let expected = self.twin.log.get(cursor as usize - 1);
            assert_eq!(Some(&event), expected, "{what}: event {cursor}");
        }
        assert_eq!(last, self.twin.log.len() as u64, "{what}");
        self.compared = last;
        assert_eq!(*self.registry.last_event().borrow(), last, "{what}");
        let watches = snapshot.watches(0, usize::MAX).unwrap();
        let expected = self.twin.watches.iter();
        let expected: Vec<_> = expected.map(|(watch, row)| (*watch, row.clone())).collect();
        assert_eq!(watches, expected, "{what}");
        let waiting = watches.iter().filter(|(_, row)| !row.is_over);
        assert_eq!(self.registry.waiting(), waiting.clone().count(), "{what}");
        for waits in waiting {
            let found = self.registry.waiting_for(&waits.1.tip).unwrap();
            assert!(found.contains(waits), "{what}: {waits:?}");
        }
        let audit = snapshot.audit(|_, _| {}).unwrap();
        assert_eq!(audit.wrong, [], "{what}");
    }
}

/// Brings an index to the tip by its blocks.
pub(crate) async fn sync(
    forest: &Forest,
    store: &Arc<Store>,
    batch_bytes: usize,
) -> Result<(), IndexError> {
    let settings = IndexSettings {
        batch_bytes,
        poll_interval: Duration::from_millis(5),
        give_up_after: Some(Duration::ZERO),
        ..IndexSettings::default()
    };
    let indexer = Indexer::new(
        store.clone(),
        forest.chain.clone(),
        Arc::new(LibSecp256k1),
        settings,
        Stop::new(),
        |_| (),
    );
    let indexer = indexer.with_node(forest.chain.clone());
    let tip = indexer.sync(None).await?;
    assert_eq!(tip, Some(forest.chain.tip_id()));
    Ok(())
}

/// The same by rows alone, as a replica has them.
pub(crate) fn sync_rows(forest: &Forest, store: &Store) -> Result<(), StoreError> {
    let ours = chain_of(&store.snapshot()?);
    let blocks = forest.chain.active_blocks();
    let same = ours
        .iter()
        .zip(&blocks)
        .take_while(|(id, block)| **id == block.id);
    let same = same.count();
    let new = blocks[same..]
        .iter()
        .map(|block| block.with_prevouts().unwrap());
    let new: Vec<_> = new.collect();
    let records = derive_records(&LibSecp256k1, &new, TweakForm::Point);
    let update = Update {
        disconnect: (ours.len() - same) as u32,
        connect: &records,
    };
    store.apply(update).map(drop)
}
