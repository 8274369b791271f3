//! A simulated chain with an index that is served, and a wallet that is paid, and spent from.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bitcoin::{Amount, BlockHash, Network, OutPoint, TxOut, Txid};
use secp256k1::rand::rngs::StdRng;
use secp256k1::rand::seq::SliceRandom;
use secp256k1::rand::{Rng, SeedableRng};
use secp256k1::{Scalar, SecretKey};
use spindex::BlockId;
use spindex::api::desk::{Desk, DeskSettings};
use spindex::api::{self, Listener, ServeSettings};
use spindex::bip352::inputs::taproot_output_key;
use spindex::bip352::keys::{ReceiverKeys, ScanKey, SpendKey};
use spindex::bip352::tweak::transaction_tweak;
use spindex::chain::made::simulated::builder::{InputKind, SpendableOutput, build_transaction};
use spindex::chain::made::simulated::{
    Orphaned, PaidOutput, PaymentRequest, SimulatedBlock, SimulatedChain, SimulationSettings,
};
use spindex::client::{
    HttpOracle, HttpSettings, Identity, LightClient, LightSettings, NativeOracle, ScanReport,
    State, WalletId,
};
use spindex::curve::libsecp256k1::LibSecp256k1;
use spindex::index::{IndexSettings, Indexer};
use spindex::runtime::Stop;
use spindex::scan::{Scanner, TaprootOutput};
use spindex::store::Store;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::Dialect;
use crate::support::index::memory_store;

/// First height scanned: block rewards can be spent from here on.
pub(crate) const FIRST: u32 = 102;

/// Height at which the events begin.
const HEIGHT: u32 = 230;

/// Deepest reorganisation.
const DEEPEST: u32 = 100;

fn spend_key() -> SpendKey {
    SpendKey::from_bytes([4; 32]).unwrap()
}

pub(crate) fn keys() -> ReceiverKeys {
    let scan_key = ScanKey::from_bytes([3; 32]).unwrap();
    ReceiverKeys::new(scan_key, spend_key().public_key(), [1])
}

fn scanner() -> Scanner {
    Scanner::new(Arc::new(LibSecp256k1), keys()).unwrap()
}

pub(crate) fn state() -> State {
    let identity = Identity {
        network: Network::Regtest,
        wallet: Some(WalletId::of(&keys())),
    };
    State::in_memory(identity).unwrap()
}

/// A chain with an index that is served, and a wallet.
pub(crate) struct Scene {
    pub(crate) rng: StdRng,
    pub(crate) chain: Arc<SimulatedChain>,
    pub(crate) store: Arc<Store>,
    indexer: Indexer,
    oracle: Arc<HttpOracle>,
    native: Arc<NativeOracle>,
    /// Tips of branches left behind.
    tips: Vec<BlockId>,
    _server: JoinSet<()>,
}

impl Scene {
    pub(crate) async fn new(seed: u64) -> Self {
        let chain = Arc::new(SimulatedChain::new(SimulationSettings {
            seed,
            transactions_per_block: 1,
            ..SimulationSettings::default()
        }));
        chain.mine(FIRST);
        let store = memory_store();
        let indexer = Indexer::new(
            store.clone(),
            chain.clone(),
            Arc::new(LibSecp256k1),
            IndexSettings::default(),
            Stop::new(),
            |_| (),
        );
        let desk = Desk::new(
            store.clone(),
            Some(chain.clone()),
            Some(chain.clone()),
            DeskSettings::default(),
        );
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let mut server = JoinSet::new();
        let never = std::future::pending();
        let settings = ServeSettings::default();
        let listener = vec![Listener::http(listener)];
        server.spawn(async move { api::serve(listener, desk, never, settings).await.unwrap() });
        let http = HttpOracle::new(&url, HttpSettings::default()).unwrap();
        let oracle = Arc::new(http);
        let mut scene = Self {
            rng: StdRng::seed_from_u64(seed),
            chain,
            store,
            indexer,
            native: Arc::new(NativeOracle::new(oracle.clone(), Network::Regtest)),
            oracle,
            tips: Vec::new(),
            _server: server,
        };
        while scene.chain.tip_id().height < HEIGHT {
            match scene.rng.gen_range(0..4) {
                0 => scene.pay(),
                1 => scene.spend(),
                _ => drop(scene.chain.mine(3)),
            }
        }
        scene.sync().await;
        scene
    }

    pub(crate) async fn sync(&self) {
        let tip = self.indexer.sync(None).await.unwrap();
        assert_eq!(tip, Some(self.chain.tip_id()));
    }

    /// A block with payments to the wallet, some with a taproot output of somebody else beside them.
    fn pay(&mut self) {
        let mut requests = Vec::new();
        for _ in 0..self.rng.gen_range(1..3) {
            let recipients = (0..self.rng.gen_range(1..4)).map(|_| {
                let label = *[None, Some(0), Some(1)].choose(&mut self.rng).unwrap();
                let address = keys().address(label, Network::Regtest).unwrap();
                (address, self.rng.gen_range(5_000..50_000))
            });
            requests.push(PaymentRequest {
                recipients: recipients.collect(),
                keep: match self.rng.gen_bool(0.2) {
                    true => vec![(InputKind::P2tr, 7_000)],
                    false => Vec::new(),
                },
                ..PaymentRequest::default()
            });
        }
        // After a deep reorganisation there may be no coins for it.
        if self.chain.mine_with(&requests).is_err() {
            self.chain.mine(1);
        }
    }

    /// A block that spends some of what the wallet has, of some transactions all of it.
    fn spend(&mut self) {
        let mut unspent: BTreeMap<Txid, Vec<PaidOutput>> = BTreeMap::new();
        for paid in self.chain.paid_outputs() {
            if paid.block.is_some() && paid.spent_by.is_none() {
                unspent.entry(paid.outpoint.txid).or_default().push(paid);
            }
        }
        let mut spent = Vec::new();
        for outputs in unspent.values() {
            if self.rng.gen_bool(0.3) {
                let most = self.rng.gen_range(1..=4);
                let some = outputs.iter().take(most);
                spent.extend(some.map(|paid| self.spendable(paid)));
            }
        }
        if !spent.is_empty() {
            let change = TxOut {
                value: Amount::from_sat(1_000 + self.rng.gen_range(0..1_000)),
                script_pubkey: InputKind::P2wpkh.script_pubkey(spend_key().secret()),
            };
            let tx = build_transaction(&spent, vec![change]).unwrap();
            self.chain.submit(&tx).unwrap();
        }
        self.chain.mine(1);
    }

    /// The secret of an output, worked out from the transaction that pays it.
    fn spendable(&self, paid: &PaidOutput) -> SpendableOutput {
        let block = self.chain.stored_block(paid.block.unwrap().hash).unwrap();
        let at = block
            .txids
            .iter()
            .position(|txid| *txid == paid.outpoint.txid);
        let (tx, prevouts) = (
            &block.block.txdata[at.unwrap()],
            &block.prevouts[at.unwrap()],
        );
        let tweak = transaction_tweak(&LibSecp256k1, tx, prevouts).unwrap();
        let outputs: Vec<TaprootOutput> = taproot_outputs(&block, paid.outpoint.txid);
        let found = scanner().confirm(&tweak, &outputs).unwrap();
        let output = found.iter().find(|found| found.outpoint == paid.outpoint);
        let tweak = Scalar::from_be_bytes(output.unwrap().tweak).unwrap();
        let secret: SecretKey = spend_key().secret().add_tweak(&tweak).unwrap();
        SpendableOutput::new(InputKind::P2tr, secret, paid.outpoint, paid.value_sat)
    }

    /// Something happens to the chain. The depth, if blocks were disconnected.
    pub(crate) fn happen(&mut self) -> u32 {
        match self.rng.gen_range(0..10) {
            0 => self.pay(),
            1 | 2 => self.spend(),
            3 => drop(self.chain.mine(self.rng.gen_range(1..4))),
            4 if !self.tips_elsewhere().is_empty() => {
                let tip = *self.tips_elsewhere().choose(&mut self.rng).unwrap();
                return self.change(|chain| chain.activate(tip.hash).unwrap().disconnected.len());
            }
            _ => {
                let depth = match self.rng.gen_range(0..3) {
                    0 => self.rng.gen_range(1..4),
                    1 => self.rng.gen_range(4..30),
                    _ => self.rng.gen_range(30..=DEEPEST),
                };
                let blocks = depth
                    .saturating_add_signed(self.rng.gen_range(-2..4))
                    .max(1);
                let orphaned = match self.rng.gen_bool(0.3) {
                    true => Orphaned::Resubmit,
                    false => Orphaned::Drop,
                };
                self.change(|chain| {
                    chain
                        .reorganize(depth, blocks, orphaned)
                        .unwrap()
                        .disconnected
                        .len()
                });
                return depth;
            }
        }
        0
    }

    /// Tips of branches that are not part of the active one: no node goes back on its own branch.
    fn tips_elsewhere(&self) -> Vec<BlockId> {
        let active = self.chain.active_blocks();
        let active: BTreeSet<BlockHash> = active.iter().map(|block| block.id.hash).collect();
        let tips = self.tips.iter().copied();
        tips.filter(|tip| !active.contains(&tip.hash)).collect()
    }

    fn change(&mut self, change: impl FnOnce(&SimulatedChain) -> usize) -> u32 {
        let tip = self.chain.tip_id();
        let disconnected = change(&self.chain) as u32;
        // No deeper than the index can undo.
        self.tips.retain(|other| other.height + 20 > tip.height);
        self.tips.push(tip);
        disconnected
    }

    pub(crate) fn client(
        &self,
        by: Dialect,
        state: State,
        to: Option<u32>,
        rescan: bool,
    ) -> LightClient {
        self.client_from(FIRST, by, state, to, rescan)
    }

    pub(crate) fn client_from(
        &self,
        from: u32,
        by: Dialect,
        state: State,
        to: Option<u32>,
        rescan: bool,
    ) -> LightClient {
        let settings = LightSettings {
            from: Some(from),
            to,
            rescan,
            // Natively some sixteen times as many.
            window_blocks: match by {
                Dialect::V1 => 40,
                Dialect::Native => 3,
            },
            ..LightSettings::new(Network::Regtest)
        };
        let scanner = Some(scanner());
        let client = match by {
            Dialect::V1 => LightClient::new(self.oracle.clone(), scanner, [], state, settings),
            Dialect::Native => {
                LightClient::native(self.native.clone(), None, scanner, [], state, settings)
            }
        };
        client.unwrap()
    }

    /// A native client of everything, with other settings.
    pub(crate) fn client_with(
        &self,
        state: State,
        change: impl FnOnce(&mut LightSettings),
    ) -> LightClient {
        let mut settings = LightSettings {
            from: Some(FIRST),
            ..LightSettings::new(Network::Regtest)
        };
        change(&mut settings);
        LightClient::native(
            self.native.clone(),
            None,
            Some(scanner()),
            [],
            state,
            settings,
        )
        .unwrap()
    }

    /// Whether a server lists the transaction of an output: one of its taproot outputs is unspent.
    fn is_listed(&self, paid: &PaidOutput) -> bool {
        let block = self.chain.stored_block(paid.block.unwrap().hash).unwrap();
        let outputs = taproot_outputs(&block, paid.outpoint.txid);
        let mut spenders = outputs
            .iter()
            .map(|output| self.chain.spender(output.outpoint));
        spenders.any(|spender| spender.is_none())
    }

    /// Compares a report on the whole chain with the truth.
    pub(crate) fn assert_true(&self, by: Dialect, report: &ScanReport, what: &str) {
        let tip = self.chain.tip_id();
        assert_eq!(
            (report.from, report.scanned_to),
            (FIRST, Some(tip.height)),
            "{what}"
        );
        let found: BTreeMap<OutPoint, _> = report.found.iter().map(|f| (f.outpoint, f)).collect();
        let paid = self.chain.paid_outputs();
        let mut missing: BTreeMap<u32, BTreeSet<Txid>> = BTreeMap::new();
        let mut own = 0;
        for paid in &paid {
            let block = paid.block.expect("the mempool is empty");
            let Some(found) = found.get(&paid.outpoint) else {
                assert!(
                    paid.spent_by.is_some(),
                    "{what}: {} is missed",
                    paid.outpoint
                );
                assert_eq!(by, Dialect::V1, "{what}: {} is missed", paid.outpoint);
                assert!(!self.is_listed(paid), "{what}: {} is listed", paid.outpoint);
                missing
                    .entry(block.height)
                    .or_default()
                    .insert(paid.outpoint.txid);
                continue;
            };
            own += 1;
            let spend = found.spent.as_ref();
            let spent_at = spend.map(|spend| BlockId {
                height: spend.height,
                hash: spend.block_hash,
            });
            let (txid, spent_in) = paid.spent_by.unzip();
            assert_eq!(spent_at, spent_in, "{what}: {}", paid.outpoint);
            if let (Some(spend), Some(txid), Some(block)) = (spend, txid, spent_in) {
                let input = self.input(&paid.outpoint, txid, block);
                assert_eq!(spend.input, Some(input), "{what}: {}", paid.outpoint);
                // Natively it is told of spenders with a state id alone.
                let is_told = by == Dialect::V1 || spend.spending_txid.is_some();
                assert!(
                    !is_told || spend.spending_txid == Some(txid),
                    "{what}: {spend:?}"
                );
            }
            let at = BlockId {
                height: found.height,
                hash: found.block_hash,
            };
            assert_eq!((at, found.value_sat), (block, paid.value_sat), "{what}");
            assert_eq!(found.key, paid.output_key.serialize(), "{what}");
        }
        assert_eq!(own, found.len(), "{what}: something that nobody paid");
        let unresolved: BTreeMap<u32, usize> = report
            .unresolved
            .iter()
            .map(|block| (block.height, block.matches as usize))
            .collect();
        let missing: BTreeMap<u32, usize> = missing
            .into_iter()
            .map(|(height, txids)| (height, txids.len()))
            .collect();
        assert_eq!(unresolved, missing, "{what}");
    }

    /// Which input of a transaction spends an outpoint.
    fn input(&self, outpoint: &OutPoint, txid: Txid, block: BlockId) -> u32 {
        let block = self.chain.stored_block(block.hash).unwrap();
        let at = block.txids.iter().position(|other| *other == txid).unwrap();
        let mut inputs = block.block.txdata[at].input.iter();
        let input = inputs.position(|input| input.previous_output == *outpoint);
        input.unwrap() as u32
    }

    /// Compares a report with that of a scan of everything anew.
    pub(crate) async fn assert_like_fresh(&self, by: Dialect, report: &ScanReport, what: &str) {
        let mut fresh = self.client(by, state(), None, false);
        let mut fresh = fresh.run(&mut |_| ()).await.unwrap();
        self.assert_true(by, &fresh, what);
        let of_fresh: BTreeSet<OutPoint> = fresh.found.iter().map(|f| f.outpoint).collect();
        let (mut common, more): (Vec<_>, Vec<_>) = report
            .found
            .iter()
            .cloned()
            .partition(|found| of_fresh.contains(&found.outpoint));
        // Of a spender an earlier scan may know more, or less.
        let found = common.iter_mut().chain(&mut fresh.found);
        for spend in found.filter_map(|found| found.spent.as_mut()) {
            spend.spending_txid = None;
            spend.op_return.clear();
        }
        assert_eq!(common, fresh.found, "{what}");
        assert_eq!(report.unspent_sat, fresh.unspent_sat, "{what}");
        // What only the older state knows is what the server has forgotten since.
        let more: BTreeMap<u32, BTreeSet<Txid>> =
            more.iter().fold(BTreeMap::new(), |mut all, found| {
                all.entry(found.height)
                    .or_default()
                    .insert(found.outpoint.txid);
                all
            });
        let mut unresolved: BTreeMap<u32, usize> = more
            .into_iter()
            .map(|(height, txids)| (height, txids.len()))
            .collect();
        for block in &report.unresolved {
            *unresolved.entry(block.height).or_default() += block.matches as usize;
        }
        let of_fresh = fresh.unresolved.iter();
        let of_fresh: BTreeMap<u32, usize> = of_fresh
            .map(|block| (block.height, block.matches as usize))
            .collect();
        assert_eq!(unresolved, of_fresh, "{what}");
    }
}

fn taproot_outputs(block: &SimulatedBlock, txid: Txid) -> Vec<TaprootOutput> {
    let at = block.txids.iter().position(|other| *other == txid).unwrap();
    (0..)
        .zip(&block.block.txdata[at].output)
        .filter_map(|(vout, output)| {
            Some(TaprootOutput {
                outpoint: OutPoint::new(txid, vout),
                key: taproot_output_key(&output.script_pubkey)?,
                value_sat: output.value.to_sat(),
            })
        })
        .collect()
}
