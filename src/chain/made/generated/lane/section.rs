//! A lane's part of a block as bytes: transactions with their ids, and what they spend.

use bitcoin::hashes::{Hash, HashEngine, sha256d};
use secp256k1::rand::RngCore;

use super::super::Counts;
use super::super::coin::{Family, Kind};
use super::super::wire::{push_compact_size, push_spent_output};
use super::Lane;
use super::plan::{Plan, PlannedInput, Script, value_of};
use crate::curve::TweakPoint;

/// What a lane adds to a block.
#[derive(Default)]
pub(in super::super) struct Section {
    /// Transactions in network form, one after the other.
    pub(in super::super) transactions: Vec<u8>,
    /// Their txids and wtxids, in internal byte order.
    pub(in super::super) txids: Vec<[u8; 32]>,
    pub(in super::super) wtxids: Vec<[u8; 32]>,
    /// Their spent outputs as undo files have them: per transaction a CompactSize and the outputs.
    pub(in super::super) undo: Vec<u8>,
    pub(in super::super) fees_sat: u64,
    pub(in super::super) counts: Counts,
    /// Where the block's reward goes, if it is this lane's turn.
    pub(in super::super) reward: Option<Reward>,
}

/// An output for a block's reward, with what its owner needs to spend it.
#[derive(Clone)]
pub(in super::super) struct Reward {
    pub(in super::super) kind: Kind,
    pub(in super::super) key: u32,
    pub(in super::super) script: Vec<u8>,
}

impl Lane {
    /// Writes the transactions in order, as each may spend what those before it have created, and tells the coins their
    /// txids. `points` are the keys of all inputs, then of all outputs.
    pub(super) fn write(&mut self, plan: &Plan, height: u32, points: &[TweakPoint]) -> Section {
        let mut section = Section::default();
        let input_keys: usize = plan
            .inputs
            .iter()
            .map(|input| input.coin.kind.keys() as usize)
            .sum();
        let (mut input_points, mut output_points) = points.split_at(input_keys);
        let mut body = Vec::new();
        let mut witness = Vec::new();
        let mut script = Vec::new();
        for planned in &plan.transactions {
            let inputs = &plan.inputs[planned.inputs.clone()];
            let outputs = &plan.outputs[planned.outputs.clone()];
            body.clear();
            witness.clear();
            push_compact_size(inputs.len() as u64, &mut body);
            push_compact_size(inputs.len() as u64, &mut section.undo);
            let mut counts = Counts {
                transactions: 1,
                inputs: inputs.len() as u64,
                outputs: outputs.len() as u64,
                ..Counts::default()
            };
            let mut has_key = false;
            for PlannedInput {
                coin,
                content_bytes,
            } in inputs
            {
                let keys;
                (keys, input_points) = input_points.split_at(coin.kind.keys() as usize);
                body.extend_from_slice(&coin.outpoint(height, &section.txids));
                script.clear();
                coin.kind.push_script_sig(keys, &mut self.rng, &mut script);
                push_compact_size(script.len() as u64, &mut body);
                body.extend_from_slice(&script);
                body.extend_from_slice(&0xffff_fffd_u32.to_le_bytes());
                coin.kind
                    .push_witness(keys, *content_bytes, &mut self.rng, &mut witness);
                script.clear();
                coin.kind.push_script(keys, &mut script);
                push_spent_output(
                    coin.height,
                    coin.is_coinbase,
                    coin.value_sat,
                    &script,
                    &mut section.undo,
                );
                has_key |= coin.kind.yields_key();
                counts.taproot_spends += u64::from(coin.kind.family() == Family::Taproot);
            }
            push_compact_size(outputs.len() as u64, &mut body);
            for output in outputs {
                body.extend_from_slice(&output.value_sat.to_le_bytes());
                script.clear();
                match output.script {
                    Script::Payment(kind, _) => {
                        let keys;
                        (keys, output_points) = output_points.split_at(kind.keys() as usize);
                        kind.push_script(keys, &mut script);
                        counts.taproot_outputs += u64::from(kind.family() == Family::Taproot);
                    }
                    Script::OpReturn(bytes) => {
                        script.extend_from_slice(&[0x6a, bytes]);
                        script.resize(2 + usize::from(bytes), 0);
                        self.rng.fill_bytes(&mut script[2..]);
                    }
                }
                push_compact_size(script.len() as u64, &mut body);
                body.extend_from_slice(&script);
            }
            if has_key && counts.taproot_outputs > 0 {
                counts.eligible_transactions = 1;
                counts.eligible_taproot_outputs = counts.taproot_outputs;
            }
            section.counts.add(&counts);
            section.fees_sat +=
                value_of(inputs) - outputs.iter().map(|output| output.value_sat).sum::<u64>();
            let has_witness = inputs.iter().any(|input| input.coin.kind.has_witness());
            section.push_transaction(&body, has_witness.then_some(&witness));
        }
        for pool in [&mut self.taproot, &mut self.keyed, &mut self.keyless] {
            for coin in pool.newest_mut() {
                coin.txid = section.txids[coin.pending_position()];
            }
        }
        section
    }
}

/// Version 2 and lock time 0, as all transactions have them.
const VERSION: [u8; 4] = [2, 0, 0, 0];
const LOCK_TIME: [u8; 4] = [0; 4];

impl Section {
    /// Appends a transaction of these inputs and outputs, and its two ids.
    fn push_transaction(&mut self, body: &[u8], witness: Option<&Vec<u8>>) {
        let txid = double_hash(&[&VERSION, body, &LOCK_TIME]);
        let start = self.transactions.len();
        self.transactions.extend_from_slice(&VERSION);
        if witness.is_some() {
            self.transactions.extend_from_slice(&[0, 1]);
        }
        self.transactions.extend_from_slice(body);
        if let Some(witness) = witness {
            self.transactions.extend_from_slice(witness);
        }
        self.transactions.extend_from_slice(&LOCK_TIME);
        self.txids.push(txid);
        self.wtxids.push(match witness {
            Some(_) => double_hash(&[&self.transactions[start..]]),
            None => txid,
        });
    }
}

/// SHA256d of parts, one after the other.
pub(in super::super) fn double_hash(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = sha256d::Hash::engine();
    for part in parts {
        hash.input(part);
    }
    sha256d::Hash::from_engine(hash).to_byte_array()
}
