//! From sections to the rows of an index.

use bitcoin::Txid;
use bitcoin::hashes::Hash;
use rayon::prelude::*;

use crate::BlockId;
use crate::client::OracleError;
use crate::client::native::{Raw, untrue};
use crate::curve::{Engine, TWEAK_BATCH, TweakPoint, batch_for_threads, covered};
use crate::filter::{self, spent_filter, spent_item};
use crate::store::{
    BlockRecord, BlockSpends, Keep, OutputRow, SpendRow, Spender, StateRow, TransactionRow,
    TweakForm,
};
use crate::wire::native::column::Column;
use crate::wire::native::section::{PartError, Spends, read_outputs, read_tweaks};

/// Two points for each tweak: itself, and its multiple where that is wanted.
type Points = (TweakPoint, Option<TweakPoint>);

/// The records of blocks, whose sections have the hashes of their headers: `tweaks`, and of an index that keeps everything
/// `outputs`, `spends` and `new-utxos`. Uses all cores.
///
/// # Errors
/// [`OracleError::Untrue`] for whatever cannot be read, is no point, or makes other rows than the header counts and has the
/// hashes of.
pub(super) fn records(
    url: &str,
    engine: &dyn Engine,
    keep: Keep,
    tweak_form: TweakForm,
    blocks: Vec<Raw>,
) -> Result<Vec<BlockRecord>, OracleError> {
    let mut compressed = Vec::new();
    let mut ends = Vec::with_capacity(blocks.len());
    for block in &blocks {
        let section = block.sections.first().map_or(&[][..], Vec::as_slice);
        let tweaks = read_tweaks(section);
        let tweaks = tweaks.map_err(|error| lie(url, block, Column::Tweaks, error.to_string()))?;
        compressed.extend(tweaks);
        ends.push(compressed.len());
    }
    let points = covered(engine, || points(engine, &compressed, tweak_form));
    let begins = std::iter::once(0).chain(ends.iter().copied());
    let of_blocks: Vec<&[Option<Points>]> = begins
        .zip(&ends)
        .map(|(begin, end)| points.get(begin..*end).unwrap_or_default())
        .collect();
    blocks
        .into_par_iter()
        .zip(of_blocks)
        .map(|(block, points)| record(url, keep, &block, points))
        .collect()
}

fn lie(url: &str, block: &Raw, column: Column, what: impl Into<String>) -> OracleError {
    untrue(url, block.height, column, what)
}

fn points(engine: &dyn Engine, tweaks: &[[u8; 33]], tweak_form: TweakForm) -> Vec<Option<Points>> {
    let batch = batch_for_threads(tweaks.len(), rayon::current_num_threads(), TWEAK_BATCH);
    tweaks
        .par_chunks(batch)
        .with_max_len(1)
        .flat_map_iter(|batch| {
            let points = engine.decompress(batch);
            let mut multiples = Vec::new();
            if tweak_form.has_multiples() {
                let there: Vec<TweakPoint> = points.iter().flatten().copied().collect();
                multiples = engine.multiples(&there);
            }
            let mut multiples = multiples.into_iter();
            points
                .into_iter()
                .map(move |point| Some((point?, multiples.next().flatten())))
        })
        .collect()
}

fn record(
    url: &str,
    keep: Keep,
    block: &Raw,
    points: &[Option<Points>],
) -> Result<BlockRecord, OracleError> {
    let lie = |column, what: String| lie(url, block, column, what);
    let mut record = BlockRecord {
        id: BlockId {
            height: block.height,
            hash: block.hash,
        },
        header: block.header.header,
        transactions: Vec::with_capacity(points.len()),
        multiples: Vec::new(),
        outputs: Vec::new(),
        spends: Vec::new(),
        states: Vec::new(),
        new_utxos_filter: Vec::new(),
        spent_filter: Vec::new(),
    };
    for point in points {
        let (tweak, multiple) = point
            .as_ref()
            .ok_or_else(|| lie(Column::Tweaks, "a tweak that is no point".to_owned()))?;
        record.transactions.push(TransactionRow {
            // Of an index that keeps tweaks only.
            txid: Txid::all_zeros(),
            tweak: *tweak.as_bytes(),
        });
        record
            .multiples
            .extend(multiple.map(|point| *point.as_bytes()));
    }
    if keep == Keep::Full {
        fill(&mut record, block, |column, error| lie(column, error.0))?;
    }
    let header = &block.header;
    let mut counts = vec![(
        Column::Tweaks,
        record.transactions.len(),
        header.transactions,
    )];
    if keep == Keep::Full {
        counts.extend([
            (Column::Outputs, record.outputs.len(), header.outputs),
            (Column::Spends, record.spends.len(), header.spends),
            (Column::Spends, record.states.len(), header.states),
        ]);
    }
    for (column, is, says) in counts {
        if is != says as usize {
            return Err(lie(column, format!("{is} rows, and {says} by its header")));
        }
    }
    // What was not asked for follows from the rest, and so do both forms of a hash.
    let (own, said) = (record.section_hashes(keep), &header.hashes);
    for (column, is_same) in [
        (Column::Tweaks, own.tweaks == said.tweaks),
        (Column::Prefixes, own.prefixes == said.prefixes),
        (Column::Outputs, own.outputs == said.outputs),
        (Column::Spent, own.spent == said.spent),
        (Column::NewUtxos, own.new_utxos == said.new_utxos),
        (Column::Spends, own.spends == said.spends),
    ] {
        if !is_same && (keep == Keep::Full || column == Column::Tweaks) {
            let what = "not what follows from the block's rows";
            return Err(lie(column, what.to_owned()));
        }
    }
    Ok(record)
}

/// Who spends what in a block of which only `spends` was asked for.
///
/// # Errors
/// [`OracleError::Untrue`] for what cannot be read, or makes other rows than the header counts.
pub(super) fn spends(url: &str, block: &Raw) -> Result<BlockSpends, OracleError> {
    let lie = |what: String| lie(url, block, Column::Spends, what);
    let section = block.sections.first().map_or(&[][..], Vec::as_slice);
    let decoded = Spends::decode(section).map_err(|error| lie(error.0))?;
    let header = &block.header;
    for (is, says) in [
        (decoded.spent.len(), header.spends),
        (decoded.states.len(), header.states),
    ] {
        if is != says as usize {
            return Err(lie(format!("{is} rows, and {says} by its header")));
        }
    }
    let (spends, states) = spend_rows(&decoded);
    Ok(BlockSpends {
        id: BlockId {
            height: block.height,
            hash: block.hash,
        },
        spends,
        states,
    })
}

fn spend_rows(spends: &Spends) -> (Vec<SpendRow>, Vec<StateRow>) {
    let rows = spends.spent.iter().map(|spent| SpendRow {
        outpoint: spent.outpoint,
        key_prefix: spent.key_prefix,
        created: None,
        spender: spent
            .spender
            .map(|(transaction, input)| Spender { transaction, input }),
    });
    let states = spends.states.iter().map(|state| StateRow {
        transaction: state.transaction,
        vout: state.vout,
        txid: state.txid,
        state_id: state.state_id,
    });
    (rows.collect(), states.collect())
}

/// What an index has that keeps everything.
fn fill(
    record: &mut BlockRecord,
    block: &Raw,
    lie: impl Fn(Column, PartError) -> OracleError,
) -> Result<(), OracleError> {
    let section = |at: usize| block.sections.get(at).map_or(&[][..], Vec::as_slice);
    let rows = read_outputs(section(1)).map_err(|error| lie(Column::Outputs, error))?;
    if rows.len() != record.transactions.len() {
        let text = format!(
            "{} transactions where there are {} tweaks",
            rows.len(),
            record.transactions.len()
        );
        return Err(lie(Column::Outputs, PartError(text)));
    }
    for ((index, (txid, outputs)), row) in (0..).zip(rows).zip(&mut record.transactions) {
        row.txid = txid;
        record
            .outputs
            .extend(outputs.iter().map(|output| OutputRow {
                key: output.key,
                value_sat: output.value_sat,
                vout: output.vout,
                transaction: index,
            }));
    }
    let spends = Spends::decode(section(2)).map_err(|error| lie(Column::Spends, error))?;
    (record.spends, record.states) = spend_rows(&spends);
    let items = record.spends.iter();
    let items: Vec<[u8; 8]> = items
        .map(|spend| spent_item(&spend.outpoint, &block.hash))
        .collect();
    record.spent_filter = spent_filter(&block.hash, &items);
    record.new_utxos_filter = section(3).to_vec();
    let keys: Vec<[u8; 32]> = record.outputs.iter().map(|output| output.key).collect();
    let held = filter::matches(&record.new_utxos_filter, &block.hash, &keys);
    let held = held.map_err(|error| lie(Column::NewUtxos, PartError(error.to_string())))?;
    match held.len() == keys.len() {
        true => Ok(()),
        false => {
            let text = "a filter that lacks keys of the block's outputs".to_owned();
            Err(lie(Column::NewUtxos, PartError(text)))
        }
    }
}
