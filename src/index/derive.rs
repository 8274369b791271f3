//! Pure `BlockWithPrevouts -> BlockRecord`, many blocks at once.

use rayon::prelude::*;

use crate::bip352::inputs::{
    SpendingInput, TweakInputs, borrowed_tweak_inputs, taproot_output_key,
};
use crate::bip352::tweak::tweaks;
use crate::chain::BlockWithPrevouts;
use crate::curve::{Engine, TWEAK_BATCH, TweakPoint, batch_for_threads, covered};
use crate::filter;
use crate::process::{State, state_id};
use crate::store::watches::{BlockInputs, InputSpan};
use crate::store::{
    BlockRecord, BlockSpends, OutputRow, SpendRow, Spender, StateRow, TransactionRow, TweakForm,
};

/// Derives the index rows of each block, in order; with multiples if the index stores them.
///
/// Curve work is spread over rayon across all blocks, so that many small blocks cost no more than few large ones. All of it is
/// [`covered`]: an engine found wrong meanwhile has no part in the rows.
pub fn derive_records(
    engine: &dyn Engine,
    blocks: &[BlockWithPrevouts],
    tweak_form: TweakForm,
) -> Vec<BlockRecord> {
    let candidates: Vec<(usize, usize, TweakInputs)> = blocks
        .par_iter()
        .enumerate()
        .flat_map_iter(|(block_index, block)| {
            tweak_candidates(block).map(move |(position, inputs)| (block_index, position, inputs))
        })
        .collect();

    let (places, inputs): (Vec<(usize, usize)>, Vec<TweakInputs>) = candidates
        .into_iter()
        .map(|(block, position, inputs)| ((block, position), inputs))
        .unzip();
    let points = covered(engine, || points(engine, &inputs, tweak_form));

    // Both lists are ordered by block, then position: each block's share is one run.
    let mut eligible: Vec<Vec<Eligible>> = vec![Vec::new(); blocks.len()];
    for ((block, position), point) in places.into_iter().zip(points) {
        if let Some((tweak, multiple)) = point {
            eligible[block].push(Eligible {
                position,
                tweak,
                multiple,
            });
        }
    }
    blocks
        .par_iter()
        .zip(eligible)
        .map(|(block, eligible)| record(block, &eligible))
        .collect()
}

/// Tweak, and multiple if wanted, of each transaction that is eligible.
fn points(
    engine: &dyn Engine,
    inputs: &[TweakInputs],
    tweak_form: TweakForm,
) -> Vec<Option<(TweakPoint, Option<TweakPoint>)>> {
    let batch = batch_for_threads(inputs.len(), rayon::current_num_threads(), TWEAK_BATCH);
    inputs
        .par_chunks(batch)
        .with_max_len(1)
        .flat_map_iter(|batch| {
            let tweaks = tweaks(engine, batch);
            let mut multiples = Vec::new();
            if tweak_form.has_multiples() {
                let points: Vec<TweakPoint> = tweaks.iter().flatten().copied().collect();
                multiples = engine.multiples(&points);
            }
            let mut multiples = multiples.into_iter();
            tweaks
                .into_iter()
                .map(move |tweak| Some((tweak?, multiples.next().flatten())))
        })
        .collect()
}

/// What the tweaks of a block are computed from: position in the block and inputs of each transaction that may turn out
/// eligible.
pub fn tweak_candidates(
    block: &BlockWithPrevouts,
) -> impl Iterator<Item = (usize, TweakInputs)> + '_ {
    block.spending_transactions().filter_map(|(tx, inputs)| {
        let inputs = inputs.map(|(input, prevout)| SpendingInput {
            previous_output: input.previous_output(),
            script_sig: input.script_sig(),
            witness: input.witness().collect(),
            script_pubkey: prevout.script_pubkey,
        });
        let scripts = tx.outputs().map(|output| output.script_pubkey());
        Some((tx.index(), borrowed_tweak_inputs(inputs, scripts)?))
    })
}

/// An eligible transaction of a block.
#[derive(Clone)]
struct Eligible {
    /// Index among all transactions of the block.
    position: usize,
    tweak: TweakPoint,
    /// `None` if not wanted. An engine that fails to give one leaves the record short of it, and the store refuses that.
    multiple: Option<TweakPoint>,
}

/// Assembles the rows of one block; `eligible` holds its eligible transactions, ascending by position.
fn record(source: &BlockWithPrevouts, eligible: &[Eligible]) -> BlockRecord {
    let mut rows = Vec::with_capacity(eligible.len());
    let mut multiples = Vec::new();
    let mut outputs = Vec::new();
    let mut keys = Vec::new();
    let mut expected = eligible.iter().peekable();
    for tx in source.block.transactions() {
        let found = expected.next_if(|eligible| eligible.position == tx.index());
        if let Some(eligible) = found {
            rows.push(TransactionRow {
                txid: tx.txid(),
                tweak: *eligible.tweak.as_bytes(),
            });
            multiples.extend(eligible.multiple.map(|multiple| *multiple.as_bytes()));
        }
        for (vout, output) in (0..).zip(tx.outputs()) {
            let Some(key) = taproot_output_key(output.script_pubkey()) else {
                continue;
            };
            keys.push(key);
            if found.is_some() {
                outputs.push(OutputRow {
                    key,
                    value_sat: output.value_sat(),
                    vout,
                    transaction: (rows.len() - 1) as u32,
                });
            }
        }
    }

    let (spends, states) = taproot_spends(source);
    let items: Vec<[u8; 8]> = spends
        .iter()
        .map(|spend| filter::spent_item(&spend.outpoint, &source.id.hash))
        .collect();
    BlockRecord {
        id: source.id,
        header: *source.block.header(),
        transactions: rows,
        multiples,
        outputs,
        new_utxos_filter: filter::new_utxos_filter(&source.id.hash, &keys),
        spent_filter: filter::spent_filter(&source.id.hash, &items),
        spends,
        states,
    }
}

/// What each block spends and who spends it, in order: the same as in its [record](derive_records), for which no curve work is
/// needed.
pub fn derive_spends(blocks: &[BlockWithPrevouts]) -> Vec<BlockSpends> {
    let derived = blocks.par_iter().map(|block| {
        let (spends, states) = taproot_spends(block);
        BlockSpends {
            id: block.id,
            spends,
            states,
        }
    });
    derived.collect()
}

/// Whatever each block spends, taproot or not, and what its spenders carry.
pub fn derive_inputs(blocks: &[BlockWithPrevouts]) -> Vec<BlockInputs> {
    blocks.par_iter().map(inputs_of).collect()
}

fn inputs_of(block: &BlockWithPrevouts) -> BlockInputs {
    // No block reaches 2^32 of anything.
    let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let mut inputs = BlockInputs {
        transactions: Vec::with_capacity(block.block.transactions().len()),
        spent: Vec::with_capacity(block.block.input_count()),
        states: Vec::new(),
    };
    for tx in block.block.transactions().skip(1) {
        let spent = tx.inputs().map(|input| input.previous_output());
        inputs.spent.extend(spent);
        let outputs = (0..).zip(tx.outputs());
        inputs.states.extend(outputs.filter_map(|(vout, output)| {
            let id = state_id(output.script_pubkey())?;
            Some(State { vout, id })
        }));
        inputs.transactions.push(InputSpan {
            txid: tx.txid(),
            inputs_end: number(inputs.spent.len()),
            states_end: number(inputs.states.len()),
            outputs: number(tx.outputs().len()),
        });
    }
    inputs
}

/// Every taproot outpoint the block spends, eligible or not, in block order then input order; and the state ids of those who
/// spend them.
fn taproot_spends(source: &BlockWithPrevouts) -> (Vec<SpendRow>, Vec<StateRow>) {
    let mut spends = Vec::new();
    let mut states = Vec::new();
    for (tx, inputs) in source.spending_transactions() {
        let before = spends.len();
        // The store refuses numbers that no block reaches.
        let number = |index: usize| u16::try_from(index).unwrap_or(u16::MAX);
        let transaction = number(tx.index());
        for (index, (input, prevout)) in inputs.enumerate() {
            let Some(key) = taproot_output_key(prevout.script_pubkey) else {
                continue;
            };
            let mut key_prefix = [0; 8];
            key_prefix.copy_from_slice(&key[..8]);
            spends.push(SpendRow {
                outpoint: input.previous_output(),
                key_prefix,
                created: prevout.created,
                spender: Some(Spender {
                    transaction,
                    input: number(index),
                }),
            });
        }
        if spends.len() == before {
            continue;
        }
        let outputs = (0..).zip(tx.outputs());
        states.extend(outputs.filter_map(|(vout, output)| {
            Some(StateRow {
                transaction,
                vout,
                txid: tx.txid(),
                state_id: state_id(output.script_pubkey())?,
            })
        }));
    }
    (spends, states)
}

#[cfg(test)]
mod tests;
