//! Room that ends, listeners that fall behind, and what is not asked of the node.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex};

use bitcoin::{Network, OutPoint, ScriptBuf, Transaction, Txid};
use futures::future::BoxFuture;
use spindex::BlockId;
use spindex::chain::made::simulated::builder::InputKind;
use spindex::chain::made::simulated::{PaymentRequest, SimulatedChain, SimulationSettings};
use spindex::chain::{
    BlockSource, BlockWithPrevouts, BroadcastError, ChainError, MempoolListing, Node,
};
use spindex::curve::libsecp256k1::LibSecp256k1;
use spindex::mempool::{Departure, ListenError, Mempool, MempoolSettings, UnconfirmedTweak};

use super::scene::{Following, by_lists};
use crate::support::index::fresh_store;

fn chain() -> Arc<SimulatedChain> {
    let chain = SimulatedChain::new(SimulationSettings {
        transactions_per_block: 0,
        ..SimulationSettings::default()
    });
    chain.mine(130);
    Arc::new(chain)
}

/// Each is two transactions.
fn pay(chain: &SimulatedChain, payments: usize) {
    for _ in 0..payments {
        chain.pay(&PaymentRequest::default()).unwrap();
    }
}

fn mempool(chain: &SimulatedChain) -> BTreeSet<Txid> {
    let mempool = chain.mempool();
    mempool.iter().map(Transaction::compute_txid).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_there_is_no_room_for_is_counted_and_comes_when_there_is() {
    let chain = chain();
    pay(&chain, 5);
    let settings = MempoolSettings {
        most_transactions: 4,
        ..by_lists()
    };
    let mut following = Following::new(chain.clone(), None, settings);
    while following.here.len() < 4 {
        following.hear().await;
    }
    let status = following.mempool.status();
    assert_eq!((status.transactions, status.not_held), (4, 6));
    let (snapshot, _) = following.mempool.subscribe();
    assert_eq!(snapshot.transactions.len(), 4);
    assert_eq!(snapshot.status.not_held, 6);

    // Those that are held go, and others come in their place.
    let first: BTreeSet<Txid> = following.here.keys().copied().collect();
    for txid in &first {
        chain.evict(*txid);
    }
    let rest = mempool(&chain);
    while following.gone.len() < 4 || following.here.len() < rest.len().min(4) {
        following.hear().await;
    }
    assert!(following.here.keys().all(|txid| rest.contains(txid)));
    assert!(
        following
            .gone
            .values()
            .all(|why| *why == Departure::Evicted)
    );
    chain.mine(1);
    following.until_only(&BTreeSet::new()).await;
    pay(&chain, 1);
    following.until_only(&mempool(&chain)).await;
    assert_eq!(following.mempool.status().not_held, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_that_falls_behind_learns_it_and_joins_again() {
    let chain = chain();
    let settings = MempoolSettings {
        kept_changes: 3,
        ..by_lists()
    };
    let engine = Arc::new(LibSecp256k1);
    let view = Mempool::follow(chain.clone(), None, engine, None, settings);
    let (snapshot, mut slow) = view.subscribe();
    assert!(snapshot.transactions.is_empty());
    pay(&chain, 4);
    let truth = mempool(&chain);
    let (_, mut quick) = view.subscribe();
    while view.status().transactions < truth.len() {
        if quick.next().await.is_err() {
            quick.rejoin();
        }
    }
    assert_eq!(slow.next().await, Err(ListenError::Lagged(5)));
    // And again, until it joins.
    assert_eq!(slow.waiting(), Err(ListenError::Lagged(5)));
    let snapshot = slow.rejoin();
    let held = snapshot.transactions.iter().map(|tx| tx.txid);
    assert_eq!(held.collect::<BTreeSet<_>>(), truth);
    assert_eq!(slow.waiting(), Ok(None));
    pay(&chain, 1);
    for _ in 0..2 {
        let txid = slow.next().await.unwrap().txid();
        assert!(!truth.contains(&txid) && mempool(&chain).contains(&txid));
    }
    drop(view);
    assert_eq!(slow.next().await, Err(ListenError::Ended));
}

/// A node that notes which outputs it is asked for.
struct Asked {
    chain: Arc<SimulatedChain>,
    outpoints: Mutex<BTreeSet<OutPoint>>,
}

impl BlockSource for Asked {
    fn describe(&self) -> String {
        self.chain.describe()
    }

    fn check(&self, network: Network) -> BoxFuture<'_, Result<(), ChainError>> {
        self.chain.check(network)
    }

    fn tip(&self) -> BoxFuture<'_, Result<BlockId, ChainError>> {
        self.chain.tip()
    }

    fn block_at(&self, height: u32) -> BoxFuture<'_, Result<Option<BlockId>, ChainError>> {
        self.chain.block_at(height)
    }

    fn blocks_at(
        &self,
        heights: RangeInclusive<u32>,
    ) -> BoxFuture<'_, Result<Vec<BlockId>, ChainError>> {
        self.chain.blocks_at(heights)
    }

    fn block(&self, id: BlockId) -> BoxFuture<'_, Result<BlockWithPrevouts, ChainError>> {
        self.chain.block(id)
    }
}

impl Node for Asked {
    fn signet_challenge(&self) -> BoxFuture<'_, Result<Option<ScriptBuf>, ChainError>> {
        self.chain.signet_challenge()
    }

    fn rejects(&self, id: BlockId) -> BoxFuture<'_, Result<bool, ChainError>> {
        self.chain.rejects(id)
    }

    fn broadcast<'a>(&'a self, tx: &'a Transaction) -> BoxFuture<'a, Result<Txid, BroadcastError>> {
        self.chain.broadcast(tx)
    }

    fn mempool(&self) -> BoxFuture<'_, Result<MempoolListing, ChainError>> {
        Node::mempool(&*self.chain)
    }

    fn entered_mempool<'a>(
        &'a self,
        txids: &'a [Txid],
    ) -> BoxFuture<'a, Result<Vec<Option<u64>>, ChainError>> {
        self.chain.entered_mempool(txids)
    }

    fn raw_unconfirmed<'a>(
        &'a self,
        txids: &'a [Txid],
    ) -> BoxFuture<'a, Result<Vec<Option<Vec<u8>>>, ChainError>> {
        self.chain.raw_unconfirmed(txids)
    }

    fn unspent_scripts<'a>(
        &'a self,
        outpoints: &'a [OutPoint],
    ) -> BoxFuture<'a, Result<Vec<Option<ScriptBuf>>, ChainError>> {
        self.outpoints.lock().unwrap().extend(outpoints);
        self.chain.unspent_scripts(outpoints)
    }
}

/// The index has the taproot outputs of eligible transactions; for others, and for transactions without a taproot output,
/// the node is asked or nobody.
#[tokio::test(flavor = "multi_thread")]
async fn the_node_is_not_asked_for_what_the_index_has() {
    let chain = chain();
    let keep = vec![(InputKind::P2tr, 1_000_000), (InputKind::P2wpkh, 1_000_000)];
    let request = PaymentRequest {
        keep: [keep.clone(), keep].concat(),
        ..PaymentRequest::default()
    };
    let kept = chain.pay(&request).unwrap().kept;
    chain.mine(1);
    let store = fresh_store(chain.clone()).await;
    let spend = |at: usize, kind| {
        let paid = chain.pay(&PaymentRequest {
            spend: vec![kept[at].outpoint],
            keep: vec![(kind, 1_000)],
            ..PaymentRequest::default()
        });
        paid.unwrap().txid
    };
    let eligible = [spend(0, InputKind::P2tr), spend(1, InputKind::P2tr)];
    let others = [spend(2, InputKind::P2wpkh), spend(3, InputKind::P2wpkh)];
    let node = Arc::new(Asked {
        chain: chain.clone(),
        outpoints: Mutex::default(),
    });
    let engine = Arc::new(LibSecp256k1);
    let view = Mempool::follow(node.clone(), None, engine, Some(store), by_lists());
    let (snapshot, mut listener) = view.subscribe();
    let held = snapshot.transactions.iter().map(|tx| tx.txid);
    let mut heard: BTreeSet<Txid> = held.collect();
    while heard.len() < 4 {
        heard.insert(listener.next().await.unwrap().txid());
    }
    assert_eq!(heard, mempool(&chain));
    for txid in eligible {
        let tweak = view.transaction(&txid).unwrap().tweak;
        assert!(matches!(tweak, UnconfirmedTweak::Tweak(_)), "{tweak:?}");
    }
    let change_may_be_taproot = |txid: &Txid| {
        let outputs = chain.mempool();
        let tx = outputs
            .iter()
            .find(|tx| tx.compute_txid() == *txid)
            .unwrap();
        tx.output
            .iter()
            .any(|output| output.script_pubkey.is_p2tr())
    };
    let mut asked = BTreeSet::from([kept[1].outpoint]);
    if change_may_be_taproot(&others[1]) {
        asked.insert(kept[3].outpoint);
    }
    assert_eq!(*node.outpoints.lock().unwrap(), asked);
}
