//! Payments on request, from inputs of chosen kinds.

use bitcoin::{OutPoint, TxOut, Txid};
use secp256k1::XOnlyPublicKey;
use secp256k1::rand::Rng;

use super::builder::{
    InputKind, SpendableOutput, op_return_output, silent_payment_outputs, sum_sat,
};
use super::ledger::COINBASE_MATURITY;
use super::traffic::PlannedOutput;
use super::{SimulationError, State};
use crate::BlockId;
use crate::bip352::address::Address;
use crate::bip352::inputs::taproot_output_key;

/// Fee for each input and output, in satoshi: well above what nodes relay for.
const FEE_SAT: u64 = 1_000;

/// Least value of an output that is made to be spent, in satoshi.
const LEAST_VALUE_SAT: u64 = 1_000;

/// Depth at which a block reward is preferred as funds: mature, with room for a reorganization of 20 blocks.
const SETTLED_DEPTH: u32 = COINBASE_MATURITY + 20;

/// A transaction to be made. What is not asked for is left out; the chain's wallet pays and takes the change.
#[derive(Debug, Clone, Default)]
pub struct PaymentRequest {
    /// Silent payment addresses and what each gets, in satoshi. One address may occur several times (k > 0).
    pub recipients: Vec<(Address, u64)>,
    /// Kinds of the inputs to spend, made to order by another transaction just before. One P2WPKH input if both this
    /// and `spend` are empty.
    pub inputs: Vec<InputKind>,
    /// Outputs of the chain's own to spend besides, such as earlier `kept` ones.
    pub spend: Vec<OutPoint>,
    /// Outputs to the chain's wallet that the background traffic never spends: kind, and value in satoshi.
    pub keep: Vec<(InputKind, u64)>,
    /// Any other outputs.
    pub outputs: Vec<TxOut>,
    /// Data for an OP_RETURN output, such as the state id of a process tip.
    pub op_return: Option<Vec<u8>>,
}

impl PaymentRequest {
    /// Pays one address from one P2WPKH input.
    pub fn to(address: Address, value_sat: u64) -> Self {
        Self {
            recipients: vec![(address, value_sat)],
            ..Self::default()
        }
    }

    /// The same from inputs of these kinds.
    pub fn from_inputs(mut self, kinds: &[InputKind]) -> Self {
        self.inputs = kinds.to_vec();
        self
    }
}

/// What a [`PaymentRequest`] has become. Outputs are shuffled, so that positions follow from nothing.
#[derive(Debug, Clone)]
pub struct Paid {
    /// The transaction.
    pub txid: Txid,
    /// Per recipient of the request its output.
    pub outputs: Vec<PaidOutput>,
    /// Per `keep` of the request its output, ready to be spent.
    pub kept: Vec<SpendableOutput>,
}

/// The truth about a silent payment, for comparison with what a receiver finds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PaidOutput {
    /// Who was paid.
    pub address: Address,
    /// Where.
    pub outpoint: OutPoint,
    /// Key of the taproot output.
    pub output_key: XOnlyPublicKey,
    /// How much.
    pub value_sat: u64,
    /// Block of the active chain it is in, `None` in the mempool.
    pub block: Option<BlockId>,
    /// Transaction and block of the active chain that spent it.
    pub spent_by: Option<(Txid, BlockId)>,
}

impl PaidOutput {
    pub(super) fn unconfirmed(address: Address, outpoint: OutPoint, txout: &TxOut) -> Self {
        let key =
            taproot_output_key(&txout.script_pubkey).map(|key| XOnlyPublicKey::from_slice(&key));
        Self {
            address,
            outpoint,
            output_key: match key {
                Some(Ok(key)) => key,
                _ => unreachable!("silent payments make taproot outputs with valid keys"),
            },
            value_sat: txout.value.to_sat(),
            block: None,
            spent_by: None,
        }
    }
}

impl State {
    /// Puts the transaction, and one in front that makes its inputs, into the mempool.
    pub(super) fn pay(&mut self, request: &PaymentRequest) -> Result<Paid, SimulationError> {
        let mut kinds = request.inputs.clone();
        if kinds.is_empty() && request.spend.is_empty() {
            kinds.push(InputKind::P2wpkh);
        }
        let mut inputs = Vec::new();
        for outpoint in &request.spend {
            let coin = self.ledger.coin(outpoint);
            let spendable = coin.and_then(|coin| coin.spendable(*outpoint));
            inputs.push(spendable.ok_or(SimulationError::NotOurs(*outpoint))?);
        }

        let recipients_sat = request.recipients.iter().map(|(_, sat)| sat);
        let kept_sat = request.keep.iter().map(|(_, sat)| sat);
        let outputs_sat = recipients_sat
            .chain(kept_sat)
            .fold(sum_sat(&request.outputs), |sum, sat| {
                sum.saturating_add(*sat)
            });
        let output_count =
            request.recipients.len() + request.keep.len() + request.outputs.len() + 2;
        let fee_sat = FEE_SAT * (kinds.len() + inputs.len() + output_count) as u64;
        let spent_sat: u64 = inputs.iter().map(|input| input.txout.value.to_sat()).sum();
        let missing_sat = outputs_sat
            .saturating_add(fee_sat)
            .saturating_sub(spent_sat);
        if missing_sat > 0 && kinds.is_empty() {
            kinds.push(InputKind::P2wpkh);
        }
        // Somewhat more than needed, so that there is change.
        let ample_sat = missing_sat.saturating_add(self.rng.gen_range(10_000..100_000));
        inputs.extend(self.fund(&kinds, ample_sat)?);

        let payments = match request.recipients.is_empty() {
            true => Vec::new(),
            false => silent_payment_outputs(&inputs, &request.recipients)?,
        };
        let mut outputs: Vec<PlannedOutput> = request
            .recipients
            .iter()
            .zip(payments)
            .map(|(&(address, _), txout)| PlannedOutput {
                txout,
                owner: None,
                paid_to: Some(address),
            })
            .collect();
        let paid: Vec<TxOut> = outputs.iter().map(|output| output.txout.clone()).collect();
        let mut kept = Vec::new();
        for &(kind, value_sat) in &request.keep {
            let output = self.own_output(kind, value_sat, true);
            kept.push(output.txout.clone());
            outputs.push(output);
        }
        outputs.extend(request.outputs.iter().cloned().map(PlannedOutput::foreign));
        if let Some(data) = &request.op_return {
            outputs.push(PlannedOutput::foreign(op_return_output(data)));
        }
        let inputs_sat: u64 = inputs.iter().map(|input| input.txout.value.to_sat()).sum();
        let change_sat = inputs_sat.saturating_sub(outputs_sat.saturating_add(fee_sat));
        if change_sat >= LEAST_VALUE_SAT || outputs.is_empty() {
            let kind = inputs.first().map_or(InputKind::P2wpkh, |input| input.kind);
            outputs.push(self.own_output(kind, change_sat, false));
        }
        let txid = self
            .submit_planned(&inputs, outputs)
            .map_err(SimulationError::Refused)?;
        Ok(self.receipt(txid, &paid, &kept))
    }

    /// Outputs of the given kinds in the mempool, together worth at least `least_sat`.
    fn fund(
        &mut self,
        kinds: &[InputKind],
        least_sat: u64,
    ) -> Result<Vec<SpendableOutput>, SimulationError> {
        if kinds.is_empty() {
            return Ok(Vec::new());
        }
        let count = kinds.len() as u64;
        let each_sat = least_sat.div_ceil(count).max(LEAST_VALUE_SAT);
        let wanted_sat = each_sat.saturating_mul(count);

        let mut coins = Vec::new();
        let mut have_sat = 0;
        let enough_sat = |coins: &Vec<SpendableOutput>| {
            wanted_sat.saturating_add(FEE_SAT * (count + 1 + coins.len() as u64))
        };
        while have_sat < enough_sat(&coins) {
            let Some(coin) = self.take_largest_coin() else {
                self.pool.extend(coins.iter().map(|coin| coin.outpoint));
                return Err(SimulationError::NoFunds {
                    wanted_sat,
                    have_sat,
                });
            };
            have_sat += coin.txout.value.to_sat();
            coins.push(coin);
        }
        let change_sat = have_sat - enough_sat(&coins);
        let mut outputs: Vec<PlannedOutput> = kinds
            .iter()
            .map(|kind| self.own_output(*kind, each_sat, true))
            .collect();
        let made: Vec<TxOut> = outputs.iter().map(|output| output.txout.clone()).collect();
        if change_sat >= LEAST_VALUE_SAT {
            let kind = self.random_kind();
            outputs.push(self.own_output(kind, change_sat, false));
        }
        let txid = self
            .submit_planned(&coins, outputs)
            .map_err(SimulationError::Refused)?;
        Ok(self.receipt(txid, &[], &made).kept)
    }

    /// The most valuable coin of the pool, removed from it; block rewards that have only just matured come last, as a
    /// reorganization would make them immature again.
    fn take_largest_coin(&mut self) -> Option<SpendableOutput> {
        let ledger = &self.ledger;
        self.pool.retain(|outpoint| ledger.coin(outpoint).is_some());
        let settled_height = ledger.tip().height.saturating_sub(SETTLED_DEPTH);
        let rank = |outpoint: &OutPoint| {
            let coin = ledger.coin(outpoint)?;
            let settled = coin
                .coinbase_height
                .is_none_or(|height| height <= settled_height);
            Some((settled, coin.txout.value))
        };
        let ranked = self.pool.iter().enumerate();
        let (at, _) = ranked.max_by_key(|(_, outpoint)| rank(outpoint))?;
        let outpoint = self.pool.swap_remove(at);
        self.ledger.coin(&outpoint)?.spendable(outpoint)
    }

    /// Finds outputs of a transaction in the mempool again after they were shuffled. All have keys of their own.
    fn receipt(&self, txid: Txid, paid: &[TxOut], kept: &[TxOut]) -> Paid {
        let pending = self.ledger.mempool().iter().rev();
        let pending = pending
            .into_iter()
            .find(|pending| pending.txid == txid)
            .expect("it has just been accepted");
        let outpoint_of = |txout: &TxOut| {
            let vout = pending.tx.output.iter().position(|output| output == txout);
            let vout = vout.expect("shuffling loses no output");
            OutPoint {
                txid,
                vout: u32::try_from(vout).expect("a transaction has fewer outputs"),
            }
        };
        let outputs = paid.iter().map(|txout| {
            let outpoint = outpoint_of(txout);
            let payment = pending
                .payments
                .iter()
                .find(|payment| payment.outpoint == outpoint);
            payment.cloned().expect("the payment was recorded")
        });
        let kept = kept.iter().map(|txout| {
            let outpoint = outpoint_of(txout);
            let coin = pending
                .created
                .iter()
                .find(|(created, _)| *created == outpoint);
            coin.and_then(|(_, coin)| coin.spendable(outpoint))
                .expect("own outputs can be spent")
        });
        Paid {
            txid,
            outputs: outputs.collect(),
            kept: kept.collect(),
        }
    }
}
