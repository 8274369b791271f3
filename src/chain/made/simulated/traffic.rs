//! Background traffic: transactions of all kinds in proportions like mainnet's.

use bitcoin::hashes::Hash;
use bitcoin::{Amount, OutPoint, ScriptBuf, Txid};
use bitcoin::{TxOut, WitnessProgram, WitnessVersion};
use secp256k1::SecretKey;
use secp256k1::rand::Rng;
use secp256k1::rand::seq::SliceRandom;

use super::builder::{
    InputKind, SpendableOutput, build_transaction, op_return_output, silent_payment_outputs,
    sum_sat,
};
use super::ledger::Owner;
use super::{PaidOutput, State};
use crate::bip352::address::Address;

/// How often each kind of output is made, by weight. Every kind is common enough to occur in a few dozen blocks.
const KIND_WEIGHTS: [(InputKind, u32); 16] = [
    (InputKind::P2wpkh, 34),
    (InputKind::P2tr, 27),
    (InputKind::P2pkh, 11),
    (InputKind::P2shP2wpkh, 7),
    (InputKind::P2wsh, 4),
    (InputKind::P2trScript, 3),
    (InputKind::P2shMultisig, 3),
    (InputKind::P2trNums, 2),
    (InputKind::P2trAnnex, 2),
    (InputKind::P2pkhUncompressed, 1),
    (InputKind::P2pkhMalleated, 1),
    (InputKind::P2trNumsAnnex, 1),
    (InputKind::P2pk, 1),
    (InputKind::BareMultisig, 1),
    (InputKind::FutureWitness, 1),
    (InputKind::Anchor, 1),
];

/// Coins the traffic keeps for each transaction of a block: fewer, and it splits; more, and it joins.
const COINS_PER_TRANSACTION: usize = 30;

/// Amounts near the dust limits that wallets and servers use, in satoshi.
const DUST_SAT: [u64; 4] = [330, 546, 999, 1000];

/// An output to be made: amount and script, and whose it is.
pub(super) struct PlannedOutput {
    pub(super) txout: TxOut,
    pub(super) owner: Option<Owner>,
    pub(super) paid_to: Option<Address>,
}

impl PlannedOutput {
    /// An output of nobody that matters.
    pub(super) fn foreign(txout: TxOut) -> Self {
        Self {
            txout,
            owner: None,
            paid_to: None,
        }
    }
}

impl State {
    /// Fills the mempool with about as many transactions as the settings ask for.
    pub(super) fn add_background_traffic(&mut self) {
        let mean = self.settings.transactions_per_block;
        if mean == 0 {
            return;
        }
        let wanted = self.rng.gen_range(mean.div_ceil(2)..=mean + mean / 2);
        for _ in 0..wanted {
            if !self.add_random_transaction() {
                return;
            }
        }
    }

    /// A coin of the chain's own, removed from the pool; mostly any, sometimes the newest, which may be unconfirmed.
    fn take_coin(&mut self) -> Option<SpendableOutput> {
        while !self.pool.is_empty() {
            let newest = self.pool.len() - 1;
            let at = match self.rng.gen_ratio(1, 8) {
                true => newest,
                false => self.rng.gen_range(0..=newest),
            };
            let outpoint = self.pool.swap_remove(at);
            // The pool is not told when a coin is spent by other ways.
            if let Some(coin) = self.ledger.coin(&outpoint)
                && let Some(spendable) = coin.spendable(outpoint)
            {
                return Some(spendable);
            }
        }
        None
    }

    pub(super) fn random_kind(&mut self) -> InputKind {
        let chosen = KIND_WEIGHTS.choose_weighted(&mut self.rng, |(_, weight)| *weight);
        chosen.map_or(InputKind::P2wpkh, |(kind, _)| *kind)
    }

    pub(super) fn own_output(
        &mut self,
        kind: InputKind,
        value_sat: u64,
        kept: bool,
    ) -> PlannedOutput {
        let secret = SecretKey::new(&mut self.rng);
        PlannedOutput {
            txout: TxOut {
                value: Amount::from_sat(value_sat),
                script_pubkey: kind.script_pubkey(&secret),
            },
            owner: Some(Owner { kind, secret, kept }),
            paid_to: None,
        }
    }

    /// An output to strangers; every other one is a taproot output whose key need not be on the curve.
    fn foreign_output(&mut self, value_sat: u64) -> PlannedOutput {
        let script_pubkey = match self.rng.r#gen() {
            true => {
                let key: [u8; 32] = self.rng.r#gen();
                let program = WitnessProgram::new(WitnessVersion::V1, &key);
                ScriptBuf::new_witness_program(&program.expect("32 bytes are a witness program"))
            }
            false => {
                let hash: [u8; 20] = self.rng.r#gen();
                ScriptBuf::new_p2wpkh(&bitcoin::WPubkeyHash::from_byte_array(hash))
            }
        };
        PlannedOutput::foreign(TxOut {
            value: Amount::from_sat(value_sat),
            script_pubkey,
        })
    }

    /// One transaction into the mempool; false when no coin is left to spend.
    fn add_random_transaction(&mut self) -> bool {
        let input_count = match self.rng.gen_range(0..20) {
            0..13 => 1,
            13..17 => 2,
            _ => self.rng.gen_range(3..=5),
        };
        let mut inputs: Vec<SpendableOutput> = Vec::new();
        for _ in 0..input_count {
            let Some(coin) = self.take_coin() else { break };
            if inputs.iter().all(|input| input.outpoint != coin.outpoint) {
                inputs.push(coin);
            }
        }
        if inputs.is_empty() {
            return false;
        }
        let prevouts: Vec<TxOut> = inputs.iter().map(|input| input.txout.clone()).collect();
        let total_sat = sum_sat(&prevouts);
        let fee_sat = (300 * inputs.len() as u64).min(total_sat / 10);
        let values = self.split(total_sat - fee_sat);
        let batch = self.rng.gen_ratio(1, 12);
        let mut outputs: Vec<PlannedOutput> = values
            .into_iter()
            .map(|value_sat| {
                if self.rng.gen_ratio(1, 12) {
                    return self.foreign_output(value_sat);
                }
                // Some transactions make several taproot outputs, of which later ones spend a part.
                let kind = match batch {
                    true => InputKind::P2tr,
                    false => self.random_kind(),
                };
                self.own_output(kind, value_sat, false)
            })
            .collect();
        self.divert_to_recipients(&inputs, &mut outputs);
        if self.rng.gen_ratio(1, 25) {
            let data: [u8; 32] = self.rng.r#gen();
            outputs.push(PlannedOutput::foreign(op_return_output(&data)));
        }
        self.submit_planned(&inputs, outputs)
            .expect("own coins that exist and balance are accepted");
        true
    }

    /// Divides an amount over as many outputs as keep the number of own coins steady.
    fn split(&mut self, total_sat: u64) -> Vec<u64> {
        let enough = COINS_PER_TRANSACTION * self.settings.transactions_per_block as usize;
        let most = match self.pool.len() < enough {
            true => 9,
            false => 3,
        };
        let count = self.rng.gen_range(1..=most).min(total_sat / 2_000).max(1);
        let mut left_sat = total_sat;
        let mut values = Vec::new();
        for later in (0..count).rev() {
            let value_sat = match later {
                0 => left_sat,
                _ if self.rng.gen_ratio(1, 10) => DUST_SAT[self.rng.gen_range(0..DUST_SAT.len())],
                _ => left_sat / (later + 1) * self.rng.gen_range(20..=100) / 100,
            };
            left_sat -= value_sat;
            values.push(value_sat);
        }
        values
    }

    /// Now and then one of the outputs goes to a silent payment address of the settings instead, sometimes two.
    fn divert_to_recipients(&mut self, inputs: &[SpendableOutput], outputs: &mut [PlannedOutput]) {
        let percent = self.settings.payment_percent.min(100);
        if self.settings.recipients.is_empty() || !self.rng.gen_ratio(percent, 100) {
            return;
        }
        // A receiver would not find it.
        if inputs.iter().any(|input| input.kind.disqualifies()) {
            return;
        }
        let count = match self.rng.gen_ratio(1, 4) {
            true => outputs.len().min(2),
            false => outputs.len().min(1),
        };
        let recipients: Vec<(Address, u64)> = outputs[..count]
            .iter()
            .map(|output| {
                let at = self.rng.gen_range(0..self.settings.recipients.len());
                let address = self.settings.recipients[at];
                (address, output.txout.value.to_sat())
            })
            .collect();
        // Fails where no input yields a key; then the outputs stay what they were.
        if let Ok(payments) = silent_payment_outputs(inputs, &recipients) {
            for ((output, txout), (address, _)) in outputs.iter_mut().zip(payments).zip(recipients)
            {
                *output = PlannedOutput {
                    txout,
                    owner: None,
                    paid_to: Some(address),
                };
            }
        }
    }

    /// Shuffles the outputs, signs, and puts the transaction into the mempool. The chain's own new outputs join the
    /// pool unless they are kept.
    pub(super) fn submit_planned(
        &mut self,
        inputs: &[SpendableOutput],
        mut outputs: Vec<PlannedOutput>,
    ) -> Result<Txid, String> {
        outputs.shuffle(&mut self.rng);
        let txouts = outputs.iter().map(|output| output.txout.clone()).collect();
        let tx = build_transaction(inputs, txouts).map_err(|e| e.to_string())?;
        let txid = tx.compute_txid();
        let mut owners = Vec::with_capacity(outputs.len());
        let mut payments = Vec::new();
        let mut to_pool = Vec::new();
        for (vout, output) in (0..).zip(outputs) {
            let outpoint = OutPoint { txid, vout };
            if let Some(address) = output.paid_to {
                payments.push(PaidOutput::unconfirmed(address, outpoint, &output.txout));
            }
            if output.owner.as_ref().is_some_and(|owner| !owner.kept) {
                to_pool.push(outpoint);
            }
            owners.push(output.owner);
        }
        self.ledger.accept(tx, owners, payments)?;
        self.pool.extend(to_pool);
        Ok(txid)
    }
}
