//! A real node with coins to spend, and whoever follows its mempool and listens.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use bitcoin::consensus::encode::serialize_hex;
use bitcoin::{Amount, BlockHash, OutPoint, Transaction, TxOut, Txid};
use secp256k1::SecretKey;
use serde_json::{Value, json};
use spindex::BlockId;
use spindex::chain::made::simulated::builder::{InputKind, SpendableOutput, build_transaction};
use spindex::chain::mempool_signal::MempoolWord;
use spindex::chain::rpc::{RpcAuth, RpcSettings};
use spindex::chain::rpc_source::RpcSource;
use spindex::chain::zmq::{ZmqAddress, ZmqSettings};
use spindex::chain::{MempoolSignal, Node};
use spindex::curve::libsecp256k1::LibSecp256k1;
use spindex::mempool::{Change, Departure, Listener, Mempool, MempoolSettings, Unconfirmed};

use crate::support::node::TestNode;

/// Long enough for a busy machine; only reached by a test that fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// An hour: what happens sooner did not wait for it.
pub(crate) const NEVER: Duration = Duration::from_secs(3600);

/// Fee of a transaction, in satoshi, unless it is to be more.
pub(crate) const FEE_SAT: u64 = 10_000;

/// Lists only where a word may have been missed.
pub(crate) fn by_words() -> MempoolSettings {
    MempoolSettings {
        list_interval: NEVER,
        list_interval_alone: NEVER,
        share: 1.0,
        ..MempoolSettings::default()
    }
}

/// Lists all the time.
pub(crate) fn by_lists() -> MempoolSettings {
    MempoolSettings {
        list_interval: Duration::from_millis(20),
        list_interval_alone: Duration::from_millis(20),
        share: 1.0,
        ..MempoolSettings::default()
    }
}

pub(crate) fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("tcp://{}", listener.local_addr().unwrap())
}

/// Tries again at once.
pub(crate) fn signal(address: &str) -> MempoolSignal {
    let address: ZmqAddress = address.parse().unwrap();
    let settings = ZmqSettings {
        first_pause: Duration::from_millis(20),
        longest_pause: Duration::from_millis(100),
        ..ZmqSettings::default()
    };
    MempoolSignal::listen_with(address, settings)
}

/// A secret of which all coins here are.
pub(crate) fn secret() -> SecretKey {
    SecretKey::from_slice(&[0x77; 32]).unwrap()
}

/// A node whose first block rewards can be spent.
pub(crate) struct Scene {
    pub(crate) node: TestNode,
    pub(crate) zmq: String,
    coins: VecDeque<SpendableOutput>,
}

impl Scene {
    /// The arguments, beside those for ZMQ.
    pub(crate) fn new(args: &[&str]) -> Self {
        let zmq = free_address();
        let zmq_args = Self::zmq_args(&zmq);
        let zmq_args = zmq_args.iter().map(String::as_str);
        let args: Vec<&str> = args.iter().copied().chain(zmq_args).collect();
        let node = TestNode::start(&args);
        let script = InputKind::P2tr.script_pubkey(&secret());
        let hashes = node.mine(170, &script);
        let coin = |hash: &BlockHash| {
            let block = node.call("getblock", &[json!(hash), json!(1)]);
            let txid: Txid = block["tx"][0].as_str().unwrap().parse().unwrap();
            let outpoint = OutPoint { txid, vout: 0 };
            let value_sat = Amount::from_int_btc(50).to_sat();
            SpendableOutput::new(InputKind::P2tr, secret(), outpoint, value_sat)
        };
        let coins = hashes[..70].iter().map(coin).collect();
        Self { node, zmq, coins }
    }

    pub(crate) fn zmq_args(zmq: &str) -> [String; 2] {
        ["rawtx", "sequence"].map(|topic| format!("-zmqpub{topic}={zmq}"))
    }

    /// The node as spindex asks it.
    pub(crate) fn source(&self) -> Arc<dyn Node> {
        let settings = RpcSettings {
            url: self.node.url(),
            auth: RpcAuth::CookieFile(self.node.cookie_path()),
        };
        Arc::new(RpcSource::new(settings, PATIENCE, 4).unwrap())
    }

    pub(crate) fn coin(&mut self) -> SpendableOutput {
        self.coins.pop_front().expect("few coins are needed")
    }

    /// A view of its mempool, and a listener from the start.
    pub(crate) fn follow(
        &self,
        signal: Option<MempoolSignal>,
        settings: MempoolSettings,
    ) -> Following {
        Following::new(self.source(), signal, settings)
    }

    /// A view that hears every word from now on, and a listener. Two transactions have shown that.
    pub(crate) async fn follow_words(&mut self) -> Following {
        let mut words = signal(&self.zmq);
        let (subscribed, is_subscribed) = tokio::sync::oneshot::channel();
        let signal = MempoolSignal::new(|teller| async move {
            let mut subscribed = Some(subscribed);
            let mut connected = false;
            while let Some(word) = words.next().await {
                let is_anew = word == MempoolWord::Anew;
                if !teller.tell(word).await {
                    break;
                }
                // When it is connected, and when the subscriptions have surely been read.
                if is_anew && std::mem::replace(&mut connected, true) {
                    let _ = subscribed.take().map(|subscribed| subscribed.send(()));
                }
            }
        });
        let mut following = self.follow(Some(signal), by_words());
        let subscribed = tokio::time::timeout(PATIENCE, is_subscribed);
        subscribed.await.unwrap().unwrap();
        // The first one may be in a list that was under way, and then the second one is in the next.
        for _ in 0..2 {
            let (tx, _) = spend(&[self.coin()], &[InputKind::P2tr], FEE_SAT);
            let txid = self.send(&tx);
            following.until_here([txid]).await;
        }
        following
    }

    /// Hands the node a transaction.
    pub(crate) fn send(&self, tx: &Transaction) -> Txid {
        self.try_send(tx).unwrap()
    }

    pub(crate) fn try_send(&self, tx: &Transaction) -> Result<Txid, String> {
        let sent = self
            .node
            .rpc("sendrawtransaction", &[json!(serialize_hex(tx))]);
        let txid = sent.map_err(|error| error.to_string())?;
        Ok(txid.as_str().unwrap().parse().unwrap())
    }

    /// Transactions in a row, each of which spends the one before. Not sent yet.
    pub(crate) fn chain(&mut self, length: usize) -> Vec<Transaction> {
        let mut coin = self.coin();
        let mut chain = Vec::new();
        for _ in 0..length {
            let (tx, mut outputs) = spend(&[coin], &[InputKind::P2tr], FEE_SAT);
            coin = outputs.remove(0);
            chain.push(tx);
        }
        chain
    }

    pub(crate) fn mine(&self) -> BlockId {
        self.mine_to(InputKind::P2wpkh)
    }

    /// A block that is another one than that to other outputs, though it has the same transactions.
    pub(crate) fn mine_to(&self, kind: InputKind) -> BlockId {
        self.node.mine(1, &kind.script_pubkey(&secret()));
        self.node.tip()
    }

    /// What is in the node's mempool.
    pub(crate) fn in_mempool(&self) -> BTreeSet<Txid> {
        let list = self.node.call("getrawmempool", &[]);
        let list = list.as_array().unwrap().iter();
        list.map(|txid| txid.as_str().unwrap().parse().unwrap())
            .collect()
    }

    /// An answer of `submitpackage`.
    pub(crate) fn submit_package(&self, package: &[&Transaction]) -> Value {
        let package: Vec<String> = package.iter().map(|tx| serialize_hex(*tx)).collect();
        self.node.call("submitpackage", &[json!(package)])
    }
}

/// Spends coins to outputs of these kinds, which share what is left alike.
pub(crate) fn spend(
    coins: &[SpendableOutput],
    kinds: &[InputKind],
    fee_sat: u64,
) -> (Transaction, Vec<SpendableOutput>) {
    let value_sat: u64 = coins.iter().map(|coin| coin.txout.value.to_sat()).sum();
    let each_sat = (value_sat - fee_sat) / kinds.len() as u64;
    let mut scripts = BTreeMap::new();
    let outputs = kinds.iter().map(|kind| {
        let script = scripts.entry(*kind);
        TxOut {
            value: Amount::from_sat(each_sat),
            script_pubkey: script
                .or_insert_with(|| kind.script_pubkey(&secret()))
                .clone(),
        }
    });
    let outputs = outputs.collect();
    let tx = build_transaction(coins, outputs).unwrap();
    let txid = tx.compute_txid();
    let outputs = (0..).zip(kinds).map(|(vout, kind)| {
        SpendableOutput::new(*kind, secret(), OutPoint { txid, vout }, each_sat)
    });
    let outputs = outputs.collect();
    (tx, outputs)
}

/// A view, and what a listener has heard of it.
pub(crate) struct Following {
    pub(crate) mempool: Mempool,
    listener: Listener,
    /// What is unconfirmed, by what was heard.
    pub(crate) here: BTreeMap<Txid, Arc<Unconfirmed>>,
    /// Why each of those went that went.
    pub(crate) gone: BTreeMap<Txid, Departure>,
    pub(crate) raw: BTreeMap<Txid, Arc<[u8]>>,
}

impl Following {
    pub(crate) fn new(
        node: Arc<dyn Node>,
        signal: Option<MempoolSignal>,
        settings: MempoolSettings,
    ) -> Self {
        let engine = Arc::new(LibSecp256k1);
        let mempool = Mempool::follow(node, signal, engine, None, settings);
        let (snapshot, listener) = mempool.subscribe();
        let here = snapshot.transactions.into_iter();
        Self {
            mempool,
            listener,
            here: here.map(|tx| (tx.txid, tx)).collect(),
            gone: BTreeMap::new(),
            raw: BTreeMap::new(),
        }
    }

    /// Hears one change.
    pub(crate) async fn hear(&mut self) -> Arc<Change> {
        let change = tokio::time::timeout(PATIENCE, self.listener.next()).await;
        let change = change.unwrap_or_else(|_| {
            panic!(
                "nothing is heard any more: {:?}, here {:?}, gone {:?}",
                self.mempool.status(),
                self.here.keys(),
                self.gone
            )
        });
        let change = change.unwrap();
        match &*change {
            Change::Added { tx, raw } => {
                assert!(self.here.insert(tx.txid, tx.clone()).is_none());
                self.gone.remove(&tx.txid);
                self.raw.insert(tx.txid, raw.clone());
            }
            Change::Resolved { tx, .. } => {
                assert!(self.here.insert(tx.txid, tx.clone()).is_some());
            }
            Change::Removed { tx, why } => {
                assert!(self.here.remove(&tx.txid).is_some());
                self.gone.insert(tx.txid, *why);
            }
        }
        change
    }

    /// Whether the view has told of nothing that was not heard, and knows of nothing that it has to tell of yet.
    pub(crate) fn has_heard_all(&self) -> bool {
        let status = self.mempool.status();
        status.transactions == self.here.len() && status.unresolved == 0
    }

    /// Hears until these are here.
    pub(crate) async fn until_here(&mut self, txids: impl IntoIterator<Item = Txid>) {
        for txid in txids {
            while !self.here.contains_key(&txid) {
                self.hear().await;
            }
        }
    }

    /// Hears until this one went.
    pub(crate) async fn until_gone(&mut self, txid: Txid) -> Departure {
        loop {
            if let Some(why) = self.gone.get(&txid) {
                return *why;
            }
            self.hear().await;
        }
    }

    /// Hears until these are here and nothing else.
    pub(crate) async fn until_only(&mut self, txids: &BTreeSet<Txid>) {
        while !self.here.keys().eq(txids.iter()) {
            self.hear().await;
        }
    }
}

pub(crate) fn txids(txs: &[Transaction]) -> Vec<Txid> {
    txs.iter().map(Transaction::compute_txid).collect()
}
