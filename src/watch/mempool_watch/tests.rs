//! Plans for a mempool that is made up, beside a slow twin that walks from each watch's start.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use bitcoin::hashes::Hash;
use bitcoin::{Network, OutPoint, Txid};
use secp256k1::rand::rngs::StdRng;
use secp256k1::rand::seq::SliceRandom;
use secp256k1::rand::{Rng, SeedableRng};

use super::open::OpenSeens;
use super::plan::{Planner, Unconfirmeds};
use crate::mempool::{Departure, Unconfirmed, UnconfirmedTweak};
use crate::process::{END_STATE, Rule, State};
use crate::store::watches::{Happening, Seen, Subject};
use crate::store::{Store, StoreOptions};
use crate::watch::{NewWatch, Registry};

#[derive(Default)]
struct Pool {
    held: BTreeMap<Txid, Arc<Unconfirmed>>,
    departed: HashMap<Txid, Departure>,
    is_whole: bool,
}

impl Unconfirmeds for Pool {
    fn spender(&self, outpoint: &OutPoint) -> Option<Arc<Unconfirmed>> {
        let mut held = self.held.values();
        held.find(|tx| tx.spends.contains(outpoint)).cloned()
    }

    fn has(&self, txid: &Txid) -> bool {
        self.held.contains_key(txid)
    }

    fn departure(&self, txid: &Txid) -> Option<Departure> {
        self.departed.get(txid).copied()
    }

    fn is_whole(&self) -> bool {
        self.is_whole
    }
}

impl Pool {
    /// Removes a transaction and what builds on it; why is noted, or forgotten.
    fn remove(&mut self, txid: Txid, why: Option<Departure>) {
        let mut next = vec![txid];
        while let Some(txid) = next.pop() {
            if self.held.remove(&txid).is_none() {
                continue;
            }
            self.departed.extend(why.map(|why| (txid, why)));
            let held = self.held.values();
            let children = held.filter(|tx| tx.spends.iter().any(|spent| spent.txid == txid));
            next.extend(children.map(|tx| tx.txid));
        }
    }
}

struct Scene {
    registry: Registry,
    watches: BTreeMap<u64, (OutPoint, Subject)>,
    pool: Pool,
    open: OpenSeens,
    rng: StdRng,
    next_txid: u32,
    _directory: tempfile::TempDir,
}

fn root(vout: u32) -> OutPoint {
    OutPoint::new(Txid::all_zeros(), vout)
}

impl Scene {
    fn new(seed: u64) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let options = StoreOptions {
            network: Network::Regtest,
            first_height: Some(1),
            keep: None,
            tweak_form: None,
            undo_depth: 100,
            cache_bytes: 0,
        };
        let store = Store::open(&directory.path().join("index"), &options).expect("opens");
        let registry = Registry::attach(Arc::new(store)).expect("attaches");
        let mut watches = BTreeMap::new();
        // Two owners follow the same in their own ways.
        for (owner, subject) in [
            (1, Subject::Process(Rule::default())),
            (2, Subject::Process(Rule { state: 1, carry: 2 })),
            (3, Subject::Outpoint),
        ] {
            let new = |vout| NewWatch {
                subject,
                outpoint: root(vout),
                created: None,
                confirmations: 0,
                tag: Vec::new(),
            };
            let new: Vec<_> = (0..3).map(new).collect();
            let registered = registry.register(owner, 10, &new, |_| ());
            for (new, registered) in new.iter().zip(registered.expect("registers")) {
                watches.insert(registered.watch, (new.outpoint, subject));
            }
        }
        Self {
            registry,
            watches,
            pool: Pool::default(),
            open: OpenSeens::default(),
            rng: StdRng::seed_from_u64(seed),
            next_txid: 1,
            _directory: directory,
        }
    }

    /// Something happens in the mempool.
    fn step(&mut self) {
        let rng = &mut self.rng;
        let mut txids: Vec<Txid> = self.pool.held.keys().copied().collect();
        txids.sort_unstable();
        if let (true, Some(txid)) = (rng.gen_bool(0.2), txids.choose(rng)) {
            let why = [Some(Departure::Evicted), Some(Departure::Expired), None];
            let why = why.choose(rng).copied().flatten();
            self.pool.remove(*txid, why);
            return;
        }
        let mut coins: Vec<OutPoint> = (0..3).map(root).collect();
        for txid in &txids {
            coins.extend((0..3).map(|vout| OutPoint::new(*txid, vout)));
        }
        let spent = coins[rng.gen_range(0..coins.len())];
        let mut txid = [0xaa; 32];
        txid[..4].copy_from_slice(&self.next_txid.to_be_bytes());
        self.next_txid += 1;
        let txid = Txid::from_byte_array(txid);
        let states = (0..4).filter(|_| rng.gen_bool(0.6));
        let states: Vec<u32> = states.collect();
        let states = states.into_iter().map(|vout| State {
            vout: vout + 1,
            id: [rng.gen_range(0..4); 32],
        });
        let states: Box<[State]> = states.collect();
        let tx = Unconfirmed {
            txid,
            spends: [spent].into(),
            outputs: rng.gen_range(5..7),
            states,
            tweak: UnconfirmedTweak::NotEligible,
            entered: 0,
        };
        let is_known = rng.gen_bool(0.7);
        if let Some(other) = self.pool.spender(&spent) {
            let why = is_known.then_some(Departure::Replaced { by: txid });
            self.pool.remove(other.txid, why);
        }
        self.pool.held.insert(txid, Arc::new(tx));
    }

    /// Says what there is to be said; how much that was.
    fn settle(&mut self, unspent: &HashSet<OutPoint>) -> (usize, HashSet<OutPoint>) {
        let all: BTreeSet<u64> = self.watches.keys().copied().collect();
        let mut asked = HashSet::new();
        let cursors = self.registry.append(|snapshot| {
            self.open.read(snapshot)?;
            let planner = Planner {
                snapshot,
                open: &self.open,
                unconfirmed: &self.pool,
                unspent,
            };
            let plan = planner.plan(&all)?;
            asked.extend(plan.asked);
            Ok(plan.events)
        });
        (cursors.expect("appends").len(), asked)
    }

    /// What the log says to be waiting: each has one end at most, and is there once.
    fn said(&self) -> BTreeMap<u64, Vec<Seen>> {
        let snapshot = self.registry.store.snapshot().expect("reads");
        let mut open: BTreeMap<u64, (u64, Seen)> = BTreeMap::new();
        for (cursor, event) in snapshot.events_after(0, usize::MAX).expect("reads") {
            match event.what {
                Happening::Seen(seen) => {
                    let again = (event.watch, seen.clone());
                    assert!(!open.values().any(|said| *said == again), "{again:?}");
                    open.insert(cursor, (event.watch, seen));
                }
                Happening::Replaced { of, .. } | Happening::Evicted { of, .. } => {
                    let (watch, _) = open.remove(&of).expect("it was open");
                    assert_eq!(watch, event.watch);
                }
                other => panic!("there is no block: {other:?}"),
            }
        }
        let mut said: BTreeMap<u64, Vec<Seen>> = BTreeMap::new();
        for (watch, seen) in open.into_values() {
            said.entry(watch).or_default().push(seen);
        }
        said
    }

    /// What waits, by the rule as it is written down.
    fn waiting(&self) -> BTreeMap<u64, Vec<Seen>> {
        let mut waiting: BTreeMap<u64, Vec<Seen>> = BTreeMap::new();
        for (watch, (start, subject)) in &self.watches {
            let (which, carry) = match subject {
                Subject::Outpoint => (0, None),
                Subject::Process(rule) => (rule.state as usize, Some(rule.carry)),
            };
            let mut tip = Some(*start);
            while let Some(tx) = tip.and_then(|tip| self.pool.spender(&tip)) {
                let state = tx.states.get(which).copied();
                let goes_on = state.is_some_and(|state| state.id != END_STATE);
                let next = carry
                    .filter(|carry| goes_on && tx.states.iter().all(|state| state.vout != *carry));
                waiting.entry(*watch).or_default().push(Seen {
                    txid: tx.txid,
                    spent: tip.expect("somebody spends it"),
                    state,
                    next,
                });
                tip = next.map(|vout| OutPoint::new(tx.txid, vout));
            }
        }
        waiting
    }
}

#[test]
fn the_log_says_what_waits() {
    let runs = std::env::var("SPINDEX_WATCH_RUNS");
    let runs: u64 = runs.map_or(3, |runs| runs.parse().expect("a number"));
    let mut said = 0;
    for seed in 0..runs {
        let mut scene = Scene::new(seed);
        for _ in 0..40 {
            for _ in 0..scene.rng.gen_range(1..6) {
                scene.step();
            }
            // As after a restart, when nothing is known but the log, and not all that waits has been read yet.
            if scene.rng.gen_bool(0.2) {
                scene.open = OpenSeens::default();
                scene.pool.departed.clear();
                scene.pool.is_whole = false;
                let hidden = std::mem::take(&mut scene.pool.held);
                said += scene.settle(&HashSet::new()).0;
                scene.pool.held = hidden;
            }
            scene.pool.is_whole = true;
            let (more, asked) = scene.settle(&HashSet::new());
            // There are no blocks: whatever stands in them is unspent.
            let (rest, _) = scene.settle(&asked);
            said += more + rest;
            let (mut found, mut expected) = (scene.said(), scene.waiting());
            for seen in found.values_mut().chain(expected.values_mut()) {
                seen.sort_unstable_by_key(|seen| seen.txid);
            }
            assert_eq!(found, expected, "seed {seed}");
            assert_eq!(scene.settle(&HashSet::new()).0, 0, "seed {seed}");
        }
    }
    assert!(said > 100, "{said}");
}
