//! What the log says of spends that wait, against a real node: an index that follows it, its registry, and the mempool.
//!
//! The index is brought forward step by step, so that whatever the mempool hears first, or the index, is a choice of the test.

use std::sync::Arc;
use std::time::Duration;

use bitcoin::{OutPoint, Transaction, TxOut, Txid};
use spindex::chain::made::simulated::builder::{
    InputKind, SpendableOutput, build_transaction, op_return_output,
};
use spindex::curve::libsecp256k1::LibSecp256k1;
use spindex::index::{IndexSettings, Indexer};
use spindex::mempool::{Mempool, MempoolSettings, Progress};
use spindex::process::{Rule, State};
use spindex::runtime::Stop;
use spindex::store::Store;
use spindex::store::watches::{Event, Gone, Happening, Seen, Subject};
use spindex::watch::{MempoolWatch, NewWatch, Registry};
use tokio::task::JoinHandle;

use super::scene::{FEE_SAT, PATIENCE, Scene, secret, signal};
use super::support::index::memory_store;

/// More than is registered here.
const MANY: u64 = 1_000;

struct Watched {
    scene: Scene,
    store: Arc<Store>,
    registry: Registry,
    looking: Option<(Arc<Mempool>, JoinHandle<()>)>,
    /// Events that were looked at already.
    compared: u64,
}

/// What an event is about, in short: two of the same are never expected in one place.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Said {
    Seen(Txid, OutPoint, Option<[u8; 32]>, Option<u32>),
    /// By the cursor of what was seen.
    Replaced(u64, Txid),
    Evicted(u64, Gone),
    Conflict(u64, Txid),
    Confirmed(Txid),
    Ended,
    Reorged(u64),
}

fn said(event: &Event) -> Said {
    match &event.what {
        Happening::Seen(Seen {
            txid,
            spent,
            state,
            next,
        }) => Said::Seen(*txid, *spent, state.map(|state: State| state.id), *next),
        Happening::Replaced { of, by } => Said::Replaced(*of, by.unwrap()),
        Happening::Evicted { of, why } => Said::Evicted(*of, *why),
        Happening::Conflict { of, by } => Said::Conflict(*of, *by),
        Happening::Confirmed(confirmed) => Said::Confirmed(confirmed.txid.unwrap()),
        Happening::Ended { .. } => Said::Ended,
        Happening::Reorged { of } => Said::Reorged(*of),
        Happening::Deep { .. } => panic!("nobody asked for it"),
    }
}

/// Moves a process on: output 0 is the next tip, output 1 carries the state id, if there is one.
fn step(tip: &SpendableOutput, state: Option<u8>, fee_sat: u64) -> (Transaction, SpendableOutput) {
    let value = tip.txout.value - bitcoin::Amount::from_sat(fee_sat);
    let script_pubkey = InputKind::P2tr.script_pubkey(&secret());
    let mut outputs = vec![TxOut {
        value,
        script_pubkey,
    }];
    outputs.extend(state.map(|byte| op_return_output(&[byte; 32])));
    let tx = build_transaction(std::slice::from_ref(tip), outputs).unwrap();
    let outpoint = OutPoint::new(tx.compute_txid(), 0);
    let next = SpendableOutput::new(InputKind::P2tr, secret(), outpoint, value.to_sat());
    (tx, next)
}

fn seen(tx: &Transaction, state: Option<u8>) -> Said {
    let spent = tx.input[0].previous_output;
    let next = state.map(|_| 0);
    Said::Seen(tx.compute_txid(), spent, state.map(|byte| [byte; 32]), next)
}

impl Watched {
    async fn new(args: &[&str]) -> Self {
        let store = memory_store();
        let registry = Registry::attach(store.clone()).unwrap();
        let mut watched = Self {
            scene: Scene::new(args),
            store,
            registry,
            looking: None,
            compared: 0,
        };
        watched.index().await;
        watched.look();
        watched
    }

    /// Brings the index to the node's tip.
    async fn index(&self) {
        let source = self.scene.source();
        let settings = IndexSettings {
            poll_interval: Duration::from_millis(5),
            ..IndexSettings::default()
        };
        let engine = Arc::new(LibSecp256k1);
        let (store, stop) = (self.store.clone(), Stop::new());
        let indexer = Indexer::new(store, source.clone(), engine, settings, stop, |_| ());
        let indexer = indexer.with_node(source);
        let tip = indexer.sync(None).await.unwrap();
        assert_eq!(tip, Some(self.scene.node.tip()));
    }

    /// Begins to look at the mempool, with nothing known but the log.
    fn look(&mut self) {
        let settings = MempoolSettings {
            // Departures are explained as soon as they can be, and words that nobody listens to yet are not missed for long.
            grace: Duration::from_millis(50),
            list_interval: Duration::from_secs(1),
            list_interval_alone: Duration::from_millis(100),
            share: 1.0,
            ..MempoolSettings::default()
        };
        let node = self.scene.source();
        let mempool = Arc::new(Mempool::follow(
            node.clone(),
            Some(signal(&self.scene.zmq)),
            Arc::new(LibSecp256k1),
            Some(self.store.clone()),
            settings,
        ));
        let watch = MempoolWatch::new(self.registry.clone(), mempool.clone(), node).unwrap();
        let looking = tokio::spawn(async move { watch.run().await.unwrap() });
        self.looking = Some((mempool, looking));
    }

    async fn look_away(&mut self) {
        let (_, looking) = self.looking.take().unwrap();
        looking.abort();
        assert!(looking.await.unwrap_err().is_cancelled());
    }

    fn register(&self, outpoint: OutPoint, subject: Subject) -> u64 {
        let new = NewWatch {
            subject,
            outpoint,
            created: None,
            confirmations: 0,
            tag: Vec::new(),
        };
        // Each has one watch of an outpoint.
        let owner = u32::from(subject == Subject::Outpoint);
        let registered = self.registry.register(owner, MANY, &[new], |_| ());
        let registered = registered.unwrap();
        registered[0].watch
    }

    fn process(&self, tip: &SpendableOutput) -> u64 {
        self.register(tip.outpoint, Subject::Process(Rule::default()))
    }

    /// The next events are these; the cursor of the first.
    async fn says(&mut self, expected: &[(u64, Said)]) -> u64 {
        let first = self.compared + 1;
        let upto = self.compared + expected.len() as u64;
        let mut last = self.registry.last_event();
        let waited = tokio::time::timeout(PATIENCE, last.wait_for(|last| *last >= upto)).await;
        let snapshot = self.store.snapshot().unwrap();
        let events = snapshot.events_after(self.compared, usize::MAX).unwrap();
        let found: Vec<_> = events.iter().map(|(_, e)| (e.watch, said(e))).collect();
        assert_eq!(found, expected);
        drop(waited.unwrap().unwrap());
        self.compared = upto;
        first
    }

    /// Waits until the view of the mempool has, or has not, a transaction.
    async fn until(&self, tx: &Transaction, is_there: bool) {
        let txid = tx.compute_txid();
        let mempool = &self.looking.as_ref().unwrap().0;
        let (snapshot, mut listener) = mempool.subscribe();
        let waiting = async {
            let mut is_here = snapshot.transactions.iter().any(|tx| tx.txid == txid);
            while is_here != is_there {
                let change = listener.next().await.unwrap();
                if change.txid() == txid {
                    is_here = mempool.transaction(&txid).is_some();
                }
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spend_is_seen_once_and_its_end_is_told() {
    let mut watched = Watched::new(&[]).await;
    let coin = watched.scene.coin();
    let process = watched.process(&coin);
    let outpoint = watched.register(coin.outpoint, Subject::Outpoint);

    // Two steps ahead of the chain, and the plain outpoint.
    let (a, after_a) = step(&coin, Some(1), FEE_SAT);
    watched.scene.send(&a);
    let single = |tx: &Transaction, state| {
        let txid = tx.compute_txid();
        Said::Seen(txid, tx.input[0].previous_output, state, None)
    };
    let at = watched
        .says(&[
            (process, seen(&a, Some(1))),
            (outpoint, single(&a, Some([1; 32]))),
        ])
        .await;
    let (b, _) = step(&after_a, Some(2), FEE_SAT);
    watched.scene.send(&b);
    let at_b = watched.says(&[(process, seen(&b, Some(2)))]).await;

    // Replaced, with what builds on it.
    let (c, after_c) = step(&coin, Some(3), 9 * FEE_SAT);
    watched.scene.send(&c);
    let by = c.compute_txid();
    let at_c = watched
        .says(&[
            (process, Said::Replaced(at, by)),
            (process, Said::Replaced(at_b, by)),
            (process, seen(&c, Some(3))),
            (outpoint, Said::Replaced(at + 1, by)),
            (outpoint, single(&c, Some([3; 32]))),
        ])
        .await
        + 2;

    // What is in a block is confirmed by the index alone, and the next step is seen before the index has the block.
    watched.scene.mine();
    watched.until(&c, false).await;
    let (d, _) = step(&after_c, None, FEE_SAT);
    watched.scene.send(&d);
    watched.until(&d, true).await;
    watched.index().await;
    let confirmed = watched
        .says(&[
            (process, Said::Confirmed(by)),
            (outpoint, Said::Confirmed(by)),
            (process, seen(&d, None)),
        ])
        .await;

    // A branch in which it waits again: what was seen before it was confirmed is seen again, and what builds on it waits on.
    let tip = watched.scene.node.tip();
    watched.scene.node.invalidate_block(tip.hash);
    watched.until(&c, true).await;
    watched.index().await;
    watched
        .says(&[
            (outpoint, Said::Reorged(confirmed + 1)),
            (process, Said::Reorged(confirmed)),
            (process, seen(&c, Some(3))),
            (outpoint, single(&c, Some([3; 32]))),
        ])
        .await;
    assert!(at_c < confirmed);

    // Another one is in the block instead: the index says so, and that the others have lost.
    let at = watched.compared - 1;
    let (e, _) = step(&coin, Some(4), 2 * FEE_SAT);
    let script = InputKind::P2wpkh.script_pubkey(&secret());
    let nodes = &watched.scene.node;
    nodes
        .generate_block(&script, std::slice::from_ref(&e))
        .unwrap();
    watched.index().await;
    let by = e.compute_txid();
    watched
        .says(&[
            (process, Said::Confirmed(by)),
            (outpoint, Said::Confirmed(by)),
            (process, Said::Conflict(confirmed + 2, by)),
            (process, Said::Conflict(at, by)),
            (outpoint, Said::Conflict(at + 1, by)),
        ])
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_went_while_nobody_looked_is_told_afterwards() {
    let args = ["-persistmempool=0"];
    let mut watched = Watched::new(&args).await;
    let coins = [(); 4].map(|()| watched.scene.coin());
    let processes: Vec<u64> = coins.iter().map(|coin| watched.process(coin)).collect();
    let steps: Vec<_> = (1..)
        .zip(&coins)
        .map(|(n, coin)| step(coin, Some(n), FEE_SAT))
        .collect();
    let mut seen_at = Vec::new();
    for ((n, watch), (tx, _)) in (1..).zip(&processes).zip(&steps) {
        watched.scene.send(tx);
        seen_at.push(watched.says(&[(*watch, seen(tx, Some(n)))]).await);
    }

    // Meanwhile the first is replaced, the second is in a block, the third waits on; a process is registered whose tip is
    // spent already.
    watched.look_away().await;
    let (replacing, _) = step(&coins[0], Some(9), 9 * FEE_SAT);
    watched.scene.send(&replacing);
    let script = InputKind::P2wpkh.script_pubkey(&secret());
    let block = std::slice::from_ref(&steps[1].0);
    watched.scene.node.generate_block(&script, block).unwrap();
    let late = watched.register(coins[3].outpoint, Subject::Outpoint);
    watched.look();
    let by = replacing.compute_txid();
    let fourth = steps[3].0.compute_txid();
    watched.until(&replacing, true).await;
    watched.until(&steps[3].0, true).await;
    // In the order of the transactions' arrival, which is the node's choice.
    let deadline = tokio::time::sleep(PATIENCE);
    let mut last = watched.registry.last_event();
    tokio::select! {
        found = last.wait_for(|last| *last >= watched.compared + 3) => drop(found.unwrap()),
        () = deadline => panic!("{:?}", watched.store.snapshot().unwrap().events_after(0, 99)),
    }
    let snapshot = watched.store.snapshot().unwrap();
    let events = snapshot.events_after(watched.compared, usize::MAX).unwrap();
    drop(snapshot);
    let of = |watch| {
        let own = events.iter().filter(move |(_, event)| event.watch == watch);
        own.map(|(_, event)| said(event)).collect::<Vec<_>>()
    };
    let first = [Said::Replaced(seen_at[0], by), seen(&replacing, Some(9))];
    assert_eq!(of(processes[0]), first);
    let spent = coins[3].outpoint;
    assert_eq!(of(late), [Said::Seen(fourth, spent, Some([4; 32]), None)]);
    assert_eq!(events.len(), 3, "{events:?}");
    watched.compared += 3;
    let by_cursor = |watch| {
        let own = events.iter().rev().find(|(_, event)| event.watch == watch);
        own.unwrap().0
    };
    let (replacing_at, late_at) = (by_cursor(processes[0]), by_cursor(late));
    // What is still to be told the end of is not cut off the log.
    let first = watched.registry.cut(u64::MAX).unwrap();
    assert!(first <= seen_at[1], "{first}");

    // Of the second nothing was to be said but this.
    watched.index().await;
    let second = steps[1].0.compute_txid();
    watched
        .says(&[(processes[1], Said::Confirmed(second))])
        .await;

    // The node forgets its mempool: what is unspent in its chain waits no longer.
    watched.look_away().await;
    let zmq = Scene::zmq_args(&watched.scene.zmq);
    let zmq = zmq.iter().map(String::as_str);
    let args: Vec<&str> = args.iter().copied().chain(zmq).collect();
    watched.scene.node.stop();
    watched.scene.node.start_again(&args);
    watched.look();
    let gone = |at| Said::Evicted(at, Gone::Unknown);
    watched
        .says(&[
            (processes[0], gone(replacing_at)),
            (processes[2], gone(seen_at[2])),
            (processes[3], gone(seen_at[3])),
            (late, gone(late_at)),
        ])
        .await;
    let mempool = &watched.looking.as_ref().unwrap().0;
    assert_eq!(mempool.status().progress, Progress::Following);

    // Nobody hears of a watch that was removed, and whoever registers again hears of what waits.
    watched.scene.send(&steps[2].0);
    let at = watched
        .says(&[(processes[2], seen(&steps[2].0, Some(3)))])
        .await;
    assert!(at > seen_at[2]);
    let removed = watched.registry.remove(None, &[processes[2]]).unwrap();
    assert_eq!(removed, [true]);
    let again = watched.process(&coins[2]);
    watched.says(&[(again, seen(&steps[2].0, Some(3)))]).await;
}
