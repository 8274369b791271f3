//! Every answer of an index against those of the naive one.

use std::collections::{HashMap, HashSet};
use std::ops::RangeInclusive;

use bitcoin::{OutPoint, Txid};
use spindex::curve::TweakPoint;
use spindex::store::schema::VALUE_MAX;
use spindex::store::{
    EligibleTransaction, OutputPosition, RowFilter, ScanColumns, Snapshot, SpendPosition,
    StateSpend, StoreError, TransactionEntry, TweakBatch, TxPosition, Utxo,
};

use super::{FIRST_HEIGHT, Model, multiple_of};
use crate::by_height::ByHeight as _;

/// Filters that every list is asked with.
pub(crate) fn row_filters() -> Vec<RowFilter> {
    let mut filters = Vec::new();
    for cut_through in [false, true] {
        for dust_limit_sat in [0, 1, 546, 547, 1001, VALUE_MAX, u64::MAX] {
            filters.push(RowFilter {
                dust_limit_sat,
                cut_through,
            });
        }
    }
    filters
}

/// Asserts that every query answers as the naive index does.
pub(crate) fn assert_equal(snapshot: &Snapshot, model: &Model) {
    assert_eq!(snapshot.tip(), model.tip());
    assert_eq!(snapshot.first_height(), FIRST_HEIGHT);
    let outputs = model.outputs();
    let spent = model.spent();
    let counts = snapshot.counts().expect("counts");
    assert_eq!(counts.blocks, model.chain.len() as u64);
    assert_eq!(counts.outputs, outputs.len() as u64);
    let unspent = outputs.iter().filter(|(at, _)| !spent.contains(at)).count();
    assert_eq!(counts.unspent, unspent as u64);
    for (outpoint, _) in &outputs {
        match snapshot.is_unspent(outpoint) {
            Ok(found) => assert_eq!(found, !spent.contains(outpoint), "{outpoint}"),
            Err(StoreError::NotLocated { .. }) => assert!(snapshot.locating().is_some()),
            Err(error) => panic!("{error}"),
        }
    }

    let held: usize = model.spent_positions().iter().map(Vec::len).sum();
    let spends: usize = model.chain.iter().map(|record| record.spends.len()).sum();
    assert_eq!(counts.spends, spends as u64);
    assert_eq!(counts.foreign, (spends - held) as u64);

    let digests = model.digests();
    let heads = model.heads();
    assert_state_spends(snapshot, model);
    assert_lookups(snapshot, model);
    let spent_positions = model.spent_positions();
    for (index, record) in model.chain.iter().enumerate() {
        let height = record.id.height;
        let entry = snapshot.block(height).expect("row").expect("indexed");
        assert_eq!(entry.id(), record.id);
        assert_eq!(*entry.header(), record.header);
        assert_eq!(
            entry.transaction_count() as usize,
            record.transactions.len()
        );
        assert_eq!(entry.output_count() as usize, record.outputs.len());
        assert_eq!(entry.spend_count() as usize, record.spends.len());
        let found = snapshot.height_of(&record.id.hash).expect("row");
        assert_eq!(found, Some(height));
        let some = |bytes: &Vec<u8>| Some(bytes.clone());
        assert_eq!(
            snapshot.new_utxos_filter(height).expect("filter"),
            some(&record.new_utxos_filter)
        );
        assert_eq!(
            snapshot.spent_filter(height).expect("filter"),
            some(&record.spent_filter)
        );
        assert_eq!(
            snapshot.spends(height).expect("spends").as_ref(),
            Some(&record.spends)
        );
        assert_eq!(
            snapshot.spent_positions(height).expect("spends").as_ref(),
            Some(&spent_positions[index])
        );
        assert_eq!(
            snapshot.digest(height).expect("digest"),
            Some(digests[index])
        );
        assert_eq!(entry.states().expect("states"), record.states);
        assert_eq!(entry.heads().expect("heads"), Some(heads[index]));
        for filter in row_filters() {
            let tweaks = model.tweaks(index, filter);
            let compressed: Vec<(Txid, [u8; 33])> = tweaks
                .iter()
                .map(|(txid, tweak)| (*txid, tweak.to_compressed()))
                .collect();
            let list: Vec<[u8; 33]> = compressed.iter().map(|(_, tweak)| *tweak).collect();
            assert_eq!(
                snapshot.tweak_list(height, filter).expect("tweaks"),
                Some(list),
                "{height} {filter:?}"
            );
            assert_eq!(
                snapshot.compressed_tweaks(height, filter).expect("tweaks"),
                Some(compressed),
                "{height} {filter:?}"
            );
            match snapshot.tweak_form().has_points() {
                true => assert_eq!(
                    snapshot.tweaks(height, filter).expect("tweaks"),
                    Some(tweaks),
                    "{height} {filter:?}"
                ),
                false => {
                    let refused = snapshot.tweaks(height, filter).expect_err("no points");
                    assert!(
                        matches!(refused, StoreError::NoPoints { .. }),
                        "{refused:?}"
                    );
                }
            }
            assert_eq!(
                snapshot.utxos(height, filter).expect("utxos"),
                Some(model.utxos(index, filter)),
                "{height} {filter:?}"
            );
        }
    }

    let columns = ScanColumns {
        compressed: !snapshot.tweak_form().has_points(),
        multiples: model.multiples,
        short_keys: true,
    };
    if let Some(tip) = model.tip() {
        assert_scan(snapshot, model, FIRST_HEIGHT..=tip.height, columns);
    }

    // Nothing outside.
    let above = FIRST_HEIGHT + model.chain.len() as u32;
    for height in [0, FIRST_HEIGHT - 1, above, u32::MAX] {
        let filter = RowFilter::default();
        assert!(snapshot.block(height).expect("no row").is_none());
        assert_eq!(snapshot.tweaks(height, filter).expect("no row"), None);
        assert_eq!(snapshot.tweak_list(height, filter).expect("no row"), None);
        assert_eq!(
            snapshot.compressed_tweaks(height, filter).expect("no row"),
            None
        );
        assert_eq!(snapshot.spent_positions(height).expect("no row"), None);
        assert_eq!(snapshot.utxos(height, filter).expect("no row"), None);
        assert_eq!(snapshot.spends(height).expect("no row"), None);
        assert_eq!(snapshot.new_utxos_filter(height).expect("no row"), None);
        assert_eq!(snapshot.spent_filter(height).expect("no row"), None);
        assert_eq!(snapshot.digest(height).expect("no row"), None);
        assert!(
            snapshot
                .scan(height..=height, columns)
                .expect("no row")
                .is_none()
        );
    }
    let transactions = counts.transactions;
    let behind = TxPosition(transactions);
    assert_eq!(snapshot.transaction(behind).expect("none"), None);
    assert_eq!(snapshot.block_of(behind).expect("none"), None);
    for hash in &model.orphan_hashes {
        assert_eq!(snapshot.height_of(hash).expect("no row"), None);
    }
}

/// Whoever carries a state id is found by each outpoint that it spends, and nobody else is.
fn assert_state_spends(snapshot: &Snapshot, model: &Model) {
    let mut carriers: HashMap<OutPoint, Vec<StateSpend>> = HashMap::new();
    let mut positions = (0..).map(SpendPosition);
    for record in &model.chain {
        for (spend, position) in record.spends.iter().zip(&mut positions) {
            let mut states = record.states.clone();
            states.retain(|state| {
                Some(state.transaction) == spend.spender.map(|spender| spender.transaction)
            });
            let found = carriers.entry(spend.outpoint).or_default();
            if !states.is_empty() {
                found.push(StateSpend {
                    block: record.id,
                    spend: spend.clone(),
                    position,
                    states,
                });
            }
        }
    }
    for (outpoint, expected) in carriers {
        // Records may spend an outpoint twice, which no chain does: any of those then.
        match snapshot.state_spend(&outpoint).expect("look-up") {
            Some(found) => assert!(expected.contains(&found), "{outpoint}"),
            None => assert_eq!(expected, [], "{outpoint}"),
        }
    }
}

/// Transactions, outputs and creators of what is spent are found by their names, as far as they can be: one transaction of
/// each eighth block is asked for, others at other lengths of the chain.
fn assert_lookups(snapshot: &Snapshot, model: &Model) {
    let all = RowFilter::default();
    let mut creators = HashMap::new();
    // Records may spend an outpoint twice, which no chain does: then any of the two may be found.
    let (mut once, mut twice) = (HashSet::new(), HashSet::new());
    for spend in model.chain.iter().flat_map(|record| &record.spends) {
        if !once.insert(spend.outpoint) {
            twice.insert(spend.outpoint);
        }
    }
    for (index, record) in model.chain.iter().enumerate() {
        let block = snapshot.block(record.id.height).expect("row");
        let block = block.expect("indexed");
        let utxos = model.utxos(index, all);
        let tweaks = model.tweaks(index, all);
        let outpoints = utxos.iter();
        let outpoints = outpoints.map(|utxo| OutPoint::new(utxo.txid, utxo.vout));
        creators.extend(outpoints.map(|outpoint| (outpoint, record.id.height)));
        let is_asked = (index + model.chain.len()).is_multiple_of(8);
        let asked = tweaks.get(index % tweaks.len().max(1));
        if let Some((txid, tweak)) = asked.filter(|_| is_asked) {
            let own = utxos.iter().filter(|utxo| utxo.txid == *txid).cloned();
            let before = utxos.iter().position(|utxo| utxo.txid == *txid);
            let all_before = model.chain[..index].iter();
            let all_before: usize = all_before.map(|record| record.outputs.len()).sum();
            let expected = EligibleTransaction {
                tweak: tweak.to_compressed(),
                first: OutputPosition((all_before + before.unwrap_or_default()) as u64),
                outputs: own.collect(),
            };
            let found = block.transaction(txid).expect("transaction");
            let found = found.expect("it is there");
            let first = match found.outputs.is_empty() {
                // Somewhere in the block.
                true => expected.first,
                false => found.first,
            };
            assert_eq!(
                EligibleTransaction {
                    first,
                    ..found.clone()
                },
                expected
            );
            let spends = block.spends_of(&found, u64::MAX).expect("spends");
            assert_eq!(spends.len(), found.outputs.len());
            let most = index as u64;
            let spends_before = model.chain[..index].iter();
            let end: usize = spends_before.map(|record| record.spends.len()).sum();
            let end = end as u64 + most;
            let near = spends.iter().cloned().map(|spend| {
                spend.filter(|spend| !spend.states.is_empty() || spend.position.0 < end)
            });
            let found_near = block.spends_of(&found, most).expect("spends");
            assert_eq!(found_near, near.collect::<Vec<_>>());
            for (utxo, spend) in found.outputs.iter().zip(spends) {
                let outpoint = OutPoint::new(utxo.txid, utxo.vout);
                if twice.contains(&outpoint) {
                    continue;
                }
                let by_position = spend.as_ref().map(|spend| {
                    let creator = snapshot.creator_of(spend.position).expect("creator");
                    assert_eq!(creator, Some(record.id.height));
                    let rows = model.chain.iter().flat_map(|record| &record.spends);
                    rows.clone().nth(spend.position.0 as usize).expect("a row")
                });
                assert_eq!(spend.as_ref().map(|spend| &spend.spend), by_position);
                let spent = by_position.map(|row| row.outpoint);
                assert_eq!(spent, utxo.spent.then_some(outpoint));
            }
            for utxo in expected.outputs {
                let outpoint = OutPoint::new(*txid, utxo.vout);
                match snapshot.unspent_output(&outpoint) {
                    Ok(Some(found)) => assert_eq!(found, (record.id, utxo)),
                    Ok(None) => assert!(utxo.spent, "{outpoint}"),
                    Err(StoreError::NotLocated { .. }) => assert!(snapshot.locating().is_some()),
                    Err(error) => panic!("{error}"),
                }
            }
        }
        let nobody = block.transaction(&OutPoint::null().txid);
        assert_eq!(nobody.expect("transaction"), None);
    }
    let mut positions = (0..).map(SpendPosition);
    let mut seen = HashSet::new();
    for record in &model.chain {
        for (spend, position) in record.spends.iter().zip(&mut positions) {
            let creator = creators.get(&spend.outpoint).copied();
            // The first one counts.
            let expected = creator.filter(|_| seen.insert(spend.outpoint));
            if position.0 % 16 != 0 {
                continue;
            }
            let found = snapshot.creator_of(position).expect("creator");
            assert_eq!(found, expected, "{position}");
        }
    }
}

/// Asserts that a scan of indexed heights gives what the queries for each of its blocks do, and returns its batches.
pub(crate) fn assert_scan(
    snapshot: &Snapshot,
    model: &Model,
    heights: RangeInclusive<u32>,
    columns: ScanColumns,
) -> Vec<TweakBatch> {
    let scan = snapshot.scan(heights.clone(), columns).expect("scan");
    let scan = scan.expect("indexed");
    let positions = scan.positions();
    let batches: Vec<TweakBatch> = scan.map(|batch| batch.expect("batch")).collect();

    let before = |height: u32| -> u64 {
        let blocks = model
            .chain
            .iter()
            .filter(|record| record.id.height < height);
        blocks.map(|record| record.transactions.len() as u64).sum()
    };
    let mut next = before(*heights.start());
    let end = before(*heights.end() + 1);
    assert_eq!(positions, TxPosition(next)..TxPosition(end));
    let filter = RowFilter::default();
    let mut rows = batches.iter().enumerate().flat_map(|(number, batch)| {
        assert_eq!(batch.first, TxPosition(next), "batches follow each other");
        let count = batch.len();
        let tweaks: Vec<[u8; 33]> = match columns.compressed {
            true => {
                assert!(batch.tweaks.is_empty());
                batch.compressed.clone()
            }
            false => {
                assert!(batch.compressed.is_empty());
                batch.tweaks.iter().map(TweakPoint::to_compressed).collect()
            }
        };
        assert_eq!(tweaks.len(), count);
        assert!((1..=4080).contains(&count));
        next += count as u64;
        let following = batches.get(number + 1).and_then(|next| next.ends.first());
        assert!(
            next.is_multiple_of(255)
                || next == end
                || following.is_some_and(|end| batch.keys.len() + *end as usize > 1 << 16),
            "batches end with chunks, unless the next transaction has too many keys"
        );
        let with = |wanted: bool| if wanted { count } else { 0 };
        assert_eq!(batch.multiples.len(), with(columns.multiples));
        assert_eq!(batch.ends.len(), with(columns.short_keys));
        let last = batch.ends.last().map_or(0, |end| *end as usize);
        assert_eq!(batch.keys.len(), last);
        (0..count).map(move |index| {
            let start = index.checked_sub(1).map_or(0, |before| {
                batch.ends.get(before).map_or(0, |end| *end as usize)
            });
            let end = batch.ends.get(index).map_or(0, |end| *end as usize);
            (
                batch.position(index),
                tweaks[index],
                batch.multiples.get(index),
                &batch.keys[start..end],
            )
        })
    });
    for height in heights {
        let tweaks = model.tweaks((height - FIRST_HEIGHT) as usize, filter);
        let utxos = snapshot
            .utxos(height, filter)
            .expect("utxos")
            .expect("indexed");
        for (txid, tweak) in tweaks {
            let (position, found, multiple, keys) =
                rows.next().expect("as many tweaks as the blocks have");
            assert_eq!(found, tweak.to_compressed());
            let expected = TweakPoint::from_bytes(multiple_of(tweak.as_bytes()));
            assert_eq!(multiple, columns.multiples.then_some(&expected));
            let outputs: Vec<Utxo> = utxos
                .iter()
                .filter(|utxo| utxo.txid == txid)
                .cloned()
                .collect();
            if columns.short_keys {
                let short =
                    |utxo: &Utxo| u64::from_be_bytes(*utxo.key.first_chunk().expect("32 bytes"));
                assert!(outputs.iter().map(short).eq(keys.iter().copied()));
            }
            // Every lookup costs the block's outputs: of large blocks a sample will do.
            if utxos.len() < 100 || position.0 % 97 == 0 {
                let block = snapshot.block(height).expect("row").expect("indexed").id();
                let entry = TransactionEntry {
                    block,
                    txid,
                    tweak: tweak.to_compressed(),
                    outputs,
                };
                assert_eq!(snapshot.block_of(position).expect("row"), Some(block));
                assert_eq!(snapshot.transaction(position).expect("row"), Some(entry));
            }
        }
    }
    assert!(rows.next().is_none(), "no more tweaks than the blocks have");
    drop(rows);
    batches
}
