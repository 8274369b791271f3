//! Which transactions a lane adds to a block, before hashes are known: what each spends, what it pays to, and how much.

use std::ops::Range;
use std::sync::Arc;

use secp256k1::rand::Rng;
use secp256k1::rand::rngs::StdRng;
use secp256k1::rand::seq::SliceRandom;

use super::super::coin::{Coin, Family, Kind, draw_other_kind, inscription_weight};
use super::super::parameters::{Bands, draw};
use super::{LANES, Lane, MATURITY, Order};

/// Weight of a block that transactions may use; the rest is for header and coinbase.
const BLOCK_WEIGHT: u64 = 4_000_000 - 4_000;

/// A lane makes no further transaction if less of its weight than this is left.
const LEAST_WEIGHT: u64 = 8_000;

/// Least value of an output, in satoshi; fees give way to it.
const LEAST_OUTPUT_SAT: u64 = 330;

/// Value below which the inputs of a transaction are not split further, in satoshi for each output.
const SPLIT_SAT: u64 = 2_000;

/// Outputs of a payout, which turns one coin into many when a lane has few, and their least value in satoshi.
const PAYOUT_OUTPUTS: usize = 96;
const PAYOUT_SAT: u64 = 20_000;

/// Coins a lane has at least grow by one for this many transactions, that there are old ones too, for this many blocks.
const KEYED_GROWTH: u64 = 8;
const TAPROOT_GROWTH: u64 = 64;
const GROWING_BLOCKS: u32 = 8_192;

/// Coins of which a payout spends the most valuable.
const PAYOUT_CANDIDATES: usize = 16;

/// Inputs added to a transaction that cannot pay for its outputs.
const MOST_PAYERS: u32 = 4;

/// A transaction before hashes are known.
pub(super) struct PlannedTransaction {
    pub(super) inputs: Range<usize>,
    pub(super) outputs: Range<usize>,
}

pub(super) struct PlannedInput {
    pub(super) coin: Coin,
    /// Bytes of an inscription.
    pub(super) content_bytes: u32,
}

#[derive(Clone, Copy)]
pub(super) enum Script {
    /// Kind and number of the first key.
    Payment(Kind, u32),
    /// Bytes after OP_RETURN.
    OpReturn(u8),
}

pub(super) struct PlannedOutput {
    pub(super) value_sat: u64,
    pub(super) script: Script,
}

/// All transactions of a lane in one block, before hashes are known.
#[derive(Default)]
pub(super) struct Plan {
    pub(super) transactions: Vec<PlannedTransaction>,
    pub(super) inputs: Vec<PlannedInput>,
    pub(super) outputs: Vec<PlannedOutput>,
    weight: u64,
}

/// What a transaction is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// Many coins of this family out of one.
    Payout(Family),
    /// To have a tweak.
    Eligible,
    Other,
    /// From inputs without a key to a taproot output.
    KeylessToTaproot,
}

impl Lane {
    /// Adds one transaction to the plan; false if there are no coins or no weight is left.
    pub(super) fn plan_transaction(&mut self, plan: &mut Plan, order: &Order) -> bool {
        let budget = (BLOCK_WEIGHT / u64::from(LANES)).saturating_sub(plan.weight);
        if budget < LEAST_WEIGHT {
            return false;
        }
        let parameters = Arc::clone(&self.parameters);
        let purpose = self.purpose(order);
        let is_payout = matches!(purpose, Purpose::Payout(_));
        let has_op_return = !is_payout && self.rng.gen_bool(parameters.op_return);

        let mut kinds = self.output_kinds(purpose);
        let mut weight = 4 * (10 + 2) + 4 * if has_op_return { 9 + 84 } else { 0 };
        kinds.retain(|kind| {
            let fits = weight + kind.output_weight() + LEAST_WEIGHT / 2 <= budget;
            weight += if fits { kind.output_weight() } else { 0 };
            fits
        });

        let first_input = plan.inputs.len();
        if is_payout {
            self.plan_rich_input(plan, order, budget, &mut weight);
        } else {
            let count = match purpose {
                Purpose::Eligible => draw(parameters.eligible_inputs, &mut self.rng),
                _ => draw(parameters.other_inputs, &mut self.rng),
            };
            let family = self.input_family(purpose);
            // A sweep leaves something to the others.
            let count = count.min(self.pool(family).len() as u64 / 4 + 1);
            let is_mixed = self.rng.gen_bool(parameters.mixed_inputs);
            for at in 0..count {
                let family = match is_mixed && at > 0 {
                    true => self.input_family(purpose),
                    false => family,
                };
                if !self.plan_input(plan, order, family, budget, &mut weight) {
                    break;
                }
            }
        }
        if plan.inputs.len() == first_input {
            return false;
        }
        let fee_rate = draw(parameters.fee_rate, &mut self.rng);
        let least_sat = LEAST_OUTPUT_SAT * kinds.len() as u64;
        let mut available_sat = value_of(&plan.inputs[first_input..]);
        for _ in 0..MOST_PAYERS {
            if available_sat > least_sat + least_sat / 8 {
                break;
            }
            let family = match purpose {
                Purpose::KeylessToTaproot => Family::Keyless,
                _ => Family::Keyed,
            };
            if !self.plan_input(plan, order, family, budget, &mut weight) {
                break;
            }
            available_sat = value_of(&plan.inputs[first_input..]);
        }

        // No more than the inputs can pay for; the first one always, whatever is left for it.
        let each_sat = if is_payout { PAYOUT_SAT } else { SPLIT_SAT };
        let payable = usize::try_from(available_sat / each_sat).unwrap_or(usize::MAX);
        while kinds.len() > payable.max(1) {
            weight -= kinds.pop().map_or(0, Kind::output_weight);
        }
        let spare_sat = available_sat.saturating_sub(LEAST_OUTPUT_SAT * kinds.len() as u64);
        let fee_sat = (weight.div_ceil(4) * fee_rate).min(spare_sat / 8);
        let first_output = plan.outputs.len();
        self.plan_payments(
            plan,
            first_input,
            &kinds,
            available_sat - fee_sat,
            is_payout,
        );
        if has_op_return {
            let bytes = match self.rng.gen_range(0..100) {
                0..=39 => self.rng.gen_range(4..10),
                40..=97 => self.rng.gen_range(10..20),
                _ => self.rng.gen_range(20..=75),
            };
            plan.outputs.push(PlannedOutput {
                value_sat: 0,
                script: Script::OpReturn(bytes),
            });
        }
        plan.outputs[first_output..].shuffle(&mut self.rng);
        self.keep_coins(plan, first_output, order.height);
        plan.transactions.push(PlannedTransaction {
            inputs: first_input..plan.inputs.len(),
            outputs: first_output..plan.outputs.len(),
        });
        plan.weight += weight;
        true
    }

    fn purpose(&mut self, order: &Order) -> Purpose {
        let parameters = &self.parameters;
        let share = u64::from(parameters.transactions_per_block.div_ceil(LANES));
        let grown = u64::from(order.height.saturating_sub(MATURITY).min(GROWING_BLOCKS));
        let busy = 2 * u64::from(order.transactions) + 8;
        let enough = |growth: u64| (busy + share * grown / growth) as usize;
        if self.keyed.len() < enough(KEYED_GROWTH) {
            Purpose::Payout(Family::Keyed)
        } else if self.taproot.len() < enough(TAPROOT_GROWTH) {
            Purpose::Payout(Family::Taproot)
        } else if self.rng.gen_bool(parameters.eligible) {
            Purpose::Eligible
        } else if self
            .rng
            .gen_bool(parameters.other_from_keyless * parameters.keyless_to_taproot)
        {
            Purpose::KeylessToTaproot
        } else {
            Purpose::Other
        }
    }

    fn input_family(&mut self, purpose: Purpose) -> Family {
        let parameters = &self.parameters;
        let (taproot, keyless) = match purpose {
            Purpose::Payout(_) => (0.0, 0.0),
            Purpose::Eligible => (parameters.eligible_from_taproot, 0.0),
            Purpose::KeylessToTaproot => (0.0, 1.0),
            Purpose::Other => (
                parameters.other_from_taproot,
                parameters.other_from_keyless * (1.0 - parameters.keyless_to_taproot),
            ),
        };
        let at = self.rng.gen_range(0.0..1.0);
        if at < taproot {
            Family::Taproot
        } else if at < taproot + keyless {
            Family::Keyless
        } else {
            Family::Keyed
        }
    }

    /// Adds an input if there is a coin and weight for it. Another family helps out.
    fn plan_input(
        &mut self,
        plan: &mut Plan,
        order: &Order,
        family: Family,
        budget: u64,
        weight: &mut u64,
    ) -> bool {
        let distance = draw(self.parameters.distances, &mut self.rng);
        for family in [family, Family::Keyed, Family::Taproot, Family::Keyless] {
            let pool = match family {
                Family::Taproot => &mut self.taproot,
                Family::Keyed => &mut self.keyed,
                Family::Keyless => &mut self.keyless,
            };
            if let Some(coin) = pool.take(distance, &mut self.rng) {
                return self.plan_coin(plan, order, coin, budget, weight);
            }
        }
        false
    }

    /// Adds the most valuable of some coins as an input, if there is weight for it.
    fn plan_rich_input(
        &mut self,
        plan: &mut Plan,
        order: &Order,
        budget: u64,
        weight: &mut u64,
    ) -> bool {
        let family = match self.keyed.len() {
            0 => Family::Taproot,
            _ => Family::Keyed,
        };
        let mut richest: Option<Coin> = None;
        let mut others = Vec::with_capacity(PAYOUT_CANDIDATES);
        for _ in 0..PAYOUT_CANDIDATES {
            let distance = draw(self.parameters.distances, &mut self.rng);
            let pool = match family {
                Family::Taproot => &mut self.taproot,
                _ => &mut self.keyed,
            };
            let Some(coin) = pool.take(distance, &mut self.rng) else {
                break;
            };
            match richest {
                Some(richer) if richer.value_sat >= coin.value_sat => others.push(coin),
                _ => others.extend(richest.replace(coin)),
            }
        }
        for coin in others {
            self.pool(family).add(coin);
        }
        match richest {
            Some(coin) => self.plan_coin(plan, order, coin, budget, weight),
            None => false,
        }
    }

    /// Adds the coin as an input if there is weight for it, and puts it back otherwise.
    fn plan_coin(
        &mut self,
        plan: &mut Plan,
        order: &Order,
        coin: Coin,
        budget: u64,
        weight: &mut u64,
    ) -> bool {
        let left = budget.saturating_sub(*weight);
        let input_weight = coin.kind.input_weight();
        if input_weight > left {
            self.pool(coin.kind.family()).add(coin);
            return false;
        }
        *weight += input_weight;
        let mut content_bytes = 0;
        if order.has_inscriptions && coin.kind == Kind::TaprootScript {
            let bytes = draw(self.parameters.inscription_bytes, &mut self.rng);
            let content_weight = inscription_weight(bytes);
            if input_weight + content_weight <= left {
                *weight += content_weight;
                content_bytes = bytes as u32;
            }
        }
        plan.inputs.push(PlannedInput {
            coin,
            content_bytes,
        });
        true
    }

    /// The kinds of a transaction's outputs: taproot ones first, at least one.
    fn output_kinds(&mut self, purpose: Purpose) -> Vec<Kind> {
        let parameters = Arc::clone(&self.parameters);
        let number = |bands: Bands, rng: &mut StdRng| draw(bands, rng) as usize;
        let (taproot, other) = match purpose {
            Purpose::Payout(Family::Taproot) => (PAYOUT_OUTPUTS, 0),
            Purpose::Payout(_) => (0, PAYOUT_OUTPUTS),
            Purpose::Eligible => (
                number(parameters.taproot_outputs, &mut self.rng),
                number(parameters.eligible_other_outputs, &mut self.rng),
            ),
            Purpose::Other => (0, number(parameters.other_outputs, &mut self.rng)),
            Purpose::KeylessToTaproot => (1, number(parameters.other_outputs, &mut self.rng) - 1),
        };
        let mut kinds = Vec::with_capacity(taproot + other);
        for _ in 0..taproot {
            kinds.push(if !self.rng.gen_bool(parameters.script_path) {
                Kind::TaprootKey
            } else if self.rng.gen_bool(parameters.nums) {
                Kind::TaprootNums
            } else {
                Kind::TaprootScript
            });
        }
        kinds.extend((0..other).map(|_| draw_other_kind(&parameters.other_kinds, &mut self.rng)));
        kinds
    }

    /// Plans outputs of these kinds that are worth `available_sat` together: all alike, or each but one, which is the
    /// change, of a value drawn for its kind, as far as it goes.
    fn plan_payments(
        &mut self,
        plan: &mut Plan,
        first_input: usize,
        kinds: &[Kind],
        available_sat: u64,
        is_even: bool,
    ) {
        let change = self.rng.gen_range(0..kinds.len());
        let payer = plan.inputs[first_input].coin;
        let mut left_sat = available_sat;
        let mut change_at = plan.outputs.len();
        for (at, &kind) in kinds.iter().enumerate() {
            let value_sat = if at == change {
                change_at = plan.outputs.len();
                0
            } else {
                // All outputs after this one and the change can still have the least value.
                let after = kinds.len() - 1 - at + usize::from(at > change);
                let free_sat = left_sat.saturating_sub(LEAST_OUTPUT_SAT * after as u64);
                let wanted_sat = match is_even {
                    true => available_sat / kinds.len() as u64,
                    false => self.payment_sat(kind).min(free_sat / 2),
                };
                wanted_sat.max(LEAST_OUTPUT_SAT).min(free_sat)
            };
            left_sat -= value_sat;
            let is_reused = payer.kind == kind && self.rng.gen_bool(self.parameters.reused_keys);
            let script = match is_reused {
                true => Script::Payment(payer.kind, payer.key),
                false => Script::Payment(kind, self.keys.fresh(kind.keys())),
            };
            plan.outputs.push(PlannedOutput { value_sat, script });
        }
        plan.outputs[change_at].value_sat = left_sat;
    }

    fn payment_sat(&mut self, kind: Kind) -> u64 {
        let parameters = &self.parameters;
        if kind.family() != Family::Taproot {
            draw(parameters.other_values_sat, &mut self.rng)
        } else if self.rng.gen_bool(parameters.dust) {
            match self.rng.gen_range(0..100) {
                0..=25 => 330,
                26..=72 => 546,
                _ => self.rng.gen_range(600..=1_000),
            }
        } else {
            draw(parameters.taproot_values_sat, &mut self.rng)
        }
    }

    /// Puts the outputs of the transaction that is next in the plan into the pools, but for those never spent.
    fn keep_coins(&mut self, plan: &Plan, first_output: usize, height: u32) {
        for (vout, output) in (0..).zip(&plan.outputs[first_output..]) {
            let Script::Payment(kind, key) = output.script else {
                continue;
            };
            let uneconomic_sat = match kind.family() {
                Family::Taproot => self.parameters.taproot_uneconomic_sat,
                _ => self.parameters.other_uneconomic_sat,
            };
            if output.value_sat < uneconomic_sat
                && self.rng.gen_bool(self.parameters.uneconomic_never_spent)
            {
                continue;
            }
            let coin = Coin {
                txid: Coin::pending_txid(plan.transactions.len()),
                value_sat: output.value_sat,
                key,
                height,
                vout,
                kind,
                is_coinbase: false,
            };
            self.pool(kind.family()).add(coin);
        }
    }
}

pub(super) fn value_of(inputs: &[PlannedInput]) -> u64 {
    inputs.iter().map(|input| input.coin.value_sat).sum()
}
