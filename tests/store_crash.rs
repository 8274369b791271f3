//! Disks that fill up, fail or lose power in the middle of an update.
//!
//! Whatever call of the backend is hit, the index stands afterwards either before or after the update that was
//! running, and goes on from there to the same contents as one that was never disturbed.

mod store_support;

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use bitcoin::secp256k1::rand::{Rng, SeedableRng, rngs::StdRng};
use redb::StorageBackend;
use spindex::store::{BlockRecord, Store, StoreError, Update};
use store_support::{Model, SMALL, Size, options_with};

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Accident {
    /// Writing and growing fail from some call on with this error; the rest works.
    Full(io::ErrorKind),
    /// One call fails, as with a bad sector or a flaky network disk; later ones would work.
    Hiccup,
    /// Power is lost: nothing works from some call on, and of what was written since the last sync anything
    /// may be missing.
    PowerLoss,
}

#[derive(Debug)]
enum Write {
    Bytes(usize, Vec<u8>),
    Length(usize),
}

#[derive(Debug, Default)]
struct Disk {
    /// What reads see.
    live: Vec<u8>,
    /// What the last sync made durable.
    durable: Vec<u8>,
    /// Changes since then.
    pending: Vec<Write>,
    /// Calls that change something, so far.
    calls: usize,
    accident: Option<(usize, Accident)>,
}

impl Disk {
    fn call(&mut self, is_write: bool) -> io::Result<()> {
        self.calls += 1;
        match self.accident {
            Some((at, Accident::Full(kind))) if is_write && self.calls > at => Err(kind.into()),
            Some((at, Accident::Hiccup)) if self.calls == at + 1 => {
                Err(io::ErrorKind::Other.into())
            }
            Some((at, Accident::PowerLoss)) if self.calls > at => {
                Err(io::ErrorKind::NotConnected.into())
            }
            _ => Ok(()),
        }
    }

    /// What is found after power is back: the durable bytes and some of the pending changes.
    fn after_power_loss(&self, rng: &mut StdRng) -> Vec<u8> {
        let mut bytes = self.durable.clone();
        let keep = [0.0, 0.5, 0.9, 1.0][rng.gen_range(0..4)];
        for write in &self.pending {
            if !rng.gen_bool(keep) {
                continue;
            }
            match write {
                Write::Length(len) => bytes.resize(*len, 0),
                // What lies behind a length that was never recorded is lost.
                Write::Bytes(offset, data) => {
                    let end = (offset + data.len()).min(bytes.len());
                    if let Some(place) = bytes.get_mut(*offset..end) {
                        place.copy_from_slice(&data[..place.len()]);
                    }
                }
            }
        }
        bytes
    }
}

#[derive(Debug, Clone, Default)]
struct Backend(Arc<Mutex<Disk>>);

impl Backend {
    fn holding(bytes: Vec<u8>) -> Self {
        Self(Arc::new(Mutex::new(Disk {
            durable: bytes.clone(),
            live: bytes,
            ..Disk::default()
        })))
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.0
            .lock()
            .expect("no test panics while it holds the disk")
    }

    fn fail_at(&self, call: usize, accident: Accident) {
        self.disk().accident = Some((call, accident));
    }
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        Ok(self.disk().live.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let disk = self.disk();
        let from = offset as usize;
        let bytes = disk.live.get(from..from + out.len());
        out.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut disk = self.disk();
        disk.call(true)?;
        disk.live.resize(len as usize, 0);
        disk.pending.push(Write::Length(len as usize));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut disk = self.disk();
        disk.call(false)?;
        disk.durable = disk.live.clone();
        disk.pending.clear();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut disk = self.disk();
        disk.call(true)?;
        let from = offset as usize;
        let place = disk.live.get_mut(from..from + data.len());
        place
            .ok_or(io::ErrorKind::UnexpectedEof)?
            .copy_from_slice(data);
        disk.pending.push(Write::Bytes(from, data.to_vec()));
        Ok(())
    }
}

const UNDO_DEPTH: u32 = 4;

/// One update of the history.
struct Step {
    disconnect: u32,
    connect: Vec<BlockRecord>,
}

impl Step {
    fn update(&self) -> Update<'_> {
        Update {
            disconnect: self.disconnect,
            connect: &self.connect,
        }
    }
}

/// Batches and reorgs; large enough that one of them makes the file grow.
fn history(multiples: bool) -> Vec<Step> {
    let medium = Size {
        transactions: 60,
        outputs: 3,
        spends: 100,
        filter_bytes: 9_000,
    };
    let mut model = Model::new(multiples);
    let mut seed = 0;
    let mut steps = Vec::new();
    for (disconnect, grow, size) in [
        (0, 4, SMALL),
        (0, 1, SMALL),
        (2, 3, SMALL),
        (0, 40, medium),
        (3, 2, medium),
        (0, 1, SMALL),
    ] {
        model.disconnect(disconnect);
        let at = model.chain.len();
        for _ in 0..grow {
            seed += 1;
            model.grow(seed, size);
        }
        steps.push(Step {
            disconnect: disconnect as u32,
            connect: model.chain[at..].to_vec(),
        });
    }
    steps
}

fn open(backend: &Backend, multiples: bool) -> Result<Store, StoreError> {
    let mut options = options_with(UNDO_DEPTH, multiples);
    // So small that pages are also written in the middle of a transaction.
    options.cache_bytes = 256 << 10;
    Store::open_with_backend(backend.clone(), &options)
}

fn contents(store: &Store) -> [u8; 32] {
    let snapshot = store.snapshot().expect("snapshot");
    snapshot.content_hash().expect("sound index")
}

/// A history and how it goes when nothing happens.
struct Undisturbed {
    multiples: bool,
    steps: Vec<Step>,
    /// Contents before the first step and after each.
    states: Vec<[u8; 32]>,
    /// Number of calls the whole takes.
    calls: usize,
}

/// The history of an index without multiples, and of one with them.
fn undisturbed() -> [Undisturbed; 2] {
    [false, true].map(|multiples| {
        let steps = history(multiples);
        let backend = Backend::default();
        let store = open(&backend, multiples).expect("new index");
        let mut states = vec![contents(&store)];
        for step in &steps {
            store.apply(step.update()).expect("valid update");
            states.push(contents(&store));
        }
        drop(store);
        let calls = backend.disk().calls;
        Undisturbed {
            multiples,
            steps,
            states,
            calls,
        }
    })
}

/// What an accident left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    /// A file that was not an index yet.
    Nothing,
    /// The state before the update that failed.
    Before,
    /// The state after it.
    After,
}

/// Runs the history until the accident happens, opens what is left, and finishes the history.
fn disturb(history: &Undisturbed, call: usize, accident: Accident) -> Left {
    let Undisturbed {
        multiples,
        steps,
        states,
        ..
    } = history;
    let what = format!("{accident:?} at call {call}, multiples: {multiples}");
    let backend = Backend::default();
    backend.fail_at(call, accident);
    let mut done = 0;
    let mut created = false;
    if let Ok(store) = open(&backend, *multiples) {
        created = true;
        for step in steps {
            match store.apply(step.update()) {
                Ok(_) => done += 1,
                Err(error) => {
                    check_refusal(&error, accident, &what);
                    // Nothing more is taken, whether or not the disk would work again.
                    let again = store.apply(step.update());
                    assert!(
                        matches!(again, Err(StoreError::Halted { .. })),
                        "{what}: {again:?}"
                    );
                    break;
                }
            }
        }
    }

    let mut rng = StdRng::seed_from_u64(call as u64);
    let left = match accident {
        Accident::PowerLoss => backend.disk().after_power_loss(&mut rng),
        _ => backend.disk().live.clone(),
    };
    let backend = Backend::holding(left);
    let store = match open(&backend, *multiples) {
        Ok(store) => store,
        // Only a file that never was an index may be refused.
        Err(StoreError::NotAnIndex { .. }) if !created => return Left::Nothing,
        Err(error) => panic!("{what}: {error}"),
    };
    let found = contents(&store);
    let mut outcome = Left::Before;
    if found != states[done] {
        assert_eq!(Some(&found), states.get(done + 1), "{what}");
        done += 1;
        outcome = Left::After;
    }
    for step in &steps[done..] {
        store
            .apply(step.update())
            .unwrap_or_else(|error| panic!("{what}: {error}"));
    }
    assert_eq!(contents(&store), states[steps.len()], "{what}");
    outcome
}

fn check_refusal(error: &StoreError, accident: Accident, what: &str) {
    let fits = match accident {
        Accident::Full(_) => matches!(error, StoreError::DiskFull { .. }),
        Accident::Hiccup | Accident::PowerLoss => {
            matches!(error, StoreError::Io { .. })
        }
    };
    assert!(fits, "{what}: {error:?}");
    assert!(error.to_string().contains("index.redb"), "{error}");
}

/// Every call near the start (creation, first commits), then a spread over the rest.
fn calls(total: usize, spread: usize) -> impl Iterator<Item = usize> {
    let step = (total / spread).max(1);
    (0..60).chain((60..total).step_by(step))
}

#[test]
fn power_loss_leaves_the_state_before_or_after() {
    for history in undisturbed() {
        let left: Vec<Left> = calls(history.calls, 150)
            .map(|call| disturb(&history, call, Accident::PowerLoss))
            .collect();
        for outcome in [Left::Nothing, Left::Before, Left::After] {
            assert!(left.contains(&outcome), "{outcome:?} never happened");
        }
    }
}

#[test]
fn full_disk_leaves_the_state_before_or_after() {
    let kinds = [
        io::ErrorKind::StorageFull,
        io::ErrorKind::QuotaExceeded,
        io::ErrorKind::FileTooLarge,
    ];
    for history in undisturbed() {
        for (index, call) in calls(history.calls, 40).enumerate() {
            disturb(&history, call, Accident::Full(kinds[index % 3]));
        }
    }
}

#[test]
fn a_single_failed_call_leaves_the_state_before_or_after() {
    for history in undisturbed() {
        for call in calls(history.calls, 40) {
            disturb(&history, call, Accident::Hiccup);
        }
    }
}
