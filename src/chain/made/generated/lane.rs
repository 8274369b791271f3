//! A lane: an economy of its own whose transactions are a fixed share of every block.
//!
//! Lanes never spend each other's outputs, so that they are made on all cores at once, many blocks ahead, and the result
//! does not depend on the number of threads.

mod plan;
mod section;

use std::sync::Arc;

use secp256k1::rand::Rng;
use secp256k1::rand::rngs::StdRng;

use super::coin::{Coin, Family, Kind, draw_other_kind};
use super::keys::Keys;
use super::parameters::ChainParameters;
use super::pool::Pool;
use super::{MATURITY, Stream, random_stream};
use crate::curve::{Engine, TweakPoint};
use plan::{Plan, Script};

pub(super) use section::{Reward, Section, double_hash};

/// Lanes of a chain. Part of what a chain is: another number makes other chains.
pub(super) const LANES: u32 = 16;

/// What a lane has to know about a block before it makes its section.
pub(super) struct Order {
    pub(super) height: u32,
    /// Transactions wanted.
    pub(super) transactions: u32,
    /// Whether script path spends carry large witnesses.
    pub(super) has_inscriptions: bool,
    /// A block reward that may be spent from this height on.
    pub(super) matured: Option<Coin>,
    /// Whether the reward of this block goes to the lane.
    pub(super) takes_reward: bool,
}

pub(super) struct Lane {
    parameters: Arc<ChainParameters>,
    rng: StdRng,
    keys: Keys,
    taproot: Pool,
    keyed: Pool,
    keyless: Pool,
}

impl Lane {
    pub(super) fn new(
        parameters: Arc<ChainParameters>,
        number: u32,
        rows: Arc<[TweakPoint]>,
    ) -> Self {
        let mut lane = Self {
            rng: random_stream(parameters.seed, Stream::Lane(number)),
            keys: Keys::new(parameters.seed, number, rows),
            parameters,
            taproot: Pool::default(),
            keyed: Pool::default(),
            keyless: Pool::default(),
        };
        // The genesis block, whose reward cannot be spent.
        lane.next_height();
        lane
    }

    pub(super) fn coins(&self) -> usize {
        self.taproot.len() + self.keyed.len() + self.keyless.len()
    }

    pub(super) fn allocated_bytes(&self) -> usize {
        [&self.taproot, &self.keyed, &self.keyless]
            .map(Pool::allocated_bytes)
            .iter()
            .sum()
    }

    fn next_height(&mut self) {
        for pool in [&mut self.taproot, &mut self.keyed, &mut self.keyless] {
            pool.next_height();
        }
    }

    fn pool(&mut self, family: Family) -> &mut Pool {
        match family {
            Family::Taproot => &mut self.taproot,
            Family::Keyed => &mut self.keyed,
            Family::Keyless => &mut self.keyless,
        }
    }

    /// Makes the lane's part of the next block.
    pub(super) fn section(&mut self, engine: &dyn Engine, order: &Order) -> Section {
        self.next_height();
        if let Some(coin) = order.matured {
            self.pool(coin.kind.family()).add(coin);
        }
        let mut plan = Plan::default();
        for _ in 0..order.transactions {
            if !self.plan_transaction(&mut plan, order) {
                break;
            }
        }
        let reward = order.takes_reward.then(|| {
            let parameters = Arc::clone(&self.parameters);
            let kind = match self.rng.gen_bool(0.2) {
                true => Kind::TaprootKey,
                false => draw_other_kind(&parameters.other_kinds, &mut self.rng),
            };
            (kind, self.keys.fresh(kind.keys()))
        });

        let mut numbers = Vec::with_capacity((plan.inputs.len() + plan.outputs.len()) * 2);
        let mut want = |kind: Kind, key: u32| {
            numbers.extend((0..kind.keys()).map(|more| key.wrapping_add(more)));
        };
        for input in &plan.inputs {
            want(input.coin.kind, input.coin.key);
        }
        for output in &plan.outputs {
            if let Script::Payment(kind, key) = output.script {
                want(kind, key);
            }
        }
        if let Some((kind, key)) = reward {
            want(kind, key);
        }
        let points = self.keys.points(engine, &numbers);
        let mut section = self.write(&plan, order.height, &points);
        if let Some((kind, key)) = reward {
            let mut script = Vec::new();
            let first = points.len() - kind.keys() as usize;
            kind.push_script(&points[first..], &mut script);
            section.reward = Some(Reward { kind, key, script });
        }
        section
    }
}
