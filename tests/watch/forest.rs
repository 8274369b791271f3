//! A simulated chain on which processes of all kinds go on: tips of any script, spenders with any outputs.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bitcoin::{Amount, OutPoint, TxOut, Txid};
use secp256k1::SecretKey;
use secp256k1::rand::rngs::StdRng;
use secp256k1::rand::seq::SliceRandom;
use secp256k1::rand::{Rng, SeedableRng};
use spindex::chain::made::simulated::builder::{
    InputKind, SpendableOutput, build_transaction, op_return_output,
};
use spindex::chain::made::simulated::{PaymentRequest, SimulatedChain, SimulationSettings};

/// Taproot first: that is what tips mostly are.
const KINDS: [InputKind; 8] = [
    InputKind::P2tr,
    InputKind::P2tr,
    InputKind::P2tr,
    InputKind::P2trScript,
    InputKind::P2trNums,
    InputKind::P2wpkh,
    InputKind::P2wsh,
    InputKind::P2pkh,
];

/// What an output of a spender is to be.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Output {
    /// One that can be spent again.
    Coin(InputKind),
    /// A state id.
    State([u8; 32]),
    /// So many bytes that are none.
    Data(usize),
}

/// A chain, and every output of a process on any of its branches.
pub(crate) struct Forest {
    pub(crate) chain: Arc<SimulatedChain>,
    pub(crate) coins: HashMap<OutPoint, SpendableOutput>,
    pub(crate) rng: StdRng,
    /// Outputs that are spent sooner than others: tips that somebody watches.
    pub(crate) favoured: HashSet<OutPoint>,
    /// The last transaction of a process.
    last: Option<Txid>,
}

impl Forest {
    /// As many coins to start from, mined in the last block.
    pub(crate) fn new(seed: u64, starts: usize) -> Self {
        let chain = SimulatedChain::new(SimulationSettings {
            seed,
            transactions_per_block: 2,
            ..SimulationSettings::default()
        });
        chain.mine(103);
        let mut rng = StdRng::seed_from_u64(seed);
        let kinds = (0..starts).map(|_| *KINDS.choose(&mut rng).unwrap());
        let request = PaymentRequest {
            keep: kinds.map(|kind| (kind, 20_000_000)).collect(),
            ..PaymentRequest::default()
        };
        let (_, paid) = chain.mine_with(&[request]).unwrap();
        let kept = paid[0].kept.iter();
        Self {
            chain: Arc::new(chain),
            coins: kept.map(|coin| (coin.outpoint, coin.clone())).collect(),
            rng,
            favoured: HashSet::new(),
            last: None,
        }
    }

    /// The outputs of the active branch and of the mempool that nothing spends there.
    pub(crate) fn unspent(&self) -> Vec<SpendableOutput> {
        let mut made: HashSet<Txid> = HashSet::new();
        let mut spent: HashSet<OutPoint> = HashSet::new();
        for block in self.chain.active_blocks() {
            made.extend(&block.txids);
            let inputs = block.block.txdata.iter().flat_map(|tx| &tx.input);
            spent.extend(inputs.map(|input| input.previous_output));
        }
        for tx in self.chain.mempool() {
            made.insert(tx.compute_txid());
            spent.extend(tx.input.iter().map(|input| input.previous_output));
        }
        let coins = self.coins.values();
        let unspent = coins
            .filter(|coin| made.contains(&coin.outpoint.txid) && !spent.contains(&coin.outpoint));
        let mut unspent: Vec<SpendableOutput> = unspent.cloned().collect();
        // A map has no order of its own, a seed has one history.
        unspent.sort_by_key(|coin| coin.outpoint);
        unspent
    }

    /// Puts a transaction that spends `inputs` to these outputs into the mempool; `None` if it is refused.
    pub(crate) fn spend(&mut self, inputs: &[SpendableOutput], outputs: &[Output]) -> Option<Txid> {
        let total: u64 = inputs.iter().map(|input| input.txout.value.to_sat()).sum();
        let coins = outputs
            .iter()
            .filter(|output| matches!(output, Output::Coin(_)));
        let each_sat = (total - total / 50) / coins.count().max(1) as u64;
        let mut secrets = Vec::new();
        let txouts = outputs.iter().map(|output| match output {
            Output::Coin(kind) => {
                let secret = SecretKey::new(&mut self.rng);
                secrets.push(Some((*kind, secret)));
                TxOut {
                    value: Amount::from_sat(each_sat),
                    script_pubkey: kind.script_pubkey(&secret),
                }
            }
            Output::State(id) => {
                secrets.push(None);
                op_return_output(id)
            }
            Output::Data(bytes) => {
                secrets.push(None);
                op_return_output(&vec![7; *bytes])
            }
        });
        let tx = build_transaction(inputs, txouts.collect()).unwrap();
        let txid = self.chain.submit(&tx).ok()?;
        for (vout, secret) in (0..).zip(secrets) {
            if let Some((kind, secret)) = secret {
                let outpoint = OutPoint::new(txid, vout);
                let coin = SpendableOutput::new(kind, secret, outpoint, each_sat);
                self.coins.insert(outpoint, coin);
            }
        }
        Some(txid)
    }

    /// A transaction like a relay's devices make them, or unlike.
    pub(crate) fn step(&mut self) {
        let mut unspent = self.unspent();
        unspent.retain(|coin| coin.txout.value.to_sat() > 2_000);
        unspent.shuffle(&mut self.rng);
        let way = self.rng.gen_range(0..4);
        unspent.sort_by_key(|coin| match way {
            0 => false,
            1 => Some(coin.outpoint.txid) != self.last,
            _ => !self.favoured.contains(&coin.outpoint),
        });
        let count = if self.rng.gen_ratio(1, 6) { 2 } else { 1 };
        unspent.truncate(count);
        if unspent.is_empty() {
            return;
        }
        let outputs = match self.rng.gen_range(0..5) {
            0 => self.odd_outputs(),
            _ => vec![self.coin(), self.state()],
        };
        self.last = self.spend(&unspent, &outputs);
    }

    fn coin(&mut self) -> Output {
        Output::Coin(*KINDS.choose(&mut self.rng).unwrap())
    }

    fn state(&mut self) -> Output {
        match self.rng.gen_ratio(1, 12) {
            true => Output::State([0; 32]),
            false => Output::State(self.rng.r#gen()),
        }
    }

    fn odd_outputs(&mut self) -> Vec<Output> {
        let count = self.rng.gen_range(1..=4);
        let mut outputs = vec![self.coin()];
        for _ in 0..count {
            let output = match self.rng.gen_range(0..5) {
                0 => self.coin(),
                1 | 2 => self.state(),
                3 => Output::Data(31),
                _ => Output::Data(33),
            };
            outputs.push(output);
        }
        outputs.shuffle(&mut self.rng);
        outputs
    }

    /// Goes on by some blocks, with transactions in between.
    pub(crate) fn grow(&mut self, blocks: u32) {
        for _ in 0..blocks {
            for _ in 0..self.rng.gen_range(0..5) {
                self.step();
            }
            self.chain.mine(1);
        }
    }

    /// Replaces the last blocks by others, in which other transactions spend the same coins.
    pub(crate) fn reorganize(&mut self, depth: u32) {
        self.chain.go_back(depth).unwrap();
        self.grow(depth + 1);
    }
}
