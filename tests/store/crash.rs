//! Disks that fill up, fail or lose power in the middle of an update.
//!
//! Whatever call of the backend is hit, the index stands afterwards either before or after the update that was
//! running, and goes on from there to the same contents as one that was never disturbed.

use std::collections::BTreeSet;
use std::io;
use std::time::Duration;

use bitcoin::secp256k1::rand::{SeedableRng, rngs::StdRng};
use spindex::store::{BlockRecord, Store, StoreError, Update};

use crate::faulty_disk::{Accident, Backend, Fate};
use crate::support::{Model, SMALL, Size, forget_spenders, options_with};

const UNDO_DEPTH: u32 = 4;

/// One change of the file.
enum Step {
    Update {
        disconnect: u32,
        connect: Vec<BlockRecord>,
    },
    Compact,
    /// Blocks whose locators are left for later.
    Extend(Vec<BlockRecord>),
    Locate,
    /// Who spends what in blocks that were connected without.
    Fill(Vec<BlockRecord>),
}

impl Step {
    fn run(&self, store: &Store) -> Result<(), StoreError> {
        match self {
            Self::Update {
                disconnect,
                connect,
            } => {
                let disconnect = *disconnect;
                let update = Update {
                    disconnect,
                    connect,
                };
                store.apply(update).map(drop)
            }
            Self::Compact => store.compact(Duration::ZERO).map(drop),
            Self::Extend(connect) => store.extend(connect).map(drop),
            Self::Locate => store.locate_rest(|_| true),
            Self::Fill(records) => {
                let blocks = super::spenders::spends(records);
                let agreed = store.snapshot()?.agree_on_spends(blocks)?;
                store.fill_spenders(&agreed).map(drop)
            }
        }
    }
}

/// Batches and reorgs; large enough that one of them makes the file grow. After that one it is compacted. Then blocks
/// whose locators come later: with a step of their own, and with the update that needs them. The first blocks come without
/// spenders, which are filled in by and by.
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
        let mut connect = model.chain[at..].to_vec();
        if at == 0 {
            connect.iter_mut().for_each(forget_spenders);
        }
        steps.push(Step::Update {
            disconnect: disconnect as u32,
            connect,
        });
        if grow == 40 {
            steps.push(Step::Compact);
            steps.push(Step::Fill(model.chain[1..3].to_vec()));
        }
    }
    let mut extend = |model: &mut Model, grow: usize| {
        let at = model.chain.len();
        for _ in 0..grow {
            seed += 1;
            model.grow(seed, medium);
        }
        Step::Extend(model.with_heights(at))
    };
    steps.push(extend(&mut model, 3));
    steps.push(Step::Fill(model.chain[..1].to_vec()));
    steps.push(extend(&mut model, 2));
    steps.push(Step::Locate);
    steps.push(extend(&mut model, 2));
    model.disconnect(1);
    let at = model.chain.len();
    seed += 1;
    model.grow(seed, medium);
    steps.push(Step::Update {
        disconnect: 1,
        connect: model.chain[at..].to_vec(),
    });
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
    /// Which of them are syncs, counted from 0.
    syncs: Vec<usize>,
}

/// The history of an index without multiples, and of one with them.
fn undisturbed() -> [Undisturbed; 2] {
    [false, true].map(|multiples| {
        let steps = history(multiples);
        let backend = Backend::default();
        let store = open(&backend, multiples).expect("new index");
        let mut states = vec![contents(&store)];
        for step in &steps {
            step.run(&store).expect("valid update");
            states.push(contents(&store));
        }
        drop(store);
        let mut disk = backend.disk();
        Undisturbed {
            multiples,
            steps,
            states,
            calls: disk.calls,
            syncs: std::mem::take(&mut disk.syncs),
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

/// Runs the history until the accident happens, opens what is left, and finishes the history. Gives also whether any
/// write was torn.
fn disturb(history: &Undisturbed, call: usize, accident: Accident) -> (Left, bool) {
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
            match step.run(&store) {
                Ok(()) => done += 1,
                Err(error) => {
                    check_refusal(&error, accident, &what);
                    // Nothing more is taken, whether or not the disk would work again.
                    let again = step.run(&store);
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
    let disk = backend.disk();
    let fates = match accident {
        Accident::PowerLoss => Fate::of_whole_writes(disk.pending.len(), &mut rng),
        Accident::TornWrites => Fate::of_torn_writes(disk.pending.len(), &mut rng),
        Accident::Full(_) | Accident::Hiccup => vec![Fate::Whole; disk.pending.len()],
    };
    let is_torn = fates.iter().any(|fate| fate.is_torn());
    let bytes = disk.after_power_loss(&fates, &mut rng);
    drop(disk);
    let backend = Backend::holding(bytes);
    let store = match open(&backend, *multiples) {
        Ok(store) => store,
        // Only a file that never was an index may be refused.
        Err(StoreError::NotAnIndex { .. }) if !created => return (Left::Nothing, is_torn),
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
        step.run(&store)
            .unwrap_or_else(|error| panic!("{what}: {error}"));
    }
    assert_eq!(contents(&store), states[steps.len()], "{what}");
    assert_eq!(store.snapshot().expect("snapshot").locating(), None);
    (outcome, is_torn)
}

fn check_refusal(error: &StoreError, accident: Accident, what: &str) {
    let fits = match accident {
        Accident::Full(_) => matches!(error, StoreError::DiskFull { .. }),
        Accident::Hiccup | Accident::PowerLoss | Accident::TornWrites => {
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

/// The same and every sync: what makes a commit count is written just before one.
fn calls_and_syncs(history: &Undisturbed, spread: usize) -> BTreeSet<usize> {
    let syncs = history.syncs.iter().copied();
    calls(history.calls, spread).chain(syncs).collect()
}

#[test]
fn power_loss_leaves_the_state_before_or_after() {
    for history in undisturbed() {
        let left: Vec<Left> = calls_and_syncs(&history, 100)
            .into_iter()
            .map(|call| disturb(&history, call, Accident::PowerLoss).0)
            .collect();
        for outcome in [Left::Nothing, Left::Before, Left::After] {
            assert!(left.contains(&outcome), "{outcome:?} never happened");
        }
    }
}

#[test]
fn torn_writes_leave_the_state_before_or_after() {
    for history in undisturbed() {
        let left: Vec<(Left, bool)> = calls_and_syncs(&history, 150)
            .into_iter()
            .map(|call| disturb(&history, call, Accident::TornWrites))
            .collect();
        for outcome in [Left::Nothing, Left::Before, Left::After] {
            let torn = left.iter().filter(|left| **left == (outcome, true));
            assert!(torn.count() > 0, "{outcome:?} never happened");
        }
        let torn = left.iter().filter(|(_, is_torn)| *is_torn).count();
        assert!(torn * 2 > left.len(), "{torn} of {}", left.len());
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
