//! A crowded mempool: how much memory and time it takes.
//!
//! By default it is a small crowd, held to what it should be. With `SPINDEX_CROWD` set to a number of transactions,
//! `SPINDEX_CROWD_SECONDS` to a time and `SPINDEX_CROWD_RATE` to comings a second, as many of which go, it is held to the
//! same and prints what it takes. With `SPINDEX_CROWD_ROUNDS` a chain is indexed as often beside it, in turns while the crowd
//! stands still and while it comes and goes.

use std::collections::{HashMap, VecDeque};
use std::fs;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bitcoin::consensus::serialize;
use bitcoin::hashes::{Hash, sha256};
use bitcoin::key::TweakedPublicKey;
use bitcoin::{
    Amount, BlockHash, Network, OutPoint, ScriptBuf, Sequence, Transaction, TxIn, TxOut, Txid,
    Witness, absolute, transaction,
};
use futures::FutureExt;
use futures::future::BoxFuture;
use secp256k1::{SECP256K1, SecretKey};
use spindex::BlockId;
use spindex::chain::made::simulated::{SimulatedChain, SimulationSettings};
use spindex::chain::mempool_signal::{MempoolChange, MempoolSignal, MempoolWord};
use spindex::chain::{
    BlockSource, BlockWithPrevouts, BroadcastError, ChainError, MempoolListing, Node,
};
use spindex::curve::libsecp256k1::LibSecp256k1;
use spindex::mempool::{Mempool, MempoolSettings, Snapshot, UnconfirmedTweak};
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::Instant;

use super::scene::NEVER;
use crate::support::index::fresh_store;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

fn tip() -> BlockId {
    BlockId {
        height: 900_000,
        hash: BlockHash::from_byte_array([9; 32]),
    }
}

/// A node with as many transactions as one likes: each follows from its number, and half of them have a taproot output.
struct Crowd {
    /// Scripts that coins have.
    scripts: Vec<ScriptBuf>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    by_txid: HashMap<Txid, u64>,
    in_order: VecDeque<Txid>,
    next: u64,
    sequence: u64,
}

impl Crowd {
    fn new() -> Self {
        let scripts = (1..=1_000u32).map(|n| {
            let secret = sha256::Hash::hash(&n.to_le_bytes()).to_byte_array();
            let secret = SecretKey::from_slice(&secret).unwrap();
            let (key, _) = secret.x_only_public_key(SECP256K1);
            ScriptBuf::new_p2tr_tweaked(TweakedPublicKey::dangerous_assume_tweaked(key))
        });
        Self {
            scripts: scripts.collect(),
            state: Mutex::default(),
        }
    }

    /// Two inputs and two outputs, and signatures that nobody checks.
    fn transaction(&self, n: u64) -> Transaction {
        let input = |vout| TxIn {
            previous_output: OutPoint {
                txid: Txid::hash(&n.to_le_bytes()),
                vout,
            },
            script_sig: ScriptBuf::new(),
            sequence: Sequence::MAX,
            witness: Witness::from_slice(&[[n as u8; 64]]),
        };
        let output = |script_pubkey| TxOut {
            value: Amount::from_sat(n),
            script_pubkey,
        };
        let script = match n % 2 {
            0 => self.script(n),
            _ => ScriptBuf::from_bytes([&[0, 20][..], &[n as u8; 20]].concat()),
        };
        Transaction {
            version: transaction::Version::TWO,
            lock_time: absolute::LockTime::ZERO,
            input: vec![input(0), input(1)],
            output: vec![output(script.clone()), output(script)],
        }
    }

    fn script(&self, n: u64) -> ScriptBuf {
        self.scripts[(n % self.scripts.len() as u64) as usize].clone()
    }

    /// The next transaction comes.
    fn come(&self) -> MempoolChange {
        let mut state = self.state.lock().unwrap();
        let tx = self.transaction(state.next);
        let txid = tx.compute_txid();
        let n = state.next;
        state.by_txid.insert(txid, n);
        state.in_order.push_back(txid);
        state.next += 1;
        state.sequence += 1;
        MempoolChange::Accepted {
            txid,
            sequence: state.sequence - 1,
            raw: Some(serialize(&tx)),
        }
    }

    /// The oldest goes.
    fn go(&self) -> MempoolChange {
        let mut state = self.state.lock().unwrap();
        let txid = state.in_order.pop_front().unwrap();
        state.by_txid.remove(&txid);
        state.sequence += 1;
        MempoolChange::Removed {
            txid,
            sequence: state.sequence - 1,
        }
    }
}

impl Crowd {
    /// Only what is here is in the snapshot, with a tweak if it is eligible.
    fn agrees_with(&self, snapshot: Snapshot) {
        let state = self.state.lock().unwrap();
        for tx in &snapshot.transactions {
            let n = state.by_txid[&tx.txid];
            let is_eligible = matches!(tx.tweak, UnconfirmedTweak::Tweak(_));
            assert_eq!(is_eligible, n.is_multiple_of(2));
        }
    }
}

impl BlockSource for Crowd {
    fn describe(&self) -> String {
        "crowd".to_owned()
    }

    fn check(&self, _: Network) -> BoxFuture<'_, Result<(), ChainError>> {
        async { Ok(()) }.boxed()
    }

    fn tip(&self) -> BoxFuture<'_, Result<BlockId, ChainError>> {
        async { Ok(tip()) }.boxed()
    }

    fn block_at(&self, _: u32) -> BoxFuture<'_, Result<Option<BlockId>, ChainError>> {
        async { Ok(None) }.boxed()
    }

    fn block(&self, id: BlockId) -> BoxFuture<'_, Result<BlockWithPrevouts, ChainError>> {
        async move { Err(ChainError::NotAvailable(format!("no block {id}"))) }.boxed()
    }
}

impl Node for Crowd {
    fn signet_challenge(&self) -> BoxFuture<'_, Result<Option<ScriptBuf>, ChainError>> {
        async { Ok(None) }.boxed()
    }

    fn rejects(&self, _: BlockId) -> BoxFuture<'_, Result<bool, ChainError>> {
        async { Ok(false) }.boxed()
    }

    fn broadcast<'a>(&'a self, _: &'a Transaction) -> BoxFuture<'a, Result<Txid, BroadcastError>> {
        async { Err(BroadcastError::Rejected("full".to_owned())) }.boxed()
    }

    fn mempool(&self) -> BoxFuture<'_, Result<MempoolListing, ChainError>> {
        async {
            let state = self.state.lock().unwrap();
            Ok(MempoolListing {
                tip: tip(),
                is_settled: true,
                sequence: state.sequence,
                txids: state.in_order.iter().copied().collect(),
            })
        }
        .boxed()
    }

    fn entered_mempool<'a>(
        &'a self,
        txids: &'a [Txid],
    ) -> BoxFuture<'a, Result<Vec<Option<u64>>, ChainError>> {
        async {
            let state = self.state.lock().unwrap();
            let is_here = |txid: &Txid| state.by_txid.contains_key(txid);
            let times = txids.iter().map(|txid| is_here(txid).then_some(1_000_000));
            Ok(times.collect())
        }
        .boxed()
    }

    fn raw_unconfirmed<'a>(
        &'a self,
        txids: &'a [Txid],
    ) -> BoxFuture<'a, Result<Vec<Option<Vec<u8>>>, ChainError>> {
        async {
            let state = self.state.lock().unwrap();
            let raw = |txid: &Txid| Some(serialize(&self.transaction(*state.by_txid.get(txid)?)));
            Ok(txids.iter().map(raw).collect())
        }
        .boxed()
    }

    fn unspent_scripts<'a>(
        &'a self,
        outpoints: &'a [OutPoint],
    ) -> BoxFuture<'a, Result<Vec<Option<ScriptBuf>>, ChainError>> {
        async {
            let byte = |outpoint: &OutPoint| u64::from(outpoint.txid.to_byte_array()[0]);
            let scripts = outpoints.iter();
            let scripts = scripts.map(|o| Some(self.script(byte(o) + u64::from(o.vout))));
            Ok(scripts.collect())
        }
        .boxed()
    }
}

/// Processor time of this process, and its memory, in MB.
fn taken() -> (Duration, u64) {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default();
    let ticks = fields.split_whitespace().skip(11).take(2);
    let ticks: u64 = ticks.filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let rss = rss.and_then(|rss| rss.split_whitespace().next()?.parse::<u64>().ok());
    (Duration::from_millis(10 * ticks), rss.unwrap_or(0) >> 10)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_is_held_and_followed() {
    let size = number("SPINDEX_CROWD", 300);
    let seconds = number("SPINDEX_CROWD_SECONDS", 1);
    let rate = number("SPINDEX_CROWD_RATE", 200);
    let crowd = Arc::new(Crowd::new());
    for _ in 0..size {
        crowd.come();
    }
    let (words, mut given) = tokio::sync::mpsc::unbounded_channel();
    let signal = MempoolSignal::new(|teller| async move {
        while let Some(word) = given.recv().await {
            if !teller.tell(word).await {
                break;
            }
        }
    });
    words.send(MempoolWord::Anew).unwrap();
    let settings = MempoolSettings {
        share: std::env::var("SPINDEX_CROWD_SHARE").map_or(1.0, |share| share.parse().unwrap()),
        list_interval_alone: NEVER,
        // The first ones of a crowd that is measured are long gone when the last ones come.
        kept_changes: 100_000,
        ..MempoolSettings::default()
    };
    let before = taken();
    let began = Instant::now();
    // The batched ones are faster, but not in a build that is not optimised.
    let engine = Arc::new(LibSecp256k1);
    let view = Mempool::follow(crowd.clone(), Some(signal), engine, None, settings);
    let (_, mut listener) = view.subscribe();
    while view.status().transactions < size as usize {
        if listener.next().await.is_err() {
            listener.rejoin();
        }
    }
    let loaded = taken();
    let status = view.status();
    assert_eq!((status.transactions, status.unresolved), (size as usize, 0));
    println!(
        "{size} transactions: {:?}, processor {:?}, memory {} MB more (estimate of the view {} MB), lists {}",
        began.elapsed(),
        loaded.0 - before.0,
        loaded.1.saturating_sub(before.1),
        status.bytes >> 20,
        status.lists,
    );

    let began = Instant::now();
    let mut churn = Churn {
        crowd: crowd.clone(),
        words,
        number: 0,
        rate: u32::try_from(rate).unwrap(),
        last: None,
    };
    churn.changes(seconds * rate).await;
    let (last, gone) = churn.last.unwrap();
    while view.transaction(&last).is_none() || view.departure(&gone).is_none() {
        if listener.next().await.is_err() {
            listener.rejoin();
        }
    }
    let churned = taken();
    let status = view.status();
    assert_eq!((status.gaps, status.unresolved, status.not_held), (0, 0, 0));
    let wall = began.elapsed();
    println!(
        "{rate} come and {rate} go each second for {wall:?}: processor {:?}, {:.2} % of one; memory {} MB, lists {}",
        churned.0 - loaded.0,
        100.0 * (churned.0 - loaded.0).as_secs_f64() / wall.as_secs_f64(),
        churned.1,
        status.lists,
    );
    crowd.agrees_with(view.subscribe().0);

    let rounds = number("SPINDEX_CROWD_ROUNDS", 0);
    if rounds > 0 {
        let chain = SimulatedChain::new(SimulationSettings {
            transactions_per_block: 60,
            ..SimulationSettings::default()
        });
        chain.mine(180);
        let chain = Arc::new(chain);
        let (mut still, mut moving) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            still.push(indexing(chain.clone()).await);
            tokio::select! {
                () = churn.changes(u64::MAX) => {}
                took = indexing(chain.clone()) => moving.push(took),
            }
        }
        println!(
            "a chain indexed {rounds} times, in ms, while the crowd stands still {still:?}, and not {moving:?}"
        );
        for times in [&mut still, &mut moving] {
            times.sort_unstable();
        }
        let medians = [&still, &moving].map(|times| times[times.len() / 2]);
        println!("medians {medians:?}, least {:?}", [still[0], moving[0]]);
    }
}

/// Milliseconds that it takes to index a chain.
async fn indexing(chain: Arc<SimulatedChain>) -> u128 {
    let began = Instant::now();
    let indexing = tokio::spawn(async move { fresh_store(chain).await });
    drop(indexing.await.unwrap());
    began.elapsed().as_millis()
}

/// A crowd that comes and goes.
struct Churn {
    crowd: Arc<Crowd>,
    words: UnboundedSender<MempoolWord>,
    number: u32,
    /// How many a second.
    rate: u32,
    /// Who came last, and who went last.
    last: Option<(Txid, Txid)>,
}

impl Churn {
    async fn changes(&mut self, count: u64) {
        let mut ticks = tokio::time::interval(Duration::from_secs(1) / self.rate);
        for _ in 0..count {
            ticks.tick().await;
            let changes = [self.crowd.come(), self.crowd.go()];
            let [come, go] = changes.each_ref().map(|change| match change {
                MempoolChange::Accepted { txid, .. } | MempoolChange::Removed { txid, .. } => *txid,
                other => panic!("{other:?}"),
            });
            self.last = Some((come, go));
            for change in changes {
                let number = self.number;
                self.number = number.wrapping_add(1);
                let word = MempoolWord::Change { number, change };
                self.words.send(word).unwrap();
            }
        }
    }
}
