use bitcoin::BlockHash;
use bitcoin::hashes::Hash;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::mempool::transaction::UnconfirmedTweak;

const NO_LIMITS: Limits = Limits {
    transactions: usize::MAX,
    bytes: usize::MAX,
    departures: usize::MAX,
};

/// Outputs of every transaction here.
const OUTPUTS: u32 = 2;

fn txid(n: usize) -> Txid {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&(n as u64 + 1).to_le_bytes());
    Txid::from_byte_array(bytes)
}

fn block_id(n: u32) -> BlockId {
    let mut bytes = [0xb1; 32];
    bytes[..4].copy_from_slice(&n.to_le_bytes());
    BlockId {
        height: n,
        hash: BlockHash::from_byte_array(bytes),
    }
}

/// An output of a block.
fn coin(n: u32) -> OutPoint {
    OutPoint {
        txid: Txid::from_byte_array([0xc0; 32]),
        vout: n,
    }
}

fn tx(n: usize, spends: &[OutPoint], entered: u64) -> Arc<Unconfirmed> {
    Arc::new(Unconfirmed {
        txid: txid(n),
        spends: spends.into(),
        outputs: OUTPUTS,
        states: Box::default(),
        tweak: UnconfirmedTweak::NotEligible,
        entered,
    })
}

fn output(n: usize, vout: u32) -> OutPoint {
    OutPoint {
        txid: txid(n),
        vout,
    }
}

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn settling(now: u64) -> Settling {
    Settling {
        words: at(now),
        lists: at(now),
        blind: None,
        node_time: now,
        expiry: 1_000,
    }
}

/// What went, and why, in order of txid.
fn gone(steps: &[Step]) -> Vec<(Txid, Departure)> {
    let gone = steps.iter().filter_map(|step| match step {
        Step::Added(_) | Step::Resolved(_) => None,
        Step::Removed(tx, why) => Some((tx.txid, *why)),
    });
    let mut gone: Vec<_> = gone.collect();
    gone.sort_by_key(|(txid, _)| *txid);
    gone
}

#[test]
fn a_replacement_explains_what_left_before_it_and_all_that_builds_on_that() {
    let mut view = View::new(NO_LIMITS);
    // A chain of 30, whose last one comes first.
    for n in (1..30).rev() {
        view.insert(tx(n, &[output(n - 1, 0)], 0));
    }
    view.insert(tx(0, &[coin(0)], 0));
    // The node tells of some of them before the replacement, and of others not at all.
    for n in (0..30).step_by(2) {
        view.leave(&txid(n), at(1));
    }
    assert!(view.settle(&settling(0)).is_empty());
    assert_eq!(view.len(), 30);
    let steps = view.insert(tx(99, &[coin(1), coin(0)], 0));
    let why = Departure::Replaced { by: txid(99) };
    let mut wanted: Vec<_> = (0..30).map(|n| (txid(n), why)).collect();
    wanted.sort_by_key(|(txid, _)| *txid);
    assert_eq!(gone(&steps), wanted);
    assert!(matches!(steps.last(), Some(Step::Added(tx)) if tx.txid == txid(99)));
    assert_eq!(view.len(), 1);
    assert_eq!(view.departure(&txid(17)), Some(why));
    assert!(view.settle(&settling(9)).is_empty());
}

#[test]
fn blocks_confirm_and_conflict_and_leave_children_alone() {
    let mut view = View::new(NO_LIMITS);
    view.insert(tx(0, &[coin(0)], 0));
    view.insert(tx(1, &[output(0, 1)], 0));
    view.insert(tx(2, &[coin(2)], 0));
    view.insert(tx(3, &[output(2, 0)], 0));
    // Left by word, before that of the block.
    view.leave(&txid(3), at(1));
    let block = BlockSpends {
        id: block_id(7),
        transactions: vec![(txid(0), vec![coin(0)]), (txid(50), vec![coin(2)])],
    };
    let conflicted = Departure::Conflicted {
        by: txid(50),
        block: block_id(7),
    };
    let confirmed = Departure::Confirmed { block: block_id(7) };
    let mut wanted = vec![
        (txid(0), confirmed),
        (txid(2), conflicted),
        (txid(3), conflicted),
    ];
    wanted.sort_by_key(|(txid, _)| *txid);
    assert_eq!(gone(&view.connect(&block)), wanted);
    assert!(view.is_here(&txid(1)));
    // A reorganisation brings it back, and nothing is left of how it went.
    assert_eq!(view.insert(tx(0, &[coin(0)], 0)).len(), 1);
    assert_eq!(view.departure(&txid(0)), None);
}

#[test]
fn what_has_no_other_reason_was_evicted_or_expired_or_is_not_explained() {
    let mut view = View::new(NO_LIMITS);
    view.insert(tx(0, &[coin(0)], 100));
    view.insert(tx(1, &[output(0, 0)], 900));
    view.insert(tx(2, &[coin(2)], 900));
    view.insert(tx(3, &[coin(3)], 900));
    for n in 0..3 {
        view.leave(&txid(n), at(5));
    }
    // It has not been missing for long enough.
    view.leave(&txid(3), at(6));
    let at_1100 = Settling {
        node_time: 1_100,
        ..settling(5)
    };
    let mut wanted = vec![
        (txid(0), Departure::Expired),
        (txid(1), Departure::Expired),
        (txid(2), Departure::Evicted),
    ];
    wanted.sort_by_key(|(txid, _)| *txid);
    assert_eq!(gone(&view.settle(&at_1100)), wanted);
    // Something came and went unread after it had left.
    let blind = Settling {
        blind: Some(at(6)),
        ..settling(8)
    };
    assert_eq!(
        gone(&view.settle(&blind)),
        [(txid(3), Departure::Unexplained)]
    );
}

#[test]
fn what_there_is_no_room_for_is_counted() {
    let two = Limits {
        transactions: 2,
        ..NO_LIMITS
    };
    let mut view = View::new(two);
    for n in 0..5 {
        let steps = view.insert(tx(n, &[coin(n as u32)], 0));
        assert_eq!(steps.len(), usize::from(n < 2));
    }
    assert_eq!((view.len(), view.not_held()), (2, 3));
    view.leave(&txid(4), at(0));
    assert_eq!(view.not_held(), 2);
    // One that is not held replaces one that is, and has its room.
    let steps = view.insert(tx(9, &[coin(0)], 0));
    assert_eq!(steps.len(), 2);
    assert_eq!((view.len(), view.not_held()), (2, 2));
    let listed: HashSet<Txid> = [1, 2, 3, 9].map(txid).into();
    assert!(view.compare(&listed, at(1)).is_empty());
    assert_eq!((view.room(), view.not_held()), (0, 2));

    let bytes = tx(0, &[coin(0)], 0).held_bytes();
    let few = Limits {
        bytes: 3 * bytes - 1,
        ..NO_LIMITS
    };
    let mut view = View::new(few);
    for n in 0..9 {
        view.insert(tx(n, &[coin(n as u32)], 0));
    }
    assert_eq!(
        (view.len(), view.bytes(), view.not_held()),
        (3, 3 * bytes, 6)
    );
    // Gone, and its bytes with it.
    view.connect(&BlockSpends {
        id: block_id(1),
        transactions: (0..3).map(|n| (txid(n), Vec::new())).collect(),
    });
    assert_eq!((view.len(), view.bytes()), (0, 0));
    assert!(view.spenders.is_empty() && view.leaving.is_empty());
}

#[test]
fn what_could_not_be_resolved_is_read_again() {
    let mut view = View::new(NO_LIMITS);
    let known = tx(0, &[coin(0)], 0);
    let unknown = Arc::new(Unconfirmed {
        tweak: UnconfirmedTweak::Unresolved,
        ..(*known).clone()
    });
    assert_eq!(view.insert(unknown.clone()), [Step::Added(unknown.clone())]);
    assert_eq!(view.unresolved(), 1);
    let listed: HashSet<Txid> = [txid(0)].into();
    assert_eq!(view.compare(&listed, at(1)), [txid(0)]);
    assert!(view.insert(unknown.clone()).is_empty());
    assert_eq!(view.insert(known.clone()), [Step::Resolved(known.clone())]);
    assert_eq!(view.unresolved(), 0);
    assert_eq!(view.spender(&coin(0)), Some(&known));
    // It stays.
    assert!(view.insert(unknown).is_empty());
    assert!(view.compare(&listed, at(2)).is_empty());
    assert_eq!(view.get(&txid(0)), Some(&known));
}

/// One thing that a view is told.
#[derive(Debug, Clone)]
enum Told {
    Insert(Index),
    Leave(Index),
    Connect(Vec<Index>),
    /// A list of all that is here but for these, and of these others.
    Compare(Vec<Index>, Vec<Index>),
    Settle {
        age: u64,
        is_blind: bool,
    },
}

fn told() -> impl Strategy<Value = Told> {
    let some = |most| vec(any::<Index>(), 0..most);
    prop_oneof![
        8 => any::<Index>().prop_map(Told::Insert),
        4 => any::<Index>().prop_map(Told::Leave),
        1 => some(5).prop_map(Told::Connect),
        1 => (some(4), some(4)).prop_map(|(gone, new)| Told::Compare(gone, new)),
        2 => (0u64..4, any::<bool>()).prop_map(|(age, is_blind)| Told::Settle { age, is_blind }),
    ]
}

/// Transactions, each of which spends coins of blocks and outputs of those before it.
fn transactions() -> impl Strategy<Value = Vec<Arc<Unconfirmed>>> {
    vec(vec((any::<bool>(), any::<Index>()), 1..4), 1..14).prop_map(|all| {
        let of = |(n, inputs): (usize, Vec<(bool, Index)>)| {
            let mut spends: Vec<OutPoint> = inputs
                .into_iter()
                .map(|(builds, index)| match n > 0 && builds {
                    true => output(index.index(n), index.index(OUTPUTS as usize) as u32),
                    false => coin(index.index(5) as u32),
                })
                .collect();
            spends.sort();
            spends.dedup();
            tx(n, &spends, n as u64)
        };
        all.into_iter().enumerate().map(of).collect()
    })
}

/// The view in its plainest form: a list, gone through from end to end for every question.
#[derive(Default)]
struct Twin {
    held: Vec<(Arc<Unconfirmed>, Option<Duration>)>,
}

impl Twin {
    fn position(&self, txid: &Txid) -> Option<usize> {
        self.held.iter().position(|(tx, _)| tx.txid == *txid)
    }

    /// These and all that builds on them, by going over all again and again.
    fn family(&self, mut family: Vec<Txid>) -> Vec<Txid> {
        loop {
            let before = family.len();
            for (tx, _) in &self.held {
                let builds = tx.spends.iter().any(|spent| family.contains(&spent.txid));
                if builds && !family.contains(&tx.txid) {
                    family.push(tx.txid);
                }
            }
            if family.len() == before {
                family.retain(|txid| self.position(txid).is_some());
                return family;
            }
        }
    }

    fn remove(&mut self, txids: &[Txid], why: Departure) -> Vec<(Txid, Departure)> {
        self.held.retain(|(tx, _)| !txids.contains(&tx.txid));
        txids.iter().map(|txid| (*txid, why)).collect()
    }

    /// Those that spend one of these, but for this one.
    fn rivals(&self, spends: &[OutPoint], own: Txid) -> Vec<Txid> {
        let rivals = self.held.iter().map(|(tx, _)| tx);
        let rivals = rivals.filter(|tx| tx.txid != own);
        let rivals = rivals.filter(|tx| tx.spends.iter().any(|spent| spends.contains(spent)));
        rivals.map(|tx| tx.txid).collect()
    }

    fn insert(&mut self, tx: &Arc<Unconfirmed>) -> Vec<(Txid, Departure)> {
        if let Some(at) = self.position(&tx.txid) {
            self.held[at].1 = None;
            return Vec::new();
        }
        let replaced = self.family(self.rivals(&tx.spends, tx.txid));
        let gone = self.remove(&replaced, Departure::Replaced { by: tx.txid });
        self.held.push((Arc::clone(tx), None));
        gone
    }

    fn connect(&mut self, block: &BlockSpends) -> Vec<(Txid, Departure)> {
        let own: Vec<Txid> = block.transactions.iter().map(|(txid, _)| *txid).collect();
        let here = own.iter().filter(|txid| self.position(txid).is_some());
        let confirmed: Vec<Txid> = here.copied().collect();
        let mut gone = self.remove(&confirmed, Departure::Confirmed { block: block.id });
        for (txid, spends) in &block.transactions {
            let conflicted = self.family(self.rivals(spends, *txid));
            let why = Departure::Conflicted {
                by: *txid,
                block: block.id,
            };
            gone.extend(self.remove(&conflicted, why));
        }
        gone
    }

    fn settle(&mut self, settling: &Settling) -> Vec<(Txid, Departure)> {
        let left = self.held.iter().filter_map(|(tx, left)| {
            let left = left.filter(|left| *left <= settling.words)?;
            Some((Arc::clone(tx), left))
        });
        let left: Vec<(Arc<Unconfirmed>, Duration)> = left.collect();
        let is_old = |tx: &Unconfirmed| settling.node_time >= tx.entered + settling.expiry;
        let mut expired: Vec<Txid> = Vec::new();
        for _ in 0..=left.len() {
            for (tx, _) in &left {
                let builds = tx.spends.iter().any(|spent| expired.contains(&spent.txid));
                if (is_old(tx) || builds) && !expired.contains(&tx.txid) {
                    expired.push(tx.txid);
                }
            }
        }
        let mut gone = Vec::new();
        for (tx, at) in left {
            let why = match settling.blind {
                Some(blind) if blind >= at => Departure::Unexplained,
                _ if expired.contains(&tx.txid) => Departure::Expired,
                _ => Departure::Evicted,
            };
            gone.extend(self.remove(&[tx.txid], why));
        }
        gone
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(
        std::env::var("SPINDEX_MEMPOOL_CASES").map_or(300, |count| count.parse().unwrap())
    ))]

    #[test]
    fn a_view_is_what_a_list_would_be(
        transactions in transactions(),
        history in vec(told(), 0..60),
    ) {
        let mut view = View::new(NO_LIMITS);
        let mut twin = Twin::default();
        let pick = |index: &Index| &transactions[index.index(transactions.len())];
        for (now, told) in (0u64..).zip(&history) {
            let held_before: HashSet<Txid> = view.transactions().map(|tx| tx.txid).collect();
            let (steps, mut wanted) = match told {
                Told::Insert(index) => {
                    let tx = pick(index);
                    (view.insert(Arc::clone(tx)), twin.insert(tx))
                }
                Told::Leave(index) => {
                    let txid = pick(index).txid;
                    view.leave(&txid, at(now));
                    if let Some(place) = twin.position(&txid) {
                        twin.held[place].1.get_or_insert(at(now));
                    }
                    (Vec::new(), Vec::new())
                }
                Told::Connect(indices) => {
                    let mut own: Vec<_> = indices.iter().map(pick).collect();
                    own.sort_by_key(|tx| tx.entered);
                    own.dedup_by_key(|tx| tx.txid);
                    let block = BlockSpends {
                        id: block_id(now as u32),
                        transactions: own.iter().map(|tx| (tx.txid, tx.spends.to_vec())).collect(),
                    };
                    (view.connect(&block), twin.connect(&block))
                }
                Told::Compare(gone, new) => {
                    let gone: Vec<Txid> = gone.iter().map(|i| pick(i).txid).collect();
                    let here = view.transactions().map(|tx| tx.txid);
                    let mut listed: HashSet<Txid> = here.filter(|txid| !gone.contains(txid)).collect();
                    listed.extend(new.iter().map(|i| pick(i).txid));
                    let missing: HashSet<Txid> = view.compare(&listed, at(now)).into_iter().collect();
                    for (tx, left) in &mut twin.held {
                        match listed.contains(&tx.txid) {
                            true => *left = None,
                            false => { left.get_or_insert(at(now)); }
                        }
                    }
                    let unknown = listed.iter().filter(|txid| twin.position(txid).is_none());
                    prop_assert_eq!(missing, unknown.copied().collect());
                    (Vec::new(), Vec::new())
                }
                Told::Settle { age, is_blind } => {
                    let settling = Settling {
                        words: at(now.saturating_sub(*age)),
                        lists: at(now.saturating_sub(*age)),
                        blind: is_blind.then_some(at(now.saturating_sub(2))),
                        node_time: now,
                        expiry: 20,
                    };
                    let is_leaving = view.is_leaving(&settling);
                    let (steps, wanted) = (view.settle(&settling), twin.settle(&settling));
                    prop_assert_eq!(is_leaving, !wanted.is_empty());
                    (steps, wanted)
                }
            };
            wanted.sort_by_key(|(txid, _)| *txid);
            prop_assert_eq!(gone(&steps), wanted);
            // Whoever hears the steps knows what is held.
            let mut heard = held_before;
            for step in &steps {
                match step {
                    Step::Added(tx) => prop_assert!(heard.insert(tx.txid)),
                    Step::Resolved(tx) => panic!("{tx:?} was resolved before"),
                    Step::Removed(tx, why) => {
                        prop_assert!(heard.remove(&tx.txid));
                        prop_assert_eq!(view.departure(&tx.txid), Some(*why));
                    }
                }
            }
            let held: HashSet<Txid> = view.transactions().map(|tx| tx.txid).collect();
            prop_assert_eq!(&heard, &held);
            let by_twin: HashSet<Txid> = twin.held.iter().map(|(tx, _)| tx.txid).collect();
            prop_assert_eq!(&held, &by_twin);
            for (tx, left) in &twin.held {
                prop_assert_eq!(view.is_here(&tx.txid), left.is_none());
                for outpoint in &tx.spends {
                    prop_assert_eq!(view.spender(outpoint).map(|tx| tx.txid), Some(tx.txid));
                }
            }
            let spends: usize = twin.held.iter().map(|(tx, _)| tx.spends.len()).sum();
            prop_assert_eq!(view.spenders.len(), spends);
            let bytes: usize = twin.held.iter().map(|(tx, _)| tx.held_bytes()).sum();
            prop_assert_eq!(view.bytes(), bytes);
        }
    }
}
