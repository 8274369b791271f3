//! Pure `BlockWithPrevouts -> BlockRecord`, many blocks at once.

use bitcoin::Transaction;
use rayon::prelude::*;

use crate::bip352::inputs::{TweakInputs, taproot_output_key, tweak_inputs};
use crate::bip352::tweak::tweaks;
use crate::chain::BlockWithPrevouts;
use crate::curve::{Engine, TweakPoint};
use crate::filter;
use crate::store::{BlockRecord, OutputRow, SpendRow, TransactionRow};

/// Transactions one call of the engine gets: enough to share work among them, few enough to spread over threads.
const TWEAK_BATCH: usize = 512;

/// Derives the index rows of each block, in order; `with_multiples` as the index wants it
/// ([`Store::has_multiples`](crate::store::Store::has_multiples)).
///
/// Curve work is spread over rayon across all blocks, so that many small blocks cost no more than few large ones.
pub fn derive_records(
    engine: &dyn Engine,
    blocks: &[BlockWithPrevouts],
    with_multiples: bool,
) -> Vec<BlockRecord> {
    let candidates: Vec<(usize, usize, TweakInputs)> = blocks
        .par_iter()
        .enumerate()
        .flat_map_iter(|(block_index, block)| {
            let transactions = block.block.txdata.iter().zip(&block.prevouts).enumerate();
            transactions.filter_map(move |(position, (tx, prevouts))| {
                Some((block_index, position, tweak_inputs(tx, prevouts)?))
            })
        })
        .collect();

    let (places, inputs): (Vec<(usize, usize)>, Vec<TweakInputs>) = candidates
        .into_iter()
        .map(|(block, position, inputs)| ((block, position), inputs))
        .unzip();
    let points: Vec<Option<(TweakPoint, Option<TweakPoint>)>> = inputs
        .par_chunks(TWEAK_BATCH)
        .flat_map_iter(|batch| {
            let tweaks = tweaks(engine, batch);
            let mut multiples = Vec::new();
            if with_multiples {
                let points: Vec<TweakPoint> = tweaks.iter().flatten().copied().collect();
                multiples = engine.multiples(&points);
            }
            let mut multiples = multiples.into_iter();
            tweaks
                .into_iter()
                .map(move |tweak| Some((tweak?, multiples.next().flatten())))
        })
        .collect();

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
    let transactions = &source.block.txdata;
    let mut rows = Vec::with_capacity(eligible.len());
    let mut multiples = Vec::new();
    let mut outputs = Vec::new();
    for (index, eligible) in eligible.iter().enumerate() {
        let position = eligible.position;
        rows.push(TransactionRow {
            txid: source.txids[position],
            tweak: *eligible.tweak.as_bytes(),
        });
        multiples.extend(eligible.multiple.map(|multiple| *multiple.as_bytes()));
        outputs.extend(
            taproot_outputs(&transactions[position]).map(|(vout, key, value_sat)| OutputRow {
                key,
                value_sat,
                vout,
                transaction: index as u32,
            }),
        );
    }

    let keys: Vec<[u8; 32]> = transactions
        .iter()
        .flat_map(|tx| taproot_outputs(tx).map(|(_, key, _)| key))
        .collect();
    let spends = taproot_spends(source);
    let items: Vec<[u8; 8]> = spends
        .iter()
        .map(|spend| filter::spent_item(&spend.outpoint, &source.id.hash))
        .collect();
    BlockRecord {
        id: source.id,
        header: source.block.header,
        transactions: rows,
        multiples,
        outputs,
        new_utxos_filter: filter::new_utxos_filter(&source.id.hash, &keys),
        spent_filter: filter::spent_filter(&source.id.hash, &items),
        spends,
    }
}

/// vout, x-only key and amount in satoshi of each taproot output.
fn taproot_outputs(tx: &Transaction) -> impl Iterator<Item = (u32, [u8; 32], u64)> + '_ {
    (0u32..).zip(&tx.output).filter_map(|(vout, output)| {
        Some((
            vout,
            taproot_output_key(&output.script_pubkey)?,
            output.value.to_sat(),
        ))
    })
}

/// Every taproot outpoint the block spends, eligible or not, in block order then input order.
fn taproot_spends(source: &BlockWithPrevouts) -> Vec<SpendRow> {
    let inputs = source
        .block
        .txdata
        .iter()
        .zip(&source.prevouts)
        .flat_map(|(tx, prevouts)| tx.input.iter().zip(prevouts));
    inputs
        .filter_map(|(input, prevout)| {
            let key = taproot_output_key(&prevout.script_pubkey)?;
            let mut key_prefix = [0; 8];
            key_prefix.copy_from_slice(&key[..8]);
            Some(SpendRow {
                outpoint: input.previous_output,
                key_prefix,
                created: None,
            })
        })
        .collect()
}
