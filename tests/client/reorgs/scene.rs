//! A simulated chain with an index that is served, and wallets that are paid, and spent from.

mod truth;

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
    HttpOracle, HttpSettings, Identity, LightClient, LightSettings, NativeOracle, State, WalletId,
    WalletScan, WalletsClient,
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

fn spend_key(who: u8) -> SpendKey {
    SpendKey::from_bytes([4 + 8 * who; 32]).unwrap()
}

/// The first wallet.
pub(crate) fn keys() -> ReceiverKeys {
    keys_of(0)
}

/// A wallet, of up to thirty.
pub(crate) fn keys_of(who: u8) -> ReceiverKeys {
    let scan_key = ScanKey::from_bytes([3 + 8 * who; 32]).unwrap();
    ReceiverKeys::new(scan_key, spend_key(who).public_key(), [1])
}

fn scanner(who: u8) -> Scanner {
    Scanner::new(Arc::new(LibSecp256k1), keys_of(who)).unwrap()
}

pub(crate) fn identity_of(who: u8) -> Identity {
    Identity {
        network: Network::Regtest,
        wallet: Some(WalletId::of(&keys_of(who))),
    }
}

pub(crate) fn state() -> State {
    state_of(0)
}

pub(crate) fn state_of(who: u8) -> State {
    State::in_memory(identity_of(who)).unwrap()
}

/// What a wallet is scanned with.
pub(crate) fn wallet(who: u8, state: State) -> WalletScan {
    WalletScan {
        name: Some(format!("wallet {who}")),
        keys: Some(Arc::new(keys_of(who))),
        watched: Vec::new(),
        state,
    }
}

/// A chain with an index that is served, and wallets.
pub(crate) struct Scene {
    pub(crate) rng: StdRng,
    wallets: u8,
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
    /// With one wallet.
    pub(crate) async fn new(seed: u64) -> Self {
        Self::with_wallets(seed, 1).await
    }

    pub(crate) async fn with_wallets(seed: u64, wallets: u8) -> Self {
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
            wallets,
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

    /// A block with payments to the wallets, some to several at once, or with a taproot output of somebody else beside them.
    fn pay(&mut self) {
        let mut requests = Vec::new();
        for _ in 0..self.rng.gen_range(1..3) {
            let recipients = (0..self.rng.gen_range(1..4)).map(|_| {
                let label = *[None, Some(0), Some(1)].choose(&mut self.rng).unwrap();
                let who = match self.wallets {
                    1 => 0,
                    wallets => self.rng.gen_range(0..wallets),
                };
                let address = keys_of(who).address(label, Network::Regtest).unwrap();
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

    /// A block that spends some of what the wallets have, of some transactions all of it.
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
                script_pubkey: InputKind::P2wpkh.script_pubkey(spend_key(0).secret()),
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
        let mut wallets = 0..self.wallets;
        let who = wallets.find(|who| is_paid(*who, paid)).unwrap();
        let found = scanner(who).confirm(&tweak, &outputs).unwrap();
        let output = found.iter().find(|found| found.outpoint == paid.outpoint);
        let tweak = Scalar::from_be_bytes(output.unwrap().tweak).unwrap();
        let secret: SecretKey = spend_key(who).secret().add_tweak(&tweak).unwrap();
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
        let settings = settings(by, Some(from), to, rescan);
        self.alone(by, wallet(0, state), settings)
    }

    /// A client of wallets that share a pass.
    pub(crate) fn together(
        &self,
        by: Dialect,
        wallets: Vec<WalletScan>,
        settings: LightSettings,
    ) -> WalletsClient {
        let engine = Arc::new(LibSecp256k1);
        let client = match by {
            Dialect::V1 => WalletsClient::new(self.oracle.clone(), engine, wallets, settings),
            Dialect::Native => {
                WalletsClient::native(self.native.clone(), None, engine, wallets, settings)
            }
        };
        client.unwrap()
    }

    /// A client of a wallet alone.
    pub(crate) fn alone(
        &self,
        by: Dialect,
        wallet: WalletScan,
        settings: LightSettings,
    ) -> LightClient {
        let WalletScan {
            keys,
            watched,
            state,
            ..
        } = wallet;
        let keys = keys.map(|keys| keys.as_ref().clone());
        let scanner = keys.map(|keys| Scanner::new(Arc::new(LibSecp256k1), keys).unwrap());
        let client = match by {
            Dialect::V1 => LightClient::new(self.oracle.clone(), scanner, watched, state, settings),
            Dialect::Native => {
                LightClient::native(self.native.clone(), None, scanner, watched, state, settings)
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
            Some(scanner(0)),
            [],
            state,
            settings,
        )
        .unwrap()
    }
}

/// Small windows, so that the chain has several.
pub(crate) fn settings(
    by: Dialect,
    from: Option<u32>,
    to: Option<u32>,
    rescan: bool,
) -> LightSettings {
    LightSettings {
        from,
        to,
        rescan,
        // Natively some sixteen times as many.
        window_blocks: match by {
            Dialect::V1 => 40,
            Dialect::Native => 3,
        },
        ..LightSettings::new(Network::Regtest)
    }
}

fn is_paid(who: u8, paid: &PaidOutput) -> bool {
    paid.address.scan_pubkey == keys_of(who).scan_key.public_key()
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
